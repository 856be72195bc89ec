//! The executor: runs the steps of a plan in order.
//!
//! Every tensor it hands to a kernel is contiguous. A value in the arena is a view of it;
//! nothing that outlives its block may share those bytes, so anything that leaves the plan
//! is copied out. Values outside the arena are counted as they come and go; the count of a
//! run is what its plan said, unless sizes depend on data.

use crate::arena::Arena;
use crate::cancel::Cancel;
use crate::plan::{Home, How, Needs, Plan, Step, eval_shape};
use crate::profile::Recorder;
use crate::registry::{KernelArgs, Output};
use crate::rows::{self, Blocks};
use crate::runtime::Reservation;
use deepseek_graph::interpret::bind_inputs;
use deepseek_graph::{Bindings, Env, EvalArgs, Graph, Type, Value, ValueId};
use deepseek_tensor::{DType, Dims, Result, Tensor, ensure, err};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// What all plans of one run, nested ones included, share.
pub(crate) struct RunContext {
    pub cancel: Cancel,
    pub recorder: Option<RefCell<Recorder>>,
    /// Bytes held beyond the outermost arena: outputs and other values of every level, and
    /// the arenas of subgraphs.
    heap: Cell<u64>,
    heap_peak: Cell<u64>,
    /// Bytes of the outermost arena.
    arena: u64,
    /// Budget set aside for the heap; grows where data asks for more than was planned.
    held: RefCell<Reservation>,
}

impl RunContext {
    /// For a run with an arena of `arena` bytes; `held` is set aside for the rest.
    pub fn new(cancel: Cancel, recorder: Option<Recorder>, arena: u64, held: Reservation) -> Self {
        RunContext {
            cancel,
            recorder: recorder.map(RefCell::new),
            heap: Cell::new(0),
            heap_peak: Cell::new(0),
            arena,
            held: RefCell::new(held),
        }
    }

    /// Most bytes that were in use at once.
    pub fn observed_bytes(&self) -> u64 {
        self.arena + self.heap_peak.get()
    }

    /// Bytes in use beyond the outermost arena.
    pub fn heap(&self) -> u64 {
        self.heap.get()
    }

    /// Bytes in use: the arena and what is beside it.
    pub fn held_bytes(&self) -> u64 {
        self.arena + self.heap.get()
    }

    /// Counts `bytes` more.
    ///
    /// # Errors
    /// `BudgetExceeded` if they are more than was planned, and the budget has no room.
    fn grow(&self, bytes: u64) -> Result<()> {
        let now = self.heap.get() + bytes;
        let mut held = self.held.borrow_mut();
        if now > held.bytes() {
            let more = now - held.bytes();
            held.extend(more)?;
        }
        self.heap.set(now);
        self.heap_peak.set(self.heap_peak.get().max(now));
        Ok(())
    }

    /// Counts `bytes` as in use at once with what is, whether or not they are all used.
    ///
    /// # Errors
    /// `BudgetExceeded`, as for bytes that are used.
    fn set_aside(&self, bytes: u64) -> Result<()> {
        self.grow(bytes)?;
        self.shrink(bytes);
        Ok(())
    }

    fn shrink(&self, bytes: u64) {
        self.heap.set(self.heap.get().saturating_sub(bytes));
    }
}

/// Extents and offsets of a plan for one set of bindings; kept between runs.
pub(crate) struct Layout {
    bindings: Bindings,
    needs: Arc<Needs>,
    /// For each value in the arena: a tensor over it.
    tensors: Vec<Option<Tensor>>,
}

impl Layout {
    fn new(plan: &Plan, bindings: Bindings, needs: Arc<Needs>, arena: &Arena) -> Result<Self> {
        let tensors = plan
            .graph
            .values()
            .iter()
            .zip(&plan.homes)
            .map(|(def, home)| {
                let Home::Arena(block) = home else { return Ok(None) };
                let shape = eval_shape(&def.fact.ty, &bindings).ok_or_else(|| {
                    err!(Internal, "the extents of '{}' ({}) are not known", def.name, def.fact.ty)
                })?;
                let dtype = def.fact.dtype()?;
                arena.tensor(dtype, &shape, needs.placement.offsets[*block]).map(Some)
            })
            .collect::<Result<_>>()?;
        Ok(Layout { bindings, needs, tensors })
    }
}

