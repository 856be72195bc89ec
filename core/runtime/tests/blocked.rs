//! Blocked graphs against the graphs they were made of: their references, and their kernels at every
//! instruction-set level and on several threads. Add a row to `CASES`; a graph is written in text form.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek_graph::{Bindings, Dim, Graph, Value, interpret, text};
use deepseek_runtime::{Isa, Level, Plan, RunOptions, Runtime, RuntimeOptions, Session};
use deepseek_tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

struct Case {
    what: &'static str,
    graph: &'static str,
    /// Operators at sixteen lanes, in order.
    blocked: &'static str,
}

const CASES: &[Case] = &[
    Case {
        what: "a residual network",
        graph: r#"graph "g" {
  input %x: f32[n, 3, 17, 19]
  const %w0: f32[24, 3, 3, 3] = @a
  const %w1: f32[40, 24, 1, 1] = @b
  const %b1: f32[40] = @c
  const %w2: f32[40, 40, 3, 3] = @d
  %a = Conv(%x, %w0) {pads = [1, 1, 1, 1], strides = [2, 2]}
  %b = MaxPool(%a) {kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]}
  %c = FusedConv(%b, %w1, %b1) {activation = "Relu"}
  %d = FusedConv(%c, %w2, %b1, %c) {activation = "HardSwish", pads = [1, 1, 1, 1]}
  %y = GlobalAveragePool(%d)
  output "y" = %y
}"#,
        blocked: "BlockedConv BlockedPool BlockedConv BlockedConv BlockedMean",
    },
    Case {
        what: "depthwise, factors of channels, and both layouts",
        graph: r#"graph "g" {
  input %x: f32[n, 20, 6, 7]
  const %w0: f32[33, 20, 1, 1] = @a
  const %w1: f32[33, 1, 3, 3] = @b
  const %w2: f32[33, 33, 1, 1] = @c
  const %s: f32[33, 1, 1] = @d
  %a = Conv(%x, %w0)
  %b = Conv(%a, %w1) {group = 33, pads = [1, 1, 1, 1]}
  %p = GlobalAveragePool(%b)
  %q = FusedConv(%p, %w2) {activation = "Sigmoid"}
  %m = Mul(%b, %q)
  %t = Mul(%m, %s)
  %u = Add(%t, %a)
  %v = Sigmoid(%u)
  %y = ReduceMax(%u)
  output "v" = %v
  output "y" = %y
}"#,
        blocked: "ToBlocked BlockedConv BlockedConv BlockedMean FusedConv BlockedScale Mul Add \
                  FromBlocked ReduceMax Sigmoid FromBlocked",
    },
    Case {
        what: "joined, cut and repeated",
        graph: r#"graph "g" {
  input %x: f32[n, 32, 5, 6]
  const %w: f32[64, 32, 1, 1] = @a
  const %scales: f32[4] = [1.0, 1.0, 2.0, 2.0]
  const %at: i64[1] = [16]
  const %to: i64[1] = [48]
  const %axis: i64[1] = [1]
  %a = Conv(%x, %w)
  %b, %c = Split(%a) {axis = 1, num_outputs = 2}
  %d = Slice(%a, %at, %to, %axis)
  %e = Resize(%d, _, %scales) {coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"}
  %f = AveragePool(%e) {kernel_shape = [2, 2], strides = [2, 2]}
  %y = Concat(%b, %x, %f, %c) {axis = 1}
  output "y" = %y
}"#,
        blocked: "ToBlocked BlockedConv Split Slice BlockedRepeat BlockedPool Concat FromBlocked",
    },
    Case {
        what: "nothing to block",
        graph: r#"graph "g" {
  input %x: f32[n, 3, 5, 6]
  const %w: f32[2, 3, 3, 3] = @a
  %y = Conv(%x, %w)
  output "y" = %y
}"#,
        blocked: "Conv",
    },
];

/// A fixed sequence of values in `[-1, 1)`.
fn tensor(shape: &[usize], seed: u64) -> Tensor {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values = (0..shape.iter().product::<usize>()).map(|_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        ((x >> 40) as f32) / 8_388_608.0 - 1.0
    });
    Tensor::from_vec(shape, values.collect()).unwrap()
}

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

fn ops(graph: &Graph) -> Vec<&str> {
    graph.nodes().iter().map(|n| n.op.name()).collect()
}

fn close(what: &str, got: &[Value], want: &[Value]) {
    for (got, want) in got.iter().zip(want) {
        let (got, want) = (got.tensor().unwrap(), want.tensor().unwrap());
        assert_eq!(got.shape(), want.shape(), "{what}");
        let (got, want) = (got.to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap());
        // As for whole models: f32 sums in another order, over a few layers, stay far below 1e-4 of
        // the largest magnitude.
        let bound = 1e-4 * want.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        for (got, want) in got.into_iter().zip(want) {
            assert!((got - want).abs() <= bound, "{what}: {got}, not {want}");
        }
    }
}

#[test]
fn blocked_graphs_compute_what_they_were_made_of() {
    for case in CASES {
        let graph = parse(case.graph);
        let shape = graph.fact(graph.inputs()[0]).shape().unwrap();
        let mut bindings = Bindings::default();
        bindings.unify(&Dim::sym("n"), 2).unwrap();
        let shape: Vec<usize> = shape.iter().map(|d| d.eval(&bindings).unwrap() as usize).collect();
        let x = Value::from(tensor(&shape, 9));
        let want = interpret::run(&graph, vec![x.clone()]).unwrap();
        for isa in Level::available().map(|l| Isa::at(l).unwrap()) {
            let what = format!("{} at {}", case.what, isa.level());
            let mut first: Option<Vec<Value>> = None;
            for threads in [1, 3] {
                let options = RuntimeOptions { isa: Some(isa), threads, ..Default::default() };
                let runtime = Runtime::new(&options).unwrap();
                let plan = Arc::new(Plan::new(graph.clone(), &runtime).unwrap());
                let made = plan.graph();
                if isa.level() == Level::Avx512 {
                    assert_eq!(ops(made).join(" "), case.blocked, "{what}");
                }
                close(&what, &interpret::run(made, vec![x.clone()]).unwrap(), &want);
                for (node, kernel) in plan.kernels() {
                    let made = node.op.name().contains("Blocked");
                    assert!(!made || kernel != "reference", "{what}: {} has no kernel", node.name);
                }
                let planned = plan.memory(&bindings).unwrap().planned_bytes();
                let mut session = Session::new(plan);
                let run = session.run(vec![x.clone()], &RunOptions::default()).unwrap();
                assert_eq!(session.observed_bytes(), planned, "{what}");
                close(&what, &run.outputs, &want);
                let first = first.get_or_insert_with(|| run.outputs.clone());
                for (a, b) in first.iter().zip(&run.outputs) {
                    let bits = |v: &Value| v.tensor().unwrap().to_vec::<f32>().unwrap();
                    assert_eq!(bits(a), bits(b), "{what}: {threads} threads");
                }
            }
        }
    }
}
