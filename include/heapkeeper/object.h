/* heapkeeper/object.h: reference-counted objects with cycles collected, for any C program.
 *
 *   runtime   one isolate: a private heap, its objects and their collector. Any number in a process, each used by one
 *             thread at a time; objects never cross
 *   object    a block that begins with an hk_object: the number of references to it, and its type
 *   type      a static table that says how large its objects are, where their references stand, and what is
 *             to be done when one dies. The names are CPython's (tp_traverse, tp_clear, tp_finalize, tp_dealloc)
 *
 * References. A *new* reference is the caller's, who must give it up with hk_decref; a *borrowed* one is somebody
 * else's, and good as long as that one keeps it. Functions return new references and borrow their arguments, unless they
 * say otherwise. An object dies with its last reference, at once; those that only refer to each other are found by
 * the collector (gc.h).
 *
 * How an object dies:
 *   1. finalize, once in its life, with the object whole: it may be saved by a new reference to it (PEP 442)
 *   2. weak references to it are cleared, and their callbacks called
 *   3. its references are given up: clear, or if the type has none, all that `pointers` and `traverse` name
 *   4. destroy: what it holds besides references (buffers, files). Its references are gone, and may not be looked at:
 *      of a garbage cycle the others may be gone already
 *   5. its memory is freed
 * However long a chain of objects is, releasing it takes a bounded amount of C stack, and no memory.
 *
 * Sizes are bytes. NULL means "no memory" and nothing was changed. Functions are to be called by the thread that uses the
 * runtime, and not inside an allocation hook of its heaps. */
#ifndef HEAPKEEPER_OBJECT_H
#define HEAPKEEPER_OBJECT_H

#include "heapkeeper/heap.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hk_runtime hk_runtime;

/* The head of every object: 8 bytes. */
typedef struct hk_object {
    uint32_t references; /* from HK_IMMORTAL on: never changes, never dies */
    uint16_t type;       /* hk_type.number */
    uint16_t flags;      /* private */
} hk_object;

#define HK_IMMORTAL 0x80000000u /* as PEP 683 */

/* What a traverse function hands the object's references to; private but for hk_visit. */
typedef struct hk_traversal {
    hk_object **next, **end;
    void (*full)(struct hk_traversal *visitor); /* makes room */
} hk_traversal;

static inline void hk_visit(hk_traversal *visitor, const hk_object *child)
{
    if (child == NULL)
        return;
    if (visitor->next == visitor->end)
        visitor->full(visitor);
    *visitor->next++ = (hk_object *)child;
}

enum {
    HK_TYPE_ACYCLIC = 1, /* its objects can be no part of a cycle (they refer to nothing, or to acyclic ones only): they cost
                            the collector nothing */
    HK_TYPE_FREE_LIST = 2, /* its objects can be kept for reuse when they die: hk_free_list_set. For types without items */
};

/* A type. Static and constant but for what is private; every field may be 0 but name and size. */
typedef struct hk_type {
    const char *name;
    uint32_t size;      /* of an object; of one with items, without them */
    uint32_t item_size; /* of an item; 0: no items. See hk_new_items */
    uint32_t flags;
    uint32_t number;    /* private, as the next two: given at first use */
    uint32_t free_list;
    uint64_t head;
    uint64_t pointers;  /* bit i: the i-th 8 bytes of the object are an owned reference or NULL. Bit 0 is the head's */
    /* Hands further owned references to the visitor. Must not change anything, allocate, or fail. A reference that is owned
     * and not named here is taken for one from outside: what it keeps alive is never collected. */
    void (*traverse)(const hk_object *self, hk_traversal *visitor);
    void (*clear)(hk_runtime *runtime, hk_object *self);
    void (*finalize)(hk_runtime *runtime, hk_object *self);
    void (*destroy)(hk_runtime *runtime, hk_object *self);
    /* As keys of dicts and members of sets; NULL: by identity. Equal objects have equal hashes. `other` is of the same type. They
     * must not change anything. */
    uint64_t (*hash)(const hk_object *self);
    bool (*equal)(const hk_object *self, const hk_object *other);
    /* To be gone through (iter.h). iterate: of what is no iterator itself; returns a new one. next: of an iterator; returns HK_ITER_ITEM
     * with a new reference, HK_ITER_END or HK_ITER_ERROR. copy: as hk_iter_copy; NULL: there are no copies. */
    hk_object *(*iterate)(hk_runtime *runtime, hk_object *self);
    int (*next)(hk_runtime *runtime, hk_object *self, hk_object **item);
    int (*copy)(hk_runtime *runtime, hk_object *self, hk_object **copy);
    size_t (*memory)(const hk_object *self); /* bytes of what it has beside its block, for hk_object_memory; NULL: nothing */
    /* Called instead of destroy, when the object goes to its free list: makes it what a new one is, but may leave it with memory
     * beside it of up to `keep` bytes. NULL: destroy it, and zero when it is used again. */
    void (*reset)(hk_runtime *runtime, hk_object *self, size_t keep);
} hk_type;

typedef struct {
    size_t size;      /* sizeof(hk_runtime_options) */
    const char *name; /* borrowed; in statistics; NULL: "runtime" */
    bool manual_gc;   /* the collector runs only when it is called */
    int debug;        /* HK_DEBUG_..., heap.h: debug mode, docs/debug.md; read if `size` says that it is there */
} hk_runtime_options;

/* options NULL: the defaults. Any thread; another one may use the runtime later, if they agree on when. The process's first one has glibc's
 * malloc expect blocks of up to 4 MiB that come and go, as tables do: it may then keep 8 MiB at the end of its heap. NULL: no memory. */
