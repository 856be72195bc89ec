//! `ai.deepseek.Session` and `Outputs`.
//!
//! A run has two halves. `begin` looks everything up on the thread of the caller, so
//! that closing a tensor or session afterwards does not matter and the deadline counts
//! from there; `finish` runs, on the same thread or on that of an executor.

use crate::error::{Failure, native};
use crate::wire::{self, Texts, TextsWriter};
use crate::{handle, tensor};
use deepseek::{
    Announced, Cancel, Code, DType, Error, Lists, Profile, RunOptions, Session, Tensor, Type, Value,
};
use jni::objects::{JByteArray, JClass, JLongArray, JObject};
use jni::sys::{jboolean, jint, jlong};
use jni::{EnvUnowned, jni_mangle};
use std::sync::Arc;

/// A run that is ready to start.
pub(crate) struct Run {
    session: Session,
    inputs: Inputs,
    options: RunOptions,
    /// Last, so that the run counts as under way until all else of it is gone.
    _announced: Announced,
}

impl Run {
    fn new(session: Session, inputs: Inputs, cancel: Cancel, ragged: bool) -> Arc<Self> {
        let announced = session.announce(&cancel);
        let options = RunOptions { cancel: Some(cancel), ragged, ..Default::default() };
        Arc::new(Run { session, inputs, options, _announced: announced })
    }
}

enum Inputs {
    /// Of a run, profiled if `profile` is set.
    Values { values: Vec<(String, Value)>, profile: bool },
    /// Of a ragged run.
    Lists(Lists),
}

/// What a run yielded.
pub(crate) struct RunResult {
    outputs: Vec<(String, Value)>,
    profile: Option<Profile>,
}

/// The caller's flag, or a fresh one if `token` is 0, with a deadline from now on.
pub(crate) fn cancel(token: jlong, timeout: jlong) -> Result<Cancel, Failure> {
    let cancel = if token == 0 { Cancel::new() } else { handle::get::<Cancel>(token)? };
    Ok(match wire::timeout(timeout) {
        Some(timeout) => cancel.timeout(timeout),
        None => cancel,
    })
}

/// Prepares a run. `timeout` is in nanoseconds, negative for none.
#[jni_mangle("ai.deepseek.Session", "begin")]
pub fn begin_run<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    names: JByteArray<'l>,
    tensors: JLongArray<'l>,
    token: jlong,
    timeout: jlong,
    profile: jboolean,
    ragged: jboolean,
) -> jlong {
    native(env, |env| {
        let session = handle::get::<Session>(handle)?;
        let (names, tensors) = (Texts::read(env, &names)?, wire::longs(env, &tensors)?);
        let mut values = Vec::with_capacity(tensors.len());
        for (name, tensor) in names.decode()?.into_iter().zip(tensors) {
            values.push((name.to_owned(), handle::get::<Tensor>(tensor)?.into()));
        }
        let inputs = Inputs::Values { values, profile };
        Ok(handle::give(Run::new(session, inputs, cancel(token, timeout)?, ragged)))
    })
}

/// Prepares a ragged run. Input `names[i]` has `counts[i]` tensors, which follow those of the
/// input before. `timeout` as above.
#[jni_mangle("ai.deepseek.Session", "beginLists")]
pub fn begin_lists<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    names: JByteArray<'l>,
    counts: JLongArray<'l>,
    tensors: JLongArray<'l>,
    token: jlong,
    timeout: jlong,
) -> jlong {
    native(env, |env| {
        let session = handle::get::<Session>(handle)?;
        let (names, counts) = (Texts::read(env, &names)?, wire::longs(env, &counts)?);
        let mut tensors = wire::longs(env, &tensors)?.into_iter();
        let mut lists = Lists::new();
        for (name, count) in names.decode()?.into_iter().zip(counts) {
            let list = tensors.by_ref().take(usize::try_from(count).unwrap_or(0));
            let list = list.map(handle::get::<Tensor>).collect::<Result<_, _>>()?;
            lists.push((name.to_owned(), list));
        }
        let inputs = Inputs::Lists(lists);
        Ok(handle::give(Run::new(session, inputs, cancel(token, timeout)?, false)))
    })
}

/// Runs what was prepared.
#[jni_mangle("ai.deepseek.Session", "finish")]
pub fn finish_run<'l>(env: EnvUnowned<'l>, _class: JClass<'l>, run: jlong) -> jlong {
    native(env, |_| {
        let run = handle::take::<Arc<Run>>(run)?;
        let (outputs, profile) = match &run.inputs {
            Inputs::Values { values, profile } => {
                run.session.run_profiled(values.iter().cloned(), &run.options, *profile)?
            }
            Inputs::Lists(lists) => {
                let lists = run.session.run_ragged(lists.clone(), &run.options)?;
                (lists.into_iter().map(sequence).collect(), None)
            }
        };
        Ok(handle::give(Arc::new(RunResult { outputs, profile })))
    })
}

/// Cancels the runs of a session.
#[jni_mangle("ai.deepseek.Session", "cancelRuns")]
pub fn cancel_runs<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) {
    native(env, |_| {
        handle::get::<Session>(handle)?.cancel();
        Ok(())
    })
}

