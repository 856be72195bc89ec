//! `ai.deepseek.GraphBuilder`.
//!
//! A value is known to Java by its builder and an index.

use crate::error::{Failure, native};
use crate::wire::{self, Texts};
use crate::{handle, model};
use deepseek::{Code, DType, Error, GraphBuilder, Runtime, Tensor, ValueRef};
use jni::objects::{JByteArray, JClass, JIntArray, JLongArray, JObject};
use jni::sys::{jint, jlong};
use jni::{EnvUnowned, jni_mangle};
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

/// A graph under construction.
pub(crate) struct Graph {
    builder: GraphBuilder,
    /// What an index stands for.
    values: Vec<ValueRef>,
    poisoned: bool,
}

/// The graph for one call. A panic meanwhile leaves it unusable.
pub(crate) struct Entered<'a>(MutexGuard<'a, Graph>);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.poisoned |= std::thread::panicking();
    }
}

pub(crate) fn enter(graph: &Mutex<Graph>) -> Result<Entered<'_>, Failure> {
    let graph = graph.lock();
    if graph.poisoned {
        let message = "an earlier call panicked; close this graph builder and make a new one";
        return Err(Error::new(Code::Poisoned, message).into());
    }
    Ok(Entered(graph))
}

impl Graph {
    fn keep(&mut self, value: ValueRef) -> Result<jint, Failure> {
        let index = jint::try_from(self.values.len())
            .map_err(|_| Error::new(Code::InvalidGraph, "the graph has too many values"))?;
        self.values.push(value);
        Ok(index)
    }
}

/// The value that a builder knows by an index.
fn value(owner: jlong, index: jint) -> Result<ValueRef, Failure> {
    let graph = handle::get::<Arc<Mutex<Graph>>>(owner)?;
    let graph = enter(&graph)?;
    let value = usize::try_from(index).ok().and_then(|i| graph.0.values.get(i)).copied();
    value.ok_or_else(|| {
        let message = format!("no value {index} among {}", graph.0.values.len());
        Error::new(Code::InvalidArgument, message).into()
    })
}

/// Makes an empty graph.
#[jni_mangle("ai.deepseek.GraphBuilder", "create")]
pub fn create_graph<'l>(env: EnvUnowned<'l>, _class: JClass<'l>, name: JByteArray<'l>) -> jlong {
    native(env, |env| {
        let builder = GraphBuilder::new(&wire::text(env, &name)?);
        let graph = Graph { builder, values: Vec::new(), poisoned: false };
        Ok(handle::give(Arc::new(Mutex::new(graph))))
    })
}

/// Adds an input.
#[jni_mangle("ai.deepseek.GraphBuilder", "addInput")]
pub fn add_input<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    name: JByteArray<'l>,
    dtype: jint,
    extents: JByteArray<'l>,
) -> jint {
    native(env, |env| {
        let (name, extents) = (wire::text(env, &name)?, Texts::read(env, &extents)?);
        let graph = handle::get::<Arc<Mutex<Graph>>>(handle)?;
        let mut graph = enter(&graph)?;
        let dtype = DType::from_i32(dtype)?;
        let value = graph.0.builder.input(&name, dtype, &extents.decode()?)?;
        graph.0.keep(value)
    })
}

/// Bounds a symbol; a negative `max` sets no upper bound.
#[jni_mangle("ai.deepseek.GraphBuilder", "setBound")]
pub fn set_bound<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    symbol: JByteArray<'l>,
    min: jlong,
    max: jlong,
    bounded: jni::sys::jboolean,
) {
    native(env, |env| {
        let symbol = wire::text(env, &symbol)?;
        let graph = handle::get::<Arc<Mutex<Graph>>>(handle)?;
        enter(&graph)?.0.builder.bound(&symbol, min, bounded.then_some(max))?;
        Ok(())
    })
}

