/* The heap of a running process, read from its memory by process_vm_readv: it is neither asked nor stopped.
 *
 * Where to look is in its capture (struct hk_capture_live). The table of arenas says which of them belong to which heap
 * and which of their pools are empty; the descriptors of the pools say the rest, except how many blocks of a *current*
 * pool are allocated: there the free list is followed, in a copy of the pool.
 *
 * The process goes on meanwhile. A number that was read while it changed is made to fit (allocated <= touched <=
 * capacity), so a map is consistent in itself and off by what happened while it was taken.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "read/heapmap.h"
#include "read/index.h"

#define ARENAS_MAX      (1u << 20)
#define POOL_SIZE_MAX   (1u << 22)
#define HEAPS_MAX       4096u
#define CHUNKS_MAX      64u
#define SLOTS_MAX       1024u
#define MEMBERS_MAX     65536u

struct live {
    struct hk_capture_live at;
    int pid;
    struct hk_heap_map *map;
    uint64_t *heaps;       /* address of map->heaps[i] */
    uint16_t *owner_sizes; /* of map->heaps[i]: more to each of its pools */
    size_t class_room;
    uint8_t *pool_bytes;
    int error;
};

static bool peek(struct live *l, uint64_t address, void *to, size_t size)
{
    struct iovec here = {to, size}, there = {(void *)(uintptr_t)address, size};
    ssize_t got = process_vm_readv(l->pid, &here, 1, &there, 1, 0);
    if (got == (ssize_t)size)
        return true;
    l->error = got < 0 ? errno : EFAULT;
    return false;
}

static uint64_t field_u64(const uint8_t *record, uint16_t offset)
{
    uint64_t value;
    memcpy(&value, record + offset, sizeof value);
    return value;
}
static uint32_t field_u32(const uint8_t *record, uint16_t offset)
{
    uint32_t value;
    memcpy(&value, record + offset, sizeof value);
    return value;
}
static uint16_t field_u16(const uint8_t *record, uint16_t offset)
{
    uint16_t value;
    memcpy(&value, record + offset, sizeof value);
    return value;
}

/* Records are read into buffers with this much behind them, so that no field reaches beyond. */
#define PADDING 8

/* The description comes from a file: sizes and offsets must make sense before anything is read by them. */
static bool can_be(const struct hk_capture_live *at)
{
    const uint16_t in_pool[] = {at->pool_free,        at->pool_other_free, at->pool_used,   at->pool_held,
                                at->pool_used_before, at->pool_block_size, at->pool_carved, at->pool_capacity,
                                at->pool_place};
    const uint16_t in_arena[] = {at->arena_heap, at->arena_empty, at->arena_dirty, at->arena_number};
    const uint16_t in_heap[] = {at->heap_name,        at->heap_domain,       at->heap_mode,
                                at->heap_large_bytes, at->heap_large_blocks, at->heap_next_member};
    bool good = at->version == HK_MAP_LIVE_VERSION && at->pool_size >= 256 && at->pool_size <= POOL_SIZE_MAX &&
                at->arena_pools >= 1 && at->arena_pools <= 64 && at->pool_stride >= 8 && at->pool_stride <= 1024 &&
                at->arena_stride >= 8 && at->arena_stride <= 1024 && at->heap_size >= 8;
    for (size_t i = 0; i < sizeof in_pool / sizeof *in_pool; i++)
        good = good && in_pool[i] < at->pool_stride;
    for (size_t i = 0; i < sizeof in_arena / sizeof *in_arena; i++)
        good = good && in_arena[i] < at->arena_stride;
    for (size_t i = 0; i < sizeof in_heap / sizeof *in_heap; i++)
        good = good && in_heap[i] < at->heap_size;
    return good;
}

