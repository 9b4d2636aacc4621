// The whole boundary between Rust and llama.cpp, as far as llama.cpp may throw, abort or needs C++.
//
// Every function returns MOE_OK or an error and then fills `message`. None lets a C++ exception
// out, and a failed assertion of the engine on the calling thread becomes MOE_EXCEPTION.
// Pointers are borrowed for the call unless a comment says otherwise.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum moe_status {
    MOE_OK        = 0,
    MOE_FAILED    = 1, // the engine reported a failure
    MOE_EXCEPTION = 2, // it threw, or an assertion failed; what it worked on is in an unknown state
    MOE_MISSING   = 3, // this build of the engine lacks what was asked for
    MOE_NO_NUMBER = 4, // what was computed is no number
    MOE_EQUAL_SCORES = 5, // all tokens have the same score
} moe_status;

typedef struct moe_message {
    char text[2048]; // NUL-terminated
} moe_message;

// --- backends and devices ---

// Loads the backends (from `backends_dir` if not NULL) and routes logs and assertions.
// MOE_MISSING if there is no CPU backend. To be called until it succeeds, before anything else.
// `log` must be callable from every thread for ever. `cpu_library`, if not NULL, is the file of the
// CPU's backend to use, whatever the engine would choose from `backends_dir`.
moe_status moe_init(ggml_log_callback log, const char * backends_dir, const char * cpu_library, moe_message * message);

// How well the CPU backend in this file suits the processor, as the engine would rate it; 0 if it
// cannot run here or cannot be loaded.
moe_status moe_backend_score(const char * library, int * score, moe_message * message);

// For tests: an assertion that fails. On the calling thread it is MOE_EXCEPTION, on another one it
// ends the process, as one of the engine's own threads would.
moe_status moe_fail_assertion(bool on_another_thread, moe_message * message);

// For tests: an abort callback that fails an assertion, on the calling thread between two nodes of a graph, while
// the threads that compute with it wait.
bool moe_fail_in_graph(void * user);

typedef enum moe_device_kind {
    MOE_DEVICE_CPU         = 0,
    MOE_DEVICE_GPU         = 1, // also RPC
    MOE_DEVICE_INTEGRATED  = 2,
    MOE_DEVICE_ACCELERATOR = 3,
} moe_device_kind;

typedef struct moe_device {
    ggml_backend_dev_t handle; // lives as long as the process
    const char *       name;   // likewise
    const char *       description;
    const char *       backend;
    moe_device_kind    kind;
    bool               offloads; // computes large batches of what is in CPU memory
} moe_device;

// Fills at most `capacity` rows; `count` is how many there are.
moe_status moe_devices(moe_device * rows, size_t capacity, size_t * count, moe_message * message);

typedef struct moe_device_memory_info {
    uint64_t free_bytes;
    uint64_t total_bytes;
    uint64_t alignment_bytes; // every tensor takes a whole number of these
    uint64_t row_padding_elements; // the last row of a quantised tensor takes a whole number of these; 0: what it has
} moe_device_memory_info;

// Asks a device for its memory; fails for a server that is gone, waits for one that is busy.
moe_status moe_device_memory(ggml_backend_dev_t device, moe_device_memory_info * info, moe_message * message);

// Whether files are mapped for a model that uses this device and leaves it to the engine.
moe_status moe_device_maps(ggml_backend_dev_t device, bool * maps, moe_message * message);

// Whether a device has memory of the host that it reads directly.
moe_status moe_device_pins(ggml_backend_dev_t device, bool * pins, moe_message * message);

// For tests: a device of this machine with memory that the CPU computes in.
typedef struct moe_planted_device {
    uint64_t total_bytes;
    uint64_t row_padding_elements;
    uint64_t hidden_bytes;           // taken with the first graph, and not counted by the engine
    uint64_t hidden_bytes_per_token; // likewise, for the most tokens that were computed at once
    bool     aborts;                 // an assertion fails where there is no memory to compute, as in the CUDA backend
    bool     offloads;               // it pins memory of the host, and computes large batches of what is there
} moe_planted_device;

// Registers the device at the first call, and later changes it; `in_use` is what is in use of it, which must be nothing.
// Nothing may look at the list of devices meanwhile.
moe_status moe_plant_device(const moe_planted_device * planted, uint64_t * in_use, moe_message * message);

// For tests: as another program, takes so many bytes of it, or gives them back. MOE_FAILED if there are none.
moe_status moe_planted_take(int64_t bytes, moe_message * message);

// For tests: bytes of memory of ours that are pinned for it, and multiplications with experts that it has computed.
uint64_t moe_planted_pinned(void);
uint64_t moe_planted_computed(void);

