/* What two programs took.
 *
 *      A  python3 join.py
 *      B  python3 plus.py
 *      5 runs of each, in turn
 *
 *                       A               B     B/A
 *           120 ms  ±3%     180 ms  ±2%    1.50×  time
 *         3.20 MiB        6.40 MiB         2.00×  peak
 *
 * Medians; the spread is half of what lies between the smallest and the largest. Below it the difference of the runs in the middle,
 * by line.
 */
#include "view/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "view/json.h"
#include "view/rows.h"

static const char *const names[HK_MEASURES] = {"time, without recording", "peak resident size, without recording",
                                               "peak of what was recorded", "allocated", "blocks allocated"};
static const char *const keys[HK_MEASURES] = {"time_ns", "peak_rss_bytes", "peak_bytes", "allocated_bytes", "allocated_blocks"};

static const double *sorting;

static int by_value(const void *a, const void *b)
{
    double x = sorting[*(const size_t *)a], y = sorting[*(const size_t *)b];
    return x < y ? -1 : x > y;
}

double hk_median(const double *values, size_t count, size_t *which)
{
    size_t *order = hk_must_calloc(count, sizeof *order);
    for (size_t i = 0; i < count; i++)
        order[i] = i;
    sorting = values;
    qsort(order, count, sizeof *order, by_value);
    double low = values[order[(count - 1) / 2]], high = values[order[count / 2]];
    if (which)
        *which = order[(count - 1) / 2];
    free(order);
    return (low + high) / 2;
}

static double spread(const double *values, size_t count)
{
    double least = values[0], most = values[0];
    for (size_t i = 1; i < count; i++) {
        least = fmin(least, values[i]);
        most = fmax(most, values[i]);
    }
    return (most - least) / 2;
}

static void value_text(enum hk_measure measure, double value, char *to)
{
    char text[32];
    if (measure == HK_MEASURE_TIME)
        hk_text_duration(text, (uint64_t)value);
    else if (measure == HK_MEASURE_BLOCKS)
        hk_text_count(text, (uint64_t)value);
    else
        hk_text_bytes(text, value);
    snprintf(to, HK_CELL, "%s", text);
}

void hk_compare_text(const struct hk_compare_view *v, const struct hk_terminal *t)
{
    static const char heads[5][HK_CELL] = {"A", "", "B", "", "B/A"};
    const struct hk_compared *both[] = {v->a, v->b};
    struct hk_rows rows = {.columns = 5};
    char name[1024];
    memcpy(hk_rows_add(&rows), heads, sizeof heads);
    for (int m = 0; m < HK_MEASURES; m++) {
        char(*cells)[HK_CELL] = hk_rows_add(&rows);
        double medians[2];
        for (int k = 0; k < 2; k++) {
            medians[k] = hk_median(both[k]->values[m], v->runs, NULL);
            double part = medians[k] > 0 ? 100 * spread(both[k]->values[m], v->runs) / medians[k] : 0;
            value_text((enum hk_measure)m, medians[k], cells[2 * k]);
            if (part >= 0.5)
                snprintf(cells[2 * k + 1], HK_CELL, "%s%.0f%%", t->utf8 ? "±" : "+-", part > 999 ? 999 : part);
        }
        if (medians[0] > 0)
            snprintf(cells[4], HK_CELL, "%.2f%s", medians[1] / medians[0], t->utf8 ? "×" : "x");
    }
    hk_rows_lay_out(&rows, t, 20);
    for (int k = 0; k < 2; k++)
        fprintf(t->out, "%c  %s%s%s\n", 'A' + k, hk_style(t, HK_BOLD), hk_text_clean(t, name, sizeof name, both[k]->name),
                hk_style(t, HK_PLAIN));
    fprintf(t->out, "%zu run%s of each, in turn\n\n", v->runs, v->runs == 1 ? "" : "s");
    hk_rows_put(&rows, t, 0, "", HK_BOLD);
    for (size_t m = 0; m < HK_MEASURES; m++)
        hk_rows_put(&rows, t, m + 1, names[m], HK_PLAIN);
    hk_rows_free(&rows);
    fputc('\n', t->out);
    if (v->diff)
        hk_diff_text(v->diff, t);
    else
        fputs("one of them left no figures: its memory was not recorded\n", t->out);
}

static void put_side(struct hk_json *j, const char *key, const struct hk_compared *c, size_t runs)
{
    hk_json_object(j, key, false);
    hk_json_string(j, "command", c->name);
    for (int m = 0; m < HK_MEASURES; m++) {
        hk_json_object(j, keys[m], true);
        hk_json_signed(j, "median", (int64_t)hk_median(c->values[m], runs, NULL));
        hk_json_array(j, "runs", true);
        for (size_t i = 0; i < runs; i++)
            hk_json_signed(j, NULL, (int64_t)c->values[m][i]);
        hk_json_end_array(j);
        hk_json_end_object(j);
    }
    hk_json_end_object(j);
}

void hk_compare_json(const struct hk_compare_view *v, FILE *out)
{
    struct hk_json json, *j = &json;
    hk_json_start(j, out);
    hk_json_object(j, NULL, false);
    hk_json_string(j, "format", "heapkeeper-compare-1");
    hk_json_unsigned(j, "runs", v->runs);
    put_side(j, "a", v->a, v->runs);
    put_side(j, "b", v->b, v->runs);
    hk_json_object(j, "ratios", true);
    for (int m = 0; m < HK_MEASURES; m++)
        hk_json_number(j, keys[m], hk_median(v->b->values[m], v->runs, NULL) / hk_median(v->a->values[m], v->runs, NULL));
    hk_json_end_object(j);
    hk_json_array(j, "rows", false);
    if (v->diff)
        hk_diff_json_rows(v->diff, j);
    hk_json_end_array(j);
    hk_json_end_object(j);
}
