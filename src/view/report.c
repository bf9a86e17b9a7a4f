/* The report as text: what a person wants to know first comes first.
 *
 *      shop.py · Python 3.13.0 · ran 12.4 s · ended
 *      peak 212 MiB · live at the end 141 MiB · allocated 6.10 GiB · peak RSS 231 MiB
 *
 *      PROCESSES   only if there were several
 *      MEMORY      a sparkline over time
 *      GROWING     what keeps growing, apart from what is merely large
 *      LARGEST     at the end; at the peak, if that is another list
 *      HEAP        arenas, pools, blocks; the classes that sum to what is mapped
 *      GC          collections of cycles, if any collector told of some
 *      OUTSIDE     what else the process has
 *      RECORDER    what watching cost
 *      NOTES       what kept us out or blind
 *
 * Headings stand in a column of their own; text that comes from the capture is cleaned before it is
 * printed.
 */
#include "view/report.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "view/where.h"

#define MARGIN      10   /* columns of the headings */
#define INDENT      3    /* columns in front of a row */
#define WHERE       25   /* columns in front of a row's place */
#define NAME        512  /* bytes of a cleaned name */
#define LINE        1100 /* bytes of a sentence */
#define STACK       128  /* frames that are looked at for a line of text */
#define NO_TERMINAL 200  /* columns that a stack may take where there is no terminal to say */

struct page {
    const struct hk_report *report;
    const struct hk_terminal *t;
    const char *dot; /* between facts */
};

/* ---- small pieces ---- */

static void heading(const struct page *p, const char *word, enum hk_style style)
{
    fprintf(p->t->out, "%s%s%s%*s", hk_style(p->t, style), word, hk_style(p->t, HK_PLAIN),
            (int)(MARGIN - strlen(word)), "");
}

static void margin(const struct page *p)
{
    fprintf(p->t->out, "%*s", MARGIN, "");
}

__attribute__((format(printf, 2, 3))) static void dim(const struct page *p, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs(hk_style(p->t, HK_DIM), p->t->out);
    vfprintf(p->t->out, format, arguments);
    fputs(hk_style(p->t, HK_PLAIN), p->t->out);
    va_end(arguments);
}

/* Text beside a heading, wrapped at words on a terminal; the first line has been begun. */
static void put_wrapped(const struct page *p, const char *text)
{
    size_t room = p->t->width ? p->t->width - MARGIN : SIZE_MAX, column = 0;
    while (*text) {
        char word[LINE];
        size_t length = strcspn(text, " ");
        snprintf(word, sizeof word, "%.*s", (int)length, text);
        size_t columns = hk_text_columns(word);
        if (column && column + 1 + columns > room) {
            fputc('\n', p->t->out);
            margin(p);
            column = 0;
        }
        fprintf(p->t->out, "%s%s", column ? " " : "", word);
        column += columns + (column ? 1 : 0);
        text += length;
        text += strspn(text, " ");
    }
    fputc('\n', p->t->out);
}

__attribute__((format(printf, 2, 3))) static void say(const struct page *p, const char *format, ...)
{
    char text[LINE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put_wrapped(p, text);
}

static unsigned width(const struct page *p)
{
    return p->t->width ? p->t->width : 120;
}

static const char *directory_of_run(const struct page *p)
{
    return hk_capture_string(p->report->capture, p->report->capture->header.working_directory);
}

static void place(const struct page *p, char *to, size_t size, const struct hk_source_frame *f,
                  size_t columns)
{
    hk_where_text(p->t, directory_of_run(p), to, size, f, columns);
}

/* The import machinery stands between a module and what it imports, and says nothing; what the C library runs before
 * main and before a thread's function neither. */
static bool is_machinery(const struct hk_source_frame *f)
{
    if (f->module)
        return strcmp(f->function, "_start") == 0 || strncmp(f->function, "__libc_start", 12) == 0 ||
               strcmp(f->function, "start_thread") == 0 || strncmp(f->function, "__clone", 7) == 0 ||
               strcmp(f->function, "clone") == 0 || strcmp(f->function, "clone3") == 0;
    return strncmp(f->file, "<frozen importlib", 17) == 0 ||
           strcmp(f->file, "<frozen runpy>") == 0 ||
           strcmp(f->function, "_run_module_as_main") == 0 || strcmp(f->function, "_run_code") == 0;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

/* "handle:61"; of a module's own code "shop.py:190". */
static void piece(const struct page *p, char *to, size_t size, const struct hk_source_frame *f)
{
    char name[128];
    bool is_module = strcmp(f->function, "<module>") == 0 && *f->file;
    hk_text_clean(p->t, name, sizeof name, is_module ? base_name(f->file) : f->function);
    snprintf(to, size, f->line ? "%s:%d" : "%s", name, f->line);
}

/* The frames a person wants: without machinery, except at the end, and without the outermost
 * module. */
static size_t choose_frames(struct hk_source_frame *frames, size_t count, bool cut)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (i + 1 == count || !is_machinery(&frames[i]))
            frames[kept++] = frames[i];
    }
    if (!cut && kept > 2 && strcmp(frames[0].function, "<module>") == 0)
        memmove(frames, frames + 1, --kept * sizeof *frames);
    return kept;
}

