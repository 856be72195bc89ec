//! A session: the working memory to run a plan, one call at a time.

use crate::arena::Arena;
use crate::cancel::Cancel;
use crate::exec::{self, Call, Layout, RunContext};
use crate::plan::{Needs, Plan};
use crate::profile::{Profile, Recorder};
use crate::runtime::Reservation;
use deepseek_graph::Value;
use deepseek_graph::interpret::bind_inputs;
use deepseek_tensor::{Code, Result, Tensor, ensure, err};
use std::collections::VecDeque;
use std::sync::Arc;

/// Runs whose needs decide how much memory a session keeps.
const RECENT: usize = 8;

/// Working memory over a shared [`Plan`]. Exclusive: one run at a time; sessions
/// share nothing that is written.
pub struct Session {
    plan: Arc<Plan>,
    memory: Option<Memory>,
    /// Arena bytes that the last runs needed.
    recent: VecDeque<usize>,
    observed_bytes: u64,
}

struct Memory {
    // The layout's tensors point into the arena, so it goes first.
    layout: Option<Layout>,
    arena: Arena,
    _held: Reservation,
}

impl Memory {
    /// An arena of `bytes`, paid for from `held`.
    fn new(bytes: usize, held: &mut Reservation) -> Result<Self> {
        let arena = Arena::new(bytes)?;
        Ok(Memory { layout: None, arena, _held: held.split(bytes as u64) })
    }
}

/// How one run is made.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Ends the run early.
    pub cancel: Cancel,
    /// Collect a [`Profile`].
    pub profile: bool,
}

/// What a run yields.
#[derive(Debug)]
pub struct RunResult {
    /// The outputs, in the order of the graph's outputs.
    pub outputs: Vec<Value>,
    /// The profile, if asked for.
    pub profile: Option<Profile>,
}

