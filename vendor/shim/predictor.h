// Guesses at what the router of the next layer will choose. For C++ only.
#pragma once

#include "ggml.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

namespace moe {

// The layer in the name of a node that begins with `prefix`, -1 if it has another.
int32_t layer_of(const ggml_tensor * tensor, const char * prefix);

// How scores become what a choice goes by.
enum class gate { none, sigmoid, softmax, other };

// How a layer chooses: by the largest of gate(weights * input + bias) + choice_bias.
struct router {
    int32_t             layer       = -1;
    const ggml_tensor * weights     = nullptr;
    const ggml_tensor * norm        = nullptr; // what the input was multiplied with before; may be missing
    float               epsilon     = -1;      // of the root mean square by which it was divided before that, if so
    const ggml_tensor * bias        = nullptr; // may be missing
    const ggml_tensor * choice_bias = nullptr; // may be missing
    gate                gated       = gate::none;
    bool                reads       = false;   // whether this layer's experts are on disk
};

// All experts of a layer, the likeliest first; none if there is nothing to go by.
struct prediction {
    int32_t              layer = -1;
    std::vector<int32_t> ranked;
};

// What flows from layer to layer changes slowly, so the next router is asked about this layer's input, and then about
// what the layer made of it; the first one about the token itself.
class expert_predictor {
  public:
    // Learns from the nodes of a graph in their order. Whether this one is a layer's router.
    bool note(const ggml_tensor * tensor);

    // Notes that the layer of the last router reads its experts from disk.
    void reads() { routers[current].reads = true; }

    // What the layer after this one will choose, just after this one's router has chosen for one token. None if
    // that layer's experts are in memory.
    prediction after(int32_t layer);

    // Whether this node is one token as it comes into a layer, and tells of that layer's choice.
    bool tells(const ggml_tensor * tensor) const;

    // The same by what comes into the next layer: only its attention is missing.
    prediction after(const ggml_tensor * incoming);

  private:
    void               note_made(const ggml_tensor * tensor);
    const router *     next_to_read(int32_t layer) const;
    const float *      values_of(const ggml_tensor * tensor, std::vector<float> & scratch);
    std::vector<float> input_of(const router & next, const router & here);
    std::vector<float> normed(const router & next, const ggml_tensor * incoming);
    prediction            rank(const router * next, const std::function<std::vector<float>()> & input_of_it);
    std::vector<float> scores_of(const router & next, const float * weights, const std::vector<float> & input);

    std::map<int32_t, router>                         routers;           // of each layer
    std::map<const ggml_tensor *, std::vector<float>> copies;            // of weights on devices
    size_t                                            copied  = 0;       // numbers in them
    int32_t                                           current = -1;      // the layer of the last router
    const ggml_tensor *                               given   = nullptr; // what it was given
    const ggml_tensor *                               made    = nullptr; // what was made of it so far
};

} // namespace moe
