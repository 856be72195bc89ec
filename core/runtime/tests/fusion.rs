//! Fused graphs against unfused ones, at every instruction-set level and on several threads:
//! regions bit for bit, products and convolutions within the rounding of their sums. To add a case,
//! add a row to a table; a graph is written in text form.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek_graph::passes::{Diagnostics, Pipeline};
use deepseek_graph::{Bindings, Graph, Value, interpret, ops, text};
use deepseek_runtime::{Isa, Level, Plan, RunOptions, Runtime, RuntimeOptions, Session};
use deepseek_tensor::{DType, Tensor};
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

fn fuse(graph: &Graph) -> Graph {
    let outcome = Pipeline::portable().run(graph, &mut Diagnostics::off()).unwrap();
    assert!(outcome.converged);
    outcome.graph
}

/// Operators of a graph, in order.
fn ops(graph: &Graph) -> String {
    graph.nodes().iter().map(|n| n.op.name()).collect::<Vec<_>>().join(" ")
}

fn runtimes() -> Vec<Runtime> {
    let isas = Level::available_vectors().map(|l| Isa::at(l).unwrap());
    let options = isas.flat_map(|isa| [1, 3].map(|threads| (isa, threads)));
    options
        .map(|(isa, threads)| {
            let options = RuntimeOptions { isa: Some(isa), threads, ..RuntimeOptions::default() };
            Runtime::new(&options).unwrap()
        })
        .collect()
}

fn run(graph: &Graph, runtime: &Runtime, inputs: &[Value]) -> Vec<Tensor> {
    let plan = Arc::new(Plan::new(graph.clone(), runtime).unwrap());
    for (node, kernel) in plan.kernels() {
        let fused = ["Region", "FusedMatMul", "FusedConv", "ConvTranspose"];
        assert!(
            !fused.contains(&node.op.name()) || kernel != "reference",
            "{} has no kernel",
            node.name
        );
    }
    let mut session = Session::new(plan);
    let outputs = session.run(inputs.to_vec(), &RunOptions::default()).unwrap().outputs;
    outputs.iter().map(|v| v.tensor().unwrap().clone()).collect()
}

/// Inputs of a graph, symbols bound.
fn inputs(graph: &Graph, symbols: &[(&str, i64)]) -> Vec<Value> {
    let mut bindings = Bindings::default();
    for (name, value) in symbols {
        bindings.unify(&deepseek_graph::Dim::sym(name), *value).unwrap();
    }
    let of = |(i, id): (usize, &deepseek_graph::ValueId)| {
        let fact = graph.fact(*id);
        let dtype = fact.dtype().unwrap();
        let shape: Vec<usize> =
            fact.shape().unwrap().iter().map(|d| d.eval(&bindings).unwrap() as usize).collect();
        let floats = tensor(&shape, 100 + i as u64);
        if dtype == DType::F32 {
            return floats.into();
        }
        assert_eq!(dtype, DType::Bool);
        let truths = floats.to_vec::<f32>().unwrap().into_iter().map(|v| v > 0.0).collect();
        Tensor::from_vec::<bool>(&shape, truths).unwrap().into()
    };
    graph.inputs().iter().enumerate().map(of).collect()
}

struct Case {
    what: &'static str,
    graph: &'static str,
    symbols: &'static [(&'static str, i64)],
    /// Operators after the passes.
    fused: &'static str,
    /// Terms in the longest sum; each rounds by 2⁻²⁴ of magnitudes up to 4 per term.
    terms: usize,
}

