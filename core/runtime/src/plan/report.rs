//! What a plan says about memory.

use super::{Life, Needs, Plan, Step};
use crate::profile::ProfileTensor;
use deepseek_graph::{Bindings, Dim, Type, ValueId};
use deepseek_tensor::{DType, Result, err};
use std::fmt;

/// Planned values that a report lists as the largest.
const LARGEST: usize = 10;

/// What planned bytes are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedKind {
    /// A value in the arena.
    Value,
    /// Scratch of a kernel, in the arena during one step.
    Scratch,
    /// An output, which the caller keeps.
    Output,
    /// A value allocated by itself: the result of a scalar reference.
    Heap,
}

impl PlannedKind {
    /// `value`, `scratch`, `output` or `heap`.
    pub fn name(self) -> &'static str {
        match self {
            PlannedKind::Value => "value",
            PlannedKind::Scratch => "scratch",
            PlannedKind::Output => "output",
            PlannedKind::Heap => "heap",
        }
    }
}

/// A value of the plan and the bytes it takes, for reports.
#[derive(Clone, Debug)]
pub struct PlannedValue {
    /// Name of the value in the graph; of the node, for scratch.
    pub name: String,
    /// Type, extents symbolic.
    pub ty: Type,
    /// Bytes, for the extents asked about.
    pub bytes: u64,
    /// What the bytes are for.
    pub kind: PlannedKind,
    /// Offset in the arena, in bytes, if it lives there.
    pub offset: Option<u64>,
}

/// Planned bytes and the steps they are taken in. A step is a node; the step after the
/// last one is the end of the run, when only the outputs are left.
#[derive(Clone, Debug)]
pub struct PlannedSpan {
    /// What, how large and where.
    pub value: PlannedValue,
    /// First step, by position among the graph's nodes.
    pub first_step: usize,
    /// Last step. A value whose bytes another takes over ends the step before that.
    pub last_step: usize,
}

/// What a run of given extents takes.
#[derive(Clone, Debug)]
pub struct MemoryReport {
    /// Bytes of working memory: the arena with its values and scratch, and
    /// [`MemoryReport::heap_bytes`].
    pub arena_bytes: u64,
    /// Bytes of the outputs.
    pub output_bytes: u64,
    /// Bytes held beside the arena and beyond the outputs, at the most: results of scalar
    /// references.
    pub heap_bytes: u64,
    /// Bytes of the model's constants, mapped ones included.
    pub constant_bytes: u64,
    /// Bytes of scratch in the peak step, part of the arena.
    pub scratch_bytes: u64,
    /// Largest planned values of the arena, descending, at most ten.
    pub largest: Vec<PlannedValue>,
    /// The step in which most planned bytes are alive: name of its node; empty in a
    /// graph without nodes.
    pub peak_step: String,
    /// What is alive in that step, the largest first.
    pub peak: Vec<PlannedValue>,
    /// The bytes of a run as a formula over the model's symbols.
    pub formula: Dim,
    /// Whether the formula is exact for shapes that are not packed anew; else it is an upper
    /// bound, because the exact one is too long to write. The numbers are exact all the same.
    pub formula_exact: bool,
    /// Whether this shape is packed anew, into fewer bytes than the formula says.
    pub specialised: bool,
    /// Number of values whose size depends on data, and of nodes with subgraphs; what
    /// they take comes on top.
    pub dynamic_values: usize,
}

impl MemoryReport {
    /// Bytes that a run takes beyond the constants: exactly what it is observed to take,
    /// if there are no [`MemoryReport::dynamic_values`].
    pub fn planned_bytes(&self) -> u64 {
        self.arena_bytes + self.output_bytes
    }
}

