/* See heapmap.h; the layout is src/capture/format.h. */
#include "read/heapmap.h"

#include <stdlib.h>
#include <string.h>

#define POOL_SIZE_MAX   (1u << 24)
#define ARENA_POOLS_MAX 4096u

/* A whole map inside the copy of the capture. */
struct raw_map {
    const uint8_t *base;
    size_t size;
    struct hk_capture_map head;
};

/* `count` entries of `size` bytes from `offset` lie inside; entries may be longer than ours, or half as long. */
static bool fits(const struct raw_map *raw, uint64_t offset, uint64_t size, uint64_t count, size_t ours)
{
    return offset <= raw->size && size >= ours / 2 && size <= 4096 && count <= (raw->size - offset) / size;
}

static void entry_at(const struct raw_map *raw, uint32_t offset, uint32_t stride, size_t index, void *out, size_t size)
{
    memset(out, 0, size);
    memcpy(out, raw->base + offset + index * stride, stride < size ? stride : size);
}

static bool open_map(const struct hk_capture *c, int kind, struct raw_map *raw)
{
    const struct hk_table *table = &c->tables[kind];
    struct hk_capture_map *m = &raw->head;
    if (table->count < sizeof *m)
        return false;
    memcpy(m, table->base, sizeof *m);
    raw->base = table->base;
    raw->size = table->count;
    return (m->sequence & 1) == 0 && m->sequence != 0 &&
           fits(raw, m->heap_offset, m->heap_size, m->heap_count, sizeof(struct hk_capture_map_heap)) &&
           fits(raw, m->arena_offset, m->arena_size, m->arena_count, sizeof(struct hk_capture_map_arena)) &&
           fits(raw, m->pool_offset, m->pool_size, m->pool_count, sizeof(struct hk_capture_map_pool)) &&
           fits(raw, m->class_offset, m->class_size, m->class_count, sizeof(struct hk_capture_map_class)) &&
           fits(raw, m->bits_offset, 1, m->bits_count, 1) && m->heap_count <= 4096;
}

struct hk_heap_map *hk_heap_map_new(size_t heaps, size_t arenas, size_t pools, size_t classes)
{
    struct hk_heap_map *map = hk_must_calloc(1, sizeof *map);
    map->heaps = hk_must_calloc(heaps, sizeof *map->heaps);
    map->arenas = hk_must_calloc(arenas, sizeof *map->arenas);
    map->pools = hk_must_calloc(pools, sizeof *map->pools);
    map->classes = hk_must_calloc(classes, sizeof *map->classes);
    return map;
}

void hk_heap_map_free(struct hk_heap_map *map)
{
    if (!map)
        return;
    free(map->heaps);
    free(map->arenas);
    free(map->pools);
    free(map->classes);
    free(map->bits);
    free(map);
}

static void add_sums(struct hk_map_sums *to, const struct hk_map_sums *from)
{
    uint64_t *a = (uint64_t *)to;
    const uint64_t *b = (const uint64_t *)from;
    for (size_t i = 0; i < sizeof *to / sizeof *a; i++)
        a[i] += b[i];
}

static void sum_class(struct hk_map_heap *heap, const struct hk_map_class *c)
{
    struct hk_map_sums *s = &heap->sums;
    uint64_t pools = (uint64_t)c->pools_used + c->pools_full;
    s->pools_used += c->pools_used;
    s->pools_full += c->pools_full;
    s->allocated_blocks += c->allocated;
    s->free_blocks += c->free;
    s->untouched_blocks += c->untouched;
    s->allocated_bytes += c->allocated * c->block_size;
    s->free_bytes += c->free * c->block_size;
    s->untouched_bytes += c->untouched * c->block_size;
    s->tail_bytes += pools * (heap->pool_size - (uint64_t)c->capacity * c->block_size);
}

