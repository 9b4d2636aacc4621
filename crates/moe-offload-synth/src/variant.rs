//! What a family has besides sizes: its tokenizer, keys of its own, and departures from the plain
//! architecture.

/// The tokenizer's kind; the tokens are synthetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vocabulary {
    /// Byte-pair encoding, with the engine's name for the splitting of text.
    Bpe(&'static str),
    /// `SentencePiece`.
    Spm,
}

/// A metadata value that belongs to one family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Setting {
    U(u32),
    F(f32),
    B(bool),
    S(&'static str),
    I(&'static [i32]),
}

/// How an architecture departs from the plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Query, key and value in one matrix.
    FusedQkv,
    /// Biases on query, key and value.
    QkvBias,
    /// A bias on the attention's output.
    OutBias,
    /// Norms over each head's query and key.
    HeadNorms,
    /// Norms over the whole query and key.
    WholeNorms,
    /// A gate beside each query.
    GatedQuery,
    /// Layers that see everything use their keys as values.
    KeyIsValue,
    /// The delta net's two gates in tensors of their own.
    SplitGates,
    /// A learned sink per head.
    Sinks,
    /// Norms have biases, and so has the output.
    NormBias,
    /// The final norm is called `token_embd_norm`.
    EmbeddingNormName,
    /// `layer_norm_epsilon` instead of `layer_norm_rms_epsilon`.
    LayerNormKey,
    /// `expert_feed_forward_length` is present.
    ExpertLengthKey,
    /// `expert_shared_count` is present.
    SharedCountKey,
    /// `expert_shared_feed_forward_length` is present.
    SharedLengthKey,
    /// Gate and up projection in one tensor.
    FusedGateUp,
    /// A bias on the router and on each expert.
    ExpertBias,
    /// A bias per expert that only counts for the choice.
    ChoiceBias,
    /// A gate on the shared expert.
    SharedGate,
    /// A dense feed-forward of the embedding's size beside the experts.
    SquareDense,
    /// A dense feed-forward beside the experts.
    ParallelDense,
    /// Scales on router input, experts and layer output.
    Scales,
    /// One tensor of rope factors.
    RopeFreqs,
    /// Two tensors of rope factors, for short and long contexts.
    RopeFactors,
}
