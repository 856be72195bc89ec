//! Packed graphs of small models against the sequences alone, and reasons where there is none.

use super::{InputKind, OutputKind, Packed, pack};
use crate::ops::util::cast_from_i64;
use crate::{Dim, Graph, Operator, Type, Value, ValueId, interpret, ops};
use deepseek_tensor::{Code, DType, Tensor};

const HIDDEN: usize = 4;

/// A graph over `hidden f32[batch, seq, 4]` and `mask i64[batch, seq]`.
struct Model {
    graph: Graph,
    hidden: ValueId,
    mask: ValueId,
}

impl Model {
    fn new() -> Self {
        let mut graph = Graph::new("model");
        let (batch, seq) = (Dim::sym("batch"), Dim::sym("seq"));
        let rows = Type::tensor(DType::F32, [batch.clone(), seq.clone(), Dim::from(HIDDEN)]);
        let hidden = graph.add_input("hidden", rows).unwrap();
        let mask = graph.add_input("mask", Type::tensor(DType::I64, [batch, seq])).unwrap();
        Model { graph, hidden, mask }
    }

    fn add(&mut self, name: &str, op: impl Operator, inputs: &[ValueId]) -> ValueId {
        self.graph.add(name, op, inputs).unwrap()
    }

    fn floats(&mut self, shape: &[usize], data: &[f32]) -> ValueId {
        let name = self.graph.unique_name("constant");
        self.graph.add_constant(&name, Tensor::from_slice(shape, data).unwrap()).unwrap()
    }

    fn ints(&mut self, data: &[i64]) -> ValueId {
        let name = self.graph.unique_name("ints");
        let t = Tensor::from_slice(&[data.len()], data).unwrap();
        self.graph.add_constant(&name, t).unwrap()
    }

    fn float_mask(&mut self) -> ValueId {
        let cast = ops::Cast { to: DType::F32, ..Default::default() };
        self.add("float_mask", cast, &[self.mask])
    }

    /// `(1 − mask) · by`, as `[batch, 1, 1, seq]`.
    fn attention_bias(&mut self, by: f32) -> ValueId {
        let (mask, axes) = (self.float_mask(), self.ints(&[1, 2]));
        let mask = self.add("wide_mask", ops::Unsqueeze {}, &[mask, axes]);
        let (one, by) = (self.floats(&[], &[1.0]), self.floats(&[], &[by]));
        let hidden = self.add("hidden_keys", ops::Sub {}, &[one, mask]);
        self.add("bias", ops::Mul {}, &[hidden, by])
    }

    fn attention(&mut self, bias: ValueId) -> ValueId {
        let heads = Some(2);
        let op = ops::Attention { q_num_heads: heads, kv_num_heads: heads, ..Default::default() };
        let h = self.hidden;
        self.add("attention", op, &[h, h, h, bias])
    }

    fn packed(&mut self, output: ValueId) -> Packed {
        self.graph.add_output("y", output).unwrap();
        pack(&self.graph).unwrap()
    }

    fn refused(&mut self, output: ValueId) -> String {
        self.graph.add_output("y", output).unwrap();
        let e = pack(&self.graph).unwrap_err();
        assert_eq!(e.code(), Code::Unsupported);
        e.message().to_owned()
    }
}

fn rows(tokens: usize) -> Tensor {
    let at = |i: usize| ((i * 29 + 7) % 23) as f32 / 9.0 - 1.2;
    Tensor::from_vec(&[tokens, HIDDEN], (0..tokens * HIDDEN).map(at).collect()).unwrap()
}

