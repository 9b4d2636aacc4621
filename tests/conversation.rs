//! Conversations: nothing is computed twice, nothing is lost, several at once.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use moe_offload::error::SessionFault;
use moe_offload::{
    Error, GenerateOptions, Message, MoeModel, MoeModelBuilder, Overflow, Sampling, StopReason,
    Structure,
};
use moe_offload_synth::{self as synth, SynthOptions};
use support::generate::greedy;
use support::load::on_cpu;
use support::model_files::demo;
use support::process::Server;

const QUESTIONS: [&str; 10] = [
    "What is 3 plus 4?",
    "What is this crate?",
    "What is 2 plus 2?",
    "What does fit mean?",
    "What is 5 plus 1?",
    "What is a layer?",
    "What is 6 plus 3?",
    "What is an expert?",
    "What is 1 plus 8?",
    "What is a plan?",
];

fn builder() -> MoeModelBuilder {
    on_cpu(demo()).threads(1).context_tokens(2048)
}

fn family(name: &str, folder: &Path) -> PathBuf {
    let path = folder.join(format!("{name}.gguf"));
    synth::family(name)
        .unwrap()
        .build(&SynthOptions::tiny())
        .unwrap()
        .save(&path, 1, |_| {})
        .unwrap();
    path
}

#[test]
fn ten_turns_compute_only_what_is_new() {
    let mut model = builder().load().unwrap();
    let mut talk = Vec::new();
    let mut held = 0;
    for question in QUESTIONS {
        talk.push(Message::user(question));
        let mut generation = model.chat(&talk, &greedy(24)).unwrap();
        let answer: String = (&mut generation).map(Result::unwrap).collect();
        let ended = generation.stop_reason() == Some(StopReason::EndOfText);
        drop(generation);
        // All that was held is used again: the last prompt and the answer, but for a last token
        // whose successor was never asked for.
        let stats = model.stats();
        assert_eq!(stats.reused_tokens, held, "{question}");
        held = stats.prompt_tokens + stats.generated_tokens - u64::from(!ended);
        // The same as by a model that has heard nothing of it.
        let mut fresh = builder().load().unwrap();
        let again = fresh.chat(&talk, &greedy(24)).unwrap().text().unwrap();
        assert_eq!(fresh.stats().reused_tokens, 0);
        assert_eq!(answer, again, "{question}");
        talk.push(Message::assistant(answer));
    }
}

#[test]
fn editing_an_earlier_message_drops_from_there() {
    let folder = tempfile::tempdir().unwrap();
    // Full attention, latent attention, a sliding window, and a recurrent state.
    for name in ["mixtral-8x7b", "deepseek-v2-lite", "gpt-oss-20b", "qwen3-next-80b-a3b"] {
        let path = family(name, folder.path());
        let load = || on_cpu(&path).threads(1).context_tokens(1024).load().unwrap();
        let mut model = load();
        let start = "The quick brown fox jumps over the lazy dog. ".repeat(6);
        for end in ["It was late", "It was early in the morning", "It", "Nobody saw it, and"] {
            let prompt = format!("{start}{end}");
            // Few tokens: with random weights some are nearly as likely as others, and a prompt
            // computed in other parts is rounded differently.
            let text = model.generate(&prompt, &greedy(4)).unwrap().text().unwrap();
            let fresh = load().generate(&prompt, &greedy(4)).unwrap().text().unwrap();
            assert_eq!(text, fresh, "{name}: {end}");
        }
        // A short window is still there, so that it can go back; a recurrent state can where the
        // second prompt differed from the first.
        let stats = model.stats();
        assert!(stats.reused_tokens * 2 > stats.prompt_tokens, "{name}: {stats}");
    }
}

