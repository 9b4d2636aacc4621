// Memory of our own for what the engine allocates on the CPU, in place of malloc's.
//
// A buffer type of our own would lose the kernels that the engine has for weights in another layout: these are
// chosen by the type's identity. But all of the engine's types for CPU memory take it from the plain one, so
// that one is given another allocator. It does nothing unless the thread is in moe_model_load_held.
#include "guard.h"
#include "shim.h"

#include "ggml-backend-impl.h"
#include "ggml-backend.h"

#include <atomic>
#include <mutex>

namespace {

using allocate = ggml_backend_buffer_t (*)(ggml_backend_buffer_type_t, size_t);

// Set once, before the engine's own pointer is replaced: whoever comes by way of that finds it.
std::atomic<allocate> engines_own{ nullptr };
std::once_flag replaced;

// Of the load that this thread is in.
thread_local const moe_host_memory * memory = nullptr;

// The same for all loads; called when a buffer is freed, by any thread.
std::atomic<void (*)(void *, size_t)> release{ nullptr };

// What is allocated on this thread is of that load, or of none.
struct held_load {
    explicit held_load(const moe_host_memory * of_load) : before(memory) { memory = of_load; }
    ~held_load() { memory = before; }
    const moe_host_memory * before;
};

// Who is told how far a load is.
struct listener {
    llama_progress_callback callback;
    void *                  user;
};

// Whoever is told may load and compute other things, whose memory is none of this load's.
bool tell(float done, void * user) {
    const auto * told = static_cast<const listener *>(user);
    held_load nothing(nullptr);
    return told->callback(done, told->user);
}

void free_buffer(ggml_backend_buffer_t buffer) {
    release.load()(buffer->context, buffer->size);
}

// Types for other layouts replace it by their own.
ggml_status init_tensor(ggml_backend_buffer_t, ggml_tensor * tensor) {
    if (memory != nullptr && tensor->view_src == nullptr) {
        memory->placed(tensor->name, tensor->data, ggml_nbytes(tensor), memory->user);
    }
    return GGML_STATUS_SUCCESS;
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t bytes) {
    if (memory == nullptr) {
        return engines_own.load()(type, bytes);
    }
    void * base = memory->take(bytes, memory->user);
    if (base == nullptr) {
        return nullptr;
    }
    // All that a buffer of this type does, but for freeing it.
    ggml_backend_buffer_t buffer = ggml_backend_cpu_buffer_from_ptr(base, bytes);
    buffer->buft = type;
    buffer->iface.free_buffer = free_buffer;
    buffer->iface.init_tensor = init_tensor;
    return buffer;
}

} // namespace

// By moe_init, before anybody has loaded anything by this library. The pointer is the engine's and is read without a
// lock; a program that also uses the engine by other means must not allocate at that very moment.
void moe::hold_cpu_memory() {
    std::call_once(replaced, [] {
        ggml_backend_buffer_type_t type = ggml_backend_cpu_buffer_type();
        engines_own = type->iface.alloc_buffer;
        type->iface.alloc_buffer = alloc_buffer;
    });
}

moe_status moe_model_load_held(const char * path, const moe_stream * stream, const moe_host_memory * held, const llama_model_params * params, llama_model ** model, moe_message * message) {
    release = held->release;
    held_load loading(held);
    listener told = { params->progress_callback, params->progress_callback_user_data };
    llama_model_params with_listener = *params;
    if (told.callback != nullptr) {
        with_listener.progress_callback           = tell;
        with_listener.progress_callback_user_data = &told;
    }
    return stream != nullptr ? moe_model_load_stream(stream, &with_listener, model, message)
                             : moe_model_load(path, &with_listener, model, message);
}

moe_status moe_device_pins(ggml_backend_dev_t device, bool * pins, moe_message * message) {
    return guarded(message, [&] {
        *pins = ggml_backend_dev_host_buffer_type(device) != nullptr;
        return MOE_OK;
    });
}
