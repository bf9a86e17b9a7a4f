/* The runtime's structure, shared by the files of this room.
 *
 *      object.c    making objects, memory beside them, the runtime itself
 *      release.c   releasing objects
 *      watch.c     debug mode: where each object came from, and misuse
 *      freelist.c  objects that are kept for reuse
 *      weakref.c   weak references
 *      frame.c     the stack of frames
 *      numbers.c strings.c sequences.c dict.c   the basic types
 *      iter.c adapters.c   iterators over the basic types; those that go through others
 *      bounded.c   a dict and a list with a limit
 *      collect.c   collections: which pools, promotion; the public gc.h
 *      dead.c      what a collection does with the dead
 *      step.c      collections in steps
 *      plan.c      when to collect: a pure function of counters
 *
 * Three heaps under the caller's lock: objects that the collector looks at; acyclic objects; memory beside objects. What is
 * larger than a pool's blocks has a head of its own and is in a list, so that the end of a runtime frees it, too; but for objects that
 * the collector looks at, which are runs of pools then. */
#ifndef HK_OBJECT_RUNTIME_H
#define HK_OBJECT_RUNTIME_H

#include <string.h>

#include "gc/step.h"
#include "heapkeeper/frame.h"
#include "heapkeeper/gc.h"
#include "object/plan.h"

/* hk_object.flags. They must fit into four bits: see pending in object.c. */
enum { HK_FINALIZED = 1, HK_HAS_WEAKREFS = 2, HK_LARGE = 4, HK_INTERNED = 8 };
/* And one that is looked at before: the recorder has to be told when the object is freed. */
#define HK_SAMPLED 16
/* Of an iterator: it is being asked. */
#define HK_RUNNING 32
/* It is one of a runtime in debug mode: its release is looked at. Like the other two it is not kept in pending. */
#define HK_WATCHED 64

/* hk_type.flags, private: destroy has nothing to do for an object without flags of its own. */
#define HK_TYPE_DESTROYS_FLAGGED 0x80000000u

struct hk_large { /* before a large block, which stays 16-aligned */
    struct hk_large *next, *previous;
    bool is_object;
    char unused[15];
};

struct hk_weak_table { /* object -> its weak references; open addressing, a power of two */
    struct hk_weak_entry {
        const hk_object *object;
        struct hk_weakref *first;
    } *entries;
    size_t count, capacity;
};

struct hk_interned { /* strings, borrowed; open addressing, a power of two */
    hk_object **items;
    size_t count, capacity;
};

struct hk_frame_slot { /* see frame.c */
    const void *thread; /* that pushed last; NULL: nobody */
    hk_frame *current;  /* NULL: no frames */
    const void *c_stack; /* where it was pushed */
    bool taken;
};

struct hk_frames {
    struct hk_frame_slot *slot; /* NULL: there was no frame yet */
    struct hk_frame_slot unseen;
    struct hk_frame_chunk *chunk, *spare;
    char *top, *end; /* of the room in the chunk */
    uint64_t depth, limit;
};

#define HK_FREE_LISTS 64

struct hk_free_list { /* see freelist.c */
    hk_object *first;
    const hk_type *type; /* NULL: of none yet */
    uint32_t limit, count;
    size_t keep;
    uint64_t reused, taken, passed;
};

struct hk_releasing { /* a release during which somebody else's code runs; see object.c */
    struct hk_releasing *outer;
    uint64_t chain; /* dead objects */
};

struct hk_runtime {
    hk_heap *cyclic, *acyclic, *memory;
    struct hk_large large; /* head of the list */
    uint64_t run_bytes;    /* of objects that are runs */

    uint32_t depth;   /* of releases */
    uint64_t pending; /* released at that depth and waiting; see object.c */
    struct hk_releasing *releasing; /* the innermost */
    struct hk_weak_table weak;
    struct hk_interned interned;
    struct hk_frames frames;
    struct hk_free_list free_lists[HK_FREE_LISTS]; /* by type->free_list; the first stands for none, and is empty */
    uint32_t iterating; /* iterators that are being asked by each other */
    uint32_t calling;   /* finalizers and callbacks that are running */
    bool visiting;      /* objects are being gone through: none may be made or freed */
    struct hk_watch *watch; /* NULL: not in debug mode */

