//! How weights in CPU memory are held: as asked for by the system's account, with the same text, or an
//! error that says why not.

use std::path::Path;

use moe_offload::error::HostMemoryFault;
use moe_offload::gguf::GgmlType;
use moe_offload::memory::HostMemory;
use moe_offload::{Error, LoadMode, MoeModel, MoeModelBuilder};
use moe_offload_synth::{self as synth, SynthOptions};

use crate::support::alone::ran_alone;
use crate::support::generate::greedy;
use crate::support::load::on_cpu;
use crate::support::model_files::{demo, repacked};
use crate::support::process::{Server, run};

fn builder(path: &Path, mode: LoadMode) -> MoeModelBuilder {
    on_cpu(path).load_mode(mode).threads(1).context_tokens(256)
}

fn text(model: &mut MoeModel) -> String {
    let options = greedy(24);
    model.generate("The quick brown fox", &options).unwrap().text().unwrap()
}

/// How the CPU's memory is held, and the bytes of its weights.
fn held(model: &MoeModel) -> (HostMemory, u64) {
    let cpu = model.memory().last().unwrap();
    assert_eq!(cpu.name, "cpu");
    (cpu.host.unwrap(), cpu.weights_bytes)
}

fn fault(outcome: moe_offload::Result<MoeModel>) -> HostMemoryFault {
    match outcome {
        Err(Error::HostMemory { fault, .. }) => fault,
        other => panic!("{:?}", other.map(|model| held(&model))),
    }
}

fn setting(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The total of a figure over all mappings of this process.
fn sum(name: &str) -> u64 {
    let smaps = setting("/proc/self/smaps");
    let lines = smaps.lines().filter_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB"));
    lines.map(|kib| kib.trim().parse::<u64>().unwrap() * 1024).sum()
}

/// One test with a process of its own, as both kinds are looked for in the account of the whole process.
#[test]
fn weights_are_held_as_asked_for_and_say_the_same() {
    if ran_alone() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for path in [demo(), repacked(folder.path(), 2)] {
        let mut plain = builder(&path, LoadMode::Read).load().unwrap();
        let expected = text(&mut plain);
        let (host, all) = held(&plain);
        assert_eq!((host.mapped_bytes, host.huge_bytes, host.locked_bytes), (0, 0, 0));
        let planned = plain.plan().device("cpu").unwrap().host.unwrap();
        assert!(planned.mapped_bytes == 0 && planned.anonymous_bytes > 0, "{planned:?}");
        drop(plain);

        match builder(&path, LoadMode::Huge).load() {
            Ok(mut model) => {
                let (host, weights) = held(&model);
                assert_eq!((weights, host.mapped_bytes), (all, 0));
                assert!(host.huge_bytes > 0 && host.huge_bytes <= all, "{host:?}");
                assert!(sum("AnonHugePages:") >= host.huge_bytes);
                assert_eq!(text(&mut model), expected);
            }
            outcome => {
                let text = setting("/sys/kernel/mm/transparent_hugepage/enabled");
                assert!(text.is_empty() || text.contains("[never]"), "{text}");
                assert!(matches!(fault(outcome), HostMemoryFault::NoHugePages { .. }));
            }
        }

        let before = sum("Locked:");
        match builder(&path, LoadMode::Locked).load() {
            Ok(mut model) => {
                let (host, weights) = held(&model);
                assert_eq!((weights, host.locked_bytes), (all, all), "{host:?}");
                assert!(sum("Locked:") >= before + all);
                assert_eq!(text(&mut model), expected);
                drop(model);
                assert_eq!(sum("Locked:"), before, "all given back");
            }
            outcome => {
                let found = fault(outcome);
                assert!(matches!(found, HostMemoryFault::LockLimit { .. }), "{found}");
            }
        }
    }
}

#[test]
fn spreading_needs_several_nodes() {
    let nodes = setting("/sys/devices/system/node/has_memory");
    let several = nodes.trim().contains(['-', ',']);
    let outcome = builder(&demo(), LoadMode::Interleaved).load();
    if several {
        let mut model = outcome.unwrap();
        let maps = setting("/proc/self/numa_maps");
        assert!(maps.lines().any(|line| line.contains("interleave")), "{maps}");
        assert_eq!(text(&mut model), text(&mut builder(&demo(), LoadMode::Read).load().unwrap()));
    } else {
        let found = fault(outcome);
        assert!(matches!(found, HostMemoryFault::OneNode { nodes: 0 | 1 }), "{found}");
    }
}

#[test]
fn pinning_needs_a_device_that_does_it() {
    // A server's device reads no memory of this machine.
    let server = Server::start();
    let remote = builder(&demo(), LoadMode::Pinned).rpc_server(&server.endpoint);
    let HostMemoryFault::NoPinningDevice { devices } = fault(remote.load()) else { panic!() };
    assert!(devices.len() == 1 && devices[0].starts_with("RPC"), "{devices:?}");
}

#[test]
fn weights_beside_a_device_are_held_too() {
    let server = Server::start();
    let load = |mode| {
        let builder = builder(&demo(), mode).rpc_server(&server.endpoint);
        builder.policy("all-experts".parse().unwrap()).load()
    };
    let expected = text(&mut load(LoadMode::Read).unwrap());
    if setting("/sys/kernel/mm/transparent_hugepage/enabled").contains("[never]") {
        assert!(matches!(fault(load(LoadMode::Huge)), HostMemoryFault::NoHugePages { .. }));
        return;
    }
    let mut model = load(LoadMode::Huge).unwrap();
    let (host, weights) = held(&model);
    assert!(host.huge_bytes > 0 && host.huge_bytes <= weights, "{host:?}");
    // The plan knew it all: the dry run counts as the load does.
    assert!(model.verify().holds(), "{}", model.verify());
    assert_eq!(text(&mut model), expected);
}

#[test]
fn experts_on_disk_are_not_held_otherwise() {
    for mode in [LoadMode::Huge, LoadMode::Locked, LoadMode::Interleaved] {
        let paged = builder(&demo(), mode).policy("all-experts=disk".parse().unwrap());
        assert_eq!(fault(paged.load()), HostMemoryFault::ExpertsOnDisk, "{mode}");
    }
}

#[test]
fn a_model_larger_than_free_memory_is_not_read() {
    // Only a header: nothing may be read of it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let family = synth::family("kimi-k2").unwrap();
    let options = SynthOptions::default().expert_type(GgmlType::F32);
    family.build(&options).unwrap().save_without_weights(&path, 1).unwrap();
    for mode in [LoadMode::Read, LoadMode::Huge] {
        let error = builder(&path, mode).load().map(|_| ()).unwrap_err();
        let Error::DoesNotFit { device, needed_bytes, free_bytes, .. } = error else {
            panic!("{error}")
        };
        assert!(device == "cpu" && needed_bytes > 2 << 40 && free_bytes < needed_bytes);
    }
}

#[test]
fn chat_takes_the_mode_and_tells_what_is_missing() {
    let model = demo();
    let chat = |mode: &str| {
        let model = model.to_str().unwrap();
        let sampling = ["--temperature", "0", "--max-tokens", "8", "--prompt", "Hello"];
        let arguments = [&["--model", model, "--host-memory", mode][..], &sampling].concat();
        run("chat", &arguments)
    };
    let said = |mode: &str| String::from_utf8(chat(mode).stdout).unwrap();
    assert!(!said("anonymous").is_empty());
    assert_eq!(said("anonymous"), said("read"));
    let refused = chat("pinned");
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{errors}");
    assert!(errors.contains("`pinned`") && errors.contains("use `read`"), "{errors}");
}
