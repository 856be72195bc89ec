//! What the fusing passes make of small graphs, and why they leave others. A graph is text; the
//! golden column lists the operators before and after. Results are compared in the interpreter.

use super::*;
use crate::{Value, interpret, text};
use deepseek_tensor::Tensor;
use std::collections::BTreeMap;

struct Case {
    what: &'static str,
    graph: &'static str,
    before: usize,
    after: &'static str,
    /// Part of what a pass says it missed; nothing if empty.
    missed: &'static str,
}

fn run(g: &Graph) -> Vec<Vec<f32>> {
    let value = |(i, id): (usize, &crate::ValueId)| -> Value {
        let dims = g.fact(*id).shape().unwrap().iter().map(|d| d.as_const().unwrap_or(2) as usize);
        let shape: Vec<usize> = dims.collect();
        let n = shape.iter().product();
        let data = (0..n).map(|k| ((k * 7 + i * 3) % 11) as f32 * 0.25 - 1.0).collect();
        Tensor::from_vec(&shape, data).unwrap().into()
    };
    let inputs = g.inputs().iter().enumerate().map(value).collect();
    let outputs = interpret::run(g, inputs).unwrap();
    outputs.iter().map(|v| v.tensor().unwrap().to_vec().unwrap()).collect()
}

fn check(cases: &[Case]) {
    for Case { what, graph, before, after, missed } in cases {
        let source = format!("graph \"g\" {{\n{graph}\n}}");
        let g = text::parse(&source, &BTreeMap::new()).unwrap();
        assert_eq!(g.nodes().len(), *before, "{what}");
        let mut diagnostics = Diagnostics::new(Level::Missed);
        let outcome = Pipeline::portable().run(&g, &mut diagnostics).unwrap();
        assert!(outcome.converged, "{what}");
        let ops: Vec<_> = outcome.graph.nodes().iter().map(|n| n.op.name()).collect();
        let log: Vec<_> = diagnostics.entries().iter().map(Entry::to_string).collect();
        assert_eq!(ops.join(" "), *after, "{what}: {log:#?}");
        let printed = text::print(&outcome.graph);
        let again = text::parse(&printed, &BTreeMap::new()).unwrap();
        assert_eq!(text::print(&again), printed, "{what}");
        let said = log.iter().any(|l| l.contains(": not ") && l.contains(missed));
        assert!(missed.is_empty() || said, "{what}: {log:#?}");
        for (a, b) in run(&g).iter().zip(run(&outcome.graph)) {
            for (a, b) in a.iter().zip(b) {
                // Values below 8 that round four times at most.
                assert!((a - b).abs() <= 32.0 * f32::EPSILON, "{what}: {a} against {b}");
            }
        }
        let again = Pipeline::portable().run(&outcome.graph, &mut diagnostics);
        assert_eq!(again.unwrap().rounds, 0, "{what}: nothing is left to do");
    }
}

