//! 8-bit and bf16 products at every level that has its own instructions for them.

mod common;
use common::{Failures, Threads, matrix_isas, values};
use deepseek_kernels_cpu::elementwise::Unary;
use deepseek_kernels_cpu::gemm::*;
use deepseek_kernels_cpu::{Isa, Serial};
use half::bf16;

/// Sizes around tiles, units and blocks.
const SIZES: [(usize, usize, usize); 14] = [
    (0, 2, 2),
    (1, 1, 1),
    (2, 5, 0),
    (1, 70, 130),
    (3, 17, 5),
    (7, 33, 64),
    (13, 32, 63),
    (16, 31, 128),
    (17, 64, 192),
    (20, 40, 301),
    (33, 96, 1),
    (48, 65, 576),
    (64, 32, 1100),
    (300, 37, 67),
];

/// Bytes over the whole range, both ends among them.
fn bytes(n: usize, seed: u64) -> Vec<u8> {
    let special = [0u8, 255, 127, 128];
    let random = values(n, seed).into_iter();
    random
        .enumerate()
        .map(|(i, v)| match i % 7 {
            0 => special[i / 7 % 4],
            _ => (v * 128.0 + 128.0) as u8,
        })
        .collect()
}

struct Case {
    m: usize,
    n: usize,
    k: usize,
    a: Vec<u8>,
    b: Vec<u8>,
    signed: (bool, bool),
    a_zero: i32,
    zeros: Option<Vec<i32>>,
    /// Whether A and B are given transposed.
    transposed: (bool, bool),
}

impl Case {
    fn mat<'a>(data: &'a [u8], signed: bool, (rows, cols): (usize, usize), t: bool) -> ByteMat<'a> {
        // SAFETY: `i8` has the layout of `u8`.
        let signs = || unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), data.len()) };
        let data = if signed { Bytes::I8(signs()) } else { Bytes::U8(data) };
        let (row, col) = if t { (1, rows) } else { (cols, 1) };
        ByteMat { data, row, col }
    }

    fn a(&self) -> ByteMat<'_> {
        Case::mat(&self.a, self.signed.0, (self.m, self.k), self.transposed.0)
    }

    fn packed(&self, isa: Isa) -> PackedI8 {
        let b = Case::mat(&self.b, self.signed.1, (self.k, self.n), self.transposed.1);
        let zeros = match &self.zeros {
            Some(z) => Zeros::Cols(z),
            None => Zeros::One(0),
        };
        PackedI8::new(isa, self.k, self.n, b, zeros)
    }

    fn want(&self) -> Vec<i32> {
        let value = |byte: u8, signed: bool| {
            if signed { i32::from(byte as i8) } else { i32::from(byte) }
        };
        let mut out = vec![0; self.m * self.n];
        for (i, out) in out.iter_mut().enumerate() {
            let (r, c) = (i / self.n, i % self.n);
            for t in 0..self.k {
                let a = if self.transposed.0 { t * self.m + r } else { r * self.k + t };
                let b = if self.transposed.1 { c * self.k + t } else { t * self.n + c };
                let zero = self.zeros.as_ref().map_or(0, |z| z[c]);
                *out += (value(self.a[a], self.signed.0) - self.a_zero)
                    * (value(self.b[b], self.signed.1) - zero);
            }
        }
        out
    }
}

fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for (i, (m, n, k)) in SIZES.into_iter().enumerate() {
        for signed in [(false, true), (true, true), (false, false), (true, false)] {
            for with_zeros in [false, true] {
                let zero = |j: usize| match signed.1 {
                    true => j as i32 % 256 - 128,
                    false => j as i32 * 37 % 256,
                };
                out.push(Case {
                    m,
                    n,
                    k,
                    a: bytes(m * k, 1 + i as u64),
                    b: bytes(k * n, 100 + i as u64),
                    signed,
                    a_zero: if !with_zeros {
                        0
                    } else if signed.0 {
                        -128
                    } else {
                        255
                    },
                    zeros: with_zeros.then(|| (0..n).map(zero).collect()),
                    transposed: (i % 3 == 1, i % 2 == 1),
                });
            }
        }
    }
    out
}