impl fmt::Display for MemoryReport {
    /// The report as text of several lines, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alive =
            |kind| -> u64 { self.peak.iter().filter(|v| v.kind == kind).map(|v| v.bytes).sum() };
        let in_arena = alive(PlannedKind::Value) + alive(PlannedKind::Scratch);
        let at_most = if self.formula_exact { "" } else { "at most " };
        writeln!(f, "formula     {at_most}{}", self.formula)?;
        writeln!(f, "planned     {:>14} bytes", self.planned_bytes())?;
        writeln!(f, "  arena     {:>14} bytes", self.arena_bytes - self.heap_bytes)?;
        writeln!(f, "  outputs   {:>14} bytes", self.output_bytes)?;
        writeln!(f, "  heap      {:>14} bytes", self.heap_bytes)?;
        writeln!(f, "constants   {:>14} bytes", self.constant_bytes)?;
        if self.specialised {
            writeln!(f, "this shape is packed anew, smaller than the formula")?;
        }
        if self.dynamic_values > 0 {
            let n = self.dynamic_values;
            writeln!(f, "{n} values or subgraphs whose size depends on data come on top")?;
        }
        if self.peak.is_empty() {
            return Ok(());
        }
        writeln!(f, "peak in '{}':", self.peak_step)?;
        for kind in
            [PlannedKind::Value, PlannedKind::Scratch, PlannedKind::Output, PlannedKind::Heap]
        {
            writeln!(f, "  {:<9} {:>14} bytes", kind.name(), alive(kind))?;
        }
        let unused = (self.arena_bytes - self.heap_bytes).saturating_sub(in_arena);
        writeln!(f, "  unused    {unused:>14} bytes of the arena")?;
        for v in &self.peak {
            write!(f, "  {:>14} bytes  ", v.bytes)?;
            match v.offset {
                Some(at) => write!(f, "at {at:<12}")?,
                None => write!(f, "{:<15}", "")?,
            }
            writeln!(f, "  {:<7}  {}  {}", v.kind.name(), v.name, v.ty)?;
        }
        Ok(())
    }
}

impl Plan {
    /// Exact bytes of a run with the given extents.
    ///
    /// # Errors
    /// `InvalidArgument` naming a symbol without a value; `ShapeMismatch` naming a symbol,
    /// its value and its bounds where it is outside them.
    pub fn memory(&self, bindings: &Bindings) -> Result<MemoryReport> {
        self.graph.bounds().check(bindings).map_err(|e| err!(ShapeMismatch, "{e}"))?;
        let needs = self.needs(bindings)?;
        Ok(self.report(&needs))
    }

    /// Bytes that no run within the graph's bounds exceeds: each size at the most that its
    /// formula can give. Sizes that grow with every symbol, which is all but those that
    /// divide by a symbol or subtract one, are largest at the upper bounds, so this is then
    /// what a run at the upper bounds takes, unless that shape is packed anew, smaller.
    ///
    /// # Errors
    /// `InvalidArgument` if a symbol has no upper bound.
    pub fn memory_within_bounds(&self) -> Result<MemoryReport> {
        let bounds = self.graph.bounds();
        let open = || {
            let mut symbols = self.symbols.iter().filter(|s| bounds.get(s).1.is_none());
            match symbols.next() {
                Some(s) => err!(
                    InvalidArgument,
                    "symbol '{}' has no upper bound; set one, or ask about given extents",
                    s.name()
                ),
                None => err!(InvalidArgument, "the sizes have no upper bound"),
            }
        };
        let most = |size: &Dim| {
            size.range(bounds).max.and_then(|n| u64::try_from(n).ok()).ok_or_else(open)
        };
        let placement = self.packing.worst(bounds).ok_or_else(open)?;
        Ok(self.report(&self.heap.needs(placement, |size| most(size.source()))?))
    }

    /// All that is planned for a run with the given extents: values of the arena and beside
    /// it in the order they begin, then scratch.
    ///
    /// # Errors
    /// As [`Plan::memory`].
    pub fn spans(&self, bindings: &Bindings) -> Result<Vec<PlannedSpan>> {
        self.graph.bounds().check(bindings).map_err(|e| err!(ShapeMismatch, "{e}"))?;
        let needs = self.needs(bindings)?;
        Ok(self.spans_of(&needs))
    }

    pub(crate) fn spans_of(&self, needs: &Needs) -> Vec<PlannedSpan> {
        let values = self.lives.iter().map(|l| PlannedSpan {
            value: self.planned_value(l, needs),
            first_step: l.first,
            last_step: l.last,
        });
        let scratch = self.steps.iter().enumerate().filter_map(|(i, step)| {
            let value = self.planned_scratch(step, needs)?;
            Some(PlannedSpan { value, first_step: i, last_step: i })
        });
        values.chain(scratch).collect()
    }

    fn planned_scratch(&self, step: &Step, needs: &Needs) -> Option<PlannedValue> {
        let block = step.scratch?;
        Some(PlannedValue {
            name: self.graph.nodes()[step.node].name.clone(),
            ty: Type::tensor(DType::U8, [self.packing.blocks()[block].bytes.clone()]),
            bytes: needs.placement.sizes[block] as u64,
            kind: PlannedKind::Scratch,
            offset: Some(needs.placement.offsets[block] as u64),
        })
    }

