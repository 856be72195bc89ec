//! `RowBlocks` on a plan of its own: a body that runs block by block inside one step. What is
//! cut between sequences, [`RaggedBlocks`](deepseek_graph::ops::RaggedBlocks), is in
//! [`sequences`](crate::sequences).
//!
//! The body's plan has no memory of its own. Its arena, planned for a block, is scratch of
//! the outer step; what it reads block by block are views of the outer values, and its
//! outputs are the rows of the outer outputs, which its last kernels write where they
//! belong. So nothing is copied, and the outer plan knows every byte. A node whose sizes
//! cannot be told beforehand runs on the scalar reference, which calls the plan of the
//! body for each block.

use crate::arena::Arena;
use crate::exec::{self, Call, Layout, RunContext};
use crate::plan::{Plan, eval_shape};
use crate::runtime::Runtime;
use crate::sequences::Sequences;
use deepseek_graph::interpret::bind_inputs;
use deepseek_graph::ops::RowBlocks;
use deepseek_graph::{Bindings, Dim, Graph, Node, Symbol, Type, Value};
use deepseek_tensor::{DType, Dims, Result, Tensor, ensure, err};
use std::collections::{BTreeMap, BTreeSet};

/// A body, lowered for blocks of rows.
pub(crate) struct Blocks {
    /// Plan of the body; its outputs are in the caller's memory.
    pub plan: Plan,
    /// Most rows of a block.
    pub block: usize,
    pub cutting: Cutting,
    /// Cut inputs that output 0 may overwrite: nothing reads them when it is written.
    pub in_place: Vec<usize>,
    /// Number of rows, as a formula of the outer symbols.
    pub rows: Dim,
    /// What the body's symbols are at most, as formulas of the outer symbols.
    pub sizes: BTreeMap<Symbol, Dim>,
    /// What they would be if the body ran once, over all rows.
    pub at_once: BTreeMap<Symbol, Dim>,
}

/// Where inputs are cut.
pub(crate) enum Cutting {
    /// After any row. For each cut input, how many leading axes count rows.
    Rows(Vec<usize>),
    /// Between sequences.
    Sequences(Sequences),
}

/// Nodes that run in blocks of rows; what that saves and costs for given extents.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The node that runs them.
    pub node: String,
    /// How many they are.
    pub nodes: usize,
    /// Rows of a block.
    pub block_rows: u64,
    /// All rows.
    pub rows: u64,
    /// Number of blocks; between sequences more if these do not fill them.
    pub blocks: u64,
    /// Bytes that the nodes would hold beside their inputs and outputs, run at once.
    pub bytes_at_once: u64,
    /// Bytes that they hold in blocks.
    pub bytes_in_blocks: u64,
    /// Bytes of constants that each block reads.
    pub weight_bytes: u64,
    /// Bytes of constants that are read again because of the cut.
    pub extra_weight_bytes: u64,
}

/// What a body takes from the outer plan during its step, as formulas of the outer symbols.
pub(crate) struct Lent {
    /// Bytes of the body's arena.
    pub arena: Dim,
    /// Bytes of the body's values beside it.
    pub heap: Dim,
}