#[test]
fn byte_sums_are_exact() {
    let mut failures = Failures::default();
    for isa in matrix_isas() {
        for case in cases() {
            let packed = case.packed(isa);
            let mut got = Vec::new();
            for threads in [1, 3] {
                let par = Threads(threads);
                let row = case.n + 3;
                let mut c = vec![i32::MIN; case.m * row];
                let mut scratch = vec![f32::NAN; gemm_i8_scratch(isa, &par, case.k)];
                let out = ByteOut::I32 { c: &mut c, row };
                gemm_i8(isa, &par, case.m, case.a(), case.a_zero, &packed, out, &mut scratch);
                let gaps = c.chunks(row).all(|r| r[case.n..].iter().all(|&v| v == i32::MIN));
                failures.check(gaps, || format!("{isa:?}: wrote between rows"));
                got.push(c.chunks(row).flat_map(|r| r[..case.n].to_vec()).collect::<Vec<_>>());
            }
            let want = case.want();
            let Case { m, n, k, signed, .. } = case;
            for got in got {
                let at = (0..want.len()).find(|&i| got[i] != want[i]);
                failures.check(at.is_none(), || {
                    let i = at.unwrap_or(0);
                    let zeros = case.zeros.is_some();
                    format!(
                        "{isa:?} {m}x{n}x{k} signs {signed:?} zeros {zeros}: at {i} got {}, want {}",
                        got[i], want[i]
                    )
                });
            }
        }
    }
    failures.finish();
}

#[test]
fn sums_that_would_saturate_in_16_bits_are_exact() {
    for isa in matrix_isas() {
        for (a, b) in [(255u8, 127u8), (255, 128), (255, 255), (128, 128)] {
            let k = 4096;
            let (a, b) = (vec![a; k], vec![b; k]);
            for signed in [true, false] {
                let case = Case {
                    m: 1,
                    n: 1,
                    k,
                    a: a.clone(),
                    b: b.clone(),
                    signed: (false, signed),
                    a_zero: 0,
                    zeros: None,
                    transposed: (false, false),
                };
                let packed = case.packed(isa);
                let mut c = [0];
                let mut scratch = vec![0.0; gemm_i8_scratch(isa, &Serial, k)];
                let out = ByteOut::I32 { c: &mut c, row: 1 };
                gemm_i8(isa, &Serial, 1, case.a(), 0, &packed, out, &mut scratch);
                assert_eq!(c[0], case.want()[0], "{isa:?}");
            }
        }
    }
}

#[test]
fn sums_leave_rescaled_or_requantised() {
    let mut failures = Failures::default();
    for isa in matrix_isas() {
        for case in cases().into_iter().filter(|c| c.m > 0 && c.k > 0) {
            let Case { m, n, .. } = case;
            let packed = case.packed(isa);
            let sums = case.want();
            let par = Threads(2);
            let mut scratch = vec![0.0; gemm_i8_scratch(isa, &par, case.k)];
            let scales: Vec<f32> = values(n, 7).iter().map(|v| 0.001 + v.abs() * 0.01).collect();
            let bias: Vec<f32> = values(n, 8);
            let int_bias: Vec<i32> = bias.iter().map(|v| (v * 5000.0) as i32).collect();
            for per_column in [false, true] {
                let scale = if per_column { &scales[..] } else { &scales[..1] };
                let of = |j: usize| if per_column { scales[j] } else { scales[0] };
                let mut y = vec![0.0; m * n];
                let rows: Vec<f32> = (0..m).map(|i| 0.02 + i as f32 * 0.003).collect();
                let rows = if per_column { &rows[..] } else { &[0.02] };
                let row_scale = |i: usize| rows[if rows.len() == 1 { 0 } else { i / n }];
                let out = ByteOut::F32 {
                    scale: rows,
                    col_scale: scale,
                    bias: per_column.then_some(&bias[..]),
                    activation: per_column.then_some(Unary::Relu),
                    c: &mut y,
                    row: n,
                };
                gemm_i8(isa, &par, m, case.a(), case.a_zero, &packed, out, &mut scratch);
                let want: Vec<f32> = (0..m * n)
                    .map(|i| {
                        let y = sums[i] as f32 * (row_scale(i) * of(i % n));
                        if per_column { (y + bias[i % n]).max(0.0) } else { y }
                    })
                    .collect();
                failures.check(y == want, || format!("{isa:?} f32 {m}x{n}x{}", case.k));

                if per_column {
                    for (signed, zero) in [(false, 30), (true, -90)] {
                        let mut y = vec![0u8; m * n];
                        let out = ByteOut::Activated {
                            scale,
                            bias: Some(&int_bias),
                            activation: Unary::Clip { lo: -0.5, hi: 0.7 },
                            inverse: 120.0,
                            zero,
                            signed,
                            c: &mut y,
                            row: n,
                        };
                        gemm_i8(isa, &par, m, case.a(), case.a_zero, &packed, out, &mut scratch);
                        let same = (0..m * n).all(|i| {
                            let x = sums[i].wrapping_add(int_bias[i % n]) as f32 * of(i % n);
                            let x = (x.clamp(-0.5, 0.7) * 120.0).round_ties_even() as i32 + zero;
                            let (low, high) = if signed { (-128, 127) } else { (0, 255) };
                            y[i] == x.clamp(low, high) as u8
                        });
                        failures.check(same, || format!("{isa:?} activated {m}x{n}x{}", case.k));
                    }
                }
                let quantised = |i: usize, zero: i32, (low, high): (i32, i32)| {
                    let b = if per_column { int_bias[i % n] } else { 0 };
                    let y = (sums[i].wrapping_add(b) as f32 * of(i % n)).round_ties_even();
                    (f64::from(y) + f64::from(zero)).clamp(low.into(), high.into()) as i32
                };
                let bias = per_column.then_some(&int_bias[..]);
                let mut y = vec![0u8; m * n];
                let out = ByteOut::U8 { scale, bias, zero: 100, c: &mut y, row: n };
                gemm_i8(isa, &par, m, case.a(), case.a_zero, &packed, out, &mut scratch);
                let same = (0..m * n).all(|i| i32::from(y[i]) == quantised(i, 100, (0, 255)));
                failures.check(same, || format!("{isa:?} u8 {m}x{n}x{}", case.k));
                let mut y = vec![0i8; m * n];
                let out = ByteOut::I8 { scale, bias, zero: -7, c: &mut y, row: n };
                gemm_i8(isa, &par, m, case.a(), case.a_zero, &packed, out, &mut scratch);
                let same = (0..m * n).all(|i| i32::from(y[i]) == quantised(i, -7, (-128, 127)));
                failures.check(same, || format!("{isa:?} i8 {m}x{n}x{}", case.k));
            }
        }
    }
    failures.finish();
}

