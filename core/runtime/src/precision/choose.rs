//! From what was seen to an assignment.

use super::report::LayerReport;
use super::samples::Sample;
use super::{PrecisionOptions, Target, build};
use crate::Runtime;
use crate::plan::Plan;
use crate::session::{RunOptions, Session};
use deepseek_graph::passes::precision::{Assignment, Candidate, Precision};
use deepseek_graph::{Graph, Value};
use deepseek_tensor::{Error, Result, err};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs that times are the least of, and how long they may take together.
const RUNS: (usize, Duration) = (12, Duration::from_secs(4));
/// A part of a time that another must be below to count as faster.
const FASTER: f64 = 0.98;

/// What [`Choice::choose`] took.
pub(super) struct Outcome {
    pub graph: Graph,
    pub accuracy: f64,
    pub ms_before: Option<f64>,
    pub ms_after: Option<f64>,
    pub layers: Vec<LayerReport>,
}

/// A model in one assignment.
struct Built {
    graph: Graph,
    session: Session,
}

/// All that the choice depends on.
pub(super) struct Choice<'a> {
    graph: &'a Graph,
    runtime: &'a Runtime,
    reference: Session,
    samples: &'a [Sample],
    /// Outputs in `f32`, for each sample.
    want: Vec<Vec<Value>>,
    names: Vec<String>,
    options: &'a PrecisionOptions,
    budget: f64,
    candidates: &'a [Candidate],
    losses: &'a BTreeMap<String, f64>,
}

fn run(session: &mut Session, sample: &Sample, profile: bool) -> Result<crate::session::RunResult> {
    let inputs = sample.iter().map(|(n, t)| (n.clone(), Value::Tensor(t.clone())));
    session.run_named(inputs, &RunOptions { profile, ..RunOptions::default() })
}

