//! What the kernel tests share: levels, threads, values and comparison.
//!
//! A test is a table of cases run at every level of the machine against a plain double-precision
//! reference; all failing rows are reported together.

#![allow(dead_code, reason = "each test binary uses a part of these helpers")]

use std::sync::atomic::{AtomicUsize, Ordering};

use deepseek_kernels_cpu::blocked::lanes;
use deepseek_kernels_cpu::conv::ConvShape;
use deepseek_kernels_cpu::{Isa, Level, Parallel};

/// Every level this machine has, those with matrix instructions among them.
pub fn matrix_isas() -> Vec<Isa> {
    Level::available().map(|l| Isa::at(l).expect("the level is available")).collect()
}

/// Every vector level this machine has.
pub fn isas() -> Vec<Isa> {
    Level::available_vectors().map(|l| Isa::at(l).expect("the level is available")).collect()
}

/// Runs tasks on `0` threads of its own, handing them out in falling order.
pub struct Threads(pub usize);

// SAFETY: the counter hands out each index once, and the scope joins all threads.
unsafe impl Parallel for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.0 {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= tasks {
                            break;
                        }
                        body(tasks - 1 - i);
                    }
                });
            }
        });
    }
}

/// A fixed sequence of values in `[-1, 1)`.
pub fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            ((x >> 40) as f32) / 8_388_608.0 - 1.0
        })
        .collect()
}

/// Distance in units in the last place of the exact value `want` rounded to `f32`; 0 when both are
/// NaN or the same infinity, infinite when only one is.
pub fn ulps(got: f32, want: f64) -> f64 {
    let rounded = want as f32;
    if got.is_nan() || rounded.is_nan() {
        return if got.is_nan() && rounded.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if got.is_infinite() || rounded.is_infinite() {
        return if got == rounded { 0.0 } else { f64::INFINITY };
    }
    let exponent = (rounded.abs().to_bits() >> 23).max(1) as i32;
    let ulp = 2f64.powi(exponent - 127 - 23);
    (f64::from(got) - want).abs() / ulp
}

/// Collects failures so that a table reports all of its rows.
#[derive(Default)]
pub struct Failures(Vec<String>);

impl Failures {
    pub fn check(&mut self, ok: bool, message: impl FnOnce() -> String) {
        if !ok {
            self.0.push(message());
        }
    }

    /// `|got - want| <= tol` at every index; reports the worst.
    pub fn close(&mut self, what: &str, got: &[f32], want: &[f64], tol: impl Fn(usize) -> f64) {
        self.check(got.len() == want.len(), || {
            format!("{what}: {} against {} values", got.len(), want.len())
        });
        let mut worst: Option<(f64, usize)> = None;
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            if (g.is_nan() && w.is_nan()) || f64::from(g) == w {
                continue;
            }
            let over = (f64::from(g) - w).abs() / tol(i).max(f64::MIN_POSITIVE);
            let over = if over.is_nan() { f64::INFINITY } else { over };
            if over > 1.0 && worst.is_none_or(|(o, _)| over > o) {
                worst = Some((over, i));
            }
        }
        if let Some((over, i)) = worst {
            self.0.push(format!(
                "{what}: at {i} got {}, want {}, {over:.2} times the tolerance",
                got[i], want[i]
            ));
        }
    }

    /// Equal bit for bit.
    pub fn same(&mut self, what: &str, got: &[f32], want: &[f32]) {
        self.check(got.len() == want.len(), || {
            format!("{what}: {} against {} values", got.len(), want.len())
        });
        if let Some(i) = (0..got.len()).find(|&i| got[i].to_bits() != want[i].to_bits()) {
            self.0.push(format!("{what}: at {i} got {:?}, want {:?}", got[i], want[i]));
        }
    }

    pub fn finish(self) {
        assert!(self.0.is_empty(), "{} failures:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// Sums of the products, and of their magnitudes, in double precision.
pub fn convolution(s: &ConvShape, x: &[f32], w: &[f32]) -> Vec<(f64, f64)> {
    let [_, oh, ow] = s.output();
    let [_, ih, iw] = s.input;
    let [_, kh, kw] = s.kernel;
    let (gi, go) = (s.in_channels / s.groups, s.out_channels / s.groups);
    let mut all = vec![];
    for i in 0..s.output_len() {
        let (p, o) = (i % (oh * ow), i / (oh * ow) % s.out_channels);
        let image = i / (oh * ow) / s.out_channels;
        let (mut sum, mut size) = (0.0, 0.0);
        for t in 0..gi * kh * kw {
            let (c, ky, kx) = (t / (kh * kw), t / kw % kh, t % kw);
            let y = (p / ow * s.stride[1] + ky * s.dilation[1]).wrapping_sub(s.pad_begin[1]);
            let xx = (p % ow * s.stride[2] + kx * s.dilation[2]).wrapping_sub(s.pad_begin[2]);
            if y < ih && xx < iw {
                let channel = image * s.in_channels + o / go * gi + c;
                let v =
                    f64::from(x[(channel * ih + y) * iw + xx]) * f64::from(w[o * gi * kh * kw + t]);
                (sum, size) = (sum + v, size + v.abs());
            }
        }
        all.push((sum, size));
    }
    all
}

/// Images of `channels` and `plane` pixels with blocked channels; those that do not exist are NaN.
pub fn block(isa: Isa, channels: usize, plane: usize, x: &[f32]) -> Vec<f32> {
    let lanes = lanes(isa);
    let blocks = channels.div_ceil(lanes);
    let batch = x.len().checked_div(channels * plane).unwrap_or(0);
    let mut y = vec![f32::NAN; batch * blocks * lanes * plane];
    for (i, v) in x.iter().enumerate() {
        let (image, c, p) = (i / plane / channels, i / plane % channels, i % plane);
        y[((image * blocks + c / lanes) * plane + p) * lanes + c % lanes] = *v;
    }
    y
}

/// Images of `channels` and `plane` pixels whose channels were blocked.
pub fn unblock(isa: Isa, channels: usize, plane: usize, x: &[f32]) -> Vec<f32> {
    let lanes = lanes(isa);
    let blocks = channels.div_ceil(lanes);
    let batch = x.len().checked_div(blocks * lanes * plane).unwrap_or(0);
    (0..batch * channels * plane)
        .map(|i| {
            let (image, c, p) = (i / plane / channels, i / plane % channels, i % plane);
            x[((image * blocks + c / lanes) * plane + p) * lanes + c % lanes]
        })
        .collect()
}
