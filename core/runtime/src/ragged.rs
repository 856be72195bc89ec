//! Batches of sequences of different lengths without padding.
//!
//! [`Ragged`] is the plan of a model's packed form (see [`deepseek_graph::passes::ragged`]) and the
//! way in and out: lists of sequences, or a padded batch with its mask, become packed rows, and
//! results become lists or a padded batch again. It owns no memory to run with; that is a
//! [`Session`](crate::Session) over [`Ragged::plan`].

use crate::lower::cut_fast;
use crate::plan::{MemoryReport, Plan};
use crate::runtime::Runtime;
use deepseek_graph::ops::util::to_f64;
use deepseek_graph::passes::ragged::{
    InputKind, OutputKind, Packed, PackedInput, PackedOutput, pack,
};
use deepseek_graph::{Bindings, Dim, EvalArgs, Graph, NoSubgraphs, Operator, Symbol, Value, ops};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err};
use std::sync::Arc;

/// A plan over packed rows, and how the inputs and outputs of the padded model relate to it.
pub struct Ragged {
    plan: Arc<Plan>,
    inputs: Vec<PackedInput>,
    outputs: Vec<PackedOutput>,
    batch: Symbol,
    seq: Symbol,
    tokens: Symbol,
    longest: Symbol,
    lengths: (i64, Option<i64>),
}

/// Inputs of a packed plan, and what is needed to unpack its outputs.
#[derive(Clone, Debug)]
pub struct PackedBatch {
    /// In the order of the plan's inputs.
    pub inputs: Vec<Value>,
    /// Length of each sequence.
    pub lengths: Vec<usize>,
    /// Extent of the sequence axis of the padded batch; the longest length for lists.
    pub seq: usize,
}

impl Ragged {
    /// Packs and lowers `graph`, which has been through [`prepare`](crate::prepare).
    ///
    /// # Errors
    /// `Unsupported` with node and reason if the graph has no packed form; as [`Plan::new`].
    pub fn new(graph: &Graph, runtime: &Runtime) -> Result<Ragged> {
        Ragged::within(graph, runtime, 0)
    }

    /// As [`Ragged::new`]; runs that take more than `budget` bytes beyond the constants are
    /// refused, 0 sets no bound.
    ///
    /// # Errors
    /// As [`Ragged::new`].
    pub fn within(graph: &Graph, runtime: &Runtime, budget: u64) -> Result<Ragged> {
        let Packed { graph, inputs, outputs, batch, seq, tokens, longest, lengths } = pack(graph)?;
        let mut plan = Plan::new(cut_fast(&graph)?, runtime)?;
        plan.limit(budget);
        let plan = Arc::new(plan);
        Ok(Ragged { plan, inputs, outputs, batch, seq, tokens, longest, lengths })
    }

    /// The plan over packed rows.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Inputs of the padded model and what they are here, in order.
    pub fn inputs(&self) -> &[PackedInput] {
        &self.inputs
    }

    /// Outputs of the padded model and what they are here, in order.
    pub fn outputs(&self) -> &[PackedOutput] {
        &self.outputs
    }

    /// Exact bytes of a run of sequences with these lengths.
    ///
    /// # Errors
    /// As [`Ragged::pack`] for the lengths; `InvalidArgument` naming a further symbol.
    pub fn memory(&self, lengths: &[usize]) -> Result<MemoryReport> {
        self.check_lengths(lengths)?;
        let total = lengths.iter().try_fold(0usize, |n, &len| n.checked_add(len));
        let total = total.ok_or_else(|| err!(InvalidArgument, "the lengths add up to too much"))?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut bindings = Bindings::default();
        for (symbol, n) in
            [(&self.batch, lengths.len()), (&self.tokens, total), (&self.longest, longest)]
        {
            let n = i64::try_from(n).map_err(|_| err!(InvalidArgument, "{n} rows"))?;
            bindings.unify(&Dim::from(symbol), n).map_err(|e| err!(InvalidArgument, "{e}"))?;
        }
        self.plan.memory(&bindings)
    }

