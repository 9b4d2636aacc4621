//! Doing one task, in this process.

use std::path::Path;
use std::time::SystemTime;

use moe_offload::plan::{CPU, DISK, NOT_LOADED};
use moe_offload::tune::Environment;
use moe_offload::{
    Device, DeviceKind, Error, GenerateOptions, MoeModel, Plan, Sampling, connect_rpc, devices,
};

use super::builder::builder;
use super::compare;
use super::energy::Meter;
use super::error::{BenchError, BenchResult};
use super::process_memory::{self, ProcessMemory};
use super::protocol::{Prompt, Protocol, Setting};
use super::record::{Answer, LayerPlace, Record, SpeedRecord};
use super::task::Task;

/// Does a task and returns its record. Best in a process of its own, so that peaks of memory and
/// what is in the caches are not another task's. `scratch` is a folder for the baseline's logits.
///
/// A policy that does not fit is a record ([`Record::DoesNotFit`]), no error.
///
/// # Errors
/// Whatever else goes wrong.
pub fn measure(protocol: &Protocol, task: &Task, scratch: &Path) -> BenchResult<Record> {
    protocol.check()?;
    let done = match task {
        Task::Environment => environment(protocol).map(Record::Environment),
        Task::Speed { setting, repetition } => speed(protocol, setting, *repetition),
        Task::Quality { setting } => compare::quality(protocol, setting, scratch),
        Task::ExpertUse { setting } => expert_use(protocol, setting),
    };
    match done {
        Err(BenchError::Model(Error::DoesNotFit { device, needed_bytes, free_bytes, .. })) => {
            Ok(Record::DoesNotFit { task: task.clone(), device, needed_bytes, free_bytes })
        }
        done => done,
    }
}

fn environment(protocol: &Protocol) -> BenchResult<Environment> {
    let models = protocol.models.iter().map(|model| (&*model.name, &*model.path));
    Ok(Environment::look(models, &protocol.rpc_servers)?)
}

/// The devices of this machine and of the protocol's servers.
pub(super) fn devices_of(protocol: &Protocol) -> BenchResult<Vec<Device>> {
    let servers = &protocol.rpc_servers;
    servers.iter().try_for_each(|endpoint| connect_rpc(endpoint))?;
    let mut devices = devices()?;
    let is_of_it = |device: &Device| servers.contains(&device.description);
    devices.retain(|device| device.kind != DeviceKind::Remote || is_of_it(device));
    Ok(devices)
}

fn speed(protocol: &Protocol, setting: &Setting, repetition: u32) -> BenchResult<Record> {
    let mut model = builder(protocol, setting)?.load()?;
    let load_peak_bytes = process_memory::peak_bytes();
    let is_reset = process_memory::reset_peak();
    for _ in 0..protocol.warm_up_rounds {
        answers(protocol, &mut model)?;
    }
    let meter = Meter::start();
    let answers = answers(protocol, &mut model)?;
    let energy = meter.map(Meter::stop);
    let answer_peak_bytes = process_memory::peak_bytes().filter(|_| is_reset);
    let stats = model.stats();
    Ok(Record::Speed(SpeedRecord {
        setting: setting.clone(),
        repetition,
        policy: model.plan().policy().to_string(),
        load_seconds: stats.load_seconds,
        answers,
        memory: model.memory().to_vec(),
        devices: devices_of(protocol)?,
        expected: None,
        placement: placement(model.plan()),
        process: ProcessMemory { load_peak_bytes, answer_peak_bytes },
        energy,
        task_seconds: 0.0,
    }))
}

fn answers(protocol: &Protocol, model: &mut MoeModel) -> BenchResult<Vec<Answer>> {
    protocol.prompts.iter().map(|prompt| answer(protocol, model, prompt)).collect()
}

fn answer(protocol: &Protocol, model: &mut MoeModel, prompt: &Prompt) -> BenchResult<Answer> {
    model.forget()?;
    let options = GenerateOptions::default()
        .max_tokens(protocol.answer_tokens)
        .sampling(Sampling::greedy().seed(protocol.seed));
    let started = SystemTime::now();
    model.generate(&prompt.text, &options)?.text()?;
    // A clock that was set back meanwhile gives 0, which the check finds.
    let wall_seconds = started.elapsed().map_or(0.0, |wall| wall.as_secs_f64());
    let stats = model.stats();
    Ok(Answer {
        prompt: prompt.name.clone(),
        prompt_tokens: stats.prompt_tokens,
        reused_tokens: stats.reused_tokens,
        answer_tokens: stats.generated_tokens,
        first_token_seconds: stats.first_token_seconds,
        prefill_tokens_per_second: stats.prefill_tokens_per_second,
        decode_tokens_per_second: stats.decode_tokens_per_second,
        wall_seconds,
    })
}

fn expert_use(protocol: &Protocol, setting: &Setting) -> BenchResult<Record> {
    let seconds = |model: &mut MoeModel| -> BenchResult<f64> {
        answers(protocol, model)?; // warm
        Ok(answers(protocol, model)?.iter().map(|answer| answer.wall_seconds).sum())
    };
    let uncounted_seconds = seconds(&mut builder(protocol, setting)?.load()?)?;
    let mut model = builder(protocol, setting)?.watch_experts(true).load()?;
    let counted_seconds = seconds(&mut model)?;
    let counted = model.expert_use().ok_or_else(|| BenchError::Task {
        task: Task::ExpertUse { setting: setting.clone() }.to_string(),
        reason: "the routers' choices could not be read".to_owned(),
    })?;
    let setting = setting.clone();
    Ok(Record::ExpertUse { setting, counted, counted_seconds, uncounted_seconds })
}

fn placement(plan: &Plan) -> Vec<LayerPlace> {
    let mut places: Vec<LayerPlace> = (0..plan.model().layers)
        .map(|layer| LayerPlace {
            layer,
            device: CPU.to_owned(),
            expert_bytes_on_devices: 0,
            expert_bytes_on_cpu: 0,
        })
        .collect();
    // Experts on disk are in no memory.
    let is_in_memory = |device: &str| ![NOT_LOADED, DISK].contains(&device);
    for placed in plan.tensors().iter().filter(|placed| is_in_memory(&placed.device)) {
        let layer = placed.tensor.layer.and_then(|layer| usize::try_from(layer).ok());
        let Some(place) = layer.and_then(|layer| places.get_mut(layer)) else { continue };
        match (placed.tensor.kind.is_expert(), placed.device == CPU) {
            (true, true) => place.expert_bytes_on_cpu += placed.tensor.bytes,
            (true, false) => place.expert_bytes_on_devices += placed.tensor.bytes,
            (false, true) => {}
            (false, false) => place.device.clone_from(&placed.device),
        }
    }
    places
}
