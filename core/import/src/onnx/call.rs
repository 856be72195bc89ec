//! One node on its way into the graph: what importer functions work with.

use super::attrs::NodeAttrs;
use super::import::{Frame, Importer};
use super::proto::{GraphProto, NodeProto, TypeProto};
use deepseek_graph::ops::util::cast_from_f64;
use deepseek_graph::{AttrValue, Attrs, Dim, Fact, Graph, ValueId, build_op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err};
use std::collections::BTreeMap;

/// The values of a node's outputs, one for each name in the file; `None` where the
/// name is empty.
pub(super) type Outputs = Vec<Option<ValueId>>;

/// Imports one version of one operator.
pub(super) type Import = fn(&mut Call) -> Result<Outputs>;

/// A node being imported.
pub(super) struct Call<'a, 'm, 'n> {
    /// The import in progress.
    pub importer: &'a mut Importer<'m>,
    /// The graph being built.
    pub g: &'a mut Graph,
    /// Names in force.
    pub frame: &'a Frame,
    /// The node as stored.
    pub node: &'n NodeProto,
    /// Name for messages and for the nodes made from this one.
    pub label: String,
    /// Version of the node's operator set.
    pub version: i64,
    /// Inputs, trailing absent ones removed.
    pub inputs: Vec<Option<ValueId>>,
    /// Attributes not taken yet.
    pub attrs: Attrs,
    /// Subgraphs.
    pub graphs: BTreeMap<&'n str, &'n GraphProto>,
    /// The type attribute, for the operators that have one.
    pub ty: Option<&'n TypeProto>,
}

impl<'a, 'm, 'n> Call<'a, 'm, 'n> {
    #[expect(clippy::too_many_arguments, reason = "called in one place, with names")]
    pub fn new(
        importer: &'a mut Importer<'m>,
        g: &'a mut Graph,
        frame: &'a Frame,
        node: &'n NodeProto,
        label: String,
        version: i64,
        mut inputs: Vec<Option<ValueId>>,
        attrs: NodeAttrs<'n>,
    ) -> Self {
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let NodeAttrs { plain, graphs, ty } = attrs;
        Call { importer, g, frame, node, label, version, inputs, attrs: plain, graphs, ty }
    }

    /// Fails if an attribute was neither taken nor passed on.
    pub fn finish_attrs(self) -> Result<()> {
        if let Some(name) = self.graphs.keys().next() {
            bail!(Unsupported, "{} takes no subgraph '{name}'", self.node.op_type);
        }
        self.attrs.finish(&format!("{} (opset {})", self.node.op_type, self.version))
    }

    /// Input `i`.
    ///
    /// # Errors
    /// `InvalidGraph` if it is absent.
    pub fn input(&self, i: usize) -> Result<ValueId> {
        self.opt(i).ok_or_else(|| err!(InvalidGraph, "required input {i} is missing"))
    }

    /// Input `i`, if present.
    pub fn opt(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// Whether output `i` is wanted.
    pub fn wants(&self, i: usize) -> bool {
        self.node.output.get(i).is_some_and(|n| !n.is_empty())
    }

    /// Takes the attribute `name`.
    ///
    /// # Errors
    /// `InvalidGraph` if it is of another kind.
    pub fn take<T: AttrValue>(&mut self, name: &str) -> Result<Option<T>> {
        self.attrs.take(name, || None)
    }

    /// Takes the attribute `name`, which must be there.
    ///
    /// # Errors
    /// `InvalidGraph` if it is absent or of another kind.
    pub fn need<T: AttrValue>(&mut self, name: &str) -> Result<T> {
        self.take(name)?.ok_or_else(|| err!(InvalidGraph, "required attribute '{name}' is missing"))
    }

    /// Takes the subgraph `name`.
    ///
    /// # Errors
    /// `InvalidGraph` if it is absent.
    pub fn need_graph(&mut self, name: &str) -> Result<&'n GraphProto> {
        self.graphs
            .remove(name)
            .ok_or_else(|| err!(InvalidGraph, "required subgraph '{name}' is missing"))
    }

    /// What is known about a value.
    pub fn fact(&self, v: ValueId) -> &Fact {
        self.g.fact(v)
    }

    /// Element type of a tensor value.
    ///
    /// # Errors
    /// `DTypeMismatch` if it is not a tensor.
    pub fn dtype(&self, v: ValueId) -> Result<DType> {
        self.fact(v).dtype()
    }

    /// Extents of a value.
    ///
    /// # Errors
    /// `Unsupported`, saying `what` needs them, if its rank is unknown.
    pub fn shape(&self, v: ValueId, what: &str) -> Result<Vec<Dim>> {
        match self.fact(v).shape() {
            Some(s) => Ok(s.to_vec()),
            None => bail!(
                Unsupported,
                "{what} needs the rank of '{}'; declare its shape in the model",
                self.g.value(v).name
            ),
        }
    }

