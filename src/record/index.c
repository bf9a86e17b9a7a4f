/* Hash indexes: from a key's 32-bit hash to the number of an entry in the file, open addressing
 * with linear probing in anonymous memory. Slots keep the hash, so that growing needs no look at
 * the entries and a probe looks at an entry only if it is most likely the one. Nothing is ever
 * deleted. The caller compares keys:
 *
 *      for (at = hash & mask; slots[at].entry != HK_REC_NONE; at = (at + 1) & mask) ...
 */
#include <string.h>

#include "record/internal.h"

#define FIRST_CAPACITY 512u /* slots: one page */

uint32_t hk_rec_hash(uint64_t a, uint64_t b)
{
    uint64_t h = (a ^ (b * 0x9e3779b97f4a7c15u)) * 0xff51afd7ed558ccdu;

    h ^= h >> 32;
    h *= 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(h >> 32);
}

uint32_t hk_rec_hash_bytes(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    uint64_t h = size * 0x9e3779b97f4a7c15u, word;

    for (; size >= 8; bytes += 8, size -= 8) {
        memcpy(&word, bytes, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 29;
    }
    word = 0;
    for (size_t i = 0; i < size; i++)
        word = word << 8 | bytes[i];
    return hk_rec_hash(h, word);
}

static void place(struct hk_rec_slot *slots, uint32_t capacity, uint32_t hash, uint32_t entry)
{
    uint32_t at = hash & (capacity - 1);

    while (slots[at].entry != HK_REC_NONE)
        at = (at + 1) & (capacity - 1);
    slots[at].hash = hash;
    slots[at].entry = entry;
}

static bool grow(struct hk_rec_index *index)
{
    uint32_t capacity = index->capacity ? index->capacity * 2 : FIRST_CAPACITY;
    struct hk_rec_slot *slots = hk_rec_map(capacity * sizeof *slots);

    if (!slots) {
        hk_rec_limit(HK_LIMIT_MEMORY);
        return false;
    }
    if (capacity * sizeof *slots >= HK_REC_HUGE_BYTES)
        hk_os_huge_pages(slots, capacity * sizeof *slots, true);
    memset(slots, 0xff, capacity * sizeof *slots);
    for (uint32_t i = 0; i < index->capacity; i++)
        if (index->slots[i].entry != HK_REC_NONE)
            place(slots, capacity, index->slots[i].hash, index->slots[i].entry);
    hk_rec_unmap(index->slots, index->capacity * sizeof *slots);
    index->slots = slots;
    index->capacity = capacity;
    return true;
}

bool hk_rec_index_add(struct hk_rec_index *index, uint32_t hash, uint32_t entry)
{
    if (index->used >= index->capacity / 4 * 3 && !grow(index) &&
        index->used + 1 >= index->capacity)
        return false;
    place(index->slots, index->capacity, hash, entry);
    index->used++;
    return true;
}
