//! A subgraph run over the elements of sequences.

use super::{count, facts_from, infer_graph, outer_symbols, values_from};
use crate::ops::util::{VARIES, join_elements, one_element, replace_extents};
use crate::{Dim, EvalArgs, Fact, Graph, InferArgs, Operator, Type, Value, op};
use deepseek_tensor::{Result, bail, ensure};
use std::sync::Arc;

op! {
    /// Runs `body` once per element of sequence input 0 and gives one sequence per body
    /// output. The first `mapped` inputs are the body's: of a sequence, which must be as
    /// long as input 0, its element; of a tensor, the tensor. The other inputs are
    /// captures, passed whole. (ONNX SequenceMap-17.)
    SequenceMap {
        /// What is run.
        body: Arc<Graph> = Arc::new(Graph::new("body")),
        /// Number of inputs before the captures.
        mapped: i64 = 1
    }
}

impl SequenceMap {
    fn mapped(&self, inputs: usize) -> Result<usize> {
        let n = count(self.mapped, "mapped inputs")?;
        ensure!(
            (1..=inputs).contains(&n),
            InvalidGraph,
            "{n} mapped inputs of {inputs}; there must be at least one"
        );
        Ok(n)
    }

    pub(super) fn infer_at(&self, args: &InferArgs, depth: usize) -> Result<Vec<Fact>> {
        let n = self.mapped(args.len())?;
        let mut inputs = facts_from(args, 0)?;
        for (i, fact) in inputs.iter_mut().take(n).enumerate() {
            if let Type::Sequence(element) = &fact.ty {
                let ty = one_element(element, args, &format!("item{i}"));
                *fact = Fact { ty, known: None };
            } else if i == 0 {
                bail!(DTypeMismatch, "input 0 must be a sequence, got {fact}");
            }
        }
        let path = format!("{}.body", args.node);
        let out = infer_graph(&self.body, inputs, &path, depth + 1)?;
        let outer = outer_symbols(args);
        let varies = |_: usize| Dim::sym(VARIES);
        let element = |f: Fact| replace_extents(&f.ty, &|s| !outer.contains(s), &varies);
        let sequence = |ty| Fact { ty: Type::Sequence(Box::new(ty)), known: None };
        Ok(out.into_iter().map(|f| sequence(element(f))).collect())
    }
}

impl Operator for SequenceMap {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        self.infer_at(args, 0)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let n = self.mapped(args.len())?;
        let inputs = values_from(args, 0)?;
        let length = inputs[0].sequence()?.len();
        for (i, v) in inputs.iter().take(n).enumerate() {
            if let Value::Sequence(_, items) = v {
                ensure!(
                    items.len() == length,
                    ShapeMismatch,
                    "sequence {i} has {} elements, sequence 0 has {length}",
                    items.len()
                );
            }
        }
        let mut results: Vec<Vec<Value>> = vec![Vec::new(); self.body.outputs().len()];
        for item in 0..length {
            args.env.check()?;
            let given = inputs.iter().enumerate().map(|(i, v)| match v {
                Value::Sequence(_, items) if i < n => items[item].clone(),
                v => v.clone(),
            });
            let out = args.env.run_graph(0, &self.body, given.collect())?;
            results.iter_mut().zip(out).for_each(|(list, v)| list.push(v));
        }
        let ends = self.body.outputs().iter().zip(results);
        ends.map(|((_, id), items)| {
            let mut types = items.iter().map(Value::ty);
            let element = match types.next() {
                Some(first) => types.try_fold(first, |a, b| join_elements(&a, &b))?,
                None => self.body.fact(*id).ty.clone(),
            };
            Ok(Value::Sequence(element, Arc::new(items)))
        })
        .collect()
    }

    fn subgraphs(&self) -> Vec<&Arc<Graph>> {
        vec![&self.body]
    }
}
