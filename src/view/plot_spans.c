/* The spans of a plot: calls of profiled functions, and what the program named.
 *
 * Each thread has rows of its own, the main thread first, then in the order in which they began to have spans. A span lies in its thread's uppermost row that is free
 * when it begins, so one that is inside of another lies below it, and those of coroutines that take turns beside one another. What
 * no row is left for is left out, and the shortest, if there are more than can be told apart.
 *
 * In a terminal a span is as wide as its time, with as much of its name as fits, and one that has not ended is open:
 *
 *      ├ load ──────────┤├ train ──────────────────  main thread
 *       ├ read ┤├ parse ┤  ├ epoch ┤├ epoch ┤├ epo
 *
 *      epoch        3 calls, 4.1 s      12 MiB to 80 MiB, not ended
 */
#include "view/plot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN    2000 /* spans */
#define DEEPEST  12   /* rows of a thread */
#define BRACKETS 24   /* spans that have some */
#define LISTED   12   /* names, in a terminal */

static const struct hk_terminal utf8 = {.utf8 = true};

/* ---- which ---- */

static double end_of(const struct hk_plot *p, const struct hk_capture_span *span)
{
    double end = span->end_ns ? (double)span->end_ns / 1e9 : p->seconds;
    return fmax(fmin(end, p->seconds), fmin((double)span->begin_ns / 1e9, p->seconds));
}

static double seconds_of(const struct hk_plot *p, const struct hk_capture_span *span)
{
    return end_of(p, span) - fmin((double)span->begin_ns / 1e9, p->seconds);
}

static int longest_first(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x > y ? -1 : x < y;
}

/* The length of the `wanted`-longest, so that those shorter than it are too many; 0: all are wanted. */
static double shortest_wanted(const double *lengths, size_t count, size_t wanted)
{
    if (count <= wanted)
        return 0;
    double *sorted = hk_must_calloc(count, sizeof *sorted), found;
    memcpy(sorted, lengths, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, longest_first);
    found = sorted[wanted - 1];
    free(sorted);
    return found;
}

/* ---- rows ---- */

struct rows { /* of one thread */
    uint32_t thread;
    unsigned used;
    double free_from[DEEPEST];
};

static struct rows *rows_of(struct rows *threads, size_t *count, uint32_t thread)
{
    for (size_t i = 0; i < *count; i++)
        if (threads[i].thread == thread)
            return &threads[i];
    if (*count == HK_PLOT_THREADS)
        return NULL;
    threads[*count].thread = thread;
    return &threads[(*count)++];
}

/* DEEPEST: all are taken. */
static unsigned free_row(struct rows *rows, double begin, double end)
{
    unsigned row = 0;
    while (row < rows->used && rows->free_from[row] > begin)
        row++;
    if (row == DEEPEST)
        return DEEPEST;
    rows->used = row == rows->used ? row + 1 : rows->used;
    rows->free_from[row] = end;
    return row;
}

static void name_thread(struct hk_plot *p, size_t number, uint32_t id)
{
    const struct hk_capture *c = p->capture;
    const char *name = "", *of_main = "";
    char number_of[32];
    for (size_t i = 0; i < c->tables[HK_SECTION_THREADS].count && i < HK_CAPTURE_THREADS; i++) {
        struct hk_capture_thread thread;
        hk_capture_entry(c, HK_SECTION_THREADS, i, &thread, sizeof thread);
        if (thread.id == c->header.pid)
            of_main = hk_capture_string(c, thread.name);
        if (thread.id == id && id != 0)
            name = hk_capture_string(c, thread.name);
    }
    if (strcmp(name, of_main) == 0) /* it was given none */
        name = "";
    if (id == c->header.pid)
        name = "main thread";
    snprintf(number_of, sizeof number_of, "thread %u", id);
    hk_text_clean(&utf8, p->threads[number].name, sizeof p->threads[number].name, *name ? name : number_of);
}

/* ---- what is shown of each ---- */

static void name_span(struct hk_plot *p, struct hk_plot_span *span, const struct hk_capture_span *from)
{
    const struct hk_capture *c = p->capture;
    struct hk_capture_code code = {0};
    if (from->code)
        hk_capture_entry(c, HK_SECTION_CODES, from->code, &code, sizeof code);
    const char *name = hk_capture_string(c, from->name);
    if (!*name)
        name = hk_capture_string(c, code.qualified_name);
    if (!*name)
        name = hk_capture_string(c, code.name);
    hk_text_clean(&utf8, span->name, sizeof span->name, *name ? name : "(no name)");
    char file[4096];
    hk_text_clean(&utf8, file, sizeof file, hk_capture_string(c, code.file));
    hk_text_shorten_path(file, hk_capture_string(c, c->header.working_directory));
    hk_text_keep_end(&utf8, file, sizeof span->file / 4 - 1);
    memccpy(span->file, file, 0, sizeof span->file - 1);
    span->line = code.first_line;
}

