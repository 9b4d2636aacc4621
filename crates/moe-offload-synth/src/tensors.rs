//! The tensors that the engine wants of each architecture.

use moe_offload::gguf::GgmlType;

use super::family::{Family, RecurrentKind};
use super::variant::Variant;
use super::writer::GgufWriter;

/// The element types of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Types {
    pub(super) experts: GgmlType,
    pub(super) dense: GgmlType,
    pub(super) embedding: GgmlType,
    pub(super) output: GgmlType,
}

/// Adds all tensors of a model of this shape.
pub(super) fn add_tensors(writer: &mut GgufWriter, family: &Family, types: Types) {
    let mut layout = Layout { writer, family, types, prefix: String::new() };
    layout.globals();
    for layer in 0..family.blocks() {
        layout.prefix = format!("blk.{layer}.");
        layout.layer(layer);
    }
}

struct Layout<'a> {
    writer: &'a mut GgufWriter,
    family: &'a Family,
    types: Types,
    prefix: String,
}

impl Layout<'_> {
    fn add(&mut self, name: &str, shape: &[u32], ggml_type: GgmlType) {
        let shape: Vec<u64> = shape.iter().map(|&n| u64::from(n)).collect();
        let ggml_type = fitting(ggml_type, shape[0]);
        self.writer.tensor(format!("{}{name}", self.prefix), &shape, ggml_type);
    }

    fn vector(&mut self, name: &str, length: u32) {
        self.add(name, &[length], GgmlType::F32);
    }

    fn floats(&mut self, name: &str, shape: &[u32]) {
        self.add(name, shape, GgmlType::F32);
    }

    fn dense(&mut self, name: &str, shape: &[u32]) {
        self.add(name, shape, self.types.dense);
    }

    fn experts(&mut self, name: &str, shape: &[u32]) {
        self.add(name, shape, self.types.experts);
    }

    fn has(&self, variant: Variant) -> bool {
        self.family.has(variant)
    }

    fn globals(&mut self) {
        let (embedding, vocab) = (self.family.embedding, self.family.vocab);
        self.add("token_embd.weight", &[embedding, vocab], self.types.embedding);
        if !self.family.tied_output {
            self.add("output.weight", &[embedding, vocab], self.types.output);
        }
        let norm =
            if self.has(Variant::EmbeddingNormName) { "token_embd_norm" } else { "output_norm" };
        self.norm(norm);
        if self.has(Variant::NormBias) {
            self.vector("output.bias", vocab);
        }
        let frequencies = self.family.attention.rope_dimensions / 2;
        if self.has(Variant::RopeFreqs) {
            self.vector("rope_freqs.weight", frequencies);
        }
        if self.has(Variant::RopeFactors) {
            self.vector("rope_factors_long.weight", frequencies);
            self.vector("rope_factors_short.weight", frequencies);
        }
    }

    fn norm(&mut self, name: &str) {
        self.vector(&format!("{name}.weight"), self.family.embedding);
        if self.has(Variant::NormBias) {
            self.vector(&format!("{name}.bias"), self.family.embedding);
        }
    }

    fn layer(&mut self, layer: u32) {
        for name in self.family.layer_norms {
            self.norm(name);
        }
        if self.family.is_recurrent(layer) {
            self.recurrent();
        } else if self.family.attention.latent.is_some() {
            self.latent_attention();
        } else {
            self.attention(layer);
        }
        let (embedding, length) = (self.family.embedding, self.family.feed_forward);
        if self.family.has_experts(layer) {
            self.router();
            self.expert_matrices();
            self.shared_experts();
            if self.has(Variant::SquareDense) {
                self.feed_forward("", embedding);
            }
        }
        if !self.family.has_experts(layer) || self.has(Variant::ParallelDense) {
            self.feed_forward("", length);
        }
        if self.has(Variant::Scales) {
            self.vector("layer_output_scale.weight", 1);
        }
        if layer >= self.family.layers {
            self.prediction();
        }
    }

    fn attention(&mut self, layer: u32) {
        let (embedding, attention) = (self.family.embedding, self.family.attention);
        let (kv_heads, length) = (self.family.kv_heads(layer), self.family.key_length(layer));
        let query = attention.heads * length;
        let key_value = kv_heads * length;
        if self.has(Variant::FusedQkv) {
            self.dense("attn_qkv.weight", &[embedding, query + 2 * key_value]);
        } else {
            let gates = if self.has(Variant::GatedQuery) { 2 } else { 1 };
            self.dense("attn_q.weight", &[embedding, gates * query]);
            self.dense("attn_k.weight", &[embedding, key_value]);
            if !self.has(Variant::KeyIsValue) || self.family.is_windowed(layer) {
                self.dense("attn_v.weight", &[embedding, key_value]);
            }
        }
        if self.has(Variant::QkvBias) {
            self.vector("attn_q.bias", query);
            self.vector("attn_k.bias", key_value);
            self.vector("attn_v.bias", key_value);
        }
        self.dense("attn_output.weight", &[query, embedding]);
        if self.has(Variant::OutBias) {
            self.vector("attn_output.bias", embedding);
        }
        if self.has(Variant::HeadNorms) {
            self.vector("attn_q_norm.weight", length);
            self.vector("attn_k_norm.weight", length);
        }
        if self.has(Variant::WholeNorms) {
            self.vector("attn_q_norm.weight", query);
            self.vector("attn_k_norm.weight", key_value);
        }
        if self.has(Variant::Sinks) {
            self.vector("attn_sinks.weight", attention.heads);
        }
    }

    fn latent_attention(&mut self) {
        let (embedding, attention) = (self.family.embedding, self.family.attention);
        let Some(latent) = attention.latent else {
            return;
        };
        let (heads, kv_rank) = (attention.heads, latent.kv_rank);
        let query = heads * attention.key_length;
        if latent.query_rank > 0 {
            self.dense("attn_q_a.weight", &[embedding, latent.query_rank]);
            self.vector("attn_q_a_norm.weight", latent.query_rank);
            self.dense("attn_q_b.weight", &[latent.query_rank, query]);
        } else {
            self.dense("attn_q.weight", &[embedding, query]);
        }
        self.dense("attn_kv_a_mqa.weight", &[embedding, kv_rank + attention.rope_dimensions]);
        self.vector("attn_kv_a_norm.weight", kv_rank);
        let without_position = attention.key_length - attention.rope_dimensions;
        self.dense("attn_k_b.weight", &[without_position, kv_rank, heads]);
        self.dense("attn_v_b.weight", &[kv_rank, attention.value_length, heads]);
        self.dense("attn_output.weight", &[heads * attention.value_length, embedding]);
    }

    fn router(&mut self) {
        let (embedding, experts) = (self.family.embedding, self.family.experts);
        self.floats("ffn_gate_inp.weight", &[embedding, experts.count]);
        if self.has(Variant::ExpertBias) {
            self.vector("ffn_gate_inp.bias", experts.count);
        }
        if self.has(Variant::ChoiceBias) {
            self.vector("exp_probs_b.bias", experts.count);
        }
        if self.has(Variant::Scales) {
            self.vector("ffn_gate_inp.scale", embedding);
        }
    }

    fn expert_matrices(&mut self) {
        let (embedding, experts) = (self.family.embedding, self.family.experts);
        let (count, length) = (experts.count, experts.feed_forward);
        if self.has(Variant::FusedGateUp) {
            self.experts("ffn_gate_up_exps.weight", &[embedding, 2 * length, count]);
        } else {
            self.experts("ffn_gate_exps.weight", &[embedding, length, count]);
            self.experts("ffn_up_exps.weight", &[embedding, length, count]);
        }
        self.experts("ffn_down_exps.weight", &[length, embedding, count]);
        if self.has(Variant::ExpertBias) {
            self.floats("ffn_gate_exps.bias", &[length, count]);
            self.floats("ffn_up_exps.bias", &[length, count]);
            self.floats("ffn_down_exps.bias", &[embedding, count]);
        }
        if self.has(Variant::Scales) {
            self.vector("ffn_down_exps.scale", count);
        }
        if let Some(count) = count.checked_div(experts.chunk_group) {
            let length = experts.chunk_feed_forward;
            self.experts("ffn_gate_chexps.weight", &[embedding, length, count]);
            self.experts("ffn_up_chexps.weight", &[embedding, length, count]);
            self.experts("ffn_down_chexps.weight", &[length, embedding, count]);
        }
    }

    fn shared_experts(&mut self) {
        let length = self.family.experts.shared_feed_forward;
        if length == 0 {
            return;
        }
        self.feed_forward("_shexp", length);
        if self.has(Variant::SharedGate) {
            self.vector("ffn_gate_inp_shexp.weight", self.family.embedding);
        }
    }

    fn feed_forward(&mut self, suffix: &str, length: u32) {
        let embedding = self.family.embedding;
        self.dense(&format!("ffn_gate{suffix}.weight"), &[embedding, length]);
        self.dense(&format!("ffn_up{suffix}.weight"), &[embedding, length]);
        self.dense(&format!("ffn_down{suffix}.weight"), &[length, embedding]);
    }

    /// What a layer for multi-token prediction has besides an ordinary layer's tensors.
    fn prediction(&mut self) {
        let (embedding, vocab) = (self.family.embedding, self.family.vocab);
        self.dense("nextn.eh_proj.weight", &[2 * embedding, embedding]);
        self.add("nextn.embed_tokens.weight", &[embedding, vocab], self.types.embedding);
        self.add("nextn.shared_head_head.weight", &[embedding, vocab], self.types.output);
        for name in ["nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm"] {
            self.vector(&format!("{name}.weight"), embedding);
        }
    }

    fn recurrent(&mut self) {
        let Some(recurrent) = self.family.recurrent else {
            return;
        };
        match recurrent.kind {
            RecurrentKind::Mamba { convolution, state, time_step_rank } => {
                self.mamba(convolution, state, time_step_rank);
            }
            RecurrentKind::DeltaNet { convolution, state, key_heads, value_heads } => {
                self.delta_net(convolution, state, key_heads, value_heads);
            }
            RecurrentKind::ShortConvolution { tokens } => {
                let embedding = self.family.embedding;
                self.floats("shortconv.conv.weight", &[tokens, embedding]);
                self.dense("shortconv.in_proj.weight", &[embedding, 3 * embedding]);
                self.dense("shortconv.out_proj.weight", &[embedding, embedding]);
            }
        }
    }

    fn mamba(&mut self, convolution: u32, state: u32, time_step_rank: u32) {
        let embedding = self.family.embedding;
        let inner = 2 * embedding;
        self.dense("ssm_in.weight", &[embedding, 2 * inner]);
        self.floats("ssm_conv1d.weight", &[convolution, inner]);
        self.vector("ssm_conv1d.bias", inner);
        self.dense("ssm_x.weight", &[inner, time_step_rank + 2 * state]);
        self.vector("ssm_dt_norm.weight", time_step_rank);
        self.vector("ssm_b_norm.weight", state);
        self.vector("ssm_c_norm.weight", state);
        self.dense("ssm_dt.weight", &[time_step_rank, inner]);
        self.vector("ssm_dt.bias", inner);
        self.floats("ssm_a", &[state, inner]);
        self.vector("ssm_d", inner);
        self.dense("ssm_out.weight", &[inner, embedding]);
    }

    fn delta_net(&mut self, convolution: u32, state: u32, key_heads: u32, value_heads: u32) {
        let embedding = self.family.embedding;
        let (keys, values) = (state * key_heads, state * value_heads);
        self.dense("attn_qkv.weight", &[embedding, 2 * keys + values]);
        self.dense("attn_gate.weight", &[embedding, values]);
        self.floats("ssm_conv1d.weight", &[convolution, 2 * keys + values]);
        self.vector("ssm_dt.bias", value_heads);
        self.vector("ssm_a", value_heads);
        if self.has(Variant::SplitGates) {
            self.dense("ssm_beta.weight", &[embedding, value_heads]);
            self.dense("ssm_alpha.weight", &[embedding, value_heads]);
        } else {
            self.dense("ssm_ba.weight", &[embedding, 2 * value_heads]);
        }
        self.vector("ssm_norm.weight", state);
        self.dense("ssm_out.weight", &[values, embedding]);
    }
}

/// The type itself, or where its blocks do not divide a row, the one that `llama-quantize`
/// then chooses.
fn fitting(ggml_type: GgmlType, row: u64) -> GgmlType {
    let fits = |candidate: &GgmlType| row.is_multiple_of(candidate.block_elements());
    let fallback = match ggml_type.name() {
        "q2_K" | "q3_K" => "q4_0",
        "iq4_xs" => "iq4_nl",
        "q4_K" => "q5_0",
        "q5_K" => "q5_1",
        "q6_K" => "q8_0",
        _ => "f16",
    };
    let candidates = [Some(ggml_type), GgmlType::from_name(fallback)];
    candidates.into_iter().flatten().find(fits).unwrap_or(GgmlType::F16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_do_not_fit_fall_back() {
        let choose = |name, row| fitting(GgmlType::from_name(name).unwrap(), row).name();
        assert_eq!(choose("q4_K", 2048), "q4_K");
        assert_eq!(choose("q4_K", 1408), "q5_0");
        assert_eq!(choose("q6_K", 2880), "q8_0");
        assert_eq!(choose("mxfp4", 8), "f16");
        assert_eq!(choose("f32", 7), "f32");
    }
}
