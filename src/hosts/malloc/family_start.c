/* How the malloc family comes to life: for which processes, and what serves until then.
 *
 * The first calls come from the loader, before libc has an environment; they are libc's own. Then the first call decides,
 * or the constructor does. HEAPKEEPER_NATIVE says for whom:
 *
 *      unset   nobody
 *      all     every process (`run --native`)
 *      PID     this one process, whatever it execs, unless it has a Python inside
 *
 * and not for a program that does nothing but start others (a shell, env, timeout): of those, what they start is of interest. The
 * `python3` of a version manager is a script, and the capture that was made for the process is Python's.
 *
 * A program that brings a malloc of its own in its executable is left alone: its calls never reach us. That is seen by
 * calling the one that everybody calls. */
#include "hosts/malloc/family.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hosts/cpython/domains.h"
#include "hosts/malloc/interpose.h"
#include "record/record.h"

enum { UNDECIDED, DECIDING, PASSIVE, ACTIVE };

static int stage;
hk_heap *hk_family_watched;
bool hk_family_probed;
struct hk_family_recorder hk_family_recorder;

/* --- the buffer of the start --- */

static char early[16384] __attribute__((aligned(16)));
static size_t early_used;

/* A block's size stands before it. */
void *hk_family_early_malloc(size_t size)
{
    size_t room = (size + 31) & ~(size_t)15, start = __atomic_load_n(&early_used, __ATOMIC_RELAXED);
    do
        if (size > sizeof(early) || room > sizeof(early) - start) {
            errno = ENOMEM;
            return NULL;
        }
    while (!__atomic_compare_exchange_n(&early_used, &start, start + room, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    *(size_t *)(early + start) = size;
    return early + start + 16;
}

bool hk_family_is_early(const void *block)
{
    return (uintptr_t)block - (uintptr_t)early < sizeof(early);
}

size_t hk_family_early_size(const void *block)
{
    return *(const size_t *)((const char *)block - 16);
}

/* --- for whom --- */

/* A program that does nothing but start another. */
static bool is_launcher(void)
{
    static const char *const names[] = {
        "ash", "bash", "busybox", "catatonit", "chroot", "chrt", "dash", "doas", "dumb-init", "env", "fish", "flock", "gdb",
        "gmake", "ionice", "ksh", "ltrace", "make", "mksh", "nice", "ninja", "nohup", "nsenter", "numactl", "parallel", "perf",
        "prlimit", "rr", "runuser", "script", "setarch", "setpriv", "setsid", "sh", "stdbuf", "strace", "su", "sudo", "taskset", "time",
        "timeout", "tini", "unshare", "valgrind", "valgrind.bin", "xargs", "zsh",
    };
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    path[length > 0 ? length : 0] = '\0';
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static bool is_for_this_process(void)
{
    const char *who = secure_getenv("HEAPKEEPER_NATIVE");
    if (who == NULL || *who == '\0')
        return false;
    bool has_python = hk_cpython_address() != NULL;
    if (strcmp(who, "all") == 0)
        return has_python || !is_launcher();
    return strtol(who, NULL, 10) == getpid() && !has_python && !is_launcher();
}

static bool calls_reach_us(void)
{
    void *(*everybodys_malloc)(size_t) = dlsym(RTLD_DEFAULT, "malloc");
    void (*everybodys_free)(void *) = dlsym(RTLD_DEFAULT, "free");
    if (everybodys_malloc == NULL || everybodys_free == NULL)
        return false;
    hk_family_probed = false;
    everybodys_free(everybodys_malloc(1));
    return hk_family_probed;
}

static int decide(void)
{
    if (!is_for_this_process() || !calls_reach_us())
        return PASSIVE;
    hk_interpose_init();
    hk_threads_host_forks = true;
    hk_preload_watch_forks(); /* before there is a heap: the child of a fork in between needs none of it */
    hk_heap *heap = hk_threads_process("native");
    if (heap == NULL)
        return PASSIVE;
    heap->domain = HK_DOMAIN_NATIVE;
    hk_threads_inherit(heap);
    hk_large_expect();
    return ACTIVE;
}

void hk_family_decide(void)
{
    int now = __atomic_load_n(&stage, __ATOMIC_ACQUIRE);
    if (__builtin_expect(now == PASSIVE, 1))
        return;
    if (now == DECIDING)
        hk_family_probed = true;
    if (now != UNDECIDED)
        return;
    if (!hk_next_is_known())
        hk_next_find();
    if (environ == NULL || !hk_next_is_known())
        return;
    if (!__atomic_compare_exchange_n(&stage, &now, DECIDING, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return;
    int saved = errno;
    now = decide();
    while (dlerror() != NULL)
        ; /* what we did not find is not the program's error */
    errno = saved;
    __atomic_store_n(&stage, now, __ATOMIC_RELEASE);
}

void hk_family_start(void)
{
    hk_family_decide();
}

hk_heap *hk_family_heap(void)
{
    return hk_process_heap;
}

/* --- recording --- */

void hk_family_attach_recorder(bool samples)
{
    if (hk_process_heap == NULL || !samples)
        return;
    hk_heap *watched = hk_heap_create(
        &(hk_heap_options){.size = sizeof(hk_heap_options), .name = "native, sampled", .debug = HK_DEBUG_OFF});
    if (watched == NULL)
        return;
    watched->is_watched = true;
    watched->domain = HK_DOMAIN_NATIVE;
    hk_family_watched = watched;
    hk_process_heap->watched = watched;
    hk_threads_inherit(hk_process_heap);
}

void hk_family_record(struct hk_family_recorder recorder)
{
    if (hk_process_heap == NULL)
        return;
    hk_family_recorder = recorder;
    hk_threads_go_slow();
}

void hk_family_fork_prepare(void)
{
    if (hk_family_watched != NULL)
        hk_lock_take_to_fork(&hk_family_watched->lock);
}

void hk_family_fork_release(void)
{
    if (hk_family_watched != NULL)
        hk_lock_release_forked(&hk_family_watched->lock);
}

/* The recorder's lock is held, and a thread that forks waits for that with the heap's: so nothing is waited for. */
int32_t hk_family_trim(void)
{
    hk_heap *heap = hk_process_heap;
    if (heap == NULL || !hk_lock_try(&heap->lock))
        return -1;
    size_t bytes = hk_heap_discard(heap, 0);
    hk_lock_release(&heap->lock);
    return (int32_t)(bytes / 4096);
}
