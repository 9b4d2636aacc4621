// What every entry of the shim runs in. For C++ only.
#pragma once

#include "shim.h"

#include "ggml-backend.h"

#include <cstdio>
#include <exception>

namespace moe {

// How many guarded calls the thread is in. Only there is somebody to catch an exception; on the
// engine's own threads a failed assertion still ends the process.
inline thread_local int guarded_depth = 0;

struct depth_guard {
    depth_guard() { guarded_depth++; }
    ~depth_guard() { guarded_depth--; }
};

// Whether the thread computes a graph, perhaps with others.
inline thread_local bool is_computing = false;

struct computing_guard {
    computing_guard() { is_computing = true; }
    ~computing_guard() { is_computing = false; }
};

inline void set_message(moe_message * message, const char * text) {
    std::snprintf(message->text, sizeof(message->text), "%s", text);
}

inline moe_status fail(moe_message * message, const char * text) {
    set_message(message, text);
    return MOE_FAILED;
}

// Runs `body`, which returns a status, and keeps every exception inside.
template <typename Body> moe_status guarded(moe_message * message, Body body) noexcept {
    message->text[0] = '\0';
    try {
        depth_guard depth;
        return body();
    } catch (const std::exception & e) {
        set_message(message, e.what());
    } catch (...) {
        set_message(message, "an exception of unknown type");
    }
    return MOE_EXCEPTION;
}

// Whether a buffer type is one of moe_paged_new.
bool is_paged(ggml_backend_buffer_type_t buffer_type);

// Lets moe_model_load_held say where CPU memory is. Once, before anything is allocated.
void hold_cpu_memory();

// Lets moe_experts_offloaded_from say what devices compute. Once more where devices were added.
void offload_by_tokens();

// Whether a device computes large batches of what is in CPU memory, and asks moe_experts_offloaded_from about it.
bool takes_operations(ggml_backend_dev_t device);

} // namespace moe

using namespace moe;
