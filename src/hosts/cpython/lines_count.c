/* What each thread allocates and frees, for the line profile: tables for Python's three domains that stand before those which serve
 * them while some line is profiled; otherwise nothing is different from what it was.
 *
 * A block counts as the record counts it (exact.c): as many bytes as were asked for, where every block is recorded; else those
 * of its size class. One that grows counts as freed and allocated, one that shrinks as partly freed.
 *
 * The contexts are those of the tables below: a thread that reads a table while it is replaced may call a function of one with
 * the context of the other. */
#include "hosts/cpython/lines.h"

#include "heap/debug.h"
#include "heap/slots.h"
#include "hosts/cpython/exact.h"
#include "record/exact.h"

static hk_allocator below[HK_DOMAINS];

size_t hk_line_bytes(const void *block)
{
    if (__builtin_expect(hk_region_has(block), 1)) {
        const struct hk_pool *pool = hk_pool_of(block);
        if (__builtin_expect(hk_python.exact, 1)) {
            uint32_t word = *hk_slot_at(pool, block);
            if (__builtin_expect(word >> HK_SLOT_SITE_SHIFT != 0, 1))
                return pool->block_size - (word >> 1 & HK_SLOT_SLACK_MAX);
        }
        return hk_usable_size(block);
    }
    size_t bytes = 0;
    uint32_t site;
    uint8_t age;
    if (hk_python.exact && hk_exact_large_find(block, &bytes, &site, &age))
        return bytes;
    return hk_debug_on ? hk_usable_size(block) : hk_libc.usable_size((void *)block);
}

/* --- counters --- */

/* A suspect has become an object: if it is what tracing made, neither its birth nor its end is counted. */
static __attribute__((noinline)) void clear_suspect(struct hk_line_thread *thread)
{
    const void *block = thread->suspect;
    thread->suspect = NULL;
    if (thread->method_count == HK_LINE_METHODS || !hk_line_gate_is_method(block))
        return;
    thread->counts.allocated -= hk_line_bytes(block);
    thread->counts.blocks--;
    thread->methods[++thread->method_count] = block;
}

void hk_line_count_settle(struct hk_line_thread *thread)
{
    if (__builtin_expect(thread->suspect != NULL, 0))
        clear_suspect(thread);
}

static inline void count_birth(struct hk_line_thread *thread, void *block, size_t size)
{
    if (__builtin_expect(thread->suspect != NULL, 0))
        clear_suspect(thread);
    if (__builtin_expect(size == HK_LINE_METHOD_BYTES && thread->frame != 0, 0) && hk_line_gate_suspects(thread, block))
        thread->suspect = block;
    hk_line_born(thread, block, hk_exact.fast && size <= HK_SMALL_MAX ? size : hk_line_bytes(block)); /* the same, but faster */
}

static inline void count_death(struct hk_line_thread *thread, const void *block)
{
    if (__builtin_expect(thread->suspect != NULL, 0))
        clear_suspect(thread);
    if (__builtin_expect(thread->method_count != 0, 0) && block == thread->methods[thread->method_count]) {
        thread->method_count--;
        return;
    }
    if (__builtin_expect(block == thread->skip, 0)) {
        thread->skipped = block;
        thread->skip = NULL;
        return;
    }
    hk_line_dies(thread, hk_line_bytes(block));
}

static inline __attribute__((always_inline)) void *count_malloc(int domain, void *context, size_t size)
{
    void *block = below[domain].malloc(context, size);
    if (hk_line_number != 0 && block != NULL)
        count_birth(hk_line_here(), block, size);
    return block;
}

static inline __attribute__((always_inline)) void *count_calloc(int domain, void *context, size_t count, size_t size)
{
    void *block = below[domain].calloc(context, count, size);
    if (hk_line_number != 0 && block != NULL)
        count_birth(hk_line_here(), block, count * size);
    return block;
}

static inline __attribute__((always_inline)) void count_free(int domain, void *context, void *block)
{
    if (hk_line_number != 0 && block != NULL)
        count_death(hk_line_here(), block);
    below[domain].free(context, block);
}

