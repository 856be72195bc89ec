//! A subgraph run over the slices of tensors.

use super::{
    as_output, bound_output, count, expect_outputs, facts_from, infer_graph, outer_symbols, settle,
    stack, values_from,
};
use crate::ops::util::{normalize_axis, through_views};
use crate::{Dim, EvalArgs, Fact, Graph, InferArgs, Operator, Type, Value, op};
use deepseek_tensor::{Dims, Result, Tensor, bail, ensure};
use std::sync::Arc;

op! {
    /// Runs `body` once per slice of the scan inputs.
    ///
    /// Inputs: `carried` state values, `num_scan_inputs` scan inputs of equal extent along
    /// their axes, captures. Body inputs: states, one slice of each scan input, captures; body
    /// outputs: states, scan outputs. Outputs: the last states, then each scan output
    /// stacked along its axis. (ONNX Scan-25.)
    Scan {
        /// What is run.
        body: Arc<Graph> = Arc::new(Graph::new("body")),
        /// Number of state values.
        carried: i64 = 0,
        /// Number of scan inputs.
        num_scan_inputs: i64 = 1,
        /// Axis of each scan input; 0 where absent.
        scan_input_axes: Vec<i64> = Vec::new(),
        /// 1 for each scan input that is read from its end; 0 where absent.
        scan_input_directions: Vec<i64> = Vec::new(),
        /// New axis of each scan output; 0 where absent.
        scan_output_axes: Vec<i64> = Vec::new(),
        /// 1 for each scan output that is written from its end; 0 where absent.
        scan_output_directions: Vec<i64> = Vec::new()
    }
}

/// Entry `i` of an optional list.
fn entry(list: &[i64], i: usize, of: usize, what: &str) -> Result<i64> {
    ensure!(
        list.is_empty() || list.len() == of,
        InvalidGraph,
        "{what} has {} entries for {of} values",
        list.len()
    );
    Ok(list.get(i).copied().unwrap_or(0))
}

/// Numbers of states, scan inputs and scan outputs.
struct Counts {
    states: usize,
    inputs: usize,
    outputs: usize,
}

impl Scan {
    fn counts(&self, args: usize) -> Result<Counts> {
        let states = count(self.carried, "states")?;
        let inputs = count(self.num_scan_inputs, "scan inputs")?;
        let outputs = expect_outputs(&self.body, states)?;
        ensure!(
            states.checked_add(inputs).is_some_and(|n| n <= args) && inputs > 0,
            InvalidGraph,
            "{states} states and {inputs} scan inputs of {args} inputs; at least one is scanned"
        );
        Ok(Counts { states, inputs, outputs })
    }

    fn input_axis(&self, i: usize, n: usize, rank: usize) -> Result<usize> {
        normalize_axis(entry(&self.scan_input_axes, i, n, "scan_input_axes")?, rank)
    }

    pub(super) fn infer_at(&self, args: &InferArgs, depth: usize) -> Result<Vec<Fact>> {
        let n = self.counts(args.len())?;
        let mut trips: Option<Dim> = None;
        let mut slices = Vec::with_capacity(n.inputs);
        for i in 0..n.inputs {
            let (dtype, at) = (args.dtype(n.states + i)?, n.states + i);
            let Some(s) = args.shape(at) else {
                slices.push(Fact::unranked(dtype));
                continue;
            };
            let axis = self.input_axis(i, n.inputs, s.len())?;
            match (trips.as_ref().and_then(Dim::as_const), s[axis].as_const()) {
                (Some(x), Some(y)) => ensure!(
                    x == y,
                    ShapeMismatch,
                    "scan inputs have {x} and {y} slices; they must have as many"
                ),
                (Some(_), None) => {}
                _ => trips = Some(s[axis].clone()),
            }
            let mut slice = s.to_vec();
            slice.remove(axis);
            slices.push(Fact::tensor(dtype, slice));
        }
        let trips = trips.unwrap_or_else(|| args.fresh("iterations"));
        let captures = facts_from(args, n.states + n.inputs)?;
        let initial = (0..n.states).map(|i| Ok(args.fact(i)?.ty.clone())).collect::<Result<_>>()?;
        let path = format!("{}.body", args.node);
        let run = |state: Vec<Fact>| {
            let rest = slices.iter().chain(&captures).cloned();
            infer_graph(&self.body, state.into_iter().chain(rest).collect(), &path, depth + 1)
        };
        let (state, out) = settle(args, initial, 0, depth, run)?;
        let outer = outer_symbols(args);
        let mut facts = Vec::with_capacity(out.len());
        for (i, ty) in state.iter().enumerate() {
            facts.push(Fact { ty: as_output(ty, &outer, args, i), known: None });
        }
        for (i, fact) in out.iter().enumerate().skip(n.states) {
            let k = i - n.states;
            let axis = entry(&self.scan_output_axes, k, n.outputs, "scan_output_axes")?;
            facts.push(match as_output(&fact.ty, &outer, args, i) {
                Type::Tensor(dtype, Some(mut s)) => {
                    s.insert(normalize_axis(axis, s.len() + 1)?, trips.clone());
                    Fact::tensor(dtype, s)
                }
                Type::Tensor(dtype, None) => Fact::unranked(dtype),
                other => {
                    bail!(DTypeMismatch, "scan output {k} must be a tensor, the body gives {other}")
                }
            });
        }
        Ok(facts)
    }
}

