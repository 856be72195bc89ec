//! Cancellation and deadlines.

use deepseek_tensor::{Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A flag that any thread may raise, and an optional deadline. Clones share the
/// flag. The executor looks at it before each node, so a running call ends within
/// one kernel.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    deadline: Option<Instant>,
}

impl Cancel {
    /// A flag that is not raised, with no deadline.
    pub fn new() -> Self {
        Self::default()
    }

    /// This flag with a deadline `timeout` from now, or its own if that is earlier.
    pub fn timeout(&self, timeout: Duration) -> Self {
        let new = Instant::now().checked_add(timeout);
        let deadline = match (self.deadline, new) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Cancel { flag: self.flag.clone(), deadline }
    }

    /// Whether both are clones of one flag.
    pub fn same(&self, other: &Cancel) -> bool {
        Arc::ptr_eq(&self.flag, &other.flag)
    }

    /// Raises the flag. Idempotent; returns at once.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::Release);
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Fails if the flag is up or the deadline has passed.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            bail!(Cancelled, "the run was cancelled");
        }
        if self.deadline.is_some_and(|d| Instant::now() >= d) {
            bail!(Timeout, "the run's deadline passed; give it more time or a smaller input");
        }
        Ok(())
    }
}
