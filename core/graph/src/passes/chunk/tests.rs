//! What is cut, what is not and why, and that the meaning stays.
//!
//! To cover another case, add a row to one of the tables.

use super::*;
use crate::passes::{DeadCode, Diagnostics, Level, Pipeline};
use crate::{Bindings, Value, interpret, text};
use deepseek_tensor::{DType, Tensor};

fn parse(source: &str) -> Graph {
    text::parse(source, &BTreeMap::new()).unwrap_or_else(|e| panic!("{e}\n{source}"))
}

/// Cuts whatever saves bytes, in blocks of at most three rows.
fn small() -> CutRows {
    CutRows {
        block_bytes: u64::MAX,
        max_rows: 3,
        min_rows: 1,
        min_row_bytes: 0,
        min_ratio: 1.0,
        coarse: false,
    }
}

fn cut(graph: &Graph, pass: CutRows) -> (Graph, Vec<String>) {
    let mut diagnostics = Diagnostics::new(Level::Missed);
    let pipeline = Pipeline::new(Vec::new()).with(pass).with(DeadCode).max_rounds(4);
    let graph = pipeline.run(graph, &mut diagnostics).unwrap().graph;
    (graph, diagnostics.entries().iter().map(|e| e.to_string()).collect())
}

/// Operators of the graph, those of a body in brackets.
fn shape_of(graph: &Graph) -> String {
    let op = |n: &crate::Node| match n.op.downcast::<RowBlocks>() {
        Some(blocks) => format!("[{}]x{}", shape_of(&blocks.body), blocks.rows),
        None => n.op.name().to_owned(),
    };
    graph.nodes().iter().map(op).collect::<Vec<_>>().join(" ")
}

