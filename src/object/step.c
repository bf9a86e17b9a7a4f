/* A runtime's collection in steps: what src/gc/step.c finds is checked, and freed as a collection frees its dead (dead.c).
 *
 * The check is hk_gc_scan_again: of a batch of objects, those stay that no reference from outside of it reaches. That, finalizers
 * and freeing are one piece, in which nothing else of the program runs.
 *
 * The plan is told what is freed, so that it knows how large the heap is. A round's end is to it what a full collection's is:
 * while rounds keep up none of these starts by itself. */
#include <string.h>

#include "object/runtime.h"

/* The pools of the batch, each once. */
static bool pools_of(const struct hk_gc_array *batch, struct hk_gc_pools *pools)
{
    bool good = true;
    pools->count = 0;
    for (size_t i = 0; good && i < batch->count; i++) {
        uint32_t pool = (uint32_t)(hk_granule_of(batch->items[i]) / HK_POOL_GRANULES);
        if (hk_gc_tables.pools[pool].queued)
            continue;
        good = hk_gc_pools_push(pools, pool);
        hk_gc_tables.pools[pool].queued = good;
    }
    for (size_t i = 0; i < pools->count; i++)
        hk_gc_tables.pools[pools->items[i]].queued = false;
    return good;
}

static void whites_set(const struct hk_gc_array *batch, bool white)
{
    for (size_t i = 0; i < batch->count; i++) {
        size_t granule = hk_granule_of(batch->items[i]);
        uint64_t bit = hk_bit_of(granule);
        hk_gc_tables.white[granule / 64] = (hk_gc_tables.white[granule / 64] & ~bit) | (white ? bit : 0);
    }
}

/* They are white, and garbage. */
static bool bury(hk_runtime *runtime, const struct hk_gc_array *batch)
{
    struct hk_dead dead;
    struct hk_gc_found found = {.white = batch->count};
    if (!pools_of(batch, &runtime->looked_at) || !hk_dead_survey(&runtime->looked_at, &found, runtime->save_all, &dead))
        return false;
    runtime->step_stats.resurrected += hk_dead_prepare(runtime, &dead);
    if (runtime->save_all)
        hk_collect_save(runtime, &dead);
    uint64_t freed = dead.count;
    hk_dead_bury(runtime, &runtime->looked_at, &dead);
    hk_plan_freed(&runtime->plan, freed);
    runtime->step_stats.freed += freed;
    runtime->round.freed += freed;
    runtime->round.uncollectable += batch->count - freed;
    return true;
}

static bool check(hk_runtime *runtime, struct hk_gc_array *batch, uint64_t largest)
{
    uint64_t start = hk_os_clock_ns();
    hk_gc_step_stats *stats = &runtime->step_stats;
    runtime->collecting = true;
    stats->checked += batch->count;
    whites_set(batch, true);
    runtime->visiting = true;
    bool good = hk_gc_scan_again(&hk_native_model, batch) >= 0;
    runtime->visiting = false;
    if (good && batch->count > 0)
        good = bury(runtime, batch);
    if (!good)
        whites_set(batch, false);
    runtime->collecting = false;
    uint64_t took = hk_os_clock_ns() - start;
    if (largest > stats->largest_component)
        stats->largest_component = largest;
    if (took > stats->longest_check_nanoseconds)
        stats->longest_check_nanoseconds = took;
    return good;
}

static void round_begin(hk_runtime *runtime)
{
    struct hk_gc_step *step = &runtime->step;
    step->model = &hk_native_model;
    step->heap = runtime->cyclic;
    step->pools.count = 0;
    hk_plan_begin_round(&runtime->plan);
    runtime->step_estimate = hk_plan_object_bytes(&runtime->plan);
    hk_gc_step_begin(step);
    step->failed = !hk_collect_pools(runtime, &step->pools);
}

static void give_up(hk_runtime *runtime)
{
    runtime->round.examined += runtime->step.candidates;
    hk_gc_step_give_up(&runtime->step);
}

static void round_end(hk_runtime *runtime)
{
    struct hk_gc_step *step = &runtime->step;
    int64_t grown = (int64_t)hk_plan_object_bytes(&runtime->plan) - (int64_t)runtime->step_estimate;
    if (!runtime->enabled)
        hk_plan_forget_made(&runtime->plan); /* there is nobody to compare it, and new objects would ask each time */
    hk_plan_learn_round(&runtime->plan, step->candidate_bytes, grown, hk_collect_other_bytes(runtime));
    runtime->step_stats.rounds++;
    give_up(runtime);
}

/* 1: the round has ended. 0: it is late. */
static int go_on(hk_runtime *runtime, uint64_t deadline)
{
    struct hk_gc_step *step = &runtime->step;
    if (step->stop)
        give_up(runtime);
    if (step->phase == 0)
        round_begin(runtime);
    do {
        runtime->visiting = true;
        enum hk_gc_step_result result = hk_gc_step_on(step, deadline);
        runtime->visiting = false;
        if (step->noted)
            hk_collect_untrack(runtime);
        step->noted = false;
        switch (result) {
        case HK_GC_STEP_LATE:
            return 0;
        case HK_GC_STEP_NOTED:
            break;
        case HK_GC_STEP_BATCH:
            if (step->batch.count == 0 || check(runtime, &step->batch, step->largest))
                break;
            /* fall through */
        case HK_GC_STEP_FAILED:
            give_up(runtime);
            return -1;
        case HK_GC_STEP_END:
            round_end(runtime);
            return 1;
        }
    } while (!step->stop && hk_os_clock_ns() < deadline);
    return 0;
}

void hk_step_tell(hk_runtime *runtime)
{
    if (runtime->round.nanoseconds == 0)
        return;
    runtime->round.generation = 2;
    runtime->round.cause = HK_COLLECTION_STEPS;
    hk_collect_tell(&runtime->round);
    runtime->round = (hk_collection){0};
}

int hk_gc_step(hk_runtime *runtime, uint32_t microseconds)
{
    hk_gc_step_stats *stats = &runtime->step_stats;
    if (__builtin_expect(runtime->watch != NULL, 0))
        hk_watch_enter(runtime, "hk_gc_step");
    if (runtime->collecting || runtime->visiting || runtime->ending || runtime->releasing != NULL || runtime->depth > 0)
        return 0;
    uint64_t start = hk_os_clock_ns();
    int result = go_on(runtime, start + (uint64_t)microseconds * 1000);
    uint64_t took = hk_os_clock_ns() - start;
    stats->steps++;
    stats->nanoseconds += took;
    if (took > stats->longest_nanoseconds)
        stats->longest_nanoseconds = took;
    runtime->round.nanoseconds += took;
    if (took > runtime->round.longest_nanoseconds)
        runtime->round.longest_nanoseconds = took;
    if (result != 0)
        hk_step_tell(runtime);
    return result;
}

void hk_gc_get_step_stats(const hk_runtime *runtime, hk_gc_step_stats *stats)
{
    hk_gc_step_stats now = runtime->step_stats;
    size_t size = stats->size < sizeof(now) ? stats->size : sizeof(now);
    now.size = stats->size;
    memcpy(stats, &now, size);
}

void hk_step_trim(hk_runtime *runtime)
{
    if (runtime->step.phase != 0 || runtime->step_stats.steps == 0)
        return;
    hk_gc_step_discard(runtime->cyclic);
}
