//! Reductions, softmax and normalisation against double precision. Add a shape to `SHAPES`.

mod common;
use common::{Failures, Threads, isas, values};
use deepseek_kernels_cpu::Serial;
use deepseek_kernels_cpu::elementwise::Unary;
use deepseek_kernels_cpu::norm::*;
use deepseek_kernels_cpu::reduce::*;
use deepseek_kernels_cpu::softmax::*;

/// `outer, len, inner`.
const SHAPES: &[(usize, usize, usize)] = &[
    (0, 3, 1),
    (2, 1, 1),
    (3, 7, 1),
    (5, 16, 1),
    (2, 100, 1),
    (400, 384, 1),
    (1, 100_003, 1),
    (2, 1, 3),
    (3, 9, 5),
    (2, 300, 33),
    (1, 1000, 16),
];

const EPS: f64 = f32::EPSILON as f64;

#[test]
fn reductions_agree_with_double_precision() {
    let mut failures = Failures::default();
    for isa in isas() {
        for &(outer, len, inner) in SHAPES {
            let x = values(outer * len * inner, 1);
            let column = |o: usize, i: usize| {
                let x = &x;
                (0..len).map(move |k| f64::from(x[(o * len + k) * inner + i]))
            };
            type Plain = fn(&mut dyn Iterator<Item = f64>, f64) -> f64;
            let ops: [(Reduce, Plain); 6] = [
                (Reduce::Sum, |v, _| v.sum()),
                (Reduce::Mean, |v, n| v.sum::<f64>() / n),
                (Reduce::Max, |v, _| v.fold(f64::NEG_INFINITY, f64::max)),
                (Reduce::Min, |v, _| v.fold(f64::INFINITY, f64::min)),
                (Reduce::SumSquares, |v, _| v.map(|x| x * x).sum()),
                (Reduce::SumAbs, |v, _| v.map(f64::abs).sum()),
            ];
            for (op, f) in ops {
                let mut y = vec![0.0; outer * inner];
                reduce(isa, &Threads(3), op, outer, len, inner, &x, &mut y);
                let want: Vec<f64> = (0..outer * inner)
                    .map(|i| f(&mut column(i / inner, i % inner), len as f64))
                    .collect();
                // A chain is at most a block, the number of blocks and the tree long; |x| <= 1.
                let chain = (256 + len / 256 + 8) as f64;
                let size = |i: usize| column(i / inner, i % inner).map(f64::abs).sum::<f64>();
                let what = format!("{} {op:?} {outer}x{len}x{inner}", isa.level());
                failures.close(&what, &y, &want, |i| chain.min(len as f64 + 2.0) * EPS * size(i));
                let mut again = vec![0.0; outer * inner];
                reduce(isa, &Serial, op, outer, len, inner, &x, &mut again);
                failures.same(&format!("{what}, one thread"), &again, &y);
            }
            for arg in
                [Arg::default(), Arg { min: true, last: false }, Arg { min: false, last: true }]
            {
                // Coarse values have many equal extremes.
                let x: Vec<f32> = x.iter().map(|v| (v * 4.0).round()).collect();
                let mut y = vec![0; outer * inner];
                arg_reduce(isa, &Threads(2), arg, outer, len, inner, &x, &mut y);
                for (i, &got) in y.iter().enumerate() {
                    let v: Vec<f32> =
                        (0..len).map(|k| x[(i / inner * len + k) * inner + i % inner]).collect();
                    let best =
                        v.iter().copied().fold(v[0], if arg.min { f32::min } else { f32::max });
                    let all: Vec<usize> = (0..len).filter(|&k| v[k] == best).collect();
                    let want = if arg.last { all[all.len() - 1] } else { all[0] };
                    failures.check(got as usize == want, || {
                        format!(
                            "{} {arg:?} {outer}x{len}x{inner} at {i}: {got}, want {want}",
                            isa.level()
                        )
                    });
                }
            }
        }
    }
    failures.finish();
}

