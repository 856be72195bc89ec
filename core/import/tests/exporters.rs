//! What exporters write, before and after the portable passes.
//!
//! The corpus is `tests/golden/exporters`: tiny models by real exporters, with inputs of two shapes
//! and the outputs of the library that a model comes from. `counts.tsv` beside it says how many
//! nodes a model has before and after the passes, and how many of them are what the passes
//! recognise. To add a model: a case in `make.py`, and its line in the table.
//!
//! Tolerance. Values are of order 1 to 10 and pass two layers of f32 arithmetic in the exporter's
//! library; the interpreter accumulates in f64 and rounds each node's result. A node adds half a
//! unit in the last place, 2⁻²⁴ relative, per rounding; the library's sums of at most 64 terms
//! err by up to 64 of them, and layer norms divide by deviations down to 0.1: 10 · 64 · 2⁻²⁴ ≈ 4e-5
//! per layer, of the largest value. Two layers: 1e-4 · max(1, largest).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{corpus, load, models};
use deepseek_graph::passes::{Diagnostics, Level, Pipeline};
use deepseek_graph::{Dim, Graph, Type, Value, interpret};
use deepseek_import::safetensors;
use deepseek_tensor::{DType, Tensor};
use std::collections::BTreeMap;

const TOLERANCE: f64 = 1e-4;

/// A block of attention as one operator.
const ATTENTION: &[&str] = &["Attention", "CachedAttention"];

/// The graph after the passes, and what they say.
fn rewritten(graph: &Graph) -> (Graph, String) {
    let mut diagnostics = Diagnostics::new(Level::Missed);
    let outcome = Pipeline::recognition().run(graph, &mut diagnostics).unwrap();
    assert!(outcome.converged, "{}: the passes never end", graph.name);
    let mut lines: Vec<String> = diagnostics.entries().iter().map(|e| e.to_string()).collect();
    lines.dedup();
    (outcome.graph, lines.join("\n"))
}

fn count(graph: &Graph, ops: &[&str]) -> usize {
    graph.nodes().iter().filter(|n| ops.contains(&n.op.name())).count()
}

/// One line of the golden table, without the name.
fn counts(before: &Graph, after: &Graph) -> String {
    let columns = [
        before.nodes().len(),
        after.nodes().len(),
        count(after, ATTENTION),
        count(after, &["LayerNormalization", "RMSNormalization"]),
        count(after, &["Gelu", "Swish", "SwiGLU", "HardSwish", "Softplus", "Mish"]),
        count(after, &["RotaryEmbedding"]),
        count(after, &["Softmax"]),
        count(after, &["Transpose"]),
    ];
    columns.map(|n| n.to_string()).join("\t")
}

/// The worst difference between two outputs, in units of max(1, largest); `None` if they differ
/// in type, shape, or in where they are finite.
fn distance(a: &Tensor, b: &Tensor) -> Option<f64> {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return None;
    }
    let values = |t: &Tensor| deepseek_graph::ops::util::to_f64(t).unwrap();
    let (a, b) = (values(a), values(b));
    let largest = b.iter().filter(|x| x.is_finite()).fold(1.0f64, |m, x| m.max(x.abs()));
    a.iter().zip(&b).try_fold(0.0f64, |worst, (x, y)| match x.is_finite() && y.is_finite() {
        true => Some(worst.max((x - y).abs() / largest)),
        false => (x == y).then_some(worst),
    })
}

fn check(name: &str, what: &str, got: &[Value], want: &[Tensor], failures: &mut Vec<String>) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let got = got.tensor().unwrap();
        match distance(got, want) {
            Some(d) if d <= TOLERANCE => {}
            d => failures.push(format!("{name}: {what}: output {i}: {got:?} differs by {d:?}")),
        }
    }
}

