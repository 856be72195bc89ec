//! A model recorded operation by operation.

use crate::{Model, ModelOptions, Runtime};
use deepseek_graph::{Attrs, Dim, Graph, Type, ValueId, build_op};
use deepseek_tensor::{DType, Result, Tensor, err};
use std::sync::atomic::{AtomicU64, Ordering};

/// A graph under construction. Extents may be expressions over named symbols
/// (`batch`, `2*seq+1`), so one model serves every length. Shape errors are
/// reported by the call that makes them.
pub struct GraphBuilder {
    graph: Graph,
    id: u64,
}

/// A value of a [`GraphBuilder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueRef {
    builder: u64,
    value: ValueId,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl GraphBuilder {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        GraphBuilder { graph: Graph::new(name), id: NEXT_ID.fetch_add(1, Ordering::Relaxed) }
    }

    /// Adds an input; each extent is a number or an expression over symbols.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed extent, `InvalidGraph` if the name is taken.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[&str]) -> Result<ValueRef> {
        let dims = shape
            .iter()
            .map(|text| {
                Dim::parse(text)
                    .map_err(|e| err!(InvalidArgument, "input '{name}': extent '{text}': {e}"))
            })
            .collect::<Result<Vec<_>>>()?;
        let value = self.graph.add_input(name, Type::tensor(dtype, dims))?;
        Ok(self.wrap(value))
    }

    /// Declares that a symbol lies between `min` and `max`, both included.
    ///
    /// # Errors
    /// `InvalidArgument` if the range is empty.
    pub fn bound(&mut self, symbol: &str, min: i64, max: Option<i64>) -> Result<()> {
        self.graph.set_bound(symbol, min, max)
    }

    /// Adds a constant.
    ///
    /// # Errors
    /// `InvalidGraph` if the name is taken.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> Result<ValueRef> {
        let value = self.graph.add_constant(name, tensor)?;
        Ok(self.wrap(value))
    }

    /// Applies the operator `op` (an ONNX operator name) and returns its outputs.
    /// `None` marks an optional input that is absent.
    ///
    /// # Errors
    /// `Unsupported` for an unknown operator or attribute, `InvalidArgument` for a
    /// value of another builder, and what the operator's shape rule finds.
    pub fn node(
        &mut self,
        op: &str,
        name: &str,
        attrs: Attrs,
        inputs: &[Option<ValueRef>],
        outputs: usize,
    ) -> Result<Vec<ValueRef>> {
        let inputs = inputs
            .iter()
            .map(|v| v.map(|v| self.unwrap(v)).transpose())
            .collect::<Result<Vec<_>>>()?;
        let op = build_op(op, attrs)?;
        let base = if name.is_empty() { op.name() } else { name };
        let mut names = Vec::with_capacity(outputs);
        for i in 0..outputs {
            let wanted = if i == 0 { base.to_owned() } else { format!("{base}:{i}") };
            names.push(self.graph.unique_name(&wanted));
        }
        let names: Vec<Option<&str>> = names.iter().map(|n| Some(n.as_str())).collect();
        let values = self.graph.add_node(name, op, &inputs, &names)?;
        Ok(values.into_iter().flatten().map(|v| self.wrap(v)).collect())
    }

    /// Names a value as an output.
    ///
    /// # Errors
    /// `InvalidGraph` if the name is taken, `InvalidArgument` for a value of another builder.
    pub fn output(&mut self, name: &str, value: ValueRef) -> Result<()> {
        let value = self.unwrap(value)?;
        self.graph.add_output(name, value)
    }

    /// Type of a value, as inferred.
    ///
    /// # Errors
    /// `InvalidArgument` for a value of another builder.
    pub fn ty(&self, value: ValueRef) -> Result<&Type> {
        Ok(&self.graph.fact(self.unwrap(value)?).ty)
    }

    /// Lowers the graph for a runtime. The builder may go on and build again.
    ///
    /// # Errors
    /// `InvalidGraph` if there is no output; what lowering reports.
    pub fn build(&self, runtime: &Runtime) -> Result<Model> {
        self.build_with(runtime, &ModelOptions::default())
    }

    /// As [`GraphBuilder::build`], with options.
    ///
    /// # Errors
    /// As [`Model::from_graph_with`].
    pub fn build_with(&self, runtime: &Runtime, options: &ModelOptions) -> Result<Model> {
        Model::from_graph_with(self.graph.clone(), runtime, options)
    }

    /// The graph recorded so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    fn wrap(&self, value: ValueId) -> ValueRef {
        ValueRef { builder: self.id, value }
    }

    fn unwrap(&self, v: ValueRef) -> Result<ValueId> {
        if v.builder == self.id {
            Ok(v.value)
        } else {
            Err(err!(InvalidArgument, "the value belongs to another graph builder"))
        }
    }
}
