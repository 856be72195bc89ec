//! The flag that ends runs early.

use crate::call::{Call, guard, guard_value};
use crate::error::{deepseek_error, deepseek_status};
use deepseek::Cancel;

/// A flag that any thread may raise to end the runs that were given it. Shared: any
/// thread may use it. It stays raised: make one for each run, or for each group of runs
/// that ends together.
pub struct deepseek_cancel {
    pub(crate) flag: Cancel,
}

/// Makes a flag that is not raised. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_cancel_new(
    out_cancel: *mut *mut deepseek_cancel,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_cancel, "out_cancel")?;
        out.give(deepseek_cancel { flag: Cancel::new() });
        Ok(())
    })
}

/// Raises the flag: runs that were given it end with `DEEPSEEK_STATUS_CANCELLED` at their
/// next kernel boundary. Any thread, any number of times; returns at once. Nothing for
/// NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_cancel_set(cancel: *const deepseek_cancel) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| {
        if let Some(cancel) = call.peek(cancel) {
            cancel.flag.cancel();
        }
    })
}

/// Whether the flag is raised: 1 or 0; 0 for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_cancel_get(cancel: *const deepseek_cancel) -> i32 {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, 0, |call| {
        call.peek(cancel).is_some_and(|c| c.flag.is_cancelled()) as i32
    })
}

/// Frees a flag. Runs that were given it go on. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_cancel_free(cancel: *mut deepseek_cancel) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| drop(call.take(cancel)))
}
