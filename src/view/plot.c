/* Gathers the points of a plot, and draws it in a terminal.
 *
 *      shop.py · Python 3.13.0 · pid 4242 · ended
 *
 *      256 MiB ┤                                   ⣀⣀⡠⠤⠤⠒⠒  RSS 231 MiB
 *      128 MiB ┤        ⣀⡠⠤⠒⠒⠉⠉⠉⠉⠉                        live 141 MiB
 *          0 B ┤⣀⠤⠒⠉⠉
 *              └┬──────────┬──────────┬──────────┬
 *               0 s        5 s        10 s
 *                   ^         ^                        collections
 *               ├ load ─────┤├ train ─────────         main thread
 *
 * A character has two by four dots; each line has a colour, and its name stands at its end, so that it needs none. In ASCII a line
 * is drawn in the first letter of its name.
 */
#include "view/plot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "view/head.h"
#include "view/json.h"
#include "view/report.h"

#define MARGIN    10 /* columns of the labels at the left */
#define NAMES     24 /* columns of the names at the right */
#define SUM_STEPS 512

/* ---- gathering ---- */

static void add_point(struct hk_plot *p, struct hk_plot_line *line, double at, double bytes)
{
    if (line->count % 256 == 0) {
        line->at = hk_must_realloc(line->at, line->count + 256, sizeof *line->at);
        line->bytes = hk_must_realloc(line->bytes, line->count + 256, sizeof *line->bytes);
    }
    if (line->count && at < line->at[line->count - 1])
        at = line->at[line->count - 1];
    line->at[line->count] = at;
    line->bytes[line->count++] = bytes;
    line->most = fmax(line->most, bytes);
    p->most = fmax(p->most, bytes);
    p->seconds = fmax(p->seconds, at);
}

static void clean(char *to, size_t size, const char *text)
{
    static const struct hk_terminal utf8 = {.utf8 = true};
    hk_text_clean(&utf8, to, size, text);
}

static void add_title(struct hk_plot *p, const struct hk_capture *c, const char *more)
{
    char program[256], name[256], version[32];
    clean(name, sizeof name, hk_capture_program(c, program, sizeof program));
    if (c->header.python_version)
        snprintf(p->title, sizeof p->title, "%s, Python %s, %s", name, hk_python_version(c->header.python_version, version), more);
    else
        snprintf(p->title, sizeof p->title, "%s, %s", name, more);
}

void hk_plot_of(struct hk_plot *p, const struct hk_capture *c)
{
    static const char *const names[] = {"RSS", "mapped", "live"};
    char more[64];
    *p = (struct hk_plot){.capture = c, .line_count = 3, .collections = c->collections, .collection_count = c->collection_count};
    for (size_t i = 0; i < 3; i++)
        strcpy(p->lines[i].name, names[i]);
    for (size_t i = 0; i < c->point_count; i++) {
        const struct hk_capture_point *at = &c->points[i];
        double seconds = (double)at->time_ns / 1e9;
        if (at->rss_bytes)
            add_point(p, &p->lines[0], seconds, (double)at->rss_bytes);
        add_point(p, &p->lines[1], seconds, (double)at->mapped_bytes + (double)at->large_bytes);
        add_point(p, &p->lines[2], seconds, (double)hk_point_live(at));
        if (at->name && p->note_count < HK_PLOT_NOTES) {
            p->notes[p->note_count].at = seconds;
            clean(p->notes[p->note_count++].name, sizeof p->notes[0].name, hk_capture_string(c, at->name));
        }
    }
    hk_plot_add_spans(p);
    snprintf(more, sizeof more, "pid %u, %s", c->header.pid, hk_life_name(c->life));
    add_title(p, c, more);
}

static int by_peak(const void *a, const void *b)
{
    const struct hk_capture *x = *(struct hk_capture *const *)a, *y = *(struct hk_capture *const *)b;
    uint64_t i = hk_capture_peak(x), k = hk_capture_peak(y);
    return i > k ? -1 : i < k ? 1 : x->header.pid < y->header.pid ? -1 : x->header.pid > y->header.pid;
}

