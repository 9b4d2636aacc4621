#include "guard.h"

#include "json-schema-to-grammar.h"
#include "llama-cpp.h"
#include "llama-grammar.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

// A chain that chooses, and a grammar that may refuse what it chose.
struct moe_sampler {
    llama_sampler_ptr chain;
    llama_sampler_ptr grammar;
    std::vector<llama_token_data> candidates;
};

namespace {

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
    if (s.repeat_penalty != 1.0f || s.frequency_penalty != 0.0f || s.presence_penalty != 0.0f) {
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

// Throws what is wrong with a grammar. llama_grammar_parser::parse would print it instead.
void check_grammar(const llama_vocab * vocab, const char * text) {
    llama_grammar_parser parser(vocab);
    const char * pos = text;
    while (*pos != '\0' && std::strchr(" \t\r\n#", *pos) != nullptr) {
        pos += *pos == '#' ? std::strcspn(pos, "\r\n") : 1;
    }
    while (*pos != '\0') {
        pos = parser.parse_rule(pos);
    }
    for (const auto & [name, id] : parser.symbol_ids) {
        if (id >= parser.rules.size() || parser.rules[id].empty()) {
            throw std::runtime_error("there is no rule `" + name + "`");
        }
    }
    if (parser.symbol_ids.count("root") == 0) {
        throw std::runtime_error("there is no rule `root`");
    }
}

void set_grammar(moe_sampler & sampler, const llama_vocab * vocab, const char * text) {
    check_grammar(vocab, text);
    sampler.grammar.reset(llama_sampler_init_grammar(vocab, text, "root"));
    if (!sampler.grammar) {
        throw std::runtime_error(""); // the engine logged why
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

llama_token_data choose(moe_sampler & sampler, llama_context * context, int32_t index, bool by_grammar) {
    const float * logits = logits_at(context, index);
    auto & candidates = sampler.candidates;
    candidates.resize(size_t(llama_vocab_n_tokens(vocab_of(context))));
    for (size_t i = 0; i < candidates.size(); i++) {
        candidates[i] = { llama_token(i), logits[i], 0.0f };
    }
    llama_token_data_array array = { candidates.data(), candidates.size(), -1, false };
    if (by_grammar) {
        llama_sampler_apply(sampler.grammar.get(), &array);
        if (std::none_of(candidates.begin(), candidates.end(), [](const auto & c) { return std::isfinite(c.logit); })) {
            throw std::runtime_error("no token continues the grammar");
        }
    }
    llama_sampler_apply(sampler.chain.get(), &array);
    if (array.selected < 0 || size_t(array.selected) >= array.size) {
        throw std::runtime_error("no token was chosen");
    }
    return array.data[array.selected];
}

// Whether the grammar goes on with this token.
bool allowed(moe_sampler & sampler, llama_token token) {
    llama_token_data one = { token, 1.0f, 0.0f };
    llama_token_data_array array = { &one, 1, -1, false };
    llama_sampler_apply(sampler.grammar.get(), &array);
    return std::isfinite(one.logit);
}

} // namespace

moe_status moe_schema_grammar(const char * schema, char ** grammar, moe_message * message) {
    return guarded(message, [&] {
        *grammar = nullptr;
        const std::string text = json_schema_to_grammar(common_json::parse(schema), true);
        *grammar = strdup(text.c_str());
        return *grammar == nullptr ? fail(message, "out of memory") : MOE_OK;
    });
}

moe_status moe_text_free(char * text, moe_message * message) {
    return guarded(message, [&] {
        std::free(text);
        return MOE_OK;
    });
}

moe_status moe_sampler_new(const llama_vocab * vocab, const moe_sampling * sampling, const char * grammar, moe_sampler ** sampler, moe_message * message) {
    return guarded(message, [&] {
        *sampler = nullptr;
        auto fresh = std::make_unique<moe_sampler>();
        fresh->chain.reset(made(llama_sampler_chain_init(llama_sampler_chain_default_params())));
        if (grammar != nullptr) {
            try {
                set_grammar(*fresh, vocab, grammar);
            } catch (const std::runtime_error & e) {
                set_message(message, e.what());
                return MOE_INVALID;
            }
        }
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

moe_status moe_sample(moe_sampler * sampler, llama_context * context, int32_t index, llama_token * token, moe_message * message) {
    return guarded(message, [&] {
        // The grammar looks at all tokens only if it must, since that is slow.
        llama_token chosen = choose(*sampler, context, index, false).id;
        if (sampler->grammar) {
            if (!allowed(*sampler, chosen)) {
                chosen = choose(*sampler, context, index, true).id;
            }
            llama_sampler_accept(sampler->grammar.get(), chosen);
        }
        llama_sampler_accept(sampler->chain.get(), chosen);
        *token = chosen;
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
        std::vector<llama_token> order(words);
        for (size_t i = 0; i < words; i++) {
            order[i] = llama_token(i);
        }
        const size_t likeliest = std::min(capacity, words);
        std::partial_sort(order.begin(), order.begin() + likeliest, order.end(), [&](llama_token a, llama_token b) {
            return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
        });
        *chosen = log_probability(token);
        for (size_t i = 0; i < likeliest; i++) {
            rows[i] = log_probability(order[i]);
        }
        *count = likeliest;
        return MOE_OK;
    });
}
