/* A table of the sites' sums.
 *
 *      shop.py · Python 3.13.0 · pid 4242 · ended
 *      every block was recorded · by line, largest live first
 *
 *           live  share  blocks      peak   blocks     total   blocks  line
 *       1.20 MiB    40%  12 000  2.00 MiB   15 000  12.0 MiB  130 000  shop.py:88 in remember_order
 *        300 KiB    10%   1 000  1.00 MiB    2 000  3.00 MiB   20 000  57 others
 *       3.00 MiB   100%  20 000  4.00 MiB   30 000  40.0 MiB  300 000  total
 *
 * What the filter or the limit leaves out is in "others", so that every column adds up to its total. The rows are made
 * first, as cells of text; the widest cell of a column is its width. On a narrow terminal the blocks are left out, and what
 * lies right of them: which share of the total was freed soon ("temp"), the largest block, and how old half of what lives is at
 * least ("age").
 */
#include "view/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "view/head.h"
#include "view/json.h"
#include "view/report.h"
#include "view/report_lists.h"
#include "view/rows.h"
#include "view/where.h"

#define NAME       1100 /* bytes of a row's name */
#define NAME_LEAST 24   /* columns, or the blocks are left out */

enum column { LIVE, ERROR, SHARE, LIVE_BLOCKS, PEAK, PEAK_BLOCKS, TOTAL, TOTAL_BLOCKS, TEMPORARY, LARGEST, AGE, COLUMNS };

/* Which groups to show, in order, and the sum of the others. */
struct choice {
    struct hk_groups *groups;
    uint32_t *order;
    size_t shown;
    struct hk_amounts others;
    struct hk_ages other_ages;
    size_t other_count;
};

const char *const hk_sort_words[HK_SORT_AGE + 2] = {"live", "peak", "total", "blocks", "temporary", "largest", "age", NULL};

const char *hk_sort_word(enum hk_sort sort)
{
    return sort <= HK_SORT_AGE ? hk_sort_words[sort] : "unknown";
}

/* ---- the filter ---- */

/* After a mismatch it goes on at the last *, one byte further: no more than length times length steps. A pattern that is
 * to be found anywhere begins and ends with one. */
bool hk_pattern_found(const char *pattern, const char *text)
{
    const char *star = pattern, *from = text, *at = pattern;
    while (*text) {
        if (*at == '*') {
            star = ++at;
            from = text;
        } else if (*at && (*at == '?' || *at == *text)) {
            at++;
            text++;
        } else if (!*at) {
            return true;
        } else {
            at = star;
            text = ++from;
        }
    }
    while (*at == '*')
        at++;
    return !*at;
}

char *hk_group_name(const struct hk_group *g)
{
    const struct hk_source_frame *f = &g->frame;
    const char *code = f->through ? f->through : f->module;
    char *text = NULL, line[16] = "";
    if (g->name)
        return hk_must_strdup(g->name);
    if (f->line)
        snprintf(line, sizeof line, ":%d", f->line);
    if (asprintf(&text, "%s%s%s%s%s%s%s", f->file, line, *f->file && *f->qualified_name ? " in " : "", f->qualified_name,
                 code ? " [" : "", code ? code : "", code ? "]" : "") < 0)
        return hk_must_strdup("");
    return text;
}

/* ---- the choice ---- */

static uint64_t amount(const struct hk_amounts *a, enum hk_sort sort)
{
    const uint64_t values[] = {a->live_bytes,  a->peak_bytes,      a->total_bytes,
                               a->live_blocks, a->lives.temporary, a->lives.largest_bytes, a->live_bytes};
    return values[sort];
}

static uint64_t rank(const struct hk_group *g, enum hk_sort sort)
{
    if (sort != HK_SORT_AGE)
        return amount(&g->amounts, sort);
    unsigned epoch = hk_ages_epoch(&g->ages, 0.5);
    return epoch < HK_EPOCHS ? epoch + 1 : 0;
}

static const struct hk_groups *sorting;
static enum hk_sort sorting_by;

static int by_amount(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    const struct hk_amounts *x = &sorting->groups[i].amounts, *y = &sorting->groups[k].amounts;
    uint64_t first = rank(&sorting->groups[i], sorting_by), second = rank(&sorting->groups[k], sorting_by);
    if (first != second)
        return first > second ? -1 : 1;
    if (x->total_bytes != y->total_bytes)
        return x->total_bytes > y->total_bytes ? -1 : 1;
    return i < k ? -1 : i > k;
}

