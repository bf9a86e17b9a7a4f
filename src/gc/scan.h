/* Finding garbage: trial deletion over the objects of a heap, given as pools, through an object model.
 *
 * A scan reads objects and writes tables (tables.h), never objects. It makes its memory by mapping, for the mark stack and
 * the result; where that fails it gives up, and nothing was changed.
 *
 * The object model is what the scan has to know of objects: how many references there are to one, and which it holds. */
#ifndef HK_GC_SCAN_H
#define HK_GC_SCAN_H

#include "gc/tables.h"
#include "heapkeeper/object.h"

struct hk_gc_model {
    void (*traverse)(const void *object, hk_traversal *visitor);
    uint32_t (*count)(const void *object); /* of references; UINT32_MAX: it cannot die */
};

/* A growing array in mapped memory. */
struct hk_gc_array {
    void **items;
    size_t count, capacity;
};

bool hk_gc_array_push(struct hk_gc_array *array, void *item);
void hk_gc_array_free(struct hk_gc_array *array);

/* Numbers of pools, each once. */
struct hk_gc_pools {
    uint32_t *items;
    size_t count, capacity;
};

bool hk_gc_pools_push(struct hk_gc_pools *pools, uint32_t pool);
void hk_gc_pools_free(struct hk_gc_pools *pools);

/* Of the objects in these pools up to the generation, puts those that no reference from outside keeps alive into `found`;
 * their white bits stay set. *candidates: how many were looked at. False: no memory. */
bool hk_gc_scan(const struct hk_gc_model *model, const struct hk_gc_pools *pools, int generation,
                struct hk_gc_array *found, uint64_t *candidates);

/* Of the objects in `found` (their white bits set), takes out those that a reference from outside of it reaches; clears their
 * white bits, too. The order of the rest is kept. Returns how many; -1: no memory, nothing was changed but that all are
 * white. */
int64_t hk_gc_scan_again(const struct hk_gc_model *model, struct hk_gc_array *found);

/* Those of the tracked objects that a scan up to this generation looks at. */
uint64_t hk_gc_candidates(const struct hk_gc_word *word, int generation);

/* During a collection: the object was found. Anything may be asked about. */
bool hk_gc_is_white(const void *object);

#endif