/* Of machine code that Python called, where it was entered and where it asked. */
static size_t shorten_native(const struct page *p, struct hk_source_frame *frames, size_t count)
{
    size_t native = count;
    while (native > 0 && frames[native - 1].module)
        native--;
    if (native == 0 || count - native <= 3)
        return count;
    frames[native + 1] = (struct hk_source_frame){.function = p->t->utf8 ? "…" : "...", .file = ""};
    frames[native + 2] = frames[count - 1];
    return native + 3;
}

/* "main:140 > handle:61 > remember_order:88", without the outer frames that do not fit. */
static void stack_line(const struct page *p, const struct hk_site *site)
{
    struct hk_source_frame frames[STACK];
    char pieces[STACK][160];
    bool cut;
    size_t count = hk_sites_stack(p->report->sites, site->node, frames, STACK, &cut), used = 4;
    size_t room = (p->t->width ? p->t->width : NO_TERMINAL) - WHERE;

    count = shorten_native(p, frames, choose_frames(frames, count, cut));
    if (count < 2)
        return;
    size_t from = count;
    while (from > 0) {
        piece(p, pieces[from - 1], sizeof pieces[0], &frames[from - 1]);
        used += hk_text_columns(pieces[from - 1]) + 3;
        if (from < count && used > room)
            break;
        from--;
    }
    fprintf(p->t->out, "%*s%s", WHERE, "", hk_style(p->t, HK_DIM));
    if (from > 0 || cut || (site->flags & HK_SITE_CUT))
        fputs(p->t->utf8 ? "… > " : "... > ", p->t->out);
    for (size_t i = from; i < count; i++)
        fprintf(p->t->out, "%s%s", pieces[i], i + 1 < count ? " > " : "");
    fprintf(p->t->out, "%s\n", hk_style(p->t, HK_PLAIN));
}

static void marks_sparkline(const struct page *p, char *to, const uint64_t *at_mark)
{
    double values[HK_MARKS];
    unsigned count = p->report->capture->mark_count;
    for (unsigned i = 0; i < count; i++)
        values[i] = (double)at_mark[i];
    hk_text_sparkline(p->t, to, values, count);
}

/* ---- head ---- */

static void put_head(const struct page *p)
{
    const struct hk_capture *c = p->report->capture;
    struct hk_heap_view v = hk_heap_view(c);
    char program[256], name[NAME], version[32], a[32], b[32], d[32], e[32];
    FILE *out = p->t->out;

    hk_text_clean(p->t, name, sizeof name, hk_capture_program(c, program, sizeof program));
    fprintf(out, "%s%s%s", hk_style(p->t, HK_BOLD), name, hk_style(p->t, HK_PLAIN));
    if (c->header.python_version)
        fprintf(out, "%sPython %s", p->dot, hk_python_version(c->header.python_version, version));
    fprintf(out, "%spid %u%s%s%s%s\n", p->dot, c->header.pid, p->dot,
            hk_text_duration(a, c->duration_ns), p->dot, hk_life_name(c->life));
    if (!c->has_now) {
        fputs("no figures: it ended before the first point of its timeline\n", out);
        return;
    }
    fprintf(out, "peak %s%s%s %s%sallocated %s", hk_text_bytes(a, (double)v.peak_bytes), p->dot,
            c->life == HK_LIFE_RUNNING ? "live now" : "live at the end",
            hk_text_bytes(b, (double)v.live_bytes), p->dot,
            hk_text_bytes(d, (double)c->now.allocated_bytes));
    if (v.peak_rss_bytes)
        fprintf(out, "%speak RSS %s", p->dot, hk_text_bytes(e, (double)v.peak_rss_bytes));
    fputc('\n', out);
}

