//! Small models under rules, on devices and in contexts of any size: every tensor has one place,
//! and no device gets more bytes by `fit` than it has.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use moe_offload::gguf::GgmlType;
use moe_offload_synth::GgufWriter;
use moe_offload::{ContextOptions, Device, GgufFile, OffloadPolicy};

#[derive(Arbitrary, Debug)]
struct Input {
    layers: u8,
    dense: u8,
    experts: u8,
    heads: u32,
    kv_heads: Vec<u32>,
    key_length: Option<u32>,
    /// Free bytes and alignment of each.
    devices: Vec<(Option<u64>, u16)>,
    rules: Vec<Rule>,
    context_tokens: u32,
    micro_batch: u32,
}

#[derive(Arbitrary, Debug)]
enum Rule {
    All,
    First(u16),
    Last(u16),
    Layers(u8, u8),
    Down(u8),
    Fit,
    Budget(u64),
    Margin(u64),
}

impl Rule {
    fn text(&self) -> String {
        match self {
            Self::All => "all-experts".to_owned(),
            Self::First(n) => format!("first-layers:{n}"),
            Self::Last(n) => format!("last-layers:{n}=d0"),
            Self::Layers(a, b) => format!("layers:{a}-{b}"),
            Self::Down(device) => format!("regex:_down_exps=d{}", device % 4),
            Self::Fit => "fit".to_owned(),
            Self::Budget(bytes) => format!("fit:{bytes}B"),
            Self::Margin(bytes) => format!("fit:-{bytes}"),
        }
    }
}

fn model(input: &Input) -> GgufFile {
    let layers = u32::from(input.layers % 40);
    let mut writer = GgufWriter::new();
    writer
        .set("general.architecture", "qwen3moe")
        .set("qwen3moe.block_count", layers)
        .set("qwen3moe.embedding_length", 64_u32)
        .set("qwen3moe.attention.head_count", input.heads)
        .set("qwen3moe.attention.head_count_kv", input.kv_heads.clone())
        .set("qwen3moe.expert_count", u32::from(input.experts));
    if let Some(length) = input.key_length {
        writer.set("qwen3moe.attention.key_length", length);
    }
    writer.tensor("token_embd.weight", &[64, 100], GgmlType::Q8_0);
    for layer in 0..layers {
        writer.tensor(format!("blk.{layer}.attn_q.weight"), &[64, 64], GgmlType::Q8_0);
        if layer >= u32::from(input.dense) && input.experts > 0 {
            for kind in ["up", "down"] {
                let name = format!("blk.{layer}.ffn_{kind}_exps.weight");
                writer.tensor(name, &[64, 32, u64::from(input.experts)], GgmlType::Q8_0);
            }
        }
    }
    let mut bytes = Vec::new();
    writer.write_header(&mut bytes).expect("writes to memory");
    GgufFile::read(&bytes[..], 1 << 40, "fuzz.gguf").expect("is valid")
}

fuzz_target!(|input: Input| {
    let gguf = model(&input);
    let devices: Vec<Device> = input.devices.iter().take(4).enumerate().map(device).collect();
    let mut context = ContextOptions::with_context_tokens(input.context_tokens);
    context.micro_batch_tokens = input.micro_batch;
    let rules: Vec<String> = input.rules.iter().take(6).map(Rule::text).collect();
    let Ok(policy) = rules.join(";").parse::<OffloadPolicy>() else {
        return;
    };
    let Ok(plan) = policy.plan(&gguf, &devices, &context) else {
        return;
    };
    assert_eq!(plan.tensors().len(), gguf.tensors().len());
    let placed: u64 = plan.devices().iter().map(|device| device.weights_bytes).sum();
    assert!(placed >= gguf.tensor_bytes());
    assert!(plan.check(&gguf).is_ok());
    let _ = (plan.to_string(), plan.overrides());
});

fn device((number, (free, alignment)): (usize, &(Option<u64>, u16))) -> Device {
    let mut device = Device::new(format!("d{number}"));
    device.free_bytes = *free;
    device.alignment_bytes = (*alignment > 0).then(|| u64::from(*alignment));
    device
}
