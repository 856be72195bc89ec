//! Regions against the separate elementwise kernels, bit for bit. To add a case, add extents with
//! strides to `LAYOUTS` or a program to `programs`.

mod common;
use common::{Failures, Threads, isas, values};
use deepseek_kernels_cpu::elementwise::{Binary, Rows, Unary, binary, unary};
use deepseek_kernels_cpu::reduce::{Reduce, reduce};
use deepseek_kernels_cpu::region::{
    Data, Form, Operand, Program, Sink, Source, Step, region, row_tile, tile,
};
use deepseek_kernels_cpu::{Isa, Parallel, Serial};

use Operand::{Input, Literal, Step as Result_};

/// Extents, and the strides of three inputs.
const LAYOUTS: &[(&[usize], [&[usize]; 3])] = &[
    (&[1], [&[1], &[0], &[1]]),
    (&[7], [&[1], &[0], &[1]]),
    (&[2048], [&[1], &[1], &[0]]),
    (&[40_001], [&[1], &[0], &[1]]),
    // Long rows: a row, a column.
    (&[3, 5000], [&[5000, 1], &[0, 1], &[1, 0]]),
    // Short rows: a row for all, a value for each.
    (&[3000, 3], [&[3, 1], &[0, 1], &[1, 0]]),
    (&[700, 1], [&[1, 1], &[0, 0], &[1, 0]]),
    // Planes and channels.
    (&[9, 31, 49], [&[1519, 49, 1], &[0, 1, 0], &[49, 0, 1]]),
    (&[4, 3, 2, 600], [&[3600, 1200, 600, 1], &[0, 600, 0, 1], &[2, 0, 1, 0]]),
    (&[5, 0, 4], [&[0, 4, 1], &[0, 0, 1], &[0, 0, 0]]),
];

fn programs() -> Vec<(Vec<Step>, Vec<usize>)> {
    let unary = Step::Unary;
    let two = Step::Binary;
    vec![
        (vec![unary(Unary::Exp, Input(0)), unary(Unary::Neg, Input(1))], vec![1, 0]),
        // Every kind of operand; results that die, stay, are read twice or not at all.
        (
            vec![
                two(Binary::Mul, Input(0), Literal(0.5)),
                unary(Unary::Tanh, Result_(0)),
                two(Binary::Add, Result_(1), Input(1)),
                unary(Unary::Sigmoid, Literal(0.25)),
                two(Binary::Sub, Input(2), Result_(2)),
                two(Binary::Mul, Result_(4), Result_(4)),
                unary(Unary::Abs, Input(2)),
                two(Binary::Max, Result_(5), Result_(0)),
                two(Binary::Add, Result_(7), Result_(3)),
                unary(Unary::Clip { lo: -0.5, hi: 0.75 }, Result_(8)),
            ],
            vec![9, 2, 5],
        ),
        (vec![two(Binary::Div, Literal(1.0), Literal(3.0))], vec![0]),
        // Truth values between, choices of every kind of operand.
        (
            vec![
                two(Binary::Less, Input(0), Input(1)),
                two(Binary::LessOrEqual, Input(2), Literal(0.25)),
                two(Binary::Min, Result_(0), Result_(1)),
                Step::Select(Result_(2), Input(0), Literal(-3.0)),
                Step::Select(Literal(0.0), Input(1), Result_(3)),
                two(Binary::NotEqual, Result_(2), Result_(0)),
                two(Binary::Equal, Input(2), Input(2)),
                Step::Select(Result_(5), Result_(6), Result_(4)),
            ],
            vec![7, 2],
        ),
        // Rows folded beside elements.
        (
            vec![
                two(Binary::Mul, Input(0), Input(1)),
                Step::Fold(Reduce::Sum, 0),
                unary(Unary::Abs, Result_(0)),
                Step::Fold(Reduce::Max, 2),
                two(Binary::Sub, Result_(2), Input(2)),
                Step::Fold(Reduce::Mean, 4),
            ],
            vec![1, 2, 3, 5],
        ),
    ]
}

/// One step after the other over whole arrays.
fn separately(
    isa: Isa,
    steps: &[Step],
    inputs: &[Vec<f32>],
    n: usize,
    cols: usize,
) -> Vec<Vec<f32>> {
    let mut results: Vec<Vec<f32>> = Vec::new();
    for step in steps {
        let operand = |o: &Operand| match *o {
            Input(i) => inputs[i].clone(),
            Result_(i) => results[i].clone(),
            Literal(v) => vec![v; n],
        };
        let mut y = vec![0.0; n];
        match step {
            Step::Unary(op, x) => unary(isa, &Serial, *op, &operand(x), &mut y),
            Step::Binary(op, a, b) => {
                let (a, b) = (operand(a), operand(b));
                let (a, b) = (Rows::dense(&a, n), Rows::dense(&b, n));
                binary(isa, &Serial, *op, 1, n, a, b, &mut y);
            }
            Step::Select(m, a, b) => {
                let (m, a, b) = (operand(m), operand(a), operand(b));
                y = (0..n).map(|i| if m[i] == 0.0 { b[i] } else { a[i] }).collect();
            }
            Step::Fold(how, x) => {
                let rows = n.checked_div(cols).unwrap_or(0);
                y.truncate(rows);
                reduce(isa, &Serial, *how, rows, cols, 1, &results[*x], &mut y);
            }
        }
        results.push(y);
    }
    results
}

/// The elements that a source gives the result, in order.
fn spread(data: &[f32], extents: &[usize], strides: &[usize]) -> Vec<f32> {
    let n: usize = extents.iter().product();
    let at = |mut i: usize| {
        let mut at = 0;
        for (&extent, &stride) in extents.iter().zip(strides).rev() {
            at += i % extent * stride;
            i /= extent;
        }
        data[at]
    };
    (0..n).map(at).collect()
}

