//! One thread pool per runtime.
//!
//! A call splits its work into numbered tasks; the caller takes tasks like any
//! worker, so a pool of one thread has no threads at all. Each thread begins with a
//! part of its own, the same at each call: what it wrote for one operator is still in
//! its cache when the next one reads it. Then it helps with what others have left. Several callers may use
//! the pool at once: each has a job of its own, and idle workers help the oldest.
//! Workers sleep when there is nothing to do. Only while a model is running (an
//! [`ActiveRun`] lives) does a worker that ran dry look again for some time before
//! it sleeps, because the next operator is about to start and waking takes longer
//! than many operators; an idle process uses no processor time.

use deepseek_kernels_cpu::Parallel;
use parking_lot::{Condvar, Mutex};
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a worker looks for the next job while a model is running, and a caller for the end of
/// its last tasks: longer than the few small operators between two large ones take.
const SPIN: Duration = Duration::from_micros(200);
/// Looks between two looks at the clock. A pause is up to 140 cycles.
const LOOKS: usize = 32;

/// A fixed set of worker threads; see the module's head.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Jobs pushed so far: lets a spinning worker see news without the lock.
    pushed: AtomicUsize,
    /// Models running right now.
    active: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Arc<Job>>,
    closed: bool,
}

/// One call of [`Parallel::run`].
struct Job {
    body: Body,
    /// One part of the tasks for each thread.
    parts: Vec<Part>,
    /// Tasks that have not returned.
    left: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    finished: Condvar,
}

/// Tasks that follow one another, on a line of the cache of its own.
#[repr(align(64))]
struct Part {
    next: AtomicUsize,
    end: usize,
}

/// The caller's closure with its lifetime erased.
struct Body(*const (dyn Fn(usize) + Sync));

// SAFETY: the closure is `Sync`, and `ThreadPool::run` keeps it alive until no
// worker can call it any more.
unsafe impl Send for Body {}
// SAFETY: as above.
unsafe impl Sync for Body {}

impl Job {
    /// Takes and runs tasks until none is left, those of part `own` first.
    fn help(&self, own: usize) {
        let mut ran = 0;
        let mut panic = None;
        let (before, from) = self.parts.split_at(own % self.parts.len());
        for part in from.iter().chain(before) {
            loop {
                let task = part.next.fetch_add(1, Ordering::Relaxed);
                if task >= part.end {
                    break;
                }
                // SAFETY: this task is not counted as done yet, and `ThreadPool::run` returns
                // only when all are, so the closure is still alive.
                let body = unsafe { &*self.body.0 };
                if let Err(p) = catch_unwind(AssertUnwindSafe(|| body(task))) {
                    panic = Some(p);
                }
                ran += 1;
            }
        }
        if panic.is_some() {
            *self.panic.lock() = panic;
        }
        // All that the tasks wrote is seen by whoever sees none left.
        if ran > 0 && self.left.fetch_sub(ran, Ordering::AcqRel) == ran {
            // The caller either sees that or sleeps by the time it gives up the lock.
            drop(self.panic.lock());
            self.finished.notify_all();
        }
    }

    fn exhausted(&self) -> bool {
        self.parts.iter().all(|p| p.next.load(Ordering::Relaxed) >= p.end)
    }
}

impl ThreadPool {
    /// A pool that computes with `threads` threads, the caller's among them.
    /// Workers that the system refuses to start are done without.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            pushed: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
        });
        let workers = (1..threads)
            .map_while(|i| {
                let shared = shared.clone();
                std::thread::Builder::new()
                    .name(format!("deepseek-{i}"))
                    .spawn(move || shared.work(i))
                    .ok()
            })
            .collect();
        ThreadPool { shared, workers }
    }

    /// Says that a model is running until the guard is dropped.
    pub fn activate(&self) -> ActiveRun<'_> {
        self.shared.active.fetch_add(1, Ordering::Relaxed);
        ActiveRun(&self.shared)
    }
}

/// See [`ThreadPool::activate`].
pub struct ActiveRun<'a>(&'a Shared);

impl Drop for ActiveRun<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

