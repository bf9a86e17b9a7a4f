/* Reads the sites, merges them by line and judges their growth at three levels: path, line,
 * function.
 *
 * A leak may spread over several paths to one line, or over several lines of one function; each
 * level gathers more samples and so sees smaller leaks. A line is growing if it is itself, if one
 * of its paths is (another path to the same helper may hide it), or if it rises most in a function
 * that is.
 */
#include "read/sites.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "read/index.h"
#include "read/resolve.h"

struct line_table {
    struct hk_index index;
    uint32_t *functions; /* per line: number of its function, or a special one */
    size_t room, function_room;
};

/* Lines without a frame, told apart by what their function would be. */
enum special_line { SPECIAL_NONE = 0, SPECIAL_OTHER = 1, SPECIAL_BLIND = 2, SPECIAL_START = 3 };

const char *hk_domain_name(unsigned domain)
{
    static const char *const names[] = {"raw", "mem", "object", "native"};
    return domain < 4 ? names[domain] : "unknown";
}

static enum special_line special(const struct hk_sites *s, const struct hk_site *site)
{
    if (site->flags & HK_SITE_OTHER)
        return SPECIAL_OTHER;
    if (hk_resolver_shown(s->resolver, site->node))
        return SPECIAL_NONE;
    return site->flags & HK_SITE_BLIND ? SPECIAL_BLIND : SPECIAL_START;
}

bool hk_sites_native(const struct hk_sites *s, const struct hk_site *site, struct hk_source_frame *frame)
{
    return hk_resolver_native(s->resolver, hk_resolver_shown(s->resolver, site->node), frame);
}

const char *hk_sites_unread_module(const struct hk_sites *s, enum hk_symbols_state state, size_t *at)
{
    return hk_resolver_problem(s->resolver, state, at);
}

/* `function` tells the functions of a capture apart, and special lines from them. */
static struct hk_source_frame where(const struct hk_sites *s, const struct hk_site *site, uint32_t *function)
{
    struct hk_source_frame frame = {"", "", "", 0, NULL, 0, NULL, false}, native;
    bool has_python = s->capture->header.python_version != 0;
    enum special_line kind = special(s, site);
    *function = UINT32_MAX - (uint32_t)kind;
    switch (kind) {
    case SPECIAL_OTHER:
        frame.function = "(other)";
        break;
    case SPECIAL_BLIND:
        frame.function = "(native code)";
        break;
    case SPECIAL_START:
        frame.function = has_python ? "(no Python frame)" : "(no frame)";
        break;
    case SPECIAL_NONE:
        hk_resolver_named(s->resolver, hk_resolver_shown(s->resolver, site->node), &frame, function);
        if (!frame.module && hk_sites_native(s, site, &native))
            frame.through = native.module;
        return frame;
    }
    frame.qualified_name = frame.function;
    return frame;
}

struct hk_source_frame hk_sites_where(const struct hk_sites *s, const struct hk_site *site)
{
    uint32_t function;
    return where(s, site, &function);
}

size_t hk_sites_stack(const struct hk_sites *s, uint32_t node, struct hk_source_frame *frames,
                      size_t max, bool *cut)
{
    size_t count = 0;
    uint32_t at = hk_resolver_shown(s->resolver, node);
    while (at && count < max) {
        count += hk_resolver_frames(s->resolver, at, &frames[count], max - count);
        at = hk_resolver_parent(s->resolver, at);
    }
    *cut = at != 0;
    for (size_t i = 0; i < count / 2; i++) {
        struct hk_source_frame swap = frames[i];
        frames[i] = frames[count - 1 - i];
        frames[count - 1 - i] = swap;
    }
    return count;
}

double hk_sites_mean(const struct hk_sites *s, uint64_t total_bytes, uint64_t samples)
{
    double most = hk_capture_mean_sample(s->capture);
    double here = samples ? (double)total_bytes / (double)samples : most;
    return here < most ? here : most;
}

/* ---- reading ---- */

static uint32_t saturated(uint64_t count)
{
    return count < UINT32_MAX ? (uint32_t)count : UINT32_MAX;
}

