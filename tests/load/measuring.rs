//! What is there for those who measure: the tuner, tokens and logits, counted experts. With an RPC server as the device.

use std::time::Duration;

use moe_offload::tune::{Candidate, Check, Outcome, Stop, TuneProgress};
use moe_offload::{
    CancelHandle, Error, GgufFile, LoadMode, Logits, MoeModel, OffloadPolicy, Token,
};

use crate::support::generate::greedy;
use crate::support::gpus::ran_without;
use crate::support::load::on_cpu;
use crate::support::model_files::demo;
use crate::support::process::Server;

#[test]
fn counted_experts_are_those_of_every_token_and_change_no_text() {
    let answer = |watch: bool| {
        let builder = on_cpu(demo()).context_tokens(512).threads(1);
        let mut model = builder.watch_experts(watch).load().unwrap();
        let options = greedy(12);
        let text = model
            .generate("Why do the leaves of many trees turn red before they fall?\n", &options)
            .unwrap()
            .text()
            .unwrap();
        (text, model.stats(), model.expert_use())
    };
    let (text, stats, counted) = answer(true);
    let counted = counted.unwrap();
    // The last layer only works on tokens whose logits are wanted: one for each token that is chosen.
    // Whether the last token of the answer is computed too depends on how it ended.
    let all = stats.prompt_tokens + stats.generated_tokens;
    let wanted = stats.generated_tokens + 1;
    let gguf = GgufFile::open(demo()).unwrap();
    let experts = moe_offload::ExpertMap::new(&gguf).unwrap();
    assert!(counted.layers().eq(experts.expert_layers().iter().copied()));
    for layer in counted.layers() {
        let tokens = if layer + 1 == experts.layers() { wanted } else { all };
        let seen = counted.tokens(layer);
        assert!((tokens - 1..=tokens).contains(&seen), "{layer}: {seen} of {tokens}");
        let chosen: u64 = counted.layer(layer).unwrap().iter().sum();
        assert_eq!(chosen, seen * experts.active_experts().unwrap());
    }
    let (same, _, none) = answer(false);
    assert_eq!((same, none), (text, None));
}

#[test]
fn tuning_tries_what_differs_and_keeps_the_answer() {
    if ran_without() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("tunings.json");
    let server = Server::start();
    let tune = || {
        let tuner = MoeModel::tune(demo()).answers(48, 8).context_tokens(256);
        tuner.rpc_server(&server.endpoint).cache(&cache)
    };
    let tuning = tune().run().unwrap();
    let found = &tuning.found;
    // Which one is the fastest depends on the machine, so only the rules are looked at.
    assert_eq!(found.trials[0].candidate, Candidate::defaults());
    assert!(found.chosen == found.reference || matches!(found.check, Check::Won { .. }));
    let tried = |policy: &str| {
        found.trials.iter().any(|trial| trial.candidate.policy.to_string() == policy)
    };
    assert!(tried("all-experts") && tried("first-layers:2"));
    // All fits, so `none` is `fit` and need not be measured.
    let passed_over = &tuning.passed_over[0];
    assert_eq!(
        (passed_over.policy.to_string().as_str(), passed_over.reason.as_str()),
        ("none", "the same places as fit")
    );
    assert!(found.trials.iter().any(|trial| trial.candidate.load_mode == LoadMode::Read));
    // A server's CPU takes no part in it, so it is only tried on devices of this machine.
    assert!(found.trials.iter().all(|trial| trial.candidate.operation_offload));

    let again = tune().run().unwrap();
    assert!(again.is_cached && again.found == tuning.found);
    let (send, receive) = std::sync::mpsc::channel();
    let tell = move |progress: &TuneProgress<'_>| send.send(progress.number).unwrap();
    let anew = tune().measure_again(true).time_limit(Duration::ZERO).on_progress(tell).run();
    let measured = receive.iter().count();
    // Told before and after the one trial that there is always time for.
    let anew = anew.unwrap();
    assert_eq!((measured, anew.is_cached, &anew.found.stop), (2, false, &Stop::Time));
    assert_eq!(anew.chosen(), &Candidate::defaults());
}

#[test]
fn tuning_begins_with_what_the_budget_allows() {
    if ran_without() {
        return;
    }
    let server = Server::start();
    let tuner = MoeModel::tune(demo()).answers(48, 8).context_tokens(256);
    // A byte less than what every token needs, so that layers have to go.
    let lean = on_cpu(demo()).context_tokens(256).rpc_server(&server.endpoint);
    let lean = lean.policy(OffloadPolicy::AllExperts).forecast().unwrap();
    let tuner = tuner.rpc_server(&server.endpoint).budget_bytes(lean.devices()[0].total_bytes - 1);
    let tuner = tuner.policy("fit".parse().unwrap()).policy("fit:fewer-layers".parse().unwrap());
    let tuning = tuner.time_limit(Duration::ZERO).run().unwrap();
    let outcomes: Vec<_> = tuning.found.trials.iter().map(|trial| &trial.outcome).collect();
    assert!(
        matches!(outcomes[0], Outcome::Failed { reason, .. } if reason.contains("free")),
        "{outcomes:?}"
    );
    assert_eq!(tuning.chosen().policy.to_string(), "fit:fewer-layers");
    assert!(tuning.to_string().contains("what is nearest to the defaults and loads"), "{tuning}");

    let refused = MoeModel::tune(demo()).answers(500, 8).context_tokens(256).run().unwrap_err();
    assert!(matches!(refused, Error::TuneContext { context_tokens: 256, .. }), "{refused}");
    let cancel = CancelHandle::new();
    cancel.cancel();
    let cancelled = MoeModel::tune(demo()).answers(48, 8).cancel(&cancel).run().unwrap_err();
    assert!(matches!(cancelled, Error::Cancelled { .. }), "{cancelled}");
}

