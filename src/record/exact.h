/* Exact recording: what is touched with every allocation and every free, for the host that calls it.
 *
 * A block's site is remembered by the host; here are the counters of the sites, in the mapped file, so that they are right
 * at every instant and after SIGKILL. Who may count at a site depends on the site's lane:
 *
 *      main     blocks of MEM and OBJECT under the main interpreter's lock. Whoever holds that lock counts, with plain
 *               additions
 *      apart    all others: RAW and the C library's malloc, which need no lock of Python's, and interpreters with a lock of their
 *               own (HK_SITE_APART). Whoever counts holds hk_exact_apart
 *
 * The peak. `headroom` is what is missing to the highest total so far. While the total rises at its peak nothing is
 * saved: the values at the peak are the live ones. The first free after that is a dip: from then on (a new epoch) a site
 * that changes saves first what it had. The first allocation beyond the peak ends the dip, and makes what was saved
 * worthless, by a new serial. So neither growing nor what happens below the peak costs more than a comparison.
 *
 * The total is the main lane's. What the apart lane counts without the main lock is kept in a sum of its own, with the highest that it
 * was, until the main lane's next event, which a new epoch makes look. Meanwhile the apart lane compares its sum with the headroom, and
 * ends and begins dips itself. So the peak is exact as long as threads take turns; of what they do at the very same moment it may be off by
 * the bytes in flight.
 *
 * This structure lies on a page that the kernel wipes in the child of a fork: there births and deaths are off until the
 * child has made a record of its own. */
#ifndef HK_RECORD_EXACT_H
#define HK_RECORD_EXACT_H

#include "base/os.h"
#include "record/record.h"

struct hk_exact {
    uint32_t fast;   /* births are counted, and the host knows how to walk stacks */
    uint32_t deaths; /* 0: what is freed is not counted */
    uint32_t fast_deaths; /* deaths, and nobody wants to be told of each */
    uint32_t births; /* 0: nor is what is allocated */
    int64_t headroom;
    struct hk_capture_counters *counters; /* of site 0 */
    uint32_t epoch;  /* a site of another epoch is brought up to date before it changes */
    uint32_t serial; /* of the peak */
    uint32_t dipped; /* since the peak of this serial something was freed */
    uint32_t mark;   /* the newest, and its generation << 16 */
    uint64_t peak;   /* bytes */
    int64_t apart;   /* live bytes that the apart lane has not handed over yet, */
    int64_t apart_high; /* and the most that they were, at least 0; written under hk_exact_apart */
    uint32_t orphans; /* see hk_exact_orphan */
    uint32_t names;   /* 1: hk_exact_name is due */
};
union hk_exact_page {
    struct hk_exact at;
    char page[4096];
};
extern union hk_exact_page hk_exact_page;
#define hk_exact hk_exact_page.at

extern hk_lock hk_exact_apart;

#define HK_EXACT_NONE UINT32_MAX

/* Raised before the memory of code objects of which stacks were seen may be used again, and when modules of machine code were unloaded.
 * Any thread. */
extern uint32_t hk_exact_codes_died;

static inline uint32_t hk_exact_codes(void)
{
    return __atomic_load_n(&hk_exact_codes_died, __ATOMIC_ACQUIRE);
}

static inline void hk_exact_codes_forget(void)
{
    __atomic_add_fetch(&hk_exact_codes_died, 1, __ATOMIC_ACQ_REL);
}

/* This thread's number in the record; 0: it has none yet. Part of what a site is, so what finds sites by stacks asks for it. */
extern __thread uint16_t hk_exact_thread;
void hk_exact_meet_thread(void); /* it has one from now on, if there is room. hk_exact_apart may be held */

/* Called where births or deaths are 0: false: it stays so (frozen, stopped, ended). In the child of a fork makes its record, in
 * memory as yet. Any thread. */
bool hk_exact_wake(void);

/* Stacks may be walked, or not: see `fast`. Any thread. */
void hk_exact_set_host(bool ready);
/* The host wants to see each birth and each death: `fast` and `fast_deaths` are 0 meanwhile. Main lane. */
void hk_exact_set_watched(bool watched);

/* The site of the calling thread's stack. flags: HK_SITE_APART or 0. HK_EXACT_NONE: it cannot be recorded. Some
 * microseconds. hk_exact_apart may be held. */
uint32_t hk_exact_site(int domain, uint8_t flags);

/* True if the site is of the main lane. */
bool hk_exact_is_main(uint32_t site);
int hk_exact_domain_of(uint32_t site);
uint16_t hk_exact_thread_of(uint32_t site); /* the number of the thread whose stack it is; 0: none is known */

/* The living: some blocks are watched until they die, so that the capture knows how old what lives is (format.h: hk_capture_living). Who
 * watches one marks it, so that it is taken off when it dies; a watched block may hold code. */
