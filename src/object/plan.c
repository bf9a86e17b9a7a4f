/* See plan.h. */
#include "object/plan.h"

static void limit_set(struct hk_plan *plan, int64_t limit)
{
    plan->left += limit - plan->young_limit;
    plan->young_limit = (int32_t)limit;
}

void hk_plan_init(struct hk_plan *plan)
{
    *plan = (struct hk_plan){.growth = HK_PLAN_GROWTH, .mean_bytes = 48};
    hk_plan_set_threshold(plan, 0, HK_PLAN_YOUNG);
    hk_plan_set_threshold(plan, 1, HK_PLAN_MIDDLE);
}

void hk_plan_set_threshold(struct hk_plan *plan, int generation, uint32_t threshold)
{
    if (threshold > INT32_MAX / HK_PLAN_STRETCH)
        threshold = INT32_MAX / HK_PLAN_STRETCH;
    plan->threshold[generation] = plan->worthwhile[generation] = threshold;
    if (generation == 0)
        limit_set(plan, threshold == 0 ? INT32_MAX : threshold);
}

uint64_t hk_plan_object_bytes(const struct hk_plan *plan)
{
    int64_t bytes = plan->object_bytes + hk_plan_made(plan) * plan->mean_bytes;
    return bytes < 0 ? 0 : (uint64_t)bytes;
}

void hk_plan_large(struct hk_plan *plan, uint64_t bytes)
{
    plan->large_bytes += bytes;
    if (plan->large_bytes >= HK_PLAN_LARGE && plan->young_limit != INT32_MAX && plan->left > 0)
        limit_set(plan, hk_plan_made(plan));
}

int hk_plan_generation(struct hk_plan *plan, uint64_t other_bytes)
{
    uint64_t growth = plan->survived_bytes / 100 * plan->growth;
    plan->large_bytes = 0;
    if (growth < HK_PLAN_FLOOR)
        growth = HK_PLAN_FLOOR;
    if (plan->growth != 0 && hk_plan_object_bytes(plan) + other_bytes > plan->survived_bytes + growth)
        return 2;
    if (hk_plan_made(plan) < plan->worthwhile[0]) {
        int64_t next = hk_plan_made(plan) + plan->threshold[0];
        limit_set(plan, next < plan->worthwhile[0] ? next : plan->worthwhile[0]);
        return HK_PLAN_NOTHING;
    }
    return !plan->stepped && plan->threshold[1] != 0 && plan->collections >= plan->worthwhile[1] ? 1 : 0;
}

static void judge(struct hk_plan *plan, int generation, uint32_t yield)
{
    uint32_t least = plan->threshold[generation], *worthwhile = &plan->worthwhile[generation];
    uint32_t most = plan->stepped ? least : plan->growth == 0 ? least * HK_PLAN_STRETCH : INT32_MAX;
    uint32_t usual = plan->growth == 0 ? 2 : 100 * plan->growth / (100 + plan->growth);
    if (yield < usual + (100 - usual) / 3 && *worthwhile <= most / 2)
        *worthwhile *= 2;
    else if (yield > usual + (100 - usual) / 3 * 2 && *worthwhile / 2 >= least)
        *worthwhile /= 2;
}

static void forgive(struct hk_plan *plan, int generation)
{
    uint32_t least = plan->threshold[generation], less = plan->worthwhile[generation] / 8 * 7;
    plan->worthwhile[generation] = less < least ? least : less;
}

void hk_plan_learn(struct hk_plan *plan, const struct hk_plan_outcome *outcome, uint64_t other_bytes)
{
    int generation = outcome->generation;
    if (outcome->candidates > 0)
        plan->mean_bytes = (uint32_t)(outcome->candidate_bytes / outcome->candidates);
    uint64_t bytes = generation == 2 ? outcome->candidate_bytes : hk_plan_object_bytes(plan);
    plan->object_bytes = (int64_t)(bytes - (outcome->freed_bytes < bytes ? outcome->freed_bytes : bytes));
    plan->collections = generation == 0 ? plan->collections + 1 : 0;
    if (generation == 2) {
        plan->survived_bytes = (uint64_t)plan->object_bytes + other_bytes;
        plan->stepped = false;
        forgive(plan, 0);
        forgive(plan, 1);
    } else {
        judge(plan, generation, outcome->candidates == 0 ? 0 : (uint32_t)(100 * outcome->freed / outcome->candidates));
    }
    uint32_t next = plan->growth == 0 || plan->worthwhile[0] < plan->threshold[0] ? plan->worthwhile[0] : plan->threshold[0];
    plan->young_limit = next == 0 ? INT32_MAX : (int32_t)next;
    hk_plan_forget_made(plan);
}

void hk_plan_begin_round(struct hk_plan *plan)
{
    plan->stepped = true;
    hk_plan_set_threshold(plan, 0, plan->threshold[0]); /* not what has proved worthwhile */
}

void hk_plan_freed(struct hk_plan *plan, uint64_t objects)
{
    plan->object_bytes -= (int64_t)(objects * plan->mean_bytes);
}

void hk_plan_learn_round(struct hk_plan *plan, uint64_t seen_bytes, int64_t grown, uint64_t other_bytes)
{
    int64_t bytes = (int64_t)seen_bytes + grown;
    plan->survived_bytes = (bytes > 0 ? (uint64_t)bytes : 0) + other_bytes;
    plan->object_bytes = bytes - hk_plan_made(plan) * plan->mean_bytes;
}