#[test]
fn operation_offload_is_part_of_a_plan() {
    let builder = on_cpu(demo()).context_tokens(256).threads(1);
    let model = builder.operation_offload(false).load().unwrap();
    assert!(!model.plan().context().operation_offload);
    let mut stored = serde_json::to_value(model.plan()).unwrap();
    // Plans of before have no such field, and meant what the engine does by itself.
    stored["context"].as_object_mut().unwrap().remove("operation_offload").unwrap();
    let stored: moe_offload::Plan = serde_json::from_value(stored).unwrap();
    assert!(stored.context().operation_offload);
}

/// A question as the model was trained on.
const PROMPT: &str = "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n";

/// A model that holds nothing, and the tokens of the prompt.
fn model_and_tokens() -> (MoeModel, Vec<Token>) {
    let model = on_cpu(demo()).context_tokens(256).threads(1).load().unwrap();
    let tokens = model.tokenize(PROMPT, true).unwrap();
    (model, tokens)
}

/// The number of the greatest of each row.
fn likeliest(logits: &Logits) -> Vec<Token> {
    let greatest = |row: &[f32]| {
        let (number, _) = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        Token::new(i32::try_from(number).unwrap())
    };
    logits.rows().map(greatest).collect()
}

#[test]
fn what_is_evaluated_by_hand_is_what_is_generated() {
    let (mut model, tokens) = model_and_tokens();
    let mut answer = Vec::new();
    let mut next = tokens.clone();
    while answer.len() < 12 {
        let logits = model.evaluate(&next).unwrap();
        assert_eq!(
            (logits.rows().len(), logits.vocabulary_tokens()),
            (next.len(), model.vocabulary_tokens())
        );
        next = vec![*likeliest(&logits).last().unwrap()];
        answer.push(next[0]);
    }
    let by_hand = String::from_utf8(model.detokenize(&answer).unwrap()).unwrap();
    model.forget().unwrap();
    let generated = model.generate(PROMPT, &greedy(12)).unwrap().text().unwrap();
    assert!(!generated.is_empty() && by_hand.starts_with(&generated), "{by_hand} / {generated}");
}

#[test]
fn what_was_evaluated_is_held_and_parts_are_as_good_as_the_whole() {
    let (mut model, mut tokens) = model_and_tokens();
    tokens = tokens.iter().copied().cycle().take(150).collect(); // more than is computed at once
    let whole = model.evaluate(&tokens).unwrap();
    assert_eq!(whole.rows().len(), 150);
    model.forget().unwrap();
    let parts = tokens.chunks(7).map(|part| model.evaluate(part).unwrap());
    let parts: Vec<Logits> = parts.collect();
    let rows: Vec<&[f32]> = parts.iter().flat_map(Logits::rows).collect();
    let apart =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    for (row, logits) in whole.rows().enumerate() {
        // Sums in another order, against a row of another token.
        let (same, other) = (apart(logits, rows[row]), apart(logits, rows[(row + 1) % 150]));
        assert!(same < 1.0 && other > 2.0, "row {row}: {same} and {other}");
    }
    // A prompt that goes on with them computes no more than the rest.
    let (mut model, tokens) = model_and_tokens();
    model.evaluate(&tokens).unwrap();
    model.generate(&format!("{PROMPT}The sky"), &greedy(1)).unwrap().text().unwrap();
    let stats = model.stats();
    assert_eq!(stats.reused_tokens, tokens.len() as u64);
    assert!(stats.prompt_tokens > stats.reused_tokens);
}

#[test]
fn tokens_that_cannot_be_computed_are_errors_and_the_model_goes_on() {
    let (mut model, tokens) = model_and_tokens();
    let first = model.evaluate(&tokens).unwrap();
    for id in [-1, i32::try_from(model.vocabulary_tokens()).unwrap(), i32::MAX] {
        let refused = model.evaluate(&[tokens[0], Token::new(id)]).unwrap_err();
        assert!(matches!(refused, Error::UnknownToken { token, .. } if token == id), "{refused}");
        let refused = model.detokenize(&[Token::new(id)]).unwrap_err();
        assert!(matches!(refused, Error::UnknownToken { .. }), "{refused}");
    }
    let refused = model.evaluate(&[tokens[0]; 256]).unwrap_err();
    let held = tokens.len();
    assert!(
        matches!(refused, Error::NoRoomForTokens { tokens: 256, held_tokens, context_tokens: 256 } if held_tokens == held),
        "{refused}"
    );
    assert_eq!(model.evaluate(&[]).unwrap().rows().len(), 0);
    // Nothing of that was computed, and the rest of the context can be filled.
    assert_eq!(model.evaluate(&vec![tokens[0]; 256 - held]).unwrap().rows().len(), 256 - held);
    model.forget().unwrap();
    assert_eq!(model.evaluate(&tokens).unwrap(), first);
}
