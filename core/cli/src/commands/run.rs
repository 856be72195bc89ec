//! `deepseek run`.

use crate::options::{ModelArgs, TimeoutArgs};
use crate::say;
use deepseek::{Code, Error, Result, Value, npz};
use std::io::Write;
use std::path::PathBuf;

/// Options of `run`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    timeout: TimeoutArgs,
    /// The input arrays, one member for each input.
    #[arg(long, value_name = "NPZ")]
    inputs: PathBuf,
    /// Where the outputs go.
    #[arg(long, value_name = "NPZ")]
    outputs: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let inputs = npz::read(&args.inputs)?;
    let model = args.model.open()?;
    let inputs = inputs.into_iter().map(|(name, t)| (name, Value::Tensor(t)));
    let outputs = model.session().run(inputs, &args.timeout.run_options())?;
    let mut arrays = Vec::with_capacity(outputs.len());
    for (name, value) in outputs {
        match value {
            Value::Tensor(t) => arrays.push((name, t)),
            other => {
                let text = format!("output '{name}' is {}; npz holds arrays only", other.ty());
                return Err(Error::new(Code::Unsupported, text));
            }
        }
    }
    npz::write(&args.outputs, &arrays)?;
    for (name, t) in &arrays {
        say(out, format_args!("{name}: {t:?}"))?;
    }
    Ok(())
}
