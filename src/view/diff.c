/* A table of differences.
 *
 *      shop.py · Python 3.13.0 · pid 4242 · ended · 1.20 s to 12.4 s
 *      every block was recorded · by line, largest change of live first
 *
 *          change  blocks    before     after  line
 *       +1.20 MiB  +1 200  1.00 MiB  2.20 MiB  shop.py:88 in remember_order
 *        -300 KiB     -12   600 KiB   300 KiB  57 others
 *        +900 KiB  +1 188  1.60 MiB  2.50 MiB  total
 *
 * What did not change, and what the filter or the limit leaves out, is in "others": every column adds up to its total. Of a
 * sampled capture each change has its standard error beside it.
 */
#include "view/diff.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "view/head.h"
#include "view/rows.h"

#define NAME       1100
#define NAME_LEAST 24

enum column { CHANGE, ERROR, BLOCKS, BEFORE, AFTER, TOTAL, COLUMNS };

/* Which rows to show, in order, and the sum of the others. */
struct choice {
    uint32_t *order;
    size_t shown, other_count;
    struct hk_diff_row others;
};

static uint64_t amount(const struct hk_amounts *a, enum hk_sort sort)
{
    const uint64_t amounts[] = {a->live_bytes, a->peak_bytes, a->total_bytes, a->live_blocks};
    return sort < HK_SORT_CHOICES ? amounts[sort] : 0;
}

static uint64_t size_of_change(const struct hk_diff_row *row, enum hk_sort sort)
{
    uint64_t before = amount(&row->before, sort), after = amount(&row->after, sort);
    return before > after ? before - after : after - before;
}

static bool changed(const struct hk_diff_row *row)
{
    return memcmp(&row->before, &row->after, offsetof(struct hk_amounts, samples)) != 0;
}

static const struct hk_diff *sorting;
static enum hk_sort sorting_by;

static int by_change(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    uint64_t x = size_of_change(&sorting->rows[i], sorting_by), y = size_of_change(&sorting->rows[k], sorting_by);
    if (x == y) {
        x = size_of_change(&sorting->rows[i], HK_SORT_TOTAL);
        y = size_of_change(&sorting->rows[k], HK_SORT_TOTAL);
    }
    return x > y ? -1 : x < y ? 1 : i < k ? -1 : i > k;
}

static struct choice choose(const struct hk_diff_view *v)
{
    struct choice c = {.order = hk_must_calloc(v->diff->count, sizeof *c.order)};
    for (uint32_t i = 0; i < v->diff->count; i++)
        c.order[i] = i;
    sorting = v->diff;
    sorting_by = v->sort;
    qsort(c.order, v->diff->count, sizeof *c.order, by_change);
    for (size_t i = 0; i < v->diff->count; i++) {
        const struct hk_diff_row *row = &v->diff->rows[c.order[i]];
        char *name = v->filter ? hk_group_name(row->group) : NULL;
        if (changed(row) && (!v->limit || c.shown < v->limit) && (!name || hk_pattern_found(v->filter, name))) {
            c.order[c.shown++] = c.order[i];
        } else {
            hk_diff_add(&c.others, row);
            c.other_count++;
        }
        free(name);
    }
    return c;
}

/* ---- text ---- */

static const char *sign(uint64_t before, uint64_t after)
{
    return after > before ? "+" : after < before ? "-" : "";
}

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

static void put_bytes(char *cell, uint64_t before, uint64_t after)
{
    char text[32];
    snprintf(cell, HK_CELL, "%s%s", sign(before, after), hk_text_bytes(text, (double)distance(before, after)));
}

static double error_of(const struct hk_diff_row *row, enum hk_sort sort)
{
    double variance = sort == HK_SORT_PEAK ? row->peak_variance : sort == HK_SORT_TOTAL ? row->total_variance : row->live_variance;
    return sqrt(fmax(0, variance));
}

