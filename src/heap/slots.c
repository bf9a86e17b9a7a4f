/* The table of words; see slots.h. It is reserved whole, beside the region, committed with its arenas, and its pages go back
 * with an arena's last ones. */
#include "heap/slots.h"

#include <sys/mman.h>

#define ARENA_BYTES (HK_SLOT_GROUP_BYTES * (HK_ARENA_POOLS / HK_SLOT_GROUP))

char *hk_slots_base;

bool hk_slots_begin(void)
{
    if (hk_slots_base != NULL)
        return true;
    if (hk_region.span == 0)
        return false;
    size_t size = hk_region.arena_limit * ARENA_BYTES;
    char *base = hk_os_reserve(size, hk_os_page_size());
    if (base == NULL)
        return false;
    hk_os_huge_pages(base, size, false);
    hk_slots_base = base;
    if (hk_slots_commit(0, hk_region.arena_next))
        return true;
    hk_os_unmap(base, size);
    hk_slots_base = NULL;
    return false;
}

bool hk_slots_commit(uint32_t first, uint32_t count)
{
    if (hk_slots_base == NULL || count == 0)
        return true;
    return hk_os_commit(hk_slots_base + first * ARENA_BYTES, count * ARENA_BYTES);
}

void hk_slots_discard(uint32_t arena)
{
    if (hk_slots_base != NULL)
        hk_os_discard(hk_slots_base + arena * ARENA_BYTES, ARENA_BYTES);
}

void hk_slots_shrink(uint32_t keep, uint32_t old)
{
    if (hk_slots_base != NULL && keep < old)
        hk_os_unmap(hk_slots_base + keep * ARENA_BYTES, (old - keep) * ARENA_BYTES);
}

uint64_t hk_slots_bytes(void)
{
    static unsigned char resident[4096];
    size_t page = hk_os_page_size(), pages = 0;
    if (hk_slots_base == NULL)
        return 0;
    size_t left = __atomic_load_n(&hk_region.arena_next, __ATOMIC_RELAXED) * ARENA_BYTES / page;
    for (const char *at = hk_slots_base; left > 0;) {
        size_t some = left < sizeof(resident) ? left : sizeof(resident);
        if (mincore((void *)(uintptr_t)at, some * page, resident) != 0)
            break;
        for (size_t i = 0; i < some; i++)
            pages += resident[i] & 1;
        at += some * page;
        left -= some;
    }
    return pages * page;
}

static void visit_pool(struct hk_pool *pool, hk_slots_visitor *visitor, void *argument)
{
    char *start = hk_pool_start(pool);
    for (uint32_t at = 0; at + pool->block_size <= pool->carved; at += pool->block_size) {
        uint32_t *word = hk_slot_at(pool, start + at);
        if (*word != 0)
            visitor(word, pool->block_size - (*word >> 1 & HK_SLOT_SLACK_MAX), argument);
    }
}

void hk_slots_visit(hk_slots_visitor *visitor, void *argument)
{
    for (uint32_t i = 0; hk_slots_base != NULL && i < hk_region.arena_next; i++) {
        struct hk_arena *arena = &hk_region.arenas[i];
        for (unsigned k = 0; arena->heap != NULL && k < arena->pools; k++) {
            struct hk_pool *pool = &hk_arena_first_pool(arena)[k];
            if (pool->place >= HK_PLACE_CURRENT && pool->place != HK_PLACE_RUN && pool->block_size != 0)
                visit_pool(pool, visitor, argument);
        }
    }
}
