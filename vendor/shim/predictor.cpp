// Guesses at what the router of the next layer will choose.
#include "predictor.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

using namespace moe;

namespace {

// What the engine calls what comes into the first layer, and what a layer made. A factor that comes between is undone
// by the norm before the router.
constexpr const char * INPUT  = "embd";
constexpr const char * OUTPUT = "l_out-";

constexpr int32_t NO_LAYER = -2;

constexpr size_t MOST_COPIED = size_t(16) << 20; // numbers of weights on devices

bool lasts(const ggml_tensor * tensor) {
    return tensor != nullptr && tensor->op == GGML_OP_NONE && tensor->view_src == nullptr && tensor->buffer != nullptr &&
        ggml_backend_buffer_get_usage(tensor->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

const ggml_tensor * weights_or_null(const ggml_tensor * tensor) {
    return lasts(tensor) ? tensor : nullptr;
}

gate gate_of(const ggml_tensor * tensor) {
    if (tensor->op == GGML_OP_UNARY && ggml_get_unary_op(tensor) == GGML_UNARY_OP_SIGMOID) {
        return gate::sigmoid;
    }
    return tensor->op == GGML_OP_SOFT_MAX ? gate::softmax : gate::other;
}

float dot(const float * a, const float * b, int64_t count) {
    float   sums[8] = {};
    int64_t i       = 0;
    for (; i + 8 <= count; i += 8) {
        for (int64_t j = 0; j < 8; j++) {
            sums[j] += a[i + j] * b[i + j];
        }
    }
    for (; i < count; i++) {
        sums[0] += a[i] * b[i];
    }
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

void open_gate(std::vector<float> & scores, gate gated) {
    const float most = *std::max_element(scores.begin(), scores.end());
    float sum = 0;
    for (float & score : scores) {
        score = gated == gate::sigmoid ? 1 / (1 + std::exp(-score)) : std::exp(score - most);
        sum += score;
    }
    for (float & score : scores) {
        score /= gated == gate::softmax ? sum : 1;
    }
}

// The layer that made this node, which comes into the next one: -1 before the first.
int32_t layer_before(const ggml_tensor * tensor) {
    const int32_t layer = layer_of(tensor, OUTPUT);
    return layer >= 0 ? layer : std::strcmp(tensor->name, INPUT) == 0 ? -1 : NO_LAYER;
}

} // namespace

int32_t moe::layer_of(const ggml_tensor * tensor, const char * prefix) {
    const size_t length = std::strlen(prefix);
    if (std::strncmp(tensor->name, prefix, length) != 0) {
        return -1;
    }
    const char * number = tensor->name + length;
    char *       end;
    const long   layer = std::strtol(number, &end, 10);
    return end != number && *end == '\0' ? int32_t(layer) : -1; // else something made of a choice
}

bool expert_predictor::note(const ggml_tensor * tensor) {
    const int32_t of = tensor->op == GGML_OP_MUL_MAT ? layer_of(tensor, "ffn_moe_logits-") : -1;
    if (of < 0) {
        if (made != nullptr && tensor->src[0] == made) {
            note_made(tensor);
        }
        return false;
    }
    given   = tensor->src[1];
    made    = tensor;
    current = of;
    router & now = routers[current] = router();
    now.weights  = weights_or_null(tensor->src[0]);
    now.layer    = of;
    if (given->op == GGML_OP_MUL) {
        now.norm = weights_or_null(given->src[1]);
        if (given->src[0]->op == GGML_OP_RMS_NORM) {
            std::memcpy(&now.epsilon, given->src[0]->op_params, sizeof(now.epsilon));
        }
    }
    return true;
}

// What is made of a router's scores.
void expert_predictor::note_made(const ggml_tensor * tensor) {
    router & now = routers[current];
    const bool is_gate = tensor->op == GGML_OP_UNARY || tensor->op == GGML_OP_SQRT || tensor->op == GGML_OP_SOFT_MAX;
    if (tensor->op == GGML_OP_ADD && lasts(tensor->src[1])) {
        (now.gated == gate::none ? now.bias : now.choice_bias) = tensor->src[1];
    } else if (is_gate) {
        now.gated = now.gated == gate::none ? gate_of(tensor) : gate::other;
    } else {
        return; // they are used for something else as well
    }
    made = tensor;
}

// The numbers of a tensor that is computed, or of weights, which are copied once if they are on a device. Null if
// they cannot be had.
const float * expert_predictor::values_of(const ggml_tensor * tensor, std::vector<float> & scratch) {
    if (tensor->type != GGML_TYPE_F32 || tensor->buffer == nullptr || !ggml_is_contiguous(tensor)) {
        return nullptr;
    }
    if (ggml_backend_buffer_is_host(tensor->buffer)) {
        return static_cast<const float *>(tensor->data);
    }
    const size_t count = size_t(ggml_nelements(tensor));
    if (!lasts(tensor)) {
        scratch.resize(count);
        ggml_backend_tensor_get(tensor, scratch.data(), 0, count * sizeof(float));
        return scratch.data();
    }
    const auto kept = copies.find(tensor);
    if (kept != copies.end()) {
        return kept->second.data();
    }
    if (copied + count > MOST_COPIED) {
        return nullptr;
    }
    std::vector<float> values(count);
    ggml_backend_tensor_get(tensor, values.data(), 0, count * sizeof(float));
    copied += count;
    return (copies[tensor] = std::move(values)).data();
}

// What the next router would be given if nothing flowed into it from here: this one's input, as the next norm
// has it. Empty if it cannot be had.
std::vector<float> expert_predictor::input_of(const router & next, const router & here) {
    std::vector<float> scratch;
    const size_t count = size_t(next.weights->ne[0]);
    if (given == nullptr || size_t(ggml_nelements(given)) != count) {
        return {};
    }
    const float * values = values_of(given, scratch);
    if (values == nullptr) {
        return {};
    }
    std::vector<float> normed(values, values + count);
    const auto norm_of = [&](const router & router) {
        const bool fits = router.norm != nullptr && size_t(ggml_nelements(router.norm)) == count;
        return fits ? values_of(router.norm, scratch) : nullptr;
    };
    const float * from = norm_of(here);
    const float * to   = norm_of(next);
    for (size_t i = 0; from != nullptr && to != nullptr && i < count; i++) {
        normed[i] = from[i] == 0 ? 0 : normed[i] / from[i] * to[i];
    }
    return normed;
}

// What a router of these weights chooses by, for all its experts.
std::vector<float> expert_predictor::scores_of(const router & next, const float * weights, const std::vector<float> & input) {
    std::vector<float> results, scratch;
    const size_t count = size_t(next.weights->ne[1]);
    for (size_t i = 0; i < count; i++) {
        results.push_back(dot(weights + i * input.size(), input.data(), int64_t(input.size())));
    }
    const auto add = [&](const ggml_tensor * bias) {
        const bool fits = bias != nullptr && size_t(ggml_nelements(bias)) == count;
        const float * values = fits ? values_of(bias, scratch) : nullptr;
        for (size_t i = 0; values != nullptr && i < count; i++) {
            results[i] += values[i];
        }
    };
    add(next.bias);
    // A gate by itself keeps their order.
    if (next.choice_bias != nullptr && next.gated != gate::other) {
        open_gate(results, next.gated);
        add(next.choice_bias);
    }
    return results;
}

// What the next router would be given if the attention before it added nothing to what comes into its layer. Empty if
// it cannot be had.
std::vector<float> expert_predictor::normed(const router & next, const ggml_tensor * incoming) {
    std::vector<float> scratch, other;
    const size_t  count  = size_t(next.weights->ne[0]);
    const bool    fits   = size_t(ggml_nelements(incoming)) == count && size_t(ggml_nelements(next.norm)) == count;
    const float * norm   = fits ? values_of(next.norm, scratch) : nullptr;
    const float * values = norm != nullptr ? values_of(incoming, other) : nullptr;
    if (values == nullptr) {
        return {};
    }
    const float mean  = dot(values, values, int64_t(count)) / float(count);
    const float scale = 1 / std::sqrt(mean + next.epsilon);
    std::vector<float> input(values, values + count);
    for (size_t i = 0; i < count; i++) {
        input[i] *= scale * norm[i];
    }
    return input;
}

// The next router, if its layer's experts are on disk; else null.
const router * expert_predictor::next_to_read(int32_t layer) const {
    const auto found = routers.upper_bound(layer);
    const bool reads = found != routers.end() && found->second.reads && found->second.weights != nullptr;
    return reads ? &found->second : nullptr;
}

// None if there is no router, or its weights or input cannot be had.
prediction expert_predictor::rank(const router * next, const std::function<std::vector<float>()> & input_of_it) {
    prediction result;
    std::vector<float> scratch;
    // Before the input, so that nothing is asked of a device in vain.
    const float * weights = next != nullptr ? values_of(next->weights, scratch) : nullptr;
    const std::vector<float> input = weights != nullptr ? input_of_it() : std::vector<float>();
    if (input.empty()) {
        return result;
    }
    const std::vector<float> results = scores_of(*next, weights, input);
    std::vector<std::pair<float, int32_t>> order;
    for (size_t i = 0; i < results.size(); i++) {
        order.emplace_back(std::isnan(results[i]) ? std::numeric_limits<float>::infinity() : -results[i], int32_t(i));
    }
    std::sort(order.begin(), order.end());
    result.layer = next->layer;
    for (const auto & score : order) {
        result.ranked.push_back(score.second);
    }
    return result;
}

prediction expert_predictor::after(int32_t layer) {
    const router * next = layer == current ? next_to_read(layer) : nullptr;
    return rank(next, [&] { return input_of(*next, routers[layer]); });
}

bool expert_predictor::tells(const ggml_tensor * tensor) const {
    const int32_t  layer = tensor->ne[1] == 1 ? layer_before(tensor) : NO_LAYER;
    const router * next  = layer != NO_LAYER ? next_to_read(layer) : nullptr;
    return next != nullptr && next->layer == layer + 1 && next->norm != nullptr && next->epsilon >= 0;
}

prediction expert_predictor::after(const ggml_tensor * incoming) {
    const router * next = next_to_read(layer_before(incoming));
    return rank(next, [&] { return normed(*next, incoming); });
}