/// Runs the packed graph over sequences of the given lengths, and the graph on each alone.
fn check(model: &Model, packed: &Packed, lengths: &[usize]) {
    let tokens = lengths.iter().sum();
    let x = rows(tokens);
    let mut offsets = vec![0i64];
    for &len in lengths {
        offsets.push(offsets[offsets.len() - 1] + len as i64);
    }
    let longest = *lengths.iter().max().unwrap() as i64;
    let list = |v: Vec<i64>| Value::Tensor(Tensor::from_vec(&[v.len()], v).unwrap());
    let inputs = vec![x.clone().into(), list(offsets.clone()), list((0..longest).collect())];
    let got = interpret::run(&packed.graph, inputs).unwrap();
    let got = got[0].tensor().unwrap();
    for (i, &len) in lengths.iter().enumerate() {
        let start = offsets[i] as usize;
        let own = x.slice_axis(0, start, 1, len).unwrap().reshape(&[1, len, HIDDEN]).unwrap();
        let mask = cast_from_i64(DType::I64, &[1, len], &vec![1; len]).unwrap();
        let want = interpret::run(&model.graph, vec![own.into(), mask.into()]).unwrap();
        let want = want[0].tensor().unwrap();
        let got = match packed.outputs[0].kind {
            OutputKind::Rows { .. } => got.slice_axis(0, start, 1, len).unwrap(),
            OutputKind::PerSequence { .. } => got.slice_axis(0, i, 1, 1).unwrap(),
            OutputKind::Whole => got.clone(),
        };
        let bits = |t: &Tensor| t.to_contiguous().unwrap().as_bytes().unwrap().to_vec();
        assert!(bits(&got) == bits(want), "sequence {i} of {lengths:?}: {got:?}, {want:?}");
    }
}

fn check_all(model: &Model, packed: &Packed) {
    for lengths in [&[1][..], &[3, 1, 4], &[2, 2], &[6, 1, 1, 2, 5]] {
        check(model, packed, lengths);
    }
}

#[test]
fn a_mask_that_hides_keys_goes_and_attention_takes_offsets() {
    for by in [-10_000.0, f32::MIN] {
        let mut m = Model::new();
        let bias = m.attention_bias(by);
        let y = m.attention(bias);
        let packed = m.packed(y);
        let ops: Vec<&str> = packed.graph.nodes().iter().map(|n| n.op.name()).collect();
        assert_eq!(ops, ["PackedAttention"]);
        let kind = InputKind::Mask { token: true, batch: 0, seq: 1 };
        assert_eq!(packed.inputs[1].kind, kind);
        check_all(&m, &packed);
    }
}

#[test]
fn a_mask_that_hides_too_little_or_adds_something_is_refused() {
    // 0 · −∞ is no number: the mask adds something where it is 1.
    for (by, why) in [(-10.0, "does not hide"), (f32::NEG_INFINITY, "mask")] {
        let mut m = Model::new();
        let bias = m.attention_bias(by);
        let y = m.attention(bias);
        let e = m.refused(y);
        assert!(e.contains("'attention'") && e.contains(why), "{e}");
    }
}

/// `sum(mask · hidden) / clamp(sum(mask))`, as sentence-transformers exports it.
#[test]
fn a_mean_over_the_mask_is_a_mean_over_each_sequence() {
    let mut m = Model::new();
    let (mask, last, axis) = (m.float_mask(), m.ints(&[2]), m.ints(&[1]));
    let mask = m.add("column", ops::Unsqueeze {}, &[mask, last]);
    let shape = m.add("shape", ops::Shape::default(), &[m.hidden]);
    let mask = m.add("expanded", ops::Expand {}, &[mask, shape]);
    let weighted = m.add("weighted", ops::Mul {}, &[m.hidden, mask]);
    let drop = ops::ReduceSum { keepdims: false, ..Default::default() };
    let sum = m.add("sum", drop.clone(), &[weighted, axis]);
    let count = m.add("count", drop, &[mask, axis]);
    let least = m.floats(&[], &[1e-9]);
    let count = m.add("clamped", ops::Max {}, &[count, least]);
    let y = m.add("mean", ops::Div {}, &[sum, count]);
    let packed = m.packed(y);
    assert_eq!(packed.outputs[0].kind, OutputKind::PerSequence { batch: 0 });
    check_all(&m, &packed);
}

#[test]
fn a_maximum_needs_the_mask_to_hide_by_a_small_number() {
    for (fill, fits) in [(f32::MIN, true), (0.0, false)] {
        let mut m = Model::new();
        let bool = ops::Cast { to: DType::Bool, ..Default::default() };
        let (mask, last, axis) = (m.add("seen", bool, &[m.mask]), m.ints(&[2]), m.ints(&[1]));
        let mask = m.add("column", ops::Unsqueeze {}, &[mask, last]);
        let least = m.floats(&[], &[fill]);
        let seen = m.add("shown", ops::Where {}, &[mask, m.hidden, least]);
        let drop = ops::ReduceMax { keepdims: false, ..Default::default() };
        let y = m.add("max", drop, &[seen, axis]);
        if fits {
            let packed = m.packed(y);
            check_all(&m, &packed);
        } else {
            let e = m.refused(y);
            assert!(e.contains("'max'") && e.contains("hiding"), "{e}");
        }
    }
}