struct hk_exact_living {
    uint64_t birth_ns; /* since the process's start */
    uint32_t weight;   /* as the format's; 0: the block is not watched */
    bool is_code;
};
uint64_t hk_exact_living_now(void);
/* Between hk_exact_marking_stop and _go_on. add: false: it is not taken, or one of weight 0. */
bool hk_exact_living_add(const void *block, uint32_t site, const struct hk_exact_living *living);
bool hk_exact_living_has(const void *block);
void hk_exact_living_mark_code(const void *block); /* or, as hk_exact_large_mark_code, in a function of hk_stack_source */
/* Any thread: it dies, or moves and is added again; false: it is not watched. It is charged to another site, and new. */
bool hk_exact_living_take(const void *block, struct hk_exact_living *living);
void hk_exact_living_renew(const void *block, uint32_t site);

/* Large blocks, which have no word in a pool's table. take: as it was added; false: it is not known. Any thread. age: the host's. */
bool hk_exact_large_add(const void *block, size_t bytes, uint32_t site, uint8_t age);
bool hk_exact_large_take(const void *block, size_t *bytes, uint32_t *site, uint8_t *age, bool *is_code, bool *is_watched);
/* One, which stays; or all of them, with the recorder's lock held: the visitor must not call us. */
bool hk_exact_large_find(const void *block, size_t *bytes, uint32_t *site, uint8_t *age);
void hk_exact_large_visit(void (*visitor)(uint32_t site, size_t bytes, uint8_t *age, void *argument), void *argument);
void hk_exact_large_mark_code(const void *block); /* in a function of hk_stack_source: the recorder's lock is held */

/* --- main lane: the main interpreter's lock is held --- */

void hk_exact_bring_up(struct hk_capture_counters *counters);
void hk_exact_take_over(void); /* there is a new epoch: perhaps because others have counted */
void hk_exact_rise(void); /* headroom is below 0 */
void hk_exact_dip(void);  /* the total is at its peak and something is about to be freed; of the apart lane, too */
void hk_exact_tick(void); /* now and then: takes over what others have counted */

/* Moves the record of a forked child from memory to a file of its own, where `names` says so. */
void hk_exact_name(void);

static inline __attribute__((always_inline)) void hk_exact_bring_up_if_due(struct hk_capture_counters *counters)
{
    if (__builtin_expect(counters->epoch != __atomic_load_n(&hk_exact.epoch, __ATOMIC_RELAXED), 0))
        hk_exact_bring_up(counters);
}

static inline __attribute__((always_inline)) void hk_exact_take_over_if_due(const struct hk_capture_counters *counters)
{
    if (__builtin_expect(counters->epoch != __atomic_load_n(&hk_exact.epoch, __ATOMIC_RELAXED), 0))
        hk_exact_take_over();
}

static inline __attribute__((always_inline)) void hk_exact_count_birth(struct hk_capture_counters *counters, size_t bytes)
{
    hk_exact_bring_up_if_due(counters);
    if (__builtin_expect(bytes > counters->largest, 0))
        counters->largest = bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
    counters->total_bytes += bytes;
    counters->total_blocks++;
}

static inline __attribute__((always_inline)) void hk_exact_birth(struct hk_capture_counters *counters, size_t bytes)
{
    hk_exact_take_over_if_due(counters);
    hk_exact_count_birth(counters, bytes);
    if (__builtin_expect((hk_exact.headroom -= (int64_t)bytes) < 0, 0))
        hk_exact_rise();
}

static inline __attribute__((always_inline)) void hk_exact_death(struct hk_capture_counters *counters, size_t bytes)
{
    hk_exact_take_over_if_due(counters);
    if (__builtin_expect(hk_exact.headroom == 0, 0))
        hk_exact_dip();
    hk_exact_bring_up_if_due(counters);
    counters->freed_bytes += bytes;
    counters->freed_blocks++;
    hk_exact.headroom += (int64_t)bytes;
}

/* A block of the site is watched from now on, or one that was has been freed soon: format.h says when. */
void hk_exact_life(uint32_t site, uint32_t weight, bool is_temporary);
/* Between these no code object is marked (hk_stack_source), on whichever thread; false: this thread is in the recorder already. */
bool hk_exact_marking_stop(void);
void hk_exact_marking_go_on(void);

/* A block of `had` bytes becomes one of `bytes`, charged to another site or to the same. */
void hk_exact_move(struct hk_capture_counters *from, size_t had, struct hk_capture_counters *to, size_t bytes);
/* A block loses bytes and stays where it was charged. */
void hk_exact_shrink(struct hk_capture_counters *counters, size_t bytes);

/* Takes hk_exact_apart. False: this thread has it, being a signal handler that interrupted who does; counted as skipped. */
bool hk_exact_apart_enter(void);

/* --- apart lane: hk_exact_apart is held. main: so is the main interpreter's lock --- */

void hk_exact_apart_birth(uint32_t site, size_t bytes, bool main);
void hk_exact_apart_death(uint32_t site, size_t bytes, bool main);
void hk_exact_apart_shrink(uint32_t site, size_t bytes, bool main);

/* A block of the main lane was freed without the main lock: it is counted when the main lane takes over. */
void hk_exact_orphan(uint32_t site, size_t bytes);

#endif
