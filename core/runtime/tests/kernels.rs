//! Kernels of single operators against the scalar reference, at every instruction-set level and on
//! several threads. To add a case, add a row to [`CASES`].

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek_graph::{Graph, Value, interpret, text};
use deepseek_runtime::{Isa, Level, Plan, RunOptions, Runtime, RuntimeOptions, Session};
use deepseek_tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

struct Case {
    what: &'static str,
    /// In text form; the last node is the one that must have a kernel.
    graph: &'static str,
    /// What the input `offsets`, `ids` or `keep` holds.
    integers: &'static [i64],
    /// Roundings of a result, in units of `2^-24` of values up to 4.
    roundings: f64,
}

/// A head of 16 elements: a score rounds 16 times, its exponential and the sums over at most 90 keys
/// about 100 times more (the statement of the attention kernel).
const ATTENTION: f64 = 2.0 * (16.0 + 64.0 + 2.0 + 8.0) * 2.0;

const CASES: &[Case] = &[
    Case {
        what: "rotary, halves",
        graph: "input %x: f32[b, 3, 9, 32] input %c: f32[9, 16] input %s: f32[9, 16] \
                %y = RotaryEmbedding(%x, %c, %s) output \"y\" = %y",
        integers: &[],
        roundings: 4.0,
    },
    Case {
        what: "rotary, neighbours, a part of the head, by position",
        graph: "input %x: f32[b, 3, 4, 32] input %c: f32[20, 10] input %s: f32[20, 10] \
                input %ids: i64[b, 4] \
                %y = RotaryEmbedding(%x, %c, %s, %ids) {interleaved = true, rotary_embedding_dim = 20} \
                output \"y\" = %y",
        integers: &[3, 0, 19, 7, 7, 8, 9, 10],
        roundings: 4.0,
    },
    Case {
        what: "rotary, tokens first, in place",
        graph: "input %z: f32[b, 7, 36] input %c: f32[b, 7, 5] input %s: f32[b, 7, 5] \
                %x = Neg(%z) \
                %y = RotaryEmbedding(%x, %c, %s) {num_heads = 3, rotary_embedding_dim = 10} \
                output \"y\" = %y",
        integers: &[],
        roundings: 4.0,
    },
    Case {
        what: "rotary, tokens first, neighbours, positions for all sequences",
        graph: "input %x: f32[b, 4, 24] input %c: f32[20, 6] input %s: f32[20, 6] \
                input %ids: i64[1, 4] \
                %y = RotaryEmbedding(%x, %c, %s, %ids) {interleaved = true, num_heads = 2} \
                output \"y\" = %y",
        integers: &[3, 4, 5, 6],
        roundings: 4.0,
    },
    Case {
        what: "mish",
        graph: "input %x: f32[b, 77] %y = Mish(%x) output \"y\" = %y",
        integers: &[],
        roundings: 6.0,
    },
    Case {
        what: "swish with a factor",
        graph: "input %x: f32[b, 77] %y = Swish(%x) {alpha = 1.702} output \"y\" = %y",
        integers: &[],
        roundings: 6.0,
    },
    Case {
        what: "swish gate with a factor",
        graph: "input %x: f32[b, 77] input %v: f32[b, 77] %y = SwiGLU(%x, %v) {alpha = 0.5} \
                output \"y\" = %y",
        integers: &[],
        roundings: 6.0,
    },
    Case {
        what: "attention with a window on both sides",
        graph: "input %q: f32[b, 4, 50, 16] input %k: f32[b, 2, 90, 16] input %v: f32[b, 2, 90, 8] \
                %y = Attention(%q, %k, %v) {left_window_size = 5, right_window_size = 3} \
                output \"y\" = %y",
        integers: &[],
        roundings: ATTENTION,
    },
    Case {
        what: "causal attention with a window",
        graph: "input %q: f32[b, 90, 32] input %k: f32[b, 90, 32] input %v: f32[b, 90, 32] \
                %y = Attention(%q, %k, %v) {is_causal = true, kv_num_heads = 2, \
                left_window_size = 20, q_num_heads = 2, right_window_size = 2} output \"y\" = %y",
        integers: &[],
        roundings: ATTENTION,
    },
    Case {
        what: "attention over a cache, as ONNX has it",
        graph: "input %q: f32[b, 40, 64] input %k: f32[b, 40, 32] input %v: f32[b, 40, 32] \
                input %m: f32[b, 1, 40, 73] input %pk: f32[b, 2, 33, 16] input %pv: f32[b, 2, 33, 16] \
                %y, %ak, %av = Attention(%q, %k, %v, %m, %pk, %pv) {is_causal = true, \
                kv_num_heads = 2, q_num_heads = 4} output \"y\" = %y output \"k\" = %ak \
                output \"v\" = %av",
        integers: &[],
        roundings: ATTENTION,
    },
    Case {
        what: "attention over caches of different lengths, with a window",
        graph: "input %q: f32[b, 7, 64] input %k: f32[b, 7, 32] input %v: f32[b, 7, 32] \
                input %pk: f32[b, 2, 65, 16] input %pv: f32[b, 2, 65, 16] input %lens: i64[b] \
                %y, %ak, %av = CachedAttention(%q, %k, %v, %pk, %pv, %lens) {kv_num_heads = 2, \
                left_window_size = 30, q_num_heads = 4, softcap = 2.0} output \"y\" = %y \
                output \"k\" = %ak output \"v\" = %av",
        integers: &[72, 19],
        roundings: ATTENTION,
    },
    Case {
        what: "attention over an empty cache, some rows of padding",
        graph: "input %q: f32[b, 9, 32] input %k: f32[b, 9, 16] input %v: f32[b, 9, 16] \
                input %pk: f32[b, 1, 0, 16] input %pv: f32[b, 1, 0, 16] input %lens: i64[b] \
                %y, %ak, %av = CachedAttention(%q, %k, %v, %pk, %pv, %lens) {kv_num_heads = 1, \
                q_num_heads = 2} output \"y\" = %y output \"k\" = %ak output \"v\" = %av",
        integers: &[9, 4],
        roundings: ATTENTION,
    },
    Case {
        what: "packed attention with a window",
        graph: "input %q: f32[90, 64] input %k: f32[90, 32] input %v: f32[90, 32] \
                input %offsets: i64[5] \
                %y = PackedAttention(%q, %k, %v, %offsets) {kv_num_heads = 2, \
                left_window_size = 11, q_num_heads = 4, right_window_size = 0} output \"y\" = %y",
        integers: &[0, 3, 3, 70, 90],
        roundings: ATTENTION,
    },
    Case {
        what: "packed attention with a bias by position",
        graph: "input %q: f32[90, 64] input %k: f32[90, 32] input %v: f32[90, 32] \
                input %offsets: i64[5] input %bias: f32[4, 70, 71] \
                %y = PackedAttention(%q, %k, %v, %offsets, %bias) {kv_num_heads = 2, \
                q_num_heads = 4} output \"y\" = %y",
        integers: &[0, 3, 3, 70, 90],
        roundings: ATTENTION,
    },
    Case {
        what: "packed causal attention with one bias for all heads",
        graph: "input %q: f32[90, 32] input %k: f32[90, 32] input %v: f32[90, 32] \
                input %offsets: i64[5] input %bias: f32[1, 67, 67] \
                %y = PackedAttention(%q, %k, %v, %offsets, %bias) {is_causal = true, \
                kv_num_heads = 2, q_num_heads = 2} output \"y\" = %y",
        integers: &[0, 3, 3, 70, 90],
        roundings: ATTENTION,
    },
];

