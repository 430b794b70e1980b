//! Threads that wait for work: a pass has hundreds of short parallel regions, so handing one over
//! must take microseconds. Workers spin briefly after each, then park.
//!
//! Work is a range of items in as many parts as threads. A thread takes its own part bit by bit, one
//! after the other, so that it reads memory in one stream; then it helps with the others' parts,
//! since cores differ in speed and others use them too. What an item computes never depends on who
//! takes it.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::ops::Threads;

/// How long a worker spins for the next region before it parks. The gaps within a pass are
/// shorter; those between tokens (sampling, printing) often too.
const SPIN: Duration = Duration::from_micros(100);

/// Spins of the caller before it gives its core away while it waits for the last worker.
const CALLER_SPINS: u32 = 5_000;

/// Parts of a range at most; where there are more threads, some share one.
const MAX_PARTS: usize = 16;

/// A run is one such part of what is left: not more, since a core may be slower by that.
const RUN_SHARE: usize = 3;

/// What is to be taken next of a part, in a cache line of its own (two, which some processors fetch
/// together).
#[repr(align(128))]
struct Next(AtomicUsize);

/// A job with its lifetime erased; see [`Pool::broadcast`] for why it never dangles.
type Job = *const (dyn Fn() + Sync);

struct Shared {
    /// Counts regions; a worker that sees a new value runs `job` once.
    generation: AtomicU32,
    /// Written by the caller between regions only, read by workers within one only.
    job: UnsafeCell<Option<Job>>,
    /// Workers that have not finished the current region.
    running: AtomicUsize,
    /// What the first worker that panicked in this region panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Whether workers shall end at the next generation.
    stop: AtomicBool,
    /// `[workers]`: who needs unparking.
    parked: Box<[AtomicBool]>,
}

// SAFETY: all fields but `job` are Sync by themselves. `job` is written only by the thread that
// holds `Pool::caller`, and only while `running` is 0; workers read it only after an acquiring
// load of the `generation` that was published after the write, and before they count `running`
// down with release order. So no read overlaps a write. The pointer is to a `Sync` closure.
unsafe impl Sync for Shared {}
// SAFETY: the only field that is not Send by itself is the pointer in `job`, to a `Sync` closure,
// which any thread may call.
unsafe impl Send for Shared {}

/// A fixed number of threads, the caller being one of them.
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held during a region, so that there is one at a time.
    caller: Mutex<()>,
}

impl Pool {
    /// Starts `threads - 1` workers (at least none).
    pub(super) fn new(threads: usize) -> std::io::Result<Pool> {
        let n_workers = threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            generation: AtomicU32::new(0),
            job: UnsafeCell::new(None),
            running: AtomicUsize::new(0),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            parked: (0..n_workers).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut pool = Pool {
            shared,
            workers: Vec::with_capacity(n_workers),
            caller: Mutex::new(()),
        };
        for index in 0..n_workers {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new()
                .name(format!("katari-cpu-{}", index + 1))
                .spawn(move || work(&shared, index));
            // On an error dropping the pool ends the workers that did start.
            pool.workers.push(worker?);
        }
        Ok(pool)
    }

    /// How many threads run a region.
    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `body` on ranges of at most `grain` items that together make `0..n`, on all threads;
    /// returns when every item is done. A panic in `body` is raised here once all have stopped.
    pub(super) fn for_each(&self, n: usize, grain: usize, body: impl Fn(Range<usize>) + Sync) {
        self.share(n, grain, |_| 1, body);
    }

    /// The same, but the ranges are of many grains, fewer and fewer towards the end: for work that
    /// is better done in one go, by threads that are to end together.
    pub(super) fn for_each_run(&self, n: usize, grain: usize, body: impl Fn(Range<usize>) + Sync) {
        self.share(n, grain, |left| left.div_ceil(RUN_SHARE), body);
    }

    /// `take` says how many grains to take at once of those that are left of a part, one at least
    /// and no more than these.
    fn share(
        &self,
        n: usize,
        grain: usize,
        take: impl Fn(usize) -> usize + Sync,
        body: impl Fn(Range<usize>) + Sync,
    ) {
        let grain = grain.max(1);
        let n_ranges = n.div_ceil(grain);
        let n_parts = self.threads().min(MAX_PARTS);
        if self.workers.is_empty() || n_ranges <= 1 {
            let mut start = 0;
            while start < n_ranges {
                let taken = start + take(n_ranges - start);
                body(start * grain..n.min(taken * grain));
                start = taken;
            }
            return;
        }
        let first_of = |part: usize| part * n_ranges / n_parts;
        let next: [Next; MAX_PARTS] =
            std::array::from_fn(|part| Next(AtomicUsize::new(first_of(part))));
        let came = AtomicUsize::new(0);
        self.broadcast(&|| {
            let own = came.fetch_add(1, Ordering::Relaxed);
            for part in (0..n_parts).map(|i| (own + i) % n_parts) {
                let end = first_of(part + 1);
                // What items read was written before the region, so that the order may be any.
                let (next, any) = (&next[part].0, Ordering::Relaxed);
                let mut start = next.load(any);
                while start < end {
                    let taken = start + take(end - start);
                    start = match next.compare_exchange(start, taken, any, any) {
                        Ok(_) => {
                            body(start * grain..n.min(taken * grain));
                            next.load(any)
                        }
                        Err(now) => now,
                    };
                }
            }
        });
    }

