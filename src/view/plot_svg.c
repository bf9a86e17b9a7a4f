/* A plot as SVG: one file, no script, no network. Colours are a style sheet's, which turns with the reader's light or dark. */
#include <math.h>
#include <string.h>

#include "view/plot.h"

#define WIDTH  960
#define HEIGHT 420
#define LEFT   76
#define RIGHT  190
#define WIDEST 7.6 /* a letter, on average, in any font */
#define TOP    44
#define BOTTOM 36
#define ROW    19 /* of the flame */

static const char style[] =
    "<style>\n"
    "svg { background: #ffffff; font: 13px system-ui, sans-serif; }\n"
    "text { fill: #24292f; } .title { font-size: 15px; font-weight: 600; } .tick { fill: #57606a; font-size: 12px; }\n"
    ".grid { stroke: #d8dee4; } .axis { stroke: #8c959f; } .note { stroke: #8250df; stroke-dasharray: 3 3; } .gc { stroke: #1a7f37; stroke-width: 2; }\n"
    "path { fill: none; stroke-width: 2; stroke-linejoin: round; } path.area { opacity: 0.12; stroke: none; } path.trend { stroke-width: 1; stroke-dasharray: 3 4; }\n"
    "path.c0 { stroke: #8c959f; } path.c1 { stroke: #bf8700; } path.c2 { stroke: #0969da; } path.c3 { stroke: #1a7f37; } path.c4 { stroke: #cf222e; }\n"
    "path.c5 { stroke: #8250df; } path.c6 { stroke: #bc4c00; } path.c7 { stroke: #24292f; }\n"
    "text.c0 { fill: #6e7781; } text.c1 { fill: #9a6700; } text.c2, path.area.c2 { fill: #0969da; } text.c3 { fill: #1a7f37; }\n"
    "text.c4 { fill: #cf222e; } text.c5 { fill: #8250df; } text.c6 { fill: #bc4c00; } text.c7, path.area.c7 { fill: #24292f; }\n"
    ".span rect { fill-opacity: 0.22; } .span.open rect { stroke-dasharray: 4 3; } .span text { font-size: 11px; stroke: none; }\n"
    ".h0 { stroke: #0969da; fill: #0969da; } .h1 { stroke: #1a7f37; fill: #1a7f37; } .h2 { stroke: #8250df; fill: #8250df; }\n"
    ".h3 { stroke: #bc4c00; fill: #bc4c00; } .h4 { stroke: #cf222e; fill: #cf222e; } .h5 { stroke: #0a7d91; fill: #0a7d91; }\n"
    "path.bracket { fill: none; }\n"
    "@media (prefers-color-scheme: dark) {\n"
    "svg { background: #0d1117; } text { fill: #e6edf3; } .tick { fill: #8d96a0; } .grid { stroke: #21262d; }\n"
    ".axis { stroke: #6e7681; } .note { stroke: #a371f7; } .gc { stroke: #3fb950; }\n"
    "path.c0 { stroke: #8d96a0; } path.c1 { stroke: #d29922; } path.c2 { stroke: #4493f8; } path.c3 { stroke: #3fb950; } path.c4 { stroke: #f85149; }\n"
    "path.c5 { stroke: #a371f7; } path.c6 { stroke: #f0883e; } path.c7 { stroke: #e6edf3; }\n"
    "text.c0 { fill: #8d96a0; } text.c1 { fill: #d29922; } text.c2, path.area.c2 { fill: #4493f8; } text.c3 { fill: #3fb950; }\n"
    "text.c4 { fill: #f85149; } text.c5 { fill: #a371f7; } text.c6 { fill: #f0883e; } text.c7, path.area.c7 { fill: #e6edf3; }\n"
    ".h0 { stroke: #4493f8; fill: #4493f8; } .h1 { stroke: #3fb950; fill: #3fb950; } .h2 { stroke: #a371f7; fill: #a371f7; }\n"
    ".h3 { stroke: #f0883e; fill: #f0883e; } .h4 { stroke: #f85149; fill: #f85149; } .h5 { stroke: #39c5cf; fill: #39c5cf; }\n"
    "path.bracket { fill: none; }\n"
    "}\n"
    "</style>\n";

static void put_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc(*text, out);
        }
    }
}

static double x_of(const struct hk_plot *p, double at)
{
    return LEFT + (p->seconds > 0 ? at / p->seconds : 0) * (WIDTH - LEFT - RIGHT);
}

static double y_of(double top, double bytes)
{
    return HEIGHT - BOTTOM - (top > 0 ? bytes / top : 0) * (HEIGHT - TOP - BOTTOM);
}

