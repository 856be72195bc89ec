//! Convolutions in bf16 against double precision on the rounded operands. Add a row to `cases`.

mod common;
use common::{Failures, Threads, matrix_isas, values};
use deepseek_kernels_cpu::blocked::*;
use deepseek_kernels_cpu::conv::*;
use deepseek_kernels_cpu::elementwise::Unary;
use deepseek_kernels_cpu::{Isa, Serial};
use half::bf16;

fn cases() -> Vec<(&'static str, ConvShape, bool)> {
    let d2 = ConvShape::d2;
    let pads = |s: ConvShape, begin: [usize; 2], end: [usize; 2]| ConvShape {
        pad_begin: [0, begin[0], begin[1]],
        pad_end: [0, end[0], end[1]],
        ..s
    };
    let strided = |s: ConvShape, by: [usize; 2]| ConvShape { stride: [1, by[0], by[1]], ..s };
    let dilated = |s: ConvShape, by: [usize; 2]| ConvShape { dilation: [1, by[0], by[1]], ..s };
    vec![
        ("one", d2(1, 1, 1, [1, 1], [1, 1]), false),
        ("1x1", d2(3, 32, 48, [5, 7], [1, 1]), false),
        ("1x1 of odd channels", d2(2, 19, 37, [9, 4], [1, 1]), false),
        ("1x1 of three blocks", d2(1, 48, 16, [17, 9], [1, 1]), false),
        ("1x1 strided", strided(d2(1, 20, 35, [9, 8], [1, 1]), [2, 2]), false),
        ("1x1 in padding", pads(d2(1, 20, 35, [3, 3], [1, 1]), [1, 2], [2, 1]), false),
        ("1x1 of many channels", d2(1, 1100, 40, [3, 5], [1, 1]), false),
        ("3x3 not padded", d2(2, 17, 33, [9, 19], [3, 3]), false),
        ("3x3", pads(d2(2, 64, 70, [14, 14], [3, 3]), [1, 1], [1, 1]), false),
        ("3x3 narrow", pads(d2(1, 35, 20, [7, 2], [3, 3]), [1, 1], [1, 1]), false),
        ("3x3 wide", pads(d2(1, 40, 70, [3, 157], [3, 3]), [1, 1], [1, 1]), false),
        ("3x3 at 7x7", pads(d2(2, 33, 35, [7, 7], [3, 3]), [1, 1], [1, 1]), false),
        (
            "3x3 stride 2",
            pads(strided(d2(2, 18, 34, [11, 13], [3, 3]), [2, 2]), [1, 1], [1, 1]),
            false,
        ),
        ("3x3 strides 2 and 1", strided(d2(1, 18, 34, [11, 13], [3, 3]), [2, 1]), false),
        ("5x3 uneven", pads(d2(1, 20, 9, [11, 9], [5, 3]), [2, 0], [1, 1]), false),
        ("dilated", pads(dilated(d2(1, 20, 17, [12, 13], [3, 3]), [2, 3]), [2, 3], [0, 2]), false),
        (
            "dilated and strided",
            pads(dilated(strided(d2(1, 20, 17, [12, 13], [3, 2]), [2, 2]), [3, 3]), [2, 3], [1, 2]),
            false,
        ),
        ("many bands", pads(d2(1, 200, 33, [90, 60], [3, 3]), [1, 1], [1, 1]), false),
        ("first 7x7", pads(strided(d2(2, 3, 40, [37, 41], [7, 7]), [2, 2]), [3, 3], [3, 3]), true),
        ("first 3x3", pads(strided(d2(1, 3, 16, [20, 65], [3, 3]), [2, 2]), [1, 1], [1, 1]), true),
        ("first, stride 1", pads(d2(1, 1, 20, [9, 33], [5, 8]), [2, 3], [2, 4]), true),
        ("first, four channels", d2(2, 4, 17, [6, 20], [2, 1]), true),
        ("first, padding alone", pads(d2(1, 2, 16, [2, 2], [3, 3]), [5, 5], [5, 5]), true),
    ]
}

/// Sums and the sums of magnitudes, `[batch, out, plane]`.
fn reference(shape: &ConvShape, x: &[f32], w: &[bf16]) -> (Vec<f64>, Vec<f64>) {
    let round = |v: f32| f64::from(bf16::from_f32(v).to_f32());
    let ([_, oh, ow], [_, ih, iw], [_, kh, kw]) = (shape.output(), shape.input, shape.kernel);
    let mut sums = Vec::with_capacity(shape.output_len());
    let mut sizes = Vec::with_capacity(shape.output_len());
    for i in 0..shape.output_len() {
        let (col, row, o) = (i % ow, i / ow % oh, i / (ow * oh) % shape.out_channels);
        let image = i / (ow * oh * shape.out_channels);
        let (mut sum, mut size) = (0.0, 0.0);
        for c in 0..shape.in_channels {
            for t in 0..kh * kw {
                let h = row * shape.stride[1] + t / kw * shape.dilation[1];
                let v = col * shape.stride[2] + t % kw * shape.dilation[2];
                let (h, v) =
                    (h.wrapping_sub(shape.pad_begin[1]), v.wrapping_sub(shape.pad_begin[2]));
                if h < ih && v < iw {
                    let x = x[((image * shape.in_channels + c) * ih + h) * iw + v];
                    let product = round(x) * w[(o * shape.in_channels + c) * kh * kw + t].to_f64();
                    sum += product;
                    size += product.abs();
                }
            }
        }
        sums.push(sum);
        sizes.push(size);
    }
    (sums, sizes)
}

