/* The lines of a file, with what they have live, had at the peak and allocated.
 *
 *      shop.py · Python 3.13.0 · pid 4242 · ended
 *      /srv/shop/shop.py · every block was recorded
 *
 *           live   blocks      peak  allocated
 *                                                86  def remember_order(self, order):
 *       61.0 MiB  420 000  61.0 MiB   70.0 MiB   88      self.orders.append(Order(order))
 *                                               ...
 *       61.0 MiB  420 000  61.0 MiB   70.0 MiB  total of the file
 *
 * Figures of a line are those of memory that it asked for itself, as in `table --by line`: they add up to the file's row of
 * `table --by file`. Source that is not there, or may not be what ran, is said above it.
 */
#include "view/lines.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "view/head.h"
#include "view/rows.h"
#include "view/table.h"

#define SOURCE 1000 /* bytes of a line of source that are shown */
#define TAB    8

enum column { LIVE, ERROR, BLOCKS, PEAK, TOTAL, COLUMNS };

/* The lines that have figures, by number. */
struct figures {
    struct figure {
        int line;
        struct hk_amounts amounts;
        const char *function;
        bool is_near;
    } *at;
    size_t count;
    struct hk_amounts total;
};

static int by_line(const void *a, const void *b)
{
    int x = ((const struct figure *)a)->line, y = ((const struct figure *)b)->line;
    return x < y ? -1 : x > y;
}

static struct figures gather(const struct hk_lines_view *v)
{
    struct figures f = {.at = hk_must_calloc(v->sites->line_count, sizeof *f.at)};
    size_t kept = 0;
    for (size_t i = 0; i < v->sites->line_count; i++) {
        const struct hk_line *l = &v->sites->lines[i];
        if (strcmp(l->frame.file, v->file) != 0)
            continue;
        f.at[f.count++] = (struct figure){l->frame.line, hk_amounts_of_line(l), l->frame.qualified_name, l->frame.is_near};
    }
    qsort(f.at, f.count, sizeof *f.at, by_line);
    for (size_t i = 0; i < f.count; i++) { /* a line of several functions, or with libraries beneath */
        hk_amounts_add(&f.total, &f.at[i].amounts);
        if (kept && f.at[kept - 1].line == f.at[i].line) {
            hk_amounts_add(&f.at[kept - 1].amounts, &f.at[i].amounts);
            f.at[kept - 1].is_near |= f.at[i].is_near;
        } else {
            f.at[kept++] = f.at[i];
        }
    }
    f.count = kept;
    return f;
}

static struct hk_source read_source(const struct hk_lines_view *v, const struct figures *f)
{
    return hk_source_read(v->capture, v->file, f->count ? f->at[f->count - 1].line : 0);
}

/* What is to be said about the source; false: nothing. */
static bool doubt(const struct hk_source *s, char *to, size_t size)
{
    switch (s->state) {
    case HK_SOURCE_GOOD:
        return false;
    case HK_SOURCE_CHANGED:
        snprintf(to, size, "the file was written after the run began: the text beside the figures may not be what ran");
        break;
    case HK_SOURCE_SHORTER:
        snprintf(to, size, "the file has %zu lines, fewer than ran: the text beside the figures is not what ran", s->line_count);
        break;
    case HK_SOURCE_MISSING:
        snprintf(to, size, "the source is not here any more: %s", s->path);
        break;
    default:
        snprintf(to, size, "the source cannot be shown: %s", s->why);
        break;
    }
    return true;
}

/* ---- text ---- */

static void fill(const struct hk_lines_view *v, const struct hk_terminal *t, const struct hk_amounts *a, char (*cells)[HK_CELL])
{
    hk_text_bytes(cells[LIVE], (double)a->live_bytes);
    hk_text_count(cells[BLOCKS], a->live_blocks);
    hk_text_bytes(cells[PEAK], (double)a->peak_bytes);
    hk_text_bytes(cells[TOTAL], (double)a->total_bytes);
    double error = a->live_bytes
                       ? 100 * sqrt(hk_sites_mean(v->sites, a->total_bytes, a->samples) / (double)a->live_bytes)
                       : 0;
    if (error >= 0.5)
        snprintf(cells[ERROR], HK_CELL, "%s%.0f%%", t->utf8 ? "±" : "+-", error > 100 ? 100 : error);
}

