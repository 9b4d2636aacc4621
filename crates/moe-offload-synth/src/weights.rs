//! Random weights with which a model computes something finite.

use std::io::{self, Write};

use moe_offload::gguf::GgmlType;

use super::blocks::{BlockLayout, brain, half};
use super::family::Family;
use super::random::Random;
use super::vocab::CONTROL_TOKENS;
use super::writer::WriteTensor;

/// Bytes made at a time.
const BUFFER_BYTES: u64 = 1 << 20;

/// Control tokens are this much fainter than others, so that random text rarely ends.
const QUIET: f32 = 1.0 / 16.0;

/// The standard deviation of the logits.
const LOGIT_DEVIATION: f32 = 3.0;

/// The standard deviation of the attention's scores before the softmax.
const FOCUS: f32 = 2.25;

/// How the values of a tensor are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spread {
    /// Around zero, with this standard deviation.
    Centred(f32),
    /// Evenly from one value to the other.
    Between(f32, f32),
}

/// Writes the data of one tensor: the same for the same seed, name and shape.
pub(super) fn write(
    tensor: &WriteTensor,
    family: &Family,
    seed: u64,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut random = Random::new(seed, &tensor.name);
    let spread = spread(tensor, family);
    let units = tensor.bytes / tensor.ggml_type.block_bytes();
    let quiet = if is_token_table(&tensor.name) {
        let row = tensor.shape.first().map_or(0, |row| row / tensor.ggml_type.block_elements());
        (row * u64::from(CONTROL_TOKENS)).min(units)
    } else {
        0
    };
    write_units(tensor.ggml_type, quiet, spread.scaled(QUIET), &mut random, out)?;
    write_units(tensor.ggml_type, units - quiet, spread, &mut random, out)
}

fn is_token_table(name: &str) -> bool {
    matches!(name, "token_embd.weight" | "output.weight")
}

impl Spread {
    fn scaled(self, factor: f32) -> Self {
        match self {
            Self::Centred(deviation) => Self::Centred(deviation * factor),
            Self::Between(low, high) => Self::Between(low * factor, high * factor),
        }
    }

    fn sample(self, random: &mut Random) -> f32 {
        match self {
            Self::Centred(deviation) => random.unit() * deviation * 3_f32.sqrt(),
            Self::Between(low, high) => low + (high - low) * (random.unit() + 1.0) / 2.0,
        }
    }

    fn deviation(self) -> f32 {
        match self {
            Self::Centred(deviation) => deviation,
            Self::Between(low, high) => (high - low) / 12_f32.sqrt(),
        }
    }
}

/// What a tensor's values should be like, by its role: matrices keep the size of what they
/// multiply, norms are near one, biases small, states decay.
fn spread(tensor: &WriteTensor, family: &Family) -> Spread {
    let name = tensor.name.rsplit_once("blk.").map_or(tensor.name.as_str(), |(_, rest)| {
        rest.split_once('.').map_or(rest, |(_, name)| name)
    });
    match name {
        "token_embd.weight" | "nextn.embed_tokens.weight" => {
            Spread::Centred(embedding_deviation(family))
        }
        "output.weight" | "nextn.shared_head_head.weight" => fan_in(tensor, LOGIT_DEVIATION),
        "output_norm.weight" | "token_embd_norm.weight" => around(output_gain(family)),
        "ffn_gate_inp.weight" => fan_in(tensor, 2.0),
        // Attention that dwells on few tokens, so that the text keeps moving.
        "attn_q.weight" | "attn_k.weight" | "attn_qkv.weight" | "attn_q_b.weight"
        | "attn_k_b.weight" => fan_in(tensor, focus(family)),
        "attn_q_norm.weight" | "attn_k_norm.weight" => around(focus(family)),
        "exp_probs_b.bias" => Spread::Between(-0.05, 0.05),
        "attn_sinks.weight" => Spread::Between(-0.5, 0.5),
        "ssm_a" if family.architecture == "jamba" => Spread::Between(-4.0, -0.25),
        "ssm_a" => Spread::Between(-1.0, -0.05),
        "ssm_d" | "layer_output_scale.weight" => around(1.0),
        "ssm_dt.bias" => Spread::Between(-3.0, -1.0),
        _ if name.starts_with("rope_f") => Spread::Between(1.0, 1.0),
        _ if name.ends_with("norm.weight") || name.contains("norm_") => around(1.0),
        _ => match name.rsplit('.').next() {
            Some("scale") => around(1.0),
            Some("bias") => Spread::Between(-0.05, 0.05),
            _ => fan_in(tensor, 1.0),
        },
    }
}

fn around(centre: f32) -> Spread {
    Spread::Between(0.9 * centre, 1.1 * centre)
}

/// How long queries and keys have to be for scores of deviation [`FOCUS`].
#[allow(clippy::cast_precision_loss)] // a head's length
fn focus(family: &Family) -> f32 {
    let product = (family.attention.key_length as f32).sqrt();
    (FOCUS / (product * family.attention_scale())).sqrt()
}

/// How large a token's embedding is beside what the layers add. Where it is the output matrix as
/// well it has to be small, or every token would be followed by itself.
#[allow(clippy::cast_precision_loss)] // a row's length
fn embedding_deviation(family: &Family) -> f32 {
    let size = if family.tied_output {
        0.5 * (family.layers as f32 / family.embedding as f32).sqrt()
    } else {
        0.5
    };
    size * family.residual_scale() / family.embedding_scale()
}

