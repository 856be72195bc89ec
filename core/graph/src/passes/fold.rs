//! Computing what does not depend on the inputs.

use super::{Diagnostics, Pass, Patch, is_pure};
use crate::{Dim, EvalArgs, Fact, Graph, NoSubgraphs, Node, Value};
use deepseek_tensor::{DType, Result, Tensor};

/// Replaces values whose contents are known by constants: what shape inference found out, and
/// what pure nodes without subgraphs make of constants when the scalar reference runs them.
///
/// A node that fails to evaluate stays, so that the error arises where it would have: when it
/// runs.
pub struct FoldConstants {
    /// Bytes by which the outputs of a folded node may exceed its inputs. Keeps compressed weights
    /// compressed (Dequantize, Expand, Tile) and hostile files small.
    pub max_growth: usize,
    /// Elementary steps that one fold may take, estimated as the greater of the number of elements
    /// read and written and the geometric mean that a matrix product takes: `√(|a|·|b|·|y|)`.
    pub max_work: f64,
    /// Whether DequantizeLinear is what is folded, or everything else: what reads quantised weights
    /// wants them as they are, until nothing else can be done.
    pub dequantise: bool,
}

impl Default for FoldConstants {
    /// 64 KiB of growth, 2²⁸ steps (below a second), weights as they are.
    fn default() -> Self {
        FoldConstants { max_growth: 64 << 10, max_work: 268_435_456.0, dequantise: false }
    }
}

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let mut read = vec![false; graph.values().len()];
        for id in graph.nodes().iter().flat_map(|n| n.inputs.iter().flatten()) {
            read[id.index()] = true;
        }
        for (_, id) in graph.outputs() {
            read[id.index()] = true;
        }
        let mut patches = Vec::new();
        for node in graph.nodes() {
            let wanted = |slot: usize| {
                node.outputs.get(slot).copied().flatten().filter(|id| read[id.index()])
            };
            if (node.op.name() == "DequantizeLinear") != self.dequantise {
                continue;
            }
            if !is_pure(&*node.op) || (0..node.outputs.len()).all(|i| wanted(i).is_none()) {
                continue;
            }
            let contents = match self.contents(graph, node) {
                Ok(contents) => contents,
                Err(Some(why)) => {
                    diagnostics.missed(self.name(), &node.name, || why);
                    continue;
                }
                Err(None) => continue,
            };
            let mut patch = Patch::new(graph);
            for (slot, tensor) in contents.into_iter().enumerate() {
                let (Some(id), Some(tensor)) = (wanted(slot), tensor) else { continue };
                let what = (tensor.dtype(), tensor.shape().to_vec());
                let constant = patch.constant(&graph.value(id).name, tensor);
                if let Err(e) = patch.redirect(id, constant) {
                    diagnostics.missed(self.name(), &node.name, || e.message().to_owned());
                    continue;
                }
                diagnostics
                    .fired(self.name(), &node.name, || format!("constant {}{:?}", what.0, what.1));
            }
            if !patch.is_empty() {
                patches.push(patch);
            }
        }
        Ok(patches)
    }
}

impl FoldConstants {
    /// The contents of the outputs as far as they are constant; an error says why they are not
    /// computed, `None` that there is nothing to say.
    fn contents(&self, graph: &Graph, node: &Node) -> Result<Vec<Option<Tensor>>, Option<String>> {
        let facts: Vec<Option<&Fact>> =
            node.outputs.iter().map(|o| o.map(|id| graph.fact(id))).collect();
        let known: Vec<Option<Tensor>> =
            facts.iter().map(|f| f.and_then(Fact::as_constant)).collect();
        if known.iter().zip(&node.outputs).any(|(k, o)| k.is_some() && o.is_some()) {
            return Ok(known);
        }
        if !node.op.subgraphs().is_empty() {
            return Err(None);
        }
        let constant = |id| graph.fact(id).as_constant();
        let mut inputs: Vec<Option<Value>> = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            match input.map(|id| constant(id).ok_or(None)).transpose()? {
                Some(t) => inputs.push(Some(t.into())),
                None => inputs.push(None),
            }
        }
        self.check_size(&inputs, &facts)?;
        let args = EvalArgs { inputs: &inputs, outputs: node.outputs.len(), env: &NoSubgraphs };
        let results =
            node.op.eval(&args).map_err(|e| Some(format!("evaluated: {}", e.message())))?;
        results
            .into_iter()
            .zip(&facts)
            .map(|(value, fact)| match (value, fact) {
                (Value::Tensor(t), Some(fact)) => {
                    let value = t.to_contiguous().map_err(|e| Some(e.message().to_owned()))?;
                    let value = Value::Tensor(value);
                    match (fact.ty.admits(&value), value) {
                        (true, Value::Tensor(t)) => Ok(Some(t)),
                        (_, v) => Err(Some(format!("of the type {} but {}", fact.ty, v.ty()))),
                    }
                }
                _ => Ok(None),
            })
            .collect()
    }

    /// Fails if the node would create too many bytes or take too long.
    fn check_size(
        &self,
        inputs: &[Option<Value>],
        outputs: &[Option<&Fact>],
    ) -> Result<(), Option<String>> {
        let (mut bytes_in, mut elements, mut product) = (0.0, 0.0, 1.0);
        for tensor in inputs.iter().flatten().filter_map(|v| v.tensor().ok()) {
            let n = tensor.len() as f64;
            bytes_in += bytes(tensor.dtype(), n);
            elements += n;
            product *= n.max(1.0);
        }
        let mut bytes_out = 0.0;
        for fact in outputs.iter().flatten() {
            let dims =
                fact.shape().map(|s| s.iter().map(Dim::as_const).collect::<Option<Vec<_>>>());
            let (Some(Some(dims)), Ok(dtype)) = (dims, fact.dtype()) else {
                return Err(Some("computed: its size is not known before it runs".to_owned()));
            };
            let n = dims.iter().map(|&d| d as f64).product::<f64>();
            bytes_out += bytes(dtype, n);
            elements += n;
            product *= n.max(1.0);
        }
        if bytes_out > bytes_in + self.max_growth as f64 {
            return Err(Some(format!(
                "computed: {bytes_out} bytes from {bytes_in} grow by more than {}",
                self.max_growth
            )));
        }
        if f64::max(elements, product.sqrt()) > self.max_work {
            return Err(Some(format!("computed: it would take more than {} steps", self.max_work)));
        }
        Ok(())
    }
}

/// Bytes of `n` elements; a string counts as its header.
fn bytes(dtype: DType, n: f64) -> f64 {
    match dtype {
        DType::String => n * size_of::<String>() as f64,
        _ => n * dtype.bits() as f64 / 8.0,
    }
}
