//! Regions against the separate elementwise kernels, bit for bit. To add a case, add extents with
//! strides to `LAYOUTS` or a program to `programs`.

mod common;
use common::{Failures, Threads, isas, values};
use deepseek_kernels_cpu::elementwise::{Binary, Rows, Unary, binary, unary};
use deepseek_kernels_cpu::region::{Operand, Program, Source, Step, region, tile};
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
    ]
}

/// One step after the other over whole arrays.
fn separately(isa: Isa, steps: &[Step], inputs: &[Vec<f32>], n: usize) -> Vec<Vec<f32>> {
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
                let want = separately(isa, &steps, &wide, n);
                let program = Program::new(3, steps, &outputs);
                let sources: Vec<_> =
                    (0..3).map(|i| Source { data: &data[i], strides: strides[i] }).collect();
                let pools: [&dyn Parallel; 2] = [&Serial, &Threads(3)];
                for par in pools {
                    let mut got = vec![vec![f32::NAN; n]; outputs.len()];
                    let floats = program.scratch_tiles(par) * tile(extents.iter().product());
                    let mut scratch = vec![f32::NAN; floats];
                    let mut out: Vec<&mut [f32]> = got.iter_mut().map(|v| &mut v[..]).collect();
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

#[test]
#[should_panic(expected = "region: input 0 holds 3 floats, the result reaches 4")]
fn a_short_input_is_refused() {
    let program = Program::new(1, vec![Step::Unary(Unary::Abs, Input(0))], &[0]);
    let mut y = [0.0; 4];
    let mut scratch = vec![0.0; program.scratch_tiles(&Serial) * tile(4)];
    let source = Source { data: &[0.0; 3], strides: &[1] };
    region(Isa::best(), &Serial, &program, &[4], &[source], &mut [&mut y], &mut scratch);
}
