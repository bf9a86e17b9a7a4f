/* The malloc family, where it is ours: what its files share, and what the constructor knows of it.
 *
 * There are two products. libheapkeeper-preload.so stands in front of free, realloc and malloc_usable_size only (few.c);
 * libheapkeeper-malloc-preload.so has the whole family (family*.c) and serves it from a heap of its own, "native",
 * in the processes for which the environment asks (see preload.c). In all others its functions pass every call on.
 *
 *      undecided   the loader is at work, libc has no environment yet    the next definitions
 *      deciding    we look names up, and make the heap                   the next definitions
 *      passive     not for this process                                  the next definitions
 *      active                                                            the heap, its large blocks the next ones
 *
 * "Next" are libc's, or those of a library that was preloaded before. While they are being looked up (dlsym may call
 * malloc itself) blocks come from a small buffer in this library and are never freed.
 *
 * Fast paths are those of heap/threads.h. In a process without the heap every thread's member is hk_no_member, which
 * has no blocks and owns none, so that the slow path finds out and the fast path needs no test. */
#ifndef HK_HOSTS_MALLOC_FAMILY_H
#define HK_HOSTS_MALLOC_FAMILY_H

#include "capture/format.h"
#include "heap/threads.h"

/* few.c and family_start.c, one of them in each product. */
hk_heap *hk_family_heap(void); /* NULL: malloc is not ours */
void hk_family_start(void);    /* in the constructor: decides, unless a call of malloc has done so */
void hk_family_attach_recorder(bool samples); /* after hk_record_start */
void hk_family_fork_prepare(void); /* after hk_threads_fork_prepare, before the region's lock */
void hk_family_fork_release(void);
int32_t hk_family_trim(void); /* for a request of a reader; 4096 bytes each; -1: not now. Waits for no lock */

/* preload.c: around fork all locks are held; the earlier this is called the more handlers may allocate. */
void hk_preload_watch_forks(void);

/* family_start.c, for the family alone. */
void hk_family_decide(void);                    /* once libc is there; cheap when repeated */
extern hk_heap *hk_family_watched;              /* blocks that the recorder sampled; NULL: none are */
void *hk_family_early_malloc(size_t size);      /* from the buffer; zero; NULL, and errno: full */
bool hk_family_is_early(const void *block);
size_t hk_family_early_size(const void *block);
extern bool hk_family_probed; /* our malloc was called while we were deciding */

/* family.c: slow paths. */
void *hk_family_malloc_slow(size_t size);
void hk_family_free_slow(hk_heap *member, void *block);
/* alignment: a power of two. errno is set. */
void *hk_family_aligned(size_t alignment, size_t size);

/* Who wants to be told of every block of the family; .born NULL: nobody. `born` is called when it has been allocated, `dies` before it is freed
 * (not of a block that is none of the region's: hk_heap_recorder.free), and `moves` is to call what it is given. In a hook, no lock is held. */
struct hk_family_recorder {
    void (*born)(const void *block, size_t size);
    void (*dies)(const void *block);
    void *(*moves)(void *(*reallocate)(void *block, size_t size), void *block, size_t size);
};
extern struct hk_family_recorder hk_family_recorder;
void hk_family_record(struct hk_family_recorder recorder); /* from now on. While there is one thread */

/* family_count.c: the same for a thread that is counted, or where every block is recorded. NULL: no memory; errno is as it was. */
void *hk_family_count_malloc(size_t size);
void *hk_family_count_calloc(size_t count, size_t size);
void *hk_family_count_aligned(size_t alignment, size_t size);
void *hk_family_count_realloc(void *block, size_t size); /* neither NULL nor 0 */
void hk_family_count_free(void *block);                  /* of the family, or a large one */

static inline bool hk_family_is_counted(void)
{
    return __builtin_expect(hk_process_member == &hk_counted_member || hk_family_recorder.born != NULL, 0);
}

static inline __attribute__((always_inline)) void *hk_family_malloc_fast(size_t size)
{
    return hk_member_malloc_fast(hk_process_member, size);
}

static inline __attribute__((always_inline)) void *hk_family_malloc(size_t size)
{
    void *block = hk_family_malloc_fast(size);
    return __builtin_expect(block != NULL, 1) ? block : hk_family_malloc_slow(size);
}

static inline __attribute__((always_inline)) void hk_family_free(void *block)
{
    hk_heap *member = hk_process_member;
    if (__builtin_expect(!hk_member_free_fast(member, block), 0))
        hk_family_free_slow(member, block);
}

#endif
