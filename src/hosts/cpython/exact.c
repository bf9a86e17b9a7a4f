/* Exact recording: the allocator tables that count every block. Read record/exact.h and heap/slots.h first.
 *
 *      malloc      1. a block of the heap, as always
 *                  2. which stack is this?  A hash of the instruction pointers of all frames: three loads a frame, no code
 *                     object is looked at. It is looked up in a cache, hash -> site; the recorder walks the stack only
 *                     when it is not there
 *                  3. the site goes into the block's word, and the site's counters are raised
 *      free        the word says at which site to count it; the word becomes 0
 *      realloc     who asks for more is charged with the whole; a block that shrinks stays where it was charged
 *
 * An instruction pointer stands for a code object and a place in it only while the code object lives: its memory is used
 * again. So blocks that hold a code object of a known stack carry a bit. When such a block is freed it waits in
 * quarantine; when that is full all hashes are made worthless at once, by another seed, before the memory goes back.
 *
 * Lives: now and then, where the heap's budget is used up anyway, a block is watched: when it is freed, were few bytes allocated
 * meanwhile? It carries the bit that code objects carry, so who frees it comes the long way and nobody else pays. The same blocks, and
 * some of the apart lane, are the sample of the living, whose ages the capture knows (record/living.c).
 *
 * Lanes (record/exact.h): MEM and OBJECT under the main GIL take the fast functions; RAW, and interpreters with a GIL of
 * their own, the ones that say `apart`, which hold hk_exact_apart while they count. So do the blocks of the C library's malloc
 * (hosts/malloc/family.h), with and without the GIL: they lie in pools, too, and have words like all others. */
#include "hosts/cpython/exact.h"

#include <errno.h>
#include <string.h>
#include <sys/types.h>

#include "heap/slots.h"
#include "hosts/cpython/exact_stack.h"
#include "hosts/cpython/lines.h"
#include "hosts/cpython/windows.h"
#include "record/exact.h"

#define QUARANTINE 64

static struct {
    const uintptr_t *finalizing; /* not 0: the interpreter is being torn down */
    ptrdiff_t code_header; /* bytes of a code object's block before the object */
    void *quarantine[QUARANTINE];
    uint32_t quarantined;
    const void *newest; /* block of the main lane, while a window is open, until an object has been made of it */
    bool stands_still; /* the figures do, for good: the interpreter has begun its finalisation */
} exact;

static const uintptr_t never;

/* --- lives --- */

#define LIVES 8 /* watched at a time: more than fit into a short life, mostly */

static struct life {
    const void *block; /* NULL: none */
    uint64_t born;     /* by the clock below */
    uint32_t site, weight;
    bool is_code; /* a code object lives in it, too */
} lives[LIVES]; /* under the main lock; and, where that takes a bit off, the recorder's */

/* Bytes allocated in the two domains. */
static uint64_t life_clock(void)
{
    return hk_heap_allocated_bytes(hk_python.heaps[HK_DOMAIN_MEM]) + hk_heap_allocated_bytes(hk_python.heaps[HK_DOMAIN_OBJECT]);
}

static struct life *life_of(const void *block)
{
    for (int i = 0; i < LIVES; i++)
        if (__atomic_load_n(&lives[i].block, __ATOMIC_RELAXED) == block)
            return &lives[i];
    return NULL;
}

/* The one that is watched longest makes room. */
static void life_put(const void *block, const struct life *life)
{
    static unsigned next;
    struct life *at = &lives[next++ % LIVES];
    if (at->block != NULL && !at->is_code && hk_region_has(at->block) && !hk_exact_living_has(at->block))
        *hk_slot_at(hk_pool_of(at->block), at->block) &= ~HK_SLOT_CODE;
    *at = *life;
    at->block = block;
}

/* life, living: of weight 0: not as such. site: whose it is now. */
static void watch(const void *block, const struct life *life, uint32_t site, const struct hk_exact_living *living)
{
    if (!hk_exact_marking_stop())
        return;
    bool is_marked = hk_exact_living_add(block, site, living);
    if (life->weight != 0) {
        life_put(block, life);
        is_marked = true;
    }
    if (is_marked && hk_region_has(block))
        *hk_slot_at(hk_pool_of(block), block) |= HK_SLOT_CODE;
    hk_exact_marking_go_on();
}

static uint32_t watch_weight(size_t size)
{
    return 1 + (uint32_t)(size / HK_CAPTURE_LIFE_BYTES < UINT32_MAX ? size / HK_CAPTURE_LIFE_BYTES : UINT32_MAX - 1);
}

/* A block for which the heap's budget was used up has been recorded. */
static void life_begin(hk_heap *heap, const void *block, size_t size, uint32_t site)
{
    static uint64_t random = 1;
    struct life life = {.born = life_clock(), .site = site, .weight = watch_weight(size)};
    struct hk_exact_living living = {.birth_ns = hk_exact_living_now(), .weight = life.weight};
    random = random * 6364136223846793005u + 1442695040888963407u;
    int64_t sooner = (int64_t)(random >> 33) % (2 * HK_CAPTURE_LIFE_BYTES); /* uniform: no rhythm of the program's is met */
    if (sooner < heap->budget) {
        heap->budget -= sooner;
        heap->budget_start -= sooner;
    }
    hk_exact_life(site, life.weight, false);
    watch(block, &life, site, &living);
}