    /// Packs lists of sequences. For an input with rows or a mask, one tensor `[len, …]` for each
    /// sequence; for one with a row for each sequence, one tensor `[…]`; for others one tensor.
    /// Masks may be left out; where they are given they must be 1 throughout.
    ///
    /// # Errors
    /// `NotFound` for a name that the model does not have; `InvalidArgument` for a missing or
    /// doubled one, for no or an empty sequence, and for a mask that hides something;
    /// `ShapeMismatch` if lengths contradict each other, naming both inputs, or are outside what
    /// the model takes; `DTypeMismatch`.
    pub fn pack(&self, given: Vec<(String, Vec<Tensor>)>) -> Result<PackedBatch> {
        let lists = self.by_input(given)?;
        let mut lengths: Option<(&str, Vec<usize>)> = None;
        let mut sequences: Option<(&str, usize)> = None;
        for (input, list) in self.inputs.iter().zip(&lists) {
            let Some(list) = list else { continue };
            let name = input.name.as_str();
            for (i, t) in list.iter().enumerate() {
                ensure!(
                    t.dtype() == input.dtype,
                    DTypeMismatch,
                    "input '{name}' of sequence {i} has elements of type {}, expected {}",
                    t.dtype(),
                    input.dtype
                );
            }
            if input.kind == InputKind::Whole {
                ensure!(
                    list.len() == 1,
                    InvalidArgument,
                    "input '{name}' is the same for all sequences: give one tensor, got {}",
                    list.len()
                );
                continue;
            }
            match sequences {
                None => sequences = Some((name, list.len())),
                Some((other, n)) => ensure!(
                    n == list.len(),
                    ShapeMismatch,
                    "input '{name}' has {} sequences, '{other}' has {n}",
                    list.len()
                ),
            }
            if !matches!(input.kind, InputKind::Rows { .. } | InputKind::Mask { .. }) {
                continue;
            }
            let mask = matches!(input.kind, InputKind::Mask { .. });
            let own = list.iter().enumerate().map(|(i, t)| match t.shape() {
                // Besides the sequence, a mask has axes of extent 1.
                _ if mask => Ok(t.len()),
                [len, ..] => Ok(*len),
                [] => Err(err!(
                    ShapeMismatch,
                    "input '{name}' of sequence {i} is a scalar, expected rows"
                )),
            });
            let own: Vec<usize> = own.collect::<Result<_>>()?;
            match &lengths {
                None => lengths = Some((name, own)),
                Some((other, want)) => {
                    if let Some(i) = (0..own.len()).find(|&i| own[i] != want[i]) {
                        bail!(
                            ShapeMismatch,
                            "sequence {i}: input '{name}' has {} rows, '{other}' has {}",
                            own[i],
                            want[i]
                        );
                    }
                }
            }
            if let InputKind::Mask { token, .. } = input.kind {
                all_tokens(name, list, token)?;
            }
        }
        let lengths = lengths.map(|(_, lengths)| lengths).unwrap_or_default();
        self.check_lengths(&lengths)?;
        let mut inputs = Vec::with_capacity(self.inputs.len() + 1);
        for (input, list) in self.inputs.iter().zip(lists) {
            let list = list.unwrap_or_default();
            inputs.push(match input.kind {
                InputKind::Mask { .. } => continue,
                InputKind::Whole => list
                    .into_iter()
                    .next()
                    .ok_or_else(|| err!(InvalidArgument, "input '{}' is missing", input.name))?,
                InputKind::Rows { .. } => join(&input.name, &list)?,
                InputKind::PerSequence => {
                    let rows = list.iter().map(|t| t.reshape(&[&[1], t.shape()].concat()));
                    join(&input.name, &rows.collect::<Result<Vec<_>>>()?)?
                }
            });
        }
        let seq = lengths.iter().copied().max().unwrap_or(0);
        self.finish(inputs, lengths, seq)
    }

