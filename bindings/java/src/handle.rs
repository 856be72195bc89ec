//! Objects that Java holds, by number.
//!
//! Numbers are never used twice, so a call after `close`, or one that races with it,
//! finds nothing and fails with `InvalidState`; it cannot reach another object. A call
//! that found its object holds a reference of its own until it returns.

use crate::embedder::Embedding;
use crate::error::Failure;
use crate::graph::Graph;
use crate::run::{Run, RunResult};
use deepseek::{Cancel, Code, Embedder, Error, Model, Runtime, Session, Tensor};
use jni::sys::jlong;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

macro_rules! objects {
    ($($variant:ident($ty:ty) = $name:literal),* $(,)?) => {
        /// What a number stands for. Cloning makes a counted reference.
        #[derive(Clone)]
        pub(crate) enum Object {
            $($variant($ty),)*
        }

        $(impl Held for $ty {
            const NAME: &'static str = $name;

            fn into_object(self) -> Object {
                Object::$variant(self)
            }

            fn from_object(object: Object) -> Option<Self> {
                match object {
                    Object::$variant(inner) => Some(inner),
                    _ => None,
                }
            }
        })*
    };
}

objects! {
    Runtime(Runtime) = "runtime",
    Cancel(Cancel) = "cancel token",
    Tensor(Tensor) = "tensor",
    Model(Model) = "model",
    Session(Session) = "session",
    Embedder(Embedder) = "embedder",
    Graph(Arc<Mutex<Graph>>) = "graph builder",
    Run(Arc<Run>) = "run",
    RunResult(Arc<RunResult>) = "result",
    Embedding(Arc<Embedding>) = "embedding",
}

/// A kind of object that Java can hold.
pub(crate) trait Held: Sized {
    /// What messages call it.
    const NAME: &'static str;

    fn into_object(self) -> Object;

    fn from_object(object: Object) -> Option<Self>;
}

static OBJECTS: RwLock<BTreeMap<jlong, Object>> = RwLock::new(BTreeMap::new());

/// 0 stands for no object.
static NEXT: AtomicI64 = AtomicI64::new(1);

/// Gives an object to Java.
pub(crate) fn give<T: Held>(object: T) -> jlong {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    OBJECTS.write().insert(id, object.into_object());
    id
}

/// A reference to the object behind a number.
///
/// # Errors
/// `InvalidState` if Java has closed it.
pub(crate) fn get<T: Held>(id: jlong) -> Result<T, Failure> {
    let object = OBJECTS.read().get(&id).cloned();
    object.and_then(T::from_object).ok_or_else(|| closed::<T>())
}

/// Takes the object behind a number back from Java.
///
/// # Errors
/// `InvalidState` if Java has closed it.
pub(crate) fn take<T: Held>(id: jlong) -> Result<T, Failure> {
    let object = OBJECTS.write().remove(&id);
    object.and_then(T::from_object).ok_or_else(|| closed::<T>())
}

/// Forgets a number. The object goes when the last call that uses it returns.
pub(crate) fn free(id: jlong) {
    // Dropped after the lock is released: an object may take its time to go.
    let object = OBJECTS.write().remove(&id);
    drop(object);
}

/// How many objects Java holds.
pub(crate) fn count() -> usize {
    OBJECTS.read().len()
}

fn closed<T: Held>() -> Failure {
    Error::new(Code::InvalidState, format!("the {} is closed", T::NAME)).into()
}