/* A walk meets this code: whoever frees it must be told. Called with the recorder's lock held. */
void hk_cpython_exact_mark_code(const void *code)
{
    const char *block = (const char *)code - exact.code_header;
    struct life *life = life_of(block);
    if (life != NULL)
        life->is_code = true;
    hk_exact_living_mark_code(block);
    if (hk_region_has(block))
        *hk_slot_at(hk_pool_of(block), block) |= HK_SLOT_CODE;
    else
        hk_exact_large_mark_code(block);
}

void hk_cpython_exact_stacks(bool good)
{
    if (!hk_python.exact)
        return;
    if (good)
        hk_exact_stacks_found();
    hk_exact_set_host(good);
}

/* True if this thread holds the main GIL. *state: what it may walk with; NULL: nothing. */
static bool holds_main(const void **state)
{
    *state = hk_py_this_thread_state(hk_python.layout);
    if (*state == NULL)
        return false;
    return !hk_python.many || hk_py_interpreter_id(hk_python.layout, *state) == 0 ||
           !hk_py_interp_has_own_gil(hk_python.layout, *state);
}

/* --- the word of a block --- */

/* What is counted for a block of `size` bytes: as many as were asked for, if the word can say so. */
static inline size_t slack_of(const struct hk_pool *pool, size_t size)
{
    size_t slack = pool->block_size - size;
    return __builtin_expect(slack <= HK_SLOT_SLACK_MAX, 1) ? slack : HK_SLOT_SLACK_MAX;
}

static inline size_t bytes_of(const struct hk_pool *pool, uint32_t word)
{
    return pool->block_size - (word >> 1 & HK_SLOT_SLACK_MAX);
}

static inline struct hk_capture_counters *counters_of(uint32_t word)
{
    _Static_assert(sizeof(struct hk_capture_counters) == 1 << 6, "so that one shift makes a place of a word");
    return (struct hk_capture_counters *)((char *)(hk_exact.counters - 1) + (word >> HK_SLOT_SITE_SHIFT << 6));
}

static inline bool has_site(uint32_t word)
{
    return word >> HK_SLOT_SITE_SHIFT != 0;
}

static inline bool is_over(void)
{
    return *exact.finalizing != 0;
}

/* Frees are not counted, or not any more. */
static __attribute__((noinline)) bool deaths_are_off(void)
{
    if (is_over()) {
        hk_cpython_freeze_if_finalizing();
        exact.stands_still = !hk_exact.deaths;
    }
    return !hk_exact.deaths && !hk_exact_wake();
}

static __attribute__((noinline)) bool births_are_off(void)
{
    return !hk_exact_wake() || !hk_exact.births;
}

/* --- what is known of a block, whichever it is --- */

struct record {
    size_t bytes;
    uint32_t site; /* HK_EXACT_NONE: not recorded */
    bool is_code;
    uint8_t age; /* see windows.h; only while one is open */
    struct life life; /* weight 0: was not watched; so of the next */
    struct hk_exact_living living;
};

/* What was marked need not be code. */
static void take_life(const void *block, struct record *record, bool may_live)
{
    struct life *life = life_of(block);
    bool is_living = may_live && hk_exact_living_take(block, &record->living);
    if (life == NULL && !is_living)
        return;
    record->is_code = (life != NULL && life->is_code) || (is_living && record->living.is_code);
    if (life == NULL)
        return;
    record->life = *life;
    __atomic_store_n(&life->block, NULL, __ATOMIC_RELAXED);
}

static bool is_watched(const struct record *record)
{
    return record->life.weight != 0 || record->living.weight != 0;
}

/* Takes the record off the block. */
static struct record record_take(const void *block)
{
    struct record record = {.site = HK_EXACT_NONE};
    if (!hk_region_has(block)) {
        bool may_live = false;
        hk_exact_large_take(block, &record.bytes, &record.site, &record.age, &record.is_code, &may_live);
        take_life(block, &record, may_live);
        return record;
    }
    const struct hk_pool *pool = hk_pool_of(block);
    uint32_t *word = hk_slot_at(pool, block);
    if (has_site(*word))
        record = (struct record){.bytes = bytes_of(pool, *word), .site = hk_slot_site(*word),
                                 .age = hk_windows_are_open() ? *hk_age_of(word) : 0};
    record.is_code = *word & HK_SLOT_CODE;
    *word = 0;
    if (__builtin_expect(record.is_code, 0))
        take_life(block, &record, true);
    return record;
}

/* Gives a block its record; returns the bytes to count, or -1: it cannot have one. */
static ssize_t record_put(const void *block, size_t size, uint32_t site, uint8_t age)
{
    if (!hk_region_has(block))
        return hk_exact_large_add(block, size, site, age) ? (ssize_t)size : -1;
    const struct hk_pool *pool = hk_pool_of(block);
    size_t slack = slack_of(pool, size);
    uint32_t *word = hk_slot_at(pool, block);
    *word = hk_slot_word(site, slack);
    if (hk_windows_are_open())
        *hk_age_of(word) = age;
    return (ssize_t)(pool->block_size - slack);
}