#[test]
fn nan_survives_every_reduction() {
    for isa in isas() {
        for at in [0, 5, 40, 99] {
            let mut x = vec![1.0; 100];
            x[at] = f32::NAN;
            for op in [
                Reduce::Sum,
                Reduce::Mean,
                Reduce::Max,
                Reduce::Min,
                Reduce::SumSquares,
                Reduce::SumAbs,
                Reduce::Product,
            ] {
                for (outer, len, inner) in [(1, 100, 1), (1, 50, 2)] {
                    let mut y = vec![0.0; outer * inner];
                    reduce(isa, &Serial, op, outer, len, inner, &x, &mut y);
                    assert!(
                        y[at % inner].is_nan(),
                        "{} {op:?} lost a NaN at {at}: {y:?}",
                        isa.level()
                    );
                }
            }
            let mut y = [0];
            arg_reduce(isa, &Serial, Arg::default(), 1, 100, 1, &x, &mut y);
            assert_eq!(y, [at as i64]);
        }
    }
}

#[test]
fn softmax_agrees_with_double_precision() {
    let mut failures = Failures::default();
    for isa in isas() {
        for &(outer, len, inner) in SHAPES {
            for spread in [1.0, 30.0] {
                let mut x: Vec<f32> =
                    values(outer * len * inner, 2).iter().map(|v| v * spread).collect();
                if len > 3 {
                    x[..inner].fill(f32::NEG_INFINITY);
                }
                for log in [false, true] {
                    let mut want = vec![0.0; x.len()];
                    for o in 0..outer {
                        for i in 0..inner {
                            let at = |k: usize| (o * len + k) * inner + i;
                            let max = (0..len)
                                .map(|k| f64::from(x[at(k)]))
                                .fold(f64::NEG_INFINITY, f64::max);
                            let sum: f64 =
                                (0..len).map(|k| (f64::from(x[at(k)]) - max).exp()).sum();
                            for k in 0..len {
                                let d = f64::from(x[at(k)]) - max;
                                want[at(k)] = if log { d - sum.ln() } else { d.exp() / sum };
                            }
                        }
                    }
                    let mut y = vec![0.0; x.len()];
                    softmax(isa, &Threads(2), log, outer, len, inner, &x, &mut y);
                    // The argument of exp is off by half an ulp of `2 spread`, sums by one rounding
                    // of each positive term along a chain of `len / LANES`.
                    let chain = 4.0 + 2.0 * f64::from(spread) + len as f64;
                    let what =
                        format!("{} log {log} {outer}x{len}x{inner} x {spread}", isa.level());
                    failures.close(&what, &y, &want, |i| {
                        if log {
                            EPS * (chain + want[i].abs())
                        } else {
                            EPS * chain * want[i] + 1e-44
                        }
                    });
                    let mut again = x.clone();
                    softmax_inplace(isa, &Serial, log, outer, len, inner, &mut again);
                    failures.same(&format!("{what} in place"), &again, &y);
                }
            }
        }
    }
    failures.finish();
}

