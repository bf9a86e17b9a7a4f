/* See diff.h. The groups of the later capture go into a hash table; those of the earlier one are looked up in it. */
#include "read/diff.h"

#include <stdlib.h>
#include <string.h>

#include "read/index.h"

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

void hk_diff_forget_numbers(struct hk_groups *threads)
{
    size_t kept = 0;
    for (size_t i = 0; i < threads->count; i++) {
        struct hk_group *g = &threads->groups[i], *same = threads->groups;
        char *number = strrchr(g->name, '(');
        if (number && number > g->name && number[-1] == ' ' && strspn(number + 1, "0123456789") + 2 == strlen(number))
            number[-1] = 0;
        while (same < threads->groups + kept && strcmp(same->name, g->name) != 0)
            same++;
        if (same < threads->groups + kept) {
            hk_amounts_add(&same->amounts, &g->amounts);
            free(g->name);
        } else {
            threads->groups[kept++] = *g;
        }
    }
    threads->count = kept;
}

struct hk_diff *hk_diff_captures(const struct hk_sites *before_sites, const struct hk_groups *before,
                                 const struct hk_sites *after_sites, const struct hk_groups *after)
{
    struct hk_diff *d = new_diff(before->count + after->count);
    struct hk_index index = {.size = 0};
    for (size_t i = 0; i < after->count; i++) {
        const struct hk_group *g = &after->groups[i];
        struct hk_probe probe = hk_index_probe(&index, hk_group_hash(g));
        while (hk_index_next(&probe)) /* no other of this capture is the same */
            continue;
        hk_index_put(&probe, d->count);
        d->rows[d->count] = (struct hk_diff_row){.group = g, .after = g->amounts};
        add_variances(&d->rows[d->count++], after_sites, &g->amounts);
    }
    for (size_t i = 0; i < before->count; i++) {
        const struct hk_group *g = &before->groups[i];
        struct hk_diff_row *row = NULL;
        struct hk_probe probe = hk_index_probe(&index, hk_group_hash(g));
        while (!row && hk_index_next(&probe))
            if (hk_group_same(d->rows[probe.number].group, g))
                row = &d->rows[probe.number];
        if (!row) {
            row = &d->rows[d->count++];
            row->group = g;
        }
        row->before = g->amounts;
        add_variances(row, before_sites, &g->amounts);
    }
    hk_index_free(&index);
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
