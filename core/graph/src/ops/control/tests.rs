use super::RaggedBlocks;
use crate::{Graph, Value, interpret, text};
use deepseek_tensor::Tensor;
use std::collections::BTreeMap;

fn graph(source: &str) -> Graph {
    text::parse(source, &BTreeMap::new()).unwrap_or_else(|e| panic!("{e}\n{source}"))
}

/// Inferred type of the value `y` of a graph with the given body lines.
fn type_of_y(lines: &str) -> String {
    let g = graph(&format!("graph \"g\" {{ {lines} }}"));
    g.fact(g.find("y").unwrap()).to_string()
}

const LOOP: &str = "input %i: i64[] input %go: bool[] input %x: f32[...]";

#[test]
fn what_a_loop_carries_is_generalised_until_it_stands() {
    for (step, want) in [
        ("%z = Transpose(%x) {perm = [0, 1]}", "f32[n, 3]"),
        ("%z = Concat(%x, %x) {axis = 0}", "f32[y.out0.d0, 3]"),
        ("%z = Transpose(%x) {perm = [1, 0]}", "f32[y.out0.d0, y.out0.d1]"),
        ("const %a: i64[1] = [0] %z = Unsqueeze(%x, %a)", "f32[...]"),
    ] {
        let body = format!("{LOOP} {step} output \"go\" = %go output \"z\" = %z");
        let ty = type_of_y(&format!(
            "input %m: i64[] input %x: f32[n, 3] \
             %y = Loop(%m, _, %x) {{carried = 1, body = graph \"b\" {{ {body} }}}}"
        ));
        assert_eq!(ty, want, "{step}");
    }
}

#[test]
fn a_loop_that_no_condition_ends_stacks_as_many_as_its_count() {
    let body = "graph \"b\" { input %i: i64[] input %go: bool[] input %x: f32[n] \
                output \"go\" = %go output \"x\" = %x }";
    let count = "input %x: f32[n] %m = Size(%x)";
    let y = format!("{count} %y = Loop(%m, _, %x) {{carried = 0, body = {body}}}");
    assert_eq!(type_of_y(&y), "f32[n, n]");
    let y =
        format!("{count} input %c: bool[] %y = Loop(%m, %c, %x) {{carried = 0, body = {body}}}");
    assert_eq!(type_of_y(&y), "f32[y.iterations, n]");
}

#[test]
fn no_iteration_gives_empty_stacks_of_the_right_extents() {
    let g = graph(
        "graph \"g\" { input %x: f32[n] const %m: i64[] = [0] \
         %y = Loop(%m, _, %x) {carried = 0, body = graph \"b\" { input %i: i64[] \
         input %go: bool[] input %x: f32[n] output \"go\" = %go output \"x\" = %x }} \
         output \"y\" = %y }",
    );
    let x = Tensor::from_slice(&[2], &[1.0f32, 2.0]).unwrap();
    let out = interpret::run(&g, vec![x.into()]).unwrap();
    assert_eq!(out[0].tensor().unwrap().shape(), [0, 2]);
}

#[test]
fn branches_join_and_a_known_condition_chooses() {
    let branches = "then_branch = graph \"t\" { input %a: f32[n, 3] output \"a\" = %a }, \
                    else_branch = graph \"e\" { input %a: f32[n, 3] const %p: i64[4] = [1, 0, 0, 0] \
                    %b = Pad(%a, %p) output \"b\" = %b }";
    let y = format!("input %x: f32[n, 3] input %c: bool[] %y = If(%c, %x) {{{branches}}}");
    assert_eq!(type_of_y(&y), "f32[y.out0.d0, 3]");
    let y =
        format!("input %x: f32[n, 3] const %c: bool[] = [false] %y = If(%c, %x) {{{branches}}}");
    assert_eq!(type_of_y(&y), "f32[n+1, 3]");
}

/// A `RowBlocks` over the body lines, of inputs `%x: f32[r, 3]` and `%w: f32[3]`.
fn blocks(attrs: &str, lines: &str, input: &str) -> String {
    format!(
        "input %x: {input} input %w: f32[3] %y = RowBlocks(%x, %w) {{{attrs}, body = graph \"b\" \
         {{ input %x: f32[r, 3] input %w: f32[3] {lines} }}}}"
    )
}

