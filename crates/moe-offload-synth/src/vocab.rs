//! A synthetic vocabulary that the engine's tokenizers take.

use super::variant::Vocabulary;
use crate::writer::GgufWriter;

/// The fewest tokens a vocabulary can have: control tokens, bytes, and room for the merges.
pub(super) const MIN_VOCAB: u32 = 384;

/// Control tokens stand first, so that their rows can be found in the embedding.
pub(super) const CONTROL_TOKENS: u32 = 5;

/// Where the end-of-turn token is.
const TURN_END: u32 = 4;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

/// `ChatML`, which the engine recognises by its markers.
const CHAT_TEMPLATE: &str = "{%- for message in messages -%}\
    <|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
    {%- endfor -%}\
    {%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}";

/// Pairs that are joined, most frequent first; the results are tokens.
const MERGES: [(&str, &str); 24] = [
    ("Ġ", "t"),
    ("Ġ", "a"),
    ("h", "e"),
    ("i", "n"),
    ("e", "r"),
    ("o", "n"),
    ("Ġ", "s"),
    ("a", "t"),
    ("o", "u"),
    ("Ġ", "w"),
    ("e", "n"),
    ("i", "s"),
    ("o", "r"),
    ("e", "s"),
    ("i", "t"),
    ("a", "n"),
    ("Ġt", "he"),
    ("in", "g"),
    ("Ġa", "n"),
    ("Ġ", "o"),
    ("Ġo", "f"),
    ("l", "l"),
    ("Ġ", "is"),
    ("Ġan", "d"),
];

/// Sets the tokenizer's metadata for a vocabulary of this size.
pub(super) fn set_tokenizer(writer: &mut GgufWriter, vocabulary: Vocabulary, vocab: u32) {
    match vocabulary {
        Vocabulary::Bpe(pre) => set_bpe(writer, pre, vocab),
        Vocabulary::Spm => set_spm(writer, vocab),
    }
    writer
        .set("tokenizer.ggml.bos_token_id", 1_u32)
        .set("tokenizer.ggml.eos_token_id", TURN_END)
        .set("tokenizer.ggml.padding_token_id", 2_u32)
        .set("tokenizer.ggml.add_bos_token", true)
        .set("tokenizer.ggml.add_eos_token", false)
        .set("tokenizer.chat_template", CHAT_TEMPLATE);
}

fn set_bpe(writer: &mut GgufWriter, pre: &str, vocab: u32) {
    let mut tokens = Tokens::new(["<|unk|>", "<|bos|>", "<|endoftext|>"]);
    (0..=u8::MAX).for_each(|byte| tokens.push(byte_letter(byte).to_string(), NORMAL));
    for (first, second) in MERGES {
        tokens.push([first, second].concat(), NORMAL);
    }
    tokens.fill("Ġ", vocab);
    let merges: Vec<String> = MERGES.iter().map(|(a, b)| format!("{a} {b}")).collect();
    writer
        .set("tokenizer.ggml.model", "gpt2")
        .set("tokenizer.ggml.pre", pre)
        .set("tokenizer.ggml.tokens", tokens.texts)
        .set("tokenizer.ggml.token_type", tokens.kinds)
        .set("tokenizer.ggml.merges", merges);
}

#[allow(clippy::cast_precision_loss)] // only an order
fn set_spm(writer: &mut GgufWriter, vocab: u32) {
    let mut tokens = Tokens::new(["<unk>", "<s>", "</s>"]);
    tokens.kinds[0] = UNKNOWN;
    (0..=u8::MAX).for_each(|byte| tokens.push(format!("<0x{byte:02X}>"), BYTE));
    tokens.push("▁".to_owned(), NORMAL);
    (b'!'..=b'~').for_each(|byte| tokens.push(char::from(byte).to_string(), NORMAL));
    tokens.fill("▁", vocab);
    let scores: Vec<f32> = (0..tokens.texts.len()).map(|rank| -(rank as f32)).collect();
    writer
        .set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.pre", "default")
        .set("tokenizer.ggml.tokens", tokens.texts)
        .set("tokenizer.ggml.scores", scores)
        .set("tokenizer.ggml.token_type", tokens.kinds)
        .set("tokenizer.ggml.unknown_token_id", 0_u32);
}

