//! What ran, when, for how long, over how many bytes: planned against actual.

mod html;
pub(crate) mod json;
mod trace;

use crate::exec::{RunContext, size_of_value};
use crate::plan::{Needs, Plan, PlannedKind, PlannedSpan, Step};
use deepseek_graph::{Value, ValueId};
use deepseek_tensor::DType;
use std::time::{Duration, Instant};

/// A tensor of a run: what the plan said, and what came.
#[derive(Clone, Debug)]
pub struct ProfileTensor {
    /// Name of the value in the graph; of the node, for scratch.
    pub name: String,
    /// What the bytes are for.
    pub kind: PlannedKind,
    /// Element type; `None` for a sequence or an optional.
    pub dtype: Option<DType>,
    /// Extents.
    pub shape: Vec<usize>,
    /// Bytes of the elements.
    pub bytes: u64,
    /// Bytes that the plan set aside, in the arena rounded up to its alignment; `None` where
    /// the size depends on data.
    pub planned_bytes: Option<u64>,
    /// Offset in the arena, in bytes, if it lives there.
    pub offset: Option<u64>,
}

/// One node of one run.
#[derive(Clone, Debug, Default)]
pub struct ProfileEvent {
    /// Node, nested ones as a path from the outside in.
    pub node: String,
    /// Operator.
    pub op: String,
    /// Kernel, or `reference`, or `view`.
    pub kernel: String,
    /// Time since the run began.
    pub start: Duration,
    /// Time the node took, subgraphs included.
    pub duration: Duration,
    /// Bytes written to the outputs.
    pub output_bytes: u64,
    /// Bytes of working memory held when the node ended: the arena and values beside it.
    pub live_bytes: u64,
    /// Bytes that the plan has alive during the node, scratch included.
    pub planned_bytes: u64,
    /// Bytes of the tensors that were alive when the node ended, and its scratch.
    pub actual_bytes: u64,
    /// Bytes of scratch, part of both.
    pub scratch_bytes: u64,
    /// Resident set of the process when the node ended, where the system tells.
    pub rss_bytes: Option<u64>,
    /// Input whose bytes output 0 took over.
    pub in_place: Option<usize>,
    /// The outputs. A view has the bytes of what it is a view of, and no planned ones.
    pub outputs: Vec<ProfileTensor>,
}

/// One run: its nodes in the order they ended, and what its plan had promised.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The events.
    pub events: Vec<ProfileEvent>,
    /// Name of the graph.
    pub graph: String,
    /// Bytes of the run beyond the constants, as formula and as planned for its shapes.
    pub formula: String,
    /// Bytes that the plan set aside.
    pub planned_bytes: u64,
    /// Most bytes that were in use at once; equal to the plan unless sizes depend on data.
    pub observed_bytes: u64,
    /// Bytes of the arena, part of both.
    pub arena_bytes: u64,
    /// Bytes of the outputs, part of both.
    pub output_bytes: u64,
    /// Bytes of the model's constants.
    pub constant_bytes: u64,
    /// Event during which most bytes were alive.
    pub peak_event: usize,
    /// What was alive then, the largest first.
    pub peak: Vec<ProfileTensor>,
    /// All that was planned, with its place in the arena and its steps.
    pub spans: Vec<PlannedSpan>,
}

impl Profile {
    /// Time from the beginning of the run to the end of its last node.
    pub fn duration(&self) -> Duration {
        self.events.iter().map(|e| e.start + e.duration).max().unwrap_or_default()
    }

    /// Events that no other event is part of: all but those of nodes with subgraphs, whose time
    /// and memory are that of the nodes inside.
    fn leaves(&self) -> impl Iterator<Item = &ProfileEvent> {
        let inside = |outer: &str, inner: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with(" > "))
        };
        // Nodes inside end before the node that they are inside.
        self.events.iter().enumerate().filter_map(move |(i, e)| {
            let before = i.checked_sub(1).map(|i| &self.events[i]);
            (!before.is_some_and(|b| inside(&e.node, &b.node))).then_some(e)
        })
    }

    /// Time, calls and bytes written of each operator and kernel, the longest first.
    fn by_kernel(&self) -> Vec<KernelTime<'_>> {
        let mut rows: Vec<KernelTime> = Vec::new();
        for e in self.leaves() {
            let same = |r: &&mut KernelTime| r.op == e.op && r.kernel == e.kernel;
            match rows.iter_mut().find(same) {
                Some(row) => {
                    row.nodes += 1;
                    row.time += e.duration;
                    row.output_bytes += e.output_bytes;
                }
                None => rows.push(KernelTime {
                    op: &e.op,
                    kernel: &e.kernel,
                    nodes: 1,
                    time: e.duration,
                    output_bytes: e.output_bytes,
                }),
            }
        }
        rows.sort_by_key(|r| std::cmp::Reverse(r.time));
        rows
    }
}