fn check(cases: &[Case], same_bits: bool) {
    let runtimes = runtimes();
    let mut failures = Vec::new();
    for case in cases {
        let graph = parse(case.graph);
        let fused = fuse(&graph);
        if ops(&fused) != case.fused {
            failures.push(format!("{}: became {}", case.what, ops(&fused)));
            continue;
        }
        let printed = text::print(&fused);
        let constants = text::large_constants(&fused);
        let again = text::parse(&printed, &constants).unwrap();
        assert_eq!(text::print(&again), printed, "{}: the text form", case.what);
        let inputs = inputs(&graph, case.symbols);
        let want = interpret::run(&graph, inputs.clone()).unwrap();
        let reference = interpret::run(&fused, inputs.clone()).unwrap();
        // Operands below 2 give terms below 4; a term rounds three times at most before and after
        // it is added, and what follows the sum has slopes below 2.
        let tolerance = (case.terms as f64 + 8.0) * 4.0 * 3.0 * 2f64.powi(-24) * 4.0;
        let close = |what: String, got: &[Tensor], want: &[Value]| -> Option<String> {
            for (got, want) in got.iter().zip(want) {
                let want = want.tensor().unwrap();
                assert_eq!((got.dtype(), got.shape()), (want.dtype(), want.shape()), "{what}");
                if got.dtype() == DType::Bool {
                    if !deepseek_graph::same_tensor(got, want) {
                        return Some(format!("{what}: {got:?} against {want:?}"));
                    }
                    continue;
                }
                let pairs = got.to_vec::<f32>().unwrap();
                let pairs = pairs.iter().zip(want.to_vec::<f32>().unwrap());
                for (i, (g, w)) in pairs.enumerate() {
                    let (g, w) = (f64::from(*g), f64::from(w));
                    let off = (g - w).abs() / w.abs().max(1.0);
                    if !(off <= tolerance
                        || g.to_bits() == w.to_bits()
                        || (g.is_nan() && w.is_nan()))
                    {
                        return Some(format!("{what}: at {i} {g} against {w}"));
                    }
                }
            }
            None
        };
        let reference: Vec<_> = reference.iter().map(|v| v.tensor().unwrap().clone()).collect();
        failures.extend(close(format!("{}: reference", case.what), &reference, &want));
        for runtime in &runtimes {
            let what = format!("{}: {} x{}", case.what, runtime.isa().level(), runtime.threads());
            let got = run(&fused, runtime, &inputs);
            failures.extend(close(what.clone(), &got, &want));
            if same_bits {
                for (a, b) in got.iter().zip(run(&graph, runtime, &inputs)) {
                    if !deepseek_graph::same_tensor(a, &b) {
                        failures.push(format!("{what}: bits differ from the unfused run"));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn products() {
    check(
        &[
            Case {
                what: "feed-forward",
                graph: r#"graph "g" {
                    input %x: f32[b, s, 24]
                    const %w1: f32[24, 600] = @w1
                    const %b1: f32[600] = @b1
                    const %w2: f32[600, 24] = @w2
                    const %b2: f32[24] = @b2
                    %h: f32[b, s, 600] = MatMul(%x, %w1) "h"
                    %hb: f32[b, s, 600] = Add(%b1, %h) "hb"
                    %a: f32[b, s, 600] = Gelu(%hb) "a"
                    %o: f32[b, s, 24] = MatMul(%a, %w2) "o"
                    %ob: f32[b, s, 24] = Add(%o, %b2) "ob"
                    %y: f32[b, s, 24] = Add(%x, %ob) "y"
                    output "y" = %y
                }"#,
                symbols: &[("b", 2), ("s", 5)],
                fused: "FusedMatMul FusedMatMul",
                terms: 600 * 30,
            },
            Case {
                what: "Gemm between views, residual and activation after them",
                graph: r#"graph "g" {
                    input %x: f32[b, s, 24]
                    input %r: f32[b, s, 40]
                    const %w: f32[40, 24] = @w
                    const %c: f32[40] = @c
                    const %flat: i64[2] = [-1, 24]
                    %x2: f32[b*s, 24] = Reshape(%x, %flat) "x2"
                    %h: f32[b*s, 40] = Gemm(%x2, %w, %c) {transB = true, alpha = 0.5} "h"
                    %shape: i64[3] = Shape(%r) "shape"
                    %y: f32[b, s, 40] = Reshape(%h, %shape) "y"
                    %z: f32[b, s, 40] = Add(%y, %r) "z"
                    %t: f32[b, s, 40] = Tanh(%z) "t"
                    output "t" = %t
                }"#,
                symbols: &[("b", 3), ("s", 7)],
                fused: "Reshape Shape Reshape FusedMatMul Reshape",
                terms: 24,
            },
            Case {
                what: "factor, two inputs, batches, row above KC",
                graph: r#"graph "g" {
                    input %q: f32[2, 3, n, 300]
                    input %k: f32[3, 300, m]
                    const %c: f32[] = [0.125]
                    const %d: f32[1] = [4.0]
                    %s: f32[2, 3, n, m] = MatMul(%q, %k) "s"
                    %t: f32[2, 3, n, m] = Mul(%c, %s) "t"
                    %u: f32[2, 3, n, m] = Div(%t, %d) "u"
                    output "u" = %u
                }"#,
                symbols: &[("n", 9), ("m", 17)],
                fused: "FusedMatMul",
                terms: 300,
            },
            Case {
                what: "a bias that is no constant, a residual longer than KC, a scalar after",
                graph: r#"graph "g" {
                    input %x: f32[m, 600]
                    input %bias: f32[33]
                    input %r: f32[m, 33]
                    const %w: f32[600, 33] = @w
                    %s: f32[m, 33] = MatMul(%x, %w) "s"
                    %t: f32[m, 33] = Add(%r, %s) "t"
                    %u: f32[m, 33] = Add(%t, %bias) "u"
                    %v: f32[m, 33] = Swish(%u) "v"
                    output "v" = %v
                }"#,
                symbols: &[("m", 40)],
                fused: "FusedMatMul",
                terms: 600,
            },
            Case {
                what: "a factor after a constant bias; batch normalisation of columns",
                graph: r#"graph "g" {
                    input %x: f32[m, 20]
                    const %w: f32[20, 16] = @w
                    const %b: f32[1, 16] = @b
                    const %f: f32[] = [0.25]
                    const %scale: f32[16] = @scale
                    const %shift: f32[16] = @shift
                    const %mean: f32[16] = @mean
                    const %var: f32[4] = [1.0, 2.0, 0.5, 0.25]
                    const %four: i64[1] = [4]
                    %var16: f32[16] = Tile(%var, %four) "var16"
                    %s: f32[m, 16] = MatMul(%x, %w) "s"
                    %t: f32[m, 16] = Add(%s, %b) "t"
                    %u: f32[m, 16] = Mul(%t, %f) "u"
                    %v: f32[m, 16] = BatchNormalization(%u, %scale, %shift, %mean, %var16) "v"
                    %y: f32[m, 16] = Relu(%v) "y"
                    output "y" = %y
                }"#,
                symbols: &[("m", 5)],
                fused: "FusedMatMul",
                terms: 40,
            },
        ],
        false,
    );
}

#[test]
fn convolutions() {
    check(
        &[
            Case {
                what: "residual block with batch normalisation",
                graph: r#"graph "g" {
                    input %x: f32[n, 6, h, 9]
                    const %w: f32[6, 6, 3, 3] = @w
                    const %v: f32[6, 1, 3, 3] = @v
                    const %vb: f32[6] = @vb
                    const %scale: f32[6] = @scale
                    const %shift: f32[6] = @shift
                    const %mean: f32[6] = @mean
                    const %var: f32[6] = [1.0, 2.0, 0.5, 0.25, 4.0, 1.0]
                    const %c: f32[6, 1, 1] = @c
                    const %lo: f32[] = [0.0]
                    const %hi: f32[] = [6.0]
                    %a: f32[n, 6, h, 9] = Conv(%x, %w) {pads = [1, 1, 1, 1]} "a"
                    %b: f32[n, 6, h, 9] = BatchNormalization(%a, %scale, %shift, %mean, %var) "b"
                    %r: f32[n, 6, h, 9] = Clip(%b, %lo, %hi) "r"
                    %d: f32[n, 6, h, 9] = Conv(%r, %v, %vb) {pads = [1, 1, 1, 1], group = 6} "d"
                    %e: f32[n, 6, h, 9] = Mul(%d, %c) "e"
                    %f: f32[n, 6, h, 9] = Add(%c, %e) "f"
                    %s: f32[n, 6, h, 9] = Add(%x, %f) "s"
                    %y: f32[n, 6, h, 9] = HardSwish(%s) "y"
                    output "y" = %y
                }"#,
                symbols: &[("n", 2), ("h", 7)],
                fused: "FusedConv FusedConv",
                // 54 terms with weights up to 4, then 9 with values up to 6 and weights up to 4.
                terms: 54 * 2 * 9 * 6,
            },
            Case {
                what: "transposed convolutions have a kernel",
                graph: r#"graph "g" {
                    input %x: f32[n, 4, h, 5]
                    const %w: f32[4, 3, 3, 2] = @w
                    const %v: f32[6, 2, 4, 4] = @v
                    const %b: f32[6] = @b
                    %a: f32[n, 6, 2*h+1, 11] = ConvTranspose(%x, %w, %b) {group = 2, strides = [2, 2], dilations = [1, 2], output_padding = [0, 0]} "a"
                    %y: f32[n, 2, 6*h+1, 30] = ConvTranspose(%a, %v) {strides = [3, 3], pads = [2, 2, 2, 3], output_padding = [1, 1]} "y"
                    output "y" = %y
                }"#,
                symbols: &[("n", 3), ("h", 6)],
                fused: "ConvTranspose ConvTranspose",
                terms: 6 * 16 * 2 * 6 * 4,
            },
            Case {
                what: "normalisation alone is folded into a plain convolution, or is arithmetic",
                graph: r#"graph "g" {
                    input %x: f32[1, 2, 8]
                    const %w: f32[4, 2, 3] = @w
                    const %one: f32[4] = [1.0, 1.0, 2.0, 1.0]
                    const %zero: f32[4] = [0.0, 1.0, 0.0, 0.0]
                    const %two: f32[2] = [1.0, 2.0]
                    %p: f32[1, 2, 8] = BatchNormalization(%x, %two, %two, %two, %two) "p"
                    %a: f32[1, 4, 6] = Conv(%p, %w) "a"
                    %y: f32[1, 4, 6] = BatchNormalization(%a, %one, %zero, %zero, %one) "y"
                    output "y" = %y
                }"#,
                symbols: &[],
                fused: "Region Conv",
                terms: 30,
            },
        ],
        false,
    );
}

