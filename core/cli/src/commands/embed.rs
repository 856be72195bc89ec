//! `deepseek embed`.

use crate::options::{ModelArgs, TimeoutArgs};
use crate::say;
use deepseek::{Code, Embedder, Error, Result};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Options of `embed`.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["text", "file"])))]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    timeout: TimeoutArgs,
    /// A text; may be given several times.
    #[arg(long)]
    text: Vec<String>,
    /// A file with one text a line; empty lines are texts.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Print one JSON object a line: {"index", "embedding"}.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    if args.model.precision.precision.is_some() {
        let text = "embed takes an encoder as it is; convert it with --precision first";
        return Err(Error::new(Code::Unsupported, text));
    }
    let file;
    let texts: Vec<&str> = match &args.file {
        None => args.text.iter().map(String::as_str).collect(),
        Some(path) => {
            file = std::fs::read_to_string(path).map_err(|e| {
                Error::new(Code::Io, format!("cannot read '{}': {e}", path.display()))
            })?;
            file.lines().collect()
        }
    };
    let embedder = Embedder::open(&args.model.model, &args.model.runtime()?)?;
    let vectors = embedder.embed(&texts, &args.timeout.run_options())?;
    for (index, vector) in vectors.chunks_exact(embedder.dim().max(1)).enumerate() {
        if args.json {
            say(out, json!({"index": index, "embedding": vector}))?;
        } else {
            let first: Vec<String> = vector.iter().take(6).map(|x| format!("{x:+.4}")).collect();
            let head: String = texts[index].chars().take(50).collect();
            say(out, format_args!("{index:>4}  [{} …] {}  {head}", first.join(" "), vector.len()))?;
        }
    }
    Ok(())
}
