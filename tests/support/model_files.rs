//! Model files made for tests.

use std::path::{Path, PathBuf};

use moe_offload::GgufFile;
use moe_offload::gguf::GgmlType;
use moe_offload_synth::{self as synth, GgufWriter, SynthOptions};

/// The small model that talks.
pub fn demo() -> PathBuf {
    // Cargo sets it also when it runs tests; a test program that was taken elsewhere is told so.
    let root = std::env::var("CARGO_MANIFEST_DIR");
    let root = root.as_deref().unwrap_or(env!("CARGO_MANIFEST_DIR"));
    Path::new(root).join("examples/demo-model/demo-moe.gguf")
}

/// A family's model of this kind, in a file that has its name.
pub fn made(folder: &Path, family: &str, options: &SynthOptions) -> PathBuf {
    let path = folder.join(format!("{family}.gguf"));
    synth::family(family).unwrap().build(options).unwrap().save(&path, 1, |_| {}).unwrap();
    path
}

/// The smallest of a family.
pub fn tiny(folder: &Path, family: &str) -> PathBuf {
    made(folder, family, &SynthOptions::tiny())
}

/// Of a type that some processors' kernels want in another layout, which takes memory beside the file.
pub fn repacked(folder: &Path, layers: u32) -> PathBuf {
    let q4 = GgmlType::from_name("q4_0").unwrap();
    let options = SynthOptions::default().layers(layers).expert_type(q4);
    made(folder, "granite-3.1-3b-a800m", &options)
}

/// The shape of a made-up file. Nothing in it has to run.
#[derive(Clone, Debug)]
pub struct Shape {
    pub layers: u32,
    /// Leading layers without experts.
    pub dense: u32,
    pub experts: u64,
    /// `output.weight` is left out: the embedding serves as output.
    pub tied: bool,
    pub biases: bool,
    pub fused: bool,
    pub shared: bool,
    pub rope_factors: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            layers: 4,
            dense: 0,
            experts: 4,
            tied: false,
            biases: false,
            fused: false,
            shared: false,
            rope_factors: false,
        }
    }
}

impl Shape {
    pub fn writer(&self) -> GgufWriter {
        let mut writer = GgufWriter::new();
        writer
            .set("general.architecture", "deepseek2")
            .set("deepseek2.block_count", self.layers)
            .set("deepseek2.context_length", 2048_u32)
            .set("deepseek2.embedding_length", 64_u32)
            .set("deepseek2.attention.head_count", 16_u32)
            .set("deepseek2.attention.head_count_kv", 1_u32)
            .set("deepseek2.attention.layer_norm_rms_epsilon", 1e-6_f32)
            .set("tokenizer.ggml.model", "gpt2")
            .set("tokenizer.ggml.tokens", (0..100).map(|n| n.to_string()).collect::<Vec<_>>())
            .set("tokenizer.ggml.merges", vec!["1 0".to_owned()]);
        if self.experts > 0 {
            let experts = u32::try_from(self.experts).unwrap();
            writer.set("deepseek2.expert_count", experts).set("deepseek2.expert_used_count", 2_u32);
        }
        writer.tensor("token_embd.weight", &[64, 100], GgmlType::Q8_0);
        if self.rope_factors {
            writer.tensor("rope_freqs.weight", &[32], GgmlType::F32);
        }
        for layer in 0..self.layers {
            self.layer(&mut writer, layer);
        }
        writer.tensor("output_norm.weight", &[64], GgmlType::F32);
        if !self.tied {
            writer.tensor("output.weight", &[64, 100], GgmlType::Q8_0);
        }
        writer
    }

    fn layer(&self, writer: &mut GgufWriter, layer: u32) {
        let name = |rest: &str| format!("blk.{layer}.{rest}");
        writer.tensor(name("attn_q.weight"), &[64, 64], GgmlType::Q8_0);
        writer.tensor(name("ffn_norm.weight"), &[64], GgmlType::F32);
        if layer < self.dense || self.experts == 0 {
            writer.tensor(name("ffn_up.weight"), &[64, 128], GgmlType::Q8_0);
            return;
        }
        writer.tensor(name("ffn_gate_inp.weight"), &[64, self.experts], GgmlType::F32);
        let kinds: &[&str] =
            if self.fused { &["gate_up", "down"] } else { &["gate", "up", "down"] };
        for kind in kinds {
            let (from, rows) = match *kind {
                "gate_up" => (64, 64),
                "down" => (32, 64),
                _ => (64, 32),
            };
            let exps = name(&format!("ffn_{kind}_exps"));
            writer.tensor(format!("{exps}.weight"), &[from, rows, self.experts], GgmlType::Q8_0);
            if self.biases {
                writer.tensor(
                    format!("{exps}.bias"),
                    &[from.min(rows), self.experts],
                    GgmlType::F32,
                );
            }
        }
        if self.shared {
            writer.tensor(name("ffn_up_shexp.weight"), &[64, 32], GgmlType::Q8_0);
        }
    }

    pub fn open(&self) -> GgufFile {
        read(&bytes_of(&self.writer())).unwrap()
    }
}

/// The whole file, the tensor data zeros.
pub fn bytes_of(writer: &GgufWriter) -> Vec<u8> {
    let mut bytes = Vec::new();
    let zeros = |count: u64| vec![0; usize::try_from(count).unwrap()];
    writer.write(&mut bytes, |tensor, out| out.write_all(&zeros(tensor.bytes))).unwrap();
    bytes
}

pub fn read(bytes: &[u8]) -> moe_offload::Result<GgufFile> {
    GgufFile::read(bytes, bytes.len() as u64, "test.gguf")
}
