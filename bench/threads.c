/* threads.c: one pattern of allocation by several threads on one allocator, in a process of its own.
 *
 *   threads PATTERN THREADS [libheapkeeper.so]
 *
 * With a library the pattern runs on hk_malloc and hk_free of a heap made by hk_heap_create under HK_LOCK_THREADS;
 * without, on the malloc and free that the process has (glibc's, or a preloaded peer's). Prints the wall and the CPU
 * nanoseconds for one block's life (its malloc, a write to its first word, its free) in one thread, and the file that
 * malloc came from: wall time times threads, divided by the blocks of all threads.
 *
 * Patterns, after well-known ones (Larson and Krishnan's server, Lever and Boreham's xmalloc-test, Hoard's cache-scratch
 * and cache-thrash, mimalloc's stress test), all written anew:
 *
 *   larson    a thread replaces blocks of 8 to 500 bytes at random among 5000, and after 50 000 ends; the thread that
 *             it starts goes on with its blocks, so that they are freed by another than made them
 *   xmalloc   half of the threads make blocks, by 120 in a batch, and the other half free them. One thread does both
 *             in turn. 8 to 500 bytes
 *   scratch   each thread is given a block that one thread has made beside those of the others, frees it, and then
 *             makes blocks of 8 bytes, writes each 50 times and frees it: passive false sharing costs
 *   thrash    the same without the given blocks: active false sharing costs
 *   exchange  blocks of 16 bytes to 4 KiB, small ones more often, change hands in a table of 4096; threads end and are
 *             born again each 20 000 blocks
 *
 * Every pattern is compiled twice from one body, with `ours` a constant, so that both sides pay exactly one
 * indirect call per operation. All randomness comes from fixed seeds. threads.py runs and compares. */
#include "../include/heapkeeper/heap.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { MAX_THREADS = 64, SIZES = 4096, LARSON_SLOTS = 5000, LARSON_TURNS = 50000, LARSON_LIVES = 30,
       BATCH = 120, BATCHES = 10000, QUEUE = 64, SCRATCH_TURNS = 2000000, SCRATCH_WRITES = 50,
       TABLE = 4096, EXCHANGE_TURNS = 20000, EXCHANGE_LIVES = 50 };

typedef struct {
    bool ours;
    hk_heap *heap;
    void *(*hk_malloc)(hk_heap *, size_t);
    void (*hk_free)(hk_heap *, void *);
    void *(*c_malloc)(size_t);
    void (*c_free)(void *);
} allocator;

static allocator the;
static int thread_count;
static uint16_t narrow[SIZES], wide[SIZES]; /* 8 ... 500; 16 ... 4096, skewed */

typedef struct {
    pthread_t thread;
    uint64_t random;
    int number, lives;
    void **slots;
} worker;

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void fill_sizes(void) {
    uint64_t state = 0x9E3779B97F4A7C15u;
    for (int i = 0; i < SIZES; i++) {
        double r = (double)(next_random(&state) >> 11) / 9007199254740992.0;
        narrow[i] = (uint16_t)(8 + next_random(&state) % 493);
        wide[i] = (uint16_t)(16 + r * r * r * r * 4080);
    }
}

static void fail(const char *what) {
    fprintf(stderr, "threads: %s\n", what);
    exit(1);
}

/* Memory of the benchmark itself, out of every allocator's sight, and touched before the clock starts. */
static void *scratch_memory(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) fail("no memory");
    memset(p, 0, bytes);
    return p;
}

ALWAYS_INLINE void *get(bool ours, size_t size) {
    void *p = ours ? the.hk_malloc(the.heap, size) : the.c_malloc(size);
    if (!p) fail("no memory");
    *(volatile uint64_t *)p = size;
    return p;
}

ALWAYS_INLINE void put(bool ours, void *p) {
    if (ours) the.hk_free(the.heap, p);
    else the.c_free(p);
}

/* Ends of a chain of threads, each of which starts the next: the first waits for the last. */
static pthread_mutex_t ends_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ends_changed = PTHREAD_COND_INITIALIZER;
static int chains_left;

static void chain_next(worker *w, void *(*work)(void *)) {
    pthread_t thread;
    if (--w->lives > 0) {
        if (pthread_create(&thread, NULL, work, w) != 0) fail("no thread");
        pthread_detach(thread);
        return;
    }
    pthread_mutex_lock(&ends_lock);
    chains_left--;
    pthread_cond_signal(&ends_changed);
    pthread_mutex_unlock(&ends_lock);
}