static void why(const struct live *l, struct hk_error *error)
{
    if (l->error == EPERM || l->error == EACCES)
        hk_error_set(error,
                     "the memory of process %d may not be read (another user's, or the system allows it to a parent only: "
                     "kernel.yama.ptrace_scope)",
                     l->pid);
    else if (l->error == ESRCH)
        hk_error_set(error, "process %d has ended", l->pid);
    else
        hk_error_set(error, "the heap of process %d cannot be read: %s", l->pid,
                     l->error == EFAULT ? "it is not where its capture says" : strerror(l->error));
}

/* ---- heaps ---- */

/* Large blocks and metadata of a heap, or of a thread's member of one. */
static void add_counters(const struct live *l, const uint8_t *record, uint32_t size, int64_t *bytes, int64_t *blocks,
                         struct hk_map_heap *heap)
{
    *bytes = (int64_t)((uint64_t)*bytes + field_u64(record, l->at.heap_large_bytes));
    *blocks = (int64_t)((uint64_t)*blocks + field_u64(record, l->at.heap_large_blocks));
    heap->sums.metadata_bytes += size;
}

static void add_members(struct live *l, uint64_t member, int64_t *bytes, int64_t *blocks, struct hk_map_heap *heap)
{
    uint8_t *record = hk_must_calloc(l->at.heap_size + PADDING, 1);
    uint32_t size = l->at.member_size ? l->at.member_size : l->at.heap_size;
    for (unsigned i = 0; member && i < MEMBERS_MAX && peek(l, member, record, l->at.heap_size); i++) {
        add_counters(l, record, size, bytes, blocks, heap);
        member = field_u64(record, l->at.heap_next_member);
    }
    free(record);
}

static bool is_known(const struct live *l, uint64_t address)
{
    for (size_t i = 0; i < l->map->heap_count; i++)
        if (l->heaps[i] == address)
            return true;
    return false;
}

static void read_heap(struct live *l, uint64_t address)
{
    struct hk_map_heap *heap = &l->map->heaps[l->map->heap_count];
    uint8_t *record = hk_must_calloc(l->at.heap_size + PADDING, 1);
    if (address && !is_known(l, address) && peek(l, address, record, l->at.heap_size)) {
        int64_t bytes = 0, blocks = 0;
        uint64_t at = field_u64(record, l->at.heap_name), member;
        for (size_t i = 0; i + 1 < sizeof heap->name && peek(l, at + i, &heap->name[i], 1) && heap->name[i]; i++)
            ;
        heap->number = (uint32_t)l->map->heap_count;
        heap->domain = field_u16(record, l->at.heap_domain);
        heap->pool_size = l->at.pool_size;
        heap->arena_pools = l->at.arena_pools;
        bool is_threads = record[l->at.heap_mode] == l->at.threads_mode;
        uint32_t size = is_threads && l->at.threads_size ? l->at.threads_size : l->at.heap_size;
        l->owner_sizes[l->map->heap_count] = is_threads ? l->at.owner_size : 0;
        add_counters(l, record, size, &bytes, &blocks, heap);
        if (is_threads && peek(l, address + l->at.heap_members, &member, sizeof member))
            add_members(l, member, &bytes, &blocks, heap);
        heap->sums.large_bytes = bytes > 0 ? (uint64_t)bytes : 0;
        heap->sums.large_blocks = blocks > 0 ? (uint64_t)blocks : 0;
        l->heaps[l->map->heap_count++] = address;
    }
    free(record);
}

/* A chunk of the table of heaps, as format.h has it. */
struct chunk {
    uint64_t next;
    uint32_t count, reserved;
    uint64_t heaps;
};

static bool read_heaps(struct live *l)
{
    struct chunk chunk = {.next = l->at.heaps};
    uint64_t slots[SLOTS_MAX];
    for (unsigned i = 0; chunk.next && i < CHUNKS_MAX; i++) {
        if (!peek(l, chunk.next, &chunk, sizeof chunk))
            return false;
        uint32_t count = chunk.count < SLOTS_MAX ? chunk.count : SLOTS_MAX;
        if (!peek(l, chunk.heaps, slots, count * sizeof *slots))
            return false;
        for (uint32_t k = 0; k < count && l->map->heap_count < HEAPS_MAX; k++)
            read_heap(l, slots[k]); /* one that ends just now is left out */
    }
    return true;
}