#[test]
fn products_take_what_follows() {
    check(&[
        Case {
            what: "bias on the left, residual, activation",
            graph: r#"
                input %x: f32[n, 2]
                input %r: f32[n, 3]
                const %w: f32[2, 3] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
                const %b: f32[3] = [1.0, -1.0, 0.5]
                %m: f32[n, 3] = MatMul(%x, %w) "m"
                %mb: f32[n, 3] = Add(%b, %m) "mb"
                %s: f32[n, 3] = Add(%r, %mb) "s"
                %y: f32[n, 3] = Relu(%s) "y"
                output "y" = %y"#,
            before: 4,
            after: "FusedMatMul",
            missed: "",
        },
        Case {
            what: "a value that is an output too is not taken",
            graph: r#"
                input %x: f32[n, 2]
                const %w: f32[2, 2] = [1.0, 2.0, 3.0, 4.0]
                const %b: f32[2] = [1.0, -1.0]
                %m: f32[n, 2] = MatMul(%x, %w) "m"
                %y: f32[n, 2] = Add(%m, %b) "y"
                output "m" = %m
                output "y" = %y"#,
            before: 2,
            after: "MatMul Add",
            missed: "joined with 'y': the value before it is read elsewhere too",
        },
        Case {
            what: "a residual that broadcasts is not taken",
            graph: r#"
                input %x: f32[n, 2]
                input %r: f32[n, 1]
                const %w: f32[2, 2] = [1.0, 2.0, 3.0, 4.0]
                %m: f32[n, 2] = MatMul(%x, %w) "m"
                %y: f32[n, 2] = Add(%m, %r) "y"
                output "y" = %y"#,
            before: 2,
            after: "MatMul Add",
            missed: "joined with 'y': the other summand broadcasts",
        },
        Case {
            what: "a sum larger than the product",
            graph: r#"
                input %x: f32[2, 2]
                input %r: f32[3, 2, 2]
                const %w: f32[2, 2] = [1.0, 2.0, 3.0, 4.0]
                %m: f32[2, 2] = MatMul(%x, %w) "m"
                %y: f32[3, 2, 2] = Add(%m, %r) "y"
                output "y" = %y"#,
            before: 2,
            after: "MatMul Add",
            missed: "the sum is larger than the product",
        },
        Case {
            what: "a sum of a product with itself",
            graph: r#"
                input %x: f32[2, 2]
                const %w: f32[2, 2] = [1.0, 2.0, 3.0, 4.0]
                %m: f32[2, 2] = MatMul(%x, %w) "m"
                %y: f32[2, 2] = Add(%m, %m) "y"
                output "y" = %y"#,
            before: 2,
            after: "MatMul Add",
            missed: "",
        },
        Case {
            what: "two products meet: one takes the other as its residual",
            graph: r#"
                input %x: f32[2, 2]
                const %w: f32[2, 2] = [1.0, 2.0, 3.0, 4.0]
                const %v: f32[2, 2] = [1.0, 0.0, 1.0, 0.0]
                const %b: f32[2] = [1.0, -1.0]
                %m: f32[2, 2] = MatMul(%x, %w) "m"
                %k: f32[2, 2] = MatMul(%x, %v) "k"
                %kb: f32[2, 2] = Add(%k, %b) "kb"
                %y: f32[2, 2] = Add(%m, %kb) "y"
                output "y" = %y"#,
            before: 4,
            after: "FusedMatMul FusedMatMul",
            missed: "",
        },
        Case {
            what: "Gemm alone, its bias scaled by beta",
            graph: r#"
                input %x: f32[2, 2]
                const %w: f32[2, 2] = [1.0, 2.0, 3.0, 4.0]
                const %c: f32[] = [3.0]
                %y: f32[2, 2] = Gemm(%x, %w, %c) {beta = 0.5, transB = true} "y"
                output "y" = %y"#,
            before: 1,
            after: "FusedMatMul",
            missed: "",
        },
        Case {
            what: "Gemm of a transposed input stays",
            graph: r#"
                input %x: f32[2, 2]
                const %w: f32[2, 2] = [1.0, 2.0, 3.0, 4.0]
                %y: f32[2, 2] = Gemm(%x, %w) {transA = true} "y"
                output "y" = %y"#,
            before: 1,
            after: "Gemm",
            missed: "",
        },
        Case {
            what: "a view that is read twice stays where it is",
            graph: r#"
                input %x: f32[4, 2]
                input %r: f32[n, 2, 2]
                const %w: f32[2, 2] = [1.0, 2.0, 3.0, 4.0]
                const %to: i64[3] = [2, 2, 2]
                const %flat: i64[1] = [-1]
                %m: f32[4, 2] = MatMul(%x, %w) "m"
                %v: f32[2, 2, 2] = Reshape(%m, %to) "v"
                %y: f32[2, 2, 2] = Add(%v, %v) "y"
                %z: f32[8] = Reshape(%m, %flat) "z"
                output "y" = %y
                output "z" = %z"#,
            before: 4,
            after: "MatMul Reshape Add Reshape",
            missed: "",
        },
    ]);
}

#[test]
fn convolutions_take_what_follows() {
    check(&[
        Case {
            what: "normalisation, residual and activation",
            graph: r#"
                input %x: f32[1, 1, 4]
                input %r: f32[1, 1, 4]
                const %w: f32[1, 1, 1] = [2.0]
                const %o: f32[1] = [1.0]
                const %v: f32[1] = [3.0]
                %c: f32[1, 1, 4] = Conv(%x, %w) "c"
                %n: f32[1, 1, 4] = BatchNormalization(%c, %o, %o, %v, %v) "n"
                %s: f32[1, 1, 4] = Add(%n, %r) "s"
                %y: f32[1, 1, 4] = Swish(%s) "y"
                output "y" = %y"#,
            before: 4,
            after: "FusedConv",
            missed: "",
        },
        Case {
            what: "statistics that are inputs stay",
            graph: r#"
                input %x: f32[1, 1, 4]
                input %v: f32[1]
                const %w: f32[1, 1, 1] = [2.0]
                const %o: f32[1] = [1.0]
                %c: f32[1, 1, 4] = Conv(%x, %w) "c"
                %y: f32[1, 1, 4] = BatchNormalization(%c, %o, %o, %o, %o) {training_mode = true} "y"
                output "y" = %y"#,
            before: 2,
            after: "Conv BatchNormalization",
            missed: "its statistics are not constants",
        },
        Case {
            what: "a normalisation after an activation is arithmetic",
            graph: r#"
                input %x: f32[1, 1, 4]
                const %w: f32[1, 1, 1] = [2.0]
                const %o: f32[1] = [1.0]
                %c: f32[1, 1, 4] = Conv(%x, %w) "c"
                %r: f32[1, 1, 4] = Relu(%c) "r"
                %y: f32[1, 1, 4] = BatchNormalization(%r, %o, %o, %o, %o) "y"
                output "y" = %y"#,
            before: 3,
            after: "FusedConv Region",
            missed: "",
        },
    ]);
}

