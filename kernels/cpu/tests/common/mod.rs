//! What the kernel tests share: levels, threads, values and comparison.
//!
//! A test is a table of cases run at every level of the machine against a plain double-precision
//! reference; all failing rows are reported together.

#![allow(dead_code, reason = "each test binary uses a part of these helpers")]

use std::sync::atomic::{AtomicUsize, Ordering};

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
