//! How large the micro-batch is where experts are in CPU memory, and when a device computes with them.

use moe_offload::plan::Decision;
use moe_offload::{ContextOptions, Device, DeviceKind, Error, GgufFile, OffloadPolicy, Plan};
use moe_offload_synth::{self as synth, SynthOptions};

const GIB: u64 = 1 << 30;

/// GPT-OSS 20B's shape, of 12.1 GB.
fn gpt_oss() -> GgufFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let model = synth::family("gpt-oss-20b").unwrap().build(&SynthOptions::default()).unwrap();
    model.save_without_weights(&path, 1).unwrap();
    GgufFile::open(&path).unwrap()
}

fn card(free: u64) -> Device {
    Device::new("gpu").with_free_bytes(free)
}

fn plan(gguf: &GgufFile, policy: &str, device: &Device, context: &ContextOptions) -> Plan {
    let policy: OffloadPolicy = policy.parse().unwrap();
    policy.plan(gguf, std::slice::from_ref(device), context).unwrap()
}

/// Its size, and whether it was chosen.
fn size(plan: &Plan) -> (u32, bool) {
    let tokens = plan.context().micro_batch_tokens;
    let said = Decision::MicroBatch { micro_batch_tokens: tokens };
    (tokens, plan.decisions().contains(&said))
}

fn kept() -> ContextOptions {
    let mut context = ContextOptions::default();
    context.micro_batch_grows = false;
    context
}

#[test]
fn under_fit_it_grows_where_that_costs_less_than_it_gains() {
    let gguf = gpt_oss();
    let open = ContextOptions::default();
    for gib in [4, 6, 8] {
        let grown = plan(&gguf, "fit", &card(gib * GIB), &open);
        let small = plan(&gguf, "fit", &card(gib * GIB), &kept());
        assert!(size(&grown).0 > 512 && size(&grown).1, "{gib} GiB\n{grown}");
        assert_eq!(size(&small), (512, false));
        // Larger buffers take the place of experts, and the device keeps its limit.
        assert!(grown.expert_bytes_on_devices() < small.expert_bytes_on_devices());
        assert!(grown.fits(), "{grown}");
    }
    // All experts fit, or there is no room for more.
    assert_eq!(size(&plan(&gguf, "fit", &card(24 * GIB), &open)), (512, false));
    let least = plan(&gguf, "all-experts", &card(24 * GIB), &kept()).device("gpu").unwrap().clone();
    let tight = least.weights_bytes + least.context_bytes.unwrap() + 600_000_000;
    let tight = plan(&gguf, "fit", &card(tight), &open);
    assert_eq!(size(&tight), (512, false), "{tight}");
}

#[test]
fn under_other_policies_it_grows_as_far_as_the_memory_is_known_to_suffice() {
    let gguf = gpt_oss();
    let open = ContextOptions::default();
    let of = |free: u64| size(&plan(&gguf, "all-experts", &card(free), &open));
    assert_eq!(of(24 * GIB), (2048, true));
    // By the cautious formula: scores of 201,088 tokens and 16 activations of 2,880, 4 bytes each. Windows are longer too.
    let needed = |tokens: u32| {
        let mut context = kept();
        context.micro_batch_tokens = tokens;
        let plan = plan(&gguf, "all-experts", &card(24 * GIB), &context);
        let device = plan.device("gpu").unwrap();
        let buffers = (201_088 + 16 * 2880) * u64::from(tokens) * 4;
        device.weights_bytes + device.context_bytes.unwrap() + buffers
    };
    assert_eq!(of(needed(2048)), (2048, true));
    assert_eq!(of(needed(2048) - 1), (1024, true));
    assert_eq!(of(needed(1024)), (1024, true));
    assert_eq!(of(needed(1024) - 1), (512, false));
    let unknown = plan(&gguf, "all-experts", &Device::new("gpu"), &open);
    assert_eq!(size(&unknown), (512, false));
}

#[test]
fn it_stays_where_no_device_reads_prompts_with_experts_of_the_cpu_s() {
    let gguf = gpt_oss();
    let open = ContextOptions::default();
    let roomy = card(24 * GIB);
    let mut remote = roomy.clone();
    remote.kind = DeviceKind::Remote;
    let mut without = roomy.clone();
    without.operation_offload = false;
    let mut off = open.clone();
    off.operation_offload = false;
    for (policy, device, context) in [
        ("none", &roomy, &open),
        ("all-experts", &remote, &open),
        ("all-experts", &without, &open),
        ("all-experts", &roomy, &off),
        ("all-experts=disk", &roomy, &open),
        ("fit:6GiB,ram:4GiB", &roomy, &open),
        ("fit:6GiB", &remote, &open),
        ("fit:6GiB", &roomy, &off),
    ] {
        let plan = plan(&gguf, policy, device, context);
        assert_eq!(size(&plan), (512, false), "{plan}");
    }
    // Never more tokens than there can be, or than were said.
    let short = ContextOptions::with_context_tokens(1500);
    assert_eq!(size(&plan(&gguf, "all-experts", &roomy, &short)), (1024, true));
    let mut larger = open.clone();
    larger.micro_batch_tokens = 4096;
    assert_eq!(size(&plan(&gguf, "all-experts", &roomy, &larger)), (4096, false));
    // What was decided is part of the plan: it leaves nothing open.
    let plan = plan(&gguf, "all-experts", &roomy, &open);
    assert!(!plan.context().micro_batch_grows);
    plan.check(&gguf).unwrap();
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
}

#[test]
fn a_number_of_tokens_that_no_device_keeps_to_is_refused() {
    let gguf = gpt_oss();
    let with = |tokens, offload, devices: &[Device]| {
        let mut context = ContextOptions::default();
        (context.expert_offload_tokens, context.operation_offload) = (Some(tokens), offload);
        OffloadPolicy::AllExperts.plan(&gguf, devices, &context)
    };
    let roomy = [card(24 * GIB)];
    assert_eq!(with(1, true, &roomy).unwrap().context().expert_offload_tokens, Some(1));
    for (tokens, offload) in [(0, true), (u32::MAX, true), (1, false)] {
        let error = with(tokens, offload, &roomy).unwrap_err();
        let is_named =
            matches!(error, Error::InvalidOption { option: "expert_offload_tokens", .. });
        assert!(is_named, "{error}");
    }
    let mut remote = card(24 * GIB);
    remote.kind = DeviceKind::Remote;
    for (devices, phrase) in [(&[][..], "no device but the CPU"), (&[remote], "(gpu)")] {
        let error = with(7, true, devices).unwrap_err();
        assert!(matches!(error, Error::NoOffloadDevice { tokens: 7, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(phrase) && text.contains("expert_offload_tokens"), "{text}");
    }
}
