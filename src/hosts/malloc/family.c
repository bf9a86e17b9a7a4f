/* malloc and its family, as C and POSIX know them; family_cxx.c has C++'s, family_info.c what tells and tunes.
 *
 * Where the heap serves: results are the heap's, errno is glibc's (ENOMEM when there is no memory or more than PTRDIFF_MAX
 * was asked for; EINVAL for an alignment that is none; free keeps it). A block that comes back may be
 *
 *      a block of the heap, or one that the recorder sampled     the heap's
 *      in the region, but of another heap                        PyMem_Malloc's, by C's name: see interpose.c
 *      in the buffer of the start                                left there
 *      anything else                                             the next definition's: a large block of ours, or
 *                                                                one from before we decided
 *
 * Where it does not serve, all is passed on. */
#include "hosts/malloc/family.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "heap/debug.h"
#include "hosts/malloc/interpose.h"

/* The prototypes of libc say that arguments are never NULL, and the like; ours look. */
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wnonnull-compare"

static void *no_memory(void *block)
{
    if (__builtin_expect(block == NULL, 0))
        errno = ENOMEM;
    return block;
}

/* The heap that serves; NULL: the next definitions do, if there are any yet. */
static hk_heap *serving(void)
{
    if (__builtin_expect(hk_process_heap == NULL, 0))
        hk_family_decide();
    return hk_process_heap;
}

void *hk_family_malloc_slow(size_t size)
{
    if (hk_family_is_counted())
        return no_memory(hk_family_count_malloc(size));
    if (serving() != NULL)
        return no_memory(hk_member_malloc_slow(hk_process_member, size));
    if (hk_next_is_known())
        return hk_next.malloc(size);
    return hk_family_early_malloc(size);
}

/* A block in the region. */
static bool is_of_family(const void *block)
{
    hk_heap *owner = hk_threads_owner(block); /* of a thread, most likely: its pool's descriptor need not be looked at */
    owner = owner != NULL ? owner->facade : hk_heap_of(block);
    return owner == hk_process_heap || owner == hk_family_watched;
}

static __attribute__((noinline)) void free_strange(void *block, void *caller)
{
    if (hk_region_has(block) && !hk_interpose_is_debug)
        hk_interpose_free_other(block, caller);
    else if (block != NULL && !hk_family_is_early(block) && hk_next_is_known())
        hk_next.free(block);
}

void hk_family_free_slow(hk_heap *member, void *block)
{
    if (block == NULL)
        return;
    if (hk_region_has(block) ? hk_process_heap != NULL && is_of_family(block)
                             : hk_process_heap != NULL && !hk_family_is_early(block)) {
        if (hk_family_is_counted())
            hk_family_count_free(block);
        else
            hk_member_free_slow(member, block);
    } else {
        free_strange(block, __builtin_return_address(0));
    }
}

HK_API void *malloc(size_t size)
{
    return hk_family_malloc(size);
}

HK_API void free(void *block)
{
    hk_family_free(block);
}

HK_API void *calloc(size_t count, size_t size)
{
    hk_heap *heap = serving();
    if (__builtin_expect(heap != NULL, 1)) {
        hk_heap *member = hk_process_member;
        if (hk_family_is_counted())
            return no_memory(hk_family_count_calloc(count, size));
        if (__builtin_expect(member != &hk_no_member, 1))
            return no_memory(hk_calloc_unlocked(member, count, size));
        return no_memory(hk_calloc(heap, count, size));
    }
    if (hk_next_is_known())
        return hk_next.calloc(count, size);
    size_t total;
    return __builtin_mul_overflow(count, size, &total) ? no_memory(NULL) : hk_family_early_malloc(total);
}

/* A block of the start's buffer moves; it was small, and nobody knows exactly how small. */
static void *realloc_early(void *block, size_t size)
{
    void *moved = malloc(size);
    size_t old = hk_family_early_size(block);
    return moved != NULL ? memcpy(moved, block, size < old ? size : old) : NULL;
}

