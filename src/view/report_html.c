/* The report's text in a page: the same lists in the same order, the same sentences. It is whole without its scripts, which
 * only draw the flame graph and switch between light and dark. Numbers are the text's, words of the capture pass hk_page_text.
 */
#include "view/report_html.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "view/flame.h"
#include "view/page.h"
#include "view/plot.h"
#include "view/report_lists.h"
#include "view/where.h"

#define NAME 1024 /* bytes of a cleaned name */

struct page {
    const struct hk_report *report;
    const struct hk_call_tree *tree;
    FILE *out;
};

/* As for a terminal that can show everything. */
static const struct hk_terminal wide = {.utf8 = true};

__attribute__((format(printf, 2, 3))) static void put_text(const struct page *p, const char *format, ...)
{
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    hk_page_text(p->out, text);
}

static void put_bytes(const struct page *p, double bytes)
{
    char text[32];
    fputs(hk_text_bytes(text, bytes), p->out);
}

static void start_section(const struct page *p, const char *id, const char *title)
{
    fprintf(p->out, "<section id=\"%s\">\n<h2>%s</h2>\n", id, title);
}

static void end_section(const struct page *p)
{
    fputs("</section>\n", p->out);
}

/* The sentences of a part of the text, a paragraph each; nothing if it says nothing. */
static void put_sentences(const struct page *p, enum hk_report_part part, const char *title)
{
    char *text = hk_report_sentences(p->report, part, &wide), *next = text;
    if (*text && title)
        fprintf(p->out, "<h3>%s</h3>\n", title);
    while (*next) {
        size_t length = strcspn(next, "\n");
        char *rest = next + length + (next[length] == '\n');
        next[length] = 0;
        fputs("<p>", p->out);
        hk_page_text(p->out, next);
        fputs("</p>\n", p->out);
        next = rest;
    }
    free(text);
}

/* ---- head ---- */

static void put_figure(const struct page *p, const char *word, double bytes, const char *more)
{
    fprintf(p->out, "<div><dt>%s</dt><dd>", word);
    put_bytes(p, bytes);
    fputs("</dd>", p->out);
    if (*more)
        fprintf(p->out, "<dd class=\"soft\">%s</dd>", more);
    fputs("</div>\n", p->out);
}

static void put_command_line(const struct page *p)
{
    char *arguments[64], clean[NAME];
    size_t count = hk_capture_arguments(p->report->capture, arguments, 64);
    fputs("<p class=\"command\"><code>", p->out);
    for (size_t i = 0; i < count && i < 64; i++) {
        put_text(p, "%s%s", i ? " " : "", hk_text_clean(&wide, clean, sizeof clean, arguments[i]));
        free(arguments[i]);
    }
    fputs(count > 64 ? " …</code></p>\n" : "</code></p>\n", p->out);
}

static void put_head(const struct page *p)
{
    const struct hk_capture *c = p->report->capture;
    struct hk_totals totals = hk_report_totals(p->report);
    char program[256], name[NAME], version[32], time[32], blocks[48] = "", a[32];

    fputs("<header>\n<div class=\"title\"><h1>", p->out);
    hk_page_text(p->out, hk_text_clean(&wide, name, sizeof name, hk_capture_program(c, program, sizeof program)));
    fputs("</h1>\n<span class=\"soft\">", p->out);
    if (c->header.python_version)
        fprintf(p->out, "Python %s · ", hk_python_version(c->header.python_version, version));
    fprintf(p->out, "pid %u · %s · %s</span>\n<span class=\"gap\"></span>", c->header.pid,
            hk_text_duration(time, c->duration_ns), hk_life_name(c->life));
    fputs("<button data-theme-switch title=\"Light or dark\" aria-label=\"Light or dark\">◐</button></div>\n", p->out);
    put_command_line(p);
    if (!c->has_now) {
        fputs("<p>No figures: it ended before the first point of its timeline.</p>\n</header>\n", p->out);
        return;
    }
    snprintf(blocks, sizeof blocks, "in %s blocks", hk_text_count(a, totals.live_blocks));
    fputs("<dl class=\"figures\">\n", p->out);
    put_figure(p, "peak", (double)totals.peak_bytes, "");
    put_figure(p, c->life == HK_LIFE_RUNNING ? "live now" : "live at the end", (double)totals.live_bytes, blocks);
    snprintf(blocks, sizeof blocks, "in %s blocks", hk_text_count(a, totals.allocated_blocks));
    put_figure(p, "allocated", (double)totals.allocated_bytes, totals.allocated_blocks ? blocks : "");
    if (totals.peak_rss_bytes)
        put_figure(p, "peak resident size", (double)totals.peak_rss_bytes, "");
    fputs("</dl>\n</header>\n", p->out);
}

