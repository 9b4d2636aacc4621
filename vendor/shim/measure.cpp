// What only those need who measure: logits of every token, and the routers' choices.
#include "guard.h"
#include "shim.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

moe_status moe_decode_logits(llama_context * context, const llama_token * tokens, int32_t count, float * logits, int32_t * result, moe_message * message) {
    return guarded(message, [&] {
        computing_guard computing;
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
