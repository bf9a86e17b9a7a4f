/* All heaps of the process, any number of them: how they begin and end, and how their protection is taken.
 *
 * A table of slots that grows by chunks; the first chunk is static, later ones are pages of their own. Chunks are never
 * given back and neither is a heap's own structure: it waits for the next heap. So who goes through all heaps
 * (statistics, a tick of the timeline) takes no lock, and if a heap ends meanwhile reads what it left. Heaps that lie in
 * buffers are in a list of their own (source.c), and come last.
 */
#include "heap/debug.h"
#include "heap/misuse.h"
#include "heap/threads.h"

#include <string.h>

#define LATER_SLOTS 510 /* with the pointer, a page */

struct slots {
    struct slots *next;
    uint32_t count, used;
    hk_heap **heaps; /* NULL: free slot */
};

struct later_slots {
    struct slots slots;
    hk_heap *heaps[LATER_SLOTS - 1];
};
_Static_assert(sizeof(struct later_slots) <= 4096, "one page");

static hk_heap *first_heaps[32];
static struct slots first_slots = {.count = sizeof(first_heaps) / sizeof(first_heaps[0]), .heaps = first_heaps};
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

/* A slot that was free; NULL: no memory. The lock is held. */
static hk_heap **slot_take(void)
{
    struct slots *last = NULL;
    for (struct slots *chunk = &first_slots; chunk != NULL; chunk = chunk->next) {
        for (uint32_t i = 0; chunk->used < chunk->count; i++)
            if (chunk->heaps[i] == NULL) {
                chunk->used++;
                return &chunk->heaps[i];
            }
        last = chunk;
    }
    struct later_slots *added = hk_os_map(sizeof(*added));
    if (added == NULL)
        return NULL;
    added->slots.count = sizeof(added->heaps) / sizeof(added->heaps[0]);
    added->slots.heaps = added->heaps;
    added->slots.used = 1;
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
    if (heap != NULL) {
        memset(heap, 0, sizeof(*heap));
    } else if ((heap = hk_os_map(2 * sizeof(*heap))) != NULL) { /* two fit into a page */
        hk_heap_put_spare(heap + 1);
    }
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
    heap->slot = slot_take();
    if (heap->slot != NULL)
        __atomic_store_n(heap->slot, heap, __ATOMIC_RELEASE);
    hk_lock_release(&hk_heaps_lock);
    return heap->slot != NULL;
}

bool hk_heap_unregister(hk_heap *heap)
{
    hk_lock_take(&hk_heaps_lock);
    bool found = heap->slot != NULL && *heap->slot == heap;
    for (struct slots *chunk = &first_slots; found && chunk != NULL; chunk = chunk->next)
        if (heap->slot >= chunk->heaps && heap->slot < chunk->heaps + chunk->count) {
            __atomic_store_n(heap->slot, NULL, __ATOMIC_RELEASE);
            chunk->used--;
            break;
        }
    hk_lock_release(&hk_heaps_lock);
    return found;
}

/* The heap to work on, with what protects it held: the heap itself, or this thread's member of it. */
hk_heap *hk_heap_enter(hk_heap *heap)
{
    if (heap->mode == HK_LOCK_THREADS)
        return hk_threads_enter(heap);
    if (heap->mode == HK_LOCK_OWN)
        hk_lock_take(&heap->lock);
    return heap;
}

void hk_heap_leave(hk_heap *entered)
{
    if (entered->mode == HK_LOCK_MEMBER)
        hk_threads_leave(entered);
    else if (entered->mode == HK_LOCK_OWN)
        hk_lock_release(&entered->lock);
}

void hk_heap_mark_ended(hk_heap *heap)
{
    heap->magic = HK_HEAP_ENDED;
    heap->name = "ended";
    heap->limit = 1;
    heap->is_closed = true;
    for (int i = 0; i < HK_CLASSES; i++)
        heap->current[i] = &hk_no_pool;
}

static void heap_clear(hk_heap *heap)
{
    uint8_t mode = heap->mode;
    memset(heap, 0, sizeof(*heap));
    heap->mode = mode;
    hk_heap_mark_ended(heap);
}

static void heap_give_up(hk_heap *heap)
{
    if (heap->mode == HK_LOCK_THREADS) {
        hk_threads_give_up(heap);
        return;
    }
    hk_arenas_give_up(heap);
    heap_clear(heap);
    hk_heap_put_spare(heap);
}

