/* When to collect which generation: counters in, a decision out. Knows no mechanism, so recorded counters can be put to it.
 *
 *      full (2)     when live bytes have grown by `growth` percent, and a floor, since the last full one; looked at every
 *                   threshold[0] objects. So the candidates of all full collections together are at most
 *                   1 + 100 / growth times the bytes that survived: linear. Live bytes of objects are those of the last
 *                   collection and the mean size for each that was made since: pools that are full of holes would hide
 *                   garbage
 *      young (0)    when `made` (made less died) has come to what is worthwhile: threshold[0] or more
 *      middle (1)   every so many young ones: threshold[1] or more
 *
 * What is worthwhile. A program that stays as large as it is makes garbage until it has grown by `growth` percent; a full collection
 * finds that, and of a hundred objects that it looks at it frees 100 * growth / (100 + growth). A young collection that yields less
 * had better been left to the full one: the number doubles, and full ones may come to do all the work. One that yields
 * much more halves it, since its candidates should be in the cache still. Programs change: each full collection takes an
 * eighth off.
 *
 * Large blocks. A few objects may be much memory: with each so many bytes in blocks that are larger than a pool's (LARGE), the next
 * object looks whether the heap has grown, as if it were the threshold's.
 *
 * Steps. Who collects in steps (step.c) wants no long pauses: what young collections would be long for is left to rounds. Until the next
 * full collection these start at the threshold, and there are none of the middle generation. */
#ifndef HK_OBJECT_PLAN_H
#define HK_OBJECT_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#define HK_PLAN_YOUNG 2000u /* CPython 3.13's */
#define HK_PLAN_MIDDLE 10u
#define HK_PLAN_GROWTH 75u  /* percent; CPython's rule for its oldest generation has 25 */
#define HK_PLAN_FLOOR (14u << 17)
#define HK_PLAN_LARGE (1u << 19)
#define HK_PLAN_STRETCH 16u /* while there are no full collections, what is worthwhile stays below so many times the threshold */

enum { HK_PLAN_NOTHING = -1 };

struct hk_plan {
    int64_t left;          /* 0: made has come to the young limit. Each tracked object that is made takes one off, each that dies adds one */
    int32_t young_limit;   /* INT32_MAX: there is none */
    uint32_t threshold[2]; /* as set */
    uint32_t worthwhile[2]; /* as many, or more */
    uint64_t large_bytes;  /* allocated in large blocks since growth was looked at */
    uint32_t collections;  /* of generation 0 since the last of generation 1 */
    uint32_t growth;       /* percent; 0: no full collections */
    bool stepped;          /* rounds have come since the last full collection */
    /* Of the objects that are tracked: */
    int64_t object_bytes;    /* after the last collection, less what steps have freed since */
    uint32_t mean_bytes;     /* of those looked at then */
    /* Live after the last full collection: */
    uint64_t survived_bytes;
};

struct hk_plan_outcome { /* of a collection */
    int generation;
    uint64_t candidates, candidate_bytes, freed, freed_bytes;
};

/* Tracked objects made less died since the last collection. */
static inline int64_t hk_plan_made(const struct hk_plan *plan)
{
    return plan->young_limit - plan->left;
}

static inline void hk_plan_forget_made(struct hk_plan *plan)
{
    plan->left = plan->young_limit;
}

void hk_plan_init(struct hk_plan *plan);
void hk_plan_set_threshold(struct hk_plan *plan, int generation, uint32_t threshold);
/* The young limit is reached: the generation to collect. HK_PLAN_NOTHING: none; the limit is another. other_bytes: live, beside the
 * objects that are tracked. */
int hk_plan_generation(struct hk_plan *plan, uint64_t other_bytes);
/* A large block was allocated. */
void hk_plan_large(struct hk_plan *plan, uint64_t bytes);
/* Of the objects that are tracked, about. */
uint64_t hk_plan_object_bytes(const struct hk_plan *plan);
/* One of steps begins. */
void hk_plan_begin_round(struct hk_plan *plan);
/* It has freed so many objects. */
void hk_plan_freed(struct hk_plan *plan, uint64_t objects);
/* It has ended, which is as good as a full collection. seen_bytes: what it looked at; grown: how hk_plan_object_bytes has changed
 * since. */
void hk_plan_learn_round(struct hk_plan *plan, uint64_t seen_bytes, int64_t grown, uint64_t other_bytes);
/* What came of it. */
void hk_plan_learn(struct hk_plan *plan, const struct hk_plan_outcome *outcome, uint64_t other_bytes);

#endif