static void put_process(const struct page *p, const struct hk_process *process)
{
    bool shown = strcmp(process->path, p->report->capture->path) == 0;
    char name[NAME], a[32], b[32], d[32];

    hk_text_clean(p->t, name, sizeof name, process->program);
    margin(p);
    fprintf(p->t->out, "%s%s %7u  %-16s %10s %10s %10s  %s%s%s\n",
            shown ? hk_style(p->t, HK_BOLD) : "", shown ? ">" : " ", process->pid,
            hk_life_name(process->life), hk_text_bytes(a, (double)process->peak_bytes),
            hk_text_bytes(b, (double)process->live_bytes),
            hk_text_bytes(d, (double)process->allocated_bytes), name,
            process->forked ? " (forked)" : "", shown ? hk_style(p->t, HK_PLAIN) : "");
    if (process->growing && !shown) {
        struct hk_source_frame frame = {.function = process->growing_function,
                                        .qualified_name = process->growing_function,
                                        .file = process->growing_file,
                                        .line = process->growing_line};
        char where[2 * NAME + 32];
        place(p, where, sizeof where, &frame, width(p) - MARGIN - 36);
        margin(p);
        fprintf(p->t->out, "%11s%sgrowing%s  +%s  %s\n", "", hk_style(p->t, HK_RED),
                hk_style(p->t, HK_PLAIN), hk_text_bytes(a, process->growing_rise), where);
    }
}

static void put_processes(const struct page *p)
{
    const struct hk_family *f = p->report->family;
    char name[NAME], a[32], b[32], e[32];
    FILE *out = p->t->out;
    if (!f || (f->count < 2 && !f->folded))
        return;

    fputc('\n', out);
    heading(p, "PROCESSES", HK_BOLD);
    dim(p, "  %7s  %-16s %10s %10s %10s  %s\n", "pid", "state", "peak", "live", "allocated",
        "program");
    for (size_t i = 0; i < f->count; i++)
        put_process(p, &f->processes[i]);
    if (f->folded) {
        margin(p);
        hk_text_clean(p->t, name, sizeof name, f->folded_heaviest);
        fprintf(
            out,
            "  and %s small child%s that ended cleanly: %s allocated, the largest peak %s (%s)\n",
            hk_text_count(a, f->folded), f->folded == 1 ? "" : "ren",
            hk_text_bytes(b, (double)f->folded_allocated_bytes),
            hk_text_bytes(e, (double)f->folded_peak_bytes), name);
    }
    margin(p);
    dim(p, "  below: pid %u; \"heapkeeper report --pid PID\" shows another\n",
        p->report->capture->header.pid);
}

/* ---- memory over time ---- */

static void put_memory(const struct page *p)
{
    const struct hk_capture *c = p->report->capture;
    size_t count = c->point_count, columns = width(p) - MARGIN - 36;
    char line[3 * 128 + 1], a[32], b[32];
    double values[128];
    uint64_t end = c->now.time_ns;

    if (count < 3 || end == 0)
        return;
    if (columns > 60)
        columns = 60;
    if (columns > count)
        columns = count < 16 ? 16 : count;
    size_t next = 0;
    double most = 0, last = 0;
    for (size_t i = 0; i < columns; i++) {
        double value =
            -1; /* the largest of the points that fall into the column, else the one before */
        while (next < count &&
               (double)c->points[next].time_ns <= (double)end * (double)(i + 1) / (double)columns) {
            last = (double)hk_point_live(&c->points[next++]);
            value = fmax(value, last);
        }
        values[i] = value < 0 ? last : value;
        most = fmax(most, values[i]);
    }
    fputc('\n', p->t->out);
    heading(p, "MEMORY", HK_BOLD);
    fprintf(p->t->out, "%s%s%s  live, up to %s, over %s\n", hk_style(p->t, HK_CYAN),
            hk_text_sparkline(p->t, line, values, columns), hk_style(p->t, HK_PLAIN),
            hk_text_bytes(a, most), hk_text_duration(b, end));
}