static inline __attribute__((always_inline)) void *count_realloc(int domain, void *context, void *block, size_t size)
{
    if (hk_line_number == 0)
        return below[domain].realloc(context, block, size);
    if (block == NULL)
        return count_malloc(domain, context, size);
    size_t had = hk_line_bytes(block);
    void *moved = below[domain].realloc(context, block, size);
    if (moved == NULL)
        return NULL;
    hk_line_moved(hk_line_here(), moved, had, hk_line_bytes(moved));
    return moved;
}

HK_TABLE_FUNCTIONS(raw, count, HK_DOMAIN_RAW)
HK_TABLE_FUNCTIONS(mem, count, HK_DOMAIN_MEM)
HK_TABLE_FUNCTIONS(object, count, HK_DOMAIN_OBJECT)

/* --- tables --- */

static const hk_allocator tables[HK_DOMAINS] = {
    [HK_DOMAIN_RAW] = {NULL, raw_malloc, raw_calloc, raw_realloc, raw_free},
    [HK_DOMAIN_MEM] = {NULL, mem_malloc, mem_calloc, mem_realloc, mem_free},
    [HK_DOMAIN_OBJECT] = {NULL, object_malloc, object_calloc, object_realloc, object_free},
};

/* One that does what `below` does, and counts: exact recording has functions for both at once. */
static hk_allocator counting_table(int domain)
{
    const hk_allocator *both = hk_python.exact ? hk_cpython_exact_counting(domain) : NULL;
    hk_allocator table = both != NULL && below[domain].malloc == hk_cpython_exact_table(domain).malloc ? *both : tables[domain];
    table.context = below[domain].context;
    return table;
}

static bool is_counting(int domain, const hk_allocator *table)
{
    const hk_allocator *both = hk_python.exact ? hk_cpython_exact_counting(domain) : NULL;
    return table->malloc == tables[domain].malloc || (both != NULL && table->malloc == both->malloc);
}

HK_HOT bool hk_line_count_below(int domain, hk_allocator *table)
{
    if (!is_counting(domain, table))
        return false;
    *table = below[domain];
    return true;
}

bool hk_line_count_put_below(int domain, const hk_allocator *table)
{
    hk_allocator now;
    hk_cpython_get_table(domain, &now);
    if (!is_counting(domain, &now))
        return false;
    below[domain] = *table;
    now = counting_table(domain);
    hk_cpython_put_table(domain, &now);
    return true;
}

void hk_line_count_begin(void)
{
    for (int domain = 0; domain < HK_DOMAINS; domain++) {
        hk_allocator now;
        hk_cpython_get_table(domain, &now);
        if (is_counting(domain, &now))
            continue;
        below[domain] = now;
        now = counting_table(domain);
        hk_cpython_put_table(domain, &now);
    }
}

/* Where another hook has come to stand before us it goes on calling us, and we count on. */
void hk_line_count_end(void)
{
    for (int domain = 0; domain < HK_DOMAINS; domain++) {
        hk_allocator now;
        hk_cpython_get_table(domain, &now);
        if (is_counting(domain, &now))
            hk_cpython_put_table(domain, &below[domain]);
    }
}

void hk_line_free_uncounted(void *block)
{
    below[HK_DOMAIN_OBJECT].free(below[HK_DOMAIN_OBJECT].context, block);
}

int64_t hk_line_heap_live(void)
{
    int64_t live = 0;
    struct hk_heap_cursor cursor = {0};
    if (hk_python.exact)
        return (int64_t)hk_exact.peak - hk_exact.headroom + __atomic_load_n(&hk_exact.apart, __ATOMIC_RELAXED);
    for (hk_heap *heap; (heap = hk_heap_next(&cursor)) != NULL;) {
        hk_heap_stats s = {.size = sizeof(s)};
        hk_heap_get_stats(heap, &s);
        live += heap->domain < HK_DOMAINS ? (int64_t)(s.live_bytes + s.large_bytes) : 0;
    }
    return live;
}