    /// Packs a padded batch. Each mask must be ones, then zeros, in every row, and all masks the
    /// same; without a mask every row counts in full.
    ///
    /// # Errors
    /// As [`Ragged::pack`]; `InvalidArgument` for a mask that is not ones, then zeros.
    pub fn pack_padded(&self, given: Vec<(String, Value)>) -> Result<PackedBatch> {
        let mut lists = Vec::with_capacity(given.len());
        for (name, value) in given {
            lists.push((name, vec![value.tensor()?.clone()]));
        }
        let tensors = self.by_input(lists)?;
        let mut extents: Option<(&str, [usize; 2])> = None;
        let mut lengths: Option<(&str, Vec<usize>)> = None;
        for (input, list) in self.inputs.iter().zip(&tensors) {
            let name = input.name.as_str();
            let Some(t) = list.as_ref().and_then(|l| l.first()) else {
                let mask = matches!(input.kind, InputKind::Mask { .. });
                ensure!(mask, InvalidArgument, "input '{name}' is missing");
                continue;
            };
            ensure!(
                t.dtype() == input.dtype,
                DTypeMismatch,
                "input '{name}' has elements of type {}, expected {}",
                t.dtype(),
                input.dtype
            );
            if !matches!(input.kind, InputKind::Rows { .. } | InputKind::Mask { .. }) {
                continue;
            }
            let [b, s] = self.extents(input, t)?;
            match extents {
                None => extents = Some((name, [b, s])),
                Some((other, want)) => ensure!(
                    want == [b, s],
                    ShapeMismatch,
                    "input '{name}' is a batch of {b} × {s}, '{other}' of {} × {}",
                    want[0],
                    want[1]
                ),
            }
            if let InputKind::Mask { token, batch, seq } = input.kind {
                ensure!(
                    t.len() == b * s,
                    ShapeMismatch,
                    "mask '{name}' has shape {:?}, expected {b} × {s} elements",
                    t.shape()
                );
                let t = match seq < batch {
                    true => t.reshape(&[s, b])?.permute(&[1, 0])?,
                    false => t.clone(),
                };
                let own = leading_tokens(name, &t, [b, s], token)?;
                match &lengths {
                    None => lengths = Some((name, own)),
                    Some((other, want)) => {
                        if let Some(i) = (0..b).find(|&i| own[i] != want[i]) {
                            bail!(
                                InvalidArgument,
                                "row {i}: mask '{name}' shows {} tokens, '{other}' shows {}",
                                own[i],
                                want[i]
                            );
                        }
                    }
                }
            }
        }
        let Some((_, [batch, seq])) = extents else { bail!(Internal, "no input has rows") };
        let lengths = lengths.map_or_else(|| vec![seq; batch], |(_, lengths)| lengths);
        self.check_lengths(&lengths)?;
        let mut inputs = Vec::with_capacity(tensors.len() + 1);
        for (input, list) in self.inputs.iter().zip(tensors) {
            let Some(t) = list.and_then(|l| l.into_iter().next()) else { continue };
            inputs.push(match input.kind {
                InputKind::Mask { .. } => continue,
                InputKind::Whole | InputKind::PerSequence => t,
                InputKind::Rows { seq_first } => {
                    let t = if seq_first { swap_first(&t)? } else { t };
                    let part = |(i, &len): (usize, &usize)| {
                        let row = t.slice_axis(0, i, 1, 1)?.slice_axis(1, 0, 1, len)?;
                        row.reshape(&[&[len], &t.shape()[2..]].concat())
                    };
                    let rows = lengths.iter().enumerate().map(part).collect::<Result<Vec<_>>>()?;
                    join(&input.name, &rows)?
                }
            });
        }
        self.finish(inputs, lengths, seq)
    }

    /// Outputs of a packed run as lists: `[len, …]` for each sequence where the padded output has
    /// a sequence axis, `[…]` for each where it has a batch axis alone, one tensor else. The batch
    /// axis is gone, the others are in their order. The tensors of a list share their bytes.
    ///
    /// # Errors
    /// `DTypeMismatch` if an output is no tensor.
    pub fn unpack(
        &self,
        outputs: &[Value],
        lengths: &[usize],
    ) -> Result<Vec<(String, Vec<Tensor>)>> {
        let one = |output: &PackedOutput, value: &Value| -> Result<Vec<Tensor>> {
            let t = value.tensor()?;
            Ok(match output.kind {
                OutputKind::Whole => vec![t.clone()],
                OutputKind::PerSequence { .. } => {
                    let row = |i| t.slice_axis(0, i, 1, 1)?.reshape(&t.shape()[1..]);
                    (0..lengths.len()).map(row).collect::<Result<_>>()?
                }
                OutputKind::Rows { batch, seq } => {
                    let place = seq - usize::from(batch.is_some_and(|b| b < seq));
                    let mut start = 0;
                    let rows = lengths.iter().map(|&len| {
                        let rows = t.slice_axis(0, start, 1, len)?;
                        start += len;
                        first_to(&rows, place)
                    });
                    rows.collect::<Result<_>>()?
                }
            })
        };
        let all = self.outputs.iter().zip(outputs);
        all.map(|(o, v)| Ok((o.name.clone(), one(o, v)?))).collect()
    }