static void chains_wait(void) {
    pthread_mutex_lock(&ends_lock);
    while (chains_left > 0) pthread_cond_wait(&ends_changed, &ends_lock);
    pthread_mutex_unlock(&ends_lock);
}

/* --- larson --- */

ALWAYS_INLINE void larson(bool ours, worker *w) {
    uint64_t state = w->random;
    for (int i = 0; i < LARSON_TURNS; i++) {
        uint64_t r = next_random(&state);
        void **slot = &w->slots[r % LARSON_SLOTS];
        put(ours, *slot);
        *slot = get(ours, narrow[r >> 40 & (SIZES - 1)]);
    }
    w->random = state;
}

/* --- xmalloc --- */

typedef struct { void *blocks[BATCH]; } batch;
static batch *queue[QUEUE], *spare[QUEUE];
static int queued, spares, batches_to_free;
static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t queue_filled = PTHREAD_COND_INITIALIZER, queue_emptied = PTHREAD_COND_INITIALIZER;

static batch *spare_take(void) {
    pthread_mutex_lock(&queue_lock);
    while (spares == 0) pthread_cond_wait(&queue_emptied, &queue_lock);
    batch *b = spare[--spares];
    pthread_mutex_unlock(&queue_lock);
    return b;
}

static void queue_put(batch *b) {
    pthread_mutex_lock(&queue_lock);
    queue[queued++] = b;
    pthread_cond_signal(&queue_filled);
    pthread_mutex_unlock(&queue_lock);
}

static batch *queue_take(void) {
    pthread_mutex_lock(&queue_lock);
    while (queued == 0 && batches_to_free > 0) pthread_cond_wait(&queue_filled, &queue_lock);
    batch *b = queued > 0 ? queue[--queued] : NULL;
    if (b && --batches_to_free == 0) pthread_cond_broadcast(&queue_filled);
    pthread_mutex_unlock(&queue_lock);
    return b;
}

static void spare_put(batch *b) {
    pthread_mutex_lock(&queue_lock);
    spare[spares++] = b;
    pthread_cond_signal(&queue_emptied);
    pthread_mutex_unlock(&queue_lock);
}

ALWAYS_INLINE void xmalloc(bool ours, worker *w) {
    bool makes = thread_count == 1 || w->number % 2 == 0, frees = thread_count == 1 || !makes;
    for (int turn = 0; turn < BATCHES; turn++) {
        if (makes) {
            batch *b = spare_take();
            for (int i = 0; i < BATCH; i++) b->blocks[i] = get(ours, narrow[next_random(&w->random) & (SIZES - 1)]);
            queue_put(b);
        }
        if (frees) {
            batch *b = queue_take();
            for (int i = 0; i < BATCH; i++) put(ours, b->blocks[i]);
            spare_put(b);
        }
    }
}

/* --- scratch and thrash --- */

ALWAYS_INLINE void scratch(bool ours, worker *w) {
    if (w->slots) put(ours, w->slots[0]);
    for (int i = 0; i < SCRATCH_TURNS; i++) {
        volatile char *block = get(ours, 8);
        for (int k = 0; k < SCRATCH_WRITES; k++) block[k & 7] = (char)(block[k & 7] + 1);
        put(ours, (void *)block);
    }
}

/* --- exchange --- */

static void *table[TABLE];

ALWAYS_INLINE void exchange(bool ours, worker *w) {
    uint64_t state = w->random;
    for (int i = 0; i < EXCHANGE_TURNS; i++) {
        uint64_t r = next_random(&state);
        void *mine = get(ours, wide[r >> 40 & (SIZES - 1)]);
        void *other = __atomic_exchange_n(&table[r % TABLE], mine, __ATOMIC_ACQ_REL);
        if (other) put(ours, other);
    }
    w->random = state;
}

/* --- all --- */

#define TWICE(name) \
    static void *name##_ours(void *w) { name(true, w); return NULL; } \
    static void *name##_theirs(void *w) { name(false, w); return NULL; }
#define TWICE_CHAINED(name) \
    static void *name##_ours(void *w) { name(true, w); chain_next(w, name##_ours); return NULL; } \
    static void *name##_theirs(void *w) { name(false, w); chain_next(w, name##_theirs); return NULL; }

TWICE_CHAINED(larson)
TWICE(xmalloc)
TWICE(scratch)
TWICE_CHAINED(exchange)

