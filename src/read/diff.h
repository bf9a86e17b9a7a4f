/* What rose and what fell: the groups of two captures, or of two moments of one, side by side.
 *
 * Groups are the same if their names are (file, function, line, library); what only one side has stands beside nothing. Every
 * site is in one row, so rows add up to the difference of the totals.
 */
#ifndef HK_READ_DIFF_H
#define HK_READ_DIFF_H

#include "read/groups.h"
#include "read/moments.h"

struct hk_diff_row {
    const struct hk_group *group; /* the later one if it is in both */
    struct hk_amounts before, after;
    double live_variance, peak_variance, total_variance; /* of the differences in bytes; 0: exact */
};

struct hk_diff {
    struct hk_diff_row *rows;
    size_t count;
    struct hk_diff_row totals; /* its group is NULL */
};

/* Threads by their names alone, "worker" for "worker (4242)", those of one name together: in another process they have other numbers. */
void hk_diff_forget_numbers(struct hk_groups *threads);

/* Borrowed until hk_diff_free: both, and the sites that they were made of. */
struct hk_diff *hk_diff_captures(const struct hk_sites *before_sites, const struct hk_groups *before,
                                 const struct hk_sites *after_sites, const struct hk_groups *after);

/* Live bytes only; the other amounts are 0. Rows that had nothing at either moment are left out. */
struct hk_diff *hk_diff_moments(const struct hk_sites *sites, const struct hk_groups *groups, const struct hk_moment *from,
                                const struct hk_moment *to);

void hk_diff_free(struct hk_diff *diff);

/* Adds both sides and the variances. */
void hk_diff_add(struct hk_diff_row *sum, const struct hk_diff_row *more);

#endif
