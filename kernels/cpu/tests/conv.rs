//! Convolutions and pooling against plain double-precision loops. Add a row to `CASES`.

mod common;
use common::{Failures, Threads, isas, values};
use deepseek_kernels_cpu::Serial;
use deepseek_kernels_cpu::conv::*;
use deepseek_kernels_cpu::elementwise::Unary;
use deepseek_kernels_cpu::pool::*;

fn cases() -> Vec<(&'static str, ConvShape)> {
    let d2 = ConvShape::d2;
    let base = d2(1, 1, 1, [1, 1], [1, 1]);
    vec![
        ("one", base),
        ("3x3", d2(2, 3, 8, [9, 11], [3, 3])),
        (
            "3x3 padded",
            ConvShape {
                pad_begin: [0, 1, 1],
                pad_end: [0, 1, 1],
                ..d2(1, 16, 24, [14, 14], [3, 3])
            },
        ),
        ("1x1", d2(2, 32, 20, [7, 7], [1, 1])),
        ("1x1 strided", ConvShape { stride: [1, 2, 2], ..d2(1, 20, 16, [9, 8], [1, 1]) }),
        (
            "7x7 stride 2, many terms",
            ConvShape {
                stride: [1, 2, 2],
                pad_begin: [0, 3, 3],
                pad_end: [0, 2, 3],
                ..d2(1, 13, 70, [20, 33], [7, 7])
            },
        ),
        ("groups", ConvShape { groups: 4, ..d2(2, 8, 12, [6, 6], [3, 3]) }),
        (
            "wide rows",
            ConvShape { pad_begin: [0, 0, 2], pad_end: [0, 0, 5], ..d2(1, 2, 3, [2, 100], [1, 5]) },
        ),
        (
            "dilated",
            ConvShape {
                dilation: [1, 2, 3],
                pad_begin: [0, 2, 3],
                ..d2(1, 4, 5, [12, 13], [3, 3])
            },
        ),
        ("1-d", ConvShape { pad_begin: [0, 0, 4], ..ConvShape::d1(3, 5, 7, 40, 9) }),
        (
            "3-d",
            ConvShape {
                input: [5, 6, 7],
                kernel: [3, 2, 3],
                stride: [2, 1, 2],
                pad_begin: [1, 0, 1],
                pad_end: [1, 1, 0],
                ..d2(2, 3, 4, [1, 1], [1, 1])
            },
        ),
        (
            "depthwise",
            ConvShape {
                groups: 6,
                pad_begin: [0, 1, 1],
                pad_end: [0, 1, 1],
                ..d2(2, 6, 6, [10, 37], [3, 3])
            },
        ),
        (
            "depthwise strided",
            ConvShape {
                groups: 3,
                stride: [1, 2, 2],
                pad_begin: [0, 2, 1],
                pad_end: [0, 0, 2],
                ..d2(1, 3, 6, [15, 50], [5, 5])
            },
        ),
        (
            "depthwise dilated 3-d",
            ConvShape {
                groups: 2,
                input: [4, 5, 19],
                kernel: [2, 3, 3],
                stride: [1, 2, 3],
                dilation: [2, 1, 2],
                pad_begin: [1, 1, 2],
                pad_end: [0, 1, 1],
                ..d2(1, 2, 2, [1, 1], [1, 1])
            },
        ),
        (
            "padding beyond the input",
            ConvShape { pad_begin: [0, 5, 5], pad_end: [0, 5, 5], ..d2(1, 2, 2, [2, 2], [3, 3]) },
        ),
        (
            "depthwise padding beyond",
            ConvShape {
                groups: 2,
                pad_begin: [0, 5, 9],
                pad_end: [0, 5, 5],
                ..d2(1, 2, 2, [2, 2], [3, 3])
            },
        ),
        ("does not fit", d2(1, 2, 2, [2, 2], [3, 3])),
        ("no batch", d2(0, 2, 2, [5, 5], [3, 3])),
    ]
}