static void fill(const struct hk_diff_view *v, const struct hk_terminal *t, const struct hk_diff_row *row, char (*cells)[HK_CELL])
{
    enum hk_sort bytes = v->sort == HK_SORT_BLOCKS ? HK_SORT_LIVE : v->sort;
    uint64_t before = amount(&row->before, bytes), after = amount(&row->after, bytes);
    char text[32];
    put_bytes(cells[CHANGE], before, after);
    double error = error_of(row, bytes);
    if (error >= 1)
        snprintf(cells[ERROR], HK_CELL, "%s%s", t->utf8 ? "±" : "+-", hk_text_bytes(text, error));
    uint64_t blocks[] = {row->before.live_blocks, row->after.live_blocks};
    if (bytes == HK_SORT_PEAK)
        memcpy(blocks, (uint64_t[]){row->before.peak_blocks, row->after.peak_blocks}, sizeof blocks);
    if (bytes == HK_SORT_TOTAL)
        memcpy(blocks, (uint64_t[]){row->before.total_blocks, row->after.total_blocks}, sizeof blocks);
    snprintf(cells[BLOCKS], HK_CELL, "%s%s", sign(blocks[0], blocks[1]), hk_text_count(text, distance(blocks[0], blocks[1])));
    hk_text_bytes(cells[BEFORE], (double)before);
    hk_text_bytes(cells[AFTER], (double)after);
    put_bytes(cells[TOTAL], row->before.total_bytes, row->after.total_bytes);
}

static char *moment_text(char to[32], const struct hk_moment *m)
{
    if (m->kind == HK_MOMENT_START)
        return strcpy(to, "start");
    return hk_text_duration(to, m->time_ns);
}

static void put_head(const struct hk_diff_view *v, const struct hk_terminal *t)
{
    const char *dot = hk_dot(t);
    char a[32], b[32], filter[512];
    if (v->from) {
        hk_head_text(t, v->after);
        fprintf(t->out, "from %s to %s%s%s", moment_text(a, v->from), moment_text(b, v->to),
                v->to->kind == HK_MOMENT_END ? v->after->life == HK_LIFE_RUNNING ? " (now)" : " (end)" : "", dot);
    } else {
        fputs("before  ", t->out);
        hk_head_text(t, v->before);
        fputs("after   ", t->out);
        hk_head_text(t, v->after);
    }
    hk_head_mode(t, v->after);
    fprintf(t->out, "%sby %s, largest change of %s first", dot, hk_group_word(v->by), hk_sort_word(v->sort));
    if (v->filter)
        fprintf(t->out, "%swith \"%s\"", dot, hk_text_clean(t, filter, sizeof filter, v->filter));
    fputc('\n', t->out);
    if (v->before->header.mode != v->after->header.mode)
        fputs("one record is exact and the other is not: small differences say nothing\n", t->out);
    fputc('\n', t->out);
}

static enum hk_style style_of(const struct hk_diff_view *v, const struct hk_diff_row *row)
{
    uint64_t before = amount(&row->before, v->sort), after = amount(&row->after, v->sort);
    double error = v->sort == HK_SORT_BLOCKS ? 0 : error_of(row, v->sort);
    if ((double)distance(before, after) < 2 * error) /* may be chance */
        return HK_DIM;
    return after > before ? HK_RED : after < before ? HK_GREEN : HK_PLAIN;
}

void hk_diff_text(const struct hk_diff_view *v, const struct hk_terminal *t)
{
    static const char heads[COLUMNS][HK_CELL] = {"change", "", "blocks", "before", "after", "allocated"};
    struct hk_rows rows = {.columns = COLUMNS};
    struct choice c = choose(v);
    char name[NAME], count[32], what[64];
    memcpy(hk_rows_add(&rows), heads, sizeof heads);
    for (size_t i = 0; i < c.shown; i++)
        fill(v, t, &v->diff->rows[c.order[i]], hk_rows_add(&rows));
    fill(v, t, &v->diff->totals, hk_rows_add(&rows));
    if (c.other_count)
        fill(v, t, &c.others, hk_rows_add(&rows));
    rows.left_out[ERROR] = v->before->header.mode != HK_MODE_SAMPLE && v->after->header.mode != HK_MODE_SAMPLE;
    rows.left_out[BLOCKS] = v->from != NULL;
    rows.left_out[TOTAL] = v->from != NULL || v->sort == HK_SORT_TOTAL;
    rows.optional[TOTAL] = rows.optional[BEFORE] = true;
    hk_rows_lay_out(&rows, t, NAME_LEAST);

    put_head(v, t);
    hk_rows_put(&rows, t, 0, hk_group_word(v->by), HK_BOLD);
    for (size_t i = 0; i < c.shown; i++) {
        const struct hk_diff_row *row = &v->diff->rows[c.order[i]];
        const struct hk_capture *owner = row->after.total_blocks || v->from ? v->after : v->before;
        hk_group_text(t, owner, row->group, name, sizeof name, rows.name_columns);
        hk_rows_put(&rows, t, i + 1, name, style_of(v, row));
    }
    if (c.other_count) {
        snprintf(what, sizeof what, "%s other%s", hk_text_count(count, c.other_count), c.other_count == 1 ? "" : "s");
        hk_rows_put(&rows, t, c.shown + 2, what, HK_DIM);
    }
    hk_rows_put(&rows, t, c.shown + 1, "total", HK_BOLD);
    hk_rows_free(&rows);
    free(c.order);
}

