/* micro.c: one allocation pattern on one allocator, in one thread, in a process of its own.
 *
 *   micro PATTERN [libheapkeeper.so]
 *
 * With a library the pattern runs on hk_malloc and hk_free of a heap made by hk_heap_create under HK_LOCK_HOST;
 * without, on the malloc and free that the process has (glibc's, or a preloaded peer's). Prints the CPU nanoseconds
 * for one block's life: its malloc, a write to its first word, and its free.
 *
 * Every pattern is compiled twice from one body, with `ours` a constant, so that both sides pay exactly one
 * indirect call per operation and nothing else: no wrapper, no symbol lookup, no inlined fast path.
 *
 * Sizes "mixed": 16 to 512 bytes, skewed to the small end as Python's are (median 78), from a fixed table. All
 * randomness comes from one generator with a fixed seed. micro.py runs and compares. */
#include "../include/heapkeeper/heap.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { SIZES = 4096, BULK = 2000000 };

typedef struct {
    bool ours;
    hk_heap *heap;
    void *(*hk_malloc)(hk_heap *, size_t);
    void (*hk_free)(hk_heap *, void *);
    void *(*c_malloc)(size_t);
    void (*c_free)(void *);
} allocator;

static uint32_t sizes[SIZES];
static uint64_t random_state = 0x9E3779B97F4A7C15u;

static uint64_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void fill_sizes(void) {
    for (int i = 0; i < SIZES; i++) {
        double r = (double)(next_random() >> 11) / 9007199254740992.0;
        sizes[i] = 16 + (uint32_t)(r * r * r * 497);
    }
}

/* Memory of the benchmark itself, out of every allocator's sight, and touched before the clock starts. */
static void *scratch(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "micro: no memory\n");
        exit(1);
    }
    memset(p, 0, bytes);
    return p;
}

static uint32_t *permutation(uint32_t count) {
    uint32_t *order = scratch((size_t)count * sizeof *order);
    for (uint32_t i = 0; i < count; i++) order[i] = i;
    for (uint32_t i = count - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(next_random() % (i + 1)), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    return order;
}

static uint64_t cpu_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE void *get(const allocator *a, bool ours, size_t size) {
    uintptr_t *block = ours ? a->hk_malloc(a->heap, size) : a->c_malloc(size);
    *block = size; /* a block that is not written is not an object; also faults if NULL */
    return block;
}

ALWAYS_INLINE void put(const allocator *a, bool ours, void *block) {
    if (ours) a->hk_free(a->heap, block);
    else a->c_free(block);
}

/* Patterns. Each returns CPU nanoseconds for `*lives` block lives. */
typedef struct {
    const char *name;
    enum { PAIR, CYCLE, STEADY, BULKY } kind;
    enum { LIFO, FIFO, RANDOM } order;
    uint32_t live; /* PAIR: the size, 0 = mixed. Else: blocks alive at once */
    uint32_t turns;
} pattern;

static const pattern patterns[] = {
    {"pair32", PAIR, LIFO, 32, 20000000},
    {"pair200", PAIR, LIFO, 200, 20000000},
    {"pairmixed", PAIR, LIFO, 0, 20000000},
    {"lifo1k", CYCLE, LIFO, 1000, 12000},
    {"fifo1k", CYCLE, FIFO, 1000, 12000},
    {"random1k", CYCLE, RANDOM, 1000, 12000},
    {"lifo100k", CYCLE, LIFO, 100000, 60},
    {"fifo100k", CYCLE, FIFO, 100000, 60},
    {"random100k", CYCLE, RANDOM, 100000, 40},
    {"steady16k", STEADY, RANDOM, 16384, 10000000},
    {"steady1M", STEADY, RANDOM, 1048576, 4000000},
    {"bulkfifo", BULKY, FIFO, BULK, 1},
    {"bulkrandom", BULKY, RANDOM, BULK, 1},
};

ALWAYS_INLINE uint64_t run_pair(const allocator *a, bool ours, const pattern *p, uint64_t *lives) {
    uint64_t start = 0;
    for (int warm = 1; warm >= 0; warm--) {
        uint32_t turns = warm ? SIZES * 4 : p->turns;
        start = cpu_nanoseconds();
        if (p->live) {
            for (uint32_t i = 0; i < turns; i++) put(a, ours, get(a, ours, p->live));
        } else {
            for (uint32_t i = 0; i < turns; i++) put(a, ours, get(a, ours, sizes[i % SIZES]));
        }
    }
    *lives = p->turns;
    return cpu_nanoseconds() - start;
}

ALWAYS_INLINE void cycle(const allocator *a, bool ours, const pattern *p, void **slots, const uint32_t *order,
                         uint32_t shift) {
    uint32_t live = p->live;
    for (uint32_t i = 0; i < live; i++) slots[i] = get(a, ours, sizes[(i + shift) % SIZES]);
    if (p->order == LIFO) {
        for (uint32_t i = live; i > 0; i--) put(a, ours, slots[i - 1]);
    } else if (p->order == FIFO) {
        for (uint32_t i = 0; i < live; i++) put(a, ours, slots[i]);
    } else {
        for (uint32_t i = 0; i < live; i++) put(a, ours, slots[order[i]]);
    }
}

/* BULKY is one cold cycle (the first touch of the memory is part of it); CYCLE is many after one to warm up. */
ALWAYS_INLINE uint64_t run_cycle(const allocator *a, bool ours, const pattern *p, uint64_t *lives) {
    void **slots = scratch((size_t)p->live * sizeof *slots);
    uint32_t *order = p->order == RANDOM ? permutation(p->live) : NULL;
    if (p->kind == CYCLE) cycle(a, ours, p, slots, order, 0);
    uint64_t start = cpu_nanoseconds();
    for (uint32_t turn = 0; turn < p->turns; turn++) cycle(a, ours, p, slots, order, turn * 7);
    *lives = (uint64_t)p->turns * p->live;
    return cpu_nanoseconds() - start;
}

ALWAYS_INLINE uint64_t run_steady(const allocator *a, bool ours, const pattern *p, uint64_t *lives) {
    void **slots = scratch((size_t)p->live * sizeof *slots);
    for (uint32_t i = 0; i < p->live; i++) slots[i] = get(a, ours, sizes[i % SIZES]);
    uint64_t start = 0, state = random_state;
    for (int warm = 1; warm >= 0; warm--) {
        uint32_t turns = warm ? p->live * 2 : p->turns;
        start = cpu_nanoseconds();
        for (uint32_t i = 0; i < turns; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            uint32_t slot = (uint32_t)(state >> 40) & (p->live - 1);
            put(a, ours, slots[slot]);
            slots[slot] = get(a, ours, sizes[(state >> 28) % SIZES]);
        }
    }
    *lives = p->turns;
    return cpu_nanoseconds() - start;
}

ALWAYS_INLINE uint64_t run_pattern(const allocator *a, bool ours, const pattern *p, uint64_t *lives) {
    switch (p->kind) {
    case PAIR: return run_pair(a, ours, p, lives);
    case STEADY: return run_steady(a, ours, p, lives);
    default: return run_cycle(a, ours, p, lives);
    }
}

static __attribute__((noinline)) uint64_t run_ours(const allocator *a, const pattern *p, uint64_t *lives) {
    return run_pattern(a, true, p, lives);
}

static __attribute__((noinline)) uint64_t run_theirs(const allocator *a, const pattern *p, uint64_t *lives) {
    return run_pattern(a, false, p, lives);
}

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "micro: %s: no such function\n", name);
        exit(1);
    }
    return found;
}

