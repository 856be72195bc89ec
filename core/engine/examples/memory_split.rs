//! Where the memory of a batch of sequences of different lengths goes, cause by cause: what its
//! run takes beyond the weights as exported, and what is left after each thing the compiler does.
//!
//! ```text
//! cargo run --release -p deepseek --example memory_split -- MODEL.onnx [LEAST..MOST]
//! ```
//!
//! One call of one sequence of each length from LEAST to MOST, both counted (50..99).

use deepseek_graph::passes::{
    Diagnostics, FuseAttention, FuseSoftmax, Level, Pipeline, PlainGathers, PlainShapes,
};
use deepseek_graph::{Bindings, Graph};
use deepseek_runtime::{
    LowerOptions, Plan, PlannedKind, Ragged, Runtime, RuntimeOptions, lower, prepare,
};
use deepseek_tensor::{Result, ensure, err};

const MIB: f64 = 1_048_576.0;

/// Binds every input to `[batch, length, …]`.
fn padded(graph: &Graph, batch: usize, length: usize) -> Result<Bindings> {
    let mut at = Bindings::new();
    for id in graph.inputs() {
        let shape = graph.fact(*id).shape().into_iter().flatten();
        for (axis, dim) in shape.enumerate().filter(|(_, dim)| dim.as_const().is_none()) {
            let extent = if axis == 1 { length } else { batch };
            at.unify(dim, extent as i64).map_err(|e| err!(ShapeMismatch, "{dim}: {e}"))?;
        }
    }
    Ok(at)
}

fn run(pipeline: Pipeline, graph: &Graph) -> Result<Graph> {
    Ok(pipeline.run(graph, &mut Diagnostics::new(Level::Off))?.graph)
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or_else(|| err!(InvalidArgument, "name an .onnx file"))?;
    let range = args.next().unwrap_or_else(|| "50..99".to_owned());
    let bounds = range.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let (least, most): (usize, usize) =
        bounds.ok_or_else(|| err!(InvalidArgument, "'{range}' is not LEAST..MOST"))?;
    ensure!(1 <= least && least <= most, InvalidArgument, "no lengths in {least}..{most}");
    let lengths: Vec<usize> = (least..=most).collect();

    let runtime = Runtime::new(&RuntimeOptions::default())?;
    let exported = deepseek_import::onnx::load(&path)?;
    let whole = LowerOptions { whole: true, ..LowerOptions::default() };
    let at = padded(&exported, lengths.len(), most)?;
    let take = |plan: &Plan| Ok(plan.memory(&at)?.planned_bytes());

    let mut rows: Vec<(&str, u64)> = Vec::new();
    let cleaned = run(Pipeline::cleanup(), &exported)?;
    let plan = lower(&cleaned, &runtime, &whole)?;
    let spans = plan.spans(&at)?;
    let values = spans.iter().filter(|s| s.value.kind != PlannedKind::Scratch);
    let scratch = spans.iter().filter(|s| s.value.kind == PlannedKind::Scratch);
    let scratch = scratch.map(|s| s.value.bytes).max().unwrap_or(0);
    let every_value = values.map(|s| s.value.bytes).sum::<u64>() + scratch;
    rows.push(("padded, every value in memory of its own", every_value));
    rows.push(("lifetime plan", take(&plan)?));

    let attention = Pipeline::cleanup().with(FuseSoftmax).with(FuseAttention);
    let attention = run(attention.with(PlainShapes).with(PlainGathers), &exported)?;
    rows.push(("fused attention", take(&lower(&attention, &runtime, &whole)?)?));
    let prepared = prepare(exported)?;
    rows.push(("everything else fused", take(&lower(&prepared, &runtime, &whole)?)?));
    rows.push(("blocks of rows", take(&lower(&prepared, &runtime, &LowerOptions::default())?)?));
    let packed = Ragged::new(&prepared, &runtime, &LowerOptions::default())?.memory(&lengths)?;
    rows.push(("no padding", packed.planned_bytes()));

    println!("{} sequences of {least} to {most}, bytes beyond the weights", lengths.len());
    println!("{:<44} {:>10} {:>10}", "after", "MiB", "saved");
    let mut before = None;
    for (what, bytes) in rows {
        let saved = before.map_or_else(String::new, |b: u64| {
            format!("{:.0} %", 100.0 * (1.0 - bytes as f64 / b as f64))
        });
        println!("{what:<44} {:>10.1} {saved:>10}", bytes as f64 / MIB);
        before = Some(bytes);
    }
    Ok(())
}
