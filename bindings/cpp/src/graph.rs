//! Models recorded operation by operation.

use crate::ffi::Status;
use crate::model::{Model, ModelOptions, Runtime};
use crate::status::{caught, give, guard};
use crate::tensor::Tensor;
use deepseek::{Code, DType, Error, Result};

/// A graph under construction.
pub(crate) struct GraphBuilder {
    inner: deepseek::GraphBuilder,
    /// A call panicked while it changed the graph.
    poisoned: bool,
}

/// A value of a graph builder.
#[derive(Clone, Copy)]
pub(crate) struct ValueRef(deepseek::ValueRef);

/// Values of a graph builder, some of them absent.
#[derive(Default)]
pub(crate) struct ValueRefs(Vec<Option<deepseek::ValueRef>>);

pub(crate) fn refs_new() -> Box<ValueRefs> {
    Box::default()
}

impl ValueRefs {
    pub(crate) fn add(&mut self, value: &ValueRef) {
        self.0.push(Some(value.0));
    }

    pub(crate) fn add_absent(&mut self) {
        self.0.push(None);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn at(&self, index: usize, status: &mut Status) -> *mut ValueRef {
        give(status, || {
            let value = self.0.get(index).copied().flatten();
            value.map(ValueRef).ok_or_else(|| {
                Error::new(Code::InvalidArgument, format!("there is no value {index}"))
            })
        })
    }
}

pub(crate) fn graph_new(name: &str, status: &mut Status) -> *mut GraphBuilder {
    give(status, || Ok(GraphBuilder { inner: deepseek::GraphBuilder::new(name), poisoned: false }))
}

impl GraphBuilder {
    pub(crate) fn input(
        &mut self,
        name: &str,
        dtype: i32,
        shape: &[&str],
        status: &mut Status,
    ) -> *mut ValueRef {
        give(status, || {
            self.change(|g| Ok(ValueRef(g.input(name, DType::from_i32(dtype)?, shape)?)))
        })
    }

    /// Without `bounded`, there is no greatest value.
    pub(crate) fn bound(
        &mut self,
        symbol: &str,
        min: i64,
        max: i64,
        bounded: bool,
        status: &mut Status,
    ) {
        guard(status, (), || self.change(|g| g.bound(symbol, min, bounded.then_some(max))));
    }

    pub(crate) fn constant(
        &mut self,
        name: &str,
        tensor: &Tensor,
        status: &mut Status,
    ) -> *mut ValueRef {
        give(status, || self.change(|g| Ok(ValueRef(g.constant(name, tensor.0.clone())?))))
    }

    pub(crate) fn node(
        &mut self,
        op: &str,
        name: &str,
        attrs: &str,
        inputs: &ValueRefs,
        outputs: usize,
        status: &mut Status,
    ) -> *mut ValueRefs {
        give(status, || {
            let attrs = deepseek::parse_attrs(attrs)?;
            let values = self.change(|g| g.node(op, name, attrs, &inputs.0, outputs))?;
            Ok(ValueRefs(values.into_iter().map(Some).collect()))
        })
    }

    pub(crate) fn output(&mut self, name: &str, value: &ValueRef, status: &mut Status) {
        guard(status, (), || self.change(|g| g.output(name, value.0)));
    }

    pub(crate) fn type_text(&self, value: &ValueRef, status: &mut Status) -> String {
        guard(status, String::new(), || Ok(self.usable()?.ty(value.0)?.to_string()))
    }

    pub(crate) fn build(
        &self,
        runtime: &Runtime,
        options: &ModelOptions,
        status: &mut Status,
    ) -> *mut Model {
        give(status, || Ok(Model(self.usable()?.build_with(&runtime.0, &options.0)?)))
    }

    fn usable(&self) -> Result<&deepseek::GraphBuilder> {
        match self.poisoned {
            false => Ok(&self.inner),
            true => Err(Error::new(
                Code::Poisoned,
                "an earlier call panicked; make a new graph builder",
            )),
        }
    }

    fn change<T>(
        &mut self,
        call: impl FnOnce(&mut deepseek::GraphBuilder) -> Result<T>,
    ) -> Result<T> {
        self.usable()?;
        let result = caught(|| call(&mut self.inner));
        self.poisoned = matches!(&result, Err(e) if e.code() == Code::Panic);
        result
    }
}
