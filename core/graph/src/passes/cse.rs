//! Computing equal things once.

use super::{Diagnostics, Pass, Patch, is_pure};
use crate::{Graph, Node, ValueId};
use deepseek_tensor::{DType, Result, Tensor};
use std::collections::HashMap;

/// Constants up to this size are compared by content, larger ones by storage.
const COMPARE_BYTES: usize = 4096;

/// Merges pure nodes that apply equal operators to the same values, and equal constants. Equal
/// means equal in every bit of every attribute; a subgraph equals only itself.
pub struct CommonSubexpressions;

impl Pass for CommonSubexpressions {
    fn name(&self) -> &'static str {
        "cse"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let mut patch = Patch::new(graph);
        // What a value is replaced by, so that a chain of duplicates merges in one round.
        let mut first: HashMap<ValueId, ValueId> = HashMap::new();
        let mut seen: HashMap<ConstantKey, ValueId> = HashMap::new();
        for (&id, tensor) in graph.constants() {
            let Some(key) = constant_key(tensor) else { continue };
            let kept = *seen.entry(key).or_insert(id);
            if kept != id {
                patch.redirect(id, kept)?;
                first.insert(id, kept);
            }
        }
        let mut seen: HashMap<NodeKey, Vec<&Node>> = HashMap::new();
        for node in graph.nodes().iter().filter(|n| is_pure(&*n.op)) {
            let inputs = node.inputs.iter().map(|i| i.map(|i| *first.get(&i).unwrap_or(&i)));
            let alike = seen.entry((node.op.name(), inputs.collect())).or_default();
            let attrs = node.op.attrs();
            let twin = alike.iter().find(|twin| twin.op.attrs().same(&attrs));
            let Some(twin) = twin else {
                alike.push(node);
                continue;
            };
            if !covers(twin, node) {
                diagnostics.missed(self.name(), &node.name, || {
                    format!("merged with '{}': that has fewer outputs", twin.name)
                });
                continue;
            }
            for (old, kept) in node.outputs.iter().zip(&twin.outputs) {
                let (Some(old), Some(kept)) = (old, kept) else { continue };
                match patch.redirect(*old, *kept) {
                    Ok(()) => drop(first.insert(*old, *kept)),
                    Err(e) => {
                        diagnostics.missed(self.name(), &node.name, || e.message().to_owned());
                    }
                }
            }
            diagnostics.fired(self.name(), &node.name, || format!("merged with '{}'", twin.name));
        }
        Ok(if patch.is_empty() { Vec::new() } else { vec![patch] })
    }
}

type NodeKey = (&'static str, Vec<Option<ValueId>>);

/// Whether `twin` has every output that `node` has.
fn covers(twin: &Node, node: &Node) -> bool {
    let has = |i: usize| twin.outputs.get(i).is_some_and(Option::is_some);
    node.outputs.iter().enumerate().all(|(i, o)| o.is_none() || has(i))
}

/// Constants with equal keys are equal.
#[derive(PartialEq, Eq, Hash)]
enum ConstantKey {
    Content(DType, Vec<usize>, Vec<u8>),
    Storage(DType, Vec<usize>, Vec<isize>, usize),
}

fn constant_key(t: &Tensor) -> Option<ConstantKey> {
    if t.dtype() == DType::String {
        return None;
    }
    let shape = t.shape().to_vec();
    if t.size_bytes() > COMPARE_BYTES {
        let address = t.as_ptr().addr();
        return Some(ConstantKey::Storage(t.dtype(), shape, t.strides().to_vec(), address));
    }
    let bytes = t.to_contiguous().ok()?.as_bytes().ok()?.to_vec();
    Some(ConstantKey::Content(t.dtype(), shape, bytes))
}
