use moe_offload_synth::GgufWriter;
use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn context(tokens_at_once: u32) -> ContextOptions {
    ContextOptions {
        batch_tokens: 4096,
        micro_batch_tokens: tokens_at_once,
        ..ContextOptions::with_context_tokens(8192)
    }
}

/// A header with such a tensor of experts, and the keys of attention.
fn model(ggml_type: GgmlType, shape: [u64; 3], used: u32, keys: &[(&str, u32)]) -> GgufFile {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", "llama").set("llama.block_count", 1_u32);
    writer.set("llama.expert_count", 4_u32).set("llama.expert_used_count", used);
    for (key, value) in keys {
        writer.set(format!("llama.{key}"), *value);
    }
    let ggml_type = moe_offload_synth::GgmlType::from_name(ggml_type.name()).unwrap();
    writer.tensor("blk.0.ffn_up_exps.weight", &shape, ggml_type);
    writer.tensor("output.weight", &[shape[0], 64], moe_offload_synth::GgmlType::F32);
    let mut file = Vec::new();
    let zeros = |bytes: u64| vec![0; usize::try_from(bytes).unwrap()];
    writer.write(&mut file, |tensor, out| out.write_all(&zeros(tensor.bytes))).unwrap();
    GgufFile::read(&file[..], file.len() as u64, "memory").unwrap()
}

fn pool(gguf: &GgufFile, context: &ContextOptions) -> u64 {
    pool_bytes(gguf, &ExpertMap::new(gguf).unwrap(), context)
}

/// Written out for GPT-OSS 20B's experts: 4 rows of 2880 elements a token, padded to 3072.
#[test]
fn quantised_rows_of_the_chosen_experts() {
    let weights = Weights {
        ggml_type: GgmlType::from_name("mxfp4").unwrap(),
        columns: 2880,
        rows: 2880,
        experts: 32,
    };
    let batch = Batch { tokens: 2048, results: 1, used: 4, is_tied: false };
    let rows = 2048 * 4;
    let expected = rows * 3072 / 128 * 144 // each block of 128 elements takes 144 bytes
        + 128 * 144 + 192 * 128 * 128 * 4 // a tile beyond the end, and partial sums
        + rows * 8 + 33 * 4; // where each row comes from and goes to
    assert_eq!(batch.of_experts(&weights), expected);
    assert_eq!(expected / MIB, 39);
}

/// Types that the device multiplies with in another way need other pieces.
#[test]
fn each_way_to_multiply_has_its_pieces() {
    let weights = |name: &str| Weights {
        ggml_type: GgmlType::from_name(name).unwrap(),
        columns: 1024,
        rows: 4096,
        experts: 1,
    };
    let (side, result) = (512 * 1024 * 2, 512 * 4096 * 2);
    assert_eq!(of_matrix(&weights("f32"), 512), 0);
    assert_eq!(of_matrix(&weights("bf16"), 512), side);
    assert_eq!(of_matrix(&weights("f16"), 512), side + result);
    assert_eq!(of_matrix(&weights("iq1_m"), 512), 1024 * 4096 * 2 + side + result);
    let batch = Batch { tokens: 512, results: 1, used: 2, is_tied: false };
    let sorted = 2 * 512 * (1024 * 2 + 4096 * 4 + 8) + 2 * 4;
    assert_eq!(batch.of_experts(&weights("f16")), sorted + result);
}

/// Only of the last token of each sequence, not of a whole micro-batch.
#[test]
fn the_output_is_computed_of_few_tokens() {
    let output = Weights { ggml_type: GgmlType::F16, columns: 4096, rows: 200_000, experts: 1 };
    let batch = Batch { tokens: 2048, results: 1, used: 1, is_tied: true };
    let pieces = batch.pieces(&output, "token_embd.weight", TensorKind::Input);
    assert_eq!(pieces, Some(4096 * 2 + 200_000 * 2));
    assert_eq!(batch.pieces(&output, "position_embd.weight", TensorKind::Input), None);
}

#[test]
fn without_flash_attention_the_scores_grow_with_the_context() {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", "grok").set("grok.block_count", 1_u32);
    writer.set("grok.embedding_length", 6144_u32).set("grok.attention.head_count", 48_u32);
    writer.set("grok.attention.head_count_kv", 8_u32);
    let mut file = Vec::new();
    writer.write(&mut file, |_, _| Ok(())).unwrap();
    let gguf = GgufFile::read(&file[..], file.len() as u64, "memory").unwrap();
    let full = pool(&gguf, &context(512));
    assert!(full >= 8192 * 512 * 48 * 2, "{full}");
    let short = ContextOptions { context_tokens: Some(1000), ..context(512) };
    assert!(pool(&gguf, &short) < full / 6);
    let growth = |overhead: Overhead| overhead.growth_bytes(&gguf, &context(512), 1000).unwrap();
    assert_eq!(growth(Overhead::CUDA), full - pool(&gguf, &short));
    assert_eq!(growth(Overhead::Bytes(5)), 0);
}

#[test]
fn bytes_are_the_pool_s_and_those_beside_it() {
    let gguf = model(GgmlType::Q8_0, [512, 512, 4], 2, &[]);
    let context = context(512);
    let pool = pool(&gguf, &context);
    let bytes = |overhead: Overhead| overhead.bytes(&gguf, &context).unwrap();
    assert_eq!(bytes(Overhead::Pool { beside_bytes: 7 }), pool + 7);
    assert_eq!(bytes(Overhead::Bytes(7)), 7);
    assert_eq!(bytes(Overhead::default()), 0);
    assert!(bytes(Overhead::CUDA) > pool);
}

fn any_type() -> impl Strategy<Value = GgmlType> {
    let names = ["f32", "f16", "bf16", "q8_0", "mxfp4", "q4_K", "iq1_m"];
    prop::sample::select(names.to_vec()).prop_map(|name| GgmlType::from_name(name).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// More at once, more experts for a token, or longer rows never need less; steps are whole.
    #[test]
    fn never_less_for_more(
        ggml_type in any_type(),
        columns in 1_u64..8,
        rows in 1_u64..300,
        tokens in 1_u32..2048,
        used in 1_u32..4,
        heads in 1_u32..16,
    ) {
        let keys = [("attention.head_count", heads), ("attention.value_length", 8 * heads)];
        let shape = [256 * columns, rows, 4];
        let least = pool(&model(ggml_type, shape, used, &keys), &context(tokens));
        prop_assert_eq!(least % STEP, 0);
        let wider = [256 * columns + 256, rows, 4];
        for (shape, used, tokens) in
            [(shape, used, tokens + 500), (shape, used + 1, tokens), (wider, used, tokens)]
        {
            let more = pool(&model(ggml_type, shape, used, &keys), &context(tokens));
            prop_assert!(more >= least, "{} < {}", more, least);
        }
    }

    /// No header makes it overflow.
    #[test]
    fn whatever_the_file_says(
        heads: u32, length: u32, rank: u32, state: u32, tokens in 1_u32..i32::MAX as u32,
    ) {
        let keys = [
            ("attention.head_count", heads),
            ("attention.value_length", length),
            ("ssm.time_step_rank", rank),
            ("ssm.state_size", state),
            ("ssm.inner_size", state),
            ("ssm.group_count", rank),
        ];
        let gguf = model(GgmlType::Q8_0, [32, 32, 4], 2, &keys);
        prop_assert!(pool(&gguf, &context(tokens)) > 0);
    }
}
