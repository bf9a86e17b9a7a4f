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

#include "view/report_lists.h"
#include "view/where.h"

#define MARGIN      10   /* columns of the headings */
#define INDENT      3    /* columns in front of a row */
#define WHERE       25   /* columns in front of a row's place */
#define NAME        512  /* bytes of a cleaned name */
#define LINE        1100 /* bytes of a sentence */
#define NO_TERMINAL 200  /* columns that a stack may take where there is no terminal to say */

struct page {
    const struct hk_report *report;
    const struct hk_terminal *t;
    const char *dot; /* between facts */
    bool bare;       /* without headings and margin */
};

/* ---- small pieces ---- */

static void heading(const struct page *p, const char *word, enum hk_style style)
{
    if (p->bare)
        return;
    fprintf(p->t->out, "%s%s%s%*s", hk_style(p->t, style), word, hk_style(p->t, HK_PLAIN),
            (int)(MARGIN - strlen(word)), "");
}

static void margin(const struct page *p)
{
    if (!p->bare)
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

/* "main:140 > handle:61 > remember_order:88", without the outer frames that do not fit. */
static void stack_line(const struct page *p, const struct hk_site *site)
{
    struct hk_source_frame frames[HK_LIST_FRAMES];
    char pieces[HK_LIST_FRAMES][160];
    bool cut;
    size_t count = hk_list_path(p->report, site, p->t->utf8 ? "…" : "...", frames, &cut), used = 4;
    size_t room = (p->t->width ? p->t->width : NO_TERMINAL) - WHERE;

    if (count < 2)
        return;
    size_t from = count;
    while (from > 0) {
        hk_list_piece(p->t, pieces[from - 1], sizeof pieces[0], &frames[from - 1]);
        used += hk_text_columns(pieces[from - 1]) + 3;
        if (from < count && used > room)
            break;
        from--;
    }
    fprintf(p->t->out, "%*s%s", WHERE, "", hk_style(p->t, HK_DIM));
    if (from > 0 || cut)
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
    struct hk_totals totals = hk_report_totals(p->report);
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
    fprintf(out, "peak %s%s%s %s%sallocated %s", hk_text_bytes(a, (double)totals.peak_bytes), p->dot,
            c->life == HK_LIFE_RUNNING ? "live now" : "live at the end",
            hk_text_bytes(b, (double)totals.live_bytes), p->dot,
            hk_text_bytes(d, (double)totals.allocated_bytes));
    if (totals.peak_rss_bytes)
        fprintf(out, "%speak RSS %s", p->dot, hk_text_bytes(e, (double)totals.peak_rss_bytes));
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

char *hk_report_small_children(char to[400], const struct hk_family *f, const struct hk_terminal *t)
{
    char name[256], a[32], b[32], e[32];
    snprintf(to, 400, "%s small child%s that ended cleanly: %s allocated, the largest peak %s (%s)", hk_text_count(a, f->folded),
             f->folded == 1 ? "" : "ren", hk_text_bytes(b, (double)f->folded_allocated_bytes),
             hk_text_bytes(e, (double)f->folded_peak_bytes), hk_text_clean(t, name, sizeof name, f->folded_heaviest));
    return to;
}

static void put_processes(const struct page *p)
{
    const struct hk_family *f = p->report->family;
    char folded[400];
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
        fprintf(out, "  and %s\n", hk_report_small_children(folded, f, p->t));
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

/* "±9%": one standard error of a sampled sum; nothing when every block was recorded. */
static void error_text(const struct page *p, char to[32], double bytes, double error)
{
    double percent = bytes > 0 ? 100.0 * error / bytes : 0;
    to[0] = 0;
    if (error > 0 && percent >= 0.5)
        snprintf(to, 32, "%s%.0f%%", p->t->utf8 ? "±" : "+-", percent > 100 ? 100 : percent);
}

static void put_row(const struct page *p, const struct hk_line *line, enum hk_report_list list, size_t where_columns)
{
    double amount = hk_list_amount(line, list);
    struct hk_share of = hk_list_share(p->report, line, list);
    bool grows = list == HK_LIST_GROWING;
    char where[2 * NAME + 32], spark[3 * HK_MARKS + 1], bytes[32], share[32], error[32],
        signed_bytes[40];

    place(p, where, sizeof where, &line->frame, where_columns);
    marks_sparkline(p, spark, line->at_mark);
    error_text(p, error, amount, hk_list_error(p->report, line, list));
    snprintf(signed_bytes, sizeof signed_bytes, "%s%s", grows ? "+" : "",
             hk_text_bytes(bytes, amount));
    size_t columns = hk_text_columns(where), error_columns = hk_text_columns(error);
    fprintf(p->t->out, "%s%9s%s %s%s%s%*s %4s  %s%*s  %s%s%s\n",
            grows ? hk_style(p->t, HK_RED) : "", signed_bytes, hk_style(p->t, HK_PLAIN),
            hk_style(p->t, HK_DIM), error, hk_style(p->t, HK_PLAIN),
            error_columns < 5 ? (int)(5 - error_columns) : 0, "",
            hk_text_percent(share, of.part, of.whole), where,
            columns < where_columns ? (int)(where_columns - columns) : 0, "",
            hk_style(p->t, grows ? HK_RED : HK_CYAN), spark, hk_style(p->t, HK_PLAIN));
}

static void put_rest(const struct page *p, const uint32_t *order, size_t shown, size_t count, enum hk_report_list list)
{
    const struct hk_sites *s = p->report->sites;
    double rest = 0, whole = (double)(list == HK_LIST_PEAK ? s->peak_bytes : s->live_bytes);
    char a[32], b[32], d[32];
    for (size_t i = shown; i < count; i++)
        rest += hk_list_amount(&s->lines[order[i]], list);
    fprintf(p->t->out, "%*s", INDENT, "");
    dim(p, "%9s %10s  in %s other line%s\n", hk_text_bytes(a, rest),
        hk_text_percent(b, rest, whole), hk_text_count(d, count - shown),
        count - shown == 1 ? "" : "s");
}

static void put_rows(const struct page *p, const uint32_t *order, size_t count, size_t all, enum hk_report_list list)
{
    const struct hk_sites *s = p->report->sites;
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
        fprintf(p->t->out, "%*s", INDENT, "");
        put_row(p, line, list, where_columns);
        stack_line(p, &s->sites[hk_list_example(line, list)]);
    }
    if (count < all)
        put_rest(p, order, count, all, list);
}

static void put_growing(const struct page *p)
{
    uint32_t *order;
    size_t shown, count = hk_list_rank(p->report, HK_LIST_GROWING, &order, &shown);
    if (count) {
        fputc('\n', p->t->out);
        heading(p, "GROWING", HK_RED);
        say(p, "%s: gain over the last half of the run, share of %s, live over time",
            p->report->sites->run.by_levels ? "rising until all was let go at the end"
                                            : "still rising at the end",
            p->report->sites->run.by_levels ? "the peak" : "live");
        put_rows(p, order, shown, count, HK_LIST_GROWING);
    } else if (p->report->sites->run.usable && p->report->capture->header.mode != HK_MODE_NONE) {
        fputc('\n', p->t->out);
        heading(p, "GROWING", HK_GREEN);
        fputs("nothing keeps growing\n", p->t->out);
    }
    free(order);
}

static void put_largest(const struct page *p, enum hk_report_list list)
{
    const struct hk_capture *c = p->report->capture;
    uint32_t *order;
    char when[32];
    size_t shown, count = hk_list_rank(p->report, list, &order, &shown);
    if (count) {
        fputc('\n', p->t->out);
        heading(p, list == HK_LIST_LIVE ? "LARGEST" : "AT PEAK", HK_BOLD);
        if (list == HK_LIST_LIVE)
            say(p, "%s, share of live, live over time",
                c->life == HK_LIFE_RUNNING ? "live now" : "live at the end");
        else
            say(p, "live at the peak of what was recorded, after %s",
                hk_text_duration(when, c->status.peak_ns));
        put_rows(p, order, shown, count, list);
    }
    free(order);
}

/* An estimate, from some blocks that were watched; with fewer it says nothing. */
static void put_temporary(const struct page *p)
{
    const int least = 100;
    const struct hk_sites *s = p->report->sites;
    const struct hk_line *most = NULL;
    struct hk_lives all = {0, 0, 0};
    char where[2 * NAME + 32], share[32], of_most[32];
    for (size_t i = 0; i < s->line_count; i++) {
        hk_lives_add(&all, &s->lines[i].lives);
        if (most == NULL || s->lines[i].lives.temporary > most->lives.temporary)
            most = &s->lines[i];
    }
    if (all.sampled < least || all.temporary == 0)
        return;
    place(p, where, sizeof where, &most->frame, width(p) > MARGIN + 40 ? width(p) - MARGIN : 40);
    fputc('\n', p->t->out);
    heading(p, "TEMPORARY", HK_BOLD);
    say(p, "about %s of what was allocated was freed soon after, %s of that by", hk_text_percent(share, (double)all.temporary, (double)all.sampled),
        hk_text_percent(of_most, (double)most->lives.temporary, (double)all.temporary));
    margin(p);
    fprintf(p->t->out, "%s\n", where);
}

/* How old what lives is, the oldest first; of an exact capture of before that was recorded, that it was not. */
static void put_ages(const struct page *p)
{
    const struct hk_sites *s = p->report->sites;
    struct hk_ages all = {.samples = 0};
    double whole = 0;
    char text[256] = "", age[32], share[32];
    for (size_t i = 0; i < s->living_count; i++) {
        hk_living_add(&all, &s->living[i]);
        whole += (double)s->living[i].bytes;
    }
    if (hk_sites_have_ages(s) ? all.samples < 20 : s->kind != HK_SECTION_EXACT_SITES)
        return;
    for (unsigned epoch = HK_EPOCHS; epoch-- > 0;) {
        size_t length = strlen(text);
        if (length < 120 && (double)all.bytes[epoch] >= 0.01 * whole && all.samples > 0)
            snprintf(text + length, sizeof text - length, "%s%s %s", length ? ", " : "", hk_text_percent(share, (double)all.bytes[epoch], whole),
                     hk_list_epoch(age, epoch));
    }
    fputc('\n', p->t->out);
    heading(p, "AGE", HK_BOLD);
    if (hk_sites_have_ages(s))
        say(p, "of what lives, at least so old: %s (table --sort age)", text);
    else
        say(p, "this capture does not know when what lives was allocated: an earlier heapkeeper made it");
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

    if (!p->bare)
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
    uint64_t later = hk_report_totals(p->report).later_bytes;
    if (later) {
        margin(p);
        say(p, "all this at the last point of the timeline, after %s; %s %s allocated since then", hk_text_duration(a, at->time_ns),
            hk_text_bytes(b, (double)later), p->report->capture->life == HK_LIFE_RUNNING ? "have been" : "were");
    }
}

static void put_gc(const struct page *p)
{
    struct hk_gc_view v = hk_gc_view(p->report->capture);
    const uint64_t *by = v.by_generation;
    char count[32], time[32], share[32], longest[32], at[32], examined[48] = "", freed[32], kept[32], took[256] = "", cause[32] = "";
    if (v.collections == 0)
        return;
    heading(p, "GC", HK_BOLD);
    if (v.longest_cause != HK_CAUSE_OTHER)
        snprintf(cause, sizeof cause, " (%s)", hk_cause_word(v.longest_cause));
    if (v.duration_ns) /* else it is not known */
        snprintf(took, sizeof took, "%s (%s of the run)%slongest %s, after %s%s%s", hk_text_duration(time, v.duration_ns),
                 hk_text_percent(share, (double)v.duration_ns, (double)p->report->capture->duration_ns), p->dot,
                 hk_text_duration(longest, v.longest_ns), hk_text_duration(at, v.longest_at_ns), cause, p->dot);
    if (v.examined)
        snprintf(examined, sizeof examined, " of %s", hk_text_count(kept, v.examined));
    say(p, "%s collection%s (%llu young, %llu middle, %llu full)%s%sfreed %s%s objects", hk_text_count(count, v.collections),
        v.collections == 1 ? "" : "s", (unsigned long long)by[0], (unsigned long long)by[1], (unsigned long long)(by[2] + by[3]), p->dot,
        took, hk_text_count(freed, v.freed), examined);
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
        say(p, "%s of memory%s%s events: every block of Python's%s", bytes, p->dot, samples,
            c->now.domain_allocated_bytes[HK_DOMAIN_NATIVE] ? " and the C library's" : "");
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
    struct page page = {r, t, t->utf8 ? " · " : " - ", false}, *p = &page;
    enum hk_report_list lists[2];

    put_head(p);
    put_processes(p);
    if (r->capture->has_now) {
        put_memory(p);
        put_growing(p);
        for (size_t i = 0, count = hk_lists_by_size(r, lists); i < count; i++)
            put_largest(p, lists[i]);
        put_temporary(p);
        put_ages(p);
        put_heap(p);
        put_gc(p);
        put_outside(p);
        put_recorder(p);
    }
    put_notes(p);
}

char *hk_report_sentences(const struct hk_report *r, enum hk_report_part part, const struct hk_terminal *t)
{
    static void (*const put[])(const struct page *) = {put_heap, put_gc, put_outside, put_recorder};
    char *text = NULL;
    size_t size = 0;
    struct hk_terminal memory = *t;
    struct page page = {r, &memory, t->utf8 ? " · " : " - ", true};
    memory.out = open_memstream(&text, &size);
    memory.width = 0;
    if (memory.out) {
        put[part](&page);
        fclose(memory.out);
    }
    return text ? text : hk_must_strdup("");
}