static double since(uint64_t start, const struct hk_capture *c)
{
    return c->header.start_realtime_ns > start ? (double)(c->header.start_realtime_ns - start) / 1e9 : 0;
}

static double moment(uint64_t start, const struct hk_capture *c, size_t point)
{
    return since(start, c) + (double)c->points[point].time_ns / 1e9;
}

/* The sum over all processes, at even steps: each has what it had at its last point, and nothing before its first and, once it has ended,
 * after its last. */
static void add_sum(struct hk_plot *p, struct hk_capture *const *captures, size_t count, uint64_t start)
{
    struct hk_plot_line *line = &p->lines[p->line_count];
    size_t *next = hk_must_calloc(count, sizeof *next);
    double end = p->seconds;
    for (unsigned step = 0; step <= SUM_STEPS; step++) {
        double at = step < SUM_STEPS ? end * step / SUM_STEPS : end, sum = 0;
        for (size_t i = 0; i < count; i++) {
            const struct hk_capture *c = captures[i];
            while (next[i] < c->point_count && moment(start, c, next[i]) <= at)
                next[i]++;
            bool over = next[i] && next[i] == c->point_count && c->life != HK_LIFE_RUNNING && moment(start, c, next[i] - 1) < at;
            if (next[i] && !over)
                sum += (double)hk_point_live(&c->points[next[i] - 1]);
        }
        add_point(p, line, at, sum);
    }
    strcpy(line->name, "all");
    p->line_count++;
    free(next);
}

void hk_plot_of_run(struct hk_plot *p, struct hk_capture *const *captures, size_t count, const struct hk_family *family)
{
    struct hk_capture **sorted = hk_must_calloc(count, sizeof *sorted);
    uint64_t start = UINT64_MAX;
    char more[128], program[256], name[64], folded[32];
    *p = (struct hk_plot){.capture = captures[0], .of_run = true, .family = family};
    memcpy(sorted, captures, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, by_peak);
    for (size_t i = 0; i < count; i++)
        start = captures[i]->header.start_realtime_ns < start ? captures[i]->header.start_realtime_ns : start;
    for (size_t i = 0; i < count && i < HK_PLOT_LINES - 1; i++) {
        const struct hk_capture *c = sorted[i];
        struct hk_plot_line *line = &p->lines[p->line_count++];
        clean(name, sizeof name, hk_capture_program(c, program, sizeof program));
        snprintf(line->name, sizeof line->name, "%s %u", name, c->header.pid);
        for (size_t k = 0; k < c->point_count; k++)
            add_point(p, line, moment(start, c, k), (double)hk_point_live(&c->points[k]));
    }
    p->left_out = (count > HK_PLOT_LINES - 1 ? count - (HK_PLOT_LINES - 1) : 0) + family->folded;
    if (count > 1)
        add_sum(p, captures, count, start);
    int end = snprintf(more, sizeof more, "live in %zu process%s", count, count == 1 ? "" : "es");
    if (family->folded)
        snprintf(more + end, sizeof more - (size_t)end, ", not in %s small child%s", hk_text_count(folded, family->folded),
                 family->folded == 1 ? "" : "ren");
    add_title(p, captures[0], more);
    free(sorted);
}

void hk_plot_free(struct hk_plot *p)
{
    for (size_t i = 0; i < p->line_count; i++) {
        free(p->lines[i].at);
        free(p->lines[i].bytes);
    }
    free(p->spans);
}

/* ---- axes ---- */

double hk_plot_byte_step(double most, unsigned ticks)
{
    double step = 1;
    while (most / step > ticks && step < 1e30)
        step *= 2;
    return step;
}

double hk_plot_time_step(double seconds, unsigned ticks)
{
    static const double steps[] = {1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1,     2,     5,     10,
                                   20,   30,   60,   120,  300,  600,  900, 1800, 3600, 7200, 21600, 43200, 86400};
    double step = 0;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        step = steps[i];
        if (seconds / step <= ticks)
            return step;
    }
    while (seconds / step > ticks && step < 1e30)
        step *= 2;
    return step;
}