impl Blocks {
    /// Lowers the body of `node`, if its sizes follow from the symbols `known`.
    ///
    /// # Errors
    /// What lowering the body reports.
    pub fn lower(
        graph: &Graph,
        node: &Node,
        op: &RowBlocks,
        runtime: &Runtime,
        known: &BTreeSet<Symbol>,
    ) -> Result<Option<(Blocks, Lent)>> {
        let block = op.block()?;
        let Some((leading, sizes)) = body_sizes(graph, node, op, known) else { return Ok(None) };
        let mut body = (*op.body).clone();
        for id in &op.body.inputs()[..leading.len()] {
            let extent = op.body.fact(*id).shape().and_then(|s| s.first()?.as_symbol());
            if let Some(rows) = extent {
                body.set_bound(rows.name(), 0, i64::try_from(block).ok())?;
            }
        }
        let plan = Plan::within(body, runtime)?;
        if plan.dynamic_values() > 0 || !plan.symbols().iter().all(|s| sizes.contains_key(s)) {
            return Ok(None);
        }
        let lent = plan.lent(&sizes);
        if lent.arena.poison().is_some() || lent.heap.poison().is_some() {
            return Ok(None);
        }
        let in_place = (0..leading.len()).filter(|&i| plan.may_overwrite(i)).collect();
        let mut rows = Dim::from(0i64);
        if let Some(shape) =
            node.inputs.first().copied().flatten().and_then(|id| graph.fact(id).shape())
        {
            rows = Dim::product(&shape[..leading[0]]);
        }
        let mut at_once = sizes.clone();
        for id in &op.body.inputs()[..leading.len()] {
            let extent = op.body.fact(*id).shape().and_then(|s| s.first()?.as_symbol());
            at_once.extend(extent.map(|symbol| (symbol.clone(), rows.clone())));
        }
        let cutting = Cutting::Rows(leading);
        Ok(Some((Blocks { plan, block, cutting, in_place, rows, sizes, at_once }, lent)))
    }

    /// Cut inputs whose bytes output 0 may take over.
    pub fn in_place(&self) -> &[usize] {
        &self.in_place
    }

    /// What running in blocks saves and costs.
    ///
    /// # Errors
    /// `InvalidArgument` naming a symbol without a value.
    pub fn cut(&self, node: &str, bindings: &Bindings) -> Result<Cut> {
        let value = |d: &Dim| d.eval(bindings).map_err(|e| err!(InvalidArgument, "{d}: {e}"));
        let rows = value(&self.rows)?.max(0);
        let needs = |sizes: &BTreeMap<Symbol, Dim>| -> Result<u64> {
            let mut inner = Bindings::new();
            for (symbol, size) in sizes {
                let n = value(size)?;
                inner.bind(symbol, n).map_err(|e| err!(InvalidArgument, "{symbol:?}: {e}"))?;
            }
            Ok(self.plan.needs(&inner)?.total())
        };
        let (block_rows, rows_u) = (self.block as u64, rows as u64);
        let blocks = rows_u.div_ceil(block_rows);
        let weight_bytes = self.plan.constant_bytes();
        Ok(Cut {
            node: node.to_owned(),
            nodes: self.plan.graph().nodes().len(),
            block_rows,
            rows: rows_u,
            blocks,
            bytes_at_once: needs(&self.at_once)?,
            bytes_in_blocks: needs(&self.sizes)?,
            weight_bytes,
            extra_weight_bytes: weight_bytes * blocks.saturating_sub(1),
        })
    }

    /// Runs the body over all rows of `inputs` into `outputs`, in `arena`.
    ///
    /// # Errors
    /// `ShapeMismatch` if numbers of rows differ; `InvalidArgument` for offsets that are none;
    /// cancellation; what a node of the body reports.
    pub fn run(
        &self,
        inputs: &[Tensor],
        outputs: &[Tensor],
        arena: &Arena,
        ctx: &RunContext,
    ) -> Result<()> {
        let mut layout = None;
        let mut block = |inputs: Vec<Value>, given: Vec<Tensor>| {
            self.run_block(inputs, &given, arena, &mut layout, ctx)
        };
        let leading = match &self.cutting {
            Cutting::Rows(leading) => leading,
            Cutting::Sequences(sequences) => return sequences.run(inputs, outputs, block),
        };
        let (cut, whole) = inputs.split_at(leading.len());
        let mut total = None;
        let cut = cut
            .iter()
            .zip(leading)
            .map(|(t, &leading)| {
                let (lead, rest) = t.shape().split_at(leading);
                let rows = lead.iter().product::<usize>();
                ensure!(
                    *total.get_or_insert(rows) == rows,
                    ShapeMismatch,
                    "cut inputs have {} and {rows} rows; they must have as many",
                    total.unwrap_or(0)
                );
                let shape: Dims = std::iter::once(rows).chain(rest.iter().copied()).collect();
                t.reshape(&shape)
            })
            .collect::<Result<Vec<_>>>()?;
        let total = total.unwrap_or(0);
        for from in (0..total).step_by(self.block) {
            let rows = self.block.min(total - from);
            let slices = cut.iter().map(|t| t.slice_axis(0, from, 1, rows).map(Value::Tensor));
            let whole = whole.iter().map(|t| Ok(Value::Tensor(t.clone())));
            let inputs = slices.chain(whole).collect::<Result<Vec<_>>>()?;
            let given = outputs
                .iter()
                .map(|t| {
                    let rest = t.len().checked_div(total).unwrap_or(0);
                    t.reshape(&[total, rest])?.slice_axis(0, from, 1, rows)
                })
                .collect::<Result<Vec<_>>>()?;
            block(inputs, given)?;
        }
        Ok(())
    }