static void put_axes(const struct hk_plot *p, double top, FILE *out)
{
    double step = hk_plot_byte_step(p->most, 6);
    char label[32];
    for (double bytes = 0; bytes <= top; bytes += step) {
        fprintf(out, "<line class=\"%s\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", bytes > 0 ? "grid" : "axis", LEFT,
                WIDTH - RIGHT, y_of(top, bytes), y_of(top, bytes));
        fprintf(out, "<text class=\"tick\" text-anchor=\"end\" x=\"%d\" y=\"%.1f\">%s</text>\n", LEFT - 8, y_of(top, bytes) + 4,
                hk_plot_byte_label(label, bytes));
    }
    step = hk_plot_time_step(p->seconds, 8);
    for (unsigned i = 0; i <= 8 && i * step <= p->seconds; i++) {
        double x = x_of(p, i * step);
        fprintf(out, "<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>", x, x, HEIGHT - BOTTOM, HEIGHT - BOTTOM + 5);
        fprintf(out, "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%d\">%s</text>\n", x, HEIGHT - BOTTOM + 19,
                hk_plot_time_label(label, i * step, step));
    }
}

static void put_path(const struct hk_plot *p, const struct hk_plot_line *line, double top, FILE *out)
{
    for (size_t i = 0; i < line->count; i++)
        fprintf(out, "%c%.1f %.1f", i ? 'L' : 'M', x_of(p, line->at[i]), y_of(top, line->bytes[i]));
}

/* Where it is above nothing: a straight line may begin or end below. */
static void put_trend(const struct hk_plot *p, const struct hk_plot_line *line, size_t colour, double top, FILE *out)
{
    double from = line->at[0], to = line->at[line->count - 1], middle = (from + to) / 2;
    double zero = line->slope != 0 ? middle - line->trend_middle / line->slope : from;
    if (line->slope > 0)
        from = fmax(from, zero);
    if (line->slope < 0)
        to = fmin(to, zero);
    char slope[96];
    fprintf(out, "<path class=\"trend c%zu\" d=\"M%.1f %.1fL%.1f %.1f\"><title>slope of ", colour, x_of(p, from),
            y_of(top, line->trend_middle + line->slope * (from - middle)), x_of(p, to),
            y_of(top, line->trend_middle + line->slope * (to - middle)));
    put_text(out, line->name);
    fprintf(out, ": %s</title></path>\n", hk_plot_slope_label(slope, line));
}

static size_t colour_of(const struct hk_plot *p, size_t line)
{
    return p->of_run && line + 1 == p->line_count ? 7 : line % 7;
}

static void put_names(const struct hk_plot *p, double top, FILE *out)
{
    double places[HK_PLOT_LINES];
    char label[160];
    hk_plot_name_places(p, HEIGHT - BOTTOM, TOP, top, 16, places);
    for (size_t i = 0; i < p->line_count; i++) {
        const struct hk_plot_line *line = &p->lines[i];
        if (line->count == 0)
            continue;
        fprintf(out, "<text class=\"c%zu\" x=\"%d\" y=\"%.1f\">", colour_of(p, i), WIDTH - RIGHT + 8, places[i] + 4);
        put_text(out, hk_plot_line_label(label, line, (size_t)((RIGHT - 8) / WIDEST), true));
        fputs("</text>\n", out);
    }
}

/* Where a span begins and ends, on the last line: "[" and "]". */
static void put_brackets(const struct hk_plot *p, const struct hk_plot_span *span, double top, FILE *out)
{
    char label[400];
    fprintf(out, "<path class=\"bracket h%u\" d=\"M%.1f %.1fh-4v20h4", span->hue, x_of(p, span->begin) + 4, y_of(top, span->begin_bytes) - 10);
    if (span->has_ended)
        fprintf(out, "M%.1f %.1fh4v20h-4", x_of(p, span->end) - 4, y_of(top, span->end_bytes) - 10);
    fputs("\"><title>", out);
    put_text(out, hk_plot_span_label(label, span));
    fputs("</title></path>\n", out);
}

static void put_span(const struct hk_plot *p, const struct hk_plot_span *span, FILE *out)
{
    static const struct hk_terminal utf8 = {.utf8 = true};
    double x = x_of(p, span->begin), wide = fmax(1, x_of(p, span->end) - x), y = HEIGHT + ROW * (double)span->row;
    char label[400], name[sizeof span->name + 16];
    fprintf(out, "<g class=\"span%s\"><rect class=\"h%u\" x=\"%.1f\" y=\"%.0f\" width=\"%.1f\" height=\"%d\"/>",
            span->has_ended ? "" : " open", span->hue, x, y, wide, ROW - 2);
    if (wide > 20) {
        snprintf(name, sizeof name, "%s%s", span->name, span->has_ended ? "" : " (not ended)");
        hk_text_keep_start(&utf8, name, sizeof name, (size_t)((wide - 6) / 6.3));
        fprintf(out, "<text x=\"%.1f\" y=\"%.0f\">", x + 4, y + 12);
        put_text(out, name);
        fputs("</text>", out);
    }
    fputs("<title>", out);
    put_text(out, hk_plot_span_label(label, span));
    fputs("</title></g>\n", out);
}

/* Below the axis of time, each thread's rows with its name. */
static void put_flame(const struct hk_plot *p, FILE *out)
{
    for (size_t i = 0; i < p->span_count; i++)
        put_span(p, &p->spans[i], out);
    for (size_t i = 0; i < p->thread_count; i++) {
        fprintf(out, "<text class=\"tick\" x=\"%d\" y=\"%d\">", WIDTH - RIGHT + 8, HEIGHT + ROW * (int)p->threads[i].row + 12);
        put_text(out, p->threads[i].name);
        fputs("</text>\n", out);
    }
    if (p->spans_left_out && p->row_count)
        fprintf(out, "<text class=\"tick\" x=\"%d\" y=\"%d\">%llu short ones are left out</text>\n", LEFT, HEIGHT + ROW * (int)p->row_count + 14,
                (unsigned long long)p->spans_left_out);
}

