//! Runs.

use crate::ffi::{Listener, ListsListener, ProfileTexts, Status};
use crate::model::Model;
use crate::status::{give, guard, report, success};
use crate::tensor::{Tensor, Value};
use cxx::UniquePtr;
use deepseek::{Code, Error, Result, RunOptions};
use std::time::Duration;

/// Working memory to run a model.
pub(crate) struct Session(deepseek::Session);

/// A flag that ends the runs it was given to.
pub(crate) struct Cancel(pub(crate) deepseek::Cancel);

/// Named inputs.
#[derive(Default)]
pub(crate) struct Inputs(Vec<(String, deepseek::Value)>);

/// Named outputs.
pub(crate) struct Outputs(deepseek::Outputs);

/// Named lists of tensors.
#[derive(Default)]
pub(crate) struct Lists(deepseek::Lists);

pub(crate) fn inputs_new() -> Box<Inputs> {
    Box::default()
}

impl Inputs {
    pub(crate) fn add(&mut self, name: &str, tensor: &Tensor) {
        self.0.push((name.to_owned(), tensor.0.clone().into()));
    }
}

pub(crate) fn lists_new() -> Box<Lists> {
    Box::default()
}

impl Lists {
    /// Begins a list.
    pub(crate) fn add_list(&mut self, name: &str) {
        self.0.push((name.to_owned(), Vec::new()));
    }

