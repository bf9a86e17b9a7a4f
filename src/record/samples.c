/* The table of sampled live blocks: address -> site and weight. Open addressing with linear
 * probing in anonymous memory, at most 3/4 full; a removed entry's successors move back, so
 * there are no tombstones and a long run of births and deaths leaves no trace.
 */
#include <string.h>

#include "record/internal.h"

#define FIRST_CAPACITY 128u /* entries: one page */

static uint32_t home(uintptr_t block, uint32_t capacity)
{
    return (uint32_t)((block >> 3) * 0x9e3779b97f4a7c15u >> 32) & (capacity - 1);
}

struct hk_rec_sample *hk_rec_sample_find(uintptr_t block)
{
    uint32_t mask = hk_rec.sample_capacity - 1;

    if (hk_rec.table_count == 0)
        return NULL;
    for (uint32_t at = home(block, mask + 1);; at = (at + 1) & mask) {
        if (hk_rec.samples[at].block == block)
            return &hk_rec.samples[at];
        if (hk_rec.samples[at].block == 0)
            return NULL;
    }
}

static struct hk_rec_sample *place(struct hk_rec_sample *samples, uint32_t capacity,
                                   uintptr_t block)
{
    uint32_t at = home(block, capacity);

    while (samples[at].block != 0)
        at = (at + 1) & (capacity - 1);
    return &samples[at];
}

static bool grow(void)
{
    uint32_t old = hk_rec.sample_capacity, capacity = old ? old * 2 : FIRST_CAPACITY;
    struct hk_rec_sample *samples;

    if (capacity == 0 || !(samples = hk_rec_map((size_t)capacity * sizeof *samples))) {
        hk_rec_limit(HK_LIMIT_MEMORY);
        return false;
    }
    for (uint32_t i = 0; i < old; i++)
        if (hk_rec.samples[i].block)
            *place(samples, capacity, hk_rec.samples[i].block) = hk_rec.samples[i];
    hk_rec_unmap(hk_rec.samples, (size_t)old * sizeof *samples);
    hk_rec.samples = samples;
    hk_rec.sample_capacity = capacity;
    return true;
}

struct hk_rec_sample *hk_rec_sample_add(uintptr_t block)
{
    struct hk_rec_sample *sample;

    if (hk_rec.table_count >= hk_rec.sample_capacity / 4 * 3 && !grow())
        return NULL;
    sample = place(hk_rec.samples, hk_rec.sample_capacity, block);
    memset(sample, 0, sizeof *sample);
    sample->block = block;
    __atomic_store_n(&hk_rec.table_count, hk_rec.table_count + 1, __ATOMIC_RELAXED);
    return sample;
}

void hk_rec_sample_remove(struct hk_rec_sample *sample)
{
    uint32_t mask = hk_rec.sample_capacity - 1;
    uint32_t hole = (uint32_t)(sample - hk_rec.samples), at = hole;

    for (;;) {
        at = (at + 1) & mask;
        if (hk_rec.samples[at].block == 0)
            break;
        uint32_t wanted = home(hk_rec.samples[at].block, mask + 1);
        if (((at - wanted) & mask) >= ((at - hole) & mask)) { /* may sit as far back as the hole */
            hk_rec.samples[hole] = hk_rec.samples[at];
            hole = at;
        }
    }
    hk_rec.samples[hole].block = 0;
    __atomic_store_n(&hk_rec.table_count, hk_rec.table_count - 1, __ATOMIC_RELAXED);
}

/* trusted: false after a fork in the midst of a change; then even the table's address may be
 * stale. */
void hk_rec_samples_clear(bool trusted)
{
    if (trusted)
        hk_rec_unmap(hk_rec.samples, (size_t)hk_rec.sample_capacity * sizeof *hk_rec.samples);
    hk_rec.samples = NULL;
    hk_rec.sample_capacity = 0;
    __atomic_store_n(&hk_rec.table_count, 0, __ATOMIC_RELAXED);
}