/// Sums and sums of magnitudes.
fn reference(s: &ConvShape, x: &[f32], w: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let [od, oh, ow] = s.output();
    let [id, ih, iw] = s.input;
    let [kd, kh, kw] = s.kernel;
    let (gi, go) = (s.in_channels / s.groups, s.out_channels / s.groups);
    let (mut sums, mut sizes) = (vec![], vec![]);
    for b in 0..s.batch {
        for o in 0..s.out_channels {
            for p in 0..od * oh * ow {
                let at = [p / ow / oh, p / ow % oh, p % ow];
                let (mut sum, mut size) = (0.0, 0.0);
                for c in 0..gi {
                    for t in 0..kd * kh * kw {
                        let k = [t / kw / kh, t / kw % kh, t % kw];
                        let i = [0, 1, 2].map(|d| {
                            (at[d] * s.stride[d] + k[d] * s.dilation[d]) as isize
                                - s.pad_begin[d] as isize
                        });
                        let inside = (0..3).all(|d| i[d] >= 0 && i[d] < s.input[d] as isize);
                        if !inside {
                            continue;
                        }
                        let [z, y, xx] = i.map(|v| v as usize);
                        let channel = b * s.in_channels + o / go * gi + c;
                        let v = f64::from(x[((channel * id + z) * ih + y) * iw + xx])
                            * f64::from(w[(o * gi + c) * kd * kh * kw + t]);
                        sum += v;
                        size += v.abs();
                    }
                }
                sums.push(sum);
                sizes.push(size);
            }
        }
    }
    (sums, sizes)
}

#[test]
fn convolutions_agree_with_double_precision() {
    let mut failures = Failures::default();
    for isa in isas() {
        for (name, s) in cases() {
            let x = values(s.input_len(), 1);
            let w = values(s.weights_len(), 2);
            let (sums, sizes) = reference(&s, &x, &w);
            assert_eq!(sums.len(), s.output_len());
            let bias = values(s.out_channels, 3);
            let residual = values(sums.len(), 4);
            let weights = ConvWeights::new(isa, &Serial, &s, &w);
            let plane: usize = s.output().iter().product();
            let terms = (s.weights_len() / s.out_channels) as f64;
            for full in [false, true] {
                let e = if full {
                    ConvEpilogue {
                        bias: Some(&bias),
                        residual: Some(&residual),
                        activation: Some(Unary::Relu),
                        ..Default::default()
                    }
                } else {
                    ConvEpilogue::default()
                };
                let run = |threads: usize| {
                    let mut y = vec![f32::NAN; sums.len()];
                    let par = Threads(threads);
                    let mut scratch = vec![f32::NAN; conv_scratch(isa, &par, &s)];
                    conv(isa, &par, &s, &x, &weights, &e, &mut y, &mut scratch);
                    y
                };
                let y = run(1);
                let want: Vec<f64> = (0..sums.len())
                    .map(|i| {
                        if full {
                            (sums[i]
                                + f64::from(bias[i / plane % s.out_channels])
                                + f64::from(residual[i]))
                            .max(0.0)
                        } else {
                            sums[i]
                        }
                    })
                    .collect();
                let what = format!("{} {name} full {full}", isa.level());
                // One rounding a term (two at scalar), one a block and those of the epilogue.
                let tol = |i: usize| {
                    f64::from(f32::EPSILON)
                        * ((terms + 4.0) * sizes[i] + if full { 4.0 } else { 0.0 })
                };
                failures.close(&what, &y, &want, tol);
                failures.same(&format!("{what}, threads"), &run(3), &y);
            }
        }
    }
    failures.finish();
}

#[test]
fn an_image_has_the_same_bits_in_any_batch() {
    let mut failures = Failures::default();
    for isa in isas() {
        let s = ConvShape {
            pad_begin: [0, 1, 1],
            pad_end: [0, 1, 1],
            ..ConvShape::d2(5, 40, 50, [9, 9], [3, 3])
        };
        let (x, w) = (values(s.input_len(), 1), values(s.weights_len(), 2));
        let weights = ConvWeights::new(isa, &Serial, &s, &w);
        let run = |s: &ConvShape, x: &[f32]| {
            let mut y = vec![0.0; s.output_len()];
            let mut scratch = vec![0.0; conv_scratch(isa, &Serial, s)];
            conv(isa, &Serial, s, x, &weights, &ConvEpilogue::default(), &mut y, &mut scratch);
            y
        };
        let whole = run(&s, &x);
        let one = ConvShape { batch: 1, ..s };
        for b in 0..5 {
            let y = run(&one, &x[b * one.input_len()..(b + 1) * one.input_len()]);
            failures.same(isa.level().name(), &y, &whole[b * y.len()..(b + 1) * y.len()]);
        }
    }
    failures.finish();
}

