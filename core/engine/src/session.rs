//! Running a model, now or in the background.

use crate::Model;
use deepseek_graph::Value;
use deepseek_runtime::{Cancel, Profile};
use deepseek_tensor::{Error, Result, Tensor, bail, err};
use parking_lot::{Condvar, Mutex};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a caller that waits for its turn looks at its own cancel flag.
const TURN_POLL: Duration = Duration::from_millis(2);

/// How a run is made.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Time the run may take, waiting for its turn included.
    pub timeout: Option<Duration>,
    /// Raised by the caller to end the run early.
    pub cancel: Option<Cancel>,
    /// Run a padded batch without its padding: the mask of each row must be ones, then zeros; the
    /// rows are packed, run (see [`Session::run_ragged`]) and put back into the padded shape, with
    /// zeros where the mask hides. Models that cannot be packed are refused.
    pub ragged: bool,
}

impl RunOptions {
    /// The caller's flag (or a fresh one) with the deadline that `timeout` sets from now.
    pub(crate) fn cancel(&self) -> Cancel {
        let cancel = self.cancel.clone().unwrap_or_default();
        match self.timeout {
            Some(timeout) => cancel.timeout(timeout),
            None => cancel,
        }
    }
}

/// Working memory to run a model. One run at a time: calls from several threads
/// take turns, so a service makes one session a thread. Clones refer to the same
/// session; it lives until the last of them and the last running call are gone, so
/// dropping or closing it while another thread runs it is safe.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    model: Model,
    state: Mutex<State>,
    /// Cancel flags of the runs under way or waiting.
    running: Mutex<Vec<Cancel>>,
    closed: AtomicBool,
    poisoned: AtomicBool,
    observed_bytes: AtomicU64,
}

/// Working memory for the model as it is and, once used, for its packed form.
struct State {
    plain: deepseek_runtime::Session,
    packed: Option<deepseek_runtime::Session>,
}

impl State {
    fn packed(&mut self, plan: &Arc<deepseek_runtime::Plan>) -> &mut deepseek_runtime::Session {
        self.packed.get_or_insert_with(|| deepseek_runtime::Session::new(plan.clone()))
    }

    fn trim(&mut self) {
        self.plain.trim();
        self.packed = None;
    }
}

/// Named lists of tensors: for each name one tensor a sequence, or one for all.
pub type Lists = Vec<(String, Vec<Tensor>)>;

/// Named outputs, in the model's order.
pub type Outputs = Vec<(String, Value)>;

impl Session {
    pub(crate) fn new(model: Model) -> Self {
        let plain = deepseek_runtime::Session::new(model.plan().clone());
        let state = Mutex::new(State { plain, packed: None });
        Session(Arc::new(Inner {
            model,
            state,
            running: Mutex::default(),
            closed: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            observed_bytes: AtomicU64::new(0),
        }))
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.0.model
    }

    /// Runs the model on named inputs, in any order, and returns its outputs by name.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for wrong, missing or doubled names;
    /// `DTypeMismatch`, `ShapeMismatch` naming the input and both sides;
    /// `Cancelled`, `Timeout`, `BudgetExceeded`, `OutOfMemory`; `InvalidState` once
    /// closed; `Poisoned` after a panic; what a node reports, with its name.
    pub fn run(
        &self,
        inputs: impl IntoIterator<Item = (String, Value)>,
        options: &RunOptions,
    ) -> Result<Outputs> {
        self.run_profiled(inputs, options, false).map(|(outputs, _)| outputs)
    }

