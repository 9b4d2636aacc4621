//! What a device takes beyond weights, cache and compute buffers, none of which the engine counts:
//! kernels, a library's workspace, and a pool for pieces that live as long as one operation.

use super::{ContextOptions, Overhead};
use crate::experts::{ExpertMap, TensorKind};
use crate::gguf::{GgmlType, GgufFile, Value};

impl Overhead {
    /// Bytes for this model and context, on a device that computes any of its layers.
    ///
    /// # Errors
    /// What [`ExpertMap::new`] returns.
    pub fn bytes(self, gguf: &GgufFile, context: &ContextOptions) -> crate::Result<u64> {
        Ok(match self {
            Self::Bytes(bytes) => bytes,
            Self::Pool { .. } => self.bytes_of(gguf, &ExpertMap::new(gguf)?, context),
        })
    }

    /// By how much it grows while the context fills, after so many tokens were computed in it.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    #[cfg(any(feature = "llama", test))]
    pub(crate) fn growth_bytes(
        self,
        gguf: &GgufFile,
        context: &ContextOptions,
        tokens: u32,
    ) -> crate::Result<u64> {
        let filled = context.context_tokens.map_or(tokens, |all| all.min(tokens));
        let now = ContextOptions { context_tokens: Some(filled), ..context.clone() };
        Ok(self.bytes(gguf, context)?.saturating_sub(self.bytes(gguf, &now)?))
    }

    /// As [`bytes`](Self::bytes), of a file that is classified already.
    pub(super) fn bytes_of(
        self,
        gguf: &GgufFile,
        experts: &ExpertMap,
        context: &ContextOptions,
    ) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Pool { beside_bytes } => {
                pool_bytes(gguf, experts, context).saturating_add(beside_bytes)
            }
        }
    }
}

/// The pool grows in such steps (`vmm_granularity`; 2 MiB on every card that was looked at).
const STEP: u64 = 2 << 20;
/// Alignment of a piece in the pool (`ggml_cuda_pool_vmm::alloc`).
const ALIGNMENT: u64 = 128;
/// Pieces that an operation holds at once, at most, for their alignment.
const PIECES: u64 = 8;
/// Rows that are quantised for a multiplication are padded to so many elements (`MATRIX_ROW_PADDING`).
const ROW_PADDING: u64 = 512;
/// Bytes of `block_q8_1_mmq`, which holds 128 elements, and the most columns of a tile (`J`).
const MMQ_BLOCK_BYTES: u64 = 144;
const MMQ_BLOCK_ELEMENTS: u64 = 128;
const MMQ_COLUMNS: u64 = 128;
/// Multiprocessors of the largest card (188 on an RTX PRO 6000, 132 on an H100), rounded up: partial
/// sums are kept for each.
const MULTIPROCESSORS: u64 = 192;
/// `tmp_fixup` of `launch_mul_mat_q`: a tile of 128 × 128 numbers for each multiprocessor.
const MMQ_FIXUP: u64 = MULTIPROCESSORS * 128 * 128 * 4;
/// Tokens that a scan of a recurrent state takes at once (`SSM_SSD_CHUNK_SIZE`).
const SCAN_CHUNK: u64 = 256;

