//! The engine-wide resources.

use crate::error::{guard, invalid, open};
use crate::tensor::{self, whole};
use deepseek::Result;
use napi::bindgen_prelude::*;
use napi_derive::napi;

/// How a runtime is set up; every field is optional.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct RuntimeOptions {
    /// Computing threads; absent takes `DEEPSEEK_NUM_THREADS`, or what the machine has.
    pub threads: Option<f64>,
    /// Bytes that all sessions together may hold for working memory; absent sets no bound.
    pub memory_budget_bytes: Option<f64>,
    /// Instruction-set level: `scalar`, `avx2`, `avxvnni`, `avx512`, `avx512vnni`,
    /// `avx512bf16` or `amx`; absent takes the best.
    pub isa: Option<String>,
}

/// Threads, instruction set and byte budget. Make one a process, or one a worker.
#[napi]
pub struct Runtime {
    inner: Option<deepseek::Runtime>,
}

#[napi]
impl Runtime {
    /// A runtime. Throws `INVALID_ARGUMENT`, or `UNSUPPORTED` for an instruction set that
    /// this processor lacks.
    #[napi(constructor, ts_args_type = "options?: RuntimeOptions")]
    pub fn new(env: &Env, options: Unknown) -> napi::Result<Self> {
        guard(env, || {
            let options: RuntimeOptions = tensor::options(options)?;
            let isa = options.isa.as_deref().map(deepseek::isa::by_name).transpose()?;
            let options = deepseek::options_from_env(deepseek::RuntimeOptions {
                threads: whole(options.threads.unwrap_or(0.0), "options.threads")? as usize,
                memory_budget_bytes: whole(
                    options.memory_budget_bytes.unwrap_or(0.0),
                    "options.memoryBudgetBytes",
                )?,
                isa,
            })?;
            Ok(Runtime { inner: Some(deepseek::Runtime::new(&options)?) })
        })
    }

    /// Computing threads.
    #[napi(getter)]
    pub fn threads(&self, env: &Env) -> napi::Result<u32> {
        guard(env, || Ok(self.get()?.threads() as u32))
    }

    /// Instruction-set level in use.
    #[napi(getter)]
    pub fn isa(&self, env: &Env) -> napi::Result<&'static str> {
        guard(env, || Ok(self.get()?.isa().level().name()))
    }

    /// Bytes of working memory that sessions hold now.
    #[napi(getter)]
    pub fn reserved_bytes(&self, env: &Env) -> napi::Result<f64> {
        guard(env, || Ok(self.get()?.reserved_bytes() as f64))
    }

    /// Lets go of the runtime. What was opened with it goes on; its threads end with the
    /// last of them.
    #[napi]
    pub fn close(&mut self) {
        self.inner = None;
    }

    pub(crate) fn get(&self) -> Result<&deepseek::Runtime> {
        open(&self.inner, "runtime")
    }

    /// The runtime in an argument.
    pub(crate) fn from_arg(value: Unknown) -> Result<deepseek::Runtime> {
        let runtime = ClassInstance::<Runtime>::from_unknown(value);
        let runtime = runtime.map_err(|_| invalid("runtime must be a Runtime"))?;
        runtime.get().cloned()
    }
}
