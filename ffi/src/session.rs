//! Running a model.

use crate::call::{Call, guard, guard_value};
use crate::error::{deepseek_error, deepseek_status};
use crate::model::deepseek_model;
use crate::options::{deepseek_run_options, deepseek_session_options, no_flags};
use crate::outputs::deepseek_outputs;
use crate::profile::deepseek_profile;
use crate::run::{Listener, deepseek_on_done, deepseek_on_release, deepseek_run};
use crate::tensor::deepseek_tensor;
use deepseek::{Code, Error, Lists, Result, Session, Value};
use std::ffi::{c_char, c_void};

/// Working memory to run a model. Any thread may use it; runs take turns, so a service
/// makes one session a thread. Freeing it must not race with the start of another call;
/// closing it may.
pub struct deepseek_session {
    pub(crate) session: Session,
}

/// Makes a session. It holds no memory until its first run. `options` may be NULL.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_session_new(
    model: *const deepseek_model,
    options: *const deepseek_session_options,
    out_session: *mut *mut deepseek_session,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_session, "out_session")?;
        let model = &call.get(model, "model")?.model;
        no_flags(call.options(options, "options")?.flags, "options")?;
        out.give(deepseek_session { session: model.session() });
        Ok(())
    })
}

/// Named inputs from parallel arrays.
fn named_inputs(
    call: &Call,
    names: *const *const c_char,
    tensors: *const *const deepseek_tensor,
    count: usize,
) -> Result<Vec<(String, Value)>> {
    let names = call.texts(names, count, "names")?;
    let tensors = call.handles(tensors, count, "tensors")?;
    let pairs = names.into_iter().zip(tensors);
    Ok(pairs.map(|(name, t)| (name.to_owned(), t.tensor.clone().into())).collect())
}

/// Runs the model on `count` inputs, in any order: input `names[i]` is `tensors[i]`.
/// `options` may be NULL. Fails with `DEEPSEEK_STATUS_NOT_FOUND` for an unknown name;
/// `DEEPSEEK_STATUS_INVALID_ARGUMENT` for a missing or doubled one;
/// `DEEPSEEK_STATUS_DTYPE_MISMATCH`, `DEEPSEEK_STATUS_SHAPE_MISMATCH` naming the input and both
/// sides; `DEEPSEEK_STATUS_CANCELLED`, `DEEPSEEK_STATUS_TIMEOUT`,
/// `DEEPSEEK_STATUS_BUDGET_EXCEEDED`, `DEEPSEEK_STATUS_OUT_OF_MEMORY`;
/// `DEEPSEEK_STATUS_INVALID_STATE` once closed; `DEEPSEEK_STATUS_POISONED` after a panic; or what a
/// node reports. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_session_run(
    session: *const deepseek_session,
    names: *const *const c_char,
    tensors: *const *const deepseek_tensor,
    count: usize,
    options: *const deepseek_run_options,
    out_outputs: *mut *mut deepseek_outputs,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_outputs, "out_outputs")?;
        let session = call.get(session, "session")?.session.clone();
        let inputs = named_inputs(call, names, tensors, count)?;
        let options = call.run_options(options)?;
        out.give(deepseek_outputs::new(session.run(inputs, &options)?)?);
        Ok(())
    })
}

/// Named lists from flat arrays: the tensors of one input follow those of the input before.
fn named_lists(
    call: &Call,
    names: *const *const c_char,
    counts: *const usize,
    count: usize,
    tensors: *const *const deepseek_tensor,
) -> Result<Lists> {
    let names = call.texts(names, count, "names")?;
    let counts = call.slice(counts, count, "counts")?;
    let total = counts.iter().try_fold(0usize, |n, &c| n.checked_add(c));
    let total = total.ok_or_else(|| {
        Error::new(Code::InvalidArgument, "counts add up to more than memory can hold")
    })?;
    let mut tensors = call.handles(tensors, total, "tensors")?.into_iter();
    let list = |(name, &n): (&str, &usize)| {
        let list = tensors.by_ref().take(n).map(|t| t.tensor.clone()).collect();
        (name.to_owned(), list)
    };
    Ok(names.into_iter().zip(counts).map(list).collect())
}

/// Runs sequences of different lengths together, without padding. Each gives the bits that
/// `deepseek_session_run` gives for it alone: batch 1, masks all ones.
///
/// Input `names[i]` has `counts[i]` tensors, which follow those of the input before in
/// `tensors`: for an input `[batch, seq, …]` one `[len, …]` for each sequence, for one
/// `[batch, …]` one `[…]` for each, for others one. Masks may be left out. Every output is a
/// sequence (`deepseek_outputs_count_items`, `deepseek_outputs_get_item`) in the same form.
/// `options` may be NULL; its field `ragged` has no effect here. Fails as
/// `deepseek_model_check_ragged` and `deepseek_session_run`, with
/// `DEEPSEEK_STATUS_SHAPE_MISMATCH` for lengths that contradict each other or that the model does
/// not take, `DEEPSEEK_STATUS_INVALID_ARGUMENT` for no or an empty sequence and for a mask that
/// hides something. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_session_run_ragged(
    session: *const deepseek_session,
    names: *const *const c_char,
    counts: *const usize,
    count: usize,
    tensors: *const *const deepseek_tensor,
    options: *const deepseek_run_options,
    out_outputs: *mut *mut deepseek_outputs,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_outputs, "out_outputs")?;
        let session = call.get(session, "session")?.session.clone();
        let inputs = named_lists(call, names, counts, count, tensors)?;
        let options = call.run_options(options)?;
        out.give(deepseek_outputs::of_lists(session.run_ragged(inputs, &options)?)?);
        Ok(())
    })
}

