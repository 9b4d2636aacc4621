#include "guard.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-rpc.h"
#include "llama-ext.h"
#include "llama-model.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#ifdef _WIN32
#define NOMINMAX
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace {

// A failed assertion of the engine, as an exception.
struct assertion_failed : std::runtime_error {
    using std::runtime_error::runtime_error;
};

void on_abort(const char * text) {
    if (guarded_depth > 0) {
        if (is_computing) {
            // The others look at this thread's stack when they begin a graph and before each of its nodes. One
            // that is late gets the time to reach the end of this node, where it then waits for ever.
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
        }
        throw assertion_failed(text);
    }
    // Nobody can catch it on the engine's own threads; ggml_abort leaves saying so to us.
    std::fprintf(stderr, "moe-offload: the engine ends this process: %s\n", text);
}

moe_device_kind kind_of(ggml_backend_dev_t device) {
    switch (ggml_backend_dev_type(device)) {
        case GGML_BACKEND_DEVICE_TYPE_CPU:  return MOE_DEVICE_CPU;
        case GGML_BACKEND_DEVICE_TYPE_GPU:  return MOE_DEVICE_GPU;
        case GGML_BACKEND_DEVICE_TYPE_IGPU: return MOE_DEVICE_INTEGRATED;
        default:                            return MOE_DEVICE_ACCELERATOR;
    }
}

// Host memory counts as the CPU's, whichever backend allocated it (pinned, repacked, mapped).
const char * device_name(ggml_backend_buffer_type_t buffer_type) {
    if (is_paged(buffer_type)) {
        return "disk";
    }
    ggml_backend_dev_t device = ggml_backend_buft_get_device(buffer_type);
    if (device == nullptr || ggml_backend_buft_is_host(buffer_type) || kind_of(device) == MOE_DEVICE_CPU) {
        return "cpu";
    }
    return ggml_backend_dev_name(device);
}

moe_held how_held(ggml_backend_buffer_type_t buffer_type) {
    if (is_paged(buffer_type)) {
        return MOE_HELD_PAGED;
    }
    ggml_backend_dev_t device = ggml_backend_buft_get_device(buffer_type);
    const bool of_cpu = device == nullptr || kind_of(device) == MOE_DEVICE_CPU;
    if (!of_cpu) {
        return ggml_backend_buft_is_host(buffer_type) ? MOE_HELD_PINNED : MOE_HELD_DEVICE;
    }
    if (buffer_type == ggml_backend_cpu_buffer_type()) {
        return MOE_HELD_PLAIN;
    }
    return ggml_backend_buft_is_host(buffer_type) ? MOE_HELD_MAPPED : MOE_HELD_REPACKED;
}

ggml_backend_reg_t rpc_registry() {
    return ggml_backend_reg_by_name("RPC");
}

template <typename Function> Function rpc_function(const char * name) {
    ggml_backend_reg_t rpc = rpc_registry();
    return rpc == nullptr ? nullptr : reinterpret_cast<Function>(ggml_backend_reg_get_proc_address(rpc, name));
}

moe_status missing_rpc(moe_message * message) {
    set_message(message, "the RPC backend is not in this build");
    return MOE_MISSING;
}

// The engine leaves out libraries that the system cannot load and does not say so: mostly because a
// driver is not there, as on a machine without a GPU, or because a library of its own is missing.
void tell_unloadable(ggml_log_callback log, const char * backends_dir) {
#ifndef _WIN32
    namespace fs = std::filesystem;
    std::error_code ec;
    for (const auto & entry : fs::directory_iterator(backends_dir, ec)) {
        const std::string name = entry.path().filename().string();
        const bool backend = name.rfind("libggml-", 0) == 0 && entry.path().extension() == ".so" &&
            name.rfind("libggml-base", 0) != 0 && name.rfind("libggml-cpu", 0) != 0;
        if (!backend) {
            continue;
        }
        // Loaded already, if all is well; then this only counts its users.
        if (void * library = dlopen(entry.path().c_str(), RTLD_NOW | RTLD_LOCAL)) {
            dlclose(library);
            continue;
        }
        const char * reason = dlerror();
        const std::string text = "the backend " + name + " is left out: " + (reason == nullptr ? "?" : reason) + "\n";
        log(GGML_LOG_LEVEL_INFO, text.c_str(), nullptr);
    }
#else
    (void) log;
    (void) backends_dir;
#endif
}

// The engine chooses among a folder's CPU backends by itself; nothing was computed with its choice.
void replace_cpu_backend(const char * library) {
    ggml_backend_reg_t chosen = ggml_backend_reg_by_name("CPU");
    if (chosen != nullptr) {
        ggml_backend_unload(chosen);
    }
    ggml_backend_load(library);
}

} // namespace

