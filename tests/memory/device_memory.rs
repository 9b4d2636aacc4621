//! What a card does with memory, by a device of the tests' own (`PlantedDevice`): it pads rows, tells what is free,
//! and takes memory for computing that the engine does not count. A process has one, so each test has a process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use moe_offload::experts::TensorKind;
use moe_offload::gguf::GgmlType;
use moe_offload::plan::Placement;
use moe_offload::{
    ContextOptions, Device, DeviceKind, DeviceMemory, Error, Generation, GgufFile, MoeModel,
    MoeModelBuilder, OffloadPolicy, PlantedDevice, devices,
};
use moe_offload_synth::{self as synth, SynthOptions};

use crate::support::alone::ran_alone;
use crate::support::generate::greedy;
use crate::support::model_files::made;

const NAME: &str = "PLANTED0";
const CONTEXT: u32 = 300;
const MICRO_BATCH: u32 = 64;
const MIB: u64 = 1 << 20;

/// A card with room for all of the models here, that pads as CUDA does and hides nothing.
const CARD: PlantedDevice = PlantedDevice {
    total_bytes: 256 * MIB,
    row_padding_elements: 512,
    hidden_bytes: 0,
    hidden_bytes_per_token: 0,
    aborts: false,
    offloads: false,
};

/// Makes the device so; nothing may be loaded.
fn plant(planted: PlantedDevice) -> Device {
    planted.plant().unwrap();
    let device = look();
    assert_eq!((device.kind, device.free_bytes), (DeviceKind::Gpu, device.total_bytes));
    device
}

fn look() -> Device {
    devices().unwrap().into_iter().find(|device| device.name == NAME).unwrap()
}

/// On this device alone, if there are others.
fn loading(path: &Path, policy: &str) -> MoeModelBuilder {
    MoeModel::builder(path)
        .local_devices(&[NAME])
        .policy(policy.parse().unwrap())
        .context_tokens(CONTEXT)
        .micro_batch_tokens(MICRO_BATCH)
        .threads(2)
}

/// Bytes that all of the model takes on the device, by the engine's account.
fn bytes_of_all(path: &Path) -> u64 {
    on_device(&loading(path, "none").load().unwrap()).total_bytes()
}

fn on_device(model: &MoeModel) -> &DeviceMemory {
    model.memory().iter().find(|row| row.name == NAME).unwrap()
}

fn small(folder: &Path, arch: &str, layers: Option<u32>) -> PathBuf {
    let options = layers.map_or_else(SynthOptions::tiny, |n| SynthOptions::tiny().layers(n));
    made(folder, arch, &options)
}

fn text(model: &mut MoeModel) -> String {
    model.generate("The quick brown fox", &greedy(8)).unwrap().text().unwrap()
}

#[test]
fn rows_are_padded_to_the_byte_in_every_family() {
    if ran_alone() {
        return;
    }
    let device = plant(CARD);
    assert_eq!(device.row_padding_elements, Some(512));
    let scratch = tempfile::tempdir().unwrap();
    for family in synth::families() {
        let path = small(scratch.path(), family.name, None);
        let gguf = GgufFile::open(&path).unwrap();
        let kv_type = if family.architecture == "grok" { GgmlType::F16 } else { GgmlType::Q8_0 };
        let mut context = ContextOptions::with_context_tokens(CONTEXT);
        context.micro_batch_tokens = MICRO_BATCH;
        context.kv_type = kv_type;
        for policy in ["none", "all-experts"] {
            let what = format!("{} under {policy}", family.name);
            let builder = loading(&path, policy).kv_type(kv_type);
            // Without the engine: from the header, and the rule that the device told.
            let policy: OffloadPolicy = policy.parse().unwrap();
            let pure = policy.plan(&gguf, std::slice::from_ref(&device), &context).unwrap();
            let pure = pure.device(NAME).unwrap();
            let dry = builder.dry_run_memory().unwrap();
            let model = builder.load().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(model.verify().holds(), "{what}\n{}", model.verify());
            let row = on_device(&model);
            assert_eq!(row.weights_bytes, pure.weights_bytes + pure.padding_bytes, "{what}");
            assert_eq!(Some(row.context_bytes), pure.context_bytes, "{what}");
            let dry = dry.iter().find(|dry| dry.name == NAME).unwrap();
            let counted = [dry.weights_bytes, dry.context_bytes, dry.compute_bytes];
            let allocated = [row.weights_bytes, row.context_bytes, row.compute_bytes];
            assert_eq!(counted, allocated, "a dry run of {what}");
            // The device's own account knows of nothing else.
            assert_eq!(row.free_fell_bytes, Some(row.total_bytes()), "{what}");
            let mut unpadded = device.clone();
            unpadded.row_padding_elements = None;
            let unpadded = policy.plan(&gguf, &[unpadded], &context).unwrap();
            let unpadded = unpadded.device(NAME).unwrap();
            assert!(unpadded.padding_bytes < pure.padding_bytes, "{what}: nothing is padded");
            assert!(unpadded.context_bytes <= pure.context_bytes, "{what}");
        }
    }
}

