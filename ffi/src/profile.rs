//! What a run did, and what it took.

use crate::buffer::deepseek_buffer;
use crate::call::{Call, guard, guard_value};
use crate::error::{deepseek_error, deepseek_status};
use deepseek::Profile;

/// What ran, when and over how many bytes. Owned by the caller, immutable: any thread may
/// read it.
pub struct deepseek_profile {
    pub(crate) profile: Profile,
}

/// The profile in the Chrome trace format (JSON), which Perfetto opens. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_profile_get_trace(
    profile: *const deepseek_profile,
    out_trace: *mut *mut deepseek_buffer,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_trace, "out_trace")?;
        let profile = &call.get(profile, "profile")?.profile;
        out.give(deepseek_buffer::new(profile.to_chrome_trace()));
        Ok(())
    })
}

/// All figures of the run as a JSON object: `graph`, `formula`, `planned_bytes`,
/// `observed_bytes`, `arena_bytes`, `output_bytes`, `constant_bytes`, `duration_us`; `peak`
/// with the tensors alive then; time by operator and kernel in `kernels`; each node with
/// its tensors in `events`. What is not known is null. Keys are only added. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_profile_get_json(
    profile: *const deepseek_profile,
    out_json: *mut *mut deepseek_buffer,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_json, "out_json")?;
        let profile = &call.get(profile, "profile")?.profile;
        out.give(deepseek_buffer::new(profile.to_json()));
        Ok(())
    })
}

/// An HTML page that shows the run: memory over time, the arena, the largest tensors at
/// the peak, time by operator and node. It refers to nothing outside itself. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_profile_get_html(
    profile: *const deepseek_profile,
    out_html: *mut *mut deepseek_buffer,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_html, "out_html")?;
        let profile = &call.get(profile, "profile")?.profile;
        out.give(deepseek_buffer::new(profile.to_html()));
        Ok(())
    })
}

/// Frees a profile. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_profile_free(profile: *mut deepseek_profile) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| drop(call.take(profile)))
}