/* Tabs become blanks; the rest is cleaned as any name. */
static void clean_source(const struct hk_terminal *t, const char *text, char *to, size_t size, size_t columns)
{
    char spread[SOURCE];
    size_t at = 0;
    for (; *text && at + TAB < sizeof spread; text++) {
        if (*text == '\f')
            continue;
        do
            spread[at++] = *text == '\t' ? ' ' : *text;
        while (*text == '\t' && at % TAB);
    }
    spread[at] = 0;
    hk_text_clean(t, to, size, spread);
    hk_text_keep_start(t, to, size, columns);
}

struct page {
    const struct hk_lines_view *v;
    const struct hk_terminal *t;
    const struct figures *figures;
    const struct hk_source *source;
    struct hk_rows rows; /* 0: the head, then figures in their order, an empty one, the total */
    int digits;
};

/* Line `number` beside row `row`. */
static void put_line(const struct page *p, int number, bool is_near, size_t row, const char *text, enum hk_style style)
{
    char source[SOURCE + 8], name[SOURCE + 64], digits[16];
    size_t margin = (size_t)p->digits + 2, room = p->rows.name_columns > margin + 10 ? p->rows.name_columns - margin : 10;
    clean_source(p->t, text, source, sizeof source, room);
    snprintf(digits, sizeof digits, "%s%d", is_near ? "~" : "", number);
    snprintf(name, sizeof name, "%*s  %s", p->digits, digits, source);
    hk_rows_put(&p->rows, p->t, row, name, style);
}

static const char *text_of(const struct page *p, const struct figure *f, bool *known)
{
    *known = f->line > 0 && (size_t)f->line <= p->source->line_count;
    return *known ? p->source->lines[f->line - 1] : f->function;
}

static bool is_heavy(const struct page *p, const struct hk_amounts *a)
{
    return a->total_bytes && (double)a->total_bytes >= 0.2 * (double)p->figures->total.total_bytes;
}

/* Between two lines with figures: some below the first, some above the second, and a mark where others are left out. */
static void put_lines(const struct page *p)
{
    size_t count = p->figures->count, last = p->source->line_count, context = p->v->all ? last : p->v->context, next = 1;
    size_t blank = count + 1;
    for (size_t i = 0; i <= count; i++) {
        bool end = i == count, known;
        const struct figure *f = end ? NULL : &p->figures->at[i];
        size_t line = end || f->line <= 0 ? last + 1 : (size_t)f->line;
        if (!end && f->line <= 0) {
            put_line(p, 0, false, i + 1, f->function, HK_PLAIN);
            continue;
        }
        size_t behind = i == 0 || p->figures->at[i - 1].line <= 0 ? 0 : context; /* lines below the last figure */
        if (i == 0 && p->v->all)
            behind = last;
        size_t ahead = end ? 0 : context, until = line < last + 1 ? line : last + 1;
        bool gap = false;
        for (size_t start = next; next < until; next++) {
            bool near = next - start < behind || until - next <= ahead;
            if (near)
                put_line(p, (int)next, false, blank, p->source->lines[next - 1], HK_DIM);
            else if (!gap)
                hk_rows_put(&p->rows, p->t, blank, p->t->utf8 ? "…" : "...", HK_DIM);
            gap |= !near;
        }
        if (end)
            break;
        put_line(p, f->line, f->is_near, i + 1, text_of(p, f, &known), is_heavy(p, &f->amounts) ? HK_BOLD : HK_PLAIN);
        next = line + 1;
    }
}

static int digits_of(size_t number)
{
    int digits = 1;
    for (; number >= 10; number /= 10)
        digits++;
    return digits;
}

