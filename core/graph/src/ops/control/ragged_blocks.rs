//! A subgraph run over blocks of whole sequences.

use super::{as_output, facts_from, infer_graph, outer_symbols, values_from};
use crate::ops::segments;
use crate::ops::util::{Sink, Source, through_views};
use crate::{EvalArgs, Fact, Graph, InferArgs, Operator, Value, op};
use deepseek_tensor::{Result, Tensor, ensure, err};
use std::ops::Range;
use std::sync::Arc;

op! {
    /// Runs `body`, a graph over sequences that lie end to end, over blocks of whole sequences, one
    /// block after the other, so that what the body holds is as large as a block and not as the
    /// whole.
    ///
    /// The last two inputs are `offsets i64[batch + 1]`, where each sequence begins and the end, and
    /// `longest i64[n]`, the numbers from 0 on, as many as the longest sequence has rows. The body
    /// gets those of the block. Of the other inputs and of the outputs, `inputs` and `outputs` say
    /// what their first axis counts: 1 rows, 2 sequences, 0 neither (such an input goes whole to
    /// every block; an output cannot be so). A block takes sequences in order while they have
    /// at most `rows` rows together; one longer sequence is a block of its own. The result is that
    /// of the body on all sequences at once if the body computes each sequence by itself.
    RaggedBlocks {
        /// What is run.
        body: Arc<Graph> = Arc::new(Graph::new("body")),
        /// Most rows of a block of more than one sequence, at least 1.
        rows: i64 = 1,
        /// What the first axis of each input but the last two counts.
        inputs: Vec<i64> = vec![1],
        /// What the first axis of each output counts.
        outputs: Vec<i64> = vec![1],
    }
}

/// What the first axis of a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Rows of all sequences.
    Rows,
    /// Sequences.
    Sequences,
    /// Neither.
    Nothing,
}

impl Counts {
    /// The number that stands for it in the attributes.
    pub fn code(self) -> i64 {
        match self {
            Counts::Nothing => 0,
            Counts::Rows => 1,
            Counts::Sequences => 2,
        }
    }
}

/// Some sequences that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceBlock {
    /// Which sequences.
    pub sequences: Range<usize>,
    /// Their rows.
    pub rows: Range<usize>,
    /// Where each begins, counted from the first row of the block, and the end.
    pub offsets: Vec<i64>,
    /// Rows of the longest.
    pub longest: usize,
}

impl SequenceBlock {
    /// The part of `t` that belongs to the block.
    ///
    /// # Errors
    /// If `t` has less along its first axis.
    pub fn of(&self, t: &Tensor, counts: Counts) -> Result<Tensor> {
        let range = match counts {
            Counts::Rows => &self.rows,
            Counts::Sequences => &self.sequences,
            Counts::Nothing => return Ok(t.clone()),
        };
        t.slice_axis(0, range.start, 1, range.len())
    }
}

impl RaggedBlocks {
    /// Most rows of a block of more than one sequence.
    ///
    /// # Errors
    /// `InvalidGraph` if it is less than 1.
    pub fn block(&self) -> Result<usize> {
        let rows = usize::try_from(self.rows).ok().filter(|&n| n > 0);
        rows.ok_or_else(|| err!(InvalidGraph, "blocks of {} rows, expected 1 or more", self.rows))
    }

    /// What the first axis of each input but the last two, and of each output, counts.
    ///
    /// # Errors
    /// `InvalidGraph` for a list that does not fit the body, or a number that means nothing.
    pub fn parts(&self) -> Result<(Vec<Counts>, Vec<Counts>)> {
        let read = |codes: &[i64], what: &str, want: usize, least: i64| -> Result<Vec<Counts>> {
            ensure!(
                codes.len() == want,
                InvalidGraph,
                "{what} {codes:?} of body '{}', which has {want}",
                self.body.name
            );
            let one = |&code: &i64| {
                let all = [Counts::Nothing, Counts::Rows, Counts::Sequences];
                let found = all.into_iter().find(|c| c.code() == code && code >= least);
                found.ok_or_else(|| {
                    err!(InvalidGraph, "{what} {codes:?}: {code} is not from {least} to 2")
                })
            };
            codes.iter().map(one).collect()
        };
        let inputs = self.body.inputs().len().checked_sub(2).ok_or_else(|| {
            err!(
                InvalidGraph,
                "body '{}' takes {} inputs; the last two are offsets and longest",
                self.body.name,
                self.body.inputs().len()
            )
        })?;
        let inputs = read(&self.inputs, "inputs", inputs, 0)?;
        Ok((inputs, read(&self.outputs, "outputs", self.body.outputs().len(), 1)?))
    }

