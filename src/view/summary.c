/* Sums and words that the text and the JSON share. */
#include "view/report.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const char *hk_state_word(enum hk_life life)
{
    static const char *const words[] = {"empty", "running", "ended", "killed", "execed"};
    return words[life];
}

const char *hk_mode_word(uint32_t mode)
{
    static const char *const words[] = {"none", "sample", "exact"};
    return mode < 3 ? words[mode] : "unknown";
}

const char *hk_watch_word(uint32_t watch)
{
    static const char *const words[] = {"unknown",  "ours",       "ours_under_hook",
                                        "replaced", "not_python", "refused"};
    return watch < 6 ? words[watch] : "unknown";
}

const char *hk_stacks_word(uint32_t stacks)
{
    static const char *const words[] = {"untested", "good", "off"};
    return stacks < 3 ? words[stacks] : "unknown";
}

const char *hk_python_version(uint32_t version, char text[32])
{
    uint32_t level = version >> 4 & 0xf;
    text[0] = 0;
    if (version) {
        int n = snprintf(text, 32, "%u.%u.%u", version >> 24, version >> 16 & 0xff,
                         version >> 8 & 0xff);
        if (level != 0xf)
            snprintf(text + n, 32 - (size_t)n, "%s%u",
                     level == 0xa   ? "a"
                     : level == 0xb ? "b"
                                    : "rc",
                     version & 0xf);
    }
    return text;
}

/* ---- the heap ---- */

struct hk_heap_view hk_heap_view(const struct hk_capture *c)
{
    struct hk_heap_view v = {.at = c->now, .peak_rss_bytes = c->status.peak_rss_bytes};
    const struct hk_capture_point *p = &v.at;

    v.peak_bytes = hk_capture_peak(c);
    v.live_bytes = hk_point_live(p);
    v.live_blocks = p->live_blocks + p->large_blocks;
    v.pools = p->pools_used + p->pools_full + p->pools_empty;
    uint64_t pools =
        p->live_bytes + p->free_in_used_pools_bytes + p->empty_pools_bytes + p->metadata_bytes;
    v.mapped_bytes = pools + p->frame_chunks_bytes;
    /* The total may or may not hold the frame chunks, which lie beside the pools. */
    v.unexplained_bytes =
        p->mapped_bytes == pools ? 0 : (int64_t)(p->mapped_bytes - v.mapped_bytes);

    for (size_t i = c->point_count; i-- > 0;) {
        const struct hk_capture_point *with = &c->points[i];
        if (with->rss_bytes > v.peak_rss_bytes)
            v.peak_rss_bytes = with->rss_bytes;
        if (with->rss_bytes && !v.rss_bytes) {
            /* How much of what is free in the heap was ever touched is not known: all of it, or
             * nothing. */
            uint64_t least =
                with->live_bytes + with->metadata_bytes + with->large_bytes + with->recorder_bytes;
            uint64_t most = least + with->free_in_used_pools_bytes + with->empty_pools_bytes +
                            with->frame_chunks_bytes;
            v.rss_bytes = with->rss_bytes;
            v.outside_bytes = with->rss_bytes > most ? with->rss_bytes - most : 0;
            v.outside_most_bytes = with->rss_bytes > least ? with->rss_bytes - least : 0;
        }
    }
    return v;
}

struct hk_totals hk_report_totals(const struct hk_report *r)
{
    const struct hk_capture *c = r->capture;
    struct hk_heap_view v = hk_heap_view(c);
    struct hk_totals of_point = {v.peak_bytes, v.live_bytes, v.live_blocks, c->now.allocated_bytes, c->now.allocated_blocks, v.peak_rss_bytes, 0};
    struct hk_totals of_sites = {0};
    if (c->header.mode != HK_MODE_EXACT || c->life == HK_LIFE_ENDED)
        return of_point;
    for (size_t i = 0; i < r->sites->site_count; i++) {
        const struct hk_site *site = &r->sites->sites[i];
        if (site->domain == HK_DOMAIN_NATIVE)
            continue; /* not the heap's */
        of_sites.live_bytes += site->live_bytes;
        of_sites.live_blocks += site->live_blocks;
        of_sites.allocated_bytes += site->total_bytes;
        of_sites.allocated_blocks += site->total_blocks;
    }
    if ((double)of_sites.allocated_bytes <= 1.01 * (double)of_point.allocated_bytes)
        return of_point;
    of_sites.later_bytes = of_sites.allocated_bytes - of_point.allocated_bytes;
    of_sites.peak_bytes = c->now.domain_allocated_bytes[HK_DOMAIN_NATIVE] ? of_point.peak_bytes : r->sites->peak_bytes;
    if (of_sites.peak_bytes < of_sites.live_bytes)
        of_sites.peak_bytes = of_sites.live_bytes;
    if (v.peak_rss_bytes > of_sites.live_bytes) /* else it was read before these bytes were there */
        of_sites.peak_rss_bytes = v.peak_rss_bytes;
    return of_sites;
}

