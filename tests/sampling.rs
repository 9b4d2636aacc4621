//! With the engine: samplers have an effect and repeat, probabilities are true, limits hold.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use moe_offload::error::{ModelFault, TemplateFault};
use moe_offload::gguf::GgufFile;
use moe_offload::preflight::Warning;
use moe_offload::{
    Dry, Error, GenerateOptions, Generation, Message, Mirostat, MoeModel, Sampling, StopReason,
    TemplateOptions,
};
use support::generate::greedy;
use support::load::on_cpu;
use support::model_files::demo;

fn model() -> MoeModel {
    on_cpu(demo()).threads(1).context_tokens(512).load().unwrap()
}

fn varied() -> Sampling {
    Sampling::default().temperature(1.3).top_k(0).top_p(1.0).min_p(0.0)
}

fn texts(model: &mut MoeModel, sampling: &Sampling) -> Vec<String> {
    (0..6)
        .map(|seed| {
            let options =
                GenerateOptions::default().max_tokens(40).sampling(sampling.clone().seed(seed));
            model.generate("The model keeps", &options).unwrap().text().unwrap()
        })
        .collect()
}

fn dry(multiplier: f32) -> Dry {
    let mut dry = Dry::default();
    (dry.multiplier, dry.allowed_length) = (multiplier, 1);
    dry
}

fn mirostat(version: u8, tau: f32) -> Mirostat {
    let mut mirostat = Mirostat::default();
    (mirostat.version, mirostat.tau) = (version, tau);
    mirostat
}

/// The engine takes this number for a wish to be surprised.
#[test]
fn the_largest_seed_repeats_too() {
    let mut model = model();
    let options = GenerateOptions::default().max_tokens(40).sampling(varied().seed(u32::MAX));
    let mut text = || model.generate("The model keeps", &options).unwrap().text().unwrap();
    assert_eq!(text(), text());
}

/// Each sampler by itself changes what is drawn with the same seeds, and draws it again.
#[test]
fn every_sampler_has_an_effect_and_repeats() {
    let mut model = model();
    let plain = texts(&mut model, &varied());
    assert_eq!(texts(&mut model, &varied()), plain);
    assert!(plain.iter().any(|text| *text != plain[0]), "the seed has an effect");
    let samplers = [
        ("temperature", varied().temperature(0.5)),
        ("top_k", varied().top_k(3)),
        ("top_p", varied().top_p(0.5)),
        ("min_p", varied().min_p(0.3)),
        ("typical_p", varied().typical_p(0.3)),
        ("xtc", varied().xtc(1.0, 0.05)),
        ("repeat_penalty", varied().repeat_penalty(3.0)),
        ("frequency_penalty", varied().frequency_penalty(5.0)),
        ("presence_penalty", varied().presence_penalty(5.0)),
        ("dry", varied().dry(dry(5.0))),
        ("mirostat 1", varied().mirostat(mirostat(1, 1.0))),
        ("mirostat 2", varied().mirostat(mirostat(2, 1.0))),
    ];
    for (name, sampling) in samplers {
        let found = texts(&mut model, &sampling);
        assert_ne!(found, plain, "{name}");
        assert_eq!(texts(&mut model, &sampling), found, "{name} repeats");
    }
}

#[test]
fn penalties_and_bias_work_on_the_tokens_they_name() {
    let mut model = model();
    let greedy = greedy(60);
    let tokens = |model: &mut MoeModel, sampling: Sampling| {
        let options = greedy.clone().sampling(sampling).log_probabilities(0);
        let mut answer = model.generate("one two one two one two", &options).unwrap();
        assert!(answer.by_ref().all(|piece| piece.is_ok()));
        let tokens = answer.take_log_probabilities();
        tokens.into_iter().map(|token| token.chosen.token).collect::<Vec<_>>()
    };
    let distinct = |tokens: &[i32]| {
        let set: std::collections::BTreeSet<_> = tokens.iter().collect();
        (set.len(), tokens.len())
    };
    // With a hundred off for what occurred, nothing occurs twice.
    for sampling in
        [Sampling::greedy().presence_penalty(100.0), Sampling::greedy().frequency_penalty(100.0)]
    {
        let (different, all) = distinct(&tokens(&mut model, sampling));
        assert!(all > 0);
        assert_eq!(different, all);
    }
    let first = tokens(&mut model, Sampling::greedy())[0];
    let mut banned = Sampling::greedy();
    banned.logit_bias.insert(first, f32::NEG_INFINITY);
    assert!(!tokens(&mut model, banned).contains(&first));
    let mut wanted = Sampling::greedy();
    wanted.logit_bias.insert(first, 1000.0);
    assert!(tokens(&mut model, wanted).iter().all(|&token| token == first));
}

