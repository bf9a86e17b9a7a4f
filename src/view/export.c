/* One pass over the sites in the order of their nodes; those of one stack (its domains) are added up where the format
 * has stacks and not sites.
 *
 * A frame is called "Shop.remember_order (shop.py:88)"; of machine code without debug information
 * "sqlite3MemMalloc [libsqlite3.so.0]". The path is shortened as in the report. A name always ends with a bracket:
 * readers of collapsed stacks take a number at the end of a line for a weight.
 *
 * Speedscope's document holds each frame once, and stacks as lists of indices: stacks are written as they come, frames
 * are gathered in a hash table and written behind them.
 *
 * A hostile capture can have a million sites on stacks a million frames deep: beyond FRAMES_MAX frames stacks are cut.
 */
#include "view/export.h"

#include <stdlib.h>
#include <string.h>

#include "read/index.h"
#include "view/json.h"
#include "view/report.h"

#define STACK_MAX   (1u << 14) /* frames of one stack; a recorder cuts at 2048 and the compiler's inlining adds to it */
#define FRAMES_MAX  (1u << 24) /* frames of all stacks together */
#define STACK_SHORT 8u
#define NAME        4200 /* bytes of a path */

struct export {
    const struct hk_capture *capture;
    const struct hk_sites *sites;
    enum hk_export_of of;
    FILE *out;
    struct hk_source_frame *frames; /* of the stack at hand, outermost first */
    size_t count, frames_left;
    bool whole;
};

const char *hk_export_format_word(enum hk_export_format format)
{
    static const char *const words[] = {"collapsed", "speedscope", "pprof", "chrome", "csv", "json"};
    return format < HK_EXPORT_FORMATS ? words[format] : "unknown";
}

const char *hk_export_of_word(enum hk_export_of of)
{
    static const char *const words[] = {"live", "peak", "total"};
    return of < HK_EXPORT_MEASURES ? words[of] : "unknown";
}

/* ---- sites and stacks ---- */

static uint64_t weight(const struct export *e, const struct hk_site *site)
{
    return e->of == HK_EXPORT_LIVE ? site->live_bytes : e->of == HK_EXPORT_PEAK ? site->peak_bytes : site->total_bytes;
}

/* The stack of a site into e->frames; of one without, "(other)" or the like. `frames[0]` is kept for "...". */
static void load_stack(struct export *e, const struct hk_site *site)
{
    bool cut = false;
    size_t max = e->frames_left > STACK_MAX ? STACK_MAX : STACK_SHORT;
    struct hk_source_frame *own = e->frames + 1;
    e->count = site->flags & HK_SITE_OTHER ? 0 : hk_sites_stack(e->sites, site->node, own, max, &cut);
    if (e->count == 0) {
        own[0] = hk_sites_where(e->sites, site);
        e->count = 1;
    }
    e->frames_left -= e->count < e->frames_left ? e->count : e->frames_left;
    e->whole &= !cut;
    if (cut || (site->flags & HK_SITE_CUT)) {
        e->frames[0] = (struct hk_source_frame){"...", "...", "", 0, NULL, 0, NULL, false};
        e->count++;
    } else {
        memmove(e->frames, own, e->count * sizeof *own);
    }
}

/* Sites of the same stack have the same node and, where there is none, the same word for it. */
static unsigned stack_kind(const struct hk_site *site)
{
    return site->flags & (HK_SITE_OTHER | HK_SITE_BLIND | HK_SITE_CUT);
}

static bool same_stack(const struct hk_site *a, const struct hk_site *b)
{
    return a->node == b->node && stack_kind(a) == stack_kind(b);
}

static const struct hk_sites *sorting;

static int by_stack(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    const struct hk_site *x = &sorting->sites[i], *y = &sorting->sites[k];
    if (x->node != y->node)
        return x->node < y->node ? -1 : 1;
    if (stack_kind(x) != stack_kind(y))
        return stack_kind(x) < stack_kind(y) ? -1 : 1;
    return i < k ? -1 : i > k;
}