/* The options with the defaults of what was not given, by leaving it zero or by an older header. */
static hk_heap_options options_known(const hk_heap_options *given)
{
    hk_heap_options o = {.lock = HK_LOCK_OWN};
    if (given != NULL)
        memcpy(&o, given, given->size < sizeof(o) ? given->size : sizeof(o));
    if (o.alignment == 0 || (o.alignment == 8 && HK_STEP == HK_ALIGNMENT))
        o.alignment = HK_ALIGNMENT;
    return o;
}

static hk_heap *structure_for(const hk_heap_options *o)
{
    if (o->source == HK_SOURCE_BUFFER) {
        hk_heap *heap = hk_buffer_heap(o->buffer, o->buffer_size);
        if (heap == NULL)
            hk_misuse(NULL, "hk_heap_create: a buffer of %zu bytes is too small", o->buffer_size);
        return heap;
    }
    if (!hk_region_init())
        return NULL;
    return o->lock == HK_LOCK_THREADS ? hk_threads_create() : hk_heap_new();
}

hk_heap *hk_heap_create(const hk_heap_options *options)
{
    hk_heap_options o = options_known(options);
    bool is_debug = o.debug == HK_DEBUG_ON || (o.debug == HK_DEBUG_DEFAULT && hk_debug_wanted());
    if (is_debug)
        hk_debug_start();
    if (!hk_options_are_good(options, &o))
        return NULL;
    if (is_debug)
        o.lock = HK_LOCK_OWN;
    hk_heap *heap = structure_for(&o);
    if (heap == NULL)
        return NULL;
    heap->source = (uint8_t)o.source;
    heap->file = o.file;
    heap->is_closed = o.source == HK_SOURCE_BUFFER || o.large_from_source;
    heap->limit = o.limit_bytes;
    heap->at_limit = o.at_limit;
    heap->at_limit_argument = o.at_limit_argument;
    heap->mode = (uint8_t)o.lock;
    heap->name = o.name != NULL ? o.name : "heap";
    heap->alignment = (uint8_t)o.alignment;
    heap->domain = HK_DOMAIN_OBJECT;
    heap->is_debug = is_debug;
    heap->magic = HK_HEAP_LIVE;
    __atomic_fetch_add(&hk_heaps_made, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < HK_CLASSES; i++)
        heap->current[i] = &hk_no_pool;
    if (o.lock == HK_LOCK_THREADS)
        hk_threads_inherit(heap);
    if (o.source == HK_SOURCE_BUFFER) {
        hk_buffer_register(heap);
    } else if (!hk_heap_register(heap)) {
        heap_give_up(heap);
        return NULL;
    }
    return heap;
}

/* Heaps that last as long as the process: somebody came to know one by hk_heap_of. */
static bool is_for_ever(const hk_heap *heap)
{
    return heap->is_domain || heap == hk_process_heap;
}

struct hk_heaps_ended hk_heaps_ended;
uint32_t hk_heaps_made;

static void note_ended(int domain, const hk_heap_stats *stats)
{
    __atomic_fetch_add(&hk_heaps_ended.bytes[domain & 3], stats->allocated_bytes, __ATOMIC_RELAXED);
    __atomic_fetch_add(&hk_heaps_ended.blocks, stats->allocated_blocks, __ATOMIC_RELAXED);
}

void hk_heap_destroy(hk_heap *heap)
{
    char name[96];
    hk_heap_stats stats = {.size = sizeof(stats)};
    if (heap == NULL || !hk_is_heap(heap, "hk_heap_destroy"))
        return;
    if (is_for_ever(heap)) {
        hk_misuse(NULL, "hk_heap_destroy: the %s lasts as long as the process", hk_debug_heap_name(heap, name, sizeof(name)));
        return;
    }
    if (heap->is_debug)
        hk_debug_end(heap);
    int domain = heap->domain;
    if (hk_recorder.tick != NULL)
        hk_heap_get_stats(heap, &stats);
    if (heap->source == HK_SOURCE_BUFFER) {
        hk_buffer_unregister(heap);
        heap_clear(heap);
    } else if (hk_heap_unregister(heap)) {
        heap_give_up(heap);
    }
    note_ended(domain, &stats);
}
