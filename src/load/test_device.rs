//! What a graphics card is given to do, seen on any machine: tests with the shim's device that computes on the CPU. Each is
//! a process of its own, as all loads of a process see its devices.

use std::process::Command;

use moe_offload_synth::{self as synth, GgmlType, SynthOptions};

use crate::engine::PlantedDevice;
use crate::plan::Decision;
use crate::{Error, LoadMode, MoeModel, MoeModelBuilder};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");
const DEVICE: &str = "PLANTED0";
const GIB: u64 = 1 << 30;

/// Runs this test again in a process that has such a device.
fn with_device(test: &str, body: impl FnOnce()) {
    const CHILD: &str = "MOE_OFFLOAD_TEST_HAS_A_DEVICE";
    if std::env::var_os(CHILD).is_some() {
        PlantedDevice { total_bytes: GIB, offloads: true, ..PlantedDevice::default() }
            .plant()
            .unwrap();
        body();
        println!("went well");
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let this = format!("load::test_device::{test}");
    let output = command
        .args([&this, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env("CUDA_VISIBLE_DEVICES", "")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("went well"), "{said}{errors}");
}

fn builder() -> MoeModelBuilder {
    let policy = "all-experts".parse().unwrap();
    MoeModel::builder(MODEL).policy(policy).threads(1).context_tokens(512)
}

/// Multiplications with experts that the device does for a batch of so many tokens.
fn offloaded(model: &mut MoeModel, tokens: usize) -> u64 {
    let before = PlantedDevice::expert_operations();
    model.context.truncate(0, None).unwrap();
    model.context.decode(&vec![5; tokens]).unwrap();
    model.context.synchronize().unwrap();
    PlantedDevice::expert_operations() - before
}

#[test]
fn experts_are_computed_where_the_model_s_own_number_says() {
    with_device("experts_are_computed_where_the_model_s_own_number_says", || {
        let load = |from| builder().expert_offload_tokens(from).load().unwrap();
        let (mut each, mut four, mut prompts) = (load(1), load(4), load(32));
        let layers = u64::from(each.plan().model().expert_layers);
        let all = offloaded(&mut each, 1);
        assert!(all >= 2 * layers, "{all} of {layers} layers");
        // Of a prompt, the last layer computes only the token whose result is wanted.
        let prompt = all - all / layers;
        // In turn, as all three are on this thread.
        for tokens in [1, 3, 4, 31, 32, 3] {
            let expected = |from: usize| match from {
                1 => all,
                _ if tokens >= from => prompt,
                _ => 0,
            };
            assert_eq!(offloaded(&mut each, tokens), expected(1), "{tokens}");
            assert_eq!(offloaded(&mut four, tokens), expected(4), "{tokens}");
            assert_eq!(offloaded(&mut prompts, tokens), expected(32), "{tokens}");
        }
        let mut never = load(513);
        assert_eq!(offloaded(&mut never, 512), 0);
        // Buffers for the copies are planned, or not taken.
        for model in [&each, &four, &prompts, &never] {
            assert!(model.verify().holds(), "{}", model.verify());
        }
        let compute = |from| {
            let builder = builder().micro_batch_tokens(32).expert_offload_tokens(from);
            builder.forecast().unwrap().device(DEVICE).unwrap().compute_bytes
        };
        assert!(compute(33) < compute(1), "{:?}, {:?}", compute(33), compute(1));
        // A second context keeps to it too.
        let mut another = each.another().unwrap();
        assert_eq!(offloaded(&mut another, 1), all);
    });
}

#[test]
fn where_a_token_s_experts_are_computed_is_measured_while_loading() {
    with_device("where_a_token_s_experts_are_computed_is_measured_while_loading", || {
        let mut model = builder().load().unwrap();
        let chosen = model.expert_offload().unwrap();
        let times = chosen.measured.unwrap();
        assert!(times.cpu_seconds > 0.0 && times.device_seconds > 0.0, "{times:?}");
        assert_eq!(model.stats().expert_offload, Some(chosen));
        // What was tried has no say in what is computed later, and the choice has.
        let expected = offloaded(&mut model, 1) > 0;
        assert_eq!(chosen.from_tokens, expected.then_some(1), "{chosen}");
        let options = crate::GenerateOptions::default().max_tokens(12);
        let options = options.sampling(crate::Sampling::greedy());
        let text = |model: &mut MoeModel| model.generate("Experts", &options)?.text();
        let mut fixed = builder().expert_offload_tokens(32).load().unwrap();
        assert_eq!(fixed.expert_offload().unwrap().measured, None);
        assert_eq!(text(&mut model).unwrap(), text(&mut fixed).unwrap());
        assert!(model.verify().holds(), "{}", model.verify());
        // Nothing to choose.
        for (policy, offload) in [("none", true), ("all-experts", false)] {
            let builder = builder().policy(policy.parse().unwrap()).operation_offload(offload);
            assert_eq!(builder.load().unwrap().expert_offload(), None, "{policy}");
        }
        let cancel = crate::CancelHandle::new();
        cancel.cancel();
        assert!(matches!(builder().cancel(&cancel).load(), Err(Error::Cancelled { .. })));
    });
}

fn pinned_bytes(model: &MoeModel) -> u64 {
    model.memory().last().and_then(|cpu| cpu.host).unwrap().pinned_bytes
}

#[test]
fn weights_that_a_device_computes_with_are_pinned_by_default() {
    with_device("weights_that_a_device_computes_with_are_pinned_by_default", || {
        let fixed = || builder().expert_offload_tokens(32);
        let plan = fixed().forecast().unwrap();
        let cpu = plan.device("cpu").unwrap();
        let pinned = Decision::PinnedWeights { weights_bytes: cpu.weights_bytes };
        assert!(plan.decisions().contains(&pinned), "{plan}");
        let model = fixed().load().unwrap();
        assert_eq!(model.load_mode(), LoadMode::Read);
        assert!(pinned_bytes(&model) >= cpu.weights_bytes, "{:?}", model.memory());
        assert!(cpu.host.unwrap().pinned_bytes >= cpu.weights_bytes);
        assert_eq!(cpu.host.unwrap().mapped_bytes, 0);

        // Memory of ours, which is pinned when it is read and no longer than it is there.
        assert!(PlantedDevice::pinned_bytes() >= cpu.weights_bytes);
        // What several threads read is what the engine maps.
        let text = |mut model: MoeModel| {
            let options = crate::GenerateOptions::default().max_tokens(24);
            let options = options.sampling(crate::Sampling::greedy());
            model.generate("What is an expert?", &options).unwrap().text().unwrap()
        };
        let expected = text(fixed().load_mode(LoadMode::Mapped).load().unwrap());
        assert_eq!(text(model), expected);
        for mode in [LoadMode::Huge, LoadMode::Locked] {
            match fixed().load_mode(mode).load() {
                Err(Error::HostMemory { .. }) => {}
                model => assert_eq!(text(model.unwrap()), expected, "{mode}"),
            }
        }
        let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = std::sync::Arc::clone(&told);
        let model = fixed().on_progress(move |done| sink.lock().unwrap().push(done)).load();
        drop(model.unwrap());
        let told = told.lock().unwrap();
        assert!(told.is_sorted() && told.last() == Some(&1.0), "{told:?}");
        assert_eq!(PlantedDevice::pinned_bytes(), 0);
        let asked = fixed().load_mode(LoadMode::Pinned).load().unwrap();
        assert_eq!(asked.load_mode(), LoadMode::Pinned);
        assert!(pinned_bytes(&asked) >= cpu.weights_bytes);
        drop(asked);

        // Without the memory for it.
        let model = fixed().device_budget("cpu", cpu.total_bytes).load().unwrap();
        assert_eq!(model.load_mode(), LoadMode::Auto);
        assert!(pinned_bytes(&model) < cpu.weights_bytes, "{:?}", model.memory());
        let is_told = |decision: &Decision| matches!(decision, Decision::MappedWeights { available_bytes: Some(bytes), .. } if *bytes == cpu.total_bytes);
        assert!(model.plan().decisions().iter().any(is_told), "{}", model.plan());

        // Where no device computes with them, and where it was said.
        let off = builder().operation_offload(false).load().unwrap();
        let none = builder().policy("none".parse().unwrap()).load().unwrap();
        let mapped = fixed().load_mode(LoadMode::Mapped).load().unwrap();
        for model in [off, none, mapped] {
            assert_ne!(model.load_mode(), LoadMode::Read);
            assert!(!model.plan().decisions().contains(&pinned), "{}", model.plan());
        }
    });
}

/// Experts of a type that the CPU has another layout for.
fn repackable() -> tempfile::TempPath {
    let family = synth::family("mixtral-8x7b").unwrap();
    let options = SynthOptions::tiny().expert_type(GgmlType::from_name("q4_0").unwrap());
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    family.build(&options).unwrap().save(&path, 1, |_| {}).unwrap();
    path
}

#[test]
fn memory_that_is_held_by_hand_keeps_a_layout_that_devices_compute_with() {
    with_device("memory_that_is_held_by_hand_keeps_a_layout_that_devices_compute_with", || {
        let path = repackable();
        let load = |mode, offload: bool| {
            let policy = "all-experts".parse().unwrap();
            let builder = MoeModel::builder(&*path).policy(policy).threads(1).context_tokens(512);
            builder.operation_offload(offload).load_mode(mode).load()
        };
        let mut seen = 0;
        for mode in [LoadMode::Huge, LoadMode::Locked] {
            // What this machine does not allow is another test's.
            let mut model = match load(mode, true) {
                Err(Error::HostMemory { .. }) => continue,
                model => model.unwrap(),
            };
            assert!(offloaded(&mut model, 64) > 0, "{mode}");
            // Pinned as it is, as the device can.
            let weights = model.memory().last().unwrap().weights_bytes;
            assert!(pinned_bytes(&model) >= weights, "{:?}", model.memory());
            assert!(PlantedDevice::pinned_bytes() >= weights);
            let told = Decision::UnpinnedWeights { load_mode: mode.to_string() };
            assert!(!model.plan().decisions().contains(&told), "{}", model.plan());
            drop(model);
            assert_eq!(PlantedDevice::pinned_bytes(), 0);
            let mut without = load(mode, false).unwrap();
            assert_eq!(offloaded(&mut without, 64), 0);
            assert_eq!(PlantedDevice::pinned_bytes(), 0);
            seen += 1;
        }
        assert!(seen > 0, "this machine has neither huge nor locked pages");
    });
}

#[test]
fn the_micro_batch_grows_as_far_as_the_device_has_room() {
    with_device("the_micro_batch_grows_as_far_as_the_device_has_room", || {
        let builder = || builder().context_tokens(4096);
        let plan = |budget: Option<u64>, builder: MoeModelBuilder| match budget {
            Some(bytes) => builder.device_budget(DEVICE, bytes).forecast().unwrap(),
            None => builder.forecast().unwrap(),
        };
        let size = |plan: &crate::Plan| plan.context().micro_batch_tokens;
        let total = |plan: &crate::Plan| plan.device(DEVICE).unwrap().total_bytes;
        let whole = plan(None, builder());
        assert_eq!(size(&whole), 2048, "{whole}");
        let said = Decision::MicroBatch { micro_batch_tokens: 2048 };
        assert!(whole.decisions().contains(&said), "{whole}");
        assert!(whole.to_string().contains("chose: 2048 tokens computed at once"), "{whole}");
        let middle = plan(Some(total(&whole) - 1), builder());
        assert_eq!(size(&middle), 1024, "{middle}");
        let small = plan(Some(total(&middle) - 1), builder());
        assert_eq!(
            (
                size(&small),
                small.decisions().iter().any(|d| matches!(d, Decision::MicroBatch { .. }))
            ),
            (512, false)
        );
        // What is said is kept, and nothing is gained where no device computes with experts of the CPU's.
        assert_eq!(size(&plan(None, builder().micro_batch_tokens(512))), 512);
        assert_eq!(size(&plan(None, builder().operation_offload(false))), 512);
        assert_eq!(size(&plan(None, builder().policy("none".parse().unwrap()))), 512);
        assert_eq!(size(&plan(None, builder().context_tokens(1024))), 1024);
        // It is loaded so, and the plan is exact.
        let model = builder().load().unwrap();
        assert!(model.verify().holds(), "{}", model.verify());
    });
}

#[test]
fn a_micro_batch_too_large_for_the_device_is_named_as_the_cause() {
    with_device("a_micro_batch_too_large_for_the_device_is_named_as_the_cause", || {
        let load = |policy: &str, context_tokens, micro_batch_tokens, budget| {
            let builder = builder().policy(policy.parse().unwrap()).context_tokens(context_tokens);
            builder.micro_batch_tokens(micro_batch_tokens).device_budget(DEVICE, budget).load()
        };
        let advice = "use a smaller micro-batch (`micro_batch_tokens`)";
        for policy in ["none", "fit", "all-experts"] {
            let error = load(policy, 8192, 8192, 48 << 20).unwrap_err();
            assert!(
                matches!(&error, Error::DoesNotFit { device, .. } if device == DEVICE),
                "{error}"
            );
            assert!(error.to_string().contains(advice), "{policy}: {error}");
            load(policy, 8192, 64, 48 << 20).unwrap();
            // The cache alone is too large.
            let error = load(policy, 100_000, 64, 48 << 20).unwrap_err();
            assert!(matches!(error, Error::DoesNotFit { .. }), "{error}");
            assert!(!error.to_string().contains("micro_batch_tokens"), "{policy}: {error}");
        }
    });
}
