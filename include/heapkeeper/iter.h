/* heapkeeper/iter.h: lazy iterators. Read object.h and values.h first.
 *
 * An iterator is an object that is asked for one item after another. It makes an item when it is asked for it and keeps none,
 * so a chain of iterators over ten million items holds as much memory as one over ten: some 64 bytes an iterator.
 *
 *      hk_object *numbers = hk_iter_range(runtime, 0, 10000000, 1);
 *      hk_object *squares = hk_iter_map(runtime, square, NULL, numbers), *item;
 *      int got;
 *      while ((got = hk_iter_next(runtime, squares, &item)) == HK_ITER_ITEM) {
 *          ...
 *          hk_decref(runtime, item);
 *      }
 *      // HK_ITER_END: that was all; HK_ITER_ERROR: not
 *
 * The protocol: hk_iter makes an iterator of anything that can be gone through, hk_iter_next gives the next item, and hk_iter_copy
 * makes a second iterator that goes on from the same place. A type takes part by its functions `iterate`, `next`
 * and `copy` (object.h); these here are made the same way, so the program's own and these can be mixed.
 *
 * The functions borrow their arguments and return new references. NULL is "no memory" or, where something is to be gone through that
 * cannot be, that. An iterator keeps what it goes through alive, and lets it go when it has come to its end; from there
 * on it is at its end for good. */
#ifndef HEAPKEEPER_ITER_H
#define HEAPKEEPER_ITER_H

#include "heapkeeper/object.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HK_ITER_ERROR = -1, /* no memory; a function said so; what it goes through was changed; see hk_iter_next */
    HK_ITER_END = 0,
    HK_ITER_ITEM = 1,
};

/* Iterators may go through each other this deep; a limit for the C stack's sake. */
#define HK_ITER_DEPTH 1000

/* An iterator over the items of a list or tuple, the keys of a dict, the members of a set, the code points of a str (as strs), the
 * bytes of a bytes (as ints), or whatever `iterate` of its type makes. An iterator is its own: itself is
 * returned. */
HK_API hk_object *hk_iter(hk_runtime *runtime, hk_object *iterable);
/* An iterator over a dict's (key, value) tuples. */
HK_API hk_object *hk_iter_items(hk_runtime *runtime, hk_object *dict);

/* HK_ITER_ITEM: *item is a new reference. HK_ITER_END and HK_ITER_ERROR: it is NULL. After an error the iterator can be asked again
 * and goes on; an item that was on its way is lost then, unless it was a container's or a range's. An error is also: the object is
 * no iterator; it is asked from inside of its own `next`; iterators are HK_ITER_DEPTH deep; a dict or set has got or
 * lost a key since the iterator was made. A list may grow and shrink meanwhile: its items are counted off by index. */
HK_API int hk_iter_next(hk_runtime *runtime, hk_object *iterator, hk_object **item);

/* HK_ITER_ITEM: *copy is a second iterator that will give what this one would; functions are called again for it. HK_ITER_END: of
 * this one, or of one that it goes through, there is no copy. */
HK_API int hk_iter_copy(hk_runtime *runtime, hk_object *iterator, hk_object **copy);

/* What is left, as a new list. */
HK_API hk_object *hk_iter_list(hk_runtime *runtime, hk_object *iterable);

/* start, start + step, ... as long as below stop; if step is negative, above it. step 0: NULL. */
HK_API hk_object *hk_iter_range(hk_runtime *runtime, int64_t start, int64_t stop, int64_t step);

/* What a function gives for each item. item and closure are borrowed; the function returns a new reference, or NULL: an error. The
 * closure, which may be NULL, is owned by the iterator, so that what it refers to is seen by the collector. A function must
 * return (no longjmp). */
typedef hk_object *hk_iter_function(hk_runtime *runtime, hk_object *item, hk_object *closure);
HK_API hk_object *hk_iter_map(hk_runtime *runtime, hk_iter_function *function, hk_object *closure, hk_object *iterable);

/* The items for which the predicate returns 1. 0: it is left out. -1: an error. */
typedef int hk_iter_predicate(hk_runtime *runtime, hk_object *item, hk_object *closure);
HK_API hk_object *hk_iter_filter(hk_runtime *runtime, hk_iter_predicate *predicate, hk_object *closure, hk_object *iterable);

/* One after another, the items of each of the iterables in `iterables`. If that is no list or tuple, they are asked for one by one
 * as it gets there, and there are no copies. */
HK_API hk_object *hk_iter_chain(hk_runtime *runtime, hk_object *iterables);

/* Of the items number start, start + step, ... below stop (SIZE_MAX: no end), counted from where the iterable is. It takes no item
 * behind the last one that it gives. step 0: NULL. */
HK_API hk_object *hk_iter_slice(hk_runtime *runtime, hk_object *iterable, size_t start, size_t stop, size_t step);

/* Tuples of the next item of each iterable in the list or tuple `iterables`, until one of them ends. None: ends at once. */
HK_API hk_object *hk_iter_zip(hk_runtime *runtime, hk_object *iterables);

/* (number, item) tuples; numbers from `first` on. */
HK_API hk_object *hk_iter_enumerate(hk_runtime *runtime, hk_object *iterable, int64_t first);

/* Tuples of an item of each iterable in the list or tuple `iterables`, in all combinations; the last one changes fastest. The first
 * is gone through once. The others are gone through again and again: a container by a new iterator, an iterator by copies of it,
 * and one of which there is no copy is put into a list now. No iterables: one empty tuple. */
HK_API hk_object *hk_iter_product(hk_runtime *runtime, hk_object *iterables);

/* (key, group) tuples for each run of neighbours whose keys are equal. function: gives an item's key; NULL: the item itself. The
 * group is an iterator over the run. It draws from the same source: going on to the next group ends it. No copies. */
HK_API hk_object *hk_iter_group(hk_runtime *runtime, hk_iter_function *function, hk_object *closure, hk_object *iterable);

#ifdef __cplusplus
}
#endif
#endif