/* ---- lists of lines ---- */

enum measure { BY_RISE, BY_LIVE, BY_PEAK };

static const struct hk_sites *sorting;
static enum measure sorting_by;

static double amount_of(const struct hk_line *line, enum measure by)
{
    return by == BY_RISE ? line->growth.rise
                         : (double)(by == BY_LIVE ? line->live_bytes : line->peak_bytes);
}

static int by_amount(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    double x = amount_of(&sorting->lines[i], sorting_by),
           y = amount_of(&sorting->lines[k], sorting_by);
    return x > y ? -1 : x < y ? 1 : i < k ? -1 : i > k;
}

/* Of the lines by `by`, how many are worth a row: what is less than a hundredth says little. */
static size_t worth_showing(const struct page *p, enum measure by, const uint32_t *order,
                            size_t count)
{
    const struct hk_sites *s = p->report->sites;
    double whole = (double)(by == BY_PEAK ? s->peak_bytes : s->live_bytes);
    size_t shown = 0, top = p->report->top;
    if (by == BY_LIVE && s->run.by_levels && top > 3) /* what is left when all was let go */
        top = 3;
    while (shown < count && shown < top &&
           (by == BY_RISE || shown < 3 || amount_of(&s->lines[order[shown]], by) >= 0.01 * whole))
        shown++;
    return shown;
}

/* The lines that have something, largest first. The caller frees `*order`. */
static size_t rank(const struct page *p, enum measure by, uint32_t **order)
{
    const struct hk_sites *s = p->report->sites;
    size_t count = 0;
    *order = hk_must_calloc(s->line_count, sizeof **order);
    for (uint32_t i = 0; i < s->line_count; i++) {
        if (by == BY_RISE ? s->lines[i].growth.growing : amount_of(&s->lines[i], by) > 0)
            (*order)[count++] = i;
    }
    sorting = s;
    sorting_by = by;
    qsort(*order, count, sizeof **order, by_amount);
    return count;
}

/* "±9%": one standard error of a sampled sum; nothing when every block was recorded. */
static void error_text(const struct page *p, char to[32], double bytes, double error)
{
    double percent = bytes > 0 ? 100.0 * error / bytes : 0;
    to[0] = 0;
    if (error > 0 && percent >= 0.5)
        snprintf(to, 32, "%s%.0f%%", p->t->utf8 ? "±" : "+-", percent > 100 ? 100 : percent);
}

static void put_row(const struct page *p, const struct hk_line *line, enum measure by,
                    size_t where_columns)
{
    const struct hk_sites *s = p->report->sites;
    double amount = amount_of(line, by),
           mean = hk_sites_mean(s, line->total_bytes, line->samples_total);
    bool of_peak = by == BY_PEAK || (by == BY_RISE && s->run.by_levels);
    double whole = (double)(of_peak ? s->peak_bytes : s->live_bytes);
    double part = by != BY_RISE ? amount : (double)(of_peak ? line->peak_bytes : line->live_bytes);
    char where[2 * NAME + 32], spark[3 * HK_MARKS + 1], bytes[32], share[32], error[32],
        signed_bytes[40];

    place(p, where, sizeof where, &line->frame, where_columns);
    marks_sparkline(p, spark, line->at_mark);
    error_text(p, error, amount, by == BY_RISE ? line->growth.error : sqrt(mean * amount));
    snprintf(signed_bytes, sizeof signed_bytes, "%s%s", by == BY_RISE ? "+" : "",
             hk_text_bytes(bytes, amount));
    size_t columns = hk_text_columns(where), error_columns = hk_text_columns(error);
    fprintf(p->t->out, "%s%9s%s %s%s%s%*s %4s  %s%*s  %s%s%s\n",
            by == BY_RISE ? hk_style(p->t, HK_RED) : "", signed_bytes, hk_style(p->t, HK_PLAIN),
            hk_style(p->t, HK_DIM), error, hk_style(p->t, HK_PLAIN),
            error_columns < 5 ? (int)(5 - error_columns) : 0, "",
            hk_text_percent(share, part, whole), where,
            columns < where_columns ? (int)(where_columns - columns) : 0, "",
            hk_style(p->t, by == BY_RISE ? HK_RED : HK_CYAN), spark, hk_style(p->t, HK_PLAIN));
}

