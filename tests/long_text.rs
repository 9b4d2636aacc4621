//! Text that the engine's own tokenizer would not survive on this stack.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use std::time::Duration;

use moe_offload::{CancelHandle, Error, GenerateOptions, Message, StopReason};
use moe_offload_synth::{self as synth, SynthOptions};
use support::load::on_cpu;

#[test]
fn a_long_run_of_the_same_letter_is_only_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let model = synth::family("gpt-oss-20b").unwrap().build(&SynthOptions::tiny()).unwrap();
    model.save(&path, 1, |_| {}).unwrap();
    // With the 2 MiB of a thread, as tests have, 20,000 letters overflowed.
    let mut model = on_cpu(&path).threads(1).context_tokens(256).load().unwrap();
    for letter in ["a", " ", "!", "é", "\n"] {
        let text = letter.repeat(200_000);
        let error = model.generate(&text, &GenerateOptions::default()).unwrap_err();
        assert!(matches!(error, Error::PromptTooLong { .. }), "{error}");
        assert!(model.count_tokens(&text).unwrap() > 256);
    }
}

/// Limits come first: whatever else is wrong with such a text is found only by splitting it.
#[test]
fn limits_hold_while_text_is_split_into_tokens() {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");
    let load = || on_cpu(demo).threads(1).context_tokens(256).sequences(2);
    let mut model = load().load().unwrap();
    let text = "word ".repeat(40_000);
    let talk = vec![Message::user(&text)];
    let late = GenerateOptions::default().max_time(Duration::ZERO);
    let cancel = CancelHandle::new();
    cancel.cancel();
    let cancelled = GenerateOptions::default().cancel(&cancel);

    let mut answer = model.generate(&text, &late).unwrap();
    assert!(answer.next().is_none());
    assert_eq!(answer.stop_reason(), Some(StopReason::TimeLimit));
    let mut answer = model.chat(&talk, &late).unwrap();
    assert!(answer.next().is_none());
    assert_eq!(answer.stop_reason(), Some(StopReason::TimeLimit));
    let mut answers = model.generate_together(&[&text, "short"], &late).unwrap();
    assert!(answers.next().is_none());
    assert_eq!([0, 1].map(|prompt| answers.stop_reason(prompt)), [Some(StopReason::TimeLimit); 2]);
    drop(answers);
    for error in [
        model.generate(&text, &cancelled).map(|_| ()).unwrap_err(),
        model.chat(&talk, &cancelled).map(|_| ()).unwrap_err(),
        model.chat_together(&[talk.clone(), talk.clone()], &cancelled).map(|_| ()).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    }
    // Without limits it says what is wrong.
    let error = model.chat(&talk, &GenerateOptions::default()).unwrap_err();
    assert!(matches!(error, Error::PromptTooLong { .. }), "{error}");
}
