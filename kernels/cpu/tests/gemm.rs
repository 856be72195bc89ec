//! Matrix products against double precision, and the promises of the module about bits.
//! Add a shape to `SHAPES`, or a case to the epilogue table.

mod common;
use common::{Failures, Threads, isas, values};
use deepseek_kernels_cpu::elementwise::{Unary, unary};
use deepseek_kernels_cpu::gemm::*;
use deepseek_kernels_cpu::{Isa, Serial};

const SHAPES: &[(usize, usize, usize)] = &[
    (0, 3, 4),
    (3, 0, 4),
    (3, 4, 0),
    (1, 1, 1),
    (1, 17, 5),
    (1, 200, 300),
    (2, 33, 257),
    (3, 65, 256),
    (5, 7, 3),
    (6, 16, 256),
    (7, 31, 513),
    (12, 32, 64),
    (13, 64, 255),
    (25, 129, 70),
    (130, 300, 260),
    (64, 64, 1024),
];

/// `sum |a||b| (min(K, KC) + K / KC + 2) eps`, from the module's statement.
fn tolerance(k: usize) -> f64 {
    (k.min(KC) + k / KC + 2) as f64 * f64::from(f32::EPSILON)
}

fn reference(
    a: &dyn Fn(usize, usize) -> f32,
    b: &dyn Fn(usize, usize) -> f32,
    (m, n, k): (usize, usize, usize),
) -> (Vec<f64>, Vec<f64>) {
    let mut sums = vec![0.0; m * n];
    let mut sizes = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            for kk in 0..k {
                let p = f64::from(a(i, kk)) * f64::from(b(kk, j));
                sums[i * n + j] += p;
                sizes[i * n + j] += p.abs();
            }
        }
    }
    (sums, sizes)
}

fn product(
    isa: Isa,
    par: &dyn deepseek_kernels_cpu::Parallel,
    shape: Shape,
    a: Lhs<'_>,
    b: Rhs<'_>,
    e: &Epilogue<'_>,
    c: &mut [f32],
) {
    let (ap, bp) = (matches!(a, Lhs::Packed(_)), matches!(b, Rhs::Packed(_)));
    let mut scratch = vec![f32::NAN; gemm_scratch(isa, par, shape, ap, bp)];
    gemm(isa, par, shape, a, b, Out::batched(c, shape.m, shape.n), e, &mut scratch);
}

