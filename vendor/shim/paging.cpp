// Experts that stay on disk: a buffer type that only reserves addresses, a way to load a model without
// reading them, and the callback by which somebody reads what a router chose before it is used.
#include "guard.h"
#include "predictor.h"
#include "shim.h"

#include "ggml-backend-impl.h"
#include "ggml-backend.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

namespace {

constexpr size_t PAGE = 4096;
constexpr const char * CHOICE = "ffn_moe_topk-";

struct paged_type {
    ggml_backend_buffer_type type;
    moe_paged_memory         memory;
};

struct paged_buffer {
    const moe_paged_memory * memory;
    void *                   base;
    size_t                   bytes;
};

paged_buffer & of(ggml_backend_buffer_t buffer) {
    return *static_cast<paged_buffer *>(buffer->context);
}

void free_buffer(ggml_backend_buffer_t buffer) {
    paged_buffer & paged = of(buffer);
    if (paged.base != nullptr) {
        paged.memory->release(paged.base, paged.bytes, paged.memory->user);
    }
    delete &paged;
}

void * get_base(ggml_backend_buffer_t buffer) {
    // A dry run has a buffer without bytes, whose address must not be null.
    return of(buffer).base == nullptr ? reinterpret_cast<void *>(PAGE) : of(buffer).base;
}

ggml_status init_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor) {
    const moe_paged_memory * memory = of(buffer).memory;
    void * data = memory->place(tensor->name, ggml_nbytes(tensor), tensor->data, memory->user);
    if (data == nullptr) {
        return GGML_STATUS_FAILED;
    }
    tensor->data = data;
    return GGML_STATUS_SUCCESS;
}

// What is written comes from the file anyway.
void set_tensor(ggml_backend_buffer_t, ggml_tensor *, const void *, size_t, size_t) {}
void memset_tensor(ggml_backend_buffer_t, ggml_tensor *, uint8_t, size_t, size_t) {}
void clear(ggml_backend_buffer_t, uint8_t) {}

void get_tensor(ggml_backend_buffer_t, const ggml_tensor * tensor, void * data, size_t offset, size_t bytes) {
    std::memcpy(data, static_cast<const char *>(tensor->data) + offset, bytes);
}

const char * get_name(ggml_backend_buffer_type_t) {
    return "Paged";
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t bytes) {
    const moe_paged_memory * memory = &static_cast<paged_type *>(type->context)->memory;
    void * base = bytes == 0 ? nullptr : memory->reserve(bytes, memory->user);
    if (bytes > 0 && base == nullptr) {
        return nullptr;
    }
    ggml_backend_buffer_i iface = {};
    iface.free_buffer   = free_buffer;
    iface.get_base      = get_base;
    iface.init_tensor   = init_tensor;
    iface.memset_tensor = memset_tensor;
    iface.set_tensor    = set_tensor;
    iface.get_tensor    = get_tensor;
    iface.clear         = clear;
    return ggml_backend_buffer_init(type, iface, new paged_buffer{ memory, base, bytes }, bytes);
}

size_t get_alignment(ggml_backend_buffer_type_t) {
    return PAGE;
}

// Room to move the data to where their place in the page is that in the file.
size_t get_alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    return GGML_PAD(ggml_nbytes(tensor), PAGE) + 2 * PAGE;
}

bool is_host(ggml_backend_buffer_type_t) {
    return true;
}

#ifdef __GLIBC__
struct cookie {
    moe_stream stream;
    uint64_t   at;
};

ssize_t read_cookie(void * user, char * buffer, size_t count) {
    auto * here = static_cast<cookie *>(user);
    count = size_t(std::min<uint64_t>(count, here->stream.bytes - std::min(here->at, here->stream.bytes)));
    const int64_t got = count == 0 ? 0 : here->stream.read(here->at, buffer, count, here->stream.user);
    here->at += got > 0 ? uint64_t(got) : 0;
    return ssize_t(got);
}

// The engine asks where it is before it reads, and reads no further than the end. In what is not to be read it
// is told that it is there: the C library would copy each byte of nothing.
int seek_cookie(void * user, off64_t * offset, int whence) {
    auto * here = static_cast<cookie *>(user);
    const bool asks = whence == SEEK_CUR && *offset == 0;
    if (asks && here->at < here->stream.bytes && !here->stream.has_bytes(here->at, here->stream.user)) {
        *offset = off64_t(here->stream.bytes);
        return 0;
    }
    const int64_t from = whence == SEEK_SET ? 0 : int64_t(whence == SEEK_CUR ? here->at : here->stream.bytes);
    if (from + *offset < 0) {
        return -1;
    }
    here->at = uint64_t(from + *offset);
    *offset  = off64_t(here->at);
    return 0;
}
#endif