/// What the final norm multiplies with for logits of [`LOGIT_DEVIATION`].
#[allow(clippy::cast_precision_loss)] // a row's length
fn output_gain(family: &Family) -> f32 {
    if family.tied_output {
        let row = family.embedding as f32;
        LOGIT_DEVIATION / (embedding_deviation(family) * row.sqrt())
    } else {
        1.0
    }
}

/// A deviation with which a matrix of this width multiplies sizes by `gain`.
#[allow(clippy::cast_precision_loss)] // a row's length
fn fan_in(tensor: &WriteTensor, gain: f32) -> Spread {
    let row = tensor.shape.first().copied().unwrap_or(1).max(1);
    Spread::Centred(gain / (row as f32).sqrt())
}

/// Writes so many blocks, or elements of a type without blocks.
fn write_units(
    ggml_type: GgmlType,
    units: u64,
    spread: Spread,
    random: &mut Random,
    out: &mut dyn Write,
) -> io::Result<()> {
    let unit_bytes = ggml_type.block_bytes();
    let per_buffer = (BUFFER_BYTES / unit_bytes).min(units);
    let size = |units: u64| usize::try_from(units * unit_bytes).unwrap_or(0);
    let patches =
        BlockLayout::of(ggml_type).map(|layout| layout.patches(f64::from(spread.deviation())));
    let mut buffer = vec![0; size(per_buffer)];
    let mut left = units;
    while left > 0 {
        let now = left.min(per_buffer);
        let bytes = &mut buffer[..size(now)];
        match &patches {
            Some(patches) => fill_blocks(bytes, size(1), patches, random),
            None => fill_floats(bytes, ggml_type, spread, random),
        }
        out.write_all(bytes)?;
        left -= now;
    }
    Ok(())
}

fn fill_blocks(
    bytes: &mut [u8],
    block_bytes: usize,
    patches: &[(usize, Vec<u8>)],
    random: &mut Random,
) {
    random.fill(bytes);
    for block in bytes.chunks_exact_mut(block_bytes) {
        for (at, patch) in patches {
            block[*at..*at + patch.len()].copy_from_slice(patch);
        }
    }
}

fn fill_floats(bytes: &mut [u8], ggml_type: GgmlType, spread: Spread, random: &mut Random) {
    match ggml_type.name() {
        "f32" => {
            for element in bytes.chunks_exact_mut(4) {
                element.copy_from_slice(&spread.sample(random).to_le_bytes());
            }
        }
        "bf16" => {
            for element in bytes.chunks_exact_mut(2) {
                element.copy_from_slice(&brain(spread.sample(random)).to_le_bytes());
            }
        }
        _ => {
            for element in bytes.chunks_exact_mut(2) {
                let bits = half(f64::from(spread.sample(random)));
                element.copy_from_slice(&bits.to_le_bytes());
            }
        }
    }
}

/// Whether tensors of this type can be filled.
pub(super) fn is_supported(ggml_type: GgmlType) -> bool {
    matches!(ggml_type.name(), "f32" | "f16" | "bf16") || BlockLayout::of(ggml_type).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::GgufWriter;

    fn tensor(name: &str, shape: &[u64], ggml_type: GgmlType) -> WriteTensor {
        let mut writer = GgufWriter::new();
        writer.tensor(name, shape, ggml_type);
        writer.tensors()[0].clone()
    }

    fn data(tensor: &WriteTensor, seed: u64) -> Vec<u8> {
        let family = super::super::family("mixtral-8x7b").unwrap();
        let mut data = Vec::new();
        write(tensor, family, seed, &mut data).unwrap();
        data
    }

    #[test]
    fn data_has_the_tensors_size_and_depends_on_the_seed() {
        for ggml_type in GgmlType::all().filter(|&t| is_supported(t)) {
            let tensor = tensor("blk.0.ffn_up_exps.weight", &[256, 8, 2], ggml_type);
            let first = data(&tensor, 1);
            assert_eq!(first.len() as u64, tensor.bytes, "{ggml_type}");
            assert_eq!(first, data(&tensor, 1));
            assert_ne!(first, data(&tensor, 2));
        }
    }

    #[test]
    fn norms_are_near_one_and_matrices_keep_sizes() {
        let values = |tensor: &WriteTensor| -> Vec<f32> {
            data(tensor, 3)
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()
        };
        let norm = tensor("blk.0.attn_norm.weight", &[64], GgmlType::F32);
        assert!(values(&norm).iter().all(|x| (0.89..1.11).contains(x)));
        let matrix = tensor("blk.0.ffn_up.weight", &[64, 64], GgmlType::F32);
        let square = values(&matrix).iter().map(|x| x * x).sum::<f32>() / 4096.0;
        assert!((square * 64.0 - 1.0).abs() < 0.1);
    }

    #[test]
    fn rows_of_control_tokens_are_faint() {
        let table = tensor("output.weight", &[32, 64], GgmlType::Q8_0);
        let data = data(&table, 1);
        let scale = |row: usize| u16::from_le_bytes([data[row * 34], data[row * 34 + 1]]);
        assert!(scale(4) < scale(5));
        assert_eq!(scale(5), scale(63));
    }
}
