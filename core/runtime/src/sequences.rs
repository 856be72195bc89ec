//! `RaggedBlocks` on a plan of its own: blocks of whole sequences, run as blocks of rows are
//! (see [`rows`](crate::rows)).
//!
//! How many rows a block has follows from the lengths, which the plan does not know. It sets
//! aside what the largest block could take: as many rows as a block may have, or as the longest
//! sequence has.

use crate::plan::Plan;
use crate::rows::{Blocks, Cutting, Lent};
use crate::runtime::Runtime;
use deepseek_graph::ops::{Counts, RaggedBlocks};
use deepseek_graph::{Dim, Graph, Node, Symbol, Type, Value};
use deepseek_tensor::{DType, Result, Tensor, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// How the inputs and outputs of a body are cut between sequences.
pub(crate) struct Sequences {
    op: RaggedBlocks,
    inputs: Vec<Counts>,
    outputs: Vec<Counts>,
}

impl Sequences {
    /// Lowers the body of `node`, if its sizes follow from the symbols `known`.
    ///
    /// # Errors
    /// What lowering the body reports.
    pub fn lower(
        graph: &Graph,
        node: &Node,
        op: &RaggedBlocks,
        runtime: &Runtime,
        known: &BTreeSet<Symbol>,
    ) -> Result<Option<(Blocks, Lent)>> {
        let (inputs, outputs) = op.parts()?;
        let Some(extents) = Extents::of(graph, node, op, &inputs, known) else { return Ok(None) };
        let mut body = (*op.body).clone();
        let block = op.block()?;
        if let (Some(tokens), Some(longest)) = (&extents.tokens_symbol, extents.longest_bound) {
            let (least, _) = body.bounds().get(tokens);
            body.set_bound(tokens.name(), least, Some(longest.max(op.rows)))?;
        }
        let plan = Plan::within(body, runtime)?;
        let Extents { rows, sizes, at_once, .. } = extents;
        if plan.dynamic_values() > 0 || !plan.symbols().iter().all(|s| sizes.contains_key(s)) {
            return Ok(None);
        }
        let lent = plan.lent(&sizes);
        if lent.arena.poison().is_some() || lent.heap.poison().is_some() {
            return Ok(None);
        }
        let cutting = Cutting::Sequences(Sequences { op: op.clone(), inputs, outputs });
        let in_place = Vec::new();
        Ok(Some((Blocks { plan, block, cutting, in_place, rows, sizes, at_once }, lent)))
    }

    /// Calls `block` with the inputs of each block and the memory for its outputs.
    ///
    /// # Errors
    /// `InvalidArgument` for offsets that do not fit the rows; what `block` reports.
    pub fn run(
        &self,
        inputs: &[Tensor],
        outputs: &[Tensor],
        mut block: impl FnMut(Vec<Value>, Vec<Tensor>) -> Result<()>,
    ) -> Result<()> {
        let (parts, last) = inputs.split_at(self.inputs.len());
        let tokens = self.op.tokens(inputs)?;
        let blocks = self.op.blocks(&last[0], tokens)?;
        let sequences = blocks.last().map_or(0, |b| b.sequences.end);
        for (t, counts) in parts.iter().zip(&self.inputs).chain(outputs.iter().zip(&self.outputs)) {
            let want = match counts {
                Counts::Rows => tokens,
                Counts::Sequences => sequences,
                Counts::Nothing => continue,
            };
            ensure!(
                t.shape().first() == Some(&want),
                ShapeMismatch,
                "a value of shape {:?} for {sequences} sequences of {tokens} rows",
                t.shape()
            );
        }
        for b in &blocks {
            let mut given = Vec::with_capacity(inputs.len());
            for (t, counts) in parts.iter().zip(&self.inputs) {
                given.push(Value::Tensor(b.of(t, *counts)?));
            }
            given.push(Tensor::from_vec(&[b.offsets.len()], b.offsets.clone())?.into());
            given.push(last[1].slice_axis(0, 0, 1, b.longest)?.into());
            let results = outputs.iter().zip(&self.outputs).map(|(t, counts)| b.of(t, *counts));
            block(given, results.collect::<Result<_>>()?)?;
        }
        Ok(())
    }
}

/// The extents of a body in terms of the outer symbols.
struct Extents {
    /// All rows.
    rows: Dim,
    /// What the body's symbols are in the largest block, and over all sequences at once.
    sizes: BTreeMap<Symbol, Dim>,
    at_once: BTreeMap<Symbol, Dim>,
    /// Symbol of the body's rows, and the most that a sequence has.
    tokens_symbol: Option<Symbol>,
    longest_bound: Option<i64>,
}

impl Extents {
    /// `None` if an extent, or the size of an output, is not known before the run.
    fn of(
        graph: &Graph,
        node: &Node,
        op: &RaggedBlocks,
        counts: &[Counts],
        known: &BTreeSet<Symbol>,
    ) -> Option<Extents> {
        let shape = |id| match &graph.fact(id).ty {
            Type::Tensor(dtype, Some(shape)) => {
                let told = |d: &Dim| d.poison().is_none() && d.symbols().is_subset(known);
                let plain = *dtype != DType::String && !dtype.is_packed();
                (plain && shape.iter().all(told)).then_some(shape)
            }
            _ => None,
        };
        let ids = node.inputs.iter().copied().collect::<Option<Vec<_>>>()?;
        let outer = ids.iter().map(|&id| shape(id)).collect::<Option<Vec<_>>>()?;
        node.outputs.iter().map(|id| shape((*id)?)).collect::<Option<Vec<_>>>()?;
        let with_rows = counts.iter().position(|c| *c == Counts::Rows)?;
        let rows = outer[with_rows].first()?.clone();
        let batch = outer[counts.len()].first()? - 1;
        let longest = outer[counts.len() + 1].first()?.clone();
        let block_rows = rows.min(&Dim::from(op.rows).max(&longest));
        let block_batch = batch.min(&block_rows);
        let (mut sizes, mut at_once) = (BTreeMap::new(), BTreeMap::new());
        let mut put = |symbol: Option<&Symbol>, block: &Dim, all: &Dim| {
            if let Some(symbol) = symbol {
                sizes.entry(symbol.clone()).or_insert_with(|| block.clone());
                at_once.entry(symbol.clone()).or_insert_with(|| all.clone());
            }
        };
        let inner = |i: usize| op.body.fact(op.body.inputs()[i]).shape();
        for (i, outer) in outer.iter().enumerate() {
            for (axis, (d, all)) in inner(i)?.iter().zip(&**outer).enumerate() {
                match (counts.get(i), axis) {
                    (Some(Counts::Rows), 0) => put(d.as_symbol(), &block_rows, &rows),
                    (Some(Counts::Sequences), 0) => put(d.as_symbol(), &block_batch, &batch),
                    _ if i == counts.len() => put((d - 1).as_symbol(), &block_batch, &batch),
                    _ => put(d.as_symbol(), all, all),
                }
            }
        }
        let tokens_symbol = inner(with_rows)?.first()?.as_symbol().cloned();
        let longest_bound = longest.range(graph.bounds()).max;
        Some(Extents { rows, sizes, at_once, tokens_symbol, longest_bound })
    }
}
