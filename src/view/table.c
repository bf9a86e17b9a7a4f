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
 * first, as cells of text; the widest cell of a column is its width. On a narrow terminal the blocks are left out.
 */
#include "view/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "view/json.h"
#include "view/report.h"
#include "view/where.h"

#define NAME        1100 /* bytes of a row's name */
#define NAME_LEAST  24   /* columns, or the blocks are left out */
#define NO_TERMINAL 400  /* columns of a name where there is no terminal to say */

enum column { LIVE, ERROR, SHARE, LIVE_BLOCKS, PEAK, PEAK_BLOCKS, TOTAL, TOTAL_BLOCKS, COLUMNS };

struct row {
    char cells[COLUMNS][40];
};

/* Which groups to show, in order, and the sum of the others. */
struct choice {
    struct hk_groups *groups;
    uint32_t *order;
    size_t shown;
    struct hk_amounts others;
    size_t other_count;
};

const char *hk_sort_word(enum hk_sort sort)
{
    static const char *const words[] = {"live", "peak", "total", "blocks"};
    return sort < HK_SORT_CHOICES ? words[sort] : "unknown";
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

/* What a row is called, in full. The caller frees it. */
static char *full_name(const struct hk_group *g)
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
    const uint64_t values[] = {a->live_bytes, a->peak_bytes, a->total_bytes, a->live_blocks};
    return values[sort];
}

static const struct hk_groups *sorting;
static enum hk_sort sorting_by;