/// A device of exactly the size that everything takes holds everything, and one of a byte less does not.
#[test]
fn fit_is_exact_to_the_byte() {
    if ran_alone() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    for arch in ["gpt-oss-20b", "qwen3-30b-a3b"] {
        let path = small(scratch.path(), arch, None);
        plant(CARD);
        let whole = bytes_of_all(&path);
        for (total_bytes, is_whole) in [(whole, true), (whole - 1, false)] {
            plant(PlantedDevice { total_bytes, ..CARD });
            let mut model = loading(&path, "fit").load().unwrap();
            let plan = model.plan();
            let all = plan.expert_bytes_on_devices() == plan.model().expert_bytes;
            assert_eq!(all, is_whole, "{arch} in {total_bytes} bytes\n{plan}");
            assert!(model.verify().holds(), "{}", model.verify());
            assert!(!text(&mut model).is_empty());
        }
    }
}

#[test]
fn the_warm_up_finds_what_is_hidden_and_leaves_no_trace() {
    if ran_alone() {
        return;
    }
    let (hidden_bytes, hidden_bytes_per_token) = (5 * MIB + 7, 1001);
    plant(PlantedDevice { hidden_bytes, hidden_bytes_per_token, ..CARD });
    let scratch = tempfile::tempdir().unwrap();
    let hidden = hidden_bytes + hidden_bytes_per_token * u64::from(MICRO_BATCH);
    // With attention over everything, in windows, and with recurrent layers.
    for arch in ["qwen3-30b-a3b", "gpt-oss-20b", "qwen3-next-80b-a3b", "lfm2-8b-a1b"] {
        let path = small(scratch.path(), arch, None);
        let mut cold = loading(&path, "fit").warm_up(false).load().unwrap();
        assert_eq!(on_device(&cold).overhead_bytes, None);
        let expected = text(&mut cold);
        drop(cold);

        let mut model = loading(&path, "fit").load().unwrap();
        assert_eq!(on_device(&model).overhead_bytes, Some(hidden), "{arch}");
        let verification = model.verify();
        let by_device = &verification.by_device()[0];
        assert_eq!((by_device.planned_overhead_bytes, by_device.overhead_bytes), (0, Some(hidden)));
        assert!(verification.holds() && verification.to_string().contains("overhead"));
        let stats = model.stats();
        assert_eq!(
            (stats.prompt_tokens, stats.generated_tokens, stats.checkpoint_bytes),
            (0, 0, 0)
        );
        assert_eq!(text(&mut model), expected, "{arch}");
        assert_eq!(model.stats().reused_tokens, 0);
        drop(model);

        // Another policy is only warmed up if somebody says so.
        let model = loading(&path, "all-experts").load().unwrap();
        assert_eq!(on_device(&model).overhead_bytes, None);
        drop(model);
        let model = loading(&path, "all-experts").warm_up(true).load().unwrap();
        assert_eq!(on_device(&model).overhead_bytes, Some(hidden), "{arch}");
    }
}