static const struct pattern {
    const char *name;
    void *(*ours)(void *), *(*theirs)(void *);
    int lives; /* threads that follow each other; 0: one */
    int turns; /* blocks in one thread's life */
} patterns[] = {
    {"larson", larson_ours, larson_theirs, LARSON_LIVES, LARSON_TURNS},
    {"xmalloc", xmalloc_ours, xmalloc_theirs, 0, BATCH * BATCHES},
    {"scratch", scratch_ours, scratch_theirs, 0, SCRATCH_TURNS},
    {"thrash", scratch_ours, scratch_theirs, 0, SCRATCH_TURNS},
    {"exchange", exchange_ours, exchange_theirs, EXCHANGE_LIVES, EXCHANGE_TURNS},
};

static void *one_get(size_t size) {
    return the.ours ? get(true, size) : get(false, size);
}

static void prepare(const struct pattern *p, worker *workers) {
    bool is_larson = strcmp(p->name, "larson") == 0, is_scratch = strcmp(p->name, "scratch") == 0;
    for (int i = 0; i < thread_count; i++) {
        workers[i] = (worker){.number = i, .lives = p->lives, .random = 0x9E3779B97F4A7C15u * (uint64_t)(i + 1)};
        if (is_larson || is_scratch) workers[i].slots = scratch_memory(LARSON_SLOTS * sizeof(void *));
        if (is_scratch) workers[i].slots[0] = one_get(8);
        for (int k = 0; is_larson && k < LARSON_SLOTS; k++) workers[i].slots[k] = one_get(narrow[k % SIZES]);
    }
    batch *batches = scratch_memory(QUEUE * sizeof *batches);
    for (spares = 0; spares < QUEUE; spares++) spare[spares] = &batches[spares];
    batches_to_free = BATCHES * (thread_count == 1 ? 1 : thread_count / 2);
    chains_left = thread_count;
}

static uint64_t nanoseconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void measure(const struct pattern *p, const char *from) {
    static worker workers[MAX_THREADS];
    prepare(p, workers);
    uint64_t wall = nanoseconds(CLOCK_MONOTONIC), cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < thread_count; i++)
        if (pthread_create(&workers[i].thread, NULL, the.ours ? p->ours : p->theirs, &workers[i]) != 0) fail("no thread");
    for (int i = 0; i < thread_count; i++) pthread_join(workers[i].thread, NULL);
    if (p->lives) chains_wait();
    wall = nanoseconds(CLOCK_MONOTONIC) - wall;
    cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    double blocks = (double)p->turns * (p->lives ? p->lives : 1) * thread_count;
    if (strcmp(p->name, "xmalloc") == 0 && thread_count > 1) blocks /= 2;
    printf("%.3f %.3f %s\n", (double)wall * thread_count / blocks, (double)cpu / blocks, from);
}

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "threads: %s: no such function\n", name);
        exit(1);
    }
    return found;
}

static void open_allocator(const char *path) {
    the.ours = path != NULL;
    if (!path) {
        *(void **)&the.c_malloc = symbol(RTLD_DEFAULT, "malloc");
        *(void **)&the.c_free = symbol(RTLD_DEFAULT, "free");
        return;
    }
    void *library = dlopen(path, RTLD_NOW);
    if (!library) fail(dlerror());
    hk_heap *(*create)(const hk_heap_options *);
    *(void **)&create = symbol(library, "hk_heap_create");
    *(void **)&the.hk_malloc = symbol(library, "hk_malloc");
    *(void **)&the.hk_free = symbol(library, "hk_free");
    the.heap = create(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = HK_LOCK_THREADS, .name = "threads"});
    if (!the.heap) fail("hk_heap_create failed");
}

/* The file that a function came from: evidence for threads.py that the right allocator was measured. */
static const char *origin(void *function) {
    Dl_info info;
    return dladdr(function, &info) && info.dli_fname ? info.dli_fname : "?";
}

int main(int argc, char **argv) {
    if (argc < 3) {
        for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) puts(patterns[i].name);
        return 0;
    }
    thread_count = atoi(argv[2]);
    if (thread_count < 1 || thread_count > MAX_THREADS || (thread_count > 1 && thread_count % 2))
        fail("threads: 1, or an even number up to 64");
    fill_sizes();
    open_allocator(argc > 3 ? argv[3] : NULL);
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        if (strcmp(argv[1], patterns[i].name) == 0) {
            measure(&patterns[i], origin(the.ours ? *(void **)&the.hk_malloc : *(void **)&the.c_malloc));
            return 0;
        }
    fprintf(stderr, "threads: unknown pattern '%s'\n", argv[1]);
    return 2;
}
