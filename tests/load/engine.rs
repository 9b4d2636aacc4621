//! With the engine: policies take effect on a second device, and generation does what it says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use moe_offload::plan::Decision;
use moe_offload::{
    CancelHandle, Error, GenerateOptions, LoadMode, Message, MoeModel, MoeModelBuilder,
    OffloadPolicy, Plan, Sampling, StopReason,
};
use moe_offload_synth::SynthOptions;

use crate::support::generate::greedy;
use crate::support::load::on_cpu;
use crate::support::model_files::{Shape, bytes_of, demo, made, tiny};
use crate::support::process::Server;

static_assertions::assert_impl_all!(MoeModel: Send);
static_assertions::assert_not_impl_any!(MoeModel: Sync, Clone);
static_assertions::assert_impl_all!(MoeModelBuilder: Send);
static_assertions::assert_impl_all!(Plan: Send, Sync);
static_assertions::assert_impl_all!(Error: Send, Sync);
static_assertions::assert_impl_all!(CancelHandle: Send, Sync);

/// One thread each, since several tests run at once.
fn builder() -> MoeModelBuilder {
    on_cpu(demo()).threads(1).context_tokens(512)
}

fn ask(model: &mut MoeModel, question: &str, tokens: u64) -> String {
    model.chat(&[Message::user(question)], &greedy(tokens)).unwrap().text().unwrap()
}

fn device_weights(model: &MoeModel, device: &str) -> u64 {
    model.memory().iter().find(|memory| memory.name == device).map_or(0, |m| m.weights_bytes)
}

