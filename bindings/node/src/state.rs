//! What each JavaScript environment (the main thread, or a worker) has of its own.
//!
//! A background call may read memory that belongs to an environment: the typed arrays
//! it was given. So when an environment is torn down, by `worker.terminate()` or
//! `process.exit()`, its calls are cancelled and waited for before its memory goes; they
//! end within one kernel.

use crate::error::ErrorClass;
use deepseek::Cancel;
use napi::bindgen_prelude::*;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// State of one environment.
pub(crate) struct State {
    /// `DeepseekError`, once the loader has handed it over.
    pub(crate) error_class: Option<ErrorClass>,
    /// Background calls under way.
    pub(crate) calls: Arc<Calls>,
}

/// The state of `env`, made by the first call.
pub(crate) fn state(env: &Env) -> napi::Result<&'static mut State> {
    if env.get_instance_data::<State>()?.is_none() {
        let calls = Arc::new(Calls::default());
        env.add_env_cleanup_hook(calls.clone(), |calls| calls.end())?;
        env.set_instance_data(State { error_class: None, calls }, (), |_| ())?;
    }
    env.get_instance_data::<State>()?
        .ok_or_else(|| napi::Error::from_reason("the environment keeps no instance data"))
}

/// Background calls that may be reading memory of the environment.
#[derive(Default)]
pub(crate) struct Calls {
    running: Mutex<Vec<Cancel>>,
    ended: Condvar,
}

impl Calls {
    /// Adds a call; it counts until the ticket is dropped.
    pub(crate) fn enter(self: &Arc<Self>, cancel: &Cancel) -> Ticket {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(cancel.clone());
        Ticket { calls: self.clone(), cancel: cancel.clone() }
    }

    fn end(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().for_each(Cancel::cancel);
        while !running.is_empty() {
            running = self.ended.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A background call's entry.
pub(crate) struct Ticket {
    calls: Arc<Calls>,
    cancel: Cancel,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut running = self.calls.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(i) = running.iter().position(|c| c.same(&self.cancel)) {
            running.swap_remove(i);
        }
        self.calls.ended.notify_all();
    }
}
