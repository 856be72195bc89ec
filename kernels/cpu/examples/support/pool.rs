//! Threads for the benches: one of them is the caller, the others spin between runs so that a run
//! of microseconds measures the kernel and not a wake-up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use deepseek_kernels_cpu::Parallel;

type Body = &'static (dyn Fn(usize) + Sync);

#[derive(Default)]
struct State {
    /// Counts runs; a change starts one.
    round: AtomicUsize,
    next: AtomicUsize,
    tasks: AtomicUsize,
    busy: AtomicUsize,
    stop: AtomicBool,
    body: std::sync::Mutex<Option<Body>>,
}

/// A pool whose threads never sleep.
pub struct Spinning {
    state: Arc<State>,
    threads: usize,
    workers: Vec<std::thread::JoinHandle<()>>,
}

impl State {
    fn work(&self, body: Body) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= self.tasks.load(Ordering::Relaxed) {
                return;
            }
            body(i);
        }
    }
}

impl Spinning {
    pub fn new(threads: usize) -> Self {
        let state = Arc::new(State::default());
        let workers = (1..threads)
            .map(|_| {
                let state = state.clone();
                std::thread::spawn(move || {
                    let mut seen = 0;
                    loop {
                        let mut spins = 0u32;
                        while state.round.load(Ordering::Acquire) == seen {
                            spins += 1;
                            if spins > 1 << 16 {
                                std::thread::yield_now();
                            }
                            std::hint::spin_loop();
                        }
                        seen += 1;
                        if state.stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let body = state
                            .body
                            .lock()
                            .expect("no body panics")
                            .expect("set before the round");
                        state.work(body);
                        state.busy.fetch_sub(1, Ordering::Release);
                    }
                })
            })
            .collect();
        Spinning { state, threads, workers }
    }
}

impl Drop for Spinning {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        self.state.round.fetch_add(1, Ordering::Release);
        for w in self.workers.drain(..) {
            w.join().expect("no body panics");
        }
    }
}

// SAFETY: the counter hands out each index once, and `run` waits until no worker is busy.
unsafe impl Parallel for Spinning {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        // SAFETY: the reference is used until `busy` is zero, which this call waits for.
        let body: Body = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Body>(body) };
        let s = &self.state;
        *s.body.lock().expect("no body panics") = Some(body);
        s.tasks.store(tasks, Ordering::Relaxed);
        s.next.store(0, Ordering::Relaxed);
        s.busy.store(self.threads - 1, Ordering::Relaxed);
        s.round.fetch_add(1, Ordering::Release);
        s.work(body);
        while s.busy.load(Ordering::Acquire) > 0 {
            std::hint::spin_loop();
        }
    }
}

/// Seconds of the best run within `budget` seconds, and at least five runs. With one thread, seconds
/// that it was running: what other processes took in between does not count.
pub fn best(threads: usize, budget: f64, mut run: impl FnMut()) -> f64 {
    let (start, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    let now = || {
        if threads == 1 { thread_seconds() } else { start.elapsed().as_secs_f64() }
    };
    while runs < 5 || start.elapsed().as_secs_f64() < budget {
        let t = now();
        run();
        best = best.min(now() - t);
        runs += 1;
    }
    best
}

/// Seconds that the calling thread has been running on a processor.
fn thread_seconds() -> f64 {
    #[repr(C)]
    struct Timespec {
        seconds: i64,
        nanoseconds: i64,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    }
    const THREAD_CPUTIME: i32 = 3;
    let mut t = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the C library fills the structure, which is that of 64-bit Linux.
    let failed = unsafe { clock_gettime(THREAD_CPUTIME, &mut t) };
    assert_eq!(failed, 0, "the clock of a thread exists on every Linux");
    t.seconds as f64 + t.nanoseconds as f64 * 1e-9
}