static uint32_t *in_order(const struct hk_sites *s)
{
    uint32_t *order = hk_must_calloc(s->site_count, sizeof *order);
    for (uint32_t i = 0; i < s->site_count; i++)
        order[i] = i;
    sorting = s;
    qsort(order, s->site_count, sizeof *order, by_stack);
    return order;
}

/* Calls `put` for every stack that has a weight, with the stack loaded. */
static void each_stack(struct export *e, void (*put)(struct export *, void *, uint64_t), void *with)
{
    uint32_t *order = in_order(e->sites);
    for (size_t i = 0, next; i < e->sites->site_count; i = next) {
        const struct hk_site *site = &e->sites->sites[order[i]];
        uint64_t sum = 0;
        for (next = i; next < e->sites->site_count && same_stack(site, &e->sites->sites[order[next]]); next++)
            sum += weight(e, &e->sites->sites[order[next]]);
        if (!sum)
            continue;
        load_stack(e, site);
        put(e, with, sum);
    }
    free(order);
}

/* ---- names ---- */

/* Escapes what is not UTF-8, what would harm a terminal, backslashes and the bytes in `special`. */
static void put_escaped(FILE *out, const char *text, const char *special)
{
    while (*text) {
        uint32_t point;
        unsigned length = hk_utf8_next(text, &point), taken = length ? length : 1;
        bool plain = length && !hk_is_control(point) && !(point < 0x80 && strchr(special, (int)point));
        if (point == '\\' && length)
            fputs("\\\\", out);
        else if (plain)
            fwrite(text, 1, length, out);
        else
            for (unsigned i = 0; i < taken; i++)
                fprintf(out, "\\x%02x", (uint8_t)text[i]);
        text += taken;
    }
}

static void shortened(const struct export *e, const char *file, char to[NAME])
{
    snprintf(to, NAME, "%s", file);
    hk_text_shorten_path(to, hk_capture_string(e->capture, e->capture->header.working_directory));
}

/* "(other)", "...": what stands for frames that are not there has no place. */
static bool is_word(const struct hk_source_frame *f)
{
    char first = f->function[0], last = first ? f->function[strlen(f->function) - 1] : 0;
    return !*f->file && !f->module && ((first == '(' && last == ')') || (first == '.' && last == '.'));
}

static void put_frame(const struct export *e, const struct hk_source_frame *f, const char *special)
{
    char file[NAME];
    put_escaped(e->out, f->qualified_name, special);
    if (*f->file) {
        shortened(e, f->file, file);
        fputs(" (", e->out);
        put_escaped(e->out, file, special);
        fprintf(e->out, f->line ? ":%d)" : ")", f->line);
    } else if (f->module) {
        fputs(" [", e->out);
        put_escaped(e->out, *f->module ? f->module : "?", special);
        fputc(']', e->out);
    } else if (!is_word(f)) {
        fputs(" (?)", e->out);
    }
}

static void put_stack(const struct export *e, const char *special)
{
    for (size_t i = 0; i < e->count; i++) {
        if (i)
            fputc(';', e->out);
        put_frame(e, &e->frames[i], special);
    }
}

/* ---- collapsed stacks ---- */

static void put_collapsed(struct export *e, void *with, uint64_t bytes)
{
    (void)with;
    put_stack(e, ";");
    fprintf(e->out, " %llu\n", (unsigned long long)bytes);
}

/* ---- speedscope ---- */

struct profile {
    struct hk_json *json;
    uint64_t *weights, sum;
    size_t stacks, stack_room;
    struct hk_source_frame *frames; /* each once */
    size_t frame_count, frame_room;
    struct hk_index index; /* of the frames */
};

static bool same_frame(const struct hk_source_frame *a, const struct hk_source_frame *b)
{
    return a->line == b->line && strcmp(a->qualified_name, b->qualified_name) == 0 && strcmp(a->file, b->file) == 0 &&
           strcmp(a->module ? a->module : "", b->module ? b->module : "") == 0;
}

