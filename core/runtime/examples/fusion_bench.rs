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

const GRAPHS: [(&str, &str); 4] = [
    (
        "feed-forward 3725 x 768 x 3072, GELU, residual",
        r#"graph "g" {
            input %x: f32[3725, 768]
            const %w1: f32[768, 3072] = @w1
            const %b1: f32[3072] = @b1
            const %w2: f32[3072, 768] = @w2
            const %b2: f32[768] = @b2
            %h: f32[3725, 3072] = MatMul(%x, %w1) "h"
            %hb: f32[3725, 3072] = Add(%h, %b1) "hb"
            %a: f32[3725, 3072] = Gelu(%hb) "a"
            %o: f32[3725, 768] = MatMul(%a, %w2) "o"
            %ob: f32[3725, 768] = Add(%o, %b2) "ob"
            %y: f32[3725, 768] = Add(%ob, %x) "y"
            output "y" = %y
        }"#,
    ),
    (
        "six functions of 8 Mi elements, and a mean of each row to keep the result small",
        r#"graph "g" {
            input %x: f32[8192, 1024]
            input %row: f32[1024]
            const %c: f32[] = [0.5]
            const %axis: i64[1] = [1]
            %a: f32[8192, 1024] = Mul(%x, %c) "a"
            %b: f32[8192, 1024] = Add(%a, %row) "b"
            %s: f32[8192, 1024] = Relu(%b) "s"
            %d: f32[8192, 1024] = Sub(%s, %x) "d"
            %e: f32[8192, 1024] = Mul(%d, %d) "e"
            %z: f32[8192, 1024] = Add(%e, %c) "z"
            %y: f32[8192, 1] = ReduceMean(%z, %axis) "y"
            output "y" = %y
        }"#,
    ),
    (
        "the same over rows of 49",
        r#"graph "g" {
            input %x: f32[171196, 49]
            input %row: f32[171196, 1]
            const %c: f32[] = [0.5]
            const %axis: i64[1] = [1]
            %a: f32[171196, 49] = Mul(%x, %c) "a"
            %b: f32[171196, 49] = Add(%a, %row) "b"
            %s: f32[171196, 49] = Relu(%b) "s"
            %d: f32[171196, 49] = Sub(%s, %x) "d"
            %e: f32[171196, 49] = Mul(%d, %d) "e"
            %z: f32[171196, 49] = Add(%e, %c) "z"
            %y: f32[171196, 1] = ReduceMean(%z, %axis) "y"
            output "y" = %y
        }"#,
    ),
    (
        "convolution 64 x 56 x 56, normalisation, residual, Relu",
        r#"graph "g" {
            input %x: f32[1, 64, 56, 56]
            const %w: f32[64, 64, 3, 3] = @w
            const %s: f32[64] = @s
            const %v: f32[64] = @v
            %c: f32[1, 64, 56, 56] = Conv(%x, %w) {pads = [1, 1, 1, 1]} "c"
            %n: f32[1, 64, 56, 56] = BatchNormalization(%c, %s, %s, %s, %v) "n"
            %r: f32[1, 64, 56, 56] = Add(%n, %x) "r"
            %y: f32[1, 64, 56, 56] = Relu(%r) "y"
            output "y" = %y
        }"#,
    ),
];

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
    for (what, source) in GRAPHS {
        let graph = parse(source)?;
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
