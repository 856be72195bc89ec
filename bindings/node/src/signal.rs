//! `RunOptions`: deadlines and `AbortSignal`s.

use crate::background::Held;
use crate::error::{internal, invalid};
use crate::tensor::options;
use deepseek::{Cancel, Result};
use napi::bindgen_prelude::*;
use napi_derive::napi;
use std::time::Duration;

/// How a call is made.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct RunOptions<'env> {
    /// Milliseconds the call may take, waiting for its turn included. After that it fails
    /// with `TIMEOUT`.
    pub timeout_ms: Option<f64>,
    /// Ends the call with `CANCELLED`, the signal's reason being the error's `cause`. A
    /// synchronous call looks at it once, before it starts.
    #[napi(ts_type = "AbortSignal")]
    pub signal: Option<Object<'env>>,
    /// Runs a padded batch without its padding. Each row of its mask is ones, then zeros;
    /// outputs are zero where it hides. `UNSUPPORTED` for models that `checkRagged` refuses.
    pub ragged: Option<bool>,
}

impl<'env> RunOptions<'env> {
    /// The options in `value`; none for `undefined`.
    pub(crate) fn read(value: Unknown<'env>) -> Result<Self> {
        let options: RunOptions = options(value)?;
        options.deadline()?;
        Ok(options)
    }

    fn deadline(&self) -> Result<Option<Duration>> {
        let Some(ms) = self.timeout_ms else { return Ok(None) };
        let duration = Duration::try_from_secs_f64(ms / 1000.0);
        let wrong =
            |_| invalid(format!("options.timeoutMs is {ms}, expected milliseconds from 0 on"));
        duration.map(Some).map_err(wrong)
    }

    /// For the library. The flag is raised if the signal has fired already.
    pub(crate) fn for_call(&self) -> Result<deepseek::RunOptions> {
        let cancel = Cancel::new();
        if let Some(signal) = &self.signal
            && signal.get_named_property::<bool>("aborted").map_err(not_a_signal)?
        {
            cancel.cancel();
        }
        Ok(deepseek::RunOptions {
            timeout: self.deadline()?,
            cancel: Some(cancel),
            ragged: self.ragged.unwrap_or_default(),
        })
    }

    /// As [`RunOptions::for_call`], and listens to the signal. The deadline counts from now.
    pub(crate) fn for_background(&self, env: &Env) -> Result<(deepseek::RunOptions, Held)> {
        let options = self.for_call()?;
        let deepseek::RunOptions { timeout, cancel, ragged } = options;
        let flag = cancel.unwrap_or_default();
        let listener = match &self.signal {
            None => None,
            Some(signal) => Some(Listener::add(env, signal, &flag)?),
        };
        let cancel = match timeout {
            Some(timeout) => flag.timeout(timeout),
            None => flag,
        };
        let held = Held { cancel: cancel.clone(), listener, ..Held::default() };
        Ok((deepseek::RunOptions { timeout: None, cancel: Some(cancel), ragged }, held))
    }
}

fn not_a_signal(error: napi::Error) -> deepseek::Error {
    invalid(format!("options.signal is not an AbortSignal: {}", error.reason))
}

type EventMethod<'env> = Function<'env, FnArgs<(String, Unknown<'env>)>, Unknown<'env>>;

/// A handler of `abort`, to be taken off the signal when the call is over: signals live
/// as long as servers do.
pub(crate) struct Listener {
    signal: ObjectRef<false>,
    handler: ObjectRef<false>,
}

impl Listener {
    fn add(env: &Env, signal: &Object, cancel: &Cancel) -> Result<Self> {
        let cancel = cancel.clone();
        let handler = env
            .create_function_from_closure::<(), (), _>("abort", move |_| {
                cancel.cancel();
                Ok(())
            })
            .map_err(internal)?;
        call(signal, "addEventListener", handler.to_unknown()).map_err(not_a_signal)?;
        let handler = Object::from_raw(env.raw(), handler.raw());
        Ok(Listener {
            signal: signal.create_ref().map_err(internal)?,
            handler: handler.create_ref().map_err(internal)?,
        })
    }

    /// Takes the handler off. Returns the signal's reason if it has fired.
    pub(crate) fn remove<'env>(self, env: &'env Env) -> napi::Result<Option<Unknown<'env>>> {
        let signal = self.signal.get_value(env)?;
        call(&signal, "removeEventListener", self.handler.get_value(env)?.to_unknown())?;
        let fired = signal.get_named_property::<bool>("aborted")?;
        let reason =
            if fired { Some(signal.get_named_property::<Unknown>("reason")?) } else { None };
        self.handler.unref(env)?;
        self.signal.unref(env)?;
        Ok(reason)
    }
}

fn call<'env>(signal: &Object<'env>, method: &str, handler: Unknown<'env>) -> napi::Result<()> {
    let method: EventMethod = signal.get_named_property(method)?;
    method.apply(signal, ("abort".to_owned(), handler).into()).map(drop)
}
