//! `RowBlocks`: blocks of rows on a plan of their own, against the whole at once.
//!
//! To cover another kind of body, add a line to [`CASES`].
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek_graph::ops::{self, RowBlocks};
use deepseek_graph::{Bindings, Dim, Graph, Type, Value, interpret, text};
use deepseek_runtime::{
    Cancel, Isa, Level, LowerOptions, Plan, RunOptions, Runtime, RuntimeOptions, Session, lower,
    prepare,
};
use deepseek_tensor::{Code, DType, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Floats between -1 and 1 by Knuth's MMIX generator.
fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let data = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(shape, data).unwrap()
}

fn parse(source: &str) -> Graph {
    text::parse(source, &BTreeMap::new()).unwrap_or_else(|e| panic!("{e}\n{source}"))
}

/// A graph with one `RowBlocks` over the body; cut inputs lead by as many axes as `axes` says.
fn blocked(body: &Graph, inputs: &[Vec<Dim>], axes: &[i64], rows: i64) -> Graph {
    let mut g = Graph::new("blocked");
    let ids: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            let ty = Type::tensor(DType::F32, shape.clone());
            Some(g.add_input(&format!("x{i}"), ty).unwrap())
        })
        .collect();
    let op = RowBlocks { body: Arc::new(body.clone()), rows, axes: axes.to_vec(), like: vec![] };
    let names: Vec<String> = (0..body.outputs().len()).map(|i| format!("y{i}")).collect();
    let wanted: Vec<Option<&str>> = names.iter().map(|n| Some(n.as_str())).collect();
    let out = g.add_node("blocks", Arc::new(op), &ids, &wanted).unwrap();
    for (name, id) in names.iter().zip(out) {
        g.add_output(name, id.unwrap()).unwrap();
    }
    g
}

fn bits(v: &Value) -> Vec<u8> {
    v.tensor().unwrap().to_contiguous().unwrap().as_bytes().unwrap().to_vec()
}

/// A body, in text form, over `%x0: f32[r, 24]` and further inputs.
struct Case {
    name: &'static str,
    body: &'static str,
    /// Shapes of the outer inputs at `n` rows.
    inputs: fn(usize) -> Vec<Vec<usize>>,
    axes: &'static [i64],
}

const CASES: &[Case] = &[
    Case {
        name: "feed forward",
        body: "input %x0: f32[r, 24] input %w: f32[24, 96] input %v: f32[96, 24] \
               %a = MatMul(%x0, %w) %b = Gelu(%a) %c = MatMul(%b, %v) %d = Add(%c, %x0) \
               %e = Softmax(%d) {axis = -1} output \"y\" = %e",
        inputs: |n| vec![vec![n, 24], vec![24, 96], vec![96, 24]],
        axes: &[1],
    },
    Case {
        name: "leading axes are rows together, two cut inputs, two outputs",
        body: "input %x0: f32[r, 24] input %x1: f32[r, 24] %a = Add(%x0, %x1) \
               %b = Concat(%a, %x0, %a) {axis = -1} %c = Tanh(%b) output \"a\" = %a \
               output \"c\" = %c",
        inputs: |n| vec![vec![n / 5, 5, 24], vec![n, 24]],
        axes: &[2, 1],
    },
    Case {
        name: "an input, an input's view, one value twice",
        body: "input %x0: f32[r, 24] const %s: i64[3] = [0, 4, 6] %a = Reshape(%x0, %s) \
               %b = Relu(%x0) output \"a\" = %a output \"x\" = %x0 output \"b\" = %b \
               output \"bb\" = %b",
        inputs: |n| vec![vec![n, 24]],
        axes: &[1],
    },
    Case {
        name: "operators without kernels",
        body: "input %x0: f32[r, 24] %a = Atan(%x0) %b = Softsign(%a) %c = Exp(%b) \
               %d = Softsign(%c) output \"d\" = %d",
        inputs: |n| vec![vec![n, 24]],
        axes: &[1],
    },
    Case {
        name: "matrices in rows",
        body: "input %x0: f32[r, 5, 24] const %p: i64[1] = [0] \
               %t = Transpose(%x0) {perm = [0, 2, 1]} %s = MatMul(%x0, %t) \
               %a = Softmax(%s) {axis = -1} %y = MatMul(%a, %x0) output \"y\" = %y",
        inputs: |n| vec![vec![n / 5, 5, 24]],
        axes: &[1],
    },
];

