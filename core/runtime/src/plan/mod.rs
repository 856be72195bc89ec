//! Lowering: from a portable graph to a plan for this machine.
//!
//! A plan binds each node to a kernel (or to its scalar reference), and gives each
//! value a home. Values that kernels write and whose size follows from the extents of
//! the inputs share one arena, scratch memory among them; [`pack`] says where each
//! lies, for any shape, without recompiling anything. Outputs and the results of scalar
//! references are allocated one by one; where their sizes follow from the inputs they
//! are part of the plan all the same. So the plan answers how many bytes a run takes
//! before it starts. Values whose extents depend on data come on top.

mod lower;
pub(crate) mod pack;
mod report;

use crate::registry::Kernel;
use crate::rows::{Blocks, Cut, Lent};
use crate::runtime::Runtime;
use deepseek_graph::{Bindings, CompiledDim, Dim, DimError, Graph, Node, Symbol, Type, ValueId};
use deepseek_tensor::{DType, Dims, Result, Tensor, ensure, err};
use pack::{Cases, Formula, Packing, Placement};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

pub use report::{MemoryReport, PlannedKind, PlannedSpan, PlannedValue};

/// Shapes whose needs a plan remembers.
const REMEMBERED: usize = 32;

/// Where a value lives.
#[derive(Clone, Debug)]
pub(crate) enum Home {
    /// A constant of the model.
    Constant(Tensor),
    /// Provided by the caller.
    Input,
    /// A block of the arena.
    Arena(usize),
    /// Allocated when produced: outputs, results of scalar references, data-dependent
    /// extents, strings, sequences.
    Heap,
    /// Memory of the caller, for the output of this number.
    Given(usize),
    /// A view of another value's bytes.
    View,
    /// Nobody reads it.
    Nowhere,
}

/// How a node runs.
pub(crate) enum How {
    /// A kernel of this machine, by name.
    Kernel(String, Box<dyn Kernel>),
    /// The operator's scalar reference; control flow runs its subplans through it.
    Reference(Vec<Plan>),
    /// A body that runs over blocks of rows.
    Rows(Box<Blocks>),
    /// A change of shape without a change of bytes.
    View,
}

/// A node, how it runs, and what dies with it.
pub(crate) struct Step {
    pub node: usize,
    pub how: How,
    /// Values that nobody reads after this step, views among them.
    pub free: Vec<ValueId>,
    /// Block of the arena that the kernel uses as scratch.
    pub scratch: Option<usize>,
    /// Index in [`Heap::sizes`] of what a body holds beside the arena.
    pub heap: Option<usize>,
    /// Input whose bytes output 0 takes over.
    pub in_place: Option<usize>,
}

/// A value with a planned size and the steps it is alive in; the step after the last
/// one stands for the end of the run, when the outputs are still there.
pub(crate) struct Life {
    pub value: ValueId,
    pub first: usize,
    pub last: usize,
    /// Its block, if it lives in the arena.
    pub block: Option<usize>,
    /// Index in [`Heap::sizes`], if it does not.
    pub heap: Option<usize>,
}

/// Values outside the arena whose sizes are known beforehand.
pub(crate) struct Heap {
    /// Size of each, and whether it is an output.
    sizes: Vec<(CompiledDim, bool)>,
    /// First and last step of each, as in [`Life`].
    spans: Vec<(usize, usize)>,
    steps: usize,
}

/// What a run of one shape takes.
#[derive(Clone, Debug)]
pub(crate) struct Needs {
    pub placement: Placement,
    /// Bytes of each value of [`Heap`].
    pub heap_sizes: Vec<u64>,
    /// Most bytes of them that are held at once.
    pub heap: u64,
    /// Bytes of those that are outputs.
    pub outputs: u64,
}

/// The needs of the shapes used last, the latest first.
type Remembered = Mutex<Vec<(Vec<i64>, Arc<Needs>)>>;

