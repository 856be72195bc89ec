//! Elementwise kernels against double precision, over a dense sample of every exponent.
//! Add a function to `FUNCTIONS` with its reference and its largest error.

mod common;
use common::{Failures, Threads, isas, ulps, values};
use deepseek_kernels_cpu::Serial;
use deepseek_kernels_cpu::elementwise::*;

/// Every exponent and sign with a few hundred mantissas, and the edges.
fn sample() -> Vec<f32> {
    let mut xs: Vec<f32> = (0..0x7f80_0000u32)
        .step_by(30_011)
        .flat_map(|b| [f32::from_bits(b), -f32::from_bits(b)])
        .collect();
    // The interval where most functions bend, densely.
    xs.extend((-120_000..120_000).map(|i| i as f32 * 1e-3));
    xs.extend((-100_000..100_000).map(|i| i as f32 * 1e-5));
    xs.extend([
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        1e-45,
    ]);
    xs
}

/// The error function in double precision: the series below 3, the continued fraction above.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if x.is_nan() {
        x
    } else if a < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            let add = term / f64::from(2 * n + 1);
            sum += add;
            if add.abs() < 1e-18 * sum.abs() {
                break;
            }
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else if a > 7.0 {
        x.signum()
    } else {
        let mut f = 0.0;
        for n in (1..120).rev() {
            f = f64::from(n) / 2.0 / (a + f);
        }
        (1.0 - (-a * a).exp() / (a + f) / std::f64::consts::PI.sqrt()) * x.signum()
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

struct Case {
    op: Unary,
    f: fn(f64) -> f64,
    ulp: f64,
}

fn functions() -> Vec<Case> {
    let case = |op, f: fn(f64) -> f64, ulp| Case { op, f, ulp };
    vec![
        case(Unary::Exp, f64::exp, 1.1),
        case(Unary::Log, f64::ln, 0.9),
        case(Unary::Tanh, f64::tanh, 1.4),
        case(Unary::Sigmoid, sigmoid, 2.1),
        case(Unary::Erf, erf, 1.2),
        case(Unary::Sin, f64::sin, 1.5),
        case(Unary::Cos, f64::cos, 1.5),
        case(Unary::Softplus, |x| (-x.abs()).exp().ln_1p() + if x < 0.0 { 0.0 } else { x }, 2.1),
        case(Unary::Sqrt, f64::sqrt, 0.5),
        case(Unary::Rsqrt, |x| 1.0 / x.sqrt(), 1.5),
        case(Unary::Reciprocal, |x| 1.0 / x, 0.5),
        case(Unary::Abs, f64::abs, 0.0),
        case(Unary::Neg, |x| -x, 0.0),
        case(Unary::Relu, |x| if x < 0.0 { 0.0 } else { x }, 0.0),
        case(Unary::Floor, f64::floor, 0.0),
        case(Unary::Ceil, f64::ceil, 0.0),
        case(Unary::RoundEven, f64::round_ties_even, 0.0),
        case(Unary::Square, |x| x * x, 0.5),
        case(Unary::Elu { alpha: 1.0 }, |x| if x > 0.0 { x } else { x.exp_m1() }, 2.5),
        case(Unary::LeakyRelu { alpha: 0.25 }, |x| if x < 0.0 { 0.25 * x } else { x }, 0.5),
        case(
            Unary::Clip { lo: -1.0, hi: 6.0 },
            |x| if x.is_nan() { x } else { x.clamp(-1.0, 6.0) },
            0.0,
        ),
        case(Unary::Affine { scale: 2.0, shift: 0.0 }, |x| 2.0 * x, 0.5),
    ]
}

#[test]
fn functions_keep_their_stated_error() {
    let xs = sample();
    let mut ys = vec![0.0; xs.len()];
    let mut failures = Failures::default();
    for isa in isas() {
        for Case { op, f, ulp } in functions() {
            unary(isa, &Threads(2), op, &xs, &mut ys);
            let (mut worst, mut at) = (0.0, 0);
            for (i, (&x, &y)) in xs.iter().zip(&ys).enumerate() {
                let e = ulps(y, f(f64::from(x)));
                if e > worst {
                    (worst, at) = (e, i);
                }
            }
            println!(
                "{}: {worst:.3} ulp at {:e}",
                isa.kernel_name("f32", &format!("{op:?}")),
                xs[at]
            );
            failures.check(worst <= ulp, || {
                format!(
                    "{} {op:?}: {worst:.3} ulp at {:e}: got {:e}, want {:e}",
                    isa.level(),
                    xs[at],
                    ys[at],
                    f(f64::from(xs[at]))
                )
            });
        }
    }
    failures.finish();
}

#[test]
fn functions_with_cancellation_keep_their_absolute_error() {
    // gelu and friends subtract near -infinity: the error is relative to x.
    struct Case {
        op: Unary,
        f: fn(f64) -> f64,
    }
    let cases = [
        Case { op: Unary::Gelu, f: |x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt())) },
        Case {
            op: Unary::GeluTanh,
            f: |x| {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                x * sigmoid(2.0 * u)
            },
        },
        Case { op: Unary::Silu, f: |x| x * sigmoid(x) },
        Case { op: Unary::Swish { alpha: 1.702 }, f: |x| x * sigmoid(f64::from(1.702f32) * x) },
        Case { op: Unary::Mish, f: |x| x * x.exp().ln_1p().tanh() },
        Case { op: Unary::HardSwish, f: |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0) },
        Case {
            op: Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
            f: |x| (0.2f32 as f64 * x + 0.5).clamp(0.0, 1.0),
        },
    ];
    let xs: Vec<f32> = sample().into_iter().filter(|x| x.abs() < 1e12).collect();
    let want = |f: fn(f64) -> f64| xs.iter().map(|&x| f(f64::from(x))).collect::<Vec<_>>();
    let mut failures = Failures::default();
    for isa in isas() {
        for Case { op, f } in &cases {
            let mut ys = xs.clone();
            unary_inplace(isa, &Serial, *op, &mut ys);
            let eps = f64::from(f32::EPSILON);
            // Three roundings of values up to |x| and one of the smallest normal number.
            let tol = |i: usize| {
                let size = if matches!(op, Unary::HardSigmoid { .. }) {
                    1.0
                } else {
                    f64::from(xs[i].abs())
                };
                3.0 * eps * size + 1e-38
            };
            failures.close(&format!("{} {op:?}", isa.level()), &ys, &want(*f), tol);
        }
    }
    failures.finish();
}

