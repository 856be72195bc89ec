//! Plans and profiles a 12-layer encoder: what is planned, how long a fresh shape takes to
//! plan, and either the profile's page, or sequences of different lengths run that many rounds.
//! With 768 hidden it is as large as BERT-base.
//!
//! `cargo run --release -p deepseek-runtime --example plan_encoder -- [hidden] [page.html | rounds]`

use deepseek_graph::{Bindings, Graph, Value, text};
use deepseek_runtime::{
    LowerOptions, Ragged, RunOptions, Runtime, RuntimeOptions, Session, lower, prepare,
};
use deepseek_tensor::{DType, Result, Tensor, err};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LAYERS: usize = 12;

fn encoder(hidden: usize) -> (String, BTreeMap<String, Tensor>) {
    let heads = (hidden / 64).max(1);
    let mut out = format!("graph \"encoder\" {{\n input %x: f32[batch, seq, {hidden}]\n");
    let mut constants = BTreeMap::new();
    let mut constant = |out: &mut String, name: String, shape: &[usize]| {
        let n = shape.iter().product::<usize>();
        let data = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 2500.0).collect();
        let tensor = Tensor::from_vec(shape, data).expect("a small tensor");
        let _ = writeln!(out, " const %{name}: f32{shape:?} = @{name}");
        constants.insert(name, tensor);
    };
    let mut x = "x".to_owned();
    for l in 0..LAYERS {
        let mut linear = |out: &mut String, to: &str, from: &str, i: usize, o: usize| {
            constant(out, format!("w{l}{to}"), &[i, o]);
            constant(out, format!("b{l}{to}"), &[o]);
            let _ = writeln!(out, " %m{l}{to} = MatMul(%{from}, %w{l}{to})");
            let _ = writeln!(out, " %{to}{l} = Add(%m{l}{to}, %b{l}{to})");
        };
        for to in ["q", "k", "v"] {
            linear(&mut out, to, &x, hidden, hidden);
        }
        let _ = writeln!(
            out,
            " %a{l} = Attention(%q{l}, %k{l}, %v{l}) {{q_num_heads = {heads}, kv_num_heads = {heads}}}"
        );
        linear(&mut out, "o", &format!("a{l}"), hidden, hidden);
        let _ = writeln!(out, " %r{l} = Add(%o{l}, %{x})");
        constant(&mut out, format!("s{l}"), &[hidden]);
        let _ = writeln!(out, " %n{l} = LayerNormalization(%r{l}, %s{l}) {{axis = -1}}");
        let mut linear = |out: &mut String, to: &str, from: &str, i: usize, o: usize| {
            constant(out, format!("w{l}{to}"), &[i, o]);
            constant(out, format!("b{l}{to}"), &[o]);
            let _ = writeln!(out, " %m{l}{to} = MatMul(%{from}, %w{l}{to})");
            let _ = writeln!(out, " %{to}{l} = Add(%m{l}{to}, %b{l}{to})");
        };
        linear(&mut out, "f", &format!("n{l}"), hidden, 4 * hidden);
        let _ = writeln!(out, " %g{l} = Gelu(%f{l})");
        linear(&mut out, "h", &format!("g{l}"), 4 * hidden, hidden);
        let _ = writeln!(out, " %t{l} = Add(%h{l}, %n{l})");
        constant(&mut out, format!("u{l}"), &[hidden]);
        let _ = writeln!(out, " %x{l} = LayerNormalization(%t{l}, %u{l}) {{axis = -1}}");
        x = format!("x{l}");
    }
    let _ = writeln!(out, " output \"y\" = %{x}\n}}");
    (out, constants)
}

fn at(batch: i64, seq: i64) -> Result<Bindings> {
    let mut out = Bindings::new();
    for (name, value) in [("batch", batch), ("seq", seq)] {
        out.bind(name, value).map_err(|e| err!(InvalidArgument, "{e}"))?;
    }
    Ok(out)
}

