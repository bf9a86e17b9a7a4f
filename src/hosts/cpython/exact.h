/* Exact recording of CPython: every block of its domains is counted at the site that allocated it. */
#ifndef HK_HOSTS_CPYTHON_EXACT_H
#define HK_HOSTS_CPYTHON_EXACT_H

#include "hosts/cpython/internal.h"

/* Before the recorder is started, in the constructor: makes what exact recording needs. NULL: done; else why not (static
 * text; "": there is no Python whose allocators are ours), and nothing was changed. with_native: malloc's blocks are
 * recorded, too. */
const char *hk_cpython_exact_prepare(bool with_native);

/* True after it: hk_cpython_table gives the tables below. */
static inline bool hk_cpython_is_exact(void)
{
    return hk_python.exact;
}

hk_allocator hk_cpython_exact_table(int domain);      /* while no interpreter has a GIL of its own */
const hk_allocator *hk_cpython_exact_counting(int domain); /* the same that counts for the line profile, too; NULL: there is none */
hk_allocator hk_cpython_exact_many_table(int domain); /* MEM and OBJECT from then on */

/* recording.c: stacks may be walked from now on, or not (any more). */
void hk_cpython_exact_stacks(bool good);

void hk_cpython_exact_mark_code(const void *code); /* of a stack that is being recorded; see hk_stack_source */

/* An object was made of a block that may have been allocated long ago, and lay in a free list: it is charged to who makes it. The
 * GIL is held; not in a hook. */
void hk_cpython_exact_reborn(const void *object);

/* A site for the stack of this thread, of RAW; HK_EXACT_NONE: none. Nothing is counted there. Not in a hook. */
uint32_t hk_cpython_exact_site_here(void);

/* As struct hk_family_recorder of hosts/malloc/family.h has them. */
void hk_cpython_exact_native_born(const void *block, size_t size);
void hk_cpython_exact_native_dies(const void *block);
void *hk_cpython_exact_native_moves(void *(*reallocate)(void *block, size_t size), void *block, size_t size);

/* As hk_heap_recorder has them. */
void hk_cpython_exact_came_home(hk_heap *owner, void *block);
bool hk_cpython_exact_forget(const void *block);

/* As hk_record_options has them. */
void hk_cpython_exact_visit(void (*visitor)(uint32_t site, size_t bytes));
void hk_cpython_exact_forget_all(void);

/* A tick of a heap under the main GIL. */
void hk_cpython_exact_tick(void);

#endif
