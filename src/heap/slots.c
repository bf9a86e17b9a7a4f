/* The tables of words; see slots.h. They are reserved whole, beside the region, committed with its arenas, and their pages go
 * back with an arena's last ones. */
#include "heap/slots.h"

#include <sys/mman.h>

char *hk_slots_base[2];
uint8_t *hk_ages_base[2];

enum { WORDS = 0, AGES = 2, TABLES = 4 };

static char *base_of(int table)
{
    return table < AGES ? hk_slots_base[table] : (char *)hk_ages_base[table - AGES];
}

static void set_base(int table, char *base)
{
    if (table < AGES)
        hk_slots_base[table] = base;
    else
        hk_ages_base[table - AGES] = (uint8_t *)base;
}

static size_t arena_bytes(int table)
{
    size_t entries = HK_ARENA_SIZE >> (table % 2 == 0 ? HK_SLOT_SHIFT : HK_SLOT_SMALL_SHIFT);
    return entries * (table < AGES ? sizeof(uint32_t) : 1);
}

static bool commit(int table, uint32_t first, uint32_t count)
{
    return count == 0 || hk_os_commit(base_of(table) + first * arena_bytes(table), count * arena_bytes(table));
}

/* Two tables from `first` on; without one of them neither stays. */
static bool begin(int first)
{
    bool good = true;
    if (base_of(first) != NULL)
        return true;
    for (int i = first; i < first + 2; i++) {
        size_t size = hk_region.arena_limit * arena_bytes(i);
        char *base = hk_region.span != 0 ? hk_os_reserve(size, hk_os_page_size()) : NULL;
        set_base(i, base);
        if (base == NULL) {
            good = false;
            continue;
        }
        hk_os_huge_pages(base, size, false);
        good &= commit(i, 0, hk_region.arena_next);
    }
    for (int i = first; i < first + 2 && !good; i++) {
        if (base_of(i) != NULL)
            hk_os_unmap(base_of(i), hk_region.arena_limit * arena_bytes(i));
        set_base(i, NULL);
    }
    return good;
}

bool hk_slots_begin(void)
{
    return begin(WORDS);
}

bool hk_ages_begin(void)
{
    hk_lock_take(&hk_region.lock);
    bool had = hk_ages_base[0] != NULL, good = begin(AGES);
    for (int i = AGES; had && i < TABLES; i++)
        good &= hk_os_discard(base_of(i), hk_region.arena_next * arena_bytes(i));
    hk_lock_release(&hk_region.lock);
    return good;
}

bool hk_slots_commit(uint32_t first, uint32_t count)
{
    bool good = true;
    for (int i = 0; i < TABLES; i++)
        good &= base_of(i) == NULL || commit(i, first, count);
    return good;
}

void hk_slots_discard(uint32_t arena)
{
    for (int i = 0; i < TABLES; i++)
        if (base_of(i) != NULL)
            hk_os_discard(base_of(i) + arena * arena_bytes(i), arena_bytes(i));
}

void hk_slots_shrink(uint32_t keep, uint32_t old)
{
    for (int i = 0; i < TABLES && keep < old; i++)
        if (base_of(i) != NULL)
            hk_os_unmap(base_of(i) + keep * arena_bytes(i), (old - keep) * arena_bytes(i));
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
    for (int i = 0; i < TABLES; i++)
        if (base_of(i) != NULL)
            pages += resident_pages(base_of(i), arenas * arena_bytes(i) / page);
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