impl Session {
    /// A session with no memory yet; the first run allocates what it needs.
    pub fn new(plan: Arc<Plan>) -> Self {
        Session { plan, memory: None, recent: VecDeque::new(), observed_bytes: 0 }
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Most bytes that the last successful run had in use at once, constants not counted.
    pub fn observed_bytes(&self) -> u64 {
        self.observed_bytes
    }

    /// Bytes of working memory that the session keeps between runs: what its last runs
    /// needed, eight of them, and at most a third more.
    pub fn held_bytes(&self) -> u64 {
        self.memory.as_ref().map_or(0, |m| m.arena.len() as u64)
    }

    /// Gives the working memory back to the system; the next run allocates it again.
    pub fn trim(&mut self) {
        self.memory = None;
        self.recent.clear();
        release_free_memory();
    }

    /// Runs the plan on named inputs, in any order.
    ///
    /// # Errors
    /// `NotFound` for a name that the graph does not have, `InvalidArgument` for a
    /// missing or doubled one, then as [`Session::run`].
    pub fn run_named(
        &mut self,
        inputs: impl IntoIterator<Item = (String, Value)>,
        options: &RunOptions,
    ) -> Result<RunResult> {
        let graph = self.plan.graph();
        let names: Vec<&str> =
            graph.inputs().iter().map(|id| graph.value(*id).name.as_str()).collect();
        let mut ordered: Vec<Option<Value>> = vec![None; names.len()];
        for (name, value) in inputs {
            let at = names.iter().position(|n| *n == name).ok_or_else(|| {
                err!(NotFound, "no input named '{name}'; the inputs are {}", list(&names))
            })?;
            ensure!(ordered[at].is_none(), InvalidArgument, "input '{name}' is given twice");
            ordered[at] = Some(value);
        }
        let inputs = ordered
            .into_iter()
            .zip(&names)
            .map(|(v, name)| {
                v.ok_or_else(|| {
                    let want = graph.find(name).map(|id| graph.fact(id).to_string());
                    let want = want.unwrap_or_default();
                    err!(InvalidArgument, "input '{name}' ({want}) is missing")
                })
            })
            .collect::<Result<_>>()?;
        self.run(inputs, options)
    }

    /// Runs the plan on inputs in the order of its graph's inputs.
    ///
    /// # Errors
    /// `InvalidArgument` on a wrong number of inputs; `DTypeMismatch` or
    /// `ShapeMismatch` naming the input and both sides, or a symbol, its value and its
    /// bounds; `BudgetExceeded` before anything is allocated, or as soon as values whose
    /// sizes depend on data exceed it; `OutOfMemory`, `Cancelled`, `Timeout`; what a node
    /// reports, with its name.
    pub fn run(&mut self, inputs: Vec<Value>, options: &RunOptions) -> Result<RunResult> {
        let plan = self.plan.clone();
        ensure!(
            inputs.len() == plan.graph().inputs().len(),
            InvalidArgument,
            "the model takes {} inputs, got {}",
            plan.graph().inputs().len(),
            inputs.len()
        );
        options.cancel.check()?;
        let bindings = bind_inputs(plan.graph(), inputs.iter())?;
        let needs = plan.needs(&bindings)?;
        plan.admit(&needs)?;
        let held = self.admit(&needs)?;
        let inputs = inputs
            .into_iter()
            .map(|v| match v {
                Value::Tensor(t) => t.to_contiguous().map(Value::Tensor),
                other => Ok(other),
            })
            .collect::<Result<Vec<_>>>()?;
        let recorder = options.profile.then(|| Recorder::new(&plan, &needs));
        let arena_bytes = needs.placement.bytes as u64;
        let ctx = RunContext::new(options.cancel.clone(), recorder, arena_bytes, held);
        let _active = plan.runtime().pool().activate();
        let memory = self.memory.as_mut().expect("admission has made it");
        let Memory { arena, layout, .. } = memory;
        let call = Call { inputs, bindings, needs, given: &[] };
        let outputs = exec::run(&plan, call, arena, layout, &ctx)?;
        self.observed_bytes = ctx.observed_bytes();
        let profile = ctx.recorder.map(|r| r.into_inner().finish(self.observed_bytes));
        Ok(RunResult { outputs, profile })
    }

    /// Sets aside all that the run needs, then makes or resizes the arena. What is left of
    /// the reservation is for outputs and other values outside the arena.
    fn admit(&mut self, needs: &Needs) -> Result<Reservation> {
        let need = needs.placement.bytes;
        self.recent.push_front(need);
        self.recent.truncate(RECENT);
        let keep = self.recent.iter().copied().max().unwrap_or(need);
        let have = self.memory.as_ref().map_or(0, |m| m.arena.len());
        let runtime = self.plan.runtime().clone();
        if self.memory.is_some() && need <= have && keep >= have - have / 4 {
            match runtime.reserve(needs.heap) {
                // Keep no more than this run needs if the budget is short.
                Err(e) if e.code() == Code::BudgetExceeded && need < have => {}
                held => return held,
            }
        }
        self.memory = None;
        if keep < have {
            release_free_memory();
        }
        let (bytes, mut held) = match runtime.reserve(keep as u64 + needs.heap) {
            Err(e) if e.code() == Code::BudgetExceeded && need < keep => {
                (need, runtime.reserve(needs.total())?)
            }
            held => (keep, held?),
        };
        self.memory = Some(Memory::new(bytes, &mut held)?);
        Ok(held)
    }
}

/// Asks the allocator to return to the system what it keeps of freed memory.
pub(crate) fn release_free_memory() {
    // SAFETY: a plain call; it only gives free pages back.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Convenience for callers that hold tensors only.
impl Session {
    /// Runs on tensors in the order of the graph's inputs and returns tensors.
    ///
    /// # Errors
    /// As [`Session::run`], and `DTypeMismatch` if an output is not a tensor.
    pub fn run_tensors(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let inputs = inputs.into_iter().map(Value::Tensor).collect();
        let result = self.run(inputs, &RunOptions::default())?;
        result.outputs.iter().map(|v| v.tensor().cloned()).collect()
    }
}

fn list(names: &[&str]) -> String {
    names.iter().map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", ")
}
