//! Operators that run subgraphs: If, Loop, Scan, SequenceMap, RowBlocks,
//! RaggedBlocks.
//!
//! A subgraph captures nothing: the values of the outer graph that it reads are inputs of
//! the node, after its own ones, and of the subgraph, in the same order. Shapes flow
//! through: the shape rule runs the subgraph's rules again over the facts at hand, so a
//! body that was written for any batch knows this one. What a loop carries from one
//! iteration to the next is generalised until a further iteration adds nothing.

mod branch;
mod iterate;
mod map;
mod ragged_blocks;
mod row_blocks;
mod scan;
#[cfg(test)]
mod tests;

pub use branch::If;
pub use iterate::Loop;
pub use map::SequenceMap;
pub use ragged_blocks::{Counts, RaggedBlocks, SequenceBlock};
pub use row_blocks::RowBlocks;
pub use scan::Scan;

use super::util::{Sink, Source, collect_symbols, erase_shape, join, replace_extents};
use crate::graph::fold_small;
use crate::{Dim, Fact, Graph, InferArgs, Known, Operator, Symbol, Type, Value};
use deepseek_tensor::{Dims, Result, Tensor, bail, ensure, err};
use std::collections::BTreeSet;

/// Deepest nesting of subgraphs that shape rules follow.
const MAX_NESTING: usize = 32;

/// Nesting below which what a loop carries is generalised step by step. Deeper loops
/// assume nothing at once, so that nested loops cost no power of their depth.
const EXACT_NESTING: usize = 2;

/// Passes over a body until a loop-carried type must stand.
const MAX_PASSES: usize = 4;

/// Shape rule of `op` inside `depth` subgraphs.
fn infer_nested(op: &dyn Operator, args: &InferArgs, depth: usize) -> Result<Vec<Fact>> {
    if let Some(op) = op.downcast::<If>() {
        op.infer_at(args, depth)
    } else if let Some(op) = op.downcast::<Loop>() {
        op.infer_at(args, depth)
    } else if let Some(op) = op.downcast::<Scan>() {
        op.infer_at(args, depth)
    } else if let Some(op) = op.downcast::<SequenceMap>() {
        op.infer_at(args, depth)
    } else if let Some(op) = op.downcast::<RowBlocks>() {
        op.infer_at(args, depth)
    } else if let Some(op) = op.downcast::<RaggedBlocks>() {
        op.infer_at(args, depth)
    } else {
        op.infer(args)
    }
}

/// What is known about the outputs of `graph` given its inputs. Symbols that its nodes
/// make up are named under `path`.
fn infer_graph(graph: &Graph, inputs: Vec<Fact>, path: &str, depth: usize) -> Result<Vec<Fact>> {
    ensure!(
        depth <= MAX_NESTING,
        Unsupported,
        "subgraphs nest deeper than {MAX_NESTING}; flatten the model"
    );
    ensure!(
        inputs.len() == graph.inputs().len(),
        InvalidGraph,
        "subgraph '{}' takes {} inputs, the node passes {}",
        graph.name,
        graph.inputs().len(),
        inputs.len()
    );
    let mut facts: Vec<Option<Fact>> = vec![None; graph.values().len()];
    for (&id, fact) in graph.inputs().iter().zip(inputs) {
        let declared = graph.value(id);
        join(&erase_shape(&declared.fact.ty), &erase_shape(&fact.ty), &|_| Dim::from(0i64))
            .map_err(|e| e.context(format_args!("subgraph input '{}'", declared.name)))?;
        facts[id.index()] = Some(fact);
    }
    for (id, tensor) in graph.constants() {
        facts[id.index()] = Some(Fact::constant(tensor.clone()));
    }
    for node in graph.nodes() {
        let name = format!("{path}/{}", node.name);
        let known: Vec<Option<&Fact>> =
            node.inputs.iter().map(|i| i.and_then(|i| facts[i.index()].as_ref())).collect();
        let args = InferArgs { node: &name, inputs: &known, outputs: node.outputs.len() };
        let mut out = infer_nested(&*node.op, &args, depth).map_err(|e| e.at_node(&node.name))?;
        out.truncate(node.outputs.len());
        if out.iter().any(|f| f.known.is_none()) {
            fold_small(&*node.op, &known, &mut out);
        }
        for (id, fact) in node.outputs.iter().zip(out) {
            if let Some(id) = id {
                facts[id.index()] = Some(or_declared(fact, graph.fact(*id), &name));
            }
        }
    }
    graph
        .outputs()
        .iter()
        .map(|(name, id)| {
            let fact = facts[id.index()].clone();
            fact.ok_or_else(|| err!(InvalidGraph, "nothing produces the output '{name}'"))
        })
        .collect()
}

/// `fact`, with the rank and constant extents of `declared` where its own rank is unknown.
fn or_declared(fact: Fact, declared: &Fact, path: &str) -> Fact {
    match (&fact.ty, &declared.ty) {
        (Type::Tensor(x, None), Type::Tensor(y, Some(shape))) if x == y => {
            let extent = |(i, d): (usize, &Dim)| match d.is_const() {
                true => d.clone(),
                false => Dim::sym(&format!("{path}.d{i}")),
            };
            Fact::tensor(*x, shape.iter().enumerate().map(extent).collect::<Vec<_>>())
        }
        _ => fact,
    }
}

