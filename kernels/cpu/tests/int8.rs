//! Convolution, pooling and sums of bytes with channels last, against plain loops.

mod common;
use common::{Failures, Threads, isas, matrix_isas};
use deepseek_kernels_cpu::conv::ConvShape;
use deepseek_kernels_cpu::gemm::{ByteOut, Bytes, Zeros};
use deepseek_kernels_cpu::int8::{
    ConvI8Weights, Quantised, add_i8, conv_i8, conv_i8_scratch, max_pool_i8,
};
use deepseek_kernels_cpu::pool::PoolShape;

fn bytes(n: usize, seed: usize) -> Vec<u8> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) >> 3) as u8).collect()
}

fn of(data: &[u8], signed: bool) -> Bytes<'_> {
    // SAFETY: `i8` has the layout of `u8`.
    let signs = || unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), data.len()) };
    if signed { Bytes::I8(signs()) } else { Bytes::U8(data) }
}

fn value(byte: u8, signed: bool) -> i32 {
    if signed { i32::from(byte as i8) } else { i32::from(byte) }
}

/// Sums of a convolution, channels last.
fn reference(
    s: &ConvShape,
    x: &[u8],
    (x_signed, x_zero): (bool, i32),
    w: &[u8],
    (w_signed, zeros): (bool, &[i32]),
) -> Vec<i32> {
    let [od, oh, ow] = s.output();
    let [kd, kh, kw] = s.kernel;
    let (each, out) = (s.in_channels / s.groups, s.out_channels / s.groups);
    let mut y = Vec::new();
    for r in 0..s.batch * od * oh * ow {
        let (image, at) = (r / (od * oh * ow), [r / (oh * ow) % od, r / ow % oh, r % ow]);
        for (m, zero) in zeros.iter().enumerate() {
            let mut sum = 0;
            for (c, tap) in (0..each).flat_map(|c| (0..kd * kh * kw).map(move |t| (c, t))) {
                let t = [tap / (kh * kw), tap / kw % kh, tap % kw];
                let p = [0, 1, 2].map(|i| {
                    (at[i] * s.stride[i] + t[i] * s.dilation[i]) as isize - s.pad_begin[i] as isize
                });
                if (0..3).any(|i| p[i] < 0 || p[i] >= s.input[i] as isize) {
                    continue;
                }
                let [d, h, w_at] = p.map(|p| p as usize);
                let pixel = ((image * s.input[0] + d) * s.input[1] + h) * s.input[2] + w_at;
                let xv = value(x[pixel * s.in_channels + m / out * each + c], x_signed) - x_zero;
                let wv = value(w[(m * each + c) * kd * kh * kw + tap], w_signed) - zero;
                sum += xv * wv;
            }
            y.push(sum);
        }
    }
    y
}

fn shapes() -> Vec<ConvShape> {
    let d2 = |batch, cin, cout, hw, k| ConvShape::d2(batch, cin, cout, hw, k);
    let mut all = vec![
        d2(2, 64, 40, [5, 7], [1, 1]),
        ConvShape { stride: [1, 2, 2], ..d2(1, 16, 33, [8, 9], [1, 1]) },
        ConvShape { pad_begin: [0, 1, 1], pad_end: [0, 1, 1], ..d2(2, 8, 16, [6, 5], [3, 3]) },
        ConvShape {
            stride: [1, 2, 2],
            pad_begin: [0, 3, 3],
            pad_end: [0, 3, 3],
            ..d2(1, 3, 20, [12, 11], [7, 7])
        },
        ConvShape {
            dilation: [1, 2, 3],
            pad_begin: [0, 2, 0],
            pad_end: [0, 1, 2],
            ..d2(1, 5, 7, [9, 10], [2, 3])
        },
        ConvShape {
            groups: 2,
            pad_begin: [0, 1, 1],
            pad_end: [0, 1, 1],
            ..d2(1, 8, 6, [5, 5], [3, 3])
        },
        ConvShape {
            groups: 37,
            stride: [1, 2, 1],
            pad_begin: [0, 1, 1],
            pad_end: [0, 1, 1],
            ..d2(2, 37, 37, [7, 6], [3, 3])
        },
        ConvShape { groups: 5, ..d2(1, 5, 5, [12, 11], [9, 8]) },
        ConvShape { groups: 4, ..d2(1, 4, 8, [6, 6], [3, 3]) },
        ConvShape::d1(3, 6, 9, 20, 4),
    ];
    let mut deep = ConvShape::d2(1, 3, 4, [5, 4], [2, 2]);
    (deep.input[0], deep.kernel[0], deep.pad_begin[0]) = (3, 2, 1);
    all.push(deep);
    all
}

