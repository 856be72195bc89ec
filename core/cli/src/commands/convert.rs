//! `deepseek convert`.

use crate::options::{PrecisionArgs, ShapeArgs, human_bytes};
use crate::say;
use deepseek::{Model, ModelOptions, Result, Runtime, SaveOptions};
use std::io::Write;
use std::path::PathBuf;

/// Options of `convert`.
#[derive(clap::Args)]
pub struct Args {
    /// An `.onnx` or `.deepseek` file, or a Hugging Face directory.
    input: PathBuf,
    /// The `.deepseek` file to write.
    output: PathBuf,
    /// Store the weights a second time, packed for this machine, so that opening the file packs nothing.
    #[arg(long)]
    packed: bool,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    shapes: ShapeArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let mut options = ModelOptions::default();
    args.precision.set(&mut options, &args.shapes.parse()?)?;
    let runtime = Runtime::new(&deepseek::options_from_env(Default::default())?)?;
    let model = Model::open_with(&args.input, &runtime, &options)?;
    model.save_with(&args.output, &SaveOptions { packed: args.packed })?;
    let bytes = std::fs::metadata(&args.output).map_or(0, |m| m.len());
    let s = model.summary();
    let output = args.output.display();
    if args.json {
        let line = serde_json::json!({
            "output": output.to_string(), "bytes": bytes, "source": s.source, "nodes": s.nodes,
            "parameters": s.parameters, "parameter_bytes": s.parameter_bytes,
            "precision": crate::precision::report(&model),
        });
        return say(out, line);
    }
    let size = human_bytes(bytes);
    say(out, format_args!("{output}: {size}, {} nodes, {} parameters", s.nodes, s.parameters))?;
    crate::precision::print(&model, out)
}
