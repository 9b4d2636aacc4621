// For tests: a device that is none. It computes on the CPU, in memory that the engine takes for a device's, and so
// shows on any machine what a graphics card is given to compute.
#include "guard.h"
#include "shim.h"

#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "ggml-impl.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>

namespace {

std::atomic<uint64_t> device_bytes{ 0 };
std::atomic<uint64_t> allocated{ 0 };
std::atomic<uint64_t> expert_operations{ 0 };

ggml_backend_dev_t cpu() {
    return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
}

// --- memory ---

void free_memory(ggml_backend_buffer_t buffer) {
    ggml_aligned_free(buffer->context, buffer->size);
}

void free_own(ggml_backend_buffer_t buffer) {
    allocated -= buffer->size;
    free_memory(buffer);
}

// All that a buffer of the CPU does, but for its type and freeing it.
ggml_backend_buffer_t alloc(ggml_backend_buffer_type_t type, size_t bytes, void (*free)(ggml_backend_buffer_t)) {
    void * base = ggml_aligned_malloc(bytes);
    if (base == nullptr) {
        return nullptr;
    }
    ggml_backend_buffer_t buffer = ggml_backend_cpu_buffer_from_ptr(base, bytes);
    buffer->buft = type;
    buffer->iface.free_buffer = free;
    return buffer;
}

ggml_backend_buffer_t alloc_own(ggml_backend_buffer_type_t type, size_t bytes) {
    ggml_backend_buffer_t buffer = alloc(type, bytes, free_own);
    if (buffer != nullptr) {
        allocated += bytes;
    }
    return buffer;
}

ggml_backend_buffer_t alloc_pinned(ggml_backend_buffer_type_t type, size_t bytes) {
    return alloc(type, bytes, free_memory);
}

const char * name_of_memory(ggml_backend_buffer_type_t) {
    return "TEST";
}

const char * name_of_pinned(ggml_backend_buffer_type_t) {
    return "TEST_Host";
}

size_t alignment(ggml_backend_buffer_type_t) {
    return 64;
}

bool is_host(ggml_backend_buffer_type_t) {
    return true;
}

ggml_backend_device device;

ggml_backend_buffer_type memory = { { name_of_memory, alloc_own, nullptr, alignment, nullptr, nullptr, nullptr, nullptr }, &device, nullptr };
ggml_backend_buffer_type pinned = { { name_of_pinned, alloc_pinned, nullptr, alignment, nullptr, nullptr, nullptr, is_host }, &device, nullptr };

// --- computing ---

ggml_status (*compute_on_cpu)(ggml_backend_t, ggml_cgraph *) = nullptr;

ggml_status compute(ggml_backend_t backend, ggml_cgraph * graph) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        const ggml_tensor * node = ggml_graph_node(graph, i);
        if (node->op == GGML_OP_MUL_MAT_ID) {
            expert_operations++;
        }
    }
    return compute_on_cpu(backend, graph);
}

ggml_backend_t init(ggml_backend_dev_t of, const char *) {
    ggml_backend_t backend = ggml_backend_dev_init(cpu(), nullptr);
    if (backend == nullptr) {
        return nullptr;
    }
    using set_threads = void (*)(ggml_backend_t, int);
    auto set = reinterpret_cast<set_threads>(ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu()), "ggml_backend_set_n_threads"));
    if (set != nullptr) {
        set(backend, 1);
    }
    compute_on_cpu = backend->iface.graph_compute;
    backend->iface.graph_compute = compute;
    backend->device = of;
    return backend;
}

int64_t tokens_of(const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_GET_ROWS:   return 0;
        case GGML_OP_MUL_MAT:    return op->ne[1];
        case GGML_OP_MUL_MAT_ID: return op->ne[2];
        default:                 return ggml_nrows(op);
    }
}

// --- the device ---

const char * device_name(ggml_backend_dev_t) {
    return "TEST0";
}

const char * description(ggml_backend_dev_t) {
    return "the CPU as a device of the tests";
}

void get_memory(ggml_backend_dev_t, size_t * free, size_t * total) {
    *total = device_bytes;
    *free  = device_bytes - std::min<uint64_t>(allocated, device_bytes);
}

enum ggml_backend_dev_type type_of(ggml_backend_dev_t) {
    return GGML_BACKEND_DEVICE_TYPE_GPU;
}

void get_props(ggml_backend_dev_t of, ggml_backend_dev_props * props) {
    props->name        = device_name(of);
    props->description = description(of);
    props->type        = type_of(of);
    get_memory(of, &props->memory_free, &props->memory_total);
    props->caps.host_buffer  = true;
    props->caps.mmap_support = true;
}

ggml_backend_buffer_type_t buffer_type(ggml_backend_dev_t) {
    return &memory;
}

ggml_backend_buffer_type_t host_buffer_type(ggml_backend_dev_t) {
    return &pinned;
}

// Not with weights in a layout of the CPU's own.
bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    for (const ggml_tensor * source : op->src) {
        ggml_backend_buffer_t buffer = source == nullptr ? nullptr : source->buffer;
        if (buffer != nullptr && buffer->buft != &memory && !ggml_backend_buffer_is_host(buffer)) {
            return false;
        }
    }
    return ggml_backend_dev_supports_op(cpu(), op);
}

bool supports_buft(ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
    return type == &memory;
}

bool offload_op(ggml_backend_dev_t, const ggml_tensor * op) {
    return tokens_of(op) >= 32;
}

// --- its backend ---

const char * name_of_backend(ggml_backend_reg_t) {
    return "TEST";
}

size_t device_count(ggml_backend_reg_t) {
    return 1;
}

ggml_backend_dev_t get_device(ggml_backend_reg_t, size_t) {
    return &device;
}

// Who is pinned, and with how many bytes.
std::mutex               pinning;
std::map<void *, size_t> registered;

bool register_host_buffer(void * base, size_t bytes) {
    std::lock_guard<std::mutex> lock(pinning);
    return registered.emplace(base, bytes).second;
}

void unregister_host_buffer(void * base) {
    std::lock_guard<std::mutex> lock(pinning);
    registered.erase(base);
}

void * get_proc_address(ggml_backend_reg_t, const char * name) {
    if (std::strcmp(name, "ggml_backend_register_host_buffer") == 0) {
        return reinterpret_cast<void *>(register_host_buffer);
    }
    if (std::strcmp(name, "ggml_backend_unregister_host_buffer") == 0) {
        return reinterpret_cast<void *>(unregister_host_buffer);
    }
    return nullptr;
}

ggml_backend_reg registry = { GGML_BACKEND_API_VERSION, { name_of_backend, device_count, get_device, get_proc_address }, nullptr };

} // namespace

moe_status moe_test_device(uint64_t bytes, moe_message * message) {
    return guarded(message, [&] {
        static std::once_flag once;
        device_bytes = bytes;
        std::call_once(once, [] {
            device = { {
                device_name, description, get_memory, type_of, get_props, init, buffer_type, host_buffer_type,
                nullptr, supports_op, supports_buft, offload_op, nullptr, nullptr, nullptr,
            }, &registry, nullptr };
            ggml_backend_register(&registry);
            offload_by_tokens();
        });
        return MOE_OK;
    });
}

uint64_t moe_test_device_pinned(void) {
    std::lock_guard<std::mutex> lock(pinning);
    uint64_t bytes = 0;
    for (const auto & [base, of] : registered) {
        bytes += of;
    }
    return bytes;
}

uint64_t moe_test_device_computed(void) {
    return expert_operations;
}
