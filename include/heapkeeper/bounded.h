/* heapkeeper/bounded.h: containers with a limit: a dict that is a cache, and a list that remembers the last of what it was given.
 * Read object.h and values.h first.
 *
 * The limit is a number of entries, a number of bytes, or both. It is never exceeded: what has to go is evicted before the new entry
 * comes in, and where there is no memory for the new one nothing is evicted.
 *
 *      hk_object *cache = hk_bounded_dict(runtime, &(hk_bounds){
 *          .size = sizeof(hk_bounds), .max_entries = 1000, .max_bytes = 16 << 20, .evict = HK_EVICT_UNUSED});
 *
 * Keys are hashed and compared as those of dicts. hk_iter (iter.h) goes through keys or items, that to be evicted first first in a
 * dict, in their order in a list; going through is no use. To ask for a used entry is one, and moves it: peek while going
 * through.
 *
 * NULL or false is "no memory", and nothing was changed. */
#ifndef HEAPKEEPER_BOUNDED_H
#define HEAPKEEPER_BOUNDED_H

#include "heapkeeper/object.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    HK_EVICT_OLDEST = 0, /* the entry that came in first; a new value for a key does not make it younger */
    HK_EVICT_UNUSED = 1, /* the one that was least recently put in, given a new value, or asked for. In a list finding it takes
                            time in proportion to its length */
} hk_evict;

/* Told of each entry that is evicted, when it is out of the container; not of what is deleted, popped, cleared, replaced, or dies with
 * the container. All borrowed; key is NULL for a list. While it runs, and while finalizers of evicted entries do, the
 * container can be looked at; changes are refused (false, NULL, nothing). */
typedef void hk_evict_callback(hk_runtime *runtime, hk_object *container, hk_object *key, hk_object *value, void *argument);

/* What an entry counts for; asked once, when it comes in. key is NULL for a list. Must not change anything. */
typedef size_t hk_weigh_function(const hk_object *key, const hk_object *value, void *argument);

typedef struct {
    size_t size;        /* sizeof(hk_bounds) */
    size_t max_entries; /* 0: no limit */
    size_t max_bytes;   /* 0: no limit */
    hk_evict evict;
    hk_evict_callback *callback; /* NULL: nobody is told */
    hk_weigh_function *weigh;    /* NULL: hk_object_memory of key and value (object.h): themselves, and not what they refer to */
    void *argument;              /* of both; borrowed for the container's life */
} hk_bounds;

typedef struct {
    size_t size; /* sizeof(hk_bounded_stats), set by the caller */
    uint64_t entries, bytes; /* now; bytes as weighed */
    uint64_t hits, misses;   /* of get */
    uint64_t evicted;
} hk_bounded_stats;

HK_API extern hk_type hk_bounded_dict_type, hk_bounded_list_type;

HK_API hk_object *hk_bounded_dict(hk_runtime *runtime, const hk_bounds *bounds);
HK_API size_t hk_bounded_dict_count(const hk_object *dict);
/* Borrowed; NULL: not there. get is a use, peek is none. */
HK_API hk_object *hk_bounded_dict_get(hk_object *dict, const hk_object *key);
HK_API hk_object *hk_bounded_dict_peek(const hk_object *dict, const hk_object *key);
/* False also if the entry alone weighs more than max_bytes. */
HK_API bool hk_bounded_dict_set(hk_runtime *runtime, hk_object *dict, hk_object *key, hk_object *value);
HK_API bool hk_bounded_dict_delete(hk_runtime *runtime, hk_object *dict, const hk_object *key); /* false: was not there */

HK_API hk_object *hk_bounded_list(hk_runtime *runtime, const hk_bounds *bounds);
HK_API size_t hk_bounded_list_count(const hk_object *list);
/* Borrowed; NULL: out of range. get is a use, peek is none. */
HK_API hk_object *hk_bounded_list_get(hk_object *list, size_t index);
HK_API hk_object *hk_bounded_list_peek(const hk_object *list, size_t index);
/* False also if the item alone weighs more than max_bytes. */
HK_API bool hk_bounded_list_append(hk_runtime *runtime, hk_object *list, hk_object *item);
/* Takes the item out: the caller's reference. NULL: out of range. */
HK_API hk_object *hk_bounded_list_pop(hk_runtime *runtime, hk_object *list, size_t index);

/* Of both. */
HK_API void hk_bounded_clear(hk_runtime *runtime, hk_object *container);
/* New limits (0: none); what is over them is evicted now. */
HK_API void hk_bounded_limit(hk_runtime *runtime, hk_object *container, size_t max_entries, size_t max_bytes);
HK_API void hk_bounded_get_stats(const hk_object *container, hk_bounded_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