// Whether a device can pin memory of ours, so that it reads it directly.
moe_status moe_device_registers(ggml_backend_dev_t device, bool * registers, moe_message * message);

// Pins memory of ours, which has to stay until moe_unpin; `pinned` says whether it could. Any thread.
moe_status moe_pin(ggml_backend_dev_t device, void * base, size_t bytes, bool * pinned, moe_message * message);
moe_status moe_unpin(ggml_backend_dev_t device, void * base, moe_message * message);

// Connects to an RPC server, or sees whether it still answers. Its devices are not registered yet.
moe_status moe_rpc_connect(const char * endpoint, ggml_backend_reg_t * server, moe_message * message);

// Adds the devices of a server to the list of devices, once. Nothing may look at the list meanwhile.
moe_status moe_rpc_register(ggml_backend_reg_t server, moe_message * message);

// Serves this machine's CPU; returns only on failure. Keeps weights in `cache_dir` if not NULL.
moe_status moe_rpc_serve(const char * endpoint, const char * cache_dir, size_t threads, moe_message * message);

// The buffer type of a device, or of the CPU if `device` is NULL.
moe_status moe_buffer_type(ggml_backend_dev_t device, ggml_backend_buffer_type_t * buffer_type, moe_message * message);

// --- model ---

// `model` is the caller's, to be freed with moe_model_free. The arrays in `params` (devices,
// overrides, tensor split) must outlive it.
moe_status moe_model_load(const char * path, const struct llama_model_params * params, struct llama_model ** model, moe_message * message);
moe_status moe_model_free(struct llama_model * model, moe_message * message);

// Where a model's weights in CPU memory are to be, repacked ones too.
typedef struct moe_host_memory {
    // Zeroed memory, aligned to a page, or NULL. Called by the loading thread alone; nothing may unwind.
    void * (*take)(size_t bytes, void * user);
    // Of `take`, by any thread at any time: one function for the whole process.
    void   (*release)(void * base, size_t bytes);
    // Is told where a tensor has its place, which is the file's layout; by the loading thread. Nothing may unwind.
    void   (*placed)(const char * name, void * data, size_t bytes, void * user);
    void *   user;
} moe_host_memory;

struct moe_stream;

// As moe_model_load, or with a stream, if it is not NULL, as moe_model_load_stream, with this memory; `held` is used only
// during the call.
moe_status moe_model_load_held(const char * path, const struct moe_stream * stream, const moe_host_memory * held, const struct llama_model_params * params, struct llama_model ** model, moe_message * message);

// Calls `visit` for every tensor the engine holds, copies included; `device` is "cpu" for host memory, "disk" for
// what is paged.
typedef void (*moe_tensor_visitor)(const char * name, uint64_t bytes, const char * device, void * user);
moe_status moe_model_tensors(const struct llama_model * model, moe_tensor_visitor visit, void * user, moe_message * message);

// --- context ---

// `context` is the caller's, to be freed before its model.
moe_status moe_context_new(struct llama_model * model, const struct llama_context_params * params, struct llama_context ** context, moe_message * message);
moe_status moe_context_free(struct llama_context * context, moe_message * message);

// Threads that compute for a context and stay between graphs, where the engine by itself starts new ones for each:
// a callback that looks into a graph makes a hundred of it. Freed after the context.
moe_status moe_threads_attach(struct llama_context * context, uint32_t threads, ggml_threadpool_t * pool, moe_message * message);
moe_status moe_threads_free(ggml_threadpool_t pool, moe_message * message);

typedef enum moe_held {
    MOE_HELD_DEVICE   = 0, // by the device
    MOE_HELD_PLAIN    = 1, // host memory of the CPU's own kind
    MOE_HELD_MAPPED   = 2, // a mapped file
    MOE_HELD_PINNED   = 3, // host memory that a device reads directly
    MOE_HELD_REPACKED = 4, // host memory in another layout than the file's
    MOE_HELD_PAGED    = 5, // addresses of experts on disk
} moe_held;

typedef struct moe_memory {
    const char * device; // "cpu" for host memory, "disk" for what is paged
    moe_held     held;
    uint64_t     weights_bytes;
    uint64_t     context_bytes;
    uint64_t     compute_bytes;
} moe_memory;

// One row per buffer type; several rows may name the same device.
moe_status moe_context_memory(const struct llama_context * context, moe_memory * rows, size_t capacity, size_t * count, moe_message * message);

// Until the next call, what this thread plans or computes has experts in CPU memory computed on a device, if one
// `offloads`, for so many tokens or more; 0 leaves it to the engine. Returns what was said before. A graph that the
// engine uses again stays as it is.
uint32_t moe_experts_offloaded_from(uint32_t tokens);

// Computes `count` tokens after those that are there. `result` is that of llama_decode.
moe_status moe_decode(struct llama_context * context, const llama_token * tokens, int32_t count, int32_t * result, moe_message * message);