static void put_rest(const struct page *p, const uint32_t *order, size_t shown, size_t count,
                     enum measure by)
{
    const struct hk_sites *s = p->report->sites;
    double rest = 0, whole = (double)(by == BY_PEAK ? s->peak_bytes : s->live_bytes);
    char a[32], b[32], d[32];
    for (size_t i = shown; i < count; i++)
        rest += amount_of(&s->lines[order[i]], by);
    fprintf(p->t->out, "%*s", INDENT, "");
    dim(p, "%9s %10s  in %s other line%s\n", hk_text_bytes(a, rest),
        hk_text_percent(b, rest, whole), hk_text_count(d, count - shown),
        count - shown == 1 ? "" : "s");
}

static void put_rows(const struct page *p, const uint32_t *order, size_t all, enum measure by)
{
    const struct hk_sites *s = p->report->sites;
    size_t count = worth_showing(p, by, order, all);
    char where[2 * NAME + 32];
    size_t where_columns = 0, taken = WHERE + 2 + p->report->capture->mark_count;
    size_t room = width(p) > taken + 20 ? width(p) - taken : 20;

    for (size_t i = 0; i < count; i++) {
        place(p, where, sizeof where, &s->lines[order[i]].frame, room);
        size_t columns = hk_text_columns(where);
        where_columns = columns > where_columns ? columns : where_columns;
    }
    for (size_t i = 0; i < count; i++) {
        const struct hk_line *line = &s->lines[order[i]];
        uint32_t site = by == BY_RISE   ? line->steepest
                        : by == BY_LIVE ? line->heaviest_live
                                        : line->heaviest_peak;
        fprintf(p->t->out, "%*s", INDENT, "");
        put_row(p, line, by, where_columns);
        stack_line(p, &s->sites[site]);
    }
    if (count < all)
        put_rest(p, order, count, all, by);
}

static void put_growing(const struct page *p)
{
    uint32_t *order;
    size_t count = rank(p, BY_RISE, &order);
    if (count) {
        fputc('\n', p->t->out);
        heading(p, "GROWING", HK_RED);
        say(p, "%s: gain over the last half of the run, share of %s, live over time",
            p->report->sites->run.by_levels ? "rising until all was let go at the end"
                                            : "still rising at the end",
            p->report->sites->run.by_levels ? "the peak" : "live");
        put_rows(p, order, count, BY_RISE);
    } else if (p->report->sites->run.usable && p->report->capture->header.mode != HK_MODE_NONE) {
        fputc('\n', p->t->out);
        heading(p, "GROWING", HK_GREEN);
        fputs("nothing keeps growing\n", p->t->out);
    }
    free(order);
}

static void put_largest(const struct page *p, enum measure by)
{
    const struct hk_capture *c = p->report->capture;
    uint32_t *order;
    char when[32];
    size_t count = rank(p, by, &order);
    if (count) {
        fputc('\n', p->t->out);
        heading(p, by == BY_LIVE ? "LARGEST" : "AT PEAK", HK_BOLD);
        if (by == BY_LIVE)
            say(p, "%s, share of live, live over time",
                c->life == HK_LIFE_RUNNING ? "live now" : "live at the end");
        else
            say(p, "live at the peak of what was recorded, after %s",
                hk_text_duration(when, c->status.peak_ns));
        put_rows(p, order, count, by);
    }
    free(order);
}

/* The list at the peak says nothing new when the peak is the end. */
static bool peak_is_another_list(const struct page *p)
{
    const struct hk_sites *s = p->report->sites;
    return (double)s->peak_bytes > 1.1 * (double)s->live_bytes;
}

