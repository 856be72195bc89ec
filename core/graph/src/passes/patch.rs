//! A graph edit as a value.

use crate::graph::infer_facts;
use crate::{Dim, Fact, Graph, Node, Operator, Symbol, Type, ValueId};
use deepseek_tensor::{Result, Tensor, bail, ensure, err};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A value that a patch may read: one of the graph, or one that the patch makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// A value of the graph.
    Old(ValueId),
    /// New value number `n` of the patch.
    New(usize),
}

impl From<ValueId> for Wire {
    fn from(id: ValueId) -> Self {
        Wire::Old(id)
    }
}

/// An edit of one graph: nodes and constants to add, values to read in place of others, nodes to
/// remove. Facts of new values are inferred as they are added, so a shape that does not fit is
/// found by the rule that made it. Nothing changes until [`apply`](super::apply).
///
/// New nodes read old values as they are, even where the same patch redirects them: to put a node
/// behind `x`, add it on `x` and redirect `x` to it.
#[derive(Clone)]
pub struct Patch<'g> {
    pub(super) graph: &'g Graph,
    pub(super) values: Vec<NewValue>,
    pub(super) nodes: Vec<NewNode>,
    pub(super) redirects: BTreeMap<ValueId, Wire>,
    pub(super) removed_nodes: BTreeSet<usize>,
    pub(super) removed_constants: BTreeSet<ValueId>,
    /// Symbols for extents that only new nodes determine.
    pub(super) fresh: BTreeSet<Symbol>,
}

#[derive(Clone)]
pub(super) struct NewValue {
    pub(super) name: String,
    pub(super) fact: Fact,
    pub(super) source: Source,
}

/// Where a new value comes from.
#[derive(Clone)]
pub(super) enum Source {
    Constant(Tensor),
    /// New node of this number.
    Node(usize),
}

#[derive(Clone)]
pub(super) struct NewNode {
    pub(super) name: String,
    pub(super) op: Arc<dyn Operator>,
    pub(super) inputs: Vec<Option<Wire>>,
    /// Numbers of the new values it writes.
    pub(super) outputs: Vec<Option<usize>>,
}

impl<'g> Patch<'g> {
    /// An empty edit of `graph`.
    pub fn new(graph: &'g Graph) -> Self {
        Patch {
            graph,
            values: Vec::new(),
            nodes: Vec::new(),
            redirects: BTreeMap::new(),
            removed_nodes: BTreeSet::new(),
            removed_constants: BTreeSet::new(),
            fresh: BTreeSet::new(),
        }
    }

