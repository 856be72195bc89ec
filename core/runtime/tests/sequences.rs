//! Sequences of different lengths, some at a time: `RaggedBlocks` on a plan of its own, against
//! all sequences at once; byte budgets of packed plans.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek_graph::passes::ragged::{Packed, pack};
use deepseek_graph::{Bindings, Graph, Value, interpret, text};
use deepseek_runtime::{
    LowerOptions, Plan, Ragged, RunOptions, Runtime, RuntimeOptions, Session, prepare,
};
use deepseek_tensor::{Code, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

const LENGTHS: [usize; 7] = [5, 1, 9, 3, 3, 12, 1];

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

/// A layer of an encoder with rows and pooled sequences as outputs; `function` is what its
/// feed-forward part applies.
fn encoder(function: &str) -> Graph {
    let source = format!(
        "graph \"encoder\" {{
        input %x: f32[batch, seq, 16] input %c: f32[batch, 16]
        const %q: f32[16, 16] = @q const %k: f32[16, 16] = @k const %v: f32[16, 16] = @v
        const %u: f32[16, 64] = @u const %d: f32[64, 16] = @d const %s: f32[16] = @s
        const %one: i64[1] = [1]
        %xq = MatMul(%x, %q) %xk = MatMul(%x, %k) %xv = MatMul(%x, %v)
        %a = Attention(%xq, %xk, %xv) {{q_num_heads = 2, kv_num_heads = 2}}
        %r = Add(%a, %x) %n = LayerNormalization(%r, %s) {{axis = -1}}
        %f = MatMul(%n, %u) %g = {function}(%f) %h = MatMul(%g, %d) %y = Add(%h, %n)
        %m = ReduceMean(%y, %one) {{keepdims = false}} %z = Add(%m, %c)
        output \"rows\" = %y output \"pooled\" = %z }}"
    );
    let shapes: [(&str, &[usize]); 6] = [
        ("q", &[16, 16]),
        ("k", &[16, 16]),
        ("v", &[16, 16]),
        ("u", &[16, 64]),
        ("d", &[64, 16]),
        ("s", &[16]),
    ];
    let constants = shapes.iter().zip(1..).map(|((n, s), seed)| ((*n).to_owned(), random(s, seed)));
    let constants: BTreeMap<_, _> = constants.collect();
    prepare(text::parse(&source, &constants).unwrap_or_else(|e| panic!("{e}\n{source}"))).unwrap()
}

fn runtime(threads: usize) -> Runtime {
    Runtime::new(&RuntimeOptions { threads, ..RuntimeOptions::default() }).unwrap()
}

/// Inputs of the packed encoder for sequences of these lengths.
fn inputs(lengths: &[usize]) -> Vec<Value> {
    let tokens = lengths.iter().sum();
    let mut offsets = vec![0i64];
    offsets.extend(lengths.iter().scan(0, |at, &n| {
        *at += n as i64;
        Some(*at)
    }));
    let longest = *lengths.iter().max().unwrap();
    vec![
        random(&[tokens, 16], 21).into(),
        random(&[lengths.len(), 16], 22).into(),
        Tensor::from_vec(&[offsets.len()], offsets).unwrap().into(),
        Tensor::from_vec(&[longest], (0..longest as i64).collect()).unwrap().into(),
    ]
}

fn extents(packed: &Packed, lengths: &[usize]) -> Bindings {
    let mut out = Bindings::new();
    for (symbol, n) in [
        (&packed.batch, lengths.len()),
        (&packed.tokens, lengths.iter().sum()),
        (&packed.longest, *lengths.iter().max().unwrap()),
    ] {
        out.bind(symbol, n as i64).unwrap();
    }
    out
}

fn bits(values: &[Value]) -> Vec<Vec<u8>> {
    let bytes =
        |v: &Value| v.tensor().unwrap().to_contiguous().unwrap().as_bytes().unwrap().to_vec();
    values.iter().map(bytes).collect()
}

#[test]
fn sequences_some_at_a_time_give_the_bits_of_all_at_once_and_take_what_is_planned() {
    // The second has values beside the arena.
    for function in ["Gelu", "Softsign"] {
        let packed = pack(&encoder(function)).unwrap();
        for threads in [1, 3] {
            let runtime = runtime(threads);
            let whole = Arc::new(Plan::new(packed.graph.clone(), &runtime).unwrap());
            let run = |plan: &Arc<Plan>| {
                let mut session = Session::new(plan.clone());
                let options = RunOptions { profile: true, ..RunOptions::default() };
                let result = session.run(inputs(&LENGTHS), &options).unwrap();
                let profile = result.profile.unwrap();
                assert_eq!(profile.observed_bytes, session.observed_bytes());
                (bits(&result.outputs), session.observed_bytes())
            };
            let (want, all_at_once) = run(&whole);
            for rows in [1, 4, 9, 13, 1000] {
                let graph = packed.in_blocks(&packed.graph, rows).unwrap().unwrap();
                let plan = Arc::new(Plan::new(graph, &runtime).unwrap());
                assert!(plan.kernels().all(|(_, kernel)| kernel == "row-blocks"));
                let (got, observed) = run(&plan);
                let what = format!("{function}, {threads} threads, blocks of {rows}");
                assert!(got == want, "{what}");
                let at = extents(&packed, &LENGTHS);
                let report = plan.memory(&at).unwrap();
                assert_eq!(report.planned_bytes(), observed, "{what}");
                assert!(report.formula_exact);
                assert_eq!(report.formula.eval(&at).unwrap() as u64, observed, "{what}");
                assert!(rows > 13 || observed < all_at_once, "{what}: {observed}");
                // A longer sequence than a block has rows is a block of its own.
                let cut = &plan.cuts(&at).unwrap()[0];
                assert_eq!((cut.rows, cut.block_rows), (34, rows as u64));
                assert!(cut.bytes_in_blocks <= cut.bytes_at_once, "{what}");
            }
        }
    }
}

#[test]
fn the_reference_of_blocks_of_sequences_is_that_of_the_body() {
    let packed = pack(&encoder("Gelu")).unwrap();
    let want = interpret::run(&packed.graph, inputs(&LENGTHS)).unwrap();
    for rows in [1, 9, 1000] {
        let graph = packed.in_blocks(&packed.graph, rows).unwrap().unwrap();
        assert!(text::print(&graph).contains("RaggedBlocks"));
        let got = interpret::run(&graph, inputs(&LENGTHS)).unwrap();
        assert!(bits(&got) == bits(&want), "blocks of {rows}");
    }
}

#[test]
fn working_memory_does_not_grow_with_the_number_of_sequences() {
    let ragged = Ragged::new(&encoder("Gelu"), &runtime(1), &LowerOptions::default()).unwrap();
    let arena = |count: usize| ragged.memory(&vec![64; count]).unwrap().arena_bytes;
    assert!(arena(2) < arena(8) && arena(8) <= arena(600));
    assert_eq!(arena(600), arena(8000));
    let whole = LowerOptions { whole: true, ..LowerOptions::default() };
    let whole = Ragged::new(&encoder("Gelu"), &runtime(1), &whole).unwrap();
    assert!(whole.memory(&[64; 8000]).unwrap().arena_bytes > 20 * arena(8000));
}

#[test]
fn offsets_that_contradict_the_rows_are_refused() {
    let packed = pack(&encoder("Gelu")).unwrap();
    let graph = packed.in_blocks(&packed.graph, 8).unwrap().unwrap();
    let mut session = Session::new(Arc::new(Plan::new(graph, &runtime(1)).unwrap()));
    for (offsets, says) in [([0i64, 9, 6], "fall from 9 to 6"), ([0, 5, 7], "expected 0 to 6")] {
        let mut inputs = inputs(&[5, 1]);
        inputs[2] = Tensor::from_slice(&[3], &offsets).unwrap().into();
        let error = session.run(inputs, &RunOptions::default()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_budget_holds_for_packed_sequences() {
    let graph = encoder("Gelu");
    let runtime = runtime(2);
    let at = |batch: i64, seq: i64| {
        let mut out = Bindings::new();
        out.bind("batch", batch).unwrap();
        out.bind("seq", seq).unwrap();
        Some(out)
    };
    let open = |memory_budget_bytes, at| {
        Ragged::new(&graph, &runtime, &LowerOptions { memory_budget_bytes, at, whole: false })
    };
    // Eight sequences of 100 rows: 50 KiB of output, 200 KiB more for a value of all rows.
    let lengths = [100; 8];
    let free = open(0, None).unwrap().memory(&lengths).unwrap().planned_bytes();
    let Err(error) = open(1000, at(8, 100)) else { panic!("1000 bytes are too few") };
    assert_eq!(error.code(), Code::BudgetExceeded);
    let text = error.to_string();
    let words = text.split(|c: char| !c.is_ascii_digit()).filter(|w| !w.is_empty());
    let least: u64 = words.map(|w| w.parse().unwrap()).next().unwrap();
    assert!(least < free, "{least} of {free}");
    for budget in [least, (least + free) / 2, free] {
        let ragged = open(budget, at(8, 100)).unwrap();
        let planned = ragged.memory(&lengths).unwrap().planned_bytes();
        assert!(planned <= budget, "{planned} > {budget}");
        let mut session = Session::new(ragged.plan().clone());
        session.run(inputs(&lengths), &RunOptions::default()).unwrap();
        assert_eq!(session.observed_bytes(), planned);
        // More than the budget was opened for is refused with the numbers.
        let error = session.run(inputs(&[100; 40]), &RunOptions::default()).unwrap_err();
        assert_eq!(error.code(), Code::BudgetExceeded);
        assert!(error.to_string().contains(&budget.to_string()), "{error}");
    }
}
