/* Large blocks: the C allocator's, counted by what they can hold; or, of a heap that asks it for nothing, runs of the heap's own
 * pools (runs.c). Counters of a heap that any thread may use without a lock for it are atomic; a heap under the host's lock,
 * and a thread's member, pay only plain stores.
 *
 * A block of the C allocator that was never ours may come to be freed here, too (a program that mixes malloc and
 * PyMem_Free). Where it is smaller than any of ours it is known for what it is, and not counted. */
#include "heap/threads.h"

enum { NOTED = 32 << 10 }; /* bytes more, or less, that are worth a look at what they took from the system */

static bool small_ones_exist; /* large blocks in name only: the region was full, or the alignment too large */

/* glibc's malloc has little but our large blocks, so what is free lies at the end of its heap more often than in a program
 * whose small blocks hold that end; and from 128 KiB on it gives the end back with the free that made it so. A program that
 * allocates and frees 256 KiB in turn (zlib's state, for each file) would fault the same pages in again and again: git
 * fast-import 44 000 times instead of 500, a Python that parses its own sources three times as often, a runtime in which one dict after
 * another grows to 30 000 keys 800 times for each. It learns: a freed block that had a mapping of its own, as this one has, makes it
 * serve blocks of that size from its heap, and keep twice as much there. */
void hk_large_expect(void)
{
    enum { EXPECTED = 4 << 20 };
    static bool done;
    if (!__atomic_exchange_n(&done, true, __ATOMIC_RELAXED))
        hk_libc.free(hk_libc.malloc(EXPECTED));
}

/* A table that doubles leaves each of its sizes once and asks for none of them again; what it leaves lies between blocks that live,
 * where the C allocator keeps the pages. So a freed block gives its pages back, unless one of about its size has been freed
 * before: a size that comes back, as a buffer for each file does, keeps them. (A dict of 30 000 rows: 1.0 MiB of 24 less.) */
enum { GIVEN_BACK = 128 << 10 };

static bool size_is_new(size_t usable)
{
    static uint64_t seen; /* a bit for each quarter of an octave */
    unsigned octave = 63 - (unsigned)__builtin_clzll(usable), quarter = usable >> (octave - 2) & 3;
    unsigned place = (octave - 17) * 4 + quarter;
    if (place > 63 || (__atomic_load_n(&seen, __ATOMIC_RELAXED) >> place & 1) != 0)
        return false;
    __atomic_fetch_or(&seen, UINT64_C(1) << place, __ATOMIC_RELAXED);
    return true;
}

static void give_pages_back(void *block, size_t usable)
{
    uintptr_t page = hk_os_page_size(), start = ((uintptr_t)block + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)block + usable) & ~(page - 1);
    hk_os_discard((void *)start, end - start);
}

static bool is_foreign(size_t usable)
{
    return usable <= HK_BLOCK_MAX && !__atomic_load_n(&small_ones_exist, __ATOMIC_RELAXED);
}

static void large_add(hk_heap *heap, int64_t bytes, int64_t blocks)
{
    if (heap->state == HK_MEMBER_ASIDE)
        heap = heap->facade;
    if (heap->mode == HK_LOCK_HOST || heap->mode == HK_LOCK_MEMBER) {
        __atomic_store_n(&heap->large_bytes, heap->large_bytes + bytes, __ATOMIC_RELAXED);
        __atomic_store_n(&heap->large_blocks, heap->large_blocks + blocks, __ATOMIC_RELAXED);
        if (bytes >= NOTED && heap->sibling != NULL)
            hk_siblings_large_grew(heap);
    } else {
        __atomic_add_fetch(&heap->large_bytes, bytes, __ATOMIC_RELAXED);
        __atomic_add_fetch(&heap->large_blocks, blocks, __ATOMIC_RELAXED);
    }
}

static void note_size(size_t usable)
{
    if (usable <= HK_BLOCK_MAX)
        __atomic_store_n(&small_ones_exist, true, __ATOMIC_RELAXED);
}

