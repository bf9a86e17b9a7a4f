/* All heaps of the process, any number of them.
 *
 * A table of slots that grows by chunks; the first chunk is static, later ones are pages of their own. Chunks are never
 * given back and neither is a heap's own structure: it waits for the next heap. So who goes through all heaps
 * (statistics, a tick of the timeline) takes no lock, and if a heap ends meanwhile reads what it left. Heaps that lie in
 * buffers are in a list of their own (source.c), and come last.
 */
#include "heap/pool.h"

#include <string.h>

#define LATER_SLOTS 510 /* with the pointer, a page */

struct slots {
    struct slots *next;
    uint32_t count;
    hk_heap **heaps; /* NULL: free slot */
};

struct later_slots {
    struct slots slots;
    hk_heap *heaps[LATER_SLOTS - 1];
};
_Static_assert(sizeof(struct later_slots) <= 4096, "one page");

static hk_heap *first_heaps[32];
static struct slots first_slots = {NULL, sizeof(first_heaps) / sizeof(first_heaps[0]), first_heaps};
static hk_heap *spare; /* ended heaps, linked through `watched` */
hk_lock hk_heaps_lock;

hk_heap *hk_heap_next(struct hk_heap_cursor *cursor)
{
    if (cursor->chunk == NULL && !cursor->is_past)
        cursor->chunk = &first_slots;
    const struct slots *chunk = cursor->chunk;
    while (!cursor->is_past) {
        while (cursor->slot < chunk->count) {
            hk_heap *heap = __atomic_load_n(&chunk->heaps[cursor->slot++], __ATOMIC_ACQUIRE);
            if (heap != NULL)
                return heap;
        }
        chunk = __atomic_load_n(&chunk->next, __ATOMIC_ACQUIRE);
        *cursor = (struct hk_heap_cursor){.chunk = chunk, .is_past = chunk == NULL};
    }
    hk_heap *heap = hk_buffer_heap_next(cursor->buffer);
    if (heap != NULL)
        cursor->buffer = heap;
    return heap;
}

const void *hk_heap_chunks(void)
{
    return &first_slots;
}

/* A free slot; NULL: no memory. The lock is held. */
static hk_heap **slot_find(void)
{
    struct slots *last = NULL;
    for (struct slots *chunk = &first_slots; chunk != NULL; chunk = chunk->next) {
        for (uint32_t i = 0; i < chunk->count; i++)
            if (chunk->heaps[i] == NULL)
                return &chunk->heaps[i];
        last = chunk;
    }
    struct later_slots *added = hk_os_map(sizeof(*added));
    if (added == NULL)
        return NULL;
    added->slots.count = sizeof(added->heaps) / sizeof(added->heaps[0]);
    added->slots.heaps = added->heaps;
    __atomic_store_n(&last->next, &added->slots, __ATOMIC_RELEASE);
    return &added->heaps[0];
}

hk_heap *hk_heap_new(void)
{
    hk_lock_take(&hk_heaps_lock);
    hk_heap *heap = spare;
    if (heap != NULL)
        spare = heap->watched;
    hk_lock_release(&hk_heaps_lock);
    if (heap == NULL)
        return hk_os_map(sizeof(*heap));
    memset(heap, 0, sizeof(*heap));
    return heap;
}

void hk_heap_put_spare(hk_heap *heap)
{
    hk_lock_take(&hk_heaps_lock);
    heap->watched = spare;
    spare = heap;
    hk_lock_release(&hk_heaps_lock);
}

bool hk_heap_register(hk_heap *heap)
{
    hk_lock_take(&hk_heaps_lock);
    hk_heap **slot = slot_find();
    if (slot != NULL)
        __atomic_store_n(slot, heap, __ATOMIC_RELEASE);
    hk_lock_release(&hk_heaps_lock);
    return slot != NULL;
}

bool hk_heap_unregister(hk_heap *heap)
{
    bool found = false;
    hk_lock_take(&hk_heaps_lock);
    for (struct slots *chunk = &first_slots; chunk != NULL; chunk = chunk->next)
        for (uint32_t i = 0; i < chunk->count; i++)
            if (chunk->heaps[i] == heap) {
                __atomic_store_n(&chunk->heaps[i], NULL, __ATOMIC_RELEASE);
                found = true;
            }
    hk_lock_release(&hk_heaps_lock);
    return found;
}
