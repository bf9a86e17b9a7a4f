/* The report as JSON. Keys are listed in docs; add, never rename. */
#include "view/report.h"

#include <stdlib.h>

#include "view/json.h"
#include "view/table.h"

#define STACK_MAX   1024u      /* frames of one stack */
#define FRAMES_MAX  (1u << 20) /* frames of the whole document; afterwards stacks are cut short */
#define STACK_SHORT 8u

void hk_report_json_frame(struct hk_json *j, const struct hk_source_frame *f)
{
    hk_json_string(j, "function", f->function);
    hk_json_string(j, "qualified_name", f->qualified_name);
    hk_json_string(j, "file", f->file);
    hk_json_signed(j, "line", f->line);
    if (f->module) {
        hk_json_string(j, "module", f->module);
        hk_json_unsigned(j, "address", f->address);
    }
    if (f->through)
        hk_json_string(j, "through", f->through);
}

void hk_report_json_site(struct hk_json *j, const struct hk_sites *s, const struct hk_source_frame *where, const struct hk_site *site)
{
    hk_report_json_frame(j, where);
    hk_json_string(j, "domain", hk_domain_name(site->domain));
    if (site->thread) {
        char *thread = hk_sites_thread(s, site->thread);
        hk_json_string(j, "thread", thread);
        free(thread);
    }
    hk_json_unsigned(j, "live_bytes", site->live_bytes);
    hk_json_unsigned(j, "live_blocks", site->live_blocks);
    hk_json_unsigned(j, "peak_bytes", site->peak_bytes);
    hk_json_unsigned(j, "peak_blocks", site->peak_blocks);
    hk_json_unsigned(j, "total_bytes", site->total_bytes);
    hk_json_unsigned(j, "total_blocks", site->total_blocks);
    hk_lives_json(j, s, &site->lives);
}

static void put_growth(struct hk_json *j, const struct hk_growth *g)
{
    hk_json_bool(j, "growing", g->growing);
    hk_json_number(j, "rise_bytes", g->rise);
    hk_json_number(j, "rise_error_bytes", g->error);
}

static void put_kib(struct hk_json *j, const char *key, const uint64_t *kib, unsigned count)
{
    hk_json_array(j, key, true);
    for (unsigned i = 0; i < count; i++)
        hk_json_unsigned(j, NULL, kib[i] << 10);
    hk_json_end_array(j);
}

