/* Where blocks of debug mode were allocated and freed: stacks, each kept once, numbered.
 *
 * A stack is the innermost native return addresses, followed by frame pointers, and the innermost frames of the host
 * (Python lines). Frame pointers are a convention that not every compiler keeps: a frame is believed if it lies on this
 * thread's stack above the last one and returns into a loaded object, so a caller without one is skipped or ends the native part;
 * the return address into the caller itself is always right.
 *
 * The table is a reservation of bounded size, of which pages are used as it fills. When it is full, new stacks get the number
 * "(table full)", and old ones are still known.
 */
#include "heap/debug.h"

#include <dlfcn.h>
#include <string.h>

#define MOST_WORDS (8u << 20) /* 64 MiB, about 400 000 stacks; half as often as needed where there is no address space */
#define LEAST_WORDS (64u << 10)
#define FIRST_WORD 2 /* the numbers below have a meaning of their own */
#define MOST_FRAMES (HK_DEBUG_NATIVE_FRAMES + HK_DEBUG_HOST_FRAMES)
#define HIGHEST_FRAME ((uintptr_t)256 << 10) /* above the innermost */

const struct hk_debug_host *hk_debug_host;

static struct {
    hk_lock lock;
    uint64_t *words; /* of a stack: hash and number of frames, then the frames */
    uint32_t *slots; /* number of a stack; 0: free */
    uint32_t most_words, most_slots;
    uint32_t used, stacks;
    int (*find_object)(void *pc, void *result);
} sites;

static bool sites_init(void)
{
    if (sites.words != NULL)
        return true;
    for (uint32_t most = MOST_WORDS; most >= LEAST_WORDS; most /= 2) {
        uint64_t *words = hk_os_map(most * sizeof(*words));
        uint32_t *slots = words != NULL ? hk_os_map(most / 8 * sizeof(*slots)) : NULL;
        if (slots != NULL) {
            sites.most_words = most;
            sites.most_slots = most / 8;
            sites.used = FIRST_WORD;
            sites.slots = slots;
            sites.words = words;
            return true;
        }
        if (words != NULL)
            hk_os_unmap(words, most * sizeof(*words));
    }
    return false;
}

/* --- the walk --- */

/* glibc 2.35 on: takes no lock. */
static bool is_code(uintptr_t address)
{
    char result[128];
    if (address < 0x10000 || address >> 47 != 0)
        return false;
    return sites.find_object == NULL || sites.find_object((void *)address, result) == 0;
}

/* The end of the stack that the thread runs on. A thread's own data lie at the end of its stack, and those of the main
 * thread below it; there the loader knows. */
static uintptr_t stack_end(uintptr_t frame)
{
    extern void *__libc_stack_end __attribute__((weak));
    uintptr_t end = (uintptr_t)__builtin_thread_pointer();
    if (frame > end)
        end = &__libc_stack_end != NULL ? (uintptr_t)__libc_stack_end : 0;
    return frame < end && end - frame < HIGHEST_FRAME ? end : frame + HIGHEST_FRAME;
}

static int walk_native(uint64_t *out, int max)
{
    const uintptr_t *frame = __builtin_frame_address(0);
    uintptr_t start = (uintptr_t)frame, end = stack_end(start);
    int n = 0;
    while (n < max) {
        if (!is_code(frame[1]) || (frame[1] >= start && frame[1] < end))
            break;
        out[n++] = frame[1];
        uintptr_t next = frame[0];
        if (next <= (uintptr_t)frame || next > end - 2 * sizeof(uintptr_t) || next % sizeof(uintptr_t) != 0)
            break;
        frame = (const uintptr_t *)next;
    }
    return n;
}

/* --- the table --- */

static uint32_t hash_frames(const uint64_t *frames, int count)
{
    uint64_t hash = (uint64_t)count;
    for (int i = 0; i < count; i++)
        hash = (hash ^ frames[i]) * 0x9e3779b97f4a7c15u, hash ^= hash >> 29;
    return (uint32_t)(hash >> 16);
}

static bool is_same(uint32_t site, uint32_t hash, const uint64_t *frames, int count)
{
    const uint64_t *at = sites.words + site;
    return at[0] == ((uint64_t)hash << 32 | (uint32_t)count) && memcmp(at + 1, frames, (size_t)count * sizeof(*frames)) == 0;
}

static uint32_t put_frames(const uint64_t *frames, int count)
{
    uint32_t hash = hash_frames(frames, count), at = hash & (sites.most_slots - 1), site;
    while ((site = sites.slots[at]) != 0) {
        if (is_same(site, hash, frames, count))
            return site;
        at = (at + 1) & (sites.most_slots - 1);
    }
    if (sites.used + (uint32_t)count + 1 > sites.most_words || sites.stacks >= sites.most_slots / 2)
        return HK_DEBUG_TABLE_FULL;
    site = sites.used;
    sites.words[site] = (uint64_t)hash << 32 | (uint32_t)count;
    memcpy(sites.words + site + 1, frames, (size_t)count * sizeof(*frames));
    sites.used += (uint32_t)count + 1;
    sites.stacks++;
    sites.slots[at] = site;
    return site;
}

__attribute__((noinline)) uint32_t hk_debug_site(int domain)
{
    uint64_t frames[MOST_FRAMES];
    int count = walk_native(frames, HK_DEBUG_NATIVE_FRAMES);
    const struct hk_debug_host *host = __atomic_load_n(&hk_debug_host, __ATOMIC_ACQUIRE);
    if (host != NULL)
        count += host->walk(domain, frames + count, HK_DEBUG_HOST_FRAMES);
    hk_lock_take(&sites.lock);
    uint32_t site = count == 0 ? HK_DEBUG_NO_SITE : sites_init() ? put_frames(frames, count) : HK_DEBUG_TABLE_FULL;
    hk_lock_release(&sites.lock);
    return site;
}

void hk_debug_sites_begin(void)
{
    sites.find_object = (int (*)(void *, void *))dlsym(RTLD_DEFAULT, "_dl_find_object");
}

int hk_debug_site_frames(uint32_t site, const uint64_t **frames)
{
    if (site < FIRST_WORD)
        return 0;
    *frames = sites.words + site + 1;
    return (int)(uint32_t)sites.words[site];
}

void hk_debug_sites_fork_prepare(void)
{
    hk_lock_take_to_fork(&sites.lock);
    if (hk_debug_host != NULL && hk_debug_host->fork_prepare != NULL)
        hk_debug_host->fork_prepare();
}

void hk_debug_sites_fork_release(void)
{
    if (hk_debug_host != NULL && hk_debug_host->fork_release != NULL)
        hk_debug_host->fork_release();
    hk_lock_release_forked(&sites.lock);
}