static uint32_t index_of(struct profile *p, const struct hk_source_frame *f)
{
    uint64_t hash = hk_hash_text(hk_hash_text(HK_HASH ^ (uint32_t)f->line, f->qualified_name), f->file);
    struct hk_probe probe = hk_index_probe(&p->index, hk_hash_text(hash, f->module));
    while (hk_index_next(&probe))
        if (same_frame(&p->frames[probe.number], f))
            return probe.number;
    hk_index_put(&probe, p->frame_count);
    p->frames = hk_array_room(p->frames, p->frame_count, &p->frame_room, sizeof *p->frames);
    p->frames[p->frame_count++] = *f;
    return (uint32_t)p->frame_count - 1;
}

static void put_sample(struct export *e, void *with, uint64_t bytes)
{
    struct profile *p = with;
    p->weights = hk_array_room(p->weights, p->stacks, &p->stack_room, sizeof *p->weights);
    p->weights[p->stacks++] = bytes;
    p->sum += bytes;
    hk_json_array(p->json, NULL, true);
    for (size_t i = 0; i < e->count; i++)
        hk_json_unsigned(p->json, NULL, index_of(p, &e->frames[i]));
    hk_json_end_array(p->json);
}

static void put_shared(const struct export *e, const struct profile *p)
{
    char file[NAME];
    hk_json_object(p->json, "shared", false);
    hk_json_array(p->json, "frames", false);
    for (size_t i = 0; i < p->frame_count; i++) {
        const struct hk_source_frame *f = &p->frames[i];
        hk_json_object(p->json, NULL, true);
        hk_json_string(p->json, "name", *f->qualified_name ? f->qualified_name : "?");
        if (*f->file) {
            shortened(e, f->file, file);
            hk_json_string(p->json, "file", file);
        } else if (f->module && *f->module) {
            hk_json_string(p->json, "file", f->module);
        }
        if (f->line > 0)
            hk_json_signed(p->json, "line", f->line);
        hk_json_end_object(p->json);
    }
    hk_json_end_array(p->json);
    hk_json_end_object(p->json);
}

static void put_speedscope(struct export *e)
{
    struct hk_json json, *j = &json;
    struct profile p = {.json = j};
    char program[256], name[300];
    hk_capture_program(e->capture, program, sizeof program);
    snprintf(name, sizeof name, "%s: %s bytes", program, hk_export_of_word(e->of));

    hk_json_start(j, e->out);
    hk_json_object(j, NULL, false);
    hk_json_string(j, "$schema", "https://www.speedscope.app/file-format-schema.json");
    hk_json_string(j, "exporter", "heapkeeper " HK_VERSION);
    hk_json_string(j, "name", program);
    hk_json_unsigned(j, "activeProfileIndex", 0);
    hk_json_array(j, "profiles", false);
    hk_json_object(j, NULL, false);
    hk_json_string(j, "type", "sampled");
    hk_json_string(j, "name", name);
    hk_json_string(j, "unit", "bytes");
    hk_json_unsigned(j, "startValue", 0);
    hk_json_array(j, "samples", false);
    each_stack(e, put_sample, &p);
    hk_json_end_array(j);
    hk_json_array(j, "weights", true);
    for (size_t i = 0; i < p.stacks; i++)
        hk_json_unsigned(j, NULL, p.weights[i]);
    hk_json_end_array(j);
    hk_json_unsigned(j, "endValue", p.sum);
    hk_json_end_object(j);
    hk_json_end_array(j);
    put_shared(e, &p);
    hk_json_end_object(j);
    free(p.weights);
    free(p.frames);
    hk_index_free(&p.index);
}

/* ---- a row, or an object, a site ---- */

/* A field in quotes. A spreadsheet would take what begins with one of =+-@ for a formula. */
static void put_field(const struct export *e, const char *text)
{
    fputc('"', e->out);
    if (*text && strchr("=+-@", *text))
        fprintf(e->out, "\\x%02x", (uint8_t)*text++);
    for (const char *quote; (quote = strchr(text, '"')); text = quote + 1) {
        char *part = strndup(text, (size_t)(quote - text));
        put_escaped(e->out, part ? part : "", "");
        free(part);
        fputs("\"\"", e->out);
    }
    put_escaped(e->out, text, "");
    fputs("\",", e->out);
}

