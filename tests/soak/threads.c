/* threads SECONDS [THREADS [SEED]]: blocks of all sizes and kinds change hands among threads that come and go: by default four, and
 * every few rounds more than a member has batches for (src/heap/remote.c).
 *
 * After mimalloc's stress test, written anew. What every thread does, at random: makes a block (malloc, calloc, aligned), resizes
 * one, frees one; its own, in a stack that is short-lived, or one out of a table that all share, whoever made it. Bursts
 * fill and empty whole pools. Now and then one trims, reads statistics, looks at the heap, or forks a child that works on what it inherited. A
 * thread lives for a while, starts another now and then, and leaves its blocks to others; a destructor of a key of its
 * own allocates after the heap has seen it end.
 *
 * Every block says in itself how large it is and what it is filled with, and is looked at before it is resized or freed. Rounds
 * take seconds; between them there is no thread but the first, and then the heap's structures are valid, what is allocated is
 * exactly what the table holds, and, every few rounds, when nothing is, all pools are empty.
 *
 * It is compiled twice: threads calls malloc, and is to run under `heapkeeper run`; threads_heap has a heap of its own under
 * HK_LOCK_THREADS, which sanitizers can look into. At the end it prints what it did as JSON; a failure is a line on stderr and
 * status 3. */
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "heapkeeper/heap.h"

#if defined(__SANITIZE_THREAD__)
#define IS_RACE_CHECKED true
#elif defined(__has_feature)
#define IS_RACE_CHECKED __has_feature(thread_sanitizer)
#else
#define IS_RACE_CHECKED false
#endif
#define MAY_FORK !IS_RACE_CHECKED /* its own locks are not held around a fork */
#define MAY_LOOK !IS_RACE_CHECKED /* statistics read without a lock: harmless, but a race to a tool */

enum {
    TABLE = 8192,
    OWN = 512,            /* of a thread's own */
    BURST = 1500,
    MOST_THREADS = 64,
    LIFE = 40000,         /* steps of a thread, at most */
    FEW_THREADS = 4,
    MANY_THREADS = 40,
    ROUND_SECONDS = 2,
    MANY_EVERY = 5,       /* rounds */
    EMPTY_EVERY = 4,
    CHILD_SECONDS = 120,
    CHECKED_WHOLE = 4096, /* bytes; of larger blocks the ends and some between */
    SLACK = 2000,         /* blocks that libc has of malloc's, for threads and streams */
};

/* --- the allocator --- */

static hk_heap *heap; /* NULL: malloc's */
static struct {
    int (*check)(hk_heap *);
    void (*get_stats)(hk_heap *, hk_heap_stats *);
    size_t (*trim)(hk_heap *);
} ask;

#if defined(HK_STRESS_HEAP)
static void *get(size_t size) { return hk_malloc(heap, size); }
static void *get_zeroed(size_t size) { return hk_calloc(heap, 1, size); }
static void *get_aligned(size_t alignment, size_t size) { return hk_aligned_alloc(heap, alignment, size); }
static void *resize(void *block, size_t size) { return hk_realloc(heap, block, size); }
static void put(void *block) { hk_free(heap, block); }

static void allocator_begin(void)
{
    heap = hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = HK_LOCK_THREADS, .name = "stress"});
    ask.check = hk_heap_check;
    ask.get_stats = hk_heap_get_stats;
    ask.trim = hk_heap_trim;
}
#else
static void *get(size_t size) { return malloc(size); }
static void *get_zeroed(size_t size) { return calloc(1, size); }
static void *get_aligned(size_t alignment, size_t size) { return memalign(alignment, size); }
static void *resize(void *block, size_t size) { return realloc(block, size); }
static void put(void *block) { free(block); }

static void allocator_begin(void)
{
    *(void **)&ask.check = dlsym(RTLD_DEFAULT, "hk_heap_check");
    *(void **)&ask.get_stats = dlsym(RTLD_DEFAULT, "hk_heap_get_stats");
    *(void **)&ask.trim = dlsym(RTLD_DEFAULT, "malloc_trim"); /* takes a number, returns one */
    if (ask.check == NULL)
        ask.get_stats = NULL;
}
#endif

/* --- failures, numbers --- */

static uint64_t seed = 1;

static __attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    dprintf(2, "soak: pid %d, seed %llu: %s\n", (int)getpid(), (unsigned long long)seed, text);
    _exit(3);
}