/// What one run of a plan is given.
pub(crate) struct Call<'a> {
    /// Contiguous, in the order of the graph's inputs.
    pub inputs: Vec<Value>,
    /// What the inputs bind the graph's symbols to.
    pub bindings: Bindings,
    /// What the plan takes for them.
    pub needs: Arc<Needs>,
    /// Memory for the outputs of a plan that has none of its own for them.
    pub given: &'a [Tensor],
}

/// Runs `plan`. `layout` caches what depends on extents alone between calls with the same
/// arena. A plan whose outputs are given memory returns none.
///
/// # Errors
/// What a node or cancellation reports; `BudgetExceeded` where data asks for too much.
pub(crate) fn run(
    plan: &Plan,
    call: Call,
    arena: &Arena,
    layout: &mut Option<Layout>,
    ctx: &RunContext,
) -> Result<Vec<Value>> {
    let Call { inputs, bindings, needs, given } = call;
    if layout.as_ref().is_none_or(|l| l.bindings != bindings) {
        *layout = None;
        *layout = Some(Layout::new(plan, bindings.clone(), needs, arena)?);
    }
    let layout = layout.as_ref().expect("it was just made");
    let callers = inputs
        .iter()
        .filter_map(|v| match v {
            Value::Tensor(t) => Some((t.as_ptr().addr(), t.size_bytes())),
            _ => None,
        })
        .collect();
    let live = vec![None; plan.homes.len()];
    let mut run = Run { plan, ctx, arena, layout, bindings, given, callers, live };
    for (id, value) in plan.graph.inputs().iter().zip(inputs) {
        run.live[id.index()] = Some(value);
    }
    for (id, home) in plan.homes.iter().enumerate() {
        if let Home::Constant(t) = home {
            run.live[id] = Some(Value::Tensor(t.clone()));
        }
    }
    for step in &plan.steps {
        ctx.cancel.check()?;
        let started = ctx.recorder.as_ref().map(|r| r.borrow().elapsed());
        let node = &plan.graph.nodes()[step.node];
        run.step(step).map_err(|e| e.at_node(&node.name))?;
        if let Some(started) = started {
            run.record(step, started);
        }
        for id in &step.free {
            run.drop_value(*id);
        }
    }
    match given {
        [] => run.outputs(),
        _ => run.copy_outputs().map(|()| Vec::new()),
    }
}

struct Run<'a> {
    plan: &'a Plan,
    ctx: &'a RunContext,
    arena: &'a Arena,
    layout: &'a Layout,
    /// Symbols of the inputs, and of data-dependent extents once they are known.
    bindings: Bindings,
    /// Memory for the outputs, where the caller brings it.
    given: &'a [Tensor],
    /// Addresses and sizes of the caller's tensors.
    callers: Vec<(usize, usize)>,
    live: Vec<Option<Value>>,
}