#[test]
fn convolutions_are_exact() {
    let mut failures = Failures::default();
    for isa in matrix_isas() {
        for (i, s) in shapes().into_iter().enumerate() {
            for (x_signed, w_signed) in [(false, true), (true, true), (false, false)] {
                let x = bytes(s.input_len(), i);
                let w = bytes(s.weights_len(), 50 + i);
                let x_zero = if x_signed { -100 } else { 130 };
                let zeros: Vec<i32> = match w_signed {
                    true => vec![0; s.out_channels],
                    false => (0..s.out_channels).map(|c| 100 + c as i32).collect(),
                };
                let want = reference(&s, &x, (x_signed, x_zero), &w, (w_signed, &zeros));
                let zeros = Zeros::Cols(&zeros);
                let weights = ConvI8Weights::new(isa, &s, of(&w, w_signed), zeros);
                for threads in [1, 3] {
                    let par = Threads(threads);
                    let mut scratch = vec![f32::NAN; conv_i8_scratch(isa, &par, &weights)];
                    let mut y = vec![i32::MIN; want.len()];
                    let out = ByteOut::I32 { c: &mut y, row: s.out_channels };
                    let x = of(&x, x_signed);
                    conv_i8(isa, &par, &s, x, x_zero, &weights, out, &mut scratch);
                    let at = (0..want.len()).find(|&i| y[i] != want[i]);
                    failures.check(at.is_none(), || {
                        let at = at.unwrap_or(0);
                        let what = format!("{isa:?} {s:?} {x_signed} {w_signed}");
                        format!("{what}: at {at} got {}, want {}", y[at], want[at])
                    });
                    let scale: Vec<f32> =
                        (0..s.out_channels).map(|c| 0.001 * (c + 1) as f32).collect();
                    let bias: Vec<i32> = (0..s.out_channels as i32).map(|c| c * 100 - 50).collect();
                    let mut q = vec![0u8; want.len()];
                    let row = s.out_channels;
                    let out =
                        ByteOut::U8 { scale: &scale, bias: Some(&bias), zero: 9, c: &mut q, row };
                    conv_i8(isa, &par, &s, x, x_zero, &weights, out, &mut scratch);
                    let same = want.iter().enumerate().all(|(i, sum)| {
                        let c = i % row;
                        let y = ((sum + bias[c]) as f32 * scale[c]).round_ties_even() + 9.0;
                        f32::from(q[i]) == y.clamp(0.0, 255.0)
                    });
                    failures.check(same, || format!("{isa:?} {s:?} requantised"));
                }
            }
        }
    }
    failures.finish();
}

#[test]
fn the_greatest_byte_wins_and_padding_never_does() {
    for isa in isas() {
        for signed in [false, true] {
            let shape = PoolShape {
                planes: 2,
                input: [1, 5, 6],
                kernel: [1, 3, 2],
                stride: [1, 2, 2],
                dilation: [1, 1, 2],
                pad_begin: [0, 1, 1],
                pad_end: [0, 1, 1],
                output: [1, 3, 3],
            };
            let channels = 19;
            let x = bytes(2 * 30 * channels, 3);
            let mut y = vec![0u8; 2 * 9 * channels];
            max_pool_i8(isa, &Threads(2), &shape, channels, of(&x, signed), &mut y);
            for (i, y) in y.iter().enumerate() {
                let (r, c) = (i / channels, i % channels);
                let (image, h, w) = (r / 9, r / 3 % 3, r % 3);
                let mut want = if signed { -128 } else { 0 };
                for (th, tw) in (0..3).flat_map(|a| (0..2).map(move |b| (a, b))) {
                    let (h, w) = ((h * 2 + th).wrapping_sub(1), (w * 2 + tw * 2).wrapping_sub(1));
                    if h < 5 && w < 6 {
                        let at = ((image * 5 + h) * 6 + w) * channels + c;
                        want = want.max(value(x[at], signed));
                    }
                }
                assert_eq!(value(*y, signed), want, "{isa:?} at {i}");
            }
        }
    }
}

#[test]
fn sums_are_within_rounding_of_exact_ones() {
    for isa in isas() {
        for n in [0usize, 1, 15, 100, 40_000] {
            for (signs, y_signed) in [((false, false), false), ((true, false), true)] {
                let (a, b) = (bytes(n, 1), bytes(n, 2));
                let a_as = Quantised { scale: 0.03, zero: if signs.0 { 3 } else { 120 } };
                let b_as = Quantised { scale: 0.02, zero: 100 };
                let y_as = Quantised { scale: 0.04, zero: if y_signed { -5 } else { 128 } };
                let mut y = vec![0u8; n];
                let operands = ((of(&a, signs.0), a_as), (of(&b, signs.1), b_as));
                add_i8(isa, &Threads(2), operands.0, operands.1, y_as, y_signed, &mut y);
                for i in 0..n {
                    let number = |byte: u8, signed: bool, how: Quantised| {
                        f64::from(value(byte, signed) - how.zero) * f64::from(how.scale)
                    };
                    let sum = number(a[i], signs.0, a_as) + number(b[i], signs.1, b_as);
                    let exact = sum / f64::from(y_as.scale) + f64::from(y_as.zero);
                    let (low, high) = if y_signed { (-128.0, 127.0) } else { (0.0, 255.0) };
                    let got = f64::from(value(y[i], y_signed));
                    // Half a step, and what rounding moves a sum of a few hundred steps by.
                    let off = (got - exact.clamp(low, high)).abs();
                    assert!(off <= 0.5 + 1e-4, "{isa:?} at {i}: {got} for {exact}");
                }
            }
        }
    }
}
