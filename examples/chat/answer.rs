//! One answer, from its prompt to its statistics.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use moe_offload::{
    Error, GenerateOptions, Message, MoeModel, Overflow, Result, Stats, StopReason, TemplateOptions,
};

use crate::arguments::StatsFormat;
use crate::common::{count, say};
use crate::conversation::Conversation;
use crate::terminal::{print, to_get_back};

/// A shorter prompt is read before anybody could read a bar.
const LONG_PROMPT_TOKENS: u64 = 256;

/// Answers the last question and adds what was said to the conversation, also if it was cut off. Where
/// time ran out before the answer began, the question goes too. `by_plan`: the context is a stored plan's.
/// Returns why the answer ended.
pub(crate) fn answer(
    model: &mut MoeModel,
    conversation: &mut Conversation,
    options: &GenerateOptions,
    stats: StatsFormat,
    by_plan: bool,
) -> Result<Option<StopReason>> {
    let mut text = String::new();
    let ended = write_answer(model, conversation, options, &mut text);
    let is_late = matches!(ended, Ok(Some(StopReason::TimeLimit))) && text.is_empty();
    if is_late {
        conversation.withdraw();
    } else if ended.is_ok() || !text.is_empty() {
        conversation.reply(&text);
        print("\n")?;
    }
    let reason = ended?;
    if let Some(note) = reason.and_then(|reason| note(reason, options, is_late, by_plan)) {
        say(&note);
    }
    let tokens = model.stats().generated_tokens;
    if text.is_empty() && tokens > 0 && reason != Some(StopReason::StopString) {
        let tokens = count(tokens, "token");
        say(&format!("({tokens} without text: only control tokens, or others that write none)"));
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
    Ok(reason)
}

/// What there is to say of an answer that the model did not end itself.
fn note(
    reason: StopReason,
    options: &GenerateOptions,
    is_late: bool,
    by_plan: bool,
) -> Option<String> {
    let (option, value) = match reason {
        StopReason::EndOfText => return None,
        StopReason::StopString => ("--stop", None),
        StopReason::MaxTokens => ("--max-tokens", options.max_tokens),
        StopReason::TimeLimit => ("--max-seconds", options.max_time.map(|time| time.as_secs())),
        _ => ("--context", None),
    };
    if is_late {
        let seconds = value.unwrap_or_default();
        return Some(format!(
            "(stopped at {option} {seconds} before the answer began; the question was dropped{})",
            to_get_back()
        ));
    }
    if options.structure.is_some() {
        return Some(format!(
            "(cut off at {option}; the answer may not have the whole form that was asked for)"
        ));
    }
    match value {
        Some(value) => Some(format!("(stopped at {option} {value})")),
        None if reason == StopReason::StopString => None,
        None if by_plan => Some(
            "(the context is full; a plan with a larger --context leaves more room)".to_owned(),
        ),
        None => Some("(the context is full; --context N leaves more room)".to_owned()),
    }
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
                "(the context is full: the model no longer sees the oldest {})",
                count(left_out, "message")
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
    if generation.stats().used_known_format {
        say(
            &"(written to the model in a format that llama.cpp knows: its own template cannot be used here)",
        );
    }
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
        "({}{rate}{first}; prompt {}, {reused_tokens} reused)",
        count(generated_tokens, "token"),
        count(prompt_tokens, "token")
    )
}