/// Slice `i` of `t` along `axis`, without that axis.
fn slice(t: &Tensor, axis: usize, i: usize) -> Result<Tensor> {
    let mut shape = Dims::from_slice(t.shape());
    shape.remove(axis);
    through_views(t, |t| t.slice_axis(axis, i, 1, 1)?.reshape(&shape))
}

impl Operator for Scan {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        self.infer_at(args, 0)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let n = self.counts(args.len())?;
        let mut state = values_from(args, 0)?;
        let captures = state.split_off(n.states + n.inputs);
        let scanned = state
            .split_off(n.states)
            .into_iter()
            .enumerate()
            .map(|(i, v)| {
                let t = v.tensor()?.clone();
                let axis = self.input_axis(i, n.inputs, t.rank())?;
                let back =
                    entry(&self.scan_input_directions, i, n.inputs, "scan_input_directions")?;
                Ok((t, axis, back != 0))
            })
            .collect::<Result<Vec<_>>>()?;
        let trips = scanned.first().map_or(0, |(t, axis, _)| t.shape()[*axis]);
        for (t, axis, _) in &scanned {
            ensure!(
                t.shape()[*axis] == trips,
                ShapeMismatch,
                "scan inputs have {trips} and {} slices; they must have as many",
                t.shape()[*axis]
            );
        }
        let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); n.outputs];
        for i in 0..trips {
            args.env.check()?;
            let mut inputs = std::mem::take(&mut state);
            for (t, axis, back) in &scanned {
                inputs.push(slice(t, *axis, if *back { trips - 1 - i } else { i })?.into());
            }
            inputs.extend(captures.iter().cloned());
            let out = args.env.run_graph(0, &self.body, inputs)?;
            ensure!(
                out.len() == n.states + n.outputs,
                InvalidGraph,
                "the body gives {} values, expected {}",
                out.len(),
                n.states + n.outputs
            );
            let mut out = out.into_iter();
            state.extend(out.by_ref().take(n.states));
            for (stack, value) in stacks.iter_mut().zip(out) {
                stack.push(value.tensor()?.clone());
            }
        }
        let mut results = state.clone();
        for (k, mut parts) in stacks.into_iter().enumerate() {
            let what = "scan_output_directions";
            if entry(&self.scan_output_directions, k, n.outputs, what)? != 0 {
                parts.reverse();
            }
            let y = stack(&parts, &bound_output(&self.body, n.states + k, &state))?;
            let axis = entry(&self.scan_output_axes, k, n.outputs, "scan_output_axes")?;
            let axis = normalize_axis(axis, y.rank())?;
            let mut perm: Vec<usize> = (1..y.rank()).collect();
            perm.insert(axis, 0);
            results.push(through_views(&y, |y| y.permute(&perm))?.into());
        }
        Ok(results)
    }

    fn subgraphs(&self) -> Vec<&Arc<Graph>> {
        vec![&self.body]
    }
}