#[test]
fn blocks_of_rows_keep_the_extents_that_count_rows() {
    let double = "%z = Concat(%x, %x) {axis = 1} output \"z\" = %z";
    for (attrs, input, want) in [
        ("rows = 2, axes = [1]", "f32[n, 3]", "f32[n, 6]"),
        ("rows = 2, axes = [2]", "f32[n, m, 3]", "f32[n, m, 6]"),
        ("rows = 4, axes = [2]", "f32[5, 7, 3]", "f32[5, 7, 6]"),
    ] {
        assert_eq!(type_of_y(&blocks(attrs, double, input)), want, "{attrs}");
    }
}

#[test]
fn what_blocks_of_rows_refuse() {
    let add = "%z = Add(%x, %w) output \"z\" = %z";
    let sum = "const %a: i64[1] = [0] %z = ReduceSum(%x, %a) {keepdims = false} \
               output \"z\" = %z";
    for (attrs, lines, says) in [
        ("rows = 0, axes = [1]", add, "blocks of 0 rows, expected 1 or more"),
        ("rows = 1, axes = [3]", add, "axes [3] count the rows of input 0, which has rank 2"),
        ("rows = 1, axes = []", add, "0 cut inputs of 2"),
        ("rows = 1, axes = [1, 1, 1]", add, "3 cut inputs of 2"),
        ("rows = 1, axes = [1], like = [1]", add, "output 0 is like input 1"),
        ("rows = 1, axes = [1]", sum, "its leading extent must be their number"),
    ] {
        let source = format!("graph \"g\" {{ {} }}", blocks(attrs, lines, "f32[n, 3]"));
        let e = text::parse(&source, &BTreeMap::new()).unwrap_err().to_string();
        assert!(e.contains(says), "{attrs}: {e}");
    }
}

#[test]
fn blocks_of_rows_give_what_all_rows_give() {
    let add = "%z = Add(%x, %w) output \"z\" = %z";
    let w = Tensor::from_slice(&[3], &[1.0f32, 2.0, 3.0]).unwrap();
    for n in [0usize, 1, 4, 5] {
        let lines = blocks("rows = 2, axes = [2]", add, "f32[n, 1, 3]");
        let g = graph(&format!("graph \"g\" {{ {lines} output \"y\" = %y }}"));
        let x: Vec<f32> = (0..3 * n).map(|i| i as f32).collect();
        let want: Vec<f32> = x.iter().enumerate().map(|(i, v)| v + (i % 3) as f32 + 1.0).collect();
        let x = Tensor::from_vec(&[n, 1, 3], x).unwrap();
        let out = interpret::run(&g, vec![x.into(), w.clone().into()]).unwrap();
        assert_eq!(out[0].tensor().unwrap().shape(), [n, 1, 3]);
        assert_eq!(out[0].tensor().unwrap().to_vec::<f32>().unwrap(), want);
    }
}

/// A `RaggedBlocks` over the body lines, of rows, a row for each sequence, offsets and longest.
fn ragged_blocks(attrs: &str, lines: &str) -> String {
    let inputs = "input %x: f32[t, 2] input %c: f32[n, 2] input %o: i64[n+1] input %l: i64[m]";
    format!(
        "{inputs} %y, %z = RaggedBlocks(%x, %c, %o, %l) {{{attrs}, body = graph \"b\" \
         {{ {inputs} {lines} }}}}"
    )
}

/// Each row and the row of its sequence; the sum of the rows of each sequence.
const ADD_AND_SUM: &str = "%i = SegmentIds(%o, %x) const %g: i64[1] = [0] %p = Gather(%c, %i) \
                           %y = Add(%x, %p) %z = SegmentReduce(%x, %o) output \"y\" = %y \
                           output \"z\" = %z";