/* In the order in which names are met. */
static void choose_hues(struct hk_plot *p)
{
    unsigned names = 0;
    for (size_t i = 0; i < p->span_count; i++) {
        size_t same = 0;
        while (same < i && strcmp(p->spans[same].name, p->spans[i].name) != 0)
            same++;
        p->spans[i].hue = same < i ? p->spans[same].hue : names++ % HK_PLOT_HUES;
    }
}

static void choose_brackets(struct hk_plot *p)
{
    double *lengths = hk_must_calloc(p->span_count, sizeof *lengths);
    for (size_t i = 0; i < p->span_count; i++)
        lengths[i] = p->spans[i].end - p->spans[i].begin;
    double shortest = fmax(shortest_wanted(lengths, p->span_count, BRACKETS), p->seconds / 60);
    size_t chosen = 0;
    for (size_t i = 0; i < p->span_count; i++)
        chosen += p->spans[i].has_brackets = lengths[i] >= shortest && chosen < BRACKETS;
    free(lengths);
}

/* The last line goes through the brackets. */
static void add_moments(struct hk_plot *p)
{
    struct hk_plot_line *line = &p->lines[p->line_count - 1];
    for (size_t i = 0; i < 2 * p->span_count; i++) {
        const struct hk_plot_span *span = &p->spans[i / 2];
        double at = i % 2 ? span->end : span->begin, bytes = i % 2 ? span->end_bytes : span->begin_bytes;
        size_t place = line->count;
        if (!span->has_brackets || (i % 2 && !span->has_ended))
            continue;
        line->at = hk_must_realloc(line->at, line->count + 1, sizeof *line->at);
        line->bytes = hk_must_realloc(line->bytes, line->count + 1, sizeof *line->bytes);
        for (; place > 0 && line->at[place - 1] > at; place--) {
            line->at[place] = line->at[place - 1];
            line->bytes[place] = line->bytes[place - 1];
        }
        line->at[place] = at;
        line->bytes[place] = bytes;
        line->most = fmax(line->most, bytes);
        line->count++;
    }
}

/* Each thread's rows below those of the one before; what does not fit is left out. */
static void stack_threads(struct hk_plot *p, struct rows *threads, size_t count, const uint32_t *thread_of)
{
    size_t kept = 0;
    unsigned first[HK_PLOT_THREADS];
    for (size_t i = 0; i < count; i++) {
        first[i] = p->row_count;
        unsigned rows = threads[i].used < HK_PLOT_ROWS - p->row_count ? threads[i].used : HK_PLOT_ROWS - p->row_count;
        p->row_count += rows;
        threads[i].used = rows;
        if (rows == 0)
            continue;
        p->threads[p->thread_count].row = first[i];
        p->threads[p->thread_count].rows = rows;
        name_thread(p, p->thread_count++, threads[i].thread);
    }
    for (size_t i = 0; i < p->span_count; i++) {
        struct hk_plot_span span = p->spans[i];
        if (span.row >= threads[thread_of[i]].used) {
            p->spans_left_out += p->spans_left_out < UINT64_MAX;
            continue;
        }
        span.row += first[thread_of[i]];
        p->spans[kept++] = span;
    }
    p->span_count = kept;
}