impl Run<'_> {
    fn step(&mut self, step: &Step) -> Result<()> {
        match &step.how {
            How::Kernel(_, kernel) => {
                if let Some(mut outputs) = self.kernel_outputs(step)? {
                    let inputs = self.tensor_inputs(step)?;
                    let mut raw = raw_outputs(&mut outputs)?;
                    let pool = self.plan.runtime.pool();
                    // SAFETY: this is the only call, and the slice ends with the kernel's run.
                    let scratch = unsafe { self.scratch(step) };
                    kernel.run(&mut KernelArgs {
                        inputs: &inputs,
                        in_place: step.in_place,
                        outputs: &mut raw,
                        scratch,
                        pool,
                        isa: self.plan.runtime.isa(),
                    })?;
                    let node = &self.plan.graph.nodes()[step.node];
                    for (id, t) in node.outputs.iter().zip(outputs) {
                        if let Some(id) = id {
                            self.live[id.index()] = Some(Value::Tensor(t));
                        }
                    }
                    return Ok(());
                }
                self.reference(step, &[])
            }
            How::Reference(subplans) => self.reference(step, subplans),
            How::Rows(blocks) => self.rows(step, blocks),
            How::View => self.reference(step, &[]),
        }
    }

    /// Runs a body over blocks of rows: in the scratch of this step, straight into its outputs.
    fn rows(&mut self, step: &Step, blocks: &Blocks) -> Result<()> {
        let node = &self.plan.graph.nodes()[step.node];
        let outputs = self.kernel_outputs(step)?;
        let outputs = outputs.ok_or_else(|| err!(Internal, "extents are not known"))?;
        let inputs = node.inputs.iter().flatten();
        let inputs = inputs.map(|id| Ok(self.value(*id)?.tensor()?.clone()));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let placement = &self.layout.needs.placement;
        let (at, len) = step.scratch.map_or((0, 0), |b| (placement.offsets[b], placement.sizes[b]));
        if let Some(recorder) = &self.ctx.recorder {
            let live = |id: ValueId| self.live[id.index()].as_ref();
            recorder.borrow_mut().enter(self.plan, step, &self.layout.needs, live);
        }
        // Blocks may be smaller than planned.
        self.ctx.set_aside(self.plan.lent_heap(step, &self.layout.needs))?;
        let result = blocks.run(&inputs, &outputs, &self.arena.part(at, len), self.ctx);
        if let Some(recorder) = &self.ctx.recorder {
            recorder.borrow_mut().leave();
        }
        result?;
        for (id, t) in node.outputs.iter().zip(outputs) {
            if let Some(id) = id {
                self.live[id.index()] = Some(Value::Tensor(t));
            }
        }
        Ok(())
    }

    /// Tensors for the kernel to fill, or `None` where an extent is still unknown.
    fn kernel_outputs(&mut self, step: &Step) -> Result<Option<Vec<Tensor>>> {
        let node = &self.plan.graph.nodes()[step.node];
        let mut out = Vec::with_capacity(node.outputs.len());
        for id in &node.outputs {
            let Some(id) = id else {
                out.push(Tensor::zeros(DType::U8, &[0])?);
                continue;
            };
            if let Some(t) = &self.layout.tensors[id.index()] {
                out.push(t.clone());
                continue;
            }
            let fact = self.plan.graph.fact(*id);
            if let Home::Given(i) = self.plan.homes[id.index()] {
                out.push(rows::given(&self.given[i], &fact.ty, &self.bindings)?);
                continue;
            }
            match eval_shape(&fact.ty, &self.bindings) {
                Some(shape) => {
                    let dtype = fact.dtype()?;
                    let bytes = dtype.bytes_for(deepseek_tensor::num_elements(&shape)?)?;
                    self.ctx.grow(bytes as u64)?;
                    out.push(Tensor::zeros(dtype, &shape)?);
                }
                None => return Ok(None),
            }
        }
        Ok(Some(out))
    }

    fn tensor_inputs(&self, step: &Step) -> Result<Vec<Option<Tensor>>> {
        let node = &self.plan.graph.nodes()[step.node];
        node.inputs
            .iter()
            .enumerate()
            .map(|(i, id)| match id {
                Some(id) if step.in_place != Some(i) => {
                    self.value(*id)?.tensor().cloned().map(Some)
                }
                _ => Ok(None),
            })
            .collect()
    }

    fn value(&self, id: ValueId) -> Result<&Value> {
        self.live[id.index()].as_ref().ok_or_else(|| {
            err!(
                Internal,
                "the value '{}' is read before it exists",
                self.plan.graph.value(id).name
            )
        })
    }

    /// The scratch of a step.
    ///
    /// # Safety
    /// At most one such slice may exist at a time.
    unsafe fn scratch<'s>(&self, step: &Step) -> &'s mut [f32] {
        let Some(block) = step.scratch else { return &mut [] };
        let placement = &self.layout.needs.placement;
        // SAFETY: the block is inside the arena, aligned as all blocks are, and no value that
        // is alive in this step shares its bytes; the caller promises to be its only user.
        unsafe { self.arena.floats(placement.offsets[block], placement.sizes[block]) }
    }

    /// Runs a node on its scalar reference and brings the results home.
    fn reference(&mut self, step: &Step, subplans: &[Plan]) -> Result<()> {
        let node = &self.plan.graph.nodes()[step.node];
        let inputs: Vec<Option<Value>> = node
            .inputs
            .iter()
            .map(|id| id.map(|id| self.value(id).cloned()).transpose())
            .collect::<Result<_>>()?;
        let env = SubplanEnv { subplans, ctx: self.ctx };
        let args = EvalArgs { inputs: &inputs, outputs: node.outputs.len(), env: &env };
        let results = node.op.eval(&args)?;
        for (i, (id, value)) in node.outputs.iter().zip(results).enumerate() {
            let Some(id) = id else { continue };
            self.learn(*id, &value).map_err(|e| e.context(format_args!("output {i}")))?;
            let value = match &self.plan.homes[id.index()] {
                Home::View => contiguous(value)?,
                Home::Arena(_) => self.copy_to_block(*id, &value)?,
                Home::Given(i) => {
                    let bytes = size_of_value(&value);
                    self.ctx.grow(bytes)?;
                    let ty = &self.plan.graph.fact(*id).ty;
                    let to = rows::given(&self.given[*i], ty, &self.bindings)?;
                    copy(&value, &to)?;
                    self.ctx.shrink(bytes);
                    Value::Tensor(to)
                }
                _ => {
                    self.ctx.grow(size_of_value(&value))?;
                    self.leave_arena(value)?
                }
            };
            self.live[id.index()] = Some(value);
        }
        Ok(())
    }

    /// Checks a result against its fact, and takes the extents that only the data
    /// could tell.
    fn learn(&mut self, id: ValueId, value: &Value) -> Result<()> {
        let fact = self.plan.graph.fact(id);
        let (Type::Tensor(dtype, shape), Value::Tensor(t)) = (&fact.ty, value) else {
            return Ok(());
        };
        let consistent = t.dtype() == *dtype
            && shape.as_ref().is_none_or(|shape| {
                shape.len() == t.rank()
                    && shape.iter().zip(t.shape()).all(|(d, &n)| match d.eval(&self.bindings) {
                        Ok(want) => want == n as i64,
                        Err(_) => {
                            // A compound expression that cannot be solved stays unknown; nodes
                            // that depend on it run on their references.
                            let _ = self.bindings.unify(d, n as i64);
                            true
                        }
                    })
            });
        ensure!(
            consistent,
            Internal,
            "the shape rule promised {} and the operator gave {}{:?}",
            fact.ty,
            t.dtype(),
            t.shape()
        );
        Ok(())
    }

    fn copy_to_block(&self, id: ValueId, value: &Value) -> Result<Value> {
        let to = self.layout.tensors[id.index()].clone().ok_or_else(|| {
            err!(Internal, "the block of '{}' is missing", self.plan.graph.value(id).name)
        })?;
        copy(value, &to)?;
        Ok(Value::Tensor(to))
    }

    /// Copies the outputs that no node has written to the caller's memory.
    fn copy_outputs(&self) -> Result<()> {
        for &i in self.plan.copies() {
            copy(self.value(self.plan.graph.outputs()[i].1)?, &self.given[i])?;
        }
        Ok(())
    }

    /// A contiguous value that shares no bytes with the arena.
    fn leave_arena(&self, value: Value) -> Result<Value> {
        Ok(match value {
            Value::Tensor(t) if self.arena.contains(t.as_ptr()) => Value::Tensor(t.deep_copy()?),
            Value::Tensor(t) => Value::Tensor(t.to_contiguous()?),
            Value::Sequence(ty, items) => {
                let items = match Arc::try_unwrap(items) {
                    Ok(items) => items,
                    Err(shared) => shared.to_vec(),
                };
                let items =
                    items.into_iter().map(|v| self.leave_arena(v)).collect::<Result<Vec<_>>>()?;
                Value::Sequence(ty, Arc::new(items))
            }
            Value::Optional(ty, Some(v)) => {
                Value::Optional(ty, Some(Box::new(self.leave_arena(*v)?)))
            }
            none => none,
        })
    }

    fn drop_value(&mut self, id: ValueId) {
        if let (Home::Heap, Some(v)) = (&self.plan.homes[id.index()], &self.live[id.index()]) {
            self.ctx.shrink(size_of_value(v));
        }
        self.live[id.index()] = None;
    }

    /// The outputs, sharing bytes with neither the arena nor the caller's inputs.
    fn outputs(&mut self) -> Result<Vec<Value>> {
        let graph = &self.plan.graph;
        graph
            .outputs()
            .iter()
            .map(|(_, id)| {
                let value = self.value(*id)?.clone();
                if self.plan.is_input(*id) {
                    self.ctx.grow(size_of_value(&value))?;
                }
                match value {
                    Value::Tensor(t) if self.is_callers(&t) => Ok(Value::Tensor(t.deep_copy()?)),
                    value => self.leave_arena(value),
                }
            })
            .collect()
    }

    fn is_callers(&self, t: &Tensor) -> bool {
        let at = t.as_ptr().addr();
        self.callers.iter().any(|&(from, bytes)| at == from || at.wrapping_sub(from) < bytes)
    }

    fn record(&self, step: &Step, start: std::time::Duration) {
        let Some(recorder) = &self.ctx.recorder else { return };
        let mut recorder = recorder.borrow_mut();
        recorder.record(self.plan, step, &self.layout.needs, start, self.ctx, |id| {
            self.live[id.index()].as_ref()
        });
    }
}

