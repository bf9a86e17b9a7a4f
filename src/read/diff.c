/* See diff.h. The groups of the later capture go into a hash table; those of the earlier one are looked up in it. */
#include "read/diff.h"

#include <stdlib.h>

void hk_diff_add(struct hk_diff_row *sum, const struct hk_diff_row *more)
{
    hk_amounts_add(&sum->before, &more->before);
    hk_amounts_add(&sum->after, &more->after);
    sum->live_variance += more->live_variance;
    sum->peak_variance += more->peak_variance;
    sum->total_variance += more->total_variance;
}

static void add_variances(struct hk_diff_row *row, const struct hk_sites *s, const struct hk_amounts *a)
{
    double mean = hk_sites_mean(s, a->total_bytes, a->samples);
    row->live_variance += mean * (double)a->live_bytes;
    row->peak_variance += mean * (double)a->peak_bytes;
    row->total_variance += mean * (double)a->total_bytes;
}

static struct hk_diff *new_diff(size_t rows)
{
    struct hk_diff *d = hk_must_calloc(1, sizeof *d);
    d->rows = hk_must_calloc(rows, sizeof *d->rows);
    return d;
}

static void add_up(struct hk_diff *d)
{
    for (size_t i = 0; i < d->count; i++)
        hk_diff_add(&d->totals, &d->rows[i]);
}

struct hk_diff *hk_diff_captures(const struct hk_sites *before_sites, const struct hk_groups *before,
                                 const struct hk_sites *after_sites, const struct hk_groups *after)
{
    struct hk_diff *d = new_diff(before->count + after->count);
    size_t size = 64;
    while (size < after->count * 2)
        size *= 2;
    uint32_t *slots = hk_must_calloc(size, sizeof *slots); /* index of a row + 1 */
    for (size_t i = 0; i < after->count; i++) {
        const struct hk_group *g = &after->groups[i];
        size_t at = hk_group_hash(g) & (size - 1);
        while (slots[at])
            at = (at + 1) & (size - 1);
        d->rows[d->count] = (struct hk_diff_row){.group = g, .after = g->amounts};
        add_variances(&d->rows[d->count], after_sites, &g->amounts);
        slots[at] = (uint32_t)++d->count;
    }
    for (size_t i = 0; i < before->count; i++) {
        const struct hk_group *g = &before->groups[i];
        size_t at = hk_group_hash(g) & (size - 1);
        while (slots[at] && !hk_group_same(d->rows[slots[at] - 1].group, g))
            at = (at + 1) & (size - 1);
        struct hk_diff_row *row = &d->rows[slots[at] ? slots[at] - 1 : d->count];
        if (!slots[at]) { /* no other of this capture is the same */
            row->group = g;
            d->count++;
        }
        row->before = g->amounts;
        add_variances(row, before_sites, &g->amounts);
    }
    free(slots);
    add_up(d);
    return d;
}

struct hk_diff *hk_diff_moments(const struct hk_sites *s, const struct hk_groups *groups, const struct hk_moment *from,
                                const struct hk_moment *to)
{
    struct hk_diff *d = new_diff(groups->count);
    unsigned spans = s->capture->mark_count;
    for (size_t i = 0; i < groups->count; i++) {
        const struct hk_group *g = &groups->groups[i];
        struct hk_diff_row *row = &d->rows[d->count];
        *row = (struct hk_diff_row){.group = g};
        hk_live_between(g->amounts.live_bytes, g->at_mark, spans, from, to, &row->before.live_bytes, &row->after.live_bytes);
        double mean = hk_sites_mean(s, g->amounts.total_bytes, g->amounts.samples);
        row->live_variance = hk_variance_between(mean, g->at_mark, g->born_in, spans, from, to);
        d->count += row->before.live_bytes || row->after.live_bytes;
    }
    add_up(d);
    return d;
}

void hk_diff_free(struct hk_diff *d)
{
    if (d)
        free(d->rows);
    free(d);
}
