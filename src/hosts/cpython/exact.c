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
 * Lives (exact_blocks.c): now and then, where the heap's budget is used up anyway, a block is watched: when it is freed, were few bytes allocated
 * meanwhile? It carries the bit that code objects carry, so who frees it comes the long way and nobody else pays. The same blocks, and
 * some of the apart lane, are the sample of the living, whose ages the capture knows (record/living.c).
 *
 * Lanes (record/exact.h): MEM and OBJECT under the main GIL take the fast functions; RAW, and interpreters with a GIL of
 * their own, those of exact_apart.c, which hold hk_exact_apart while they count. So do the blocks of the C library's malloc
 * (hosts/malloc/family.h), with and without the GIL: they lie in pools, too, and have words like all others. */
#include "hosts/cpython/exact_blocks.h"
#include "hosts/cpython/exact_stack.h"
#include "hosts/cpython/lines.h"
#include "hosts/cpython/windows.h"

static const void *newest; /* block of the main lane, while a window is open, until an object has been made of it */

/* --- main lane --- */

/* Not counted, or by the long way. */
static __attribute__((noinline)) uint32_t born_unusually(int domain, const void *block, size_t size)
{
    if (!hk_exact.births && hk_exact_births_are_off())
        return HK_EXACT_NONE;
    uint32_t site = hk_exact_site_main(domain);
    ssize_t bytes = site != HK_EXACT_NONE ? hk_exact_block_put(block, size, site, hk_window_age()) : -1;
    if (bytes < 0)
        return HK_EXACT_NONE;
    hk_exact_birth(&hk_exact.counters[site], (size_t)bytes);
    newest = block;
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
            hk_exact_birth(&hk_exact.counters[site], (size_t)hk_exact_block_put(block, size, site, 0));
    } else {
        site = born_unusually(domain, block, size);
    }
    if (__builtin_expect(is_watched, 0) && site != HK_EXACT_NONE)
        hk_exact_block_sample(heap, block, size, site);
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
    if (__builtin_expect(hk_exact_blocks.stands_still, 0)) { /* what is known of the block is of no use to anybody */
        hk_free_unlocked(heap, block);
        return;
    }
    struct hk_exact_block record = hk_exact_block_take(block);
    hk_exact_block_died(&record, HK_LANE_MAIN);
    if (record.is_code)
        hk_exact_quarantine(block);
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
static inline __attribute__((always_inline)) void main_moved(int domain, const struct hk_exact_block *had, void *moved, size_t size, int way)
{
    if (__builtin_expect(had->is_code, 0))
        hk_exact_forget_stacks();
    if (had->site == HK_EXACT_NONE) {
        born(domain, moved, size, way);
        return;
    }
    if (size < had->bytes) {
        hk_exact_block_shrank(had, moved, size, HK_LANE_MAIN);
        return;
    }
    uint32_t site = HK_EXACT_NONE;
    if (__builtin_expect(hk_exact.fast, 1))
        site = hk_exact_site_here(domain, way);
    else if (hk_exact.births || !hk_exact_births_are_off())
        site = hk_exact_site_main(domain);
    ssize_t bytes = site != HK_EXACT_NONE ? hk_exact_block_put(moved, size, site, hk_window_age()) : -1;
    if (__builtin_expect(bytes >= 0 && hk_exact.fast_deaths && (had->site == site || hk_exact_is_main(had->site)), 1)) {
        hk_exact_move(&hk_exact.counters[had->site], had->bytes, &hk_exact.counters[site], (size_t)bytes);
        return;
    }
    hk_exact_block_died(had, HK_LANE_MAIN);
    if (bytes < 0)
        return;
    hk_exact_birth(&hk_exact.counters[site], (size_t)bytes);
    if (hk_windows_are_open())
        hk_window_birth(site, (size_t)bytes, true);
}

/* What was watched is so where it lies now; what was not may have become so large that it is taken up as something new would be. */
static __attribute__((noinline)) void watch_moved(const struct hk_exact_block *had, const void *moved, size_t size, bool is_due)
{
    struct hk_exact_living living = had->living;
    uint32_t site = hk_exact_block_site(moved);
    if (living.weight == 0 && is_due)
        living.birth_ns = hk_exact_living_now();
    if (living.weight != 0 || is_due)
        living.weight = watch_weight(size);
    if (site != HK_EXACT_NONE)
        hk_exact_block_watch(moved, &had->life, site, &living);
}

static inline __attribute__((always_inline)) void *main_realloc(int domain, hk_heap *heap, void *block, size_t size, int way)
{
    if (block == NULL)
        return main_malloc(domain, heap, size, way);
    bool is_due = heap->budget < (int64_t)size;
    struct hk_exact_block had = hk_exact_block_take(block);
    void *moved = hk_realloc(heap, block, size);
    if (moved == NULL) {
        hk_exact_block_restore(block, &had);
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

const hk_allocator *hk_exact_main_table(int domain)
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
    bool is_new = (uintptr_t)taken - (uintptr_t)newest <= 32;
    if (is_new)
        newest = NULL;
    if (is_new || !hk_region_has(taken) || !hk_exact.births || !hk_exact_holds_main(&state))
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

/* --- tables and the rest --- */

hk_allocator hk_cpython_exact_table(int domain)
{
    hk_heap *heap = hk_python.heaps[domain];
    if (heap->mode == HK_LOCK_OWN)
        return hk_exact_apart_table(heap);
    hk_allocator table = *hk_exact_main_table(domain);
    table.context = heap;
    return table;
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
    if (hk_python.interpreters == NULL)
        return "";
    if (hk_python.heaps[HK_DOMAIN_OBJECT]->is_debug)
        return "debug mode has records of its own";
    if (!layout->stacks || !hk_exact_stacks_init(layout, with_native))
        return "stacks of this Python cannot be walked";
    if (!hk_slots_begin())
        return "there is no memory for it";
    hk_exact_blocks_init();
    hk_python.exact = true;
    return NULL;
}