/// A row of [`Profile::by_kernel`].
struct KernelTime<'a> {
    op: &'a str,
    kernel: &'a str,
    nodes: usize,
    time: Duration,
    output_bytes: u64,
}

/// Collects events during a run.
pub(crate) struct Recorder {
    start: Instant,
    rss: Rss,
    profile: Profile,
    most: u64,
    /// Steps of outer plans that bodies run in, the outermost first.
    scopes: Vec<Scope>,
}

/// A step whose body runs in the outer arena.
struct Scope {
    /// Path of the node.
    node: String,
    /// Offset of the body's arena in the outermost one.
    offset: u64,
    /// Bytes of the outer arena that are alive around the body, as planned and as they are.
    planned: u64,
    actual: u64,
}

impl Recorder {
    pub fn new(plan: &Plan, needs: &Needs) -> Self {
        let graph = plan.graph();
        let profile = Profile {
            graph: graph.name.clone(),
            formula: plan.memory_formula().to_string(),
            planned_bytes: needs.total(),
            arena_bytes: needs.placement.bytes as u64,
            output_bytes: needs.outputs,
            constant_bytes: plan.constant_bytes(),
            spans: plan.spans_of(needs),
            ..Profile::default()
        };
        Recorder { rss: Rss::new(), profile, most: 0, scopes: Vec::new(), start: Instant::now() }
    }

