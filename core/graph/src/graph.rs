//! The graph: values, nodes in order, constants.
//!
//! A graph is built front to back: a node may only read values that exist, so
//! the node list is a topological order by construction and cycles cannot be
//! written down. Each node's facts are inferred as it is added, so an error names
//! the first node that does not fit. Values of an outer graph that a subgraph
//! reads are passed to it as explicit inputs; there is no capture.

use crate::{Bounds, Dim, EvalArgs, Fact, InferArgs, Known, NoSubgraphs, Operator, Type};
use deepseek_tensor::{Result, Tensor, bail, ensure, err};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Constant-folded contents larger than this many elements are left to the
/// constant-folding pass; inference only needs shapes and other small tensors.
const INFER_FOLD_LIMIT: usize = 1024;

/// Index of a value in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

impl ValueId {
    /// Position in [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A value's name and what is known about it.
#[derive(Clone, Debug)]
pub struct ValueDef {
    /// Unique in its graph.
    pub name: String,
    /// Type and known contents.
    pub fact: Fact,
}

/// An operator applied to values.
#[derive(Clone, Debug)]
pub struct Node {
    /// Path for messages and profiles, unique in its graph.
    pub name: String,
    /// What is computed.
    pub op: Arc<dyn Operator>,
    /// Values read; `None` where an optional input is absent.
    pub inputs: Vec<Option<ValueId>>,
    /// Values written; `None` where an optional output is not wanted.
    pub outputs: Vec<Option<ValueId>>,
}

/// A dataflow graph over typed values.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Name, for messages.
    pub name: String,
    values: Vec<ValueDef>,
    nodes: Vec<Node>,
    inputs: Vec<ValueId>,
    outputs: Vec<(String, ValueId)>,
    constants: BTreeMap<ValueId, Tensor>,
    bounds: Bounds,
    names: HashMap<String, ValueId>,
    node_names: HashSet<String>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Adds an input.
    ///
    /// # Errors
    /// `InvalidGraph` if the name is taken.
    pub fn add_input(&mut self, name: &str, ty: Type) -> Result<ValueId> {
        let id = self.new_value(name, Fact { ty, known: None })?;
        self.inputs.push(id);
        Ok(id)
    }

    /// Adds a constant.
    ///
    /// # Errors
    /// `InvalidGraph` if the name is taken.
    pub fn add_constant(&mut self, name: &str, tensor: Tensor) -> Result<ValueId> {
        let id = self.new_value(name, Fact::constant(tensor.clone()))?;
        self.constants.insert(id, tensor);
        Ok(id)
    }