moe_status moe_init(ggml_log_callback log, const char * backends_dir, const char * cpu_library, moe_message * message) {
    return guarded(message, [&] {
        ggml_set_abort_callback(on_abort);
        llama_log_set(log, nullptr);
        if (backends_dir != nullptr) {
            ggml_backend_load_all_from_path(backends_dir);
            if (cpu_library != nullptr) {
                replace_cpu_backend(cpu_library);
            }
            tell_unloadable(log, backends_dir);
        }
        // Else llama.cpp would look for backends in places of its own, such as the current folder.
        if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) == nullptr) {
            set_message(message, "there is no CPU backend");
            return MOE_MISSING;
        }
        hold_cpu_memory();
        offload_by_tokens();
        llama_backend_init();
        return MOE_OK;
    });
}

moe_status moe_backend_score(const char * library, int * score, moe_message * message) {
    return guarded(message, [&] {
        *score = 0;
#ifdef _WIN32
        HMODULE handle = LoadLibraryW(std::filesystem::u8path(library).c_str());
        const auto rate = handle == nullptr ? nullptr
            : reinterpret_cast<int (*)()>(reinterpret_cast<void *>(GetProcAddress(handle, "ggml_backend_score")));
#else
        void * handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
        const auto rate = handle == nullptr ? nullptr
            : reinterpret_cast<int (*)()>(dlsym(handle, "ggml_backend_score"));
#endif
        if (rate != nullptr) {
            *score = rate();
        }
        if (handle != nullptr) {
#ifdef _WIN32
            FreeLibrary(handle);
#else
            dlclose(handle);
#endif
        }
        return MOE_OK;
    });
}

moe_status moe_fail_assertion(bool on_another_thread, moe_message * message) {
    return guarded(message, [&] {
        const auto fail = [] { GGML_ASSERT(1 == 2 && "planted"); };
        if (on_another_thread) {
            std::thread(fail).join();
        } else {
            fail();
        }
        return MOE_OK;
    });
}

bool moe_fail_in_graph(void *) {
    GGML_ASSERT(1 == 2 && "planted");
    return false;
}

moe_status moe_devices(moe_device * rows, size_t capacity, size_t * count, moe_message * message) {
    return guarded(message, [&] {
        *count = ggml_backend_dev_count();
        for (size_t i = 0; i < *count && i < capacity; i++) {
            ggml_backend_dev_t device = ggml_backend_dev_get(i);
            ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(device);
            rows[i] = {
                device, ggml_backend_dev_name(device), ggml_backend_dev_description(device),
                reg == nullptr ? "" : ggml_backend_reg_name(reg), kind_of(device), takes_operations(device),
            };
        }
        return MOE_OK;
    });
}