// SAFETY: a job hands out each index once through its counter, is helped by its caller and the
// workers only (`threads` in all), and `run` returns when every task is done.
unsafe impl Parallel for ThreadPool {
    fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(body);
            return;
        }
        // SAFETY: only the lifetime is erased. `wait` below returns when all tasks are
        // done, so no call of the closure begins or runs after this function.
        let body = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(
                body,
            )
        };
        let threads = self.threads();
        let part = |i: usize| Part {
            next: AtomicUsize::new(i * tasks / threads),
            end: (i + 1) * tasks / threads,
        };
        let job = Arc::new(Job {
            body: Body(body),
            parts: (0..threads).map(part).collect(),
            left: AtomicUsize::new(tasks),
            panic: Mutex::new(None),
            finished: Condvar::new(),
        });
        self.shared.queue.lock().jobs.push_back(job.clone());
        self.shared.pushed.fetch_add(1, Ordering::Release);
        if tasks == 2 {
            self.shared.wake.notify_one();
        } else {
            self.shared.wake.notify_all();
        }
        job.help(0);
        self.shared.queue.lock().jobs.retain(|j| !Arc::ptr_eq(j, &job));
        if let Some(panic) = wait(&job) {
            resume_unwind(panic);
        }
    }
}

/// Looks until `seen`, for as long as [`SPIN`]; gives whether it was.
fn look(seen: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if seen() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > SPIN {
            return seen();
        }
    }
}

/// Waits until every task of `job` is done: the last task of a worker is about as
/// long as the caller's own, so it looks for a moment before it sleeps.
fn wait(job: &Job) -> Option<Box<dyn Any + Send>> {
    let done = || job.left.load(Ordering::Acquire) == 0;
    let looked = look(done);
    let mut panic = job.panic.lock();
    while !looked && !done() {
        job.finished.wait(&mut panic);
    }
    panic.take()
}

impl Shared {
    fn work(&self, index: usize) {
        while let Some(job) = self.next_job() {
            job.help(index);
        }
    }

    /// The oldest job with tasks left; `None` when the pool closes.
    fn next_job(&self) -> Option<Arc<Job>> {
        loop {
            let mut queue = self.queue.lock();
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.iter().find(|j| !j.exhausted()) {
                return Some(job.clone());
            }
            let seen = self.pushed.load(Ordering::Acquire);
            if self.active.load(Ordering::Relaxed) > 0 {
                drop(queue);
                if look(|| self.pushed.load(Ordering::Acquire) != seen) {
                    continue;
                }
                queue = self.queue.lock();
                if queue.closed || queue.jobs.iter().any(|j| !j.exhausted()) {
                    continue;
                }
            }
            self.wake.wait(&mut queue);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_all();
        let me = std::thread::current().id();
        for worker in self.workers.drain(..) {
            // The last reference may be dropped on a worker; it cannot wait for itself.
            if worker.thread().id() != me {
                // A worker never panics: tasks are caught.
                let _ = worker.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whoever_calls() {
        for threads in [1, 2, 5] {
            let pool = ThreadPool::new(threads);
            std::thread::scope(|s| {
                for _ in 0..3 {
                    s.spawn(|| {
                        let _active = pool.activate();
                        for tasks in [0usize, 1, 2, 3, 100, 1000] {
                            let counts: Vec<AtomicUsize> =
                                (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                            pool.run(tasks, &|i| {
                                counts[i].fetch_add(1, Ordering::Relaxed);
                            });
                            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn nested_calls_do_not_deadlock() {
        let pool = ThreadPool::new(2);
        let sum = AtomicUsize::new(0);
        pool.run(8, &|i| {
            pool.run(8, &|j| {
                sum.fetch_add(i * j, Ordering::Relaxed);
            })
        });
        assert_eq!(sum.into_inner(), 28 * 28);
    }

    #[test]
    fn a_panicking_task_reaches_the_caller_and_the_pool_lives_on() {
        let pool = ThreadPool::new(3);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(10, &|i| assert!(i != 7, "task seven"));
        }));
        assert!(caught.is_err());
        let count = AtomicUsize::new(0);
        pool.run(10, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
    }
}
