//! Kernels of blocked channels against their plain forms and double precision. Add a row to `cases`.

mod common;
use common::{Failures, Threads, block, convolution as reference, isas, unblock, values};
use deepseek_kernels_cpu::Serial;
use deepseek_kernels_cpu::blocked::*;
use deepseek_kernels_cpu::conv::*;
use deepseek_kernels_cpu::elementwise::Unary;
use deepseek_kernels_cpu::pool::*;

fn cases() -> Vec<(&'static str, ConvShape)> {
    let d2 = ConvShape::d2;
    let pads = |s: ConvShape, begin: [usize; 2], end: [usize; 2]| ConvShape {
        pad_begin: [0, begin[0], begin[1]],
        pad_end: [0, end[0], end[1]],
        ..s
    };
    let strided = |s: ConvShape, by: [usize; 2]| ConvShape { stride: [1, by[0], by[1]], ..s };
    let depthwise = |s: ConvShape| ConvShape { groups: s.in_channels, ..s };
    let mut all = vec![
        ("one", d2(1, 1, 1, [1, 1], [1, 1])),
        ("one pixel, many channels", d2(2, 70, 50, [1, 1], [1, 1])),
        ("1x1", d2(3, 32, 48, [5, 7], [1, 1])),
        ("1x1 of odd channels", d2(2, 19, 37, [9, 4], [1, 1])),
        ("1x1 strided", strided(d2(1, 20, 35, [9, 8], [1, 1]), [2, 2])),
        ("1x1 in padding", pads(d2(1, 20, 35, [3, 3], [1, 1]), [1, 2], [2, 1])),
        ("3x3 not padded", d2(2, 17, 33, [9, 19], [3, 3])),
        ("3x3", pads(d2(2, 16, 32, [14, 14], [3, 3]), [1, 1], [1, 1])),
        ("3x3 narrow", pads(d2(1, 35, 20, [7, 2], [3, 3]), [1, 1], [1, 1])),
        ("3x3 of one pixel", pads(d2(1, 5, 5, [1, 1], [3, 3]), [1, 1], [1, 1])),
        ("3x3 at 7x7", pads(d2(2, 33, 35, [7, 7], [3, 3]), [1, 1], [1, 1])),
        ("5x5 at 3x6", pads(d2(1, 18, 20, [3, 6], [5, 5]), [2, 2], [2, 2])),
        (
            "3x3 stride 2 to 7x7",
            pads(strided(d2(1, 16, 40, [14, 14], [3, 3]), [2, 2]), [1, 1], [1, 1]),
        ),
        (
            "narrow, dilated beyond the other row",
            pads(ConvShape { dilation: [1, 5, 1], ..d2(1, 9, 20, [4, 3], [2, 3]) }, [4, 1], [3, 1]),
        ),
        ("narrow, stride 5", pads(strided(d2(1, 9, 20, [9, 5], [2, 3]), [5, 1]), [1, 1], [4, 1])),
        ("3x3 wide", pads(d2(1, 4, 70, [3, 57], [3, 3]), [1, 1], [1, 1])),
        ("3x3 stride 2", pads(strided(d2(1, 18, 34, [11, 13], [3, 3]), [2, 2]), [1, 1], [1, 1])),
        (
            "5x3, strides 3 and 1",
            pads(strided(d2(1, 7, 9, [11, 9], [5, 3]), [3, 1]), [2, 0], [1, 1]),
        ),
        ("stride beyond the window", strided(d2(1, 9, 8, [11, 13], [1, 1]), [5, 2])),
        ("one sided", pads(d2(1, 8, 8, [6, 6], [3, 4]), [2, 0], [0, 3])),
        ("padding beyond the input", pads(d2(1, 2, 2, [2, 2], [3, 3]), [5, 5], [5, 5])),
        (
            "padding beyond the input, stride 2",
            pads(strided(d2(1, 3, 20, [2, 3], [3, 3]), [2, 2]), [6, 7], [5, 4]),
        ),
        (
            "dilated",
            pads(
                ConvShape { dilation: [1, 2, 3], ..d2(1, 20, 17, [12, 13], [3, 3]) },
                [2, 3],
                [0, 2],
            ),
        ),
        (
            "dilated beyond the input",
            pads(ConvShape { dilation: [1, 9, 9], ..d2(1, 4, 4, [5, 5], [3, 3]) }, [9, 9], [9, 9]),
        ),
        ("7x7 stride 2", pads(strided(d2(2, 3, 24, [31, 33], [7, 7]), [2, 2]), [3, 3], [3, 2])),
        ("1-d", ConvShape { pad_begin: [0, 0, 4], ..ConvShape::d1(3, 5, 7, 40, 9) }),
        ("depthwise", depthwise(pads(d2(2, 21, 21, [10, 37], [3, 3]), [1, 1], [1, 1]))),
        (
            "depthwise 5x5 stride 2",
            depthwise(pads(strided(d2(1, 40, 40, [15, 20], [5, 5]), [2, 2]), [2, 1], [0, 2])),
        ),
        ("depthwise of one pixel", depthwise(pads(d2(1, 6, 6, [1, 1], [5, 5]), [2, 2], [2, 2]))),
        ("does not fit", d2(1, 2, 2, [2, 2], [3, 3])),
        ("no batch", d2(0, 2, 2, [5, 5], [3, 3])),
    ];
    // Every number of positions of a tile.
    all.extend((1..30).map(|w| ("width", pads(d2(1, 3, 20, [2, w], [1, 3]), [0, 1], [0, 1]))));
    all
}