/// A graph lowered for a runtime; immutable and shared by sessions.
pub struct Plan {
    pub(crate) graph: Graph,
    pub(crate) runtime: Runtime,
    pub(crate) steps: Vec<Step>,
    pub(crate) homes: Vec<Home>,
    pub(crate) packing: Packing,
    heap: Heap,
    lives: Vec<Life>,
    /// Outputs that are inputs, or views of them.
    inputs: Vec<ValueId>,
    /// Outputs, by number, that are copied to the caller's memory at the end.
    copies: Vec<usize>,
    /// Symbols that planned sizes depend on.
    symbols: Vec<Symbol>,
    /// Values whose size depends on data, and nodes with subgraphs.
    dynamic_values: usize,
    needs: Remembered,
    arena_formula: OnceLock<Formula>,
    heap_formula: OnceLock<Formula>,
    outputs: Dim,
    /// Bytes that a run may take; 0 sets no bound.
    budget: u64,
    /// Of a plan that is not part of another; the last field, so that it goes last.
    unload: Option<Unload>,
}

/// Returns the memory of a plan to the system when all else of it is gone.
struct Unload;

impl Drop for Unload {
    fn drop(&mut self) {
        crate::session::release_free_memory();
    }
}

impl Plan {
    /// Lowers `graph`: chooses kernels, packs constant weights, plans memory.
    ///
    /// # Errors
    /// What a kernel's `prepare` reports, with the node's name; `OutOfMemory`.
    pub fn new(graph: Graph, runtime: &Runtime) -> Result<Plan> {
        let mut plan = lower::lower(graph, runtime, false)?;
        plan.unload = Some(Unload);
        Ok(plan)
    }

    /// As [`Plan::new`], for a graph whose outputs are written to memory that the caller of
    /// each run provides.
    pub(crate) fn within(graph: Graph, runtime: &Runtime) -> Result<Plan> {
        lower::lower(graph, runtime, true)
    }

    /// Lets no run take more than `budget` bytes; 0 sets no bound.
    pub(crate) fn limit(&mut self, budget: u64) {
        self.budget = budget;
    }

    /// Fails if a run that takes `needs` is not allowed.
    ///
    /// # Errors
    /// `BudgetExceeded` naming both numbers.
    pub(crate) fn admit(&self, needs: &Needs) -> Result<()> {
        let total = needs.total();
        ensure!(
            self.budget == 0 || total <= self.budget,
            BudgetExceeded,
            "a run at these extents takes {total} bytes, the model was opened with \
             memory_budget_bytes of {}; give it smaller inputs, or open it with a budget and the \
             extents that it must hold for",
            self.budget
        );
        Ok(())
    }

    /// What runs in blocks of rows, and what that saves and costs for the given extents.
    ///
    /// # Errors
    /// As [`Plan::memory`].
    pub fn cuts(&self, bindings: &Bindings) -> Result<Vec<Cut>> {
        let mut cuts = Vec::new();
        for step in &self.steps {
            if let How::Rows(blocks) = &step.how {
                cuts.push(blocks.cut(&self.graph.nodes()[step.node].name, bindings)?);
            }
        }
        Ok(cuts)
    }

    /// The constants of the graph and of the bodies that run in blocks, each once.
    pub fn parameters(&self) -> Vec<&Tensor> {
        let mut seen = std::collections::HashSet::new();
        let mut all: Vec<&Tensor> = self.graph.constants().values().collect();
        for step in &self.steps {
            if let How::Rows(blocks) = &step.how {
                all.extend(blocks.plan.parameters());
            }
        }
        all.retain(|t| seen.insert((t.as_ptr().addr(), t.size_bytes())));
        all
    }

    /// The graph that was lowered.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The runtime it was lowered for.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Bytes of the arena, scratch included, as a formula over the graph's symbols. For a
    /// shape that is packed anew a run takes less; [`Plan::memory`] says how much.
    pub fn arena_formula(&self) -> Dim {
        self.arena().bytes.clone()
    }

    fn arena(&self) -> &Formula {
        self.arena_formula.get_or_init(|| self.packing.formula(self.graph.bounds()))
    }

    /// Bytes of the outputs as a formula over the graph's symbols.
    pub fn output_formula(&self) -> &Dim {
        &self.outputs
    }

    /// Most bytes that values beside the arena hold at once as a formula.
    fn beside(&self) -> &Formula {
        let bounds = self.graph.bounds();
        let of = |cases: &mut Cases| self.heap.formula(cases);
        self.heap_formula.get_or_init(|| Formula::of(bounds, of))
    }

    /// Bytes of the arena and beside it with the symbols replaced, exact if that can be written,
    /// else no less. Poisoned if even that is too long.
    pub(crate) fn lent(&self, sizes: &BTreeMap<Symbol, Dim>) -> Lent {
        let put = |arena: &Dim, heap: &Dim| Lent {
            arena: arena.substitute(sizes),
            heap: heap.substitute(sizes),
        };
        let lent = put(&self.arena().bytes, &self.beside().bytes);
        if lent.arena.poison().is_none() && lent.heap.poison().is_none() {
            return lent;
        }
        let (arena, heap) = self.short_formulas();
        put(&arena, &heap)
    }

