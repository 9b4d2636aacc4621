//! CPU memory that a load would need and that is not there: told before anything is allocated.
#![cfg(all(feature = "llama", target_os = "linux"))]
#![allow(missing_docs)]

mod support;

use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use moe_offload::gguf::GgmlType;
use moe_offload::{Error, LoadMode, MoeModel, MoeModelBuilder};
use moe_offload_synth::{self as synth, SynthOptions};
use support::generate::greedy;
use support::group::Group;
use support::load::on_cpu;
use support::model_files::demo;
use support::process::example;

/// A budget is for all models of a process, so that tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn builder(budget: u64) -> MoeModelBuilder {
    on_cpu(demo()).threads(1).context_tokens(256).device_budget("cpu", budget)
}

/// What the error says is needed, of how much.
fn short_of(outcome: moe_offload::Result<MoeModel>) -> (u64, u64) {
    match outcome {
        Err(Error::DoesNotFit { device, needed_bytes, free_bytes, .. }) if device == "cpu" => {
            (needed_bytes, free_bytes)
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}

/// The most memory that this process had at once.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_context_that_memory_does_not_hold_is_refused_before_it_is_allocated() {
    let _turn = turn();
    // The engine is started before, which takes some memory.
    drop(builder(1 << 40).load().unwrap());
    let before = peak_bytes();
    for mode in [LoadMode::Auto, LoadMode::Mapped, LoadMode::Read] {
        let long = builder(1 << 30).context_tokens(4_000_000).load_mode(mode);
        let (needed, free) = short_of(long.load());
        assert!(needed > 2 << 30 && free == 1 << 30, "{mode}: {needed} of {free}");
    }
    let long =
        builder(1 << 30).context_tokens(4_000_000).policy("all-experts=disk".parse().unwrap());
    short_of(long.load());
    let grown = peak_bytes() - before;
    assert!(grown < 64 << 20, "{grown} bytes were allocated in vain");
}

#[test]
fn exactly_what_must_be_in_memory_will_do() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    // Of a type that some processors' kernels want in another layout, which takes memory beside the file.
    let repacked = folder.path().join("model.gguf");
    let q4 = GgmlType::from_name("q4_0").unwrap();
    let options = SynthOptions::default().layers(1).expert_type(q4);
    let family = synth::family("granite-3.1-3b-a800m").unwrap();
    family.build(&options).unwrap().save(&repacked, 1, |_| {}).unwrap();
    for (path, mode) in [
        (&demo(), LoadMode::Auto),
        (&demo(), LoadMode::Read),
        (&repacked, LoadMode::Auto),
        (&repacked, LoadMode::Read),
    ] {
        let builder = |budget: u64| {
            let builder = on_cpu(path).threads(1).context_tokens(256);
            builder.device_budget("cpu", budget).load_mode(mode)
        };
        let plan = builder(1 << 40).forecast().unwrap();
        let cpu = plan.device("cpu").unwrap();
        let needed = cpu.resident_bytes();
        assert!(cpu.compute_bytes > Some(0) && !cpu.total_is_at_least, "{plan}");
        // What is mapped may give way to other things.
        let weights = if mode == LoadMode::Read { cpu.weights_bytes } else { 0 };
        let others = cpu.context_bytes.unwrap() + cpu.compute_bytes.unwrap();
        assert!(needed >= weights + others, "{plan}");
        let mut model = builder(needed).load().unwrap();
        let host = model.memory().last().unwrap().host.unwrap();
        assert_eq!(host.anonymous_bytes + host.pinned_bytes, needed, "as the engine counts it");
        model.generate("Hello", &greedy(4)).unwrap().text().unwrap();
        // A second context has a cache of its own, and together they may not have more.
        let (second, left) = short_of(model.another());
        assert_eq!((second, left), (others, 0));
        drop(model);
        assert_eq!(short_of(builder(needed - 1).load()), (needed, needed - 1));
        let both = builder(needed + others).load().unwrap();
        both.another().unwrap();
    }
}

#[test]
fn a_stored_plan_is_held_to_it_too() {
    let _turn = turn();
    let plan = builder(1 << 40).context_tokens(4_000_000).make_plan().unwrap();
    short_of(builder(1 << 30).plan(plan).load());
}

#[test]
#[ignore = "needs root and a memory control group; `make test` runs it where there are both"]
fn a_control_group_counts_as_memory() {
    let group = Group::new(1_000_000_000);
    let chat = |context: &str| {
        let first = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.path().display());
        let mut command = Command::new("sh");
        command.args(["-c", &first, "sh"]).arg(example("chat")).arg("--model").arg(demo());
        command.args(["--threads", "1", "--max-tokens", "4", "--prompt", "Hello"]);
        command.args(["--context", context]).stdin(Stdio::null()).output().unwrap()
    };
    let output = chat("4000000");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(errors.contains("not enough CPU memory: the plan needs"), "{errors}");
    assert!(chat("512").status.success());
}
