//! The text of a pattern: escapes that ECMA 262 has and the parser does not, and where its faults are.

use regex_syntax::ast::{Error, ErrorKind, Span};

/// Characters of a pattern that are told.
const TOLD_CHARACTERS: usize = 20;

/// A pattern as the parser reads it.
pub(super) struct Source {
    text: String,
    /// Where something else was written, and by how many characters that was longer.
    changes: Vec<(usize, isize)>,
}

impl Source {
    /// `\0`, `\cJ` and surrogate pairs become the characters that they stand for. The reason, for half of
    /// a pair.
    pub(super) fn of(written: &str) -> Result<Self, String> {
        let mut source = Self { text: String::new(), changes: Vec::new() };
        let mut rest = written;
        while let Some(at) = rest.find('\\') {
            source.text.push_str(&rest[..at]);
            rest = &rest[at..];
            let (new, length) = match escape(rest) {
                Escape::Known(length) => (rest[..length].to_owned(), length),
                Escape::Other(new, length) => (new, length),
                Escape::Half => {
                    let place = source.character(source.text.len());
                    return Err(format!(
                        "holds `{}` at character {place}, which is half of a character; write the character itself, or both halves, as `\\ud83d\\ude00`",
                        &rest[..6]
                    ));
                }
            };
            source.text.push_str(&new);
            let count = |text: &str| isize::try_from(text.chars().count()).unwrap_or(isize::MAX);
            let longer = count(&rest[..length]) - count(&new);
            if longer != 0 {
                source.changes.push((source.text.len(), longer));
            }
            rest = &rest[length..];
        }
        source.text.push_str(rest);
        Ok(source)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The number of a character of what was written, from 1.
    fn character(&self, offset: usize) -> usize {
        let before = self.changes.iter().filter(|(end, _)| *end <= offset);
        let longer: isize = before.map(|(_, longer)| longer).sum();
        let here = self.text[..offset].chars().count() + 1;
        here.saturating_add_signed(longer)
    }

    /// A part, and where it is.
    pub(super) fn shown(&self, span: Span) -> String {
        let part = &self.text[span.start.offset..span.end.offset.max(span.start.offset)];
        let mut told: String = part.chars().take(TOLD_CHARACTERS).collect();
        if told.len() < part.len() {
            told.push('…');
        }
        let place = self.character(span.start.offset);
        if told.is_empty() {
            return format!("what is missing at character {place}");
        }
        format!("`{told}` at character {place}")
    }

    /// What the parser found, in words.
    pub(super) fn fault(&self, error: &Error) -> String {
        let mut span = *error.span();
        if let Some(group) = self.text[..span.start.offset].rfind("(?")
            && matches!(error.kind(), ErrorKind::FlagUnrecognized)
        {
            span.start.offset = group;
        }
        let shown = self.shown(span);
        let is = |letter: &str| self.text[span.start.offset..].starts_with(letter);
        match error.kind() {
            ErrorKind::UnsupportedLookAround => format!(
                "holds {shown}, a look-around, which cannot be enforced; write what the text looks like without it"
            ),
            ErrorKind::UnsupportedBackreference => refers_back(&shown),
            ErrorKind::EscapeUnrecognized if is("\\k") => refers_back(&shown),
            ErrorKind::EscapeUnrecognized => format!(
                "holds {shown}, which is no escape that can be enforced; write the characters that may stand there, or the backslash twice if it is meant"
            ),
            ErrorKind::FlagUnrecognized => format!(
                "holds {shown}, a kind of group that cannot be enforced; write `(?:…)` or `(…)`"
            ),
            kind => format!("cannot be read, because of {shown}: {kind}"),
        }
    }
}

fn refers_back(shown: &str) -> String {
    format!(
        "holds {shown}, which refers back to what was found before and cannot be enforced; write out what may stand there"
    )
}

/// What an escape at the beginning of a text is, with its length in bytes.
enum Escape {
    /// The parser's too, or nobody's.
    Known(usize),
    /// To be written so.
    Other(String, usize),
    /// Half of a surrogate pair.
    Half,
}

fn escape(text: &str) -> Escape {
    let mut chars = text.chars().skip(1);
    let (letter, next) = (chars.next(), chars.next());
    match (letter, next) {
        (Some('u'), _) => match (unit(text), text.get(6..).and_then(unit)) {
            (Some(high @ 0xD800..=0xDBFF), Some(low @ 0xDC00..=0xDFFF)) => {
                let code = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                char::from_u32(code).map_or(Escape::Half, |c| Escape::Other(c.to_string(), 12))
            }
            (Some(0xD800..=0xDFFF), _) => Escape::Half,
            _ => Escape::Known(2),
        },
        (Some('0'), next) if !next.is_some_and(|c| c.is_ascii_digit()) => {
            Escape::Other("\\x00".to_owned(), 2)
        }
        (Some('c'), Some(letter)) if letter.is_ascii_alphabetic() => {
            Escape::Other(format!("\\x{:02x}", u32::from(letter) % 32), 3)
        }
        (Some(c), _) => Escape::Known(1 + c.len_utf8()),
        (None, _) => Escape::Known(1),
    }
}

/// A unit of UTF-16, as `\u0041`.
fn unit(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}