    /// Calls `job` once on every thread and returns when all calls have.
    fn broadcast(&self, job: &(dyn Fn() + Sync)) {
        let _one_at_a_time = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: a change of lifetime only. The pointer is used by workers between here and
        // the moment `running` is 0 again, for which this function waits before it returns or
        // unwinds, so `job` outlives every use.
        let erased: Job = unsafe {
            std::mem::transmute::<*const (dyn Fn() + Sync + '_), *const (dyn Fn() + Sync + 'static)>(
                job,
            )
        };
        // SAFETY: `running` is 0 (the last region waited for that) and this thread holds
        // `caller`, so nobody reads or writes the cell now.
        unsafe { *shared.job.get() = Some(erased) };
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        // Sequentially consistent with the worker that sets `parked` and then looks at
        // `generation`: one of the two sees the other.
        shared.generation.fetch_add(1, Ordering::SeqCst);
        self.wake();

        let own = catch_unwind(AssertUnwindSafe(job));
        let mut spins = 0;
        while shared.running.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < CALLER_SPINS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        let theirs = shared
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(panic) = own.err().or(theirs) {
            drop(_one_at_a_time);
            resume_unwind(panic);
        }
    }

    fn wake(&self) {
        for (parked, worker) in self.shared.parked.iter().zip(&self.workers) {
            if parked.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Threads for Pool {
    fn for_each(&self, n: usize, body: &(dyn Fn(usize) + Sync)) {
        self.for_each(n, 1, |items| items.for_each(body));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        self.wake();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of jobs, so joining cannot fail; if it did, there
            // would be nothing left to do about it.
            let _ = worker.join();
        }
    }
}

/// A worker's life.
fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = wait(shared, index, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the acquiring load of the new generation orders this read after the caller's
        // write; the caller writes again only after this worker has counted `running` down.
        let job = unsafe { *shared.job.get() };
        if let Some(job) = job {
            // SAFETY: `broadcast` keeps the closure alive until `running` is 0.
            let call = || unsafe { (*job)() };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
                shared
                    .panic
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(panic);
            }
        }
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

/// Returns the generation after `seen` once there is one.
fn wait(shared: &Shared, index: usize, seen: u32) -> u32 {
    let fresh = |order| {
        let now = shared.generation.load(order);
        (now != seen).then_some(now)
    };
    let start = Instant::now();
    while start.elapsed() < SPIN {
        for _ in 0..64 {
            if let Some(now) = fresh(Ordering::Acquire) {
                return now;
            }
            std::hint::spin_loop();
        }
    }
    shared.parked[index].store(true, Ordering::SeqCst);
    loop {
        if let Some(now) = fresh(Ordering::SeqCst) {
            shared.parked[index].store(false, Ordering::Relaxed);
            return now;
        }
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every item is done exactly once, whatever the sizes, also straight after another region.
    #[test]
    fn each_item_once() {
        // Also more threads than parts.
        for threads in (1..5).chain([MAX_PARTS + 3]) {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for n in [0, 1, 2, 7, 100] {
                for grain in [0, 1, 3, 200] {
                    let counts: Vec<_> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                    let count = |range: Range<usize>| {
                        for i in range {
                            counts[i].fetch_add(1, Ordering::Relaxed);
                        }
                    };
                    pool.for_each(n, grain, |range| {
                        assert!(range.len() <= grain.max(1));
                        count(range);
                    });
                    assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                    pool.for_each_run(n, grain, count);
                    assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 2));
                }
            }
        }
    }

    #[test]
    fn wakes_parked_workers() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..5 {
            thread::sleep(SPIN * 3);
            let ran = AtomicUsize::new(0);
            pool.for_each(64, 1, |range| {
                ran.fetch_add(range.len(), Ordering::Relaxed);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 64);
        }
    }

    /// A panic on any thread reaches the caller, and the pool works afterwards.
    #[test]
    fn a_panic_does_not_hang() {
        let pool = Pool::new(3).unwrap();
        for bad in [0, 50, 99] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(100, 1, |range| {
                    assert!(range.start != bad, "item {bad}");
                });
            }));
            assert!(result.is_err());
            let ran = AtomicUsize::new(0);
            pool.for_each(10, 1, |_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 10);
        }
    }
}