/* ---- pools ---- */

/* Goes through a pool's free lists in a copy of it. Clears the bits of free blocks, if asked to; returns their number. */
static uint32_t free_blocks(const struct live *l, const uint8_t *descriptor, uint64_t start, uint32_t size,
                            uint32_t touched, uint8_t *bits)
{
    const uint16_t lists[] = {l->at.pool_free, l->at.pool_other_free};
    uint32_t count = 0;
    for (int i = 0; i < 2; i++) {
        uint64_t block = field_u64(descriptor, lists[i]);
        while (block && count < touched) {
            uint64_t at = block - start;
            if (at >= (uint64_t)touched * size || at % size != 0 || at > l->at.pool_size - sizeof block)
                break; /* it moved */
            if (bits)
                bits[at / size / 8] &= (uint8_t)~(1u << at / size % 8);
            count++;
            memcpy(&block, l->pool_bytes + at, sizeof block);
        }
    }
    return count;
}

static struct hk_map_class *class_of(struct live *l, uint32_t heap, uint32_t block_size, uint32_t capacity)
{
    struct hk_heap_map *map = l->map;
    for (size_t i = map->class_count; i-- > 0;)
        if (map->classes[i].heap == heap && map->classes[i].block_size == block_size)
            return &map->classes[i];
    map->classes = hk_array_room(map->classes, map->class_count, &l->class_room, sizeof *map->classes);
    map->classes[map->class_count] = (struct hk_map_class){.heap = heap, .block_size = block_size, .capacity = capacity};
    return &map->classes[map->class_count++];
}

static struct hk_map_pool read_pool(struct live *l, const uint8_t *descriptor, uint64_t start)
{
    struct hk_map_pool p = {.block_size = field_u32(descriptor, l->at.pool_block_size),
                            .capacity = field_u16(descriptor, l->at.pool_capacity),
                            .is_current = descriptor[l->at.pool_place] == l->at.place_current};
    if (p.block_size < 8 || p.capacity == 0 || p.capacity > l->at.pool_size / p.block_size)
        return (struct hk_map_pool){.state = HK_MAP_POOL_EMPTY}; /* being made just now */
    p.touched = field_u32(descriptor, l->at.pool_carved) / p.block_size;
    p.touched = p.touched < p.capacity ? p.touched : p.capacity;
    p.allocated = field_u32(descriptor, l->at.pool_used) + 1 + field_u32(descriptor, l->at.pool_held);
    if (p.is_current && peek(l, start, l->pool_bytes, l->at.pool_size))
        p.allocated = p.touched - free_blocks(l, descriptor, start, p.block_size, p.touched, NULL);
    p.allocated = p.allocated < p.touched ? p.allocated : p.touched;
    p.state = p.allocated == p.capacity ? HK_MAP_POOL_FULL : HK_MAP_POOL_USED;
    return p;
}

static void count_pool(struct live *l, uint32_t heap, const struct hk_map_pool *p)
{
    struct hk_map_sums *sums = &l->map->heaps[heap].sums;
    if (p->block_size == 0) {
        sums->pools_empty += p->state == HK_MAP_POOL_EMPTY;
        sums->pools_returned += p->state == HK_MAP_POOL_RETURNED;
        return;
    }
    struct hk_map_class *c = class_of(l, heap, p->block_size, p->capacity);
    c->pools_full += p->state == HK_MAP_POOL_FULL;
    c->pools_used += p->state == HK_MAP_POOL_USED;
    c->allocated += p->allocated;
    c->free += p->touched - p->allocated;
    c->untouched += p->capacity - p->touched;
}

