//! One device of this machine: a GPU where there is one, else an RPC server in its stead.
//!
//! `MOE_OFFLOAD_TEST_GPU=1` asks for a real one: without it the tests fail.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use moe_offload::{Device, DeviceKind, Message, MoeModel, MoeModelBuilder, devices};
use moe_offload_synth::SynthOptions;
use support::generate::greedy;
use support::load::on_cpu;
use support::model_files::{demo, made};
use support::process::Server;

const QUESTIONS: [&str; 8] = [
    "What does this crate do?",
    "What is an expert?",
    "How do I keep the first 4 layers on the CPU?",
    "Tell me a story about a dragon",
    "Who are you?",
    "Why is the sky blue?",
    "What is a policy?",
    "Hello",
];

/// Of the texts, so many must be the CPU's to the last letter; the others must begin alike. A GPU adds
/// numbers in another order, so that where two words are about as likely it may choose the other.
const SAME_TEXTS: usize = 6;
const SAME_BEGINNING: usize = 12;

struct Place {
    server: Option<Server>,
    device: Device,
}

fn place() -> Place {
    let local = devices().unwrap().into_iter().find(|device| device.kind != DeviceKind::Remote);
    if let Some(device) = local {
        return Place { server: None, device };
    }
    assert!(std::env::var_os("MOE_OFFLOAD_TEST_GPU").is_none(), "there is no GPU here");
    let server = Server::start();
    moe_offload::connect_rpc(&server.endpoint).unwrap();
    let mut all = devices().unwrap().into_iter();
    let device = all.find(|device| device.description == server.endpoint).unwrap();
    Place { server: Some(server), device }
}

impl Place {
    fn builder(&self, path: &std::path::Path, policy: &str) -> MoeModelBuilder {
        let policy = policy.replace("DEVICE", &self.device.name).parse().unwrap();
        let builder = MoeModel::builder(path).policy(policy).threads(1).context_tokens(512);
        if let Some(server) = &self.server {
            return builder.rpc_server(&server.endpoint);
        }
        // Only this one, if there are several.
        builder.local_devices(&[&self.device.name])
    }
}

fn answers(model: &mut MoeModel) -> Vec<String> {
    let options = greedy(40);
    QUESTIONS
        .iter()
        .map(|question| model.chat(&[Message::user(*question)], &options).unwrap().text().unwrap())
        .collect()
}

fn answers_of_the_cpu() -> Vec<String> {
    let builder = on_cpu(demo()).threads(1).context_tokens(512);
    let mut model = builder.load().unwrap();
    assert_eq!(model.plan().devices().len(), 1, "{}", model.plan());
    answers(&mut model)
}

#[test]
fn policies_take_effect_and_the_text_is_the_cpu_s() {
    let place = place();
    println!("on {:?}", place.device);
    let expected = answers_of_the_cpu();
    for policy in [
        "none",
        "all-experts",
        "first-layers:2",
        "layers:0,2",
        r"regex:_down_exps\.=cpu",
        r"regex:blk\.1\..*exps=DEVICE;all-experts",
        "fit",
    ] {
        let mut model = place.builder(&demo(), policy).load().unwrap();
        assert!(model.verify().holds(), "{policy}\n{}", model.verify());
        let planned = model.plan().device(&place.device.name).unwrap();
        assert!(planned.layers > 0, "{}", model.plan());
        let measured = model.memory().iter().find(|row| row.name == place.device.name).unwrap();
        let padded = planned.weights_bytes + planned.padding_bytes;
        assert_eq!(measured.weights_bytes, padded, "{policy}");
        let texts = answers(&mut model);
        let same = std::iter::zip(&texts, &expected).filter(|(a, b)| a == b).count();
        println!("{policy}: {same} of {} texts the same", texts.len());
        let needed = if place.server.is_some() { texts.len() } else { SAME_TEXTS };
        assert!(same >= needed, "{policy}: {texts:#?}\non the CPU: {expected:#?}");
        for (text, expected) in std::iter::zip(&texts, &expected) {
            let beginning: String = expected.chars().take(SAME_BEGINNING).collect();
            assert!(text.starts_with(&beginning), "{policy}: {text:?}, on the CPU: {expected:?}");
        }
    }
}

/// By the device's own account, which an RPC server does not have.
#[test]
fn the_device_s_free_memory_falls_by_what_is_planned() {
    let place = place();
    if place.server.is_some() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = made(scratch.path(), "olmoe-1b-7b", &SynthOptions::default().layers(2));
    let fell = |policy: &str| {
        let model = place.builder(&path, policy).load().unwrap();
        assert!(model.verify().holds(), "{}", model.verify());
        println!("{}", model.verify());
        let row = model.memory().iter().find(|row| row.name == place.device.name).unwrap();
        (row.free_fell_bytes, model.plan().model().expert_bytes)
    };
    let ((full, experts), (without, _)) = (fell("none"), fell("all-experts"));
    let (Some(full), Some(without)) = (full, without) else {
        println!("the driver's free memory did not move: nothing to compare");
        return;
    };
    // Drivers hand memory out in large pieces, and others may use the device too.
    let tolerance = 64 << 20;
    assert!((full - without).abs_diff(experts) < tolerance, "{full} - {without}, not {experts}");
}