static void put_stack(struct hk_json *j, const struct hk_sites *s, const struct hk_site *site,
                      size_t *left)
{
    static struct hk_source_frame frames[STACK_MAX];
    bool cut;
    size_t count =
        hk_sites_stack(s, site->node, frames, *left > STACK_MAX ? STACK_MAX : STACK_SHORT, &cut);
    *left -= count < *left ? count : *left;
    hk_json_bool(j, "stack_cut", cut || (site->flags & HK_SITE_CUT));
    hk_json_array(j, "stack", true);
    for (size_t i = 0; i < count; i++) {
        hk_json_object(j, NULL, true);
        hk_report_json_frame(j, &frames[i]);
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
}

static const struct hk_sites *sorting;

static int by_live(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    const struct hk_site *x = &sorting->sites[i], *y = &sorting->sites[k];
    if (x->live_bytes != y->live_bytes)
        return x->live_bytes > y->live_bytes ? -1 : 1;
    if (x->total_bytes != y->total_bytes)
        return x->total_bytes > y->total_bytes ? -1 : 1;
    return i < k ? -1 : i > k;
}

static void put_sites(struct hk_json *j, const struct hk_sites *s)
{
    uint32_t *order = hk_must_calloc(s->site_count, sizeof *order);
    size_t frames_left = FRAMES_MAX;
    for (uint32_t i = 0; i < s->site_count; i++)
        order[i] = i;
    sorting = s;
    qsort(order, s->site_count, sizeof *order, by_live);

    hk_json_array(j, "sites", false);
    for (size_t i = 0; i < s->site_count; i++) {
        const struct hk_site *site = &s->sites[order[i]];
        struct hk_source_frame where = hk_sites_where(s, site), native;
        uint64_t at_mark[HK_MARKS], born_in[HK_MARKS];
        hk_sites_marks(s, site, at_mark, born_in);
        hk_json_object(j, NULL, true);
        hk_report_json_site(j, s, &where, site);
        hk_json_unsigned(j, "inherited_bytes", site->inherited_bytes);
        hk_json_unsigned(j, "samples", site->samples_total);
        hk_json_unsigned(j, "samples_live", site->samples_live);
        put_growth(j, &site->growth);
        hk_json_bool(j, "other", site->flags & HK_SITE_OTHER);
        hk_json_bool(j, "blind", site->flags & HK_SITE_BLIND);
        hk_json_bool(j, "jit", site->flags & HK_SITE_JIT);
        put_kib(j, "at_mark", at_mark, s->capture->mark_count);
        put_kib(j, "born_in", born_in, s->capture->mark_count);
        if (where.through && hk_sites_native(s, site, &native)) {
            hk_json_object(j, "native", true);
            hk_report_json_frame(j, &native);
            hk_json_end_object(j);
        }
        put_stack(j, s, site, &frames_left);
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
    free(order);
}

static int lines_by_live(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    const struct hk_line *x = &sorting->lines[i], *y = &sorting->lines[k];
    if (x->live_bytes != y->live_bytes)
        return x->live_bytes > y->live_bytes ? -1 : 1;
    if (x->total_bytes != y->total_bytes)
        return x->total_bytes > y->total_bytes ? -1 : 1;
    return i < k ? -1 : i > k;
}

static void put_lines(struct hk_json *j, const struct hk_sites *s)
{
    uint32_t *order = hk_must_calloc(s->line_count, sizeof *order);
    for (uint32_t i = 0; i < s->line_count; i++)
        order[i] = i;
    sorting = s;
    qsort(order, s->line_count, sizeof *order, lines_by_live);

    hk_json_array(j, "lines", false);
    for (size_t i = 0; i < s->line_count; i++) {
        const struct hk_line *line = &s->lines[order[i]];
        hk_json_object(j, NULL, true);
        hk_report_json_frame(j, &line->frame);
        hk_json_unsigned(j, "live_bytes", line->live_bytes);
        hk_json_unsigned(j, "live_blocks", line->live_blocks);
        hk_json_unsigned(j, "peak_bytes", line->peak_bytes);
        hk_json_unsigned(j, "total_bytes", line->total_bytes);
        hk_json_unsigned(j, "total_blocks", line->total_blocks);
        hk_lives_json(j, s, &line->lives);
        hk_ages_json(j, s, &line->ages);
        hk_json_bool(j, "jit", line->frame.is_near);
        hk_json_unsigned(j, "samples", line->samples_total);
        hk_json_unsigned(j, "sites", line->site_count);
        put_growth(j, &line->growth);
        put_kib(j, "at_mark", line->at_mark, s->capture->mark_count);
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
    free(order);
}

static void put_geometry(struct hk_json *j, const struct hk_capture *c)
{
    const struct hk_capture_header *h = &c->header;
    if (!h->pool_bytes)
        return; /* an older writer */
    hk_json_object(j, "geometry", false);
    hk_json_string(j, "name", hk_capture_string(c, h->geometry));
    hk_json_unsigned(j, "arena_bytes", h->arena_bytes);
    hk_json_unsigned(j, "pool_bytes", h->pool_bytes);
    hk_json_unsigned(j, "block_step", h->block_step);
    hk_json_unsigned(j, "block_max", h->block_max);
    hk_json_unsigned(j, "alignment", h->alignment);
    hk_json_end_object(j);
}

static void put_heap(struct hk_json *j, const struct hk_capture *c)
{
    struct hk_heap_view v = hk_heap_view(c);
    const struct hk_capture_point *p = &v.at;

    hk_json_object(j, "heap", false);
    put_geometry(j, c);
    hk_json_unsigned(j, "arenas", p->arenas);
    hk_json_unsigned(j, "pools", v.pools);
    hk_json_unsigned(j, "pools_used", p->pools_used);
    hk_json_unsigned(j, "pools_full", p->pools_full);
    hk_json_unsigned(j, "pools_empty", p->pools_empty);
    hk_json_unsigned(j, "allocated_bytes", p->allocated_bytes);
    hk_json_unsigned(j, "allocated_blocks", p->allocated_blocks);
    hk_json_unsigned(j, "peak_bytes", v.peak_bytes);
    hk_json_unsigned(j, "live_bytes", p->live_bytes);
    hk_json_unsigned(j, "live_blocks", p->live_blocks);
    hk_json_unsigned(j, "large_bytes", p->large_bytes);
    hk_json_unsigned(j, "large_blocks", p->large_blocks);
    hk_json_unsigned(j, "mapped_bytes", p->mapped_bytes);
    hk_json_unsigned(j, "free_in_used_pools_bytes", p->free_in_used_pools_bytes);
    hk_json_unsigned(j, "empty_pools_bytes", p->empty_pools_bytes);
    hk_json_unsigned(j, "metadata_bytes", p->metadata_bytes);
    hk_json_unsigned(j, "frame_chunks_bytes", p->frame_chunks_bytes);
    hk_json_signed(j, "unexplained_bytes", v.unexplained_bytes);
    hk_json_unsigned(j, "returned_bytes", p->returned_bytes);
    hk_json_unsigned(j, "rss_bytes", v.rss_bytes);
    hk_json_unsigned(j, "peak_rss_bytes", v.peak_rss_bytes);
    hk_json_unsigned(j, "outside_bytes", v.outside_bytes);
    hk_json_unsigned(j, "outside_most_bytes", v.outside_most_bytes);
    hk_json_object(j, "domains", false);
    for (unsigned i = 0; i < 4; i++) {
        hk_json_object(j, hk_domain_name(i), true);
        hk_json_unsigned(j, "allocated_bytes", p->domain_allocated_bytes[i]);
        hk_json_unsigned(j, "live_bytes", p->domain_live_bytes[i]);
        hk_json_end_object(j);
    }
    hk_json_end_object(j);
    hk_json_end_object(j);
}

static void put_processes(struct hk_json *j, const struct hk_report *r)
{
    const struct hk_family *f = r->family;
    hk_json_array(j, "processes", false);
    for (size_t i = 0; f && i < f->count; i++) {
        const struct hk_process *p = &f->processes[i];
        hk_json_object(j, NULL, true);
        hk_json_unsigned(j, "pid", p->pid);
        hk_json_unsigned(j, "parent_pid", p->parent_pid);
        hk_json_unsigned(j, "exec_count", p->exec_count);
        hk_json_bool(j, "forked", p->forked);
        hk_json_string(j, "program", p->program);
        hk_json_string(j, "state", hk_state_word(p->life));
        hk_json_unsigned(j, "peak_bytes", p->peak_bytes);
        hk_json_unsigned(j, "live_bytes", p->live_bytes);
        hk_json_unsigned(j, "allocated_bytes", p->allocated_bytes);
        hk_json_unsigned(j, "peak_rss_bytes", p->peak_rss_bytes);
        hk_json_unsigned(j, "start_realtime_ns", p->start_realtime_ns);
        hk_json_unsigned(j, "duration_ns", p->duration_ns);
        hk_json_string(j, "capture", p->path);
        if (p->judged) {
            hk_json_unsigned(j, "growing", p->growing);
            hk_json_object(j, "steepest", true);
            hk_json_string(j, "function", p->growing_function);
            hk_json_string(j, "file", p->growing_file);
            hk_json_signed(j, "line", p->growing_line);
            hk_json_number(j, "rise_bytes", p->growing_rise);
            hk_json_end_object(j);
        }
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
    hk_json_object(j, "small_children", true);
    hk_json_unsigned(j, "count", f ? f->folded : 0);
    hk_json_unsigned(j, "allocated_bytes", f ? f->folded_allocated_bytes : 0);
    hk_json_unsigned(j, "largest_peak_bytes", f ? f->folded_peak_bytes : 0);
    hk_json_unsigned(j, "duration_ns", f ? f->folded_duration_ns : 0);
    hk_json_end_object(j);
}

static void put_timeline(struct hk_json *j, const struct hk_capture *c)
{
    hk_json_array(j, "timeline", false);
    for (size_t i = 0; i < c->point_count; i++) {
        const struct hk_capture_point *p = &c->points[i];
        hk_json_object(j, NULL, true);
        hk_json_unsigned(j, "time_ns", p->time_ns);
        hk_json_unsigned(j, "allocated_bytes", p->allocated_bytes);
        hk_json_unsigned(j, "live_bytes", p->live_bytes);
        hk_json_unsigned(j, "live_blocks", p->live_blocks);
        hk_json_unsigned(j, "large_bytes", p->large_bytes);
        hk_json_unsigned(j, "mapped_bytes", p->mapped_bytes);
        hk_json_unsigned(j, "free_in_used_pools_bytes", p->free_in_used_pools_bytes);
        hk_json_unsigned(j, "empty_pools_bytes", p->empty_pools_bytes);
        hk_json_unsigned(j, "metadata_bytes", p->metadata_bytes);
        hk_json_unsigned(j, "frame_chunks_bytes", p->frame_chunks_bytes);
        hk_json_unsigned(j, "returned_bytes", p->returned_bytes);
        hk_json_unsigned(j, "rss_bytes", p->rss_bytes);
        hk_json_string(j, "name", hk_capture_string(c, p->name));
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
    hk_json_array(j, "marks", false);
    for (unsigned i = 0; i < c->mark_count; i++) {
        hk_json_object(j, NULL, true);
        hk_json_unsigned(j, "time_ns", c->marks[i].time_ns);
        hk_json_unsigned(j, "allocated_bytes", c->marks[i].allocated_bytes);
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
}

static void put_collections(struct hk_json *j, const struct hk_capture *c)
{
    struct hk_gc_view v = hk_gc_view(c);
    hk_json_object(j, "gc", false);
    hk_json_unsigned(j, "collections", v.collections);
    hk_json_unsigned(j, "duration_ns", v.duration_ns);
    hk_json_unsigned(j, "longest_ns", v.longest_ns);
    hk_json_unsigned(j, "longest_at_ns", v.longest_at_ns);
    hk_json_unsigned(j, "examined", v.examined);
    hk_json_unsigned(j, "freed", v.freed);
    hk_json_unsigned(j, "uncollectable", v.uncollectable);
    hk_json_end_object(j);
    hk_json_array(j, "collections", false);
    for (size_t i = 0; i < c->collection_count; i++) {
        const struct hk_capture_collection *e = &c->collections[i];
        hk_json_object(j, NULL, true);
        hk_json_unsigned(j, "time_ns", e->time_ns);
        hk_json_unsigned(j, "last_ns", e->last_ns);
        hk_json_unsigned(j, "count", e->count);
        hk_json_unsigned(j, "generation", e->generation);
        hk_json_string(j, "cause", hk_cause_word(e->cause));
        hk_json_unsigned(j, "duration_ns", e->duration_ns);
        hk_json_unsigned(j, "longest_ns", e->longest_ns);
        hk_json_unsigned(j, "longest_at_ns", e->longest_at_ns);
        hk_json_unsigned(j, "examined", e->examined);
        hk_json_unsigned(j, "freed", e->freed);
        hk_json_unsigned(j, "uncollectable", e->uncollectable);
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
}

static void put_recorder(struct hk_json *j, const struct hk_report *r)
{
    const struct hk_capture *c = r->capture;
    hk_json_object(j, "recorder", false);
    hk_json_string(j, "mode", hk_mode_word(c->header.mode));
    hk_json_unsigned(j, "sample_bytes", c->header.sample_bytes);
    hk_json_unsigned(j, "samples", c->now.samples);
    hk_json_unsigned(j, "skipped", c->now.skipped);
    hk_json_unsigned(j, "bytes", c->now.recorder_bytes);
    hk_json_unsigned(j, "time_ns", c->now.recorder_ns);
    hk_json_unsigned(j, "capture_bytes", c->size);
    /* Exact counters are in the sites alone until the end. */
    bool by_sites = r->sites->kind == HK_SECTION_EXACT_SITES && c->life != HK_LIFE_ENDED;
    hk_json_unsigned(j, "recorded_total_bytes", by_sites ? r->sites->total_bytes : c->status.recorded_total_bytes);
    hk_json_unsigned(j, "recorded_live_bytes", by_sites ? r->sites->live_bytes : c->status.recorded_live_bytes);
    hk_json_unsigned(j, "recorded_peak_bytes", by_sites ? r->sites->peak_bytes : c->status.peak_bytes);
    hk_json_unsigned(j, "recorded_peak_ns", c->status.peak_ns);
    hk_json_unsigned(j, "sites_total_bytes", r->sites->total_bytes);
    hk_json_unsigned(j, "sites_live_bytes", r->sites->live_bytes);
    hk_json_unsigned(j, "sites_peak_bytes", r->sites->peak_bytes);
    hk_json_unsigned(j, "other_bytes", r->sites->other_bytes);
    hk_json_object(j, "domains", false);
    for (unsigned i = 0; i < 4; i++) {
        hk_json_object(j, hk_domain_name(i), true);
        hk_json_unsigned(j, "recorded_total_bytes",
                         by_sites ? r->sites->domain_total_bytes[i] : c->status.recorded_domain_total_bytes[i]);
        hk_json_unsigned(j, "sites_total_bytes", r->sites->domain_total_bytes[i]);
        hk_json_end_object(j);
    }
    hk_json_end_object(j);
    hk_json_unsigned(j, "foreign_frees", c->status.foreign_frees);
    hk_json_unsigned(j, "libc_frees", c->status.libc_frees);
    hk_json_unsigned(j, "dropped_records", c->dropped + r->sites->dropped);
    hk_json_bool(j, "growth_judged", r->sites->run.usable);
    hk_json_end_object(j);
}

static void put_python(struct hk_json *j, const struct hk_capture *c)
{
    const struct hk_capture_header *h = &c->header;
    char version[32];
    hk_json_object(j, "python", false);
    hk_json_string(j, "version", hk_python_version(h->python_version, version));
    hk_json_string(j, "executable", hk_capture_string(c, h->executable));
    hk_json_bool(j, "free_threaded", h->python_flags & 1);
    hk_json_bool(j, "debug", h->python_flags & 2);
    hk_json_bool(j, "trace_refs", h->python_flags & 4);
    hk_json_bool(j, "jit", h->python_flags & 8);
    hk_json_end_object(j);
}

static void put_limits(struct hk_json *j, const struct hk_capture *c)
{
    static const char *const words[] = {"sites", "nodes", "strings", "disk", "memory"};
    hk_json_array(j, "limits", true);
    for (unsigned i = 0; i < 5; i++) {
        if (c->header.limits >> i & 1)
            hk_json_string(j, NULL, words[i]);
    }
    hk_json_end_array(j);
    hk_json_unsigned(j, "limit_time_ns", hk_capture_limit_ns(c, c->header.limits));
}

static void put_command_line(struct hk_json *j, const struct hk_capture *c)
{
    char *arguments[256];
    size_t count = hk_capture_arguments(c, arguments, 256);
    hk_json_array(j, "command_line", true);
    for (size_t i = 0; i < count && i < 256; i++) {
        hk_json_string(j, NULL, arguments[i]);
        free(arguments[i]);
    }
    hk_json_end_array(j);
}

void hk_report_json(const struct hk_report *r, FILE *out)
{
    const struct hk_capture *c = r->capture;
    const struct hk_capture_header *h = &c->header;
    char program[256];
    struct hk_json json, *j = &json;
    struct hk_totals totals = hk_report_totals(r);

    hk_json_start(j, out);
    hk_json_object(j, NULL, false);
    hk_json_string(j, "capture", c->path);
    hk_json_string(j, "format", "heapkeeper-report-1");
    hk_json_string(j, "state", hk_state_word(c->life));
    hk_json_string(j, "program", hk_capture_program(c, program, sizeof program));
    put_command_line(j, c);
    hk_json_string(j, "working_directory", hk_capture_string(c, h->working_directory));
    hk_json_unsigned(j, "pid", h->pid);
    hk_json_unsigned(j, "parent_pid", h->parent_pid);
    hk_json_unsigned(j, "start_realtime_ns", h->start_realtime_ns);
    hk_json_unsigned(j, "duration_ns", c->duration_ns);
    hk_json_unsigned(j, "last_point_ns", c->now.time_ns);
    put_python(j, c);
    hk_json_string(j, "mode", hk_mode_word(h->mode));
    hk_json_unsigned(j, "samples", c->now.samples);
    hk_json_unsigned(j, "peak_bytes", totals.peak_bytes);
    hk_json_unsigned(j, "live_bytes", totals.live_bytes);
    hk_json_unsigned(j, "allocated_bytes", totals.allocated_bytes);
    put_heap(j, c);
    hk_json_string(j, "watch", hk_watch_word(h->watch));
    hk_json_string(j, "watch_name", hk_capture_string(c, h->watch_name));
    hk_json_unsigned(j, "watch_time_ns", h->watch_time_ns);
    hk_json_string(j, "stacks", hk_stacks_word(h->stacks));
    hk_json_string(j, "stacks_why", hk_capture_string(c, h->stacks_why));
    put_limits(j, c);
    put_recorder(j, r);
    struct hk_notes notes = hk_notes(r);
    hk_json_array(j, "notes", false);
    for (size_t i = 0; i < notes.count; i++)
        hk_json_string(j, NULL, notes.texts[i]);
    hk_json_end_array(j);
    hk_notes_free(&notes);
    put_processes(j, r);
    put_lines(j, r->sites);
    put_sites(j, r->sites);
    put_timeline(j, c);
    put_collections(j, c);
    hk_json_end_object(j);
}