static void put_numbers(const struct export *e, const struct hk_site *site)
{
    const uint64_t numbers[] = {site->live_bytes,  site->live_blocks,  site->peak_bytes,   site->peak_blocks,
                                site->total_bytes, site->total_blocks, site->samples_total};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        fprintf(e->out, "%llu,", (unsigned long long)numbers[i]);
}

static void put_csv_row(struct export *e, const struct hk_site *site)
{
    struct hk_source_frame where = hk_sites_where(e->sites, site);
    const char *module = where.through ? where.through : where.module;
    fprintf(e->out, "%s,", hk_domain_name(site->domain));
    put_field(e, where.function);
    put_field(e, where.qualified_name);
    put_field(e, where.file);
    fprintf(e->out, "%d,", where.line);
    put_field(e, module ? module : "");
    put_numbers(e, site);
    char *thread = hk_sites_thread(e->sites, site->thread);
    put_field(e, site->thread ? thread : "");
    free(thread);

    char *text = NULL;
    size_t size = 0;
    FILE *out = e->out, *memory = open_memstream(&text, &size);
    if (memory) { /* the stack is escaped as a collapsed one, then as a field */
        e->out = memory;
        put_stack(e, ";");
        fclose(memory);
        e->out = out;
    }
    fputc('"', out);
    for (const char *at = text ? text : ""; *at; at++) {
        if (*at == '"')
            fputc('"', out);
        if (at == text && strchr("=+-@", *at))
            fprintf(out, "\\x%02x", (uint8_t)*at);
        else
            fputc(*at, out);
    }
    fputs("\"\n", out);
    free(text);
}

static void put_json_line(struct export *e, const struct hk_site *site)
{
    struct hk_json json, *j = &json;
    struct hk_source_frame where = hk_sites_where(e->sites, site);
    hk_json_start(j, e->out);
    hk_json_object(j, NULL, true);
    hk_report_json_site(j, e->sites, &where, site);
    hk_json_unsigned(j, "samples", site->samples_total);
    hk_json_array(j, "stack", true);
    for (size_t i = 0; i < e->count; i++) {
        hk_json_object(j, NULL, true);
        hk_report_json_frame(j, &e->frames[i]);
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
    hk_json_end_object(j);
}

static const struct export *ranking;

static int by_weight(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    uint64_t x = weight(ranking, &ranking->sites->sites[i]), y = weight(ranking, &ranking->sites->sites[k]);
    return x > y ? -1 : x < y ? 1 : i < k ? -1 : i > k;
}

static void each_site(struct export *e, void (*put)(struct export *, const struct hk_site *))
{
    uint32_t *order = in_order(e->sites);
    ranking = e;
    qsort(order, e->sites->site_count, sizeof *order, by_weight);
    for (size_t i = 0; i < e->sites->site_count; i++) {
        load_stack(e, &e->sites->sites[order[i]]);
        put(e, &e->sites->sites[order[i]]);
    }
    free(order);
}

bool hk_export(const struct hk_capture *capture, const struct hk_sites *sites, enum hk_export_format format,
               enum hk_export_of of, FILE *out)
{
    struct export e = {.capture = capture, .sites = sites, .of = of, .out = out, .frames_left = FRAMES_MAX, .whole = true};
    e.frames = hk_must_calloc(STACK_MAX + 1, sizeof *e.frames);
    switch (format) {
    case HK_EXPORT_COLLAPSED:
        each_stack(&e, put_collapsed, NULL);
        break;
    case HK_EXPORT_SPEEDSCOPE:
        put_speedscope(&e);
        break;
    case HK_EXPORT_PPROF:
        e.whole = hk_export_pprof(capture, sites, of, out);
        break;
    case HK_EXPORT_CHROME:
        hk_export_chrome(capture, sites, of, out);
        break;
    case HK_EXPORT_CSV:
        fputs("domain,function,qualified_name,file,line,module,live_bytes,live_blocks,peak_bytes,peak_blocks,total_bytes,"
              "total_blocks,samples,thread,stack\n",
              out);
        each_site(&e, put_csv_row);
        break;
    default:
        each_site(&e, put_json_line);
        break;
    }
    free(e.frames);
    return e.whole;
}