#[test]
fn rows_keep_their_bits_through_layouts() {
    let mut m = Model::new();
    let weights: Vec<f32> = (0..HIDDEN * HIDDEN).map(|i| i as f32 / 7.0 - 1.0).collect();
    let w = m.floats(&[HIDDEN, HIDDEN], &weights);
    let flat = m.ints(&[-1, HIDDEN as i64]);
    let rows = m.add("rows", ops::Reshape::default(), &[m.hidden, flat]);
    let rows = m.add("product", ops::MatMul {}, &[rows, w]);
    let shape = m.add("shape", ops::Shape::default(), &[m.hidden]);
    let back = m.add("back", ops::Reshape::default(), &[rows, shape]);
    let first = m.add("seq_first", ops::Transpose { perm: vec![1, 0, 2] }, &[back]);
    let soft = m.add("soft", ops::Softmax { axis: 2 }, &[first]);
    let y = m.add("batch_first", ops::Transpose { perm: vec![1, 0, 2] }, &[soft]);
    let packed = m.packed(y);
    assert_eq!(packed.outputs[0].kind, OutputKind::Rows { batch: Some(0), seq: 1 });
    check_all(&m, &packed);
}

#[test]
fn places_follow_each_sequence() {
    let mut m = Model::new();
    let table: Vec<f32> = (0..6 * HIDDEN).map(|i| i as f32).collect();
    let table = m.floats(&[6, HIDDEN], &table);
    let (zero, one) = (m.ints(&[0]), m.ints(&[1]));
    let len = m.add("len", ops::Shape { start: 1, end: Some(2) }, &[m.hidden]);
    let places = m.add("places", ops::Slice {}, &[table, zero, len, zero, one]);
    let y = m.add("sum", ops::Add {}, &[m.hidden, places]);
    let packed = m.packed(y);
    // The table bounds the length, as it does for a sequence alone.
    assert_eq!(packed.lengths, (1, Some(6)));
    check_all(&m, &packed);
}

#[test]
fn graphs_that_mix_rows_name_the_node_and_the_reason() {
    type Build = fn(&mut Model) -> ValueId;
    let cases: [(Build, &[&str]); 7] = [
        (
            |m| m.add("over_tokens", ops::Softmax { axis: 1 }, &[m.hidden]),
            &["'over_tokens'", "Softmax", "axis 1"],
        ),
        (
            |m| {
                let axis = m.ints(&[0]);
                m.add("over_batch", ops::ReduceSum::default(), &[m.hidden, axis])
            },
            &["'over_batch'", "batch"],
        ),
        (
            |m| {
                let t = m.add("t", ops::Transpose { perm: vec![0, 2, 1] }, &[m.hidden]);
                m.add("scores", ops::MatMul {}, &[m.hidden, t])
            },
            &["'scores'", "MatMul", "one another"],
        ),
        (
            |m| m.add("joined", ops::Concat { axis: 1 }, &[m.hidden, m.hidden]),
            &["'joined'", "Concat"],
        ),
        (
            |m| {
                let t = m.add("channels", ops::Transpose { perm: vec![0, 2, 1] }, &[m.hidden]);
                let w = m.floats(&[2, HIDDEN, 3], &[0.5; 2 * HIDDEN * 3]);
                m.add("conv", ops::Conv::default(), &[t, w])
            },
            &["'conv'", "Conv", "mix"],
        ),
        (|m| m.add("found", ops::NonZero {}, &[m.hidden]), &["'found'", "NonZero"]),
        (
            |m| {
                let axis = m.ints(&[2]);
                let queries = m.add("queries", ops::Unsqueeze {}, &[m.hidden, axis]);
                let axis = m.ints(&[1]);
                let keys = m.add("keys", ops::Unsqueeze {}, &[m.hidden, axis]);
                m.add("pairs", ops::Sub {}, &[queries, keys])
            },
            &["'pairs'", "Sub"],
        ),
    ];
    for (build, words) in cases {
        let mut m = Model::new();
        let y = build(&mut m);
        // Something after it, so that the node is named and not the output.
        let y = if m.graph.fact(y).dtype().unwrap() == DType::F32 {
            m.add("after", ops::Relu {}, &[y])
        } else {
            y
        };
        let e = m.refused(y);
        for word in words {
            assert!(e.contains(word), "'{word}' in: {e}");
        }
    }
}