/* ---- the heap ---- */

static void put_classes(const struct page *p, const struct hk_heap_view *v)
{
    const struct hk_capture_point *at = &v->at;
    char mapped[32], live[32], used[32], empty[32], metadata[32], chunks[32];
    bool has_frames = at->frame_chunks_bytes || p->report->capture->header.python_version;
    margin(p);
    say(p, "%s mapped = %s live + %s free in used pools + %s in empty pools + %s metadata%s%s%s",
        hk_text_bytes(mapped, (double)v->mapped_bytes), hk_text_bytes(live, (double)at->live_bytes),
        hk_text_bytes(used, (double)at->free_in_used_pools_bytes),
        hk_text_bytes(empty, (double)at->empty_pools_bytes),
        hk_text_bytes(metadata, (double)at->metadata_bytes),
        has_frames ? " + " : "", has_frames ? hk_text_bytes(chunks, (double)at->frame_chunks_bytes) : "",
        has_frames ? " frame stacks" : "");
}

/* Of a Python program under --native: how much is Python's and how much the libraries'. */
static void put_domains(const struct page *p, const struct hk_capture_point *at)
{
    char raw[32], mem[32], object[32], native[32];
    if (!p->report->capture->header.python_version || !at->domain_allocated_bytes[3])
        return;
    margin(p);
    say(p, "live by domain: object %s%smem %s%sraw %s%snative %s (asked of the C library by name)",
        hk_text_bytes(object, (double)at->domain_live_bytes[2]), p->dot, hk_text_bytes(mem, (double)at->domain_live_bytes[1]), p->dot,
        hk_text_bytes(raw, (double)at->domain_live_bytes[0]), p->dot, hk_text_bytes(native, (double)at->domain_live_bytes[3]));
}

/* " of 16 KiB"; nothing for 0, which an older writer left there. */
static const char *of_bytes(char text[40], uint32_t bytes)
{
    bool whole = bytes >> 20 && bytes % (1u << 20) == 0;
    text[0] = 0;
    if (bytes)
        snprintf(text, 40, whole ? " of %u MiB" : " of %u KiB", bytes >> (whole ? 20 : 10));
    return text;
}

static void put_heap(const struct page *p)
{
    struct hk_heap_view v = hk_heap_view(p->report->capture);
    const struct hk_capture_point *at = &v.at;
    char arenas[32], pools[32], used[32], full[32], empty[32], blocks[32], live[32], mapped[32],
        a[32], b[32], arena_size[40], pool_size[40];

    fputc('\n', p->t->out);
    heading(p, "HEAP", HK_BOLD);
    say(p, "%s arena%s%s%s%s pools%s (%s used, %s full, %s empty)%s%s blocks%s%s live of %s",
        hk_text_count(arenas, at->arenas), at->arenas == 1 ? "" : "s",
        of_bytes(arena_size, p->report->capture->header.arena_bytes), p->dot,
        hk_text_count(pools, v.pools), of_bytes(pool_size, p->report->capture->header.pool_bytes),
        hk_text_count(used, at->pools_used),
        hk_text_count(full, at->pools_full), hk_text_count(empty, at->pools_empty), p->dot,
        hk_text_count(blocks, at->live_blocks), p->dot, hk_text_bytes(live, (double)at->live_bytes),
        hk_text_bytes(mapped, (double)v.mapped_bytes));
    put_classes(p, &v);
    put_domains(p, at);
    if (at->large_blocks) {
        margin(p);
        say(p, "%s in %s large block%s of the C library", hk_text_bytes(a, (double)at->large_bytes),
            hk_text_count(b, at->large_blocks), at->large_blocks == 1 ? "" : "s");
    }
    if (at->returned_bytes) {
        margin(p);
        say(p, "%s of empty pools given back to the system",
            hk_text_bytes(a, (double)at->returned_bytes));
    }
}