// The numbers in a matrix of integers, which may be a view with its rows apart.
std::vector<int32_t> rows_of(const ggml_tensor * tensor) {
    if (tensor->type != GGML_TYPE_I32 || tensor->nb[0] != sizeof(int32_t) || tensor->ne[2] * tensor->ne[3] != 1) {
        throw std::runtime_error("a router's choice has an unknown form");
    }
    std::vector<char> bytes(ggml_nbytes(tensor));
    ggml_backend_tensor_get(tensor, bytes.data(), 0, bytes.size());
    std::vector<int32_t> numbers;
    for (int64_t i = 0; i < tensor->ne[1]; i++) {
        const auto * row = reinterpret_cast<const int32_t *>(bytes.data() + i * tensor->nb[1]);
        numbers.insert(numbers.end(), row, row + tensor->ne[0]);
    }
    return numbers;
}

// A choice is mostly a view of all experts in the order of their scores, of the first ones.
const ggml_tensor * ranked_by(const ggml_tensor * choice) {
    const ggml_tensor * all = choice->view_src;
    const bool begins = all != nullptr && all->op == GGML_OP_ARGSORT && choice->view_offs == 0 &&
        all->ne[1] == choice->ne[1] && all->nb[1] == choice->nb[1];
    return begins ? all : choice;
}

// What was seen of the engine's graph.
struct graph_state {
    std::vector<const ggml_tensor *> asked; // nodes since it last computed
    moe::expert_predictor            predictor;
    int32_t                          chosen = -1; // the layer whose router chose last
};

bool has_pages(const ggml_tensor * weights) {
    return weights != nullptr && weights->buffer != nullptr && is_paged(ggml_backend_buffer_get_type(weights->buffer));
}

// Whether a node says which parts of its first source it reads, and that one is paged.
bool selects_paged(const ggml_tensor * tensor) {
    return (tensor->op == GGML_OP_MUL_MAT_ID || tensor->op == GGML_OP_GET_ROWS) && has_pages(tensor->src[0]);
}

// Whether a node reads paged weights.
bool uses_paged(const ggml_tensor * tensor) {
    for (const ggml_tensor * source : tensor->src) {
        if (has_pages(source)) {
            return true;
        }
    }
    return false;
}

// A guess that fails is none. `what` is a layer whose router has chosen, or what comes into one.
template <typename T> moe::prediction predict_after(graph_state & graph, T what) try {
    return graph.predictor.after(what);
} catch (...) {
    return {};
}

template <typename T> void expect_next(moe_pager * pager, T what, bool again) {
    const moe::prediction next = predict_after(*static_cast<graph_state *>(pager->graph_state), what);
    if (!next.ranked.empty()) {
        pager->expected(next.layer, next.ranked.data(), next.ranked.size(), again, pager->user);
    }
}

// Whether a node tells of the next layer's choice, and somebody wants to know.
bool tells(const moe_pager * pager, const ggml_tensor * tensor) {
    return pager->expected != nullptr && static_cast<const graph_state *>(pager->graph_state)->predictor.tells(tensor);
}

// Whether the engine computes up to this node and then stops.
bool ask_first(moe_pager * pager, const ggml_tensor * tensor) {
    if ((tensor->flags & GGML_TENSOR_FLAG_COMPUTE) == 0) {
        return false; // of a branch that is not taken, with whatever for input
    }
    auto & graph = *static_cast<graph_state *>(pager->graph_state);
    auto & asked = graph.asked;
    if (graph.predictor.note(tensor)) {
        graph.chosen = -1;
    }
    const bool selects = selects_paged(tensor);
    if (!selects && uses_paged(tensor)) {
        pager->routing_missed = true; // in a way that does not say which parts
    }
    if (selects) {
        const bool looks_up = tensor->op == GGML_OP_GET_ROWS;
        const ggml_tensor * choice = tensor->src[looks_up ? 1 : 2];
        const bool is_open = std::find(asked.begin(), asked.end(), choice) != asked.end();
        if (is_open) {
            pager->routing_missed = true; // it is not computed yet
        } else {
            const std::vector<int32_t> parts = rows_of(choice);
            const auto get = looks_up ? pager->rows : pager->needed;
            if (!get(tensor->src[0]->name, parts.data(), parts.size(), pager->user)) {
                pager->failed = true;
            }
        }
        if (!looks_up) {
            graph.predictor.reads();
            graph.chosen = -1; // it is used: another choice is a new one
        }
    }
    if (selects || tells(pager, tensor) || layer_of(tensor, CHOICE) >= 0) {
        asked.clear();
        return true;
    }
    asked.push_back(tensor);
    return false;
}

} // namespace