/// Facts of the inputs from `from` on, all of which must be present.
fn facts_from(args: &InferArgs, from: usize) -> Result<Vec<Fact>> {
    (from..args.len()).map(|i| args.fact(i).cloned()).collect()
}

/// Symbols that mean something outside the node.
fn outer_symbols(args: &InferArgs) -> BTreeSet<Symbol> {
    let mut symbols = BTreeSet::new();
    for fact in args.inputs.iter().flatten() {
        collect_symbols(&fact.ty, &mut symbols);
        if let Some(Known::Dims(dims)) = &fact.known {
            symbols.extend(dims.iter().flat_map(Dim::symbols));
        }
    }
    symbols
}

/// `ty` as output `index` of the node: extents that depend on the iteration are fresh.
fn as_output(ty: &Type, outer: &BTreeSet<Symbol>, args: &InferArgs, index: usize) -> Type {
    let extent = |axis: usize| args.fresh(&format!("out{index}.d{axis}"));
    replace_extents(ty, &|s| !outer.contains(s), &extent)
}

/// Types of what an iteration carries to the next, and the body's output facts for them.
/// `run` infers one iteration from carried facts; its outputs hold the carried values
/// from `first` on.
fn settle(
    args: &InferArgs,
    initial: Vec<Type>,
    first: usize,
    depth: usize,
    run: impl Fn(Vec<Fact>) -> Result<Vec<Fact>>,
) -> Result<(Vec<Type>, Vec<Fact>)> {
    let mut state = initial;
    if depth >= EXACT_NESTING {
        state = state.iter().map(erase_shape).collect();
    }
    for pass in 0.. {
        let facts = state.iter().map(|ty| Fact { ty: ty.clone(), known: None }).collect();
        let out = run(facts)?;
        let mut next = Vec::with_capacity(state.len());
        for (i, (old, new)) in state.iter().zip(&out[first..]).enumerate() {
            let extent = |axis: usize| args.fresh(&format!("carried{i}.d{axis}"));
            let joined = join(old, &new.ty, &extent)
                .map_err(|e| e.context(format_args!("carried value {i}")))?;
            next.push(joined);
        }
        if next == state {
            return Ok((state, out));
        }
        state = if pass + 2 < MAX_PASSES { next } else { next.iter().map(erase_shape).collect() };
        ensure!(pass < 2 * MAX_PASSES, Internal, "the types that the loop carries do not settle");
    }
    bail!(Internal, "unreachable: the passes above end in a result or an error")
}

/// Fails unless the body has at least `need` outputs.
fn expect_outputs(body: &Graph, need: usize) -> Result<usize> {
    let n = body.outputs().len();
    n.checked_sub(need).ok_or_else(|| {
        err!(InvalidGraph, "body '{}' has {n} outputs, needs {need} or more", body.name)
    })
}

/// A count attribute.
fn count(value: i64, what: &str) -> Result<usize> {
    usize::try_from(value)
        .map_err(|_| err!(InvalidGraph, "the number of {what} is {value}, which is negative"))
}

/// The values one after the other along a new leading axis. `template` says type and
/// extents where there are none.
fn stack(parts: &[Tensor], template: &Fact) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        // An extent that no iteration has determined is 0, as the leading one.
        let shape: Dims = template
            .shape()
            .unwrap_or_default()
            .iter()
            .map(|d| d.as_const().and_then(|n| usize::try_from(n).ok()).unwrap_or(0))
            .collect();
        let shape: Dims = std::iter::once(0).chain(shape).collect();
        return Tensor::zeros(template.dtype()?, &shape);
    };
    let shape: Dims = std::iter::once(parts.len()).chain(first.shape().iter().copied()).collect();
    let mut sink = Sink::zeros(first.dtype(), &shape)?;
    for (i, part) in parts.iter().enumerate() {
        ensure!(
            part.shape() == first.shape(),
            ShapeMismatch,
            "iteration {i} yields shape {:?}, iteration 0 {:?}; they cannot be stacked",
            part.shape(),
            first.shape()
        );
        sink.copy(i * first.len(), &Source::of(part)?, 0, part.len())?;
    }
    sink.finish()
}

/// The fact of `body`'s output `index`, its symbols replaced by what `inputs` say.
fn bound_output(body: &Graph, index: usize, inputs: &[Value]) -> Fact {
    let mut bindings = crate::Bindings::default();
    for (id, value) in body.inputs().iter().zip(inputs) {
        if let (Some(shape), Value::Tensor(t)) = (body.fact(*id).shape(), value) {
            for (d, &n) in shape.iter().zip(t.shape()) {
                // An extent that contradicts another is reported when the body runs.
                let _ = bindings.unify(d, n as i64);
            }
        }
    }
    let fact = body.fact(body.outputs()[index].1);
    match &fact.ty {
        Type::Tensor(dtype, Some(shape)) => {
            let extent = |d: &Dim| d.eval(&bindings).map_or_else(|_| d.clone(), Dim::from);
            Fact::tensor(*dtype, shape.iter().map(extent).collect::<Vec<_>>())
        }
        ty => Fact { ty: ty.clone(), known: None },
    }
}

/// Values of the inputs from `from` on, all of which must be present.
fn values_from(args: &crate::EvalArgs, from: usize) -> Result<Vec<Value>> {
    (from..args.len()).map(|i| args.value(i).cloned()).collect()
}
