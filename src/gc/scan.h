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

/* Where an object of a type has its references: `count` places one after the other, from the first on, and the scattered ones, all
 * in units of 8 bytes from its start. */
struct hk_gc_shape {
    uint64_t scattered; /* bit i: the i-th 8 bytes are one */
    uint8_t first, count;
    bool traversed; /* there are more, for a function to name */
    bool plain;     /* one without flags only has to be freed when it is dead */
    bool cyclic;    /* for the model's own use */
};

struct hk_gc_model {
    const struct hk_gc_shape *shapes; /* by the number in an object's head, which is an hk_object */
    void (*traverse)(const void *object, hk_traversal *visitor); /* names the references that no shape says */
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

struct hk_gc_found {
    uint64_t candidates, white;
    uint64_t candidate_bytes, white_bytes; /* of their blocks */
    bool all_plain; /* by shapes; of the candidates */
    bool closed;    /* what is white refers to nothing but what is white */
};

/* Of the objects in these pools up to the generation, leaves the white bits of those set that no reference from outside keeps
 * alive. False: no memory, and nothing is white. */
bool hk_gc_scan(const struct hk_gc_model *model, const struct hk_gc_pools *pools, int generation, struct hk_gc_found *found);

/* Of the objects in `found` (their white bits set), takes out those that a reference from outside of it reaches; clears their
 * white bits, too. The order of the rest is kept. Returns how many; -1: no memory, nothing was changed but that all are
 * white. */
int64_t hk_gc_scan_again(const struct hk_gc_model *model, struct hk_gc_array *found);

/* Those of the tracked objects that a scan up to this generation looks at. */
uint64_t hk_gc_candidates(size_t word, int generation);

/* During a collection: the object was found. Anything may be asked about. */
static inline bool hk_gc_is_white(const void *object)
{
    size_t granule = hk_granule_of(object);
    return hk_region_has(object) && (hk_gc_tables.white[granule / 64] & hk_bit_of(granule)) != 0;
}

/* The white objects, one after another, in the order of their addresses or of the array. */
struct hk_gc_whites {
    const struct hk_gc_pools *pools; /* NULL: */
    const struct hk_gc_array *objects;
    size_t next, word, end; /* begin as 0 */
    uint64_t bits;
};

void *hk_gc_whites_next(struct hk_gc_whites *whites); /* NULL: that was the last */

/* Nothing in the pools is white. */
void hk_gc_blacken(const struct hk_gc_pools *pools);

#endif
