//! What running in blocks of rows saves and costs on an encoder of BERT-base's sizes:
//! `row_blocks LAYERS BATCH SEQ THREADS RUNS`. Prints planned bytes and the best time of each
//! size of block, interleaved.

use deepseek_graph::passes::{CutRows, DeadCode, Diagnostics, Level, Pipeline};
use deepseek_graph::{Bindings, Dim, Graph, Type, ValueId, ops};
use deepseek_runtime::{Plan, Runtime, RuntimeOptions, Session, prepare};
use deepseek_tensor::{DType, Result, Tensor};
use std::sync::Arc;
use std::time::Instant;

const HIDDEN: usize = 768;
const WIDE: usize = 3072;

/// Floats between -scale and scale by Knuth's MMIX generator.
fn random(shape: &[usize], seed: u64, scale: f32) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
    };
    let data = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(shape, data)
}

struct Builder {
    graph: Graph,
    seed: u64,
}

impl Builder {
    fn weights(&mut self, shape: &[usize]) -> Result<ValueId> {
        self.seed += 1;
        let t = random(shape, self.seed, 0.03)?;
        self.graph.add_constant(&format!("w{}", self.seed), t)
    }

    fn linear(&mut self, name: &str, x: ValueId, k: usize, n: usize) -> Result<ValueId> {
        let (w, b) = (self.weights(&[k, n])?, self.weights(&[n])?);
        let y = self.graph.add(&format!("{name}.matmul"), ops::MatMul::default(), &[x, w])?;
        self.graph.add(&format!("{name}.bias"), ops::Add::default(), &[y, b])
    }

    fn norm(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        let (scale, bias) = (self.weights(&[HIDDEN])?, self.weights(&[HIDDEN])?);
        self.graph.add(name, ops::LayerNormalization::default(), &[x, scale, bias])
    }

    fn layer(&mut self, i: usize, x: ValueId) -> Result<ValueId> {
        let name = |part: &str| format!("layer{i}.{part}");
        let q = self.linear(&name("q"), x, HIDDEN, HIDDEN)?;
        let k = self.linear(&name("k"), x, HIDDEN, HIDDEN)?;
        let v = self.linear(&name("v"), x, HIDDEN, HIDDEN)?;
        let attention = ops::Attention {
            q_num_heads: Some(12),
            kv_num_heads: Some(12),
            ..ops::Attention::default()
        };
        let a = self.graph.add(&name("attention"), attention, &[q, k, v])?;
        let a = self.linear(&name("out"), a, HIDDEN, HIDDEN)?;
        let a = self.graph.add(&name("residual"), ops::Add::default(), &[a, x])?;
        let a = self.norm(&name("norm"), a)?;
        let h = self.linear(&name("up"), a, HIDDEN, WIDE)?;
        let h = self.graph.add(&name("gelu"), ops::Gelu::default(), &[h])?;
        let h = self.linear(&name("down"), h, WIDE, HIDDEN)?;
        let h = self.graph.add(&name("residual2"), ops::Add::default(), &[h, a])?;
        self.norm(&name("norm2"), h)
    }
}

fn main() -> Result<()> {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let [layers, batch, seq, threads, runs] = args[..] else {
        println!("usage: row_blocks LAYERS BATCH SEQ THREADS RUNS");
        return Ok(());
    };
    let mut b = Builder { graph: Graph::new("encoder"), seed: 0 };
    let shape = [Dim::sym("batch"), Dim::sym("seq"), Dim::from(HIDDEN)];
    let mut x = b.graph.add_input("x", Type::tensor(DType::F32, shape))?;
    for i in 0..layers {
        x = b.layer(i, x)?;
    }
    b.graph.add_output("y", x)?;
    let graph = prepare(b.graph)?;
    let runtime = Runtime::new(&RuntimeOptions { threads, ..RuntimeOptions::default() })?;
    let input = random(&[batch, seq, HIDDEN], 7, 1.0)?;
    let mut at = Bindings::new();
    for (name, n) in [("batch", batch), ("seq", seq)] {
        at.unify(&Dim::sym(name), n as i64).expect("extents are small");
    }
    let mut rows = Vec::new();
    for block in [0u64, 120, 240, 504, u64::MAX] {
        let pass = match block {
            u64::MAX => CutRows::default(),
            n => CutRows { max_rows: n, block_bytes: u64::MAX, ..CutRows::default() },
        };
        let pipeline = Pipeline::new(Vec::new()).with(pass).with(DeadCode);
        let mut diagnostics = Diagnostics::new(Level::Fired);
        let cut = match block {
            0 => graph.clone(),
            _ => pipeline.max_rounds(4).run(&graph, &mut diagnostics)?.graph,
        };
        if let Some(e) = diagnostics.entries().first() {
            println!("{e}");
        }
        let plan = Arc::new(Plan::new(cut, &runtime)?);
        let report = plan.memory(&at)?;
        rows.push((block, Session::new(plan), report, f64::INFINITY, None));
    }
    for _ in 0..runs {
        for (_, session, _, best, bytes) in &mut rows {
            let start = Instant::now();
            let out = session.run_tensors(vec![input.clone()])?;
            *best = best.min(start.elapsed().as_secs_f64());
            *bytes = Some((session.observed_bytes(), out[0].to_vec::<f32>()?));
        }
    }
    let first = rows[0].4.as_ref().map(|(_, y)| y.clone());
    println!("block        planned        arena   observed     best ms   bits");
    for (block, _, report, best, seen) in rows {
        let Some((observed, y)) = seen else { continue };
        let same = first
            .as_ref()
            .is_some_and(|f| f.iter().map(|v| v.to_bits()).eq(y.iter().map(|v| v.to_bits())));
        println!(
            "{:>5} {:>14} {:>12} {:>12} {:>9.1}   {}   peak in {}",
            match block {
                0 => "whole".to_owned(),
                u64::MAX => "auto".to_owned(),
                n => n.to_string(),
            },
            report.planned_bytes(),
            report.arena_bytes,
            observed,
            best * 1e3,
            if same { "same" } else { "DIFFER" },
            report.peak_step,
        );
    }
    Ok(())
}
