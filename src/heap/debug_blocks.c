/* The table of the blocks of debug mode: open addressing by address, in 64 shards with a lock each; a shard doubles when it is
 * three quarters full, in mapped pages. Removal moves the records behind it up, so there are no tombstones. */
#include "heap/debug.h"

#include <string.h>

#define FIRST_CAPACITY 128u

struct hk_debug_shard hk_debug_shards[HK_DEBUG_SHARDS];

static uint64_t hash_of(uintptr_t block)
{
    return (block >> 4) * 0x9e3779b97f4a7c15u;
}

struct hk_debug_shard *hk_debug_shard_of(const void *block)
{
    return &hk_debug_shards[hash_of((uintptr_t)block) >> 58];
}

static uint32_t home_of(const struct hk_debug_shard *shard, uintptr_t block)
{
    return (uint32_t)(hash_of(block) >> 24) & (shard->capacity - 1);
}

static struct hk_debug_record *slot_for(const struct hk_debug_shard *shard, uintptr_t block)
{
    uint32_t at = home_of(shard, block);
    while (shard->slots[at].block != 0 && shard->slots[at].block != block)
        at = (at + 1) & (shard->capacity - 1);
    return &shard->slots[at];
}

struct hk_debug_record *hk_debug_find(struct hk_debug_shard *shard, const void *block)
{
    if (shard->capacity == 0 || block == NULL)
        return NULL;
    struct hk_debug_record *slot = slot_for(shard, (uintptr_t)block);
    return slot->block != 0 ? slot : NULL;
}

static bool grow(struct hk_debug_shard *shard)
{
    struct hk_debug_shard larger = {.capacity = shard->capacity != 0 ? shard->capacity * 2 : FIRST_CAPACITY};
    larger.slots = hk_os_map(larger.capacity * sizeof(*larger.slots));
    if (larger.slots == NULL)
        return false;
    for (uint32_t i = 0; i < shard->capacity; i++)
        if (shard->slots[i].block != 0)
            *slot_for(&larger, shard->slots[i].block) = shard->slots[i];
    if (shard->slots != NULL)
        hk_os_unmap(shard->slots, shard->capacity * sizeof(*shard->slots));
    shard->slots = larger.slots;
    shard->capacity = larger.capacity;
    return true;
}

struct hk_debug_record *hk_debug_insert(struct hk_debug_shard *shard, const void *block)
{
    if (shard->count >= shard->capacity / 4 * 3 && !grow(shard) && shard->count + 1 >= shard->capacity)
        return NULL;
    struct hk_debug_record *slot = slot_for(shard, (uintptr_t)block);
    shard->count += slot->block == 0;
    memset(slot, 0, sizeof(*slot));
    slot->block = (uintptr_t)block;
    return slot;
}

void hk_debug_remove(struct hk_debug_shard *shard, struct hk_debug_record *record)
{
    uint32_t mask = shard->capacity - 1, hole = (uint32_t)(record - shard->slots);
    for (uint32_t at = (hole + 1) & mask; shard->slots[at].block != 0; at = (at + 1) & mask) {
        uint32_t home = home_of(shard, shard->slots[at].block);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            shard->slots[hole] = shard->slots[at];
            hole = at;
        }
    }
    shard->slots[hole].block = 0;
    shard->count--;
}

const struct hk_debug_record *hk_debug_near(const void *pointer)
{
    uintptr_t address = (uintptr_t)pointer;
    for (uint32_t s = 0; s < HK_DEBUG_SHARDS; s++)
        for (uint32_t i = 0; i < hk_debug_shards[s].capacity; i++) {
            const struct hk_debug_record *record = &hk_debug_shards[s].slots[i];
            uintptr_t start = record->block != 0 ? (uintptr_t)hk_debug_below(record) : 0;
            if (start != 0 && address >= start && address < record->block + record->size + hk_debug_rear(record))
                return record;
        }
    return NULL;
}
