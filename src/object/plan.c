/* See plan.h. */
#include "object/plan.h"

void hk_plan_init(struct hk_plan *plan)
{
    *plan = (struct hk_plan){.growth = HK_PLAN_GROWTH, .threshold = {0, HK_PLAN_MIDDLE}};
    hk_plan_set_threshold(plan, 0, HK_PLAN_YOUNG);
}

void hk_plan_set_threshold(struct hk_plan *plan, int generation, uint32_t threshold)
{
    if (threshold > INT32_MAX / HK_PLAN_STRETCH)
        threshold = INT32_MAX / HK_PLAN_STRETCH;
    plan->threshold[generation] = threshold;
    if (generation == 0)
        plan->young_limit = threshold == 0 ? INT32_MAX : (int32_t)threshold;
}

int hk_plan_generation(const struct hk_plan *plan, uint64_t live_bytes)
{
    uint64_t allowed = plan->survived_bytes + plan->survived_bytes / 100 * plan->growth;
    if (allowed < plan->survived_bytes + HK_PLAN_FLOOR)
        allowed = plan->survived_bytes + HK_PLAN_FLOOR;
    if (plan->growth != 0 && live_bytes > allowed)
        return 2;
    return plan->threshold[1] != 0 && plan->collections >= plan->threshold[1] ? 1 : 0;
}

void hk_plan_learn(struct hk_plan *plan, int generation, uint64_t candidates, uint64_t freed, uint64_t live_bytes)
{
    plan->made = 0;
    plan->collections = generation == 0 ? plan->collections + 1 : 0;
    if (generation == 2)
        plan->survived_bytes = live_bytes;
    int32_t least = (int32_t)plan->threshold[0];
    if (generation != 0 || least == 0)
        return;
    if (freed * 50 < candidates && plan->young_limit < least * (int32_t)HK_PLAN_STRETCH)
        plan->young_limit *= 2;
    else if (freed * 5 > candidates && plan->young_limit / 2 >= least)
        plan->young_limit /= 2;
}