static int height_of(const struct hk_plot *p)
{
    return HEIGHT + (p->row_count ? ROW * (int)p->row_count + (p->spans_left_out ? 24 : 8) : 0);
}

/* On the axis of time; at its end it says what the marks are. */
static void put_collections(const struct hk_plot *p, FILE *out)
{
    char label[32];
    bool any = false;
    for (size_t i = 0; i < p->collection_count; i++) {
        const struct hk_capture_collection *e = &p->collections[i];
        double x = x_of(p, (double)e->longest_at_ns / 1e9);
        if (!hk_plot_marks(e) || !(x <= WIDTH - RIGHT))
            continue;
        any = true;
        fprintf(out, "<line class=\"gc\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"><title>", x, x, HEIGHT - BOTTOM, HEIGHT - BOTTOM - 8);
        if (e->count == 1)
            fprintf(out, "collection of generation %u", e->generation);
        else
            fprintf(out, "%u collections of generation %u", e->count, e->generation);
        if (e->longest_ns) /* else it is not known */
            fprintf(out, ", %s", hk_text_duration(label, e->longest_ns));
        fprintf(out, ", freed %s object%s</title></line>\n", hk_text_count(label, e->freed), e->freed == 1 ? "" : "s");
    }
    if (any)
        fprintf(out, "<line class=\"gc\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/><text class=\"tick\" x=\"%d\" y=\"%d\">collections</text>\n",
                WIDTH - RIGHT + 36, WIDTH - RIGHT + 36, HEIGHT - BOTTOM + 19, HEIGHT - BOTTOM + 11, WIDTH - RIGHT + 42, HEIGHT - BOTTOM + 19);
}

/* As a file of its own, or without title and style sheet in a page that has one for the class "plot". */
static void put_svg(const struct hk_plot *p, FILE *out, bool in_page)
{
    double step = hk_plot_byte_step(p->most, 6), top = fmax(step, ceil(p->most / step) * step);
    char label[32];
    fprintf(out, "<svg %s viewBox=\"0 %d %d %d\" role=\"img\">\n<title>",
            in_page ? "class=\"plot\"" : "xmlns=\"http://www.w3.org/2000/svg\"", in_page ? TOP - 8 : 0, WIDTH,
            in_page ? height_of(p) - TOP + 8 : height_of(p));
    put_text(out, p->title);
    fputs("</title>\n", out);
    if (!in_page) {
        fprintf(out, "%s<text class=\"title\" x=\"%d\" y=\"26\">", style, LEFT);
        put_text(out, p->title);
        fputs("</text>\n", out);
    }
    put_axes(p, top, out);
    put_collections(p, out);
    for (size_t i = 0; i < p->note_count; i++) {
        double x = x_of(p, p->notes[i].at);
        fprintf(out, "<g><line class=\"note\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/><text class=\"tick\" x=\"%.1f\" y=\"%zu\">", x, x,
                TOP, HEIGHT - BOTTOM, x + 4, TOP + 10 + 14 * (i % 4));
        put_text(out, p->notes[i].name);
        fputs("</text></g>\n", out);
    }
    for (size_t i = 0; i < p->line_count; i++) {
        const struct hk_plot_line *line = &p->lines[i];
        bool main = i + 1 == p->line_count;
        size_t colour = colour_of(p, i);
        if (line->count == 0)
            continue;
        if (main) {
            fprintf(out, "<path class=\"area c%zu\" d=\"", colour);
            put_path(p, line, top, out);
            fprintf(out, "L%.1f %.1fL%.1f %.1fZ\"/>\n", x_of(p, line->at[line->count - 1]), y_of(top, 0), x_of(p, line->at[0]), y_of(top, 0));
        }
        fprintf(out, "<path class=\"c%zu\" d=\"", colour);
        put_path(p, line, top, out);
        fputs("\"><title>", out);
        put_text(out, line->name);
        fprintf(out, ", at most %s</title></path>\n", hk_text_bytes(label, line->most));
        if (line->has_trend)
            put_trend(p, line, colour, top, out);
    }
    for (size_t i = 0; i < p->span_count; i++)
        if (p->spans[i].has_brackets)
            put_brackets(p, &p->spans[i], top, out);
    put_names(p, top, out);
    put_flame(p, out);
    if (p->most <= 0)
        fprintf(out, "<text x=\"%d\" y=\"%d\">no figures: it ended before the first point of its timeline</text>\n", LEFT + 20, HEIGHT / 2);
    fputs("</svg>\n", out);
}

void hk_plot_svg(const struct hk_plot *p, FILE *out)
{
    put_svg(p, out, false);
}

void hk_plot_svg_inline(const struct hk_plot *p, FILE *out)
{
    put_svg(p, out, true);
}
