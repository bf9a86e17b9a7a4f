/* Arrays that grow, and tables that find what is in them.
 *
 * A table (hk_index) has the numbers of things that its owner keeps in an array; it knows their hashes, and the owner tells which of those
 * with the same hash is the one. Open addressing, at most half full; things are never removed.
 *
 *     struct hk_probe probe = hk_index_probe(&index, hash);
 *     while (hk_index_next(&probe))
 *         if (same(&things[probe.number], wanted))
 *             return probe.number;
 *     hk_index_put(&probe, number_of_a_new_thing);
 *
 * No memory: the command ends with one line. Not thread-safe; not to be called inside a measured program.
 */
#ifndef HK_READ_INDEX_H
#define HK_READ_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* `array` of `*room` things of `size` bytes has place for one behind the first `count`: the same, or moved. */
void *hk_array_room(void *array, size_t count, size_t *room, size_t size);

/* FNV-1a of some bytes and of their end; of a text, where NULL is as "". The first takes HK_HASH. */
#define HK_HASH 0xcbf29ce484222325u
static inline uint64_t hk_hash_bytes(uint64_t hash, const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
    return (hash ^ 0xff) * 0x100000001b3u;
}

static inline uint64_t hk_hash_text(uint64_t hash, const char *text)
{
    return hk_hash_bytes(hash, text, text ? strlen(text) : 0);
}

struct hk_index_slot {
    uint32_t hash, number; /* number + 1; 0: free */
};

/* All zeros: empty. */
struct hk_index {
    struct hk_index_slot *slots;
    size_t size, used; /* size: a power of two, or 0 */
};

struct hk_probe {
    struct hk_index *index;
    size_t at;
    uint32_t hash, number;
};

void hk_index_widen(struct hk_index *index);
void hk_index_free(struct hk_index *index); /* and it is empty again */

/* Any 64 bits will do for a hash, in whichever of them things differ. Good until the next probe of this table. */
static inline struct hk_probe hk_index_probe(struct hk_index *index, uint64_t hash)
{
    if (index->used * 2 >= index->size)
        hk_index_widen(index);
    uint32_t mixed = (uint32_t)(((hash ^ hash >> 32) * 0x9e3779b97f4a7c15u) >> 32);
    return (struct hk_probe){.index = index, .at = mixed - 1, .hash = mixed};
}

/* The next thing with this hash is `number`; false: there is no more, and the probe is where a new one goes. */
static inline bool hk_index_next(struct hk_probe *p)
{
    const struct hk_index *index = p->index;
    for (;;) {
        const struct hk_index_slot *slot = &index->slots[++p->at & (index->size - 1)];
        if (slot->number == 0)
            return false;
        p->number = slot->number - 1;
        if (slot->hash == p->hash)
            return true;
    }
}

static inline void hk_index_put(struct hk_probe *p, size_t number)
{
    p->index->slots[p->at & (p->index->size - 1)] = (struct hk_index_slot){p->hash, (uint32_t)number + 1};
    p->index->used++;
}

#endif
