//! What calibration samples show: ranges of values, and what each layer loses on bytes.

use super::histogram::{Histogram, RangeMethod};
use super::samples::Sample;
use crate::Runtime;
use crate::plan::Plan;
use crate::session::{RunOptions, Session};
use deepseek_graph::interpret::bind_inputs;
use deepseek_graph::passes::precision::{self, Assignment, Candidate};
use deepseek_graph::{Graph, Value};
use deepseek_tensor::{Result, ensure, err};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of values that one pass over the samples holds at once.
const HELD: u64 = 64 << 20;

/// What was seen.
#[derive(Default)]
pub(super) struct Observed {
    /// Ranges and corrections; no node is assigned yet.
    pub assignment: Assignment,
    /// What each layer loses by itself: noise by signal.
    pub layers: BTreeMap<String, f64>,
}

/// Runs `graph` over the samples.
pub(super) fn observe(
    graph: &Graph,
    runtime: &Runtime,
    candidates: &[Candidate],
    samples: &[Sample],
    method: RangeMethod,
) -> Result<Observed> {
    let mut assignment = Assignment::default();
    let first = samples.first().ok_or_else(|| err!(Internal, "there is no sample"))?;
    let values = first.iter().map(|(_, t)| Value::Tensor(t.clone())).collect::<Vec<_>>();
    let ordered = order(graph, first, &values)?;
    let bindings = bind_inputs(graph, ordered.iter())?;
    let bytes_of = |name: &str| -> u64 {
        let shape = graph.find(name).and_then(|id| graph.fact(id).shape());
        let extents = shape.map(|s| s.iter().map(|d| d.eval(&bindings).map_or(1, |n| n as u64)));
        4 * extents.map_or(1, Iterator::product)
    };
    let watched = precision::observed(graph);
    for group in groups(&watched, HELD, |name| bytes_of(name)) {
        let mut watching = graph.clone();
        for name in group {
            let id = graph.find(name).ok_or_else(|| err!(Internal, "no value '{name}'"))?;
            watching.add_output(&output_name(name), id)?;
        }
        let outputs: Vec<String> = group.iter().map(|n| output_name(n)).collect();
        let mut seen = vec![Histogram::new(); group.len()];
        run(watching, runtime, samples, |sample, results| {
            for ((name, histogram), result) in group.iter().zip(&mut seen).zip(&outputs) {
                let odd = histogram.add(&floats(&results[result])?);
                ensure!(
                    odd == 0,
                    InvalidArgument,
                    "calibration sample {sample}: '{name}' holds {odd} numbers that are not finite \
                     in f32; a range cannot be taken from them"
                );
            }
            Ok(())
        })?;
        for (name, histogram) in group.iter().zip(&seen) {
            assignment.ranges.insert(name.clone(), histogram.range(method));
        }
    }
    assignment.factors = factors(graph, runtime, samples, bytes_of)?;
    let mut layers = BTreeMap::new();
    let sizes: BTreeMap<&str, u64> =
        candidates.iter().map(|c| (c.node.as_str(), 4 * bytes_of(&c.output))).collect();
    for group in groups(&super::names(candidates), HELD, |node| sizes[node]) {
        let (probing, probes) = precision::probe(graph, &assignment, group)?;
        let mut sums = vec![(0f64, 0f64, Vec::<f64>::new()); probes.len()];
        run(probing, runtime, samples, |_, results| {
            for (probe, (signal, noise, shift)) in probes.iter().zip(&mut sums) {
                *signal += f64::from(floats(&results[&probe.signal])?[0]);
                *noise += f64::from(floats(&results[&probe.noise])?[0]);
                if !probe.shift.is_empty() {
                    let now = floats(&results[&probe.shift])?;
                    shift.resize(now.len(), 0.0);
                    shift.iter_mut().zip(&now).for_each(|(s, n)| *s += f64::from(*n));
                }
            }
            Ok(())
        })?;
        for (probe, (signal, noise, shift)) in probes.into_iter().zip(sums) {
            let loss = if signal > 0.0 { noise / signal } else { noise };
            let loss = if loss.is_finite() { loss } else { f64::INFINITY };
            layers.insert(probe.node.clone(), loss);
            if !probe.shift.is_empty() {
                let n = samples.len() as f64;
                let shift: Vec<f32> = shift.iter().map(|s| (s / n) as f32).collect();
                if shift.iter().all(|s| s.is_finite()) {
                    assignment.corrections.insert(probe.node, shift);
                }
            }
        }
    }
    Ok(Observed { assignment, layers })
}

