//! Text that the engine's own tokenizer would not survive on this stack.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

use moe_offload::synth::{self, SynthOptions};
use moe_offload::{Error, GenerateOptions, MoeModel};

#[test]
fn a_long_run_of_the_same_letter_is_only_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let model = synth::family("gpt-oss-20b").unwrap().build(&SynthOptions::tiny()).unwrap();
    model.save(&path, 1, |_| {}).unwrap();
    // With the 2 MiB of a thread, as tests have, 20,000 letters overflowed.
    let mut model = MoeModel::builder(&path).threads(1).context_tokens(256).load().unwrap();
    for letter in ["a", " ", "!", "é", "\n"] {
        let text = letter.repeat(200_000);
        let error = model.generate(&text, &GenerateOptions::default()).unwrap_err();
        assert!(matches!(error, Error::PromptTooLong { .. }), "{error}");
        assert!(model.count_tokens(&text).unwrap() > 256);
    }
}
