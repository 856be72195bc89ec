//! What fusing is worth: the same graph with and without the portable passes, runs interleaved.
//!
//! `cargo run --release -p deepseek-runtime --example fusion_bench [ROUNDS [THREADS]]` prints, for
//! each graph, the least processor time of both in milliseconds, which other programs disturb less
//! than they disturb the clock on the wall, and the ratio.

use deepseek_graph::{Graph, Value, text};
use deepseek_runtime::{Plan, RunOptions, Runtime, RuntimeOptions, Session, prepare};
use deepseek_tensor::{Result, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Six functions of a matrix, and a mean of each row to keep the result small.
fn six_functions(rows: usize, columns: usize, row: &str) -> String {
    let x = format!("f32[{rows}, {columns}]");
    format!(
        "graph \"g\" {{ input %x: {x} input %row: f32[{row}]
            const %c: f32[] = [0.5]
            const %axis: i64[1] = [1]
            %a = Mul(%x, %c)
            %b = Add(%a, %row)
            %s = Relu(%b)
            %d = Sub(%s, %x)
            %e = Mul(%d, %d)
            %z = Add(%e, %c)
            %y = ReduceMean(%z, %axis)
            output \"y\" = %y
        }}"
    )
}

/// What is measured: a title and a graph.
fn graphs() -> [(&'static str, String); 4] {
    let feed_forward = r#"graph "g" {
        input %x: f32[3725, 768]
        const %w1: f32[768, 3072] = @w1
        const %b1: f32[3072] = @b1
        const %w2: f32[3072, 768] = @w2
        const %b2: f32[768] = @b2
        %h = MatMul(%x, %w1)
        %hb = Add(%h, %b1)
        %a = Gelu(%hb)
        %o = MatMul(%a, %w2)
        %ob = Add(%o, %b2)
        %y = Add(%ob, %x)
        output "y" = %y
    }"#;
    let convolution = r#"graph "g" {
        input %x: f32[1, 64, 56, 56]
        const %w: f32[64, 64, 3, 3] = @w
        const %s: f32[64] = @s
        const %v: f32[64] = @v
        %c = Conv(%x, %w) {pads = [1, 1, 1, 1]}
        %n = BatchNormalization(%c, %s, %s, %s, %v)
        %r = Add(%n, %x)
        %y = Relu(%r)
        output "y" = %y
    }"#;
    [
        ("feed-forward 3725 x 768 x 3072, GELU, residual", feed_forward.into()),
        ("six functions of 8 Mi elements", six_functions(8192, 1024, "1024")),
        ("the same over rows of 49", six_functions(171_196, 49, "171196, 1")),
        ("convolution 64 x 56 x 56, normalisation, residual, Relu", convolution.into()),
    ]
}

fn tensor(shape: &[usize]) -> Result<Tensor> {
    let n = shape.iter().product::<usize>();
    Tensor::from_vec(shape, (0..n).map(|i| (i * 37 % 101) as f32 * 0.01 + 0.01).collect())
}

fn parse(source: &str) -> Result<Graph> {
    let mut constants = BTreeMap::new();
    for line in source.lines() {
        if let Some((left, name)) = line.split_once("] = @")
            && let Some((_, dims)) = left.split_once("f32[")
        {
            let shape: Vec<usize> = dims.split(", ").filter_map(|d| d.parse().ok()).collect();
            constants.insert(name.trim().to_owned(), tensor(&shape)?);
        }
    }
    text::parse(source, &constants)
}

/// Processor time of this process in milliseconds.
fn cpu_ms() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a timespec to write to, and the clock exists on every system built for.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 * 1e3 + t.tv_nsec as f64 * 1e-6
}

fn main() -> Result<()> {
    let number = |i: usize| std::env::args().nth(i).and_then(|a| a.parse().ok());
    let rounds = number(1).unwrap_or(20);
    let threads = number(2).unwrap_or(1);
    let runtime = Runtime::new(&RuntimeOptions { threads, ..RuntimeOptions::default() })?;
    for (what, source) in graphs() {
        let graph = parse(&source)?;
        let mut inputs: Vec<Value> = Vec::new();
        for id in graph.inputs() {
            let dims = graph.fact(*id).shape().unwrap_or_default();
            let shape: Vec<usize> =
                dims.iter().filter_map(|d| usize::try_from(d.as_const()?).ok()).collect();
            inputs.push(tensor(&shape)?.into());
        }
        let mut sessions = [
            Session::new(Arc::new(Plan::new(graph.clone(), &runtime)?)),
            Session::new(Arc::new(Plan::new(prepare(graph)?, &runtime)?)),
        ];
        let mut best = [f64::INFINITY; 2];
        for _ in 0..rounds {
            for (session, best) in sessions.iter_mut().zip(&mut best) {
                let started = cpu_ms();
                session.run(inputs.clone(), &RunOptions::default())?;
                *best = best.min(cpu_ms() - started);
            }
        }
        let nodes = sessions.map(|s| s.plan().graph().nodes().len());
        println!(
            "{what}: {} nodes {:.2} ms, {} nodes {:.2} ms, ratio {:.3}",
            nodes[0],
            best[0],
            nodes[1],
            best[1],
            best[1] / best[0]
        );
    }
    Ok(())
}