bool moe::is_paged(ggml_backend_buffer_type_t buffer_type) {
    return buffer_type->iface.get_name == get_name;
}

moe_status moe_paged_new(const moe_paged_memory * memory, ggml_backend_buffer_type_t * buffer_type, moe_message * message) {
    return guarded(message, [&] {
        auto paged = std::make_unique<paged_type>();
        paged->memory = *memory;
        paged->type.iface.get_name       = get_name;
        paged->type.iface.alloc_buffer   = alloc_buffer;
        paged->type.iface.get_alignment  = get_alignment;
        paged->type.iface.get_alloc_size = get_alloc_size;
        paged->type.iface.is_host        = is_host;
        paged->type.device  = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        paged->type.context = paged.get();
        *buffer_type = &paged.release()->type;
        return MOE_OK;
    });
}

moe_status moe_paged_free(ggml_backend_buffer_type_t buffer_type, moe_message * message) {
    return guarded(message, [&] {
        delete static_cast<paged_type *>(buffer_type->context);
        return MOE_OK;
    });
}

moe_status moe_model_load_stream(const moe_stream * stream, const llama_model_params * params, llama_model ** model, moe_message * message) {
    return guarded(message, [&] {
        *model = nullptr;
#ifdef __GLIBC__
        cookie here = { *stream, 0 };
        cookie_io_functions_t functions = {};
        functions.read = read_cookie;
        functions.seek = seek_cookie;
        std::vector<char> buffer(MOE_STREAM_BUFFER); // outlives the file
        std::unique_ptr<FILE, int (*)(FILE *)> file(fopencookie(&here, "rb", functions), std::fclose);
        if (file == nullptr) {
            return fail(message, "the system has no memory for a stream");
        }
        // The C library ignores the size if the buffer is not given too.
        std::setvbuf(file.get(), buffer.data(), _IOFBF, buffer.size());
        *model = llama_model_load_from_file_ptr(file.get(), *params);
        return *model == nullptr ? fail(message, "") : MOE_OK;
#else
        (void) stream;
        (void) params;
        set_message(message, "this system has no streams of one's own");
        return MOE_MISSING;
#endif
    });
}

moe_status moe_pager_begin(moe_pager * pager, moe_message * message) {
    return guarded(message, [&] {
        pager->graph_state = new graph_state();
        return MOE_OK;
    });
}

void moe_pager_end(moe_pager * pager) {
    delete static_cast<graph_state *>(pager->graph_state);
    pager->graph_state = nullptr;
}

bool moe_page_experts(ggml_tensor * tensor, bool ask, void * user) {
    auto * pager = static_cast<moe_pager *>(user);
    try {
        if (ask) {
            return ask_first(pager, tensor);
        }
        const int32_t layer = layer_of(tensor, CHOICE);
        if (layer >= 0) {
            if (pager->watch != nullptr) {
                moe_watch_experts(tensor, false, pager->watch);
            }
            auto & graph = *static_cast<graph_state *>(pager->graph_state);
            if (graph.chosen == layer) {
                return !pager->routing_missed && !pager->failed; // of the same scores, once more
            }
            graph.chosen = layer;
            const ggml_tensor * ranked = ranked_by(tensor);
            const std::vector<int32_t> experts = rows_of(ranked);
            if (!pager->chosen(layer, experts.data(), ranked->ne[0], tensor->ne[0], tensor->ne[1], pager->user)) {
                pager->failed = true;
            } else if (pager->expected != nullptr && tensor->ne[1] == 1) {
                expect_next(pager, layer, false);
            }
        } else if (tells(pager, tensor)) {
            expect_next(pager, static_cast<const ggml_tensor *>(tensor), true);
        }
    } catch (...) {
        pager->routing_missed = true; // nothing may unwind through a graph that is being computed
    }
    return !pager->routing_missed && !pager->failed;
}