#[test]
fn log_probabilities_are_those_of_the_tokens() {
    let mut model = model();
    let options =
        GenerateOptions::default().max_tokens(30).sampling(varied().seed(3)).log_probabilities(100);
    let mut answer = model.chat(&[Message::user("Hello")], &options).unwrap();
    let (mut text, mut bytes, mut count) = (String::new(), Vec::new(), 0);
    while let Some(piece) = answer.next() {
        text += &piece.unwrap();
        for token in answer.take_log_probabilities() {
            count += 1;
            bytes.extend_from_slice(&token.chosen.bytes);
            let of = |token: &moe_offload::LogProbability| f64::from(token.log_probability).exp();
            let all: f64 = token.likeliest.iter().map(of).sum();
            assert!(all > 0.5 && all < 1.0 + 1e-4, "{all}");
            assert_eq!(token.likeliest.len(), 100);
            assert!(token.likeliest.is_sorted_by(|a, b| a.log_probability >= b.log_probability));
            if let Some(same) = token.likeliest.iter().find(|t| t.token == token.chosen.token) {
                assert_eq!(*same, token.chosen);
            }
        }
    }
    assert_eq!(String::from_utf8_lossy(&bytes), text);
    drop(answer);
    assert_eq!(count, model.stats().generated_tokens);
    // Greedy takes the likeliest; nobody who does not ask is given any.
    let greedy = greedy(9);
    let mut answer = model.generate("Hello", &greedy.clone().log_probabilities(1)).unwrap();
    assert!(answer.by_ref().all(|piece| piece.is_ok()));
    let tokens = answer.take_log_probabilities();
    assert!(!tokens.is_empty());
    assert!(tokens.iter().all(|token| token.likeliest == [token.chosen.clone()]));
    drop(answer);
    let mut answer = model.generate("Hello", &greedy).unwrap();
    assert!(answer.by_ref().all(|piece| piece.is_ok()));
    assert!(answer.take_log_probabilities().is_empty());
}

