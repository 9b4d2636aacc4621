//! From tokens' bytes to pieces of text: UTF-8 kept whole, stop strings kept out.

/// Collects bytes and gives out text as soon as it is certain to belong to the answer.
#[derive(Debug, Default)]
pub(crate) struct TextBuffer {
    /// Bytes of a character that is not complete yet.
    bytes: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stops: Vec<String>,
}

/// What came of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Text to give out, perhaps empty.
    Text(String),
    /// The last text, before a stop string.
    Stopped(String),
}

impl TextBuffer {
    /// Empty stop strings stop nothing.
    pub(crate) fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, ..Self::default() }
    }

    /// Where a token's bytes go, before [`TextBuffer::take`].
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What can be given out now.
    pub(crate) fn take(&mut self) -> Output {
        self.decode(false);
        let first_stop = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = first_stop {
            self.held.truncate(at);
            self.bytes.clear();
            return Output::Stopped(std::mem::take(&mut self.held));
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - keep);
        Output::Text(std::mem::replace(&mut self.held, kept))
    }

    /// Everything that is left when the answer ends by itself.
    pub(crate) fn finish(&mut self) -> String {
        self.decode(true);
        std::mem::take(&mut self.held)
    }

    /// Moves whole characters to `held`; what can never become one is replaced.
    fn decode(&mut self, at_end: bool) {
        let mut done = 0;
        for chunk in self.bytes.utf8_chunks() {
            self.held.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let incomplete = done + invalid.len() == self.bytes.len()
                && !invalid.is_empty()
                && could_continue(invalid);
            if incomplete && !at_end {
                break;
            }
            if !invalid.is_empty() {
                self.held.push(char::REPLACEMENT_CHARACTER);
                done += invalid.len();
            }
        }
        self.bytes.drain(..done);
    }
}

/// Whether more bytes can complete these to a character.
fn could_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Length of the longest end of `text` that begins `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    (1..=text.len().min(stop.len().saturating_sub(1)))
        .rev()
        .find(|&n| {
            stop.is_char_boundary(n)
                && text.is_char_boundary(text.len() - n)
                && text.ends_with(&stop[..n])
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `bytes` in pieces of the given sizes; the text and whether it was stopped.
    fn feed(bytes: &[u8], sizes: &[usize], stops: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut buffer = TextBuffer::new(&stops);
        let (mut text, mut rest, mut sizes) = (String::new(), bytes, sizes.iter().cycle());
        while !rest.is_empty() {
            let size = (*sizes.next().unwrap_or(&1)).clamp(1, rest.len());
            buffer.bytes().extend_from_slice(&rest[..size]);
            rest = &rest[size..];
            match buffer.take() {
                Output::Text(piece) => text += &piece,
                Output::Stopped(piece) => return (text + &piece, true),
            }
        }
        (text + &buffer.finish(), false)
    }

    #[test]
    fn a_character_in_two_tokens_comes_whole() {
        let mut buffer = TextBuffer::new(&[]);
        buffer.bytes().extend_from_slice(&"é".as_bytes()[..1]);
        assert_eq!(buffer.take(), Output::Text(String::new()));
        buffer.bytes().extend_from_slice(&"é".as_bytes()[1..]);
        assert_eq!(buffer.take(), Output::Text("é".into()));
    }

    #[test]
    fn a_stop_string_never_leaks_its_beginning() {
        let mut buffer = TextBuffer::new(&["<end>".into()]);
        buffer.bytes().extend_from_slice(b"yes<e");
        assert_eq!(buffer.take(), Output::Text("yes".into()));
        buffer.bytes().extend_from_slice(b"nd> no");
        assert_eq!(buffer.take(), Output::Stopped(String::new()));
    }

    #[test]
    fn what_only_looks_like_a_stop_string_comes_out() {
        assert_eq!(feed(b"a<en b", &[1], &["<end>"]), ("a<en b".into(), false));
        assert_eq!(feed(b"aab", &[1], &["aab"]), (String::new(), true));
        assert_eq!(feed(b"aaab", &[2], &["aab"]), ("a".into(), true));
    }

    #[test]
    fn broken_utf8_is_replaced_and_ends() {
        assert_eq!(feed(b"a\xFFb", &[1], &[]).0, "a\u{FFFD}b");
        assert_eq!(feed(b"a\xE2\x82", &[1], &[]).0, "a\u{FFFD}");
    }

    proptest! {
        #[test]
        fn pieces_do_not_change_the_text(
            text in "[ab<>é€😀]{0,40}",
            stop in "[ab<>é]{1,4}",
            sizes in prop::collection::vec(1_usize..6, 1..8),
        ) {
            let expected = text.find(&stop).map_or(text.as_str(), |at| &text[..at]);
            let (found, stopped) = feed(text.as_bytes(), &sizes, &[&stop]);
            prop_assert_eq!(&found, expected);
            prop_assert_eq!(stopped, text.contains(&stop));
        }

        #[test]
        fn any_bytes_give_what_lossy_decoding_gives(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            sizes in prop::collection::vec(1_usize..6, 1..8),
        ) {
            let found = feed(&bytes, &sizes, &[]).0;
            let expected = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(found.as_str(), expected.as_ref());
        }
    }
}