namespace {

// How far rows of quantised tensors are padded, asked with tensors that have no data: one block, and then a row that
// is as long as the first was padded to, which must stay as it is.
uint64_t row_padding(ggml_backend_buffer_type_t buffer_type) {
    const ggml_type type  = GGML_TYPE_Q8_0;
    const int64_t   block = ggml_blck_size(type);
    ggml_context_ptr context(ggml_init({ 2 * ggml_tensor_overhead(), nullptr, true }));
    if (context == nullptr) {
        return 0;
    }
    const auto padded = [&](int64_t elements) -> int64_t {
        const ggml_tensor * row = ggml_new_tensor_2d(context.get(), type, elements, 1);
        return ggml_backend_buft_get_alloc_size(buffer_type, row) / ggml_type_size(type) * block;
    };
    const int64_t least = padded(block);
    return least > block && padded(least) == least ? least : 0;
}

} // namespace

moe_status moe_device_memory(ggml_backend_dev_t device, moe_device_memory_info * info, moe_message * message) {
    return guarded(message, [&] {
        size_t free = 0, total = 0;
        ggml_backend_dev_memory(device, &free, &total);
        ggml_backend_buffer_type_t buffer_type = ggml_backend_dev_buffer_type(device);
        *info = { free, total, 1, 0 };
        if (buffer_type != nullptr) {
            info->alignment_bytes      = ggml_backend_buft_get_alignment(buffer_type);
            info->row_padding_elements = row_padding(buffer_type);
        }
        return MOE_OK;
    });
}

moe_status moe_device_maps(ggml_backend_dev_t device, bool * maps, moe_message * message) {
    return guarded(message, [&] {
        ggml_backend_dev_props props;
        ggml_backend_dev_get_props(device, &props);
        *maps = props.caps.mmap_support;
        return MOE_OK;
    });
}

moe_status moe_rpc_connect(const char * endpoint, ggml_backend_reg_t * server, moe_message * message) {
    return guarded(message, [&] {
        auto add = rpc_function<decltype(&ggml_backend_rpc_add_server)>("ggml_backend_rpc_add_server");
        if (add == nullptr) {
            return missing_rpc(message);
        }
        *server = add(endpoint);
        if (*server == nullptr) {
            return fail(message, "");
        }
        // A server that was added before may be gone; then this throws.
        size_t free = 0, total = 0;
        ggml_backend_dev_memory(ggml_backend_reg_dev_get(*server, 0), &free, &total);
        return MOE_OK;
    });
}

moe_status moe_rpc_register(ggml_backend_reg_t server, moe_message * message) {
    return guarded(message, [&] {
        for (size_t i = 0; i < ggml_backend_reg_count(); i++) {
            if (ggml_backend_reg_get(i) == server) {
                return MOE_OK;
            }
        }
        ggml_backend_register(server);
        return MOE_OK;
    });
}

moe_status moe_rpc_serve(const char * endpoint, const char * cache_dir, size_t threads, moe_message * message) {
    return guarded(message, [&] {
        auto serve = rpc_function<decltype(&ggml_backend_rpc_start_server)>("ggml_backend_rpc_start_server");
        if (serve == nullptr) {
            return missing_rpc(message);
        }
        ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        if (cpu == nullptr) {
            return fail(message, "there is no CPU backend");
        }
        serve(endpoint, cache_dir, threads, 1, &cpu);
        return fail(message, "the server stopped; is the address free and this machine's own?");
    });
}

moe_status moe_buffer_type(ggml_backend_dev_t device, ggml_backend_buffer_type_t * buffer_type, moe_message * message) {
    return guarded(message, [&] {
        if (device == nullptr) {
            device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        }
        *buffer_type = device == nullptr ? nullptr : ggml_backend_dev_buffer_type(device);
        return *buffer_type == nullptr ? fail(message, "the device has no memory of its own") : MOE_OK;
    });
}

moe_status moe_model_load(const char * path, const llama_model_params * params, llama_model ** model, moe_message * message) {
    return guarded(message, [&] {
        *model = nullptr;
        *model = llama_model_load_from_file(path, *params);
        return *model == nullptr ? fail(message, "") : MOE_OK;
    });
}

moe_status moe_model_free(llama_model * model, moe_message * message) {
    return guarded(message, [&] {
        llama_model_free(model);
        return MOE_OK;
    });
}

