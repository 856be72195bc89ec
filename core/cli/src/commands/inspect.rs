//! `deepseek inspect`.

use crate::options::{ModelArgs, human_bytes};
use crate::say;
use deepseek::Result;
use std::io::Write;

/// Options of `inspect`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Read a .deepseek file whole and hold every tensor against its digest.
    #[arg(long)]
    verify: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    if args.verify {
        deepseek::verify_package(&args.model.model)?;
    }
    let model = args.model.open()?;
    let s = model.summary();
    let formula = model.memory_formula();
    if args.json {
        return say(out, deepseek::json::model(&model));
    }
    say(out, format_args!("{} ({}): {} nodes", s.name, s.source, s.nodes))?;
    for (what, specs) in [("inputs", model.inputs()), ("outputs", model.outputs())] {
        say(out, format_args!("{what}:"))?;
        for spec in specs {
            say(out, format_args!("  {}: {}", spec.name, spec.ty))?;
        }
    }
    if !s.symbols.is_empty() {
        say(out, "dimensions:")?;
        for (name, (min, max)) in &s.symbols {
            let max = max.map_or("any".to_owned(), |m| m.to_string());
            say(out, format_args!("  {name}: {min} to {max}"))?;
        }
    }
    let bytes = human_bytes(s.parameter_bytes);
    say(out, format_args!("parameters: {} ({bytes})", s.parameters))?;
    say(out, format_args!("bytes beyond the weights = {formula}"))?;
    say(out, "operators (nodes, of them on a kernel of this machine):")?;
    for (op, (nodes, fast)) in &s.ops {
        say(out, format_args!("  {nodes:>5} {fast:>5}  {op}"))?;
    }
    crate::precision::print(&model, out)
}
