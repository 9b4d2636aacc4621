// Which tokens can be chosen at all, so that nobody has to sort a whole vocabulary. For C++ only.
#pragma once

#include "llama.h"

#include <cstddef>
#include <deque>
#include <unordered_map>
#include <vector>

namespace moe {

// The tokens whose scores a chain of samplers may change: those with a bias, and those accepted lately.
class changed_tokens {
  public:
    // `look_back`: how many of the accepted tokens penalties look at.
    changed_tokens(const llama_logit_bias * bias, size_t bias_count, size_t look_back);

    void accept(llama_token token);

    size_t size() const { return counts.size(); }

    template <typename Visit> void each(Visit visit) const {
        for (const auto & [token, count] : counts) {
            visit(token);
        }
    }

  private:
    size_t look_back;
    std::deque<llama_token> recent;
    std::unordered_map<llama_token, size_t> counts;
};

// The likelier first; of equal ones that with the lower number.
bool is_likelier(const llama_token_data & a, const llama_token_data & b);

// The `count` likeliest of the tokens that are allowed (a value for each, or NULL for all), in the order of their
// numbers.
void likeliest(const float * logits, size_t words, const bool * allowed, size_t count, std::vector<llama_token_data> & into);

// What the `count` best tokens come from when the scores of `changed` are changed in any way: those that are
// changed, and of the others as many as there are places.
void candidates(const float * logits, size_t words, const bool * allowed, size_t count, const changed_tokens & changed, std::vector<llama_token_data> & into);

} // namespace moe