/// What is left after loading does not suffice to compute: an error of the load, after which all memory is free
/// again, and which says how much to hold back.
#[test]
fn too_little_left_to_compute_is_an_error_of_the_load() {
    if ran_alone() {
        return;
    }
    plant(CARD);
    let scratch = tempfile::tempdir().unwrap();
    let path = small(scratch.path(), "gpt-oss-20b", Some(24));
    let whole = bytes_of_all(&path);
    let hidden_bytes = whole / 2;
    for aborts in [false, true] {
        // There is room for everything but a byte of what is hidden.
        let total_bytes = whole + hidden_bytes - 1;
        plant(PlantedDevice { total_bytes, hidden_bytes, aborts, ..CARD });
        let error = loading(&path, "fit").load().map(|_| ()).unwrap_err();
        let Error::NoRoomToCompute { device, allocated_bytes, overhead_bytes, limit_bytes, .. } =
            &error
        else {
            panic!("{error}")
        };
        assert_eq!((device.as_str(), *allocated_bytes), (NAME, whole));
        assert!(*overhead_bytes >= hidden_bytes && *limit_bytes == total_bytes, "{error}");
        let says = if aborts { "PLANTED error" } else { "llama_decode returned -2" };
        let message = error.to_string();
        assert!(message.contains(says) && message.contains("device_overhead"), "{message}");
        assert_eq!(look().free_bytes, Some(total_bytes), "something stays allocated");

        // Without a warm-up it is the first prompt.
        let mut model = loading(&path, "fit").warm_up(false).load().unwrap();
        assert!(model.generate("Hello", &greedy(1)).and_then(Generation::text).is_err());
        drop(model);
        assert_eq!(look().free_bytes, Some(total_bytes), "something stays allocated");

        // Held back, it is there, and nothing more is left unused than the smallest tensors left out.
        let builder = loading(&path, "fit").device_overhead(NAME, hidden_bytes);
        let mut model = builder.load().unwrap();
        let plan = model.plan();
        assert_eq!(plan.device(NAME).unwrap().overhead_bytes, hidden_bytes);
        assert!(plan.expert_bytes_on_devices() < plan.model().expert_bytes, "{plan}");
        assert!(plan.expert_bytes_on_devices() > 0, "{plan}");
        assert_eq!(on_device(&model).overhead_bytes, Some(hidden_bytes));
        assert!(!text(&mut model).is_empty());
        let prompt = "word ".repeat(80);
        model.generate(&prompt, &greedy(8)).unwrap().text().unwrap();
    }
}