void hk_lines_text(const struct hk_lines_view *v, const struct hk_terminal *t)
{
    static const char heads[COLUMNS][HK_CELL] = {"live", "", "blocks", "peak", "allocated"};
    struct figures f = gather(v);
    struct hk_source source = read_source(v, &f);
    struct page p = {v, t, &f, &source, {.columns = COLUMNS}, 1};
    size_t largest = f.count && f.at[f.count - 1].line > 0 ? (size_t)f.at[f.count - 1].line : 1;
    char text[700], clean[700];

    memcpy(hk_rows_add(&p.rows), heads, sizeof heads);
    for (size_t i = 0; i < f.count; i++)
        fill(v, t, &f.at[i].amounts, hk_rows_add(&p.rows));
    hk_rows_add(&p.rows);
    fill(v, t, &f.total, hk_rows_add(&p.rows));
    p.rows.left_out[ERROR] = v->capture->header.mode != HK_MODE_SAMPLE;
    p.rows.optional[BLOCKS] = p.rows.optional[PEAK] = true;
    hk_rows_lay_out(&p.rows, t, 40);
    p.digits = digits_of(source.line_count > largest ? source.line_count : largest);
    for (size_t i = 0; i < f.count; i++)
        if (f.at[i].is_near) { /* room for a ~ */
            p.digits++;
            break;
        }

    hk_head_text(t, v->capture);
    fprintf(t->out, "%s%s", hk_text_clean(t, clean, sizeof clean, v->file), hk_dot(t));
    hk_head_mode(t, v->capture);
    fputc('\n', t->out);
    if (doubt(&source, text, sizeof text))
        fprintf(t->out, "%s%s%s\n", hk_style(t, HK_YELLOW), hk_text_clean(t, clean, sizeof clean, text), hk_style(t, HK_PLAIN));
    if (f.count == 0)
        fputs("no line of it allocated anything that was recorded\n", t->out);
    fputc('\n', t->out);
    hk_rows_put(&p.rows, t, 0, "line", HK_BOLD);
    if (f.count || v->all)
        put_lines(&p);
    hk_rows_put(&p.rows, t, f.count + 2, "total of the file", HK_BOLD);
    hk_rows_free(&p.rows);
    hk_source_free(&source);
    free(f.at);
}

/* ---- JSON ---- */

static void put_json_line(struct hk_json *j, int line, const struct hk_source *source, const struct figure *f)
{
    static const struct hk_amounts nothing;
    hk_json_object(j, NULL, true);
    hk_json_signed(j, "line", line);
    if (line > 0 && (size_t)line <= source->line_count)
        hk_json_string(j, "source", source->lines[line - 1]);
    if (f)
        hk_json_string(j, "function", f->function);
    hk_json_bool(j, "jit", f && f->is_near);
    hk_amounts_json(j, f ? &f->amounts : &nothing);
    hk_json_end_object(j);
}

void hk_lines_json(const struct hk_lines_view *v, FILE *out)
{
    struct figures f = gather(v);
    struct hk_source source = read_source(v, &f);
    struct hk_json json, *j = &json;
    char text[700];
    hk_json_start(j, out);
    hk_json_object(j, NULL, false);
    hk_json_string(j, "format", "heapkeeper-lines-1");
    hk_head_json(j, v->capture);
    hk_json_string(j, "file", v->file);
    hk_json_string(j, "source_path", source.path);
    hk_json_string(j, "source_state", hk_source_word(source.state));
    if (doubt(&source, text, sizeof text))
        hk_json_string(j, "source_note", text);
    hk_json_unsigned(j, "source_lines", source.line_count);
    hk_json_object(j, "totals", true);
    hk_amounts_json(j, &f.total);
    hk_json_end_object(j);
    hk_json_array(j, "lines", false);
    size_t next = 1;
    for (size_t i = 0; i < f.count; i++) {
        for (; v->all && f.at[i].line > 0 && next < (size_t)f.at[i].line && next <= source.line_count; next++)
            put_json_line(j, (int)next, &source, NULL);
        put_json_line(j, f.at[i].line, &source, &f.at[i]);
        next = f.at[i].line > 0 ? (size_t)f.at[i].line + 1 : next;
    }
    for (; v->all && next <= source.line_count; next++)
        put_json_line(j, (int)next, &source, NULL);
    hk_json_end_array(j);
    hk_json_end_object(j);
    hk_source_free(&source);
    free(f.at);
}