void hk_plot_add_spans(struct hk_plot *p)
{
    const struct hk_capture *c = p->capture;
    struct rows threads[HK_PLOT_THREADS] = {{.thread = c->header.pid}}; /* the main thread first, if it has any */
    size_t thread_count = 1;
    p->spans_left_out = c->status.spans_left_out;
    if (c->span_count == 0)
        return;
    double *lengths = hk_must_calloc(c->span_count, sizeof *lengths);
    p->seconds = fmax(p->seconds, (double)c->duration_ns / 1e9);
    for (size_t i = 0; i < c->span_count; i++)
        lengths[i] = seconds_of(p, &c->spans[i]);
    double shortest = shortest_wanted(lengths, c->span_count, SHOWN);
    size_t room = c->span_count < SHOWN ? c->span_count : SHOWN;
    p->spans = hk_must_calloc(room, sizeof *p->spans);
    uint32_t *thread_of = hk_must_calloc(room, sizeof *thread_of);
    for (size_t i = 0; i < c->span_count; i++) {
        const struct hk_capture_span *from = &c->spans[i];
        struct rows *rows = lengths[i] >= shortest && p->span_count < room ? rows_of(threads, &thread_count, from->thread) : NULL;
        double end = end_of(p, from), begin = fmin((double)from->begin_ns / 1e9, p->seconds);
        unsigned row = rows ? free_row(rows, begin, end) : DEEPEST;
        if (row == DEEPEST) {
            p->spans_left_out += p->spans_left_out < UINT64_MAX;
            continue;
        }
        struct hk_plot_span *span = &p->spans[p->span_count];
        *span = (struct hk_plot_span){.row = row, .begin = begin, .end = end, .has_ended = from->end_ns != 0};
        span->begin_bytes = (double)from->begin_bytes;
        span->end_bytes = span->has_ended ? (double)from->end_bytes : c->has_now ? (double)hk_point_live(&c->now) : 0;
        span->begin_rss_bytes = (double)from->begin_rss_bytes;
        span->end_rss_bytes = span->has_ended ? (double)from->end_rss_bytes : 0;
        p->most = fmax(p->most, fmax(span->begin_bytes, span->end_bytes));
        name_span(p, span, from);
        thread_of[p->span_count++] = (uint32_t)(rows - threads);
    }
    stack_threads(p, threads, thread_count, thread_of);
    choose_hues(p);
    choose_brackets(p);
    add_moments(p);
    free(lengths);
    free(thread_of);
}

/* ---- words ---- */

char *hk_plot_span_label(char to[400], const struct hk_plot_span *s)
{
    char place[sizeof s->file + 16] = "", a[32], b[32], c[32], rss[96] = "";
    if (s->file[0])
        snprintf(place, sizeof place, " (%s:%d)", s->file, s->line);
    if (s->begin_rss_bytes > 0 && s->end_rss_bytes > 0)
        snprintf(rss, sizeof rss, ", RSS %s to %s", hk_text_bytes(a, s->begin_rss_bytes), hk_text_bytes(b, s->end_rss_bytes));
    snprintf(to, 400, "%s%s: %s%s, live %s to %s%s", s->name, place, hk_text_duration(a, (uint64_t)fmin((s->end - s->begin) * 1e9, 1e19)),
             s->has_ended ? "" : ", not ended", hk_text_bytes(b, s->begin_bytes), hk_text_bytes(c, s->end_bytes), rss);
    return to;
}