#[test]
fn regions() {
    check(
        &[
            Case {
                what: "a chain over several tiles, with numbers and an unread middle",
                graph: r#"graph "g" {
                    input %x: f32[n, 3000]
                    const %h: f32[] = [0.5]
                    const %two: f32[1] = [2.0]
                    %a: f32[n, 3000] = Mul(%x, %h) "a"
                    %b: f32[n, 3000] = Tanh(%a) "b"
                    %c: f32[n, 3000] = Pow(%b, %two) "c"
                    %d: f32[n, 3000] = Add(%c, %a) "d"
                    %e: f32[n, 3000] = Sub(%two, %d) "e"
                    %f: f32[n, 3000] = Exp(%e) "f"
                    output "f" = %f
                }"#,
                symbols: &[("n", 13)],
                fused: "Region",
                terms: 1,
            },
            Case {
                what: "columns, rows, planes and scalars broadcast over short rows; two outputs",
                graph: r#"graph "g" {
                    input %x: f32[n, 5, 3, 7]
                    input %row: f32[7]
                    input %channel: f32[5, 1, 1]
                    input %plane: f32[3, 7]
                    input %item: f32[n, 1, 1, 1]
                    input %one: f32[1]
                    input %middle: f32[n, 1, 3, 1]
                    %a: f32[n, 5, 3, 7] = Add(%x, %row) "a"
                    %b: f32[n, 5, 3, 7] = Mul(%a, %channel) "b"
                    %c: f32[n, 5, 3, 7] = Max(%plane, %b) "c"
                    %d: f32[n, 5, 3, 7] = Div(%c, %item) "d"
                    %e: f32[n, 5, 3, 7] = Sub(%one, %d) "e"
                    %f: f32[n, 5, 3, 7] = Min(%e, %middle) "f"
                    %g: f32[n, 5, 3, 7] = SwiGLU(%f, %c) "g"
                    output "g" = %g
                    output "c" = %c
                }"#,
                symbols: &[("n", 70)],
                fused: "Region",
                terms: 1,
            },
            Case {
                what: "broadcast along long rows",
                graph: r#"graph "g" {
                    input %x: f32[4, n]
                    input %row: f32[n]
                    input %column: f32[4, 1]
                    %a: f32[4, n] = Mul(%x, %row) "a"
                    %b: f32[4, n] = Add(%a, %column) "b"
                    %c: f32[4, n] = LeakyRelu(%b) {alpha = 0.1} "c"
                    output "c" = %c
                }"#,
                symbols: &[("n", 5003)],
                fused: "Region",
                terms: 1,
            },
            Case {
                what: "choices, comparisons and truth values, in and out",
                graph: r#"graph "g" {
                    input %x: f32[n, 70]
                    input %m: bool[n, 1]
                    input %keep: bool[70]
                    const %zero: f32[] = [0.0]
                    const %low: f32[] = [-inf]
                    %a: bool[n, 70] = Greater(%x, %zero) "a"
                    %b: bool[n, 70] = And(%a, %m) "b"
                    %c: bool[n, 70] = Xor(%b, %keep) "c"
                    %d: f32[n, 70] = Cast(%c) {to = f32} "d"
                    %e: f32[n, 70] = Mul(%d, %x) "e"
                    %f: bool[n, 70] = Not(%a) "f"
                    %g: f32[n, 70] = Where(%f, %low, %e) "g"
                    output "g" = %g
                    output "b" = %b
                }"#,
                symbols: &[("n", 61)],
                fused: "Region",
                terms: 1,
            },
            Case {
                what: "a choice alone",
                graph: r#"graph "g" {
                    input %x: f32[b, 3, s]
                    input %m: bool[b, 1, s]
                    const %low: f32[] = [-10000.0]
                    %y: f32[b, 3, s] = Where(%m, %x, %low) "y"
                    output "y" = %y
                }"#,
                symbols: &[("b", 4), ("s", 1500)],
                fused: "Region",
                terms: 1,
            },
            Case {
                what: "rows folded beside elements; short rows",
                graph: r#"graph "g" {
                    input %x: f32[n, 5, 33]
                    input %y: f32[5, 1]
                    const %last: i64[1] = [-1]
                    const %two: i64[1] = [2]
                    const %limit: f32[] = [0.5]
                    %a: f32[n, 5, 33] = Mul(%x, %x) "a"
                    %b: f32[n, 5, 33] = Sub(%a, %y) "b"
                    %s: f32[n, 5, 1] = ReduceSum(%b, %last) "s"
                    %m: f32[n, 5, 1] = ReduceMax(%b, %two) "m"
                    %c: f32[n, 5, 33] = Min(%b, %limit) "c"
                    %u: f32[n, 5, 1] = ReduceMean(%c, %last) "u"
                    output "c" = %c
                    output "s" = %s
                    output "m" = %m
                    output "u" = %u
                }"#,
                symbols: &[("n", 90)],
                fused: "Region",
                terms: 33 * 6,
            },
            Case {
                what: "rows folded: one tile a row; the arithmetic of results is a region of its own",
                graph: r#"graph "g" {
                    input %x: f32[b, n, 3000]
                    const %last: i64[1] = [-1]
                    const %eps: f32[] = [0.001]
                    %a: f32[b, n, 3000] = Mul(%x, %x) "a"
                    %s: f32[b, n, 1] = ReduceSum(%a, %last) "s"
                    %t: f32[b, n, 1] = Add(%s, %eps) "t"
                    %u: f32[b, n, 1] = Sqrt(%t) "u"
                    %y: f32[b, n, 3000] = Div(%x, %u) "y"
                    output "y" = %y
                }"#,
                symbols: &[("b", 3), ("n", 7)],
                fused: "Region Region Div",
                terms: 3000,
            },
            Case {
                what: "a sum alone, and one that takes its axis away, are no regions",
                graph: r#"graph "g" {
                    input %x: f32[n, 8]
                    const %last: i64[1] = [-1]
                    %s: f32[n, 1] = ReduceSum(%x, %last) "s"
                    %a: f32[n, 8] = Abs(%x) "a"
                    %t: f32[n] = ReduceSum(%a, %last) {keepdims = false} "t"
                    output "s" = %s
                    output "t" = %t
                }"#,
                symbols: &[("n", 5)],
                fused: "ReduceSum Abs ReduceSum",
                terms: 8,
            },
            Case {
                what: "nothing to do: no elements",
                graph: r#"graph "g" {
                    input %x: f32[4, n]
                    %a: f32[4, n] = Abs(%x) "a"
                    %b: f32[4, n] = Sqrt(%a) "b"
                    output "b" = %b
                }"#,
                symbols: &[("n", 0)],
                fused: "Region",
                terms: 1,
            },
            Case {
                what: "a value between that is computed elsewhere is no part of a region",
                graph: r#"graph "g" {
                    input %x: f32[3, 4]
                    %a: f32[3, 4] = Abs(%x) "a"
                    %b: f32[3, 4] = Add(%a, %x) "b"
                    %s: f32[3, 4] = Softmax(%b) "s"
                    %c: f32[3, 4] = Mul(%b, %s) "c"
                    %d: f32[3, 4] = Neg(%c) "d"
                    output "d" = %d
                }"#,
                symbols: &[],
                fused: "Region Softmax Region",
                terms: 4,
            },
        ],
        true,
    );
}