    fn report(&self, needs: &Needs) -> MemoryReport {
        let placement = &needs.placement;
        let mut alive: Vec<u64> = self.heap.alive(&needs.heap_sizes);
        for (total, bytes) in alive.iter_mut().zip(self.packing.alive(&placement.sizes)) {
            *total += bytes as u64;
        }
        let most = alive.iter().copied().max().unwrap_or(0);
        // Of several the first; the end of the run only if it alone has the most.
        let step = alive.iter().position(|&n| n == most).unwrap_or(0);
        let lives = self.lives.iter().filter(|l| l.first <= step && step <= l.last);
        let mut peak: Vec<_> = lives.map(|l| self.planned_value(l, needs)).collect();
        peak.extend(self.steps.get(step).and_then(|s| self.planned_scratch(s, needs)));
        let scratch_bytes =
            peak.iter().filter(|v| v.kind == PlannedKind::Scratch).map(|v| v.bytes).sum();
        peak.retain(|v| v.bytes > 0);
        peak.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        let arena = self.lives.iter().filter(|l| l.block.is_some());
        let mut largest: Vec<_> = arena.map(|l| self.planned_value(l, needs)).collect();
        largest.sort_by_key(|v| std::cmp::Reverse(v.bytes));
        largest.truncate(LARGEST);
        let formula = self.formula();
        MemoryReport {
            arena_bytes: needs.total() - needs.outputs,
            output_bytes: needs.outputs,
            heap_bytes: needs.heap - needs.outputs,
            constant_bytes: self.constant_bytes(),
            scratch_bytes,
            largest,
            peak_step: self.node_name(step),
            peak,
            formula: formula.bytes,
            formula_exact: formula.exact,
            specialised: placement.specialised,
            dynamic_values: self.dynamic_values,
        }
    }

    /// Bytes of the constants, mapped ones included.
    pub(crate) fn constant_bytes(&self) -> u64 {
        self.parameters().iter().map(|t| t.size_bytes() as u64).sum()
    }

    /// What the bytes of a value are for, how many the plan sets aside for it, and where in
    /// the arena; a view has none of its own.
    pub(crate) fn planned(
        &self,
        id: ValueId,
        needs: &Needs,
    ) -> (PlannedKind, Option<u64>, Option<u64>) {
        match self.lives.iter().find(|l| l.value == id) {
            Some(life) => {
                let planned = self.planned_value(life, needs);
                (planned.kind, Some(planned.bytes), planned.offset)
            }
            None => (PlannedKind::Heap, None, None),
        }
    }

    /// Values that are planned to be alive in a step.
    pub(crate) fn alive(&self, step: usize) -> impl Iterator<Item = ValueId> {
        let alive = move |l: &&Life| l.first <= step && step <= l.last;
        self.lives.iter().filter(alive).map(|l| l.value)
    }

    /// Bytes that are planned to be alive in a step, scratch included.
    pub(crate) fn planned_alive(&self, step: usize, needs: &Needs) -> u64 {
        let arena = self.packing.alive(&needs.placement.sizes);
        let heap = self.heap.alive(&needs.heap_sizes);
        arena.get(step).map_or(0, |&n| n as u64) + heap.get(step).copied().unwrap_or(0)
    }

    /// Bytes that the body of a step holds beside the arena.
    pub(crate) fn lent_heap(&self, step: &Step, needs: &Needs) -> u64 {
        step.heap.map_or(0, |i| needs.heap_sizes[i])
    }

    /// The scratch of a step.
    pub(crate) fn scratch(&self, step: &Step, needs: &Needs) -> Option<ProfileTensor> {
        let block = step.scratch?;
        let bytes = needs.placement.sizes[block] as u64;
        Some(ProfileTensor {
            name: self.graph.nodes()[step.node].name.clone(),
            kind: PlannedKind::Scratch,
            dtype: Some(DType::U8),
            shape: vec![needs.placement.sizes[block]],
            bytes,
            planned_bytes: Some(bytes),
            offset: Some(needs.placement.offsets[block] as u64),
        })
    }

    /// Name of the node that a step runs; the last for the end of the run.
    fn node_name(&self, step: usize) -> String {
        let step = self.steps.get(step).or(self.steps.last());
        step.map(|s| self.graph.nodes()[s.node].name.clone()).unwrap_or_default()
    }

    fn planned_value(&self, life: &Life, needs: &Needs) -> PlannedValue {
        let def = self.graph.value(life.value);
        let (bytes, kind) = match (life.block, life.heap) {
            (Some(block), _) => (needs.placement.sizes[block] as u64, PlannedKind::Value),
            (None, Some(i)) if self.heap.sizes[i].1 => (needs.heap_sizes[i], PlannedKind::Output),
            (None, i) => (i.map_or(0, |i| needs.heap_sizes[i]), PlannedKind::Heap),
        };
        let offset = life.block.map(|b| needs.placement.offsets[b] as u64);
        PlannedValue { name: def.name.clone(), ty: def.fact.ty.clone(), bytes, kind, offset }
    }
}
