/* Statistics: every mapped byte in exactly one class, the classes summed from the pools' descriptors. Nothing is
 * locked: a number read while somebody allocates is off by what happened meanwhile. */
#include "heap/misuse.h"
#include "heap/print.h"
#include "heap/threads.h"

#include <inttypes.h>
#include <string.h>

static void pool_add(const struct hk_pool *pool, hk_heap_stats *stats, uint64_t *allocations)
{
    if (pool->place == HK_PLACE_RUN) {
        uint64_t bytes = hk_pool_block_bytes(pool);
        stats->live_blocks++;
        stats->live_bytes += bytes;
        stats->own_large_blocks++;
        stats->own_large_bytes += bytes;
        stats->pools_large += pool->used_before;
    }
    if (pool->place == HK_PLACE_RUN || pool->place == HK_PLACE_EMPTY) /* the inside of a run */
        return;
    uint32_t allocated = hk_pool_allocated(pool), size = pool->block_size, capacity = pool->capacity;
    uint64_t live = (uint64_t)allocated * size;
    stats->live_blocks += allocated;
    stats->live_bytes += live;
    stats->free_bytes += pool->carved - live;
    stats->untouched_bytes += (uint64_t)capacity * size - pool->carved;
    stats->tail_bytes += HK_POOL_SIZE - (uint64_t)capacity * size;
    stats->pools_full += allocated == capacity;
    stats->pools_used += allocated != capacity;
    if (pool->place == HK_PLACE_CURRENT)
        *allocations += (uint64_t)((int64_t)(HK_CURRENT - pool->used) + allocated - pool->used_before);
}

/* What a heap, or a thread's member of one, counts itself. */
static void counters_add(const hk_heap *heap, hk_heap_stats *stats)
{
    stats->allocated_blocks += heap->large_allocations;
    for (int i = 1; i < HK_CLASSES; i++)
        stats->allocated_blocks += heap->class_allocations[i];
    stats->metadata_bytes += heap->metadata_bytes != 0 ? heap->metadata_bytes : hk_heap_structure(heap);
    stats->large_bytes += (uint64_t)__atomic_load_n(&heap->large_bytes, __ATOMIC_RELAXED);
    stats->large_blocks += (uint64_t)__atomic_load_n(&heap->large_blocks, __ATOMIC_RELAXED);
}

static void heap_add(const hk_heap *heap, hk_heap_stats *stats)
{
    uint64_t allocations = 0;
    for (const struct hk_arena *arena = heap->arenas; arena != NULL && arena->heap == heap; arena = arena->next) {
        const struct hk_pool *pools = hk_arena_first_pool(arena);
        uint64_t empty = arena->empty, dirty = arena->dirty & empty;
        for (int i = 0; i < arena->pools; i++)
            if (!(empty >> i & 1))
                pool_add(&pools[i], stats, &allocations);
        stats->pools_empty += hk_bit_count(empty);
        stats->empty_bytes += hk_bit_count(dirty) * (uint64_t)HK_POOL_SIZE;
        stats->returned_bytes += hk_bit_count(empty & ~dirty) * (uint64_t)HK_POOL_SIZE;
        if (heap->metadata_bytes == 0)
            stats->metadata_bytes += hk_arena_metadata(heap);
        if (arena->pages == HK_PAGES_HUGE)
            stats->huge_page_bytes += HK_ARENA_SIZE;
        stats->arenas++;
    }
    stats->allocated_blocks += allocations;
    stats->allocated_bytes += hk_heap_allocated_bytes(heap);
    counters_add(heap, stats);
    for (const hk_heap *member = hk_threads_members(heap); member != NULL; member = member->next_member)
        counters_add(member, stats);
    stats->mapped_bytes = stats->live_bytes + stats->free_bytes + stats->untouched_bytes + stats->tail_bytes +
                          stats->empty_bytes + stats->metadata_bytes;
}

void hk_heap_get_stats(hk_heap *heap, hk_heap_stats *stats)
{
    hk_heap_stats sum = {.size = sizeof(sum)};
    struct hk_heap_cursor cursor = {0};
    if (stats == NULL || stats->size <= offsetof(hk_heap_stats, mapped_bytes)) {
        hk_misuse(NULL, stats == NULL ? "hk_heap_get_stats: the statistics are NULL"
                                      : "hk_heap_get_stats: their size is not sizeof(hk_heap_stats)");
        return;
    }
    if (heap != NULL && hk_is_heap(heap, "hk_heap_get_stats")) {
        heap_add(heap, &sum);
        sum.source = heap->source;
        sum.limit_bytes = hk_heap_limit(heap);
    }
    for (const hk_heap *each; heap == NULL && (each = hk_heap_next(&cursor)) != NULL;)
        heap_add(each, &sum);
    /* Below zero where more blocks of others were freed here than large ones are left (hk_free takes both). */
    if ((int64_t)sum.large_bytes < 0)
        sum.large_bytes = 0;
    if ((int64_t)sum.large_blocks < 0)
        sum.large_blocks = 0;
    sum.size = stats->size;
    memcpy(stats, &sum, stats->size < sizeof(sum) ? stats->size : sizeof(sum));
}

