//! Which of the exporter corpus can run packed, and that those give what each sequence gives alone.
//!
//! `tests/golden/exporters/ragged.tsv` lists the models with the reason why one cannot, or `packed`.
//! Graphs run on the interpreter before and after; both are made of the same scalar references, so
//! results are equal bit for bit.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{corpus, load, models};
use deepseek_graph::passes::ragged::{InputKind, LONGEST, OFFSETS, OutputKind, Packed, pack};
use deepseek_graph::passes::{Diagnostics, Pipeline};
use deepseek_graph::{Graph, Type, Value, interpret};
use deepseek_tensor::{DType, Tensor};

/// A sequence of numbers that look random (Marsaglia, "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// `[len, rest…]` of numbers that fit an input of type `dtype`.
fn numbers(random: &mut Random, dtype: DType, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let ints: Vec<i64> = (0..n).map(|_| random.below(5) as i64).collect();
    match dtype {
        DType::F32 => {
            let floats = ints.iter().map(|&x| x as f32 / 3.0 - 0.7).collect();
            Tensor::from_vec(shape, floats).unwrap()
        }
        _ => deepseek_graph::ops::util::cast_from_i64(dtype, shape, &ints).unwrap(),
    }
}

fn filled(dtype: DType, shape: &[usize], x: i64) -> Tensor {
    let n = shape.iter().product();
    deepseek_graph::ops::util::cast_from_i64(dtype, shape, &vec![x; n]).unwrap()
}

/// Runs the packed graph and the padded one on each sequence alone.
fn check(name: &str, graph: &Graph, packed: &Packed, lengths: &[usize]) {
    let mut random = Random(0x9e37_79b9);
    let tokens: usize = lengths.iter().sum();
    let batch = lengths.len();
    let mut together = Vec::new();
    for input in &packed.inputs {
        let id = graph.find(&input.name).unwrap();
        let Type::Tensor(_, Some(dims)) = &graph.fact(id).ty else { panic!("{name}") };
        let rest = |from: usize| -> Vec<usize> {
            dims[from..].iter().map(|d| d.as_const().unwrap_or(3) as usize).collect()
        };
        let shape = match input.kind {
            InputKind::Mask { .. } => continue,
            InputKind::Rows { .. } => [&[tokens], &rest(2)[..]].concat(),
            InputKind::PerSequence => [&[batch], &rest(1)[..]].concat(),
            InputKind::Whole => rest(0),
        };
        together.push(numbers(&mut random, input.dtype, &shape));
    }
    let mut offsets = vec![0i64];
    for &len in lengths {
        offsets.push(offsets[offsets.len() - 1] + len as i64);
    }
    let longest = *lengths.iter().max().unwrap() as i64;
    let mut inputs: Vec<Value> = together.iter().cloned().map(Value::Tensor).collect();
    inputs.push(Tensor::from_slice(&[offsets.len()], &offsets).unwrap().into());
    inputs.push(Tensor::from_vec(&[longest as usize], (0..longest).collect()).unwrap().into());
    let names: Vec<&str> =
        packed.graph.inputs().iter().map(|id| packed.graph.value(*id).name.as_str()).collect();
    assert_eq!(names[names.len() - 2..], [OFFSETS, LONGEST], "{name}");
    let got = interpret::run(&packed.graph, inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
    for (i, &len) in lengths.iter().enumerate() {
        let start = offsets[i] as usize;
        let mut given = together.iter();
        let mut alone: Vec<Value> = Vec::new();
        for input in &packed.inputs {
            let t = match input.kind {
                InputKind::Mask { token, batch, seq } => {
                    let id = graph.find(&input.name).unwrap();
                    let mut shape = vec![1; graph.fact(id).rank().unwrap()];
                    (shape[batch], shape[seq]) = (1, len);
                    filled(input.dtype, &shape, i64::from(token))
                }
                InputKind::Rows { seq_first } => {
                    let t = given.next().unwrap().slice_axis(0, start, 1, len).unwrap();
                    let lead = if seq_first { [len, 1] } else { [1, len] };
                    t.reshape(&[&lead, &t.shape()[1..]].concat()).unwrap()
                }
                InputKind::PerSequence => given.next().unwrap().slice_axis(0, i, 1, 1).unwrap(),
                InputKind::Whole => given.next().unwrap().clone(),
            };
            alone.push(t.into());
        }
        let want = interpret::run(graph, alone).unwrap();
        for ((output, got), want) in packed.outputs.iter().zip(&got).zip(&want) {
            let (got, want) = (got.tensor().unwrap(), want.tensor().unwrap());
            // Rows first, then the other axes in their order, as packed values have them.
            let (got, want) = match output.kind {
                OutputKind::Whole => (got.clone(), want.clone()),
                OutputKind::PerSequence { batch } => {
                    let mut axes: Vec<usize> = (0..want.rank()).collect();
                    axes.remove(batch);
                    axes.insert(0, batch);
                    (got.slice_axis(0, i, 1, 1).unwrap(), want.permute(&axes).unwrap())
                }
                OutputKind::Rows { batch, seq } => {
                    let axes = (0..want.rank()).filter(|a| *a != seq && Some(*a) != batch);
                    let axes = batch.into_iter().filter(|b| *b != seq).chain([seq]).chain(axes);
                    let want = want.permute(&axes.collect::<Vec<_>>()).unwrap();
                    let merged = batch.is_none_or(|b| b == seq);
                    let shape = if merged { want.shape() } else { &want.shape()[1..] };
                    let want = want.reshape(shape).unwrap();
                    (got.slice_axis(0, start, 1, len).unwrap(), want)
                }
            };
            let bits = |t: &Tensor| t.to_contiguous().unwrap().as_bytes().unwrap().to_vec();
            assert_eq!(got.shape(), want.shape(), "{name} output {}", output.name);
            assert!(bits(&got) == bits(&want), "{name} output {} of sequence {i}", output.name);
        }
    }
}

#[test]
fn the_corpus_packs_as_the_table_says() {
    let mut lines = Vec::new();
    for name in models() {
        let graph = load(&name);
        let graph = Pipeline::portable().run(&graph, &mut Diagnostics::off()).unwrap().graph;
        let outcome = match pack(&graph) {
            Ok(packed) => {
                for lengths in [&[3][..], &[1, 5, 2], &[4, 4], &[7, 1, 1, 3]] {
                    check(&name, &graph, &packed, lengths);
                }
                let masks =
                    packed.inputs.iter().filter(|i| matches!(i.kind, InputKind::Mask { .. }));
                let masks: Vec<&str> = masks.map(|i| i.name.as_str()).collect();
                match masks[..] {
                    [] => "packed".to_owned(),
                    _ => format!("packed without {}", masks.join(", ")),
                }
            }
            Err(e) => e.message().to_owned(),
        };
        lines.push(format!("{name}\t{outcome}"));
    }
    let got = lines.join("\n") + "\n";
    let want = std::fs::read_to_string(corpus().join("ragged.tsv")).unwrap_or_default();
    assert!(got == want, "the table would be:\n{got}");
}
