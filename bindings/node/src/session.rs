//! Running a model.

use crate::background::{Held, promise, rejected};
use crate::error::{caught, guard, internal, open};
use crate::signal::RunOptions;
use crate::tensor::{Pins, Take, entries, read_tensors, read_value, write_tensors, write_value};
use deepseek::{Announced, Code, Error, Lists, Outputs, Profile, Result, Value};
use napi::bindgen_prelude::*;
use napi_derive::napi;

/// Working memory to run a model. One run at a time: calls that overlap take turns, so a
/// service makes several sessions of one model.
///
/// The arrays of the inputs are read in place; leave them alone (do not write to them,
/// resize or transfer them) until the promise has settled.
#[napi]
pub struct Session {
    inner: Option<deepseek::Session>,
}

#[napi]
impl Session {
    /// Runs the model on named inputs and resolves to its outputs by name. Rejects with
    /// `NOT_FOUND` or `INVALID_ARGUMENT` for wrong or missing names, `DTYPE_MISMATCH`,
    /// `SHAPE_MISMATCH` naming the input, `CANCELLED`, `TIMEOUT`, `BUDGET_EXCEEDED`,
    /// `OUT_OF_MEMORY`, and what a node reports, with its name. Name the type of the outputs
    /// where they are not all tensors: `run<{ items: Value[] }>(…)`.
    #[napi(
        ts_generic_types = "Outputs = Record<string, Tensor>",
        ts_args_type = "inputs: Record<string, Input>, options?: RunOptions",
        ts_return_type = "Promise<Outputs>"
    )]
    pub fn run<'env>(
        &self,
        env: &'env Env,
        inputs: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Object<'env>> {
        let read = |pins: &mut Pins| self.read_inputs(inputs, pins);
        self.later(env, options, read, |s, inputs, options| s.run(inputs, options), write_outputs)
    }

    /// As `run`, on this thread.
    #[napi(
        ts_generic_types = "Outputs = Record<string, Tensor>",
        ts_args_type = "inputs: Record<string, Input>, options?: RunOptions",
        ts_return_type = "Outputs"
    )]
    pub fn run_sync<'env>(
        &self,
        env: &'env Env,
        inputs: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Object<'env>> {
        let read = |pins: &mut Pins| self.read_inputs(inputs, pins);
        self.now(env, options, read, |s, inputs, options| s.run(inputs, options), write_outputs)
    }

    /// Runs sequences of different lengths together, without padding. Each gives the bits that
    /// `run` gives for it alone: batch 1, masks all ones.
    ///
    /// For an input `[batch, seq, …]` there is a tensor `[len, …]` for each sequence, for one
    /// `[batch, …]` a tensor `[…]` for each, for others one tensor. Masks may be left out.
    /// Outputs come in the same forms. The option `ragged` has no effect here.
    ///
    /// Rejects as `checkRagged` throws and as `run` rejects, with `SHAPE_MISMATCH` for lengths
    /// that contradict each other, naming both inputs, or that the model does not take, and
    /// `INVALID_ARGUMENT` for no or an empty sequence and for a mask that hides something.
    #[napi(
        ts_args_type = "inputs: Record<string, readonly TensorInput[]>, options?: RunOptions",
        ts_return_type = "Promise<Record<string, Tensor[]>>"
    )]
    pub fn run_ragged<'env>(
        &self,
        env: &'env Env,
        inputs: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Object<'env>> {
        let read = |pins: &mut Pins| read_lists(inputs, pins);
        self.later(env, options, read, deepseek::Session::run_ragged, write_lists)
    }

    /// As `runRagged`, on this thread.
    #[napi(
        ts_args_type = "inputs: Record<string, readonly TensorInput[]>, options?: RunOptions",
        ts_return_type = "Record<string, Tensor[]>"
    )]
    pub fn run_ragged_sync<'env>(
        &self,
        env: &'env Env,
        inputs: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Object<'env>> {
        let read = |pins: &mut Pins| read_lists(inputs, pins);
        self.now(env, options, read, deepseek::Session::run_ragged, write_lists)
    }

    /// As `run`, and resolves to the outputs and to what ran, when and over how many bytes:
    /// `trace` in the Chrome trace format (JSON), which Perfetto and `chrome://tracing` open;
    /// `json`, all figures of the run as one JSON object; `html`, a page that refers to
    /// nothing outside itself.
    #[napi(
        ts_generic_types = "Outputs = Record<string, Tensor>",
        ts_args_type = "inputs: Record<string, Input>, options?: RunOptions",
        ts_return_type = "Promise<{ outputs: Outputs, trace: string, json: string, html: string }>"
    )]
    pub fn profile<'env>(
        &self,
        env: &'env Env,
        inputs: Unknown<'env>,
        options: Unknown<'env>,
    ) -> napi::Result<Object<'env>> {
        let read = |pins: &mut Pins| self.read_inputs(inputs, pins);
        let run = |session: &deepseek::Session, inputs, options: &_| {
            let (outputs, profile) = session.run_profiled(inputs, options, true)?;
            let missing = || Error::new(Code::Internal, "the run yielded no profile");
            Ok((outputs, Texts::of(&profile.ok_or_else(missing)?)))
        };
        self.later(env, options, read, run, write_profiled)
    }

    /// Cancels every run of this session that is under way or waiting. They end at their
    /// next kernel boundary with `CANCELLED`.
    #[napi]
    pub fn cancel(&self, env: &Env) -> napi::Result<()> {
        guard(env, || {
            open(&self.inner, "session")?.cancel();
            Ok(())
        })
    }

    /// Gives the working memory back, unless a run is under way; the next run allocates
    /// it again.
    #[napi]
    pub fn trim(&self, env: &Env) -> napi::Result<()> {
        guard(env, || {
            open(&self.inner, "session")?.trim();
            Ok(())
        })
    }

    /// Most bytes that the last successful run had in use at once beyond the weights.
    #[napi(getter)]
    pub fn observed_bytes(&self, env: &Env) -> napi::Result<f64> {
        guard(env, || Ok(open(&self.inner, "session")?.observed_bytes() as f64))
    }

    /// Cancels running calls and frees the working memory when they have ended. Any later
    /// call is `INVALID_STATE`.
    #[napi]
    pub fn close(&mut self) {
        if let Some(session) = self.inner.take() {
            session.close();
        }
    }

    pub(crate) fn new(session: deepseek::Session) -> Self {
        Session { inner: Some(session) }
    }

    /// A run on this thread: the arrays of the inputs are let go before the outputs are returned.
    fn now<'env, T, U>(
        &self,
        env: &'env Env,
        options: Unknown,
        read: impl FnOnce(&mut Pins) -> Result<T>,
        run: impl FnOnce(&deepseek::Session, T, &deepseek::RunOptions) -> Result<U>,
        write: impl FnOnce(&Env, U) -> Result<sys::napi_value>,
    ) -> napi::Result<Object<'env>> {
        guard(env, || {
            let session = open(&self.inner, "session")?;
            let options = RunOptions::read(options)?.for_call()?;
            let mut pins = Pins::default();
            let inputs = read(&mut pins);
            let outputs = inputs.and_then(|inputs| run(session, inputs, &options));
            let written = outputs.and_then(|outputs| write(env, outputs));
            pins.release(env).map_err(internal)?;
            Ok(Object::from_raw(env.raw(), written?))
        })
    }

    /// A run on another thread. It counts as under way from now on.
    fn later<'env, T: Send + 'static, U: Send + 'static>(
        &self,
        env: &'env Env,
        options: Unknown,
        read: impl FnOnce(&mut Pins) -> Result<T>,
        run: impl FnOnce(&deepseek::Session, T, &deepseek::RunOptions) -> Result<U> + Send + 'static,
        write: impl FnOnce(&Env, U) -> Result<sys::napi_value> + Send + 'static,
    ) -> napi::Result<Object<'env>> {
        match caught(|| self.prepare(env, options, read)) {
            Ok(Call { session, inputs, options, announced, held }) => {
                let work = move || {
                    let _under_way = announced;
                    run(&session, inputs, &options)
                };
                promise(env, held, work, write)
            }
            Err(e) => rejected(env, &e),
        }
    }

    fn prepare<T>(
        &self,
        env: &Env,
        options: Unknown,
        read: impl FnOnce(&mut Pins) -> Result<T>,
    ) -> Result<Call<T>> {
        let session = open(&self.inner, "session")?.clone();
        let options = RunOptions::read(options)?;
        let mut pins = Pins::default();
        let inputs = read(&mut pins);
        let call = inputs.and_then(|inputs| Ok((inputs, options.for_background(env)?)));
        match call {
            Ok((inputs, (options, held))) => {
                let announced = session.announce(&held.cancel);
                let held = Held { pins, ..held };
                Ok(Call { session, inputs, options, announced, held })
            }
            Err(e) => {
                pins.release(env).map_err(internal)?;
                Err(e)
            }
        }
    }

    fn read_inputs(&self, inputs: Unknown, pins: &mut Pins) -> Result<Vec<(String, Value)>> {
        let specs = open(&self.inner, "session")?.model().inputs();
        let mut take = Take::InPlace(pins);
        let mut values = Vec::new();
        for (name, value) in entries(inputs, "inputs")? {
            let ty = specs.iter().find(|spec| spec.name == name).map(|spec| &spec.ty);
            let value = read_value(value, ty, &format!("input '{name}'"), &mut take)?;
            values.push((name, value));
        }
        Ok(values)
    }
}