/* ---- other processes ---- */

static void put_process(const struct page *p, const struct hk_process *process)
{
    bool shown = strcmp(process->path, p->report->capture->path) == 0;
    char name[NAME];
    fprintf(p->out, "<tr%s><td class=\"number\">%u</td><td>%s%s</td><td class=\"number\">", shown ? " class=\"shown\"" : "",
            process->pid, hk_life_name(process->life), process->forked ? ", forked" : "");
    put_bytes(p, (double)process->peak_bytes);
    fputs("</td><td class=\"number\">", p->out);
    put_bytes(p, (double)process->live_bytes);
    fputs("</td><td class=\"number\">", p->out);
    put_bytes(p, (double)process->allocated_bytes);
    fputs("</td><td>", p->out);
    hk_page_text(p->out, hk_text_clean(&wide, name, sizeof name, process->program));
    if (process->growing && !shown) {
        struct hk_source_frame frame = {.function = process->growing_function,
                                        .qualified_name = process->growing_function,
                                        .file = process->growing_file,
                                        .line = process->growing_line};
        char where[2 * NAME];
        const struct hk_capture *c = p->report->capture;
        hk_where_text(&wide, hk_capture_string(c, c->header.working_directory), where, sizeof where, &frame, sizeof where);
        fputs("<div class=\"rise\">growing: +", p->out);
        put_bytes(p, process->growing_rise);
        put_text(p, " %s", where);
        fputs("</div>", p->out);
    }
    fputs("</td></tr>\n", p->out);
}

static void put_processes(const struct page *p)
{
    const struct hk_family *f = p->report->family;
    if (!f || f->count < 2)
        return;
    start_section(p, "processes", "Processes");
    fputs("<table>\n<thead><tr><th class=\"number\">pid</th><th>state</th><th class=\"number\">peak</th><th "
          "class=\"number\">live</th>"
          "<th class=\"number\">allocated</th><th>program</th></tr></thead>\n<tbody>\n",
          p->out);
    for (size_t i = 0; i < f->count && i < 200; i++)
        put_process(p, &f->processes[i]);
    fputs("</tbody>\n</table>\n", p->out);
    if (f->count > 200)
        put_text(p, "and %zu more", f->count - 200);
    end_section(p);
}

/* ---- memory over time ---- */

static void put_memory(const struct page *p)
{
    struct hk_plot plot;
    if (p->report->capture->point_count < 3)
        return;
    start_section(p, "memory", "Memory over time");
    hk_plot_of(&plot, p->report->capture);
    hk_plot_svg_inline(&plot, p->out);
    hk_plot_free(&plot);
    end_section(p);
}

/* ---- lists of lines ---- */

/* Live bytes at the marks, from 0 to the largest. */
static void put_sparkline(const struct page *p, const struct hk_line *line, bool rises)
{
    unsigned count = p->report->capture->mark_count;
    uint64_t most = 1;
    char text[32];
    for (unsigned i = 0; i < count; i++)
        most = line->at_mark[i] > most ? line->at_mark[i] : most;
    fprintf(p->out, "<svg class=\"spark%s\" viewBox=\"0 0 160 26\" role=\"img\"><title>live over time, up to %s</title>",
            rises ? " rises" : "", hk_text_bytes(text, (double)most * 1024));
    for (unsigned i = 0; i < count; i++) {
        double width = 160.0 / count, height = 25.0 * (double)line->at_mark[i] / (double)most + 1;
        fprintf(p->out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>", i * width, 26 - height, width - 1,
                height);
    }
    fputs("</svg>", p->out);
}

static void put_where(const struct page *p, const struct hk_source_frame *frame)
{
    const struct hk_capture *c = p->report->capture;
    char where[2 * NAME];
    hk_where_text(&wide, hk_capture_string(c, c->header.working_directory), where, sizeof where, frame, sizeof where);
    fputs("<div class=\"where\">", p->out);
    hk_page_text(p->out, where);
    fputs("</div>", p->out);
}

static void put_path(const struct page *p, const struct hk_site *site)
{
    struct hk_source_frame frames[HK_LIST_FRAMES];
    char piece[160];
    bool cut;
    size_t count = hk_list_path(p->report, site, "…", frames, &cut);
    if (count < 2)
        return;
    fputs("<div class=\"path\">", p->out);
    for (size_t i = 0; i < count; i++) {
        hk_list_piece(&wide, piece, sizeof piece, &frames[i]);
        put_text(p, "%s%s", i ? " › " : cut ? "… › " : "", piece);
    }
    fputs("</div>", p->out);
}