/* A pool that is not of blocks, and is not empty: of a large block. */
static struct hk_map_pool read_large(struct live *l, uint32_t heap, const uint8_t *descriptor)
{
    struct hk_map_sums *sums = &l->map->heaps[heap].sums;
    uint32_t pools = field_u32(descriptor, l->at.pool_used_before);
    if (descriptor[l->at.pool_place] == l->at.place_run) {
        sums->pools_large += pools;
        sums->own_large_blocks++;
        sums->own_large_bytes += (uint64_t)pools * l->at.pool_size;
    }
    return (struct hk_map_pool){.state = HK_MAP_POOL_LARGE};
}

/* The arena with this index of the region. */
static bool read_arena(struct live *l, size_t index, const uint8_t *record, uint32_t heap, uint8_t *descriptors)
{
    struct hk_heap_map *map = l->map;
    const struct hk_capture_live *at = &l->at;
    uint64_t empty = field_u64(record, at->arena_empty), dirty = field_u64(record, at->arena_dirty);
    uint64_t start = map->base + (uint64_t)index * at->arena_pools * at->pool_size;
    if (!peek(l, map->descriptors + (uint64_t)index * at->arena_pools * at->pool_stride, descriptors,
              (size_t)at->arena_pools * at->pool_stride))
        return false;
    map->arenas = hk_must_realloc(map->arenas, map->arena_count + 1, sizeof *map->arenas);
    map->pools = hk_must_realloc(map->pools, map->pool_count + at->arena_pools, sizeof *map->pools);
    map->arenas[map->arena_count++] =
        (struct hk_map_arena){start, heap, field_u32(record, at->arena_number), map->pool_count, at->arena_pools};
    for (uint32_t i = 0; i < at->arena_pools; i++) {
        const uint8_t *descriptor = descriptors + (size_t)i * at->pool_stride;
        uint8_t place = descriptor[at->pool_place];
        struct hk_map_pool p = {.state = dirty >> i & 1 ? HK_MAP_POOL_EMPTY : HK_MAP_POOL_RETURNED};
        if (!(empty >> i & 1) && (place == at->place_run || place == at->place_empty))
            p = read_large(l, heap, descriptor);
        else if (!(empty >> i & 1))
            p = read_pool(l, descriptor, start + (uint64_t)i * at->pool_size);
        count_pool(l, heap, &p);
        map->pools[map->pool_count++] = p;
    }
    map->heaps[heap].sums.arenas++;
    map->heaps[heap].sums.metadata_bytes +=
        (uint64_t)at->arena_pools * (at->pool_stride + l->owner_sizes[heap]) + at->arena_stride;
    return true;
}

static bool read_arenas(struct live *l)
{
    const struct hk_capture_live *at = &l->at;
    struct hk_heap_map *map = l->map;
    size_t stride = at->arena_stride;
    uint64_t arenas;
    uint32_t count;
    if (!peek(l, at->region + at->region_base, &map->base, sizeof map->base) ||
        !peek(l, at->region + at->region_pools, &map->descriptors, sizeof map->descriptors) ||
        !peek(l, at->region + at->region_arenas, &arenas, sizeof arenas) ||
        !peek(l, at->region + at->region_arena_next, &count, sizeof count))
        return false;
    if (count > ARENAS_MAX) {
        l->error = EFAULT;
        return false;
    }
    uint8_t *table = hk_must_calloc(count * stride + PADDING, 1);
    uint8_t *descriptors = hk_must_calloc((size_t)at->arena_pools * at->pool_stride + PADDING, 1);
    bool good = count == 0 || peek(l, arenas, table, count * stride);
    for (uint32_t heap = 0; good && heap < map->heap_count; heap++)
        for (size_t i = 0; good && i < count; i++)
            if (field_u64(table + i * stride, at->arena_heap) == l->heaps[heap])
                good = read_arena(l, i, table + i * stride, heap, descriptors);
    free(table);
    free(descriptors);
    return good;
}

static int by_heap_and_size(const void *a, const void *b)
{
    const struct hk_map_class *x = a, *y = b;
    if (x->heap != y->heap)
        return x->heap < y->heap ? -1 : 1;
    return x->block_size < y->block_size ? -1 : x->block_size > y->block_size;
}

