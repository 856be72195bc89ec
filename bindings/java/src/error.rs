//! From a failure, or a panic, to an exception.

use deepseek::{Code, Error};
use jni::errors::{Error as JniError, ErrorPolicy, JniError as JniStatus};
use jni::objects::{JByteArray, JThrowable, JValue};
use jni::{Env, EnvUnowned, jni_sig, jni_str};
use std::any::Any;

/// Why a native method fails.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The library refused.
    Library(Error),
    /// A call into the virtual machine failed.
    Java(JniError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Library(error)
    }
}

impl From<JniError> for Failure {
    fn from(error: JniError) -> Self {
        Failure::Java(error)
    }
}

/// The body of a native method: what it returns is returned, what it fails with is
/// thrown, and a panic is thrown with the code `PANIC`.
pub(crate) fn native<'local, T: Default>(
    mut env: EnvUnowned<'local>,
    body: impl FnOnce(&mut Env<'local>) -> Result<T, Failure>,
) -> T {
    env.with_env(body).resolve::<Throw>()
}

/// Throws `ai.deepseek.DeepseekException` and returns zero or null, which Java never sees.
struct Throw;

impl<T: Default> ErrorPolicy<T, Failure> for Throw {
    type Captures<'local: 'method, 'method> = ();

    fn on_error<'local: 'method, 'method>(
        env: &mut Env<'local>,
        (): &mut (),
        failure: Failure,
    ) -> jni::errors::Result<T> {
        let error = match failure {
            Failure::Library(error) => error,
            // An exception of the virtual machine is pending already.
            Failure::Java(_) if env.exception_check() => return Ok(T::default()),
            Failure::Java(JniError::NullPtr(_)) => {
                let class = jni_str!("java/lang/NullPointerException");
                return match env.throw_new(class, jni_str!("an argument is null")) {
                    Ok(()) | Err(JniError::JavaException) => Ok(T::default()),
                    Err(e) => Err(e),
                };
            }
            Failure::Java(JniError::JniCall(JniStatus::NoMemory)) => {
                Error::new(Code::OutOfMemory, "the Java heap has no room for the result")
            }
            Failure::Java(e) => {
                Error::new(Code::Internal, format!("a call into Java failed: {e}; report this"))
            }
        };
        throw(env, &error)?;
        Ok(T::default())
    }

    fn on_panic<'local: 'method, 'method>(
        env: &mut Env<'local>,
        (): &mut (),
        payload: Box<dyn Any + Send>,
    ) -> jni::errors::Result<T> {
        let error = Error::from_panic(&*payload);
        throw(env, &error)?;
        Ok(T::default())
    }
}

fn throw(env: &mut Env<'_>, error: &Error) -> jni::errors::Result<()> {
    let message = env.byte_array_from_slice(error.message().as_bytes())?;
    let node = match error.node() {
        Some(node) => env.byte_array_from_slice(node.as_bytes())?,
        None => JByteArray::default(),
    };
    let exception = env.call_static_method(
        jni_str!("ai/deepseek/DeepseekException"),
        jni_str!("of"),
        jni_sig!((jint, [jbyte], [jbyte]) -> ai.deepseek.DeepseekException),
        &[JValue::Int(error.code().as_i32()), JValue::Object(&message), JValue::Object(&node)],
    )?;
    let exception = env.cast_local::<JThrowable>(exception.l()?)?;
    match env.throw(exception) {
        // This is how the crate says that the exception is pending now.
        Ok(()) | Err(JniError::JavaException) => Ok(()),
        Err(e) => Err(e),
    }
}