#[test]
fn policies_move_exactly_the_experts_and_change_no_text() {
    let server = Server::start();
    let load = |policy: &str| {
        builder().rpc_server(&server.endpoint).policy(policy.parse().unwrap()).load().unwrap()
    };
    let mut baseline = load("none");
    let device = baseline.plan().devices()[0].name.clone();
    assert!(device.starts_with("RPC"), "{device}");
    let (full, experts) =
        (device_weights(&baseline, &device), baseline.plan().model().expert_bytes);
    assert_eq!(full, baseline.plan().devices()[0].weights_bytes);
    let question = "How do I keep the first 4 layers on the CPU?";
    let expected = ask(&mut baseline, question, 48);
    assert!(expected.len() > 20, "{expected:?}");
    drop(baseline);

    let policies = [
        ("all-experts", experts),
        ("first-layers:2", experts / 2),
        ("last-layers:2", experts / 2),
        ("layers:0,3", experts / 2),
        (r"regex:_down_exps\.=cpu", experts / 3),
        ("layers:1;first-layers:2;layers:3", experts * 3 / 4),
        (r"regex:blk\.1\.=gpu;all-experts", experts * 3 / 4),
    ];
    for (policy, moved) in policies {
        let mut model = load(policy);
        assert_eq!(device_weights(&model, &device), full - moved, "{policy}");
        assert_eq!(model.plan().device(&device).unwrap().weights_bytes, full - moved, "{policy}");
        assert_eq!(ask(&mut model, question, 48), expected, "{policy}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_device_s_own_memory_falls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.gguf");
    write_large(&path);
    let used = |policy: &str| {
        let server = Server::start();
        let before = server.anonymous_bytes();
        let model = on_cpu(&path)
            .rpc_server(&server.endpoint)
            .policy(policy.parse().unwrap())
            .threads(1)
            .context_tokens(64)
            .load()
            .unwrap();
        (server.anonymous_bytes() - before, model.plan().model().expert_bytes)
    };
    let (full, experts) = used("none");
    let (without, _) = used("all-experts");
    let (half, _) = used("first-layers:2");
    assert!(experts > 40 << 20);
    let tolerance = 12 << 20; // the server's receive buffer, as large as the largest tensor
    assert!((full - without).abs_diff(experts) < tolerance, "{full} - {without}, {experts}");
    assert!((full - half).abs_diff(experts / 2) < tolerance, "{full} - {half}, {experts}");
}

/// The demo model's tokenizer with experts of 51 MB.
#[cfg(target_os = "linux")]
fn write_large(path: &std::path::Path) {
    use moe_offload::gguf::{GgufFile, Value};
    use moe_offload_synth::GgufWriter;
    let gguf = GgufFile::open(demo()).unwrap();
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata() {
        match value {
            Value::Unsigned(n) => writer.set(key, u32::try_from(*n).unwrap()),
            Value::Signed(n) => writer.set(key, i32::try_from(*n).unwrap()),
            #[allow(clippy::cast_possible_truncation)] // it was an f32 in the file
            Value::Float(x) => writer.set(key, *x as f32),
            Value::Bool(b) => writer.set(key, *b),
            Value::String(text) => writer.set(key, text.as_str()),
            Value::Array(array) => {
                let texts: Vec<String> =
                    array.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
                let numbers: Vec<i32> = array
                    .iter()
                    .filter_map(|v| match v {
                        Value::Signed(n) => i32::try_from(n).ok(),
                        other => other.as_u64().and_then(|n| i32::try_from(n).ok()),
                    })
                    .collect();
                if texts.is_empty() { writer.set(key, numbers) } else { writer.set(key, texts) }
            }
            other => panic!("{key}: {other:?}"),
        };
    }
    let wide = 4096_u64;
    writer.set("llama.expert_feed_forward_length", u32::try_from(wide).unwrap());
    writer.set("llama.feed_forward_length", u32::try_from(wide).unwrap());
    for tensor in gguf.tensors() {
        let mut shape = tensor.shape.clone();
        if tensor.name.contains("_exps") {
            let at = usize::from(!tensor.name.contains("down"));
            shape[at] = wide;
        }
        writer.tensor(&tensor.name, &shape, tensor.ggml_type);
    }
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    let ones = vec![1; 1 << 20];
    writer
        .write(&mut file, |tensor, out| {
            let mut left = usize::try_from(tensor.bytes).unwrap();
            while left > 0 {
                let now = left.min(ones.len());
                out.write_all(&ones[..now])?;
                left -= now;
            }
            Ok(())
        })
        .unwrap();
}

/// A file that the engine refuses by itself.
fn refused_by_the_engine() -> Vec<u8> {
    let mut writer = Shape::default().writer();
    writer.set("deepseek2.attention.head_count", 2_u32);
    bytes_of(&writer)
}

#[test]
fn a_stored_plan_loads_again_and_a_foreign_one_is_refused() {
    let server = Server::start();
    let planned =
        builder().rpc_server(&server.endpoint).policy("first-layers:1".parse().unwrap()).forecast();
    let json = serde_json::to_string(&planned.unwrap()).unwrap();
    let plan: Plan = serde_json::from_str(&json).unwrap();
    let model = builder().rpc_server(&server.endpoint).plan(plan.clone()).load().unwrap();
    assert!(model.plan() == &plan && model.verify().holds(), "{}", model.verify());

    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.gguf");
    std::fs::write(&other, refused_by_the_engine()).unwrap();
    let error = on_cpu(&other).plan(plan.clone()).load().unwrap_err();
    assert!(matches!(error, Error::ForeignPlan { .. }), "{error}");

    drop((model, server));
    let error = builder().plan(plan).load().unwrap_err();
    assert!(!error.to_string().is_empty());
}

#[test]
fn servers_that_are_not_there() {
    let error = builder().rpc_server("127.0.0.1:9").load().unwrap_err();
    assert!(matches!(error, Error::RpcUnreachable { .. }), "{error}");
    for nonsense in ["nonsense", ":1", "host:x", ""] {
        let error = builder().rpc_server(nonsense).load().unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }

    let mut server = Server::start();
    drop(builder().rpc_server(&server.endpoint).load().unwrap());
    server.kill();
    let error = builder().rpc_server(&server.endpoint).load().unwrap_err();
    assert!(matches!(error, Error::RpcUnreachable { .. }), "{error}");
    assert_eq!(builder().load().unwrap().plan().devices().len(), 1, "the dead device is left out");
}

#[test]
fn generation_stops_where_it_should() {
    let mut model = builder().load().unwrap();
    let whole = ask(&mut model, "Hello", 64);
    assert_eq!(model.stats().generated_tokens, {
        let tokens = model.count_tokens(&whole).unwrap() as u64;
        assert!(tokens > 5);
        tokens
    });

    let messages = [Message::user("Hello")];
    let mut few = model.chat(&messages, &greedy(3)).unwrap();
    let text: String = few.by_ref().map(Result::unwrap).collect();
    assert_eq!(few.stop_reason(), Some(StopReason::MaxTokens));
    assert!(whole.starts_with(&text) && text.len() < whole.len());
    assert_eq!(model.stats().generated_tokens, 3);

    let stop = whole.split_whitespace().nth(2).unwrap();
    let mut stopped = model.chat(&messages, &greedy(64).stop(stop)).unwrap();
    let text: String = stopped.by_ref().map(Result::unwrap).collect();
    assert_eq!(stopped.stop_reason(), Some(StopReason::StopString));
    assert_eq!(text, whole[..whole.find(stop).unwrap()]);

    let mut none = model.chat(&messages, &greedy(0)).unwrap();
    assert!(none.next().is_none());
    assert_eq!(none.stop_reason(), Some(StopReason::MaxTokens));

    let mut ended =
        model.chat(&messages, &GenerateOptions::default().sampling(Sampling::greedy())).unwrap();
    let text: String = ended.by_ref().map(Result::unwrap).collect();
    assert_eq!(ended.stop_reason(), Some(StopReason::EndOfText));
    assert!(text.starts_with(&whole));
}

#[test]
fn a_full_context_ends_the_text_without_an_error() {
    let mut model = on_cpu(demo()).threads(1).context_tokens(40).load().unwrap();
    let story = [Message::user("Tell me a story about a dragon")];
    let options = GenerateOptions::default().sampling(Sampling::greedy());
    let mut full = model.chat(&story, &options).unwrap();
    let text: String = full.by_ref().map(Result::unwrap).collect();
    assert_eq!(full.stop_reason(), Some(StopReason::ContextFull));
    let stats = model.stats();
    // The last token was chosen, but there was no room to compute it.
    assert_eq!(stats.prompt_tokens + stats.generated_tokens, 41);
    let whole = ask(&mut builder().load().unwrap(), &story[0].content, 100);
    assert!(whole.starts_with(&text) && whole.len() > text.len());
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let mut model = builder().load().unwrap();
    let mut say = |seed: u32| {
        let options = GenerateOptions::default().max_tokens(40).sampling(
            Sampling::default().temperature(3.0).min_p(0.0).top_p(1.0).top_k(0).seed(seed),
        );
        model.generate("Once upon a time", &options).unwrap().text().unwrap()
    };
    let first = say(1);
    assert_eq!(say(1), first);
    assert_ne!(say(2), first);
}

#[test]
fn what_is_known_is_not_computed_again() {
    let mut talk = vec![Message::user("What is an expert?")];
    let mut model = builder().load().unwrap();
    let answer = model.chat(&talk, &greedy(30)).unwrap().text().unwrap();
    assert_eq!(model.stats().reused_tokens, 0);
    talk.push(Message::assistant(answer));
    talk.push(Message::user("Thanks"));
    let reused = model.chat(&talk, &greedy(30)).unwrap().text().unwrap();
    let stats = model.stats();
    assert!(stats.reused_tokens > 30, "{stats:?}");
    assert!(stats.reused_tokens < stats.prompt_tokens);
    let fresh = builder().load().unwrap().chat(&talk, &greedy(30)).unwrap().text().unwrap();
    assert_eq!(reused, fresh);
    // Going back to another question drops what differs.
    let other = ask(&mut model, "Who are you?", 30);
    assert_eq!(other, ask(&mut builder().load().unwrap(), "Who are you?", 30));
}

#[test]
fn cancelling_works_from_another_thread_and_the_model_goes_on() {
    let mut model = builder().load().unwrap();
    let cancel = CancelHandle::new();
    let options = GenerateOptions::default().sampling(Sampling::greedy()).cancel(&cancel);
    let mut generation = model.generate("Tell me a story", &options).unwrap();
    assert!(generation.next().unwrap().is_ok());
    std::thread::spawn(move || cancel.cancel()).join().unwrap();
    let rest: Vec<_> = generation.collect();
    assert!(matches!(rest.as_slice(), [Err(Error::Cancelled { .. })]), "{rest:?}");
    let after = ask(&mut model, "Hello", 20);
    assert_eq!(after, ask(&mut builder().load().unwrap(), "Hello", 20));
}

#[test]
fn loading_reports_progress_and_can_be_cancelled() {
    let (last, reports) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (seen, count) = (last.clone(), reports.clone());
    builder()
        .on_progress(move |done| {
            assert!((0.0..=1.0).contains(&done));
            let previous = f32::from_bits(seen.swap(done.to_bits(), Ordering::Relaxed));
            assert!(done >= previous);
            count.fetch_add(1, Ordering::Relaxed);
        })
        .load()
        .unwrap();
    assert!((f32::from_bits(last.load(Ordering::Relaxed)) - 1.0).abs() < 1e-6);
    assert!(reports.load(Ordering::Relaxed) > 2);

    let cancel = CancelHandle::new();
    cancel.cancel();
    let error = builder().cancel(&cancel).load().unwrap_err();
    assert!(matches!(error, Error::Cancelled { operation: "loading" }), "{error}");
}

#[test]
fn a_panic_in_a_callback_is_an_error() {
    let error = builder().on_progress(|_| panic!("on purpose")).load().unwrap_err();
    assert!(
        matches!(&error, Error::CallbackPanicked { callback: "progress", message } if message == "on purpose"),
        "{error}"
    );
}

#[test]
fn bad_input_is_a_typed_error() {
    let mut model = builder().load().unwrap();
    let long = "word ".repeat(2000);
    let error = model.generate(&long, &greedy(1)).unwrap_err();
    assert!(matches!(error, Error::PromptTooLong { context_tokens: 512, .. }), "{error}");
    assert!(matches!(model.generate("", &greedy(1)).unwrap_err(), Error::EmptyPrompt));
    for sampling in [
        Sampling::default().temperature(f32::NAN),
        Sampling::default().temperature(-1.0),
        Sampling::default().top_p(0.0),
        Sampling::default().min_p(2.0),
        Sampling::default().repeat_penalty(0.0),
    ] {
        let error = model.generate("x", &greedy(1).sampling(sampling)).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
    for threads in [0, 1000] {
        let error = builder().threads(threads).load().unwrap_err();
        assert!(matches!(error, Error::InvalidOption { option: "threads", .. }), "{error}");
    }
    let error = builder().context_tokens(0).load().unwrap_err();
    assert!(matches!(error, Error::InvalidOption { option: "context_tokens", .. }), "{error}");
    assert!(!ask(&mut model, "Hello", 5).is_empty(), "the model still works");
}

#[test]
fn a_failed_load_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("refused.gguf");
    std::fs::write(&path, refused_by_the_engine()).unwrap();
    let error = on_cpu(&path).load().unwrap_err();
    assert!(matches!(&error, Error::LoadFailed { reason, .. } if !reason.is_empty()), "{error}");
}

#[test]
fn load_modes_change_no_text() {
    let mut mapped = builder().load_mode(LoadMode::Mapped).load().unwrap();
    let mut read = builder().load_mode(LoadMode::Read).load().unwrap();
    assert_eq!(ask(&mut mapped, "Hello", 20), ask(&mut read, "Hello", 20));
}

#[test]
fn a_model_works_on_another_thread() {
    let model = builder().policy(OffloadPolicy::AllExperts).load().unwrap();
    let text = std::thread::spawn(move || {
        let mut model = model;
        ask(&mut model, "Hello", 10)
    });
    assert!(!text.join().unwrap().is_empty());
}

#[test]
fn a_forecast_is_what_is_measured() {
    let server = Server::start();
    for policy in ["none", "all-experts", "last-layers:1"] {
        let with = || builder().rpc_server(&server.endpoint).policy(policy.parse().unwrap());
        let forecast = with().forecast().unwrap();
        assert!(forecast.devices().iter().all(|device| device.compute_bytes.is_some()));
        let model = with().load().unwrap();
        let verification = forecast.verify(model.memory());
        assert!(verification.holds(), "{policy}\n{verification}");
        assert_eq!(verification.rows().len(), 3);
    }
}

#[test]
fn fit_keeps_its_budget_to_the_byte() {
    let server = Server::start();
    let load = |policy: &str| {
        builder().rpc_server(&server.endpoint).policy(policy.parse().unwrap()).load()
    };
    let total = |model: &MoeModel| model.memory()[0].total_bytes();
    let (lean, full) = (load("all-experts").unwrap(), load("none").unwrap());
    let (lean, full) = (total(&lean), total(&full));
    let mut before = 0;
    for percent in [0, 10, 35, 60, 90, 100, 120] {
        let budget = lean + 4096 + (full - lean) * percent / 100;
        let mut model = load(&format!("fit:{budget}B")).unwrap();
        let used = total(&model);
        assert!(used <= budget, "{used} of {budget}");
        assert!(model.verify().holds(), "{}", model.verify());
        let left_out = model
            .plan()
            .tensors()
            .iter()
            .filter(|placement| placement.tensor.kind.is_expert() && placement.device == "cpu");
        let smallest = left_out.map(|placement| placement.tensor.bytes).min();
        assert!(smallest.is_none_or(|bytes| bytes > budget - used), "{percent} %");
        assert!(used >= before);
        before = used;
        assert!(!ask(&mut model, "Hello", 4).is_empty());
    }
    assert_eq!(before, full);
    let error = load("fit:1MiB").unwrap_err();
    assert!(matches!(error, Error::DoesNotFit { .. }), "{error}");
    // What a rule places stays, and counts.
    let ruled = load(&format!("layers:3=gpu;fit:{full}B")).unwrap();
    assert_eq!(ruled.plan().rules()[0].matched_tensors, 3);
}

#[test]
fn two_loads_that_do_not_fit_together() {
    let server = Server::start();
    let load = |budget: u64| {
        let builder = builder().rpc_server(&server.endpoint);
        let device = builder.make_plan().unwrap().devices()[0].name.clone();
        builder.device_budget(device, budget).load()
    };
    let needed = load(u64::MAX >> 1).unwrap().memory()[0].total_bytes();
    let results = std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| load(needed * 3 / 2)));
        threads.map(|thread| thread.join().unwrap())
    });
    let refused = results.iter().filter_map(|result| result.as_ref().err()).collect::<Vec<_>>();
    assert!(matches!(refused.as_slice(), [Error::DoesNotFit { .. }]), "{refused:?}");
    drop(results);
    assert!(load(needed).is_ok(), "what was held is given back");
}