/* A site of an exact capture, as one of a sampled one would be; what it does not have stays as it is in *raw, 0. `freed` may have been copied before the `total` of the same
 * moment, never the other way that matters: what is more than there was is nothing. */
static void read_exact(const struct hk_capture *c, size_t index, struct hk_capture_site *raw, struct hk_lives *lives)
{
    struct hk_capture_counters n;
    struct hk_capture_exact_site at;
    hk_capture_entry(c, HK_SECTION_COUNTERS, index, &n, sizeof n);
    hk_capture_entry(c, HK_SECTION_EXACT_SITES, index, &at, sizeof at);
    uint64_t bytes = at.inherited_bytes + n.total_bytes, blocks = at.inherited_blocks + n.total_blocks;
    bool saved = (int32_t)(n.peak_serial - (uint32_t)c->status.peak_serial) >= 0 && n.peak_serial;
    raw->node = at.node;
    raw->domain = at.domain;
    raw->flags = at.flags;
    raw->thread = at.thread;
    raw->live_bytes = bytes > n.freed_bytes ? bytes - n.freed_bytes : 0;
    raw->live_blocks = blocks > n.freed_blocks ? blocks - n.freed_blocks : 0;
    raw->peak_bytes = at.inherited_bytes + n.peak_bytes;
    raw->peak_blocks = at.inherited_blocks + n.peak_blocks;
    raw->total_bytes = n.total_bytes;
    raw->total_blocks = n.total_blocks;
    raw->peak_serial = saved ? c->status.peak_serial : 0;
    raw->samples_total = saturated(n.total_blocks);
    raw->mark = n.mark < HK_MARKS ? n.mark : HK_MARKS - 1;
    raw->mark_generation = n.mark_generation;
    raw->samples_live = saturated(raw->live_blocks);
    raw->inherited_bytes = at.inherited_bytes < raw->live_bytes ? at.inherited_bytes : raw->live_bytes;
    memcpy(raw->at_mark, at.at_mark, sizeof raw->at_mark);
    raw->at_mark[raw->mark] = saturated(raw->live_bytes >> 10);
    /* One that was freed while we read may be counted twice as yet. */
    if (c->header.minor >= 5)
        *lives = (struct hk_lives){n.largest, at.sampled, at.temporary < at.sampled ? at.temporary : at.sampled};
}

static void read_raw(const struct hk_sites *s, size_t index, struct hk_capture_site *raw, struct hk_lives *lives)
{
    *lives = (struct hk_lives){0, 0, 0};
    if (s->kind == HK_SECTION_EXACT_SITES)
        read_exact(s->capture, index, raw, lives);
    else
        hk_capture_entry(s->capture, HK_SECTION_SITES, index, raw, sizeof *raw);
}

void hk_sites_marks(const struct hk_sites *s, const struct hk_site *site, uint64_t at_mark[HK_MARKS],
                    uint64_t born_in[HK_MARKS])
{
    struct hk_capture_site raw = {.node = 0};
    struct hk_lives lives;
    read_raw(s, site->entry, &raw, &lives);
    hk_growth_update(&raw, s->capture->status.marks_generation, s->capture->mark_count, at_mark, born_in);
}

bool hk_sites_have_lives(const struct hk_sites *s)
{
    return s->kind == HK_SECTION_EXACT_SITES && s->capture->header.minor >= 5;
}

void hk_lives_add(struct hk_lives *sum, const struct hk_lives *more)
{
    if (more->largest_bytes > sum->largest_bytes)
        sum->largest_bytes = more->largest_bytes;
    sum->sampled += more->sampled;
    sum->temporary += more->temporary;
}

/* ---- ages ---- */

#define FIRST_EPOCH_NS UINT64_C(15625000) /* 1/64 s */

bool hk_sites_have_ages(const struct hk_sites *s)
{
    const struct hk_capture *c = s->capture;
    return s->kind == HK_SECTION_EXACT_SITES ? c->tables[HK_SECTION_LIVING].stride != 0 : c->mark_count > 0;
}

