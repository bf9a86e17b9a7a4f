/* The map of the heap: every pool at one moment, and sums per size class. See map.h and capture/format.h.
 *
 * Made from the descriptors of the pools without a lock, as statistics are: a pool that is changed meanwhile is off by
 * that change. Each pool's numbers are made to fit each other first, and sums are of these, so that the map is consistent
 * in itself whatever happens around it. It costs one pass over the descriptors.
 *
 * Heaps in a buffer of the program's are left out: their pools are not of the process's region.
 *
 * Which blocks of a pool are allocated is found by walking its free lists, in time proportional to the free blocks.
 */
#include "heap/map.h"

#include <stddef.h>
#include <string.h>

#include "heap/threads.h"

#define ARENAS_MAX 0xffffu

struct map_writer {
    struct hk_capture_map *map;
    uint64_t capacity; /* bytes */
    bool (*ready)(uint64_t bytes);
    struct hk_capture_map_heap *heaps;
    struct hk_capture_map_arena *arenas;
    struct hk_capture_map_pool *pools;
    struct hk_capture_map_class *classes;
    struct hk_capture_map_class *sums; /* of the heap at hand, those of class i at i - 1 */
    uint32_t heap_count, heap_room, arena_count, arena_room, class_count;
    uint32_t arenas_left_out, heaps_left_out;
};

static uint32_t min32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t offset_in(const struct map_writer *w, const void *part)
{
    return (uint32_t)((const uint8_t *)part - (const uint8_t *)w->map);
}

static void describe_live(struct hk_capture_live *live)
{
    if (hk_region.span == 0)
        return;
    *live = (struct hk_capture_live){
        .version = HK_MAP_LIVE_VERSION,
        .heaps = (uintptr_t)hk_heap_chunks(),
        .region = (uintptr_t)&hk_region,
        .region_base = offsetof(struct hk_region, base),
        .region_pools = offsetof(struct hk_region, pools),
        .region_arenas = offsetof(struct hk_region, arenas),
        .region_arena_next = offsetof(struct hk_region, arena_next),
        .pool_size = (uint32_t)HK_POOL_SIZE,
        .arena_pools = HK_ARENA_POOLS,
        .current = HK_CURRENT,
        .pool_stride = sizeof(struct hk_pool),
        .arena_stride = sizeof(struct hk_arena),
        .pool_free = offsetof(struct hk_pool, free),
        .pool_other_free = offsetof(struct hk_pool, other_free),
        .pool_used = offsetof(struct hk_pool, used),
        .pool_held = offsetof(struct hk_pool, held),
        .pool_used_before = offsetof(struct hk_pool, used_before),
        .pool_block_size = offsetof(struct hk_pool, block_size),
        .pool_carved = offsetof(struct hk_pool, carved),
        .pool_capacity = offsetof(struct hk_pool, capacity),
        .pool_place = offsetof(struct hk_pool, place),
        .arena_heap = offsetof(struct hk_arena, heap),
        .arena_empty = offsetof(struct hk_arena, empty),
        .arena_dirty = offsetof(struct hk_arena, dirty),
        .arena_number = offsetof(struct hk_arena, number),
        .heap_name = offsetof(struct hk_heap, name),
        .heap_domain = offsetof(struct hk_heap, domain),
        .heap_mode = offsetof(struct hk_heap, mode),
        .heap_large_bytes = offsetof(struct hk_heap, large_bytes),
        .heap_large_blocks = offsetof(struct hk_heap, large_blocks),
        .heap_size = sizeof(struct hk_heap),
        .member_size = sizeof(struct hk_member),
        .threads_mode = HK_LOCK_THREADS,
        .threads_size = sizeof(struct hk_facade),
        .owner_size = HK_OWNER_BYTES,
        .heap_members = offsetof(struct hk_facade, members),
        .heap_next_member = offsetof(struct hk_heap, next_member),
        .place_empty = HK_PLACE_EMPTY,
        .place_current = HK_PLACE_CURRENT,
        .place_run = HK_PLACE_RUN,
    };
}

/* ---- pools ---- */

