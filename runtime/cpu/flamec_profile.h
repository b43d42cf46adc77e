/* The clock between the steps of a program, in a build with FLAMEC_PROFILE; else nothing.
 *
 * In: where to write times, from the thread that calls the program next. Out: for each step how
 * often and how long it ran, and the spans of the first runs. The time of a loop includes its body.
 * A program may be stopped before one of its steps, to look at its memory. */
#ifndef FLAMEC_PROFILE_H
#define FLAMEC_PROFILE_H

/* A step of a long program: a function of its own, or one that steps share and the first place of
 * its buffers. */
typedef struct FlamecRow {
    int64_t number;
    int64_t (*own)(FlamecCall *);
    int64_t (*shared)(FlamecCall *, const int32_t *);
    int64_t first;
} FlamecRow;

/* Keeps which step failed: the innermost, of loops in loops. */
static inline __attribute__((unused)) int64_t flamec_made(int64_t error, int64_t number, FlamecCall *call) {
    if (error && !call->failed_step) call->failed_step = number + 1;
    return error;
}

#ifdef FLAMEC_PROFILE

typedef struct FlamecSpan {
    int64_t step, start, end; /* nanoseconds of `now` */
} FlamecSpan;

typedef struct FlamecStepTotal {
    int64_t runs, nanoseconds, first, last; /* when it first began and last ended */
} FlamecStepTotal;

typedef struct FlamecProfile {
    int64_t (*now)(void);
    int64_t capacity; /* of spans; what does not fit is only counted */
    int64_t count;    /* of spans, written or not */
    int64_t stop;     /* the step before whose first run the program returns FLAMEC_STOPPED, or -1 */
    FlamecSpan *spans;
    FlamecStepTotal *totals; /* by the step's number */
} FlamecProfile;

enum { FLAMEC_STOPPED = -1 }; /* no error of a program */

static __thread FlamecProfile *flamec_profile;

/* From now on the calling thread's runs of this program write there. */
void flamec_profile_into(FlamecProfile *profile) { flamec_profile = profile; }

static inline int64_t flamec_timed(
    int64_t number, int64_t (*own)(FlamecCall *), int64_t (*shared)(FlamecCall *, const int32_t *),
    const int32_t *at, FlamecCall *call
) {
    FlamecProfile *profile = flamec_profile;
    if (number == profile->stop) return FLAMEC_STOPPED;
    int64_t start = profile->now(), error = own ? own(call) : shared(call, at), end = profile->now();
    FlamecStepTotal *total = &profile->totals[number];
    if (!total->runs++) total->first = start;
    total->last = end;
    total->nanoseconds += end - start;
    if (profile->count < profile->capacity)
        profile->spans[profile->count] = (FlamecSpan){number, start, end};
    profile->count++;
    return error;
}

#define FLAMEC_STEP(number) flamec_made(flamec_timed(number, step_##number, 0, 0, call), number, call)
#define FLAMEC_ROW(row, places)                                                        \
    flamec_made(                                                                       \
        flamec_timed((row).number, (row).own, (row).shared, (places) + (row).first, call), \
        (row).number, call                                                             \
    )
#else
#define FLAMEC_STEP(number) flamec_made(step_##number(call), number, call)
#define FLAMEC_ROW(row, places)                                                      \
    flamec_made(                                                                     \
        (row).own ? (row).own(call) : (row).shared(call, (places) + (row).first),    \
        (row).number, call                                                           \
    )
#endif

#endif
