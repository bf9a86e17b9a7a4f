/* What exact recording has written so far, for the host that is asked for it in the process (heapkeeper.Tracker). */
#ifndef HK_RECORD_LOOK_H
#define HK_RECORD_LOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "capture/format.h"

struct hk_look {
    const struct hk_capture_exact_site *sites;
    const struct hk_capture_counters *counters; /* of the same sites */
    const struct hk_capture_node *nodes;
    const struct hk_capture_code *codes;
    const char *strings;
    uint64_t site_count, node_count, code_count, string_bytes;
};

/* False: nothing is recorded exactly in this process. What it points to is complete, never changes (but for counters), and is
 * there until this thread allocates: the child of a fork may move its record. The main interpreter's lock is held. */
bool hk_look(struct hk_look *look);

uint64_t hk_look_own_bytes(void); /* the recorder's memory: tables and file */

#endif
