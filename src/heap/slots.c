/* The tables of words; see slots.h. They are reserved whole, beside the region, committed with its arenas, and their pages go
 * back with an arena's last ones. */
#include "heap/slots.h"

#include <sys/mman.h>

char *hk_slots_base[2];

static size_t arena_bytes(int table)
{
    return (HK_ARENA_SIZE >> (table == 0 ? HK_SLOT_SHIFT : HK_SLOT_SMALL_SHIFT)) * sizeof(uint32_t);
}

static void give_up(int tables)
{
    for (int i = 0; i < tables; i++) {
        hk_os_unmap(hk_slots_base[i], hk_region.arena_limit * arena_bytes(i));
        hk_slots_base[i] = NULL;
    }
}

bool hk_slots_begin(void)
{
    if (hk_slots_base[0] != NULL)
        return true;
    for (int i = 0; i < 2; i++) {
        size_t size = hk_region.arena_limit * arena_bytes(i);
        char *base = hk_region.span != 0 ? hk_os_reserve(size, hk_os_page_size()) : NULL;
        if (base == NULL) {
            give_up(i);
            return false;
        }
        hk_os_huge_pages(base, size, false);
        hk_slots_base[i] = base;
    }
    if (hk_slots_commit(0, hk_region.arena_next))
        return true;
    give_up(2);
    return false;
}

bool hk_slots_commit(uint32_t first, uint32_t count)
{
    bool good = true;
    for (int i = 0; i < 2 && hk_slots_base[i] != NULL && count > 0; i++)
        good &= hk_os_commit(hk_slots_base[i] + first * arena_bytes(i), count * arena_bytes(i));
    return good;
}

void hk_slots_discard(uint32_t arena)
{
    for (int i = 0; i < 2 && hk_slots_base[i] != NULL; i++)
        hk_os_discard(hk_slots_base[i] + arena * arena_bytes(i), arena_bytes(i));
}

void hk_slots_shrink(uint32_t keep, uint32_t old)
{
    for (int i = 0; i < 2 && hk_slots_base[i] != NULL && keep < old; i++)
        hk_os_unmap(hk_slots_base[i] + keep * arena_bytes(i), (old - keep) * arena_bytes(i));
}

static uint64_t resident_pages(const char *at, size_t pages)
{
    static unsigned char resident[4096];
    uint64_t count = 0;
    for (size_t some; pages > 0; at += some * hk_os_page_size(), pages -= some) {
        some = pages < sizeof(resident) ? pages : sizeof(resident);
        if (mincore((void *)(uintptr_t)at, some * hk_os_page_size(), resident) != 0)
            break;
        for (size_t i = 0; i < some; i++)
            count += resident[i] & 1;
    }
    return count;
}

uint64_t hk_slots_bytes(void)
{
    size_t page = hk_os_page_size(), arenas = __atomic_load_n(&hk_region.arena_next, __ATOMIC_RELAXED);
    uint64_t pages = 0;
    for (int i = 0; i < 2 && hk_slots_base[i] != NULL; i++)
        pages += resident_pages(hk_slots_base[i], arenas * arena_bytes(i) / page);
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
    for (uint32_t i = 0; hk_slots_base[0] != NULL && i < hk_region.arena_next; i++) {
        struct hk_arena *arena = &hk_region.arenas[i];
        for (unsigned k = 0; arena->heap != NULL && k < arena->pools; k++) {
            struct hk_pool *pool = &hk_arena_first_pool(arena)[k];
            if (pool->place >= HK_PLACE_CURRENT && pool->place != HK_PLACE_RUN && pool->block_size != 0)
                visit_pool(pool, visitor, argument);
        }
    }
}