#[test]
fn sums_are_those_of_rounded_operands() {
    let mut failures = Failures::default();
    let mut ran = 0;
    for isa in matrix_isas() {
        for (name, shape, planes) in cases() {
            if !conv_bf16_takes(isa, &shape, planes) {
                continue;
            }
            ran += 1;
            let x = values(shape.input_len(), 1);
            let w: Vec<bf16> =
                values(shape.weights_len(), 2).into_iter().map(bf16::from_f32).collect();
            let bias = values(shape.out_channels, 3);
            let plane: usize = shape.output().iter().product();
            let out = BlockedShape { batch: shape.batch, channels: shape.out_channels, plane };
            let residual = values(shape.output_len(), 4);
            let blocked_len =
                |s: &BlockedShape| s.batch * s.channels.next_multiple_of(lanes(isa)) * s.plane;
            let mut blocked_residual = vec![0.0; blocked_len(&out)];
            to_blocked(isa, &Serial, &out, &residual, &mut blocked_residual);
            let input = match planes {
                true => x.clone(),
                false => {
                    let plane = shape.input.iter().product();
                    let s = BlockedShape { batch: shape.batch, channels: shape.in_channels, plane };
                    let mut blocked = vec![0.0; blocked_len(&s)];
                    to_blocked(isa, &Serial, &s, &x, &mut blocked);
                    // What the last block holds beyond the channels has no meaning.
                    let lanes = lanes(isa);
                    let beyond = |i: usize| {
                        let block = i / (lanes * plane) % shape.in_channels.div_ceil(lanes);
                        block * lanes + i % lanes >= shape.in_channels
                    };
                    let all = blocked.iter_mut().enumerate();
                    all.filter(|(i, _)| beyond(*i)).for_each(|(_, v)| *v = f32::NAN);
                    blocked
                }
            };
            let weights = Bf16Weights::new(isa, &Threads(2), &shape, planes, &w);
            let run = |threads: usize, activation: Option<Unary>, plain: bool| {
                let par = Threads(threads);
                let mut y = vec![f32::NAN; blocked_len(&out)];
                let mut scratch = vec![f32::NAN; conv_bf16_scratch(isa, &par, &shape, planes)];
                let padded = shape.input[2] + shape.pad_begin[2] + shape.pad_end[2];
                let (fixed, each) = conv_bf16_scratch_bound(isa, &par, &shape, planes);
                assert!(scratch.len() <= fixed + each * padded, "{name}: scratch beyond its bound");
                let epilogue = ConvEpilogue {
                    bias: (!plain).then_some(&bias[..]),
                    residual: (!plain).then_some(&blocked_residual[..]),
                    activation,
                };
                conv_bf16(isa, &par, &shape, &input, &weights, &epilogue, &mut y, &mut scratch);
                let mut got = vec![0.0; shape.output_len()];
                from_blocked(isa, &Serial, &out, &y, &mut got);
                got
            };
            let (sums, sizes) = reference(&shape, &x, &w);
            let eps = f64::from(f32::EPSILON);
            let terms = (shape.weights_len() / shape.out_channels) as f64;
            let got = run(1, None, true);
            failures.close(&format!("{isa:?} {name}"), &got, &sums, |i| terms * eps * sizes[i]);
            for (activation, f) in [
                (Unary::Relu, (|v| v.max(0.0)) as fn(f64) -> f64),
                (Unary::Sigmoid, |v| 1.0 / (1.0 + (-v).exp())),
            ] {
                let got = run(1, Some(activation), false);
                failures.same(
                    &format!("{isa:?} {name}: threads"),
                    &run(3, Some(activation), false),
                    &got,
                );
                let with = |i: usize| {
                    f64::from(bias[i / plane % shape.out_channels]) + f64::from(residual[i])
                };
                let want: Vec<f64> = (0..sums.len()).map(|i| f(sums[i] + with(i))).collect();
                // The sum, a bias and a residual; a sigmoid is good to a few units.
                let tolerance = |i: usize| (terms + 4.0) * eps * (sizes[i] + 2.0) + 4.0 * eps;
                failures.close(&format!("{isa:?} {name} {activation:?}"), &got, &want, tolerance);
            }
        }
    }
    failures.finish();
    let expected = matrix_isas()
        .iter()
        .any(|isa| conv_bf16_takes(*isa, &ConvShape::d2(1, 32, 32, [8, 8], [3, 3]), false));
    assert_eq!(ran > 0, expected);
}

#[test]
fn levels_without_products_of_bf16_take_none() {
    let scalar = Isa::at(deepseek_kernels_cpu::Level::Scalar).unwrap();
    assert!(!conv_bf16_takes(scalar, &ConvShape::d2(1, 32, 32, [8, 8], [3, 3]), false));
}