uint64_t hk_epoch_ns(unsigned epoch)
{
    return epoch == 0 ? 0 : FIRST_EPOCH_NS << (epoch - 1);
}

static unsigned epoch_of(uint64_t age_ns)
{
    unsigned epoch = 0;
    while (epoch + 1 < HK_EPOCHS && age_ns >= hk_epoch_ns(epoch + 1))
        epoch++;
    return epoch;
}

void hk_ages_add(struct hk_ages *sum, const struct hk_ages *more)
{
    for (unsigned i = 0; i < HK_EPOCHS; i++)
        sum->bytes[i] += more->bytes[i];
    sum->samples += more->samples;
}

void hk_living_add(struct hk_ages *sum, const struct hk_living *one)
{
    sum->bytes[one->epoch] += one->bytes;
    sum->samples += one->samples;
}

unsigned hk_ages_epoch(const struct hk_ages *ages, double part)
{
    double all = 0, older = 0;
    for (unsigned i = 0; i < HK_EPOCHS; i++)
        all += (double)ages->bytes[i];
    for (unsigned i = HK_EPOCHS; i-- > 0 && all > 0;) {
        older += (double)ages->bytes[i];
        if (older >= part * all)
            return i;
    }
    return HK_EPOCHS;
}

static void add_living(struct hk_sites *s, uint32_t site, uint64_t birth_ns, uint64_t bytes, double mean)
{
    uint64_t now = s->capture->duration_ns;
    s->living = hk_array_room(s->living, s->living_count, &s->living_room, sizeof *s->living);
    s->living[s->living_count++] = (struct hk_living){site, epoch_of(now > birth_ns ? now - birth_ns : 0), bytes,
                                                         1 + (uint64_t)((double)bytes / (mean > 1 ? mean : 1))};
}

/* What was allocated in a span is at least as old as its end. */
static void add_spans(struct hk_sites *s, uint32_t site, const uint64_t born_in[HK_MARKS])
{
    const struct hk_capture *c = s->capture;
    for (unsigned i = 0; i < c->mark_count; i++)
        if (born_in[i] != 0)
            add_living(s, site, i + 1 < c->mark_count ? c->marks[i + 1].time_ns : c->duration_ns, born_in[i] << 10,
                       hk_capture_mean_sample(c));
}

static int by_entry(const void *key, const void *site)
{
    uint32_t wanted = *(const uint32_t *)key, entry = ((const struct hk_site *)site)->entry;
    return wanted < entry ? -1 : wanted > entry;
}

static void read_living(struct hk_sites *s)
{
    const struct hk_capture *c = s->capture;
    uint64_t shift = c->status.living_shift < 32 ? c->status.living_shift : 32, least = UINT64_C(1) << shift;
    double mean = (double)least * HK_CAPTURE_LIFE_BYTES;
    for (size_t i = 0; i < c->tables[HK_SECTION_LIVING].count; i++) {
        struct hk_capture_living one;
        hk_capture_entry(c, HK_SECTION_LIVING, i, &one, sizeof one);
        const struct hk_site *site = one.weight == 0 ? NULL : bsearch(&one.site, s->sites, s->site_count, sizeof *s->sites, by_entry);
        if (site && site->live_bytes > 0)
            add_living(s, (uint32_t)(site - s->sites), one.birth_ns, (one.weight > least ? one.weight : least) * HK_CAPTURE_LIFE_BYTES,
                       2 * mean);
    }
}

static void add_ages(struct hk_sites *s)
{
    if (s->kind == HK_SECTION_EXACT_SITES)
        read_living(s);
    for (size_t i = 0; i < s->living_count; i++)
        hk_living_add(&s->lines[s->sites[s->living[i].site].line].ages, &s->living[i]);
}