static void count_death(const struct record *record)
{
    const void *state;
    if (record->site == HK_EXACT_NONE || deaths_are_off())
        return;
    if (record->life.weight != 0 && life_clock() - record->life.born <= HK_CAPTURE_LIFE_SHORT + 2 * record->bytes)
        hk_exact_life(record->life.site, record->life.weight, true);
    bool main = holds_main(&state), is_main = hk_exact_is_main(record->site);
    if (hk_windows_are_open())
        hk_window_death(record->site, record->age, record->bytes, main);
    if (main && is_main) {
        hk_exact_death(&hk_exact.counters[record->site], record->bytes);
        return;
    }
    if (!hk_exact_apart_enter())
        return;
    if (is_main)
        hk_exact_orphan(record->site, record->bytes);
    else
        hk_exact_apart_death(record->site, record->bytes, main);
    hk_lock_release(&hk_exact_apart);
}

/* --- code objects --- */

/* All that the caches know is worthless from now on. */
static void forget_stacks(void)
{
    hk_exact_stacks.seed += 2 * HK_KEY_DOMAIN + 1;
    hk_exact_codes_forget();
    hk_exact_keys_forget();
}

static void quarantine_flush(void)
{
    forget_stacks();
    for (uint32_t i = 0; i < exact.quarantined; i++)
        hk_free_unlocked(hk_python.heaps[HK_DOMAIN_OBJECT], exact.quarantine[i]);
    exact.quarantined = 0;
}

/* Under the main GIL: a block that held a code object is not used again before its instructions are forgotten. */
static void quarantine_put(void *block)
{
    if (exact.quarantined == QUARANTINE)
        quarantine_flush();
    exact.quarantine[exact.quarantined++] = block;
}

/* --- blocks that move --- */

static void record_restore(const void *block, const struct record *record)
{
    if (record->site != HK_EXACT_NONE)
        record_put(block, record->bytes, record->site, record->age);
    if (record->is_code && hk_region_has(block))
        *hk_slot_at(hk_pool_of(block), block) |= HK_SLOT_CODE;
    if (is_watched(record))
        watch(block, &record->life, record->site, &record->living);
}

/* A block that shrinks stays where it was charged. */
static void moved_smaller(const struct record *had, const void *moved, size_t size)
{
    const void *state;
    ssize_t bytes = record_put(moved, size, had->site, had->age);
    struct record rest = {.bytes = had->bytes - (size_t)bytes, .site = had->site, .age = had->age};
    if (bytes < 0) {
        count_death(had);
        return;
    }
    if (rest.bytes == 0 || deaths_are_off())
        return;
    bool main = holds_main(&state), is_main = hk_exact_is_main(had->site);
    if (hk_windows_are_open())
        hk_window_death(rest.site, rest.age, rest.bytes, main);
    if (main && is_main) {
        hk_exact_shrink(&hk_exact.counters[rest.site], rest.bytes);
        return;
    }
    if (!hk_exact_apart_enter())
        return;
    if (!is_main)
        hk_exact_apart_shrink(rest.site, rest.bytes, main);
    hk_lock_release(&hk_exact_apart);
}

/* --- main lane --- */

/* Not counted, or by the long way. */
static __attribute__((noinline)) uint32_t born_unusually(int domain, const void *block, size_t size)
{
    if (!hk_exact.births && births_are_off())
        return HK_EXACT_NONE;
    uint32_t site = hk_exact_site_main(domain);
    ssize_t bytes = site != HK_EXACT_NONE ? record_put(block, size, site, hk_window_age()) : -1;
    if (bytes < 0)
        return HK_EXACT_NONE;
    hk_exact_birth(&hk_exact.counters[site], (size_t)bytes);
    exact.newest = block;
    if (hk_windows_are_open())
        hk_window_birth(site, (size_t)bytes, true);
    return site;
}

static inline __attribute__((always_inline)) void *born(int domain, void *block, size_t size, int way)
{
    if (__builtin_expect(!hk_exact.fast || !hk_region_has(block), 0)) {
        born_unusually(domain, block, size);
        return block;
    }
    uint32_t site = hk_exact_site_here(domain, way);
    if (__builtin_expect(site == HK_EXACT_NONE, 0))
        return block;
    const struct hk_pool *pool = hk_pool_of(block);
    size_t slack = slack_of(pool, size);
    *hk_slot_at(pool, block) = hk_slot_word(site, slack);
    hk_exact_birth(&hk_exact.counters[site], pool->block_size - slack);
    return block;
}

static void born_slowly(int domain, hk_heap *heap, const void *block, size_t size, bool is_watched)
{
    uint32_t site;
    if (hk_exact.fast && hk_region_has(block)) {
        site = hk_exact_site_main(domain);
        if (site != HK_EXACT_NONE)
            hk_exact_birth(&hk_exact.counters[site], (size_t)record_put(block, size, site, 0));
    } else {
        site = born_unusually(domain, block, size);
    }
    if (__builtin_expect(is_watched, 0) && site != HK_EXACT_NONE)
        life_begin(heap, block, size, site);
}

static __attribute__((noinline)) void *main_malloc_slow(int domain, hk_heap *heap, size_t size)
{
    bool is_watched = heap->budget < (int64_t)size;
    void *block = hk_malloc_unlocked(heap, size);
    if (block != NULL)
        born_slowly(domain, heap, block, size, is_watched);
    return block;
}

static __attribute__((noinline)) void *main_calloc_large(int domain, hk_heap *heap, size_t count, size_t size)
{
    bool is_watched = heap->budget < (int64_t)(count * size);
    void *block = hk_calloc_unlocked(heap, count, size);
    if (block != NULL)
        born_slowly(domain, heap, block, count * size, is_watched);
    return block;
}