static uint64_t next(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

static size_t below(uint64_t *random, size_t limit)
{
    return (size_t)((next(random) >> 20) % limit);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* --- blocks that know what they hold --- */

struct block {
    uint64_t size, tag;
    uint64_t words[];
};

static size_t word_count(const struct block *b)
{
    return (b->size - sizeof(*b)) / sizeof(uint64_t);
}

/* The next word to look at: all in small blocks, some in large ones. */
static size_t step_from(size_t i, size_t count)
{
    return i < CHECKED_WHOLE / 8 || i + 64 >= count ? i + 1 : i + 61;
}

static uint64_t word_at(uint64_t tag, size_t i)
{
    return tag + i * 0x9e3779b97f4a7c15u;
}

static struct block *fill(void *memory, size_t size, uint64_t tag)
{
    struct block *b = memory;
    if (b == NULL)
        fail("no memory for %zu bytes", size);
    b->size = size;
    b->tag = tag;
    for (size_t i = 0, count = word_count(b); i < count; i = step_from(i, count))
        b->words[i] = word_at(tag, i);
    return b;
}

/* Its first words, up to so many bytes, are as they were filled. */
static void look(const struct block *b, uint64_t size, uint64_t tag, size_t bytes)
{
    size_t count = (size - sizeof(*b)) / sizeof(uint64_t);
    if (b->size != size || b->tag != tag)
        fail("block %p has size %llu, tag %llx", (const void *)b, (unsigned long long)b->size, (unsigned long long)b->tag);
    for (size_t i = 0; i < count && (i + 1) * 8 + sizeof(*b) <= bytes; i = step_from(i, count))
        if (b->words[i] != word_at(tag, i))
            fail("block %p of %llu bytes: word %zu is %llx", (const void *)b, (unsigned long long)size, i,
                 (unsigned long long)b->words[i]);
}

static size_t size_at_random(uint64_t *random)
{
    size_t kind = below(random, 1000), size;
    if (kind < 600)
        size = below(random, 256);
    else if (kind < 850)
        size = below(random, 4096);
    else if (kind < 970)
        size = (1 + below(random, 70)) * 64 + below(random, 17) - 8; /* around the ends of classes */
    else if (kind < 999)
        size = 4000 + below(random, 60000);
    else
        size = below(random, 1 << 20);
    return size < sizeof(struct block) ? sizeof(struct block) : size;
}

static struct block *make_sized(uint64_t *random, size_t size)
{
    size_t kind = below(random, 10);
    void *memory;
    if (kind == 0) {
        size_t alignment = (size_t)16 << below(random, 9);
        memory = get_aligned(alignment, size);
        if ((uintptr_t)memory % alignment != 0)
            fail("%p is not aligned to %zu", memory, alignment);
    } else if (kind == 1) {
        memory = get_zeroed(size);
        for (size_t i = 0; memory != NULL && i < size; i++)
            if (((char *)memory)[i] != 0)
                fail("calloc of %zu bytes: byte %zu is not 0", size, i);
    } else {
        memory = get(size);
    }
    return fill(memory, size, next(random));
}

static struct block *make(uint64_t *random)
{
    return make_sized(random, size_at_random(random));
}

static void drop(struct block *b)
{
    if (b == NULL)
        return;
    look(b, b->size, b->tag, b->size);
    b->tag = ~b->tag; /* a second free of it would be seen */
    put(b);
}

static struct block *change_size(struct block *b, uint64_t *random)
{
    size_t old = b->size, size = size_at_random(random), least = size < old ? size : old;
    uint64_t tag = b->tag;
    look(b, old, tag, old);
    b = resize(b, size);
    if (b == NULL)
        fail("no memory for %zu bytes", size);
    if (old <= CHECKED_WHOLE && size <= CHECKED_WHOLE)
        look(b, old, tag, least);
    return fill(b, size, next(random));
}

/* --- threads --- */

static struct block *table[TABLE];
static uint64_t made, forks, looks, threads_lived; /* atomic */
static bool is_over;                               /* the round; atomic */
static int alive, thread_limit;                    /* not joined yet; under `lock`, as what follows */
static pthread_t ended[MOST_THREADS];
static int ended_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_key_t late_key;

struct life {
    uint64_t random;
    struct block *own[OWN];
    size_t count;
};

static void count_one(uint64_t *counter)
{
    __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static struct block *exchange(size_t place, struct block *b)
{
    return __atomic_exchange_n(&table[place], b, __ATOMIC_ACQ_REL);
}

/* Pools of one size fill up and are emptied again: in order, backwards, or by others. */
static void burst(struct life *life)
{
    struct block *blocks[BURST];
    size_t size = size_at_random(&life->random), count = 1 + below(&life->random, BURST), way = below(&life->random, 3);
    if (size > 4096)
        count = 1 + count / 100;
    for (size_t i = 0; i < count; i++)
        blocks[i] = make_sized(&life->random, size);
    for (size_t i = 0; i < count; i++) {
        struct block *b = blocks[way == 1 ? count - 1 - i : i];
        drop(way == 2 && i % 2 != 0 ? exchange(below(&life->random, TABLE), b) : b);
    }
}

static void look_around(uint64_t *random)
{
    hk_heap_stats s = {.size = sizeof(s)};
    switch (below(random, 3)) {
    case 0:
        if (ask.trim != NULL)
            ask.trim(heap);
        break;
    default:
        if (ask.get_stats != NULL && MAY_LOOK)
            ask.get_stats(heap, &s); /* off by what others do meanwhile; it must only come to an end */
    }
    count_one(&looks);
}

static void child_works(uint64_t random)
{
    struct block *mine[300];
    for (size_t i = 0; i < 300; i++)
        mine[i] = make(&random);
    for (size_t i = 0; i < 200; i++)
        drop(exchange(below(&random, TABLE), NULL));
    for (size_t i = 0; i < 300; i++)
        drop(mine[i]);
}

static void fork_child(uint64_t random)
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(CHILD_SECONDS);
        child_works(random);
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        fail("child %d: status %#x", (int)pid, status);
    count_one(&forks);
}

static void step(struct life *life)
{
    size_t kind = below(&life->random, 1000), place = below(&life->random, TABLE);
    struct block *b;
    if (kind < 450) {
        drop(exchange(place, make(&life->random)));
    } else if (kind < 700) {
        if (life->count > 0 && (life->count == OWN || below(&life->random, 2) == 0))
            drop(life->own[--life->count]);
        else
            life->own[life->count++] = make(&life->random);
    } else if (kind < 850) {
        b = exchange(place, NULL);
        drop(exchange(place, b != NULL ? change_size(b, &life->random) : NULL));
    } else if (kind < 998) {
        drop(exchange(place, NULL));
    } else if (below(&life->random, 8) != 0) {
        burst(life);
    } else if (MAY_FORK && below(&life->random, 8) == 0) {
        fork_child(next(&life->random));
    } else {
        look_around(&life->random);
    }
    count_one(&made);
}

static void start_thread(uint64_t random);

static void *live(void *argument)
{
    struct life life = {.random = (uint64_t)(uintptr_t)argument};
    size_t steps = below(&life.random, LIFE);
    pthread_setspecific(late_key, (void *)(uintptr_t)(next(&life.random) | 1));
    for (size_t i = 0; i < steps && !__atomic_load_n(&is_over, __ATOMIC_RELAXED); i++) {
        step(&life);
        if (below(&life.random, LIFE / 2) == 0)
            start_thread(next(&life.random));
    }
    while (life.count > 0)
        drop(exchange(below(&life.random, TABLE), life.own[--life.count]));
    return NULL;
}

/* Runs when the thread's part of the heap may be somebody else's already. */
static void after_life(void *argument)
{
    uint64_t random = (uint64_t)(uintptr_t)argument;
    struct block *mine[20];
    for (size_t i = 0; i < 20; i++)
        mine[i] = make(&random);
    for (size_t i = 0; i < 20; i++)
        drop(exchange(below(&random, TABLE), mine[i]));
    count_one(&threads_lived);
    pthread_mutex_lock(&lock);
    ended[ended_count++] = pthread_self();
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static void start_thread(uint64_t random)
{
    pthread_t thread;
    pthread_mutex_lock(&lock);
    bool may = alive < thread_limit;
    alive += may;
    pthread_mutex_unlock(&lock);
    if (!may)
        return;
    if (pthread_create(&thread, NULL, live, (void *)(uintptr_t)(random | 1)) != 0)
        fail("no thread");
}

/* Joins one that has ended, if there is one within so many milliseconds. */
static void join_one(long milliseconds)
{
    struct timespec until;
    pthread_t thread;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += milliseconds * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&lock);
    if (ended_count == 0)
        pthread_cond_timedwait(&changed, &lock, &until);
    bool has = ended_count > 0;
    if (has)
        thread = ended[--ended_count];
    pthread_mutex_unlock(&lock);
    if (!has)
        return;
    pthread_join(thread, NULL);
    pthread_mutex_lock(&lock);
    alive--;
    pthread_mutex_unlock(&lock);
}

static int alive_now(void)
{
    pthread_mutex_lock(&lock);
    int now = alive;
    pthread_mutex_unlock(&lock);
    return now;
}

static void one_round(uint64_t *random, double end)
{
    __atomic_store_n(&is_over, false, __ATOMIC_RELAXED);
    while (seconds() < end) {
        start_thread(next(random));
        if (alive_now() == thread_limit)
            join_one(50);
    }
    __atomic_store_n(&is_over, true, __ATOMIC_RELAXED);
    while (alive_now() > 0)
        join_one(500);
}

/* --- between the rounds --- */

static uint64_t checks, late;

/* What the table holds is allocated, and nothing else. A block that was freed while its owner's thread ended may wait in that one's
 * list, and count, until somebody looks there. */
static void check(void)
{
    hk_heap_stats s = {.size = sizeof(s)};
    uint64_t held = 0;
    if (ask.check == NULL)
        return;
    int rule = ask.check(heap);
    if (rule != 0)
        fail("hk_heap_check: rule %d", rule);
    for (size_t i = 0; i < TABLE; i++)
        held += table[i] != NULL;
    ask.get_stats(heap, &s);
    if (heap != NULL && s.live_blocks + s.large_blocks > held) {
        late += s.live_blocks + s.large_blocks - held;
        ask.trim(heap);
        ask.get_stats(heap, &s);
    }
    uint64_t live = s.live_blocks + s.large_blocks;
    if (live < held || live > held + (heap != NULL ? 0 : SLACK))
        fail("%llu blocks are allocated, the table has %llu", (unsigned long long)live, (unsigned long long)held);
    uint64_t sum = s.live_bytes + s.free_bytes + s.untouched_bytes + s.tail_bytes + s.empty_bytes + s.metadata_bytes;
    if (sum != s.mapped_bytes)
        fail("classes sum to %llu bytes of %llu mapped", (unsigned long long)sum, (unsigned long long)s.mapped_bytes);
    checks++;
}

static void empty(void)
{
    hk_heap_stats s = {.size = sizeof(s)};
    for (size_t i = 0; i < TABLE; i++)
        drop(exchange(i, NULL));
    if (ask.trim != NULL)
        ask.trim(heap);
    check();
    if (heap == NULL || ask.get_stats == NULL)
        return;
    ask.get_stats(heap, &s);
    if (s.pools_used + s.pools_full + s.large_bytes + s.empty_bytes != 0)
        fail("%u pools and %llu large bytes are left of nothing, %llu bytes were kept", s.pools_used + s.pools_full,
             (unsigned long long)s.large_bytes, (unsigned long long)s.empty_bytes);
}

int main(int argc, char **argv)
{
    double start = seconds(), length = argc > 1 ? atof(argv[1]) : 5;
    int threads = argc > 2 ? atoi(argv[2]) : 0;
    seed = argc > 3 ? strtoull(argv[3], NULL, 10) : (uint64_t)time(NULL);
    uint64_t random = seed * 0x9e3779b97f4a7c15u | 1, rounds = 0;
    if (argc > 2 && (threads < 1 || threads > MOST_THREADS))
        fail("from 1 to %d threads", MOST_THREADS);
    allocator_begin();
    pthread_key_create(&late_key, after_life);
    do {
        double now = seconds(), end = now + ROUND_SECONDS;
        thread_limit = threads != 0 ? threads : rounds % MANY_EVERY == 1 ? MANY_THREADS : FEW_THREADS;
        one_round(&random, end < start + length ? end : start + length);
        check();
        if (++rounds % EMPTY_EVERY == 0)
            empty();
    } while (seconds() < start + length);
    empty();
    printf("{\"rounds\": %llu, \"checks\": %llu, \"seconds\": %.1f, \"counts\": {\"steps\": %llu, \"threads\": %llu, "
           "\"forks\": %llu, \"looks\": %llu, \"late\": %llu, \"seed\": %llu}}\n",
           (unsigned long long)rounds, (unsigned long long)checks, seconds() - start, (unsigned long long)made,
           (unsigned long long)threads_lived, (unsigned long long)forks, (unsigned long long)looks, (unsigned long long)late,
           (unsigned long long)seed);
    return 0;
}
