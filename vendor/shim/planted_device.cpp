// For tests: a device of this machine that behaves as a card does. It has memory of its own, of which it tells how
// much is free, pads quantised rows, and takes memory for computing that nobody counts. If asked to, it also pins
// memory of the host and computes large batches of what is there. The CPU computes for it.
#include "guard.h"
#include "shim.h"

#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-impl.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

namespace {

constexpr size_t alignment = 64; // of ggml_aligned_malloc

// What the test asked for. Changed only while nothing is loaded.
moe_planted_device planted;

const char * name = "PLANTED0";

// Bytes in use, by buffers and by computing.
std::mutex         ledger;
uint64_t           used = 0;
std::atomic<bool>  is_registered{ false };

// Takes memory, if there is so much.
bool take(uint64_t bytes) {
    std::lock_guard<std::mutex> lock(ledger);
    if (bytes > planted.total_bytes - std::min(used, planted.total_bytes)) {
        return false;
    }
    used += bytes;
    return true;
}

void give_back(uint64_t bytes) {
    std::lock_guard<std::mutex> lock(ledger);
    used -= bytes;
}

// Memory of the host that is pinned, and multiplications with experts that were computed.
std::mutex               pinning;
std::map<void *, size_t> pinned;
std::atomic<uint64_t>    expert_operations{ 0 };

// --- buffers ---

void free_buffer(ggml_backend_buffer_t buffer) {
    ggml_aligned_free(buffer->context, buffer->size);
    give_back(buffer->size);
}

void * get_base(ggml_backend_buffer_t buffer) {
    return buffer->context;
}

void memset_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, uint8_t value, size_t offset, size_t size) {
    std::memset(static_cast<char *>(tensor->data) + offset, value, size);
}

void set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    std::memcpy(static_cast<char *>(tensor->data) + offset, data, size);
}

void get_tensor(ggml_backend_buffer_t, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    std::memcpy(data, static_cast<const char *>(tensor->data) + offset, size);
}

void clear(ggml_backend_buffer_t buffer, uint8_t value) {
    std::memset(buffer->context, value, buffer->size);
}

const char * type_name(ggml_backend_buffer_type_t) {
    return name;
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t bytes) {
    if (!take(bytes)) {
        GGML_LOG_ERROR("PLANTED error: out of memory\n");
        return nullptr;
    }
    void * base = ggml_aligned_malloc(std::max(bytes, alignment));
    if (base == nullptr) {
        give_back(bytes);
        return nullptr;
    }
    ggml_backend_buffer_i iface = {};
    iface.free_buffer   = free_buffer;
    iface.get_base      = get_base;
    iface.memset_tensor = memset_tensor;
    iface.set_tensor    = set_tensor;
    iface.get_tensor    = get_tensor;
    iface.clear         = clear;
    return ggml_backend_buffer_init(type, iface, base, bytes);
}

size_t get_alignment(ggml_backend_buffer_type_t) {
    return alignment;
}

const char * host_type_name(ggml_backend_buffer_type_t) {
    return "PLANTED_Host";
}

void free_host_buffer(ggml_backend_buffer_t buffer) {
    ggml_aligned_free(buffer->context, buffer->size);
}

// A buffer of the CPU, but for its type and how it is freed.
ggml_backend_buffer_t alloc_host_buffer(ggml_backend_buffer_type_t type, size_t bytes) {
    void * base = ggml_aligned_malloc(std::max(bytes, alignment));
    if (base == nullptr) {
        return nullptr;
    }
    ggml_backend_buffer_t buffer = ggml_backend_cpu_buffer_from_ptr(base, bytes);
    buffer->buft                 = type;
    buffer->iface.free_buffer    = free_host_buffer;
    return buffer;
}

bool is_host(ggml_backend_buffer_type_t) {
    return true;
}

// As ggml_backend_cuda_buffer_type_get_alloc_size, with the test's number in place of 512.
size_t get_alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    size_t        bytes = ggml_nbytes(tensor);
    const int64_t pad   = planted.row_padding_elements;
    if (pad > 0 && ggml_is_quantized(tensor->type) && tensor->ne[0] % pad != 0) {
        bytes += ggml_row_size(tensor->type, pad - tensor->ne[0] % pad);
    }
    return bytes;
}

// --- computing ---

