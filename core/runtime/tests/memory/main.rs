//! The plan against the run: planned bytes are observed bytes, exactly; nothing alive
//! shares bytes; results are the interpreter's, and the same bits as without reuse.
//!
//! To cover another operator, add a line to [`random::OPS`]. `DEEPSEEK_MEMORY_GRAPHS` sets
//! how many random graphs are tried (default 150, each at four shapes), `DEEPSEEK_MEMORY_FIRST`
//! the first seed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod random;

use deepseek_graph::{Bindings, Graph, Value, interpret, text};
use deepseek_runtime::{Plan, PlannedKind, RunOptions, Runtime, RuntimeOptions, Session, prepare};
use deepseek_tensor::{Code, Tensor};
use random::Random;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

fn runtime(budget: u64) -> Runtime {
    let options = RuntimeOptions { threads: 2, memory_budget_bytes: budget, isa: None };
    Runtime::new(&options).unwrap()
}

fn parse(source: &str) -> Graph {
    text::parse(source, &BTreeMap::new()).unwrap_or_else(|e| panic!("{e}\n{source}"))
}

fn bindings(values: &[(&str, i64)]) -> Bindings {
    let mut out = Bindings::new();
    values.iter().for_each(|(name, value)| out.bind(*name, *value).unwrap());
    out
}

/// Inputs of a graph with the given extents of its symbols: floats between -1 and 1.
fn inputs(graph: &Graph, at: &Bindings, random: &mut Random) -> Vec<Value> {
    graph
        .inputs()
        .iter()
        .map(|id| {
            let shape = graph.fact(*id).shape().unwrap().iter();
            let shape: Vec<usize> = shape.map(|d| d.eval(at).unwrap() as usize).collect();
            let data = (0..shape.iter().product()).map(|_| random.unit()).collect::<Vec<f32>>();
            Value::Tensor(Tensor::from_vec(&shape, data).unwrap())
        })
        .collect()
}

/// The graph with every value of every node as an output: nothing can be reused.
fn all_outputs(graph: &Graph) -> Graph {
    let mut out = graph.clone();
    for id in graph.nodes().iter().flat_map(|n| n.outputs.iter().flatten()) {
        let name = format!("all.{}", graph.value(*id).name);
        out.add_output(&name, *id).unwrap();
    }
    out
}

/// No two spans of one step overlap in the arena, each is inside it, and each value is there
/// from its producer to its last reader.
fn check_spans(plan: &Plan, at: &Bindings, source: &str) {
    let spans = plan.spans(at).unwrap();
    let report = plan.memory(at).unwrap();
    let arena = report.arena_bytes - report.heap_bytes;
    let placed: Vec<_> = spans
        .iter()
        .filter_map(|s| Some((s, s.value.offset?, s.value.offset? + s.value.bytes)))
        .collect();
    assert_eq!(placed.iter().map(|p| p.2).max().unwrap_or(0), arena, "{source}");
    for (i, (a, a_from, a_to)) in placed.iter().enumerate() {
        for (b, b_from, b_to) in &placed[..i] {
            let together = a.first_step <= b.last_step && b.first_step <= a.last_step;
            let overlap = a_from < b_to && b_from < a_to;
            assert!(!(together && overlap), "{a:?} and {b:?}\n{source}");
        }
    }
    let graph = plan.graph();
    // Copies of inputs, which begin when all nodes have run, have no producer.
    let end = graph.nodes().len();
    let of: HashMap<&str, _> = spans
        .iter()
        .filter(|s| s.value.kind != PlannedKind::Scratch && s.first_step < end)
        .map(|s| (s.value.name.as_str(), s))
        .collect();
    let mut root: HashMap<&str, &str> = HashMap::new();
    for ((node, kernel), step) in plan.kernels().zip(0..) {
        let name = |id: &deepseek_graph::ValueId| graph.value(*id).name.as_str();
        let output = node.outputs.iter().flatten().map(name).next();
        for input in node.inputs.iter().flatten().map(name) {
            let input = root.get(input).copied().unwrap_or(input);
            if kernel == "view" {
                root.insert(output.unwrap(), input);
            }
            let Some(span) = of.get(input) else { continue };
            let taken_over = output
                .and_then(|o| of.get(o))
                .is_some_and(|o| o.first_step == step && o.value.offset == span.value.offset);
            assert!(span.first_step < step, "{span:?} is read in step {step}\n{source}");
            assert!(span.last_step >= step || taken_over, "{span:?} in step {step}\n{source}");
        }
    }
}

fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    a.shape() == b.shape()
        && a.to_contiguous().unwrap().as_bytes().unwrap()
            == b.to_contiguous().unwrap().as_bytes().unwrap()
}

#[test]
fn planned_is_observed_and_reuse_changes_nothing_for_random_graphs() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |n| n.parse().expect("a number"))
    };
    let graphs = number("DEEPSEEK_MEMORY_GRAPHS", 150);
    let first = number("DEEPSEEK_MEMORY_FIRST", 0);
    let runtime = runtime(0);
    let (mut arenas, mut in_place, mut specialised, mut beside) = (0u64, 0usize, 0, 0);
    let mut bounds = 0;
    for seed in first..first + graphs {
        let mut random = Random::new(seed);
        let source = random::graph(&mut random);
        let graph = parse(&source);
        let graph = if seed % 2 == 0 { prepare(graph).unwrap() } else { graph };
        let all = all_outputs(&graph);
        let plan = Arc::new(Plan::new(graph.clone(), &runtime).unwrap());
        let mut session = Session::new(plan.clone());
        let mut apart = Session::new(Arc::new(Plan::new(all.clone(), &runtime).unwrap()));
        for _ in 0..4 {
            let sizes = [random.below(4) as i64 + 1, random.below(9) as i64 + 1];
            let at = bindings(&[("b", sizes[0]), ("s", sizes[1])]);
            let feed = inputs(&graph, &at, &mut random);
            let what = format!("seed {seed}, b = {}, s = {}\n{source}", sizes[0], sizes[1]);
            let report = plan.memory(&at).unwrap();
            let options = RunOptions { profile: true, ..RunOptions::default() };
            let got = session.run(feed.clone(), &options).unwrap_or_else(|e| panic!("{e}\n{what}"));
            assert_eq!(report.dynamic_values, 0, "{what}");
            assert_eq!(report.planned_bytes(), session.observed_bytes(), "{what}");
            let formula = report.formula.eval(&at).unwrap() as u64;
            bounds += usize::from(!report.formula_exact);
            if report.specialised || !report.formula_exact {
                let less = u64::from(report.specialised);
                assert!(report.planned_bytes() + less <= formula, "{what}");
            } else {
                assert_eq!(report.planned_bytes(), formula, "{what}");
            }
            check_spans(&plan, &at, &what);
            let profile = got.profile.unwrap();
            for e in &profile.events {
                assert!(e.actual_bytes <= e.planned_bytes, "{} in {what}", e.node);
                assert!(e.live_bytes <= report.planned_bytes(), "{} in {what}", e.node);
                for t in &e.outputs {
                    assert!(t.planned_bytes.is_none_or(|n| n >= t.bytes), "{t:?} in {what}");
                }
            }
            arenas += report.arena_bytes;
            in_place += profile.events.iter().filter(|e| e.in_place.is_some()).count();
            specialised += usize::from(report.specialised);
            beside += usize::from(report.heap_bytes > 0);
            // Every value, in memory of its own, and by the reference.
            let own = apart.run(feed.clone(), &RunOptions::default()).unwrap().outputs;
            let reference = interpret::run(&all, feed).unwrap();
            let scale = reference.iter().flat_map(|v| v.tensor().unwrap().to_vec::<f32>().unwrap());
            let scale = scale.fold(1.0f32, |a, b| a.max(b.abs()));
            for (i, value) in got.outputs.iter().enumerate() {
                let value = value.tensor().unwrap();
                assert!(same_bits(value, own[i].tensor().unwrap()), "output {i} of {what}");
                let want = reference[i].tensor().unwrap().to_vec::<f32>().unwrap();
                for (x, y) in value.to_vec::<f32>().unwrap().iter().zip(want) {
                    // Twenty operators in a row, each off by some ulp of the largest value and
                    // stretching what comes in at most fourfold: far below what a value
                    // that was overwritten is off by.
                    assert!((x - y).abs() <= 1e-3 * scale, "{x} for {y}: output {i} of {what}");
                }
            }
        }
    }
    // The cases are worth something: arenas, in-place reuse, values beside the arena, and
    // shapes that are packed anew all occur.
    assert!(arenas > 0 && in_place > graphs as usize && beside > graphs as usize / 4);
    assert!(graphs < 100 || specialised > 0);
    // A formula that is only a bound is the exception.
    assert!(bounds <= graphs as usize / 10, "{bounds} of {}", 4 * graphs);
}