void hk_heap_map_sum(struct hk_heap_map *map)
{
    for (size_t i = 0; i < map->class_count; i++)
        sum_class(&map->heaps[map->classes[i].heap], &map->classes[i]);
    for (size_t i = 0; i < map->heap_count; i++) {
        struct hk_map_heap *heap = &map->heaps[i];
        struct hk_map_sums *s = &heap->sums;
        s->empty_bytes = s->pools_empty * heap->pool_size;
        s->returned_bytes = s->pools_returned * heap->pool_size;
        s->mapped_bytes = s->allocated_bytes + s->free_bytes + s->untouched_bytes + s->tail_bytes + s->empty_bytes +
                          s->metadata_bytes + s->own_large_bytes;
        add_sums(&map->sums, s);
    }
}

static size_t heap_by_number(const struct hk_heap_map *map, uint32_t number)
{
    for (size_t i = 0; i < map->heap_count; i++)
        if (map->heaps[i].number == number)
            return i;
    return SIZE_MAX;
}

static void read_heaps(struct hk_heap_map *map, const struct raw_map *raw)
{
    for (size_t i = 0; i < raw->head.heap_count; i++) {
        struct hk_capture_map_heap e;
        entry_at(raw, raw->head.heap_offset, raw->head.heap_size, i, &e, sizeof e);
        if (e.pool_size < 64 || e.pool_size > POOL_SIZE_MAX || e.arena_pools == 0 || e.arena_pools > ARENA_POOLS_MAX ||
            heap_by_number(map, e.number) != SIZE_MAX) {
            map->dropped++;
            continue;
        }
        struct hk_map_heap *heap = &map->heaps[map->heap_count++];
        memcpy(heap->name, e.name, sizeof e.name);
        heap->number = e.number;
        heap->domain = e.domain;
        heap->pool_size = e.pool_size;
        heap->arena_pools = e.arena_pools;
        heap->sums.arenas = e.arenas;
        heap->sums.pools_empty = e.pools_empty;
        heap->sums.pools_returned = e.pools_returned;
        heap->sums.metadata_bytes = e.metadata_bytes;
        heap->sums.large_bytes = e.large_bytes;
        heap->sums.large_blocks = e.large_blocks;
        heap->sums.pools_large = e.pools_large;
        heap->sums.own_large_bytes = e.own_large_bytes;
        heap->sums.own_large_blocks = e.own_large_blocks;
    }
}

static bool class_can_be(const struct hk_map_class *c, const struct hk_map_heap *heap)
{
    uint64_t blocks = ((uint64_t)c->pools_used + c->pools_full) * c->capacity, seen;
    return c->block_size != 0 && c->block_size <= heap->pool_size && c->capacity != 0 &&
           c->capacity <= heap->pool_size / c->block_size && !__builtin_add_overflow(c->allocated, c->free, &seen) &&
           !__builtin_add_overflow(seen, c->untouched, &seen) && seen == blocks;
}

static int by_heap_and_size(const void *a, const void *b)
{
    const struct hk_map_class *x = a, *y = b;
    if (x->heap != y->heap)
        return x->heap < y->heap ? -1 : 1;
    return x->block_size < y->block_size ? -1 : x->block_size > y->block_size;
}

static void read_classes(struct hk_heap_map *map, const struct raw_map *raw)
{
    for (size_t i = 0; i < raw->head.class_count; i++) {
        struct hk_capture_map_class e;
        entry_at(raw, raw->head.class_offset, raw->head.class_size, i, &e, sizeof e);
        size_t heap = heap_by_number(map, e.heap);
        struct hk_map_class c = {(uint32_t)heap, e.block_size, e.capacity, e.pools_used, e.pools_full,
                                 e.allocated,    e.free,       e.untouched};
        if (heap == SIZE_MAX || !class_can_be(&c, &map->heaps[heap]))
            map->dropped++;
        else
            map->classes[map->class_count++] = c;
    }
    qsort(map->classes, map->class_count, sizeof *map->classes, by_heap_and_size);
}

