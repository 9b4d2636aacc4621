//! Models that cannot go back by themselves: what is known is not computed again, and the text is
//! that of a model which has heard nothing before.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use moe_offload::{CancelHandle, Error, GenerateOptions, MoeModel, MoeModelBuilder};
use moe_offload_synth::{self as synth, SynthOptions};
use support::generate::greedy;
use support::load::on_cpu;

/// With a recurrent state, and last one with windows.
const FAMILIES: [&str; 5] =
    ["qwen3-next-80b-a3b", "qwen3.5-35b-a3b", "jamba-1.5-mini", "lfm2-8b-a1b", "gpt-oss-20b"];
const RECURRENT: &[&str] = FAMILIES.split_at(4).0;

fn made(name: &str, folder: &Path) -> PathBuf {
    let path = folder.join(format!("{name}.gguf"));
    let model = synth::family(name).unwrap().build(&SynthOptions::tiny()).unwrap();
    model.save(&path, 1, |_| {}).unwrap();
    path
}

fn builder(path: &Path) -> MoeModelBuilder {
    on_cpu(path).threads(1).context_tokens(2048).micro_batch_tokens(64)
}

/// A text of at least so many tokens, and what it has.
fn prompt(model: &MoeModel, tokens: usize) -> String {
    let mut prompt = String::from("Once");
    for number in 0.. {
        if model.count_tokens(&prompt).unwrap() >= tokens {
            break;
        }
        prompt = format!("{prompt} the fox {number}");
    }
    prompt
}

/// Few tokens, as with random weights some are nearly as likely as others, and a prompt that is
/// computed in other parts is rounded differently.
fn text(model: &mut MoeModel, prompt: &str) -> String {
    model.generate(prompt, &greedy(4)).unwrap().text().unwrap()
}

fn fresh(path: &Path, prompt: &str) -> String {
    text(&mut builder(path).load().unwrap(), prompt)
}

fn computed(model: &MoeModel) -> u64 {
    model.stats().prompt_tokens - model.stats().reused_tokens
}

#[test]
fn the_same_prompt_computes_one_token_and_an_edit_what_follows_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    for name in FAMILIES {
        let path = made(name, folder.path());
        let mut model = builder(&path).load().unwrap();
        let start = prompt(&model, 300);
        let first = format!("{start} and it was late");
        let expected = text(&mut model, &first);
        for _ in 0..2 {
            assert_eq!(text(&mut model, &first), expected, "{name}");
            assert_eq!(computed(&model), 1, "{name}: {}", model.stats());
        }
        // Its end is another: the first time what precedes the last checkpoint stays, and then all
        // that is the same, but for a token that the edit may have been split into.
        let same = model.count_tokens(&start).unwrap() as u64;
        for (end, least) in [(" or early in the day", 256), (" when nobody", same - 1)] {
            let edited = format!("{start}{end}");
            assert_eq!(text(&mut model, &edited), fresh(&path, &edited), "{name}: {end}");
            assert!(model.stats().reused_tokens >= least, "{name}: {}", model.stats());
        }
        assert_eq!(text(&mut model, &first), expected, "{name}");
    }
}

#[test]
fn it_goes_back_from_far_beyond_a_window_or_a_state() {
    let folder = tempfile::tempdir().unwrap();
    for name in FAMILIES {
        let path = made(name, folder.path());
        let mut model = builder(&path).load().unwrap();
        for tokens in [90, 320] {
            let short = prompt(&model, tokens);
            let long = format!("{short}{}", prompt(&model, 900));
            model.forget().unwrap();
            let expected = text(&mut model, &short);
            text(&mut model, &long);
            assert!(model.stats().reused_tokens >= tokens as u64 - 1, "{name}: {}", model.stats());
            assert_eq!(text(&mut model, &short), expected, "{name}");
            assert_eq!(computed(&model), 1, "{name}: {}", model.stats());
        }
    }
}