#[test]
fn blocks_have_the_bits_of_the_whole_and_the_planned_bytes() {
    for level in [Level::Scalar, Level::Avx2, Level::Avx512] {
        let Some(isa) = Isa::at(level) else { continue };
        for threads in [1, 3] {
            let options = RuntimeOptions { threads, isa: Some(isa), ..RuntimeOptions::default() };
            let runtime = Runtime::new(&options).unwrap();
            for case in CASES {
                for rows in [1, 4, 7, 64] {
                    check(case, rows, &runtime, &format!("{}, blocks of {rows}", case.name));
                }
            }
        }
    }
}

fn check(case: &Case, rows: i64, runtime: &Runtime, what: &str) {
    let body = parse(&format!("graph \"body\" {{ {} }}", case.body));
    // The first extent of the first input is open.
    let symbolic = |shape: Vec<usize>, i: usize| -> Vec<Dim> {
        let dims = shape.into_iter().map(Dim::from);
        dims.enumerate().map(|(a, d)| if (i, a) == (0, 0) { Dim::sym("n") } else { d }).collect()
    };
    let shapes = (case.inputs)(5);
    let outer: Vec<_> = shapes.into_iter().enumerate().map(|(i, s)| symbolic(s, i)).collect();
    let outer: Vec<Vec<Dim>> = outer
        .into_iter()
        .enumerate()
        .map(|(i, s)| match (i, case.axes.get(i), case.axes[0]) {
            (1.., Some(1), 2) => [Dim::sym("n") * 5].into_iter().chain(s[1..].to_vec()).collect(),
            _ => s,
        })
        .collect();
    let graph = blocked(&body, &outer, case.axes, rows);
    let plan = Arc::new(Plan::new(graph.clone(), runtime).unwrap());
    let whole = Arc::new(Plan::new(body, runtime).unwrap());
    assert_eq!(plan.kernels().map(|(_, k)| k).collect::<Vec<_>>(), ["row-blocks"], "{what}");
    let (mut session, mut at_once) = (Session::new(plan.clone()), Session::new(whole));
    for n in [5, 20, 35, 0, 65] {
        let what = format!("{what}, {n} rows");
        let shapes = (case.inputs)(n);
        let feed: Vec<Tensor> =
            shapes.iter().zip(1..).map(|(s, seed)| random(s, seed + n as u64)).collect();
        let mut at = Bindings::new();
        at.bind("n", feed[0].shape()[0] as i64).unwrap();
        let report = plan.memory(&at).unwrap();
        let values: Vec<Value> = feed.iter().cloned().map(Value::Tensor).collect();
        let options = RunOptions { profile: true, ..RunOptions::default() };
        let got = session.run(values.clone(), &options).unwrap_or_else(|e| panic!("{e}\n{what}"));
        assert_eq!(report.dynamic_values, 0, "{what}");
        assert_eq!(report.planned_bytes(), session.observed_bytes(), "{what}\n{report}");
        for e in &got.profile.as_ref().unwrap().events {
            assert!(e.actual_bytes <= e.planned_bytes, "{e:?} in {what}");
            assert!(e.planned_bytes <= report.planned_bytes(), "{e:?} in {what}");
            assert!(e.node == "blocks" || e.node.starts_with("blocks > "), "{}", e.node);
        }
        let got: Vec<_> = got.outputs;
        let flat = |(t, i): (&Tensor, usize)| match case.axes.get(i) {
            Some(&axes) => {
                let (lead, rest) = t.shape().split_at(axes as usize);
                let rows = lead.iter().product();
                t.reshape(&std::iter::once(rows).chain(rest.to_vec()).collect::<Vec<_>>()).unwrap()
            }
            None => t.clone(),
        };
        let want = at_once.run_tensors(feed.iter().zip(0..).map(flat).collect()).unwrap();
        assert_eq!(got.len(), want.len(), "{what}");
        let lead = &feed[0].shape()[..case.axes[0] as usize];
        let reference = interpret::run(&graph, values).unwrap();
        for ((got, want), reference) in got.iter().zip(&want).zip(&reference) {
            let shape: Vec<_> = lead.iter().chain(&want.shape()[1..]).copied().collect();
            assert_eq!(got.tensor().unwrap().shape(), shape, "{what}");
            assert_eq!(reference.tensor().unwrap().shape(), shape, "{what}");
            assert!(bits(got) == bits(&want.clone().into()), "other bits: {what}");
            let pairs = got.tensor().unwrap().to_vec::<f32>().unwrap();
            let pairs = pairs.into_iter().zip(reference.tensor().unwrap().to_vec::<f32>().unwrap());
            // Sums of 96 products of numbers below 8, each off by some ulp.
            pairs.for_each(|(x, y)| assert!((x - y).abs() <= 1e-4, "{x} for {y}: {what}"));
        }
    }
}