fn raw_outputs(outputs: &mut [Tensor]) -> Result<Vec<Output>> {
    outputs
        .iter()
        .map(|t| {
            Ok(Output {
                dtype: t.dtype(),
                shape: Dims::from_slice(t.shape()),
                // Blocks are written through the arena's pointer, fresh tensors through their
                // allocation's; neither has another reader or writer now.
                ptr: t.as_ptr().cast_mut(),
            })
        })
        .collect()
}

/// Copies the elements of a tensor to `to`: a block of the arena, or memory of the caller that
/// no value that is still needed shares.
fn copy(value: &Value, to: &Tensor) -> Result<()> {
    let from = value.tensor()?.to_contiguous()?;
    let bytes = from.as_bytes()?;
    ensure!(
        bytes.len() == to.size_bytes(),
        Internal,
        "a result of {} bytes for a block of {}",
        bytes.len(),
        to.size_bytes()
    );
    // SAFETY: `to` covers `bytes.len()` bytes that may be written, as the callers promise. The
    // result may be a view of an input that ends here, so the regions may overlap; `copy` allows
    // that.
    unsafe { std::ptr::copy(bytes.as_ptr(), to.as_ptr().cast_mut(), bytes.len()) };
    Ok(())
}

fn contiguous(value: Value) -> Result<Value> {
    Ok(match value {
        Value::Tensor(t) => Value::Tensor(t.to_contiguous()?),
        other => other,
    })
}