struct computer {
    ggml_backend_t cpu;
    uint64_t       hidden = 0; // never shrinks, as a pool
};

const char * backend_name(ggml_backend_t) {
    return name;
}

void free_backend(ggml_backend_t backend) {
    auto * self = static_cast<computer *>(backend->context);
    ggml_backend_free(self->cpu);
    give_back(self->hidden);
    delete self;
    delete backend;
}

// Tokens that the graph computes at once.
int64_t tokens_of(ggml_cgraph * graph) {
    int64_t most = 1;
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        const ggml_tensor * node = ggml_graph_node(graph, i);
        if (node->op == GGML_OP_MUL_MAT && node->src[0]->op == GGML_OP_NONE) {
            most = std::max(most, node->src[1]->ne[1]);
        }
    }
    return most;
}

ggml_status graph_compute(ggml_backend_t backend, ggml_cgraph * graph) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        expert_operations += ggml_graph_node(graph, i)->op == GGML_OP_MUL_MAT_ID;
    }
    auto *         self   = static_cast<computer *>(backend->context);
    const uint64_t needed = planted.hidden_bytes + planted.hidden_bytes_per_token * tokens_of(graph);
    if (needed > self->hidden) {
        if (!take(needed - self->hidden)) {
            GGML_LOG_ERROR("PLANTED error: out of memory\n");
            if (planted.aborts) {
                // As ggml_cuda_error does.
                ggml_abort("ggml/src/ggml-planted/ggml-planted.cpp", __LINE__, "PLANTED error");
            }
            return GGML_STATUS_ALLOC_FAILED;
        }
        self->hidden = needed;
    }
    return ggml_backend_graph_compute(self->cpu, graph);
}

// --- the device ---

ggml_backend_buffer_type buffer_type;
ggml_backend_buffer_type host_buffer_type;
ggml_backend_device      device;
ggml_backend_reg         registry;

const char * device_name(ggml_backend_dev_t) {
    return name;
}

const char * description(ggml_backend_dev_t) {
    return "a device for tests";
}

void get_memory(ggml_backend_dev_t, size_t * free, size_t * total) {
    std::lock_guard<std::mutex> lock(ledger);
    *total = planted.total_bytes;
    *free  = planted.total_bytes - std::min(used, planted.total_bytes);
}

enum ggml_backend_dev_type get_type(ggml_backend_dev_t) {
    return GGML_BACKEND_DEVICE_TYPE_GPU;
}

void get_props(ggml_backend_dev_t dev, ggml_backend_dev_props * props) {
    *props             = {};
    props->name        = device_name(dev);
    props->description = description(dev);
    props->type        = get_type(dev);
    get_memory(dev, &props->memory_free, &props->memory_total);
    props->caps.host_buffer  = planted.offloads;
    props->caps.mmap_support = true;
}

ggml_guid_t guid() {
    static ggml_guid guid = { 'm', 'o', 'e', '-', 'p', 'l', 'a', 'n', 't', 'e', 'd', 0, 0, 0, 0, 1 };
    return &guid;
}

ggml_backend_t init_backend(ggml_backend_dev_t dev, const char *) {
    ggml_backend_t cpu = ggml_backend_dev_init(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), nullptr);
    if (cpu == nullptr) {
        return nullptr;
    }
    ggml_backend_reg_t of_cpu = ggml_backend_dev_backend_reg(ggml_backend_get_device(cpu));
    auto set_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
        ggml_backend_reg_get_proc_address(of_cpu, "ggml_backend_set_n_threads"));
    if (set_threads != nullptr) {
        set_threads(cpu, 1);
    }
    ggml_backend_i iface = {};
    iface.get_name      = backend_name;
    iface.free          = free_backend;
    iface.graph_compute = graph_compute;
    return new ggml_backend{ guid(), iface, dev, new computer{ cpu } };
}

ggml_backend_buffer_type_t get_buffer_type(ggml_backend_dev_t) {
    return &buffer_type;
}

ggml_backend_buffer_type_t get_host_buffer_type(ggml_backend_dev_t) {
    return planted.offloads ? &host_buffer_type : nullptr;
}