impl<'a> Choice<'a> {
    pub fn new(
        graph: &'a Graph,
        runtime: &'a Runtime,
        reference: Plan,
        samples: &'a [Sample],
        (options, budget): (&'a PrecisionOptions, f64),
        candidates: &'a [Candidate],
        losses: &'a BTreeMap<String, f64>,
    ) -> Result<Self> {
        let mut reference = Session::new(Arc::new(reference));
        let each = |s: &Sample| Ok(run(&mut reference, s, false)?.outputs);
        let want = samples.iter().map(each).collect::<Result<_>>()?;
        let names = graph.outputs().iter().map(|(n, _)| n.clone()).collect();
        Ok(Choice {
            graph,
            runtime,
            reference,
            samples,
            want,
            names,
            options,
            budget,
            candidates,
            losses,
        })
    }

    /// Takes an assignment of what was asked for; `seen` holds what calibration found.
    ///
    /// # Errors
    /// `InvalidArgument` if no assignment meets the budget.
    pub fn choose(mut self, seen: &mut Assignment) -> Result<Outcome> {
        let all: BTreeSet<&str> = self.candidates.iter().map(|c| c.node.as_str()).collect();
        let mut why: BTreeMap<&str, String> = BTreeMap::new();
        let target = self.options.target;
        let mut built = self.build(seen, &all)?;
        if target == Target::Only(Precision::Int8) {
            let accuracy = self.accuracy(&mut built)?;
            if !self.meets(accuracy) {
                return Err(self.missed(accuracy, &all));
            }
            let reason = "asked for".to_owned();
            why.extend(all.iter().map(|n| (*n, reason.clone())));
            let times = self.times(&mut built)?;
            return Ok(self.outcome(built, accuracy, &all, Some(times), &why));
        }
        let mut times = self.times(&mut built)?;
        let mut on_bytes = all.clone();
        // Layers that are slower by themselves go back, if the whole gets faster by that.
        let slower: BTreeSet<&str> = all
            .iter()
            .copied()
            .filter(|n| match (times.before.get(*n), times.after.get(*n)) {
                (Some(before), Some(after)) => *after >= *before,
                _ => false,
            })
            .collect();
        if !slower.is_empty() {
            let kept: BTreeSet<&str> = all.difference(&slower).copied().collect();
            let mut other = self.build(seen, &kept)?;
            let other_times = self.times(&mut other)?;
            if other_times.whole.1 < times.whole.1 {
                why.extend(slower.iter().map(|n| (*n, "slower in int8".to_owned())));
                // The layers that went back keep the time they had in int8.
                let mut after = times.after.clone();
                after.extend(other_times.after.iter().map(|(n, t)| (n.clone(), *t)));
                (built, on_bytes) = (other, kept);
                times = Times { after, ..other_times };
            }
        }
        if times.whole.1 >= times.whole.0 * FASTER {
            why.extend(on_bytes.iter().map(|n| (*n, "the model is not faster in int8".to_owned())));
            on_bytes.clear();
            built = self.build(seen, &on_bytes)?;
            times.whole.1 = times.whole.0;
        }
        let mut accuracy = self.accuracy(&mut built)?;
        if !self.meets(accuracy) {
            let order = self.by_loss(&on_bytes);
            let plain = self.options.metric.of(&self.names, &self.want, &self.want)?;
            if !self.meets(plain) {
                return Err(self.missed(accuracy.max(plain), &on_bytes));
            }
            // The least number of layers, in order of their loss, that have to go back.
            let (mut low, mut back) = (0, order.len());
            let mut best: Option<(Built, f64)> = None;
            while back - low > 1 {
                let middle = usize::midpoint(low, back);
                let kept: BTreeSet<&str> = order[middle..].iter().copied().collect();
                let mut now = self.build(seen, &kept)?;
                let a = self.accuracy(&mut now)?;
                if self.meets(a) {
                    (back, best) = (middle, Some((now, a)));
                } else {
                    low = middle;
                }
            }
            let (model, a) = match best {
                Some(best) => best,
                None => (self.build(seen, &BTreeSet::new())?, plain),
            };
            let loss = |n: &str| self.loss(n);
            for n in &order[..back] {
                why.insert(n, format!("kept in f32 for accuracy, loss {:.2e}", loss(n)));
                on_bytes.remove(n);
            }
            (built, accuracy) = (model, a);
            let after = times.after.clone();
            times = self.times(&mut built)?;
            let measured = std::mem::replace(&mut times.after, after);
            times.after.extend(measured);
        }
        for n in &on_bytes {
            why.insert(n, "faster in int8".to_owned());
        }
        Ok(self.outcome(built, accuracy, &on_bytes, Some(times), &why))
    }

    fn meets(&self, accuracy: f64) -> bool {
        // Room for the rounding of a metric that is 1 for equal outputs.
        accuracy + 1e-9 >= self.budget
    }

    fn loss(&self, node: &str) -> f64 {
        self.losses.get(node).copied().unwrap_or(f64::INFINITY)
    }

    /// Nodes, those that lose most first.
    fn by_loss<'n>(&self, nodes: &BTreeSet<&'n str>) -> Vec<&'n str> {
        let mut order: Vec<&str> = nodes.iter().copied().collect();
        order.sort_by(|a, b| self.loss(b).total_cmp(&self.loss(a)).then(a.cmp(b)));
        order
    }

    fn missed(&self, reached: f64, nodes: &BTreeSet<&str>) -> Error {
        let worst = self.by_loss(nodes).into_iter().take(3);
        let worst = worst.map(|n| format!("'{n}' ({:.1e})", self.loss(n)));
        err!(
            InvalidArgument,
            "the accuracy budget of {} ({}) is not met: the best that was reached is {reached:.6}; the \
             layers that lose most by themselves are {}; lower the budget, use precision auto, or \
             give calibration data that is closer to use",
            self.budget,
            self.options.metric.name(),
            worst.collect::<Vec<_>>().join(", ")
        )
    }

    fn build(&self, seen: &Assignment, on_bytes: &BTreeSet<&str>) -> Result<Built> {
        let mut assignment = seen.clone();
        let name = |c: &Candidate| (c.node.clone(), Precision::Int8);
        let named = self.candidates.iter().filter(|c| on_bytes.contains(c.node.as_str()));
        assignment.nodes = named.map(name).collect();
        let (graph, plan) = build(self.graph, self.runtime, &assignment)?;
        Ok(Built { graph, session: Session::new(Arc::new(plan)) })
    }

    fn accuracy(&self, built: &mut Built) -> Result<f64> {
        let each = |s: &Sample| Ok(run(&mut built.session, s, false)?.outputs);
        let got = self.samples.iter().map(each).collect::<Result<Vec<_>>>()?;
        self.options.metric.of(&self.names, &self.want, &got)
    }

    /// Times of both models on the first sample, taken in turns.
    fn times(&mut self, built: &mut Built) -> Result<Times> {
        let sample = &self.samples[0];
        let mut times = Times::default();
        let mut whole = (f64::INFINITY, f64::INFINITY);
        for session in [&mut self.reference, &mut built.session] {
            run(session, sample, false)?;
        }
        let begun = Instant::now();
        for round in 0..RUNS.0 {
            if round >= 3 && begun.elapsed() > RUNS.1 {
                break;
            }
            let sides = [
                (&mut self.reference, &mut times.before, &mut whole.0),
                (&mut built.session, &mut times.after, &mut whole.1),
            ];
            for (session, nodes, least) in sides {
                let start = Instant::now();
                run(session, sample, false)?;
                *least = least.min(start.elapsed().as_secs_f64() * 1e3);
                let profile = run(session, sample, true)?.profile;
                let events = profile.map(|p| p.events).unwrap_or_default();
                let mut now: BTreeMap<String, f64> = BTreeMap::new();
                for event in events {
                    let node = event.node.rsplit(" > ").next().unwrap_or_default();
                    *now.entry(layer_of(node).to_owned()).or_default() +=
                        event.duration.as_secs_f64() * 1e3;
                }
                for (node, ms) in now {
                    let least = nodes.entry(node).or_insert(f64::INFINITY);
                    *least = least.min(ms);
                }
            }
        }
        times.whole = whole;
        Ok(times)
    }

    fn outcome(
        &self,
        built: Built,
        accuracy: f64,
        on_bytes: &BTreeSet<&str>,
        times: Option<Times>,
        why: &BTreeMap<&str, String>,
    ) -> Outcome {
        let layers = self.candidates.iter().map(|c| {
            let node = c.node.as_str();
            let of = |side: fn(&Times) -> &BTreeMap<String, f64>| {
                times.as_ref().and_then(|t| side(t).get(node).copied())
            };
            LayerReport {
                node: c.node.clone(),
                op: c.op.to_owned(),
                precision: match on_bytes.contains(node) {
                    true => Precision::Int8,
                    false => Precision::F32,
                },
                error: self.losses.get(node).copied(),
                ms_before: of(|t| &t.before),
                ms_after: of(|t| &t.after),
                why: why.get(node).cloned().unwrap_or_else(|| "asked for".to_owned()),
            }
        });
        Outcome {
            graph: built.graph,
            accuracy,
            ms_before: times.as_ref().map(|t| t.whole.0),
            ms_after: times.as_ref().map(|t| t.whole.1),
            layers: layers.collect(),
        }
    }
}

/// Milliseconds of nodes and of whole runs, in `f32` and on bytes.
#[derive(Clone, Default)]
struct Times {
    before: BTreeMap<String, f64>,
    after: BTreeMap<String, f64>,
    whole: (f64, f64),
}

/// The layer that a node is part of: changes of layout around it carry its name.
fn layer_of(node: &str) -> &str {
    let ends = [".last", ".second"];
    ends.iter().find_map(|e| node.strip_suffix(e)).unwrap_or(node)
}
