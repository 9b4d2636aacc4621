//! Texts that come out the same each time.

use moe_offload::{GenerateOptions, Sampling};

/// Always the likeliest token, so many times.
pub fn greedy(max_tokens: u64) -> GenerateOptions {
    GenerateOptions::default().sampling(Sampling::greedy()).max_tokens(max_tokens)
}
