/* A table by address and domain: open addressing, at most half full; what follows a removed entry moves back. */
#include "hosts/cpython/tracked.h"

#include <string.h>

#include "base/os.h"

#define FIRST_CAPACITY 256u

static struct {
    struct hk_tracked *entries;
    size_t capacity, used;
} table;

static size_t home(uint32_t domain, uintptr_t address)
{
    return (size_t)(((address >> 3) + domain) * 0x9e3779b97f4a7c15u >> 32) & (table.capacity - 1);
}

static struct hk_tracked *place_of(uint32_t domain, uintptr_t address)
{
    size_t at = home(domain, address);
    while (table.entries[at].site != 0 && (table.entries[at].address != address || table.entries[at].domain != domain))
        at = (at + 1) & (table.capacity - 1);
    return &table.entries[at];
}

static bool grow(void)
{
    struct hk_tracked *old = table.entries;
    size_t had = table.capacity, capacity = had != 0 ? 2 * had : FIRST_CAPACITY;
    struct hk_tracked *entries = hk_os_map(capacity * sizeof *entries);
    if (entries == NULL)
        return false;
    table.entries = entries;
    table.capacity = capacity;
    for (size_t i = 0; i < had; i++)
        if (old[i].site != 0)
            *place_of(old[i].domain, old[i].address) = old[i];
    if (old != NULL)
        hk_os_unmap(old, had * sizeof *old);
    return true;
}

bool hk_tracked_put(uint32_t domain, uintptr_t address, size_t bytes, uint32_t site, size_t *had)
{
    *had = 0;
    if (2 * table.used >= table.capacity && !grow())
        return false;
    struct hk_tracked *entry = place_of(domain, address);
    if (entry->site != 0)
        *had = entry->bytes;
    else
        table.used++;
    *entry = (struct hk_tracked){address, bytes, domain, site + 1};
    return true;
}

const struct hk_tracked *hk_tracked_find(uint32_t domain, uintptr_t address)
{
    struct hk_tracked *entry = table.used != 0 ? place_of(domain, address) : NULL;
    return entry != NULL && entry->site != 0 ? entry : NULL;
}

bool hk_tracked_remove(uint32_t domain, uintptr_t address, size_t *had)
{
    struct hk_tracked *entry = table.used != 0 ? place_of(domain, address) : NULL;
    if (entry == NULL || entry->site == 0)
        return false;
    *had = entry->bytes;
    size_t mask = table.capacity - 1, hole = (size_t)(entry - table.entries);
    for (size_t at = (hole + 1) & mask; table.entries[at].site != 0; at = (at + 1) & mask) {
        size_t distance = (at - home(table.entries[at].domain, table.entries[at].address)) & mask;
        if (distance < ((at - hole) & mask))
            continue; /* it would come to lie before its home */
        table.entries[hole] = table.entries[at];
        hole = at;
    }
    table.entries[hole].site = 0;
    table.used--;
    return true;
}

void hk_tracked_clear(void)
{
    if (table.entries != NULL)
        hk_os_unmap(table.entries, table.capacity * sizeof *table.entries);
    memset(&table, 0, sizeof table);
}

bool hk_tracked_append(struct hk_group **groups, size_t *count)
{
    size_t total = *count + table.used, at = *count;
    if (table.used == 0)
        return true;
    struct hk_group *more = hk_os_map(total * sizeof *more);
    if (more == NULL)
        return false;
    if (*count != 0)
        memcpy(more, *groups, *count * sizeof *more);
    for (size_t i = 0; i < table.capacity; i++)
        if (table.entries[i].site != 0)
            more[at++] = (struct hk_group){table.entries[i].bytes, 1, table.entries[i].site - 1, table.entries[i].domain};
    hk_traces_free(*groups, *count * sizeof *more);
    *groups = more;
    *count = total;
    return true;
}
