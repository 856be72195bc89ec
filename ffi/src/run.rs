//! A run in the background.
//!
//! The result reaches the caller twice, as it likes: pushed to a callback on the
//! library's thread, and pulled with `deepseek_run_wait`. The thread works in this order:
//! run, `on_done`, `on_release`, wake the waiters; so whoever has waited knows that no
//! callback follows.

use crate::call::{Call, guard, guard_value};
use crate::error::{deepseek_error, deepseek_status};
use crate::outputs::deepseek_outputs;
use deepseek::{Code, Error, Lists, PendingRun, Result, RunOptions, Session, Value};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::ThreadId;
use std::time::Duration;

/// Called once when a background run has ended: with `DEEPSEEK_STATUS_OK` and outputs, or with a
/// status and an error. Both are borrowed for the call; take tensors from the outputs to
/// keep them. Must not throw. Freeing the run inside is allowed, waiting for it is not.
pub type deepseek_on_done = Option<
    unsafe extern "C" fn(
        user_data: *mut c_void,
        status: deepseek_status,
        outputs: *const deepseek_outputs,
        error: *const deepseek_error,
    ),
>;

/// Called once when a callback's `user_data` is no longer needed. Must not throw.
pub type deepseek_on_release = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// A run in the background. Owned by the caller; any thread may wait for it or cancel it.
pub struct deepseek_run {
    pending: Pending,
    /// The library's thread, once it has called back.
    thread: Arc<OnceLock<ThreadId>>,
}

enum Pending {
    Plain(PendingRun),
    Ragged(PendingRun<Lists>),
}

impl Pending {
    /// The result, once; `None` if it is not there in time.
    fn wait(&self, timeout: Option<Duration>) -> Result<Option<Result<deepseek_outputs>>> {
        Ok(match self {
            Pending::Plain(run) => run.wait(timeout)?.map(|r| r.and_then(deepseek_outputs::new)),
            Pending::Ragged(run) => {
                run.wait(timeout)?.map(|r| r.and_then(deepseek_outputs::of_lists))
            }
        })
    }

    fn cancel(&self) {
        match self {
            Pending::Plain(run) => run.cancel(),
            Pending::Ragged(run) => run.cancel(),
        }
    }
}

/// A caller's callbacks. Not armed until the background thread has them.
pub(crate) struct Listener {
    on_done: deepseek_on_done,
    on_release: deepseek_on_release,
    user_data: *mut c_void,
    armed: AtomicBool,
}

// SAFETY: `user_data` is only handed back to the callbacks, which the header says are
// called on a thread of the library.
unsafe impl Send for Listener {}

impl Listener {
    pub(crate) fn new(
        on_done: deepseek_on_done,
        on_release: deepseek_on_release,
        user_data: *mut c_void,
    ) -> Self {
        Listener { on_done, on_release, user_data, armed: AtomicBool::new(false) }
    }

    /// Calls back, on the run's thread, and releases.
    fn hear(self, thread: &OnceLock<ThreadId>, result: impl FnOnce() -> Result<deepseek_outputs>) {
        // From here on the caller was told that the run has started.
        self.armed.store(true, Ordering::Release);
        thread.get_or_init(|| std::thread::current().id());
        self.tell(result);
    }

    fn tell(&self, result: impl FnOnce() -> Result<deepseek_outputs>) {
        let Some(on_done) = self.on_done else { return };
        let null = std::ptr::null();
        match result() {
            // SAFETY: the caller passed this function for this `user_data`; the outputs
            // live until it has returned.
            Ok(outputs) => unsafe {
                on_done(self.user_data, 0, &raw const outputs, std::ptr::null());
            },
            Err(error) => {
                let (status, error) = (error.code().as_i32(), deepseek_error::new(error));
                // SAFETY: as above, for the error.
                unsafe { on_done(self.user_data, status, null, &raw const error) }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let (true, Some(on_release)) = (*self.armed.get_mut(), self.on_release) {
            // SAFETY: the caller passed this function for this `user_data`, and a value
            // is dropped once.
            unsafe { on_release(self.user_data) }
        }
    }
}

impl deepseek_run {
    pub(crate) fn start(
        session: &Session,
        inputs: Vec<(String, Value)>,
        options: &RunOptions,
        listener: Listener,
    ) -> Result<Self> {
        let thread = Arc::new(OnceLock::new());
        let here = thread.clone();
        let pending = session.run_async(inputs, options, move |result| {
            listener.hear(&here, || result.clone().and_then(deepseek_outputs::new));
        })?;
        Ok(deepseek_run { pending: Pending::Plain(pending), thread })
    }

    pub(crate) fn start_ragged(
        session: &Session,
        inputs: Lists,
        options: &RunOptions,
        listener: Listener,
    ) -> Result<Self> {
        let thread = Arc::new(OnceLock::new());
        let here = thread.clone();
        let pending = session.run_ragged_async(inputs, options, move |result| {
            listener.hear(&here, || result.clone().and_then(deepseek_outputs::of_lists));
        })?;
        Ok(deepseek_run { pending: Pending::Ragged(pending), thread })
    }

    /// Whether this is the run's own callback.
    fn inside_callback(&self) -> bool {
        self.thread.get() == Some(&std::thread::current().id())
    }
}

/// Waits until a background run has ended, its callbacks included, and takes the result.
/// Waits at most `timeout_ms` milliseconds, 0 only looks, a negative number waits as long
/// as it takes. If the run has not ended, `*out_done` is 0 and the status is
/// `DEEPSEEK_STATUS_OK`; if it has, `*out_done` is 1, and the status is that of the run, with
/// `*out_outputs` on success. Fails with `DEEPSEEK_STATUS_INVALID_STATE` if the result was taken
/// before, and inside the run's own callback. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_run_wait(
    run: *const deepseek_run,
    timeout_ms: i64,
    out_done: *mut i32,
    out_outputs: *mut *mut deepseek_outputs,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let done = call.out(out_done, "out_done")?;
        let out = call.out(out_outputs, "out_outputs")?;
        let run = call.get(run, "run")?;
        if run.inside_callback() {
            let message = "a callback cannot wait for its own run; it was given the result";
            return Err(Error::new(Code::InvalidState, message));
        }
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        let Some(result) = run.pending.wait(timeout)? else {
            done.set(0);
            return Ok(());
        };
        done.set(1);
        out.give(result?);
        Ok(())
    })
}

/// Cancels a background run. Any thread, any number of times; returns at once; the run
/// ends at its next kernel boundary with `DEEPSEEK_STATUS_CANCELLED`. Nothing for NULL.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_run_cancel(run: *const deepseek_run) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| {
        if let Some(run) = call.peek(run) {
            run.pending.cancel();
        }
    })
}

/// Frees a background run. One that has not ended is cancelled and waited for, so no
/// callback follows; inside the run's own callback it does not wait. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_run_free(run: *mut deepseek_run) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| {
        if let Some(run) = call.take(run)
            && !run.inside_callback()
        {
            run.pending.cancel();
            // A result that was taken before is no error here.
            let _ = run.pending.wait(None);
        }
    })
}