/* A pool of this heap; what cannot be is shown as empty, and counted. */
static struct hk_map_pool read_pool(struct hk_heap_map *map, const struct hk_map_heap *heap,
                                    const struct hk_capture_map_pool *e)
{
    struct hk_map_pool p = {.state = e->state, .is_current = e->is_current};
    if (e->state == HK_MAP_POOL_EMPTY || e->state == HK_MAP_POOL_RETURNED || e->state == HK_MAP_POOL_LARGE)
        return (struct hk_map_pool){.state = e->state};
    p.block_size = e->block_size * 8u;
    p.capacity = p.block_size ? heap->pool_size / p.block_size : 0;
    p.allocated = e->allocated;
    p.touched = e->touched;
    if (p.capacity == 0 || p.touched > p.capacity || p.allocated > p.touched) {
        map->dropped++;
        return (struct hk_map_pool){.state = HK_MAP_POOL_EMPTY};
    }
    p.state = p.allocated == p.capacity ? HK_MAP_POOL_FULL : HK_MAP_POOL_USED;
    return p;
}

static void read_arenas(struct hk_heap_map *map, const struct raw_map *raw)
{
    size_t next = 0, bits = 0;
    for (size_t i = 0; i < raw->head.arena_count; i++) {
        struct hk_capture_map_arena e;
        entry_at(raw, raw->head.arena_offset, raw->head.arena_size, i, &e, sizeof e);
        size_t heap = heap_by_number(map, e.heap);
        if (heap == SIZE_MAX || map->heaps[heap].arena_pools > raw->head.pool_count - next) {
            map->dropped++;
            break; /* whose the pools behind it are is not known any more */
        }
        struct hk_map_arena *arena = &map->arenas[map->arena_count++];
        *arena = (struct hk_map_arena){e.start, (uint32_t)heap, e.number, next, map->heaps[heap].arena_pools};
        for (uint32_t k = 0; k < arena->pool_count; k++) {
            struct hk_capture_map_pool pe;
            entry_at(raw, raw->head.pool_offset, raw->head.pool_size, next + k, &pe, sizeof pe);
            struct hk_map_pool *pool = &map->pools[next + k];
            *pool = read_pool(map, &map->heaps[heap], &pe);
            size_t bytes = (pool->capacity + 7) / 8;
            if (pool->state == HK_MAP_POOL_USED && bits + bytes <= map->bits_size) {
                pool->bits = (uint32_t)bits + 1;
                bits += bytes;
            } else if (pool->state == HK_MAP_POOL_USED) {
                bits = map->bits_size; /* none of those behind it has any */
            }
        }
        next += arena->pool_count;
    }
    map->pool_count = next;
}

struct hk_heap_map *hk_heap_map_read(const struct hk_capture *c, struct hk_error *error)
{
    struct raw_map a, b, *raw;
    bool has_a = open_map(c, HK_SECTION_MAP_A, &a), has_b = open_map(c, HK_SECTION_MAP_B, &b);
    if (!has_a && !has_b) {
        hk_error_set(error,
                     c->header.minor < 1
                         ? "%s: has no map of the heap: an older heapkeeper wrote it"
                         : "%s: has no map of the heap: nothing ran on it, or the process ended before the first was "
                           "written",
                     c->path);
        return NULL;
    }
    raw = !has_b || (has_a && a.head.sequence > b.head.sequence) ? &a : &b;
    const struct hk_capture_map *m = &raw->head;
    struct hk_heap_map *map = hk_heap_map_new(m->heap_count, m->arena_count, m->pool_count, m->class_count);
    map->source = HK_MAP_OF_CAPTURE;
    map->time_ns = m->time_ns;
    map->is_final = m->flags & HK_MAP_FINAL;
    map->arenas_left_out = m->arenas_left_out;
    map->heaps_left_out = m->heaps_left_out;
    map->live = m->live;
    if (m->flags & HK_MAP_BITS) {
        map->bits_size = m->bits_count;
        map->bits = hk_must_calloc(m->bits_count, 1);
        memcpy(map->bits, raw->base + m->bits_offset, m->bits_count);
    }
    read_heaps(map, raw);
    read_classes(map, raw);
    read_arenas(map, raw);
    hk_heap_map_sum(map);
    return map;
}