static void add_pool(const struct hk_pool *pool, struct hk_capture_map_pool *out, struct hk_capture_map_heap *heap,
                     struct hk_capture_map_class *sum)
{
    uint32_t size = pool->block_size, capacity = pool->capacity;
    uint32_t touched = min32(size != 0 ? pool->carved / size : 0, capacity);
    uint32_t allocated = min32(hk_pool_allocated(pool), touched);
    bool full = allocated == capacity;

    *out = (struct hk_capture_map_pool){
        .block_size = (uint16_t)(size / 8),
        .allocated = (uint16_t)allocated,
        .touched = (uint16_t)touched,
        .state = full ? HK_MAP_POOL_FULL : HK_MAP_POOL_USED,
        .is_current = pool->place == HK_PLACE_CURRENT,
    };
    heap->pools_full += full;
    heap->pools_used += !full;
    sum->block_size = size;
    sum->capacity = capacity;
    sum->pools_full += full;
    sum->pools_used += !full;
    sum->allocated += allocated;
    sum->free += touched - allocated;
    sum->untouched += capacity - touched;
}

/* A pool that is not of blocks: empty, or of a large block. */
static struct hk_capture_map_pool add_other(const struct hk_pool *pool, bool empty, bool dirty,
                                            struct hk_capture_map_heap *heap)
{
    if (!empty && (pool->place == HK_PLACE_RUN || pool->place == HK_PLACE_EMPTY)) {
        if (pool->place == HK_PLACE_RUN) {
            heap->own_large_blocks++;
            heap->own_large_bytes += hk_pool_block_bytes(pool);
            heap->pools_large += pool->used_before;
        }
        return (struct hk_capture_map_pool){.state = HK_MAP_POOL_LARGE};
    }
    heap->pools_empty += dirty;
    heap->pools_returned += !dirty;
    return (struct hk_capture_map_pool){.state = dirty ? HK_MAP_POOL_EMPTY : HK_MAP_POOL_RETURNED};
}

static bool has_blocks(const struct hk_pool *pool)
{
    return pool->place >= HK_PLACE_CURRENT && pool->place <= HK_PLACE_FULL && pool->size_class != 0 &&
           pool->size_class < HK_CLASSES;
}

static void add_arena(struct map_writer *w, const struct hk_arena *arena, struct hk_capture_map_heap *heap)
{
    size_t first = (size_t)(arena - hk_region.arenas) * HK_ARENA_POOLS;
    const struct hk_pool *pools = &hk_region.pools[first];
    uint64_t empty = arena->empty, dirty = arena->dirty;
    struct hk_capture_map_pool nowhere, *out = &nowhere;
    bool fits = w->arena_count < w->arena_room;

    for (uint32_t i = 0; i < HK_ARENA_POOLS; i++) {
        if (fits)
            out = &w->pools[(size_t)w->arena_count * HK_ARENA_POOLS + i];
        if ((empty >> i & 1) || !has_blocks(&pools[i]))
            *out = add_other(&pools[i], empty >> i & 1, dirty >> i & 1, heap);
        else
            add_pool(&pools[i], out, heap, &w->sums[pools[i].size_class - 1]);
    }
    heap->arenas++;
    w->arenas_left_out += !fits;
    if (fits)
        w->arenas[w->arena_count++] = (struct hk_capture_map_arena){
            .start = (uintptr_t)hk_region.base + first * HK_POOL_SIZE,
            .heap = heap->number,
            .number = arena->number,
        };
}

/* ---- heaps ---- */

/* What a heap, or a thread's member of one, counts itself. */
static void add_counters(const hk_heap *from, int64_t *bytes, int64_t *blocks, struct hk_capture_map_heap *heap)
{
    *bytes += __atomic_load_n(&from->large_bytes, __ATOMIC_RELAXED);
    *blocks += __atomic_load_n(&from->large_blocks, __ATOMIC_RELAXED);
    heap->metadata_bytes += hk_heap_structure(from);
}