struct hk_heap_map *hk_heap_map_live(const struct hk_heap_map *where, int pid, struct hk_error *error)
{
    struct live l = {.at = where->live, .pid = pid};
    if (l.at.version == 0) {
        hk_error_set(error, "process %d has no heap of ours: no addresses could be reserved, or it is only observed", pid);
        return NULL;
    }
    if (!can_be(&l.at)) {
        hk_error_set(error, "process %d runs another version of the library (its heap is described in version %u)", pid,
                     l.at.version);
        return NULL;
    }
    l.map = hk_heap_map_new(HEAPS_MAX, 0, 0, 0);
    l.heaps = hk_must_calloc(HEAPS_MAX, sizeof *l.heaps);
    l.owner_sizes = hk_must_calloc(HEAPS_MAX, sizeof *l.owner_sizes);
    l.pool_bytes = hk_must_calloc(l.at.pool_size, 1);
    bool good = read_heaps(&l) && read_arenas(&l);
    free(l.heaps);
    free(l.owner_sizes);
    free(l.pool_bytes);
    if (!good) {
        why(&l, error);
        hk_heap_map_free(l.map);
        return NULL;
    }
    qsort(l.map->classes, l.map->class_count, sizeof *l.map->classes, by_heap_and_size);
    l.map->source = HK_MAP_OF_PROCESS;
    l.map->pid = pid;
    l.map->live = l.at;
    hk_heap_map_sum(l.map);
    return l.map;
}

/* ---- blocks ---- */

/* Bits of the pool's allocated blocks, read now; the pool's numbers are brought up to date. */
static bool live_bits(struct hk_heap_map *map, uint64_t start, struct hk_map_pool *p, uint8_t *bits)
{
    struct live l = {.at = map->live, .pid = map->pid};
    uint8_t *descriptor = hk_must_calloc(l.at.pool_stride + PADDING, 1);
    l.pool_bytes = hk_must_calloc(l.at.pool_size, 1);
    uint64_t index = (start - map->base) / l.at.pool_size;
    bool good = peek(&l, map->descriptors + index * l.at.pool_stride, descriptor, l.at.pool_stride) &&
                peek(&l, start, l.pool_bytes, l.at.pool_size);
    if (good) {
        struct hk_map_pool now = read_pool(&l, descriptor, start);
        good = now.block_size == p->block_size && now.capacity == p->capacity;
        for (uint32_t i = 0; good && i < now.touched; i++)
            bits[i / 8] |= (uint8_t)(1u << i % 8);
        if (good) {
            now.allocated = now.touched - free_blocks(&l, descriptor, start, now.block_size, now.touched, bits);
            now.state = now.allocated == now.capacity ? HK_MAP_POOL_FULL : HK_MAP_POOL_USED;
            *p = now;
        }
    }
    free(descriptor);
    free(l.pool_bytes);
    return good;
}

char *hk_heap_map_blocks(struct hk_heap_map *map, const struct hk_map_arena *arena, uint32_t pool)
{
    struct hk_map_pool *p = &map->pools[arena->first_pool + pool];
    if (p->capacity == 0)
        return NULL;
    uint8_t *bits = hk_must_calloc((p->capacity + 7) / 8, 1);
    bool known = p->state == HK_MAP_POOL_FULL;
    if (map->source == HK_MAP_OF_PROCESS)
        known = live_bits(map, arena->start + (uint64_t)pool * map->live.pool_size, p, bits);
    else if (known)
        memset(bits, 0xff, (p->capacity + 7) / 8);
    else if (p->bits && p->bits - 1 + (p->capacity + 7) / 8 <= map->bits_size) {
        memcpy(bits, map->bits + p->bits - 1, (p->capacity + 7) / 8);
        known = true;
    }
    char *text = known ? hk_must_calloc(p->capacity + 1, 1) : NULL;
    for (uint32_t i = 0; known && i < p->capacity; i++)
        text[i] = i >= p->touched ? ' ' : bits[i / 8] >> i % 8 & 1 ? '#' : '.';
    free(bits);
    return text;
}
