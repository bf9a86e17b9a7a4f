/* The map of the heap as JSON, with the keys that `heapkeeper blocks --json` has for a process (view/blocks_json.c).
 *
 * The map (map.h) is made first, in pages of its own, and then printed: so what is printed adds up, whatever other threads
 * allocate meanwhile. */
#include "heap/map.h"
#include "heap/misuse.h"
#include "heap/print.h"

#include <inttypes.h>
#include <unistd.h>

struct sums {
    uint64_t live_bytes, free_bytes, untouched_bytes, tail_bytes, empty_bytes, metadata_bytes, returned_bytes;
    uint64_t live_blocks, free_blocks, untouched_blocks, large_bytes, large_blocks, own_large_bytes, own_large_blocks;
    uint64_t arenas, pools_used, pools_full, pools_empty;
};

static const void *part(const struct hk_capture_map *map, uint32_t offset)
{
    return (const char *)map + offset;
}

static void add_class(struct sums *s, const struct hk_capture_map_heap *heap, const struct hk_capture_map_class *c)
{
    uint64_t pools = (uint64_t)c->pools_used + c->pools_full;
    s->live_blocks += c->allocated;
    s->free_blocks += c->free;
    s->untouched_blocks += c->untouched;
    s->live_bytes += c->allocated * c->block_size;
    s->free_bytes += c->free * c->block_size;
    s->untouched_bytes += c->untouched * c->block_size;
    s->tail_bytes += pools * (heap->pool_size - (uint64_t)c->capacity * c->block_size);
}

static void add_heap(struct sums *s, const struct hk_capture_map *map, const struct hk_capture_map_heap *heap)
{
    const struct hk_capture_map_class *classes = part(map, map->class_offset);
    for (uint32_t i = 0; i < map->class_count; i++)
        if (classes[i].heap == heap->number)
            add_class(s, heap, &classes[i]);
    s->arenas += heap->arenas;
    s->pools_used += heap->pools_used;
    s->pools_full += heap->pools_full;
    s->pools_empty += (uint64_t)heap->pools_empty + heap->pools_returned;
    s->empty_bytes += (uint64_t)heap->pools_empty * heap->pool_size;
    s->returned_bytes += (uint64_t)heap->pools_returned * heap->pool_size;
    s->metadata_bytes += heap->metadata_bytes;
    s->large_bytes += heap->large_bytes;
    s->large_blocks += heap->large_blocks;
    s->own_large_bytes += heap->own_large_bytes;
    s->own_large_blocks += heap->own_large_blocks;
}