    /// Short formulas that the arena, and what is beside it, never exceed.
    fn short_formulas(&self) -> (Dim, Dim) {
        let bounds = self.graph.bounds();
        (self.packing.formula_bound(bounds), self.heap.formula(&mut Cases::new(bounds, true)))
    }

    /// Bytes of a run beyond the constants as a formula over the graph's symbols: the
    /// arena, and the most that outputs and other values beside it hold at once. Where the exact
    /// formula is too long to write it is an upper bound; see [`Plan::memory_formula_is_exact`].
    pub fn memory_formula(&self) -> Dim {
        self.formula().bytes
    }

    /// Whether [`Plan::memory_formula`] is exact for shapes that are not packed anew. It is not
    /// where many values of extents that cannot be compared live at overlapping times.
    pub fn memory_formula_is_exact(&self) -> bool {
        self.formula().exact
    }

    fn formula(&self) -> Formula {
        let (arena, heap) = (self.arena(), self.beside());
        let bytes = &arena.bytes + &heap.bytes;
        if matches!(bytes.poison(), Some(DimError::TooComplex)) {
            let (arena, heap) = self.short_formulas();
            return Formula { bytes: arena + heap, exact: false };
        }
        Formula { bytes, exact: arena.exact && heap.exact }
    }

    /// Symbols that planned sizes depend on.
    pub(crate) fn symbols(&self) -> &[Symbol] {
        &self.symbols
    }

    /// Values and nodes whose sizes depend on data.
    pub(crate) fn dynamic_values(&self) -> usize {
        self.dynamic_values
    }

    /// Outputs, by number, that a run copies to the caller's memory at the end.
    pub(crate) fn copies(&self) -> &[usize] {
        &self.copies
    }

    /// Whether the caller's memory for output 0 may be that of input `i`: the input is
    /// read for the last time before the output is written.
    pub(crate) fn may_overwrite(&self, i: usize) -> bool {
        let writes = |s: &&Step| {
            let mut outputs = self.graph.nodes()[s.node].outputs.iter().flatten();
            outputs.any(|id| matches!(self.homes[id.index()], Home::Given(0)))
        };
        let Some(written) = self.steps.iter().find(writes) else { return false };
        let input = self.graph.inputs()[i];
        let mut aliases = vec![input];
        for step in &self.steps {
            let node = &self.graph.nodes()[step.node];
            let reads = node.inputs.iter().flatten().any(|id| aliases.contains(id));
            if reads && matches!(step.how, How::View) {
                aliases.extend(node.outputs.iter().flatten());
            }
            if reads && step.node >= written.node {
                return false;
            }
        }
        !self.graph.outputs().iter().any(|(_, id)| aliases.contains(id))
    }

    /// Kernel of each node, in order; the scalar reference is `reference`.
    pub fn kernels(&self) -> impl Iterator<Item = (&Node, &str)> {
        self.steps.iter().map(|s| (&self.graph.nodes()[s.node], s.kernel()))
    }

    /// As [`Plan::kernels`], with the nodes that run in blocks in place of the one that runs
    /// them.
    pub fn inner_kernels(&self) -> Vec<(&Node, &str)> {
        let inner = |s| -> Vec<(&Node, &str)> {
            let step: &Step = s;
            match &step.how {
                How::Rows(blocks) => blocks.plan.inner_kernels(),
                _ => vec![(&self.graph.nodes()[step.node], step.kernel())],
            }
        };
        self.steps.iter().flat_map(inner).collect()
    }

    /// Whether a value is an input of the graph or a view of one.
    pub(crate) fn is_input(&self, id: ValueId) -> bool {
        self.inputs.contains(&id)
    }