static bool add_classes(struct map_writer *w, uint32_t heap)
{
    uint32_t count = 0;

    for (int i = 0; i < HK_CLASSES - 1; i++)
        count += w->sums[i].capacity != 0;
    if (!w->ready(offset_in(w, &w->classes[w->class_count + count])))
        return false;
    for (int i = 0; i < HK_CLASSES - 1; i++) {
        if (w->sums[i].capacity == 0)
            continue;
        w->classes[w->class_count] = w->sums[i];
        w->classes[w->class_count++].heap = heap;
    }
    return true;
}

static bool add_heap(struct map_writer *w, const hk_heap *from)
{
    struct hk_capture_map_heap *heap = &w->heaps[w->heap_count];
    int64_t bytes = 0, blocks = 0;

    memset(heap, 0, sizeof *heap);
    memset(w->sums, 0, (HK_CLASSES - 1) * sizeof *w->sums);
    heap->number = w->heap_count++;
    heap->domain = (uint16_t)from->domain;
    heap->locks_itself = from->mode != HK_LOCK_HOST;
    heap->pool_size = (uint32_t)HK_POOL_SIZE;
    heap->arena_pools = HK_ARENA_POOLS;
    add_counters(from, &bytes, &blocks, heap);
    for (const hk_heap *member = hk_threads_members(from); member != NULL; member = member->next_member)
        add_counters(member, &bytes, &blocks, heap);
    heap->large_bytes = bytes > 0 ? (uint64_t)bytes : 0;
    heap->large_blocks = blocks > 0 ? (uint64_t)blocks : 0;
    for (size_t i = 0; i + 1 < sizeof heap->name && from->name[i] != '\0'; i++)
        heap->name[i] = from->name[i];
    for (const struct hk_arena *arena = from->arenas; arena != NULL; arena = arena->next)
        add_arena(w, arena, heap);
    heap->metadata_bytes += heap->arenas * hk_arena_metadata(from);
    return add_classes(w, heap->number);
}

static const hk_heap *next_heap(struct hk_heap_cursor *cursor)
{
    const hk_heap *heap;

    do
        heap = hk_heap_next(cursor);
    while (heap != NULL && heap->own_region != NULL);
    return heap;
}

static bool add_heaps(struct map_writer *w)
{
    struct hk_heap_cursor cursor = {0};

    for (const hk_heap *heap; (heap = next_heap(&cursor)) != NULL;) {
        if (w->heap_count == w->heap_room)
            w->heaps_left_out++;
        else if (!add_heap(w, heap))
            return false;
    }
    return true;
}

static void count_all(uint32_t *heaps, uint32_t *arenas)
{
    struct hk_heap_cursor cursor = {0};

    *heaps = *arenas = 0;
    for (const hk_heap *heap; (heap = next_heap(&cursor)) != NULL && *heaps < HK_MAP_HEAPS; ++*heaps)
        *arenas = min32(*arenas + heap->arena_count, ARENAS_MAX);
}

/* Of one heap, and of one arena with its pools. */
#define HEAP_BYTES  (sizeof(struct hk_capture_map_heap) + (HK_CLASSES - 1) * sizeof(struct hk_capture_map_class))
#define ARENA_BYTES (sizeof(struct hk_capture_map_arena) + HK_ARENA_POOLS * sizeof(struct hk_capture_map_pool))

HK_HOT uint64_t hk_heap_map_room(void)
{
    uint32_t heaps, arenas;

    count_all(&heaps, &arenas);
    return sizeof(struct hk_capture_map) + heaps * HEAP_BYTES + arenas * ARENA_BYTES;
}

/* Where everything but bits goes. False: there is no room, not even for the sums. */
static bool lay_out(struct map_writer *w)
{
    uint32_t heaps, arenas;

    count_all(&heaps, &arenas);
    uint64_t fixed = sizeof *w->map + heaps * HEAP_BYTES;
    if (w->capacity < fixed)
        return false;
    w->arena_room = min32(arenas, (uint32_t)((w->capacity - fixed) / ARENA_BYTES));
    w->heap_room = heaps;
    w->heaps = (void *)(w->map + 1);
    w->arenas = (void *)(w->heaps + heaps);
    w->pools = (void *)(w->arenas + w->arena_room);
    w->classes = (void *)(w->pools + (size_t)w->arena_room * HK_ARENA_POOLS);
    return w->ready(offset_in(w, w->classes));
}