/// Factors for the values whose rows are quantised, from the greatest magnitude of each of their columns.
fn factors(
    graph: &Graph,
    runtime: &Runtime,
    samples: &[Sample],
    bytes_of: impl Fn(&str) -> u64,
) -> Result<BTreeMap<String, Vec<f32>>> {
    let mut columns: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for group in groups(&precision::smooth::rows(graph), HELD, bytes_of) {
        let mut watching = graph.clone();
        for name in group {
            let id = graph.find(name).ok_or_else(|| err!(Internal, "no value '{name}'"))?;
            watching.add_output(&output_name(name), id)?;
        }
        run(watching, runtime, samples, |_, results| {
            for name in group {
                let value = &results[&output_name(name)];
                let width = value.tensor()?.shape().last().copied().unwrap_or(0);
                let greatest = columns.entry(name.clone()).or_insert_with(|| vec![0.0; width]);
                for row in floats(value)?.chunks_exact(width.max(1)) {
                    greatest.iter_mut().zip(row).for_each(|(g, x)| *g = g.max(x.abs()));
                }
            }
            Ok(())
        })?;
    }
    precision::smooth::factors(graph, &columns)
}

fn output_name(value: &str) -> String {
    format!("{value} (observed)")
}

/// Neighbours in `names` whose sizes together stay within `limit`, at least one each.
fn groups(names: &[String], limit: u64, size: impl Fn(&str) -> u64) -> Vec<&[String]> {
    let (mut out, mut start, mut held) = (Vec::new(), 0, 0);
    for (i, name) in names.iter().enumerate() {
        let bytes = size(name);
        if i > start && held + bytes > limit {
            out.push(&names[start..i]);
            (start, held) = (i, 0);
        }
        held += bytes;
    }
    if start < names.len() {
        out.push(&names[start..]);
    }
    out
}

/// Runs the graph on each sample and hands over the results by name.
fn run(
    graph: Graph,
    runtime: &Runtime,
    samples: &[Sample],
    mut each: impl FnMut(usize, &BTreeMap<String, Value>) -> Result<()>,
) -> Result<()> {
    let names: Vec<String> = graph.outputs().iter().map(|(n, _)| n.clone()).collect();
    let plan = Arc::new(Plan::new(crate::prepare(graph)?, runtime)?);
    let mut session = Session::new(plan);
    for (i, sample) in samples.iter().enumerate() {
        let inputs = sample.iter().map(|(n, t)| (n.clone(), Value::Tensor(t.clone())));
        let outputs = session.run_named(inputs, &RunOptions::default())?.outputs;
        let named = names.iter().cloned().zip(outputs).collect();
        each(i, &named).map_err(|e| e.context(format_args!("calibration sample {i}")))?;
    }
    Ok(())
}

fn floats(value: &Value) -> Result<Vec<f32>> {
    value.tensor()?.to_vec::<f32>()
}

/// The values of a sample in the order of the graph's inputs.
fn order(graph: &Graph, sample: &Sample, values: &[Value]) -> Result<Vec<Value>> {
    let of = |name: &str| {
        let at = sample.iter().position(|(n, _)| n == name);
        at.map(|i| values[i].clone()).ok_or_else(|| err!(Internal, "no input '{name}'"))
    };
    graph.inputs().iter().map(|id| of(&graph.value(*id).name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_what_fits_and_at_least_one() {
        let names: Vec<String> = ["1", "2", "9", "3", "3"].map(str::to_owned).to_vec();
        let size = |n: &str| n.parse().unwrap();
        let found = groups(&names, 6, size);
        assert_eq!(found, [&names[..2], &names[2..3], &names[3..]]);
        assert!(groups(&[], 6, size).is_empty());
    }
}