    /// Appends to the list begun last.
    pub(crate) fn add(&mut self, tensor: &Tensor) {
        if let Some((_, list)) = self.0.last_mut() {
            list.push(tensor.0.clone());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn name(&self, index: usize) -> String {
        self.0.get(index).map(|(name, _)| name.clone()).unwrap_or_default()
    }

    pub(crate) fn count(&self, index: usize) -> usize {
        self.0.get(index).map_or(0, |(_, list)| list.len())
    }

    pub(crate) fn tensor(&self, index: usize, item: usize, status: &mut Status) -> *mut Tensor {
        give(status, || {
            let tensor = self.0.get(index).and_then(|(_, list)| list.get(item));
            let tensor = tensor.ok_or_else(|| {
                Error::new(Code::InvalidArgument, format!("no tensor {item} in list {index}"))
            })?;
            Ok(Tensor(tensor.to_contiguous()?))
        })
    }
}

pub(crate) fn cancel_new() -> Box<Cancel> {
    Box::new(Cancel(deepseek::Cancel::new()))
}

impl Cancel {
    pub(crate) fn cancel(&self) {
        self.0.cancel();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Options with this flag; a negative timeout is none.
    pub(crate) fn options(&self, timeout_ns: i64, ragged: bool) -> RunOptions {
        let timeout = u64::try_from(timeout_ns).ok().map(Duration::from_nanos);
        RunOptions { timeout, cancel: Some(self.0.clone()), ragged }
    }
}

pub(crate) fn session_new(model: &Model, status: &mut Status) -> *mut Session {
    give(status, || Ok(Session(model.0.session())))
}

/// The listener on its way to the thread that calls it.
struct Hears(UniquePtr<Listener>);

// SAFETY: the listener is moved to one thread and used only there, which `Listener` allows.
unsafe impl Send for Hears {}

impl Hears {
    fn tell(mut self, result: &Result<deepseek::Outputs>) {
        let Some(listener) = self.0.as_mut() else { return };
        match result {
            Ok(outputs) => {
                let outputs = Box::into_raw(Box::new(Outputs(outputs.clone())));
                // SAFETY: the listener takes the box over.
                unsafe { listener.done(outputs, &success()) }
            }
            // SAFETY: null says that there are no outputs.
            Err(e) => unsafe { listener.done(std::ptr::null_mut(), &report(e)) },
        }
    }
}

/// As [`Hears`], for a ragged run.
struct HearsLists(UniquePtr<ListsListener>);

// SAFETY: the listener is moved to one thread and used only there, which `ListsListener` allows.
unsafe impl Send for HearsLists {}

impl HearsLists {
    fn tell(mut self, result: &Result<deepseek::Lists>) {
        let Some(listener) = self.0.as_mut() else { return };
        match result {
            // SAFETY: the listener takes the box over.
            Ok(lists) => unsafe {
                listener.done(Box::into_raw(Box::new(Lists(lists.clone()))), &success());
            },
            // SAFETY: null says that there are no lists.
            Err(e) => unsafe { listener.done(std::ptr::null_mut(), &report(e)) },
        }
    }
}

impl Session {
    pub(crate) fn run(
        &self,
        inputs: Box<Inputs>,
        timeout_ns: i64,
        cancel: &Cancel,
        ragged: bool,
        status: &mut Status,
    ) -> *mut Outputs {
        give(status, || Ok(Outputs(self.0.run(inputs.0, &cancel.options(timeout_ns, ragged))?)))
    }

    pub(crate) fn run_ragged(
        &self,
        inputs: Box<Lists>,
        timeout_ns: i64,
        cancel: &Cancel,
        status: &mut Status,
    ) -> *mut Lists {
        give(status, || Ok(Lists(self.0.run_ragged(inputs.0, &cancel.options(timeout_ns, false))?)))
    }

    /// As `run`; `texts` receives the profile.
    pub(crate) fn run_profiled(
        &self,
        inputs: Box<Inputs>,
        timeout_ns: i64,
        cancel: &Cancel,
        ragged: bool,
        texts: &mut ProfileTexts,
        status: &mut Status,
    ) -> *mut Outputs {
        give(status, || {
            let options = cancel.options(timeout_ns, ragged);
            let (outputs, profile) = self.0.run_profiled(inputs.0, &options, true)?;
            let profile = profile
                .ok_or_else(|| Error::new(Code::Internal, "a profiled run yielded no profile"))?;
            *texts = ProfileTexts {
                trace: profile.to_chrome_trace(),
                json: profile.to_json(),
                html: profile.to_html(),
            };
            Ok(Outputs(outputs))
        })
    }

    pub(crate) fn run_async(
        &self,
        inputs: Box<Inputs>,
        timeout_ns: i64,
        cancel: &Cancel,
        ragged: bool,
        listener: UniquePtr<Listener>,
        status: &mut Status,
    ) {
        let hears = Hears(listener);
        guard(status, (), || {
            let options = cancel.options(timeout_ns, ragged);
            self.0.run_async(inputs.0, &options, move |result| hears.tell(result)).map(drop)
        });
    }

    pub(crate) fn run_ragged_async(
        &self,
        inputs: Box<Lists>,
        timeout_ns: i64,
        cancel: &Cancel,
        listener: UniquePtr<ListsListener>,
        status: &mut Status,
    ) {
        let hears = HearsLists(listener);
        guard(status, (), || {
            let options = cancel.options(timeout_ns, false);
            self.0.run_ragged_async(inputs.0, &options, move |result| hears.tell(result)).map(drop)
        });
    }

    pub(crate) fn cancel(&self) {
        self.0.cancel();
    }

    pub(crate) fn close(&self, status: &mut Status) {
        guard(status, (), || {
            self.0.close();
            Ok(())
        });
    }

    pub(crate) fn trim(&self, status: &mut Status) {
        guard(status, (), || {
            self.0.trim();
            Ok(())
        });
    }

    pub(crate) fn observed_bytes(&self) -> u64 {
        self.0.observed_bytes()
    }
}

impl Outputs {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn name(&self, index: usize) -> String {
        self.0.get(index).map(|(name, _)| name.clone()).unwrap_or_default()
    }

    pub(crate) fn value(&self, index: usize, status: &mut Status) -> *mut Value {
        give(status, || {
            let (_, value) = self.0.get(index).ok_or_else(|| {
                let message = format!("index is {index}, the run has {} outputs", self.0.len());
                Error::new(Code::InvalidArgument, message)
            })?;
            Ok(Value(value.clone()))
        })
    }
}
