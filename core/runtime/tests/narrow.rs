//! Products and convolutions with weights in 16 bits against the scalar reference, at every
//! instruction-set level and on several threads. To add a case, add a row to [`CASES`].

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek_graph::passes::{Diagnostics, Pipeline, narrow_products, narrows};
use deepseek_graph::{Dim, Graph, Value, interpret, text};
use deepseek_runtime::{Isa, Level, Plan, RunOptions, Runtime, RuntimeOptions, Session};
use deepseek_tensor::{Code, DType, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A fixed sequence of values in `[-2, 2)`.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            ((x >> 40) as f32) / 4_194_304.0 - 2.0
        })
        .collect()
}

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(shape, values(shape.iter().product(), seed)).unwrap()
}

/// The graph of a text whose large constants are `f32[…]` named `@…`, filled with values.
fn parse(source: &str) -> Graph {
    let mut constants = BTreeMap::new();
    for line in source.lines().filter(|l| l.contains("= @")) {
        let (shape, name) = line.split_once("f32[").unwrap().1.split_once("] = @").unwrap();
        let shape: Vec<usize> = shape.split(", ").map(|d| d.parse().unwrap()).collect();
        let seed = 1 + constants.len() as u64;
        constants.insert(name.trim().to_owned(), tensor(&shape, seed));
    }
    text::parse(source, &constants).unwrap()
}

fn portable(graph: &Graph) -> Graph {
    Pipeline::portable().run(graph, &mut Diagnostics::off()).unwrap().graph
}

struct Case {
    what: &'static str,
    /// One product or convolution, so that nothing rounds a sum that levels make differently.
    graph: &'static str,
    /// Whether bf16 weights are made; those of f16 always are.
    bf16: bool,
    /// Terms of a sum.
    terms: usize,
}

const CASES: &[Case] = &[
    Case {
        what: "product with a bias, an activation and a residual",
        graph: r#"graph "g" {
            input %x: f32[3, 7, 70]
            input %r: f32[3, 7, 45]
            const %w: f32[70, 45] = @w
            const %b: f32[45] = @b
            %h: f32[3, 7, 45] = MatMul(%x, %w) "h"
            %hb: f32[3, 7, 45] = Add(%h, %b) "hb"
            %s: f32[3, 7, 45] = Add(%hb, %r) "s"
            %y: f32[3, 7, 45] = Gelu(%s) "y"
            output "y" = %y
        }"#,
        bf16: true,
        terms: 70,
    },
    Case {
        what: "transposed weights",
        graph: r#"graph "g" {
            input %x: f32[n, 300]
            const %w: f32[40, 300] = @w
            const %b: f32[40] = @b
            %y: f32[n, 40] = Gemm(%x, %w, %b) {transB = true, alpha = 0.5} "y"
            output "y" = %y
        }"#,
        bf16: true,
        terms: 300,
    },
    Case {
        what: "product alone",
        graph: r#"graph "g" {
            input %x: f32[130, 33]
            const %w: f32[33, 3] = @w
            %y: f32[130, 3] = MatMul(%x, %w) "y"
            output "y" = %y
        }"#,
        bf16: true,
        terms: 33,
    },
    Case {
        what: "convolution of blocked channels",
        graph: r#"graph "g" {
            input %x: f32[n, 40, 11, 9]
            input %r: f32[n, 35, 11, 9]
            const %w: f32[35, 40, 3, 3] = @w
            const %b: f32[35] = @b
            %h: f32[n, 35, 11, 9] = Conv(%x, %w, %b) {pads = [1, 1, 1, 1]} "h"
            %s: f32[n, 35, 11, 9] = Add(%h, %r) "s"
            %y: f32[n, 35, 11, 9] = Relu(%s) "y"
            output "y" = %y
        }"#,
        bf16: true,
        terms: 360,
    },
    Case {
        what: "first convolution, of planes",
        graph: r#"graph "g" {
            input %x: f32[2, 3, 30, 34]
            const %w: f32[24, 3, 7, 7] = @w
            %y: f32[2, 24, 15, 17] = Conv(%x, %w) {pads = [3, 3, 3, 3], strides = [2, 2]} "y"
            output "y" = %y
        }"#,
        bf16: true,
        terms: 147,
    },
    Case {
        what: "convolution in one dimension",
        graph: r#"graph "g" {
            input %x: f32[2, 20, 50]
            const %w: f32[12, 20, 5] = @w
            %y: f32[2, 12, 24] = Conv(%x, %w) {pads = [1, 1], strides = [2]} "y"
            output "y" = %y
        }"#,
        bf16: true,
        terms: 100,
    },
    Case {
        what: "convolution of single pixels",
        graph: r#"graph "g" {
            input %x: f32[n, 65, 1, 1]
            const %w: f32[30, 65, 1, 1] = @w
            const %b: f32[30] = @b
            %y: f32[n, 30, 1, 1] = Conv(%x, %w, %b) "y"
            output "y" = %y
        }"#,
        bf16: true,
        terms: 65,
    },
    Case {
        what: "depthwise convolution",
        graph: r#"graph "g" {
            input %x: f32[1, 32, 9, 9]
            const %v: f32[32, 1, 3, 3] = @v
            %y: f32[1, 32, 9, 9] = Conv(%x, %v) {pads = [1, 1, 1, 1], group = 32} "y"
            output "y" = %y
        }"#,
        bf16: false,
        terms: 9,
    },
];

