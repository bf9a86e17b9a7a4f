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

#ifdef __cplusplus
}
#endif
#endif