    /// Adds a node with one output named after it, and returns that output.
    ///
    /// # Errors
    /// As [`Graph::add_node`].
    pub fn add(&mut self, name: &str, op: impl Operator, inputs: &[ValueId]) -> Result<ValueId> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let name = self.unique_name(name);
        let out = self.add_node(&name, Arc::new(op), &inputs, &[Some(&name)])?;
        Ok(out[0].expect("the output was asked for"))
    }

    /// Adds a node: infers the facts of its outputs and names them. A name of
    /// `None` in `outputs` marks an optional output that is not wanted. If the node
    /// name is empty or taken, a unique one is derived.
    ///
    /// # Errors
    /// What the operator's shape rule finds, with the node's name; `InvalidGraph`
    /// if an output name is taken, an input does not exist, or the operator has
    /// fewer outputs.
    pub fn add_node(
        &mut self,
        name: &str,
        op: Arc<dyn Operator>,
        inputs: &[Option<ValueId>],
        outputs: &[Option<&str>],
    ) -> Result<Vec<Option<ValueId>>> {
        let base = if name.is_empty() { op.name() } else { name };
        let name = unique(base, |n| self.node_names.contains(n));
        let facts = self.infer(&name, &*op, inputs, outputs.len()).map_err(|e| e.at_node(&name))?;
        let ids = outputs
            .iter()
            .zip(facts)
            .map(|(o, fact)| o.map(|n| self.new_value(n, fact)).transpose())
            .collect::<Result<Vec<_>>>()
            .map_err(|e| e.at_node(&name))?;
        self.node_names.insert(name.clone());
        self.nodes.push(Node { name, op, inputs: inputs.to_vec(), outputs: ids.clone() });
        Ok(ids)
    }

    /// Names `value` as a graph output. One value may be several outputs.
    ///
    /// # Errors
    /// `InvalidGraph` if the output name is taken or the value does not exist.
    pub fn add_output(&mut self, name: &str, value: ValueId) -> Result<()> {
        ensure!(
            value.index() < self.values.len(),
            InvalidGraph,
            "output '{name}' refers to a value of another graph"
        );
        ensure!(
            self.outputs.iter().all(|(n, _)| n != name),
            InvalidGraph,
            "graph '{}' has two outputs named '{name}'",
            self.name
        );
        self.outputs.push((name.to_owned(), value));
        Ok(())
    }

    /// Declares that a symbol lies between `min` and `max`, both included.
    ///
    /// # Errors
    /// `InvalidArgument` if the range is empty.
    pub fn set_bound(&mut self, symbol: &str, min: i64, max: Option<i64>) -> Result<()> {
        let set = self.bounds.set(symbol, min, max);
        set.map_err(|e| err!(InvalidArgument, "bounds of '{symbol}': {e}"))
    }

    /// Takes over the bounds of another graph's symbols.
    pub(crate) fn copy_bounds(&mut self, other: &Graph) {
        self.bounds = other.bounds.clone();
    }

    /// Replaces what is known about a value's type, e.g. by a declaration in a file
    /// that says more than inference found. Contents that were known are kept.
    pub fn refine_type(&mut self, value: ValueId, ty: Type) {
        self.values[value.index()].fact.ty = ty;
    }

    /// A value name derived from `base` that is not taken.
    pub fn unique_name(&self, base: &str) -> String {
        unique(base, |n| self.names.contains_key(n))
    }

    /// All values.
    pub fn values(&self) -> &[ValueDef] {
        &self.values
    }

    /// All nodes, each after the nodes it reads from.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The inputs, in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The outputs and their names, in order.
    pub fn outputs(&self) -> &[(String, ValueId)] {
        &self.outputs
    }

    /// The constants.
    pub fn constants(&self) -> &BTreeMap<ValueId, Tensor> {
        &self.constants
    }

    /// The constant behind a value, if it is one.
    pub fn constant(&self, value: ValueId) -> Option<&Tensor> {
        self.constants.get(&value)
    }

    /// Declared bounds of the symbols.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Name and fact of a value.
    pub fn value(&self, id: ValueId) -> &ValueDef {
        &self.values[id.index()]
    }

    /// What is known about a value.
    pub fn fact(&self, id: ValueId) -> &Fact {
        &self.values[id.index()].fact
    }

    /// The value named `name`.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// Adds a node whose output names and facts the caller vouches for: nothing is inferred.
    pub(crate) fn push_node(
        &mut self,
        name: String,
        op: Arc<dyn Operator>,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<(String, Fact)>>,
    ) -> Result<Vec<Option<ValueId>>> {
        let outputs = outputs
            .into_iter()
            .map(|o| o.map(|(name, fact)| self.new_value(&name, fact)).transpose())
            .collect::<Result<Vec<_>>>()?;
        self.node_names.insert(name.clone());
        self.nodes.push(Node { name, op, inputs, outputs: outputs.clone() });
        Ok(outputs)
    }

    /// Runs the shape rule of `op` over the facts of `inputs`, and folds small
    /// constant results so that shape arithmetic stays known.
    pub(crate) fn infer(
        &self,
        node: &str,
        op: &dyn Operator,
        inputs: &[Option<ValueId>],
        outputs: usize,
    ) -> Result<Vec<Fact>> {
        let facts = inputs
            .iter()
            .map(|i| match i {
                Some(i) if i.index() >= self.values.len() => {
                    Err(err!(InvalidGraph, "an input belongs to another graph"))
                }
                i => Ok(i.map(|i| self.fact(i))),
            })
            .collect::<Result<Vec<_>>>()?;
        infer_facts(node, op, &facts, outputs)
    }

    fn new_value(&mut self, name: &str, fact: Fact) -> Result<ValueId> {
        ensure!(
            !self.names.contains_key(name),
            InvalidGraph,
            "graph '{}' defines the value '{name}' twice",
            self.name
        );
        let id = ValueId(
            u32::try_from(self.values.len())
                .map_err(|_| err!(Unsupported, "a graph of more than 2^32 values"))?,
        );
        self.names.insert(name.to_owned(), id);
        self.values.push(ValueDef { name: name.to_owned(), fact });
        Ok(id)
    }
}

/// Runs the shape rule of `op` over facts and folds small constant results.
pub(crate) fn infer_facts(
    node: &str,
    op: &dyn Operator,
    facts: &[Option<&Fact>],
    outputs: usize,
) -> Result<Vec<Fact>> {
    let mut inferred = op.infer(&InferArgs { node, inputs: facts, outputs })?;
    if inferred.len() < outputs {
        bail!(
            InvalidGraph,
            "operator {} has at most {} outputs, the node asks for {outputs}",
            op.name(),
            inferred.len()
        );
    }
    inferred.truncate(outputs);
    if inferred.iter().any(|f| f.known.is_none()) {
        fold_small(op, facts, &mut inferred);
    }
    Ok(inferred)
}

/// Evaluates a pure operator on small constants so that its contents are known.
/// Failure to evaluate is not an error here: the node reports it when it runs.
pub(crate) fn fold_small(op: &dyn Operator, inputs: &[Option<&Fact>], outputs: &mut [Fact]) {
    let small = |f: &Fact| {
        f.shape().is_some_and(|s| {
            s.iter()
                .try_fold(1i64, |n, d| n.checked_mul(d.as_const()?))
                .is_some_and(|n| n <= INFER_FOLD_LIMIT as i64)
        })
    };
    let constant = |f: &&Fact| if small(f) { f.as_constant() } else { None };
    if !op.is_pure() || !op.subgraphs().is_empty() || !outputs.iter().all(small) {
        return;
    }
    let mut values = Vec::with_capacity(inputs.len());
    for input in inputs {
        match input {
            None => values.push(None),
            Some(f) => match constant(f) {
                Some(t) => values.push(Some(t.into())),
                None => return,
            },
        }
    }
    let args = EvalArgs { inputs: &values, outputs: outputs.len(), env: &NoSubgraphs };
    if let Ok(results) = op.eval(&args) {
        for (fact, value) in outputs.iter_mut().zip(results) {
            if let crate::Value::Tensor(t) = value
                && fact.ty.admits(&crate::Value::Tensor(t.clone()))
            {
                let shape: Vec<Dim> = t.shape().iter().map(|&d| Dim::from(d)).collect();
                fact.ty = Type::tensor(t.dtype(), shape);
                fact.known = Some(Known::Tensor(t));
            }
        }
    }
}

fn unique(base: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(base) {
        return base.to_owned();
    }
    (1u64..).map(|i| format!("{base}_{i}")).find(|n| !taken(n)).expect("some number is free")
}
