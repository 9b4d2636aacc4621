//! Several devices: three RPC servers with names, budgets and ends of their own.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use std::path::{Path, PathBuf};

use moe_offload::{
    ContextOptions, Device, DeviceKind, Error, GgufFile, Message, MoeModel, MoeModelBuilder,
    OffloadPolicy, Plan, connect_rpc, devices, rpc_traffic,
};
use moe_offload_synth::SynthOptions;
use support::generate::greedy;
use support::load::on_cpu;
use support::model_files::{demo, made};
use support::process::{Server, run};

struct Three {
    servers: Vec<Server>,
}

impl Three {
    fn start() -> Self {
        let mut servers: Vec<Server> = (0..3).map(|_| Server::start()).collect();
        // In the engine's order: one of an address that this process met before keeps its number.
        servers.sort_by_cached_key(|server| {
            let name = device_at(&server.endpoint).unwrap().name;
            name.trim_start_matches("RPC").parse::<u32>().unwrap()
        });
        Self { servers }
    }

    fn builder(&self, path: &Path) -> MoeModelBuilder {
        let builder = on_cpu(path).threads(1).context_tokens(128);
        self.servers.iter().fold(builder, |builder, server| builder.rpc_server(&server.endpoint))
    }

    fn endpoints(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.endpoint.clone()).collect()
    }

    /// The names, which depend on what else this process connected.
    fn names(&self) -> Vec<String> {
        self.servers.iter().map(|server| device_at(&server.endpoint).unwrap().name).collect()
    }
}

fn device_at(endpoint: &str) -> Option<Device> {
    connect_rpc(endpoint).ok()?;
    devices().unwrap().into_iter().find(|device| device.description == endpoint)
}

/// The structure of a published model with so many layers.
fn small(folder: &Path, arch: &str, layers: u32) -> PathBuf {
    made(folder, arch, &SynthOptions::tiny().layers(layers))
}

fn text(model: &mut MoeModel) -> moe_offload::Result<String> {
    let options = greedy(16);
    model.chat(&[Message::user("What is an expert?")], &options)?.text()
}

#[test]
fn names_are_unique_and_stay() {
    let mut three = Three::start();
    let names = three.names();
    assert!(names.iter().all(|name| name.starts_with("RPC")), "{names:?}");
    assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2], "{names:?}");
    for (server, name) in three.servers.iter().zip(&names) {
        let device = device_at(&server.endpoint).unwrap();
        assert_eq!((device.kind, device.backend.as_str()), (DeviceKind::Remote, "RPC"));
        assert_eq!(device.name, *name);
        assert!(device.total_bytes.unwrap() >= device.free_bytes.unwrap());
        assert!(device.alignment_bytes.unwrap() > 0);
    }
    // In another order, and after one died and came back.
    three.servers.reverse();
    let endpoint = three.servers[0].endpoint.clone();
    three.servers[0].kill();
    let gone = devices().unwrap();
    assert!(!gone.iter().any(|device| device.description == endpoint), "{gone:?}");
    three.servers[0] = Server::start_at(endpoint);
    assert!(three.names().iter().eq(names.iter().rev()), "{names:?}");
}

/// The engine's scheduler has room for 15 devices beside the CPU, and its array of shares for 16.
#[test]
fn as_many_devices_as_the_engine_takes_and_no_more() {
    let scratch = tempfile::tempdir().unwrap();
    let path = small(scratch.path(), "mixtral-8x7b", 20);
    let servers: Vec<Server> = (0..18).map(|_| Server::start()).collect();
    let load = |count: usize| {
        let builder = on_cpu(&path).threads(1).context_tokens(128);
        let builder = builder.policy(OffloadPolicy::None);
        let servers = servers[..count].iter();
        servers.fold(builder, |builder, server| builder.rpc_server(&server.endpoint)).load()
    };
    for count in [16, 18] {
        let error = load(count).map(|_| ()).unwrap_err();
        let Error::TooManyDevices { count: used, most: 15 } = error else { panic!("{error}") };
        assert_eq!(used, count);
    }
    let mut model = load(15).unwrap();
    assert_eq!(model.plan().devices().len(), 16);
    assert!(model.plan().devices()[..15].iter().all(|device| device.weights_bytes > 0));
    model.generate("Hello", &greedy(2)).unwrap().text().unwrap();
}

