/* Exact recording, the apart lane (record/exact.h): RAW, whose heap locks itself, and on a version that we do not know all three domains; MEM
 * and OBJECT of interpreters with a GIL of their own; and the blocks of the C library's malloc. Who counts holds hk_exact_apart, and walks
 * whole stacks. */
#include <errno.h>
#include <string.h>

#include "hosts/cpython/exact_blocks.h"
#include "hosts/cpython/exact_stack.h"
#include "hosts/cpython/windows.h"

static int64_t apart_budget; /* bytes to the next block that is watched; under hk_exact_apart */

/* had: the block that this one was, or NULL. */
static __attribute__((noinline)) void apart_watch(const void *block, size_t size, uint32_t site, const struct hk_exact_block *had)
{
    static uint64_t random = 1;
    const struct hk_life none = {.weight = 0};
    struct hk_exact_living living = {.birth_ns = hk_exact_living_now(), .weight = watch_weight(size)};
    if (had != NULL && had->living.weight != 0)
        living.birth_ns = had->living.birth_ns;
    if (apart_budget < 0) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        apart_budget = (int64_t)(random >> 33) % (2 * HK_CAPTURE_LIFE_BYTES);
    }
    hk_exact_block_watch(block, &none, site, &living);
}

static void apart_put(const void *block, size_t size, uint32_t site, bool main, const struct hk_exact_block *had)
{
    ssize_t bytes = site != HK_EXACT_NONE ? hk_exact_block_put(block, size, site, hk_window_age()) : -1;
    if (bytes < 0)
        return;
    hk_exact_apart_birth(site, (size_t)bytes, main);
    if (__builtin_expect((apart_budget -= (int64_t)size) < 0 || (had != NULL && had->living.weight != 0), 0))
        apart_watch(block, size, site, had);
    if (hk_windows_are_open())
        hk_window_birth(site, (size_t)bytes, main);
}

static void apart_born(int domain, const void *block, size_t size, const struct hk_exact_block *had)
{
    const void *state;
    if (!hk_exact.births && hk_exact_births_are_off())
        return;
    bool main = hk_exact_holds_main(&state);
    if (!hk_exact_apart_enter())
        return;
    apart_put(block, size, hk_exact_site_apart(domain, state), main, had);
    hk_lock_release(&hk_exact_apart);
}

/* The block became one of another size: true if its record went on with it, which is smaller; else it has died. */
static bool goes_on(const struct hk_exact_block *had, void *moved, size_t size)
{
    bool is_smaller = had->site != HK_EXACT_NONE && size < had->bytes;
    if (is_smaller) {
        hk_exact_block_shrank(had, moved, size, HK_LANE_UNKNOWN);
        if (is_watched(had))
            hk_exact_block_watch(moved, &had->life, had->site, &had->living);
    } else {
        hk_exact_block_died(had, HK_LANE_UNKNOWN);
    }
    return is_smaller;
}

static void *apart_realloc(hk_heap *heap, int domain, void *block, size_t size)
{
    struct hk_exact_block had = hk_exact_block_take(block);
    void *moved = hk_realloc(heap, block, size);
    if (moved == NULL)
        hk_exact_block_restore(block, &had);
    else if (!goes_on(&had, moved, size))
        apart_born(domain, moved, size, &had);
    return moved;
}

static void apart_code_died(void)
{
    if (!hk_exact_apart_enter())
        return;
    hk_exact_stacks.apart_seed += 2 * HK_KEY_DOMAIN + 1;
    hk_exact_codes_forget();
    hk_lock_release(&hk_exact_apart);
}

uint32_t hk_cpython_exact_site_here(void)
{
    const void *state;
    uint32_t site = HK_EXACT_NONE;
    hk_exact_holds_main(&state);
    if (hk_exact_apart_enter()) {
        site = hk_exact_site_apart(HK_DOMAIN_RAW, state);
        hk_lock_release(&hk_exact_apart);
    }
    return site;
}

/* About to be freed by who may not wait with that. */
void hk_cpython_exact_came_home(hk_heap *owner, void *block)
{
    struct hk_exact_block record = hk_exact_block_take(block);
    hk_exact_block_died(&record, HK_LANE_UNKNOWN);
    if (!record.is_code)
        return;
    apart_code_died();
    if (owner == hk_python.heaps[HK_DOMAIN_MEM] || owner == hk_python.heaps[HK_DOMAIN_OBJECT])
        hk_exact_forget_stacks();
}

bool hk_cpython_exact_forget(const void *block)
{
    struct hk_exact_block record = hk_exact_block_take(block);
    hk_exact_block_died(&record, HK_LANE_UNKNOWN);
    if (record.is_code)
        apart_code_died();
    return record.site != HK_EXACT_NONE;
}

/* --- malloc's blocks: apart --- */

