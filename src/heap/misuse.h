/* Misuse of the public functions, as far as it can be seen from a call's arguments. The slow functions look at all of them; the
 * fast paths of hk_malloc and hk_free only at what costs nothing beside them. Without debug mode each misuse has a harmless
 * result (docs/heap.md has them all); in debug mode it is reported, and the process ends. */
#ifndef HK_HEAP_MISUSE_H
#define HK_HEAP_MISUSE_H

#include "heap/pool.h"

/* Reports, in debug mode; otherwise it returns. The format begins with the function's name. pointer: what was given instead of
 * a block; NULL: not said. Locks of heaps may be held. */
void hk_misuse(const void *pointer, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

bool hk_misuse_no_heap(const hk_heap *heap, const char *function); /* says which; returns false */

/* True: it is a heap. It need not be one that is a member of another. */
static inline bool hk_is_heap(const hk_heap *heap, const char *function)
{
    return __builtin_expect(heap != NULL && heap->magic == HK_HEAP_LIVE, 1) || hk_misuse_no_heap(heap, function);
}

/* What text is printed into, as for snprintf: NULL only without room. Returns the room there is. */
static inline size_t hk_capacity_of(const char *buffer, size_t capacity, const char *function)
{
    if (buffer != NULL || capacity == 0)
        return capacity;
    hk_misuse(NULL, "%s: the buffer is NULL", function);
    return 0;
}

/* Options that no heap can be made with. `heap` is not made yet. */
bool hk_options_are_good(const hk_heap_options *given, const hk_heap_options *known);

#endif
