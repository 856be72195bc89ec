//! The scalar reference: runs a graph node by node through [`Operator::eval`].
//!
//! It is the meaning of a graph, and the truth that plans and kernels are tested
//! against. It plans nothing: a value is dropped after its last reader.
//!
//! [`Operator::eval`]: crate::Operator::eval

use crate::{Bindings, DimError, Env, EvalArgs, Graph, Type, Value};
use deepseek_tensor::{Result, bail, ensure, err};

/// The environment of operators that have no subgraphs.
pub struct NoSubgraphs;

impl Env for NoSubgraphs {
    fn run_graph(&self, _: usize, graph: &Graph, _: Vec<Value>) -> Result<Vec<Value>> {
        bail!(Internal, "subgraph '{}' cannot run here", graph.name)
    }
}

struct Interpreter;

impl Env for Interpreter {
    fn run_graph(&self, _: usize, graph: &Graph, inputs: Vec<Value>) -> Result<Vec<Value>> {
        run(graph, inputs)
    }
}

/// Runs `graph` on `inputs`, in the order of [`Graph::inputs`], and returns the
/// outputs in order.
///
/// # Errors
/// `InvalidArgument` on a wrong number of inputs; `DTypeMismatch` or
/// `ShapeMismatch` if one does not fit its declaration; what a node reports, with
/// its name.
pub fn run(graph: &Graph, inputs: Vec<Value>) -> Result<Vec<Value>> {
    ensure!(
        inputs.len() == graph.inputs().len(),
        InvalidArgument,
        "graph '{}' takes {} inputs, got {}",
        graph.name,
        graph.inputs().len(),
        inputs.len()
    );
    bind_inputs(graph, inputs.iter())?;
    let mut readers = vec![0usize; graph.values().len()];
    for id in graph.nodes().iter().flat_map(|n| n.inputs.iter().flatten()) {
        readers[id.index()] += 1;
    }
    for (_, id) in graph.outputs() {
        readers[id.index()] += 1;
    }
    let mut live: Vec<Option<Value>> = vec![None; graph.values().len()];
    for (id, value) in graph.inputs().iter().zip(inputs) {
        live[id.index()] = Some(value);
    }
    for (id, tensor) in graph.constants() {
        live[id.index()] = Some(tensor.clone().into());
    }
    for node in graph.nodes() {
        let args: Vec<Option<Value>> =
            node.inputs.iter().map(|i| i.and_then(|i| live[i.index()].clone())).collect();
        for id in node.inputs.iter().flatten() {
            readers[id.index()] -= 1;
            if readers[id.index()] == 0 {
                live[id.index()] = None;
            }
        }
        let args = EvalArgs { inputs: &args, outputs: node.outputs.len(), env: &Interpreter };
        let results = node.op.eval(&args).map_err(|e| e.at_node(&node.name))?;
        for (id, value) in node.outputs.iter().zip(results) {
            if let Some(id) = id
                && readers[id.index()] > 0
            {
                live[id.index()] = Some(value);
            }
        }
    }
    graph
        .outputs()
        .iter()
        .map(|(name, id)| {
            live[id.index()]
                .clone()
                .ok_or_else(|| err!(Internal, "no node produced the output '{name}'"))
        })
        .collect()
}

/// Checks inputs against their declared types and solves for the symbols.
///
/// # Errors
/// `DTypeMismatch` or `ShapeMismatch` naming the input, both sides and, for a
/// symbol, its bounds.
pub fn bind_inputs<'a>(graph: &Graph, inputs: impl Iterator<Item = &'a Value>) -> Result<Bindings> {
    let mut bindings = Bindings::default();
    let mut deferred = Vec::new();
    for (id, value) in graph.inputs().iter().zip(inputs) {
        let def = graph.value(*id);
        let (want, got) = (&def.fact.ty, value.ty());
        match (want, value) {
            (Type::Tensor(dtype, _), Value::Tensor(t)) if *dtype != t.dtype() => bail!(
                DTypeMismatch,
                "input '{}' takes {want}, got {got}; convert the elements to {dtype}",
                def.name
            ),
            _ if !want.admits(value) => {
                bail!(ShapeMismatch, "input '{}' takes {want}, got {got}", def.name)
            }
            (Type::Tensor(_, Some(shape)), Value::Tensor(t)) => {
                for (axis, (dim, &extent)) in shape.iter().zip(t.shape()).enumerate() {
                    if !dim.is_const() {
                        deferred.push((def, axis, dim, extent as i64));
                    }
                }
            }
            _ => {}
        }
    }
    // Lone symbols first, so that `2*seq+1` is checked rather than solved.
    deferred.sort_by_key(|(_, _, dim, _)| dim.as_symbol().is_none());
    for (def, axis, dim, extent) in &deferred {
        bindings
            .unify(dim, *extent)
            .map_err(|e| err!(ShapeMismatch, "input '{}' axis {axis} ({dim}): {e}", def.name))?;
    }
    graph.bounds().check(&bindings).map_err(|e| {
        let DimError::OutOfBounds { symbol, .. } = &e else { return err!(ShapeMismatch, "{e}") };
        match deferred.iter().find(|(_, _, dim, _)| dim.symbols().contains(symbol)) {
            Some((def, axis, dim, _)) => {
                err!(ShapeMismatch, "input '{}' axis {axis} ({dim}): {e}", def.name)
            }
            None => err!(ShapeMismatch, "{e}"),
        }
    })?;
    Ok(bindings)
}
