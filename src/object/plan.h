/* When to collect which generation: counters in, a decision out. Knows no mechanism, so recorded counters can be put to it.
 *
 *      young (0)    when `made` (made less died) is over threshold[0]. A collection that frees less than 2 % of what it looked at
 *                   doubles the threshold, up to 16 times what was set: there is nothing to be had, and what it
 *                   looks at is promoted all the same. One that frees more than 20 % halves it, down to what was set,
 *                   since its candidates should be in the cache still
 *      middle (1)   every threshold[1]-th young one
 *      full (2)     when live bytes have grown by `growth` percent, and a floor, since the last full one. So the candidates of all
 *                   full collections together are at most 1 + 100 / growth times the bytes that survived: linear. */
#ifndef HK_OBJECT_PLAN_H
#define HK_OBJECT_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#define HK_PLAN_YOUNG 2000u /* CPython 3.13's */
#define HK_PLAN_MIDDLE 10u
#define HK_PLAN_GROWTH 25u  /* percent, as CPython's rule for its oldest generation */
#define HK_PLAN_FLOOR (1u << 20)
#define HK_PLAN_STRETCH 16u

struct hk_plan {
    int32_t made;          /* tracked objects made less died since the last collection */
    int32_t young_limit;   /* what made is compared with: threshold[0], stretched; INT32_MAX: never */
    uint32_t threshold[2]; /* as set */
    uint32_t collections;  /* of generation 0 since the last of generation 1 */
    uint32_t growth;       /* percent; 0: no full collections */
    uint64_t survived_bytes; /* live after the last full collection */
};

void hk_plan_init(struct hk_plan *plan);
void hk_plan_set_threshold(struct hk_plan *plan, int generation, uint32_t threshold);
/* The young limit is reached: the generation to collect. */
int hk_plan_generation(const struct hk_plan *plan, uint64_t live_bytes);
/* What came of it. */
void hk_plan_learn(struct hk_plan *plan, int generation, uint64_t candidates, uint64_t freed, uint64_t live_bytes);

#endif
