//! A subgraph repeated until a count or a condition ends it.

use super::{
    as_output, bound_output, count, expect_outputs, facts_from, infer_graph, outer_symbols, settle,
    stack, values_from,
};
use crate::ops::util::scalar_i64;
use crate::{Dim, EvalArgs, Fact, Graph, InferArgs, Known, Operator, Type, Value, op};
use deepseek_tensor::{DType, Result, Tensor, ensure, err};
use std::sync::Arc;

op! {
    /// Runs `body` at most M times (input 0, one `i64`; no limit where absent) while the
    /// condition holds (input 1, one `bool`; true where absent).
    ///
    /// Inputs: M, condition, `carried` values, captures. Body inputs: number of the iteration
    /// (`i64`), condition (`bool`), carried values, captures; body outputs: condition,
    /// carried values, scan outputs. Outputs: the last carried values, then each scan
    /// output stacked along a new leading axis. (ONNX Loop-25.)
    Loop {
        /// What is repeated.
        body: Arc<Graph> = Arc::new(Graph::new("body")),
        /// Number of values that one iteration passes to the next.
        carried: i64 = 0
    }
}

/// Whether a bool is known to be true.
fn known_true(fact: &Fact) -> bool {
    matches!(&fact.known, Some(Known::Tensor(t)) if t.item::<bool>().is_ok_and(|b| b))
}

impl Loop {
    pub(super) fn infer_at(&self, args: &InferArgs, depth: usize) -> Result<Vec<Fact>> {
        let n = count(self.carried, "carried values")?;
        expect_outputs(&self.body, n + 1)?;
        let captures = facts_from(args, (2usize).saturating_add(n))?;
        let initial = (0..n).map(|i| Ok(args.fact(2 + i)?.ty.clone())).collect::<Result<_>>()?;
        // The condition that an iteration sees is true: it would not run otherwise.
        let condition = Fact::constant(Tensor::scalar(true)?);
        let path = format!("{}.body", args.node);
        let run = |state: Vec<Fact>| {
            let mut inputs = vec![Fact::tensor(DType::I64, []), condition.clone()];
            inputs.extend(state);
            inputs.extend(captures.iter().cloned());
            infer_graph(&self.body, inputs, &path, depth + 1)
        };
        let (state, out) = settle(args, initial, 1, depth, run)?;
        let always = known_true(&out[0]) && args.get(1).is_none_or(known_true);
        let trips = match args.dims(0).as_deref() {
            Some([m]) if always => m.max(&Dim::from(0i64)),
            _ => args.fresh("iterations"),
        };
        let outer = outer_symbols(args);
        let last = state.iter().enumerate();
        let mut facts: Vec<Fact> =
            last.map(|(i, ty)| Fact { ty: as_output(ty, &outer, args, i), known: None }).collect();
        for (i, fact) in out.iter().enumerate().skip(1 + n) {
            facts.push(match as_output(&fact.ty, &outer, args, i - 1) {
                Type::Tensor(dtype, shape) => Fact::maybe_ranked(
                    dtype,
                    shape.map(|s| std::iter::once(trips.clone()).chain(s).collect()),
                ),
                other => {
                    return Err(err!(
                        DTypeMismatch,
                        "scan output {} must be a tensor, the body gives {other}",
                        i - 1 - n
                    ));
                }
            });
        }
        Ok(facts)
    }
}

impl Operator for Loop {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        self.infer_at(args, 0)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let n = count(self.carried, "carried values")?;
        let scans = expect_outputs(&self.body, n + 1)?;
        let limit = args.opt(0)?.map(|t| scalar_i64(t, "the trip count")).transpose()?;
        let mut go_on = args.opt(1)?.map(|t| t.item::<bool>()).transpose()?.unwrap_or(true);
        let captures = values_from(args, (2usize).saturating_add(n))?;
        let mut state: Vec<Value> =
            (0..n).map(|i| args.value(2 + i).cloned()).collect::<Result<_>>()?;
        let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); scans];
        let inputs = |i: i64, go_on: bool, state: &mut Vec<Value>| -> Result<Vec<Value>> {
            let head = [Tensor::scalar(i)?.into(), Tensor::scalar(go_on)?.into()];
            Ok(head.into_iter().chain(state.drain(..)).chain(captures.iter().cloned()).collect())
        };
        let mut i = 0i64;
        while go_on && limit.is_none_or(|m| i < m) {
            args.env.check()?;
            let given = inputs(i, go_on, &mut state)?;
            let out = args.env.run_graph(0, &self.body, given)?;
            ensure!(
                out.len() == 1 + n + scans,
                InvalidGraph,
                "the body gives {} values, expected {}",
                out.len(),
                1 + n + scans
            );
            let mut out = out.into_iter();
            if let Some(condition) = out.next() {
                go_on = condition.tensor()?.item::<bool>()?;
            }
            state.extend(out.by_ref().take(n));
            for (stack, value) in stacks.iter_mut().zip(out) {
                stack.push(value.tensor()?.clone());
            }
            i = i.saturating_add(1);
        }
        let mut results = state.clone();
        let given = inputs(0, false, &mut state)?;
        for (k, parts) in stacks.iter().enumerate() {
            let template = bound_output(&self.body, 1 + n + k, &given);
            results.push(stack(parts, &template)?.into());
        }
        Ok(results)
    }

    fn subgraphs(&self) -> Vec<&Arc<Graph>> {
        vec![&self.body]
    }
}