#[test]
fn a_long_conversation_drops_its_oldest_turns_or_is_an_error() {
    let mut model = builder().context_tokens(256).load().unwrap();
    let mut talk = vec![Message::system("Be brief.")];
    for question in QUESTIONS.iter().chain(&QUESTIONS).chain(&QUESTIONS) {
        talk.push(Message::user(*question));
        talk.push(Message::assistant("Seven, as far as anybody can tell."));
    }
    talk.push(Message::user("What is 3 plus 4?"));
    let error = model.chat(&talk, &greedy(8)).unwrap_err();
    assert!(matches!(error, Error::PromptTooLong { .. }), "{error}");
    let options = greedy(8).overflow(Overflow::DropOldestTurns);
    let answer = model.chat(&talk, &options).unwrap().text().unwrap();
    let dropped = usize::try_from(model.stats().dropped_messages).unwrap();
    assert!(dropped > 2 && dropped % 2 == 0, "{dropped}");
    // The same as if they had never been, the system's message kept.
    let kept: Vec<Message> = talk[..1].iter().chain(&talk[1 + dropped..]).cloned().collect();
    let mut fresh = builder().context_tokens(256).load().unwrap();
    assert_eq!(fresh.chat(&kept, &greedy(8)).unwrap().text().unwrap(), answer);
    // One question that is too long alone stays an error.
    let long = [Message::user("word ".repeat(600))];
    let error = model.chat(&long, &options).unwrap_err();
    assert!(matches!(error, Error::PromptTooLong { .. }), "{error}");
}

/// What a second process answers after it has restored the session, and what it computed for it.
fn continue_elsewhere(path: &Path) -> String {
    let this = "a_session_goes_on_in_another_process";
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args([this, "--exact", "--nocapture"]).env(CHILD, path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    said.split("-- ").nth(1).unwrap().to_owned()
}

const CHILD: &str = "MOE_OFFLOAD_TEST_RESTORES";

fn next_answer(model: &mut MoeModel, first: &str) -> String {
    let talk =
        [Message::user(QUESTIONS[0]), Message::assistant(first), Message::user(QUESTIONS[1])];
    let answer = model.chat(&talk, &greedy(30)).unwrap().text().unwrap();
    let stats = model.stats();
    format!("-- {answer}|{}|{} -- ", stats.reused_tokens, stats.prompt_tokens)
}

#[test]
fn a_session_goes_on_in_another_process() {
    let first = "3 plus 4 is 7.";
    if let Some(path) = std::env::var_os(CHILD) {
        let mut model = builder().load().unwrap();
        model.restore_session(path).unwrap();
        println!("{}", next_answer(&mut model, first));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.session");
    let mut model = builder().load().unwrap();
    let talk = [Message::user(QUESTIONS[0])];
    model.chat(&talk, &greedy(30)).unwrap().text().unwrap();
    let held = model.stats().prompt_tokens + model.stats().generated_tokens.saturating_sub(1);
    model.save_session(&path).unwrap();
    let here = next_answer(&mut model, first);
    let elsewhere = continue_elsewhere(&path);
    assert_eq!(here.split("-- ").nth(1).unwrap(), elsewhere);
    let reused: u64 = elsewhere.split('|').nth(1).unwrap().parse().unwrap();
    assert!(reused > 0 && reused <= held, "{reused} of {held}");
}

#[test]
fn sessions_of_every_kind_of_cache_and_with_another_placement() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start();
    for name in ["mixtral-8x7b", "gpt-oss-20b", "qwen3-next-80b-a3b", "jamba-1.5-mini"] {
        let path = family(name, folder.path());
        let session = folder.path().join("a.session");
        let load = || on_cpu(&path).threads(1).context_tokens(512);
        let mut model = load().load().unwrap();
        let prompt = "The quick brown fox jumps over the lazy dog. ".repeat(8);
        model.generate(&prompt, &greedy(0)).unwrap().text().unwrap();
        model.save_session(&session).unwrap();
        let longer = format!("{prompt} And then");
        let expected = model.generate(&longer, &greedy(4)).unwrap().text().unwrap();
        let mut moved = load()
            .rpc_server(&server.endpoint)
            .policy("all-experts".parse().unwrap())
            .load()
            .unwrap();
        moved.restore_session(&session).unwrap();
        assert_eq!(moved.generate(&longer, &greedy(4)).unwrap().text().unwrap(), expected);
        assert!(moved.stats().reused_tokens > 100, "{name}: {}", moved.stats());
    }
}

#[test]
fn a_session_of_another_model_cut_or_altered_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.session");
    let mut model = builder().context_tokens(256).load().unwrap();
    let question = [Message::user(QUESTIONS[0])];
    model.chat(&question, &greedy(4)).unwrap().text().unwrap();
    model.save_session(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let refused = |model: &mut MoeModel, path: &Path| match model.restore_session(path) {
        Err(Error::InvalidSession { fault, .. }) => fault,
        other => panic!("{other:?}"),
    };
    for cut in (0..whole.len()).step_by(whole.len() / 40) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let fault = refused(&mut model, &path);
        assert!(matches!(fault, SessionFault::Truncated | SessionFault::NotASession), "{fault:?}");
    }
    for at in (0..whole.len()).step_by(whole.len() / 60).chain(0..64) {
        let mut altered = whole.clone();
        altered[at] ^= 0x10;
        std::fs::write(&path, &altered).unwrap();
        refused(&mut model, &path);
    }
    std::fs::write(&path, &whole).unwrap();
    let mut wider = builder().context_tokens(512).load().unwrap();
    assert_eq!(refused(&mut wider, &path), SessionFault::OtherContext);
    let other = family("mixtral-8x7b", folder.path());
    let mut other = on_cpu(other).threads(1).context_tokens(256).load().unwrap();
    assert_eq!(refused(&mut other, &path), SessionFault::OtherModel);
    // After all that the model still holds its conversation.
    model.chat(&question, &greedy(4)).unwrap().text().unwrap();
    assert!(model.stats().reused_tokens > 0);
    let own = path.with_file_name("own.gguf");
    std::fs::copy(demo(), &own).unwrap();
    let replaced = model.save_session(&own).unwrap_err();
    assert!(replaced.to_string().contains("is not replaced"), "{replaced}");
    assert_eq!(std::fs::read(&own).unwrap(), std::fs::read(demo()).unwrap());
    let nowhere = model.save_session("/nonexistent/folder/a.session").unwrap_err();
    assert!(matches!(nowhere, Error::Io { .. }), "{nowhere}");
}