/// A feed-forward block of 32 columns that widens to 1,024.
fn feed_forward() -> Graph {
    let mut g = Graph::new("ffn");
    let shape = [Dim::sym("b"), Dim::sym("s"), Dim::from(32i64)];
    let x = g.add_input("x", Type::tensor(DType::F32, shape)).unwrap();
    let w = g.add_constant("w", random(&[32, 1024], 1)).unwrap();
    let v = g.add_constant("v", random(&[1024, 32], 2)).unwrap();
    let c = g.add_constant("c", random(&[1024], 3)).unwrap();
    let x = g.add("in", ops::Tanh::default(), &[x]).unwrap();
    let a = g.add("up", ops::MatMul::default(), &[x, w]).unwrap();
    let a = g.add("bias", ops::Add::default(), &[a, c]).unwrap();
    let h = g.add("gelu", ops::Gelu::default(), &[a]).unwrap();
    let y = g.add("down", ops::MatMul::default(), &[h, v]).unwrap();
    let y = g.add("residual", ops::Add::default(), &[y, x]).unwrap();
    let y = g.add("softmax", ops::Softmax::default(), &[y]).unwrap();
    let y = g.add("out", ops::Tanh::default(), &[y]).unwrap();
    g.add_output("y", y).unwrap();
    g
}

fn at(b: i64, s: i64) -> Bindings {
    let mut at = Bindings::new();
    at.bind("b", b).unwrap();
    at.bind("s", s).unwrap();
    at
}

#[test]
fn wide_layers_run_in_blocks_with_the_bits_of_the_whole() {
    for level in Level::available_vectors() {
        for threads in [1, 2, 3] {
            let isa = Isa::at(level);
            let options = RuntimeOptions { threads, isa, ..RuntimeOptions::default() };
            let runtime = Runtime::new(&options).unwrap();
            let whole = LowerOptions { whole: true, ..LowerOptions::default() };
            let whole =
                Arc::new(lower(&prepare(feed_forward()).unwrap(), &runtime, &whole).unwrap());
            let blocks =
                lower(&prepare(feed_forward()).unwrap(), &runtime, &LowerOptions::default())
                    .unwrap();
            let blocks = Arc::new(blocks);
            let cuts = blocks.cuts(&at(11, 100)).unwrap();
            assert_eq!(cuts.len(), 1, "{cuts:?}");
            assert_eq!(
                (cuts[0].rows, cuts[0].blocks),
                (1100, 1100u64.div_ceil(cuts[0].block_rows))
            );
            assert_eq!(cuts[0].extra_weight_bytes, cuts[0].weight_bytes * (cuts[0].blocks - 1));
            // The wide rows outside of a block are saved, whatever the panels that threads pack take.
            let outside = (cuts[0].rows - cuts[0].block_rows) * 1024 * 4;
            assert!(cuts[0].bytes_in_blocks + outside <= cuts[0].bytes_at_once, "{cuts:?}");
            let more = blocks.cuts(&at(13, 100)).unwrap();
            assert!(more[0].bytes_in_blocks * 2 < more[0].bytes_at_once, "{more:?}");
            assert!(whole.cuts(&at(11, 100)).unwrap().is_empty());
            let (mut whole, mut blocks) = (Session::new(whole), Session::new(blocks));
            for (b, s) in [(1, 1), (3, 168), (11, 100)] {
                let x = random(&[b, s, 32], 9);
                let want = whole.run_tensors(vec![x.clone()]).unwrap();
                let got = blocks.run_tensors(vec![x]).unwrap();
                let what = format!("{level:?}, {threads} threads, {b} x {s}");
                assert!(bits(&got[0].clone().into()) == bits(&want[0].clone().into()), "{what}");
                let report = blocks.plan().memory(&at(b as i64, s as i64)).unwrap();
                assert_eq!(report.planned_bytes(), blocks.observed_bytes(), "{what}");
            }
            // What the report promises of the cut is what the run saves.
            let saved = cuts[0].bytes_at_once - cuts[0].bytes_in_blocks;
            assert_eq!(whole.observed_bytes() - blocks.observed_bytes(), saved, "{cuts:?}");
            let constants = blocks.plan().memory(&at(1, 1)).unwrap().constant_bytes;
            assert_eq!(constants, (2 * 32 * 1024 + 1024) * 4);
        }
    }
}

