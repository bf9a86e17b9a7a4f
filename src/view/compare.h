/* heapkeeper compare: what two programs took, as text for a person and as JSON for a program. */
#ifndef HK_VIEW_COMPARE_H
#define HK_VIEW_COMPARE_H

#include "view/diff.h"

enum hk_measure { HK_MEASURE_TIME, HK_MEASURE_RSS, HK_MEASURE_PEAK, HK_MEASURE_ALLOCATED, HK_MEASURE_BLOCKS, HK_MEASURES };

struct hk_compared {
    char *name;     /* the command, for a person */
    double *values[HK_MEASURES]; /* of each run: ns, bytes, bytes, bytes, blocks */
};

/* Everything is borrowed. */
struct hk_compare_view {
    const struct hk_compared *a, *b;
    size_t runs;
    const struct hk_diff_view *diff; /* of the median runs; NULL: one of them left no figures */
};

void hk_compare_text(const struct hk_compare_view *view, const struct hk_terminal *terminal);

/* Keys are stable: names are never changed or removed within a major version, only added. */
void hk_compare_json(const struct hk_compare_view *view, FILE *out);

/* The median of `count` values, at least one; the index of the run that it is from (the lower of two) in *which, unless NULL. */
double hk_median(const double *values, size_t count, size_t *which);

#endif