#[test]
fn transposed_convolutions_agree_with_double_precision() {
    let mut failures = Failures::default();
    let base = ConvTransposeShape {
        batch: 2,
        in_channels: 4,
        out_channels: 6,
        groups: 1,
        input: [1, 5, 7],
        kernel: [1, 3, 3],
        stride: [1, 2, 2],
        dilation: [1; 3],
        pad_begin: [0, 1, 1],
        output: [1, 10, 14],
    };
    let cases = [
        ("stride 2", base),
        ("groups", ConvTransposeShape { groups: 2, ..base }),
        ("depthwise", ConvTransposeShape { groups: 4, out_channels: 4, ..base }),
        ("dilated", ConvTransposeShape { dilation: [1, 2, 3], output: [1, 12, 18], ..base }),
        (
            "3-d",
            ConvTransposeShape {
                input: [3, 4, 5],
                kernel: [2, 2, 2],
                stride: [2, 2, 1],
                output: [6, 7, 5],
                ..base
            },
        ),
        ("cut", ConvTransposeShape { output: [1, 4, 3], pad_begin: [0, 4, 6], ..base }),
    ];
    for isa in isas() {
        for (name, s) in cases {
            let (positions, plane): (usize, usize) =
                (s.input.iter().product(), s.output.iter().product());
            let taps: usize = s.kernel.iter().product();
            let (gi, go) = (s.in_channels / s.groups, s.out_channels / s.groups);
            let x = values(s.batch * s.in_channels * positions, 1);
            let w = values(s.in_channels * go * taps, 2);
            let bias = values(s.out_channels, 3);
            let mut want = vec![0.0; s.batch * s.out_channels * plane];
            for (i, v) in want.iter_mut().enumerate() {
                *v = f64::from(bias[i / plane % s.out_channels]);
            }
            for b in 0..s.batch {
                for c in 0..s.in_channels {
                    for o in 0..go {
                        for p in 0..positions {
                            for t in 0..taps {
                                let i = [
                                    p / s.input[2] / s.input[1],
                                    p / s.input[2] % s.input[1],
                                    p % s.input[2],
                                ];
                                let k = [
                                    t / s.kernel[2] / s.kernel[1],
                                    t / s.kernel[2] % s.kernel[1],
                                    t % s.kernel[2],
                                ];
                                let at = [0, 1, 2].map(|d| {
                                    (i[d] * s.stride[d] + k[d] * s.dilation[d]) as isize
                                        - s.pad_begin[d] as isize
                                });
                                if (0..3).any(|d| at[d] < 0 || at[d] >= s.output[d] as isize) {
                                    continue;
                                }
                                let [z, y, xx] = at.map(|v| v as usize);
                                let to = ((b * s.out_channels + c / gi * go + o) * s.output[0] + z)
                                    * s.output[1]
                                    * s.output[2]
                                    + y * s.output[2]
                                    + xx;
                                want[to] += f64::from(x[(b * s.in_channels + c) * positions + p])
                                    * f64::from(w[(c * go + o) * taps + t]);
                            }
                        }
                    }
                }
            }
            let weights = ConvTransposeWeights::new(isa, &Serial, &s, &w);
            let run = |threads| {
                let par = Threads(threads);
                let mut y = vec![f32::NAN; want.len()];
                let mut scratch = vec![f32::NAN; conv_transpose_scratch(isa, &par, &s)];
                let e = ConvEpilogue { bias: Some(&bias), ..Default::default() };
                conv_transpose(isa, &par, &s, &x, &weights, &e, &mut y, &mut scratch);
                y
            };
            let y = run(1);
            // Up to `channels taps` products of magnitude one, and the bias.
            let terms = (gi * taps) as f64 + 2.0;
            let what = format!("{} {name}", isa.level());
            failures.close(&what, &y, &want, |_| f64::from(f32::EPSILON) * terms * terms);
            failures.same(&format!("{what}, threads"), &run(4), &y);
        }
    }
    failures.finish();
}