#[test]
fn bf16_products_are_those_of_rounded_operands() {
    let mut failures = Failures::default();
    for isa in matrix_isas() {
        for (i, (m, n, k)) in SIZES.into_iter().enumerate() {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let (bias, residual) = (values(n, 3), values(m * n, 4));
            let transposed = i % 2 == 1;
            let mat = if transposed { Mat::transposed(&b, k) } else { Mat::dense(&b, n) };
            let packed = PackedBf16::new(isa, &Serial, k, n, mat);
            let epilogue = Epilogue {
                alpha: 0.5,
                bias: Bias::Cols(&bias),
                residual: Some(Mat::dense(&residual, n)),
                activation: Some(Unary::Relu),
                ..Epilogue::default()
            };
            let run = |rows: std::ops::Range<usize>, threads: usize| {
                let par = Threads(threads);
                let mut c = vec![f32::NAN; rows.len() * n];
                let mut scratch = vec![f32::NAN; gemm_bf16_scratch(isa, &par, k, n)];
                let lhs = Mat::dense(&a[rows.start * k..], k);
                let residual = Some(Mat::dense(&residual[rows.start * n..], n));
                let epilogue = Epilogue { residual, ..epilogue };
                let out = Out::dense(&mut c, n);
                gemm_bf16(isa, &par, rows.len(), lhs, &packed, out, &epilogue, &mut scratch);
                c
            };
            let got = run(0..m, 1);
            failures.same(&format!("{isa:?} threads"), &run(0..m, 3), &got);
            if m > 1 {
                failures.same(&format!("{isa:?} one row"), &run(1..2, 1), &got[n..2 * n]);
            }
            let round = |v: f32| f64::from(bf16::from_f32(v).to_f32());
            let (mut want, mut size) = (vec![0.0; m * n], vec![0.0; m * n]);
            for (i, (want, size)) in want.iter_mut().zip(&mut size).enumerate() {
                let (r, c) = (i / n, i % n);
                for t in 0..k {
                    let b = b[if transposed { c * k + t } else { t * n + c }];
                    let product = round(a[r * k + t]) * round(b);
                    *want += product;
                    *size += product.abs();
                }
                let rest = f64::from(bias[c]) + f64::from(residual[i]);
                *want = (0.5 * *want + rest).max(0.0);
                *size = 0.5 * *size + f64::from(bias[c]).abs() + f64::from(residual[i]).abs();
            }
            // Each addition rounds once.
            let eps = f64::from(f32::EPSILON);
            let tolerance = |i: usize| (k as f64 + 4.0) * eps * size[i];
            failures.close(&format!("{isa:?} {m}x{n}x{k}"), &got, &want, tolerance);
        }
    }
    failures.finish();
}

#[test]
fn an_operand_of_another_level_is_refused() {
    let isas = matrix_isas();
    let (first, last) = (isas[0], isas[isas.len() - 1]);
    if first.level() == last.level() {
        return;
    }
    let b = [1i8; 4];
    let mat = ByteMat { data: Bytes::I8(&b), row: 2, col: 1 };
    let packed = PackedI8::new(first, 2, 2, mat, Zeros::One(0));
    let run = std::panic::catch_unwind(|| {
        let mut scratch = vec![0.0; gemm_i8_scratch(last, &Serial, 2)];
        let a = ByteMat { data: Bytes::U8(&[1, 2]), row: 2, col: 1 };
        let mut c = [0; 2];
        let out = ByteOut::I32 { c: &mut c, row: 2 };
        gemm_i8(last, &Serial, 1, a, 0, &packed, out, &mut scratch);
    });
    assert!(run.is_err());
}
