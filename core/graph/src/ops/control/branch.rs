//! One of two subgraphs.

use super::{facts_from, infer_graph, values_from};
use crate::ops::util::join;
use crate::{EvalArgs, Fact, Graph, InferArgs, Known, Operator, Value, op, same_tensor};
use deepseek_tensor::{DType, Result, ensure};
use std::sync::Arc;

op! {
    /// Runs `then_branch` if input 0, one `bool`, is true and `else_branch` otherwise.
    /// Both take the inputs from 1 on and give the node's outputs. (ONNX If-25.)
    If {
        /// Runs if the condition is true.
        then_branch: Arc<Graph> = Arc::new(Graph::new("then")),
        /// Runs if the condition is false.
        else_branch: Arc<Graph> = Arc::new(Graph::new("else"))
    }
}

impl If {
    pub(super) fn infer_at(&self, args: &InferArgs, depth: usize) -> Result<Vec<Fact>> {
        let condition = args.dtype(0)?;
        ensure!(
            condition == DType::Bool,
            DTypeMismatch,
            "the condition must be bool, got {condition}; insert a Cast"
        );
        let captures = facts_from(args, 1)?;
        let branch = |graph: &Graph, name: &str| {
            infer_graph(graph, captures.clone(), &format!("{}.{name}", args.node), depth + 1)
                .map_err(|e| e.at_node(name))
        };
        if let Some(Known::Tensor(t)) = &args.fact(0)?.known
            && let Ok(taken) = t.item::<bool>()
        {
            return if taken {
                branch(&self.then_branch, "then")
            } else {
                branch(&self.else_branch, "else")
            };
        }
        let (yes, no) = (branch(&self.then_branch, "then")?, branch(&self.else_branch, "else")?);
        ensure!(
            yes.len() == no.len(),
            InvalidGraph,
            "the branches have {} and {} outputs",
            yes.len(),
            no.len()
        );
        let both = yes.into_iter().zip(no).enumerate();
        both.map(|(i, (a, b))| {
            let ty = join(&a.ty, &b.ty, &|axis| args.fresh(&format!("out{i}.d{axis}")))
                .map_err(|e| e.context(format_args!("output {i} of the branches")))?;
            let known = match (a.known, b.known) {
                (Some(Known::Dims(x)), Some(Known::Dims(y))) if x == y => Some(Known::Dims(x)),
                (Some(Known::Tensor(x)), Some(Known::Tensor(y))) if same_tensor(&x, &y) => {
                    Some(Known::Tensor(x))
                }
                _ => None,
            };
            Ok(Fact { ty, known })
        })
        .collect()
    }
}

impl Operator for If {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        self.infer_at(args, 0)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let taken = args.tensor(0)?.item::<bool>()?;
        let inputs = values_from(args, 1)?;
        if taken {
            args.env.run_graph(0, &self.then_branch, inputs)
        } else {
            args.env.run_graph(1, &self.else_branch, inputs)
        }
    }

    fn subgraphs(&self) -> Vec<&Arc<Graph>> {
        vec![&self.then_branch, &self.else_branch]
    }
}