#[test]
fn norms_agree_with_double_precision() {
    let mut failures = Failures::default();
    for isa in isas() {
        for (rows, cols) in [(0, 4), (3, 1), (5, 7), (4, 384), (33, 100), (2, 5000)] {
            let x: Vec<f32> = values(rows * cols, 3).iter().map(|v| v * 3.0 + 2.0).collect();
            let (w, b) = (values(cols, 4), values(cols, 5));
            let eps = 1e-5f32;
            let (mut y, mut z) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            let (mut mean, mut inv) = (vec![0.0; rows], vec![0.0; rows]);
            let stats = Stats { mean: &mut mean, inv_std: &mut inv };
            layer_norm(isa, &Threads(2), rows, cols, &x, Some(&w), Some(&b), eps, &mut y, stats);
            rms_norm(isa, &Threads(2), rows, cols, &x, Some(&w), eps, &mut z, Stats::default());
            let (mut y2, mut z2) = (x.clone(), x.clone());
            layer_norm_inplace(isa, &Serial, rows, cols, &mut y2, Some(&w), Some(&b), eps);
            rms_norm_inplace(isa, &Serial, rows, cols, &mut z2, Some(&w), eps);
            failures.same(&format!("{} {rows}x{cols} in place", isa.level()), &y2, &y);
            failures.same(&format!("{} {rows}x{cols} rms in place", isa.level()), &z2, &z);
            let (mut want, mut want_rms) = (vec![], vec![]);
            for (r, row) in x.chunks(cols).enumerate() {
                let n = cols as f64;
                let m = row.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
                let var = row.iter().map(|&v| (f64::from(v) - m).powi(2)).sum::<f64>() / n;
                let square = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
                let k = 1.0 / (var + f64::from(eps)).sqrt();
                let what = format!("{} row {r} of {rows}x{cols}", isa.level());
                failures.close(&format!("{what} mean"), &mean[r..=r], &[m], |_| 300.0 * EPS * 5.0);
                // The rounding of the mean enters the variance squared; with one column both vanish.
                failures.close(&format!("{what} inv"), &inv[r..=r], &[k], |_| 300.0 * EPS * k);
                for (i, &v) in row.iter().enumerate() {
                    want.push((f64::from(v) - m) * k * f64::from(w[i]) + f64::from(b[i]));
                    want_rms
                        .push(f64::from(v) / (square + f64::from(eps)).sqrt() * f64::from(w[i]));
                }
            }
            // The mean is off by a chain of roundings of 5 and is divided by a deviation of 1.7
            // (3e-3 when there is one column, whose mean is exact).
            let what = format!("{} {rows}x{cols}", isa.level());
            failures.close(&format!("{what} layer"), &y, &want, |_| 300.0 * EPS * 5.0);
            failures.close(&format!("{what} rms"), &z, &want_rms, |_| 300.0 * EPS * 2.0);
        }
        let (batch, channels, spatial) = (2, 6, 35);
        let x = values(batch * channels * spatial, 6);
        let (w, b) = (values(channels, 7), values(channels, 8));
        for groups in [1, 2, 3, 6] {
            let mut y = vec![0.0; x.len()];
            group_norm(
                isa,
                &Threads(2),
                (batch, channels, spatial),
                groups,
                &x,
                Some(&w),
                Some(&b),
                1e-5,
                &mut y,
            );
            let run = channels / groups * spatial;
            let mut want = vec![];
            for (g, chunk) in x.chunks(run).enumerate() {
                let n = run as f64;
                let m = chunk.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
                let var = chunk.iter().map(|&v| (f64::from(v) - m).powi(2)).sum::<f64>() / n;
                for (i, &v) in chunk.iter().enumerate() {
                    let c = (g * (channels / groups) + i / spatial) % channels;
                    want.push(
                        (f64::from(v) - m) / (var + 1e-5).sqrt() * f64::from(w[c])
                            + f64::from(b[c]),
                    );
                }
            }
            failures.close(&format!("{} group {groups}", isa.level()), &y, &want, |_| 300.0 * EPS);
        }
        let (mean, var) = (values(channels, 9), vec![0.5; channels]);
        let (mut scale, mut shift) = (vec![0.0; channels], vec![0.0; channels]);
        fold_batch_norm([&w, &b, &mean, &var], 1e-3, &mut scale, &mut shift);
        let mut y = vec![0.0; x.len()];
        channel_affine(
            isa,
            &Threads(2),
            (batch, channels, spatial),
            &x,
            &scale,
            &shift,
            Some(Unary::Relu),
            &mut y,
        );
        let want: Vec<f64> = (0..x.len())
            .map(|i| {
                let c = i / spatial % channels;
                let v =
                    (f64::from(x[i]) - f64::from(mean[c])) / (0.5f64 + f64::from(1e-3f32)).sqrt();
                (v * f64::from(w[c]) + f64::from(b[c])).max(0.0)
            })
            .collect();
        failures.close(&format!("{} batch norm", isa.level()), &y, &want, |_| 8.0 * EPS);
    }
    failures.finish();
}