    /// The blocks of sequences at `offsets` that have `tokens` rows together.
    ///
    /// # Errors
    /// As [`segments`] and [`RaggedBlocks::block`].
    pub fn blocks(&self, offsets: &Tensor, tokens: usize) -> Result<Vec<SequenceBlock>> {
        let most = self.block()?;
        let mut blocks: Vec<SequenceBlock> = Vec::new();
        for (i, rows) in segments(offsets, tokens)?.into_iter().enumerate() {
            match blocks.last_mut() {
                Some(last) if rows.end - last.rows.start <= most => {
                    last.sequences.end = i + 1;
                    last.rows.end = rows.end;
                    last.offsets.push((rows.end - last.rows.start) as i64);
                    last.longest = last.longest.max(rows.len());
                }
                _ => blocks.push(SequenceBlock {
                    sequences: i..i + 1,
                    offsets: vec![0, rows.len() as i64],
                    longest: rows.len(),
                    rows,
                }),
            }
        }
        Ok(blocks)
    }

    /// Rows of the first of `inputs` that has rows.
    ///
    /// # Errors
    /// `InvalidGraph` if none has.
    pub fn tokens(&self, inputs: &[Tensor]) -> Result<usize> {
        let (counts, _) = self.parts()?;
        let first = counts.iter().zip(inputs).find(|(c, _)| **c == Counts::Rows);
        let rows = first.and_then(|(_, t)| t.shape().first().copied());
        rows.ok_or_else(|| err!(InvalidGraph, "no input has rows"))
    }

    pub(super) fn infer_at(&self, args: &InferArgs, depth: usize) -> Result<Vec<Fact>> {
        self.block()?;
        self.parts()?;
        let path = format!("{}.body", args.node);
        let out = infer_graph(&self.body, facts_from(args, 0)?, &path, depth + 1)?;
        let outer = outer_symbols(args);
        let result = |(i, fact): (usize, Fact)| {
            fact.dtype()?;
            Ok(Fact { ty: as_output(&fact.ty, &outer, args, i), known: None })
        };
        out.into_iter().enumerate().map(result).collect()
    }
}

impl Operator for RaggedBlocks {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        self.infer_at(args, 0)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (counts, outputs) = self.parts()?;
        let values = values_from(args, 0)?;
        let inputs = values.iter().map(|v| v.tensor().cloned()).collect::<Result<Vec<_>>>()?;
        ensure!(
            inputs.len() == counts.len() + 2,
            InvalidGraph,
            "body '{}' takes {} inputs, the node passes {}",
            self.body.name,
            counts.len() + 2,
            inputs.len()
        );
        let (offsets, longest) = (&inputs[counts.len()], &inputs[counts.len() + 1]);
        let tokens = self.tokens(&inputs)?;
        let blocks = self.blocks(offsets, tokens)?;
        let sequences = blocks.last().map_or(0, |b| b.sequences.end);
        let mut sinks: Vec<Sink> = Vec::new();
        for block in &blocks {
            args.env.check()?;
            let mut given = Vec::with_capacity(inputs.len());
            for (t, counts) in inputs.iter().zip(&counts) {
                given.push(Value::Tensor(through_views(t, |t| block.of(t, *counts))?));
            }
            given.push(Tensor::from_vec(&[block.offsets.len()], block.offsets.clone())?.into());
            given.push(longest.slice_axis(0, 0, 1, block.longest)?.into());
            for (i, value) in args.env.run_graph(0, &self.body, given)?.iter().enumerate() {
                let part = value.tensor()?;
                let (range, all) = match outputs[i] {
                    Counts::Rows => (&block.rows, tokens),
                    _ => (&block.sequences, sequences),
                };
                let (first, rest) = part.shape().split_first().unwrap_or((&0, &[]));
                ensure!(
                    *first == range.len(),
                    ShapeMismatch,
                    "output {i} of the body has shape {:?}, expected {} along its first axis",
                    part.shape(),
                    range.len()
                );
                if sinks.len() == i {
                    sinks.push(Sink::zeros(part.dtype(), &[&[all], rest].concat())?);
                }
                let at = range.start * rest.iter().product::<usize>();
                sinks[i].copy(at, &Source::of(part)?, 0, part.len())?;
            }
        }
        ensure!(
            sinks.len() == outputs.len(),
            InvalidArgument,
            "there is no sequence; give at least one"
        );
        sinks.into_iter().map(|sink| Ok(sink.finish()?.into())).collect()
    }

    fn subgraphs(&self) -> Vec<&Arc<Graph>> {
        vec![&self.body]
    }
}