static void *family_realloc(void *block, size_t size, void *caller)
{
    hk_heap *heap = serving();
    if (block == NULL)
        return malloc(size);
    if (__builtin_expect(hk_family_is_early(block), 0))
        return realloc_early(block, size);
    if (hk_region_has(block) && !hk_interpose_is_debug && (heap == NULL || !is_of_family(block)))
        return hk_interpose_realloc_other(block, size, caller);
    if (heap == NULL)
        return hk_next.realloc(block, size);
    if (size == 0) { /* as glibc: freed */
        free(block);
        return NULL;
    }
    return no_memory(hk_family_is_counted() ? hk_family_count_realloc(block, size) : hk_realloc(heap, block, size));
}

HK_API void *realloc(void *block, size_t size)
{
    return family_realloc(block, size, __builtin_return_address(0));
}

HK_API void *reallocarray(void *block, size_t count, size_t size)
{
    size_t total;
    if (__builtin_mul_overflow(count, size, &total))
        return no_memory(NULL);
    return family_realloc(block, total, __builtin_return_address(0));
}

HK_API size_t malloc_usable_size(void *block)
{
    if (block == NULL)
        return 0;
    if (hk_region_has(block) && !hk_interpose_is_debug)
        return hk_debug_on ? hk_usable_size(block) : hk_pool_block_bytes(hk_pool_of(block)); /* redis asks of each block, twice */
    if (hk_family_is_early(block))
        return hk_family_early_size(block);
    hk_next_find();
    return hk_next.usable_size(block);
}

/* --- aligned --- */

void *hk_family_aligned(size_t alignment, size_t size)
{
    hk_heap *heap = serving();
    if (alignment <= HK_ALIGNMENT && (heap != NULL || !hk_next_is_known()))
        return hk_family_malloc(size);
    if (heap != NULL)
        return no_memory(hk_family_is_counted() ? hk_family_count_aligned(alignment, size) : hk_aligned_any(heap, alignment, size));
    return hk_next_is_known() ? hk_next.memalign(alignment, size) : no_memory(NULL);
}

/* As glibc's: what is no power of two becomes the next one. */
HK_API void *memalign(size_t alignment, size_t size)
{
    if (alignment > SIZE_MAX / 2 + 1) {
        errno = EINVAL;
        return NULL;
    }
    size_t power = HK_ALIGNMENT;
    while (power < alignment)
        power *= 2;
    return hk_family_aligned(power, size);
}

/* As glibc's since 2.38, and as C23 has it: an alignment that is none is refused. */
HK_API void *aligned_alloc(size_t alignment, size_t size)
{
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
        errno = EINVAL;
        return NULL;
    }
    return hk_family_aligned(alignment, size);
}

HK_API int posix_memalign(void **result, size_t alignment, size_t size)
{
    if (alignment % sizeof(void *) != 0 || alignment == 0 || (alignment & (alignment - 1)) != 0)
        return EINVAL;
    int saved = errno;
    void *block = hk_family_aligned(alignment, size);
    errno = saved;
    if (block == NULL)
        return ENOMEM;
    *result = block;
    return 0;
}

HK_API void *valloc(size_t size)
{
    return hk_family_aligned(hk_os_page_size(), size);
}

HK_API void *pvalloc(size_t size)
{
    size_t page = hk_os_page_size(), rounded;
    if (__builtin_add_overflow(size, page - 1, &rounded))
        return no_memory(NULL);
    return hk_family_aligned(page, rounded & ~(page - 1));
}

/* C23's; libc has them from 2.43 on. What the caller says of the block is not believed. */
HK_API void free_sized(void *block, size_t size);
HK_API void free_aligned_sized(void *block, size_t alignment, size_t size);

HK_API void free_sized(void *block, size_t size)
{
    hk_family_free(block);
}

HK_API void free_aligned_sized(void *block, size_t alignment, size_t size)
{
    hk_family_free(block);
}
