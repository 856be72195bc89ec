//! Panics on purpose, for `ai.deepseek.PanicTest`.

use crate::error::native;
use crate::graph::{Graph, enter};
use crate::handle;
use jni::objects::JClass;
use jni::sys::jlong;
use jni::{EnvUnowned, jni_mangle};
use parking_lot::Mutex;
use std::sync::Arc;

/// Panics.
#[jni_mangle("ai.deepseek.PanicTest")]
pub fn panic<'l>(env: EnvUnowned<'l>, _class: JClass<'l>) -> jlong {
    native(env, |_| panic!("on purpose"))
}

/// Panics while it uses a graph builder.
#[jni_mangle("ai.deepseek.PanicTest")]
pub fn panic_inside<'l>(env: EnvUnowned<'l>, _class: JClass<'l>, graph: jlong) {
    native(env, |_| {
        let graph = handle::get::<Arc<Mutex<Graph>>>(graph)?;
        let _entered = enter(&graph)?;
        panic!("inside")
    })
}
