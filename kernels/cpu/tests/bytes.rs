//! Quantisation, double-precision products, 16-bit formats and strided copies.

mod common;
use common::{Failures, Threads, isas, values};
use deepseek_kernels_cpu::Serial;
use deepseek_kernels_cpu::convert::*;
use deepseek_kernels_cpu::elementwise::Unary;
use deepseek_kernels_cpu::gemm::*;
use deepseek_kernels_cpu::quant::*;
use half::{bf16, f16};

#[test]
fn quantisation_rounds_to_even_and_saturates() {
    for isa in isas() {
        for n in [0usize, 1, 5, 8, 33, 40_000] {
            let mut x: Vec<f32> = values(n, 1).iter().map(|v| (v * 400.0).round() * 0.25).collect();
            if n > 8 {
                x[1] = f32::INFINITY;
                x[2] = f32::NEG_INFINITY;
                x[3] = f32::NAN;
                x[4] = 1e30;
                x[5] = -0.0;
            }
            let (scale, zero) = (0.5f32, 3i8);
            let want: Vec<i8> = x
                .iter()
                .map(|v| {
                    if v.is_nan() {
                        zero
                    } else {
                        ((v / scale).round_ties_even() as f64 + 3.0).clamp(-128.0, 127.0) as i8
                    }
                })
                .collect();
            let mut y = vec![0i8; n];
            quantize(isa, &Threads(2), (1, 1, n), &x, &[scale], Some(&[zero]), &mut y);
            assert_eq!(y, want, "{}", isa.level());
            let mut back = vec![0.0; n];
            dequantize(isa, &Threads(2), (1, 1, n), &y, &[scale], Some(&[zero]), &mut back);
            for (b, q) in back.iter().zip(&want) {
                assert_eq!(*b, (f32::from(*q) - 3.0) * scale);
            }
        }
        let (outer, channels, inner) = (3, 4, 21);
        let x: Vec<f32> = values(outer * channels * inner, 2).iter().map(|v| v * 200.0).collect();
        let (scales, zeros) = ([1.0, 0.5, 2.0, 0.1], [0u8, 128, 255, 7]);
        let mut y = vec![0u8; x.len()];
        quantize(isa, &Threads(3), (outer, channels, inner), &x, &scales, Some(&zeros), &mut y);
        for (i, (&x, &y)) in x.iter().zip(&y).enumerate() {
            let c = i / inner % channels;
            let want =
                ((x / scales[c]).round_ties_even() + f32::from(zeros[c])).clamp(0.0, 255.0) as u8;
            assert_eq!(y, want, "{} at {i}", isa.level());
        }
        assert_eq!(dynamic_range(isa, &Threads(2), &[0.0, 0.0]), (1.0, 0));
        assert_eq!(dynamic_range(isa, &Threads(2), &[-1.0, 1.55]), (2.55 / 255.0, 100));
    }
}

#[test]
fn rows_are_quantised_by_what_they_hold() {
    for isa in isas() {
        for (rows, k) in [(1, 1), (3, 16), (5, 77), (40, 384)] {
            let mut x: Vec<f32> = values(rows * k, 5).iter().map(|v| v * 30.0).collect();
            x[..k].fill(0.0);
            if rows > 2 {
                x[k] = f32::NAN;
                x[2 * k + 1] = f32::INFINITY;
            }
            let factors: Vec<f32> = values(k, 6).iter().map(|v| 0.5 + v.abs()).collect();
            for factors in [None, Some(&factors[..])] {
                let (mut y, mut scales) = (vec![0u8; x.len()], vec![0.0; rows]);
                quantize_rows(isa, &Threads(2), k, &x, factors, &mut y, &mut scales);
                for (r, row) in x.chunks(k).enumerate() {
                    let of = |(j, x): (usize, &f32)| factors.map_or(*x, |f| x * f[j]);
                    let row: Vec<f32> = row.iter().enumerate().map(of).collect();
                    let most = row.iter().fold(0f32, |m, x| m.max(x.abs()));
                    let (by, scale) =
                        if most > 0.0 { (127.0 / most, most / 127.0) } else { (0.0, 1.0) };
                    assert_eq!(scales[r], scale, "{isa:?} row {r} of {k}");
                    for (j, x) in row.iter().enumerate() {
                        let want = ((x * by).round_ties_even() as i32 + 128) as u8;
                        assert_eq!(y[r * k + j], want, "{isa:?} {x} in row {r} of {k}");
                    }
                }
            }
        }
    }
}

#[test]
fn sums_are_rescaled_by_row_and_column() {
    for isa in isas() {
        let (sums, scales, bias) = ([10, -20], [0.5, 0.25], [1.0, 2.0]);
        let mut y = [0.0; 2];
        let relu = Some(Unary::Relu);
        rescale(isa, &Serial, 1, 2, &sums, 0.5, &scales, Some(&bias), relu, &mut y);
        assert_eq!(y, [3.5, 0.0]);
    }
}

