/* Names of libc that we stand in front of in both products (with those of confine.c), and why:
 *
 *   free realloc malloc_usable_size   (few.c; the malloc product: family.c) a block of PyMem_Malloc may reach C's free (it
 *                                     works on stock CPython, where requests over 512 bytes are malloc's). One range
 *                                     check; C may hold no GIL, so the block always takes the remote path
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
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "heap/debug.h"
#include "heap/threads.h"
#include "record/record.h"

void (*hk_interpose_at_exit)(void);
struct hk_next hk_next;
bool hk_interpose_is_debug;

void hk_next_find(void)
{
    static void *inside; /* the thread: dlsym may call malloc and free. What several threads find is the same */
    void *me = &hk_process_member;
    if (__atomic_load_n(&inside, __ATOMIC_RELAXED) == me || hk_next_is_known())
        return;
    __atomic_store_n(&inside, me, __ATOMIC_RELAXED);
    hk_next.malloc = dlsym(RTLD_NEXT, "malloc");
    hk_next.calloc = dlsym(RTLD_NEXT, "calloc");
    hk_next.realloc = dlsym(RTLD_NEXT, "realloc");
    hk_next.usable_size = dlsym(RTLD_NEXT, "malloc_usable_size");
    hk_next.posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    hk_next.memalign = dlsym(RTLD_NEXT, "memalign");
    hk_next.trim = dlsym(RTLD_NEXT, "malloc_trim");
    hk_next.setrlimit = dlsym(RTLD_NEXT, "setrlimit");
    hk_next.prlimit = dlsym(RTLD_NEXT, "prlimit");
    hk_next.prctl = dlsym(RTLD_NEXT, "prctl");
    hk_next.syscall = dlsym(RTLD_NEXT, "syscall");
    __atomic_store_n(&hk_next.free, (void (*)(void *))dlsym(RTLD_NEXT, "free"), __ATOMIC_RELEASE);
    __atomic_store_n(&inside, NULL, __ATOMIC_RELAXED);
}

void hk_interpose_init(void)
{
    hk_next_find();
    hk_libc = (struct hk_libc){hk_next.malloc, hk_next.calloc, hk_next.realloc, hk_next.free, hk_next.usable_size,
                               hk_next.posix_memalign, hk_next.trim};
    /* An earlier preload may look its own next one up at its first call. Let it do so now: dlsym, when it clears the
     * error of a lookup that failed (ours of names that not every Python has), calls free itself. */
    hk_next.free(NULL);
}

/* --- debug mode: these stand in the next definitions' place --- */

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
    beyond.free = hk_next.free;
    beyond.realloc = hk_next.realloc;
    beyond.usable_size = hk_next.usable_size;
    beyond.interpreter = function != NULL && dladdr(function, &info) != 0 ? info.dli_fbase : NULL;
    hk_next.free = debug_free;
    hk_next.realloc = debug_realloc;
    hk_next.usable_size = debug_usable_size;
    hk_interpose_is_debug = true;
}

/* Counts, and records each caller once; beyond as many the rest are counted only. */
void hk_interpose_note_culprit(void *caller, const char *function)
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

void hk_interpose_free_other(void *block, void *caller)
{
    hk_interpose_note_culprit(caller, "free");
    hk_free_remote(block);
}

void *hk_interpose_realloc_other(void *block, size_t size, void *caller)
{
    hk_interpose_note_culprit(caller, "realloc");
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

/* Keeps a sixteenth of the new limit for the heap to grow into (then the C allocator serves it); the rest of what it does
 * not use goes back. */
static void address_limit(int resource, const struct rlimit *limit)
{
    if (resource == RLIMIT_AS && limit != NULL && limit->rlim_cur != RLIM_INFINITY)
        hk_region_shrink(limit->rlim_cur / 16);
}

HK_API int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    hk_next_find();
    address_limit((int)resource, limit);
    return hk_next.setrlimit(resource, limit);
}

HK_API int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *limit)
{
    return setrlimit(resource, (const struct rlimit *)limit); /* the same on 64-bit Linux */
}

HK_API int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit *limit, struct rlimit *old)
{
    hk_next_find();
    if (pid == 0 || pid == getpid())
        address_limit((int)resource, limit);
    return hk_next.prlimit(pid, resource, limit, old);
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
