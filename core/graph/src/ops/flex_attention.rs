//! Attention whose scores and probabilities pass through subgraphs.

use super::attention::{Heads, check_heads, scores, softmax, weigh};
use super::util::{cast_from_f64, filled, to_f64};
use crate::{EvalArgs, Fact, Graph, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, num_elements};
use std::sync::Arc;

op! {
    /// `y = prob_mod(softmax(score_mod(q·kᵀ · scale))) · v` for each head. Inputs: `q`
    /// `[batch, q_heads, q_seq, dim]`, `k` `[batch, kv_heads, kv_seq, dim]`, `v`
    /// `[batch, kv_heads, kv_seq, v_dim]`, where `q_heads` is a multiple of `kv_heads`. Each
    /// subgraph maps one tensor `[batch, q_heads, q_seq, kv_seq]` of type `softmax_precision`
    /// (default `f32`, or `f64` for `f64` inputs) to another. `scale` defaults to `1/√dim`. The
    /// output has the type of `q`. (ONNX preview FlexAttention-1.)
    FlexAttention {
        prob_mod: Option<Arc<Graph>> = None,
        scale: Option<f32> = None,
        score_mod: Option<Arc<Graph>> = None,
        softmax_precision: Option<DType> = None,
    }
}

impl Operator for FlexAttention {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 3)?;
        let dtype = args.expect_same_dtype(0, 1)?;
        args.expect_same_dtype(0, 2)?;
        ensure!(dtype.is_float(), DTypeMismatch, "expected floats, got {dtype}; insert a Cast");
        for graph in self.subgraphs() {
            ensure!(
                graph.inputs().len() == 1 && graph.outputs().len() == 1,
                InvalidGraph,
                "subgraph '{}' must have one input and one output, has {} and {}",
                graph.name,
                graph.inputs().len(),
                graph.outputs().len()
            );
        }
        Ok(vec![match (args.shape(0), args.shape(2)) {
            (Some([b, h, s, _]), Some([_, _, _, d])) => {
                Fact::tensor(dtype, [b.clone(), h.clone(), s.clone(), d.clone()])
            }
            (Some(q), Some(v)) => {
                bail!(ShapeMismatch, "q and v need rank 4, got shapes {q:?} and {v:?}")
            }
            _ => Fact::unranked(dtype),
        }])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let dtype = args.tensor(0)?.dtype();
        let read = |i: usize, what: &str| -> Result<Heads> {
            let t = args.tensor(i)?;
            ensure!(t.rank() == 4, ShapeMismatch, "{what} needs rank 4, got {:?}", t.shape());
            Heads::new(t, None, what)
        };
        let (q, k, v) = (read(0, "q")?, read(1, "k")?, read(2, "v")?);
        check_heads(&q, &k, &v)?;
        let default = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let precision = self.softmax_precision.unwrap_or(default);
        let shape = [q.batch, q.heads, q.seq, k.seq];
        let scale = self.scale.map_or(1.0 / (q.dim as f64).sqrt(), f64::from);
        let mut s = filled(num_elements(&shape)?, 0.0)?;
        let rows = num_elements(&[q.batch, q.heads, q.seq])?;
        let head = |r: usize| (r / q.seq, k.group_of(r / q.seq, q.heads));
        for r in 0..rows {
            let (at, kv) = head(r);
            scores(q.row(at, r % q.seq), &k, kv, scale, &mut s[r * k.seq..][..k.seq]);
        }
        let modify = |which: usize, graph: &Option<Arc<Graph>>, s: Vec<f64>| -> Result<Vec<f64>> {
            let Some(graph) = graph else { return Ok(s) };
            let input = cast_from_f64(precision, &shape, &s)?;
            let out = args.env.run_graph(which, graph, vec![input.into()])?;
            let out: &Tensor = match out.first() {
                Some(v) => v.tensor()?,
                None => bail!(InvalidGraph, "subgraph '{}' has no output", graph.name),
            };
            ensure!(
                out.shape() == shape,
                ShapeMismatch,
                "subgraph '{}' must keep the shape {shape:?}, gave {:?}",
                graph.name,
                out.shape()
            );
            to_f64(out)
        };
        s = modify(0, &self.score_mod, s)?;
        if k.seq > 0 {
            s.chunks_exact_mut(k.seq).for_each(softmax);
        }
        s = modify(self.score_mod.is_some() as usize, &self.prob_mod, s)?;
        let mut y = filled(num_elements(&[rows, v.dim])?, 0.0)?;
        for r in 0..rows {
            let out = &mut y[r * v.dim..][..v.dim];
            weigh(&s[r * k.seq..][..k.seq], &v, head(r).1, out);
        }
        Ok(vec![cast_from_f64(dtype, &[q.batch, q.heads, q.seq, v.dim], &y)?.into()])
    }

    fn subgraphs(&self) -> Vec<&Arc<Graph>> {
        self.score_mod.iter().chain(&self.prob_mod).collect()
    }
}