/* ---- notes ---- */

__attribute__((format(printf, 2, 3))) static void note(struct hk_notes *n, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    n->texts = hk_must_realloc(n->texts, n->count + 1, sizeof *n->texts);
    n->texts[n->count++] = hk_must_strdup(text);
}

static void note_watch(struct hk_notes *n, const struct hk_capture *c)
{
    const struct hk_capture_header *h = &c->header;
    const char *name = hk_capture_string(c, h->watch_name);
    char when[32];

    switch (h->watch) {
    case HK_WATCH_UNKNOWN:
        if (h->python_version)
            note(n, "It is not known who answered Python's allocation functions: nothing was "
                    "checked before "
                    "the end.");
        break;
    case HK_WATCH_OURS_UNDER_HOOK:
        note(n, "%s hooks Python's allocators above ours; all figures hold.",
             *name ? name : "tracemalloc or another wrapper");
        break;
    case HK_WATCH_REPLACED:
        note(n, "Python's allocators were replaced by %s, as was noticed after %s: what that allocates is in no figure.",
             *name ? name : "something else", hk_text_duration(when, h->watch_time_ns));
        break;
    case HK_WATCH_REFUSED:
        note(n, "This Python is only observed, its allocators are its own: %s.",
             *name ? name : "no reason was given");
        break;
    default:
        break;
    }
    if (h->python_flags & 1)
        note(n, "A free-threaded Python: it requires its own allocator.");
    if (h->python_flags & 2)
        note(n, "A debug build of Python: every block carries the debug allocator's marks.");
}

static void note_jit(struct hk_notes *n, const struct hk_report *r)
{
    bool any = (r->capture->header.python_flags & 8) != 0;
    for (size_t i = 0; r->sites && !any && i < r->sites->line_count; i++)
        any = r->sites->lines[i].frame.is_near;
    if (any)
        note(n, "Some code was run by Python's JIT: lines with ~ may be 1 to 3 off (run --exact-lines turns it off).");
}

static void note_stacks(struct hk_notes *n, const struct hk_report *r)
{
    const struct hk_capture *c = r->capture;
    const char *why = hk_capture_string(c, c->header.stacks_why);
    char share[32], bytes[32];

    if (c->header.stacks == HK_STACKS_OFF)
        note(n, "Python stacks are off: %s. Bytes are counted, lines are not known.",
             *why ? why : "the self-test of the frame layout failed");
    if (c->header.python_version && r->sites->blind_bytes && c->header.stacks != HK_STACKS_OFF &&
        (double)r->sites->blind_bytes > 0.05 * (double)r->sites->total_bytes)
        note(n,
             "%s of the recorded bytes (%s) were asked for outside any Python frame: start-up, "
             "native "
             "threads.",
             hk_text_percent(share, (double)r->sites->blind_bytes, (double)r->sites->total_bytes),
             hk_text_bytes(bytes, (double)r->sites->blind_bytes));
    if (c->header.mode == HK_MODE_NONE)
        note(n, "Recording was off: the heap's own counters are all there is.");
    else if (c->now.time_ns && !r->sites->run.usable && r->sites->site_count)
        note(n, "Too short a run, or too uneven, to tell what grows.");
}

