//! A test: every option is honoured by every way to generate, or refused there.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_executor::block_on;
use futures_util::StreamExt;

use crate::{
    AsyncModel, CancelHandle, Error, GenerateOptions, Message, MoeModel, Overflow, PieceStream,
    Result, Sampling, Stats, StopReason, Structure, TemplateOptions, TokenLogProbabilities,
};

/// Long enough that turns have to go.
const CONTEXT_TOKENS: u32 = 256;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Generate,
    Chat,
    GenerateTogether,
    ChatTogether,
    AsyncGenerate,
    AsyncChat,
}

const WAYS: [Way; 6] = [
    Way::Generate,
    Way::Chat,
    Way::GenerateTogether,
    Way::ChatTogether,
    Way::AsyncGenerate,
    Way::AsyncChat,
];

impl Way {
    fn has_messages(self) -> bool {
        matches!(self, Self::Chat | Self::ChatTogether | Self::AsyncChat)
    }

    /// How many texts it makes.
    fn texts(self) -> u64 {
        1 + u64::from(matches!(self, Self::GenerateTogether | Self::ChatTogether))
    }
}

/// What came of it; of two texts together, the second.
#[derive(Debug)]
struct Answer {
    text: String,
    stop_reason: Option<StopReason>,
    log_probabilities: Vec<TokenLogProbabilities>,
    /// Of all texts.
    stats: Stats,
}

fn model() -> MoeModel {
    let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/demo-model/demo-moe.gguf");
    let builder = MoeModel::builder(demo).threads(1).context_tokens(CONTEXT_TOKENS).sequences(2);
    let mut model = builder.load().unwrap();
    // What it measures of this must not pass for what is measured later.
    let options = GenerateOptions::default().sampling(Sampling::greedy()).max_tokens(1);
    model.generate("x", &options).unwrap().text().unwrap();
    model
}

fn talk(turns: usize) -> Vec<Message> {
    let turn = [Message::user("What is a plan?"), Message::assistant("It says what goes where.")];
    let mut talk: Vec<Message> = turn.into_iter().cycle().take(2 * turns).collect();
    talk.push(Message::user("Hello"));
    talk
}

fn ask(way: Way, turns: usize, options: &GenerateOptions) -> Result<Answer> {
    let (mut model, prompt, talk) = (model(), "Hello", talk(turns));
    match way {
        Way::Generate | Way::Chat => {
            let generation = if way == Way::Chat {
                model.chat(&talk, options)
            } else {
                model.generate(prompt, options)
            };
            let mut generation = generation?;
            let text = generation.by_ref().collect::<Result<_>>()?;
            let stop_reason = generation.stop_reason();
            let log_probabilities = generation.take_log_probabilities();
            Ok(Answer { text, stop_reason, log_probabilities, stats: generation.stats() })
        }
        Way::GenerateTogether | Way::ChatTogether => {
            let together = if way == Way::ChatTogether {
                model.chat_together(&[talk.clone(), talk], options)
            } else {
                model.generate_together(&[prompt; 2], options)
            };
            let mut together = together?;
            let mut text = String::new();
            for piece in together.by_ref() {
                let (number, piece) = piece?;
                text += if number == 1 { &piece } else { "" };
            }
            let stop_reason = together.stop_reason(1);
            let log_probabilities = together.take_log_probabilities(1);
            Ok(Answer { text, stop_reason, log_probabilities, stats: together.stats() })
        }
        Way::AsyncGenerate | Way::AsyncChat => {
            let model = AsyncModel::new(model)?;
            let stream = if way == Way::AsyncChat {
                model.chat(talk, options.clone())
            } else {
                model.generate(prompt, options.clone())
            };
            block_on(collect(&model, stream))
        }
    }
}

async fn collect(model: &AsyncModel, mut stream: PieceStream) -> Result<Answer> {
    let mut text = String::new();
    while let Some(piece) = stream.next().await {
        text += &piece?;
    }
    let (stop_reason, log_probabilities) = (stream.stop_reason(), stream.take_log_probabilities());
    let stats = model.with(|model| model.stats()).await?;
    Ok(Answer { text, stop_reason, log_probabilities, stats })
}

/// Whether an option shows, by the answer without it and what came with it.
type Check<'a> = Box<dyn Fn(&Answer, &Result<Answer>) -> bool + 'a>;

/// An option with a value that must show, and how it shows.
struct Row<'a> {
    options: GenerateOptions,
    /// Turns of the conversation before the question.
    turns: usize,
    is_honoured: Check<'a>,
    /// Ways without messages refuse it.
    needs_messages: bool,
}