#[test]
fn each_server_holds_what_the_plan_says() {
    let three = Three::start();
    let names = three.names();
    let mut alone = on_cpu(demo()).threads(1).context_tokens(128).load().unwrap();
    let expected = text(&mut alone).unwrap();
    let [a, b, c] = [&names[0], &names[1], &names[2]];
    let policy = format!("layers:0={b};layers:1,2={c};regex:blk\\.3\\..*exps={a}");
    let mut model = three.builder(&demo()).policy(policy.parse().unwrap()).load().unwrap();
    assert!(model.verify().holds(), "{}", model.verify());
    let experts = model.plan().model().expert_bytes;
    for (name, share) in [(a, experts / 4), (b, experts / 4), (c, experts / 2)] {
        assert_eq!(model.plan().device(name).unwrap().expert_bytes, share, "{name}");
        let measured = model.memory().iter().find(|memory| memory.name == **name).unwrap();
        assert_eq!(measured.weights_bytes, model.plan().device(name).unwrap().weights_bytes);
    }
    assert_eq!(text(&mut model).unwrap(), expected);
}

#[test]
fn an_address_names_a_server_in_any_order() {
    let mut three = Three::start();
    let names = three.names();
    let [first, last] = [0, 2].map(|i: usize| three.servers[i].endpoint.clone());
    let policy = format!("layers:0={last};regex:blk\\.3\\..*exps={first};all-experts");
    for _ in 0..2 {
        let builder = three.builder(&demo()).policy(policy.parse().unwrap());
        let builder = builder.device_budget(&last, 64 << 20);
        let plan = builder.load().unwrap().plan().clone();
        let experts = plan.model().expert_bytes / 4;
        for (name, bytes) in [(&names[0], experts), (&names[1], 0), (&names[2], experts)] {
            assert_eq!(plan.device(name).unwrap().expert_bytes, bytes, "{plan}");
        }
        assert_eq!(plan.device(&names[2]).unwrap().free_bytes, Some(64 << 20));
        three.servers.reverse();
    }
}

#[test]
fn each_device_keeps_its_budget() {
    let scratch = tempfile::tempdir().unwrap();
    let path = small(scratch.path(), "mixtral-8x7b", 24);
    let three = Three::start();
    let names = three.names();
    let load = |policy: &str, budgets: &[u64]| {
        let budgets = names.iter().zip(budgets);
        let builder = three.builder(&path).policy(policy.parse().unwrap()).micro_batch_tokens(8);
        budgets.fold(builder, |builder, (name, budget)| builder.device_budget(name, *budget)).load()
    };
    let model = load("none", &[]).unwrap();
    let needs: Vec<u64> =
        names.iter().map(|name| model.plan().device(name).unwrap().total_bytes).collect();
    let experts = model.plan().model().expert_bytes;
    drop(model);

    // Budgets in which not everything fits, and which differ.
    let all: u64 = needs.iter().sum();
    let budgets = [all / 4, all / 6, all / 3];
    let model = load("fit", &budgets).unwrap();
    assert!(model.verify().holds(), "{}", model.verify());
    for (name, budget) in names.iter().zip(budgets) {
        let measured = model.memory().iter().find(|memory| memory.name == *name).unwrap();
        let held = measured.total_bytes();
        assert!(held <= budget, "{name} holds {held} of {budget}\n{}", model.plan());
        assert!(model.plan().device(name).unwrap().expert_bytes > 0, "{}", model.plan());
    }
    let placed = model.plan().expert_bytes_on_devices();
    assert!(placed > experts / 4 && placed < experts, "{placed} of {experts}");
    drop(model);

    let error = load("none", &[all / 4, all / 6, 4096]).unwrap_err();
    assert!(
        matches!(&error, Error::DoesNotFit { device, .. } if names.contains(device)),
        "{error}"
    );
}

#[test]
fn a_server_that_dies_is_named() {
    let mut three = Three::start();
    let mut model = three.builder(&demo()).load().unwrap();
    text(&mut model).unwrap();
    three.servers[1].kill();
    let error = text(&mut model).unwrap_err();
    let dead = &three.servers[1].endpoint;
    assert!(matches!(&error, Error::RpcLost { endpoint, .. } if endpoint == dead), "{error}");
    drop(model);
    let error = three.builder(&demo()).load().unwrap_err();
    assert!(
        matches!(&error, Error::RpcUnreachable { endpoint, .. } if endpoint == dead),
        "{error}"
    );
}