static struct choice choose(const struct hk_table_view *v)
{
    struct choice c = {.groups = hk_groups_make(v->sites, v->by)};
    uint32_t *order = hk_must_calloc(c.groups->count, sizeof *order);
    for (uint32_t i = 0; i < c.groups->count; i++)
        order[i] = i;
    sorting = c.groups;
    sorting_by = v->sort;
    qsort(order, c.groups->count, sizeof *order, by_amount);
    for (size_t i = 0; i < c.groups->count; i++) {
        const struct hk_group *g = &c.groups->groups[order[i]];
        char *name = v->filter ? hk_group_name(g) : NULL;
        if ((!v->limit || c.shown < v->limit) && (!name || hk_pattern_found(v->filter, name))) {
            order[c.shown++] = order[i];
        } else {
            hk_amounts_add(&c.others, &g->amounts);
            hk_ages_add(&c.other_ages, &g->ages);
            c.other_count++;
        }
        free(name);
    }
    c.order = order;
    return c;
}

static void let_go(struct choice *c)
{
    hk_groups_free(c->groups);
    free(c->order);
}

/* ---- text ---- */

void hk_group_text(const struct hk_terminal *t, const struct hk_capture *capture, const struct hk_group *g, char *to, size_t size,
                   size_t columns)
{
    const char *directory = hk_capture_string(capture, capture->header.working_directory);
    if (!g->name && *g->frame.qualified_name) {
        hk_where_text(t, directory, to, size, &g->frame, columns);
        return;
    }
    hk_text_clean(t, to, size, g->name ? g->name : g->frame.file);
    if (!g->name)
        hk_text_shorten_path(to, directory);
    hk_text_keep_end(t, to, columns);
}

static void fill(const struct hk_table_view *v, const struct hk_terminal *t, const struct hk_amounts *a,
                 const struct hk_ages *ages, const struct hk_amounts *totals, char (*cells)[HK_CELL])
{
    double value = (double)amount(a, v->sort), error = 0;
    hk_text_bytes(cells[LIVE], (double)a->live_bytes);
    hk_text_count(cells[LIVE_BLOCKS], a->live_blocks);
    hk_text_bytes(cells[PEAK], (double)a->peak_bytes);
    hk_text_count(cells[PEAK_BLOCKS], a->peak_blocks);
    hk_text_bytes(cells[TOTAL], (double)a->total_bytes);
    hk_text_count(cells[TOTAL_BLOCKS], a->total_blocks);
    hk_text_percent(cells[SHARE], value, (double)amount(totals, v->sort));
    hk_list_temporary(cells[TEMPORARY], &a->lives);
    hk_text_bytes(cells[LARGEST], (double)a->lives.largest_bytes);
    hk_list_age(cells[AGE], ages);
    /* One standard error of a sampled sum of bytes; blocks are known as well as their bytes. */
    double bytes = v->sort == HK_SORT_BLOCKS ? (double)a->live_bytes : value;
    if (v->sort > HK_SORT_BLOCKS)
        return; /* not of a sampled record */
    if (bytes > 0)
        error = 100 * sqrt(hk_sites_mean(v->sites, a->total_bytes, a->samples) / bytes);
    if (error >= 0.5)
        snprintf(cells[ERROR], HK_CELL, "%s%.0f%%", t->utf8 ? "±" : "+-", error > 100 ? 100 : error);
}

static void put_head(const struct hk_table_view *v, const struct hk_terminal *t)
{
    char filter[512], order[32] = "oldest";
    if (v->sort == HK_SORT_TEMPORARY)
        snprintf(order, sizeof order, "most temporary");
    else if (v->sort == HK_SORT_LARGEST)
        snprintf(order, sizeof order, "largest block");
    else if (v->sort != HK_SORT_AGE)
        snprintf(order, sizeof order, "largest %s", hk_sort_word(v->sort));
    hk_head_text(t, v->capture);
    hk_head_mode(t, v->capture);
    fprintf(t->out, "%sby %s, %s first", hk_dot(t), hk_group_word(v->by), order);
    if (v->filter)
        fprintf(t->out, "%swith \"%s\"", hk_dot(t), hk_text_clean(t, filter, sizeof filter, v->filter));
    fputs("\n\n", t->out);
}

