//! Sets of characters.

const LAST: u32 = 0x10_FFFF;

/// A set of Unicode scalar values: ranges in order, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct CharSet(Vec<(u32, u32)>);

impl CharSet {
    /// Of ranges that include their ends. What is no scalar value is left out.
    pub(super) fn of(ranges: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut clipped: Vec<(u32, u32)> = Vec::new();
        for (from, to) in ranges {
            let pieces = [(from, to.min(0xD7FF)), (from.max(0xE000), to.min(LAST))];
            clipped.extend(pieces.into_iter().filter(|(from, to)| from <= to));
        }
        clipped.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (from, to) in clipped {
            match merged.last_mut() {
                Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }

    pub(super) fn one(c: char) -> Self {
        Self(vec![(c.into(), c.into())])
    }

    pub(super) fn any() -> Self {
        Self::of([(0, LAST)])
    }

    pub(super) fn of_chars(chars: &str) -> Self {
        Self::of(chars.chars().map(|c| (c.into(), c.into())))
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied())
    }

    pub(super) fn complement(&self) -> Self {
        let mut next = 0;
        let mut gaps = Vec::new();
        for &(from, to) in &self.0 {
            if from > next {
                gaps.push((next, from - 1));
            }
            next = to + 1;
        }
        gaps.push((next, LAST));
        Self::of(gaps.into_iter().filter(|(from, to)| from <= to))
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        self.complement().union(other).complement()
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.complement().union(&other.complement()).complement()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    pub(super) fn contains(&self, c: u32) -> bool {
        self.overlaps(c, c)
    }

    /// Whether it has any character of a range.
    pub(super) fn overlaps(&self, from: u32, to: u32) -> bool {
        let after = self.0.partition_point(|range| range.1 < from);
        self.0.get(after).is_some_and(|range| range.0 <= to)
    }
}

/// The characters that the bytes read so far, the beginning of a character in UTF-8, can become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    pub(super) from: u32,
    pub(super) to: u32,
    missing_bytes: u32,
}

/// What one more byte makes of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Byte {
    Whole(u32),
    Part(Partial),
    /// No UTF-8.
    Invalid,
}

impl Byte {
    pub(super) fn read(partial: Option<Partial>, byte: u8) -> Self {
        let bits = u32::from(byte);
        let Some(Partial { from, to, missing_bytes }) = partial else {
            return match byte {
                0..=0x7F => Self::Whole(bits),
                0xC2..=0xDF => Self::part(bits & 0x1F, 1, 0x80, LAST),
                0xE0..=0xEF => Self::part(bits & 0x0F, 2, 0x800, LAST),
                0xF0..=0xF4 => Self::part(bits & 0x07, 3, 0x1_0000, LAST),
                _ => Self::Invalid,
            };
        };
        if byte & 0xC0 != 0x80 {
            return Self::Invalid;
        }
        // The high bits are those of both ends, unless an end was moved inwards.
        let shift = 6 * (missing_bytes - 1);
        let high = to >> (shift + 6);
        Self::part((high << 6) | (bits & 0x3F), missing_bytes - 1, from, to)
    }

    /// Of a character whose first bits are known, within limits.
    fn part(bits: u32, missing_bytes: u32, least: u32, most: u32) -> Self {
        let shift = 6 * missing_bytes;
        let from = (bits << shift).max(least);
        let to = ((bits << shift) | ((1 << shift) - 1)).min(most);
        let is_surrogate = 0xD800 <= from && to <= 0xDFFF;
        match missing_bytes {
            _ if from > to || is_surrogate => Self::Invalid,
            0 => Self::Whole(from),
            _ => Self::Part(Partial { from, to, missing_bytes }),
        }
    }
}