#[test]
fn blocks_of_sequences_give_what_all_sequences_give() {
    let offsets = Tensor::from_slice(&[5], &[0i64, 3, 3, 4, 9]).unwrap();
    let floats = |n: usize, by: f32| {
        let data = (0..2 * n).map(|i| i as f32 * by).collect();
        Tensor::from_vec(&[n, 2], data).unwrap()
    };
    let longest = Tensor::from_slice(&[5], &[0i64, 1, 2, 3, 4]).unwrap();
    let inputs: Vec<Value> =
        vec![floats(9, 1.0).into(), floats(4, 0.5).into(), offsets.into(), longest.into()];
    let run = |rows: usize| {
        let attrs = format!("rows = {rows}, inputs = [1, 2], outputs = [1, 2]");
        let lines = ragged_blocks(&attrs, ADD_AND_SUM);
        assert_eq!(type_of_y(&lines), "f32[t, 2]");
        let g = graph(&format!("graph \"g\" {{ {lines} output \"y\" = %y output \"z\" = %z }}"));
        let out = interpret::run(&g, inputs.clone()).unwrap();
        let both = out.iter().map(|v| v.tensor().unwrap().to_vec::<f32>().unwrap());
        both.collect::<Vec<_>>()
    };
    let want = run(100);
    assert_eq!((want[0].len(), want[1].len()), (18, 8));
    assert_eq!(want[1][2..4], [0.0, 0.0]);
    for rows in [1, 3, 4, 8] {
        assert_eq!(run(rows), want, "blocks of {rows}");
    }
}

#[test]
fn a_block_takes_whole_sequences_up_to_its_rows_and_one_at_least() {
    let offsets = Tensor::from_slice(&[6], &[0i64, 3, 3, 4, 9, 10]).unwrap();
    let blocks = |rows| {
        let op = RaggedBlocks { rows, ..RaggedBlocks::default() };
        let blocks = op.blocks(&offsets, 10).unwrap();
        blocks.into_iter().map(|b| (b.sequences, b.rows.len(), b.longest)).collect::<Vec<_>>()
    };
    assert_eq!(blocks(4), [(0..3, 4, 3), (3..4, 5, 5), (4..5, 1, 1)]);
    assert_eq!(blocks(1), [(0..1, 3, 3), (1..3, 1, 1), (3..4, 5, 5), (4..5, 1, 1)]);
    assert_eq!(blocks(10), [(0..5, 10, 5)]);
}

#[test]
fn what_blocks_of_sequences_refuse() {
    for (attrs, says) in [
        ("rows = 0, inputs = [1, 2], outputs = [1, 2]", "blocks of 0 rows, expected 1 or more"),
        ("rows = 1, inputs = [1], outputs = [1, 2]", "inputs [1] of body 'b', which has 2"),
        ("rows = 1, inputs = [1, 3], outputs = [1, 2]", "3 is not from 0 to 2"),
        ("rows = 1, inputs = [1, 2], outputs = [1, 0]", "0 is not from 1 to 2"),
    ] {
        let source = format!("graph \"g\" {{ {} }}", ragged_blocks(attrs, ADD_AND_SUM));
        let e = text::parse(&source, &BTreeMap::new()).unwrap_err().to_string();
        assert!(e.contains(says), "{attrs}: {e}");
    }
}

#[test]
fn sequence_elements_that_differ_have_fresh_extents_when_taken_out() {
    let two = "input %a: f32[n, 3] input %b: f32[m, 3] input %i: i64[]";
    let y = format!("{two} %s = SequenceConstruct(%a, %b) %y = SequenceAt(%s, %i)");
    assert_eq!(type_of_y(&y), "f32[y.item.d0, 3]");
    let y = format!("{two} %s = SequenceConstruct(%a, %a) %y = SequenceAt(%s, %i)");
    assert_eq!(type_of_y(&y), "f32[n, 3]");
}

#[test]
fn nested_loops_infer_in_bounded_time() {
    let mut source = "%z = Concat(%x, %x) {axis = 0}".to_owned();
    for _ in 0..12 {
        source = format!(
            "%z = Loop(%i, _, %x) {{carried = 1, body = graph \"b\" {{ {LOOP} {source} \
             output \"go\" = %go output \"z\" = %z }}}}"
        );
    }
    let y = source.replacen("%z", "%y", 1);
    assert_eq!(type_of_y(&format!("input %i: i64[] input %x: f32[n] {y}")), "f32[...]");
}