moe_status moe_model_tensors(const llama_model * model, moe_tensor_visitor visit, void * user, moe_message * message) {
    return guarded(message, [&] {
        for (const auto & [name, tensor] : llama_internal_get_tensor_map(model)) {
            const char * device = tensor->buffer == nullptr ? "" : device_name(ggml_backend_buffer_get_type(tensor->buffer));
            visit(name.c_str(), ggml_nbytes(tensor), device, user);
        }
        return MOE_OK;
    });
}

moe_status moe_context_new(llama_model * model, const llama_context_params * params, llama_context ** context, moe_message * message) {
    return guarded(message, [&] {
        *context = nullptr;
        *context = llama_init_from_model(model, *params);
        return *context == nullptr ? fail(message, "") : MOE_OK;
    });
}

moe_status moe_context_free(llama_context * context, moe_message * message) {
    return guarded(message, [&] {
        llama_free(context);
        return MOE_OK;
    });
}

moe_status moe_context_memory(const llama_context * context, moe_memory * rows, size_t capacity, size_t * count, moe_message * message) {
    return guarded(message, [&] {
        *count = 0;
        for (const auto & [buffer_type, bytes] : llama_get_memory_breakdown(context)) {
            if (*count < capacity) {
                rows[*count] = { device_name(buffer_type), how_held(buffer_type), bytes.model, bytes.context, bytes.compute };
            }
            ++*count;
        }
        return MOE_OK;
    });
}

moe_status moe_decode(llama_context * context, const llama_token * tokens, int32_t count, int32_t * result, moe_message * message) {
    return guarded(message, [&] {
        computing_guard computing;
        // The engine takes a pointer to mutable tokens but only reads them.
        *result = llama_decode(context, llama_batch_get_one(const_cast<llama_token *>(tokens), count));
        return MOE_OK;
    });
}

moe_status moe_decode_together(llama_context * context, const llama_token * tokens, const int32_t * positions, const int32_t * sequences, const int8_t * wanted, size_t count, int32_t * result, moe_message * message) {
    return guarded(message, [&] {
        computing_guard computing;
        std::vector<int32_t> one(count, 1);
        std::vector<llama_seq_id> ids(sequences, sequences + count);
        std::vector<llama_seq_id *> pointers(count);
        for (size_t i = 0; i < count; i++) {
            pointers[i] = &ids[i];
        }
        // The engine takes pointers to mutable data but only reads it.
        llama_batch batch = {
            int32_t(count), const_cast<llama_token *>(tokens), nullptr, const_cast<int32_t *>(positions),
            one.data(), pointers.data(), const_cast<int8_t *>(wanted),
        };
        *result = llama_decode(context, batch);
        return MOE_OK;
    });
}

moe_status moe_synchronize(llama_context * context, moe_message * message) {
    return guarded(message, [&] {
        llama_synchronize(context);
        return MOE_OK;
    });
}

moe_status moe_context_forget(llama_context * context, int32_t sequence, moe_message * message) {
    return guarded(message, [&] {
        llama_memory_seq_rm(llama_get_memory(context), sequence, -1, -1);
        return MOE_OK;
    });
}

moe_rewind moe_context_rewind(const llama_context * context) {
    const llama_model * model = llama_get_model(context);
    if (llama_model_is_recurrent(model) || llama_model_is_hybrid(model)) {
        return MOE_REWIND_EXACT;
    }
    return llama_model_n_swa(model) > 0 ? MOE_REWIND_WINDOW : MOE_REWIND_FREE;
}

