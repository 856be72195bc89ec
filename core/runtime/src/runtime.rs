//! The engine-wide resources: threads, instruction set, byte budget.

use crate::packs::Packs;
use crate::pool::ThreadPool;
use deepseek_kernels_cpu::Isa;
use deepseek_tensor::{Result, bail, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most threads a runtime may ask for.
const MAX_THREADS: usize = 1024;

/// How a [`Runtime`] is set up.
#[derive(Clone, Debug, Default)]
pub struct RuntimeOptions {
    /// Computing threads, the caller's among them; 0 takes what the machine has.
    pub threads: usize,
    /// Bytes that all sessions together may hold: arenas, and during a run its outputs and
    /// the values outside its arena. 0 sets no bound.
    pub memory_budget_bytes: u64,
    /// Instruction set to use instead of the best one there is.
    pub isa: Option<Isa>,
}

/// Threads, instruction set and byte budget, shared by every model loaded with it.
/// Clones share.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    pool: ThreadPool,
    isa: Isa,
    budget: u64,
    reserved: AtomicU64,
    packs: Packs,
}

impl Runtime {
    /// A runtime.
    ///
    /// # Errors
    /// `InvalidArgument` if more than 1024 threads are asked for.
    pub fn new(options: &RuntimeOptions) -> Result<Self> {
        ensure!(
            options.threads <= MAX_THREADS,
            InvalidArgument,
            "{} threads exceed the limit of {MAX_THREADS}",
            options.threads
        );
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS),
            n => n,
        };
        Ok(Runtime(Arc::new(Inner {
            pool: ThreadPool::new(threads),
            isa: options.isa.unwrap_or_else(Isa::best),
            budget: options.memory_budget_bytes,
            reserved: AtomicU64::new(0),
            packs: Packs::default(),
        })))
    }

    /// The thread pool.
    pub fn pool(&self) -> &ThreadPool {
        &self.0.pool
    }

    /// Number of computing threads, the caller's among them.
    pub fn threads(&self) -> usize {
        deepseek_kernels_cpu::Parallel::threads(&self.0.pool)
    }

    /// The instruction set that kernels use.
    pub fn isa(&self) -> Isa {
        self.0.isa
    }

    /// Constants that plans have packed for their kernels.
    pub(crate) fn packs(&self) -> &Packs {
        &self.0.packs
    }

    /// Bytes that sessions hold now: arenas, and what runs under way have beside them.
    pub fn reserved_bytes(&self) -> u64 {
        self.0.reserved.load(Ordering::Relaxed)
    }

    /// Sets bytes aside under the budget until the reservation is dropped.
    ///
    /// # Errors
    /// `BudgetExceeded` naming what is asked for, held and allowed.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<Reservation> {
        self.take(bytes)?;
        Ok(Reservation { runtime: self.clone(), bytes })
    }

    fn take(&self, bytes: u64) -> Result<()> {
        let limit = if self.0.budget == 0 { u64::MAX } else { self.0.budget };
        let taken = self.0.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(bytes).filter(|&sum| sum <= limit)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(held) => bail!(
                BudgetExceeded,
                "the run needs {bytes} bytes more, {held} of the budget of {limit} are held; \
                 raise memory_budget_bytes, trim idle sessions or run smaller inputs"
            ),
        }
    }
}

/// Bytes set aside; see [`Runtime::reserve`].
pub(crate) struct Reservation {
    runtime: Runtime,
    bytes: u64,
}

impl Reservation {
    /// Bytes set aside.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets more bytes aside.
    ///
    /// # Errors
    /// As [`Runtime::reserve`].
    pub fn extend(&mut self, bytes: u64) -> Result<()> {
        self.runtime.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Splits `bytes` off, at most all.
    pub fn split(&mut self, bytes: u64) -> Reservation {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Reservation { runtime: self.runtime.clone(), bytes }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.runtime.0.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