static void put_gc(const struct page *p)
{
    struct hk_gc_view v = hk_gc_view(p->report->capture);
    const uint64_t *by = v.by_generation;
    char count[32], time[32], share[32], longest[32], at[32], examined[32], freed[32], kept[32];
    if (v.collections == 0)
        return;
    heading(p, "GC", HK_BOLD);
    say(p, "%s collection%s (%llu young, %llu middle, %llu full)%s%s (%s of the run)%slongest %s, after %s (%s)%sfreed %s of %s objects",
        hk_text_count(count, v.collections), v.collections == 1 ? "" : "s", (unsigned long long)by[0], (unsigned long long)by[1],
        (unsigned long long)(by[2] + by[3]), p->dot, hk_text_duration(time, v.duration_ns),
        hk_text_percent(share, (double)v.duration_ns, (double)p->report->capture->duration_ns), p->dot,
        hk_text_duration(longest, v.longest_ns), hk_text_duration(at, v.longest_at_ns), hk_cause_word(v.longest_cause), p->dot,
        hk_text_count(freed, v.freed), hk_text_count(examined, v.examined));
    if (v.uncollectable) {
        margin(p);
        say(p, "%s object%s found unreachable and kept: saved by finalizers, or on request", hk_text_count(kept, v.uncollectable),
            v.uncollectable == 1 ? "" : "s");
    }
}

static void put_outside(const struct page *p)
{
    struct hk_heap_view v = hk_heap_view(p->report->capture);
    char least[32], most[32], rss[32];
    bool apart = (double)v.outside_most_bytes > 1.1 * (double)v.outside_bytes;
    if (!v.rss_bytes)
        return;
    heading(p, "OUTSIDE", HK_BOLD);
    say(p, "%s%s%s of the %s RSS is outside the heap: code, %sthread stacks, files",
        hk_text_bytes(least, (double)v.outside_bytes), apart ? " to " : "",
        apart ? hk_text_bytes(most, (double)v.outside_most_bytes) : "",
        hk_text_bytes(rss, (double)v.rss_bytes), v.at.domain_allocated_bytes[3] ? "" : "C libraries, ");
}

static void put_recorder(const struct page *p)
{
    const struct hk_capture *c = p->report->capture;
    char bytes[32], samples[32], mean[32], time[32], share[32], distance[64] = "";

    heading(p, "RECORDER", HK_BOLD);
    hk_text_bytes(bytes, (double)c->now.recorder_bytes);
    if (c->header.mode == HK_MODE_NONE) {
        say(p, "%s of memory%srecording off", bytes, p->dot);
        return;
    }
    if (c->header.mode == HK_MODE_SAMPLE)
        snprintf(distance, sizeof distance, "%sone per %s", p->dot,
                 hk_text_bytes(mean, (double)c->header.sample_bytes));
    hk_text_count(samples, c->now.samples);
    if (c->header.mode == HK_MODE_EXACT) { /* what each event took is nowhere measured */
        say(p, "%s of memory%s%s events: every block of Python's", bytes, p->dot, samples);
        return;
    }
    say(p, "%s of memory%s%s samples%s%sabout %s (%s of the run)", bytes, p->dot, samples, distance, p->dot,
        hk_text_duration(time, c->now.recorder_ns),
        hk_text_percent(share, (double)c->now.recorder_ns, (double)c->now.time_ns));
}

static void put_notes(const struct page *p)
{
    struct hk_notes notes = hk_notes(p->report);
    char text[LINE];
    for (size_t i = 0; i < notes.count; i++) {
        if (i == 0)
            heading(p, "NOTES", HK_YELLOW);
        else
            margin(p);
        put_wrapped(p, hk_text_clean(p->t, text, sizeof text, notes.texts[i]));
    }
    hk_notes_free(&notes);
}

void hk_report_text(const struct hk_report *r, const struct hk_terminal *t)
{
    struct page page = {r, t, t->utf8 ? " · " : " - "}, *p = &page;

    put_head(p);
    put_processes(p);
    if (r->capture->has_now) {
        put_memory(p);
        put_growing(p);
        bool fell = r->sites->run.by_levels; /* then little is left to say of the end */
        if (fell)
            put_largest(p, BY_PEAK);
        put_largest(p, BY_LIVE);
        if (!fell && peak_is_another_list(p))
            put_largest(p, BY_PEAK);
        put_heap(p);
        put_gc(p);
        put_outside(p);
        put_recorder(p);
    }
    put_notes(p);
}