pub(crate) fn size_of_value(value: &Value) -> u64 {
    match value {
        Value::Tensor(t) => t.size_bytes() as u64,
        Value::Sequence(_, items) => items.iter().map(size_of_value).sum(),
        Value::Optional(_, v) => v.as_deref().map_or(0, size_of_value),
    }
}

/// Runs subgraphs on their own plans.
struct SubplanEnv<'a> {
    subplans: &'a [Plan],
    ctx: &'a RunContext,
}

impl Env for SubplanEnv<'_> {
    fn run_graph(&self, which: usize, graph: &Graph, inputs: Vec<Value>) -> Result<Vec<Value>> {
        let plan = self
            .subplans
            .get(which)
            .ok_or_else(|| err!(Internal, "subgraph {which} ('{}') was not lowered", graph.name))?;
        let inputs = inputs.into_iter().map(contiguous).collect::<Result<Vec<_>>>()?;
        let bindings = bind_inputs(&plan.graph, inputs.iter())?;
        let needs = plan.needs(&bindings)?;
        let before = self.ctx.heap();
        self.ctx.grow(needs.placement.bytes as u64)?;
        let arena = Arena::new(needs.placement.bytes)?;
        let call = Call { inputs, bindings, needs, given: &[] };
        let result = run(plan, call, &arena, &mut None, self.ctx);
        // What the subgraph returns belongs to the operator from here on, like any other
        // memory that its reference uses, and is counted when it is the node's output.
        self.ctx.shrink(self.ctx.heap() - before);
        result
    }

    fn check(&self) -> Result<()> {
        self.ctx.cancel.check()
    }
}
