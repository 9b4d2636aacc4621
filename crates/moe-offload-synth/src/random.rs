//! A small generator of random numbers, the same on every machine.

/// The `SplitMix64` generator: one addition and a mixing function per 64 bits.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    /// A generator for one tensor: independent of the order in which tensors are written.
    pub(super) fn new(seed: u64, name: &str) -> Self {
        let mut state = seed ^ 0x6d6f_655f_7379_6e74;
        for byte in name.bytes() {
            state = mix(state.wrapping_add(u64::from(byte)).wrapping_add(STEP));
        }
        Self { state }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// Uniform between -1 and 1.
    #[allow(clippy::cast_precision_loss)] // 24 bits fit
    pub(super) fn unit(&mut self) -> f32 {
        let bits = u32::try_from(self.next() >> 40).unwrap_or(0);
        bits as f32 / 8_388_608.0 - 1.0
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        let mut chunks = bytes.chunks_exact_mut(8);
        for chunk in &mut chunks {
            chunk.copy_from_slice(&self.next().to_le_bytes());
        }
        let rest = chunks.into_remainder();
        let last = self.next().to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_depend_on_seed_and_name_only() {
        let first = |seed, name| Random::new(seed, name).next();
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(2, "a"));
        assert_ne!(first(1, "ab"), first(1, "ba"));
    }

    #[test]
    fn units_are_centred_and_spread() {
        let mut random = Random::new(7, "x");
        let values: Vec<f32> = (0..10_000).map(|_| random.unit()).collect();
        assert!(values.iter().all(|x| (-1.0..1.0).contains(x)));
        assert!((values.iter().sum::<f32>() / 10_000.0).abs() < 0.03);
        let square = values.iter().map(|x| x * x).sum::<f32>() / 10_000.0;
        assert!((square - 1.0 / 3.0).abs() < 0.02);
    }
}