#[test]
fn convolutions_agree_with_double_precision() {
    let mut failures = Failures::default();
    let mut seen = [0; 3];
    for isa in isas() {
        for ((name, s), planes) in cases().into_iter().flat_map(|c| [(c, false), (c, true)]) {
            let Some(reads) = s.reads_blocked(planes) else { continue };
            seen[reads as usize] += 1;
            let (x, w) = (values(s.input_len(), 1), values(s.weights_len(), 2));
            let sums = reference(&s, &x, &w);
            let (pi, po): (usize, usize) = (s.input.iter().product(), s.output().iter().product());
            let (bias, residual) = (values(s.out_channels, 3), values(sums.len(), 4));
            let weights = BlockedWeights::new(isa, &Serial, &s, reads, &w);
            let xs = if planes { x } else { block(isa, s.in_channels, pi, &x) };
            let residuals = block(isa, s.out_channels, po, &residual);
            let terms = (s.weights_len() / s.out_channels) as f64;
            for activation in [None, Some(Unary::Relu), Some(Unary::Silu)] {
                let full = activation.is_some();
                let e = ConvEpilogue {
                    bias: full.then_some(&bias),
                    residual: full.then_some(&residuals),
                    activation,
                    ..Default::default()
                };
                let run = |threads: usize| {
                    let mut y = vec![f32::NAN; residuals.len()];
                    conv_blocked(isa, &Threads(threads), &s, &xs, &weights, &e, &mut y, &mut []);
                    unblock(isa, s.out_channels, po, &y)
                };
                let want: Vec<f64> = sums
                    .iter()
                    .enumerate()
                    .map(|(i, (sum, _))| {
                        let more =
                            f64::from(bias[i / po % s.out_channels]) + f64::from(residual[i]);
                        match activation {
                            None => *sum,
                            Some(Unary::Relu) => (sum + more).max(0.0),
                            _ => (sum + more) / (1.0 + (-sum - more).exp()),
                        }
                    })
                    .collect();
                let what = format!("{} {name} {s:?} {reads:?} {activation:?}", isa.level());
                // One rounding a term (two at scalar) and those of the epilogue; the slope of SiLU
                // is at most 1.1, and its own error eight units in the last place.
                let tol = |i: usize| {
                    let value = if full { sums[i].1 + 2.0 } else { sums[i].1 };
                    f64::from(f32::EPSILON)
                        * (1.1 * (terms + 4.0) * sums[i].1 + if full { 8.0 * value } else { 0.0 })
                };
                let y = run(1);
                failures.close(&what, &y, &want, tol);
                failures.same(&format!("{what}, threads"), &run(3), &y);
                if full && s.accumulates() {
                    let e = ConvEpilogue { residual: None, accumulate: true, ..e };
                    let mut over = residuals.clone();
                    let threads = Threads(2);
                    conv_blocked(isa, &threads, &s, &xs, &weights, &e, &mut over, &mut []);
                    let over = unblock(isa, s.out_channels, po, &over);
                    failures.same(&format!("{what}, in place"), &over, &y);
                }
            }
        }
    }
    failures.finish();
    assert!(seen.iter().all(|&n| n > 2), "{seen:?}");
}

#[test]
fn an_image_has_the_same_bits_in_any_batch() {
    let mut failures = Failures::default();
    for isa in isas() {
        let s = ConvShape {
            pad_begin: [0, 1, 1],
            pad_end: [0, 1, 1],
            ..ConvShape::d2(5, 40, 150, [29, 29], [3, 3])
        };
        let x = block(isa, 40, 29 * 29, &values(s.input_len(), 1));
        // Of an image whose size is not known: the direct sum. Winograd's has its own test.
        let unknown = ConvShape { input: [1; 3], ..s };
        let w = values(s.weights_len(), 2);
        let weights = BlockedWeights::new(isa, &Serial, &unknown, Reads::Blocks, &w);
        let run = |s: &ConvShape, x: &[f32]| {
            let mut y = vec![0.0; s.batch * 150usize.next_multiple_of(lanes(isa)) * 29 * 29];
            conv_blocked(isa, &Serial, s, x, &weights, &ConvEpilogue::default(), &mut y, &mut []);
            y
        };
        let whole = run(&s, &x);
        let one = ConvShape { batch: 1, ..s };
        for (x, want) in x.chunks_exact(x.len() / 5).zip(whole.chunks_exact(whole.len() / 5)) {
            failures.same(isa.level().name(), &run(&one, x), want);
        }
    }
    failures.finish();
}

