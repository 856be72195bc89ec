//! Winograd's algorithm against the direct sum in double precision. Add a row to `cases`.

mod common;
use common::{Failures, Threads, block, convolution, isas, unblock, values};
use deepseek_kernels_cpu::conv::*;
use deepseek_kernels_cpu::elementwise::Unary;
use deepseek_kernels_cpu::{Isa, Serial};

/// Half a unit in the last place of one.
const ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;

fn cases() -> Vec<(&'static str, ConvShape)> {
    let padded = |batch, [i, o]: [usize; 2], size, begin: [usize; 2], end: [usize; 2]| ConvShape {
        pad_begin: [0, begin[0], begin[1]],
        pad_end: [0, end[0], end[1]],
        ..ConvShape::d2(batch, i, o, size, [3, 3])
    };
    vec![
        ("whole tiles", padded(1, [32, 32], [20, 20], [1, 1], [1, 1])),
        ("ragged", padded(2, [40, 33], [19, 23], [1, 1], [1, 1])),
        ("not padded", padded(1, [32, 48], [25, 22], [0, 0], [0, 0])),
        ("padded on one side", padded(1, [37, 64], [21, 22], [2, 0], [0, 2])),
        ("several blocks", padded(3, [96, 40], [30, 29], [1, 1], [1, 1])),
    ]
}

