//! What was counted and timed of the last generation.

use std::time::{Duration, Instant};

/// Counts and times of one generation, or of several together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timing {
    pub(crate) prompt_tokens: u64,
    pub(crate) reused_tokens: u64,
    pub(crate) dropped_messages: u64,
    pub(crate) used_known_format: bool,
    pub(crate) generated_tokens: u64,
    pub(crate) prefill: Duration,
    /// From the call to the first token.
    pub(crate) first_token: Option<Duration>,
    /// From the first token to the latest.
    decode: Duration,
    /// Tokens that were computed in that time.
    decoded_tokens: u64,
}

impl Timing {
    /// A token was chosen, of a generation that was asked for at `started`, and that has computed
    /// nothing but answers since `decoding_since`; `None` if the prompt gave it.
    pub(crate) fn note_token(&mut self, started: Instant, decoding_since: Option<Instant>) {
        let now = Instant::now();
        self.generated_tokens += 1;
        self.first_token.get_or_insert(now - started);
        if let Some(since) = decoding_since {
            self.decode = now - since;
            self.decoded_tokens += 1;
        }
    }

    /// Prompt tokens computed per second.
    pub(crate) fn prefill_rate(&self) -> Option<f64> {
        rate(self.prompt_tokens.saturating_sub(self.reused_tokens), self.prefill)
    }

    /// Tokens per second after the first.
    pub(crate) fn decode_rate(&self) -> Option<f64> {
        rate(self.decoded_tokens, self.decode)
    }
}

#[allow(clippy::cast_precision_loss)] // token counts are small
fn rate(tokens: u64, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}