    /// Runs the body once.
    fn run_block(
        &self,
        inputs: Vec<Value>,
        given: &[Tensor],
        arena: &Arena,
        layout: &mut Option<Layout>,
        ctx: &RunContext,
    ) -> Result<()> {
        let bindings = bind_inputs(self.plan.graph(), inputs.iter())?;
        let needs = self.plan.needs(&bindings)?;
        ensure!(
            needs.placement.bytes <= arena.len(),
            InvalidGraph,
            "a block takes {} bytes, the largest only {}; \
             the body is not one that computes each row by itself",
            needs.placement.bytes,
            arena.len()
        );
        let call = Call { inputs, bindings, needs, given };
        exec::run(&self.plan, call, arena, layout, ctx).map(|_| ())
    }
}

/// For each cut input, how many leading axes count rows; for the body's symbols, what they are
/// at most. `None` if these, or the sizes of the outputs, are not known before the run.
fn body_sizes(
    graph: &Graph,
    node: &Node,
    op: &RowBlocks,
    known: &BTreeSet<Symbol>,
) -> Option<(Vec<usize>, BTreeMap<Symbol, Dim>)> {
    let whole_bytes = |ty: &Type| match ty {
        Type::Tensor(dtype, Some(shape)) => {
            let known = |d: &Dim| d.poison().is_none() && d.symbols().is_subset(known);
            *dtype != DType::String && !dtype.is_packed() && shape.iter().all(known)
        }
        _ => false,
    };
    let values = node.inputs.iter().chain(&node.outputs);
    let mut told = values.map(|id| id.is_some_and(|id| whole_bytes(&graph.fact(id).ty)));
    let arity = (node.inputs.len(), node.outputs.len());
    let same_arity = arity == (op.body.inputs().len(), op.body.outputs().len());
    if !same_arity || !told.all(|told| told) {
        return None;
    }
    let mut leading = Vec::with_capacity(op.axes.len());
    let mut sizes: BTreeMap<Symbol, Dim> = BTreeMap::new();
    for (i, (inner, outer)) in op.body.inputs().iter().zip(&node.inputs).enumerate() {
        let inner = op.body.fact(*inner).shape()?;
        let mut extents = graph.fact((*outer)?).shape()?.to_vec();
        if i < op.axes.len() {
            let n = op.leading(i, extents.len()).ok()?;
            let rest = extents.split_off(n);
            let rows = Dim::product(&extents).min(&Dim::from(op.rows));
            extents = std::iter::once(rows).chain(rest).collect();
            leading.push(n);
        }
        for (inner, outer) in inner.iter().zip(extents) {
            if let Some(symbol) = inner.as_symbol() {
                sizes.entry(symbol.clone()).or_insert(outer);
            }
        }
    }
    Some((leading, sizes))
}

/// The caller's memory for an output, as the value `ty` that is written there.
///
/// # Errors
/// `Internal` if the extents are not known.
pub(crate) fn given(tensor: &Tensor, ty: &Type, bindings: &Bindings) -> Result<Tensor> {
    let shape = eval_shape(ty, bindings)
        .ok_or_else(|| err!(Internal, "the extents of {ty} are not known"))?;
    tensor.reshape(&shape)
}