static allocator open_allocator(const char *path) {
    allocator a = {.ours = path != NULL};
    if (path) {
        void *library = dlopen(path, RTLD_NOW);
        if (!library) {
            fprintf(stderr, "micro: %s\n", dlerror());
            exit(1);
        }
        hk_heap *(*create)(const hk_heap_options *);
        *(void **)&create = symbol(library, "hk_heap_create");
        *(void **)&a.hk_malloc = symbol(library, "hk_malloc");
        *(void **)&a.hk_free = symbol(library, "hk_free");
        hk_heap_options options = {.size = sizeof options, .lock = HK_LOCK_HOST, .name = "micro"};
        a.heap = create(&options);
        if (!a.heap) {
            fprintf(stderr, "micro: hk_heap_create failed\n");
            exit(1);
        }
    } else {
        *(void **)&a.c_malloc = symbol(RTLD_DEFAULT, "malloc");
        *(void **)&a.c_free = symbol(RTLD_DEFAULT, "free");
    }
    return a;
}

/* The file that a function came from: evidence for micro.py that the right allocator was measured. */
static const char *origin(void *function) {
    Dl_info info;
    return dladdr(function, &info) && info.dli_fname ? info.dli_fname : "?";
}

int main(int argc, char **argv) {
    if (argc < 2) {
        for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) puts(patterns[i].name);
        return 0;
    }
    fill_sizes();
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        if (strcmp(argv[1], patterns[i].name) != 0) continue;
        allocator a = open_allocator(argc > 2 ? argv[2] : NULL);
        uint64_t lives = 0;
        uint64_t spent = a.ours ? run_ours(&a, &patterns[i], &lives) : run_theirs(&a, &patterns[i], &lives);
        printf("%.4f %s\n", (double)spent / (double)lives, origin(a.ours ? *(void **)&a.hk_malloc : *(void **)&a.c_malloc));
        return 0;
    }
    fprintf(stderr, "micro: unknown pattern '%s'\n", argv[1]);
    return 2;
}
