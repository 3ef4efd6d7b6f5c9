/* dse_pool.c: a thread pool of futexes and atomics (see struct dse_pool).
 *
 * No pthread_mutex_t: its size differs between C libraries. Idle threads spin for a while,
 * because steps follow each other within microseconds, and then sleep.
 */
#include "dse_internal.h"

#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129
#define POLLS_BETWEEN_CLOCK_READS 64

static void futex_wait(_Atomic int32_t *word, int32_t seen) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, (void *)0, (void *)0, 0);
}

static void futex_wake(_Atomic int32_t *word, int32_t threads) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, threads, (void *)0, (void *)0, 0);
}

static void relax(void) {
#if defined(__x86_64__)
  __asm__ volatile("pause");
#else
  __asm__ volatile("yield");
#endif
}

/* Spins until *word is no longer `seen` (want_equal 0) or has become `value` (want_equal 1). */
static int spin(_Atomic int32_t *word, int32_t value, int want_equal, uint64_t spin_ns) {
  uint64_t deadline = 0;
  for (uint32_t polls = 1;; polls++) {
    if ((atomic_load_explicit(word, memory_order_acquire) == value) == want_equal) return 1;
    relax();
    if (polls % POLLS_BETWEEN_CLOCK_READS) continue;
    uint64_t now = dse_now_ns();
    if (!deadline) deadline = now + spin_ns;
    else if (now >= deadline) return 0;
  }
}

static void run_tasks(dse_pool *pool, int32_t thread, int32_t begin, int32_t end) {
  if (pool->call.scratch < 0) {
    dse_call_kernel(&pool->call, begin, end);
    return;
  }
  dse_call call = pool->call;
  call.tensors[call.scratch] = pool->scratch + (uint64_t)thread * dse_program.scratch_bytes;
  dse_call_kernel(&call, begin, end);
}

/* Shares are contiguous, and equal but for rounding. */
static int32_t share_end(dse_pool *pool, int32_t share) {
  int64_t tasks = atomic_load_explicit(&pool->tasks, memory_order_relaxed);
  return (int32_t)(tasks * (share + 1) / atomic_load_explicit(&pool->shares, memory_order_relaxed));
}

/* Claims and runs tasks of one share until there are none, and returns how many it ran. It claims
 * half of what is left: large pieces first, so that claims are few; smaller ones towards the end,
 * so that the threads finish together. */
static int32_t work_off(dse_pool *pool, int32_t thread, int32_t share) {
  _Atomic uint64_t *word = &pool->workers[share].ticket;
  uint64_t ticket = atomic_load_explicit(word, memory_order_acquire);
  int32_t done = 0;
  for (int32_t left; (left = (int32_t)(uint32_t)ticket) != 0;) {
    int32_t grain = atomic_load_explicit(&pool->grain, memory_order_relaxed);
    int32_t begin = share_end(pool, share) - left;
    int32_t claim = left / 2;
    if (claim < grain) claim = grain;
    if (left - claim < grain) claim = left;
    if (!atomic_compare_exchange_weak_explicit(word, &ticket, ticket - (uint32_t)claim,
                                               memory_order_acq_rel, memory_order_acquire))
      continue;
    run_tasks(pool, thread, begin, begin + claim);
    done += claim;
    ticket = atomic_load_explicit(word, memory_order_acquire);
  }
  return done;
}

/* Its own share first: step after step that is the same part of the image, so that what a step
 * reads lies in the cache of the core that wrote it. Then what slower threads have left. */
static int32_t work(dse_pool *pool, int32_t thread) {
  int32_t shares = atomic_load_explicit(&pool->shares, memory_order_relaxed);
  int32_t done = 0;
  for (int32_t i = 0; i < shares; i++) done += work_off(pool, thread, (thread + i) % shares);
  return done;
}

static void pin(dse_worker *worker) {
  const int32_t bits = 8 * sizeof(long);
  dse_cpu_set own = {{0}};
  if (worker->cpu >= 0) {
    own.words[worker->cpu / bits] = 1ul << worker->cpu % bits;
    if (syscall(SYS_sched_setaffinity, 0, sizeof own, &own) != 0)
      atomic_store(&worker->pool->failed_cpu, worker->cpu);
  } else if (worker->pool->prefers) {
    /* A hint: the kernel refuses if it has just taken all these CPUs away from the process. */
    syscall(SYS_sched_setaffinity, 0, sizeof own, &worker->pool->cpus);
  }
}

