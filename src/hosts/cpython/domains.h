/* CPython as a host: installs the heap as the interpreter's three allocator domains (PEP 445), gives the recorder its
 * stacks, and watches that we stay installed. */
#ifndef HK_HOSTS_CPYTHON_DOMAINS_H
#define HK_HOSTS_CPYTHON_DOMAINS_H

#include <stdbool.h>
#include <stddef.h>

#include "capture/format.h"
#include "heapkeeper/heap.h"

/* A function of the interpreter that was loaded before us; NULL: none was. From the first call of malloc on. */
const void *hk_cpython_address(void);

/* Looks for an interpreter in this process and installs itself. For the library's constructor: before main, one
 * thread. HK_WATCH_OURS, HK_WATCH_NOT_PYTHON, or HK_WATCH_REFUSED with *why (static text).
 * alignment: of MEM's and OBJECT's blocks, as in hk_heap_options; RAW's are always aligned to 16. */
enum hk_capture_watch hk_cpython_install(size_t alignment, const char **why);

/* late.c: the same in an interpreter that runs already, for what it allocates from now on; there is no way back. The caller
 * holds the GIL of the main interpreter (ctypes.PyDLL). NULL: done, now or earlier; else why not (static text). Not in a
 * hook. */
HK_API const char *hk_python_install(void);

/* PY_VERSION_HEX and the header's python_flags; 0 without an interpreter. */
uint32_t hk_cpython_version(uint32_t *flags);

/* Connects heaps and recorder; after hk_record_start, before the program runs. */
void hk_cpython_attach_recorder(bool samples);

/* Fills the heap's part of a point; see hk_record_options. */
void hk_cpython_fill_point(struct hk_capture_point *point);

/* Acts on a trim request; see hk_record_options. */
int32_t hk_cpython_trim(void);

/* Compares the interpreter's allocator tables with ours and tells the recorder. At exit. */
void hk_cpython_watch_at_exit(void);

/* Around fork: every lock of ours, and the region's, is held while the child is made. */
void hk_cpython_fork_prepare(void);
void hk_cpython_fork_release(bool child);

#endif