/* The rest of the fast path below, where the site has to be brought up to date, or has its largest block, or the total is to rise beyond a peak that
 * was left meanwhile. */
static __attribute__((noinline)) void *main_malloc_late(hk_heap *heap, size_t size, struct hk_pool *pool, uint32_t word)
{
    void *block = pool->free;
    heap->budget -= (int64_t)size;
    pool->free = *(void **)block;
    *hk_slot_at(pool, block) = word + ((uint32_t)(pool->block_size - size) << 1);
    hk_exact_birth(&hk_exact.counters[hk_slot_site(word)], size);
    return block;
}

/* The same where the cache does not know the stack. */
static __attribute__((noinline)) void *main_malloc_missed(int domain, hk_heap *heap, size_t size, struct hk_pool *pool, const void *state,
                                                          uint64_t key)
{
    uint32_t site = hk_exact_site_missed(domain, state, key);
    if (__builtin_expect(site != HK_EXACT_NONE, 1))
        return main_malloc_late(heap, size, pool, hk_slot_word(site, 0));
    void *block = pool->free;
    heap->budget -= (int64_t)size;
    pool->free = *(void **)block;
    return block;
}

/* hk_malloc_unlocked, and the block is counted. No call is made on the usual way, but as the last thing. */
static inline __attribute__((always_inline)) void *main_malloc(int domain, hk_heap *heap, size_t size, int way)
{
    if (__builtin_expect(size > HK_SMALL_MAX, 0))
        return main_malloc_slow(domain, heap, size);
    struct hk_pool *pool = heap->current[(size + HK_STEP - 1) / HK_STEP];
    void *block = pool->free;
    if (__builtin_expect(block == NULL || heap->budget < (int64_t)size || !hk_exact.fast, 0))
        return main_malloc_slow(domain, heap, size);
    const void *state = hk_exact_state();
    if (__builtin_expect(state == NULL, 0))
        return main_malloc_slow(domain, heap, size);
    uint64_t key = hk_exact_start(domain);
    if (__builtin_expect(!hk_exact_key_near(state, &key, way), 0))
        return main_malloc_slow(domain, heap, size);
    uint32_t word = hk_key_word(*hk_exact_entry(key), key);
    if (__builtin_expect(word == 0, 0))
        return main_malloc_missed(domain, heap, size, pool, state, key);
    struct hk_capture_counters *counters = counters_of(word);
    int64_t headroom = hk_exact.headroom - (int64_t)size;
    if (__builtin_expect(counters->epoch != __atomic_load_n(&hk_exact.epoch, __ATOMIC_RELAXED), 0) ||
        __builtin_expect(counters->largest < size, 0))
        return main_malloc_late(heap, size, pool, word);
    if (headroom < 0) {
        if (__builtin_expect(hk_exact.dipped, 0))
            return main_malloc_late(heap, size, pool, word);
        hk_exact.peak -= (uint64_t)headroom;
        headroom = 0;
    }
    heap->budget -= (int64_t)size;
    pool->free = *(void **)block;
    *hk_slot_at(pool, block) = word + ((uint32_t)(pool->block_size - size) << 1);
    counters->total_bytes += size;
    counters->total_blocks++;
    hk_exact.headroom = headroom;
    return block;
}

static inline __attribute__((always_inline)) void *main_calloc(int domain, hk_heap *heap, size_t count, size_t size, int way)
{
    size_t bytes;
    if (__builtin_expect(__builtin_mul_overflow(count, size, &bytes), 0))
        return NULL;
    if (__builtin_expect(bytes <= HK_SMALL_MAX, 1)) {
        void *block = main_malloc(domain, heap, bytes, way);
        return __builtin_expect(block != NULL, 1) ? hk_block_clear(block, bytes) : NULL;
    }
    return main_calloc_large(domain, heap, count, size);
}

/* What is not the usual: a large block, one of a heap that locks itself, a code object, the end of the program. */
static __attribute__((noinline)) void main_free_slow(hk_heap *heap, void *block)
{
    if (block == NULL)
        return;
    if (hk_region_has(block) && hk_pool_of(block)->heap->mode != HK_LOCK_HOST) {
        hk_free_slow(heap, block); /* which tells us: hk_cpython_exact_came_home */
        return;
    }
    if (__builtin_expect(exact.stands_still, 0)) { /* what is known of the block is of no use to anybody */
        hk_free_unlocked(heap, block);
        return;
    }
    struct record record = record_take(block);
    count_death(&record);
    if (record.is_code)
        quarantine_put(block);
    else
        hk_free_unlocked(heap, block);
}

/* The site is to be brought up to date, or this may be the first free after the peak. */
static __attribute__((noinline)) void main_free_late(hk_heap *heap, void *block, uint32_t word)
{
    const struct hk_pool *pool = hk_pool_of(block);
    *hk_slot_at(pool, block) = 0;
    hk_exact_death(&hk_exact.counters[hk_slot_site(word)], bytes_of(pool, word));
    hk_free_unlocked(heap, block);
}

