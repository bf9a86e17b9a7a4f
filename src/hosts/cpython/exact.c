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
 * Lanes (record/exact.h): MEM and OBJECT under the main GIL take the fast functions; RAW, and interpreters with a GIL of
 * their own, the ones that say `apart`, which hold hk_exact_apart while they count. */
#include "hosts/cpython/exact.h"

#include <string.h>
#include <sys/types.h>

#include "heap/slots.h"
#include "record/exact.h"

#define CACHE_BITS 15
#define APART_BITS 11
#define QUARANTINE 64

#define ODD_POWER 0x9e3779b97f4a7c15u /* of a frame's place in the stack */
#define ODD_INDEX 0xd6e8feb86659fd93u /* of a frame object's instruction */
#define ODD_DOMAIN 0xa0761d6478bd642fu

struct entry {
    uint64_t key;
    uint64_t site;
};

static struct {
    struct entry *cache, *apart;
    uint64_t seed, apart_seed;
    ptrdiff_t code_header; /* bytes of a code object's block before the object */
    const uintptr_t *finalizing; /* not 0: the interpreter is being torn down */
    void *(*thread_state)(void);
    bool stacks; /* may be walked */
    bool has_frame_objects, has_cframe;
    int32_t thread_frame, cframe_current, frame_previous, frame_instruction, frame_code, thread_executor;
    uint32_t blind[HK_DOMAINS], apart_blind[HK_DOMAINS]; /* sites without a stack; HK_EXACT_NONE: not asked for yet */
    void *quarantine[QUARANTINE];
    uint32_t quarantined;
} exact;

static const uintptr_t never;

/* --- which stack --- */

static inline uintptr_t word_at(const void *base, int32_t offset)
{
    return *(const uintptr_t *)((const char *)base + offset);
}

/* Sums of (instruction pointer * power of the frame's distance): two stacks differ in it unless differences below 2^48 happen to
 * cancel out modulo 2^64. */
static inline __attribute__((always_inline)) uint64_t stack_key(const void *state, uint64_t start)
{
    uint64_t sum = start, power = ODD_POWER;
    uintptr_t frame = word_at(state, exact.thread_frame);
    int32_t previous = exact.frame_previous, instruction = exact.frame_instruction, code = exact.frame_code;
    if (exact.has_cframe && frame != 0)
        frame = word_at((const void *)frame, exact.cframe_current);
    if (__builtin_expect(exact.has_frame_objects, 0)) {
        while (frame != 0) {
            uint64_t index = *(const uint32_t *)((const char *)frame + instruction);
            sum += (word_at((const void *)frame, code) + index * ODD_INDEX) * power;
            power *= ODD_POWER;
            frame = word_at((const void *)frame, previous);
        }
        return sum;
    }
    while (frame != 0) {
        sum += word_at((const void *)frame, instruction) * power;
        power *= ODD_POWER;
        frame = word_at((const void *)frame, previous);
    }
    return sum;
}

static inline struct entry *entry_of(struct entry *cache, int bits, uint64_t key)
{
    return &cache[key >> (64 - bits)];
}

/* A walk meets this code: whoever frees it must be told. Called with the recorder's lock held. */
void hk_cpython_exact_mark_code(const void *code)
{
    const char *block = (const char *)code - exact.code_header;
    if (hk_region_has(block))
        *hk_slot_at(hk_pool_of(block), block) |= HK_SLOT_CODE;
    else
        hk_exact_large_mark_code(block);
}

void hk_cpython_exact_stacks(bool good)
{
    exact.stacks = good;
}

/* Allocations without a stack to walk: a site for each domain. */
static __attribute__((noinline)) uint32_t blind_site(uint32_t *sites, int domain, uint8_t flags)
{
    if (sites[domain] == HK_EXACT_NONE)
        sites[domain] = hk_exact_site(domain, flags);
    return sites[domain];
}

static __attribute__((noinline)) uint32_t site_missed(struct entry *entry, uint64_t key, int domain, uint8_t flags)
{
    uint32_t site = hk_exact_site(domain, flags);
    if (site != HK_EXACT_NONE && exact.stacks)
        *entry = (struct entry){key, site};
    return site;
}

static inline __attribute__((always_inline)) uint64_t key_here(const void *state, uint64_t seed, int domain)
{
    uint64_t key = stack_key(state, seed + (uint64_t)domain * ODD_DOMAIN);
    if (exact.thread_executor >= 0 && word_at(state, exact.thread_executor) != 0)
        key ^= ODD_INDEX; /* in JIT code: the site is to say so */
    return key;
}

