//! What the passes make of quantised graphs. A graph is text; results are compared in the interpreter.

use crate::passes::{Diagnostics, Entry, Level, Pipeline};
use crate::{Graph, Value, interpret, text};
use deepseek_tensor::{DType, Tensor};
use std::collections::BTreeMap;

struct Case {
    what: &'static str,
    graph: &'static str,
    after: &'static str,
    /// By how much elements may differ.
    tolerance: f64,
}

fn run(g: &Graph) -> Vec<Vec<f64>> {
    let value = |(i, id): (usize, &crate::ValueId)| -> Value {
        let dims = g.fact(*id).shape().unwrap().iter().map(|d| d.as_const().unwrap_or(2) as usize);
        let shape: Vec<usize> = dims.collect();
        let n: usize = shape.iter().product();
        let at = |k: usize| (k * 7919 + i * 104_729) % 256;
        match g.fact(*id).dtype().unwrap() {
            DType::U8 => Tensor::from_vec(&shape, (0..n).map(|k| at(k) as u8).collect::<Vec<_>>()),
            DType::I8 => {
                Tensor::from_vec(&shape, (0..n).map(|k| at(k) as u8 as i8).collect::<Vec<_>>())
            }
            _ => Tensor::from_vec(
                &shape,
                (0..n).map(|k| at(k) as f32 / 64.0 - 2.0).collect::<Vec<f32>>(),
            ),
        }
        .unwrap()
        .into()
    };
    let inputs = g.inputs().iter().enumerate().map(value).collect();
    let outputs = interpret::run(g, inputs).unwrap();
    outputs.iter().map(|v| crate::ops::util::to_f64(v.tensor().unwrap()).unwrap()).collect()
}

fn check(cases: &[Case]) {
    for Case { what, graph, after, tolerance } in cases {
        let source = format!("graph \"g\" {{\n{graph}\n}}");
        let g = text::parse(&source, &BTreeMap::new()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut diagnostics = Diagnostics::new(Level::Missed);
        let outcome = Pipeline::portable().run(&g, &mut diagnostics).unwrap();
        assert!(outcome.converged, "{what}");
        let ops: Vec<_> = outcome.graph.nodes().iter().map(|n| n.op.name()).collect();
        let log: Vec<_> = diagnostics.entries().iter().map(Entry::to_string).collect();
        assert_eq!(ops.join(" "), *after, "{what}: {log:#?}");
        for (a, b) in run(&g).iter().zip(run(&outcome.graph)) {
            assert_eq!(a.len(), b.len(), "{what}");
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() <= *tolerance, "{what}: {a} against {b}");
            }
        }
    }
}