    /// What a run with `bindings` takes; remembered for the shapes used last.
    ///
    /// # Errors
    /// `InvalidArgument` naming a symbol without a value; `OutOfMemory` for sizes beyond
    /// the address space.
    pub(crate) fn needs(&self, bindings: &Bindings) -> Result<Arc<Needs>> {
        let values = self
            .symbols
            .iter()
            .map(|s| {
                bindings
                    .get(s.name())
                    .ok_or_else(|| err!(InvalidArgument, "symbol '{}' has no value", s.name()))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut known = self.needs.lock();
        if let Some(i) = known.iter().position(|(v, _)| *v == values) {
            let hit = known.remove(i);
            let needs = hit.1.clone();
            known.insert(0, hit);
            return Ok(needs);
        }
        drop(known);
        let placement = self.packing.place(&values)?;
        let needs = Arc::new(self.heap.needs(placement, |size| eval_bytes(size, &values))?);
        let mut known = self.needs.lock();
        known.truncate(REMEMBERED - 1);
        known.insert(0, (values, needs.clone()));
        Ok(needs)
    }
}

impl Step {
    /// Name of the kernel, or `reference`, or `view`.
    pub fn kernel(&self) -> &str {
        match &self.how {
            How::Kernel(name, _) => name,
            How::Reference(_) => "reference",
            How::Rows(_) => "row-blocks",
            How::View => "view",
        }
    }
}

impl Needs {
    /// Bytes of the run beyond the constants.
    pub fn total(&self) -> u64 {
        self.placement.bytes as u64 + self.heap
    }
}

impl Heap {
    /// Bytes held in each step, the end of the run last.
    fn alive(&self, sizes: &[u64]) -> Vec<u64> {
        let (mut born, mut dead) = (vec![0u64; self.steps + 1], vec![0u64; self.steps + 2]);
        for (&(first, last), &bytes) in self.spans.iter().zip(sizes) {
            born[first] += bytes;
            dead[last + 1] += bytes;
        }
        let mut now = 0;
        born.iter()
            .zip(&dead)
            .map(|(born, dead)| {
                now = now + born - dead;
                now
            })
            .collect()
    }

    fn needs(
        &self,
        placement: Placement,
        bytes: impl Fn(&CompiledDim) -> Result<u64>,
    ) -> Result<Needs> {
        let heap_sizes =
            self.sizes.iter().map(|(size, _)| bytes(size)).collect::<Result<Vec<_>>>()?;
        let total = heap_sizes.iter().try_fold(0u64, |sum, &n| sum.checked_add(n));
        total.ok_or_else(|| err!(OutOfMemory, "outputs beyond the address space"))?;
        let heap = self.alive(&heap_sizes).into_iter().max().unwrap_or(0);
        let outputs = self.sizes.iter().zip(&heap_sizes).filter(|((_, output), _)| *output);
        let outputs = outputs.map(|(_, n)| n).sum();
        Ok(Needs { placement, heap_sizes, heap, outputs })
    }

    fn formula(&self, cases: &mut Cases) -> Dim {
        let mut held = vec![Vec::new(); self.steps + 1];
        for (i, &(first, last)) in self.spans.iter().enumerate() {
            held[first..=last].iter_mut().for_each(|step| step.push(i));
        }
        held.dedup();
        let mut most = vec![cases.sum(std::iter::empty())];
        for step in held {
            let sum = cases.sum(step.iter().map(|&i| self.sizes[i].0.source()));
            cases.keep_largest(&mut most, sum);
        }
        cases.maximum(&most)
    }
}

fn eval_bytes(size: &CompiledDim, values: &[i64]) -> Result<u64> {
    let source = size.source();
    let n = size.eval(values).map_err(|e| err!(InvalidArgument, "planned size {source}: {e}"))?;
    u64::try_from(n).map_err(|_| err!(InvalidArgument, "planned size {source} is negative: {n}"))
}

/// Extents of a value under `bindings`, if they are all known.
pub(crate) fn eval_shape(ty: &Type, bindings: &Bindings) -> Option<Dims> {
    let Type::Tensor(_, Some(shape)) = ty else { return None };
    shape.iter().map(|d| usize::try_from(d.eval(bindings).ok()?).ok()).collect()
}

/// Bytes of a tensor of known rank that is not of strings.
fn tensor_bytes(ty: &Type) -> Option<Dim> {
    let Type::Tensor(dtype, Some(shape)) = ty else { return None };
    if *dtype == DType::String {
        return None;
    }
    let bits = &Dim::product(shape) * dtype.bits() as i64;
    Some(bits.ceil_div(&Dim::from(8i64)))
}

/// `bytes` rounded up to the alignment of blocks.
fn aligned(bytes: &Dim) -> Dim {
    &bytes.ceil_div(&Dim::from(pack::ALIGNMENT)) * pack::ALIGNMENT
}
