/* Where a heap's pages come from.
 *
 * A file or explicit huge pages: an arena is taken from the process's region like any other, and other pages are mapped
 * into its place. So its blocks are found as all others are, and the fast paths know nothing of it. When the heap
 * ends, plain pages take their place again. A pool of a file is given room on the disk before it is first
 * written, since a full disk is otherwise a signal (SIGBUS); a huge page is reserved when it is mapped, and is not
 * given back before the heap ends, since older kernels do not reserve it again (the same signal). If there are no
 * huge pages the arena asks for transparent ones instead.
 *
 * A buffer: lies anywhere, and everything that is known of it lies inside, in this order:
 *
 *      hk_heap | hk_region | hk_arena, one for 64 pools | hk_pool, one for each | to a multiple of a pool's size | pools
 *
 * No call of the system is made for it. Its blocks are not in the process's region, so they are freed on the slow
 * path, which finds the heap in a list of all buffers. The list is walked under a lock, and only if there are any.
 */
#include "heap/pool.h"

#include <string.h>

/* ---- buffers ---- */

struct buffer_start {
    hk_heap heap;
    struct hk_region region;
};

static hk_heap *buffers; /* linked through next_buffer */
hk_lock hk_buffers_lock; /* no other lock is taken under it */

/* Where the pools begin if there are so many; 0: they do not fit. */
static uintptr_t pools_begin(uintptr_t start, size_t size, size_t pools)
{
    size_t arenas = (pools + HK_ARENA_POOLS - 1) / HK_ARENA_POOLS;
    size_t tables = sizeof(struct buffer_start) + arenas * sizeof(struct hk_arena) + pools * sizeof(struct hk_pool);
    if (tables + HK_POOL_SIZE > size)
        return 0;
    uintptr_t base = (start + tables + HK_POOL_SIZE - 1) & ~(uintptr_t)(HK_POOL_SIZE - 1);
    return base - start <= size && (size - (base - start)) / HK_POOL_SIZE >= pools ? base : 0;
}

hk_heap *hk_buffer_heap(void *buffer, size_t size)
{
    uintptr_t start = ((uintptr_t)buffer + 63) & ~(uintptr_t)63, wasted = start - (uintptr_t)buffer;
    if (buffer == NULL || size <= wasted || size > PTRDIFF_MAX)
        return NULL;
    size_t pools = (size - wasted) / (HK_POOL_SIZE + sizeof(struct hk_pool));
    uintptr_t base = 0;
    while (pools > 0 && (base = pools_begin(start, size - wasted, pools)) == 0)
        pools--;
    if (pools == 0 || pools > UINT32_MAX - HK_ARENA_POOLS)
        return NULL;
    uint32_t arenas = (uint32_t)((pools + HK_ARENA_POOLS - 1) / HK_ARENA_POOLS);
    struct buffer_start *at = (struct buffer_start *)start;
    memset(at, 0, sizeof(*at) + arenas * sizeof(struct hk_arena));
    at->region = (struct hk_region){
        .base = (char *)base,
        .span = pools * HK_POOL_SIZE,
        .arenas = (struct hk_arena *)(at + 1),
        .arena_limit = arenas,
        .arena_next = arenas,
    };
    at->region.pools = (struct hk_pool *)(at->region.arenas + arenas);
    memset(at->region.pools, 0, pools * sizeof(struct hk_pool));
    for (uint32_t i = 0; i < arenas; i++) {
        size_t left = pools - (size_t)i * HK_ARENA_POOLS;
        at->region.arenas[i].pools = (uint8_t)(left < HK_ARENA_POOLS ? left : HK_ARENA_POOLS);
        at->region.arenas[i].pages = HK_PAGES_BUFFER;
    }
    at->heap.own_region = &at->region;
    at->heap.metadata_bytes = size - at->region.span;
    hk_arenas_init(&at->heap, at->region.arenas, arenas);
    return &at->heap;
}

void hk_buffer_register(hk_heap *heap)
{
    hk_lock_take(&hk_buffers_lock);
    hk_heap **link = &buffers;
    while (*link != NULL)
        link = &(*link)->next_buffer;
    __atomic_store_n(link, heap, __ATOMIC_RELEASE);
    hk_lock_release(&hk_buffers_lock);
}