#[test]
fn an_element_does_not_know_its_position() {
    let xs: Vec<f32> =
        values(100, 1).iter().map(|x| x * 20.0).chain([1e5, f32::NAN, 0.0, -0.0, 9000.0]).collect();
    let mut failures = Failures::default();
    for isa in isas() {
        for op in functions().into_iter().map(|c| c.op).chain([
            Unary::Gelu,
            Unary::Silu,
            Unary::Swish { alpha: -0.5 },
            Unary::Mish,
            Unary::HardSwish,
        ]) {
            let mut whole = vec![0.0; xs.len()];
            unary(isa, &Serial, op, &xs, &mut whole);
            for start in 0..20 {
                for len in [0, 1, 2, 7, 9, 17, 40] {
                    let mut part = vec![0.0; len];
                    unary(isa, &Serial, op, &xs[start..start + len], &mut part);
                    failures.same(
                        &format!("{} {op:?} {start}+{len}", isa.level()),
                        &part,
                        &whole[start..start + len],
                    );
                }
            }
        }
    }
    failures.finish();
}

#[test]
fn binary_forms_agree_with_plain_loops() {
    let mut failures = Failures::default();
    type Plain = fn(f32, f32) -> f32;
    let ops: [(Binary, Plain); 7] = [
        (Binary::Add, |a, b| a + b),
        (Binary::Sub, |a, b| a - b),
        (Binary::Mul, |a, b| a * b),
        (Binary::Div, |a, b| a / b),
        (Binary::Min, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.min(b) }),
        (Binary::Max, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }),
        (Binary::Pow, |a, b| if b == 2.0 { a * a } else { a.powf(b) }),
    ];
    for isa in isas() {
        for (rows, cols) in [(0, 3), (3, 0), (1, 1), (1, 40_000), (5, 7), (3, 16), (400, 65)] {
            let mut a = values(rows * cols + 4, 1);
            let mut b = values(rows * cols + 4, 2);
            if a.len() > 20 {
                a[3] = f32::NAN;
                b[9] = f32::INFINITY;
                b[10] = 2.0;
            }
            let forms = [
                ("dense", Rows::dense(&a, cols), Rows::dense(&b, cols)),
                ("scalar b", Rows::dense(&a, cols), Rows::scalar(&b)),
                ("scalar a", Rows::scalar(&a), Rows::dense(&b, cols)),
                ("row b", Rows::dense(&a, cols), Rows::one_row(&b)),
                ("column a", Rows::one_col(&a), Rows::dense(&b, cols)),
                ("both columns", Rows::one_col(&a), Rows::one_col(&b)),
            ];
            for (op, f) in ops {
                for (name, a, b) in forms {
                    let at = |x: Rows<'_>, i: usize| x.data[i / cols * x.row + i % cols * x.col];
                    let want: Vec<f32> = (0..rows * cols).map(|i| f(at(a, i), at(b, i))).collect();
                    let mut y = vec![0.0; rows * cols];
                    binary(isa, &Threads(2), op, rows, cols, a, b, &mut y);
                    let bits = |v: &[f32]| {
                        v.iter().map(|x| if x.is_nan() { f32::NAN } else { *x }).collect::<Vec<_>>()
                    };
                    let what = format!("{} {op:?} {rows}x{cols} {name}", isa.level());
                    failures.same(&what, &bits(&y), &bits(&want));
                    if name == "dense" {
                        let mut y = a.data[..rows * cols].to_vec();
                        binary_inplace(isa, &Serial, op, rows, cols, &mut y, b, false);
                        failures.same(&format!("{what} in place"), &bits(&y), &bits(&want));
                        let mut y = b.data[..rows * cols].to_vec();
                        binary_inplace(isa, &Serial, op, rows, cols, &mut y, a, true);
                        failures.same(
                            &format!("{what} in place, swapped"),
                            &bits(&y),
                            &bits(&want),
                        );
                    }
                }
            }
        }
    }
    failures.finish();
}

#[test]
#[should_panic(expected = "lengths differ")]
fn unequal_lengths_are_refused() {
    unary(isas()[0], &Serial, Unary::Exp, &[0.0; 3], &mut [0.0; 2]);
}