impl<'a> Row<'a> {
    fn new(
        options: GenerateOptions,
        is_honoured: impl Fn(&Answer, &Result<Answer>) -> bool + 'a,
    ) -> Self {
        let is_honoured = Box::new(is_honoured);
        Self { options, turns: 0, is_honoured, needs_messages: false }
    }

    /// It is honoured by an answer for which this holds.
    fn answer(options: GenerateOptions, holds: impl Fn(&Answer, &Answer) -> bool + 'a) -> Self {
        Self::new(options, move |plain, found| {
            found.as_ref().is_ok_and(|found| holds(plain, found))
        })
    }
}

fn greedy() -> GenerateOptions {
    GenerateOptions::default().sampling(Sampling::greedy()).max_tokens(24)
}

/// The rows by option. An option without one does not compile, since no `..` stands for it.
macro_rules! rows {
    ($($option:ident: $row:expr,)*) => {{
        let GenerateOptions { $($option: _),* } = GenerateOptions::default();
        vec![$((stringify!($option), $row)),*]
    }};
}

/// The rows for a way whose answer without them is `plain`.
fn rows(way: Way, plain: &Answer) -> Vec<(&'static str, Row<'static>)> {
    let stop = plain.text.split_whitespace().nth(1).unwrap().to_owned();
    let cancel = CancelHandle::new();
    cancel.cancel();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let only = Structure::Grammar(r#"root ::= "only this""#.to_owned());
    let without_prompt = TemplateOptions::default().generation_prompt(false);
    let texts = way.texts();
    rows! {
        max_tokens: Row::answer(greedy().max_tokens(3), move |_, found| {
                found.stats.generated_tokens == 3 * texts
                    && found.stop_reason == Some(StopReason::MaxTokens)
            }),
        max_time: Row::answer(greedy().max_time(Duration::ZERO), |_, found| {
                found.text.is_empty() && found.stop_reason == Some(StopReason::TimeLimit)
            }),
        stop: Row::answer(greedy().stop(stop.clone()), move |plain, found| {
                found.text == plain.text[..plain.text.find(&stop).unwrap()]
                    && found.stop_reason == Some(StopReason::StopString)
            }),
        sampling: Row::answer(
                greedy()
                    .sampling(Sampling::default().temperature(5.0).min_p(0.0).top_p(1.0).top_k(0)),
                |plain, found| found.text != plain.text,
            ),
        structure: Row::answer(greedy().structure(only), |_, found| found.text == "only this"),
        log_probabilities: Row::answer(greedy().log_probabilities(2), move |plain, found| {
                let noted = &found.log_probabilities;
                noted.len() as u64 * texts == found.stats.generated_tokens
                    && noted.iter().all(|token| token.likeliest.len() == 2)
                    && noted.iter().all(|token| token.chosen == token.likeliest[0])
                    && found.text == plain.text
            }),
        template: Row {
                needs_messages: true,
                ..Row::answer(greedy().template(without_prompt), |plain, found| {
                    found.stats.prompt_tokens < plain.stats.prompt_tokens
                })
            },
        overflow: Row {
                turns: 30,
                needs_messages: true,
                ..Row::answer(greedy().overflow(Overflow::DropOldestTurns), move |_, found| {
                    found.stats.dropped_messages >= 2 * texts && !found.text.is_empty()
                })
            },
        cancel: Row::new(greedy().cancel(&cancel), |_, found| {
                matches!(found, Err(Error::Cancelled { .. }))
            }),
        on_prompt_progress: Row::answer(
                greedy().on_prompt_progress(move |progress| sink.lock().unwrap().push(progress)),
                move |plain, found| {
                    let seen = std::mem::take(&mut *seen.lock().unwrap());
                    let all = found.stats.prompt_tokens;
                    seen.len() as u64 > texts
                        && seen.is_sorted_by_key(|progress| progress.read_tokens)
                        && seen.iter().all(|progress| progress.total_tokens == all)
                        && seen.last().is_some_and(|progress| progress.read_tokens == all)
                        && found.text == plain.text
                },
            ),
    }
}

#[test]
fn every_option_is_honoured_by_every_way_to_generate_or_refused() {
    for way in WAYS {
        let plain = ask(way, 0, &greedy()).unwrap();
        assert!(plain.stats.generated_tokens > 5 * way.texts(), "{way:?}: {plain:?}");
        for (name, row) in rows(way, &plain) {
            let found = ask(way, row.turns, &row.options);
            if row.needs_messages && !way.has_messages() {
                assert!(
                    matches!(&found, Err(Error::InvalidOption { option, .. }) if *option == name),
                    "{name} by {way:?}: {found:?}"
                );
            } else {
                assert!((row.is_honoured)(&plain, &found), "{name} by {way:?}: {found:?}");
            }
        }
    }
}
