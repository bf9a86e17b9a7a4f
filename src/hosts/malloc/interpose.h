/* What is interposed by name in a program under `heapkeeper run`, and the definitions behind ours. */
#ifndef HK_HOSTS_MALLOC_INTERPOSE_H
#define HK_HOSTS_MALLOC_INTERPOSE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/types.h>

/* libc's, or those of a library that was preloaded before. */
struct hk_next {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void (*free)(void *); /* written last */
    size_t (*usable_size)(void *);
    int (*posix_memalign)(void **, size_t, size_t);
    void *(*memalign)(size_t, size_t);
    int (*trim)(size_t);
    int (*setrlimit)(__rlimit_resource_t, const struct rlimit *);
    int (*prlimit)(pid_t, enum __rlimit_resource, const struct rlimit *, struct rlimit *);
    int (*prctl)(int, unsigned long, unsigned long, unsigned long, unsigned long);
    long (*syscall)(long, long, long, long, long, long, long);
};
extern struct hk_next hk_next;

/* Looks them up, unless that is done. dlsym may call malloc and free, and then they are not known yet. */
void hk_next_find(void);

static inline bool hk_next_is_known(void)
{
    return __atomic_load_n(&hk_next.free, __ATOMIC_ACQUIRE) != NULL;
}

/* Makes the heap use them for large blocks. */
void hk_interpose_init(void);

/* In debug mode: a block of ours that arrives by a name of libc is reported. After the heaps were made. */
void hk_interpose_debug(void);
extern bool hk_interpose_is_debug; /* hk_next.free and its like look for our blocks themselves */

/* A block of ours was given to libc's `function` by code at `caller`. */
void hk_interpose_note_culprit(void *caller, const char *function);

/* free and realloc of a block that lies in the region but is no block of malloc's: PyMem_Malloc's, by a libc name. */
void hk_interpose_free_other(void *block, void *caller);
void *hk_interpose_realloc_other(void *block, size_t size, void *caller);

/* Called by the interposed _exit and _Exit before the process ends. */
extern void (*hk_interpose_at_exit)(void);

#endif