HK_API hk_runtime *hk_runtime_create(const hk_runtime_options *options);
/* Finalizes what is left (each object that has not been, in no particular order), then frees everything in one step. Called by a
 * function that the runtime is calling (finalizer, callback, destroy, traverse) it does nothing. */
HK_API void hk_runtime_destroy(hk_runtime *runtime);

/* Debug mode: looks at all objects, dead ones that are kept for it included; what is found is reported and ends the process. A full
 * collection and hk_runtime_destroy do it, too. Without debug mode, and inside a finalizer or callback: nothing. */
HK_API void hk_runtime_check(hk_runtime *runtime);

/* A new object, zero behind its head, with one reference: the caller's. May run the collector first, and so finalizers. NULL also
 * if there are too many types: see hk_type_ready. */
HK_API hk_object *hk_new(hk_runtime *runtime, hk_type *type);
/* The same with `count` items behind hk_type.size bytes. The type must keep the count itself, before anything
 * can traverse the object. Objects may be of any size; of those that are larger than 4 KiB, each whose type is not acyclic takes a
 * multiple of 16 KiB. */
HK_API hk_object *hk_new_items(hk_runtime *runtime, hk_type *type, size_t count);

/* Gives the type its number; the first hk_new does it otherwise. For types with static immortal objects. False: there are 32 767 without
 * any of the functions that are called when an object dies and without HK_TYPE_FREE_LIST, or 32 768 others. */
HK_API bool hk_type_ready(hk_type *type);

/* The type of an object; borrowed, for ever. */
HK_API extern hk_type *hk_types[1 << 16];

static inline hk_type *hk_type_of(const hk_object *object)
{
    return hk_types[object->type];
}

HK_API uint64_t hk_hash(const hk_object *object);
/* Objects of different types are not equal, but for numbers: 1 is 1.0. */
HK_API bool hk_equal(const hk_object *a, const hk_object *b);

/* Free lists. A runtime keeps some of a type's objects that have died, and a new one is one of those. What is gained is what
 * reset leaves: a list or dict that is used again has its memory already. 63 types can have one; of the basic types list, dict and
 * set do. A full collection gives back all that is kept. In debug mode nothing is. Statistics of the
 * heap count a kept object as allocated. */
typedef struct {
    size_t size; /* sizeof(hk_free_list_stats), set by the caller */
    uint32_t limit, kept;   /* objects */
    size_t keep_bytes;      /* of memory beside each, at most */
    uint64_t reused;        /* new objects that came from it */
    uint64_t taken, passed; /* dead ones that it took; that it passed on, being full */
} hk_free_list_stats;

/* limit: how many it keeps (0: none); keep_bytes: how much memory each may have beside it. What is over the limit is given back
 * now. False: the type is not HK_TYPE_FREE_LIST, or 63 others are. */
HK_API bool hk_free_list_set(hk_runtime *runtime, hk_type *type, uint32_t limit, size_t keep_bytes);
HK_API void hk_free_list_get_stats(const hk_runtime *runtime, const hk_type *type, hk_free_list_stats *stats);
/* Gives back all that is kept, of all types; returns how many objects. */
HK_API size_t hk_free_lists_trim(hk_runtime *runtime);

/* Bytes of the object's block, and of the memory that it has beside it; not of what it refers to. */
HK_API size_t hk_object_memory(const hk_object *object);

/* Memory beside objects, of the runtime's heap: for buffers that destroy frees. As malloc, realloc and free. */
HK_API void *hk_memory(hk_runtime *runtime, size_t size);
HK_API void *hk_memory_resize(hk_runtime *runtime, void *memory, size_t size);
HK_API void hk_memory_free(hk_runtime *runtime, void *memory);

/* References. */
HK_API void hk_release(hk_runtime *runtime, hk_object *object); /* private: the last reference is gone */

static inline bool hk_is_immortal(const hk_object *object)
{
    return object->references >= HK_IMMORTAL;
}

/* Returns the object, with one reference more. */
static inline hk_object *hk_incref(hk_object *object)
{
    if (!hk_is_immortal(object))
        object->references++; /* 2^31 of them make it immortal */
    return object;
}

static inline void hk_decref(hk_runtime *runtime, hk_object *object)
{
    if (!hk_is_immortal(object) && --object->references == 0)
        hk_release(runtime, object);
}

static inline void hk_xdecref(hk_runtime *runtime, hk_object *object)
{
    if (object != NULL)
        hk_decref(runtime, object);
}

/* Puts `reference` (taken over; may be NULL) in the place, and gives up the one that was there: afterwards, since that may run
 * a finalizer, which may look here. */
static inline void hk_set(hk_runtime *runtime, hk_object **place, hk_object *reference)
{
    hk_object *before = *place;
    *place = reference;
    hk_xdecref(runtime, before);
}

#define HK_CLEAR(runtime, place) hk_set(runtime, &(place), NULL)

/* The object lives as long as the runtime, and costs no counting from here on. */
HK_API void hk_make_immortal(hk_runtime *runtime, hk_object *object);

/* Weak references. The callback is called once, when the object dies and the weak reference itself does not with it; it gets
 * the argument, and must not use the object. A weak reference is an object of its own (new reference). */
typedef void hk_weakref_callback(hk_runtime *runtime, hk_object *weakref, void *argument);
HK_API hk_object *hk_weakref_new(hk_runtime *runtime, hk_object *object, hk_weakref_callback *callback, void *argument);
/* A new reference to what it refers to; NULL: that is dead. */
HK_API hk_object *hk_weakref_get(hk_object *weakref);
HK_API size_t hk_weakref_count(hk_runtime *runtime, const hk_object *object);

#ifdef __cplusplus
}
#endif
#endif