#[test]
fn regions_have_the_bits_of_separate_kernels() {
    let mut failures = Failures::default();
    for isa in isas() {
        for (layout, (extents, strides)) in LAYOUTS.iter().enumerate() {
            let n: usize = extents.iter().product();
            let data: Vec<Vec<f32>> = (0..3)
                .map(|i| {
                    let reach = extents.iter().zip(strides[i]).map(|(&e, &s)| e.max(1) * s);
                    values(reach.sum::<usize>() + 1, 10 + i as u64)
                })
                .collect();
            let wide: Vec<_> = (0..3).map(|i| spread(&data[i], extents, strides[i])).collect();
            for (which, (steps, outputs)) in programs().into_iter().enumerate() {
                let cols = extents[extents.len() - 1];
                let want = separately(isa, &steps, &wide, n, cols);
                let forms: Vec<_> = outputs.iter().map(|&o| (o, Form::Float)).collect();
                let program = Program::new(3, steps, &forms);
                let sources: Vec<_> = (0..3)
                    .map(|i| Source { data: Data::Float(&data[i]), strides: strides[i] })
                    .collect();
                let tile = if program.folds() { row_tile(n, cols) } else { tile(n) };
                let pools: [&dyn Parallel; 2] = [&Serial, &Threads(3)];
                for par in pools {
                    let lens = outputs.iter().map(|&o| want[o].len());
                    let mut got: Vec<_> = lens.map(|len| vec![f32::NAN; len]).collect();
                    let mut scratch = vec![f32::NAN; program.scratch_tiles(par) * tile];
                    let mut out: Vec<_> = got.iter_mut().map(|v| Sink::Float(v)).collect();
                    region(isa, par, &program, extents, &sources, &mut out, &mut scratch);
                    for (got, &step) in got.iter().zip(&outputs) {
                        let what = format!("{isa:?} layout {layout} program {which} step {step}");
                        failures.same(&what, got, &want[step]);
                    }
                }
            }
        }
    }
    failures.finish();
}

/// Truth values come and go as bytes, whatever way they are spread.
#[test]
fn truth_values_are_bytes_outside() {
    let mut failures = Failures::default();
    for isa in isas() {
        for (layout, (extents, strides)) in LAYOUTS.iter().enumerate() {
            let n: usize = extents.iter().product();
            let reach = |i: usize| {
                let each =
                    extents.iter().zip(strides[i]).map(|(&e, &s): (&usize, &usize)| e.max(1) * s);
                each.sum::<usize>() + 1
            };
            let x = values(reach(0), 3);
            let truth = |i: usize| -> Vec<u8> {
                values(reach(i), 20 + i as u64).iter().map(|&v| u8::from(v > 0.0)).collect()
            };
            let (p, q) = (truth(1), truth(2));
            let steps = vec![
                Step::Binary(Binary::Less, Input(0), Literal(0.0)),
                Step::Binary(Binary::Max, Input(1), Result_(0)),
                Step::Binary(Binary::NotEqual, Result_(1), Input(2)),
                Step::Select(Result_(2), Input(0), Literal(9.0)),
            ];
            let forms = [(2, Form::Truth), (3, Form::Float), (1, Form::Truth)];
            let program = Program::new(3, steps, &forms);
            let at = |v: &[u8], i: usize| {
                let v: Vec<f32> = v.iter().map(|&b| f32::from(b)).collect();
                spread(&v, extents, strides[i])
            };
            let (wx, wp, wq) = (spread(&x, extents, strides[0]), at(&p, 1), at(&q, 2));
            let either: Vec<bool> = (0..n).map(|i| wp[i] != 0.0 || wx[i] < 0.0).collect();
            let odd: Vec<bool> = (0..n).map(|i| either[i] != (wq[i] != 0.0)).collect();
            let chosen: Vec<f32> = (0..n).map(|i| if odd[i] { wx[i] } else { 9.0 }).collect();
            let sources = [
                Source { data: Data::Float(&x), strides: strides[0] },
                Source { data: Data::Truth(&p), strides: strides[1] },
                Source { data: Data::Truth(&q), strides: strides[2] },
            ];
            let pools: [&dyn Parallel; 2] = [&Serial, &Threads(3)];
            for par in pools {
                let (mut a, mut b, mut c) = (vec![7u8; n], vec![f32::NAN; n], vec![7u8; n]);
                let mut scratch = vec![f32::NAN; program.scratch_tiles(par) * tile(n)];
                let mut out = [Sink::Truth(&mut a), Sink::Float(&mut b), Sink::Truth(&mut c)];
                region(isa, par, &program, extents, &sources, &mut out, &mut scratch);
                failures.same(&format!("{isa:?} layout {layout}"), &b, &chosen);
                assert!(a.iter().zip(&odd).all(|(&a, &w)| a == u8::from(w)), "layout {layout}");
                assert!(c.iter().zip(&either).all(|(&a, &w)| a == u8::from(w)), "layout {layout}");
            }
        }
    }
    failures.finish();
}

#[test]
#[should_panic(expected = "region: input 0 holds 3 elements, the result reaches 4")]
fn a_short_input_is_refused() {
    let steps = vec![Step::Unary(Unary::Abs, Input(0))];
    let program = Program::new(1, steps, &[(0, Form::Float)]);
    let mut y = [0.0; 4];
    let mut scratch = vec![0.0; program.scratch_tiles(&Serial) * tile(4)];
    let source = Source { data: Data::Float(&[0.0; 3]), strides: &[1] };
    let mut out = [Sink::Float(&mut y)];
    region(Isa::best(), &Serial, &program, &[4], &[source], &mut out, &mut scratch);
}