#[test]
fn products_of_dequantised_operands_become_products_of_bytes() {
    check(&[
        Case {
            what: "between quantisations",
            graph: r#"
                input %x: u8[n, 3]
                const %xs: f32[] = [0.5]
                const %xz: u8[] = [100]
                const %w: i8[3, 2] = [1, -2, 3, -4, 5, 127]
                const %ws: f32[2] = [0.25, 0.5]
                const %wz: i8[2] = [0, 3]
                const %ys: f32[] = [4.0]
                const %yz: u8[] = [7]
                %xf: f32[n, 3] = DequantizeLinear(%x, %xs, %xz) "xf"
                %wf: f32[3, 2] = DequantizeLinear(%w, %ws, %wz) "wf"
                %m: f32[n, 2] = MatMul(%xf, %wf) "m"
                %y: u8[n, 2] = QuantizeLinear(%m, %ys, %yz) "y"
                output "y" = %y"#,
            after: "QLinearMatMul",
            tolerance: 1.0,
        },
        Case {
            what: "a Gemm with transposed weights, a bias and a Relu that saturation does",
            graph: r#"
                input %x: u8[n, 3]
                const %xs: f32[] = [0.5]
                const %xz: u8[] = [100]
                const %w: i8[2, 3] = [1, -2, 3, -4, 5, 127]
                const %ws: f32[2] = [0.25, 0.5]
                const %wz: i8[2] = [0, 0]
                const %b: i32[2] = [-1000, 400]
                const %bs: f32[2] = [0.125, 0.25]
                const %ys: f32[] = [4.0]
                const %yz: u8[] = [0]
                %xf: f32[n, 3] = DequantizeLinear(%x, %xs, %xz) "xf"
                %wf: f32[2, 3] = DequantizeLinear(%w, %ws, %wz) {axis = 0} "wf"
                %bf: f32[2] = DequantizeLinear(%b, %bs) {axis = 0} "bf"
                %m: f32[n, 2] = Gemm(%xf, %wf, %bf) {transB = true} "m"
                %r: f32[n, 2] = Relu(%m) "r"
                %y: u8[n, 2] = QuantizeLinear(%r, %ys, %yz) "y"
                output "y" = %y"#,
            after: "QLinearMatMul",
            tolerance: 1.0,
        },
        Case {
            what: "a result in f32",
            graph: r#"
                input %x: u8[n, 3]
                const %xs: f32[] = [0.5]
                const %w: i8[3, 2] = [1, -2, 3, -4, 5, 127]
                const %ws: f32[] = [0.25]
                %xf: f32[n, 3] = DequantizeLinear(%x, %xs) "xf"
                %wf: f32[3, 2] = DequantizeLinear(%w, %ws) "wf"
                %m: f32[n, 2] = MatMul(%xf, %wf) "m"
                output "m" = %m"#,
            after: "MatMulIntegerToFloat",
            tolerance: 0.0,
        },
        Case {
            what: "dynamic, with bias and activation",
            graph: r#"
                input %x: f32[n, 3]
                const %w: i8[3, 2] = [1, -2, 3, -4, 5, 127]
                const %ws: f32[] = [0.25]
                const %wz: i8[] = [1]
                const %b: f32[2] = [0.5, -0.5]
                %q: u8[n, 3], %s: f32[], %z: u8[] = DynamicQuantizeLinear(%x) "q"
                %m: i32[n, 2] = MatMulInteger(%q, %w, %z, %wz) "m"
                %f: f32[n, 2] = Cast(%m) {to = f32} "f"
                %ss: f32[] = Mul(%s, %ws) "ss"
                %p: f32[n, 2] = Mul(%f, %ss) "p"
                %a: f32[n, 2] = Add(%b, %p) "a"
                %y: f32[n, 2] = Relu(%a) "y"
                output "y" = %y"#,
            after: "DynamicQuantizeLinear MatMulIntegerToFloat",
            tolerance: 0.0,
        },
    ]);
}

#[test]
fn convolutions_of_bytes_have_channels_last_and_transposes_between_them_vanish() {
    check(&[Case {
        what: "two convolutions, a sum, a pool",
        graph: r#"
            input %x: f32[n, 2, 4, 4]
            const %s: f32[] = [0.0625]
            const %z: u8[] = [32]
            const %zero: u8[] = [0]
            const %w: i8[2, 2, 1, 1] = [3, -2, 5, 7]
            const %ws: f32[2] = [0.25, 0.5]
            const %wz: i8[2] = [0, 0]
            const %b: i32[2] = [100, -50]
            const %bs: f32[2] = [0.015625, 0.03125]
            %q: u8[n, 2, 4, 4] = QuantizeLinear(%x, %s, %z) "q"
            %d: f32[n, 2, 4, 4] = DequantizeLinear(%q, %s, %z) "d"
            %wf: f32[2, 2, 1, 1] = DequantizeLinear(%w, %ws, %wz) {axis = 0} "wf"
            %bf: f32[2] = DequantizeLinear(%b, %bs) {axis = 0} "bf"
            %c: f32[n, 2, 4, 4] = Conv(%d, %wf, %bf) "c"
            %r: f32[n, 2, 4, 4] = Relu(%c) "r"
            %cq: u8[n, 2, 4, 4] = QuantizeLinear(%r, %s, %zero) "cq"
            %cd: f32[n, 2, 4, 4] = DequantizeLinear(%cq, %s, %zero) "cd"
            %e: f32[n, 2, 4, 4] = Conv(%cd, %wf) "e"
            %eq: u8[n, 2, 4, 4] = QuantizeLinear(%e, %s, %z) "eq"
            %ed: f32[n, 2, 4, 4] = DequantizeLinear(%eq, %s, %z) "ed"
            %a: f32[n, 2, 4, 4] = Add(%cd, %ed) "a"
            %aq: u8[n, 2, 4, 4] = QuantizeLinear(%a, %s, %z) "aq"
            %ad: f32[n, 2, 4, 4] = DequantizeLinear(%aq, %s, %z) "ad"
            %p: f32[n, 2, 2, 2] = MaxPool(%ad) {kernel_shape = [2, 2], strides = [2, 2]} "p"
            %pq: u8[n, 2, 2, 2] = QuantizeLinear(%p, %s, %z) "pq"
            output "y" = %pq"#,
        after: "QuantizeLinear Transpose QLinearConv QLinearConv QLinearAdd MaxPool Transpose",
        tolerance: 1.0,
    }]);
}
