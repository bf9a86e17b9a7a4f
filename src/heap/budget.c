/* The one countdown behind which everything rare hides: samples, the timeline, requests.
 *
 * Each allocation takes its size off heap->budget; below zero the slow path comes here. The budget is set to the
 * distance to the next sample, but never more than TICK, so that time is looked at while a program allocates.
 * Distances between samples are exponential and so without memory: cutting one at a tick and going on with the rest
 * changes nothing. The bytes requested since the start fall out exactly, without a counter of their own.
 */
#include "heap/threads.h"

#define TICK (128 * 1024)
#define FOLD_EVERY 4096 /* expiries; frees in a current pool are counted in 31 bits */

static uint64_t allocated_bytes(const hk_heap *heap)
{
    return heap->allocated_before + (uint64_t)(heap->budget_start - heap->budget);
}

uint64_t hk_heap_allocated_bytes(const hk_heap *heap)
{
    uint64_t total = allocated_bytes(heap);
    for (const hk_heap *member = hk_threads_members(heap); member != NULL; member = member->next_member)
        total += allocated_bytes(member);
    return total;
}

static uint64_t allocated_by_all(void)
{
    uint64_t total = 0;
    struct hk_heap_cursor cursor = {0};
    for (const hk_heap *heap; (heap = hk_heap_next(&cursor)) != NULL;)
        total += hk_heap_allocated_bytes(heap);
    for (int domain = 0; domain < 4; domain++)
        total += __atomic_load_n(&hk_heaps_ended.bytes[domain], __ATOMIC_RELAXED);
    return total;
}

bool hk_budget_expire(hk_heap *heap, uint64_t *mean)
{
    int64_t used = heap->budget_start - heap->budget;
    bool sampled = false;
    heap->allocated_before += (uint64_t)used;
    *mean = heap->sample_mean;
    if (hk_recorder.draw != NULL && heap->watched != NULL) {
        heap->to_sample -= used;
        if (heap->to_sample < 0) { /* one less than drawn: the block that reaches the distance is the sample */
            sampled = heap->sample_mean != 0; /* 0: this was the first look, not a drawn distance */
            heap->to_sample = (int64_t)hk_recorder.draw(&heap->sample_mean) - 1;
        }
        heap->budget_start = heap->to_sample < TICK ? heap->to_sample : TICK;
    } else {
        heap->budget_start = TICK;
    }
    heap->budget = heap->budget_start;
    if (++heap->expiries % FOLD_EVERY == 0)
        hk_heap_fold(heap);
    if (hk_recorder.tick != NULL)
        hk_recorder.tick(heap, allocated_by_all());
    return sampled;
}