    /// The graph that this edits.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// Whether applying it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.redirects.is_empty()
            && self.removed_nodes.is_empty()
            && self.removed_constants.is_empty()
    }

    /// What is known about a value.
    ///
    /// # Errors
    /// `InvalidArgument` if neither the graph nor this patch has it.
    pub fn fact(&self, wire: impl Into<Wire>) -> Result<&Fact> {
        match wire.into() {
            Wire::Old(id) => self.graph.values().get(id.index()).map(|v| &v.fact),
            Wire::New(n) => self.values.get(n).map(|v| &v.fact),
        }
        .ok_or_else(|| err!(InvalidArgument, "a patch refers to a value of another graph"))
    }

    /// Adds a constant; `name` is made unique when the patch is applied.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> Wire {
        let fact = Fact::constant(tensor.clone());
        let source = Source::Constant(tensor);
        self.values.push(NewValue { name: name.to_owned(), fact, source });
        Wire::New(self.values.len() - 1)
    }

    /// Adds a node with one output.
    ///
    /// # Errors
    /// As [`Patch::add_node`].
    pub fn add(&mut self, name: &str, op: impl Operator, inputs: &[Wire]) -> Result<Wire> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let out = self.add_node(name, Arc::new(op), &inputs, &[true])?;
        Ok(out[0].expect("the output was asked for"))
    }

    /// Adds a node; `name` is made unique when the patch is applied, and names the outputs.
    /// `outputs` tells which of them are wanted.
    ///
    /// # Errors
    /// What the operator's shape rule finds, with the node's name; `InvalidGraph` if it has fewer
    /// outputs; `InvalidArgument` if an input is neither in the graph nor in this patch.
    pub fn add_node(
        &mut self,
        name: &str,
        op: Arc<dyn Operator>,
        inputs: &[Option<Wire>],
        outputs: &[bool],
    ) -> Result<Vec<Option<Wire>>> {
        let (facts, fresh) =
            self.infer(name, &*op, inputs, outputs.len()).map_err(|e| e.at_node(name))?;
        self.fresh.extend(fresh);
        let node = self.nodes.len();
        let mut ids = Vec::with_capacity(outputs.len());
        for (i, (&wanted, fact)) in outputs.iter().zip(facts).enumerate() {
            ids.push(wanted.then_some(self.values.len()));
            if wanted {
                let name = if i == 0 { name.to_owned() } else { format!("{name}.{i}") };
                self.values.push(NewValue { name, fact, source: Source::Node(node) });
            }
        }
        let name = name.to_owned();
        self.nodes.push(NewNode { name, op, inputs: inputs.to_vec(), outputs: ids.clone() });
        Ok(ids.into_iter().map(|id| id.map(Wire::New)).collect())
    }

    /// Facts of a new node's outputs, and the symbols that it introduces: none that the graph or
    /// this patch already uses.
    fn infer(
        &self,
        name: &str,
        op: &dyn Operator,
        inputs: &[Option<Wire>],
        outputs: usize,
    ) -> Result<(Vec<Fact>, BTreeSet<Symbol>)> {
        let inputs = inputs
            .iter()
            .map(|i| i.map(|w| self.fact(w)).transpose())
            .collect::<Result<Vec<_>>>()?;
        let mut used = None;
        let mut scope = name.to_owned();
        loop {
            let facts = infer_facts(&scope, op, &inputs, outputs)?;
            let prefix = format!("{scope}.");
            let mut fresh = symbols(&facts);
            fresh.retain(|s| s.name().starts_with(&prefix));
            let clash = !fresh.is_empty() && {
                let used = used
                    .get_or_insert_with(|| symbols(self.graph.values().iter().map(|v| &v.fact)));
                !fresh.is_disjoint(used) || !fresh.is_disjoint(&self.fresh)
            };
            if !clash {
                return Ok((facts, fresh));
            }
            scope.push('~');
        }
    }

    /// Lets all readers of `from`, graph outputs included, read `to`, which must hold the same
    /// value. A node all of whose outputs are redirected or unread goes away with this.
    ///
    /// # Errors
    /// `InvalidArgument` if a value is neither in the graph nor in this patch, or `from` is
    /// redirected already; `DTypeMismatch` or `ShapeMismatch` if the types contradict each other,
    /// or the type that a graph output declares would become less precise.
    pub fn redirect(&mut self, from: ValueId, to: impl Into<Wire>) -> Result<()> {
        let to = to.into();
        let (a, b) = (&self.fact(from)?.ty, &self.fact(to)?.ty);
        let name = &self.graph.value(from).name;
        ensure!(
            to != Wire::Old(from) && !self.redirects.contains_key(&from),
            InvalidArgument,
            "value '{name}' is redirected twice or to itself"
        );
        if !compatible(a, b) {
            bail!(
                ShapeMismatch,
                "value '{name}' of type {a} cannot be replaced by one of type {b}"
            );
        }
        if let Wire::Old(to) = to
            && self.graph.inputs().contains(&to)
            && self.graph.outputs().iter().any(|(_, v)| *v == from)
        {
            ensure!(
                a == b,
                ShapeMismatch,
                "output '{name}' of type {a} would get the type {b} of an input"
            );
        }
        self.redirects.insert(from, to);
        Ok(())
    }

    /// Replaces the operator of `node`, which keeps its inputs and outputs.
    ///
    /// # Errors
    /// As [`Patch::add_node`] and [`Patch::redirect`].
    pub fn replace_op(&mut self, node: &Node, op: Arc<dyn Operator>) -> Result<()> {
        let inputs: Vec<_> = node.inputs.iter().map(|i| i.map(Wire::Old)).collect();
        let wanted: Vec<bool> = node.outputs.iter().map(Option::is_some).collect();
        let new = self.add_node(&node.name, op, &inputs, &wanted)?;
        for (old, new) in node.outputs.iter().zip(new) {
            if let (Some(old), Some(new)) = (old, new) {
                self.redirect(*old, new)?;
            }
        }
        Ok(())
    }

    /// Removes node number `index` of [`Graph::nodes`]; [`apply`](super::apply) checks that its
    /// outputs are not read any more.
    pub fn remove_node(&mut self, index: usize) {
        self.removed_nodes.insert(index);
    }

    /// Removes a constant; [`apply`](super::apply) checks that it is not read any more.
    pub fn remove_constant(&mut self, value: ValueId) {
        self.removed_constants.insert(value);
    }
}

/// Symbols in the extents of tensors.
fn symbols<'a>(facts: impl IntoIterator<Item = &'a Fact>) -> BTreeSet<Symbol> {
    facts.into_iter().filter_map(Fact::shape).flatten().flat_map(Dim::symbols).collect()
}

/// Whether one value can have both types: element types and known ranks agree, and no two
/// constant extents differ.
fn compatible(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Tensor(d, s), Type::Tensor(e, t)) => {
            d == e
                && match (s, t) {
                    (Some(s), Some(t)) => s.len() == t.len() && s.iter().zip(t).all(may_equal),
                    _ => true,
                }
        }
        (Type::Sequence(a), Type::Sequence(b)) | (Type::Optional(a), Type::Optional(b)) => {
            compatible(a, b)
        }
        _ => false,
    }
}

fn may_equal((a, b): (&Dim, &Dim)) -> bool {
    !matches!((a.as_const(), b.as_const()), (Some(a), Some(b)) if a != b)
}
