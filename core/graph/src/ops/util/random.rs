//! Random numbers for the generating operators: a counter-based generator.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011) maps a key and a counter to 128 bits, so element `i` of a
//! stream can be had without the ones before it, on any device. The key is the
//! seed; an operator without a seed takes one that differs from call to call.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A stream of random numbers.
pub struct Philox {
    key: [u32; 2],
    counter: u64,
    block: [u32; 4],
    used: usize,
}

impl Philox {
    /// The stream of `seed`; without one, a stream of its own.
    pub fn new(seed: Option<u64>) -> Self {
        let seed = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let key = [seed as u32, (seed >> 32) as u32];
        Philox { key, counter: 0, block: [0; 4], used: 4 }
    }

    /// The stream of a seed given as a float, as ONNX does.
    pub fn from_float(seed: Option<f32>) -> Self {
        Self::new(seed.map(|s| s.to_bits().into()))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        if self.used >= 4 {
            let c = self.counter;
            self.block = philox([c as u32, (c >> 32) as u32, 0, 0], self.key);
            self.counter = c.wrapping_add(1);
            self.used = 0;
        }
        let (low, high) = (self.block[self.used], self.block[self.used + 1]);
        self.used += 2;
        u64::from(high) << 32 | u64::from(low)
    }

    /// A number in `[0, 1)`, a multiple of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (-53f64).exp2()
    }

    /// A number from the standard normal distribution (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Ten rounds of the bijection that the key selects.
fn philox(mut c: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let product = |a: u32, b: u32| {
        let p = u64::from(a) * u64::from(b);
        ((p >> 32) as u32, p as u32)
    };
    for _ in 0..10 {
        let (high0, low0) = product(0xd251_1f53, c[0]);
        let (high1, low1) = product(0xcd9e_8d57, c[2]);
        c = [high1 ^ c[1] ^ key[0], low1, high0 ^ c[3] ^ key[1], low0];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let m = u32::MAX;
        for (counter, key, want) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([m; 4], [m; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), want);
        }
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut r = Philox::new(Some(1));
        let n = 40_000;
        let (mut u, mut z, mut z2) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let x = r.uniform();
            assert!((0.0..1.0).contains(&x));
            u += x;
            let x = r.normal();
            z += x;
            z2 += x * x;
        }
        // Five standard errors of each mean.
        let n = f64::from(n);
        assert!((u / n - 0.5).abs() < 5.0 * (1.0 / 12.0 / n).sqrt());
        assert!((z / n).abs() < 5.0 / n.sqrt());
        assert!((z2 / n - 1.0).abs() < 5.0 * (2.0 / n).sqrt());
    }

    #[test]
    fn a_seed_repeats_and_no_seed_does_not() {
        assert_eq!(Philox::new(Some(7)).bits(), Philox::new(Some(7)).bits());
        assert_ne!(Philox::new(Some(7)).bits(), Philox::new(Some(8)).bits());
        assert_ne!(Philox::new(None).bits(), Philox::new(None).bits());
    }
}
