/* Names of libc that we stand in front of, and why:
 *
 *   free realloc malloc_usable_size   a block of PyMem_Malloc may reach C's free (it works on stock CPython, where
 *                                     requests over 512 bytes are malloc's). One range check; C may hold no GIL, so
 *                                     the block always takes the remote path
 *   setrlimit prlimit (and 64)        when the limit on addresses is lowered after start, the unused part of our
 *                                     reservation is given back, or threads could not start
 *   _exit _Exit                       os._exit and multiprocessing's children end here, without destructors
 *
 * Everything else, and all of it where the heap is not active, is the next definition's. Before the constructor
 * ran (another library's constructor, dlsym itself) the next definition is looked up at the first call.
 */
#undef _FILE_OFFSET_BITS /* with it the plain names would be the 64 ones */
#include "hosts/malloc/interpose.h"

#include <dlfcn.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "heap/debug.h"
#include "heap/pool.h"
#include "record/record.h"

void (*hk_interpose_at_exit)(void);

static struct {
    void (*free)(void *);
    void *(*realloc)(void *, size_t);
    size_t (*usable_size)(void *);
    int (*setrlimit)(__rlimit_resource_t, const struct rlimit *);
    int (*prlimit)(pid_t, enum __rlimit_resource, const struct rlimit *, struct rlimit *);
} next;

static void next_find(void)
{
    next.free = dlsym(RTLD_NEXT, "free");
    next.realloc = dlsym(RTLD_NEXT, "realloc");
    next.usable_size = dlsym(RTLD_NEXT, "malloc_usable_size");
    next.setrlimit = dlsym(RTLD_NEXT, "setrlimit");
    next.prlimit = dlsym(RTLD_NEXT, "prlimit");
}

void hk_interpose_init(void)
{
    next_find();
    hk_libc.free = next.free;
    hk_libc.realloc = next.realloc;
    hk_libc.usable_size = next.usable_size;
    /* An earlier preload may look its own next one up at its first call. Let it do so now: dlsym, when it clears the
     * error of a lookup that failed (ours of names that not every Python has), calls free itself. */
    next.free(NULL);
}

/* --- debug mode: these stand in `next`'s place --- */

static struct {
    void (*free)(void *);
    void *(*realloc)(void *, size_t);
    size_t (*usable_size)(void *);
    const void *interpreter; /* where it is loaded */
} beyond;

/* While an interpreter begins and ends, its own RAW functions are libc's for a time, and meet blocks from before. */
static bool is_interpreter(const void *caller)
{
    Dl_info info;
    return beyond.interpreter != NULL && dladdr(caller, &info) != 0 && info.dli_fbase == beyond.interpreter;
}

static void debug_free(void *block)
{
    const void *caller = __builtin_return_address(0);
    size_t size;
    if (!hk_debug_knows(block, &size) && !hk_region_has(block))
        beyond.free(block);
    else
        hk_debug_foreign_free(block, "free", is_interpreter(caller));
}

static void *debug_realloc(void *block, size_t size)
{
    const void *caller = __builtin_return_address(0);
    size_t old;
    if (!hk_debug_knows(block, &old)) {
        if (!hk_region_has(block))
            return beyond.realloc(block, size);
        old = 0;
    }
    bool forgive = is_interpreter(caller);
    void *moved = forgive ? malloc(size) : NULL;
    if (forgive && moved == NULL)
        return NULL;
    if (forgive)
        memcpy(moved, block, size < old ? size : old);
    hk_debug_foreign_free(block, "realloc", forgive);
    return moved;
}

static size_t debug_usable_size(void *block)
{
    size_t size;
    return hk_debug_knows(block, &size) ? size : beyond.usable_size(block);
}

void hk_interpose_debug(void)
{
    Dl_info info;
    const void *function = dlsym(RTLD_DEFAULT, "PyMem_RawMalloc");
    beyond.free = next.free;
    beyond.realloc = next.realloc;
    beyond.usable_size = next.usable_size;
    beyond.interpreter = function != NULL && dladdr(function, &info) != 0 ? info.dli_fbase : NULL;
    next.free = debug_free;
    next.realloc = debug_realloc;
    next.usable_size = debug_usable_size;
}

/* Counts, and records each caller once; beyond as many the rest are counted only. */
static void note_culprit(void *caller, const char *function)
{
    static void *known[16];
    hk_record_count_foreign(true);
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        void *seen = NULL;
        if (__atomic_compare_exchange_n(&known[i], &seen, caller, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            hk_record_event(HK_EVENT_CULPRIT, (uintptr_t)caller, function);
            return;
        }
        if (seen == caller)
            return;
    }
}

HK_API void free(void *block)
{
    if (__builtin_expect(hk_region_has(block), 0) && next.free != debug_free) {
        note_culprit(__builtin_return_address(0), "free");
        hk_free_remote(block);
        return;
    }
    if (__builtin_expect(next.free == NULL, 0))
        next_find();
    next.free(block);
}

HK_API void *realloc(void *block, size_t size)
{
    if (__builtin_expect(!hk_region_has(block), 1) || next.realloc == debug_realloc) {
        if (__builtin_expect(next.realloc == NULL, 0))
            next_find();
        return next.realloc(block, size);
    }
    note_culprit(__builtin_return_address(0), "realloc");
    if (size == 0) { /* as glibc: freed */
        hk_free_remote(block);
        return NULL;
    }
    size_t old = hk_usable_size(block);
    void *moved = malloc(size);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, size < old ? size : old);
    hk_free_remote(block);
    return moved;
}

HK_API size_t malloc_usable_size(void *block)
{
    if (__builtin_expect(hk_region_has(block), 0) && next.usable_size != debug_usable_size)
        return hk_usable_size(block);
    if (__builtin_expect(next.usable_size == NULL, 0))
        next_find();
    return next.usable_size(block);
}

/* Keeps a sixteenth of the new limit for the heap to grow into (then the C allocator serves it); the rest of what it does
 * not use goes back. */
static void address_limit(int resource, const struct rlimit *limit)
{
    if (resource == RLIMIT_AS && limit != NULL && limit->rlim_cur != RLIM_INFINITY)
        hk_region_shrink(limit->rlim_cur / 16);
}

HK_API int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    if (next.setrlimit == NULL)
        next_find();
    address_limit((int)resource, limit);
    return next.setrlimit(resource, limit);
}

HK_API int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *limit)
{
    return setrlimit(resource, (const struct rlimit *)limit); /* the same on 64-bit Linux */
}

HK_API int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit *limit, struct rlimit *old)
{
    if (next.prlimit == NULL)
        next_find();
    if (pid == 0 || pid == getpid())
        address_limit((int)resource, limit);
    return next.prlimit(pid, resource, limit, old);
}

HK_API int prlimit64(pid_t pid, enum __rlimit_resource resource, const struct rlimit64 *limit, struct rlimit64 *old)
{
    return prlimit(pid, resource, (const struct rlimit *)limit, (struct rlimit *)old);
}

HK_API _Noreturn void _exit(int status)
{
    if (hk_interpose_at_exit != NULL)
        hk_interpose_at_exit();
    for (;;)
        syscall(SYS_exit_group, status);
}

HK_API _Noreturn void _Exit(int status)
{
    _exit(status);
}