/* What the line's blocks are like. */
static void put_lives(const struct page *p, const struct hk_lives *lives)
{
    char text[32];
    if (!hk_sites_have_lives(p->report->sites))
        return;
    fprintf(p->out, "<td class=\"number life\">%s</td><td class=\"number life\">", hk_list_temporary(text, lives));
    put_bytes(p, (double)lives->largest_bytes);
    fputs("</td>", p->out);
}

static void put_row(const struct page *p, const struct hk_line *line, enum hk_report_list list)
{
    double amount = hk_list_amount(line, list), error = hk_list_error(p->report, line, list);
    struct hk_share share = hk_list_share(p->report, line, list);
    double percent = amount > 0 ? 100.0 * error / amount : 0, width = share.whole > 0 ? 100.0 * share.part / share.whole : 0;
    char text[32];
    bool grows = list == HK_LIST_GROWING;

    fprintf(p->out, "<tr><td class=\"number amount%s\">%s", grows ? " rise" : "", grows ? "+" : "");
    put_bytes(p, amount);
    if (error > 0 && percent >= 0.5)
        fprintf(p->out, " <span class=\"soft\">±%.0f%%</span>", percent > 100 ? 100 : percent);
    fprintf(p->out, "</td><td class=\"number share\"><i style=\"width:%.1f%%\"></i>%s</td><td>", width > 100 ? 100 : width,
            hk_text_percent(text, share.part, share.whole));
    put_where(p, &line->frame);
    put_path(p, &p->report->sites->sites[hk_list_example(line, list)]);
    fputs("</td>", p->out);
    put_lives(p, &line->lives);
    fputs("<td>", p->out);
    put_sparkline(p, line, grows);
    fputs("</td></tr>\n", p->out);
}

static void put_rest(const struct page *p, const uint32_t *order, size_t shown, size_t count, enum hk_report_list list)
{
    double rest = 0;
    struct hk_share whole = {0, 0};
    struct hk_lives lives = {0, 0, 0};
    char share[32], lines[32];
    for (size_t i = shown; i < count; i++) {
        const struct hk_line *line = &p->report->sites->lines[order[i]];
        rest += hk_list_amount(line, list);
        whole = hk_list_share(p->report, line, list);
        hk_lives_add(&lives, &line->lives);
    }
    fputs("<tr class=\"soft\"><td class=\"number\">", p->out);
    put_bytes(p, rest);
    fprintf(p->out, "</td><td class=\"number\">%s</td><td>in %s other line%s</td>", hk_text_percent(share, rest, whole.whole),
            hk_text_count(lines, count - shown), count - shown == 1 ? "" : "s");
    put_lives(p, &lives);
    fputs("<td></td></tr>\n", p->out);
}

static void put_table(const struct page *p, enum hk_report_list list, const uint32_t *order, size_t shown, size_t count)
{
    static const char lives[] = "<th class=\"number life\" title=\"share of what it allocated that was freed soon, about\">freed soon</th>"
                                "<th class=\"number life\">largest block</th>";
    bool of_peak = list == HK_LIST_PEAK || (list == HK_LIST_GROWING && p->report->sites->run.by_levels);
    fprintf(p->out,
            "<table class=\"lines\">\n<thead><tr><th class=\"number\">%s</th><th class=\"number\">of %s</th><th>line</th>%s"
            "<th>live over time</th></tr></thead>\n<tbody>\n",
            list == HK_LIST_GROWING ? "gain"
            : list == HK_LIST_LIVE  ? "live"
                                    : "at the peak",
            of_peak ? "the peak" : "live", hk_sites_have_lives(p->report->sites) ? lives : "");
    for (size_t i = 0; i < shown; i++)
        put_row(p, &p->report->sites->lines[order[i]], list);
    if (shown < count)
        put_rest(p, order, shown, count, list);
    fputs("</tbody>\n</table>\n", p->out);
}

static void put_growing(const struct page *p)
{
    const struct hk_sites *s = p->report->sites;
    uint32_t *order;
    size_t shown, count = hk_list_rank(p->report, HK_LIST_GROWING, &order, &shown);
    if (count) {
        start_section(p, "growing", "Growing");
        fprintf(p->out, "<p class=\"soft\">%s. The gain is over the last half of the run.</p>\n",
                s->run.by_levels ? "Rising until all was let go at the end" : "Still rising at the end");
        put_table(p, HK_LIST_GROWING, order, shown, count);
        end_section(p);
    } else if (s->run.usable && p->report->capture->header.mode != HK_MODE_NONE) {
        start_section(p, "growing", "Growing");
        fputs("<p class=\"calm\">Nothing keeps growing.</p>\n", p->out);
        end_section(p);
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
        start_section(p, list == HK_LIST_LIVE ? "largest" : "peak", list == HK_LIST_LIVE ? "Largest" : "At the peak");
        if (list == HK_LIST_LIVE)
            fprintf(p->out, "<p class=\"soft\">%s.</p>\n", c->life == HK_LIFE_RUNNING ? "Live now" : "Live at the end");
        else
            fprintf(p->out, "<p class=\"soft\">Live at the peak of what was recorded, after %s.</p>\n",
                    hk_text_duration(when, c->status.peak_ns));
        put_table(p, list, order, shown, count);
        end_section(p);
    }
    free(order);
}

