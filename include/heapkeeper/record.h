/* heapkeeper/record.h: what a program may say to the recorder it runs under.
 *
 * The recorder writes a capture file (docs/capture.md) while the program runs; `heapkeeper report` reads it. Without
 * one (the program was not started by `heapkeeper run`, or with --no-record) these functions do nothing. Any thread. */
#ifndef HEAPKEEPER_RECORD_H
#define HEAPKEEPER_RECORD_H

#include "heapkeeper/heap.h"

#ifdef __cplusplus
extern "C" {
#endif

/* True while allocations are being recorded. hook: yes. */
HK_API bool hk_recording(void);

/* Puts a point with this name on the timeline, with every figure of this moment. name: copied; NULL: without one.
 * Returns the bytes requested from all heaps since the start as the point has them, 0 if nothing is recorded.
 * hook: yes. */
HK_API uint64_t hk_mark(const char *name);

/* A stretch of what this thread does, from here to hk_span_end, with the time, the live bytes and the resident size of both moments;
 * `heapkeeper plot` draws it. name: copied, 63 bytes of it; NULL: "". Returns what is to be given to hk_span_end, by whichever thread, once;
 * 0 if nothing is recorded. At most so many are kept as fit (docs/capture.md), the longest. In the child of a fork those of its
 * parent are unknown. hook: yes. */
HK_API uint64_t hk_span_begin(const char *name);
HK_API void hk_span_end(uint64_t span); /* 0, and what is unknown or has ended: nothing. hook: yes */

/* A collection of cycles that has ended, by whatever collector the program has. A runtime's (gc.h) are told by themselves. */
typedef enum {
    HK_COLLECTION_OTHER,
    HK_COLLECTION_YOUNG,    /* many young objects */
    HK_COLLECTION_GROWTH,   /* the heap had grown */
    HK_COLLECTION_EXPLICIT, /* the program asked for it */
    HK_COLLECTION_STEPS,    /* a round of steps, between which the program ran */
} hk_collection_cause;

typedef struct {
    size_t size;         /* sizeof(hk_collection), set by the caller */
    uint32_t generation; /* 0 is the youngest; 3 and above are one */
    hk_collection_cause cause;
    uint64_t nanoseconds;         /* that it took */
    uint64_t longest_nanoseconds; /* for which the program stood still at a stretch; 0: all of them */
    uint64_t examined, freed;     /* objects */
    uint64_t uncollectable;       /* objects found unreachable that were not freed */
} hk_collection;

/* Puts a collection that ends now on the timeline. hook: yes. */
HK_API void hk_note_collection(const hk_collection *collection);

#ifdef __cplusplus
}
#endif
#endif