static int by_amount(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    const struct hk_amounts *x = &sorting->groups[i].amounts, *y = &sorting->groups[k].amounts;
    if (amount(x, sorting_by) != amount(y, sorting_by))
        return amount(x, sorting_by) > amount(y, sorting_by) ? -1 : 1;
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
        char *name = v->filter ? full_name(g) : NULL;
        if ((!v->limit || c.shown < v->limit) && (!name || hk_pattern_found(v->filter, name))) {
            order[c.shown++] = order[i];
        } else {
            hk_amounts_add(&c.others, &g->amounts);
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

static void fill(const struct hk_table_view *v, const struct hk_terminal *t, const struct hk_amounts *a,
                 const struct hk_amounts *totals, struct row *r)
{
    double value = (double)amount(a, v->sort), error = 0;
    hk_text_bytes(r->cells[LIVE], (double)a->live_bytes);
    hk_text_count(r->cells[LIVE_BLOCKS], a->live_blocks);
    hk_text_bytes(r->cells[PEAK], (double)a->peak_bytes);
    hk_text_count(r->cells[PEAK_BLOCKS], a->peak_blocks);
    hk_text_bytes(r->cells[TOTAL], (double)a->total_bytes);
    hk_text_count(r->cells[TOTAL_BLOCKS], a->total_blocks);
    hk_text_percent(r->cells[SHARE], value, (double)amount(totals, v->sort));
    /* One standard error of a sampled sum of bytes; blocks are known as well as their bytes. */
    double bytes = v->sort == HK_SORT_BLOCKS ? (double)a->live_bytes : value;
    if (bytes > 0)
        error = 100 * sqrt(hk_sites_mean(v->sites, a->total_bytes, a->samples) / bytes);
    r->cells[ERROR][0] = 0;
    if (error >= 0.5)
        snprintf(r->cells[ERROR], sizeof r->cells[ERROR], "%s%.0f%%", t->utf8 ? "±" : "+-", error > 100 ? 100 : error);
}

static void name_of(const struct hk_table_view *v, const struct hk_terminal *t, const struct hk_group *g, char *to,
                    size_t columns)
{
    const char *directory = hk_capture_string(v->capture, v->capture->header.working_directory);
    if (!g->name && *g->frame.qualified_name) {
        hk_where_text(t, directory, to, NAME, &g->frame, columns);
        return;
    }
    hk_text_clean(t, to, NAME, g->name ? g->name : g->frame.file);
    if (!g->name)
        hk_text_shorten_path(to, directory);
    hk_text_keep_end(t, to, columns);
}

static void put_head(const struct hk_table_view *v, const struct hk_terminal *t)
{
    const struct hk_capture *c = v->capture;
    char program[256], name[512], version[32], a[32], b[32];
    const char *dot = t->utf8 ? " · " : " - ";
    hk_text_clean(t, name, sizeof name, hk_capture_program(c, program, sizeof program));
    fprintf(t->out, "%s%s%s", hk_style(t, HK_BOLD), name, hk_style(t, HK_PLAIN));
    if (c->header.python_version)
        fprintf(t->out, "%sPython %s", dot, hk_python_version(c->header.python_version, version));
    fprintf(t->out, "%spid %u%s%s\n", dot, c->header.pid, dot, hk_life_name(c->life));
    if (c->header.mode == HK_MODE_EXACT)
        fputs("every block was recorded", t->out);
    else if (c->header.mode == HK_MODE_SAMPLE)
        fprintf(t->out, "estimates from %s samples, one per %s", hk_text_count(a, c->now.samples),
                hk_text_bytes(b, (double)c->header.sample_bytes));
    else
        fputs("recording was off", t->out);
    fprintf(t->out, "%sby %s, largest %s first", dot, hk_group_word(v->by), hk_sort_word(v->sort));
    if (v->filter)
        fprintf(t->out, "%swith \"%s\"", dot, hk_text_clean(t, name, sizeof name, v->filter));
    fputs("\n\n", t->out);
}

struct layout {
    unsigned widths[COLUMNS];
    bool left_out[COLUMNS];
    size_t name_columns;
};

static struct layout lay_out(const struct hk_table_view *v, const struct hk_terminal *t, const struct row *rows,
                             size_t count)
{
    struct layout l = {.name_columns = NO_TERMINAL};
    unsigned taken = 0, blocks = 0;
    for (int c = 0; c < COLUMNS; c++) {
        for (size_t i = 0; i < count; i++) {
            unsigned columns = (unsigned)hk_text_columns(rows[i].cells[c]);
            l.widths[c] = columns > l.widths[c] ? columns : l.widths[c];
        }
        l.left_out[c] = c == ERROR && v->capture->header.mode != HK_MODE_SAMPLE;
        taken += l.left_out[c] ? 0 : l.widths[c] + 2;
        if (c == PEAK_BLOCKS || c == TOTAL_BLOCKS || (c == LIVE_BLOCKS && v->sort != HK_SORT_BLOCKS))
            blocks += l.widths[c] + 2;
    }
    if (!t->width)
        return l;
    if (t->width < taken + 2 + NAME_LEAST) {
        l.left_out[PEAK_BLOCKS] = l.left_out[TOTAL_BLOCKS] = true;
        l.left_out[LIVE_BLOCKS] = v->sort != HK_SORT_BLOCKS;
        taken -= blocks;
    }
    l.name_columns = t->width > taken + 2 + 10 ? t->width - taken - 2 : 10;
    return l;
}

static void put_row(const struct hk_terminal *t, const struct layout *l, const struct row *r, const char *name,
                    enum hk_style style)
{
    fputs(hk_style(t, style), t->out);
    for (int c = 0; c < COLUMNS; c++) {
        if (!l->left_out[c])
            fprintf(t->out, "  %*s%s", (int)(l->widths[c] - hk_text_columns(r->cells[c])), "", r->cells[c]);
    }
    fprintf(t->out, "  %s%s\n", name, style == HK_PLAIN ? "" : hk_style(t, HK_PLAIN));
}

static void put_rows(const struct hk_table_view *v, const struct hk_terminal *t, const struct choice *c,
                     const struct row *rows)
{
    struct layout l = lay_out(v, t, rows, c->shown + 3);
    char name[NAME], count[32], what[64];
    put_row(t, &l, &rows[0], hk_group_word(v->by), HK_BOLD);
    for (size_t i = 0; i < c->shown; i++) {
        name_of(v, t, &c->groups->groups[c->order[i]], name, l.name_columns);
        put_row(t, &l, &rows[i + 1], name, HK_PLAIN);
    }
    if (c->other_count) {
        snprintf(what, sizeof what, "%s other%s", hk_text_count(count, c->other_count), c->other_count == 1 ? "" : "s");
        put_row(t, &l, &rows[c->shown + 1], what, HK_DIM);
    }
    put_row(t, &l, &rows[c->shown + 2], "total", HK_BOLD);
}

void hk_table_text(const struct hk_table_view *v, const struct hk_terminal *t)
{
    static const struct row heads = {{"live", "", "share", "blocks", "peak", "blocks", "total", "blocks"}};
    struct choice c = choose(v);
    struct row *rows = hk_must_calloc(c.shown + 3, sizeof *rows);
    rows[0] = heads;
    for (size_t i = 0; i < c.shown; i++)
        fill(v, t, &c.groups->groups[c.order[i]].amounts, &c.groups->totals, &rows[i + 1]);
    if (c.other_count) /* else it takes no room */
        fill(v, t, &c.others, &c.groups->totals, &rows[c.shown + 1]);
    fill(v, t, &c.groups->totals, &c.groups->totals, &rows[c.shown + 2]);
    put_head(v, t);
    put_rows(v, t, &c, rows);
    free(rows);
    let_go(&c);
}

/* ---- JSON ---- */

static void put_amounts(struct hk_json *j, const struct hk_amounts *a)
{
    hk_json_unsigned(j, "live_bytes", a->live_bytes);
    hk_json_unsigned(j, "live_blocks", a->live_blocks);
    hk_json_unsigned(j, "peak_bytes", a->peak_bytes);
    hk_json_unsigned(j, "peak_blocks", a->peak_blocks);
    hk_json_unsigned(j, "total_bytes", a->total_bytes);
    hk_json_unsigned(j, "total_blocks", a->total_blocks);
    hk_json_unsigned(j, "samples", a->samples);
}

static void put_group(struct hk_json *j, const struct hk_table_view *v, const struct hk_group *g)
{
    char *name = full_name(g);
    hk_json_object(j, NULL, true);
    hk_json_string(j, "name", name);
    if (v->by == HK_BY_LINE || v->by == HK_BY_FUNCTION) {
        hk_json_string(j, "function", g->frame.function);
        hk_json_string(j, "qualified_name", g->frame.qualified_name);
    }
    if (v->by != HK_BY_DOMAIN && v->by != HK_BY_MODULE)
        hk_json_string(j, "file", g->frame.file);
    if (v->by == HK_BY_LINE)
        hk_json_signed(j, "line", g->frame.line);
    if (g->frame.module && v->by != HK_BY_MODULE)
        hk_json_string(j, "module", g->frame.module);
    if (g->frame.through)
        hk_json_string(j, "through", g->frame.through);
    put_amounts(j, &g->amounts);
    hk_json_unsigned(j, "sites", g->site_count);
    hk_json_end_object(j);
    free(name);
}

static void put_facts(struct hk_json *j, const struct hk_table_view *v)
{
    const struct hk_capture *c = v->capture;
    char program[256], version[32];
    hk_json_string(j, "format", "heapkeeper-table-1");
    hk_json_string(j, "capture", c->path);
    hk_json_string(j, "state", hk_state_word(c->life));
    hk_json_string(j, "program", hk_capture_program(c, program, sizeof program));
    hk_json_unsigned(j, "pid", c->header.pid);
    hk_json_string(j, "python", hk_python_version(c->header.python_version, version));
    hk_json_string(j, "mode", hk_mode_word(c->header.mode));
    hk_json_unsigned(j, "sample_bytes", c->header.mode == HK_MODE_SAMPLE ? c->header.sample_bytes : 0);
    hk_json_string(j, "by", hk_group_word(v->by));
    hk_json_string(j, "sort", hk_sort_word(v->sort));
    if (v->filter)
        hk_json_string(j, "filter", v->filter);
    hk_json_array(j, "choices", true);
    for (int i = 0; i < HK_GROUP_CHOICES; i++)
        hk_json_string(j, NULL, hk_group_word((enum hk_group_by)i));
    hk_json_end_array(j);
    hk_json_array(j, "not_recorded", true);
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
    put_amounts(j, &c.groups->totals);
    hk_json_unsigned(j, "rows", c.groups->count);
    hk_json_end_object(j);
    hk_json_object(j, "others", true);
    put_amounts(j, &c.others);
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