#[test]
fn a_budget_is_met_or_refused_with_the_least_that_would_do() {
    let runtime =
        Runtime::new(&RuntimeOptions { threads: 1, ..RuntimeOptions::default() }).unwrap();
    let with = |budget, at| {
        let options = LowerOptions { whole: true, memory_budget_bytes: budget, at };
        lower(&prepare(feed_forward()).unwrap(), &runtime, &options)
    };
    let extents = Some(at(4, 75));
    let bytes = |plan: &Plan| plan.memory(&at(4, 75)).unwrap().planned_bytes();
    let whole = bytes(&with(u64::MAX, extents.clone()).unwrap());
    assert!(with(whole, extents.clone()).unwrap().cuts(&at(4, 75)).unwrap().is_empty());
    let cut = with(whole - 1, extents.clone()).unwrap();
    assert!(bytes(&cut) < whole && !cut.cuts(&at(4, 75)).unwrap().is_empty());
    let e = with(1, extents.clone()).err().unwrap();
    assert_eq!(e.code(), Code::BudgetExceeded);
    let text = e.to_string();
    let least = text.split("takes ").nth(1).and_then(|t| t.split(' ').next());
    let least: u64 = least.unwrap().parse().unwrap();
    assert!(least < bytes(&cut), "{text}");
    assert_eq!(bytes(&with(least, extents.clone()).unwrap()), least);
    assert_eq!(
        with(least - 1, extents).err().unwrap().to_string(),
        text.replace(" is 1;", &format!(" is {};", least - 1))
    );

    // Bounds of the symbols say as much as extents.
    let bounded = |budget| {
        let mut graph = feed_forward();
        graph.set_bound("b", 1, Some(4)).unwrap();
        graph.set_bound("s", 1, Some(75)).unwrap();
        lower(
            &prepare(graph).unwrap(),
            &runtime,
            &LowerOptions { whole: true, memory_budget_bytes: budget, at: None },
        )
    };
    assert!(bytes(&bounded(whole - 1).unwrap()) < whole);
    assert_eq!(bounded(1).err().unwrap().code(), Code::BudgetExceeded);

    // Without either, a run that takes more is refused.
    let mut session = Session::new(Arc::new(with(whole, None).unwrap()));
    session.run_tensors(vec![random(&[4, 75, 32], 1)]).unwrap();
    let e = session.run_tensors(vec![random(&[40, 75, 32], 1)]).unwrap_err();
    assert_eq!(e.code(), Code::BudgetExceeded);
    assert!(e.to_string().contains(&whole.to_string()), "{e}");
}

#[test]
fn a_run_ends_between_blocks() {
    let body = parse(&format!("graph \"body\" {{ {} }}", CASES[0].body));
    let shapes =
        [vec![Dim::sym("n"), 24.into()], vec![24.into(), 96.into()], vec![96.into(), 24.into()]];
    let runtime =
        Runtime::new(&RuntimeOptions { threads: 1, ..RuntimeOptions::default() }).unwrap();
    let mut session =
        Session::new(Arc::new(Plan::new(blocked(&body, &shapes, &[1], 1), &runtime).unwrap()));
    let feed: Vec<Value> =
        (CASES[0].inputs)(200_000).iter().map(|s| Value::Tensor(random(s, 1))).collect();
    // The blocks are the only node: a deadline that is looked at before nodes alone would let a
    // run that has started succeed. It takes many milliseconds on any machine.
    let cancel = Cancel::new().timeout(Duration::from_millis(1));
    let options = RunOptions { cancel, ..RunOptions::default() };
    assert_eq!(session.run(feed, &options).unwrap_err().code(), Code::Timeout);
}

#[test]
fn errors_name_the_node_inside() {
    let g = parse(
        "graph \"g\" { input %i: i64[n] %y = RowBlocks(%i) {rows = 2, axes = [1], \
         body = graph \"b\" { input %i: i64[r] const %t: f32[2, 1] = [1, 2] \
         %picked = Gather(%t, %i) {axis = 0} output \"y\" = %picked }} output \"y\" = %y }",
    );
    let runtime =
        Runtime::new(&RuntimeOptions { threads: 1, ..RuntimeOptions::default() }).unwrap();
    let mut session = Session::new(Arc::new(Plan::new(g, &runtime).unwrap()));
    let x = |v: &[i64]| Tensor::from_slice(&[v.len()], v).unwrap();
    let y = session.run_tensors(vec![x(&[1, 0, 1])]).unwrap();
    assert_eq!(y[0].to_vec::<f32>().unwrap(), [2.0, 1.0, 2.0]);
    let e = session.run_tensors(vec![x(&[0, 1, 7])]).unwrap_err();
    assert!(e.to_string().contains("'y > picked'"), "{e}");
}