void hk_buffer_unregister(hk_heap *heap)
{
    hk_lock_take(&hk_buffers_lock);
    hk_heap **link = &buffers;
    while (*link != NULL && *link != heap)
        link = &(*link)->next_buffer;
    if (*link != NULL)
        __atomic_store_n(link, heap->next_buffer, __ATOMIC_RELEASE);
    hk_lock_release(&hk_buffers_lock);
}

hk_heap *hk_buffer_heap_next(const hk_heap *heap)
{
    return __atomic_load_n(heap != NULL ? &heap->next_buffer : &buffers, __ATOMIC_ACQUIRE);
}

struct hk_pool *hk_buffer_pool_of(const void *block)
{
    if (__atomic_load_n(&buffers, __ATOMIC_RELAXED) == NULL)
        return NULL;
    struct hk_pool *found = NULL;
    hk_lock_take(&hk_buffers_lock);
    for (const hk_heap *heap = buffers; heap != NULL && found == NULL; heap = heap->next_buffer) {
        uintptr_t distance = (uintptr_t)block - (uintptr_t)heap->own_region->base;
        if (distance < heap->own_region->span)
            found = &heap->own_region->pools[distance >> HK_POOL_SHIFT];
    }
    hk_lock_release(&hk_buffers_lock);
    return found;
}

bool hk_buffer_overlaps(const void *buffer, size_t size)
{
    uintptr_t start = (uintptr_t)buffer;
    bool overlaps = false;
    hk_lock_take(&hk_buffers_lock);
    for (const hk_heap *heap = buffers; heap != NULL && !overlaps; heap = heap->next_buffer) {
        uintptr_t end = (uintptr_t)heap->own_region->base + heap->own_region->span;
        overlaps = start < end && (uintptr_t)heap < start + size;
    }
    hk_lock_release(&hk_buffers_lock);
    return overlaps;
}

/* ---- files and huge pages ---- */

static char *arena_start(const struct hk_arena *arena)
{
    return hk_region.base + (size_t)(arena - hk_region.arenas) * HK_ARENA_SIZE;
}

static uint64_t file_offset(const char *start)
{
    const struct hk_arena *arena = &hk_region.arenas[(size_t)(start - hk_region.base) / HK_ARENA_SIZE];
    return (uint64_t)arena->number * HK_ARENA_SIZE + (size_t)(start - arena_start(arena));
}

bool hk_source_map(hk_heap *heap, struct hk_arena *arenas, uint32_t count, bool huge, bool *lost)
{
    char *start = arena_start(arenas);
    size_t size = count * HK_ARENA_SIZE;
    enum hk_pages pages = HK_PAGES_ANONYMOUS;
    if (heap->source == HK_SOURCE_FILE) {
        if (!hk_os_place_file(start, size, heap->file, (uint64_t)heap->arena_count * HK_ARENA_SIZE, lost))
            return false;
        pages = HK_PAGES_FILE;
    } else if (heap->source == HK_SOURCE_HUGE_PAGES && huge) {
        if (hk_limit_allows(heap, size) && hk_os_place_huge_pages(start, size, lost))
            pages = HK_PAGES_HUGE;
        if (*lost)
            return false;
    }
    huge = huge && pages == HK_PAGES_ANONYMOUS;
    if (pages == HK_PAGES_ANONYMOUS)
        hk_os_huge_pages(start, size, huge);
    for (uint32_t i = 0; i < count; i++) {
        arenas[i].pools = HK_ARENA_POOLS;
        arenas[i].pages = (uint8_t)pages;
        arenas[i].huge = huge;
    }
    return true;
}

bool hk_source_unmap(struct hk_arena *arena)
{
    if (arena->pages != HK_PAGES_ANONYMOUS)
        return hk_os_place_plain(arena_start(arena), HK_ARENA_SIZE);
    hk_os_discard(arena_start(arena), HK_ARENA_SIZE);
    return true;
}

bool hk_source_back(hk_heap *heap, char *start, size_t size)
{
    if (heap->source != HK_SOURCE_FILE)
        return true;
    while (size > 0) { /* neighbours in memory need not be neighbours in the file */
        size_t left = HK_ARENA_SIZE - (size_t)(start - hk_region.base) % HK_ARENA_SIZE;
        size_t part = size < left ? size : left;
        if (!hk_os_file_allocate(heap->file, file_offset(start), part))
            return false;
        start += part;
        size -= part;
    }
    return true;
}

bool hk_source_discard(const struct hk_arena *arena, char *start, size_t size)
{
    if (arena->pages == HK_PAGES_FILE)
        return hk_os_file_discard(start, size);
    return hk_os_discard(start, size);
}