#[test]
fn pools_agree_with_plain_loops() {
    let mut failures = Failures::default();
    let base = PoolShape {
        planes: 3,
        input: [1, 9, 37],
        kernel: [1, 3, 3],
        stride: [1, 2, 2],
        dilation: [1; 3],
        pad_begin: [0, 1, 1],
        pad_end: [0, 1, 1],
        output: [1, 5, 19],
    };
    let cases = [
        ("3x3 stride 2", base),
        (
            "2x2",
            PoolShape {
                kernel: [1, 2, 2],
                pad_begin: [0; 3],
                pad_end: [0; 3],
                output: [1, 4, 18],
                ..base
            },
        ),
        (
            "rounded up",
            PoolShape {
                kernel: [1, 2, 2],
                pad_begin: [0; 3],
                pad_end: [0; 3],
                output: [1, 5, 19],
                ..base
            },
        ),
        ("stride 1", PoolShape { stride: [1; 3], output: [1, 9, 37], ..base }),
        ("dilated", PoolShape { dilation: [1, 2, 2], stride: [1; 3], output: [1, 7, 35], ..base }),
        (
            "3-d",
            PoolShape {
                input: [4, 5, 6],
                kernel: [2, 2, 3],
                stride: [2, 1, 1],
                pad_begin: [1, 0, 0],
                pad_end: [1, 0, 0],
                output: [3, 4, 4],
                ..base
            },
        ),
        ("windows in the padding", PoolShape { kernel: [1; 3], output: [1, 5, 19], ..base }),
    ];
    for isa in isas() {
        for (name, s) in cases {
            let mut x = values(s.planes * s.input.iter().product::<usize>(), 1);
            x[7] = f32::NAN;
            let n = s.planes * s.output.iter().product::<usize>();
            let (mut max, mut at, mut sums, mut counts) =
                (vec![f32::NEG_INFINITY; n], vec![-1i64; n], vec![0.0f64; n], vec![[0usize; 2]; n]);
            for i in 0..n {
                let o = i % s.output.iter().product::<usize>();
                let p = i / s.output.iter().product::<usize>();
                let o =
                    [o / s.output[2] / s.output[1], o / s.output[2] % s.output[1], o % s.output[2]];
                for t in 0..s.kernel.iter().product::<usize>() {
                    let k = [
                        t / s.kernel[2] / s.kernel[1],
                        t / s.kernel[2] % s.kernel[1],
                        t % s.kernel[2],
                    ];
                    let c = [0, 1, 2].map(|d| {
                        (o[d] * s.stride[d] + k[d] * s.dilation[d]) as isize
                            - s.pad_begin[d] as isize
                    });
                    counts[i][1] +=
                        usize::from((0..3).all(|d| c[d] < (s.input[d] + s.pad_end[d]) as isize));
                    if (0..3).any(|d| c[d] < 0 || c[d] >= s.input[d] as isize) {
                        continue;
                    }
                    counts[i][0] += 1;
                    let [z, y, xx] = c.map(|v| v as usize);
                    let from = ((p * s.input[0] + z) * s.input[1] + y) * s.input[2] + xx;
                    sums[i] += f64::from(x[from]);
                    if at[i] < 0 || x[from] > max[i] || (x[from].is_nan() && !max[i].is_nan()) {
                        (max[i], at[i]) = (x[from], from as i64);
                    }
                }
            }
            let what = format!("{} {name}", isa.level());
            let mut y = vec![0.0; n];
            pool(isa, &Threads(2), Pool::Max, &s, &x, &mut y);
            failures.close(
                &format!("{what} max"),
                &y,
                &max.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(),
                |_| 0.0,
            );
            let mut index = vec![0; n];
            max_pool_indices(&Threads(2), &s, &x, &mut y, &mut index);
            failures.check(index == at, || format!("{what}: indices"));
            for count_padding in [false, true] {
                pool(isa, &Serial, Pool::Average { count_padding }, &s, &x, &mut y);
                let want: Vec<f64> = (0..n)
                    .map(|i| match counts[i][usize::from(count_padding)] {
                        0 => 0.0,
                        c => sums[i] / c as f64,
                    })
                    .collect();
                failures.close(&format!("{what} average {count_padding}"), &y, &want, |_| {
                    12.0 * f64::from(f32::EPSILON)
                });
            }
        }
    }
    failures.finish();
}
