//! Promises: the work on a thread of its own, everything that touches JavaScript on the
//! thread that owns it.
//!
//! Node's own thread pool is left alone: it has four threads, and file and DNS calls
//! wait for them.

use crate::error::{caught, internal, thrown};
use crate::signal::Listener;
use crate::state::state;
use crate::tensor::Pins;
use deepseek::{Cancel, Code, Error, Result};
use napi::JsDeferred;
use napi::bindgen_prelude::*;
use std::sync::mpsc::sync_channel;

type Resolver = Box<dyn FnOnce(Env) -> napi::Result<sys::napi_value>>;

/// What a background call holds of JavaScript until its promise settles.
#[derive(Default)]
pub(crate) struct Held {
    /// Ends the work early.
    pub(crate) cancel: Cancel,
    /// Arrays that the work reads in place.
    pub(crate) pins: Pins,
    /// The caller's `AbortSignal`.
    pub(crate) listener: Option<Listener>,
}

/// A promise of what `work` computes on another thread and `finish` turns into a
/// JavaScript value on this one.
pub(crate) fn promise<'env, T, W, F>(
    env: &'env Env,
    held: Held,
    work: W,
    finish: F,
) -> napi::Result<Object<'env>>
where
    T: Send + 'static,
    W: FnOnce() -> Result<T> + Send + 'static,
    F: FnOnce(&Env, T) -> Result<sys::napi_value> + Send + 'static,
{
    let (deferred, promise) = env.create_deferred::<sys::napi_value, Resolver>()?;
    let ticket = state(env)?.calls.enter(&held.cancel);
    // The job travels through a channel so that it is still here, with what it holds of
    // JavaScript, if there is no thread for it.
    let (hand_over, job) = sync_channel::<(JsDeferred<_, Resolver>, Held, W, F)>(1);
    let spawned = std::thread::Builder::new().name("deepseek-node".into()).spawn(move || {
        let Ok((deferred, held, work, finish)) = job.recv() else { return };
        let result = caught(work);
        drop(ticket);
        deferred.resolve(Box::new(move |env| settle(&env, held, result, finish)));
    });
    let job = (deferred, held, work, finish);
    match spawned {
        Ok(_) => {
            if let Err(back) = hand_over.send(job) {
                refuse(back.0, Error::new(Code::Internal, "the thread of the call is gone"));
            }
        }
        Err(e) => {
            let message = format!("cannot start a thread for the call: {e}");
            refuse(job, Error::new(Code::OutOfMemory, message));
        }
    }
    Ok(promise)
}

/// A promise that is rejected with `error`.
pub(crate) fn rejected<'env>(env: &'env Env, error: &Error) -> napi::Result<Object<'env>> {
    let promise = PromiseRaw::<sys::napi_value>::reject(env, thrown(env, error, None))?;
    Ok(Object::from_raw(env.raw(), promise.raw()))
}

fn refuse<T, W, F>(
    (deferred, held, _, finish): (JsDeferred<sys::napi_value, Resolver>, Held, W, F),
    error: Error,
) where
    T: 'static,
    F: FnOnce(&Env, T) -> Result<sys::napi_value> + 'static,
{
    deferred.resolve(Box::new(move |env| settle(&env, held, Err(error), finish)));
}

/// The value of the promise, or the error it is rejected with.
fn settle<T>(
    env: &Env,
    held: Held,
    result: Result<T>,
    finish: impl FnOnce(&Env, T) -> Result<sys::napi_value>,
) -> napi::Result<sys::napi_value> {
    let result = result.and_then(|value| caught(|| finish(env, value)));
    held.pins.release(env).map_err(internal).map_err(|e| thrown(env, &e, None))?;
    let reason = match held.listener {
        Some(listener) => listener.remove(env)?,
        None => None,
    };
    result.map_err(|error| {
        let cause = reason.filter(|_| error.code() == Code::Cancelled);
        thrown(env, &error, cause)
    })
}