/// Times what a shape costs that the plan has not seen: offsets and report; sorted.
fn fresh(mut plan: impl FnMut(i64) -> Result<()>) -> Result<[Duration; 3]> {
    let mut times = Vec::new();
    for i in 0..100 {
        let started = Instant::now();
        plan(i)?;
        times.push(started.elapsed());
    }
    let first = times.remove(0);
    times.sort();
    Ok([first, times[times.len() / 2], times[times.len() - 1]])
}

/// Processor time of the process in seconds, where the system says; on a busy machine it tells
/// more than the time of day.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.filter_map(|n| n.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Plans and runs 50 sequences of 50 to 99 rows, all at once and some at a time, in turns.
fn lengths(graph: &Graph, runtime: &Runtime, hidden: usize, rounds: usize) -> Result<()> {
    let lengths: Vec<usize> = (50..100).collect();
    let list = |n: &usize| Tensor::zeros(DType::F32, &[*n, hidden]);
    let x = lengths.iter().map(list).collect::<Result<Vec<_>>>()?;
    let mut ways = Vec::new();
    for whole in [true, false] {
        let options = LowerOptions { whole, ..LowerOptions::default() };
        let ragged = Ragged::new(graph, runtime, &options)?;
        let [first, median, worst] = fresh(|i| {
            let more = |n: &usize| n + i as usize;
            ragged.memory(&lengths.iter().map(more).collect::<Vec<_>>()).map(|_| ())
        })?;
        println!("fresh lengths: first {first:?}, then median {median:?}, worst {worst:?}");
        let session = Session::new(ragged.plan().clone());
        let name = if whole { "at once" } else { "in blocks" };
        ways.push((name, ragged, session, [f64::INFINITY; 2]));
    }
    for _ in 0..rounds {
        for (_, ragged, session, best) in &mut ways {
            let batch = ragged.pack(vec![("x".to_owned(), x.clone())])?;
            let (started, before) = (Instant::now(), processor_seconds());
            session.run(batch.inputs, &RunOptions::default())?;
            let took = [started.elapsed().as_secs_f64(), processor_seconds() - before];
            *best = [best[0].min(took[0]), best[1].min(took[1])];
        }
    }
    for (name, ragged, session, [seconds, processor]) in &ways {
        let planned = ragged.memory(&lengths)?.planned_bytes();
        println!(
            "{name}: {:.1} MiB planned, {:.1} observed, {seconds:.3} s, {processor:.2} s of processors",
            planned as f64 / (1 << 20) as f64,
            session.observed_bytes() as f64 / (1 << 20) as f64
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let hidden = args.next().and_then(|n| n.parse().ok()).unwrap_or(256);
    let runtime = Runtime::new(&RuntimeOptions::default())?;
    let (source, constants) = encoder(hidden);
    let graph = prepare(text::parse(&source, &constants)?)?;
    drop(constants);
    let started = Instant::now();
    let plan = Arc::new(lower(&graph, &runtime, &LowerOptions::default())?);
    println!("lowered {} nodes in {:?}", plan.inner_kernels().len(), started.elapsed());
    let started = Instant::now();
    let formula = plan.memory_formula();
    println!("{formula} in {:?}", started.elapsed());
    print!("{}", plan.memory(&at(50, 99)?)?);
    // A run asks for the needs of its shape, as a report does.
    let [first, median, worst] = fresh(|i| plan.memory(&at(1 + i % 7, 100 + i)?).map(|_| ()))?;
    println!("fresh shapes: first {first:?}, then median {median:?}, worst {worst:?}");
    let Some(next) = args.next() else { return Ok(()) };
    if let Ok(rounds) = next.parse() {
        return lengths(&graph, &runtime, hidden, rounds);
    }
    let page = next;
    let mut session = Session::new(plan);
    let x = Tensor::zeros(DType::F32, &[4, 96, hidden])?;
    for profile in [false, true] {
        let options = RunOptions { profile, ..RunOptions::default() };
        let result = session.run(vec![Value::Tensor(x.clone())], &options)?;
        if let Some(profile) = result.profile {
            std::fs::write(&page, profile.to_html()).map_err(|e| err!(Io, "{page}: {e}"))?;
        }
    }
    Ok(())
}