static void put_sums(struct hk_print *out, const struct sums *s)
{
    uint64_t mapped = s->live_bytes + s->free_bytes + s->untouched_bytes + s->tail_bytes + s->empty_bytes +
                      s->metadata_bytes + s->own_large_bytes;
    const struct {
        const char *key;
        uint64_t value;
    } all[] = {
        {"mapped_bytes", mapped},
        {"live_bytes", s->live_bytes},
        {"free_bytes", s->free_bytes},
        {"untouched_bytes", s->untouched_bytes},
        {"tail_bytes", s->tail_bytes},
        {"empty_bytes", s->empty_bytes},
        {"metadata_bytes", s->metadata_bytes},
        {"returned_bytes", s->returned_bytes},
        {"live_blocks", s->live_blocks},
        {"free_blocks", s->free_blocks},
        {"untouched_blocks", s->untouched_blocks},
        {"large_bytes", s->large_bytes},
        {"large_blocks", s->large_blocks},
        {"own_large_bytes", s->own_large_bytes},
        {"own_large_blocks", s->own_large_blocks},
        {"arenas", s->arenas},
        {"pools_used", s->pools_used},
        {"pools_full", s->pools_full},
        {"pools_empty", s->pools_empty},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        hk_print(out, "%s\"%s\":%" PRIu64, i ? "," : "", all[i].key, all[i].value);
}

static void put_class(struct hk_print *out, const struct hk_capture_map_heap *heap, const struct hk_capture_map_class *c)
{
    uint64_t pools = (uint64_t)c->pools_used + c->pools_full;
    hk_print(out, "{\"block_size\":%u,\"capacity\":%u,\"pools_used\":%u,\"pools_full\":%u", c->block_size, c->capacity,
             c->pools_used, c->pools_full);
    hk_print(out, ",\"allocated\":%" PRIu64 ",\"free\":%" PRIu64 ",\"untouched\":%" PRIu64 ",\"lost_bytes\":%" PRIu64 "}",
             c->allocated, c->free, c->untouched, pools * heap->pool_size - c->allocated * c->block_size);
}

static void put_heap(struct hk_print *out, const struct hk_capture_map *map, const struct hk_capture_map_heap *heap)
{
    static const char *const domains[] = {"raw", "mem", "object", "native"};
    const struct hk_capture_map_class *classes = part(map, map->class_offset);
    struct sums sums = {0};
    bool first = true;

    add_heap(&sums, map, heap);
    hk_print(out, "{\"name\":");
    hk_print_json_string(out, heap->name);
    hk_print(out, ",\"domain\":\"%s\",\"pool_size\":%u,\"arena_pools\":%u,",
             heap->domain < 4 ? domains[heap->domain] : "unknown", heap->pool_size, heap->arena_pools);
    put_sums(out, &sums);
    hk_print(out, ",\"classes\":[");
    for (uint32_t i = 0; i < map->class_count; i++) {
        if (classes[i].heap != heap->number)
            continue;
        hk_print(out, first ? "" : ",");
        put_class(out, heap, &classes[i]);
        first = false;
    }
    hk_print(out, "]}");
}

static void put_pool(struct hk_print *out, const struct hk_capture_map_pool *p, uint32_t pool_size)
{
    static const char *const states[] = {"empty", "returned", "used", "full", "large"}; /* enum hk_map_pool_state */
    uint32_t size = p->block_size * 8u, capacity = size ? pool_size / size : 0;
    hk_print(out, "{\"state\":\"%s\",\"block_size\":%u,\"capacity\":%u,\"allocated\":%u,\"free\":%u,\"untouched\":%u", states[p->state],
             size, capacity, p->allocated, p->touched - p->allocated, capacity - p->touched);
    hk_print(out, ",\"current\":%s}", p->is_current ? "true" : "false");
}

static void put_arenas(struct hk_print *out, const struct hk_capture_map *map)
{
    const struct hk_capture_map_heap *heaps = part(map, map->heap_offset);
    const struct hk_capture_map_arena *arenas = part(map, map->arena_offset);
    const struct hk_capture_map_pool *pool = part(map, map->pool_offset);

    hk_print(out, ",\"arenas\":[");
    for (uint32_t i = 0; i < map->arena_count; i++) {
        const struct hk_capture_map_heap *heap = &heaps[arenas[i].heap];
        hk_print(out, "%s{\"arena\":%u,\"heap\":", i ? "," : "", i);
        hk_print_json_string(out, heap->name);
        hk_print(out, ",\"start\":%" PRIu64 ",\"pools\":[", arenas[i].start);
        for (uint32_t k = 0; k < heap->arena_pools; k++) {
            hk_print(out, k ? "," : "");
            put_pool(out, pool++, heap->pool_size);
        }
        hk_print(out, "]}");
    }
    hk_print(out, "]");
}

static void put_map(struct hk_print *out, const struct hk_capture_map *map, bool arenas)
{
    const struct hk_capture_map_heap *heaps = part(map, map->heap_offset);
    struct sums total = {0};

    for (uint32_t i = 0; i < map->heap_count; i++)
        add_heap(&total, map, &heaps[i]);
    hk_print(out, "{\"format\":\"heapkeeper-blocks-1\",\"state\":\"running\",\"source\":\"process\",\"pid\":%d,\"total\":{",
             (int)getpid());
    put_sums(out, &total);
    hk_print(out, "},\"heaps\":[");
    for (uint32_t i = 0; i < map->heap_count; i++) {
        hk_print(out, i ? "," : "");
        put_heap(out, map, &heaps[i]);
    }
    hk_print(out, "]");
    if (arenas)
        put_arenas(out, map);
    hk_print(out, ",\"arenas_left_out\":%u,\"heaps_left_out\":%u}", map->arenas_left_out, map->heaps_left_out);
}

static bool is_ready(uint64_t bytes)
{
    return true; /* the pages are mapped */
}

size_t hk_blocks_json(char *buffer, size_t capacity, bool arenas)
{
    struct hk_print out = {buffer, hk_capacity_of(buffer, capacity, "hk_blocks_json"), 0};
    size_t sums = HK_MAP_CLASSES * sizeof(struct hk_capture_map_class);
    size_t room = hk_heap_map_room() + 16 * HK_ARENA_POOLS * sizeof(struct hk_capture_map_pool); /* what comes meanwhile */
    char *pages = hk_os_map(sums + room);

    if (pages == NULL)
        return 0;
    struct hk_capture_map *map = (struct hk_capture_map *)(pages + sums);
    if (hk_heap_map_fill(map, room, false, is_ready, (struct hk_capture_map_class *)pages) != 0)
        put_map(&out, map, arenas);
    hk_os_unmap(pages, sums + room);
    return out.length;
}