char *hk_plot_byte_label(char to[32], double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    while (bytes >= 1024 && unit < 6) {
        bytes /= 1024;
        unit++;
    }
    snprintf(to, 32, "%.4g %s", bytes, units[unit]);
    return to;
}

char *hk_plot_time_label(char to[32], double seconds, double step)
{
    double unit = step >= 3600 ? 3600 : step >= 60 ? 60 : 1;
    snprintf(to, 32, "%.6g %s", seconds / unit, unit == 1 ? "s" : unit == 60 ? "min" : "h");
    return to;
}

bool hk_plot_marks(const struct hk_capture_collection *c)
{
    return c->generation >= 2 || c->longest_ns >= 1000000;
}

/* From the lowest up: who comes too near to the one below moves up. */
void hk_plot_name_places(const struct hk_plot *p, double bottom, double above, double top, double apart,
                         double places[HK_PLOT_LINES])
{
    bool done[HK_PLOT_LINES] = {false};
    double last = bottom + apart;
    for (size_t turn = 0; turn < p->line_count; turn++) {
        size_t lowest = SIZE_MAX;
        for (size_t i = 0; i < p->line_count; i++) {
            double bytes = p->lines[i].count ? p->lines[i].bytes[p->lines[i].count - 1] : 0;
            places[i] = done[i] ? places[i] : bottom - (top > 0 ? bytes / top : 0) * (bottom - above);
            if (!done[i] && (lowest == SIZE_MAX || places[i] > places[lowest]))
                lowest = i;
        }
        done[lowest] = true;
        if (p->lines[lowest].count == 0)
            continue;
        places[lowest] = fmin(places[lowest], last - apart);
        last = places[lowest];
    }
}

char *hk_plot_line_label(char to[160], const struct hk_plot_line *line, size_t columns, bool utf8)
{
    const struct hk_terminal t = {.utf8 = utf8};
    char name[sizeof line->name], end[sizeof line->name], bytes[32];
    const char *pid = strrchr(line->name, ' ');
    snprintf(end, sizeof end, "%.*s", pid ? (int)(pid - line->name) : (int)sizeof end - 1, line->name);
    hk_text_clean(&t, name, sizeof name, end);
    snprintf(end, sizeof end, "%.20s %s", pid ? pid : "", hk_text_bytes(bytes, line->count ? line->bytes[line->count - 1] : 0));
    size_t taken = strlen(end); /* ASCII */
    hk_text_keep_start(&t, name, sizeof name, columns > taken ? columns - taken : 0);
    snprintf(to, 160, "%s%s", name, end);
    return to;
}

/* ---- the terminal ---- */

struct canvas {
    unsigned columns, rows;
    uint8_t *dots;   /* of a cell: the braille pattern; in ASCII the letter */
    uint8_t *owners; /* line + 1 whose colour it has */
    bool utf8;
};

static void set_dot(struct canvas *c, unsigned x, unsigned y, unsigned line, char letter)
{
    static const uint8_t bits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    if (x >= c->columns * 2 || y >= c->rows * 4)
        return;
    size_t cell = (size_t)(y / 4) * c->columns + x / 2;
    c->dots[cell] = c->utf8 ? c->dots[cell] | bits[y % 4][x % 2] : (uint8_t)letter;
    c->owners[cell] = (uint8_t)(line + 1);
}

static double dot_row(const struct canvas *c, double bytes, double top)
{
    double height = c->rows * 4 - 1, y = top > 0 ? height - bytes / top * height : height;
    return fmin(fmax(y, 0), height);
}

/* The line's value at every column of dots, joined by vertical strokes. */
static void draw_line(const struct hk_plot *p, struct canvas *c, unsigned index, double top)
{
    const struct hk_plot_line *line = &p->lines[index];
    double before = -1;
    size_t next = 0;
    unsigned width = c->columns * 2;
    for (unsigned x = 0; x < width && line->count; x++) {
        double until = p->seconds * (x + 1) / width, most = -1;
        for (; next < line->count && (line->at[next] <= until || x + 1 == width); next++)
            most = fmax(most, line->bytes[next]);
        if (most < 0 && next == 0)
            continue;
        if (most < 0 && next == line->count && line->at[next - 1] < p->seconds * x / width - p->seconds / 50)
            break; /* it has ended */
        double y = most < 0 ? before : dot_row(c, most, top);
        double from = before < 0 ? y : before, to = y, step = from < to ? 1 : -1;
        for (double k = from; step * k <= step * to; k += step)
            set_dot(c, x, (unsigned)lround(k), index, line->name[0]);
        set_dot(c, x, (unsigned)lround(to), index, line->name[0]);
        before = y;
    }
}