#[test]
fn double_products_agree_with_plain_loops() {
    for isa in isas() {
        for (batch, m, n, k) in [(1, 1, 1, 1), (2, 5, 9, 17), (3, 7, 20, 0), (1, 33, 30, 100)] {
            let shape = Shape { batch, m, n, k };
            let wide = |n, seed| values(n, seed).into_iter().map(f64::from).collect::<Vec<_>>();
            let (a, b) = (wide(batch * m * k, 1), wide(batch * k * n, 2));
            let before = wide(batch * m * n, 3);
            let mut c = before.clone();
            let lhs = Mat64 { data: &a, row: k, col: 1, batch: m * k };
            let rhs = Mat64 { data: &b, row: 1, col: k, batch: k * n };
            gemm_f64(isa, &Threads(2), shape, lhs, rhs, 0.5, true, &mut c);
            for i in 0..c.len() {
                let (item, r, j) = (i / (m * n), i / n % m, i % n);
                let sum: f64 =
                    (0..k).map(|t| a[item * m * k + r * k + t] * b[item * k * n + j * k + t]).sum();
                let want = 0.5 * sum + before[i];
                // The order is the same; only a fused multiply-add may differ.
                assert!(
                    (c[i] - want).abs() <= (k as f64 + 2.0) * f64::EPSILON * (k as f64 + 1.0),
                    "{} at {i}",
                    isa.level()
                );
            }
        }
    }
}

#[test]
fn all_16_bit_values_convert_as_the_format_says() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let halves: Vec<f16> = all.iter().map(|&b| f16::from_bits(b)).collect();
    let brains: Vec<bf16> = all.iter().map(|&b| bf16::from_bits(b)).collect();
    let mut xs = values(50_000, 1);
    // Every exponent, ties included.
    xs.extend(
        (0..0x7f80_0000u32)
            .step_by(4096 * 3)
            .flat_map(|b| [f32::from_bits(b), -f32::from_bits(b | 0x0000_8000)]),
    );
    xs.extend([
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        65519.9,
        65520.0,
        6e-8,
        2.9e-8,
        f32::NAN,
    ]);
    for isa in isas() {
        for len in [all.len(), 13, 0] {
            let mut y = vec![0.0; len];
            f16_to_f32(isa, &Threads(2), &halves[..len], &mut y);
            for (y, h) in y.iter().zip(&halves) {
                assert!(*y == h.to_f32() || (y.is_nan() && h.is_nan()), "{} {h:?}", isa.level());
            }
            bf16_to_f32(isa, &Threads(2), &brains[..len], &mut y);
            for (y, h) in y.iter().zip(&brains) {
                assert_eq!(y.to_bits(), u32::from(h.to_bits()) << 16);
            }
        }
        let mut h = vec![f16::ZERO; xs.len()];
        f32_to_f16(isa, &Threads(2), &xs, &mut h);
        let mut b = vec![bf16::ZERO; xs.len()];
        f32_to_bf16(isa, &Threads(2), &xs, &mut b);
        for (i, &x) in xs.iter().enumerate() {
            assert!(
                h[i] == f16::from_f32_const(x) || (x.is_nan() && h[i].is_nan()),
                "{} {x:e}: {}",
                isa.level(),
                h[i]
            );
            assert!(
                b[i] == bf16::from_f32_const(x) || (x.is_nan() && b[i].is_nan()),
                "{} {x:e}: {}",
                isa.level(),
                b[i]
            );
        }
    }
}

#[test]
fn strided_copies_index_as_stated() {
    struct Case {
        dims: &'static [usize],
        offset: usize,
        strides: &'static [isize],
    }
    let cases = [
        Case { dims: &[], offset: 3, strides: &[] },
        Case { dims: &[5], offset: 0, strides: &[1] },
        Case { dims: &[5], offset: 9, strides: &[-2] },
        Case { dims: &[0, 4], offset: 0, strides: &[4, 1] },
        Case { dims: &[40, 50], offset: 0, strides: &[1, 40] },
        Case { dims: &[3, 40, 50], offset: 7, strides: &[2000, 1, 40] },
        Case { dims: &[4, 3, 5, 6], offset: 0, strides: &[90, 6, 18, 1] },
        Case { dims: &[4, 1, 5, 6], offset: 0, strides: &[0, 99, 6, 1] },
        Case { dims: &[2, 300, 200], offset: 60_000, strides: &[0, -200, 1] },
        Case {
            dims: &[2, 2, 2, 2, 2, 2, 2, 2],
            offset: 0,
            strides: &[1, 2, 4, 8, 16, 32, 64, 128],
        },
    ];
    let src: Vec<u32> = (0..70_000).collect();
    let mut failures = Failures::default();
    for Case { dims, offset, strides } in cases {
        let n = dims.iter().product();
        let want: Vec<u32> = (0..n)
            .map(|i: usize| {
                let (mut rest, mut at) = (i, offset as isize);
                for d in (0..dims.len()).rev() {
                    at += (rest % dims[d]) as isize * strides[d];
                    rest /= dims[d];
                }
                src[at as usize]
            })
            .collect();
        let mut got = vec![0; n];
        copy_strided(&Threads(2), dims, &src, offset, strides, &mut got);
        failures.check(got == want, || format!("{dims:?} {strides:?}"));
    }
    failures.finish();
}

#[test]
#[should_panic(expected = "outside a source of 10")]
fn a_copy_beyond_the_source_is_refused() {
    copy_strided(&Serial, &[3, 4], &[0.0f32; 10], 0, &[4, 1], &mut [0.0; 12]);
}