/// A fixed sequence of values in `[-1, 1)`.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            ((x >> 40) as f32) / 8_388_608.0 - 1.0
        })
        .collect()
}

/// Inputs of a graph, the batch being two.
fn inputs(graph: &Graph, integers: &[i64]) -> Vec<Value> {
    let of = |(i, id): (usize, &deepseek_graph::ValueId)| -> Value {
        let fact = graph.fact(*id);
        let extent = |d: &deepseek_graph::Dim| d.as_const().map_or(2, |n| n as usize);
        let shape: Vec<usize> = fact.shape().unwrap().iter().map(extent).collect();
        let count = shape.iter().product();
        match fact.dtype().unwrap() {
            deepseek_tensor::DType::I64 => Tensor::from_slice(&shape, integers).unwrap().into(),
            _ => Tensor::from_vec(&shape, values(count, 7 + i as u64)).unwrap().into(),
        }
    };
    graph.inputs().iter().enumerate().map(of).collect()
}

#[test]
fn kernels_agree_with_the_reference() {
    let mut failures = Vec::new();
    for case in CASES {
        let source = format!("graph \"g\" {{ {} }}", case.graph);
        let graph =
            text::parse(&source, &BTreeMap::new()).unwrap_or_else(|e| panic!("{e}\n{source}"));
        let inputs = inputs(&graph, case.integers);
        let want = interpret::run(&graph, inputs.clone()).unwrap();
        let all = |values: &[Value]| -> Vec<f32> {
            values.iter().flat_map(|v| v.tensor().unwrap().to_vec::<f32>().unwrap()).collect()
        };
        let want = all(&want);
        for level in Level::available() {
            let mut first: Option<Vec<f32>> = None;
            for threads in [1, 3] {
                let isa = Some(Isa::at(level).unwrap());
                let options = RuntimeOptions { isa, threads, ..RuntimeOptions::default() };
                let runtime = Runtime::new(&options).unwrap();
                let plan = Arc::new(Plan::new(graph.clone(), &runtime).unwrap());
                let (node, kernel) = plan.kernels().last().unwrap();
                if kernel == "reference" {
                    failures.push(format!("{}: {} has no kernel", case.what, node.op.name()));
                    continue;
                }
                let mut session = Session::new(plan);
                let run = session.run(inputs.clone(), &RunOptions::default()).unwrap();
                let got = all(&run.outputs);
                assert_eq!(got.len(), want.len(), "{}", case.what);
                let tolerance = case.roundings * 4.0 * 2f64.powi(-24);
                let off = got
                    .iter()
                    .zip(&want)
                    .map(|(g, w)| (f64::from(*g) - f64::from(*w)).abs())
                    .position(|off| off > tolerance || off.is_nan());
                if let Some(i) = off {
                    failures.push(format!(
                        "{} at {level}, {threads} threads: {} against {} at {i}",
                        case.what, got[i], want[i]
                    ));
                }
                let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                match &first {
                    Some(first) if bits(first) != bits(&got) => {
                        failures.push(format!("{} at {level}: threads change bits", case.what));
                    }
                    _ => first = Some(got),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A position without a row of cosines is named, not read.
#[test]
fn a_position_outside_the_table_is_refused() {
    let source = "graph \"g\" { input %x: f32[1, 2, 8] input %c: f32[5, 4] input %s: f32[5, 4] \
                  input %ids: i64[1, 2] %y = RotaryEmbedding(%x, %c, %s, %ids) {num_heads = 1} \"turn\" \
                  output \"y\" = %y }";
    let graph = text::parse(source, &BTreeMap::new()).unwrap();
    let runtime = Runtime::new(&RuntimeOptions::default()).unwrap();
    let plan = Arc::new(Plan::new(graph.clone(), &runtime).unwrap());
    for ids in [[0, 5], [-1, 0]] {
        let error = Session::new(plan.clone())
            .run(inputs(&graph, &ids), &RunOptions::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("outside the 5 rows") && error.contains("turn"), "{error}");
    }
}