void hk_large_count(hk_heap *heap, size_t usable, int sign)
{
    note_size(usable);
    large_add(heap, sign * (int64_t)usable, sign);
}

void hk_large_forget(const void *block)
{
    if (hk_recorder.table_size != NULL && hk_recorder.table_size() != 0)
        hk_recorder.free(block);
}

/* What the recorder calls a block while it is moved; NULL: it does not know it. */
static const void *moving(const void *block)
{
    const void *name = (const char *)block + 1;
    if (hk_recorder.rename == NULL)
        hk_large_forget(block);
    return hk_recorder.rename != NULL && hk_recorder.rename(block, name) ? name : NULL;
}

void hk_large_free(hk_heap *heap, void *block)
{
    if (block == NULL)
        return;
    size_t usable = hk_libc.usable_size(block);
    if (is_foreign(usable)) {
        if (hk_recorder.foreign != NULL)
            hk_recorder.foreign();
    } else {
        hk_large_forget(block);
        hk_large_count(heap, usable, -1);
        if (usable >= GIVEN_BACK && size_is_new(usable)) {
            give_pages_back(block, usable);
            if (heap->sibling != NULL)
                hk_siblings_large_left(heap, usable);
        }
    }
    hk_libc.free(block);
}

/* A large block of the heap's own pools. */
static void *run_malloc(hk_heap *heap, size_t alignment, size_t size)
{
    hk_heap *whole = hk_heap_whole(heap);
    void *run = NULL;
    for (int attempt = 0; run == NULL && (attempt == 0 || (attempt == 1 && hk_heap_reclaim(heap))); attempt++) {
        if (whole != heap) {
            hk_lock_take(&whole->lock);
            hk_remote_take(whole);
        }
        run = hk_run_malloc(whole, alignment, size);
        if (whole != heap)
            hk_lock_release(&whole->lock);
    }
    return run;
}

/* Under a limit a block of the C allocator is counted before it is there, or threads would exceed the limit together: this
 * raises what is counted for it from `*claimed` to `bytes`. False: the limit has no room. */
static bool large_claim(hk_heap *heap, size_t bytes, size_t *claimed)
{
    hk_heap *whole = hk_heap_whole(heap);
    if (hk_heap_limit(whole) == 0 || bytes <= *claimed)
        return true;
    if (whole != heap)
        hk_lock_take(&whole->lock);
    bool allowed = hk_limit_allows(whole, bytes - *claimed);
    if (allowed) {
        large_add(heap, (int64_t)(bytes - *claimed), 0);
        *claimed = bytes;
    } else {
        whole->refused = bytes;
    }
    if (whole != heap)
        hk_lock_release(&whole->lock);
    return allowed;
}

/* The C allocator's answer to a claim. It may be more than was asked for: if that is more than the limit allows, it goes back. */
static void *large_begin(hk_heap *heap, void *block, size_t claimed)
{
    size_t usable = block != NULL ? hk_libc.usable_size(block) : 0;
    if (claimed != 0 && !large_claim(heap, usable, &claimed)) {
        hk_libc.free(block);
        block = NULL;
    }
    if (block == NULL) {
        large_add(heap, -(int64_t)claimed, 0);
        return NULL;
    }
    note_size(usable);
    large_add(heap, (int64_t)(usable - claimed), 1);
    heap->large_allocations++;
    return block;
}

bool hk_large_try_again(size_t size)
{
    uint64_t limit = hk_os_address_limit(), used = hk_region_used();
    return limit != UINT64_MAX && used < limit && size < limit - used && hk_region_shrink(limit / 16);
}

/* From the C allocator, or of a heap that asks it for nothing: from its own pools. */
void *hk_large_malloc(hk_heap *heap, size_t size)
{
    size_t claimed = 0;
    if (hk_heap_whole(heap)->is_closed)
        return run_malloc(heap, HK_POOL_SIZE, size);
    if (!large_claim(heap, size, &claimed))
        return NULL;
    void *block = hk_libc.malloc(size);
    if (block == NULL && hk_large_try_again(size))
        block = hk_libc.malloc(size);
    return large_begin(heap, block, claimed);
}

