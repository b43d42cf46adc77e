/* A thread pool for parallel loops: FlamecRuntime.parallel_for.
 *
 * In: a loop body, its context, n iterations, a grain. Out: the body has run for every chunk of
 * [0, n). One pool serves all programs of a process; each program call is entered through
 * flamec_enter with the number of threads that its memory was laid out for. Invariants: the
 * chunks depend on n, grain and that number only; chunk i is
 * run once, with thread number i, by whichever thread is free; a nested call and a second caller
 * at the same time run the same chunks one after another; a forked child makes new workers.
 *
 * Workers spin for some microseconds after a loop, then sleep on a futex. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "flamec_runtime.h"

enum { MOST_THREADS = 1024, SPIN_NANOSECONDS = 30000, PAUSES_A_LOOK = 16 };

typedef struct {
    FlamecLoop loop;
    void *context;
    int64_t n;
    int64_t threads;
} Job;

typedef struct {
    FlamecCall call;
    int64_t (*program)(FlamecCall *call);
    int64_t threads;
} Entry;

static pthread_mutex_t callers = PTHREAD_MUTEX_INITIALIZER;
static int workers; /* started; guarded by `callers` */
static Job job;     /* written by the caller, stable until `unfinished` is 0 */
/* The job's number (high 32 bits), its chunks (16) and the next chunk to take (16) in one word,
 * so that a worker that comes late cannot take a chunk of a job it has not looked at. */
static _Atomic uint64_t ticket;
static _Atomic uint32_t posted;     /* the job's number, again; workers sleep on it */
static _Atomic uint32_t unfinished; /* chunks of the job; the caller sleeps on it */
static _Atomic uint32_t sleepers;
static atomic_int caller_sleeps;
static __thread int inside_loop;
static __thread int64_t call_threads = 1;

static void pause_processor(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, 0, 0, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, 0, 0, 0);
}

int64_t flamec_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Spins while *word is `value`; 1 when it changed, 0 when the time was up. */
static int spin_while(_Atomic uint32_t *word, uint32_t value) {
    int64_t end = 0;
    for (;;) {
        for (int i = 0; i < PAUSES_A_LOOK; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != value) return 1;
            pause_processor();
        }
        int64_t now = flamec_nanoseconds();
        if (!end) end = now + SPIN_NANOSECONDS;
        else if (now >= end) return 0;
    }
}

static int64_t chunk_begin(int64_t n, int64_t chunks, int64_t i) {
    return n / chunks * i + (n % chunks < i ? n % chunks : i);
}

/* Takes and runs chunks of job `number` until none is left. */
static void run_chunks(uint32_t number) {
    uint64_t seen = atomic_load(&ticket);
    for (;;) {
        uint32_t chunks = (uint32_t)(seen >> 16) & 0xffff, next = (uint32_t)seen & 0xffff;
        if ((uint32_t)(seen >> 32) != number || next >= chunks) return;
        if (!atomic_compare_exchange_weak(&ticket, &seen, seen + 1)) continue;
        call_threads = job.threads; /* for loops inside the chunk */
        job.loop(job.context, chunk_begin(job.n, chunks, next),
                 chunk_begin(job.n, chunks, next + 1), (int)next);
        if (atomic_fetch_sub(&unfinished, 1) == 1 && atomic_load(&caller_sleeps))
            futex_wake(&unfinished, 1);
        seen = atomic_load(&ticket);
    }
}

static void *work(void *first_number) {
    uint32_t number = (uint32_t)(uintptr_t)first_number;
    inside_loop = 1; /* a parallel loop inside a chunk runs serially */
    for (;;) {
        if (!spin_while(&posted, number)) {
            atomic_fetch_add(&sleepers, 1);
            while (atomic_load(&posted) == number) futex_wait(&posted, number);
            atomic_fetch_sub(&sleepers, 1);
        }
        number = atomic_load(&posted);
        run_chunks(number);
    }
    return 0;
}

/* Starts workers up to `wanted`; fewer if the system refuses: the caller then does their part. */
static void start_workers(int wanted) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (workers < wanted) {
        pthread_t thread;
        void *number = (void *)(uintptr_t)atomic_load(&posted);
        if (pthread_create(&thread, 0, work, number)) break;
        pthread_detach(thread);
        workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
}

void flamec_parallel_for(FlamecLoop loop, void *context, int64_t n, int64_t grain) {
    if (n <= 0) return;
    int64_t chunks = grain > 1 ? n / grain : n, threads = call_threads;
    if (chunks > threads) chunks = threads;
    if (chunks <= 1) {
        loop(context, 0, n, 0);
        return;
    }
    if (inside_loop || pthread_mutex_trylock(&callers)) {
        for (int64_t i = 0; i < chunks; i++)
            loop(context, chunk_begin(n, chunks, i), chunk_begin(n, chunks, i + 1), (int)i);
        return;
    }
    inside_loop = 1;
    if (workers < chunks - 1) start_workers((int)chunks - 1);
    job = (Job){loop, context, n, threads};
    uint32_t number = atomic_load(&posted) + 1;
    atomic_store(&unfinished, (uint32_t)chunks);
    atomic_store(&ticket, (uint64_t)number << 32 | (uint64_t)chunks << 16);
    atomic_store(&posted, number);
    if (atomic_load(&sleepers)) futex_wake(&posted, (int)chunks - 1);
    run_chunks(number);
    uint32_t left = atomic_load(&unfinished);
    while (left) {
        if (!spin_while(&unfinished, left)) {
            atomic_store(&caller_sleeps, 1);
            left = atomic_load(&unfinished);
            if (left) futex_wait(&unfinished, left);
            atomic_store(&caller_sleeps, 0);
        }
        left = atomic_load(&unfinished);
    }
    inside_loop = 0;
    pthread_mutex_unlock(&callers);
}

/* A forked child has none of its parent's workers, and a loop that another thread of the parent
 * ran does not go on in it. */
static void forget_workers(void) {
    pthread_mutex_init(&callers, 0);
    workers = 0;
    inside_loop = 0;
    atomic_store(&ticket, 0);
    atomic_store(&unfinished, 0);
    atomic_store(&sleepers, 0);
    atomic_store(&caller_sleeps, 0);
}

/* Runs a program whose loops may use up to `threads` threads, 1 to 1024. */
int64_t flamec_enter(Entry *entry) {
    int64_t before = call_threads, wanted = entry->threads;
    call_threads = wanted < 1 ? 1 : wanted > MOST_THREADS ? MOST_THREADS : wanted;
    int64_t code = entry->program(&entry->call);
    call_threads = before;
    return code;
}

/* How many workers this process has started. */
int64_t flamec_workers(void) { return workers; }

__attribute__((constructor)) static void prepare_for_fork(void) {
    pthread_atfork(0, 0, forget_workers);
}