#[test]
fn blocks_and_planes_hold_the_same() {
    let mut failures = Failures::default();
    for isa in isas() {
        for (batch, channels, plane) in
            [(1, 1, 1), (2, 16, 16), (3, 37, 50), (1, 8, 3000), (1, 3, 4099), (0, 3, 3), (2, 4, 0)]
        {
            let shape = BlockedShape { batch, channels, plane };
            let what = format!("{} {shape:?}", isa.level());
            let x = values(batch * channels * plane, 1);
            let len = batch * channels.next_multiple_of(lanes(isa)) * plane;
            let (mut blocked, mut plain) = (vec![f32::NAN; len], vec![f32::NAN; x.len()]);
            to_blocked(isa, &Threads(3), &shape, &x, &mut blocked);
            assert!(blocked.iter().all(|v| !v.is_nan()), "{what}: the rest of a block is zero");
            failures.same(&what, &unblock(isa, channels, plane, &blocked), &x);
            from_blocked(isa, &Threads(3), &shape, &block(isa, channels, plane, &x), &mut plain);
            failures.same(&what, &plain, &x);
            if plane == 0 {
                continue;
            }
            let scale = values(batch * channels, 2);
            let mut scaled = vec![f32::NAN; len];
            scale_blocked(isa, &Threads(2), &shape, Some(&blocked), &scale, &mut scaled);
            let want: Vec<f32> = x.iter().enumerate().map(|(i, x)| x * scale[i / plane]).collect();
            failures.same(&what, &unblock(isa, channels, plane, &scaled), &want);
            let mut over = blocked.clone();
            scale_blocked(isa, &Threads(2), &shape, None, &scale, &mut over);
            failures.same(&what, &over, &scaled);
            let mut means = vec![f32::NAN; batch * channels];
            mean_blocked(isa, &Threads(2), &shape, &blocked, &mut means);
            let want: Vec<f64> = x
                .chunks_exact(plane)
                .map(|x| x.iter().map(|&x| f64::from(x)).sum::<f64>() / plane as f64)
                .collect();
            // Values are below 1; a quarter of the additions is one chain.
            failures.close(&what, &means, &want, |_| {
                f64::from(f32::EPSILON) * (plane as f64 / 4.0 + 4.0)
            });
        }
    }
    failures.finish();
}

#[test]
fn pools_and_repeats_agree_with_the_plain_kernels() {
    let mut failures = Failures::default();
    let base = PoolShape {
        planes: 34,
        input: [1, 9, 12],
        kernel: [1, 3, 3],
        stride: [1, 2, 2],
        dilation: [1; 3],
        pad_begin: [0, 1, 1],
        pad_end: [0, 1, 1],
        output: [1, 5, 6],
    };
    let cases = [
        base,
        PoolShape {
            kernel: [1, 5, 5],
            stride: [1; 3],
            pad_begin: [0, 2, 2],
            pad_end: [0, 2, 2],
            output: [1, 9, 12],
            ..base
        },
        PoolShape { dilation: [1, 2, 3], output: [1, 4, 4], ..base },
        // A last, partial window.
        PoolShape { pad_begin: [0; 3], pad_end: [0; 3], output: [1, 5, 6], ..base },
        PoolShape { input: [1, 1, 1], output: [1, 1, 1], ..base },
    ];
    for isa in isas() {
        for s in cases {
            let (pi, po): (usize, usize) = (s.input.iter().product(), s.output.iter().product());
            let x = values(s.planes * pi, 5);
            let blocked = BlockedShape { batch: 2, channels: 17, plane: po };
            let shape = PoolShape { planes: 2 * 17usize.div_ceil(lanes(isa)), ..s };
            for op in [
                Pool::Max,
                Pool::Average { count_padding: false },
                Pool::Average { count_padding: true },
            ] {
                let what = format!("{} {op:?} {s:?}", isa.level());
                let (mut want, mut y) =
                    (vec![0.0; s.planes * po], vec![f32::NAN; shape.planes * po * lanes(isa)]);
                pool(isa, &Serial, op, &s, &x, &mut want);
                pool_blocked(isa, &Threads(3), op, &shape, &block(isa, 17, pi, &x), &mut y);
                let got = unblock(isa, blocked.channels, blocked.plane, &y);
                let want: Vec<f64> = want.into_iter().map(f64::from).collect();
                // Up to twenty-five values below 1 in another order, and a division.
                failures.close(&what, &got, &want, |_| 26.0 * f64::from(f32::EPSILON));
            }
        }
        let (x, lanes) = (values(3 * 4 * 5 * lanes(isa), 6), lanes(isa));
        let mut y = vec![f32::NAN; x.len() * 6];
        repeat_blocked(isa, &Threads(2), 3, [4, 5], [2, 3], &x, &mut y);
        let want: Vec<f32> = (0..y.len())
            .map(|i| {
                let (lane, p) = (i % lanes, i / lanes);
                let (column, row, plane) = (p % 15, p / 15 % 8, p / 120);
                x[((plane * 4 + row / 2) * 5 + column / 3) * lanes + lane]
            })
            .collect();
        failures.same(isa.level().name(), &y, &want);
    }
    failures.finish();
}