static void put_rows(const struct hk_table_view *v, const struct hk_terminal *t, const struct choice *c,
                     const struct hk_rows *rows)
{
    char name[NAME], count[32], what[64];
    hk_rows_put(rows, t, 0, hk_group_word(v->by), HK_BOLD);
    for (size_t i = 0; i < c->shown; i++) {
        hk_group_text(t, v->capture, &c->groups->groups[c->order[i]], name, sizeof name, rows->name_columns);
        hk_rows_put(rows, t, i + 1, name, HK_PLAIN);
    }
    if (c->other_count) {
        snprintf(what, sizeof what, "%s other%s", hk_text_count(count, c->other_count), c->other_count == 1 ? "" : "s");
        hk_rows_put(rows, t, c->shown + 2, what, HK_DIM);
    }
    hk_rows_put(rows, t, c->shown + 1, "total", HK_BOLD);
}

void hk_table_text(const struct hk_table_view *v, const struct hk_terminal *t)
{
    static const char heads[COLUMNS][HK_CELL] = {"live", "", "share", "blocks", "peak", "blocks", "total", "blocks", "temp", "largest", "age"};
    struct hk_rows rows = {.columns = COLUMNS};
    struct choice c = choose(v);
    memcpy(hk_rows_add(&rows), heads, sizeof heads);
    for (size_t i = 0; i < c.shown; i++)
        fill(v, t, &c.groups->groups[c.order[i]].amounts, &c.groups->groups[c.order[i]].ages, &c.groups->totals, hk_rows_add(&rows));
    fill(v, t, &c.groups->totals, &c.groups->ages, &c.groups->totals, hk_rows_add(&rows));
    if (c.other_count) /* else it takes no room */
        fill(v, t, &c.others, &c.other_ages, &c.groups->totals, hk_rows_add(&rows));
    rows.left_out[ERROR] = v->capture->header.mode != HK_MODE_SAMPLE;
    rows.optional[PEAK_BLOCKS] = rows.optional[TOTAL_BLOCKS] = true;
    rows.optional[LIVE_BLOCKS] = v->sort != HK_SORT_BLOCKS;
    rows.optional[TEMPORARY] = v->sort != HK_SORT_TEMPORARY;
    rows.optional[LARGEST] = v->sort != HK_SORT_LARGEST;
    rows.optional[AGE] = v->sort != HK_SORT_AGE;
    rows.left_out[SHARE] = v->sort == HK_SORT_LARGEST;
    rows.left_out[AGE] = !hk_sites_have_ages(v->sites);
    rows.left_out[TEMPORARY] = rows.left_out[LARGEST] = !hk_sites_have_lives(v->sites);
    hk_rows_lay_out(&rows, t, NAME_LEAST);
    put_head(v, t);
    put_rows(v, t, &c, &rows);
    hk_rows_free(&rows);
    let_go(&c);
}

/* ---- JSON ---- */

void hk_lives_json(struct hk_json *j, const struct hk_sites *s, const struct hk_lives *lives)
{
    if (!hk_sites_have_lives(s))
        return;
    hk_json_unsigned(j, "largest_bytes", lives->largest_bytes);
    hk_json_number(j, "temporary_share", lives->sampled ? (double)lives->temporary / (double)lives->sampled : NAN);
}