#[test]
fn interrupted_anywhere_it_goes_on_with_the_same_text() {
    let folder = tempfile::tempdir().unwrap();
    for name in FAMILIES {
        let path = made(name, folder.path());
        let mut model = builder(&path).load().unwrap();
        let prompt = prompt(&model, 400);
        let expected = fresh(&path, &prompt);
        // Between two parts: all that was read stays.
        let cancel = CancelHandle::new();
        let switch = cancel.clone();
        let options = greedy(4).cancel(&cancel).on_prompt_progress(move |progress| {
            if progress.read_tokens >= 128 {
                switch.cancel();
            }
        });
        let error = model.generate(&prompt, &options).unwrap_err();
        assert!(matches!(error, Error::Cancelled { .. }), "{error}");
        assert_eq!(text(&mut model, &prompt), expected, "{name}");
        assert!(model.stats().reused_tokens >= 128, "{name}: {}", model.stats());
        // In the middle of a part, wherever the time is over.
        for step in 0..20 {
            model.forget().unwrap();
            let options = greedy(4).max_time(Duration::from_micros(200 << (step / 2)));
            let _ = model.generate(&prompt, &options).unwrap().text().unwrap();
            assert_eq!(text(&mut model, &prompt), expected, "{name}, step {step}");
        }
        let error = model.generate(&prompt, &greedy(4).on_prompt_progress(|_| panic!("planted")));
        assert!(matches!(error, Err(Error::CallbackPanicked { .. })), "{error:?}");
        assert_eq!(text(&mut model, &prompt), expected, "{name}");
    }
}

#[test]
fn they_keep_their_budget_and_are_made_only_where_they_are_needed() {
    let folder = tempfile::tempdir().unwrap();
    for name in RECURRENT {
        let path = made(name, folder.path());
        let mut model = builder(&path).load().unwrap();
        let long = prompt(&model, 1200);
        let expected = text(&mut model, &long);
        let all = model.stats().checkpoint_bytes;
        assert!(all > 0, "{name}");
        for budget in [all / 2, all / 4, 1, 0] {
            let mut model = builder(&path).checkpoint_bytes(budget).load().unwrap();
            assert_eq!(text(&mut model, &long), expected, "{name} with {budget}");
            let held = model.stats().checkpoint_bytes;
            assert!(held <= budget, "{name}: {held} of {budget}");
            text(&mut model, &long);
            assert_eq!(computed(&model) == 1, held > 0, "{name} with {budget}: {}", model.stats());
        }
    }
    // The cache of full attention goes back by itself.
    let path = made("mixtral-8x7b", folder.path());
    let mut model = builder(&path).load().unwrap();
    let prompt = prompt(&model, 600);
    text(&mut model, &prompt);
    text(&mut model, &prompt);
    assert_eq!((model.stats().checkpoint_bytes, computed(&model)), (0, 1));
}

#[test]
fn they_go_with_what_they_belong_to() {
    let folder = tempfile::tempdir().unwrap();
    let session = folder.path().join("a.session");
    for name in FAMILIES {
        let path = made(name, folder.path());
        let mut model = builder(&path).sequences(2).load().unwrap();
        let [first, second] = [300, 400].map(|tokens| prompt(&model, tokens));
        let second = format!("Twice: {second}");
        text(&mut model, &first);
        model.save_session(&session).unwrap();
        text(&mut model, &second);
        let held = model.stats().checkpoint_bytes;
        assert!(held > 0, "{name}");
        // A context of its own has checkpoints of its own.
        let mut other = model.another().unwrap();
        text(&mut other, &second);
        assert_eq!(other.stats().checkpoint_bytes, held, "{name}");
        model.restore_session(&session).unwrap();
        assert_eq!(model.stats().checkpoint_bytes, 0, "{name}");
        assert_eq!(text(&mut model, &first), fresh(&path, &first), "{name}");
        text(&mut model, &second);
        model.forget().unwrap();
        assert_eq!(model.stats().checkpoint_bytes, 0, "{name}");
        text(&mut model, &second);
        let options = GenerateOptions::default().max_tokens(2);
        model.generate_together(&["one", "two"], &options).unwrap().texts().unwrap();
        assert_eq!(model.stats().checkpoint_bytes, 0, "{name}");
        assert_eq!(text(&mut model, &second), fresh(&path, &second), "{name}");
    }
}