fn inputs(graph: &Graph) -> Vec<Value> {
    let of = |(i, id): (usize, &deepseek_graph::ValueId)| {
        let dims = graph.fact(*id).shape().unwrap();
        let shape: Vec<usize> = dims.iter().map(|d| d.as_const().unwrap_or(2) as usize).collect();
        tensor(&shape, 100 + i as u64).into()
    };
    graph.inputs().iter().enumerate().map(of).collect()
}

fn floats(values: &[Value]) -> Vec<f32> {
    values[0].tensor().unwrap().to_vec().unwrap()
}

#[test]
fn kernels_agree_with_the_reference() {
    let mut failures = Vec::new();
    for case in CASES {
        let graph = portable(&parse(case.graph));
        let given = inputs(&graph);
        let plain = floats(&interpret::run(&graph, given.clone()).unwrap());
        for dtype in [DType::BF16, DType::F16] {
            let narrow = narrow_products(&graph, &|_| Some(dtype)).unwrap();
            let made = narrow.constants().values().filter(|t| t.dtype() == dtype).count();
            let wanted = dtype == DType::F16 || case.bf16;
            assert_eq!(made, usize::from(wanted), "{}: {dtype}", case.what);
            assert_eq!(graph.nodes().iter().any(|n| narrows(&graph, n, dtype)), wanted);
            if !wanted {
                continue;
            }
            let again = portable(&narrow);
            assert_eq!(text::print(&again), text::print(&narrow), "{}: the passes", case.what);
            let want = floats(&interpret::run(&narrow, given.clone()).unwrap());
            // Operands lose 2^-9 or 2^-12 each, of magnitudes up to 4 a term.
            let eps = if dtype == DType::BF16 { 2f64.powi(-8) } else { 2f64.powi(-12) };
            let far = |(a, b): (&f32, &f32)| {
                f64::from((a - b).abs()) > 4.0 * 1.2 * eps * case.terms as f64 + 1e-6
            };
            assert!(!want.iter().zip(&plain).any(far), "{}: far from f32", case.what);
            assert_ne!(want, plain, "{}: nothing was rounded", case.what);
            for isa in Level::available().map(|l| Isa::at(l).unwrap()) {
                let mut first: Option<Vec<f32>> = None;
                for threads in [1, 3] {
                    let options =
                        RuntimeOptions { isa: Some(isa), threads, ..RuntimeOptions::default() };
                    let runtime = Runtime::new(&options).unwrap();
                    let plan = Arc::new(Plan::new(narrow.clone(), &runtime).unwrap());
                    for (node, kernel) in plan.kernels() {
                        assert_ne!(kernel, "reference", "{}: {}", case.what, node.name);
                    }
                    let mut session = Session::new(plan);
                    let got = session.run(given.clone(), &RunOptions::default()).unwrap();
                    let got = floats(&got.outputs);
                    // Terms up to 4 round when they are added, and what follows the sum.
                    let tolerance = (case.terms as f64 + 8.0) * 4.0 * 3.0 * 2f64.powi(-24) * 4.0;
                    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                        let off = f64::from((g - w).abs()) / f64::from(w.abs().max(1.0));
                        if off > tolerance {
                            let what = case.what;
                            failures
                                .push(format!("{what} {dtype} {isa:?}: at {i} {g} against {w}"));
                            break;
                        }
                    }
                    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    match &first {
                        None => first = Some(got),
                        Some(f) if bits(f) == bits(&got) => {}
                        Some(_) => failures.push(format!("{} {isa:?}: threads differ", case.what)),
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_cannot_be_narrow_stays_or_is_refused() {
    let graph = parse(CASES[2].graph);
    let e = narrow_products(&graph, &|_| Some(DType::I8)).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(e.message().contains("'y'") && e.message().contains("i8"), "{}", e.message());
    let none = narrow_products(&graph, &|_| None).unwrap();
    assert_eq!(text::print(&none), text::print(&graph));

    // Beyond what f16 reaches.
    let mut large = Graph::new("g");
    let ty = deepseek_graph::Type::tensor(DType::F32, [Dim::from(1i64), Dim::from(1i64)]);
    let x = large.add_input("x", ty).unwrap();
    let w = large.add_constant("w", Tensor::from_slice(&[1, 1], &[1e6f32]).unwrap()).unwrap();
    let y = large.add("y", deepseek_graph::ops::MatMul::default(), &[x, w]).unwrap();
    large.add_output("y", y).unwrap();
    assert!(!narrows(&large, &large.nodes()[0], DType::F16));
    assert!(narrows(&large, &large.nodes()[0], DType::BF16));
    assert!(!narrows(&large, &large.nodes()[0], DType::F64));

    // Weights of f16 do not go with an operand of bf16.
    let wrong =
        "input %x: bf16[2, 2] input %w: f16[2, 2] %y = FusedMatMul(%x, %w) output \"y\" = %y";
    let e = text::parse(&format!("graph \"g\" {{ {wrong} }}"), &BTreeMap::new()).unwrap_err();
    assert_eq!(e.code(), Code::DTypeMismatch, "{e}");
}