#[test]
fn models_share_weights_and_work_at_once() {
    let server = Server::start();
    let on_server =
        || builder().rpc_server(&server.endpoint).context_tokens(256).micro_batch_tokens(32);
    let mut first = builder().load().unwrap();
    let mut others: Vec<MoeModel> = (0..3).map(|_| first.another().unwrap()).collect();
    let question = [Message::user(QUESTIONS[1])];
    let expected = first.chat(&question, &greedy(20)).unwrap().text().unwrap();
    // The first may go before them.
    drop(first);
    std::thread::scope(|scope| {
        for model in &mut others {
            let (question, expected) = (&question, &expected);
            scope.spawn(move || {
                for _ in 0..5 {
                    let text = model.chat(question, &greedy(20)).unwrap().text().unwrap();
                    assert_eq!(text, *expected);
                }
            });
        }
    });
    let mut first = on_server().load().unwrap();
    let mut second = first.another().unwrap();
    let ask = |model: &mut MoeModel| {
        model.chat(&[Message::user(QUESTIONS[2])], &greedy(8)).unwrap().text().unwrap()
    };
    assert_eq!(ask(&mut first), ask(&mut second));
    // The weights are on the device once: there is room for three contexts, not for four.
    let device = first.plan().devices()[0].clone();
    let context = device.context_bytes.unwrap() + device.compute_bytes.unwrap();
    assert!(context < device.weights_bytes, "{device:?}");
    drop((first, second));
    let budget = device.total_bytes + 2 * context + context / 2;
    let first = on_server().device_budget("RPC0", budget).load().unwrap();
    let others = [first.another().unwrap(), first.another().unwrap()];
    let error = first.another().unwrap_err();
    assert!(matches!(error, Error::DoesNotFit { .. }), "{error}");
    drop(others);
    let _second = first.another().unwrap();
}