static inline __attribute__((always_inline)) void main_free(hk_heap *heap, void *block)
{
    if (__builtin_expect(!hk_region_has(block), 0)) {
        main_free_slow(heap, block);
        return;
    }
    struct hk_pool *pool = hk_pool_of(block);
    void *next = pool->free;
    uint32_t *at = hk_slot_at(pool, block), word = *at;
    if (__builtin_expect((word & HK_SLOT_CODE) || next == NULL || !hk_exact.fast_deaths || is_over(), 0)) {
        main_free_slow(heap, block);
        return;
    }
    if (__builtin_expect(has_site(word), 1)) {
        struct hk_capture_counters *counters = counters_of(word);
        int64_t headroom = hk_exact.headroom;
        if (__builtin_expect(headroom == 0 || counters->epoch != __atomic_load_n(&hk_exact.epoch, __ATOMIC_RELAXED), 0)) {
            main_free_late(heap, block, word);
            return;
        }
        size_t bytes = bytes_of(pool, word);
        *at = 0;
        counters->freed_bytes += bytes;
        counters->freed_blocks++;
        hk_exact.headroom = headroom + (int64_t)bytes;
    }
    *(void **)block = next;
    pool->free = block;
    if (__builtin_expect(hk_take_one(&pool->used), 0))
        hk_pool_emptied(pool);
}

/* The block has become `moved`, of `size` bytes. */
static inline __attribute__((always_inline)) void main_moved(int domain, const struct record *had, void *moved, size_t size, int way)
{
    if (__builtin_expect(had->is_code, 0))
        forget_stacks();
    if (had->site == HK_EXACT_NONE) {
        born(domain, moved, size, way);
        return;
    }
    if (size < had->bytes) {
        moved_smaller(had, moved, size);
        return;
    }
    uint32_t site = HK_EXACT_NONE;
    if (__builtin_expect(hk_exact.fast, 1))
        site = hk_exact_site_here(domain, way);
    else if (hk_exact.births || !births_are_off())
        site = hk_exact_site_main(domain);
    ssize_t bytes = site != HK_EXACT_NONE ? record_put(moved, size, site, hk_window_age()) : -1;
    if (__builtin_expect(bytes >= 0 && hk_exact.fast_deaths && (had->site == site || hk_exact_is_main(had->site)), 1)) {
        hk_exact_move(&hk_exact.counters[had->site], had->bytes, &hk_exact.counters[site], (size_t)bytes);
        return;
    }
    count_death(had);
    if (bytes < 0)
        return;
    hk_exact_birth(&hk_exact.counters[site], (size_t)bytes);
    if (hk_windows_are_open())
        hk_window_birth(site, (size_t)bytes, true);
}

static uint32_t site_of(const void *block)
{
    uint32_t site = HK_EXACT_NONE;
    size_t bytes;
    uint8_t age;
    if (!hk_region_has(block)) {
        hk_exact_large_find(block, &bytes, &site, &age);
        return site;
    }
    uint32_t word = *hk_slot_at(hk_pool_of(block), block);
    return has_site(word) ? hk_slot_site(word) : HK_EXACT_NONE;
}

/* What was watched is so where it lies now; what was not may have become so large that it is taken up as something new would be. */
static __attribute__((noinline)) void watch_moved(const struct record *had, const void *moved, size_t size, bool is_due)
{
    struct hk_exact_living living = had->living;
    uint32_t site = site_of(moved);
    if (living.weight == 0 && is_due)
        living.birth_ns = hk_exact_living_now();
    if (living.weight != 0 || is_due)
        living.weight = watch_weight(size);
    if (site != HK_EXACT_NONE)
        watch(moved, &had->life, site, &living);
}

static inline __attribute__((always_inline)) void *main_realloc(int domain, hk_heap *heap, void *block, size_t size, int way)
{
    if (block == NULL)
        return main_malloc(domain, heap, size, way);
    bool is_due = heap->budget < (int64_t)size;
    struct record had = record_take(block);
    void *moved = hk_realloc(heap, block, size);
    if (moved == NULL) {
        record_restore(block, &had);
        return NULL;
    }
    main_moved(domain, &had, moved, size, way);
    if (__builtin_expect(is_due || is_watched(&had), 0))
        watch_moved(&had, moved, size, is_due);
    return moved;
}

#define FUNCTIONS(name, lane, domain, way)                            \
    static void *name##_malloc(void *heap, size_t size)               \
    {                                                                 \
        return lane##_malloc(domain, heap, size, way);                \
    }                                                                 \
    static void *name##_calloc(void *heap, size_t count, size_t size) \
    {                                                                 \
        return lane##_calloc(domain, heap, count, size, way);         \
    }                                                                 \
    static void *name##_realloc(void *heap, void *block, size_t size) \
    {                                                                 \
        return lane##_realloc(domain, heap, block, size, way);        \
    }