    /// Time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Steps recorded until [`Recorder::leave`] are those of a body that runs in the scratch of
    /// `step`.
    pub fn enter<'v>(
        &mut self,
        plan: &Plan,
        step: &Step,
        needs: &Needs,
        live: impl Fn(ValueId) -> Option<&'v Value>,
    ) {
        let scratch = plan.scratch(step, needs);
        let in_arena = |id: &ValueId| plan.planned(*id, needs).2.is_some();
        let alive = plan.alive(step.node).filter(in_arena).filter_map(live);
        let outer = self.scopes.last();
        let name = &plan.graph().nodes()[step.node].name;
        let scratch_bytes = scratch.as_ref().map_or(0, |s| s.bytes);
        let scope = Scope {
            node: outer.map_or_else(|| name.clone(), |o| format!("{} > {name}", o.node)),
            offset: scratch.and_then(|s| s.offset).unwrap_or(0) + outer.map_or(0, |o| o.offset),
            planned: plan.planned_alive(step.node, needs)
                - scratch_bytes
                - plan.lent_heap(step, needs)
                + outer.map_or(0, |o| o.planned),
            actual: alive.map(size_of_value).sum::<u64>() + outer.map_or(0, |o| o.actual),
        };
        self.scopes.push(scope);
    }

    /// Ends the last [`Recorder::enter`].
    pub fn leave(&mut self) {
        self.scopes.pop();
    }

    /// Notes that `step` of `plan`, begun at `start`, has ended; `live` gives the values there
    /// are, those that end with the step among them.
    pub fn record<'v>(
        &mut self,
        plan: &Plan,
        step: &Step,
        needs: &Needs,
        start: Duration,
        ctx: &RunContext,
        live: impl Fn(ValueId) -> Option<&'v Value>,
    ) {
        let duration = self.elapsed().saturating_sub(start);
        let node = &plan.graph().nodes()[step.node];
        let (base, around) =
            self.scopes.last().map_or((0, (0, 0)), |s| (s.offset, (s.planned, s.actual)));
        let planned = |id: ValueId| {
            let (kind, bytes, offset) = plan.planned(id, needs);
            (kind, bytes, offset.map(|at| at + base))
        };
        let tensor = |id: ValueId| {
            let value = live(id)?;
            let (kind, planned_bytes, offset) = planned(id);
            let name = plan.graph().value(id).name.clone();
            let (dtype, shape) = match value {
                Value::Tensor(t) => (Some(t.dtype()), t.shape().to_vec()),
                _ => (None, Vec::new()),
            };
            let bytes = size_of_value(value);
            Some(ProfileTensor { name, kind, dtype, shape, bytes, planned_bytes, offset })
        };
        let outputs: Vec<_> = node.outputs.iter().flatten().filter_map(|id| tensor(*id)).collect();
        let mut scratch = plan.scratch(step, needs);
        if let Some(at) = scratch.as_mut().and_then(|s| s.offset.as_mut()) {
            *at += base;
        }
        let scratch_bytes = scratch.as_ref().map_or(0, |s| s.bytes);
        let alive = || plan.alive(step.node).filter_map(&tensor).chain(scratch.clone());
        let in_arena: u64 = alive().filter(|t| t.offset.is_some()).map(|t| t.bytes).sum();
        let actual_bytes = in_arena + around.1 + ctx.heap();
        if actual_bytes > self.most || self.profile.events.is_empty() {
            self.most = actual_bytes;
            self.profile.peak_event = self.profile.events.len();
            self.profile.peak = alive().filter(|t| t.bytes > 0).collect();
        }
        self.profile.events.push(ProfileEvent {
            node: match self.scopes.last() {
                Some(scope) => format!("{} > {}", scope.node, node.name),
                None => node.name.clone(),
            },
            op: node.op.name().to_owned(),
            kernel: step.kernel().to_owned(),
            start,
            duration,
            output_bytes: outputs.iter().map(|t| t.bytes).sum(),
            live_bytes: ctx.held_bytes(),
            planned_bytes: plan.planned_alive(step.node, needs) + around.0,
            actual_bytes,
            scratch_bytes,
            rss_bytes: self.rss.sample(),
            in_place: step.in_place,
            outputs,
        });
    }

    /// The profile of a run that was observed to take `bytes`.
    pub fn finish(mut self, bytes: u64) -> Profile {
        self.profile.observed_bytes = bytes;
        self.profile.peak.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        self.profile
    }
}

/// Samples the resident set of this process.
struct Rss {
    #[cfg(target_os = "linux")]
    source: Option<(std::fs::File, u64)>,
}

impl Rss {
    #[cfg(target_os = "linux")]
    fn new() -> Self {
        // SAFETY: a plain query of a constant of the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let file = std::fs::File::open("/proc/self/statm").ok();
        Rss { source: file.zip(u64::try_from(page).ok()) }
    }

    /// Bytes now: the second field of `statm`, in pages.
    #[cfg(target_os = "linux")]
    fn sample(&self) -> Option<u64> {
        use std::os::unix::fs::FileExt;
        let (file, page) = self.source.as_ref()?;
        let mut text = [0u8; 128];
        let n = file.read_at(&mut text, 0).ok()?;
        let pages = std::str::from_utf8(&text[..n]).ok()?.split_ascii_whitespace().nth(1)?;
        Some(pages.parse::<u64>().ok()? * page)
    }

    #[cfg(not(target_os = "linux"))]
    fn new() -> Self {
        Rss {}
    }

    #[cfg(not(target_os = "linux"))]
    fn sample(&self) -> Option<u64> {
        None
    }
}

fn micros(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_with_nodes_inside_are_not_counted_twice() {
        let event = |node: &str, ms| ProfileEvent {
            node: node.to_owned(),
            op: "Op".to_owned(),
            duration: Duration::from_millis(ms),
            ..ProfileEvent::default()
        };
        let events = vec![
            event("a", 1),
            event("b > c", 2),
            event("b > d", 3),
            event("b", 6),
            event("bc", 4),
        ];
        let profile = Profile { events, ..Profile::default() };
        let leaves: Vec<_> = profile.leaves().map(|e| e.node.as_str()).collect();
        assert_eq!(leaves, ["a", "b > c", "b > d", "bc"]);
        assert_eq!(profile.by_kernel()[0].time, Duration::from_millis(10));
    }
}
