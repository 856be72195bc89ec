//! `ai.deepseek.Library`, `NativeObject`, `Runtime` and `CancelToken`.

use crate::error::native;
use crate::handle;
use crate::wire::{self, TextsWriter};
use deepseek::{Cancel, Code, DType, Error, Runtime, RuntimeOptions, isa};
use jni::objects::{JByteArray, JClass, JObject};
use jni::sys::{jboolean, jint, jlong};
use jni::{EnvUnowned, jni_mangle};

/// Version of the library.
#[jni_mangle("ai.deepseek.Library")]
pub fn version<'l>(env: EnvUnowned<'l>, _class: JClass<'l>) -> JByteArray<'l> {
    native(env, |env| wire::bytes(env, deepseek::VERSION.as_bytes()))
}

/// Name and number of each status code, then of each element type with its bits.
#[jni_mangle("ai.deepseek.Library")]
pub fn constants<'l>(env: EnvUnowned<'l>, _class: JClass<'l>) -> JByteArray<'l> {
    native(env, |env| {
        let mut out = TextsWriter::default();
        for code in Code::ALL {
            out.push(&format!("code {code} {}", code.as_i32()))?;
        }
        for dtype in DType::ALL {
            out.push(&format!("dtype {dtype} {} {}", dtype as i32, dtype.bits()))?;
        }
        out.finish(env)
    })
}

/// How many objects Java holds.
#[jni_mangle("ai.deepseek.Library")]
pub fn live_objects<'l>(env: EnvUnowned<'l>, _class: JClass<'l>) -> jlong {
    native(env, |_| Ok(handle::count() as jlong))
}

/// Bytes that tensors hold on the library's heap.
#[jni_mangle("ai.deepseek.Library")]
pub fn heap_bytes<'l>(env: EnvUnowned<'l>, _class: JClass<'l>) -> jlong {
    native(env, |_| Ok(deepseek::heap_bytes() as jlong))
}

/// Gives an object back.
#[jni_mangle("ai.deepseek.NativeObject")]
pub fn free<'l>(env: EnvUnowned<'l>, _class: JClass<'l>, handle: jlong) {
    native(env, |_| {
        handle::free(handle);
        Ok(())
    })
}

/// Makes a runtime; an empty `isa` takes the best.
#[jni_mangle("ai.deepseek.Runtime")]
pub fn create<'l>(
    env: EnvUnowned<'l>,
    _class: JClass<'l>,
    threads: jint,
    isa: JByteArray<'l>,
    memory_budget_bytes: jlong,
) -> jlong {
    native(env, |env| {
        let name = wire::text(env, &isa)?;
        let negative = |what: &str, value: jlong| {
            let message = format!("{what} is {value}; take 0 for the default");
            Error::new(Code::InvalidArgument, message)
        };
        let options = RuntimeOptions {
            threads: usize::try_from(threads).map_err(|_| negative("threads", threads.into()))?,
            memory_budget_bytes: u64::try_from(memory_budget_bytes)
                .map_err(|_| negative("memoryBudgetBytes", memory_budget_bytes))?,
            isa: if name.is_empty() { None } else { Some(isa::by_name(&name)?) },
        };
        Ok(handle::give(Runtime::new(&deepseek::options_from_env(options)?)?))
    })
}

/// Number of computing threads.
#[jni_mangle("ai.deepseek.Runtime")]
pub fn threads<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> jint {
    native(env, |_| Ok(handle::get::<Runtime>(handle)?.threads() as jint))
}

/// Name of the instruction-set level in use.
#[jni_mangle("ai.deepseek.Runtime")]
pub fn isa<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> JByteArray<'l> {
    native(env, |env| {
        let runtime = handle::get::<Runtime>(handle)?;
        wire::bytes(env, runtime.isa().level().name().as_bytes())
    })
}

/// Bytes of working memory that sessions hold now.
#[jni_mangle("ai.deepseek.Runtime", "reserved")]
pub fn reserved_bytes<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> jlong {
    native(env, |_| Ok(handle::get::<Runtime>(handle)?.reserved_bytes() as jlong))
}

/// Makes a cancel flag.
#[jni_mangle("ai.deepseek.CancelToken", "create")]
pub fn create_token<'l>(env: EnvUnowned<'l>, _class: JClass<'l>) -> jlong {
    native(env, |_| Ok(handle::give(Cancel::new())))
}

/// Raises a cancel flag.
#[jni_mangle("ai.deepseek.CancelToken", "cancel")]
pub fn cancel_token<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) {
    native(env, |_| {
        handle::get::<Cancel>(handle)?.cancel();
        Ok(())
    })
}

/// Whether a cancel flag is up.
#[jni_mangle("ai.deepseek.CancelToken", "isCancelled")]
pub fn is_token_cancelled<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> jboolean {
    native(env, |_| Ok(handle::get::<Cancel>(handle)?.is_cancelled()))
}