// Waits until what was begun is done, as far as results are fetched.
moe_status moe_synchronize(struct llama_context * context, moe_message * message);

// Computes tokens of several sequences; `wanted` marks those whose results are looked at.
moe_status moe_decode_together(struct llama_context * context, const llama_token * tokens, const int32_t * positions, const int32_t * sequences, const int8_t * wanted, size_t count, int32_t * result, moe_message * message);

// Forgets one sequence.
moe_status moe_context_forget(struct llama_context * context, int32_t sequence, moe_message * message);

// What it takes to go back to an earlier token.
typedef enum moe_rewind {
    MOE_REWIND_FREE   = 0, // nothing
    MOE_REWIND_WINDOW = 1, // a checkpoint, where a window has passed on
    MOE_REWIND_EXACT  = 2, // a checkpoint of that place: a recurrent state has no parts
} moe_rewind;

moe_rewind moe_context_rewind(const struct llama_context * context);

// Forgets all but the first `keep` tokens; `kept` becomes how many are left. If the memory cannot go back, it does by a
// checkpoint of `state_bytes` bytes, which then keeps `state_keep` tokens; without one (NULL or 0 bytes), or if that
// fails, everything is forgotten.
moe_status moe_context_keep(struct llama_context * context, int32_t keep, const uint8_t * state, size_t state_bytes, int32_t state_keep, int32_t * kept, moe_message * message);

// Bytes of a checkpoint: of recurrent states and windows, without what can go back by itself. 0 if all can.
moe_status moe_checkpoint_size(struct llama_context * context, size_t * bytes, moe_message * message);

// Writes a checkpoint of just so many bytes.
moe_status moe_checkpoint_get(struct llama_context * context, uint8_t * buffer, size_t bytes, moe_message * message);

// Bytes of the state of the sequence, at most.
moe_status moe_state_size(struct llama_context * context, size_t * bytes, moe_message * message);

// Writes it; `bytes` becomes how many they are.
moe_status moe_state_get(struct llama_context * context, uint8_t * buffer, size_t * bytes, moe_message * message);

// Replaces the context's memory by a state that moe_state_get wrote. After a failure the memory is empty.
moe_status moe_state_set(struct llama_context * context, const uint8_t * buffer, size_t bytes, moe_message * message);

// As moe_decode, and copies the logits of every one of these tokens, in order, to `logits`, which has room
// for `count` times the vocabulary's size. Only if `result` is 0.
moe_status moe_decode_logits(struct llama_context * context, const llama_token * tokens, int32_t count, float * logits, int32_t * result, moe_message * message);

// Is told the experts that the router of a layer chose for one token.
typedef void (*moe_expert_visitor)(int32_t layer, const int32_t * experts, size_t count, void * user);

typedef struct moe_expert_watch {
    moe_expert_visitor visit;
    void *             user;
    bool               failed; // set if something could not be read
} moe_expert_watch;

// For llama_context_params.cb_eval, with a moe_expert_watch as user data. Called by the engine on the
// thread that computes. Makes the engine stop after each router, which takes time.
bool moe_watch_experts(struct ggml_tensor * tensor, bool ask, void * watch);

// --- experts that are paged from disk ---

// Memory that somebody else fills: a buffer type whose buffers only reserve addresses. All is called
// by the engine on the thread that loads or frees, and nothing may unwind.
typedef struct moe_paged_memory {
    void * (*reserve)(size_t bytes, void * user);              // addresses, or NULL
    void   (*release)(void * base, size_t bytes, void * user); // of `reserve`
    // Where a tensor's data are going to be: at `data` or up to two pages behind. NULL refuses it.
    void * (*place)(const char * name, size_t bytes, void * data, void * user);
    void *   user;
} moe_paged_memory;

// `buffer_type` is the caller's, to be freed after the models that use it. It keeps a copy of `memory`.
moe_status moe_paged_new(const moe_paged_memory * memory, ggml_backend_buffer_type_t * buffer_type, moe_message * message);
moe_status moe_paged_free(ggml_backend_buffer_type_t buffer_type, moe_message * message);

// A model as a stream, so that what is paged need not be read. `read` returns how many bytes it read, negative on
// failure. `has_bytes` is false in a tensor that is not to be read; all tensors begin at multiples of the buffer.
#define MOE_STREAM_BUFFER 262144
typedef struct moe_stream {
    uint64_t bytes;
    int64_t (*read)(uint64_t offset, char * buffer, size_t count, void * user);
    bool    (*has_bytes)(uint64_t offset, void * user);
    void *   user;
} moe_stream;

