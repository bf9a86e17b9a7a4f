/* Python objects made of traces: under the GIL, with exceptions as Python's API has them. Not in a hook. */
#ifndef HK_HOSTS_CPYTHON_TRACE_OBJECTS_H
#define HK_HOSTS_CPYTHON_TRACE_OBJECTS_H

#include "hosts/cpython/capi.h"
#include "hosts/cpython/traces.h"

#define HK_MOST_FRAMES 65535 /* that tracemalloc can say */

enum hk_trace_objects {
    HK_SUMS,        /* [(frames, bytes, blocks)] of every trace that has any */
    HK_TRACES,      /* [((domain, size, frames, depth), blocks)] */
    HK_TRACES_FLAT, /* [(domain, size, frames, depth)], one for each block */
    HK_TRACEBACK,   /* the frames of the one group */
};

/* A new reference; NULL with an exception. */
object *hk_trace_objects(const struct hk_group *groups, size_t count, const struct hk_traces_options *options, enum hk_trace_objects what);

#endif