    /// Adds a constant.
    pub fn constant(&mut self, t: Tensor) -> Result<ValueId> {
        let name = self.g.unique_name(&format!("{}/const", self.label));
        self.g.add_constant(&name, t)
    }

    /// Adds a constant `i64[n]`.
    pub fn ints(&mut self, v: &[i64]) -> Result<ValueId> {
        self.constant(Tensor::from_slice(&[v.len()], v)?)
    }

    /// Adds a constant scalar `i64[]`.
    pub fn int(&mut self, v: i64) -> Result<ValueId> {
        self.constant(Tensor::scalar(v)?)
    }

    /// Adds a constant scalar of the given element type.
    pub fn scalar(&mut self, dtype: DType, v: f64) -> Result<ValueId> {
        self.constant(cast_from_f64(dtype, &[], &[v])?)
    }

    /// Adds an operator with `n` outputs, named after the node and the operator.
    ///
    /// # Errors
    /// Those of the operator's attributes and shape rule.
    pub fn emit(
        &mut self,
        op: &str,
        attrs: Attrs,
        inputs: &[Option<ValueId>],
        n: usize,
    ) -> Result<Vec<ValueId>> {
        let base = format!("{}/{op}", self.label);
        let names: Vec<String> = match n {
            1 => vec![self.g.unique_name(&base)],
            _ => (0..n).map(|i| self.g.unique_name(&format!("{base}.{i}"))).collect(),
        };
        let names: Vec<_> = names.iter().map(|s| Some(s.as_str())).collect();
        let ids = self.g.add_node(&base, self.build(op, attrs)?, inputs, &names)?;
        Ok(ids.into_iter().flatten().collect())
    }

    /// Adds an operator with one output.
    ///
    /// # Errors
    /// As [`Call::emit`].
    pub fn one(&mut self, op: &str, attrs: Attrs, inputs: &[ValueId]) -> Result<ValueId> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        Ok(self.emit(op, attrs, &inputs, 1)?[0])
    }

    /// Adds the operator that gives the node's outputs, under the node's names.
    ///
    /// # Errors
    /// As [`Call::emit`].
    pub fn last(&mut self, op: &str, attrs: Attrs, inputs: &[Option<ValueId>]) -> Result<Outputs> {
        let all = &self.node.output;
        let wanted = all.iter().rposition(|n| !n.is_empty()).map_or(0, |i| i + 1);
        let names: Vec<Option<String>> = all[..wanted]
            .iter()
            .map(|n| {
                (!n.is_empty()).then(|| self.g.unique_name(&format!("{}{n}", self.frame.prefix)))
            })
            .collect();
        let names: Vec<_> = names.iter().map(Option::as_deref).collect();
        let op = self.build(op, attrs)?;
        let mut ids = self.g.add_node(&self.label, op, inputs, &names)?;
        ids.resize(all.len(), None);
        Ok(ids)
    }

    /// As [`Call::last`], with inputs that are all present.
    ///
    /// # Errors
    /// As [`Call::emit`].
    pub fn last_of(&mut self, op: &str, attrs: Attrs, inputs: &[ValueId]) -> Result<Outputs> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.last(op, attrs, &inputs)
    }

    /// The node's outputs are values that exist.
    ///
    /// # Errors
    /// `Unsupported` if the node wants an output beyond them.
    pub fn alias(&self, values: &[ValueId]) -> Result<Outputs> {
        (0..self.node.output.len())
            .map(|i| match values.get(i) {
                _ if !self.wants(i) => Ok(None),
                Some(&v) => Ok(Some(v)),
                None => bail!(
                    Unsupported,
                    "output {i} ('{}') of {} is not available here",
                    self.node.output[i],
                    self.node.op_type
                ),
            })
            .collect()
    }

    fn build(
        &self,
        op: &str,
        attrs: Attrs,
    ) -> Result<std::sync::Arc<dyn deepseek_graph::Operator>> {
        ensure!(
            deepseek_graph::ops::find(op).is_some(),
            Unsupported,
            "{} is not implemented; {}",
            super::registry::describe(&self.node.domain, &self.node.op_type, self.version),
            "express it with other operators"
        );
        build_op(op, attrs)
    }
}

/// The operator of the same name, attributes and inputs as they are.
pub(super) fn direct(c: &mut Call) -> Result<Outputs> {
    let (attrs, inputs) = (std::mem::take(&mut c.attrs), c.inputs.clone());
    c.last(&c.node.op_type, attrs, &inputs)
}