/// A budget is for everything that the device takes.
#[test]
fn more_than_the_budget_is_an_error_and_what_it_names_is_enough() {
    if ran_alone() {
        return;
    }
    let hidden_bytes = 2 * MIB + 5;
    plant(PlantedDevice { hidden_bytes, ..CARD });
    let scratch = tempfile::tempdir().unwrap();
    let path = small(scratch.path(), "gpt-oss-20b", Some(48));
    let budget = bytes_of_all(&path) + MIB;
    let policy = format!("fit:{budget}B");
    let error = loading(&path, &policy).load().map(|_| ()).unwrap_err();
    let Error::NoRoomToCompute { overhead_bytes, limit_bytes, reason, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((overhead_bytes, limit_bytes, reason.as_str()), (hidden_bytes, budget, ""));
    assert_eq!(look().free_bytes, Some(CARD.total_bytes));
    let builder = loading(&path, &policy).device_overhead(NAME, overhead_bytes);
    let model = builder.load().unwrap();
    let row = on_device(&model);
    assert_eq!(row.overhead_bytes, Some(hidden_bytes));
    assert!(row.total_bytes() + hidden_bytes <= budget);
    let left = budget - row.total_bytes() - hidden_bytes;
    // With their biases and padding, matrices of experts take a little more than their bytes.
    let is_left_out =
        |placed: &&Placement| placed.device == "cpu" && placed.tensor.kind.is_expert();
    let out = model.plan().tensors().iter().filter(is_left_out);
    let weights = out.filter(|placed| placed.tensor.kind != TensorKind::ExpertBias);
    let smallest = weights.map(|placed| placed.tensor.bytes).min().unwrap();
    assert!(left < smallest * 11 / 10, "{left} bytes are left\n{}", model.plan());
}

/// What others take while a model is loaded is none of its own: neither counted nor held against its budget.
#[test]
fn memory_of_others_is_not_this_load_s() {
    if ran_alone() {
        return;
    }
    let hidden_bytes = MIB;
    plant(PlantedDevice { hidden_bytes, total_bytes: 1 << 30, ..CARD });
    let scratch = tempfile::tempdir().unwrap();
    let path = small(scratch.path(), "qwen3-30b-a3b", None);
    let policy = format!("fit:{}B", bytes_of_all(&path) + hidden_bytes);
    let alone = loading(&path, &policy).device_overhead(NAME, hidden_bytes);
    assert_eq!(on_device(&alone.load().unwrap()).overhead_bytes, Some(hidden_bytes));

    // Another program.
    let elsewhere = 200 << 20;
    let mut taken = false;
    let builder = loading(&path, &policy).device_overhead(NAME, hidden_bytes);
    let model = builder.on_progress(move |_| {
        if !std::mem::replace(&mut taken, true) {
            PlantedDevice::take_elsewhere(elsewhere).unwrap();
        }
    });
    let model = model.load().unwrap();
    assert!(on_device(&model).free_fell_bytes > Some(200 << 20));
    assert_eq!(on_device(&model).overhead_bytes, None);
    drop(model);
    PlantedDevice::take_elsewhere(-elsewhere).unwrap();

    // Another load of this process.
    let other = Arc::new(Mutex::new(None));
    let builder = loading(&path, &policy).device_overhead(NAME, hidden_bytes);
    let (slot, its_path) = (Arc::clone(&other), path.clone());
    let model = builder.on_progress(move |_| {
        let mut slot = slot.lock().unwrap();
        if slot.is_none() {
            *slot = Some(loading(&its_path, "none").load().unwrap());
        }
    });
    let mut model = model.load().unwrap();
    assert_eq!(on_device(&model).overhead_bytes, None);
    assert!(!text(&mut model).is_empty());
    drop(other.lock().unwrap().take());
}

/// What is held back is part of what has to be free, also for a second context.
#[test]
fn what_is_held_back_is_reserved() {
    if ran_alone() {
        return;
    }
    plant(CARD);
    let scratch = tempfile::tempdir().unwrap();
    let path = small(scratch.path(), "qwen3-30b-a3b", None);
    let whole = bytes_of_all(&path);
    plant(PlantedDevice { total_bytes: whole + 3 * MIB, ..CARD });
    let load = |bytes| loading(&path, "none").device_overhead(NAME, bytes).load();
    let model = load(3 * MIB).unwrap();
    let error = model.another().map(|_| ()).unwrap_err();
    let row = on_device(&model);
    let needed = row.context_bytes + row.compute_bytes + 3 * MIB;
    assert!(matches!(error, Error::DoesNotFit { needed_bytes, .. } if needed_bytes == needed));
    drop(model);
    let error = load(3 * MIB + 1).map(|_| ()).unwrap_err();
    assert!(
        matches!(error, Error::DoesNotFit { needed_bytes, .. } if needed_bytes == whole + 3 * MIB + 1)
    );
    let unknown = loading(&path, "none").device_overhead("CUDA7", 1).load();
    assert!(matches!(unknown.map(|_| ()).unwrap_err(), Error::UnknownDevice { .. }));
}
