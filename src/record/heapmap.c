/* The map of the heap in the capture: format.h, struct hk_capture_map. The heap fills it (heap/map.c); here are its two
 * places, which are written in turn. */
#include "heap/map.h"
#include "record/internal.h"

static int kind; /* that is being written */
static struct hk_capture_map_class sums[HK_MAP_CLASSES]; /* too large for the stack of a hook */

/* The first `bytes` bytes of the map can be written. */
HK_HOT static bool make_ready(uint64_t bytes)
{
    struct hk_rec_section *section = &hk_rec.section[kind];
    uint64_t used = section->count;

    section->count = 0; /* the map is written anew from its first byte */
    bool ready = hk_rec_append(kind, bytes) != NULL;
    section->count = used;
    return ready;
}

HK_HOT void hk_rec_map_heap(uint64_t time_ns, bool bits, bool final)
{
    kind = hk_rec.map_sequence / 2 % 2 == 0 ? HK_SECTION_MAP_A : HK_SECTION_MAP_B;
    struct hk_rec_section *section = &hk_rec.section[kind];
    struct hk_capture_map *map = (struct hk_capture_map *)section->data;

    if (section->capacity < sizeof *map || !make_ready(sizeof *map))
        return;
    __atomic_store_n(&map->sequence, hk_rec.map_sequence + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    section->count = hk_heap_map_fill(map, section->capacity, bits, make_ready, sums);
    hk_rec_publish(kind, 0);
    if (section->count == 0)
        return;
    map->time_ns = time_ns;
    map->flags |= final ? HK_MAP_FINAL : 0u;
    hk_rec.map_sequence += 2;
    __atomic_store_n(&map->sequence, hk_rec.map_sequence, __ATOMIC_RELEASE);
}