/* Under the main GIL. */
static inline __attribute__((always_inline)) uint32_t site_here(int domain)
{
    const void *state = exact.thread_state();
    if (__builtin_expect(!exact.stacks || state == NULL, 0))
        if (state == NULL || !hk_cpython_stacks_ready(domain))
            return blind_site(exact.blind, domain, 0);
    uint64_t key = key_here(state, exact.seed, domain);
    struct entry *entry = entry_of(exact.cache, CACHE_BITS, key);
    return __builtin_expect(entry->key == key, 1) ? (uint32_t)entry->site : site_missed(entry, key, domain, 0);
}

/* hk_exact_apart is held. state: NULL where there is nothing to walk. */
static uint32_t apart_site_here(int domain, const void *state)
{
    uint8_t flags = domain == HK_DOMAIN_RAW ? 0 : HK_SITE_APART;
    if (state == NULL || (!exact.stacks && !hk_cpython_stacks_ready(domain)))
        return blind_site(exact.apart_blind, domain, flags);
    uint64_t key = key_here(state, exact.seed ^ exact.apart_seed, domain);
    struct entry *entry = entry_of(exact.apart, APART_BITS, key);
    return entry->key == key ? (uint32_t)entry->site : site_missed(entry, key, domain, flags);
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

static inline uint32_t site_of(uint32_t word)
{
    return (word >> 11) - 1;
}

static inline bool has_site(uint32_t word)
{
    return word >> 11 != 0;
}

static inline bool is_over(void)
{
    return *exact.finalizing != 0;
}

/* Frees are not counted, or not any more. */
static __attribute__((noinline)) bool deaths_are_off(void)
{
    if (is_over())
        hk_cpython_freeze_if_finalizing();
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
};

/* Takes the record off the block. */
static struct record record_take(const void *block)
{
    struct record record = {0, HK_EXACT_NONE, false};
    if (!hk_region_has(block)) {
        hk_exact_large_take(block, &record.bytes, &record.site, &record.is_code);
        return record;
    }
    const struct hk_pool *pool = hk_pool_of(block);
    uint32_t *word = hk_slot_at(pool, block);
    if (has_site(*word))
        record = (struct record){bytes_of(pool, *word), site_of(*word), false};
    record.is_code = *word & HK_SLOT_CODE;
    *word = 0;
    return record;
}

/* Gives a block its record; returns the bytes to count, or -1: it cannot have one. */
static ssize_t record_put(const void *block, size_t size, uint32_t site)
{
    if (!hk_region_has(block))
        return hk_exact_large_add(block, size, site) ? (ssize_t)size : -1;
    const struct hk_pool *pool = hk_pool_of(block);
    size_t slack = slack_of(pool, size);
    *hk_slot_at(pool, block) = hk_slot_word(site, slack);
    return (ssize_t)(pool->block_size - slack);
}

static void count_death(const struct record *record)
{
    const void *state;
    if (record->site == HK_EXACT_NONE || deaths_are_off())
        return;
    bool main = holds_main(&state), is_main = hk_exact_is_main(record->site);
    if (main && is_main) {
        hk_exact_death(&hk_exact.counters[record->site], record->bytes);
        return;
    }
    hk_lock_take(&hk_exact_apart);
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
    exact.seed += 2 * ODD_DOMAIN + 1;
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
        record_put(block, record->bytes, record->site);
    if (record->is_code && hk_region_has(block))
        *hk_slot_at(hk_pool_of(block), block) |= HK_SLOT_CODE;
}

/* A block that shrinks stays where it was charged. */
static void moved_smaller(const struct record *had, const void *moved, size_t size)
{
    const void *state;
    ssize_t bytes = record_put(moved, size, had->site);
    struct record rest = {had->bytes - (size_t)bytes, had->site, false};
    if (bytes < 0) {
        count_death(had);
        return;
    }
    if (rest.bytes == 0 || deaths_are_off())
        return;
    bool main = holds_main(&state), is_main = hk_exact_is_main(had->site);
    if (main && is_main) {
        hk_exact_shrink(&hk_exact.counters[rest.site], rest.bytes);
        return;
    }
    hk_lock_take(&hk_exact_apart);
    if (!is_main)
        hk_exact_apart_shrink(rest.site, rest.bytes, main);
    hk_lock_release(&hk_exact_apart);
}

/* --- main lane --- */

static inline __attribute__((always_inline)) void *born(int domain, void *block, size_t size)
{
    if (__builtin_expect(!hk_exact.births, 0) && births_are_off())
        return block;
    uint32_t site = site_here(domain);
    if (__builtin_expect(site == HK_EXACT_NONE, 0))
        return block;
    ssize_t bytes = record_put(block, size, site);
    if (__builtin_expect(bytes >= 0, 1))
        hk_exact_birth(&hk_exact.counters[site], (size_t)bytes);
    return block;
}

static inline __attribute__((always_inline)) void *main_malloc(int domain, hk_heap *heap, size_t size)
{
    void *block = hk_malloc_unlocked(heap, size);
    return __builtin_expect(block != NULL, 1) ? born(domain, block, size) : NULL;
}

static void *main_calloc(int domain, hk_heap *heap, size_t count, size_t size)
{
    void *block = hk_calloc_unlocked(heap, count, size);
    return block != NULL ? born(domain, block, count * size) : NULL;
}

/* What is not the usual: a large block, one of a heap that locks itself, a code object, the end of the program. */
static __attribute__((noinline)) void main_free_slow(hk_heap *heap, void *block)
{
    if (hk_region_has(block) && hk_pool_of(block)->heap->mode != HK_LOCK_HOST) {
        hk_free_slow(heap, block); /* which tells us: hk_cpython_exact_came_home */
        return;
    }
    struct record record = record_take(block);
    count_death(&record);
    if (record.is_code)
        quarantine_put(block);
    else
        hk_free_unlocked(heap, block);
}

static inline __attribute__((always_inline)) void main_free(hk_heap *heap, void *block)
{
    if (__builtin_expect(!hk_region_has(block), 0)) {
        if (block != NULL)
            main_free_slow(heap, block);
        return;
    }
    const struct hk_pool *pool = hk_pool_of(block);
    uint32_t *at = hk_slot_at(pool, block), word = *at;
    if (__builtin_expect((word & HK_SLOT_CODE) || !hk_exact.deaths || is_over() || pool->free == NULL, 0)) {
        main_free_slow(heap, block);
        return;
    }
    if (__builtin_expect(has_site(word), 1)) {
        *at = 0;
        hk_exact_death(&hk_exact.counters[site_of(word)], bytes_of(pool, word));
    }
    hk_free_unlocked(heap, block);
}

/* The block has become `moved`, of `size` bytes. */
static void main_moved(int domain, const struct record *had, void *moved, size_t size)
{
    if (had->is_code)
        forget_stacks();
    if (had->site == HK_EXACT_NONE) {
        born(domain, moved, size);
        return;
    }
    if (size < had->bytes) {
        moved_smaller(had, moved, size);
        return;
    }
    uint32_t site = hk_exact.births || !births_are_off() ? site_here(domain) : HK_EXACT_NONE;
    ssize_t bytes = site != HK_EXACT_NONE ? record_put(moved, size, site) : -1;
    if (bytes >= 0 && hk_exact.deaths && (had->site == site || hk_exact_is_main(had->site))) {
        hk_exact_move(&hk_exact.counters[had->site], had->bytes, &hk_exact.counters[site], (size_t)bytes);
        return;
    }
    count_death(had);
    if (bytes >= 0)
        hk_exact_birth(&hk_exact.counters[site], (size_t)bytes);
}

static void *main_realloc(int domain, hk_heap *heap, void *block, size_t size)
{
    if (block == NULL)
        return main_malloc(domain, heap, size);
    struct record had = record_take(block);
    void *moved = hk_realloc(heap, block, size);
    if (moved != NULL)
        main_moved(domain, &had, moved, size);
    else
        record_restore(block, &had);
    return moved;
}

#define MAIN(name, domain)                                      \
    static void *name##_malloc(void *heap, size_t size)         \
    {                                                           \
        return main_malloc(domain, heap, size);                 \
    }                                                           \
    static void *name##_calloc(void *heap, size_t n, size_t size) \
    {                                                           \
        return main_calloc(domain, heap, n, size);              \
    }                                                           \
    static void *name##_realloc(void *heap, void *block, size_t size) \
    {                                                           \
        return main_realloc(domain, heap, block, size);         \
    }

MAIN(mem, HK_DOMAIN_MEM)
MAIN(object, HK_DOMAIN_OBJECT)

static void exact_free(void *heap, void *block)
{
    main_free(heap, block);
}

/* --- apart lane --- */

static void apart_born(int domain, const void *block, size_t size)
{
    const void *state;
    if (!hk_exact.births && births_are_off())
        return;
    bool main = holds_main(&state);
    hk_lock_take(&hk_exact_apart);
    uint32_t site = apart_site_here(domain, state);
    ssize_t bytes = site != HK_EXACT_NONE ? record_put(block, size, site) : -1;
    if (bytes >= 0)
        hk_exact_apart_birth(site, (size_t)bytes, main);
    hk_lock_release(&hk_exact_apart);
}

static void apart_moved(int domain, const struct record *had, void *moved, size_t size)
{
    if (had->site != HK_EXACT_NONE && size < had->bytes) {
        moved_smaller(had, moved, size);
        return;
    }
    count_death(had);
    apart_born(domain, moved, size);
}

static void apart_code_died(void)
{
    hk_lock_take(&hk_exact_apart);
    exact.apart_seed += 2 * ODD_DOMAIN + 1;
    hk_lock_release(&hk_exact_apart);
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
        apart_born(heap->domain, block, size);
    return block;
}

static void *raw_calloc(void *context, size_t count, size_t size)
{
    hk_heap *heap = raw_heap(context);
    hk_cpython_raw_calloc_seen(count, size);
    void *block = hk_calloc(heap, count, size);
    if (block != NULL)
        apart_born(heap->domain, block, count * size);
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
        return main_malloc(main->domain, heap, size);
    void *block = hk_malloc(heap, size);
    if (block != NULL)
        apart_born(main->domain, block, size);
    return block;
}

static void *many_calloc(void *context, size_t count, size_t size)
{
    hk_heap *heap = hk_cpython_heap_here(context), *main = context;
    if (heap == main)
        return main_calloc(main->domain, heap, count, size);
    void *block = hk_calloc(heap, count, size);
    if (block != NULL)
        apart_born(main->domain, block, count * size);
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
        return main_realloc(main->domain, heap, block, size);
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
    if (domain == HK_DOMAIN_MEM)
        return (hk_allocator){heap, mem_malloc, mem_calloc, mem_realloc, exact_free};
    return (hk_allocator){heap, object_malloc, object_calloc, object_realloc, exact_free};
}

hk_allocator hk_cpython_exact_many_table(int domain)
{
    return (hk_allocator){hk_python.heaps[domain], many_malloc, many_calloc, many_realloc, many_free};
}

static void visit_word(uint32_t *word, size_t bytes, void *argument)
{
    void (*const *visitor)(uint32_t, size_t) = argument;
    if (has_site(*word))
        (*visitor)(site_of(*word), bytes);
}

void hk_cpython_exact_visit(void (*visitor)(uint32_t site, size_t bytes))
{
    hk_slots_visit(visit_word, &visitor);
}

static void forget_word(uint32_t *word, size_t bytes, void *argument)
{
    *word = 0;
}

static void ask_again(void)
{
    for (int i = 0; i < HK_DOMAINS; i++)
        exact.blind[i] = exact.apart_blind[i] = HK_EXACT_NONE;
}

void hk_cpython_exact_forget_all(void)
{
    hk_slots_visit(forget_word, NULL);
    forget_stacks();
    ask_again();
}

void hk_cpython_exact_tick(void)
{
    hk_exact_tick();
    if (__builtin_expect(hk_exact.names, 0))
        hk_exact_name();
}

const char *hk_cpython_exact_prepare(void)
{
    const hk_py_layout *layout = hk_python.layout;
    const unsigned long has_gc = 1ul << 14; /* Py_TPFLAGS_HAVE_GC, stable ABI */
    if (hk_python.interpreters == NULL)
        return "there is no Python whose allocators are ours";
    if (hk_python.heaps[HK_DOMAIN_OBJECT]->is_debug)
        return "debug mode has records of its own";
    exact.cache = hk_os_map(sizeof(struct entry) << CACHE_BITS);
    exact.apart = hk_os_map(sizeof(struct entry) << APART_BITS);
    if (exact.cache == NULL || exact.apart == NULL || !hk_slots_begin())
        return "there is no memory for it";
    exact.seed = exact.apart_seed = 1;
    exact.finalizing = &never;
    exact.thread_state = layout->thread_state;
    exact.thread_frame = layout->thread_frame;
    exact.cframe_current = layout->cframe_current;
    exact.frame_previous = layout->frame_previous;
    exact.frame_instruction = layout->frame_instruction;
    exact.frame_code = layout->frame_code;
    exact.thread_executor = layout->thread_executor;
    exact.has_frame_objects = layout->frames == HK_PY_FRAME_OBJECTS;
    exact.has_cframe = layout->cframe_current >= 0;
    if (layout->stacks && layout->runtime_finalizing >= 0)
        exact.finalizing = (const uintptr_t *)((const char *)layout->runtime + layout->runtime_finalizing);
    if (layout->stacks && (*(const unsigned long *)((const char *)layout->code_type + layout->type_flags) & has_gc))
        exact.code_header = 16;
    ask_again();
    hk_python.exact = true;
    return NULL;
}