struct Tokens {
    texts: Vec<String>,
    kinds: Vec<i32>,
}

impl Tokens {
    fn new(control: [&str; 3]) -> Self {
        let mut tokens = Self { texts: Vec::new(), kinds: Vec::new() };
        for text in control.into_iter().chain(["<|im_start|>", "<|im_end|>"]) {
            tokens.push(text.to_owned(), CONTROL);
        }
        tokens
    }

    fn push(&mut self, text: String, kind: i32) {
        self.texts.push(text);
        self.kinds.push(kind);
    }

    /// Adds words until there are `vocab` tokens.
    fn fill(&mut self, space: &str, vocab: u32) {
        let vocab = usize::try_from(vocab).unwrap_or(usize::MAX);
        let missing = vocab.saturating_sub(self.texts.len());
        for number in (0..).take(missing) {
            self.push(format!("{space}{}", word(number)), NORMAL);
        }
    }
}

/// A word of its own for every number: two syllables or more.
fn word(number: u32) -> String {
    const CONSONANTS: &[u8] = b"bdfgklmnprstvz";
    const VOWELS: &[u8] = b"aeiou";
    let syllables = (CONSONANTS.len() * VOWELS.len()) as u64;
    let mut rest = u64::from(number) + syllables; // no word of one syllable
    let mut letters = Vec::new();
    loop {
        let syllable = usize::try_from(rest % syllables).unwrap_or(0);
        letters.push(VOWELS[syllable % VOWELS.len()]);
        letters.push(CONSONANTS[syllable / VOWELS.len()]);
        rest /= syllables;
        if rest == 0 {
            break;
        }
    }
    letters.iter().rev().map(|&letter| char::from(letter)).collect()
}

/// The letter that stands for a byte in GPT-2's vocabulary: itself where it can be printed,
/// otherwise one of the letters from U+0100 on.
fn byte_letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !printable(other)).count();
    u32::try_from(before).ok().and_then(|before| char::from_u32(256 + before)).unwrap_or('\u{fffd}')
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use moe_offload::GgufFile;

    use super::*;

    #[test]
    fn tokens_are_distinct_and_as_many_as_wanted() {
        for vocabulary in [Vocabulary::Bpe("gpt-2"), Vocabulary::Spm] {
            let mut writer = GgufWriter::new();
            set_tokenizer(&mut writer, vocabulary, 20_000);
            let mut file = Vec::new();
            writer.write(&mut file, |_, _| Ok(())).unwrap();
            let gguf = GgufFile::read(&file[..], file.len() as u64, "memory").unwrap();
            let array = |key: &str| gguf.metadata()[key].as_array().unwrap();
            let tokens = array("tokenizer.ggml.tokens");
            assert_eq!(tokens.iter_bytes().collect::<HashSet<_>>().len(), 20_000);
            assert_eq!(array("tokenizer.ggml.token_type").len(), 20_000);
        }
    }

    #[test]
    fn letters_of_bytes_are_distinct_and_the_known_ones() {
        let letters: HashSet<char> = (0..=u8::MAX).map(byte_letter).collect();
        assert_eq!(letters.len(), 256);
        assert_eq!((byte_letter(b' '), byte_letter(b'\n'), byte_letter(b'A')), ('Ġ', 'Ċ', 'A'));
        assert_eq!(byte_letter(0xad), 'Ń');
    }

    #[test]
    fn words_are_distinct() {
        let words: HashSet<String> = (0..100_000).map(word).collect();
        assert_eq!(words.len(), 100_000);
    }

    #[test]
    fn merges_join_known_tokens() {
        let mut known: HashSet<String> =
            (0..=u8::MAX).map(|b| byte_letter(b).to_string()).collect();
        for (first, second) in MERGES {
            assert!(known.contains(first) && known.contains(second), "{first} {second}");
            known.insert([first, second].concat());
        }
    }
}