#[test]
fn every_model_gives_its_stored_outputs() {
    let mut failures = Vec::new();
    let models = models();
    assert!(models.len() >= 50, "the corpus is there");
    for name in &models {
        let before = load(name);
        let (after, log) = rewritten(&before);
        let path = corpus().join(format!("{name}.safetensors"));
        let stored = safetensors::load(path).unwrap();
        for run in 0..2 {
            let inputs: Vec<Value> = before
                .inputs()
                .iter()
                .map(|v| stored.get(&format!("{run}.in.{}", before.value(*v).name)).unwrap())
                .map(|t| t.clone().into())
                .collect();
            let want: Vec<Tensor> = before
                .outputs()
                .iter()
                .map(|(o, _)| stored.get(&format!("{run}.out.{o}")).unwrap().clone())
                .collect();
            for (what, graph) in [("before", &before), ("after", &after)] {
                match interpret::run(graph, inputs.clone()) {
                    Ok(got) => check(name, what, &got, &want, &mut failures),
                    Err(e) => failures.push(format!("{name}: {what}, run {run}: {e}\n{log}")),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// How many attention blocks a model has, by what it is made of.
fn blocks(name: &str) -> usize {
    let one = ["mha", "sdpa", "qkv", "contrib", "cache", "rotary"];
    match name {
        _ if name.starts_with("activations") || name.starts_with("norms") => 0,
        _ if one.iter().any(|start| name.starts_with(start)) => 1,
        _ => 2,
    }
}

#[test]
fn every_attention_block_is_one_operator() {
    let mut failures = Vec::new();
    for name in models() {
        let (after, log) = rewritten(&load(&name));
        let (attention, softmax) = (count(&after, ATTENTION), count(&after, &["Softmax"]));
        // The one softmax of `norms` stands alone.
        let alone = usize::from(name.starts_with("norms"));
        if (attention, softmax) != (blocks(&name), alone) {
            failures.push(format!("{name}: {attention} Attention, {softmax} Softmax\n{log}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_golden_table_holds() {
    let header = "model\tbefore\tafter\tattention\tnorm\tactivation\trotary\tsoftmax\ttranspose";
    let table = std::fs::read_to_string(corpus().join("counts.tsv")).unwrap();
    let mut got = vec![header.to_owned()];
    for name in models() {
        let before = load(&name);
        let (after, _) = rewritten(&before);
        got.push(format!("{name}\t{}", counts(&before, &after)));
    }
    let want: Vec<&str> = table.lines().collect();
    let differ: Vec<String> =
        got.iter().filter(|line| !want.contains(&line.as_str())).cloned().collect();
    assert!(
        differ.is_empty() && got.len() == want.len(),
        "lines that differ from counts.tsv ({} there, {} now):\n{}",
        want.len(),
        got.len(),
        differ.join("\n")
    );
}

/// A small generator, so that inputs need no dependency: xorshift, seeded.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A random input of the declared type, extents by symbol.
fn random(ty: &Type, name: &str, sizes: &BTreeMap<String, i64>, r: &mut Random) -> Value {
    let Type::Tensor(dtype, Some(shape)) = ty else { panic!("input {name} has the type {ty}") };
    let extent = |d: &Dim| match d.as_const() {
        Some(n) => n as usize,
        None => sizes[d.as_symbol().unwrap().name()] as usize,
    };
    let shape: Vec<usize> = shape.iter().map(extent).collect();
    let n: usize = shape.iter().product();
    match dtype {
        DType::F32 => {
            let v: Vec<f32> = (0..n).map(|_| (r.next() * 4.0 - 2.0) as f32).collect();
            Tensor::from_vec(&shape, v).unwrap().into()
        }
        // Masks: the first of a row is always there.
        DType::Bool => {
            let width = *shape.last().unwrap();
            let hides = name.contains("padding") || name.contains("mask") && shape.len() == 2;
            let v: Vec<bool> =
                (0..n).map(|i| if i % width == 0 { !hides } else { r.next() < 0.5 }).collect();
            Tensor::from_vec(&shape, v).unwrap().into()
        }
        // Lengths, or masks as numbers.
        DType::I32 => {
            let width = shape.last().copied().unwrap_or(1);
            let lens = shape.len() == 1;
            let v: Vec<i32> = (0..n)
                .map(|i| match lens {
                    true => 1 + (r.next() * sizes["seq"] as f64) as i32,
                    false => i32::from(i % width == 0 || r.next() < 0.7),
                })
                .collect();
            Tensor::from_vec(&shape, v).unwrap().into()
        }
        DType::I64 if name.contains("mask") => {
            let width = *shape.last().unwrap();
            let v: Vec<i64> = (0..n).map(|i| i64::from(i % width == 0 || r.next() < 0.7)).collect();
            Tensor::from_vec(&shape, v).unwrap().into()
        }
        DType::I64 => {
            let v: Vec<i64> = (0..n).map(|_| 3 + (r.next() * 30.0) as i64).collect();
            Tensor::from_vec(&shape, v).unwrap().into()
        }
        other => panic!("input {name} has the element type {other}"),
    }
}

#[test]
fn the_passes_keep_the_meaning_at_other_lengths() {
    let mut failures = Vec::new();
    let mut r = Random(0x9e37_79b9_7f4a_7c15);
    for name in models() {
        let before = load(&name);
        let (after, log) = rewritten(&before);
        for (batch, seq) in [(1, 1), (1, 3), (4, 2), (2, 11)] {
            let mut sizes = BTreeMap::new();
            for v in before.inputs() {
                for d in before.fact(*v).shape().unwrap() {
                    if let Some(s) = d.as_symbol() {
                        let n = match s.name() {
                            "batch" => batch,
                            // The cache is as long as what is new.
                            "total" => 2 * seq,
                            _ => seq,
                        };
                        sizes.insert(s.name().to_owned(), n);
                    }
                }
            }
            let inputs: Vec<Value> = before
                .inputs()
                .iter()
                .map(|v| before.value(*v))
                .map(|def| random(&def.fact.ty, &def.name, &sizes, &mut r))
                .collect();
            let want = interpret::run(&before, inputs.clone());
            let got = interpret::run(&after, inputs);
            match (want, got) {
                (Ok(want), Ok(got)) => {
                    let want: Vec<Tensor> =
                        want.iter().map(|v| v.tensor().unwrap().clone()).collect();
                    let what = format!("{batch}×{seq}");
                    check(&name, &what, &got, &want, &mut failures);
                }
                (Err(want), got) => {
                    let got = got.map(|_| ());
                    failures.push(format!("{name}: {batch}×{seq}: before: {want}, after: {got:?}"));
                }
                (Ok(_), Err(e)) => failures.push(format!("{name}: {batch}×{seq}: {e}\n{log}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
