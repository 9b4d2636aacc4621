//! Small model files in memory for unit tests.

use moe_offload_synth::{GgmlType, GgufWriter};

use crate::gguf::GgufFile;

/// A mixture-of-experts model of `layers` layers, the first `dense` of them without experts.
pub(crate) fn moe(layers: u32, dense: u32) -> GgufFile {
    let mut writer = GgufWriter::new();
    writer
        .set("general.architecture", "llama")
        .set("llama.block_count", layers)
        .set("llama.expert_count", 4_u32)
        .set("llama.expert_used_count", 2_u32);
    writer.tensor("token_embd.weight", &[32, 64], GgmlType::F32);
    for layer in 0..layers {
        writer.tensor(format!("blk.{layer}.attn_q.weight"), &[32, 32], GgmlType::F32);
        if layer < dense {
            writer.tensor(format!("blk.{layer}.ffn_up.weight"), &[32, 64], GgmlType::F32);
            continue;
        }
        writer.tensor(format!("blk.{layer}.ffn_gate_inp.weight"), &[32, 4], GgmlType::F32);
        for kind in ["gate", "up", "down"] {
            let name = format!("blk.{layer}.ffn_{kind}_exps.weight");
            writer.tensor(name, &[32, 32, 4], GgmlType::Q8_0);
        }
        writer.tensor(format!("blk.{layer}.ffn_up_exps.bias"), &[32, 4], GgmlType::F32);
        writer.tensor(format!("blk.{layer}.ffn_up_shexp.weight"), &[32, 32], GgmlType::F32);
    }
    writer.tensor("output_norm.weight", &[32], GgmlType::F32);
    writer.tensor("output.weight", &[32, 64], GgmlType::F32);
    let mut file = Vec::new();
    let zeros = |bytes: u64| vec![0; usize::try_from(bytes).unwrap()];
    writer.write(&mut file, |tensor, out| out.write_all(&zeros(tensor.bytes))).unwrap();
    GgufFile::read(&file[..], file.len() as u64, "memory").unwrap()
}