/// A run with everything it needs.
struct Call<T> {
    session: deepseek::Session,
    inputs: T,
    options: deepseek::RunOptions,
    /// Dropped with the work.
    announced: Announced,
    held: Held,
}

/// A profile in its forms, made on the thread of the run.
struct Texts {
    trace: String,
    json: String,
    html: String,
}

impl Texts {
    fn of(profile: &Profile) -> Self {
        Texts { trace: profile.to_chrome_trace(), json: profile.to_json(), html: profile.to_html() }
    }
}

fn read_lists(inputs: Unknown, pins: &mut Pins) -> Result<Lists> {
    let mut take = Take::InPlace(pins);
    let list = |(name, value): (String, Unknown)| {
        let tensors = read_tensors(value, &format!("input '{name}'"), &mut take)?;
        Ok((name, tensors))
    };
    entries(inputs, "inputs")?.into_iter().map(list).collect()
}

fn write_lists(env: &Env, lists: Lists) -> Result<sys::napi_value> {
    let mut object = Object::new(env).map_err(internal)?;
    for (name, tensors) in lists {
        object.set(name, write_tensors(env, tensors)?).map_err(internal)?;
    }
    Ok(object.raw())
}

fn write_outputs(env: &Env, outputs: Outputs) -> Result<sys::napi_value> {
    let mut object = Object::new(env).map_err(internal)?;
    for (name, value) in outputs {
        object.set(name, write_value(env, value)?).map_err(internal)?;
    }
    Ok(object.raw())
}

fn write_profiled(env: &Env, (outputs, texts): (Outputs, Texts)) -> Result<sys::napi_value> {
    let mut object = Object::new(env).map_err(internal)?;
    object.set("outputs", write_outputs(env, outputs)?).map_err(internal)?;
    object.set("trace", texts.trace).map_err(internal)?;
    object.set("json", texts.json).map_err(internal)?;
    object.set("html", texts.html).map_err(internal)?;
    Ok(object.raw())
}
