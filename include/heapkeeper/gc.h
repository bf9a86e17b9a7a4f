/* heapkeeper/gc.h: the collector of a runtime's cycles. Read object.h first.
 *
 * Which objects are garbage is found as CPython finds it, by trial deletion (Modules/gcmodule.c): of a set of candidates,
 * those whose references all come from other candidates, and that no candidate with a reference from outside
 * reaches. It needs no list of roots and no barriers. What it knows about an object lies beside the heap, so a collection
 * writes to no object that stays alive: the pages that a forked child shares stay shared.
 *
 * Generations. An object is born into generation 0; what a collection of its generation leaves alive goes to the next, up to 2.
 *   young (0, 1)  start when as many objects more were made than died as the threshold says. A generation that yields
 *                 next to nothing is looked at less often, one that yields much more often
 *   full (2)      starts when the runtime's live bytes have grown by `growth` percent since the last one. So the
 *                 collector's whole work is linear in what a program allocates, and the heap never holds more than
 *                 (1 + growth) times what survived, plus the young
 *
 * Pauses. A full collection takes some 30 to 100 ns for each object of the heap. Young ones that yield little wait until they are
 * worth it, so that one may be as long as half a full one. Who wants short pauses collects in steps (hk_gc_step): beside these
 * young collections begin at their threshold.
 *
 * The order of a collection: candidates, unreachable set, all weak references to it cleared (then callbacks of weak references from
 * outside called), finalizers, once each; if there was one, what it saved is found by a second look at the set alone;
 * then the dead are freed together.
 *
 * Functions are to be called by the thread that uses the runtime. */
#ifndef HEAPKEEPER_GC_H
#define HEAPKEEPER_GC_H

#include "heapkeeper/object.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HK_GENERATIONS 3

/* Automatic collections; they are on unless the runtime was made with manual_gc. */
HK_API void hk_gc_enable(hk_runtime *runtime);
HK_API void hk_gc_disable(hk_runtime *runtime);
HK_API bool hk_gc_is_enabled(const hk_runtime *runtime);

/* Collects this generation (0, 1 or 2) and the younger ones. Returns the number of unreachable objects found; 0 if called from
 * inside a collection; -1: no memory for it, and nothing was done. */
HK_API int64_t hk_gc_collect(hk_runtime *runtime, int generation);

/* In steps. Collects for about so many microseconds of wall time, and goes on from there in the next call; the program runs between.
 * A round begins with all objects of then, and when it ends, all of them that were garbage then are freed: what becomes
 * garbage meanwhile, in the next round. Returns 1: a round has ended with this step; 0: there is more to do, or it was called
 * from inside a collection or a release; -1: no memory, and the round is given up.
 *
 * What cannot be cut into pieces may take longer. A strongly connected component that looks dead is checked once more, exactly,
 * and freed, in one piece: that is what makes it safe without a barrier, and is bounded by the component's size, which hk_gc_step_stats
 * reports; what only it kept alive is released with it, as by any last reference. So are the references of a single object
 * looked at, of a list of a million all. Everything else is cut at some microseconds.
 *
 * Components die one by one, those first that others do not refer to: a finalizer runs while what its object refers to is whole, and weak
 * references to that are not cleared yet. Callbacks (hk_gc_add_callback) are not told of steps. Other collections may come between: young
 * ones should; a full one starts by itself only if the heap grows faster than rounds come. */
HK_API int hk_gc_step(hk_runtime *runtime, uint32_t microseconds);

typedef struct {
    size_t size; /* sizeof(hk_gc_step_stats), set by the caller */
    uint64_t steps, rounds;
    uint64_t checked, freed, resurrected; /* objects: that looked dead, that were; resurrected: by finalizers */
    uint64_t largest_component;           /* of those that were checked: objects */
    uint64_t nanoseconds, longest_nanoseconds, longest_check_nanoseconds; /* of steps; of the check of a component, or several small ones */
} hk_gc_step_stats;
HK_API void hk_gc_get_step_stats(const hk_runtime *runtime, hk_gc_step_stats *stats);

/* threshold: objects (generation 0), or collections of the generation before (1); 0: never by itself. */
HK_API void hk_gc_set_threshold(hk_runtime *runtime, int generation, uint32_t threshold);
HK_API uint32_t hk_gc_get_threshold(const hk_runtime *runtime, int generation);
/* percent: of live bytes after the last full collection; 75 unless set; 0: no full collection by itself. */
HK_API void hk_gc_set_growth(hk_runtime *runtime, uint32_t percent);
HK_API uint32_t hk_gc_get_growth(const hk_runtime *runtime);
/* What is compared with the thresholds. */
HK_API uint32_t hk_gc_get_count(const hk_runtime *runtime, int generation);

typedef struct {
    uint64_t collections, candidates, collected, resurrected;
    uint64_t nanoseconds, longest_nanoseconds; /* of wall time */
} hk_gc_stats;
/* Of a number that is no generation: zeroes. */
HK_API void hk_gc_get_stats(const hk_runtime *runtime, int generation, hk_gc_stats *stats);

/* Called at the beginning and the end of each collection. At the end `found` is what hk_gc_collect returns. At most 8. */
typedef void hk_gc_callback(hk_runtime *runtime, bool begins, int generation, uint64_t found, void *argument);
HK_API bool hk_gc_add_callback(hk_runtime *runtime, hk_gc_callback *callback, void *argument);
HK_API bool hk_gc_remove_callback(hk_runtime *runtime, hk_gc_callback *callback, void *argument);

/* All objects of now go where no collection looks, until unfreeze brings them to generation 2. */
HK_API void hk_gc_freeze(hk_runtime *runtime);
HK_API void hk_gc_unfreeze(hk_runtime *runtime);
HK_API uint64_t hk_gc_frozen_count(const hk_runtime *runtime);

HK_API bool hk_gc_is_tracked(const hk_runtime *runtime, const hk_object *object);
HK_API bool hk_gc_is_finalized(const hk_object *object);

/* Calls the function for each tracked object of the generation (-1: of all; another number: none) until it returns false. Borrowed;
 * the function must not make or free objects. Called inside a collection it leaves out what that has found dead. */
typedef bool hk_gc_object_function(hk_object *object, void *argument);
HK_API void hk_gc_get_objects(hk_runtime *runtime, int generation, hk_gc_object_function *function, void *argument);
/* The same for the tracked objects that refer to the target, and for those that an object refers to. (Frames that hold it:
 * hk_frame_get_referrers, frame.h.) */
HK_API void hk_gc_get_referrers(hk_runtime *runtime, const hk_object *target, hk_gc_object_function *function, void *argument);
HK_API void hk_gc_get_referents(hk_runtime *runtime, const hk_object *object, hk_gc_object_function *function, void *argument);

/* With save_all, what is found is kept (a new reference each, after its finalizer) instead of freed, and is handed to the function
 * by hk_gc_garbage; clear then gives it up. For finding out why there are cycles. */
HK_API void hk_gc_set_save_all(hk_runtime *runtime, bool save_all);
HK_API void hk_gc_garbage(hk_runtime *runtime, hk_gc_object_function *function, void *argument);
HK_API void hk_gc_garbage_clear(hk_runtime *runtime);

#ifdef __cplusplus
}
#endif
#endif