/// As `deepseek_session_run`, and `*out_profile` receives what ran, when and over how many
/// bytes (`deepseek_profile_get_trace`, `deepseek_profile_get_json`,
/// `deepseek_profile_get_html`). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_session_run_profiled(
    session: *const deepseek_session,
    names: *const *const c_char,
    tensors: *const *const deepseek_tensor,
    count: usize,
    options: *const deepseek_run_options,
    out_outputs: *mut *mut deepseek_outputs,
    out_profile: *mut *mut deepseek_profile,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_outputs, "out_outputs")?;
        let out_profile = call.out(out_profile, "out_profile")?;
        let session = call.get(session, "session")?.session.clone();
        let inputs = named_inputs(call, names, tensors, count)?;
        let options = call.run_options(options)?;
        let (outputs, profile) = session.run_profiled(inputs, &options, true)?;
        let missing = || Error::new(Code::Internal, "a profiled run yielded no profile");
        let (outputs, profile) = (deepseek_outputs::new(outputs)?, profile.ok_or_else(missing)?);
        out_profile.give(deepseek_profile { profile });
        out.give(outputs);
        Ok(())
    })
}

/// Starts a run in the background, see `deepseek_session_run`. The inputs are kept as long
/// as needed. `on_done` (may be NULL) is called exactly once, on a thread of the library,
/// whether the run succeeds, fails or is cancelled; then `on_release(user_data)` (may be
/// NULL), exactly once. If this call itself fails, neither is called. Free `*out_run` with
/// `deepseek_run_free`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_session_run_async(
    session: *const deepseek_session,
    names: *const *const c_char,
    tensors: *const *const deepseek_tensor,
    count: usize,
    options: *const deepseek_run_options,
    on_done: deepseek_on_done,
    on_release: deepseek_on_release,
    user_data: *mut c_void,
    out_run: *mut *mut deepseek_run,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_run, "out_run")?;
        let session = call.get(session, "session")?.session.clone();
        let inputs = named_inputs(call, names, tensors, count)?;
        let options = call.run_options(options)?;
        let listener = Listener::new(on_done, on_release, user_data);
        out.give(deepseek_run::start(&session, inputs, &options, listener)?);
        Ok(())
    })
}

/// As `deepseek_session_run_async`, for `deepseek_session_run_ragged`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_session_run_ragged_async(
    session: *const deepseek_session,
    names: *const *const c_char,
    counts: *const usize,
    count: usize,
    tensors: *const *const deepseek_tensor,
    options: *const deepseek_run_options,
    on_done: deepseek_on_done,
    on_release: deepseek_on_release,
    user_data: *mut c_void,
    out_run: *mut *mut deepseek_run,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_run, "out_run")?;
        let session = call.get(session, "session")?.session.clone();
        let inputs = named_lists(call, names, counts, count, tensors)?;
        let options = call.run_options(options)?;
        let listener = Listener::new(on_done, on_release, user_data);
        out.give(deepseek_run::start_ragged(&session, inputs, &options, listener)?);
        Ok(())
    })
}

/// Cancels every run of this session that is under way or waiting for its turn. Any
/// thread; returns at once; the runs end at their next kernel boundary with
/// `DEEPSEEK_STATUS_CANCELLED`. Flags that those runs were given are raised. Nothing for
/// NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_session_cancel(session: *const deepseek_session) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| {
        if let Some(s) = call.peek(session) {
            s.session.cancel();
        }
    })
}

/// Cancels running calls, refuses new ones (`DEEPSEEK_STATUS_INVALID_STATE`) and gives the
/// working memory back when the last has ended. Any thread, any number of times. Nothing
/// for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_session_close(session: *const deepseek_session) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| {
        if let Some(s) = call.peek(session) {
            s.session.close();
        }
    })
}

/// Gives the working memory back unless a run is under way; the next run allocates it
/// again. Nothing for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_session_trim(session: *const deepseek_session) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| {
        if let Some(s) = call.peek(session) {
            s.session.trim();
        }
    })
}

/// Most bytes that the last successful run had in use at once beyond the weights; 0
/// before one, and for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_session_get_observed_bytes(
    session: *const deepseek_session,
) -> u64 {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, 0, |call| {
        call.peek(session).map_or(0, |s| s.session.observed_bytes())
    })
}

/// Frees a session. Background runs go on. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_session_free(session: *mut deepseek_session) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| drop(call.take(session)))
}
