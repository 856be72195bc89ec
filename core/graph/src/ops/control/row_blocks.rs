//! A subgraph run over blocks of rows.

use super::{as_output, facts_from, infer_graph, outer_symbols, values_from};
use crate::ops::util::{Sink, Source, through_views};
use crate::{Dim, EvalArgs, Fact, Graph, InferArgs, Operator, Type, Value, op};
use deepseek_tensor::{Dims, Result, Tensor, ensure, err};
use std::sync::Arc;

op! {
    /// Runs `body` over blocks of at most `rows` rows, one block after the other, so that what
    /// the body holds is as large as a block and not as the whole.
    ///
    /// The first inputs, as many as `axes` has entries, are cut: their leading `axes[i]` axes
    /// count rows, as many in each. The body gets a block of them as `[rows of the block, rest of
    /// the axes…]`, and the other inputs whole. Each output of the body has one row for each row
    /// of the block; outputs of the node have them all, under the leading extents of the cut input
    /// `like[i]` (the first where the list is empty). The result is that of the body on all rows
    /// at once if the body computes each row of its outputs from that row of its cut inputs.
    RowBlocks {
        /// What is run.
        body: Arc<Graph> = Arc::new(Graph::new("body")),
        /// Most rows of a block, at least 1.
        rows: i64 = 1,
        /// For each cut input, how many of its leading axes count rows.
        axes: Vec<i64> = vec![1],
        /// For each output, the cut input whose leading extents it has; empty for the first.
        like: Vec<i64> = vec![],
    }
}

impl RowBlocks {
    /// Most rows of a block.
    ///
    /// # Errors
    /// `InvalidGraph` if it is less than 1.
    pub fn block(&self) -> Result<usize> {
        let rows = usize::try_from(self.rows).ok().filter(|&n| n > 0);
        rows.ok_or_else(|| err!(InvalidGraph, "blocks of {} rows, expected 1 or more", self.rows))
    }

    /// How many leading axes of cut input `i`, of rank `rank`, count rows.
    ///
    /// # Errors
    /// `InvalidGraph` if there are not as many.
    pub fn leading(&self, i: usize, rank: usize) -> Result<usize> {
        let n = self.axes.get(i).and_then(|&n| usize::try_from(n).ok());
        n.filter(|n| (1..=rank).contains(n)).ok_or_else(|| {
            err!(
                InvalidGraph,
                "axes {:?} count the rows of input {i}, which has rank {rank}",
                self.axes
            )
        })
    }

    /// The cut input whose leading extents output `i` has.
    ///
    /// # Errors
    /// `InvalidGraph` if there is no such input.
    pub fn like(&self, i: usize) -> Result<usize> {
        let like = if self.like.is_empty() { 0 } else { *self.like.get(i).unwrap_or(&-1) };
        usize::try_from(like).ok().filter(|&n| n < self.axes.len()).ok_or_else(|| {
            err!(
                InvalidGraph,
                "output {i} is like input {like}, but {} inputs are cut",
                self.axes.len()
            )
        })
    }

    /// Fails unless the inputs can be those that the attributes speak of.
    fn check(&self, inputs: usize) -> Result<()> {
        self.block()?;
        let cut = self.axes.len();
        ensure!(
            (1..=inputs).contains(&cut) && self.body.inputs().len() == inputs,
            InvalidGraph,
            "{cut} cut inputs of {inputs}, which body '{}' takes as {}; at least one is cut",
            self.body.name,
            self.body.inputs().len()
        );
        Ok(())
    }