static int most_seconds_first(const void *a, const void *b)
{
    const struct hk_plot_calls *x = a, *y = b;
    if (x->seconds != y->seconds)
        return x->seconds > y->seconds ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

size_t hk_plot_thread_of(const struct hk_plot *p, unsigned row)
{
    size_t i = 0;
    while (i + 1 < p->thread_count && row >= p->threads[i + 1].row)
        i++;
    return i;
}

static bool is_in_its_like(const struct hk_plot *p, size_t index)
{
    const struct hk_plot_span *span = &p->spans[index];
    size_t thread = hk_plot_thread_of(p, span->row);
    for (size_t i = index; i-- > 0;)
        if (p->spans[i].row < span->row && p->spans[i].end >= span->end && hk_plot_thread_of(p, p->spans[i].row) == thread &&
            strcmp(p->spans[i].name, span->name) == 0)
            return true;
    return false;
}

size_t hk_plot_calls(const struct hk_plot *p, struct hk_plot_calls *calls, size_t max)
{
    struct hk_plot_calls *all = hk_must_calloc(p->span_count, sizeof *all);
    size_t count = 0;
    for (size_t i = 0; i < p->span_count; i++) {
        const struct hk_plot_span *span = &p->spans[i];
        size_t at = 0;
        while (at < count && strcmp(all[at].first->name, span->name) != 0)
            at++;
        if (at == count)
            all[count++] = (struct hk_plot_calls){.first = span, .last = span};
        all[at].last = span->end >= all[at].last->end ? span : all[at].last;
        all[at].count++;
        all[at].seconds += is_in_its_like(p, i) ? 0 : span->end - span->begin;
        all[at].has_open |= !span->has_ended;
    }
    qsort(all, count, sizeof *all, most_seconds_first);
    memcpy(calls, all, (count < max ? count : max) * sizeof *all);
    free(all);
    return count;
}

/* ---- the terminal ---- */

static const enum hk_style hue_styles[] = {HK_GREEN, HK_YELLOW, HK_CYAN, HK_RED};

static void put_times(FILE *out, const char *what, unsigned times)
{
    for (unsigned i = 0; i < times; i++)
        fputs(what, out);
}

/* In `width` columns, at least one. */
static void put_span(const struct hk_terminal *t, const struct hk_plot_span *span, unsigned width)
{
    char name[sizeof span->name];
    unsigned edges = span->has_ended ? 2 : 1, inside = width > edges ? width - edges : 0;
    fputs(hk_style(t, hue_styles[span->hue % 4]), t->out);
    if (width == 1) {
        fputs(t->utf8 ? "│" : "|", t->out);
    } else {
        hk_text_clean(t, name, sizeof name, span->name);
        hk_text_keep_start(t, name, sizeof name, inside > 2 ? inside - 2 : 0);
        unsigned columns = inside > 2 ? (unsigned)hk_text_columns(name) : 0;
        fputs(t->utf8 ? "├" : "[", t->out);
        if (columns > 0)
            fprintf(t->out, " %s ", name);
        put_times(t->out, t->utf8 ? "─" : "-", columns > 0 ? inside - columns - 2 : inside);
        if (span->has_ended)
            fputs(t->utf8 ? "┤" : "]", t->out);
    }
    fputs(hk_style(t, HK_PLAIN), t->out);
}

/* Spans that lie in one another's columns are one, the first. */
static void put_row(const struct hk_plot *p, const struct hk_terminal *t, unsigned row, unsigned columns)
{
    unsigned at = 0;
    for (size_t i = 0; i < p->span_count && p->seconds > 0; i++) {
        const struct hk_plot_span *span = &p->spans[i];
        if (span->row != row)
            continue;
        unsigned from = (unsigned)(span->begin / p->seconds * columns), to = (unsigned)(span->end / p->seconds * columns);
        from = from < columns ? from : columns - 1;
        to = to > from ? to : from + 1;
        from = from > at ? from : at;
        if (from >= to)
            continue;
        fprintf(t->out, "%*s", (int)(from - at), "");
        put_span(t, span, to - from);
        at = to;
    }
    fprintf(t->out, "%*s", (int)(columns - at), "");
}

static void put_calls(const struct hk_plot *p, const struct hk_terminal *t, unsigned margin)
{
    struct hk_plot_calls calls[LISTED];
    size_t count = hk_plot_calls(p, calls, LISTED), columns = 0;
    char name[64], time[32], before[32], after[32], words[64];
    for (size_t i = 0; i < count && i < LISTED; i++) {
        size_t wide = hk_text_columns(hk_text_clean(t, name, sizeof name, calls[i].first->name));
        columns = wide > columns ? wide : columns;
    }
    columns = columns > 32 ? 32 : columns;
    for (size_t i = 0; i < count && i < LISTED; i++) {
        const struct hk_plot_calls *c = &calls[i];
        hk_text_keep_start(t, hk_text_clean(t, name, sizeof name, c->first->name), sizeof name, columns);
        int blanks = (int)(columns - hk_text_columns(name));
        if (c->count == 1)
            snprintf(words, sizeof words, "%s", hk_text_duration(time, (uint64_t)fmin(c->seconds * 1e9, 1e19)));
        else
            snprintf(words, sizeof words, "%zu times, %s", c->count, hk_text_duration(time, (uint64_t)fmin(c->seconds * 1e9, 1e19)));
        fprintf(t->out, "%*s  %s%s%s%*s  %-20s  live %s to %s%s\n", (int)margin, "", hk_style(t, hue_styles[c->first->hue % 4]), name,
                hk_style(t, HK_PLAIN), blanks, "", words, hk_text_bytes(before, c->first->begin_bytes),
                hk_text_bytes(after, c->last->end_bytes), c->has_open ? ", not ended" : "");
    }
    if (count > LISTED)
        fprintf(t->out, "%*s  and %zu more names\n", (int)margin, "", count - LISTED);
}

void hk_plot_spans_text(const struct hk_plot *p, const struct hk_terminal *t, unsigned margin, unsigned columns)
{
    char name[48];
    for (size_t i = 0; i < p->thread_count; i++) {
        for (unsigned row = 0; row < p->threads[i].rows; row++) {
            fprintf(t->out, "%*s  ", (int)margin, "");
            put_row(p, t, p->threads[i].row + row, columns);
            hk_text_keep_start(t, hk_text_clean(t, name, sizeof name, p->threads[i].name), sizeof name, 22);
            fprintf(t->out, " %s%s%s\n", hk_style(t, HK_DIM), row == 0 ? name : "", hk_style(t, HK_PLAIN));
        }
    }
    put_calls(p, t, margin);
    if (p->spans_left_out)
        fprintf(t->out, "%*s  %llu short ones are left out\n", (int)margin, "", (unsigned long long)p->spans_left_out);
}