    bool enabled, collecting, ending;
    bool log_lost; /* a pool could not be noted: the next collection looks at all */
    struct hk_plan plan;
    struct hk_gc_pools young, middle; /* pools with objects of generation 0; of 1 */
    struct hk_gc_pools looked_at;     /* by the collection that is under way */
    hk_gc_stats stats[HK_GENERATIONS];
    struct {
        hk_gc_callback *function;
        void *argument;
    } callbacks[8];
    bool save_all;
    struct hk_gc_array garbage;

    struct hk_gc_step step; /* the round that is under way */
    uint64_t step_estimate; /* of live bytes, at its start */
    hk_gc_step_stats step_stats;
    hk_collection round; /* what its steps have done, for the recorder */
};

/* By the number of a type. */
HK_API extern struct hk_gc_shape hk_shapes[1 << 16];

/* A type is plain if none of its functions is called when an object dies, nor is that kept for reuse. The numbers of the others begin
 * here, so that a look at an object's head tells that nothing but its references and its memory has to go. */
#define HK_NOT_PLAIN 0x8000u

static inline bool hk_object_is_plain(const hk_object *object)
{
    return object->type < HK_NOT_PLAIN && object->flags == 0;
}

#define HK_HEAD_ACYCLIC ((uint64_t)1 << 63) /* of hk_type.head */

void hk_immortals_begin(void); /* numbers.c: they are made, if they were not. Any thread */

/* True: the request is to fail. A test's (test_runtime_faults.c), which has this room compiled once more for itself. */
#ifdef HK_FAULTS
bool hk_fault(void);
#else
static inline bool hk_fault(void)
{
    return false;
}
#endif

extern const struct hk_gc_model hk_native_model;

/* Of a number, to spread its bits. */
static inline uint64_t hk_hash_mix(uint64_t value)
{
    value = (value ^ value >> 32) * 0xd6e8feb86659fd93u;
    return value ^ value >> 32;
}

static inline hk_heap *hk_heap_of_type(const hk_runtime *runtime, const hk_type *type)
{
    return type->flags & HK_TYPE_ACYCLIC ? runtime->acyclic : runtime->cyclic;
}

/* object.c */
hk_object *hk_new_raw(hk_runtime *runtime, hk_type *type, size_t size); /* not zeroed; for types without references */
/* A larger one in its place, or elsewhere, of an acyclic object that is larger than a block; NULL: it is as it was. */
hk_object *hk_object_resize_large(hk_runtime *runtime, hk_object *object, size_t size);
void hk_object_free(hk_runtime *runtime, hk_object *object, const hk_type *type); /* its memory, nothing else */
void hk_object_traverse(const void *object, hk_traversal *visitor);
void hk_object_bury(hk_runtime *runtime, hk_object *object, const hk_type *type); /* destroys it, or keeps it for reuse */
void hk_object_give_back(hk_runtime *runtime, hk_object *object, const hk_type *type); /* its memory, to the heap at once */
/* The recorder forgets it. */
static inline void hk_object_unrecord(hk_object *object)
{
    if (__builtin_expect(object->flags & HK_SAMPLED, 0)) {
        object->flags &= (uint16_t)~HK_SAMPLED;
        hk_recorder.free(object);
    }
}
void hk_zero_behind_head(hk_object *object, size_t size);
typedef void hk_child_function(hk_object *child, void *argument);
void hk_object_each_child(const hk_object *object, hk_child_function *function, void *argument);
/* A chain of plain dead objects, linked through their heads: see object.c. Puts one before it; returns the chain. */
static inline hk_object *hk_object_chain(hk_object *dead, hk_object *chain)
{
    uint64_t head = dead->type | (uint64_t)(uintptr_t)chain << 16;
    memcpy(dead, &head, sizeof(head));
    return dead;
}
void hk_object_release_chain(hk_runtime *runtime, hk_object *chain);
void hk_object_untrack_dead(hk_runtime *runtime); /* those that wait to be freed: they may be in no state to be looked at */
bool hk_object_finalize(hk_runtime *runtime, hk_object *object, const hk_type *type); /* true: it is referred to again */

