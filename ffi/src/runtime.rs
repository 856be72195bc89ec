//! Threads, instruction set and byte budget of a process.

use crate::call::{Call, guard, guard_value, invalid};
use crate::error::{deepseek_error, deepseek_status};
use crate::options::deepseek_runtime_options;
use deepseek::isa::{self, Level};
use deepseek::{Result, Runtime, RuntimeOptions};

/// The best instruction set that the processor has.
pub const DEEPSEEK_ISA_BEST: i32 = 0;
/// Portable code.
pub const DEEPSEEK_ISA_SCALAR: i32 = 1;
/// AVX2 with FMA.
pub const DEEPSEEK_ISA_AVX2: i32 = 2;
/// AVX-512 (F, BW, VL, DQ).
pub const DEEPSEEK_ISA_AVX512: i32 = 3;
/// AVX-VNNI over AVX2: 8-bit products.
pub const DEEPSEEK_ISA_AVX_VNNI: i32 = 4;
/// AVX512-VNNI over AVX-512: 8-bit products.
pub const DEEPSEEK_ISA_AVX512_VNNI: i32 = 5;
/// AVX512-BF16 over AVX512-VNNI: bf16 products.
pub const DEEPSEEK_ISA_AVX512_BF16: i32 = 6;
/// AMX-INT8 and AMX-BF16 over AVX512-BF16: products of tiles.
pub const DEEPSEEK_ISA_AMX: i32 = 7;

/// Threads, instruction set and byte budget, for all models opened with it. Shared. Make
/// one a process.
pub struct deepseek_runtime {
    pub(crate) runtime: Runtime,
}

fn number(level: Level) -> i32 {
    match level {
        Level::Scalar => DEEPSEEK_ISA_SCALAR,
        Level::Avx2 => DEEPSEEK_ISA_AVX2,
        Level::Avx512 => DEEPSEEK_ISA_AVX512,
        Level::AvxVnni => DEEPSEEK_ISA_AVX_VNNI,
        Level::Avx512Vnni => DEEPSEEK_ISA_AVX512_VNNI,
        Level::Avx512Bf16 => DEEPSEEK_ISA_AVX512_BF16,
        Level::Amx => DEEPSEEK_ISA_AMX,
    }
}

fn facade_options(options: deepseek_runtime_options) -> Result<RuntimeOptions> {
    let isa = match options.isa {
        DEEPSEEK_ISA_BEST => None,
        wanted => {
            let level = Level::ALL.into_iter().find(|l| number(*l) == wanted).ok_or_else(|| {
                invalid(format!("options->isa is {wanted}; known are 0 to {DEEPSEEK_ISA_AMX}"))
            })?;
            Some(isa::at(level)?)
        }
    };
    deepseek::options_from_env(RuntimeOptions {
        threads: options.threads as usize,
        memory_budget_bytes: options.memory_budget_bytes,
        isa,
    })
}

/// Makes a runtime. `options` may be NULL. Fails with `DEEPSEEK_STATUS_INVALID_ARGUMENT`
/// for more than 1024 threads or an unknown instruction set,
/// `DEEPSEEK_STATUS_UNSUPPORTED` for one that the processor lacks. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_runtime_new(
    options: *const deepseek_runtime_options,
    out_runtime: *mut *mut deepseek_runtime,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_runtime, "out_runtime")?;
        let options = facade_options(call.options(options, "options")?)?;
        out.give_shared(deepseek_runtime { runtime: Runtime::new(&options)? });
        Ok(())
    })
}

/// Number of computing threads, the caller's among them; 0 for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_runtime_get_threads(runtime: *const deepseek_runtime) -> u32 {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, 0, |call| {
        call.peek(runtime).map_or(0, |r| r.runtime.threads() as u32)
    })
}

/// Instruction set in use, one of `DEEPSEEK_ISA_…` but never `DEEPSEEK_ISA_BEST`; 0 for
/// NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_runtime_get_isa(runtime: *const deepseek_runtime) -> i32 {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, 0, |call| {
        call.peek(runtime).map_or(0, |r| number(r.runtime.isa().level()))
    })
}

/// Bytes of working memory that sessions of this runtime hold now; 0 for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_runtime_get_reserved_bytes(
    runtime: *const deepseek_runtime,
) -> u64 {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, 0, |call| {
        call.peek(runtime).map_or(0, |r| r.runtime.reserved_bytes())
    })
}

/// Adds one to the count of a runtime and returns it; NULL for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_runtime_ref(
    runtime: *const deepseek_runtime,
) -> *mut deepseek_runtime {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, std::ptr::null_mut(), |call| call.share(runtime))
}

/// Takes one from the count of a runtime. Models keep theirs. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_runtime_free(runtime: *mut deepseek_runtime) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| drop(call.take_shared(runtime)))
}
