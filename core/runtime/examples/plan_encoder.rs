//! Plans and profiles a 12-layer encoder: what is planned, how long a fresh shape takes to
//! plan, and the profile's page.
//!
//! `cargo run --release -p deepseek-runtime --example plan_encoder -- [hidden] [page.html]`

use deepseek_graph::{Bindings, Value, text};
use deepseek_runtime::{Plan, RunOptions, Runtime, RuntimeOptions, Session, prepare};
use deepseek_tensor::{DType, Result, Tensor, err};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

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

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let hidden = args.next().and_then(|n| n.parse().ok()).unwrap_or(256);
    let runtime = Runtime::new(&RuntimeOptions::default())?;
    let (source, constants) = encoder(hidden);
    let graph = prepare(text::parse(&source, &constants)?)?;
    drop(constants);
    let started = Instant::now();
    let plan = Arc::new(Plan::new(graph, &runtime)?);
    println!("lowered {} nodes in {:?}", plan.graph().nodes().len(), started.elapsed());
    let started = Instant::now();
    let formula = plan.memory_formula();
    println!("{formula} in {:?}", started.elapsed());
    print!("{}", plan.memory(&at(50, 99)?)?);
    // A run asks for the needs of its shape, as a report does.
    let mut times = Vec::new();
    for i in 0..100 {
        let shape = at(1 + i % 7, 100 + i)?;
        let started = Instant::now();
        plan.memory(&shape)?;
        times.push(started.elapsed());
    }
    times.sort();
    println!("100 fresh shapes, report included: median {:?}, worst {:?}", times[50], times[99]);
    let Some(page) = args.next() else { return Ok(()) };
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