static enum hk_style colour_of(const struct hk_plot *p, unsigned line)
{
    static const enum hk_style one[] = {HK_DIM, HK_YELLOW, HK_CYAN};
    static const enum hk_style run[] = {HK_CYAN, HK_GREEN, HK_YELLOW, HK_RED};
    if (!p->of_run)
        return one[line % 3];
    return line + 1 == p->line_count ? HK_BOLD : run[line % 4];
}

/* Names at the right, each in the row where its line ends, or the next free one. */
static void place_names(const struct hk_plot *p, const struct canvas *c, double top, int *names)
{
    for (unsigned row = 0; row < c->rows; row++)
        names[row] = -1;
    for (int i = (int)p->line_count - 1; i >= 0; i--) {
        const struct hk_plot_line *line = &p->lines[i];
        if (line->count == 0)
            continue;
        unsigned row = (unsigned)lround(dot_row(c, line->bytes[line->count - 1], top)) / 4;
        for (unsigned tries = 0; tries < c->rows && names[row] >= 0; tries++)
            row = row > 0 ? row - 1 : c->rows - 1;
        if (names[row] < 0)
            names[row] = i;
    }
}

static void put_cell(const struct hk_terminal *t, const struct hk_plot *p, const struct canvas *c, size_t cell)
{
    if (c->dots[cell] == 0) {
        fputc(' ', t->out);
        return;
    }
    fputs(hk_style(t, colour_of(p, c->owners[cell] - 1u)), t->out);
    if (c->utf8)
        fprintf(t->out, "%c%c%c", 0xe2, 0xa0 | c->dots[cell] >> 6, 0x80 | (c->dots[cell] & 0x3f)); /* U+2800 on */
    else
        fputc(c->dots[cell], t->out);
    fputs(hk_style(t, HK_PLAIN), t->out);
}

static void put_canvas(const struct hk_plot *p, const struct hk_terminal *t, const struct canvas *c, double top, double step)
{
    int *names = hk_must_calloc(c->rows, sizeof *names);
    char label[32], name[160];
    place_names(p, c, top, names);
    for (unsigned row = 0; row < c->rows; row++) {
        label[0] = 0;
        for (double tick = 0; tick <= top; tick += step)
            if ((unsigned)lround(dot_row(c, tick, top)) / 4 == row)
                hk_plot_byte_label(label, tick);
        fprintf(t->out, "%*s %s", MARGIN, label, t->utf8 ? *label ? "┤" : "│" : "|");
        for (unsigned x = 0; x < c->columns; x++)
            put_cell(t, p, c, (size_t)row * c->columns + x);
        if (names[row] >= 0) {
            const struct hk_plot_line *line = &p->lines[names[row]];
            fprintf(t->out, " %s%s%s", hk_style(t, colour_of(p, (unsigned)names[row])), hk_plot_line_label(name, line, NAMES - 1, t->utf8),
                    hk_style(t, HK_PLAIN));
        }
        fputc('\n', t->out);
    }
    free(names);
}

/* A row in which a character is a mark where collections took place. */
static void put_collections(const struct hk_plot *p, const struct hk_terminal *t, const struct canvas *c)
{
    char *marks = hk_must_calloc(c->columns + 1, 1);
    size_t count = 0;
    memset(marks, ' ', c->columns);
    for (size_t i = 0; i < p->collection_count && p->seconds > 0; i++) {
        double at = (double)p->collections[i].longest_at_ns / 1e9 / p->seconds * c->columns;
        if (!hk_plot_marks(&p->collections[i]) || !(at >= 0) || at > c->columns)
            continue;
        unsigned x = (unsigned)at < c->columns ? (unsigned)at : c->columns - 1;
        count++;
        marks[x] = '^';
    }
    if (count)
        fprintf(t->out, "%*s  %s%s%s collections\n", MARGIN, "", hk_style(t, HK_GREEN), marks, hk_style(t, HK_PLAIN));
    free(marks);
}