static void native_born(const void *block, size_t size, const struct hk_exact_block *had)
{
    const void *state;
    if (is_over())
        hk_cpython_freeze_if_finalizing();
    if (!hk_exact.births && hk_exact_births_are_off())
        return;
    int error = errno;
    bool main = hk_exact_holds_main(&state);
    if (state == NULL && !is_over())
        state = hk_py_own_thread_state(hk_python.layout);
    if (__builtin_expect(hk_cpython_is_covered(), 0))
        hk_exact_codes_forget(); /* code objects may die unseen: no stack is known again by its addresses */
    if (hk_exact_apart_enter()) {
        apart_put(block, size, hk_exact_site_native(state), main, had);
        hk_lock_release(&hk_exact_apart);
    }
    errno = error;
}

void hk_cpython_exact_native_born(const void *block, size_t size)
{
    native_born(block, size, NULL);
}

void hk_cpython_exact_native_dies(const void *block)
{
    int error = errno;
    hk_cpython_exact_forget(block);
    errno = error;
}

void *hk_cpython_exact_native_moves(void *(*reallocate)(void *block, size_t size), void *block, size_t size)
{
    struct hk_exact_block had = hk_exact_block_take(block);
    void *moved = reallocate(block, size);
    if (moved == NULL)
        hk_exact_block_restore(block, &had);
    else if (!goes_on(&had, moved, size))
        native_born(moved, size, &had);
    return moved;
}

/* --- a domain whose heap locks itself --- */

static hk_heap *raw_heap(void *context)
{
    return context != NULL ? context : hk_python.heaps[HK_DOMAIN_RAW]; /* domains.c: raw_heap */
}

static void *raw_malloc(void *context, size_t size)
{
    hk_heap *heap = raw_heap(context);
    void *block = hk_malloc(heap, size);
    if (block != NULL)
        apart_born(heap->domain, block, size, NULL);
    return block;
}

static void *raw_calloc(void *context, size_t count, size_t size)
{
    hk_heap *heap = raw_heap(context);
    hk_cpython_raw_calloc_seen(count, size);
    void *block = hk_calloc(heap, count, size);
    if (block != NULL)
        apart_born(heap->domain, block, count * size, NULL);
    return block;
}

static void *raw_realloc(void *context, void *block, size_t size)
{
    hk_heap *heap = raw_heap(context);
    if (block == NULL)
        return raw_malloc(context, size);
    return apart_realloc(heap, heap->domain, block, size);
}

/* --- MEM and OBJECT where interpreters have GILs of their own; the context is the domain's heap --- */

static void *many_malloc(void *context, size_t size)
{
    hk_heap *heap = hk_cpython_heap_here(context), *main = context;
    if (heap == main)
        return hk_exact_main_table(main->domain)->malloc(heap, size);
    void *block = hk_malloc(heap, size);
    if (block != NULL)
        apart_born(main->domain, block, size, NULL);
    return block;
}

static void *many_calloc(void *context, size_t count, size_t size)
{
    hk_heap *heap = hk_cpython_heap_here(context), *main = context;
    if (heap == main)
        return hk_exact_main_table(main->domain)->calloc(heap, count, size);
    void *block = hk_calloc(heap, count, size);
    if (block != NULL)
        apart_born(main->domain, block, count * size, NULL);
    return block;
}

static void many_free(void *context, void *block)
{
    hk_heap *heap = hk_cpython_heap_here(context);
    if (!hk_cpython_is_within_reach(heap, block)) {
        hk_free_remote(block); /* counted when it comes home */
    } else if (heap == context) {
        hk_exact_main_table(heap->domain)->free(heap, block);
    } else if (block != NULL) {
        hk_cpython_exact_came_home(heap, block);
        hk_free(heap, block);
    }
}

static void *many_realloc(void *context, void *block, size_t size)
{
    hk_heap *heap = hk_cpython_heap_here(context), *main = context;
    if (block == NULL)
        return many_malloc(context, size);
    bool reached = hk_cpython_is_within_reach(heap, block);
    if (reached && heap == main)
        return hk_exact_main_table(main->domain)->realloc(heap, block, size);
    if (!reached) {
        size_t old = hk_usable_size(block);
        void *copy = many_malloc(context, size);
        if (copy != NULL) {
            memcpy(copy, block, size < old ? size : old);
            hk_free_remote(block);
        }
        return copy;
    }
    return apart_realloc(heap, main->domain, block, size);
}

/* --- tables --- */

hk_allocator hk_exact_apart_table(hk_heap *heap)
{
    return (hk_allocator){heap, raw_malloc, raw_calloc, raw_realloc, hk_cpython_raw_free};
}

hk_allocator hk_cpython_exact_many_table(int domain)
{
    return (hk_allocator){hk_python.heaps[domain], many_malloc, many_calloc, many_realloc, many_free};
}