#[test]
fn products_agree_with_double_precision_in_every_form() {
    let mut failures = Failures::default();
    for isa in isas() {
        for &(m, n, k) in SHAPES {
            let shape = Shape { batch: 1, m, n, k };
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let (want, sizes) =
                reference(&|i, kk| a[i * k + kk], &|kk, j| b[kk * n + j], (m, n, k));
            let a_t: Vec<f32> = (0..m * k).map(|i| a[(i % m) * k + i / m]).collect();
            let b_t: Vec<f32> = (0..n * k).map(|i| b[(i % k) * n + i / k]).collect();
            let pa = PackedA::new(isa, &Serial, m, k, Mat::dense(&a, k));
            let pb = PackedB::new(isa, &Serial, k, n, Mat::transposed(&b_t, k));
            let forms = [
                ("a b", Lhs::Strided(Mat::dense(&a, k)), Rhs::Strided(Mat::dense(&b, n))),
                (
                    "a^t b^t",
                    Lhs::Strided(Mat::transposed(&a_t, m)),
                    Rhs::Strided(Mat::transposed(&b_t, k)),
                ),
                ("packed", Lhs::Packed(pa.view()), Rhs::Packed(pb.view())),
            ];
            let mut first: Option<Vec<f32>> = None;
            for (name, lhs, rhs) in forms {
                let what = format!("{} {m}x{n}x{k} {name}", isa.level());
                let mut c = vec![f32::NAN; m * n];
                product(isa, &Serial, shape, lhs, rhs, &Epilogue::default(), &mut c);
                failures.close(&what, &c, &want, |i| sizes[i] * tolerance(k));
                let first = first.get_or_insert_with(|| c.clone());
                failures.same(&format!("{what}, bits against the first form"), &c, first);
            }
        }
    }
    failures.finish();
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_any_batch_on_any_threads() {
    let mut failures = Failures::default();
    for isa in isas() {
        for &(m, n, k) in &[(37, 150, 600), (13, 1030, 300), (200, 40, 33)] {
            let (a, b) = (values(m * k, 3), values(k * n, 4));
            let shape = Shape { batch: 1, m, n, k };
            let lhs = Lhs::Strided(Mat::dense(&a, k));
            let rhs = Rhs::Strided(Mat::dense(&b, n));
            let mut whole = vec![0.0; m * n];
            product(isa, &Serial, shape, lhs, rhs, &Epilogue::default(), &mut whole);
            for threads in [1, 2, 3, 7] {
                let mut c = vec![0.0; m * n];
                product(isa, &Threads(threads), shape, lhs, rhs, &Epilogue::default(), &mut c);
                failures.same(&format!("{} {threads} threads", isa.level()), &c, &whole);
            }
            for rows in 1..=13 {
                let start = (m - rows) / 2;
                let mut c = vec![0.0; rows * n];
                let part = Lhs::Strided(Mat::dense(&a[start * k..], k));
                product(
                    isa,
                    &Serial,
                    Shape { m: rows, ..shape },
                    part,
                    rhs,
                    &Epilogue::default(),
                    &mut c,
                );
                failures.same(
                    &format!("{} {rows} rows of {m}", isa.level()),
                    &c,
                    &whole[start * n..(start + rows) * n],
                );
            }
            for cols in [1, 5, 16, 33] {
                let mut c = vec![0.0; m * cols];
                let part = Rhs::Strided(Mat::dense(&b[3..], n));
                product(
                    isa,
                    &Serial,
                    Shape { n: cols, ..shape },
                    lhs,
                    part,
                    &Epilogue::default(),
                    &mut c,
                );
                let want: Vec<f32> =
                    (0..m * cols).map(|i| whole[i / cols * n + 3 + i % cols]).collect();
                failures.same(&format!("{} {cols} columns of {n}", isa.level()), &c, &want);
            }
        }
    }
    failures.finish();
}

#[test]
fn epilogues_add_and_activate_in_the_stated_order() {
    let mut failures = Failures::default();
    for isa in isas() {
        for &(m, n, k) in &[(1, 40, 300), (7, 33, 20), (20, 50, 513)] {
            let shape = Shape { batch: 1, m, n, k };
            let (a, b) = (values(m * k, 5), values(k * n, 6));
            let (before, residual) = (values(m * n, 7), values(m * n, 8));
            let (cols, rows) = (values(n, 9), values(m, 10));
            let (sums, sizes) =
                reference(&|i, kk| a[i * k + kk], &|kk, j| b[kk * n + j], (m, n, k));
            struct Case<'a> {
                name: &'a str,
                e: Epilogue<'a>,
            }
            let base = Epilogue::default();
            let res = Some(Mat::dense(&residual, n));
            let cases = [
                Case { name: "alpha", e: Epilogue { alpha: -0.5, ..base } },
                Case { name: "accumulate", e: Epilogue { accumulate: true, alpha: 2.0, ..base } },
                Case { name: "columns", e: Epilogue { bias: Bias::Cols(&cols), ..base } },
                Case { name: "rows", e: Epilogue { bias: Bias::Rows(&rows), ..base } },
                Case { name: "residual", e: Epilogue { residual: res, ..base } },
                Case { name: "relu", e: Epilogue { activation: Some(Unary::Relu), ..base } },
                Case {
                    name: "all",
                    e: Epilogue {
                        alpha: 0.25,
                        accumulate: true,
                        bias: Bias::Cols(&cols),
                        residual: res,
                        activation: Some(Unary::Gelu),
                    },
                },
            ];
            for Case { name, e } in cases {
                let mut c = before.clone();
                let (lhs, rhs) = (Lhs::Strided(Mat::dense(&a, k)), Rhs::Strided(Mat::dense(&b, n)));
                product(isa, &Threads(2), shape, lhs, rhs, &e, &mut c);
                let want: Vec<f64> = (0..m * n)
                    .map(|i| {
                        let mut x = f64::from(e.alpha) * sums[i];
                        if e.accumulate {
                            x += f64::from(before[i]);
                        }
                        x += match e.bias {
                            Bias::None => 0.0,
                            Bias::Cols(b) => f64::from(b[i % n]),
                            Bias::Rows(b) => f64::from(b[i / n]),
                        };
                        if e.residual.is_some() {
                            x += f64::from(residual[i]);
                        }
                        match e.activation {
                            None => x,
                            Some(op) => {
                                let mut y = [0.0];
                                unary(isa, &Serial, op, &[x as f32], &mut y);
                                f64::from(y[0])
                            }
                        }
                    })
                    .collect();
                // Up to four more additions of values up to two; the slope of the activations is
                // at most 1.13.
                let tol = |i: usize| {
                    1.2 * (sizes[i] * f64::from(e.alpha.abs()) + 4.0) * (tolerance(k) + 5e-7)
                };
                failures.close(&format!("{} {m}x{n}x{k} {name}", isa.level()), &c, &want, tol);
            }
        }
    }
    failures.finish();
}