/* *raw: all zeros before the first. */
static bool read_site(struct hk_sites *s, size_t index, struct hk_capture_site *raw, struct hk_site *site, uint64_t at_mark[HK_MARKS],
                      uint64_t born_in[HK_MARKS])
{
    const struct hk_capture *c = s->capture;
    struct hk_lives lives;
    read_raw(s, index, raw, &lives);
    if (raw->domain > 3 || (raw->node && raw->node >= c->tables[HK_SECTION_NODES].count))
        return false;

    /* A serial above the status' is of a peak reached after the status was copied. */
    bool saved = raw->peak_serial >= c->status.peak_serial && raw->peak_serial;
    *site = (struct hk_site){
        .node = raw->node,
        .domain = raw->domain,
        .flags = raw->flags,
        .thread = raw->thread <= HK_CAPTURE_THREADS ? raw->thread : 0,
        .live_bytes = raw->live_bytes,
        .live_blocks = raw->live_blocks,
        .peak_bytes = saved ? raw->peak_bytes : raw->live_bytes,
        .peak_blocks = saved ? raw->peak_blocks : raw->live_blocks,
        .total_bytes = raw->total_bytes,
        .total_blocks = raw->total_blocks,
        .inherited_bytes = raw->inherited_bytes,
        .samples_total = raw->samples_total,
        .samples_live = raw->samples_live,
        .lives = lives,
        .entry = (uint32_t)index,
    };
    hk_growth_update(raw, c->status.marks_generation, c->mark_count, at_mark, born_in);
    return true;
}

bool hk_sites_have_threads(const struct hk_sites *s)
{
    return s->capture->tables[HK_SECTION_THREADS].count > 0;
}

char *hk_sites_thread(const struct hk_sites *s, unsigned number)
{
    struct hk_capture_thread thread;
    char *text = NULL;
    if (number == 0 || number > s->capture->tables[HK_SECTION_THREADS].count)
        return hk_must_strdup("(not recorded)");
    hk_capture_entry(s->capture, HK_SECTION_THREADS, number - 1, &thread, sizeof thread);
    if (thread.id == 0)
        return hk_must_strdup("(further threads)");
    const char *name = thread.id == s->capture->header.pid ? "main" : hk_capture_string(s->capture, thread.name);
    if (asprintf(&text, "%s (%u)", *name ? name : "thread", thread.id) < 0)
        abort();
    return text;
}

/* ---- merging ---- */