/* ---- the heap ---- */

struct class
{
    const char *word, *name;
    uint64_t bytes;
};

static void put_heap(const struct page *p)
{
    struct hk_heap_view v = hk_heap_view(p->report->capture);
    const struct class classes[] = {
        {"live", "live", v.at.live_bytes},
        {"free", "free in used pools", v.at.free_in_used_pools_bytes},
        {"empty", "in empty pools", v.at.empty_pools_bytes},
        {"metadata", "metadata", v.at.metadata_bytes},
        {"frames", "frame stacks", v.at.frame_chunks_bytes},
    };
    size_t count = sizeof classes / sizeof classes[0];
    char share[32], bytes[32];

    start_section(p, "heap", "Heap");
    if (v.mapped_bytes) {
        fputs("<div class=\"classes\" role=\"img\" aria-label=\"classes of the mapped memory\">", p->out);
        for (size_t i = 0; i < count; i++)
            if (classes[i].bytes)
                fprintf(p->out, "<i class=\"%s\" style=\"flex-grow:%llu\" title=\"%s: %s\"></i>", classes[i].word,
                        (unsigned long long)classes[i].bytes, classes[i].name, hk_text_bytes(bytes, (double)classes[i].bytes));
        fputs("</div>\n<ul class=\"classes-legend\">\n", p->out);
        for (size_t i = 0; i < count; i++)
            if (classes[i].bytes)
                fprintf(p->out,
                        "<li><i class=\"%s\"></i>%s <b class=\"number\">%s</b> <span class=\"soft number\">%s</span></li>\n",
                        classes[i].word, classes[i].name, hk_text_bytes(bytes, (double)classes[i].bytes),
                        hk_text_percent(share, (double)classes[i].bytes, (double)v.mapped_bytes));
        fputs("</ul>\n", p->out);
    }
    put_sentences(p, HK_PART_HEAP, NULL);
    put_sentences(p, HK_PART_GC, "Collections of cycles");
    put_sentences(p, HK_PART_OUTSIDE, "Outside the heap");
    put_sentences(p, HK_PART_RECORDER, "The recorder");
    end_section(p);
}

static void put_notes(const struct page *p)
{
    struct hk_notes notes = hk_notes(p->report);
    char clean[2048];
    if (notes.count) {
        start_section(p, "notes", "Notes");
        fputs("<ul class=\"notes\">\n", p->out);
        for (size_t i = 0; i < notes.count; i++) {
            fputs("<li>", p->out);
            hk_page_text(p->out, hk_text_clean(&wide, clean, sizeof clean, notes.texts[i]));
            fputs("</li>\n", p->out);
        }
        fputs("</ul>\n", p->out);
        end_section(p);
    }
    hk_notes_free(&notes);
}

static void put_flame(const struct page *p)
{
    struct hk_flame flame = {p->report->capture, p->report->sites, p->tree, NULL};
    if (p->tree->leaf_count == 0)
        return;
    start_section(p, "flame-graph", "Flame graph");
    hk_flame_section(&flame, p->out);
    end_section(p);
}

void hk_report_html(const struct hk_report *r, const struct hk_call_tree *tree, FILE *out)
{
    static const char *const styles[] = {hk_page_page_css, hk_page_flame_css, hk_page_report_css, NULL};
    static const char *const scripts[] = {hk_page_page_js, hk_page_flame_tree_js, hk_page_flame_js, NULL}, *const few[] = {hk_page_page_js, NULL};
    struct page page = {r, tree, out}, *p = &page;
    enum hk_report_list lists[2];
    char program[256], title[300];

    snprintf(title, sizeof title, "%s: heapkeeper report", hk_capture_program(r->capture, program, sizeof program));
    hk_page_start(out, title, styles);
    fputs("<main class=\"report\">\n", out);
    put_head(p);
    put_processes(p);
    if (r->capture->has_now) {
        put_memory(p);
        put_growing(p);
        for (size_t i = 0, count = hk_lists_by_size(r, lists); i < count; i++)
            put_largest(p, lists[i]);
        put_heap(p);
    }
    put_notes(p);
    put_flame(p);
    fputs("</main>\n", out);
    hk_page_end(out, tree->leaf_count ? scripts : few);
}
