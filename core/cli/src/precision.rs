//! The precision report for a person.

use crate::say;
use deepseek::{Model, Result};
use serde_json::Value;
use std::io::Write;

/// The report of a model; null where it has none.
pub fn report(model: &Model) -> Value {
    let report = model.precision_report().and_then(|r| serde_json::from_str(r).ok());
    report.unwrap_or(Value::Null)
}

/// Prints the report of a model, if it has one.
pub fn print(model: &Model, out: &mut impl Write) -> Result<()> {
    let report = report(model);
    if report.is_null() {
        return Ok(());
    }
    let empty = Vec::new();
    let layers = report["layers"].as_array().unwrap_or(&empty);
    let int8 = layers.iter().filter(|l| l["precision"] == "int8").count();
    let text = |v: &Value| v.as_str().unwrap_or("?").to_owned();
    let requested = text(&report["requested"]);
    say(out, format_args!("precision {requested}: {int8} of {} layers in int8", layers.len()))?;
    let data = match report["synthetic"].as_bool() {
        Some(true) => "synthetic (seeded, made up)",
        _ => "given",
    };
    let (with, on) = (&report["calibrated_with"], &report["verified_with"]);
    say(out, format_args!("  calibration data: {data}; {with} samples, accuracy on {on}"))?;
    let (accuracy, budget) = (&report["accuracy"], &report["budget"]);
    let metric = text(&report["metric"]);
    say(out, format_args!("  accuracy {accuracy:.6} of f32 ({metric}), budget {budget}"))?;
    let number = |v: &Value, digits: usize| match v.as_f64() {
        Some(x) => format!("{x:.digits$}"),
        None => "-".to_owned(),
    };
    let (before, after) = (number(&report["ms_before"], 3), number(&report["ms_after"], 3));
    say(out, format_args!("  a run: {before} ms in f32, {after} ms now"))?;
    say(out, "  precision      error  ms before   ms after  layer: why")?;
    for l in layers {
        let error = l["error"].as_f64().map_or_else(|| "-".to_owned(), |x| format!("{x:.2e}"));
        let (before, after) = (number(&l["ms_before"], 4), number(&l["ms_after"], 4));
        let (precision, node, why) = (text(&l["precision"]), text(&l["node"]), text(&l["why"]));
        say(
            out,
            format_args!("  {precision:<9} {error:>10} {before:>10} {after:>10}  {node}: {why}"),
        )?;
    }
    Ok(())
}