    /// Outputs of a packed run as the padded model has them, zero where the mask hides.
    ///
    /// # Errors
    /// `Unsupported` for an output with a sequence axis and no batch axis, which has no padded
    /// form for different lengths; `DTypeMismatch` if an output is no tensor; `OutOfMemory`.
    pub fn unpack_padded(
        &self,
        outputs: &[Value],
        lengths: &[usize],
        seq: usize,
    ) -> Result<Vec<(String, Value)>> {
        let all = self.outputs.iter().zip(outputs);
        all.map(|(o, v)| {
            let t = padded(o, v.tensor()?, lengths, seq)?;
            Ok((o.name.clone(), Value::Tensor(t)))
        })
        .collect()
    }

    /// The given tensors in the order of the inputs.
    fn by_input(&self, given: Vec<(String, Vec<Tensor>)>) -> Result<Vec<Option<Vec<Tensor>>>> {
        let mut lists: Vec<Option<Vec<Tensor>>> = vec![None; self.inputs.len()];
        for (name, list) in given {
            let at = self.inputs.iter().position(|i| i.name == name).ok_or_else(|| {
                let names = self.inputs.iter().map(|i| format!("'{}'", i.name));
                let names = names.collect::<Vec<_>>().join(", ");
                err!(NotFound, "no input named '{name}'; the inputs are {names}")
            })?;
            ensure!(lists[at].is_none(), InvalidArgument, "input '{name}' is given twice");
            lists[at] = Some(list);
        }
        for (input, list) in self.inputs.iter().zip(&lists) {
            ensure!(
                list.is_some() || matches!(input.kind, InputKind::Mask { .. }),
                InvalidArgument,
                "input '{}' is missing",
                input.name
            );
        }
        Ok(lists)
    }

    /// Batch and sequence extents of a padded input with rows, or of a mask.
    fn extents(&self, input: &PackedInput, t: &Tensor) -> Result<[usize; 2]> {
        let long: Vec<usize> = match input.kind {
            // Besides batch and sequence a mask has axes of extent 1.
            InputKind::Mask { batch, seq, .. } if t.rank() > batch.max(seq) => {
                vec![t.shape()[batch], t.shape()[seq]]
            }
            InputKind::Rows { seq_first } if t.rank() >= 2 => {
                let first = usize::from(seq_first);
                vec![t.shape()[first], t.shape()[1 - first]]
            }
            _ => Vec::new(),
        };
        let &[b, s] = &long[..] else {
            bail!(
                ShapeMismatch,
                "input '{}' has shape {:?}, which has no batch and sequence",
                input.name,
                t.shape()
            )
        };
        Ok([b, s])
    }

    fn check_lengths(&self, lengths: &[usize]) -> Result<()> {
        ensure!(!lengths.is_empty(), InvalidArgument, "there is no sequence; give at least one");
        let (min, max) = self.lengths;
        for (i, &len) in lengths.iter().enumerate() {
            ensure!(len > 0, InvalidArgument, "sequence {i} is empty; leave it out");
            let fits = len as i64 >= min && max.is_none_or(|max| len as i64 <= max);
            ensure!(
                fits,
                ShapeMismatch,
                "sequence {i} has {len} rows, the model takes {min} to {} along '{}'",
                max.map_or_else(|| "any number".to_owned(), |m| m.to_string()),
                self.seq
            );
        }
        Ok(())
    }

    /// Adds what packed plans have beyond the model's inputs.
    fn finish(&self, inputs: Vec<Tensor>, lengths: Vec<usize>, seq: usize) -> Result<PackedBatch> {
        let mut offsets = Vec::with_capacity(lengths.len() + 1);
        let mut at = 0i64;
        offsets.push(at);
        for &len in &lengths {
            at += len as i64;
            offsets.push(at);
        }
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut inputs: Vec<Value> = inputs.into_iter().map(Value::Tensor).collect();
        inputs.push(Tensor::from_vec(&[offsets.len()], offsets)?.into());
        inputs.push(Tensor::from_vec(&[longest], (0..longest as i64).collect())?.into());
        Ok(PackedBatch { inputs, lengths, seq })
    }
}