#[test]
fn a_device_that_the_plan_does_not_use_is_left_alone() {
    let mut three = Three::start();
    let names = three.names();
    let policy = format!("regex:.={}", names[0]);
    let budgeted = || {
        // No layer for the others, so nothing at all.
        three
            .builder(&demo())
            .policy(policy.parse().unwrap())
            .device_budget(&names[1], 0)
            .device_budget(&names[2], 0)
    };
    let plan = budgeted().forecast().unwrap();
    assert!(plan.device(&names[2]).is_some_and(|device| device.layers == 0), "{plan}");
    let mut model = budgeted().load().unwrap();
    assert!(model.verify().holds(), "{}", model.verify());
    let before = rpc_traffic(&three.servers[2].endpoint).unwrap();
    let expected = text(&mut model).unwrap();
    // Other tests of this process ask it for its free memory.
    let after = rpc_traffic(&three.servers[2].endpoint).unwrap();
    assert!(after.sent_bytes - before.sent_bytes < 1024, "{before:?} {after:?}");
    assert_eq!(after.one_way_requests, before.one_way_requests);
    three.servers[2].kill();
    assert_eq!(text(&mut model).unwrap(), expected);
    // Nor does the stored plan need it.
    drop(model);
    let mut model =
        on_cpu(demo()).threads(1).rpc_server(&three.servers[0].endpoint).plan(plan).load().unwrap();
    assert_eq!(text(&mut model).unwrap(), expected);
}

#[test]
fn a_device_that_is_not_there_is_an_error_that_lists_those_that_are() {
    let three = Three::start();
    let names = three.names();
    let load = |builder: MoeModelBuilder| builder.load().unwrap_err();
    for policy in ["layers:0=CUDA7", "regex:exps=CUDA7;all-experts"] {
        let error = load(three.builder(&demo()).policy(policy.parse().unwrap()));
        let Error::UnknownDevice { name, known } = &error else { panic!("{error}") };
        assert!(name == "CUDA7" && names.iter().all(|name| known.contains(name)), "{error}");
    }
    let error = load(three.builder(&demo()).device_budget("CUDA7", 1));
    assert!(matches!(&error, Error::UnknownDevice { known, .. } if *known == names), "{error}");

    // A stored plan, after a server went away, and without naming one.
    let policy = format!("layers:0={};all-experts", names[2]);
    let plan = three.builder(&demo()).policy(policy.parse().unwrap()).forecast().unwrap();
    let plan: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    let two = || {
        let builder = on_cpu(demo()).threads(1).plan(plan.clone());
        three.servers[..2]
            .iter()
            .fold(builder, |builder, server| builder.rpc_server(&server.endpoint))
    };
    for error in [load(two()), two().make_plan().unwrap_err(), two().forecast().unwrap_err()] {
        let Error::PlannedDeviceMissing { name, server, known } = &error else { panic!("{error}") };
        let endpoints = three.endpoints();
        assert!(*name == names[2] && server.as_ref() == Some(&endpoints[2]), "{error}");
        assert_eq!(known.len(), 2, "{error}");
        let text = error.to_string();
        assert!(names.iter().all(|name| text.contains(name.as_str())), "{text}");
        assert!(endpoints.iter().all(|endpoint| text.contains(endpoint.as_str())), "{text}");
    }
}

/// A quarter of the experts on the first server, a half on the second, none on the third, where the
/// output is.
fn uneven_plan(three: &Three) -> Plan {
    let [first, second] = [0, 1].map(|i: usize| three.servers[i].endpoint.clone());
    let policy = format!("layers:0={first};layers:1,2={second};all-experts");
    three.builder(&demo()).policy(policy.parse().unwrap()).forecast().unwrap()
}

/// The same plan as a process stores it that numbers its servers otherwise.
fn with_names_turned(plan: &Plan, names: &[String]) -> Plan {
    let mut json = serde_json::to_string(plan).unwrap();
    for (i, name) in names.iter().enumerate() {
        json = json.replace(&format!("{name}\""), &format!("<{i}>\""));
        json = json.replace(&format!("={name};"), &format!("=<{i}>;"));
    }
    for i in 0..names.len() {
        json = json.replace(&format!("<{i}>"), &names[(i + 1) % names.len()]);
    }
    serde_json::from_str(&json).unwrap()
}

#[test]
fn a_stored_plan_finds_its_servers_by_their_addresses() {
    let mut three = Three::start();
    let names = three.names();
    let plan = uneven_plan(&three);
    let stored = with_names_turned(&plan, &names);
    assert_ne!(stored, plan);
    for _ in 0..2 {
        let made = three.builder(&demo()).plan(stored.clone()).make_plan().unwrap();
        assert_eq!(made, plan);
        let model = three.builder(&demo()).plan(stored.clone()).load().unwrap();
        assert!(model.verify().holds(), "{}", model.verify());
        for (name, endpoint) in names.iter().zip(plan.devices()).map(|(n, d)| (n, &d.server)) {
            assert_eq!(model.plan().device(name).unwrap().server, *endpoint);
            let measured = model.memory().iter().find(|memory| memory.name == *name).unwrap();
            assert_eq!(measured.weights_bytes, plan.device(name).unwrap().weights_bytes);
        }
        three.servers.reverse();
    }
    // Another server under one of the addresses' numbers is not taken for it.
    let builder = on_cpu(demo()).plan(stored);
    let other = Server::start();
    let builder = builder.rpc_server(&other.endpoint).rpc_server(&three.servers[1].endpoint);
    let error = builder.load().unwrap_err();
    assert!(matches!(error, Error::PlannedDeviceMissing { .. }), "{error}");
}