static struct hk_line *new_line(struct hk_sites *s, struct line_table *t, uint32_t function,
                                struct hk_source_frame frame, uint32_t site)
{
    s->lines = hk_array_room(s->lines, s->line_count, &t->room, sizeof *s->lines);
    t->functions = hk_array_room(t->functions, s->line_count, &t->function_room, sizeof *t->functions);
    struct hk_line *line = &s->lines[s->line_count];
    *line = (struct hk_line){.frame = frame,
                             .heaviest_live = site,
                             .heaviest_peak = site,
                             .heaviest_total = site,
                             .steepest = site};
    t->functions[s->line_count++] = function;
    return line;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static struct hk_line *line_of(struct hk_sites *s, struct line_table *t, uint32_t site_index)
{
    const struct hk_site *site = &s->sites[site_index];
    uint32_t function;
    struct hk_source_frame frame = where(s, site, &function);
    struct hk_probe probe = hk_index_probe(&t->index, (uint64_t)function << 32 | (uint32_t)frame.line);
    while (hk_index_next(&probe)) {
        const struct hk_source_frame *known = &s->lines[probe.number].frame;
        if (t->functions[probe.number] == function && known->line == frame.line && same_text(known->through, frame.through))
            return &s->lines[probe.number];
    }
    hk_index_put(&probe, s->line_count);
    return new_line(s, t, function, frame, site_index);
}

static void add_to_line(struct hk_sites *s, struct hk_line *line, uint32_t index, const uint64_t *at_mark,
                        const uint64_t *born_in)
{
    struct hk_site *site = &s->sites[index];
    line->site_count++;
    line->flags |= site->flags;
    line->live_bytes += site->live_bytes;
    line->live_blocks += site->live_blocks;
    line->peak_bytes += site->peak_bytes;
    line->peak_blocks += site->peak_blocks;
    line->total_bytes += site->total_bytes;
    line->total_blocks += site->total_blocks;
    line->samples_total += site->samples_total;
    hk_lives_add(&line->lives, &site->lives);
    for (unsigned i = 0; i < HK_MARKS; i++)
        line->at_mark[i] += at_mark[i];
    if (s->kind != HK_SECTION_EXACT_SITES) /* else they are 0 */
        for (unsigned i = 0; i < HK_MARKS; i++)
            line->born_in[i] += born_in[i];
    if (site->live_bytes > s->sites[line->heaviest_live].live_bytes)
        line->heaviest_live = index;
    if (site->peak_bytes > s->sites[line->heaviest_peak].peak_bytes)
        line->heaviest_peak = index;
    if (site->total_bytes > s->sites[line->heaviest_total].total_bytes)
        line->heaviest_total = index;
    if (site->growth.rise > s->sites[line->steepest].growth.rise)
        line->steepest = index;
    line->growth.growing |= site->growth.growing; /* see judge_lines */
    site->line = (uint32_t)(line - s->lines);
}

static void add_to_sums(struct hk_sites *s, const struct hk_site *site)
{
    s->live_bytes += site->live_bytes;
    s->peak_bytes += site->peak_bytes;
    s->total_bytes += site->total_bytes;
    s->domain_total_bytes[site->domain] += site->total_bytes;
    if (site->flags & HK_SITE_OTHER)
        s->other_bytes += site->total_bytes;
    else if (special(s, site) != SPECIAL_NONE)
        s->blind_bytes += site->total_bytes;
}

static void read_sites(struct hk_sites *s, struct line_table *table)
{
    size_t count = s->capture->tables[s->kind].count, counters = s->capture->tables[HK_SECTION_COUNTERS].count;
    uint64_t at_mark[HK_MARKS], born_in[HK_MARKS];
    struct hk_capture_site raw = {.node = 0};
    if (s->kind == HK_SECTION_EXACT_SITES && count > counters)
        count = counters;
    s->sites = hk_must_calloc(count, sizeof *s->sites);
    for (size_t i = 0; i < count; i++) {
        struct hk_site *site = &s->sites[s->site_count];
        if (!read_site(s, i, &raw, site, at_mark, born_in)) {
            s->dropped++;
            continue;
        }
        uint32_t index = (uint32_t)s->site_count++;
        add_to_sums(s, site);
        site->growth = hk_growth_judge(&s->run, hk_sites_mean(s, site->total_bytes, site->samples_total), at_mark, born_in);
        if (site->flags & HK_SITE_OTHER)
            site->growth.growing = false;
        add_to_line(s, line_of(s, table, index), index, at_mark, born_in);
        if (s->kind != HK_SECTION_EXACT_SITES)
            add_spans(s, index, born_in);
    }
}

/* ---- judging ---- */

struct function_sum {
    uint64_t at_mark[HK_MARKS], born_in[HK_MARKS], total_bytes, samples_total;
    uint32_t line_count, steepest;
    bool has_growing_line;
};

static void judge_lines(struct hk_sites *s)
{
    for (size_t i = 0; i < s->line_count; i++) {
        struct hk_line *line = &s->lines[i];
        line->frame.is_near = (line->flags & HK_SITE_JIT) != 0 && line->frame.line > 0;
        bool has_growing_site = line->growth.growing;
        line->growth =
            hk_growth_judge(&s->run, hk_sites_mean(s, line->total_bytes, line->samples_total),
                            line->at_mark, line->born_in);
        if (line->flags & HK_SITE_OTHER) /* a mixture, and it grows because the tables are full */
            line->growth.growing = false;
        line->growth.growing |= has_growing_site;
    }
}

/* Adds up the lines of each function; judged as one where it has more than one line and none
 * grows. */
static void judge_functions(struct hk_sites *s, const uint32_t *functions)
{
    size_t known = hk_resolver_function_count(s->resolver);
    uint32_t *sum_of = hk_must_calloc(known, sizeof *sum_of); /* index + 1 */
    struct function_sum *sums = hk_must_calloc(s->line_count, sizeof *sums);
    size_t count = 0;

    for (size_t i = 0; i < s->line_count; i++) {
        struct hk_line *line = &s->lines[i];
        if (functions[i] >= known)
            continue;
        if (!sum_of[functions[i]]) {
            sums[count].steepest = (uint32_t)i;
            sum_of[functions[i]] = (uint32_t)++count;
        }
        struct function_sum *sum = &sums[sum_of[functions[i]] - 1];
        sum->line_count++;
        sum->total_bytes += line->total_bytes;
        sum->samples_total += line->samples_total;
        sum->has_growing_line |= line->growth.growing;
        if (line->growth.rise > s->lines[sum->steepest].growth.rise)
            sum->steepest = (uint32_t)i;
        for (unsigned m = 0; m < HK_MARKS; m++) {
            sum->at_mark[m] += line->at_mark[m];
            sum->born_in[m] += line->born_in[m];
        }
    }
    for (size_t i = 0; i < count; i++) {
        struct function_sum *sum = &sums[i];
        if (sum->line_count > 1 && !sum->has_growing_line &&
            hk_growth_judge(&s->run, hk_sites_mean(s, sum->total_bytes, sum->samples_total),
                            sum->at_mark, sum->born_in)
                .growing)
            s->lines[sum->steepest].growth.growing = true;
    }
    free(sums);
    free(sum_of);
}

/* A path belongs to its line's growth if it carries a real part of it. */
static void pass_down(struct hk_sites *s)
{
    bool any = false;
    for (size_t i = 0; i < s->line_count; i++)
        any |= s->lines[i].growth.growing;
    if (!any) /* there may be hundreds of thousands of sites */
        return;
    for (size_t i = 0; i < s->site_count; i++) {
        struct hk_site *site = &s->sites[i];
        const struct hk_line *line = &s->lines[site->line];
        if (!(site->flags & HK_SITE_OTHER) && line->growth.growing && site->growth.rise > 2.0 * site->growth.error &&
            site->growth.rise >= 0.1 * line->growth.rise)
            site->growth.growing = true;
        if (line->growth.growing && line->steepest == i)
            site->growth.growing = true;
    }
}

/* The run up to its end, or up to the last mark before everything was let go. */
static struct hk_growth_run prepare_growth(const struct hk_capture *c)
{
    uint64_t *times = hk_must_calloc(c->point_count, sizeof *times);
    uint64_t *live = hk_must_calloc(c->point_count, sizeof *live);
    unsigned count = c->mark_count;
    uint64_t end_ns = c->now.time_ns, end_allocated = c->now.allocated_bytes;

