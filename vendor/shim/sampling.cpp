#include "candidates.h"
#include "guard.h"

#include "llama-cpp.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

struct moe_sampler {
    llama_sampler_ptr chain;
    // How many of the best tokens the chain considers after its penalties; 0 for all.
    size_t considered = 0;
    changed_tokens changed;
    std::vector<llama_token_data> candidates;
};

namespace {

struct not_a_number {};
struct equal_scores {};

// Below this part of a vocabulary it pays to look for the best tokens first.
constexpr size_t FEW = 8;
// The engine looks a bias up by going through all of them for each candidate.
constexpr size_t MOST_CHANGED = 1024;

bool has_penalties(const moe_sampling & s) {
    return s.repeat_penalty != 1.0f || s.frequency_penalty != 0.0f || s.presence_penalty != 0.0f;
}

llama_sampler * made(llama_sampler * sampler) {
    if (sampler == nullptr) {
        throw std::runtime_error("a sampler could not be made");
    }
    return sampler;
}

void add(moe_sampler & sampler, llama_sampler * step) {
    llama_sampler_chain_add(sampler.chain.get(), made(step));
}

// What changes scores, before anything is cut off.
void add_penalties(moe_sampler & sampler, const llama_vocab * vocab, const moe_sampling & s) {
    const int32_t words = llama_vocab_n_tokens(vocab);
    if (s.bias_count > 0) {
        add(sampler, llama_sampler_init_logit_bias(words, int32_t(s.bias_count), s.bias));
    }
    if (has_penalties(s)) {
        add(sampler, llama_sampler_init_penalties(words, s.repeat_last, s.repeat_penalty, s.frequency_penalty, s.presence_penalty));
    }
    if (s.dry_multiplier > 0.0f) {
        add(sampler, llama_sampler_init_dry(vocab, s.dry_multiplier, s.dry_base, s.dry_allowed, s.dry_last, const_cast<const char **>(s.dry_breakers), s.dry_breaker_count));
    }
}

// What cuts unlikely tokens off.
void add_cuts(moe_sampler & sampler, const moe_sampling & s) {
    if (s.top_k > 0) {
        add(sampler, llama_sampler_init_top_k(s.top_k));
    }
    if (s.typical_p < 1.0f) {
        add(sampler, llama_sampler_init_typical(s.typical_p, 1));
    }
    if (s.top_p < 1.0f) {
        add(sampler, llama_sampler_init_top_p(s.top_p, 1));
    }
    if (s.min_p > 0.0f) {
        add(sampler, llama_sampler_init_min_p(s.min_p, 1));
    }
    if (s.xtc_probability > 0.0f) {
        add(sampler, llama_sampler_init_xtc(s.xtc_probability, s.xtc_threshold, 1, s.seed));
    }
}

void add_choice(moe_sampler & sampler, const llama_vocab * vocab, const moe_sampling & s) {
    if (s.temperature <= 0.0f) {
        add(sampler, llama_sampler_init_greedy());
    } else if (s.mirostat == 1) {
        add(sampler, llama_sampler_init_temp(s.temperature));
        add(sampler, llama_sampler_init_mirostat(llama_vocab_n_tokens(vocab), s.seed, s.mirostat_tau, s.mirostat_eta, 100));
    } else if (s.mirostat == 2) {
        add(sampler, llama_sampler_init_temp(s.temperature));
        add(sampler, llama_sampler_init_mirostat_v2(s.seed, s.mirostat_tau, s.mirostat_eta));
    } else {
        add_cuts(sampler, s);
        add(sampler, llama_sampler_init_temp(s.temperature));
        add(sampler, llama_sampler_init_dist(s.seed));
    }
}

// Of the token at this index of the last batch, -1 for its last one.
const float * logits_at(llama_context * context, int32_t index) {
    const float * logits = llama_get_logits_ith(context, index);
    if (logits == nullptr) {
        throw std::runtime_error("nothing was computed yet");
    }
    return logits;
}

const llama_vocab * vocab_of(llama_context * context) {
    return llama_model_get_vocab(llama_get_model(context));
}

// How many of the best tokens are left after the penalties; 0 for all.
size_t considered(const moe_sampling & s) {
    if (s.temperature <= 0.0f) {
        return 1;
    }
    return s.mirostat == 0 && s.top_k > 0 ? size_t(s.top_k) : 0;
}

// How many of the accepted tokens the penalties look at.
size_t look_back(const moe_sampling & s) {
    const int32_t penalties = has_penalties(s) ? s.repeat_last : 0;
    const int32_t dry = s.dry_multiplier > 0.0f ? s.dry_last : 0;
    return size_t(std::max({ penalties, dry, 0 }));
}

// Puts what the chain has to look at into `sampler.candidates`.
void collect(moe_sampler & sampler, const float * logits, size_t words, const bool * allowed) {
    auto & into = sampler.candidates;
    const size_t best = sampler.considered + sampler.changed.size();
    if (sampler.considered > 0 && best < words / FEW && sampler.changed.size() < MOST_CHANGED) {
        candidates(logits, words, allowed, sampler.considered, sampler.changed, into);
        if (!into.empty()) {
            return;
        }
    }
    into.clear();
    into.reserve(words);
    for (size_t i = 0; i < words; i++) {
        if (allowed == nullptr || allowed[i]) {
            into.push_back({ llama_token(i), logits[i], 0.0f });
        }
    }
}

// Whether all are below infinity, which what is no number is not. The look at the whole vocabulary passes over
// such; where all are of that kind, `collect` puts them all here.
bool are_numbers(const std::vector<llama_token_data> & candidates) {
    int others = 0;
    for (const llama_token_data & data : candidates) {
        others |= !(data.logit < INFINITY);
    }
    return others == 0;
}

llama_token choose(moe_sampler & sampler, llama_context * context, int32_t index, const bool * allowed) {
    const float * logits = logits_at(context, index);
    const size_t words = size_t(llama_vocab_n_tokens(vocab_of(context)));
    collect(sampler, logits, words, allowed);
    if (!are_numbers(sampler.candidates)) {
        throw not_a_number();
    }
    // Ends at the second token, but for a model that is damaged.
    if (words > 1 && std::all_of(logits, logits + words, [&](float score) { return score == logits[0]; })) {
        throw equal_scores();
    }
    llama_token_data_array array = { sampler.candidates.data(), sampler.candidates.size(), -1, false };
    if (array.size > 0) {
        llama_sampler_apply(sampler.chain.get(), &array);
    }
    if (array.selected < 0 || size_t(array.selected) >= array.size) {
        throw std::runtime_error("no token was chosen");
    }
    return array.data[array.selected].id;
}

} // namespace