    /// As [`Session::run`], and the profile of the run if `profile` is set.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_profiled(
        &self,
        inputs: impl IntoIterator<Item = (String, Value)>,
        options: &RunOptions,
        profile: bool,
    ) -> Result<(Outputs, Option<Profile>)> {
        if options.ragged {
            let ragged = self.0.model.ragged()?;
            let batch = ragged.pack_padded(inputs.into_iter().collect())?;
            let result = self.exclusive(options, profile, |state, options| {
                let session = state.packed(ragged.plan());
                let result = session.run(batch.inputs, options)?;
                Ok((result, session.observed_bytes()))
            })?;
            let outputs = ragged.unpack_padded(&result.outputs, &batch.lengths, batch.seq)?;
            return Ok((outputs, result.profile));
        }
        let result = self.exclusive(options, profile, |state, options| {
            let result = state.plain.run_named(inputs, options)?;
            Ok((result, state.plain.observed_bytes()))
        })?;
        let names = self.0.model.outputs().iter().map(|s| s.name.clone());
        Ok((names.zip(result.outputs).collect(), result.profile))
    }

    /// Runs sequences of different lengths together, without padding. Each gives the bits that
    /// [`Session::run`] gives for it alone: batch 1, masks all ones.
    ///
    /// For an input `[batch, seq, …]` the list holds a tensor `[len, …]` for each sequence, for
    /// one `[batch, …]` a tensor `[…]` for each; an input without the batch has one tensor. Mask
    /// inputs may be left out. Outputs come in the same forms, in the model's order: the axes of
    /// the padded output in their order, without the batch.
    ///
    /// # Errors
    /// As [`Model::ragged`]; `NotFound`, `InvalidArgument` for wrong, missing or doubled names,
    /// for no or an empty sequence, and for a mask that hides something; `ShapeMismatch` for
    /// lengths that contradict each other, naming both inputs, or that the model does not take;
    /// then as [`Session::run`].
    pub fn run_ragged(&self, inputs: Lists, options: &RunOptions) -> Result<Lists> {
        let ragged = self.0.model.ragged()?;
        let batch = ragged.pack(inputs)?;
        let result = self.exclusive(options, false, |state, options| {
            let session = state.packed(ragged.plan());
            let result = session.run(batch.inputs, options)?;
            Ok((result, session.observed_bytes()))
        })?;
        ragged.unpack(&result.outputs, &batch.lengths)
    }

    /// Waits for this caller's turn, runs, and notes the bytes that the run had in use.
    fn exclusive(
        &self,
        options: &RunOptions,
        profile: bool,
        run: impl FnOnce(
            &mut State,
            &deepseek_runtime::RunOptions,
        ) -> Result<(deepseek_runtime::RunResult, u64)>,
    ) -> Result<deepseek_runtime::RunResult> {
        let turn = self.announce(&options.cancel());
        self.0.admit(&turn.cancel)?;
        let mut state = loop {
            if let Some(state) = self.0.state.try_lock_for(TURN_POLL) {
                break state;
            }
            turn.cancel.check()?;
        };
        self.0.admit(&turn.cancel)?;
        let options = deepseek_runtime::RunOptions { cancel: turn.cancel.clone(), profile };
        let result = catch_unwind(AssertUnwindSafe(|| run(&mut state, &options)));
        let (result, observed) = result.unwrap_or_else(|panic| {
            self.0.poisoned.store(true, Ordering::Release);
            Err(Error::from_panic(&*panic))
        })?;
        self.0.observed_bytes.store(observed, Ordering::Relaxed);
        Ok(result)
    }

    /// Starts a run in the background. `on_done` is called once, on a thread of the
    /// library, when the result is ready, before anyone waiting for it wakes.
    ///
    /// # Errors
    /// `InvalidState` once closed; `OutOfMemory` if no thread can be started. All
    /// other errors are the result.
    pub fn run_async(
        &self,
        inputs: Vec<(String, Value)>,
        options: &RunOptions,
        on_done: impl FnOnce(&Result<Outputs>) + Send + 'static,
    ) -> Result<PendingRun> {
        self.background(options, on_done, move |session, options| session.run(inputs, options))
    }

    /// As [`Session::run_async`], for [`Session::run_ragged`].
    ///
    /// # Errors
    /// As [`Session::run_async`].
    pub fn run_ragged_async(
        &self,
        inputs: Lists,
        options: &RunOptions,
        on_done: impl FnOnce(&Result<Lists>) + Send + 'static,
    ) -> Result<PendingRun<Lists>> {
        let run = move |session: &Session, options: &_| session.run_ragged(inputs, options);
        self.background(options, on_done, run)
    }

    /// Starts `run` on a thread of its own. From now on its deadline counts and
    /// [`Session::cancel`] ends it.
    fn background<T: Send + 'static>(
        &self,
        options: &RunOptions,
        on_done: impl FnOnce(&Result<T>) + Send + 'static,
        run: impl FnOnce(&Session, &RunOptions) -> Result<T> + Send + 'static,
    ) -> Result<PendingRun<T>> {
        self.0.usable()?;
        let cancel = options.cancel();
        let options =
            RunOptions { timeout: None, cancel: Some(cancel.clone()), ragged: options.ragged };
        let shared = Arc::new(Pending { result: Mutex::new(None), ready: Condvar::new() });
        let (session, pending) = (self.clone(), shared.clone());
        let turn = self.announce(&cancel);
        let spawned = std::thread::Builder::new().name("deepseek-run".into()).spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| run(&session, &options)));
            let result = result.unwrap_or_else(|panic| Err(Error::from_panic(&*panic)));
            // Whoever has waited may count the model's memory as given back.
            drop((turn, session));
            // A callback that panics must not leave the waiters waiting.
            let _ = catch_unwind(AssertUnwindSafe(|| on_done(&result)));
            *pending.result.lock() = Some(Outcome::Ready(result));
            pending.ready.notify_all();
        });
        match spawned {
            Ok(_) => Ok(PendingRun { shared, cancel }),
            Err(e) => bail!(OutOfMemory, "cannot start a thread for the run: {e}"),
        }
    }

    /// Counts a run that another thread is about to make as under way: from now on, until the
    /// result is dropped, [`Session::cancel`] and [`Session::close`] raise its flag.
    pub fn announce(&self, cancel: &Cancel) -> Announced {
        self.0.running.lock().push(cancel.clone());
        Announced { inner: self.0.clone(), cancel: cancel.clone() }
    }

    /// Cancels every run of this session that is under way or waiting. Returns at
    /// once; the runs end at their next kernel boundary with `Cancelled`.
    pub fn cancel(&self) {
        self.0.running.lock().iter().for_each(Cancel::cancel);
    }

    /// Cancels running calls and refuses new ones. The memory goes when the last
    /// running call has ended.
    pub fn close(&self) {
        let running = self.0.running.lock();
        self.0.closed.store(true, Ordering::Release);
        running.iter().for_each(Cancel::cancel);
        drop(running);
        if let Some(mut state) = self.0.state.try_lock() {
            state.trim();
        }
    }

    /// Gives the working memory back, unless a run is under way; the next run
    /// allocates it again.
    pub fn trim(&self) {
        if let Some(mut state) = self.0.state.try_lock() {
            state.trim();
        }
    }

    /// Most bytes that the last successful run had in use at once beyond the weights.
    pub fn observed_bytes(&self) -> u64 {
        self.0.observed_bytes.load(Ordering::Relaxed)
    }
}