/* freelist.c */
bool hk_free_list_keep(hk_runtime *runtime, hk_object *object, const hk_type *type); /* false: it is not kept */
hk_object *hk_free_list_take(hk_runtime *runtime, const hk_type *type); /* NULL: there is none */
void hk_free_lists_begin(hk_runtime *runtime);
void hk_free_lists_untrack(const hk_runtime *runtime); /* what is kept is no object */

/* dict.c */
uint32_t hk_dict_version(const hk_object *dict); /* of a dict or set: another one once it has got or lost a key */

/* weakref.c */
/* Clears those to the object, and puts them before the others of the list, which must stay where it is until it is empty. */
struct hk_weakref;
void hk_weakrefs_take(hk_runtime *runtime, hk_object *object, struct hk_weakref **list);
/* Calls the callbacks of a list's, but of weak references that a collection found dead, too; then it is empty. All that die together are
 * to be taken before: no callback finds another one that is dead to be still alive. */
void hk_weakrefs_call(hk_runtime *runtime, struct hk_weakref **list);
void hk_weakrefs_clear(hk_runtime *runtime, hk_object *object); /* both, of one */

/* watch.c: in debug mode. Each reports what it finds, which ends the process. */
void hk_watch_begin(hk_runtime *runtime); /* if its heaps are in debug mode */
void hk_watch_end(hk_runtime *runtime);   /* a last check; what is dead is freed */
void hk_watch_over(hk_runtime *runtime);
void hk_watch_enter(hk_runtime *runtime, const char *function); /* may it be called now, by this thread? */
void hk_watch_made(hk_runtime *runtime, hk_object *object, const hk_type *type, size_t size);
void hk_watch_release(hk_runtime *runtime, hk_object *object); /* its last reference is gone */
void hk_watch_bury(hk_runtime *runtime, hk_object *object, const hk_type *type); /* dead: its memory waits */
void hk_watch_untrack(const hk_runtime *runtime); /* what waits is no object */
void hk_watch_check(hk_runtime *runtime, bool at_end);
void hk_watch_let_go(hk_runtime *runtime); /* what is dead and waits; for tests that count blocks */
void hk_watch_misuse(const hk_runtime *runtime, const char *what); /* returns if the runtime is not in debug mode */

/* weakref.c */
bool hk_is_weakref(const hk_object *object);

/* frame.c */
void hk_frames_end(struct hk_frames *frames);

/* dead.c: in this order. */
struct hk_dead {
    uint64_t count;
    struct hk_gc_array special; /* those that have more to them than memory; all, if there are finalizers to run or `all` */
    bool finalizers, is_all;
    bool closed; /* all are plain, and refer to each other only */
};
bool hk_dead_survey(const struct hk_gc_pools *pools, const struct hk_gc_found *found, bool all, struct hk_dead *dead); /* false: no memory */
uint64_t hk_dead_prepare(hk_runtime *runtime, struct hk_dead *dead); /* weak references, finalizers; returns how many live on */
void hk_dead_live_on(struct hk_gc_array *all); /* none of them is dead after all */
void hk_dead_bury(hk_runtime *runtime, const struct hk_gc_pools *pools, struct hk_dead *dead);

/* step.c */
void hk_step_tell(hk_runtime *runtime); /* the recorder: of what was done since it was told last */
void hk_step_trim(hk_runtime *runtime); /* gives back what its tables take, unless a round is under way */

/* collect.c */
void hk_collect_automatic(hk_runtime *runtime);
void hk_collect_tell(const hk_collection *collection); /* the recorder, if there is one */
void hk_collect_made(hk_runtime *runtime, hk_object *object); /* it is one of generation 0, whichever pool it lies in */
void hk_collect_untrack(hk_runtime *runtime); /* blocks that are allocated and no objects: they were noted with the rest of their pools */
bool hk_collect_pools(const hk_runtime *runtime, struct hk_gc_pools *pools); /* adds all with objects in them; false: no memory */
uint64_t hk_collect_other_bytes(const hk_runtime *runtime); /* beside the objects that are tracked */
void hk_collect_save(hk_runtime *runtime, struct hk_dead *dead); /* to the garbage that is kept */
void hk_collect_begin_runtime(hk_runtime *runtime);
void hk_collect_end_runtime(hk_runtime *runtime);

#endif