    for (size_t i = 0; i < c->point_count; i++) {
        times[i] = c->points[i].time_ns;
        live[i] = hk_point_live(&c->points[i]);
    }
    bool fell =
        c->life != HK_LIFE_RUNNING && count > 1 && hk_growth_fell(times, live, c->point_count);
    if (fell) {
        count--;
        end_ns = c->marks[count].time_ns;
        end_allocated = c->marks[count].allocated_bytes;
    }
    struct hk_growth_run run =
        hk_growth_prepare(c->marks, count, end_ns, end_allocated, c->status.peak_bytes);
    run.by_levels = fell;
    run.births_unknown = c->tables[HK_SECTION_EXACT_SITES].stride != 0;
    free(times);
    free(live);
    return run;
}

struct hk_sites *hk_sites_read(const struct hk_capture *c)
{
    struct hk_sites *s = hk_must_calloc(1, sizeof *s);
    struct line_table table = {.room = 0};

    s->capture = c;
    s->kind = c->tables[HK_SECTION_EXACT_SITES].stride ? HK_SECTION_EXACT_SITES : HK_SECTION_SITES;
    s->resolver = hk_resolver_new(c);
    s->run = prepare_growth(c);
    read_sites(s, &table);
    add_ages(s);
    judge_lines(s);
    judge_functions(s, table.functions);
    pass_down(s);
    hk_index_free(&table.index);
    free(table.functions);
    return s;
}

void hk_sites_free(struct hk_sites *s)
{
    if (!s)
        return;
    hk_resolver_free(s->resolver);
    free(s->sites);
    free(s->lines);
    free(s->living);
    free(s);
}
