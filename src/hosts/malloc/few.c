/* The product without the malloc family: of it only what a block of Python's may reach, see interpose.c. */
#include <malloc.h>
#include <stdlib.h>

#include "hosts/malloc/family.h"
#include "hosts/malloc/interpose.h"

HK_HOT HK_API void free(void *block)
{
    if (__builtin_expect(hk_region_has(block), 0) && !hk_interpose_is_debug) {
        hk_interpose_free_other(block, __builtin_return_address(0));
        return;
    }
    if (__builtin_expect(!hk_next_is_known(), 0))
        hk_next_find();
    if (hk_next.free != NULL)
        hk_next.free(block);
}

HK_HOT HK_API void *realloc(void *block, size_t size)
{
    if (__builtin_expect(hk_region_has(block), 0) && !hk_interpose_is_debug)
        return hk_interpose_realloc_other(block, size, __builtin_return_address(0));
    if (__builtin_expect(hk_next.realloc == NULL, 0))
        hk_next_find();
    return hk_next.realloc(block, size);
}

HK_API size_t malloc_usable_size(void *block)
{
    if (__builtin_expect(hk_region_has(block), 0) && !hk_interpose_is_debug)
        return hk_usable_size(block);
    if (__builtin_expect(hk_next.usable_size == NULL, 0))
        hk_next_find();
    return hk_next.usable_size(block);
}

hk_heap *hk_family_heap(void)
{
    return NULL;
}

void hk_family_start(void)
{
}

void hk_family_attach_recorder(bool samples)
{
}

void hk_family_record(struct hk_family_recorder recorder)
{
}

void hk_family_fork_prepare(void)
{
}

void hk_family_fork_release(void)
{
}

int32_t hk_family_trim(void)
{
    return -1;
}