/// Bytes of the pool of the engine's CUDA backend: the most that one operation of this model takes
/// from it at once, in steps of 2 MiB. The pool never shrinks.
///
/// The pieces are those of `ggml_cuda_pool_alloc` in `ggml-cuda` of the pinned engine, on cards since
/// Turing, which multiply with quantised weights directly. Which tensors are on the device does not
/// matter: those in CPU memory are multiplied there too, in large batches, and layers are alike. What
/// attention makes of a quantised cache (`ggml_cuda_flash_attn_ext_get_alloc_size`) is no part of it:
/// the engine counts that among its compute buffers. Results are taken to be wanted of one token of each
/// sequence, as `generate` does.
///
/// ```
/// # use moe_offload_synth::{self as synth, SynthOptions};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.gguf");
/// # let options = SynthOptions::default().layers(2);
/// # synth::family("gpt-oss-20b")?.build(&options)?.save_without_weights(&path, 1)?;
/// use moe_offload::plan::pool_bytes;
/// use moe_offload::{ContextOptions, ExpertMap, GgufFile};
///
/// let gguf = GgufFile::open(&path)?;
/// let (experts, mut context) = (ExpertMap::new(&gguf)?, ContextOptions::default());
/// let of_512 = pool_bytes(&gguf, &experts, &context);
/// context.micro_batch_tokens = 2048;
/// let of_2048 = pool_bytes(&gguf, &experts, &context);
/// // 512 and 2048 tokens with 4 experts each, and partial sums.
/// assert_eq!((of_512, of_2048), (20 << 20, 40 << 20));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn pool_bytes(gguf: &GgufFile, experts: &ExpertMap, context: &ContextOptions) -> u64 {
    let tokens = context.computed_at_once();
    let batch = Batch {
        tokens,
        results: u64::from(context.sequences).min(tokens),
        used: experts.active_experts().unwrap_or(1).max(1),
        is_tied: !gguf.tensors().iter().any(|tensor| tensor.name == "output.weight"),
    };
    let tensors = std::iter::zip(gguf.tensors(), experts.tensors());
    let weights = tensors.filter_map(|(tensor, classified)| {
        let shape = &tensor.shape;
        let side = |i: usize| shape.get(i).copied().unwrap_or(1);
        let weights = Weights {
            ggml_type: tensor.ggml_type,
            columns: side(0),
            rows: side(1),
            experts: side(2),
        };
        (shape.len() > 1).then(|| batch.pieces(&weights, &tensor.name, classified.kind))?
    });
    let keys = Keys { gguf };
    let largest =
        weights.chain([keys.attention(tokens, context), keys.scan(tokens, context)]).max();
    let largest = largest.filter(|&bytes| bytes > 0).map(|n| n.saturating_add(PIECES * ALIGNMENT));
    largest.map_or(0, |bytes| bytes.checked_next_multiple_of(STEP).unwrap_or(u64::MAX))
}

/// What is computed at once.
struct Batch {
    tokens: u64,
    /// Tokens whose results are wanted.
    results: u64,
    /// Experts of a token.
    used: u64,
    /// The token embedding is the output too.
    is_tied: bool,
}

/// A matrix that is multiplied with, or as many of them as there are experts.
struct Weights {
    ggml_type: GgmlType,
    columns: u64,
    rows: u64,
    experts: u64,
}

impl Batch {
    /// What multiplying with a tensor takes of the pool; `None` of one that nothing is multiplied with.
    fn pieces(&self, weights: &Weights, name: &str, kind: TensorKind) -> Option<u64> {
        match kind {
            TensorKind::ExpertGate
            | TensorKind::ExpertUp
            | TensorKind::ExpertDown
            | TensorKind::ExpertGateUp => Some(self.of_experts(weights)),
            TensorKind::SharedExpert | TensorKind::Router | TensorKind::Dense => {
                Some(of_matrix(weights, self.tokens))
            }
            TensorKind::Output => Some(of_matrix(weights, self.results)),
            TensorKind::Input if self.is_tied && name == "token_embd.weight" => {
                Some(of_matrix(weights, self.results))
            }
            TensorKind::Input
            | TensorKind::ExpertBias
            | TensorKind::EveryLayer
            | TensorKind::NextToken => None,
        }
    }

    /// `ggml_cuda_mul_mat_id`: every token goes through several matrices.
    fn of_experts(&self, weights: &Weights) -> u64 {
        let Weights { ggml_type, columns, rows, experts } = *weights;
        let tokens = self.tokens.saturating_mul(self.used);
        // `ids_src1`, `ids_dst` or `ids_buf_dev`, and `expert_bounds`.
        let numbers = sum([product([tokens, 2 * 4]), product([experts.saturating_add(1), 4])]);
        match Way::of(ggml_type) {
            Way::Quantised => numbers.saturating_add(of_quantised(columns, tokens)),
            way => {
                // `src1_sorted` and `dst_sorted`; then each expert's own multiplication.
                let element = if way == Way::Dequantised { 4 } else { ggml_type.block_bytes() };
                sum([
                    numbers,
                    product([tokens, columns, element]),
                    product([tokens, rows, 4]),
                    match way {
                        Way::Dequantised => of_matrix(weights, self.tokens),
                        Way::Half => product([self.tokens, rows, 2]),
                        _ => 0,
                    },
                ])
            }
        }
    }
}

/// How the device multiplies with weights of a type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As they are, with the other side quantised too (`ggml_cuda_mul_mat_q`).
    Quantised,
    /// By cuBLAS, turned into `f16` before.
    Dequantised,
    /// By cuBLAS, the other side and the result in `f16`.
    Half,
    /// By cuBLAS, the other side in `bf16`.
    Brain,
    /// By cuBLAS, as they are.
    Single,
}

