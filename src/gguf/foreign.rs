//! Tells what a file is that is no GGUF file.

use crate::error::ForeignFile;

/// As much of a file as is looked at.
pub(super) const LOOKED_AT: u64 = 512;
/// Characters of a text that are shown.
const SHOWN: usize = 60;

/// How files begin that are packed.
const PACKED: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"BZh", "bzip2"),
    (b"Rar!", "RAR"),
];
/// How files of other kinds begin.
const KNOWN: [(&[u8], &str); 7] = [
    (b"\x7fELF", "a program or library (ELF)"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
];
/// Little-endian numbers: `ggml`, `ggmf`, `ggjt`, `ggla`.
const GGML: [&[u8; 4]; 4] = [b"lmgg", b"fmgg", b"tjgg", b"algg"];

/// What begins so, of `file_bytes` in all.
pub(super) fn classify(beginning: &[u8], file_bytes: u64) -> ForeignFile {
    let begins = |magic: &[u8]| beginning.starts_with(magic);
    if begins(b"version https://git-lfs") {
        return ForeignFile::LfsPointer { bytes: lfs_size(beginning) };
    }
    if begins(b"PK\x03\x04") {
        return ForeignFile::Zip;
    }
    if let Some((_, format)) = PACKED.iter().find(|(magic, _)| begins(magic)) {
        return ForeignFile::Packed { format };
    }
    if let Some((_, format)) = KNOWN.iter().find(|(magic, _)| begins(magic)) {
        return ForeignFile::Known { format };
    }
    if GGML.iter().any(|magic| begins(*magic)) {
        return ForeignFile::Ggml;
    }
    if is_safetensors(beginning, file_bytes) {
        return ForeignFile::Safetensors;
    }
    if !beginning.is_empty() && beginning.iter().all(|&byte| byte == 0) {
        return ForeignFile::Zeros;
    }
    match first_line(beginning) {
        Some(beginning) if is_markup(&beginning) => ForeignFile::WebPage { beginning },
        Some(beginning) => ForeignFile::Text { beginning },
        None => ForeignFile::Other { beginning: beginning.iter().copied().take(16).collect() },
    }
}

/// The number after `size ` in a pointer.
fn lfs_size(pointer: &[u8]) -> Option<u64> {
    let text = str::from_utf8(pointer).ok()?;
    text.lines().find_map(|line| line.strip_prefix("size ")?.trim().parse().ok())
}

/// The length of a JSON object, then the object.
fn is_safetensors(beginning: &[u8], file_bytes: u64) -> bool {
    beginning.split_first_chunk::<8>().is_some_and(|(length, rest)| {
        u64::from_le_bytes(*length) < file_bytes && rest.first() == Some(&b'{')
    })
}

/// The first line that is not empty, if the beginning is text. It may end within a character.
fn first_line(beginning: &[u8]) -> Option<String> {
    let beginning = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(beginning);
    let text = match str::from_utf8(beginning) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            str::from_utf8(&beginning[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let is_text = |c: char| !c.is_control() || c.is_ascii_whitespace();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    text.chars().all(is_text).then(|| {
        let shown: String = line.chars().take(SHOWN).collect();
        if shown.len() < line.len() { format!("{shown}…") } else { shown }
    })
}

fn is_markup(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    ["<!doctype", "<html", "<head", "<?xml", "<!--"].iter().any(|start| line.starts_with(start))
}