// Not with weights in a layout of the CPU's own.
bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    for (const ggml_tensor * source : op->src) {
        const ggml_backend_buffer_t buffer = source == nullptr ? nullptr : source->buffer;
        if (buffer != nullptr && buffer->buft != &buffer_type && !ggml_backend_buffer_is_host(buffer)) {
            return false;
        }
    }
    return ggml_backend_dev_supports_op(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), op);
}

bool supports_buft(ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
    return type == &buffer_type;
}

// As ggml_backend_cuda_device_offload_op.
bool offload_op(ggml_backend_dev_t, const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_GET_ROWS:   return false;
        case GGML_OP_MUL_MAT:    return planted.offloads && op->ne[1] >= 32;
        case GGML_OP_MUL_MAT_ID: return planted.offloads && op->ne[2] >= 32;
        default:                 return planted.offloads && ggml_nrows(op) >= 32;
    }
}

bool register_host_buffer(void * base, size_t bytes) {
    std::lock_guard<std::mutex> lock(pinning);
    return pinned.emplace(base, bytes).second;
}

void unregister_host_buffer(void * base) {
    std::lock_guard<std::mutex> lock(pinning);
    pinned.erase(base);
}

void * get_proc_address(ggml_backend_reg_t, const char * name) {
    if (planted.offloads && std::strcmp(name, "ggml_backend_register_host_buffer") == 0) {
        return reinterpret_cast<void *>(register_host_buffer);
    }
    if (planted.offloads && std::strcmp(name, "ggml_backend_unregister_host_buffer") == 0) {
        return reinterpret_cast<void *>(unregister_host_buffer);
    }
    return nullptr;
}

const char * registry_name(ggml_backend_reg_t) {
    return "PLANTED";
}

size_t device_count(ggml_backend_reg_t) {
    return 1;
}

ggml_backend_dev_t get_device(ggml_backend_reg_t, size_t) {
    return &device;
}

void fill_tables() {
    buffer_type.iface.get_name       = type_name;
    buffer_type.iface.alloc_buffer   = alloc_buffer;
    buffer_type.iface.get_alignment  = get_alignment;
    buffer_type.iface.get_alloc_size = get_alloc_size;
    buffer_type.device               = &device;

    host_buffer_type.iface.get_name      = host_type_name;
    host_buffer_type.iface.alloc_buffer  = alloc_host_buffer;
    host_buffer_type.iface.get_alignment = get_alignment;
    host_buffer_type.iface.is_host       = is_host;
    host_buffer_type.device              = &device;

    device.iface.get_name        = device_name;
    device.iface.get_description = description;
    device.iface.get_memory      = get_memory;
    device.iface.get_type        = get_type;
    device.iface.get_props       = get_props;
    device.iface.init_backend    = init_backend;
    device.iface.get_buffer_type = get_buffer_type;
    device.iface.supports_op     = supports_op;
    device.iface.supports_buft   = supports_buft;
    device.iface.offload_op      = offload_op;
    device.reg                   = &registry;

    device.iface.get_host_buffer_type = get_host_buffer_type;

    registry.api_version            = GGML_BACKEND_API_VERSION;
    registry.iface.get_name         = registry_name;
    registry.iface.get_device_count = device_count;
    registry.iface.get_device       = get_device;
    registry.iface.get_proc_address = get_proc_address;
}

} // namespace

moe_status moe_plant_device(const moe_planted_device * wanted, uint64_t * in_use, moe_message * message) {
    return guarded(message, [&] {
        {
            std::lock_guard<std::mutex> lock(ledger);
            *in_use = used;
            if (used > 0) {
                return fail(message, "models are loaded on the planted device");
            }
            planted = *wanted;
        }
        if (!is_registered.exchange(true)) {
            fill_tables();
            ggml_backend_register(&registry);
            offload_by_tokens();
        }
        return MOE_OK;
    });
}

moe_status moe_planted_take(int64_t bytes, moe_message * message) {
    return guarded(message, [&] {
        if (bytes < 0) {
            give_back(-bytes);
            return MOE_OK;
        }
        return take(bytes) ? MOE_OK : fail(message, "the planted device has not so much left");
    });
}

uint64_t moe_planted_pinned(void) {
    std::lock_guard<std::mutex> lock(pinning);
    uint64_t bytes = 0;
    for (const auto & [base, of] : pinned) {
        bytes += of;
    }
    return bytes;
}

uint64_t moe_planted_computed(void) {
    return expert_operations;
}