/// Closes a session, unless it is closed.
#[jni_mangle("ai.deepseek.Session", "closeSession")]
pub fn close_session<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) {
    native(env, |_| {
        if let Ok(session) = handle::take::<Session>(handle) {
            session.close();
        }
        Ok(())
    })
}

/// Gives working memory back.
#[jni_mangle("ai.deepseek.Session", "trimMemory")]
pub fn trim_memory<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) {
    native(env, |_| {
        handle::get::<Session>(handle)?.trim();
        Ok(())
    })
}

/// Most bytes that the last run had in use.
#[jni_mangle("ai.deepseek.Session", "observed")]
pub fn observed<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> jlong {
    native(env, |_| Ok(handle::get::<Session>(handle)?.observed_bytes() as jlong))
}

/// Name and type of each output.
#[jni_mangle("ai.deepseek.Outputs", "describe")]
pub fn describe_outputs<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
) -> JByteArray<'l> {
    native(env, |env| {
        let mut out = TextsWriter::default();
        for (name, value) in &handle::get::<Arc<RunResult>>(handle)?.outputs {
            out.push(name)?;
            out.push(&value.ty().to_string())?;
        }
        out.finish(env)
    })
}

/// The tensor of an output.
#[jni_mangle("ai.deepseek.Outputs", "tensor")]
pub fn output_tensor<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    index: jint,
) -> jlong {
    native(env, |_| {
        let result = handle::get::<Arc<RunResult>>(handle)?;
        let (name, value) = result.at(index)?;
        tensor::give(as_tensor(name, value, "; read its tensors with items")?)
    })
}

/// The tensors of an output that is a sequence, or that is there or not.
#[jni_mangle("ai.deepseek.Outputs", "itemTensors")]
pub fn item_tensors<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    index: jint,
) -> JLongArray<'l> {
    native(env, |env| {
        let result = handle::get::<Arc<RunResult>>(handle)?;
        let (name, value) = result.at(index)?;
        let items = match value {
            Value::Tensor(_) => return Err(unsupported(name, value, "; read it with get")),
            Value::Sequence(_, items) => items.as_slice(),
            Value::Optional(_, item) => item.as_deref().map_or(&[][..], std::slice::from_ref),
        };
        let tensors: Result<Vec<_>, _> =
            items.iter().map(|item| as_tensor(name, item, " inside")).collect();
        let tensors = tensors?.into_iter().map(Tensor::to_contiguous);
        let tensors = tensors.collect::<deepseek::Result<Vec<_>>>()?;
        let array = JLongArray::new(env, tensors.len())?;
        let handles: Vec<jlong> = tensors.into_iter().map(handle::give).collect();
        array.set_region(env, 0, &handles)?;
        Ok(array)
    })
}

/// The profile in the Chrome trace format, if there is one.
#[jni_mangle("ai.deepseek.Outputs", "chromeTrace")]
pub fn chrome_trace<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> JByteArray<'l> {
    profile_text(env, handle, Profile::to_chrome_trace)
}

/// The profile as JSON, if there is one.
#[jni_mangle("ai.deepseek.Outputs", "jsonProfile")]
pub fn json_profile<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> JByteArray<'l> {
    profile_text(env, handle, Profile::to_json)
}

/// The profile as an HTML page, if there is one.
#[jni_mangle("ai.deepseek.Outputs", "htmlProfile")]
pub fn html_profile<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> JByteArray<'l> {
    profile_text(env, handle, Profile::to_html)
}

/// The profile in some form; null if there is none.
fn profile_text<'l>(
    env: EnvUnowned<'l>,
    handle: jlong,
    form: impl FnOnce(&Profile) -> String,
) -> JByteArray<'l> {
    native(env, |env| match &handle::get::<Arc<RunResult>>(handle)?.profile {
        Some(profile) => wire::bytes(env, form(profile).as_bytes()),
        None => Ok(JByteArray::default()),
    })
}

/// A list of tensors as a value.
fn sequence((name, list): (String, Vec<Tensor>)) -> (String, Value) {
    let element = Type::Tensor(list.first().map_or(DType::F32, Tensor::dtype), None);
    let items = list.into_iter().map(Value::Tensor).collect();
    (name, Value::Sequence(element, Arc::new(items)))
}

impl RunResult {
    fn at(&self, index: jint) -> Result<(&str, &Value), Failure> {
        let output = usize::try_from(index).ok().and_then(|i| self.outputs.get(i));
        let (name, value) = output.ok_or_else(|| {
            let message = format!("no output {index} among {}", self.outputs.len());
            Error::new(Code::InvalidArgument, message)
        })?;
        Ok((name, value))
    }
}

fn as_tensor<'a>(name: &str, value: &'a Value, remedy: &str) -> Result<&'a Tensor, Failure> {
    match value {
        Value::Tensor(tensor) => Ok(tensor),
        Value::Sequence(..) | Value::Optional(..) => Err(unsupported(name, value, remedy)),
    }
}

fn unsupported(name: &str, value: &Value, remedy: &str) -> Failure {
    let message = format!("output '{name}' is {}{remedy}", value.ty());
    Error::new(Code::Unsupported, message).into()
}