/* ---- JSON ---- */

static void put_side(struct hk_json *j, const struct hk_diff_view *v, const char *key, const struct hk_amounts *a)
{
    hk_json_object(j, key, true);
    if (v->from)
        hk_json_unsigned(j, "live_bytes", a->live_bytes);
    else
        hk_amounts_json(j, a);
    hk_json_end_object(j);
}

static void put_row(struct hk_json *j, const struct hk_diff_view *v, const struct hk_diff_row *row)
{
    const struct hk_amounts *a = &row->before, *b = &row->after;
    put_side(j, v, "before", a);
    put_side(j, v, "after", b);
    hk_json_object(j, "change", true);
    hk_json_signed(j, "live_bytes", (int64_t)(b->live_bytes - a->live_bytes));
    if (!v->from) {
        hk_json_signed(j, "live_blocks", (int64_t)(b->live_blocks - a->live_blocks));
        hk_json_signed(j, "peak_bytes", (int64_t)(b->peak_bytes - a->peak_bytes));
        hk_json_signed(j, "peak_blocks", (int64_t)(b->peak_blocks - a->peak_blocks));
        hk_json_signed(j, "total_bytes", (int64_t)(b->total_bytes - a->total_bytes));
        hk_json_signed(j, "total_blocks", (int64_t)(b->total_blocks - a->total_blocks));
    }
    hk_json_end_object(j);
    hk_json_object(j, "standard_error", true);
    hk_json_number(j, "live_bytes", error_of(row, HK_SORT_LIVE));
    if (!v->from) {
        hk_json_number(j, "peak_bytes", error_of(row, HK_SORT_PEAK));
        hk_json_number(j, "total_bytes", error_of(row, HK_SORT_TOTAL));
    }
    hk_json_end_object(j);
}

static void put_rows(struct hk_json *j, const struct hk_diff_view *v, const struct choice *c)
{
    for (size_t i = 0; i < c->shown; i++) {
        hk_json_object(j, NULL, true);
        hk_group_json(j, v->by, v->diff->rows[c->order[i]].group);
        put_row(j, v, &v->diff->rows[c->order[i]]);
        hk_json_end_object(j);
    }
}

static void put_capture(struct hk_json *j, const char *key, const struct hk_capture *capture, const struct hk_moment *moment)
{
    hk_json_object(j, key, false);
    hk_head_json(j, capture);
    if (moment)
        hk_json_unsigned(j, "time_ns", moment->time_ns);
    hk_json_end_object(j);
}

void hk_diff_json(const struct hk_diff_view *v, FILE *out)
{
    struct choice c = choose(v);
    struct hk_json json, *j = &json;
    hk_json_start(j, out);
    hk_json_object(j, NULL, false);
    hk_json_string(j, "format", "heapkeeper-diff-1");
    put_capture(j, "before", v->before, v->from);
    put_capture(j, "after", v->after, v->to);
    hk_json_string(j, "by", hk_group_word(v->by));
    hk_json_string(j, "sort", hk_sort_word(v->sort));
    if (v->filter)
        hk_json_string(j, "filter", v->filter);
    if (v->from) {
        struct hk_moment moments[HK_MOMENTS_MAX];
        size_t count = hk_moments(v->after, moments);
        hk_json_array(j, "moments_ns", true);
        for (size_t i = 0; i < count; i++)
            hk_json_unsigned(j, NULL, moments[i].time_ns);
        hk_json_end_array(j);
    }
    hk_json_object(j, "totals", false);
    put_row(j, v, &v->diff->totals);
    hk_json_unsigned(j, "rows", v->diff->count);
    hk_json_end_object(j);
    hk_json_object(j, "others", false);
    put_row(j, v, &c.others);
    hk_json_unsigned(j, "rows", c.other_count);
    hk_json_end_object(j);
    hk_json_array(j, "rows", false);
    put_rows(j, v, &c);
    hk_json_end_array(j);
    hk_json_end_object(j);
    free(c.order);
}

void hk_diff_json_rows(const struct hk_diff_view *v, struct hk_json *j)
{
    struct choice c = choose(v);
    put_rows(j, v, &c);
    free(c.order);
}
