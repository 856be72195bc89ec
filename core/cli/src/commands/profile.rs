//! `deepseek profile`.

use crate::options::{ModelArgs, ShapeArgs, TimeoutArgs, human_bytes, random_inputs};
use crate::say;
use deepseek::{Code, Error, Result, Value};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

/// Tensors listed at the peak.
const PEAK: usize = 8;

/// Options of `profile`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    shapes: ShapeArgs,
    #[command(flatten)]
    timeout: TimeoutArgs,
    /// Where the trace goes, in the Chrome trace format (opens in Perfetto).
    #[arg(long, value_name = "JSON", required_unless_present_any = ["html", "data"])]
    trace: Option<PathBuf>,
    /// Where a page goes that any browser shows: memory over time, the peak, times.
    #[arg(long, value_name = "HTML")]
    html: Option<PathBuf>,
    /// Where all that was measured goes, as one JSON object.
    #[arg(long, value_name = "JSON")]
    data: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let model = args.model.open_for(&args.shapes.parse()?)?;
    let shapes = args.shapes.complete(&model)?;
    let inputs = random_inputs(&model, &shapes, 0)?;
    let session = model.session();
    let options = args.timeout.run_options();
    let feed = || inputs.iter().map(|(n, t)| (n.clone(), Value::Tensor(t.clone())));
    // The first run allocates; the second is the one to look at.
    session.run(feed(), &options)?;
    let (_, profile) = session.run_profiled(feed(), &options, true)?;
    let profile = profile.unwrap_or_default();
    let write = |path: &Option<PathBuf>, text: &dyn Fn() -> String| match path {
        None => Ok(()),
        Some(path) => std::fs::write(path, text())
            .map_err(|e| Error::new(Code::Io, format!("cannot write '{}': {e}", path.display()))),
    };
    write(&args.trace, &|| profile.to_chrome_trace())?;
    write(&args.html, &|| profile.to_html())?;
    write(&args.data, &|| profile.to_json())?;
    let mut by_op: BTreeMap<(&str, &str), (usize, f64)> = BTreeMap::new();
    let mut total = 0.0;
    for e in &profile.events {
        let ms = e.duration.as_secs_f64() * 1e3;
        let entry = by_op.entry((&e.op, &e.kernel)).or_default();
        entry.0 += 1;
        entry.1 += ms;
        total += ms;
    }
    let mut rows: Vec<_> = by_op.into_iter().collect();
    rows.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    say(out, format_args!("{:>9} {:>6} {:>6}  {:<24} kernel", "ms", "share", "nodes", "operator"))?;
    for ((op, kernel), (count, ms)) in rows {
        let share = if total > 0.0 { ms / total * 100.0 } else { 0.0 };
        say(out, format_args!("{ms:>9.3} {share:>5.1}% {count:>6}  {op:<24} {kernel}"))?;
    }
    let (planned, observed) =
        (human_bytes(profile.planned_bytes), human_bytes(profile.observed_bytes));
    say(out, format_args!("{total:>9.3} ms in all"))?;
    say(out, format_args!("beyond the weights: {planned} planned, {observed} observed"))?;
    if let Some(peak) = profile.events.get(profile.peak_event) {
        let alive = human_bytes(peak.actual_bytes);
        say(out, format_args!("peak: {alive} alive in '{}'", peak.node))?;
    }
    for t in profile.peak.iter().take(PEAK) {
        let bytes = human_bytes(t.bytes);
        say(out, format_args!("  {bytes:>10}  {:<7}  {}  {:?}", t.kind.name(), t.name, t.shape))?;
    }
    for (what, path) in [("trace", &args.trace), ("page", &args.html), ("data", &args.data)] {
        if let Some(path) = path {
            let nodes = profile.events.len();
            say(out, format_args!("{what} of {nodes} nodes in {}", path.display()))?;
        }
    }
    Ok(())
}