#[test]
fn batches_repeat_the_single_product() {
    let mut failures = Failures::default();
    let (m, n, k) = (9, 35, 70);
    let batch = 5;
    let (a, b) = (values(batch * m * k, 11), values(batch * k * n, 12));
    for isa in isas() {
        for (a_step, b_step) in [(m * k, k * n), (0, k * n), (m * k, 0)] {
            let mut c = vec![0.0; batch * m * n];
            let (lhs, rhs) = (Mat::dense(&a, k).batched(a_step), Mat::dense(&b, n).batched(b_step));
            let shape = Shape { batch, m, n, k };
            product(
                isa,
                &Threads(3),
                shape,
                Lhs::Strided(lhs),
                Rhs::Strided(rhs),
                &Epilogue::default(),
                &mut c,
            );
            for i in 0..batch {
                let mut one = vec![0.0; m * n];
                let (lhs, rhs) = (Mat::dense(&a[i * a_step..], k), Mat::dense(&b[i * b_step..], n));
                let shape = Shape { batch: 1, m, n, k };
                product(
                    isa,
                    &Serial,
                    shape,
                    Lhs::Strided(lhs),
                    Rhs::Strided(rhs),
                    &Epilogue::default(),
                    &mut one,
                );
                failures.same(
                    &format!("{} product {i}", isa.level()),
                    &c[i * m * n..(i + 1) * m * n],
                    &one,
                );
            }
        }
    }
    failures.finish();
}

#[test]
fn chunked_operands_have_the_bits_of_whole_ones() {
    // K so long that both operands are packed in several chunks.
    let mut failures = Failures::default();
    let (m, n, k) = (30, 70, 120_000);
    let (a, b) = (values(m * k, 13), values(k * n, 14));
    let shape = Shape { batch: 1, m, n, k };
    for isa in isas() {
        let pa = PackedA::new(isa, &Serial, m, k, Mat::dense(&a, k));
        let pb = PackedB::new(isa, &Serial, k, n, Mat::dense(&b, n));
        let cols = values(n, 15);
        let e = Epilogue { bias: Bias::Cols(&cols), ..Epilogue::default() };
        let (mut c, mut d) = (vec![0.0; m * n], vec![0.0; m * n]);
        product(
            isa,
            &Threads(2),
            shape,
            Lhs::Packed(pa.view()),
            Rhs::Packed(pb.view()),
            &e,
            &mut c,
        );
        let (lhs, rhs) = (Lhs::Strided(Mat::dense(&a, k)), Rhs::Strided(Mat::dense(&b, n)));
        product(isa, &Threads(2), shape, lhs, rhs, &e, &mut d);
        failures.same(isa.level().name(), &d, &c);
    }
    failures.finish();
}

#[test]
#[should_panic(expected = "gemm: a holds")]
fn a_short_operand_is_refused() {
    let shape = Shape { batch: 1, m: 2, n: 2, k: 2 };
    let (lhs, rhs) =
        (Lhs::Strided(Mat::dense(&[0.0; 3], 2)), Rhs::Strided(Mat::dense(&[0.0; 4], 2)));
    product(Isa::best(), &Serial, shape, lhs, rhs, &Epilogue::default(), &mut [0.0; 4]);
}

#[test]
fn scratch_for_the_left_operand_does_not_grow() {
    for isa in isas() {
        let (rows, terms) = a_block(isa);
        for threads in [1, 3] {
            for (m, k) in [(1, 1), (rows - 1, terms + 1), (1 << 20, 1 << 12)] {
                let shape = Shape { batch: 7, m, n: 64, k };
                let want = threads * m.min(rows) * k.min(terms);
                assert_eq!(gemm_scratch(isa, &Threads(threads), shape, false, true), want);
                let b = packed_b_len(isa, k, 64).max(CHUNK).min(7 * packed_b_len(isa, k, 64));
                assert!(gemm_scratch(isa, &Threads(threads), shape, false, false) <= want + b);
            }
        }
    }
}
