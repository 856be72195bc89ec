//! Models recorded operation by operation.

use crate::error::{caught, guard, invalid};
use crate::model::{Model, ModelOptions};
use crate::runtime::Runtime;
use crate::tensor::{self, Take, convert, read_tensor, whole};
use deepseek::{Code, DType, Error, Result, ValueRef};
use napi::bindgen_prelude::*;
use napi_derive::napi;

/// What a node may have; every field is optional.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct NodeOptions {
    /// Name, for messages and profiles; absent takes the operator's.
    pub name: Option<String>,
    /// Attributes as text, such as `axis = 1, mode = "linear"`.
    pub attrs: Option<String>,
    /// Number of outputs; absent is one.
    pub outputs: Option<f64>,
}

/// A value of a `GraphBuilder`.
#[napi]
pub struct GraphValue {
    value: ValueRef,
    ty: String,
}

#[napi]
impl GraphValue {
    /// Type as inferred, such as `f32[batch, 3]`.
    #[napi(getter, js_name = "type")]
    pub fn ty(&self) -> &str {
        &self.ty
    }
}

/// A graph under construction. Extents may be expressions over named symbols (`batch`,
/// `2*seq+1`), so one model serves every length. Shape errors are thrown by the call that
/// makes them.
#[napi]
pub struct GraphBuilder {
    inner: deepseek::GraphBuilder,
    /// A call panicked while it changed the graph.
    poisoned: bool,
}

#[napi]
impl GraphBuilder {
    /// An empty graph.
    #[napi(constructor, ts_args_type = "name?: string")]
    pub fn new(env: &Env, name: Unknown) -> napi::Result<Self> {
        guard(env, || {
            let name: Option<String> = convert(name, "name")?;
            let inner = deepseek::GraphBuilder::new(name.as_deref().unwrap_or("graph"));
            Ok(GraphBuilder { inner, poisoned: false })
        })
    }