#[test]
fn models_on_one_server_work_on_several_threads() {
    let server = Server::start();
    let expected = ask(&mut builder().load().unwrap(), "Who are you?", 24);
    std::thread::scope(|scope| {
        for policy in ["none", "all-experts", "first-layers:2", "last-layers:1"] {
            let (endpoint, expected) = (&server.endpoint, &expected);
            scope.spawn(move || {
                for _ in 0..4 {
                    let policy = policy.parse().unwrap();
                    let mut model = builder().rpc_server(endpoint).policy(policy).load().unwrap();
                    assert_eq!(&ask(&mut model, "Who are you?", 24), expected);
                }
            });
        }
    });
}

#[test]
fn a_server_needs_threads_and_an_address() {
    for (endpoint, threads) in [("127.0.0.1:1", 0), ("127.0.0.1:1", 1000), ("nowhere", 1)] {
        let error = moe_offload::serve_rpc(endpoint, threads, None).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
}

#[test]
fn a_model_goes_on_after_another_on_its_server_was_dropped() {
    let server = Server::start();
    let load = || builder().rpc_server(&server.endpoint).load().unwrap();
    let expected = ask(&mut builder().load().unwrap(), "Tell me a story", 40);
    let mut model = load();
    let messages = [Message::user("Tell me a story")];
    let mut generation = model.chat(&messages, &greedy(40)).unwrap();
    let mut text = String::new();
    for piece in generation.by_ref().take(5) {
        text += &piece.unwrap();
    }
    // Its buffers are freed between two tokens, and it computes nothing in between.
    drop(load());
    text += &generation.text().unwrap();
    assert_eq!(text, expected);
}

#[test]
fn a_file_that_changes_during_the_load_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::copy(demo(), &path).unwrap();
    let written = path.clone();
    let touch = move |_| {
        let file = std::fs::File::options().append(true).open(&written).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    };
    let load = || on_cpu(&path).threads(1).context_tokens(128);
    let error = load().on_progress(touch).load().unwrap_err();
    assert!(matches!(error, Error::FileChanged { .. }), "{error}");
    load().load().unwrap();
}