moe_status moe_sampler_new(const llama_vocab * vocab, const moe_sampling * sampling, moe_sampler ** sampler, moe_message * message) {
    return guarded(message, [&] {
        *sampler = nullptr;
        const changed_tokens changed(sampling->bias, sampling->bias_count, look_back(*sampling));
        auto fresh = std::unique_ptr<moe_sampler>(new moe_sampler { nullptr, considered(*sampling), changed, {} });
        fresh->chain.reset(made(llama_sampler_chain_init(llama_sampler_chain_default_params())));
        add_penalties(*fresh, vocab, *sampling);
        add_choice(*fresh, vocab, *sampling);
        *sampler = fresh.release();
        return MOE_OK;
    });
}

moe_status moe_sampler_free(moe_sampler * sampler, moe_message * message) {
    return guarded(message, [&] {
        delete sampler;
        return MOE_OK;
    });
}

moe_status moe_sample(moe_sampler * sampler, llama_context * context, int32_t index, const bool * allowed, llama_token * token, moe_message * message) {
    return guarded(message, [&] {
        try {
            *token = choose(*sampler, context, index, allowed);
        } catch (const not_a_number &) {
            return MOE_NO_NUMBER;
        } catch (const equal_scores &) {
            return MOE_EQUAL_SCORES;
        }
        return MOE_OK;
    });
}

moe_status moe_sampler_accept(moe_sampler * sampler, llama_token token, moe_message * message) {
    return guarded(message, [&] {
        llama_sampler_accept(sampler->chain.get(), token);
        sampler->changed.accept(token);
        return MOE_OK;
    });
}

moe_status moe_log_probabilities(llama_context * context, int32_t index, llama_token token, moe_log_probability * chosen, moe_log_probability * rows, size_t capacity, size_t * count, moe_message * message) {
    return guarded(message, [&] {
        const float * logits = logits_at(context, index);
        const size_t words = size_t(llama_vocab_n_tokens(vocab_of(context)));
        if (token < 0 || size_t(token) >= words) {
            return fail(message, "no such token");
        }
        const float highest = *std::max_element(logits, logits + words);
        double sum = 0.0;
        for (size_t i = 0; i < words; i++) {
            sum += std::exp(double(logits[i]) - highest);
        }
        const auto log_probability = [&](llama_token id) {
            return moe_log_probability { id, float(double(logits[id]) - highest - std::log(sum)) };
        };
        std::vector<llama_token_data> best;
        likeliest(logits, words, nullptr, std::min(capacity, words), best);
        std::sort(best.begin(), best.end(), is_likelier);
        *chosen = log_probability(token);
        for (size_t i = 0; i < best.size(); i++) {
            rows[i] = log_probability(best[i].id);
        }
        *count = best.size();
        return MOE_OK;
    });
}