/// `Bᵀ`, `G` and `Aᵀ` of Lavin and Gray (2016), section 4.3.
const B: [[f64; 6]; 6] = [
    [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
    [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
    [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
    [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
    [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
    [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
];
const G: [[f64; 3]; 6] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];
const A: [[f64; 6]; 4] = [
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
    [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
    [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
];

/// `M v Mᵀ`, and the same of magnitudes.
fn sandwich<const R: usize, const C: usize>(
    m: &[[f64; C]; R],
    v: &[[f64; C]; C],
) -> [[(f64, f64); R]; R] {
    let mut out = [[(0.0, 0.0); R]; R];
    for (i, row) in out.iter_mut().enumerate() {
        for (j, out) in row.iter_mut().enumerate() {
            for (k, v) in v.iter().enumerate() {
                for (l, v) in v.iter().enumerate() {
                    let term = m[i][k] * v * m[j][l];
                    *out = (out.0 + term, out.1 + term.abs());
                }
            }
        }
    }
    out
}

/// The standard deviation of the error of every output, each rounding being independent with at most
/// the roundoff of what it rounds as its deviation (Higham and Mary, *A New Approach to Probabilistic
/// Rounding Error Analysis*, 2019).
///
/// A transformed input takes part in two passes of four roundings each, of numbers no larger than the
/// sum of magnitudes; a transformed weight is rounded once; each product and each partial sum of a
/// point once (twice at scalar); each pass of the output has five roundings.
fn deviations(s: &ConvShape, x: &[f32], w: &[f32]) -> Vec<f64> {
    let [_, ih, iw] = s.input;
    let [_, oh, ow] = s.output();
    let mut out = vec![0.0; s.output_len()];
    let weights: Vec<_> = w
        .chunks_exact(9)
        .map(|w| {
            let mut v = [[0.0; 3]; 3];
            w.iter().enumerate().for_each(|(i, &w)| v[i / 3][i % 3] = f64::from(w));
            sandwich(&G, &v)
        })
        .collect();
    for (image, ty, tx) in (0..s.batch)
        .flat_map(|b| (0..oh.div_ceil(4)).map(move |y| (b, y)))
        .flat_map(|(b, y)| (0..ow.div_ceil(4)).map(move |x| (b, y, x)))
    {
        let inputs: Vec<_> = (0..s.in_channels)
            .map(|c| {
                let mut d = [[0.0; 6]; 6];
                for (i, d) in d.iter_mut().enumerate() {
                    for (j, d) in d.iter_mut().enumerate() {
                        let y = (ty * 4 + i).wrapping_sub(s.pad_begin[1]);
                        let xx = (tx * 4 + j).wrapping_sub(s.pad_begin[2]);
                        if y < ih && xx < iw {
                            let at = ((image * s.in_channels + c) * ih + y) * iw + xx;
                            *d = f64::from(x[at]);
                        }
                    }
                }
                sandwich(&B, &d)
            })
            .collect();
        for o in 0..s.out_channels {
            // Variance and size of the sum of each point.
            let mut points = [[(0.0f64, 0.0f64); 6]; 6];
            for (i, row) in points.iter_mut().enumerate() {
                for (j, point) in row.iter_mut().enumerate() {
                    let (mut sum, mut variance) = (0.0f64, 0.0f64);
                    for (c, v) in inputs.iter().enumerate() {
                        let (v, u) = (v[i][j], weights[o * s.in_channels + c][i][j]);
                        sum += v.0 * u.0;
                        variance +=
                            8.0 * (v.1 * u.0).powi(2) + 2.0 * (v.0 * u.0).powi(2) + sum.powi(2);
                    }
                    *point = (variance, sum);
                }
            }
            for (y, down) in A.iter().enumerate().take(oh - ty * 4) {
                for (xx, across) in A.iter().enumerate().take(ow - tx * 4) {
                    let (mut variance, mut size) = (0.0, 0.0);
                    for (i, row) in points.iter().enumerate() {
                        for (j, (v, sum)) in row.iter().enumerate() {
                            let a = down[i] * across[j];
                            variance += a * a * v;
                            size += (a * sum).powi(2);
                        }
                    }
                    let at = (image * s.out_channels + o) * oh + ty * 4 + y;
                    out[at * ow + tx * 4 + xx] = ROUNDOFF * (variance + 10.0 * size).sqrt();
                }
            }
        }
    }
    out
}

struct Run<'a> {
    isa: Isa,
    weights: BlockedWeights,
    bias: &'a [f32],
    activation: Option<Unary>,
}

impl Run<'_> {
    /// The outputs of blocked inputs, not blocked.
    fn of(&self, s: &ConvShape, x: &[f32], residual: &[f32], threads: usize) -> Vec<f32> {
        let plane = s.output().iter().product();
        let threads = Threads(threads);
        let mut scratch = vec![f32::NAN; self.weights.scratch(self.isa, &threads)];
        let mut y = vec![f32::NAN; residual.len()];
        let e = ConvEpilogue {
            bias: Some(self.bias),
            residual: Some(residual),
            activation: self.activation,
            ..Default::default()
        };
        conv_blocked(self.isa, &threads, s, x, &self.weights, &e, &mut y, &mut scratch);
        unblock(self.isa, s.out_channels, plane, &y)
    }
}

#[test]
fn winograd_agrees_with_double_precision() {
    let mut failures = Failures::default();
    for (name, s) in cases() {
        assert!(s.pays_winograd(Reads::Blocks), "{name}");
        let (x, w) = (values(s.input_len(), 1), values(s.weights_len(), 2));
        let sums = convolution(&s, &x, &w);
        let (bias, residual) = (values(s.out_channels, 3), values(sums.len(), 4));
        let deviations = deviations(&s, &x, &w);
        let (pi, po): (usize, usize) = (s.input.iter().product(), s.output().iter().product());
        for isa in isas() {
            let (xs, residuals) =
                (block(isa, s.in_channels, pi, &x), block(isa, s.out_channels, po, &residual));
            for activation in [None, Some(Unary::Relu), Some(Unary::HardSwish), Some(Unary::Silu)] {
                let weights = BlockedWeights::new(isa, &Threads(2), &s, Reads::Blocks, &w);
                let run = Run { isa, weights, bias: &bias, activation };
                let want: Vec<f64> = (0..sums.len())
                    .map(|i| {
                        let v = sums[i].0
                            + f64::from(bias[i / po % s.out_channels])
                            + f64::from(residual[i]);
                        match activation {
                            None => v,
                            Some(Unary::Relu) => v.max(0.0),
                            Some(Unary::HardSwish) => v * (v / 6.0 + 0.5).clamp(0.0, 1.0),
                            _ => v / (1.0 + (-v).exp()),
                        }
                    })
                    .collect();
                let what = format!("{} {name} {activation:?}", isa.level());
                let y = run.of(&s, &xs, &residuals, 1);
                // Seven deviations: one in a hundred billion lies beyond. No slope is above 1.5;
                // functions are exact to eight units in the last place.
                failures.close(&what, &y, &want, |i| {
                    1.5 * (7.0 * deviations[i] + 4.0 * ROUNDOFF * (sums[i].0.abs() + 2.0))
                        + 16.0 * ROUNDOFF * want[i].abs()
                });
                failures.same(&format!("{what}, threads"), &run.of(&s, &xs, &residuals, 3), &y);
                let one = ConvShape { batch: 1, ..s };
                let alone: Vec<f32> = xs
                    .chunks_exact(xs.len() / s.batch)
                    .zip(residuals.chunks_exact(residuals.len() / s.batch))
                    .flat_map(|(x, r)| run.of(&one, x, r, 2))
                    .collect();
                failures.same(&format!("{what}, one by one"), &alone, &y);
            }
        }
    }
    failures.finish();
}

#[test]
fn a_small_or_unknown_image_keeps_the_direct_sum() {
    let small = ConvShape { pad_begin: [0, 1, 1], ..ConvShape::d2(1, 64, 64, [7, 7], [3, 3]) };
    let unknown = ConvShape { input: [1; 3], ..small };
    for (s, isa) in
        [small, unknown].into_iter().flat_map(|s| isas().into_iter().map(move |i| (s, i)))
    {
        assert!(!s.pays_winograd(Reads::Blocks), "{s:?}");
        let w = BlockedWeights::new(isa, &Serial, &s, Reads::Blocks, &values(s.weights_len(), 2));
        assert_eq!(w.scratch(isa, &Serial), 0);
    }
}