fn session(source: &str, runtime: &Runtime) -> Session {
    Session::new(Arc::new(Plan::new(parse(source), runtime).unwrap()))
}

fn ones(shape: &[usize]) -> Tensor {
    Tensor::from_vec(shape, vec![1.0f32; shape.iter().product()]).unwrap()
}

const CHAIN: &str = "graph \"chain\" where s in 1..16 {
    input %x: f32[b, s, 64]
    %h = Tanh(%x)
    %t = Transpose(%h) {perm = [0, 2, 1]}
    %p = MatMul(%h, %t)
    %y = Softmax(%p) {axis = -1}
    output \"y\" = %y }";

#[test]
fn a_bound_that_is_broken_is_named_with_the_value() {
    let mut session = session(CHAIN, &runtime(0));
    let error = session.run_tensors(vec![ones(&[1, 20, 64])]).unwrap_err();
    assert_eq!(error.code(), Code::ShapeMismatch);
    assert!(error.to_string().contains("symbol s is 20, but its bounds are 1 to 16"), "{error}");
    let error = session.plan().memory(&bindings(&[("b", 1), ("s", 17)])).unwrap_err();
    assert!(error.to_string().contains("symbol s is 17"), "{error}");
    let error = session.plan().memory(&bindings(&[("s", 7)])).unwrap_err();
    assert!(error.to_string().contains("symbol 'b' has no value"), "{error}");
}

#[test]
fn the_worst_case_within_bounds_is_that_of_the_upper_ones() {
    let plan = session(CHAIN, &runtime(0)).plan().clone();
    let error = plan.memory_within_bounds().unwrap_err();
    assert!(error.to_string().contains("symbol 'b' has no upper bound"), "{error}");
    let bounded = CHAIN.replace("s in 1..16", "b in 1..5, s in 1..16");
    let plan = session(&bounded, &runtime(0)).plan().clone();
    let worst = plan.memory_within_bounds().unwrap();
    for (b, s) in (1..=5).flat_map(|b| (1..=16).map(move |s| (b, s))) {
        let at = plan.memory(&bindings(&[("b", b), ("s", s)])).unwrap();
        assert!(at.planned_bytes() <= worst.planned_bytes());
        assert!(at.specialised || (b, s) != (5, 16) || at.planned_bytes() == worst.planned_bytes());
    }
}