static void put_time_axis(const struct hk_plot *p, const struct hk_terminal *t, const struct canvas *c)
{
    double step = hk_plot_time_step(p->seconds, c->columns / 12 ? c->columns / 12 : 1);
    char label[32];
    unsigned column = 0;
    fprintf(t->out, "%*s %s", MARGIN, "", t->utf8 ? "└" : "+");
    for (unsigned x = 0; x < c->columns; x++) {
        double from = p->seconds * x / c->columns, to = p->seconds * (x + 1) / c->columns;
        bool tick = x == 0 || floor(from / step) != floor(to / step);
        fputs(t->utf8 ? tick ? "┬" : "─" : tick ? "+" : "-", t->out);
    }
    fprintf(t->out, "\n%*s  ", MARGIN, "");
    for (double at = 0; at <= p->seconds; at += step) {
        double place = p->seconds > 0 ? at / p->seconds * c->columns - (at > 0) : 0;
        if (at > 0 && place < column + 1.0)
            continue;
        int blanks = (int)place - (int)column;
        int put = fprintf(t->out, "%*s%s", blanks, "", hk_plot_time_label(label, at, step));
        column += put > 0 ? (unsigned)put : 0;
        if (!(step > 0))
            break;
    }
    fputc('\n', t->out);
}

void hk_plot_text(const struct hk_plot *p, const struct hk_terminal *t, unsigned rows)
{
    unsigned width = t->width ? t->width : 100;
    struct canvas c = {.columns = width > MARGIN + NAMES + 22 ? width - MARGIN - NAMES - 2 : 20, .rows = rows, .utf8 = t->utf8};
    double step = hk_plot_byte_step(p->most, rows / 3 ? rows / 3 : 1), top = fmax(step, ceil(p->most / step) * step);
    char title[512], a[32], folded[400];
    size_t small = p->family ? p->family->folded : 0;
    c.columns = c.columns > 1000 ? 1000 : c.columns;
    fprintf(t->out, "%s%s%s\n\n", hk_style(t, HK_BOLD), hk_text_clean(t, title, sizeof title, p->title), hk_style(t, HK_PLAIN));
    if (p->most <= 0) {
        fputs("no figures: it ended before the first point of its timeline\n", t->out);
        return;
    }
    c.dots = hk_must_calloc((size_t)c.columns * rows, 1);
    c.owners = hk_must_calloc((size_t)c.columns * rows, 1);
    for (unsigned i = 0; i < p->line_count; i++)
        draw_line(p, &c, i, top);
    put_canvas(p, t, &c, top, step);
    put_time_axis(p, t, &c);
    put_collections(p, t, &c);
    hk_plot_spans_text(p, t, MARGIN, c.columns);
    for (size_t i = 0; i < p->note_count; i++)
        fprintf(t->out, "%*s  %s%s\n", MARGIN, hk_text_duration(a, (uint64_t)fmin(p->notes[i].at * 1e9, 1e19)), "  ",
                hk_text_clean(t, title, sizeof title, p->notes[i].name));
    for (size_t i = 0; i < p->line_count; i++)
        if (p->lines[i].has_trend) {
            char slope[96], name[100];
            hk_text_clean(t, name, sizeof name, p->lines[i].name);
            fprintf(t->out, "%*s  slope of %s: %s\n", MARGIN, "", name, hk_text_clean(t, title, sizeof title, hk_plot_slope_label(slope, &p->lines[i])));
        }
    if (p->left_out > small)
        fprintf(t->out, "%*s  %zu smaller processes have no line of their own\n", MARGIN, "", p->left_out - small);
    if (small) {
        hk_report_small_children(folded, p->family, t);
        if (t->width)
            hk_text_keep_start(t, folded, sizeof folded, width > MARGIN + 30 ? width - MARGIN - 13 : 17);
        fprintf(t->out, "%*s  not shown: %s\n", MARGIN, "", folded);
    }
    free(c.dots);
    free(c.owners);
}