fn random(shape: &[usize], seed: &mut u64) -> Tensor {
    let mut next = || {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let data: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(shape, data).unwrap()
}

fn inputs(graph: &Graph, at: &Bindings) -> Vec<Value> {
    let mut seed = 5;
    let input = |id: &ValueId| {
        let fact = graph.fact(*id);
        let shape: Vec<usize> =
            fact.shape().unwrap().iter().map(|d| d.eval(at).unwrap() as usize).collect();
        match fact.dtype().unwrap() {
            DType::I64 => {
                let n: usize = shape.iter().product();
                Tensor::from_vec(&shape, (0..n as i64).map(|i| i % 4).collect()).unwrap().into()
            }
            _ => random(&shape, &mut seed).into(),
        }
    };
    graph.inputs().iter().map(input).collect()
}

/// Both graphs give the same for several numbers of rows.
fn check_same(before: &Graph, after: &Graph, what: &str) {
    for (b, s) in [(1, 1), (2, 5), (4, 3), (7, 2)] {
        let mut at = Bindings::new();
        for (name, n) in [("b", b), ("s", s), ("n", b * s)] {
            at.bind(name, n).unwrap();
        }
        let x = inputs(before, &at);
        let want = interpret::run(before, x.clone()).unwrap();
        let got = interpret::run(after, x).unwrap();
        for (got, want) in got.iter().zip(&want) {
            assert!(
                crate::same_tensor(got.tensor().unwrap(), want.tensor().unwrap()),
                "{what} at b = {b}, s = {s}: {got:?} for {want:?}"
            );
        }
    }
}

const FFN: &str = "%a = MatMul(%x, %w) %h = Gelu(%a) %y = MatMul(%h, %v)";

/// Lines between weights `%w` `[4, 16]`, `%v` `[16, 4]`, `%c` `[16]` and the output `%y`, and the
/// operators after the cut.
const CUT: &[(&str, &str)] = &[
    (
        "input %x: f32[n, 4] %a = MatMul(%x, %w) %h = Gelu(%a) %y = MatMul(%h, %v)",
        "[MatMul Gelu MatMul]x3",
    ),
    (
        "input %x: f32[b, s, 4] %a = MatMul(%x, %w) %h = Add(%a, %c) %y = MatMul(%h, %v)",
        "[MatMul Add MatMul]x3",
    ),
    // What is added at the end goes along: its input is read anyway, and goes with it.
    (
        "input %z: f32[n, 4] %x = Relu(%z) %a = MatMul(%x, %w) %h = Relu(%a) %f = MatMul(%h, %v) \
      %g = Add(%f, %x) %y = Softmax(%g) {axis = 1}",
        "Relu [MatMul Relu MatMul Add Softmax]x3",
    ),
    // Axes that count rows may come together and apart.
    (
        "input %x: f32[b, s, 4] const %t: i64[2] = [-1, 4] %r = Reshape(%x, %t) %a = Gemm(%r, %w) \
      %h = Tanh(%a) %y = MatMul(%h, %v)",
        "Reshape [Gemm Tanh MatMul]x3",
    ),
    // Axes behind the rows are counted anew.
    (
        "input %x: f32[b, s, 4] %a = MatMul(%x, %w) %p, %q = Split(%a) {axis = 2, num_outputs = 2} \
      %h = Mul(%p, %q) %i = Concat(%h, %a) {axis = 2} const %d: i64[1] = [2] \
      %y = ReduceSum(%i, %d) {keepdims = true}",
        "[MatMul Split Mul Concat ReduceSum]x3",
    ),
    (
        "input %x: f32[b, s, 4] %a = MatMul(%x, %w) const %t: i64[4] = [0, 0, 2, 8] \
      %r = Reshape(%a, %t) %p = Transpose(%r) {perm = [0, 1, 3, 2]} const %d: i64[2] = [2, 3] \
      %y = ReduceMax(%p, %d) {keepdims = false}",
        "[MatMul Reshape Transpose ReduceMax]x3",
    ),
    // Leading ones of a constant go.
    (
        "input %x: f32[b, s, 4] %a = MatMul(%x, %w) const %e: f32[1, 1, 16] = \
      [1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2] %h = Mul(%a, %e) %y = MatMul(%h, %v)",
        "[MatMul Mul MatMul]x3",
    ),
    // Rows of a table.
    (
        "input %i: i64[b, s] %x = Gather(%w, %i) {axis = 0} %h = Relu(%x) %y = MatMul(%h, %v)",
        "[Gather Relu MatMul]x3",
    ),
];

/// Lines, and a part of what the pass says it missed.
const LEFT: &[(&str, &str)] = &[
    // Nothing gets narrower again.
    ("input %x: f32[n, 4] %a = MatMul(%x, %w) %y = Gelu(%a)", ""),
    // Sums over all rows.
    (
        "input %x: f32[n, 4] %a = MatMul(%x, %w) const %d: i64[1] = [0] \
      %h = ReduceSum(%a, %d) {keepdims = true} %y = MatMul(%h, %v)",
        "",
    ),
    (
        "input %x: f32[n, 4] %a = MatMul(%x, %w) %h = CumSum(%a, %zero) %y = MatMul(%h, %v)",
        "CumSum does not compute row by row",
    ),
    (
        "input %x: f32[n, 4] %a = MatMul(%x, %w) %h = Softmax(%a) {axis = 0} %y = MatMul(%h, %v)",
        "axis 0 is one of those that count rows",
    ),
];

const WEIGHTS: &str = "const %w: f32[4, 16] = [WWWW] const %v: f32[16, 4] = [WWWW] \
    const %c: f32[16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2] const %zero: i64[] = [0]";

fn graph(lines: &str) -> Graph {
    let numbers: Vec<String> = (0..64).map(|i| format!("{}.5", (i * 7) % 11 - 5)).collect();
    let weights = WEIGHTS.replace("WWWW", &numbers.join(", "));
    parse(&format!("graph \"g\" {{ {weights} {lines} output \"y\" = %y }}"))
}

#[test]
fn wide_stretches_are_cut() {
    for (lines, want) in CUT {
        let before = graph(lines);
        let (after, said) = cut(&before, small());
        assert_eq!(shape_of(&after), *want, "{lines}\n{}", said.join("\n"));
        check_same(&before, &after, lines);
        let printed = text::print(&after);
        assert_eq!(text::print(&parse(&printed)), printed, "{lines}");
    }
}

#[test]
fn what_is_not_wide_or_not_row_by_row_is_left() {
    for (lines, why) in LEFT {
        let before = graph(lines);
        let (after, said) = cut(&before, small());
        assert_eq!(shape_of(&after), shape_of(&before), "{lines}");
        assert!(said.iter().any(|s| s.contains(why)) || why.is_empty(), "{why}: {said:?}");
    }
}

#[test]
fn a_value_that_depends_on_the_stretch_from_outside_ends_it() {
    // %o needs all of %a, and %h needs %o: one node cannot run before and after another.
    let lines = "input %x: f32[n, 4] %a = MatMul(%x, %w) const %d: i64[1] = [0] \
        %o = ReduceMax(%a, %d) {keepdims = true} %h = Sub(%a, %o) %y = MatMul(%h, %v)";
    let before = graph(lines);
    let (after, _) = cut(&before, small());
    assert_eq!(shape_of(&after), "MatMul ReduceMax Sub MatMul");
}

#[test]
fn a_fast_cut_needs_wide_rows_and_many() {
    let body = |n: &str| graph(&format!("input %x: f32[{n}, 4] {FFN}"));
    // Rows of 80 bytes: what a block saves is not worth it.
    assert_eq!(shape_of(&cut(&body("n"), CutRows::default()).0), "MatMul Gelu MatMul");
    let wide = |max_rows| CutRows { min_row_bytes: 0, max_rows, ..CutRows::default() };
    assert_eq!(shape_of(&cut(&body("n"), wide(96)).0), "[MatMul Gelu MatMul]x96");
    assert_eq!(shape_of(&cut(&body("500"), wide(96)).0), "[MatMul Gelu MatMul]x96");
    // One block and a half would not be worth two passes over the weights.
    assert_eq!(shape_of(&cut(&body("150"), wide(96)).0), "MatMul Gelu MatMul");
    // A block of fewer rows than 64 would not keep the weights busy.
    let narrow = CutRows { block_bytes: 4000, ..wide(96) };
    let (left, said) = cut(&body("n"), narrow);
    assert_eq!(shape_of(&left), "MatMul Gelu MatMul");
    assert!(said.iter().any(|s| s.contains("fewer than 64")), "{said:?}");
}

#[test]
fn whole_sequences_are_rows_where_positions_mix() {
    let lines = "input %x: f32[b, s, 4] %q = MatMul(%x, %w) %k = MatMul(%x, %w) \
        %m = Attention(%q, %k, %q) {q_num_heads = 2, kv_num_heads = 2} %h = Add(%m, %c) \
        %y = MatMul(%h, %v)";
    let before = graph(lines);
    let coarse = CutRows { coarse: true, max_rows: 2, ..small() };
    let (after, said) = cut(&before, coarse);
    assert_eq!(shape_of(&after), "[MatMul MatMul Attention Add MatMul]x2", "{}", said.join("\n"));
    check_same(&before, &after, lines);
}
