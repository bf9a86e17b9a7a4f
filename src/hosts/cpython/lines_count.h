/* The counters below the line profile (lines.h): tables of Python's domains that count for each thread what it allocates and frees. Under
 * the GIL, but for what may be called in a hook. */
#ifndef HK_HOSTS_CPYTHON_LINES_COUNT_H
#define HK_HOSTS_CPYTHON_LINES_COUNT_H

#include "hosts/cpython/internal.h"

void hk_line_count_begin(void);               /* what is allocated and freed is counted from now on; again: to be sure of it */
void hk_line_count_end(void);
struct hk_line_thread;
void hk_line_count_settle(struct hk_line_thread *thread); /* before its counters are looked at */
size_t hk_line_bytes(const void *block);      /* that are counted for it. In a hook: yes */
void hk_line_free_uncounted(void *block);     /* of the object domain */
int64_t hk_line_heap_live(void);              /* bytes in all heaps of Python's. Not cheap */

/* The table of a domain that stands below our counters, where those stand uppermost; false: they do not. */
bool hk_line_count_below(int domain, hk_allocator *table);
bool hk_line_count_put_below(int domain, const hk_allocator *table);

#endif
