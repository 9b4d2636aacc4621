//! One trial: a load and some answers, in this process.

use std::time::Instant;

use super::search::{Attempt, Figures, Measured, Outcome};
use super::shortage::Shortage;
use super::statistics::Summary;
use crate::engine::{Sampler, Token};
use crate::limits::{CancelHandle, Limits};
use crate::model::tokenizer::tokenize;
use crate::{Error, GenerateOptions, MoeModel, MoeModelBuilder, Result, Sampling};

/// Rounds that count, after one that does not.
const ROUNDS: usize = 3;
/// No further round begins after so many seconds of rounds that count.
const ENOUGH_SECONDS: f64 = 8.0;
/// A text to make prompts from.
const TEXT: &str = concat!(include_str!("texts/long.txt"), include_str!("texts/quality.txt"));

/// What is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) prompt_tokens: u32,
    pub(super) answer_tokens: u32,
}

impl Work {
    /// Whether there is something to time.
    pub(super) fn check(self) -> Result<()> {
        let of_answer = "at least 2: the first token's time is the prompt's";
        for (option, value, least, expected) in [
            ("prompt_tokens", self.prompt_tokens, 1, "at least 1"),
            ("answer_tokens", self.answer_tokens, 2, of_answer),
        ] {
            if value < least {
                let value = value.to_string();
                return Err(Error::InvalidOption { option, value, expected });
            }
        }
        Ok(())
    }
}

/// Seconds of one answer.
struct Round {
    prefill: f64,
    decode: f64,
}

/// Loads what `builder` says and measures. What the model or the engine refuses is an outcome;
/// cancelling is an error.
pub(super) fn measure(
    builder: MoeModelBuilder,
    attempt: &Attempt,
    work: Work,
    cancel: &CancelHandle,
) -> Result<Measured> {
    let started = Instant::now();
    let outcome = match figures(builder, attempt, work, cancel) {
        Ok(Some(figures)) => Outcome::Measured(figures),
        Ok(None) => {
            let reason = "given up: several times slower".to_owned();
            Outcome::Failed { reason, shortage: None }
        }
        Err(error @ (Error::Cancelled { .. } | Error::RpcLost { .. })) => {
            return Err(error);
        }
        Err(error) => Outcome::Failed { reason: error.to_string(), shortage: Shortage::of(&error) },
    };
    Ok(Measured { outcome, seconds: started.elapsed().as_secs_f64() })
}

fn figures(
    builder: MoeModelBuilder,
    attempt: &Attempt,
    work: Work,
    cancel: &CancelHandle,
) -> Result<Option<Figures>> {
    let mut model = builder.cancel(cancel).load()?;
    let prompt = prompt(&model, work.prompt_tokens)?;
    let options = GenerateOptions::default().cancel(cancel);
    model.context.watch(&options.limits(Instant::now()));
    let give_up_seconds = attempt.give_up_seconds;
    // The first also reads mapped pages and makes the engine's buffers, so it may take longer.
    let warm = 2.0 * give_up_seconds;
    if answer(&mut model, &prompt, work.answer_tokens, warm)?.is_none() {
        return Ok(None);
    }
    let mut rounds: Vec<Round> = Vec::new();
    let measured = Instant::now();
    while rounds.is_empty()
        || (rounds.len() < ROUNDS && measured.elapsed().as_secs_f64() < ENOUGH_SECONDS)
    {
        match answer(&mut model, &prompt, work.answer_tokens, give_up_seconds)? {
            Some(round) => rounds.push(round),
            None => return Ok(None),
        }
    }
    let median = |seconds: fn(&Round) -> f64| {
        let all: Vec<f64> = rounds.iter().map(seconds).collect();
        Summary::of(&all).map_or(f64::NAN, |summary| summary.median)
    };
    #[allow(clippy::cast_precision_loss)] // thousands of tokens
    let prompt_tokens = prompt.len() as f64;
    Ok(Some(Figures {
        load_seconds: model.stats().load_seconds,
        prefill_tokens_per_second: prompt_tokens / median(|round| round.prefill),
        decode_tokens_per_second: f64::from(work.answer_tokens - 1) / median(|round| round.decode),
        answer_seconds: median(|round| round.prefill + round.decode),
    }))
}

/// As many tokens of text, whatever the model's vocabulary.
fn prompt(model: &MoeModel, tokens: u32) -> Result<Vec<Token>> {
    let text = tokenize(model.context.weights(), TEXT, true, &Limits::default())?;
    Ok(text.iter().copied().cycle().take(tokens as usize).collect())
}

/// Computes the prompt and so many tokens after it, each the likeliest; an end of text is a token like
/// others, so that every candidate does the same work. `None` if it took too long.
fn answer(
    model: &mut MoeModel,
    prompt: &[Token],
    tokens: u32,
    give_up_seconds: f64,
) -> Result<Option<Round>> {
    model.forget()?;
    let mut sampler =
        Sampler::new(&Sampling::greedy(), None, model.context.weights(), &Limits::default())?;
    let batch = model.plan().context().batch_tokens as usize;
    let started = Instant::now();
    for part in prompt.chunks(batch.max(1)) {
        model.context.decode(part)?;
        if started.elapsed().as_secs_f64() > give_up_seconds {
            return Ok(None);
        }
    }
    let mut token = sampler.sample(&mut model.context)?;
    let prefill = started.elapsed().as_secs_f64();
    for _ in 1..tokens {
        model.context.decode(&[token])?;
        token = sampler.sample(&mut model.context)?;
        if started.elapsed().as_secs_f64() > give_up_seconds {
            return Ok(None);
        }
    }
    Ok(Some(Round { prefill, decode: started.elapsed().as_secs_f64() - prefill }))
}