#[test]
fn a_report_names_what_makes_the_peak() {
    let plan = session(CHAIN, &runtime(0)).plan().clone();
    let report = plan.memory(&bindings(&[("b", 2), ("s", 16)])).unwrap();
    // h and t, 2*16*64 floats each, are alive while the product is made; so is its scratch.
    let kinds: Vec<_> = report.peak.iter().map(|v| (v.kind, v.name.as_str(), v.bytes)).collect();
    assert!(kinds.contains(&(PlannedKind::Value, "h", 8192)), "{kinds:?}");
    assert!(kinds.contains(&(PlannedKind::Value, "t", 8192)), "{kinds:?}");
    assert_eq!(report.peak_step, "p");
    assert_eq!(report.output_bytes, 2 * 16 * 16 * 4);
    let text = report.to_string();
    for part in ["formula", "planned", "peak in 'p'", "scratch", "at 0"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_run_beyond_the_budget_is_refused_with_numbers_and_nothing_is_held() {
    let runtime = runtime(60_000);
    let (mut first, mut second) = (session(CHAIN, &runtime), session(CHAIN, &runtime));
    let error = first.run_tensors(vec![ones(&[8, 16, 64])]).unwrap_err();
    assert_eq!(error.code(), Code::BudgetExceeded);
    let need = first.plan().memory(&bindings(&[("b", 8), ("s", 16)])).unwrap().planned_bytes();
    let text = error.to_string();
    for part in [&need.to_string(), "0 of the budget of 60000", "memory_budget_bytes"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(runtime.reserved_bytes(), 0);
    first.run_tensors(vec![ones(&[2, 16, 64])]).unwrap();
    // Outputs are the caller's now; the arena is kept, and in the way of another session.
    assert_eq!(runtime.reserved_bytes(), first.held_bytes());
    let error = second.run_tensors(vec![ones(&[2, 16, 64])]).unwrap_err();
    assert!(error.to_string().contains(&format!("{} of the budget", first.held_bytes())));
    first.trim();
    assert_eq!((runtime.reserved_bytes(), first.held_bytes()), (0, 0));
    second.run_tensors(vec![ones(&[2, 16, 64])]).unwrap();
}

#[test]
fn what_depends_on_data_is_counted_as_it_comes() {
    let source = "graph \"g\" { input %x: f32[s] %y = NonZero(%x) output \"y\" = %y }";
    let runtime = runtime(5_000);
    let mut session = session(source, &runtime);
    let planned = session.plan().memory(&Bindings::new()).unwrap();
    assert_eq!((planned.planned_bytes(), planned.dynamic_values), (0, 1));
    session.run_tensors(vec![ones(&[600])]).unwrap();
    assert_eq!(session.observed_bytes(), 600 * 8);
    let error = session.run_tensors(vec![ones(&[700])]).unwrap_err();
    assert_eq!(error.code(), Code::BudgetExceeded);
    assert!(error.to_string().contains("needs 5600 bytes"), "{error}");
    assert_eq!(runtime.reserved_bytes(), 0);
    session.run_tensors(vec![ones(&[600])]).unwrap();
}

#[test]
fn the_memory_of_a_loop_does_not_grow_with_its_iterations() {
    let source = "graph \"g\" { input %n: i64[] input %x: f32[s, 8]
        %y = Loop(%n, _, %x) {carried = 1, body = graph \"b\" {
            input %i: i64[] input %go: bool[] input %z: f32[s, 8]
            %t = Tanh(%z) %u = Softmax(%t) {axis = -1} %w = Add(%u, %z)
            output \"go\" = %go output \"w\" = %w }}
        output \"y\" = %y }";
    let mut session = session(source, &runtime(0));
    assert!(session.plan().memory(&bindings(&[("s", 5)])).unwrap().dynamic_values > 0);
    let mut observed = |n: i64| {
        let n = Tensor::from_slice(&[], &[n]).unwrap();
        session.run_tensors(vec![n, ones(&[5, 8])]).unwrap();
        session.observed_bytes()
    };
    let (few, many) = (observed(3), observed(300));
    assert!(few > 0 && few == many, "{few} and {many}");
}

#[test]
fn a_profile_is_json_a_trace_and_a_page_of_its_own() {
    let mut session = session(CHAIN, &runtime(0));
    let options = RunOptions { profile: true, ..RunOptions::default() };
    let input = Value::Tensor(ones(&[2, 16, 64]));
    let profile = session.run(vec![input], &options).unwrap().profile.unwrap();
    let json: serde_json::Value = serde_json::from_str(&profile.to_json()).unwrap();
    assert_eq!(json["planned_bytes"], session.observed_bytes());
    assert_eq!(json["observed_bytes"], session.observed_bytes());
    assert_eq!(json["peak"]["node"], "p");
    let events = json["events"].as_array().unwrap();
    assert_eq!(events.len(), 4);
    assert_eq!(events[0]["outputs"][0]["shape"], serde_json::json!([2, 16, 64]));
    assert_eq!(events[0]["outputs"][0]["dtype"], "f32");
    assert_eq!(events[0]["outputs"][0]["planned_bytes"], 8192);
    assert_eq!(cfg!(target_os = "linux"), events[3]["rss_bytes"].as_u64().is_some());
    let trace: serde_json::Value = serde_json::from_str(&profile.to_chrome_trace()).unwrap();
    let of = |ph: &str| -> Vec<String> {
        let all = trace["traceEvents"].as_array().unwrap().iter();
        all.filter(|e| e["ph"] == ph).map(|e| e["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("X"), ["h", "t", "p", "y"]);
    for track in ["working memory", "alive, planned", "alive, actual"] {
        assert_eq!(of("C").iter().filter(|n| *n == track).count(), 4, "{track}");
    }
    let html = profile.to_html();
    assert!(html.contains("Planned bytes are observed bytes, exactly."));
    for outside in ["http:", "https:", "src=", "@import", "url(", "<script"] {
        assert!(!html.contains(outside), "{outside}");
    }
}

/// A mask and positions that are cut to the sequence give extents that no proof compares.
#[test]
fn the_formula_of_a_deep_model_with_awkward_extents_stays_whole() {
    use std::fmt::Write;
    let mut source = "graph \"deep\" {
        input %x: f32[b, s, 8] input %p: f32[1, min(24,s), 8] input %m: f32[b, 1, s]
        const %w: f32[8, 8] = @w const %u: f32[8, 32] = @u const %d: f32[32, 8] = @d
        %h0 = Add(%x, %p)\n"
        .to_owned();
    for l in 0..12 {
        let n = l + 1;
        writeln!(
            source,
            "%q{l} = MatMul(%h{l}, %w) %k{l} = MatMul(%h{l}, %w) %v{l} = MatMul(%h{l}, %w)
             %t{l} = Transpose(%k{l}) {{perm = [0, 2, 1]}} %s{l} = MatMul(%q{l}, %t{l})
             %a{l} = Add(%s{l}, %m) %e{l} = Softmax(%a{l}) {{axis = -1}}
             %o{l} = MatMul(%e{l}, %v{l}) %r{l} = Add(%o{l}, %h{l})
             %f{l} = MatMul(%r{l}, %u) %g{l} = Gelu(%f{l}) %z{l} = MatMul(%g{l}, %d)
             %h{n} = Add(%z{l}, %r{l})"
        )
        .unwrap();
    }
    source += "output \"y\" = %h12 }";
    let weights = [("w", [8, 8]), ("u", [8, 32]), ("d", [32, 8])];
    let constants = weights.map(|(name, shape)| (name.to_owned(), ones(&shape)));
    let graph = text::parse(&source, &BTreeMap::from(constants)).unwrap();
    let plan = Plan::new(graph, &runtime(0)).unwrap();
    let formula = plan.memory_formula();
    assert!(formula.poison().is_none(), "{formula}");
    for (b, s) in [(1, 1), (2, 7), (3, 24), (9, 20)] {
        let at = bindings(&[("b", b), ("s", s)]);
        let report = plan.memory(&at).unwrap();
        let says = formula.eval(&at).unwrap() as u64;
        assert!(
            report.planned_bytes() <= says
                && (report.specialised || says == report.planned_bytes())
        );
    }
}