/* ---- JSON ---- */

void hk_plot_json(const struct hk_plot *p, FILE *out)
{
    struct hk_json json, *j = &json;
    hk_json_start(j, out);
    hk_json_object(j, NULL, false);
    hk_json_string(j, "format", "heapkeeper-plot-1");
    hk_head_json(j, p->capture);
    hk_json_bool(j, "run", p->of_run);
    hk_json_number(j, "seconds", p->seconds);
    hk_json_unsigned(j, "left_out", p->left_out);
    hk_json_unsigned(j, "small_children", p->family ? p->family->folded : 0);
    hk_json_array(j, "lines", false);
    for (size_t i = 0; i < p->line_count; i++) {
        hk_json_object(j, NULL, false);
        hk_json_string(j, "name", p->lines[i].name);
        if (p->lines[i].has_trend) {
            hk_json_number(j, "slope_bytes_per_second", p->lines[i].slope);
            hk_json_number(j, "slope_error", p->lines[i].slope_error);
        }
        hk_json_array(j, "time_ns", true);
        for (size_t k = 0; k < p->lines[i].count; k++)
            hk_json_unsigned(j, NULL, (uint64_t)fmin(p->lines[i].at[k] * 1e9 + 0.5, 1e19));
        hk_json_end_array(j);
        hk_json_array(j, "bytes", true);
        for (size_t k = 0; k < p->lines[i].count; k++)
            hk_json_unsigned(j, NULL, (uint64_t)fmin(p->lines[i].bytes[k], 1.8e19));
        hk_json_end_array(j);
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
    hk_json_array(j, "notes", false);
    for (size_t i = 0; i < p->note_count; i++) {
        hk_json_object(j, NULL, true);
        hk_json_unsigned(j, "time_ns", (uint64_t)fmin(p->notes[i].at * 1e9, 1e19));
        hk_json_string(j, "name", p->notes[i].name);
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
    hk_json_array(j, "spans", false);
    for (size_t i = 0; i < p->span_count; i++) {
        const struct hk_plot_span *span = &p->spans[i];
        hk_json_object(j, NULL, true);
        hk_json_string(j, "name", span->name);
        if (span->file[0]) {
            hk_json_string(j, "file", span->file);
            hk_json_unsigned(j, "line", span->line > 0 ? (uint64_t)span->line : 0);
        }
        hk_json_string(j, "thread", p->threads[hk_plot_thread_of(p, span->row)].name);
        hk_json_unsigned(j, "row", span->row);
        hk_json_unsigned(j, "begin_ns", (uint64_t)fmin(span->begin * 1e9 + 0.5, 1e19));
        hk_json_unsigned(j, "end_ns", (uint64_t)fmin(span->end * 1e9 + 0.5, 1e19));
        hk_json_bool(j, "ended", span->has_ended);
        hk_json_unsigned(j, "begin_live_bytes", (uint64_t)fmin(span->begin_bytes, 1.8e19));
        hk_json_unsigned(j, "end_live_bytes", (uint64_t)fmin(span->end_bytes, 1.8e19));
        hk_json_unsigned(j, "begin_rss_bytes", (uint64_t)fmin(span->begin_rss_bytes, 1.8e19));
        hk_json_unsigned(j, "end_rss_bytes", (uint64_t)fmin(span->end_rss_bytes, 1.8e19));
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
    hk_json_unsigned(j, "spans_left_out", p->spans_left_out);
    hk_json_array(j, "collections", false);
    for (size_t i = 0; i < p->collection_count; i++) {
        hk_json_object(j, NULL, true);
        hk_json_unsigned(j, "time_ns", p->collections[i].longest_at_ns);
        hk_json_unsigned(j, "generation", p->collections[i].generation);
        hk_json_unsigned(j, "count", p->collections[i].count);
        hk_json_unsigned(j, "longest_pause_ns", p->collections[i].longest_ns);
        hk_json_unsigned(j, "freed", p->collections[i].freed);
        hk_json_unsigned(j, "uncollectable", p->collections[i].uncollectable);
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
    hk_json_end_object(j);
}
