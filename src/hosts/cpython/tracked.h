/* Memory of C code's own, of which it tells tracemalloc (PyTraceMalloc_Track): blocks that no allocator of ours has seen, each known by
 * its domain, a number that the C code chose, and its address. NumPy's arrays are domain 389047. Under the GIL. */
#ifndef HK_HOSTS_CPYTHON_TRACKED_H
#define HK_HOSTS_CPYTHON_TRACKED_H

#include "hosts/cpython/traces.h"

struct hk_tracked {
    uintptr_t address;
    uint64_t bytes;
    uint32_t domain, site; /* site + 1; 0: the entry is empty */
};

/* *had: bytes that the block had until now; 0: it is new. False: no memory. */
bool hk_tracked_put(uint32_t domain, uintptr_t address, size_t bytes, uint32_t site, size_t *had);
const struct hk_tracked *hk_tracked_find(uint32_t domain, uintptr_t address); /* NULL: not there */
bool hk_tracked_remove(uint32_t domain, uintptr_t address, size_t *had);
void hk_tracked_clear(void);

/* Puts a group for each behind the `*count` that there are. False: no memory, and all is as it was. */
bool hk_tracked_append(struct hk_group **groups, size_t *count);

#endif