void *hk_large_aligned(hk_heap *heap, size_t alignment, size_t size)
{
    void *block;
    size_t claimed = 0;
    if (hk_heap_whole(heap)->is_closed)
        return run_malloc(heap, alignment, size);
    if (!large_claim(heap, size, &claimed))
        return NULL;
    int status = hk_libc.memalign(&block, alignment, size);
    if (status != 0 && hk_large_try_again(size))
        status = hk_libc.memalign(&block, alignment, size);
    return large_begin(heap, status == 0 ? block : NULL, claimed);
}

/* Charges the heap for size bytes; true: they are a sample. */
static bool charge(hk_heap *heap, size_t size, uint64_t *mean)
{
    hk_heap *entered = hk_heap_enter(heap);
    entered->budget -= (int64_t)size;
    bool sampled = entered->budget < 0 && hk_budget_expire(entered, mean);
    entered->large_allocations++;
    hk_heap_leave(entered);
    return sampled;
}

/* Claims so many bytes more, after asking the embedder if need be. */
static bool claim_growth(hk_heap *heap, size_t bytes, size_t *claimed)
{
    struct hk_asked asked = {0};
    bool allowed;
    do {
        hk_heap *entered = hk_heap_enter(heap);
        allowed = large_claim(entered, bytes, claimed);
        hk_heap_leave(entered);
    } while (!allowed && hk_limit_ask(heap, &asked));
    return allowed;
}

/* Both sizes are large: the C allocator may grow in place or move pages. Counted as a free and an allocation. What it gives beyond
 * what is asked, a page or so, cannot be refused any more: so under a limit it is claimed before. */
void *hk_large_realloc(hk_heap *heap, void *block, size_t size)
{
    if (size > PTRDIFF_MAX)
        return NULL;
    size_t usable = hk_libc.usable_size(block);
    bool foreign = is_foreign(usable);
    int64_t before = foreign ? 0 : (int64_t)usable;
    uint64_t mean;
    size_t claimed = 0, most = size + hk_os_page_size() + 2 * HK_ALIGNMENT;
    if (hk_heap_limit(hk_heap_whole(heap)) != 0 && most > usable) {
        if (size <= usable)
            return block;
        if (!claim_growth(heap, most - usable, &claimed))
            return NULL;
    }
    bool sampled = charge(heap, size, &mean);
    const void *name = moving(block);
    void *moved = hk_libc.realloc(block, size);
    if (moved == NULL && size > usable && hk_large_try_again(size))
        moved = hk_libc.realloc(block, size);
    if (moved == NULL && size <= usable)
        moved = block; /* it holds as much already */
    if (name != NULL && moved != NULL)
        hk_large_forget(name);
    if (moved == NULL) {
        if (name != NULL)
            hk_recorder.rename(name, block);
        large_add(heap, -(int64_t)claimed, 0);
        return NULL;
    }
    int64_t after = (int64_t)hk_libc.usable_size(moved);
    if (foreign) { /* it becomes ours */
        if (hk_recorder.foreign != NULL)
            hk_recorder.foreign();
    }
    large_add(heap, after - before - (int64_t)claimed, foreign);
    if (sampled)
        hk_recorder.allocation(moved, size, mean, heap->domain);
    return moved;
}

/* A large block of the heap's own stays one, in its place. */
bool hk_run_realloc(hk_heap *heap, struct hk_pool *pool, size_t size)
{
    if (size <= HK_BLOCK_MAX || size > PTRDIFF_MAX || pool->heap != heap)
        return false;
    hk_heap_take(heap);
    bool resized = pool->place == HK_PLACE_RUN && hk_run_resize(pool, size);
    hk_heap_release(heap);
    uint64_t mean;
    if (resized && charge(heap, size, &mean)) {
        hk_large_forget(hk_pool_start(pool));
        hk_recorder.allocation(hk_pool_start(pool), size, mean, heap->domain);
    }
    return resized;
}