impl Way {
    /// `ggml_cuda_should_use_mmq` and `ggml_cuda_mul_mat_cublas`.
    fn of(ggml_type: GgmlType) -> Self {
        match ggml_type.name() {
            "f16" => Self::Half,
            "bf16" => Self::Brain,
            "iq1_m" | "tq1_0" | "tq2_0" | "q8_1" | "q8_K" => Self::Dequantised,
            _ if ggml_type.is_quantised() => Self::Quantised,
            _ => Self::Single,
        }
    }
}

/// `ggml_cuda_mul_mat` of so many tokens with one matrix.
fn of_matrix(weights: &Weights, tokens: u64) -> u64 {
    let Weights { ggml_type, columns, rows, .. } = *weights;
    // `src1_alloc` and `dst_temp` of `ggml_cuda_mul_mat_cublas_impl`.
    let (side, result) = (product([tokens, columns, 2]), product([tokens, rows, 2]));
    match Way::of(ggml_type) {
        Way::Quantised => of_quantised(columns, tokens),
        Way::Dequantised => sum([product([columns, rows, 2]), side, result]), // and `src0_alloc`
        Way::Half => side.saturating_add(result),
        Way::Brain => side,
        Way::Single => 0,
    }
}

/// `src1_q8_1` and `tmp_fixup` of `ggml_cuda_mul_mat_q`, for so many rows of so many elements.
fn of_quantised(elements: u64, rows: u64) -> u64 {
    let padded = elements.checked_next_multiple_of(ROW_PADDING).unwrap_or(u64::MAX);
    let blocks = product([padded / MMQ_BLOCK_ELEMENTS, rows]).saturating_add(MMQ_COLUMNS);
    product([blocks, MMQ_BLOCK_BYTES]).saturating_add(MMQ_FIXUP)
}

/// The file's hyper-parameters.
struct Keys<'a> {
    gguf: &'a GgufFile,
}

impl Keys<'_> {
    /// A number, or the largest of one for each layer; 0 where there is none.
    fn most(&self, key: &str) -> u64 {
        match self.gguf.hyper_parameter(key) {
            Some(Value::Array(values)) => values.iter_u64().flatten().max().unwrap_or(0),
            value => value.and_then(Value::as_u64).unwrap_or(0),
        }
    }

    /// Attention over a full cache.
    fn attention(&self, tokens: u64, context: &ContextOptions) -> u64 {
        let heads = self.most("attention.head_count");
        let plain = self.most("embedding_length").checked_div(heads).unwrap_or(0);
        if self.gguf.architecture().is_ok_and(|name| name == "grok") {
            // Without flash attention, which the engine forbids: keys as `f32` for the scores
            // (`ggml_mul_mat_set_prec`), then scores and result as `f16` for the values.
            let cells =
                u64::from(context.context_tokens.unwrap_or(0)).saturating_add(255) / 256 * 256;
            let length = self.most("attention.key_length").max(plain);
            let keys = product([cells, self.most("attention.head_count_kv"), length, 4]);
            let scores = product([cells, tokens, heads, 2]);
            return keys.max(scores.saturating_add(product([heads, length, tokens, 2])));
        }
        // `dst_tmp_meta` of `launch_fattn`: sums of 64 columns for two blocks on each multiprocessor.
        let keys =
            ["attention.value_length", "attention.value_length_swa", "attention.kv_lora_rank"];
        let given = keys.iter().map(|key| self.most(key)).max().filter(|&length| length > 0);
        let length = given.unwrap_or(plain);
        product([MULTIPROCESSORS * 2 * 64, 2 + length / 2, 8])
    }

    /// `ssm_scan_ssd_f32_cuda`, of layers with a recurrent state.
    fn scan(&self, tokens: u64, context: &ContextOptions) -> u64 {
        let heads = self.most("ssm.time_step_rank");
        let (state, inner) = (self.most("ssm.state_size"), self.most("ssm.inner_size"));
        let groups = self.most("ssm.group_count").max(1);
        if state == 0 || inner == 0 {
            return 0;
        }
        let of_sequence = sum([
            product([SCAN_CHUNK * SCAN_CHUNK, groups, 4]),
            product([SCAN_CHUNK, inner, 2]),
            product([SCAN_CHUNK, state, heads, 2 + 4]),
            product([SCAN_CHUNK * SCAN_CHUNK, heads, 2]),
        ]);
        let of_tokens = product([tokens, heads, 2 * 4]);
        sum([product([of_sequence, u64::from(context.sequences)]), of_tokens])
    }
}

fn product<const N: usize>(factors: [u64; N]) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}

fn sum<const N: usize>(parts: [u64; N]) -> u64 {
    parts.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests;