#[test]
fn another_process_finds_the_servers_of_a_stored_plan_in_any_order() {
    let scratch = tempfile::tempdir().unwrap();
    let three = Three::start();
    let names = three.names();
    let plan = uneven_plan(&three);
    let path = scratch.path().join("plan.json").display().to_string();
    std::fs::write(&path, serde_json::to_string(&plan).unwrap()).unwrap();
    let ends = three.endpoints();
    for order in [[2, 0, 1], [1, 2, 0]] {
        let mut arguments = vec!["--plan", &path, "--threads", "1", "--prompt", "Hello"];
        arguments.extend(["--max-tokens", "2", "--stats", "json"]);
        for i in order {
            arguments.extend(["--rpc", &ends[i]]);
        }
        let output = run("chat", &arguments);
        let said = String::from_utf8_lossy(&output.stdout);
        let json = said.lines().last().unwrap_or_else(|| panic!("{output:?}"));
        let stats: serde_json::Value = serde_json::from_str(json).unwrap();
        // There the servers have the numbers of the order in which they were named.
        for (number, &i) in order.iter().enumerate() {
            let rows = stats["devices"].as_array().unwrap();
            let row = rows.iter().find(|row| row["name"] == format!("RPC{number}")).unwrap();
            assert_eq!(
                row["weights_bytes"],
                plan.device(&names[i]).unwrap().weights_bytes,
                "{row}"
            );
        }
    }
}

#[test]
fn a_plan_made_without_the_engine_may_name_servers_by_address() {
    let three = Three::start();
    let ends = three.endpoints();
    let policy: OffloadPolicy = format!("layers:0={};all-experts", ends[1]).parse().unwrap();
    let planned: Vec<Device> = ends.iter().rev().map(Device::new).collect();
    let gguf = GgufFile::open(demo()).unwrap();
    let context = ContextOptions::with_context_tokens(128);
    let plan = policy.plan(&gguf, &planned, &context).unwrap();
    let model = three.builder(&demo()).plan(plan.clone()).load().unwrap();
    assert!(model.verify().holds(), "{}", model.verify());
    for (name, end) in three.names().iter().zip(&ends) {
        let (now, then) = (model.plan().device(name).unwrap(), plan.device(end).unwrap());
        assert_eq!((now.weights_bytes, now.layers), (then.weights_bytes, then.layers));
        assert_eq!(
            now.server.as_deref(),
            Some(end.as_str()),
            "to be found again when it is stored"
        );
    }
}

#[test]
fn without_any_device_the_plan_says_so_and_the_cpu_does_it() {
    let mut model = on_cpu(demo()).threads(1).context_tokens(128).load().unwrap();
    if model.plan().devices().len() > 1 {
        return; // this machine has a GPU
    }
    let said = model.plan().to_string();
    assert!(said.contains("(no GPU or other device: everything stays in CPU memory)"), "{said}");
    assert!(!text(&mut model).unwrap().is_empty());
}

/// Only tensors over 10 MiB are kept; here it is the output.
#[test]
fn a_server_with_a_cache_is_not_sent_the_same_weights_again() {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = SynthOptions::tiny().layers(2);
    options.vocab = Some(200_000);
    let path = made(scratch.path(), "mixtral-8x7b", &options);
    let cache = scratch.path().join("cache");
    let load = || {
        let server = Server::with_cache(&cache);
        let model = on_cpu(&path).threads(1).context_tokens(64).rpc_server(&server.endpoint);
        let model = model.load().unwrap();
        assert!(model.verify().holds(), "{}", model.verify());
        rpc_traffic(&server.endpoint).unwrap().sent_bytes
    };
    let files = || -> Vec<PathBuf> {
        cache.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let first = load();
    let kept = files();
    let bytes: u64 = kept.iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes > 10 << 20 && first > bytes, "{first} bytes sent, {bytes} kept");
    let second = load();
    assert!(second < first - bytes + (1 << 20), "{second} after {first}, {bytes} kept");

    // A server that was ended while it wrote: the half file is not taken for the whole.
    let file = std::fs::File::options().write(true).open(&kept[0]).unwrap();
    file.set_len(1 << 20).unwrap();
    drop(file);
    let third = load();
    assert!(third > bytes, "{third} sent although the cache was damaged");
    assert_eq!(files().len(), kept.len());
}
