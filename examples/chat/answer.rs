//! One answer, from its prompt to its statistics.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use moe_offload::{
    Error, GenerateOptions, Message, MoeModel, Overflow, Result, Stats, StopReason, TemplateOptions,
};

use crate::arguments::StatsFormat;
use crate::common::say;
use crate::conversation::Conversation;
use crate::terminal::print;

/// A shorter prompt is read before anybody could read a bar.
const LONG_PROMPT_TOKENS: u64 = 256;

/// Answers the last question and adds what was said to the conversation, also if it was cut off.
pub(crate) fn answer(
    model: &mut MoeModel,
    conversation: &mut Conversation,
    options: &GenerateOptions,
    stats: StatsFormat,
) -> Result<()> {
    let mut text = String::new();
    let ended = write_answer(model, conversation, options, &mut text);
    if ended.is_ok() || !text.is_empty() {
        conversation.reply(&text);
        print("\n")?;
    }
    match ended? {
        Some(StopReason::ContextFull) => {
            say(&"(the context is full; --context N leaves more room)");
        }
        Some(reason) if options.structure.is_some() && !reason.is_complete() => {
            say(&"(the answer was cut off, so it has not the whole form that was asked for)");
        }
        _ => {}
    }
    match stats {
        StatsFormat::Line => say(&line(&model.stats())),
        StatsFormat::Table => say(&format!("\n{}\n", model.stats())),
        StatsFormat::Json => {
            let stats = serde_json::to_string(&model.stats()).expect("statistics are plain");
            print(&format!("{stats}\n"))?;
        }
        StatsFormat::None => {}
    }
    Ok(())
}

/// Whether the model has a chat template. Without one each question is a text of its own.
pub(crate) fn can_converse(model: &MoeModel, options: &GenerateOptions) -> bool {
    let question = [Message::user("?")];
    !matches!(model.chat_prompt(&question, &options.template), Err(Error::NoChatTemplate))
}

fn write_answer(
    model: &mut MoeModel,
    conversation: &mut Conversation,
    options: &GenerateOptions,
    text: &mut String,
) -> Result<Option<StopReason>> {
    let bar = ProgressBar::hidden();
    let options = with_progress(options.clone(), &bar);
    let mut generation = if can_converse(model, &options) {
        let left_out = conversation.make_room(model, &options)?;
        if left_out > 0 {
            say(&format!(
                "(the model no longer sees the oldest {left_out} messages: they do not fit the context)"
            ));
        }
        model.chat(&conversation.shown(), &options)
    } else {
        let question = conversation.messages().last().map_or("", |message| &*message.content);
        // What is for messages was refused, or is the default, when the program started.
        let options = options.overflow(Overflow::Error).template(TemplateOptions::default());
        model.generate(question, &options)
    }
    .inspect_err(|_| bar.finish_and_clear())?;
    bar.finish_and_clear();
    for piece in &mut generation {
        let piece = piece?;
        print(&piece)?;
        text.push_str(&piece);
    }
    Ok(generation.stop_reason())
}

/// Shows on `bar` how much of a long prompt is read.
fn with_progress(options: GenerateOptions, bar: &ProgressBar) -> GenerateOptions {
    let bar = bar.clone();
    options.on_prompt_progress(move |progress| {
        show_progress(&bar, progress.read_tokens, progress.total_tokens);
    })
}

/// So many of the prompt's tokens are read.
fn show_progress(bar: &ProgressBar, read: u64, total: u64) {
    if bar.is_hidden() {
        if total.saturating_sub(read) < LONG_PROMPT_TOKENS {
            return;
        }
        let template = "reading the prompt  {bar:30} {pos} of {len} tokens, {elapsed}";
        bar.set_style(ProgressStyle::with_template(template).expect("is valid"));
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.set_length(total);
    }
    bar.set_position(read);
}

/// What most people want to know of an answer.
fn line(stats: &Stats) -> String {
    let Stats { generated_tokens, prompt_tokens, reused_tokens, .. } = stats;
    let rate = stats.decode_tokens_per_second.map_or(String::new(), |r| format!(" at {r:.1}/s"));
    let first =
        stats.first_token_seconds.map_or(String::new(), |s| format!(", first after {s:.3} s"));
    format!(
        "({generated_tokens} tokens{rate}{first}; prompt {prompt_tokens} tokens, {reused_tokens} reused)"
    )
}
