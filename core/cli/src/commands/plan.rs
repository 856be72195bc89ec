//! `deepseek plan`.

use crate::options::{ModelArgs, ShapeArgs, human_bytes};
use crate::say;
use deepseek::{Cut, MemoryReport, Result};
use serde_json::json;
use std::io::Write;

/// Lines about the peak.
const PEAK: usize = 16;

/// Options of `plan`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    shapes: ShapeArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let model = args.model.open_for(&args.shapes.parse()?)?;
    let formula = model.memory_formula();
    let exact = model.memory_formula_is_exact();
    let open: Vec<String> = model.summary().symbols.into_keys().collect();
    // Without shapes, a model with named dimensions still has its formula, and a worst case
    // if they have bounds.
    let bounded = args.shapes.shapes.is_empty() && !open.is_empty();
    let mut cuts = Vec::new();
    let report = if bounded {
        model.plan_memory_within_bounds().ok()
    } else {
        let shapes = args.shapes.complete(&model)?;
        let named: Vec<(&str, &[usize])> =
            shapes.iter().map(|s| (s.name.as_str(), s.extents.as_slice())).collect();
        cuts = model.plan_cuts_for_shapes(&named)?;
        Some(model.plan_memory_for_shapes(&named)?)
    };
    if args.json {
        let mut object = match &report {
            Some(report) => deepseek::json::memory_value(report),
            None => json!({
                "planned_bytes": null,
                "arena_bytes": null,
                "output_bytes": null,
                "constant_bytes": null,
                "dynamic_values": null,
                "largest": [],
            }),
        };
        object["model"] = json!(args.model.model.display().to_string());
        object["device"] = json!("cpu");
        object["formula"] = json!(formula.to_string());
        object["formula_exact"] = json!(exact);
        object["symbols"] = json!(open);
        object["cuts"] = cuts.iter().map(cut_value).collect();
        object["worst_case"] = json!(bounded && report.is_some());
        return say(out, object);
    }
    let Some(report) = report else {
        say(out, format_args!("bytes beyond the weights {} {formula}", relation(exact)))?;
        return say(
            out,
            format_args!(
                "give --shape for every input, or --bounds SYMBOL=1..512, to get the number ({})",
                open.join(", ")
            ),
        );
    };
    if bounded {
        say(out, "no run within the bounds of the model's symbols takes more than:")?;
    }
    print(&report, out)?;
    print_cuts(&cuts, out)
}

/// How the bytes relate to the formula.
fn relation(exact: bool) -> &'static str {
    if exact { "=" } else { "<=" }
}

fn cut_value(c: &Cut) -> serde_json::Value {
    json!({
        "node": c.node,
        "nodes": c.nodes,
        "rows": c.rows,
        "block_rows": c.block_rows,
        "blocks": c.blocks,
        "bytes_at_once": c.bytes_at_once,
        "bytes_in_blocks": c.bytes_in_blocks,
        "weight_bytes": c.weight_bytes,
        "extra_weight_bytes": c.extra_weight_bytes,
    })
}

fn print_cuts(cuts: &[Cut], out: &mut impl Write) -> Result<()> {
    if !cuts.is_empty() {
        say(out, "runs in blocks of rows:")?;
    }
    for c in cuts {
        say(
            out,
            format_args!(
                "  {}: {} nodes, {} of {} rows at a time: {} instead of {}, {} of weights read again",
                c.node,
                c.nodes,
                c.block_rows.min(c.rows),
                c.rows,
                human_bytes(c.bytes_in_blocks),
                human_bytes(c.bytes_at_once),
                human_bytes(c.extra_weight_bytes)
            ),
        )?;
    }
    Ok(())
}

fn print(r: &MemoryReport, out: &mut impl Write) -> Result<()> {
    let line = |bytes: u64| format!("{bytes:>14} bytes  {:>10}", human_bytes(bytes));
    let relation = relation(r.formula_exact);
    say(out, format_args!("bytes beyond the weights {relation} {}", r.formula))?;
    say(out, format_args!("  working memory {}", line(r.arena_bytes)))?;
    if r.heap_bytes > 0 {
        say(out, format_args!("    of it beside the arena {:>6}", human_bytes(r.heap_bytes)))?;
    }
    say(out, format_args!("  outputs        {}", line(r.output_bytes)))?;
    say(out, format_args!("  sum            {}", line(r.planned_bytes())))?;
    say(out, format_args!("  weights        {}", line(r.constant_bytes)))?;
    if r.specialised {
        say(out, "  this shape is packed anew, into less than the formula says")?;
    }
    if r.dynamic_values > 0 {
        let n = r.dynamic_values;
        say(out, format_args!("  {n} values or subgraphs whose size depends on data come on top"))?;
    }
    if r.peak.is_empty() {
        return Ok(());
    }
    say(out, format_args!("the peak is in '{}':", r.peak_step))?;
    for v in r.peak.iter().take(PEAK) {
        let at = v.offset.map_or("beside the arena".to_owned(), |n| format!("at {n}"));
        say(
            out,
            format_args!(
                "  {:>10}  {:<7}  {at:<16}  {}  {}",
                human_bytes(v.bytes),
                v.kind.name(),
                v.name,
                v.ty
            ),
        )?;
    }
    let more = r.peak.len().saturating_sub(PEAK);
    if more > 0 {
        say(out, format_args!("  and {more} smaller ones"))?;
    }
    Ok(())
}
