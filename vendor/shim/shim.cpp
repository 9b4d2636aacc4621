#include "shim.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-rpc.h"
#include "llama-ext.h"
#include "llama-model.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

// A failed assertion of the engine, as an exception.
struct assertion_failed : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// How many guarded calls the thread is in. Only there is somebody to catch an exception; on the
// engine's own threads a failed assertion still ends the process.
thread_local int guarded_depth = 0;

struct depth_guard {
    depth_guard() { guarded_depth++; }
    ~depth_guard() { guarded_depth--; }
};

void on_abort(const char * text) {
    if (guarded_depth > 0) {
        throw assertion_failed(text);
    }
    // Nobody can catch it on the engine's own threads; ggml_abort leaves saying so to us.
    std::fprintf(stderr, "moe-offload: the engine ends this process: %s\n", text);
}

void set_message(moe_message * message, const char * text) {
    std::snprintf(message->text, sizeof(message->text), "%s", text);
}

moe_status fail(moe_message * message, const char * text) {
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
    ggml_backend_dev_t device = ggml_backend_buft_get_device(buffer_type);
    if (device == nullptr || ggml_backend_buft_is_host(buffer_type) || kind_of(device) == MOE_DEVICE_CPU) {
        return "cpu";
    }
    return ggml_backend_dev_name(device);
}

moe_held how_held(ggml_backend_buffer_type_t buffer_type) {
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

} // namespace

moe_status moe_init(ggml_log_callback log, const char * backends_dir, moe_message * message) {
    return guarded(message, [&] {
        ggml_set_abort_callback(on_abort);
        llama_log_set(log, nullptr);
        if (backends_dir != nullptr) {
            ggml_backend_load_all_from_path(backends_dir);
        }
        llama_backend_init();
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

moe_status moe_devices(moe_device * rows, size_t capacity, size_t * count, moe_message * message) {
    return guarded(message, [&] {
        *count = ggml_backend_dev_count();
        for (size_t i = 0; i < *count && i < capacity; i++) {
            ggml_backend_dev_t device = ggml_backend_dev_get(i);
            ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(device);
            rows[i] = {
                device, ggml_backend_dev_name(device), ggml_backend_dev_description(device),
                reg == nullptr ? "" : ggml_backend_reg_name(reg), kind_of(device),
            };
        }
        return MOE_OK;
    });
}

moe_status moe_device_memory(ggml_backend_dev_t device, moe_device_memory_info * info, moe_message * message) {
    return guarded(message, [&] {
        size_t free = 0, total = 0;
        ggml_backend_dev_memory(device, &free, &total);
        ggml_backend_buffer_type_t buffer_type = ggml_backend_dev_buffer_type(device);
        *info = { free, total, buffer_type == nullptr ? 1 : ggml_backend_buft_get_alignment(buffer_type) };
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
        // The engine takes a pointer to mutable tokens but only reads them.
        *result = llama_decode(context, llama_batch_get_one(const_cast<llama_token *>(tokens), count));
        return MOE_OK;
    });
}

moe_status moe_decode_logits(llama_context * context, const llama_token * tokens, int32_t count, float * logits, int32_t * result, moe_message * message) {
    return guarded(message, [&] {
        std::vector<int8_t> wanted(count, 1);
        llama_batch batch = llama_batch_get_one(const_cast<llama_token *>(tokens), count);
        batch.logits = wanted.data();
        *result = llama_decode(context, batch);
        if (*result != 0) {
            return MOE_OK;
        }
        const size_t width = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)));
        for (int32_t i = 0; i < count; i++) {
            const float * row = llama_get_logits_ith(context, i);
            if (row == nullptr) {
                return fail(message, "the engine has no logits of a token");
            }
            std::copy(row, row + width, logits + i * width);
        }
        return MOE_OK;
    });
}

bool moe_watch_experts(ggml_tensor * tensor, bool ask, void * user) {
    static const char prefix[] = "ffn_moe_topk-";
    if (std::strncmp(tensor->name, prefix, sizeof(prefix) - 1) != 0) {
        return !ask; // not wanted; or go on
    }
    if (ask) {
        return true;
    }
    auto * watch = static_cast<moe_expert_watch *>(user);
    try {
        if (tensor->type != GGML_TYPE_I32 || tensor->nb[0] != sizeof(int32_t)) {
            watch->failed = true;
            return true;
        }
        // A view of all experts in order: its rows are apart.
        std::vector<char> bytes(ggml_nbytes(tensor));
        ggml_backend_tensor_get(tensor, bytes.data(), 0, bytes.size());
        const int32_t layer = std::atoi(tensor->name + sizeof(prefix) - 1);
        for (int64_t token = 0; token < tensor->ne[1]; token++) {
            const auto * row = reinterpret_cast<const int32_t *>(bytes.data() + token * tensor->nb[1]);
            watch->visit(layer, row, tensor->ne[0], watch->user);
        }
    } catch (...) {
        watch->failed = true; // nothing may unwind through a graph that is being computed
    }
    return true;
}

moe_status moe_context_keep(llama_context * context, int32_t keep, bool * kept, moe_message * message) {
    return guarded(message, [&] {
        llama_memory_t memory = llama_get_memory(context);
        // A sliding window has already forgotten what it would need to go back.
        const llama_model * model = llama_get_model(context);
        const bool can_go_back = llama_model_n_swa(model) <= 0 &&
            !llama_model_is_recurrent(model) && !llama_model_is_hybrid(model);
        const bool nothing_to_do = llama_memory_seq_pos_max(memory, 0) < keep;
        *kept = nothing_to_do || (can_go_back && keep > 0 && llama_memory_seq_rm(memory, 0, keep, -1));
        if (!*kept) {
            llama_memory_clear(memory, true);
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

moe_status moe_sampler_new(const llama_vocab * vocab, const moe_sampling * sampling, llama_sampler ** sampler, moe_message * message) {
    return guarded(message, [&] {
        *sampler = nullptr;
        llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
        if (chain == nullptr) {
            return fail(message, "out of memory");
        }
        *sampler = chain;
        if (sampling->repeat_penalty != 1.0f) {
            llama_sampler_chain_add(chain, llama_sampler_init_penalties(llama_vocab_n_tokens(vocab), sampling->repeat_last, sampling->repeat_penalty, 0.0f, 0.0f));
        }
        if (sampling->temperature <= 0.0f) {
            llama_sampler_chain_add(chain, llama_sampler_init_greedy());
            return MOE_OK;
        }
        if (sampling->top_k > 0) {
            llama_sampler_chain_add(chain, llama_sampler_init_top_k(sampling->top_k));
        }
        if (sampling->top_p < 1.0f) {
            llama_sampler_chain_add(chain, llama_sampler_init_top_p(sampling->top_p, 1));
        }
        if (sampling->min_p > 0.0f) {
            llama_sampler_chain_add(chain, llama_sampler_init_min_p(sampling->min_p, 1));
        }
        llama_sampler_chain_add(chain, llama_sampler_init_temp(sampling->temperature));
        llama_sampler_chain_add(chain, llama_sampler_init_dist(sampling->seed));
        return MOE_OK;
    });
}

moe_status moe_sampler_free(llama_sampler * sampler, moe_message * message) {
    return guarded(message, [&] {
        llama_sampler_free(sampler);
        return MOE_OK;
    });
}

moe_status moe_sample(llama_sampler * sampler, llama_context * context, llama_token * token, moe_message * message) {
    return guarded(message, [&] {
        *token = llama_sampler_sample(sampler, context, -1); // also accepts it
        return MOE_OK;
    });
}