/// Adds a constant.
#[jni_mangle("ai.deepseek.GraphBuilder", "addConstant")]
pub fn add_constant<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    name: JByteArray<'l>,
    tensor: jlong,
) -> jint {
    native(env, |env| {
        let name = wire::text(env, &name)?;
        let tensor = handle::get::<Tensor>(tensor)?;
        let graph = handle::get::<Arc<Mutex<Graph>>>(handle)?;
        let mut graph = enter(&graph)?;
        let value = graph.0.builder.constant(&name, tensor)?;
        graph.0.keep(value)
    })
}

/// Adds a node. `texts` are the operator, the node's name and its attributes; an owner of
/// 0 stands for an input that is absent.
#[jni_mangle("ai.deepseek.GraphBuilder", "addNode")]
pub fn add_node<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    texts: JByteArray<'l>,
    owners: JLongArray<'l>,
    indices: JLongArray<'l>,
    outputs: jint,
) -> JIntArray<'l> {
    native(env, |env| {
        let texts = Texts::read(env, &texts)?;
        let &[op, name, attrs] = texts.decode()?.as_slice() else {
            let message = "a node takes operator, name and attributes";
            return Err(Error::new(Code::InvalidArgument, message).into());
        };
        let attrs = deepseek::parse_attrs(attrs)?;
        let count = usize::try_from(outputs).map_err(|_| {
            let message = format!("a node cannot have {outputs} outputs");
            Error::new(Code::InvalidArgument, message)
        })?;
        // Resolved before the graph is entered: the owner may be another builder, which
        // the core then refuses.
        let mut inputs = Vec::new();
        for (owner, index) in
            wire::longs(env, &owners)?.into_iter().zip(wire::longs(env, &indices)?)
        {
            inputs.push(if owner == 0 { None } else { Some(value(owner, index as jint)?) });
        }
        let graph = handle::get::<Arc<Mutex<Graph>>>(handle)?;
        let mut graph = enter(&graph)?;
        let values = graph.0.builder.node(op, name, attrs, &inputs, count)?;
        let kept = values.into_iter().map(|v| graph.0.keep(v)).collect::<Result<Vec<_>, _>>()?;
        let array = JIntArray::new(env, kept.len())?;
        array.set_region(env, 0, &kept)?;
        Ok(array)
    })
}

/// Names a value as an output.
#[jni_mangle("ai.deepseek.GraphBuilder", "addOutput")]
pub fn add_output<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    name: JByteArray<'l>,
    owner: jlong,
    index: jint,
) {
    native(env, |env| {
        let (name, value) = (wire::text(env, &name)?, value(owner, index)?);
        let graph = handle::get::<Arc<Mutex<Graph>>>(handle)?;
        enter(&graph)?.0.builder.output(&name, value)?;
        Ok(())
    })
}

/// Type of a value.
#[jni_mangle("ai.deepseek.GraphBuilder", "typeText")]
pub fn type_text<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    owner: jlong,
    index: jint,
) -> JByteArray<'l> {
    native(env, |env| {
        let value = value(owner, index)?;
        let graph = handle::get::<Arc<Mutex<Graph>>>(handle)?;
        let text = enter(&graph)?.0.builder.ty(value)?.to_string();
        wire::bytes(env, text.as_bytes())
    })
}

/// Lowers the graph.
#[jni_mangle("ai.deepseek.GraphBuilder", "buildModel")]
pub fn build_model<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    runtime: jlong,
    memory_budget_bytes: jlong,
    whole: jni::sys::jboolean,
    names: JByteArray<'l>,
    shapes: JLongArray<'l>,
    symbols: JByteArray<'l>,
    bounds: JLongArray<'l>,
    precision: JByteArray<'l>,
) -> jlong {
    native(env, |env| {
        let options = model::options(
            env,
            memory_budget_bytes,
            whole,
            (&names, &shapes),
            (&symbols, &bounds),
            &precision,
        )?;
        let runtime = handle::get::<Runtime>(runtime)?;
        let graph = handle::get::<Arc<Mutex<Graph>>>(handle)?;
        let model = enter(&graph)?.0.builder.build_with(&runtime, &options)?;
        Ok(handle::give(model))
    })
}