/* Why native code has no names: one sentence a reason. */
static void note_modules(struct hk_notes *n, const struct hk_report *r)
{
    static const struct {
        enum hk_symbols_state state;
        const char *one, *many;
    } reasons[] = {
        {HK_SYMBOLS_ANOTHER_FILE, "%s is now another file than the one that ran",
         "%s and %zu more are now other files than those that ran"},
        {HK_SYMBOLS_NO_FILE, "%s is not on this system", "%s and %zu more are not on this system"},
        {HK_SYMBOLS_DAMAGED, "%s cannot be read as a program", "%s and %zu more cannot be read as programs"},
        {HK_SYMBOLS_NOT_BUILT, "libdw of elfutils is not there to read %s", "libdw of elfutils is not there to read %s and %zu more"},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
        size_t at = 0, others = 0;
        char what[600];
        const char *path = hk_sites_unread_module(r->sites, reasons[i].state, &at);
        if (!path)
            continue;
        while (hk_sites_unread_module(r->sites, reasons[i].state, &at))
            others++;
        if (others)
            snprintf(what, sizeof what, reasons[i].many, path, others);
        else
            snprintf(what, sizeof what, reasons[i].one, path);
        note(n, "Native code is given as module+offset: %s.", what);
    }
}

static void note_limits(struct hk_notes *n, const struct hk_report *r)
{
    const struct hk_capture *c = r->capture;
    uint32_t limits = c->header.limits;
    char a[32], b[32];

    if (limits & HK_LIMIT_SITES)
        note(n,
             "The table of sites was full after %s: %s of the recorded bytes are in \"(other)\"; "
             "totals are "
             "whole.",
             hk_text_duration(a, hk_capture_limit_ns(c, HK_LIMIT_SITES)),
             hk_text_percent(b, (double)r->sites->other_bytes, (double)r->sites->total_bytes));
    if (limits & HK_LIMIT_NODES)
        note(n, "The call tree was full: later stacks are cut to their innermost frames; `heapkeeper run --bound 256M` leaves them room.");
    if (limits & HK_LIMIT_STRINGS)
        note(n, "The space for names was full: names of code seen late are missing.");
    if (limits & HK_LIMIT_DISK)
        note(n, "The file system was full: recording stopped after %s, the program went on.",
             hk_text_duration(a, hk_capture_limit_ns(c, HK_LIMIT_DISK)));
    if (limits & HK_LIMIT_MEMORY)
        note(n,
             "There was no memory for the recorder's own tables: recording stopped after %s, the "
             "program "
             "went on.",
             hk_text_duration(a, hk_capture_limit_ns(c, HK_LIMIT_MEMORY)));
}

static void note_events(struct hk_notes *n, const struct hk_capture *c)
{
    size_t count = c->tables[HK_SECTION_EVENTS].count, forks = 0, told = 0;
    char when[32];
    for (size_t i = 0; i < count && i < 100000; i++) {
        struct hk_capture_event e;
        hk_capture_entry(c, HK_SECTION_EVENTS, i, &e, sizeof e);
        forks += e.kind == HK_EVENT_FORK;
        if (e.kind == HK_EVENT_INTERPRETERS && e.value == 0 && told++ < 20)
            note(n, "After %s: %s", hk_text_duration(when, e.time_ns), hk_capture_string(c, e.text));
        else if (e.kind == HK_EVENT_INTERPRETERS && told++ < 20)
            note(n, "Interpreters with their own lock from %s on: each has a heap of its own.",
                 hk_text_duration(when, e.time_ns));
        if (e.kind == HK_EVENT_NOTE && told++ < 20)
            note(n, "After %s: %s", hk_text_duration(when, e.time_ns),
                 hk_capture_string(c, e.text));
    }
    if (forks)
        note(n, "It forked %zu time%s.", forks, forks == 1 ? "" : "s");
}