#[test]
fn impossible_values_are_named() {
    let mut model = model();
    let mut unknown = Sampling::default();
    unknown.logit_bias.insert(999_999, 1.0);
    let mut infinite = Sampling::default();
    infinite.logit_bias.insert(1, f32::INFINITY);
    let cases = [
        ("temperature", Sampling::default().temperature(f32::NAN)),
        ("typical_p", Sampling::default().typical_p(0.0)),
        ("xtc_probability", Sampling::default().xtc(2.0, 0.1)),
        ("frequency_penalty", Sampling::default().frequency_penalty(f32::INFINITY)),
        ("presence_penalty", Sampling::default().presence_penalty(-101.0)),
        ("dry.multiplier", Sampling::default().dry(dry(-1.0))),
        ("mirostat.version", Sampling::default().mirostat(mirostat(3, 5.0))),
        ("logit_bias", unknown),
        ("logit_bias", infinite),
    ];
    for (name, sampling) in cases {
        let options = GenerateOptions::default().sampling(sampling);
        match model.generate("x", &options) {
            Err(Error::InvalidOption { option, .. }) => assert_eq!(option, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let options = GenerateOptions::default().log_probabilities(101);
    assert!(matches!(model.generate("x", &options), Err(Error::InvalidOption { .. })));
}

#[test]
fn time_ends_an_answer() {
    let mut model = model();
    let options = GenerateOptions::default().sampling(Sampling::greedy());
    let mut answer = model.generate("Hello", &options.clone().max_time(Duration::ZERO)).unwrap();
    assert!(answer.next().is_none());
    assert_eq!(answer.stop_reason(), Some(StopReason::TimeLimit));
    assert!(!answer.stop_reason().unwrap().is_complete());
    drop(answer);
    let options = options.max_tokens(3).max_time(Duration::MAX);
    let mut answer = model.generate("Hello", &options).unwrap();
    assert!(answer.by_ref().all(|piece| piece.is_ok()));
    assert_eq!(answer.stop_reason(), Some(StopReason::MaxTokens));
}

/// Wherever the stop string lies between the tokens, the answer is what comes before it.
#[test]
fn stop_strings_across_tokens_do_not_leak() {
    let mut model = model();
    let question = [Message::user("What is an expert?")];
    let greedy = greedy(40);
    let full = model.chat(&question, &greedy).unwrap().text().unwrap();
    let letters: Vec<(usize, char)> = full.char_indices().collect();
    assert!(letters.len() > 20, "{full}");
    for at in 0..letters.len() - 5 {
        let stop = &full[letters[at].0..letters[at + 5].0];
        let options = greedy.clone().stop(stop).stop("never in there");
        let mut answer = model.chat(&question, &options).unwrap();
        let text: String = answer.by_ref().map(|piece| piece.unwrap()).collect();
        assert_eq!(text, full[..full.find(stop).unwrap()], "{stop:?}");
        assert_eq!(answer.stop_reason(), Some(StopReason::StopString));
    }
}

/// The demo model with a part of its template replaced by one of the same length.
fn patched(from: &str, to: &str) -> MoeModel {
    assert_eq!(from.len(), to.len());
    let mut file = std::fs::read(demo()).unwrap();
    let at = file.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    file[at..at + to.len()].copy_from_slice(to.as_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("patched.gguf");
    std::fs::write(&path, file).unwrap();
    on_cpu(&path).threads(1).context_tokens(512).load().unwrap()
}

#[test]
fn the_engine_s_list_is_asked_where_a_template_fails_but_not_where_it_raises() {
    let talk = [Message::system("Be brief."), Message::user("Hi")];
    let options = TemplateOptions::default();
    let expected = model().chat_prompt(&talk, &options).unwrap();
    let tool = options.clone().tool(serde_json::json!({"type": "function"}));
    let loops = "{% for message in messages %}";
    for broken in ["{% for message in nothing()%}", "{% fer message in messages %}"] {
        let model = patched(loops, broken);
        assert_eq!(model.chat_prompt(&talk, &options).unwrap(), expected);
        // It cannot write tools.
        let error = model.chat_prompt(&talk, &tool).unwrap_err();
        assert!(matches!(error, Error::ChatTemplate { .. }), "{error}");
    }
    let model = patched("{% if add_generation_prompt %}", "{% if raise_exception('no') %}");
    match model.chat_prompt(&talk, &options) {
        Err(Error::ChatTemplate { fault: TemplateFault::Raised { message } }) => {
            assert_eq!(message, "no");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_chat_is_the_template_s_text() {
    let mut model = model();
    let talk = [Message::system("Be brief."), Message::user("Hi\0 <b>")];
    let prompt = model.chat_prompt(&talk, &TemplateOptions::default()).unwrap();
    let turn = |role: &str, text: &str| format!("<|im_start|>{role}\n{text}<|im_end|>\n");
    let expected =
        turn("system", "Be brief.") + &turn("user", "Hi\0 <b>") + "<|im_start|>assistant\n";
    assert_eq!(prompt, expected);
    let closed = TemplateOptions::default().generation_prompt(false);
    assert!(model.chat_prompt(&talk, &closed).unwrap().ends_with("<|im_end|>\n"));
    let greedy = greedy(8);
    let by_chat = model.chat(&talk[1..], &greedy).unwrap().text().unwrap();
    let prompt = model.chat_prompt(&talk[1..], &TemplateOptions::default()).unwrap();
    assert_eq!(model.generate(&prompt, &greedy).unwrap().text().unwrap(), by_chat);
}

/// The demo model with tensors of nothing but this number.
fn demo_with(folder: &Path, names: &[&str], value: f32) -> PathBuf {
    let path = folder.join("damaged.gguf");
    let gguf = GgufFile::open(demo()).unwrap();
    let mut bytes = std::fs::read(demo()).unwrap();
    for name in names {
        let tensor = gguf.tensors().iter().find(|tensor| tensor.name == *name).unwrap();
        let at = usize::try_from(tensor.file_offset).unwrap();
        let count = usize::try_from(tensor.bytes).unwrap();
        bytes[at..at + count].copy_from_slice(&value.to_le_bytes().repeat(count / 4));
    }
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A norm that is infinite makes text without sense and no score that is infinite, so it is looked for.
#[test]
fn norms_that_are_no_numbers_are_found_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        for name in ["output_norm.weight", "blk.1.ffn_norm.weight"] {
            let path = demo_with(folder.path(), &[name], value);
            match MoeModel::builder(&path).context_tokens(256).load() {
                Err(Error::UnsafeModel { fault: ModelFault::BadWeight { tensor, .. }, .. }) => {
                    assert_eq!(tensor, name);
                }
                other => panic!("{name} of {value}: {other:?}"),
            }
        }
    }
}

/// Of zeros in place of a norm or of the output all tokens get the same score, and the first would be chosen.
#[test]
fn scores_that_are_all_the_same_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = demo_with(folder.path(), &["output_norm.weight"], 0.0);
    let mut model = MoeModel::builder(&path).threads(1).context_tokens(256).load().unwrap();
    for sampling in [Sampling::greedy(), Sampling::default(), varied()] {
        let options = GenerateOptions::default().max_tokens(4).sampling(sampling);
        for _ in 0..2 {
            let text = model.generate("The model keeps", &options).and_then(Generation::text);
            assert!(matches!(text, Err(Error::EqualScores)), "{text:?}");
        }
    }
}

/// A tensor without weights may be meant, so it is told and loaded.
#[test]
fn tensors_of_zeros_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["blk.1.attn_q.weight", "blk.2.ffn_up_exps.weight", "blk.1.attn_norm.weight"];
    let path = demo_with(folder.path(), &names, 0.0);
    let model = MoeModel::builder(&path).context_tokens(256).load().unwrap();
    match model.warnings() {
        [Warning::ZeroTensors { tensor, count: 3 }] => assert!(names.contains(&&**tensor)),
        other => panic!("{other:?}"),
    }
    let whole = MoeModel::builder(demo()).context_tokens(256).load().unwrap();
    assert!(whole.warnings().is_empty());
}

/// A model whose router holds no numbers says so, whichever way tokens are chosen, and text is never made of it.
#[test]
fn scores_that_are_no_numbers_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["blk.0.ffn_gate_inp.weight", "blk.1.ffn_gate_inp.weight"] {
        let path = demo_with(folder.path(), &[name], f32::NAN);
        let mut model = MoeModel::builder(&path).threads(1).context_tokens(256).load().unwrap();
        let version = |version| {
            let mut sampling = varied();
            sampling.mirostat = Some(mirostat(version, 5.0));
            sampling
        };
        for sampling in [Sampling::greedy(), Sampling::default(), varied(), version(1), version(2)]
        {
            let options = GenerateOptions::default().max_tokens(4).sampling(sampling);
            // Nor the second time, when something is in the cache.
            for _ in 0..2 {
                let text = model.generate("The model keeps", &options).and_then(Generation::text);
                assert!(matches!(text, Err(Error::NotANumber)), "{name}: {text:?}");
            }
        }
    }
}

#[test]
fn what_would_be_ignored_is_refused() {
    let mut model = model();
    let named = |name: &str| TemplateOptions::default().variable(name, 1);
    for options in [
        greedy(4).stop(""),
        greedy(4).template(named("messages")),
        greedy(4).template(named("add_generation_prompt")),
        greedy(4).template(named("")),
    ] {
        let error = model.chat(&[Message::user("Hello")], &options).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
}