    pub(super) fn infer_at(&self, args: &InferArgs, depth: usize) -> Result<Vec<Fact>> {
        self.check(args.len())?;
        let mut facts = facts_from(args, 0)?;
        let mut leading: Vec<Option<Vec<Dim>>> = Vec::with_capacity(self.axes.len());
        let mut rows: Option<Dim> = None;
        for (i, fact) in facts.iter_mut().take(self.axes.len()).enumerate() {
            let dtype = fact.dtype()?;
            let Some(shape) = fact.shape() else {
                leading.push(None);
                continue;
            };
            let (lead, rest) = shape.split_at(self.leading(i, shape.len())?);
            let here = Dim::product(lead);
            let rows = rows.get_or_insert_with(|| here.clone());
            ensure!(
                !matches!((rows.as_const(), here.as_const()), (Some(a), Some(b)) if a != b),
                ShapeMismatch,
                "cut inputs have {rows} and {here} rows; they must have as many"
            );
            let shape: Vec<Dim> =
                std::iter::once(rows.clone()).chain(rest.iter().cloned()).collect();
            leading.push(Some(lead.to_vec()));
            *fact = Fact::tensor(dtype, shape);
        }
        let path = format!("{}.body", args.node);
        let out = infer_graph(&self.body, facts, &path, depth + 1)?;
        let outer = outer_symbols(args);
        let result = |(i, fact): (usize, Fact)| {
            let like = self.like(i)?;
            let Type::Tensor(dtype, shape) = fact.ty else {
                return Err(err!(
                    DTypeMismatch,
                    "output {i} of the body is {}, not a tensor",
                    fact.ty
                ));
            };
            let (Some(shape), Some(lead), Some(rows)) = (shape, &leading[like], &rows) else {
                return Ok(Fact::unranked(dtype));
            };
            ensure!(
                shape.first() == Some(rows),
                ShapeMismatch,
                "output {i} of the body has shape {shape:?} for {rows} rows; \
                 its leading extent must be their number"
            );
            let shape: Vec<Dim> = lead.iter().chain(&shape[1..]).cloned().collect();
            let ty = as_output(&Type::tensor(dtype, shape), &outer, args, i);
            Ok(Fact { ty, known: None })
        };
        out.into_iter().enumerate().map(result).collect()
    }
}

impl Operator for RowBlocks {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        self.infer_at(args, 0)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        self.check(args.len())?;
        let mut inputs = values_from(args, 0)?;
        let whole = inputs.split_off(self.axes.len());
        let mut rows = None;
        let mut leading = Vec::with_capacity(inputs.len());
        let mut cut = Vec::with_capacity(inputs.len());
        for (i, value) in inputs.iter().enumerate() {
            let t = value.tensor()?;
            let (lead, rest) = t.shape().split_at(self.leading(i, t.rank())?);
            let here = lead.iter().product::<usize>();
            ensure!(
                *rows.get_or_insert(here) == here,
                ShapeMismatch,
                "cut inputs have {} and {here} rows; they must have as many",
                rows.unwrap_or(0)
            );
            let shape: Dims = std::iter::once(here).chain(rest.iter().copied()).collect();
            leading.push(Dims::from_slice(lead));
            cut.push(through_views(&t.to_contiguous()?, |t| t.reshape(&shape))?);
        }
        let (rows, block) = (rows.unwrap_or(0), self.block()?);
        let mut results: Vec<(Sink, Dims)> = Vec::new();
        // Without rows, one empty block tells the other extents.
        for from in (0..rows.max(1)).step_by(block) {
            args.env.check()?;
            let n = block.min(rows - from);
            let slice = |t: &Tensor| through_views(t, |t| t.slice_axis(0, from, 1, n));
            let slices = cut.iter().map(|t| slice(t).map(Value::Tensor));
            let inputs = slices.chain(whole.iter().cloned().map(Ok)).collect::<Result<_>>()?;
            for (i, value) in args.env.run_graph(0, &self.body, inputs)?.iter().enumerate() {
                let part = value.tensor()?;
                ensure!(
                    part.shape().first() == Some(&n),
                    ShapeMismatch,
                    "output {i} of the body has shape {:?} for a block of {n} rows",
                    part.shape()
                );
                let rest = Dims::from_slice(&part.shape()[1..]);
                if from == 0 {
                    let lead = &leading[self.like(i)?];
                    let shape: Dims = lead.iter().chain(&rest).copied().collect();
                    results.push((Sink::zeros(part.dtype(), &shape)?, rest.clone()));
                }
                let (sink, first) = &mut results[i];
                ensure!(
                    *first == rest,
                    ShapeMismatch,
                    "rows of output {i} have shape {first:?} in one block and {rest:?} in another"
                );
                sink.copy(
                    from * rest.iter().product::<usize>(),
                    &Source::of(part)?,
                    0,
                    part.len(),
                )?;
            }
        }
        results.into_iter().map(|(sink, _)| Ok(sink.finish()?.into())).collect()
    }

    fn subgraphs(&self) -> Vec<&Arc<Graph>> {
        vec![&self.body]
    }
}