static void *serve(void *argument) {
  dse_worker *worker = argument;
  dse_pool *pool = worker->pool;
  pin(worker);
  atomic_fetch_add(&pool->started, 1);
  futex_wake(&pool->started, 1);
  int32_t seen = 0;
  for (;;) {
    if (!spin(&pool->generation, seen, 0, pool->spin_ns)) {
      /* Counted before the last look at `generation`, as the caller changes it before it looks
       * at `sleepers`: one of the two sees the other. */
      atomic_fetch_add(&pool->sleepers, 1);
      while (atomic_load(&pool->generation) == seen) futex_wait(&pool->generation, seen);
      atomic_fetch_sub(&pool->sleepers, 1);
    }
    seen = atomic_load(&pool->generation);
    if (atomic_load(&pool->stop)) return 0;
    int32_t done = work(pool, (int32_t)(worker - pool->workers));
    if (done == 0) continue;
    atomic_fetch_add(&pool->completed, done);
    if (atomic_load(&pool->caller_sleeps)) futex_wake(&pool->completed, 1);
  }
}

static void announce(dse_pool *pool) {
  atomic_fetch_add(&pool->generation, 1);
  if (atomic_load(&pool->sleepers)) futex_wake(&pool->generation, DSE_MAX_THREADS);
}

void dse_pool_run(dse_pool *pool, int32_t tasks, int32_t grain) {
  int32_t shares = tasks / grain < pool->threads ? tasks / grain : pool->threads;
  if (shares < 2) {
    run_tasks(pool, 0, 0, tasks);
    return;
  }
  atomic_store_explicit(&pool->tasks, tasks, memory_order_relaxed);
  atomic_store_explicit(&pool->grain, grain, memory_order_relaxed);
  atomic_store_explicit(&pool->shares, shares, memory_order_relaxed);
  atomic_store_explicit(&pool->completed, 0, memory_order_relaxed);
  uint64_t generation = (uint32_t)atomic_load(&pool->generation) + 1u;
  for (int32_t share = 0, begin = 0; share < shares; share++) {
    int32_t end = share_end(pool, share);
    atomic_store_explicit(&pool->workers[share].ticket, generation << 32 | (uint32_t)(end - begin),
                          memory_order_release);
    begin = end;
  }
  announce(pool);
  int32_t others = tasks - work(pool, 0);
  if (spin(&pool->completed, others, 1, pool->spin_ns)) return;
  atomic_store(&pool->caller_sleeps, 1);
  for (int32_t done; (done = atomic_load(&pool->completed)) != others;)
    futex_wait(&pool->completed, done);
  atomic_store(&pool->caller_sleeps, 0);
}

/* An application's signals are handled on its own threads. Signals from 32 on stay open: the C
 * library uses some of them, e.g. for setuid; so do those that a fault raises. */
static void block_signals(uint64_t *before) {
  const uint64_t faults = 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 10 | 1u << 30;
  const uint64_t blocked = 0x7fffffffu & ~faults; /* ILL TRAP ABRT BUS FPE SEGV SYS */
  syscall(SYS_rt_sigprocmask, 0 /* SIG_BLOCK */, &blocked, before, sizeof blocked);
}

dse_status dse_pool_start(dse_pool *pool, char *error) {
  int32_t running = 1;
  uint64_t signals = 0;
  atomic_store(&pool->failed_cpu, -1);
  block_signals(&signals);
  for (; running < pool->threads; running++) {
    dse_worker *worker = &pool->workers[running];
    worker->pool = pool;
    if (pthread_create(&worker->thread, NULL, serve, worker) != 0) break;
  }
  syscall(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, &signals, (void *)0, sizeof signals);
  for (int32_t started; (started = atomic_load(&pool->started)) != running - 1;)
    futex_wait(&pool->started, started);
  int32_t failed_cpu = atomic_load(&pool->failed_cpu);
  if (running == pool->threads && failed_cpu < 0) return DSE_OK;
  if (failed_cpu >= 0) dse_format(error, "can't run a thread on CPU %d", failed_cpu);
  else dse_format(error, "can't start thread %d of %d", running + 1, pool->threads);
  pool->threads = running;
  dse_pool_stop(pool);
  return failed_cpu >= 0 ? DSE_ERROR_ARGUMENT : DSE_ERROR_THREADS;
}

void dse_pool_stop(dse_pool *pool) {
  atomic_store(&pool->stop, 1);
  announce(pool);
  for (int32_t i = 1; i < pool->threads; i++) pthread_join(pool->workers[i].thread, NULL);
}
