//! `deepseek bench`.

use crate::options::{ModelArgs, ShapeArgs, TimeoutArgs, human_bytes, random_inputs};
use crate::say;
use deepseek::{Result, Value};
use serde_json::json;
use std::io::Write;
use std::time::Instant;

/// Options of `bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    shapes: ShapeArgs,
    #[command(flatten)]
    timeout: TimeoutArgs,
    /// Timed runs, after two that are not.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    iters: u32,
    /// Seed of the inputs: floats in [0, 1), integers 0 or 1.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let started = Instant::now();
    let model = args.model.open_for(&args.shapes.parse()?)?;
    let load_ms = millis(started);
    let shapes = args.shapes.complete(&model)?;
    let inputs = random_inputs(&model, &shapes, args.seed)?;
    let session = model.session();
    let once = || {
        let inputs = inputs.iter().map(|(n, t)| (n.clone(), Value::Tensor(t.clone())));
        session.run(inputs, &args.timeout.run_options())
    };
    once()?;
    once()?;
    let mut times = Vec::with_capacity(args.iters as usize);
    for _ in 0..args.iters {
        let started = Instant::now();
        once()?;
        times.push(millis(started));
    }
    times.sort_by(f64::total_cmp);
    let quantile = |q: f64| times[((times.len() - 1) as f64 * q).round() as usize];
    let (median, p10, p90) = (quantile(0.5), quantile(0.1), quantile(0.9));
    let named: Vec<(&str, &[usize])> =
        shapes.iter().map(|s| (s.name.as_str(), s.extents.as_slice())).collect();
    let planned = model.plan_memory_for_shapes(&named)?.planned_bytes();
    let threads = model.runtime().threads();
    if args.json {
        return say(
            out,
            json!({
                "model": args.model.model.display().to_string(),
                "device": "cpu",
                "precision": model.precision(),
                "threads": threads,
                "runs": args.iters,
                "median_ms": median,
                "p10_ms": p10,
                "p90_ms": p90,
                "load_ms": load_ms,
                "planned_bytes": planned,
                "observed_bytes": session.observed_bytes(),
            }),
        );
    }
    let precision = model.precision();
    let name = args.model.model.display();
    say(out, format_args!("{name} on cpu, {precision}, {threads} threads"))?;
    say(out, format_args!("  load      {load_ms:10.2} ms"))?;
    say(out, format_args!("  run       {median:10.2} ms   median of {}", args.iters))?;
    say(out, format_args!("            {p10:10.2} to {p90:.2} ms for 8 in 10"))?;
    say(out, format_args!("  planned   {:>10}      beyond the weights", human_bytes(planned)))?;
    say(out, format_args!("  observed  {:>10}", human_bytes(session.observed_bytes())))
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