void hk_ages_json(struct hk_json *j, const struct hk_sites *s, const struct hk_ages *ages)
{
    double all = 0;
    if (!hk_sites_have_ages(s))
        return;
    for (unsigned i = 0; i < HK_EPOCHS; i++)
        all += (double)ages->bytes[i];
    hk_json_array(j, "ages", true);
    for (unsigned i = 0; i < HK_EPOCHS; i++) {
        if (ages->bytes[i] == 0)
            continue;
        hk_json_object(j, NULL, true);
        hk_json_unsigned(j, "at_least_ns", hk_epoch_ns(i));
        hk_json_number(j, "share", (double)ages->bytes[i] / all);
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
}

void hk_amounts_json(struct hk_json *j, const struct hk_amounts *a)
{
    hk_json_unsigned(j, "live_bytes", a->live_bytes);
    hk_json_unsigned(j, "live_blocks", a->live_blocks);
    hk_json_unsigned(j, "peak_bytes", a->peak_bytes);
    hk_json_unsigned(j, "peak_blocks", a->peak_blocks);
    hk_json_unsigned(j, "total_bytes", a->total_bytes);
    hk_json_unsigned(j, "total_blocks", a->total_blocks);
    hk_json_unsigned(j, "samples", a->samples);
}

void hk_group_json(struct hk_json *j, enum hk_group_by by, const struct hk_group *g)
{
    char *name = hk_group_name(g);
    hk_json_string(j, "name", name);
    if (by == HK_BY_LINE || by == HK_BY_FUNCTION) {
        hk_json_string(j, "function", g->frame.function);
        hk_json_string(j, "qualified_name", g->frame.qualified_name);
    }
    if (by == HK_BY_LINE || by == HK_BY_FUNCTION || by == HK_BY_FILE)
        hk_json_string(j, "file", g->frame.file);
    if (by == HK_BY_LINE) {
        hk_json_signed(j, "line", g->frame.line);
        hk_json_bool(j, "jit", g->frame.is_near);
    }
    if (g->frame.module && by != HK_BY_MODULE)
        hk_json_string(j, "module", g->frame.module);
    if (g->frame.through)
        hk_json_string(j, "through", g->frame.through);
    free(name);
}

static void put_group(struct hk_json *j, const struct hk_table_view *v, const struct hk_group *g)
{
    hk_json_object(j, NULL, true);
    hk_group_json(j, v->by, g);
    hk_amounts_json(j, &g->amounts);
    hk_lives_json(j, v->sites, &g->amounts.lives);
    hk_ages_json(j, v->sites, &g->ages);
    hk_json_unsigned(j, "sites", g->site_count);
    hk_json_end_object(j);
}

static void put_facts(struct hk_json *j, const struct hk_table_view *v)
{
    hk_json_string(j, "format", "heapkeeper-table-1");
    hk_head_json(j, v->capture);
    hk_json_string(j, "by", hk_group_word(v->by));
    hk_json_string(j, "sort", hk_sort_word(v->sort));
    if (v->filter)
        hk_json_string(j, "filter", v->filter);
    hk_json_array(j, "choices", true);
    for (int i = 0; i < HK_GROUP_CHOICES; i++)
        if (i != HK_BY_THREAD || hk_sites_have_threads(v->sites))
            hk_json_string(j, NULL, hk_group_word((enum hk_group_by)i));
    hk_json_end_array(j);
    hk_json_array(j, "not_recorded", true);
    if (!hk_sites_have_threads(v->sites))
        hk_json_string(j, NULL, "thread");
    hk_json_end_array(j);
}

void hk_table_json(const struct hk_table_view *v, FILE *out)
{
    struct choice c = choose(v);
    struct hk_report report = {v->capture, v->sites, NULL, 0};
    struct hk_json json, *j = &json;

    hk_json_start(j, out);
    hk_json_object(j, NULL, false);
    put_facts(j, v);
    hk_json_object(j, "totals", true);
    hk_amounts_json(j, &c.groups->totals);
    hk_lives_json(j, v->sites, &c.groups->totals.lives);
    hk_ages_json(j, v->sites, &c.groups->ages);
    hk_json_unsigned(j, "rows", c.groups->count);
    hk_json_end_object(j);
    hk_json_object(j, "others", true);
    hk_amounts_json(j, &c.others);
    hk_lives_json(j, v->sites, &c.others.lives);
    hk_ages_json(j, v->sites, &c.other_ages);
    hk_json_unsigned(j, "rows", c.other_count);
    hk_json_end_object(j);
    hk_json_array(j, "rows", false);
    for (size_t i = 0; i < c.shown; i++)
        put_group(j, v, &c.groups->groups[c.order[i]]);
    hk_json_end_array(j);
    struct hk_notes notes = hk_notes(&report);
    hk_json_array(j, "notes", false);
    for (size_t i = 0; i < notes.count; i++)
        hk_json_string(j, NULL, notes.texts[i]);
    hk_json_end_array(j);
    hk_notes_free(&notes);
    hk_json_end_object(j);
    let_go(&c);
}