#define MAIN_WAYS(way)                                           \
    FUNCTIONS(mem_##way, main, HK_DOMAIN_MEM, HK_WAY_##way)      \
    FUNCTIONS(object_##way, main, HK_DOMAIN_OBJECT, HK_WAY_##way)

MAIN_WAYS(3_11)
MAIN_WAYS(3_12)
MAIN_WAYS(3_13)
MAIN_WAYS(FRAMES)
MAIN_WAYS(OBJECTS)

static void exact_free(void *heap, void *block)
{
    main_free(heap, block);
}

/* The functions that know how this interpreter's frames are found. */
static const hk_allocator *main_table(int domain)
{
#define TABLES(way)                                                                                          \
    [HK_WAY_##way] = {{NULL, mem_##way##_malloc, mem_##way##_calloc, mem_##way##_realloc, exact_free},       \
                      {NULL, object_##way##_malloc, object_##way##_calloc, object_##way##_realloc, exact_free}}
    static const hk_allocator tables[HK_WAYS][2] = {TABLES(3_11), TABLES(3_12), TABLES(3_13), TABLES(FRAMES), TABLES(OBJECTS)};
    return &tables[hk_exact_stacks.way][domain == HK_DOMAIN_OBJECT];
}

/* --- main lane, while lines are profiled (lines.h): from 3.12 on. In one with the recording it is half the time --- */

static inline size_t counted_bytes(const void *block)
{
    if (__builtin_expect(hk_region_has(block), 1)) {
        const struct hk_pool *pool = hk_pool_of(block);
        uint32_t word = *hk_slot_at(pool, block);
        if (__builtin_expect(has_site(word), 1))
            return bytes_of(pool, word);
    }
    return hk_line_bytes(block);
}

static inline __attribute__((always_inline)) void *counted_birth(void *block, size_t size)
{
    struct hk_line_thread *thread = hk_line_here();
    if (__builtin_expect(thread != NULL && block != NULL, 1))
        hk_line_born(thread, block, __builtin_expect(hk_exact.fast && size <= HK_SMALL_MAX, 1) ? size : counted_bytes(block));
    return block;
}

static inline __attribute__((always_inline)) void *counted_malloc(int domain, hk_heap *heap, size_t size, int way)
{
    return counted_birth(main_malloc(domain, heap, size, way), size);
}

static inline __attribute__((always_inline)) void *counted_calloc(int domain, hk_heap *heap, size_t count, size_t size, int way)
{
    return counted_birth(main_calloc(domain, heap, count, size, way), count * size);
}

static inline __attribute__((always_inline)) void *counted_realloc(int domain, hk_heap *heap, void *block, size_t size, int way)
{
    struct hk_line_thread *thread = hk_line_here();
    if (block == NULL)
        return counted_malloc(domain, heap, size, way);
    size_t had = counted_bytes(block);
    void *moved = main_realloc(domain, heap, block, size, way);
    if (thread != NULL && moved != NULL)
        hk_line_moved(thread, moved, had, counted_bytes(moved));
    return moved;
}

static void counted_free(void *heap, void *block)
{
    struct hk_line_thread *thread = hk_line_here();
    if (__builtin_expect(thread != NULL && block != NULL, 1))
        hk_line_dies(thread, counted_bytes(block));
    main_free(heap, block);
}

FUNCTIONS(mem_counted_3_12, counted, HK_DOMAIN_MEM, HK_WAY_3_12)
FUNCTIONS(mem_counted_3_13, counted, HK_DOMAIN_MEM, HK_WAY_3_13)
FUNCTIONS(object_counted_3_12, counted, HK_DOMAIN_OBJECT, HK_WAY_3_12)
FUNCTIONS(object_counted_3_13, counted, HK_DOMAIN_OBJECT, HK_WAY_3_13)

const hk_allocator *hk_cpython_exact_counting(int domain)
{
#define COUNTED_TABLE(name) {NULL, name##_malloc, name##_calloc, name##_realloc, counted_free}
    static const hk_allocator tables[2][2] = {{COUNTED_TABLE(mem_counted_3_12), COUNTED_TABLE(object_counted_3_12)},
                                              {COUNTED_TABLE(mem_counted_3_13), COUNTED_TABLE(object_counted_3_13)}};
    const int way = hk_exact_stacks.way;
    if (hk_python.heaps[domain]->mode == HK_LOCK_OWN || (way != HK_WAY_3_12 && way != HK_WAY_3_13))
        return NULL;
    return &tables[way == HK_WAY_3_13][domain == HK_DOMAIN_OBJECT];
}

/* Objects begin within 32 bytes of their blocks, behind a header. */
void hk_cpython_exact_reborn(const void *taken)
{
    const void *state;
    bool is_new = (uintptr_t)taken - (uintptr_t)exact.newest <= 32;
    if (is_new)
        exact.newest = NULL;
    if (is_new || !hk_region_has(taken) || !hk_exact.births || !holds_main(&state))
        return;
    const struct hk_pool *pool = hk_pool_of(taken);
    if (pool->block_size == 0 || (pool->heap != hk_python.heaps[HK_DOMAIN_OBJECT] && pool->heap != hk_python.heaps[HK_DOMAIN_MEM]))
        return;
    char *start = hk_pool_start(pool);
    uint32_t *word = hk_slot_at(pool, start + (size_t)((const char *)taken - start) / pool->block_size * pool->block_size);
    if (!has_site(*word) || !hk_exact_is_main(hk_slot_site(*word)))
        return;
    uint32_t site = hk_exact_site_main(pool->heap->domain), had = hk_slot_site(*word);
    if (site == HK_EXACT_NONE || site == had)
        return;
    size_t bytes = bytes_of(pool, *word);
    *word = (*word & ((1u << HK_SLOT_SITE_SHIFT) - 1)) | hk_slot_word(site, 0);
    hk_exact_move(&hk_exact.counters[had], bytes, &hk_exact.counters[site], bytes);
    if (*word & HK_SLOT_CODE)
        hk_exact_living_renew(start + (size_t)((const char *)taken - start) / pool->block_size * pool->block_size, site);
    if (hk_windows_are_open())
        hk_window_move(had, site, *hk_age_of(word), bytes);
}

/* --- apart lane --- */

static int64_t apart_budget; /* bytes to the next block that is watched; under hk_exact_apart */

/* had: the block that this one was, or NULL. */
static __attribute__((noinline)) void apart_watch(const void *block, size_t size, uint32_t site, const struct record *had)
{
    static uint64_t random = 1;
    const struct life none = {.weight = 0};
    struct hk_exact_living living = {.birth_ns = hk_exact_living_now(), .weight = watch_weight(size)};
    if (had != NULL && had->living.weight != 0)
        living.birth_ns = had->living.birth_ns;
    if (apart_budget < 0) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        apart_budget = (int64_t)(random >> 33) % (2 * HK_CAPTURE_LIFE_BYTES);
    }
    watch(block, &none, site, &living);
}

static void apart_put(const void *block, size_t size, uint32_t site, bool main, const struct record *had)
{
    ssize_t bytes = site != HK_EXACT_NONE ? record_put(block, size, site, hk_window_age()) : -1;
    if (bytes < 0)
        return;
    hk_exact_apart_birth(site, (size_t)bytes, main);
    if (__builtin_expect((apart_budget -= (int64_t)size) < 0 || (had != NULL && had->living.weight != 0), 0))
        apart_watch(block, size, site, had);
    if (hk_windows_are_open())
        hk_window_birth(site, (size_t)bytes, main);
}

static void apart_born(int domain, const void *block, size_t size, const struct record *had)
{
    const void *state;
    if (!hk_exact.births && births_are_off())
        return;
    bool main = holds_main(&state);
    if (!hk_exact_apart_enter())
        return;
    apart_put(block, size, hk_exact_site_apart(domain, state), main, had);
    hk_lock_release(&hk_exact_apart);
}

/* The block became one of another size: true if its record went on with it, which is smaller; else it has died. */
static bool goes_on(const struct record *had, void *moved, size_t size)
{
    bool is_smaller = had->site != HK_EXACT_NONE && size < had->bytes;
    if (is_smaller) {
        moved_smaller(had, moved, size);
        if (is_watched(had))
            watch(moved, &had->life, had->site, &had->living);
    } else {
        count_death(had);
    }
    return is_smaller;
}

static void apart_moved(int domain, const struct record *had, void *moved, size_t size)
{
    if (!goes_on(had, moved, size))
        apart_born(domain, moved, size, had);
}

static void apart_code_died(void)
{
    if (!hk_exact_apart_enter())
        return;
    hk_exact_stacks.apart_seed += 2 * HK_KEY_DOMAIN + 1;
    hk_exact_codes_forget();
    hk_lock_release(&hk_exact_apart);
}

uint32_t hk_cpython_exact_site_here(void)
{
    const void *state;
    uint32_t site = HK_EXACT_NONE;
    holds_main(&state);
    if (hk_exact_apart_enter()) {
        site = hk_exact_site_apart(HK_DOMAIN_RAW, state);
        hk_lock_release(&hk_exact_apart);
    }
    return site;
}

/* About to be freed by who may not wait with that. */
void hk_cpython_exact_came_home(hk_heap *owner, void *block)
{
    struct record record = record_take(block);
    count_death(&record);
    if (!record.is_code)
        return;
    apart_code_died();
    if (owner == hk_python.heaps[HK_DOMAIN_MEM] || owner == hk_python.heaps[HK_DOMAIN_OBJECT])
        forget_stacks();
}

bool hk_cpython_exact_forget(const void *block)
{
    struct record record = record_take(block);
    count_death(&record);
    if (record.is_code)
        apart_code_died();
    return record.site != HK_EXACT_NONE;
}

/* --- malloc's blocks: apart --- */

static void native_born(const void *block, size_t size, const struct record *had)
{
    const void *state;
    if (is_over())
        hk_cpython_freeze_if_finalizing();
    if (!hk_exact.births && births_are_off())
        return;
    int error = errno;
    bool main = holds_main(&state);
    if (state == NULL && !is_over())
        state = hk_py_own_thread_state(hk_python.layout);
    if (__builtin_expect(hk_cpython_is_covered(), 0))
        hk_exact_codes_forget(); /* code objects may die unseen: no stack is known again by its addresses */
    if (hk_exact_apart_enter()) {
        apart_put(block, size, hk_exact_site_native(state), main, had);
        hk_lock_release(&hk_exact_apart);
    }
    errno = error;
}

void hk_cpython_exact_native_born(const void *block, size_t size)
{
    native_born(block, size, NULL);
}

void hk_cpython_exact_native_dies(const void *block)
{
    int error = errno;
    hk_cpython_exact_forget(block);
    errno = error;
}

void *hk_cpython_exact_native_moves(void *(*reallocate)(void *block, size_t size), void *block, size_t size)
{
    struct record had = record_take(block);
    void *moved = reallocate(block, size);
    if (moved == NULL)
        record_restore(block, &had);
    else if (!goes_on(&had, moved, size))
        native_born(moved, size, &had);
    return moved;
}

/* A domain whose heap locks itself: RAW; on a version that we do not know, all three. */
static hk_heap *raw_heap(void *context)
{
    return context != NULL ? context : hk_python.heaps[HK_DOMAIN_RAW]; /* domains.c: raw_heap */
}

static void *raw_malloc(void *context, size_t size)
{
    hk_heap *heap = raw_heap(context);
    void *block = hk_malloc(heap, size);
    if (block != NULL)
        apart_born(heap->domain, block, size, NULL);
    return block;
}

static void *raw_calloc(void *context, size_t count, size_t size)
{
    hk_heap *heap = raw_heap(context);
    hk_cpython_raw_calloc_seen(count, size);
    void *block = hk_calloc(heap, count, size);
    if (block != NULL)
        apart_born(heap->domain, block, count * size, NULL);
    return block;
}

static void *raw_realloc(void *context, void *block, size_t size)
{
    hk_heap *heap = raw_heap(context);
    if (block == NULL)
        return raw_malloc(context, size);
    struct record had = record_take(block);
    void *moved = hk_realloc(heap, block, size);
    if (moved != NULL)
        apart_moved(heap->domain, &had, moved, size);
    else
        record_restore(block, &had);
    return moved;
}

/* --- MEM and OBJECT where interpreters have GILs of their own; the context is the domain's heap --- */

static void *many_malloc(void *context, size_t size)
{
    hk_heap *heap = hk_cpython_heap_here(context), *main = context;
    if (heap == main)
        return main_table(main->domain)->malloc(heap, size);
    void *block = hk_malloc(heap, size);
    if (block != NULL)
        apart_born(main->domain, block, size, NULL);
    return block;
}

static void *many_calloc(void *context, size_t count, size_t size)
{
    hk_heap *heap = hk_cpython_heap_here(context), *main = context;
    if (heap == main)
        return main_table(main->domain)->calloc(heap, count, size);
    void *block = hk_calloc(heap, count, size);
    if (block != NULL)
        apart_born(main->domain, block, count * size, NULL);
    return block;
}

static void many_free(void *context, void *block)
{
    hk_heap *heap = hk_cpython_heap_here(context);
    if (!hk_cpython_is_within_reach(heap, block)) {
        hk_free_remote(block); /* counted when it comes home */
    } else if (heap == context) {
        main_free(heap, block);
    } else if (block != NULL) {
        hk_cpython_exact_came_home(heap, block);
        hk_free(heap, block);
    }
}

static void *many_realloc(void *context, void *block, size_t size)
{
    hk_heap *heap = hk_cpython_heap_here(context), *main = context;
    if (block == NULL)
        return many_malloc(context, size);
    bool reached = hk_cpython_is_within_reach(heap, block);
    if (reached && heap == main)
        return main_table(main->domain)->realloc(heap, block, size);
    if (!reached) {
        size_t old = hk_usable_size(block);
        void *copy = many_malloc(context, size);
        if (copy != NULL) {
            memcpy(copy, block, size < old ? size : old);
            hk_free_remote(block);
        }
        return copy;
    }
    struct record had = record_take(block);
    void *moved = hk_realloc(heap, block, size);
    if (moved != NULL)
        apart_moved(main->domain, &had, moved, size);
    else
        record_restore(block, &had);
    return moved;
}

/* --- tables and the rest --- */

hk_allocator hk_cpython_exact_table(int domain)
{
    hk_heap *heap = hk_python.heaps[domain];
    if (heap->mode == HK_LOCK_OWN)
        return (hk_allocator){heap, raw_malloc, raw_calloc, raw_realloc, hk_cpython_raw_free};
    hk_allocator table = *main_table(domain);
    table.context = heap;
    return table;
}

hk_allocator hk_cpython_exact_many_table(int domain)
{
    return (hk_allocator){hk_python.heaps[domain], many_malloc, many_calloc, many_realloc, many_free};
}

static void visit_word(uint32_t *word, size_t bytes, void *argument)
{
    void (*const *visitor)(uint32_t, size_t) = argument;
    if (has_site(*word))
        (*visitor)(hk_slot_site(*word), bytes);
}

void hk_cpython_exact_visit(void (*visitor)(uint32_t site, size_t bytes))
{
    hk_slots_visit(visit_word, &visitor);
}

static void forget_word(uint32_t *word, size_t bytes, void *argument)
{
    *word = 0;
}

void hk_cpython_exact_forget_all(void)
{
    hk_slots_visit(forget_word, NULL);
    forget_stacks();
    hk_exact_sites_forget();
}

void hk_cpython_exact_tick(void)
{
    hk_exact_tick();
    if (__builtin_expect(hk_exact.names, 0))
        hk_exact_name();
}

const char *hk_cpython_exact_prepare(bool with_native)
{
    const hk_py_layout *layout = hk_python.layout;
    const unsigned long has_gc = 1ul << 14; /* Py_TPFLAGS_HAVE_GC, stable ABI */
    if (hk_python.interpreters == NULL)
        return "";
    if (hk_python.heaps[HK_DOMAIN_OBJECT]->is_debug)
        return "debug mode has records of its own";
    if (!layout->stacks || !hk_exact_stacks_init(layout, with_native))
        return "stacks of this Python cannot be walked";
    if (!hk_slots_begin())
        return "there is no memory for it";
    exact.finalizing = &never;
    if (layout->runtime_finalizing >= 0)
        exact.finalizing = (const uintptr_t *)((const char *)layout->runtime + layout->runtime_finalizing);
    if (*(const unsigned long *)((const char *)layout->code_type + layout->type_flags) & has_gc)
        exact.code_header = 16;
    hk_python.exact = true;
    return NULL;
}
