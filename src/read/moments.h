/* Moments of a run at which the live bytes of every site are known: its start, the ends of the spans between marks
 * (capture/format.h), and its end, or now. There are 18 at most, however long the run.
 *
 * At marks sites keep whole KiB, so what lies between two moments is exact to a KiB a site; from the start to the end it is
 * exact. Blocks are known at the end only. Pure functions.
 */
#ifndef HK_READ_MOMENTS_H
#define HK_READ_MOMENTS_H

#include "read/sites.h"

#define HK_MOMENTS_MAX (HK_MARKS + 1)

enum hk_moment_kind { HK_MOMENT_START, HK_MOMENT_MARK, HK_MOMENT_END };

struct hk_moment {
    enum hk_moment_kind kind;
    unsigned span; /* of a mark: the span that it ends */
    uint64_t time_ns, allocated_bytes;
};

/* All of them in the order of time; at least start and end. Returns how many. */
size_t hk_moments(const struct hk_capture *capture, struct hk_moment moments[HK_MOMENTS_MAX]);

/* The moment nearest to what `word` says: "start", "end", "30%" of the time, "@2.5" or "2.5s" seconds ("ms", "min", "h")
 * after the start. False and an error if it says nothing of the kind; one beyond the end is the end. */
bool hk_moment_find(const struct hk_capture *capture, const char *word, struct hk_moment *moment, struct hk_error *error);

/* Live bytes at a moment, of anything that has such sums (a site, a line, a group): `live_bytes` now, and `at_mark`. */
uint64_t hk_live_at(uint64_t live_bytes, const uint64_t at_mark[HK_MARKS], const struct hk_moment *moment);

/* The same at two moments, to be compared: both in whole KiB where one of them is. */
void hk_live_between(uint64_t live_bytes, const uint64_t at_mark[HK_MARKS], unsigned spans, const struct hk_moment *from,
                     const struct hk_moment *to, uint64_t *before, uint64_t *after);

/* Variance of that difference, where a sample stands for `mean` bytes (0: exact). */
double hk_variance_between(double mean, const uint64_t at_mark[HK_MARKS], const uint64_t born_in[HK_MARKS], unsigned spans,
                           const struct hk_moment *from, const struct hk_moment *to);

#endif
