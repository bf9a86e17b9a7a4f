/* malloc and its family where somebody wants to know of each call: what the others do on the thread's own member, and
 *
 *      a thread that is counted (struct hk_counted in heap/threads.h)    what it came to
 *      every block is recorded (struct hk_family_recorder)               a call of the recorder, in all threads
 *
 * A thread that nobody counts any more goes back to its member here, at its next call.
 *
 * Between the calls of a thread its counters are its own; a signal handler that interrupts one may be counted wrongly. */
#include <malloc.h>

#include "hosts/malloc/family.h"

/* NULL: not any more. */
static struct hk_counted *counters(void)
{
    if (__builtin_expect(hk_process_member != &hk_counted_member, 1))
        return NULL;
    struct hk_counted *counted = hk_counted_here();
    if (__builtin_expect(counted == NULL, 0)) {
        hk_process_member = &hk_no_member; /* until it is found again */
        hk_threads_known(hk_process_heap);
    }
    return counted;
}

static inline void *born(void *block, size_t size)
{
    if (__builtin_expect(block == NULL, 0))
        return NULL;
    if (hk_family_recorder.born != NULL)
        hk_family_recorder.born(block, size);
    struct hk_counted *counted = counters();
    if (counted != NULL) {
        counted->allocated += malloc_usable_size(block);
        counted->blocks++;
    }
    return block;
}

void *hk_family_count_malloc(size_t size)
{
    hk_heap *member = hk_threads_member(hk_process_heap);
    return born(hk_member_malloc(member != NULL ? member : &hk_no_member, size), size);
}

void *hk_family_count_calloc(size_t count, size_t size)
{
    hk_heap *member = hk_threads_member(hk_process_heap);
    void *block = member != NULL ? hk_calloc_unlocked(member, count, size) : hk_calloc(hk_process_heap, count, size);
    return born(block, count * size);
}

void *hk_family_count_aligned(size_t alignment, size_t size)
{
    return born(hk_aligned_any(hk_process_heap, alignment, size), size);
}

static void *reallocate(void *block, size_t size)
{
    return hk_realloc(hk_process_heap, block, size);
}

void *hk_family_count_realloc(void *block, size_t size)
{
    size_t had = hk_process_member == &hk_counted_member ? malloc_usable_size(block) : 0;
    void *moved = hk_family_recorder.born != NULL ? hk_family_recorder.moves(reallocate, block, size) : reallocate(block, size);
    struct hk_counted *counted = moved != NULL ? counters() : NULL;
    if (counted == NULL)
        return moved;
    size_t has = malloc_usable_size(moved);
    if (has < had) {
        counted->freed += had - has;
    } else if (has > had || moved != block) {
        counted->allocated += has;
        counted->blocks++;
        counted->freed += had;
        counted->freed_blocks++;
    }
    return moved;
}

void hk_family_count_free(void *block)
{
    struct hk_counted *counted = counters();
    if (counted != NULL) {
        counted->freed += malloc_usable_size(block);
        counted->freed_blocks++;
    }
    if (hk_family_recorder.born != NULL && hk_region_has(block))
        hk_family_recorder.dies(block);
    hk_heap *member = hk_threads_member(hk_process_heap);
    hk_member_free(member != NULL ? member : &hk_no_member, block);
}