/// Elementwise graphs of random functions over operands that broadcast: fused runs have the bits of
/// unfused ones, in the interpreter and in every plan.
#[test]
fn random_regions_keep_every_bit() {
    const UNARY: [&str; 8] =
        ["Abs", "Neg", "Relu", "Sigmoid", "Exp", "Gelu", "HardSwish", "Softplus"];
    const BINARY: [&str; 5] = ["Add", "Sub", "Mul", "Min", "Max"];
    const COMPARE: [&str; 5] = ["Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"];
    const LOGIC: [&str; 3] = ["And", "Or", "Xor"];
    const FOLD: [&str; 3] = ["ReduceSum", "ReduceMean", "ReduceMax"];
    let runtimes = runtimes();
    let (mut regions, mut steps) = (0, std::collections::BTreeSet::new());
    for seed in 0..60u64 {
        let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) + 1;
        let mut pick = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % n
        };
        let shapes = ["b, 3, 11", "11", "3, 1", "b, 1, 1", "1", "b, 1, 11", "b, 3, 11", "1, 3, 1"];
        let mut source = String::from("graph \"g\" {\n");
        for (i, shape) in shapes.iter().enumerate() {
            source += &format!("input %x{i}: f32[{shape}]\n");
        }
        source += "const %half: f32[] = [0.5]\nconst %last: i64[1] = [-1]\n";
        source += "input %m0: bool[b, 1, 11]\ninput %m1: bool[3, 1]\n";
        // Truth values: of any shape, and those of the full one.
        let (mut truths, mut wide_truths) = (vec!["m0".to_owned(), "m1".into()], vec![]);
        let mut names: Vec<String> = (0..shapes.len()).map(|i| format!("x{i}")).collect();
        names.push("half".into());
        let full = |name: &str| name == "x0" || name == "x6" || name.starts_with('v');
        let count = 3 + pick(40);
        for i in 0..count {
            // One operand has the full shape, so all results have.
            let wide: Vec<&String> = names.iter().filter(|n| full(n)).collect();
            let a = wide[pick(wide.len())].clone();
            let b = names[pick(names.len())].clone();
            let t = truths[pick(truths.len())].clone();
            let call = match pick(14) {
                0..3 => format!("{}(%{a})", UNARY[pick(UNARY.len())]),
                3..7 => format!("{}(%{a}, %{b})", BINARY[pick(BINARY.len())]),
                7 => format!("Where(%{t}, %{a}, %{b})"),
                8 => format!("Where(%{t}, %{b}, %{a})"),
                kind @ 9..12 => {
                    let wide: &String = match wide_truths.len() {
                        0 => &a,
                        n => &wide_truths[pick(n)],
                    };
                    let call = match (kind, wide_truths.is_empty()) {
                        (9, _) | (_, true) => {
                            format!("{}(%{a}, %{b})", COMPARE[pick(COMPARE.len())])
                        }
                        (10, _) => format!("{}(%{wide}, %{t})", LOGIC[pick(LOGIC.len())]),
                        _ => format!("Not(%{wide})"),
                    };
                    source += &format!("%t{i}: bool[b, 3, 11] = {call} \"t{i}\"\n");
                    truths.push(format!("t{i}"));
                    wide_truths.push(format!("t{i}"));
                    format!("Cast(%t{i}) {{to = f32}}")
                }
                12 => {
                    let fold = FOLD[pick(FOLD.len())];
                    source += &format!("%r{i}: f32[b, 3, 1] = {fold}(%{a}, %last) \"r{i}\"\n");
                    format!("Sub(%{a}, %r{i})")
                }
                // Not elementwise: cuts the graph, and may close a way around a region.
                _ => format!("Softmax(%{a})"),
            };
            source += &format!("%v{i}: f32[b, 3, 11] = {call} \"v{i}\"\n");
            names.push(format!("v{i}"));
        }
        for i in (0..count).filter(|i| i + 1 == count || i % 7 == 3) {
            source += &format!("output \"o{i}\" = %v{i}\n");
        }
        if let Some(t) = wide_truths.last() {
            source += &format!("output \"{t}\" = %{t}\n");
        }
        let graph = parse(&(source + "}"));
        let fused = fuse(&graph);
        for region in fused.nodes().iter().filter_map(|n| n.op.downcast::<ops::Region>()) {
            regions += 1;
            steps.extend(region.steps.iter().map(|s| s.function.name()));
        }
        let inputs = inputs(&graph, &[("b", 50)]);
        let same = |a: &Tensor, b: &Tensor, what: &str| {
            assert!(deepseek_graph::same_tensor(a, b), "seed {seed}, {what}");
        };
        let (want, got) = (
            interpret::run(&graph, inputs.clone()).unwrap(),
            interpret::run(&fused, inputs.clone()).unwrap(),
        );
        for (a, b) in want.iter().zip(&got) {
            same(a.tensor().unwrap(), b.tensor().unwrap(), "interpreter");
        }
        for runtime in &runtimes {
            let what = format!("{} x{}", runtime.isa().level(), runtime.threads());
            for (a, b) in run(&graph, runtime, &inputs).iter().zip(run(&fused, runtime, &inputs)) {
                same(a, &b, &what);
            }
        }
    }
    assert!(regions > 60, "only {regions} regions were made");
    for name in COMPARE.iter().chain(&LOGIC).chain(&FOLD).chain(&["Not", "ToF32", "Where"]) {
        assert!(steps.contains(name), "no region has {name}: {steps:?}");
    }
}