/// Fails unless every element of a mask says that there is a token.
fn all_tokens(name: &str, list: &[Tensor], token: bool) -> Result<()> {
    let want = if token { 1.0 } else { 0.0 };
    for (i, t) in list.iter().enumerate() {
        if let Some((at, x)) = to_f64(t)?.into_iter().enumerate().find(|(_, x)| *x != want) {
            bail!(
                InvalidArgument,
                "mask '{name}' of sequence {i} is {x} at {at}; sequences hold no padding, so it must be {want} throughout, or be left out"
            );
        }
    }
    Ok(())
}

/// The number of tokens that each row of a mask of `[batch, seq]` elements begins with; padding
/// must follow.
fn leading_tokens(
    name: &str,
    mask: &Tensor,
    [batch, seq]: [usize; 2],
    token: bool,
) -> Result<Vec<usize>> {
    let (want, other) = if token { (1.0, 0.0) } else { (0.0, 1.0) };
    let all = to_f64(mask)?;
    let row = |i: usize| {
        let row = &all[i * seq..][..seq];
        let len = row.iter().take_while(|x| **x == want).count();
        match row[len..].iter().position(|x| *x != other) {
            None => Ok(len),
            Some(after) => Err(err!(
                InvalidArgument,
                "row {i} of mask '{name}' is {} at {}; a ragged run needs tokens ({want}), then padding ({other})",
                row[len + after],
                len + after
            )),
        }
    };
    (0..batch).map(row).collect()
}

/// Tensors one after the other along axis 0.
fn join(name: &str, parts: &[Tensor]) -> Result<Tensor> {
    for (i, t) in parts.iter().enumerate() {
        ensure!(
            t.shape().get(1..) == parts[0].shape().get(1..),
            ShapeMismatch,
            "input '{name}': sequence {i} has shape {:?}, sequence 0 has {:?}",
            t.shape(),
            parts[0].shape()
        );
    }
    let inputs: Vec<_> = parts.iter().map(|t| Some(Value::Tensor(t.clone()))).collect();
    let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
    let joined = ops::Concat { axis: 0 }.eval(&args)?;
    joined[0].tensor()?.to_contiguous()
}

/// `t` with its first two axes exchanged.
fn swap_first(t: &Tensor) -> Result<Tensor> {
    let axes: Vec<usize> = [1, 0].into_iter().chain(2..t.rank()).collect();
    t.permute(&axes)
}

/// `t` with axis 0 moved to `place`, contiguous.
fn first_to(t: &Tensor, place: usize) -> Result<Tensor> {
    if place == 0 {
        return Ok(t.clone());
    }
    let mut axes: Vec<usize> = (1..t.rank()).collect();
    axes.insert(place.min(axes.len()), 0);
    t.permute(&axes)?.to_contiguous()
}

/// A packed output as the padded model has it.
fn padded(output: &PackedOutput, t: &Tensor, lengths: &[usize], seq: usize) -> Result<Tensor> {
    match output.kind {
        OutputKind::Whole => Ok(t.clone()),
        OutputKind::PerSequence { batch } => first_to(t, batch),
        OutputKind::Rows { batch: None, .. } => bail!(
            Unsupported,
            "output '{}' has no batch axis, so it has no padded form for different lengths; run lists",
            output.name
        ),
        OutputKind::Rows { batch: Some(batch), seq: at } => {
            ensure!(
                t.dtype() != DType::String,
                Unsupported,
                "output '{}' holds strings, which have no zero",
                output.name
            );
            let features = &t.shape()[1..];
            let gap = Tensor::zeros(t.dtype(), &[&[seq], features].concat())?;
            let (mut parts, mut start) = (Vec::with_capacity(2 * lengths.len()), 0);
            for &len in lengths {
                parts.push(t.slice_axis(0, start, 1, len)?);
                if len < seq {
                    parts.push(gap.slice_axis(0, 0, 1, seq - len)?);
                }
                start += len;
            }
            let rows = join(&output.name, &parts)?;
            if batch == at {
                return first_to(&rows, batch);
            }
            let rows = rows.reshape(&[&[lengths.len(), seq], features].concat())?;
            // Axes 0 and 1 go to `batch` and `at`, the others keep their order.
            let mut features = 2..rows.rank();
            let axes: Vec<usize> = (0..rows.rank())
                .map(|a| {
                    if a == batch {
                        0
                    } else if a == at {
                        1
                    } else {
                        features.next().unwrap_or(a)
                    }
                })
                .collect();
            rows.permute(&axes)?.to_contiguous()
        }
    }
}