static void put_json_geometry(struct hk_print *out)
{
    hk_print(out, "{\"name\":\"%s\",\"arena_bytes\":%zu,\"pool_bytes\":%zu,\"block_step\":%u,\"block_max\":%u}",
        HK_GEOMETRY_NAME, HK_ARENA_SIZE, HK_POOL_SIZE, HK_STEP, HK_BLOCK_MAX);
}

static void put_json(struct hk_print *out, const hk_heap_stats *s)
{
    hk_print(out, "\"mapped_bytes\":%" PRIu64 ",\"live_bytes\":%" PRIu64 ",\"free_bytes\":%" PRIu64
             ",\"untouched_bytes\":%" PRIu64 ",\"tail_bytes\":%" PRIu64 ",\"empty_bytes\":%" PRIu64
             ",\"metadata_bytes\":%" PRIu64 ",\"returned_bytes\":%" PRIu64 ",\"live_blocks\":%" PRIu64,
        s->mapped_bytes, s->live_bytes, s->free_bytes, s->untouched_bytes, s->tail_bytes, s->empty_bytes,
        s->metadata_bytes, s->returned_bytes, s->live_blocks);
    hk_print(out, ",\"allocated_bytes\":%" PRIu64 ",\"allocated_blocks\":%" PRIu64 ",\"large_bytes\":%" PRIu64
             ",\"large_blocks\":%" PRIu64 ",\"arenas\":%u,\"pools_used\":%u,\"pools_full\":%u,\"pools_empty\":%u"
             ",\"own_large_bytes\":%" PRIu64 ",\"own_large_blocks\":%" PRIu64 ",\"huge_page_bytes\":%" PRIu64,
        s->allocated_bytes, s->allocated_blocks, s->large_bytes, s->large_blocks, s->arenas, s->pools_used,
        s->pools_full, s->pools_empty, s->own_large_bytes, s->own_large_blocks, s->huge_page_bytes);
}

static void put_text(struct hk_print *out, const char *name, const hk_heap_stats *s)
{
    hk_print(out, "%-16s %5u arenas %7u pools used %7u full %7u empty %12" PRIu64 " blocks\n", name, s->arenas, s->pools_used,
        s->pools_full, s->pools_empty, s->live_blocks);
    hk_print(out, "  %14" PRIu64 " live + %" PRIu64 " free + %" PRIu64 " untouched + %" PRIu64 " tails + %" PRIu64
             " empty + %" PRIu64 " metadata = %" PRIu64 " bytes mapped\n",
        s->live_bytes, s->free_bytes, s->untouched_bytes, s->tail_bytes, s->empty_bytes, s->metadata_bytes,
        s->mapped_bytes);
    hk_print(out, "  %14" PRIu64 " large, %" PRIu64 " allocated in all, %" PRIu64 " returned to the system\n", s->large_bytes,
        s->allocated_bytes, s->returned_bytes);
}

static const char *const source_names[] = {"system", "buffer", "file", "huge pages"};

static void put_source(struct hk_print *out, const hk_heap_stats *s)
{
    if (s->source == HK_SOURCE_SYSTEM && s->limit_bytes == 0)
        return;
    hk_print(out, "  pages from: %s", source_names[s->source]);
    if (s->limit_bytes != 0)
        hk_print(out, ", at most %" PRIu64 " bytes", s->limit_bytes);
    hk_print(out, "\n");
}

static size_t stats_print(char *buffer, size_t capacity, bool json)
{
    struct hk_print out = {buffer, capacity, 0};
    hk_heap_stats stats = {.size = sizeof(stats)};
    hk_heap_get_stats(NULL, &stats);
    if (json) {
        hk_print(&out, "{\"geometry\":");
        put_json_geometry(&out);
        hk_print(&out, ",");
        put_json(&out, &stats);
        hk_print(&out, ",\"heaps\":[");
    } else {
        put_text(&out, "all heaps", &stats);
    }
    bool first = true;
    struct hk_heap_cursor cursor = {0};
    for (hk_heap *heap; (heap = hk_heap_next(&cursor)) != NULL;) {
        hk_heap_get_stats(heap, &stats);
        if (json) {
            hk_print(&out, "%s{\"name\":", first ? "" : ",");
            hk_print_json_string(&out, heap->name);
            hk_print(&out, ",\"source\":\"%s\",\"limit_bytes\":%" PRIu64 ",", source_names[stats.source], stats.limit_bytes);
            put_json(&out, &stats);
            hk_print(&out, "}");
        } else {
            put_text(&out, heap->name, &stats);
            put_source(&out, &stats);
        }
        first = false;
    }
    if (json)
        hk_print(&out, "]}");
    return out.length;
}

size_t hk_stats_text(char *buffer, size_t capacity)
{
    return stats_print(buffer, hk_capacity_of(buffer, capacity, "hk_stats_text"), false);
}

size_t hk_stats_json(char *buffer, size_t capacity)
{
    return stats_print(buffer, hk_capacity_of(buffer, capacity, "hk_stats_json"), true);
}
