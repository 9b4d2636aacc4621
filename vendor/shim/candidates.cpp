#include "candidates.h"

#include <algorithm>
#include <limits>

namespace moe {

namespace {

// Looked at together: whether any is above a limit is one comparison of several numbers at once.
constexpr size_t BLOCK = 32;

bool by_token(const llama_token_data & a, const llama_token_data & b) {
    return a.id < b.id;
}

bool any_above(const float * logits, float limit) {
    int above = 0;
    for (size_t i = 0; i < BLOCK; i++) {
        above |= logits[i] > limit;
    }
    return above != 0;
}

} // namespace

bool is_likelier(const llama_token_data & a, const llama_token_data & b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

changed_tokens::changed_tokens(const llama_logit_bias * bias, size_t bias_count, size_t look_back) : look_back(look_back) {
    for (size_t i = 0; i < bias_count; i++) {
        counts[bias[i].token]++;
    }
}

void changed_tokens::accept(llama_token token) {
    if (look_back == 0) {
        return;
    }
    if (recent.size() == look_back) {
        const auto oldest = counts.find(recent.front());
        if (--oldest->second == 0) {
            counts.erase(oldest);
        }
        recent.pop_front();
    }
    recent.push_back(token);
    counts[token]++;
}

void likeliest(const float * logits, size_t words, const bool * allowed, size_t count, std::vector<llama_token_data> & into) {
    into.clear();
    if (count == 0) {
        return;
    }
    // What is not above it has no place any more. It rises each time that `room` is full.
    float limit = -std::numeric_limits<float>::infinity();
    const size_t room = 2 * count + BLOCK;
    const auto keep_best = [&] {
        if (into.size() > count) {
            std::nth_element(into.begin(), into.begin() + std::ptrdiff_t(count) - 1, into.end(), is_likelier);
            into.resize(count);
            limit = into.back().logit;
        }
    };
    for (size_t start = 0; start < words; start += BLOCK) {
        const size_t end = std::min(start + BLOCK, words);
        if (end - start == BLOCK && !any_above(logits + start, limit)) {
            continue;
        }
        for (size_t i = start; i < end; i++) {
            if (logits[i] > limit && (allowed == nullptr || allowed[i])) {
                into.push_back({ llama_token(i), logits[i], 0.0f });
            }
        }
        if (into.size() >= room) {
            keep_best();
        }
    }
    keep_best();
    std::sort(into.begin(), into.end(), by_token);
}

void candidates(const float * logits, size_t words, const bool * allowed, size_t count, const changed_tokens & changed, std::vector<llama_token_data> & into) {
    // A changed token may leave its place among the best to one behind it.
    likeliest(logits, words, allowed, count + changed.size(), into);
    const size_t found = into.size();
    changed.each([&](llama_token token) {
        const auto last = into.begin() + std::ptrdiff_t(found);
        const llama_token_data data = { token, logits[token], 0.0f };
        if ((allowed == nullptr || allowed[token]) && !std::binary_search(into.begin(), last, data, by_token)) {
            into.push_back(data);
        }
    });
    std::sort(into.begin(), into.end(), by_token);
}

} // namespace moe