impl Inner {
    /// Fails for a run that was cancelled, be it by closing; then as [`Inner::usable`].
    fn admit(&self, cancel: &Cancel) -> Result<()> {
        // `close` does both of its parts under this lock.
        let _running = self.running.lock();
        cancel.check()?;
        self.usable()
    }

    fn usable(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            bail!(Poisoned, "an earlier run panicked; free this session and make a new one");
        }
        if self.closed.load(Ordering::Acquire) {
            bail!(InvalidState, "the session is closed");
        }
        Ok(())
    }
}

/// A run that counts as under way, see [`Session::announce`].
#[must_use = "the run is forgotten when this is dropped"]
pub struct Announced {
    inner: Arc<Inner>,
    cancel: Cancel,
}

impl Drop for Announced {
    fn drop(&mut self) {
        let mut running = self.inner.running.lock();
        if let Some(i) = running.iter().position(|c| c.same(&self.cancel)) {
            running.swap_remove(i);
        }
    }
}

/// A run in the background.
pub struct PendingRun<T = Outputs> {
    shared: Arc<Pending<T>>,
    cancel: Cancel,
}

struct Pending<T> {
    result: Mutex<Option<Outcome<T>>>,
    ready: Condvar,
}

enum Outcome<T> {
    Ready(Result<T>),
    Taken,
}

impl<T> PendingRun<T> {
    /// Waits for the result and takes it; `None` if it is not there within
    /// `timeout`. Without a timeout, waits as long as it takes.
    ///
    /// # Errors
    /// `InvalidState` if the result was taken before.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Option<Result<T>>> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut result = self.shared.result.lock();
        while result.is_none() {
            match deadline {
                None => self.shared.ready.wait(&mut result),
                Some(d) => {
                    if self.shared.ready.wait_until(&mut result, d).timed_out() && result.is_none()
                    {
                        return Ok(None);
                    }
                }
            }
        }
        match result.replace(Outcome::Taken) {
            Some(Outcome::Ready(outcome)) => Ok(Some(outcome)),
            _ => Err(err!(InvalidState, "the result of this run was taken before")),
        }
    }

    /// Cancels the run. Thread-safe, idempotent, returns at once.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}