/* ---- blocks ---- */

/* The allocated blocks of a pool: those touched that are in no free list. A list that leads out of the pool moves under
 * us. */
static void pool_bits(const struct hk_pool *pool, const char *start, const struct hk_capture_map_pool *entry,
                      uint8_t *bits)
{
    const void *lists[] = {pool->free, pool->other_free};
    uint32_t size = entry->block_size * 8u, left = entry->touched;

    for (uint32_t i = 0; i < entry->touched; i++)
        bits[i / 8] |= (uint8_t)(1u << i % 8);
    for (int list = 0; list < 2; list++) {
        for (const void *block = lists[list]; block != NULL; block = *(void *const *)block) {
            size_t at = (size_t)((const char *)block - start), index = at / size;
            if (at % size != 0 || index >= entry->touched || left-- == 0)
                break;
            bits[index / 8] &= (uint8_t)~(1u << index % 8);
        }
    }
}

/* Of each used pool, as many as fit. Returns their bytes; `bits` NULL: only counts them. */
static uint32_t add_bits(const struct map_writer *w, uint8_t *bits, uint64_t room)
{
    uint32_t size = 0;

    for (uint32_t i = 0; i < w->arena_count * HK_ARENA_POOLS; i++) {
        const struct hk_capture_map_pool *entry = &w->pools[i];
        if (entry->state != HK_MAP_POOL_USED || entry->block_size == 0)
            continue;
        uint32_t bytes = ((uint32_t)(HK_POOL_SIZE / (entry->block_size * 8u)) + 7) / 8;
        if (size + bytes > room)
            break;
        if (bits != NULL) {
            const char *start = (char *)(uintptr_t)w->arenas[i / HK_ARENA_POOLS].start;
            memset(bits + size, 0, bytes);
            pool_bits(hk_pool_of(start) + i % HK_ARENA_POOLS, start + i % HK_ARENA_POOLS * HK_POOL_SIZE, entry, bits + size);
        }
        size += bytes;
    }
    return size;
}

HK_HOT uint32_t hk_heap_map_fill(struct hk_capture_map *map, uint64_t capacity, bool bits, bool (*ready)(uint64_t bytes),
                          struct hk_capture_map_class sums[HK_MAP_CLASSES])
{
    _Static_assert(HK_CLASSES - 1 <= HK_MAP_CLASSES, "sums holds one for each class");
    struct map_writer w = {.map = map, .capacity = capacity, .ready = ready, .sums = sums};

    if (!lay_out(&w))
        return 0;
    memset(&map->time_ns, 0, sizeof *map - offsetof(struct hk_capture_map, time_ns));
    describe_live(&map->live);
    if (!add_heaps(&w))
        return 0;
    uint32_t size = offset_in(&w, &w.classes[w.class_count]);
    uint32_t bits_bytes = bits ? add_bits(&w, NULL, capacity - size) : 0;
    if (!ready(size + bits_bytes))
        return 0;
    map->flags = bits ? HK_MAP_BITS : 0u;
    map->heap_offset = offset_in(&w, w.heaps);
    map->heap_size = sizeof *w.heaps;
    map->heap_count = w.heap_count;
    map->heaps_left_out = w.heaps_left_out;
    map->arena_offset = offset_in(&w, w.arenas);
    map->arena_size = sizeof *w.arenas;
    map->arena_count = w.arena_count;
    map->arenas_left_out = w.arenas_left_out;
    map->pool_offset = offset_in(&w, w.pools);
    map->pool_size = sizeof *w.pools;
    map->pool_count = w.arena_count * HK_ARENA_POOLS;
    map->class_offset = offset_in(&w, w.classes);
    map->class_size = sizeof *w.classes;
    map->class_count = w.class_count;
    map->bits_offset = size;
    map->bits_size = 1;
    map->bits_count = bits ? add_bits(&w, (uint8_t *)map + size, bits_bytes) : 0;
    map->size = size + map->bits_count;
    return map->size;
}