#[test]
fn together_is_the_same_as_one_by_one() {
    let prompts = ["What is 3 plus 4?", "Hello", "What is this crate?", "Experts are"];
    let options = greedy(30).stop("plan");
    let mut alone = builder().load().unwrap();
    let chat = |prompt: &str| vec![Message::user(prompt)];
    let expected: Vec<String> = prompts
        .iter()
        .map(|prompt| alone.chat(&chat(prompt), &options).unwrap().text().unwrap())
        .collect();
    let mut model = builder().sequences(4).load().unwrap();
    let conversations = prompts.map(chat);
    for _ in 0..2 {
        let texts = model.chat_together(&conversations, &options).unwrap().texts().unwrap();
        assert_eq!(texts, expected);
    }
    // Alone again, as if nothing had been; and dropped half-way.
    let text = model.chat(&conversations[2], &options).unwrap().text().unwrap();
    assert_eq!(text, expected[2]);
    let mut together = model.chat_together(&conversations[..3], &options).unwrap();
    let _ = together.next().unwrap().unwrap();
    drop(together);
    let text = model.chat(&conversations[0], &options).unwrap().text().unwrap();
    assert_eq!(text, expected[0]);

    let error = alone.generate_together(&["a", "b"], &options).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    let error = builder().sequences(0).load().unwrap_err();
    assert!(matches!(error, Error::InvalidOption { option: "sequences", .. }), "{error}");
}

/// The first prompt's answer would have to go on with `~`, and no token that is allowed spells it.
#[test]
fn a_dead_end_of_one_text_leaves_the_others() {
    let mut model = builder().sequences(2).load().unwrap();
    let chats = [QUESTIONS[0], QUESTIONS[1]].map(|text| vec![Message::user(text)]);
    let mut texts = Vec::new();
    let mut tokens = Vec::new();
    for (chat, length) in chats.iter().zip([1, 4]) {
        let mut answer = model.chat(chat, &greedy(length).log_probabilities(0)).unwrap();
        texts.push(answer.by_ref().map(Result::unwrap).collect::<String>());
        tokens.extend(answer.take_log_probabilities().iter().map(|noted| noted.chosen.token));
    }
    let mut sampling = Sampling::greedy();
    // All of the vocabulary but those, however large it is.
    for token in (0..).filter(|token| !tokens.contains(token)) {
        sampling.logit_bias.insert(token, f32::NEG_INFINITY);
        let options = greedy(0).sampling(sampling.clone());
        if model.generate("x", &options.max_tokens(0)).is_err() {
            sampling.logit_bias.remove(&token);
            break;
        }
    }
    let grammar = format!("root ::= {:?} \"~\" | {:?} [a-z]*", texts[0], texts[1]);
    let options = greedy(4).sampling(sampling).structure(Structure::Grammar(grammar));
    let mut together = model.chat_together(&chats, &options).unwrap();
    match together.texts() {
        Err(Error::OfPrompt { prompt: 0, error }) => {
            assert!(matches!(*error, Error::DeadEnd { .. }), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // Nothing is lost: the other goes on, and what the first had written is there.
    assert_eq!(together.texts().unwrap(), texts);
    assert_eq!(together.stop_reason(0), None);
    assert_eq!(together.stop_reason(1), Some(StopReason::MaxTokens));
}

#[test]
fn a_full_context_ends_all_that_go_on() {
    let mut model = builder().context_tokens(256).sequences(3).load().unwrap();
    let options = GenerateOptions::default().sampling(Sampling::default().seed(3));
    let prompts = ["a b c d e f g h", "one two three", "The"];
    let mut together = model.generate_together(&prompts, &options).unwrap();
    for piece in &mut together {
        piece.unwrap();
    }
    for prompt in 0..3 {
        let reason = together.stop_reason(prompt).unwrap();
        assert!(matches!(reason, StopReason::ContextFull | StopReason::EndOfText), "{reason:?}");
    }
}

/// The cache's formula with several sequences, where a window or a state makes a difference.
#[test]
fn memory_for_several_sequences_is_as_planned() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["mixtral-8x7b", "gpt-oss-20b", "qwen3-next-80b-a3b", "lfm2-8b-a1b"] {
        let path = family(name, folder.path());
        let model = on_cpu(path).threads(1).context_tokens(3000).sequences(4).load().unwrap();
        let planned = model.plan().device("cpu").unwrap().context_bytes;
        assert_eq!(Some(model.memory().last().unwrap().context_bytes), planned, "{name}");
    }
}
