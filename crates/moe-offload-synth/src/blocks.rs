//! The layout of quantised blocks, as far as random data has to respect it.
//!
//! A block of random bytes is a block of random quants. What may not be random are its scales: a
//! random half float can be infinite or no number at all. So each type lists the fields that are
//! written over the random bytes, such that the values have mean zero (nearly, where the type is
//! lopsided) and a chosen spread.

use moe_offload::gguf::GgmlType;

/// A quantised type that can be filled with random data.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockLayout {
    /// The standard deviation of the values where the block's scale is 1.
    deviation: f64,
    fields: &'static [Field],
}

#[derive(Clone, Copy, Debug)]
enum Field {
    /// At this offset a half float: the scale times this factor.
    Half(usize, f64),
    /// At this offset an exponent: the scale rounded to a power of two, biased by 128.
    Exponent(usize),
    /// From this offset, so many bytes of this value.
    Fill(usize, usize, u8),
}

impl BlockLayout {
    /// The layout of a type, or `None` for one that is not known here.
    pub(super) fn of(ggml_type: GgmlType) -> Option<Self> {
        use Field::{Exponent, Fill, Half};
        let (deviation, fields): (f64, &'static [Field]) = match ggml_type.name() {
            "q4_0" => (4.61, &[Half(0, 1.0)]),
            "q4_1" => (4.61, &[Half(0, 1.0), Half(2, -7.5)]),
            "q5_0" => (9.23, &[Half(0, 1.0)]),
            "q5_1" => (9.23, &[Half(0, 1.0), Half(2, -15.5)]),
            "q8_0" => (73.9, &[Half(0, 1.0)]),
            // The k-quants' sub-block scales and minima are all 8.
            "q2_K" => (8.94, &[Fill(0, 16, 0x88), Half(80, 1.0), Half(82, 1.5)]),
            "q3_K" => (18.3, &[Fill(96, 8, 0x88), Fill(104, 4, 0xaa), Half(108, 1.0)]),
            "q4_K" => (36.9, &[Half(0, 1.0), Half(2, 7.5), Fill(4, 8, 0x08), Fill(12, 4, 0x88)]),
            "q5_K" => (73.9, &[Half(0, 1.0), Half(2, 15.5), Fill(4, 8, 0x08), Fill(12, 4, 0x88)]),
            "q6_K" => (147.8, &[Fill(192, 16, 0x08), Half(208, 1.0)]),
            "iq4_nl" => (67.4, &[Half(0, 1.0)]),
            "iq4_xs" => (539.5, &[Half(0, 1.0), Fill(2, 2, 0xaa), Fill(4, 4, 0x88)]),
            "mxfp4" => (5.85, &[Exponent(0)]),
            _ => return None,
        };
        Some(Self { deviation, fields })
    }

    /// The bytes to write over each block for values of this standard deviation.
    pub(super) fn patches(self, deviation: f64) -> Vec<(usize, Vec<u8>)> {
        let scale = deviation / self.deviation;
        let patch = |field: &Field| match *field {
            Field::Half(at, factor) => (at, half(scale * factor).to_le_bytes().to_vec()),
            Field::Exponent(at) => (at, vec![exponent(scale)]),
            Field::Fill(at, count, byte) => (at, vec![byte; count]),
        };
        self.fields.iter().map(patch).collect()
    }
}

/// The exponent byte of this power of two; the quants are stored doubled, hence 128.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped before
fn exponent(scale: f64) -> u8 {
    (scale.log2().round() + 128.0).clamp(1.0, 254.0) as u8
}

/// The nearest half float, as bits.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // masked or clamped before
pub(super) fn half(value: f64) -> u16 {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    let size = value.abs().min(65504.0);
    if size < 6.103_515_625e-5 {
        return sign | (size * 16_777_216.0).round() as u16; // subnormal: steps of 2^-24
    }
    let exponent = size.log2().floor();
    let steps = (size / exponent.exp2() * 1024.0).round(); // 1024 to 2048
    sign + (((exponent + 14.0) * 1024.0) + steps) as u16
}

/// The nearest bfloat, as bits.
pub(super) fn brain(value: f32) -> u16 {
    let rounded = value.to_bits().wrapping_add(0x8000) >> 16;
    u16::try_from(rounded).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_the_known_bit_patterns() {
        for (value, bits) in [
            (0.0, 0x0000),
            (1.0, 0x3c00),
            (-2.0, 0xc000),
            (0.333_251_953_125, 0x3555),
            (65504.0, 0x7bff),
            (1e9, 0x7bff),
            (6.103_515_625e-5, 0x0400),
            (5.960_464_477_539_063e-8, 0x0001),
            (1.999_9, 0x4000),
        ] {
            assert_eq!(half(value), bits, "{value}");
        }
    }

    #[test]
    fn fields_lie_inside_their_block() {
        for ggml_type in GgmlType::all() {
            let Some(layout) = BlockLayout::of(ggml_type) else {
                continue;
            };
            for (at, bytes) in layout.patches(0.02) {
                assert!(at + bytes.len() <= usize::try_from(ggml_type.block_bytes()).unwrap());
            }
        }
    }
}
