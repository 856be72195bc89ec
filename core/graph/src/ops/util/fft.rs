//! The discrete Fourier transform of any length in O(n log n).
//!
//! Powers of two by the iterative radix-2 algorithm (Cooley and Tukey, 1965), other
//! lengths as a convolution with a chirp, done in a power of two (Bluestein, 1970).
//! Tables are made once per length.

use super::filled;
use deepseek_tensor::{Result, ensure};
use std::f64::consts::PI;

/// The transform of one length.
pub struct Fft {
    n: usize,
    kind: Kind,
}

enum Kind {
    /// `e^(−2πi·k/n)` for `k` below `n / 2`.
    Radix2(Vec<(f64, f64)>),
    Chirp {
        /// The transform of the convolution.
        inner: Box<Fft>,
        /// `e^(−πi·k²/n)`.
        chirp: Vec<(f64, f64)>,
        /// Transform of the conjugate chirp, wrapped around.
        filter: Vec<(f64, f64)>,
    },
}

/// `e^(−πi·k/n)`.
fn turn(k: usize, n: usize) -> (f64, f64) {
    let angle = PI * k as f64 / n as f64;
    (angle.cos(), -angle.sin())
}

fn mul((a, b): (f64, f64), (c, d): (f64, f64)) -> (f64, f64) {
    (a * c - b * d, a * d + b * c)
}

fn conj((a, b): (f64, f64)) -> (f64, f64) {
    (a, -b)
}

impl Fft {
    /// The transform of `n` numbers.
    ///
    /// # Errors
    /// `InvalidArgument` for a length of 0 or beyond 2^40, `OutOfMemory`.
    pub fn new(n: usize) -> Result<Self> {
        ensure!(
            (1..=1usize << 40).contains(&n),
            InvalidArgument,
            "a Fourier transform of length {n} is not possible; use 1 to 2^40"
        );
        if n.is_power_of_two() {
            let mut twiddles = filled(n / 2, (0.0, 0.0))?;
            twiddles.iter_mut().enumerate().for_each(|(k, t)| *t = turn(2 * k, n));
            return Ok(Fft { n, kind: Kind::Radix2(twiddles) });
        }
        let m = (2 * n - 1).next_power_of_two();
        let inner = Box::new(Fft::new(m)?);
        let mut chirp = filled(n, (0.0, 0.0))?;
        for (k, c) in chirp.iter_mut().enumerate() {
            // k² modulo a full turn, so that the angle stays small and exact.
            let square = (k as u128 * k as u128 % (2 * n as u128)) as usize;
            *c = turn(square, n);
        }
        let mut filter = filled(m, (0.0, 0.0))?;
        for (k, &c) in chirp.iter().enumerate() {
            filter[k] = conj(c);
            filter[(m - k) % m] = conj(c);
        }
        inner.forward(&mut filter)?;
        Ok(Fft { n, kind: Kind::Chirp { inner, chirp, filter } })
    }

    /// `x[k] = Σ x[j] · e^(−2πi·jk/n)`, in place; pairs are (real, imaginary).
    ///
    /// # Errors
    /// `ShapeMismatch` if `x` has another length than the transform, `OutOfMemory`.
    pub fn forward(&self, x: &mut [(f64, f64)]) -> Result<()> {
        ensure!(
            x.len() == self.n,
            ShapeMismatch,
            "{} numbers for a transform of {}",
            x.len(),
            self.n
        );
        match &self.kind {
            Kind::Radix2(twiddles) => radix2(x, twiddles),
            Kind::Chirp { inner, chirp, filter } => {
                let mut work = filled(filter.len(), (0.0, 0.0))?;
                for ((w, &v), &c) in work.iter_mut().zip(x.iter()).zip(chirp) {
                    *w = mul(v, c);
                }
                inner.forward(&mut work)?;
                work.iter_mut().zip(filter).for_each(|(w, &f)| *w = mul(*w, f));
                inner.inverse(&mut work)?;
                for ((v, &w), &c) in x.iter_mut().zip(&work).zip(chirp) {
                    *v = mul(w, c);
                }
            }
        }
        Ok(())
    }

    /// `x[k] = 1/n · Σ x[j] · e^(2πi·jk/n)`, in place.
    ///
    /// # Errors
    /// As [`Fft::forward`].
    pub fn inverse(&self, x: &mut [(f64, f64)]) -> Result<()> {
        x.iter_mut().for_each(|v| *v = conj(*v));
        self.forward(x)?;
        let n = self.n as f64;
        x.iter_mut().for_each(|v| *v = (v.0 / n, -v.1 / n));
        Ok(())
    }
}

fn radix2(x: &mut [(f64, f64)], twiddles: &[(f64, f64)]) {
    let n = x.len();
    if n < 2 {
        return;
    }
    let bits = n.trailing_zeros();
    for i in 0..n {
        let j = i.reverse_bits() >> (usize::BITS - bits);
        if i < j {
            x.swap(i, j);
        }
    }
    let mut half = 1;
    while half < n {
        let step = n / (2 * half);
        for block in x.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for ((a, b), &w) in low.iter_mut().zip(high).zip(twiddles.iter().step_by(step)) {
                let t = mul(*b, w);
                *b = (a.0 - t.0, a.1 - t.1);
                *a = (a.0 + t.0, a.1 + t.1);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition_and_inverts() {
        for n in (1..40).chain([64, 97, 100]) {
            let x: Vec<_> = (0..n).map(|i| ((i * i % 7) as f64, (i % 3) as f64 - 1.0)).collect();
            let fft = Fft::new(n).unwrap();
            let mut y = x.clone();
            fft.forward(&mut y).unwrap();
            for (k, &got) in y.iter().enumerate() {
                let want = x.iter().enumerate().fold((0.0, 0.0), |s, (j, &v)| {
                    let t = mul(v, turn(2 * (j * k % n), n));
                    (s.0 + t.0, s.1 + t.1)
                });
                let error = (got.0 - want.0).hypot(got.1 - want.1);
                assert!(error < 1e-11 * n as f64, "n {n}, k {k}: {got:?} against {want:?}");
            }
            fft.inverse(&mut y).unwrap();
            for (a, b) in y.iter().zip(&x) {
                assert!((a.0 - b.0).hypot(a.1 - b.1) < 1e-12 * n as f64, "n {n}");
            }
        }
    }
}
