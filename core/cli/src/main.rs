//! The `deepseek` program: the façade on the command line.
//!
//! Human-readable by default, machine-readable with `--json`. Bad input ends with
//! exit status 1 and one line on standard error that carries the status code, the
//! place and the remedy; wrong usage with status 2.

mod commands;
mod options;
mod precision;

use clap::{Parser, Subcommand};
use deepseek::{Code, Error, Result};
use std::io::Write;
use std::process::ExitCode;

/// Load a model, run it, and say what it costs.
#[derive(Parser)]
#[command(name = "deepseek", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a model on the arrays of an npz file and write its outputs to another.
    Run(commands::run::Args),
    /// Time a model on seeded random inputs.
    Bench(commands::bench::Args),
    /// Say exactly how many bytes a run will take, before running it.
    Plan(commands::plan::Args),
    /// Run a model once and record time and memory of every node.
    Profile(commands::profile::Args),
    /// Show a model's inputs, outputs, dimensions, operators and size.
    Inspect(commands::inspect::Args),
    /// Write a model, its weights and its tokenizer to one `.deepseek` file.
    Convert(commands::convert::Args),
    /// Turn texts into vectors with a sentence encoder.
    Embed(commands::embed::Args),
    /// Find objects in images with a YOLOv8 or YOLO11 model.
    Detect(commands::vision::DetectArgs),
    /// Tell the best classes of images.
    Classify(commands::vision::ClassifyArgs),
}

fn main() -> ExitCode {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let result = match Cli::parse().command {
        Command::Run(args) => commands::run::run(&args, &mut out),
        Command::Bench(args) => commands::bench::run(&args, &mut out),
        Command::Plan(args) => commands::plan::run(&args, &mut out),
        Command::Profile(args) => commands::profile::run(&args, &mut out),
        Command::Inspect(args) => commands::inspect::run(&args, &mut out),
        Command::Convert(args) => commands::convert::run(&args, &mut out),
        Command::Embed(args) => commands::embed::run(&args, &mut out),
        Command::Detect(args) => commands::vision::detect(&args, &mut out),
        Command::Classify(args) => commands::vision::classify(&args, &mut out),
    };
    match result.and_then(|()| out.flush().map_err(printed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.message() == PIPE_CLOSED => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Marks that whoever reads our output has had enough, which is no failure.
const PIPE_CLOSED: &str = "standard output is closed";

/// An error of printing.
pub(crate) fn printed(e: std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::BrokenPipe => Error::new(Code::Io, PIPE_CLOSED),
        _ => Error::new(Code::Io, format!("cannot write to standard output: {e}")),
    }
}

/// Prints a line of text.
pub(crate) fn say(out: &mut impl Write, text: impl std::fmt::Display) -> Result<()> {
    writeln!(out, "{text}").map_err(printed)
}