/// A server that is allowed less memory than it says it has, as if another process had taken it
/// between plan and load.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_is_not_there_after_all_is_an_error() {
    let server = Server::with_memory_limit(48 << 20);
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path(), "mixtral-8x7b", &SynthOptions::tiny().layers(200));
    let load = |policy: &str| {
        on_cpu(&path)
            .rpc_server(&server.endpoint)
            .policy(policy.parse().unwrap())
            .threads(1)
            .context_tokens(4096)
            .load()
    };
    let error = load("none").unwrap_err();
    assert!(
        matches!(error, Error::LoadFailed { .. } | Error::Engine { .. } | Error::RpcLost { .. }),
        "{error}"
    );
    // The process lives, and models load.
    ask(&mut builder().load().unwrap(), "What is this?", 3);
}

#[test]
fn a_smaller_context_counts_with_its_own_buffers() {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny(folder.path(), "qwen3-30b-a3b");
    let server = Server::start();
    let forecast = |policy: String, context_tokens| {
        let builder = on_cpu(&path).threads(1).context_tokens(context_tokens);
        builder.rpc_server(&server.endpoint).policy(policy.parse().unwrap()).forecast().unwrap()
    };
    for context_tokens in [256, 1024, 3072] {
        let needed = forecast("all-experts".into(), context_tokens).devices()[0].total_bytes;
        let policy = format!("fit:{needed}B,smaller-context:256,fewer-layers");
        let plan = forecast(policy, 4096);
        // Nothing but the context is given up, since that suffices.
        assert!(
            matches!(plan.decisions(), [Decision::SmallerContext { context_tokens: tokens, .. }]
                if (256..=context_tokens).contains(tokens)),
            "{plan}"
        );
    }
}

/// Buffers grow with the first expert on the device: then none is better than an error.
#[test]
fn fit_never_fails_where_all_experts_fits() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = tiny(folder.path(), "deepseek-v2-lite");
    let forecast = |policy: &str| {
        let builder = on_cpu(&path).threads(1).context_tokens(2048);
        builder.rpc_server(&server.endpoint).policy(policy.parse().unwrap()).forecast()
    };
    let lean = forecast("all-experts").unwrap().devices()[0].total_bytes;
    let mut before = 0;
    for budget in (lean..lean + 1_500_000).step_by(20_000) {
        let plan = forecast(&format!("fit:{budget}B")).unwrap();
        assert!(plan.devices()[0].total_bytes <= budget);
        before = before.max(plan.expert_bytes_on_devices());
    }
    assert!(before > 0);
}