    /// Adds an input; each extent is a number or an expression over symbols.
    #[napi(
        ts_args_type = "name: string, dtype: DType, shape: readonly (number | string)[]",
        ts_return_type = "GraphValue"
    )]
    pub fn input(
        &mut self,
        env: &Env,
        name: Unknown,
        dtype: Unknown,
        shape: Unknown,
    ) -> napi::Result<GraphValue> {
        self.change(env, |graph| {
            let name: String = convert(name, "name")?;
            let dtype = DType::parse(&convert::<String>(dtype, "dtype")?)?;
            let shape: Vec<Either<f64, String>> = convert(shape, "shape")?;
            let shape: Vec<String> = shape
                .into_iter()
                .map(|extent| match extent {
                    Either::A(n) => whole(n, "shape").map(|n| n.to_string()),
                    Either::B(text) => Ok(text),
                })
                .collect::<Result<_>>()?;
            let shape: Vec<&str> = shape.iter().map(String::as_str).collect();
            let value = graph.input(&name, dtype, &shape)?;
            wrap(graph, value)
        })
    }

    /// Declares that a symbol lies between `min` and `max`, both included.
    #[napi(ts_args_type = "symbol: string, min: number, max?: number")]
    pub fn bound(
        &mut self,
        env: &Env,
        symbol: Unknown,
        min: Unknown,
        max: Unknown,
    ) -> napi::Result<()> {
        self.change(env, |graph| {
            let symbol: String = convert(symbol, "symbol")?;
            let min = whole(convert(min, "min")?, "min")? as i64;
            let max: Option<f64> = convert(max, "max")?;
            let max = max.map(|max| whole(max, "max")).transpose()?;
            graph.bound(&symbol, min, max.map(|max| max as i64))
        })
    }

    /// Adds a constant; the data is copied.
    #[napi(ts_args_type = "name: string, tensor: TensorInput", ts_return_type = "GraphValue")]
    pub fn constant(
        &mut self,
        env: &Env,
        name: Unknown,
        tensor: Unknown,
    ) -> napi::Result<GraphValue> {
        self.change(env, |graph| {
            let name: String = convert(name, "name")?;
            let tensor = read_tensor(tensor, &format!("constant '{name}'"), &mut Take::Copy)?;
            let value = graph.constant(&name, tensor)?;
            wrap(graph, value)
        })
    }

    /// Applies the operator `op` (an ONNX operator name) and returns its outputs. `null`
    /// marks an optional input that is absent.
    #[napi(
        ts_args_type = "op: string, inputs: readonly (GraphValue | null)[], options?: NodeOptions",
        ts_return_type = "GraphValue[]"
    )]
    pub fn node(
        &mut self,
        env: &Env,
        op: Unknown,
        inputs: Unknown,
        options: Unknown,
    ) -> napi::Result<Vec<GraphValue>> {
        self.change(env, |graph| {
            let op: String = convert(op, "op")?;
            let options: NodeOptions = tensor::options(options)?;
            let array: Array = convert(inputs, "inputs")?;
            let mut inputs = Vec::new();
            for i in 0..array.len() {
                let what = format!("inputs[{i}]");
                let input = array.get::<Unknown>(i).ok().flatten();
                let input = input.ok_or_else(|| invalid(format!("{what} is missing")))?;
                inputs.push(match input.get_type() {
                    Ok(napi::ValueType::Null | napi::ValueType::Undefined) => None,
                    _ => Some(from_arg(input, &what)?),
                });
            }
            let attrs = deepseek::parse_attrs(options.attrs.as_deref().unwrap_or(""))?;
            let outputs = whole(options.outputs.unwrap_or(1.0), "options.outputs")? as usize;
            let name = options.name.unwrap_or_default();
            let values = graph.node(&op, &name, attrs, &inputs, outputs)?;
            values.into_iter().map(|value| wrap(graph, value)).collect()
        })
    }

    /// Names a value as an output.
    #[napi(ts_args_type = "name: string, value: GraphValue")]
    pub fn output(&mut self, env: &Env, name: Unknown, value: Unknown) -> napi::Result<()> {
        self.change(env, |graph| {
            let name: String = convert(name, "name")?;
            graph.output(&name, from_arg(value, "value")?)
        })
    }

    /// Compiles the graph for a runtime. The builder may go on and build again. Rejects
    /// with `INVALID_GRAPH` if there is no output, and for its options as `Model.open`.
    #[napi(
        ts_args_type = "runtime: Runtime, options?: ModelOptions",
        ts_return_type = "Promise<Model>"
    )]
    pub fn build<'env>(
        &self,
        env: &'env Env,
        runtime: Unknown,
        options: Unknown,
    ) -> napi::Result<Object<'env>> {
        Model::later(env, || {
            let graph = self.usable()?.graph().clone();
            let (runtime, options) = (Runtime::from_arg(runtime)?, ModelOptions::read(options)?);
            Ok(move || deepseek::Model::from_graph_with(graph, &runtime, &options))
        })
    }

    /// The graph, or `POISONED`.
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
        env: &Env,
        call: impl FnOnce(&mut deepseek::GraphBuilder) -> Result<T>,
    ) -> napi::Result<T> {
        let result = self.usable().map(drop).and_then(|()| {
            let result = caught(|| call(&mut self.inner));
            self.poisoned = matches!(&result, Err(e) if e.code() == Code::Panic);
            result
        });
        guard(env, || result)
    }
}

fn wrap(graph: &deepseek::GraphBuilder, value: ValueRef) -> Result<GraphValue> {
    Ok(GraphValue { value, ty: graph.ty(value)?.to_string() })
}

fn from_arg(value: Unknown, what: &str) -> Result<ValueRef> {
    let value = ClassInstance::<GraphValue>::from_unknown(value);
    let value = value.map_err(|_| invalid(format!("{what} must be a GraphValue")))?;
    Ok(value.as_ref().value)
}