// As moe_model_load. MOE_MISSING where the system has no such streams.
moe_status moe_model_load_stream(const moe_stream * stream, const struct llama_model_params * params, struct llama_model ** model, moe_message * message);

// Who is told what the routers chose, before it is used; on the thread that computes.
typedef struct moe_pager {
    // For each of `tokens` tokens `each` experts of a layer, the highest score first, of which the first `used`
    // were chosen. False stops.
    bool (*chosen)(int32_t layer, const int32_t * experts, size_t each, size_t used, size_t tokens, void * user);
    // After `chosen` for one token: the experts of the next layer, likeliest first, by its router and what
    // this layer's was given. `again`: mostly a better guess, by what comes into that layer, also the first. NULL if
    // nobody wants it.
    void (*expected)(int32_t layer, const int32_t * experts, size_t count, bool again, void * user);
    // Is about to multiply with these experts of a tensor. Returns when they are there; false stops.
    bool (*needed)(const char * tensor, const int32_t * experts, size_t count, void * user);
    // Is about to look up these rows of a tensor. Returns when they are there; false stops.
    bool (*rows)(const char * tensor, const int32_t * rows, size_t count, void * user);
    void * user;
    moe_expert_watch * watch; // is told too, if not NULL
    void * graph_state;       // what was seen of the engine's graph; ours
    bool   routing_missed;    // set if a router's choice was not known in time
    bool   failed;            // set if one of the above said false; nothing computed since is of use
} moe_pager;

moe_status moe_pager_begin(moe_pager * pager, moe_message * message);
void       moe_pager_end(moe_pager * pager);

// For llama_context_params.cb_eval, with a moe_pager as user data, between begin and end.
bool moe_page_experts(struct ggml_tensor * tensor, bool ask, void * pager);

// --- text ---

// Like llama_tokenize: `result` is the number of tokens, or minus it if `capacity` is too small.
moe_status moe_tokenize(const struct llama_vocab * vocab, const char * text, int32_t length, llama_token * tokens, int32_t capacity, bool add_special, bool parse_special, int32_t * result, moe_message * message);

// Like llama_token_to_piece; control tokens have no bytes unless `special`.
moe_status moe_token_piece(const struct llama_vocab * vocab, llama_token token, char * buffer, int32_t capacity, bool special, int32_t * result, moe_message * message);

// Like llama_chat_apply_template; `result` is negative if the template is not known.
moe_status moe_chat_prompt(const char * chat_template, const struct llama_chat_message * messages, size_t count, char * buffer, int32_t capacity, int32_t * result, moe_message * message);

// --- sampling ---

typedef struct moe_sampling {
    float    temperature; // 0: the likeliest token, what cuts off is ignored
    int32_t  top_k;       // 0: off
    float    top_p;       // 1: off
    float    min_p;       // 0: off
    float    typical_p;   // 1: off
    float    xtc_probability; // 0: off
    float    xtc_threshold;
    float    repeat_penalty;    // 1: off
    float    frequency_penalty; // 0: off
    float    presence_penalty;  // 0: off
    int32_t  repeat_last;       // tokens that the penalties look back
    float    dry_multiplier;    // 0: off
    float    dry_base;
    int32_t  dry_allowed;
    int32_t  dry_last;
    const char * const * dry_breakers;
    size_t   dry_breaker_count;
    int32_t  mirostat; // 0: off, 1 or 2: instead of what cuts off
    float    mirostat_tau;
    float    mirostat_eta;
    const llama_logit_bias * bias;
    size_t   bias_count;
    uint32_t seed;
} moe_sampling;

typedef struct moe_sampler moe_sampler;

// `sampler` is the caller's.
moe_status moe_sampler_new(const struct llama_vocab * vocab, const moe_sampling * sampling, moe_sampler ** sampler, moe_message * message);
moe_status moe_sampler_free(moe_sampler * sampler, moe_message * message);

// Picks a token from the logits at this index of the last batch, -1 for its last. `allowed` has a value for each
// token of the vocabulary, of which one must be true; NULL allows all.
moe_status moe_sample(moe_sampler * sampler, struct llama_context * context, int32_t index, const bool * allowed, llama_token * token, moe_message * message);

// Remembers the token that was taken.
moe_status moe_sampler_accept(moe_sampler * sampler, llama_token token, moe_message * message);

typedef struct moe_log_probability {
    llama_token token;
    float       log_probability;
} moe_log_probability;

// The model's own probabilities, before sampling, in the result of the token at this index of the last batch, -1 for its
// last: of `token`, and of the likeliest tokens, at most as many as there are rows.
moe_status moe_log_probabilities(struct llama_context * context, int32_t index, llama_token token, moe_log_probability * chosen, moe_log_probability * rows, size_t capacity, size_t * count, moe_message * message);

#ifdef __cplusplus
}
#endif