/* Who called the C library's free or realloc with blocks of Python's heap: "libffi.so.8+0x6a0a (free), ...". */
static void culprits(const struct hk_capture *c, char *text, size_t size)
{
    size_t events = c->tables[HK_SECTION_EVENTS].count, modules = c->tables[HK_SECTION_MODULES].count, length = 0;
    text[0] = '\0';
    for (size_t i = 0; i < events && i < 100000 && length + 1 < size; i++) {
        struct hk_capture_event e;
        hk_capture_entry(c, HK_SECTION_EVENTS, i, &e, sizeof e);
        for (size_t k = 0; e.kind == HK_EVENT_CULPRIT && k < modules; k++) {
            struct hk_capture_module m;
            hk_capture_entry(c, HK_SECTION_MODULES, k, &m, sizeof m);
            if (e.value < m.start || e.value >= m.end)
                continue;
            const char *path = hk_capture_string(c, m.path), *slash = strrchr(path, '/');
            int put = snprintf(text + length, size - length, "%s%s+0x%llx (%s)", length ? ", " : "",
                               slash ? slash + 1 : path, (unsigned long long)(e.value - m.start + m.offset),
                               hk_capture_string(c, e.text));
            length += put > 0 ? (size_t)put : 0;
            break;
        }
    }
}

static void note_oddities(struct hk_notes *n, const struct hk_report *r)
{
    const struct hk_capture *c = r->capture;
    char a[32], b[32];

    char who[512];
    culprits(c, who, sizeof who);
    if (c->status.libc_frees)
        note(n, "%s blocks of Python's heap were freed by the C library's free or realloc%s%s.",
             hk_text_count(a, c->status.libc_frees), who[0] ? ", called by " : ": a native module mixes the two", who);
    if (c->status.foreign_frees)
        note(n, "%s blocks were given to Python's free that neither we nor the C library gave out.",
             hk_text_count(a, c->status.foreign_frees));
    if (c->now.skipped)
        note(n, "%s events were not recorded: a signal handler interrupted the recorder.",
             hk_text_count(a, c->now.skipped));
    if (c->dropped + r->sites->dropped)
        note(n, "%s record%s torn or damaged and left out.",
             hk_text_count(a, c->dropped + r->sites->dropped),
             c->dropped + r->sites->dropped == 1 ? " was" : "s were");
    struct hk_heap_view v = hk_heap_view(c);
    if (v.unexplained_bytes)
        note(n, "The heap's classes and its total differ by %s.",
             hk_text_bytes(b, (double)v.unexplained_bytes));
    /* In a finished capture every recorded byte belongs to a site. */
    if (c->life == HK_LIFE_ENDED && c->status.recorded_total_bytes != r->sites->total_bytes)
        note(n, "Sites sum to %s, the recorder's own total is %s.",
             hk_text_bytes(a, (double)r->sites->total_bytes),
             hk_text_bytes(b, (double)c->status.recorded_total_bytes));
}

struct hk_notes hk_notes(const struct hk_report *r)
{
    struct hk_notes n = {NULL, 0};
    note_watch(&n, r->capture);
    note_jit(&n, r);
    note_stacks(&n, r);
    note_modules(&n, r);
    note_limits(&n, r);
    note_events(&n, r->capture);
    note_oddities(&n, r);
    return n;
}

void hk_notes_free(struct hk_notes *n)
{
    for (size_t i = 0; i < n->count; i++)
        free(n->texts[i]);
    free(n->texts);
    *n = (struct hk_notes){NULL, 0};
}

const char *hk_cause_word(unsigned cause)
{
    static const char *const words[HK_CAPTURE_CAUSES] = {"other", "young", "growth", "explicit", "steps"};
    return words[cause < HK_CAPTURE_CAUSES ? cause : HK_CAUSE_OTHER];
}

struct hk_gc_view hk_gc_view(const struct hk_capture *c)
{
    struct hk_gc_view v = {0};
    for (size_t i = 0; i < c->collection_count; i++) {
        const struct hk_capture_collection *e = &c->collections[i];
        v.collections += e->count;
        v.by_generation[e->generation] += e->count;
        v.duration_ns += e->duration_ns;
        v.examined += e->examined;
        v.freed += e->freed;
        v.uncollectable += e->uncollectable;
        if (e->longest_ns > v.longest_ns) {
            v.longest_ns = e->longest_ns;
            v.longest_at_ns = e->longest_at_ns;
            v.longest_generation = e->generation;
            v.longest_cause = e->cause;
        }
    }
    return v;
}