namespace {

// Whether tokens from this one on can be removed, and the ones before it then have all they look at.
bool can_keep(llama_context * context, int32_t keep) {
    llama_memory_t memory = llama_get_memory(context);
    const int32_t window = llama_model_n_swa(llama_get_model(context));
    switch (moe_context_rewind(context)) {
        case MOE_REWIND_EXACT:
            return false;
        case MOE_REWIND_WINDOW:
            return llama_memory_seq_pos_min(memory, 0) <= std::max(0, keep - window);
        default:
            return true;
    }
}

bool restore(llama_context * context, const uint8_t * state, size_t bytes, int32_t keep) {
    const auto flags = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;
    return bytes > 0 && llama_state_seq_set_data_ext(context, state, bytes, 0, flags) == bytes &&
        llama_memory_seq_rm(llama_get_memory(context), 0, keep, -1);
}

} // namespace

moe_status moe_context_keep(llama_context * context, int32_t keep, const uint8_t * state, size_t state_bytes, int32_t state_keep, int32_t * kept, moe_message * message) {
    return guarded(message, [&] {
        llama_memory_t memory = llama_get_memory(context);
        // Nothing at all also means no other sequence.
        const bool nothing_to_do = keep > 0 && llama_memory_seq_pos_max(memory, 0) < keep;
        if (nothing_to_do || (keep > 0 && can_keep(context, keep) && llama_memory_seq_rm(memory, 0, keep, -1))) {
            *kept = keep;
        } else if (restore(context, state, state_bytes, state_keep)) {
            *kept = state_keep;
        } else {
            llama_memory_clear(memory, true);
            *kept = 0;
        }
        return MOE_OK;
    });
}

moe_status moe_checkpoint_size(llama_context * context, size_t * bytes, moe_message * message) {
    return guarded(message, [&] {
        const bool is_needed = moe_context_rewind(context) != MOE_REWIND_FREE;
        *bytes = is_needed ? llama_state_seq_get_size_ext(context, 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) : 0;
        return MOE_OK;
    });
}

moe_status moe_checkpoint_get(llama_context * context, uint8_t * buffer, size_t bytes, moe_message * message) {
    return guarded(message, [&] {
        const size_t written = llama_state_seq_get_data_ext(context, buffer, bytes, 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
        return written == bytes ? MOE_OK : fail(message, "");
    });
}

moe_status moe_state_size(llama_context * context, size_t * bytes, moe_message * message) {
    return guarded(message, [&] {
        *bytes = llama_state_seq_get_size(context, 0);
        return MOE_OK;
    });
}

moe_status moe_state_get(llama_context * context, uint8_t * buffer, size_t * bytes, moe_message * message) {
    return guarded(message, [&] {
        *bytes = llama_state_seq_get_data(context, buffer, *bytes, 0);
        return *bytes == 0 ? fail(message, "") : MOE_OK;
    });
}

moe_status moe_state_set(llama_context * context, const uint8_t * buffer, size_t bytes, moe_message * message) {
    return guarded(message, [&] {
        llama_memory_clear(llama_get_memory(context), true);
        if (llama_state_seq_set_data(context, buffer, bytes, 0) != bytes) {
            llama_memory_clear(llama_get_memory(context), true);
            return fail(message, "");
        }
        return MOE_OK;
    });
}

moe_status moe_tokenize(const llama_vocab * vocab, const char * text, int32_t length, llama_token * tokens, int32_t capacity, bool add_special, bool parse_special, int32_t * result, moe_message * message) {
    return guarded(message, [&] {
        *result = llama_tokenize(vocab, text, length, tokens, capacity, add_special, parse_special);
        return MOE_OK;
    });
}

moe_status moe_token_piece(const llama_vocab * vocab, llama_token token, char * buffer, int32_t capacity, bool special, int32_t * result, moe_message * message) {
    return guarded(message, [&] {
        *result = llama_token_to_piece(vocab, token, buffer, capacity, 0, special);
        return MOE_OK;
    });
}

moe_status moe_chat_prompt(const char * chat_template, const llama_chat_message * messages, size_t count, char * buffer, int32_t capacity, int32_t * result, moe_message * message) {
    return guarded(message, [&] {
        *result = llama_chat_apply_template(chat_template, messages, count, true, buffer, capacity);
        return MOE_OK;
    });
}