#[test]
fn elementwise_nodes_become_regions() {
    check(&[
        Case {
            what: "a diamond",
            graph: r#"
                input %x: f32[n, 2]
                %a: f32[n, 2] = Abs(%x) "a"
                %b: f32[n, 2] = Neg(%a) "b"
                %c: f32[n, 2] = Sigmoid(%a) "c"
                %d: f32[n, 2] = Mul(%b, %c) "d"
                output "d" = %d"#,
            before: 4,
            after: "Region",
            missed: "",
        },
        Case {
            what: "one node alone, and integers",
            graph: r#"
                input %x: f32[n, 2]
                %a: f32[n, 2] = Abs(%x) "a"
                %s: f32[n, 2] = Softmax(%a) "s"
                %b: f32[n, 2] = Neg(%s) "b"
                output "b" = %b"#,
            before: 3,
            after: "Abs Softmax Neg",
            missed: "",
        },
        Case {
            what: "what grows in the middle starts a region of its own",
            graph: r#"
                input %x: f32[1, 2]
                input %y: f32[n, 2]
                %a: f32[1, 2] = Abs(%x) "a"
                %b: f32[1, 2] = Neg(%a) "b"
                %c: f32[n, 2] = Mul(%b, %y) "c"
                %d: f32[n, 2] = Tanh(%c) "d"
                output "d" = %d"#,
            before: 4,
            after: "Region Region",
            missed: "",
        },
        Case {
            what: "a number whose rank makes the shape stays an input",
            graph: r#"
                input %x: f32[2]
                const %c: f32[1, 1] = [2.0]
                %a: f32[1, 2] = Mul(%x, %c) "a"
                %b: f32[1, 2] = Neg(%a) "b"
                output "b" = %b"#,
            before: 2,
            after: "Mul Neg",
            missed: "its inputs do not show its shape",
        },
        Case {
            what: "two ways around: no region may wait for itself",
            graph: r#"
                input %x: f32[2, 2]
                %a: f32[2, 2] = Abs(%x) "a"
                %s: f32[2, 2] = Softmax(%a) "s"
                %b: f32[2, 2] = Add(%a, %s) "b"
                %c: f32[2, 2] = Neg(%b) "c"
                output "c" = %c"#,
            before: 4,
            after: "Abs Softmax Region",
            missed: "a value between them is computed elsewhere",
        },
        Case {
            what: "two regions that would wait for each other",
            graph: r#"
                input %x: f32[2, 2]
                input %z: f32[2, 2]
                %a: f32[2, 2] = Abs(%x) "a"
                %p: f32[2, 2] = Neg(%z) "p"
                %s: f32[2, 2] = Softmax(%a) "s"
                %t: f32[2, 2] = Softmax(%p) "t"
                %b: f32[2, 2] = Add(%a, %t) "b"
                %q: f32[2, 2] = Add(%p, %s) "q"
                output "b" = %b
                output "q" = %q"#,
            before: 6,
            after: "Neg Softmax Region Softmax Add",
            missed: "a value between them is computed elsewhere",
        },
    ]);
}

#[test]
fn regions_have_limits() {
    let mut graph = Graph::new("g");
    let ty = || crate::Type::tensor(deepseek_tensor::DType::F32, [crate::Dim::from(2i64)]);
    let inputs: Vec<_> =
        (0..12).map(|i| graph.add_input(&format!("x{i}"), ty()).unwrap()).collect();
    let mut at = inputs[0];
    for (i, &x) in inputs.iter().enumerate().skip(1) {
        at = graph.add(&format!("a{i}"), crate::ops::Add::default(), &[at, x]).unwrap();
    }
    for i in 0..70 {
        at = graph.add(&format!("b{i}"), crate::ops::Neg::default(), &[at]).unwrap();
    }
    graph.add_output("y", at).unwrap();
    let mut diagnostics = Diagnostics::new(Level::Missed);
    let out = Pipeline::portable().run(&graph, &mut diagnostics).unwrap().graph;
    let log: Vec<_> = diagnostics.entries().iter().map(Entry::to_string).collect();
    for why in ["too many steps", "too many inputs"] {
        assert!(log.iter().any(|l| l.contains(why)), "{why}: {log:#?}");
    }
    for node in out.nodes() {
        let region = node.op.downcast::<crate::ops::Region>().expect("all nodes are in regions");
        assert!(region.steps.len() <= 32 && node.inputs.len() <= 8, "{region:?}");
    }
    assert_eq!(run(&graph), run(&out));
}
