/* Opens and checks a capture file.
 *
 * Reading a file that is being written: counts are read before what they count, so every entry below
 * a count is complete, and they are read until two readings agree, so that what an entry refers to is
 * counted as well (a copy of a page is no instant: it may have the nodes' count from before a stack was
 * added and the sites' from after it). Two things are rewritten in place.
 * The timeline and the marks are thinned by two now and then: the whole copy is taken again if
 * their numbers have moved. The current point moves all the time: it is read alone, under its
 * sequence number.
 *
 * Of a process that died while it wrote, torn points are dropped and the newest whole one takes
 * their place.
 */
#include "read/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "read/process.h"

#define STATUS_END       (HK_CAPTURE_STATUS_OFFSET + sizeof(struct hk_capture_status))
#define STRING_MAX       4096u       /* bytes of a name */
#define COMMAND_LINE_MAX (64u << 10) /* bytes */
#define TIMELINE_MAX     65536u      /* points that are looked at */
#define COLLECTIONS_MAX  65536u
#define SPANS_MAX        65536u

static const size_t entry_sizes[HK_SECTION_KINDS] = {
    [HK_SECTION_MARKS] = sizeof(struct hk_capture_mark),
    [HK_SECTION_TIMELINE] = sizeof(struct hk_capture_point),
    [HK_SECTION_EVENTS] = sizeof(struct hk_capture_event),
    [HK_SECTION_MODULES] = sizeof(struct hk_capture_module),
    [HK_SECTION_CODES] = sizeof(struct hk_capture_code),
    [HK_SECTION_NODES] = sizeof(struct hk_capture_node),
    [HK_SECTION_STRINGS] = 1,
    [HK_SECTION_SITES] = sizeof(struct hk_capture_site),
    [HK_SECTION_MAP_A] = 1,
    [HK_SECTION_MAP_B] = 1,
    [HK_SECTION_COUNTERS] = sizeof(struct hk_capture_counters),
    [HK_SECTION_EXACT_SITES] = sizeof(struct hk_capture_exact_site),
    [HK_SECTION_COLLECTIONS] = sizeof(struct hk_capture_collection),
    [HK_SECTION_THREADS] = sizeof(struct hk_capture_thread),
    [HK_SECTION_SPANS] = sizeof(struct hk_capture_span),
    [HK_SECTION_LIVING] = sizeof(struct hk_capture_living),
};

static const char *const section_names[HK_SECTION_KINDS] = {
    [HK_SECTION_MARKS] = "marks",     [HK_SECTION_TIMELINE] = "timeline",
    [HK_SECTION_EVENTS] = "events",   [HK_SECTION_MODULES] = "modules",
    [HK_SECTION_CODES] = "codes",     [HK_SECTION_NODES] = "nodes",
    [HK_SECTION_STRINGS] = "strings", [HK_SECTION_SITES] = "sites",
    [HK_SECTION_MAP_A] = "map A",     [HK_SECTION_MAP_B] = "map B",
    [HK_SECTION_COUNTERS] = "counters", [HK_SECTION_EXACT_SITES] = "exact sites",
    [HK_SECTION_COLLECTIONS] = "collections", [HK_SECTION_THREADS] = "threads",
    [HK_SECTION_SPANS] = "spans",       [HK_SECTION_LIVING] = "living",
};

/* ---- errors and memory ---- */

void hk_error_set(struct hk_error *error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
}

static void out_of_memory(void)
{
    static const char line[] = "heapkeeper: no memory left to read the capture\n";
    if (write(STDERR_FILENO, line, sizeof line - 1) < 0) {
        /* nobody is left to tell */
    }
    _exit(1);
}

/* Of a program with hundreds of thousands of call sites the pages are some ten thousand, each with a fault of its own. */
static void ask_for_huge_pages(void *start, size_t bytes)
{
    const uintptr_t unit = (uintptr_t)2 << 20;
    uintptr_t first = ((uintptr_t)start + unit - 1) / unit * unit, end = ((uintptr_t)start + bytes) / unit * unit;
    if (bytes >= 2 * unit && end > first)
        madvise((void *)first, end - first, MADV_HUGEPAGE);
}

void *hk_must_calloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p)
        out_of_memory();
    ask_for_huge_pages(p, count * size);
    return p;
}

void *hk_must_realloc(void *old, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        out_of_memory();
    void *p = realloc(old, bytes ? bytes : 1);
    if (!p)
        out_of_memory();
    return p;
}

char *hk_must_strdup(const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        out_of_memory();
    return copy;
}

uint64_t hk_capture_limit_ns(const struct hk_capture *c, uint32_t limits)
{
    size_t count = c->tables[HK_SECTION_EVENTS].count;
    uint64_t first = c->header.limits & limits & HK_LIMIT_DISK ? c->header.limit_time_ns : 0; /* its event may have had no place */
    for (size_t i = 0; i < count && i < 100000; i++) {
        struct hk_capture_event e;
        hk_capture_entry(c, HK_SECTION_EVENTS, i, &e, sizeof e);
        if (e.kind == HK_EVENT_LIMIT && (e.value & limits) && (first == 0 || e.time_ns < first))
            first = e.time_ns;
    }
    return first || !(c->header.limits & limits) ? first : c->header.limit_time_ns;
}

const char *hk_life_name(enum hk_life life)
{
    switch (life) {
    case HK_LIFE_EMPTY:
        return "nothing recorded";
    case HK_LIFE_RUNNING:
        return "running";
    case HK_LIFE_ENDED:
        return "ended";
    case HK_LIFE_KILLED:
        return "killed";
    case HK_LIFE_EXECED:
        return "exec'd";
    }
    return "unknown";
}

/* ---- checks ---- */

static bool check_header(struct hk_capture *c, struct hk_error *error)
{
    struct hk_capture_header *h = &c->header;

    if (c->size < sizeof h->magic || memcmp(c->bytes, HK_CAPTURE_MAGIC, sizeof h->magic) != 0) {
        hk_error_set(error, "%s: not a heapkeeper capture", c->path);
        return false;
    }
    if (c->size < sizeof *h) {
        hk_error_set(error, "%s: truncated: %zu bytes are less than a header; copy the file again",
                     c->path, c->size);
        return false;
    }
    memcpy(h, c->bytes, sizeof *h);
    if (h->header_size < sizeof *h) /* an older writer's: it knew fewer kinds of sections */
        memset(&h->sections[HK_SECTION_KINDS_AT_LEAST], 0, sizeof h->sections - sizeof *h->sections * HK_SECTION_KINDS_AT_LEAST);
    if (h->byte_order == __builtin_bswap32(HK_CAPTURE_BYTE_ORDER)) {
        hk_error_set(error,
                     "%s: written on a machine of the other byte order; read it on one like that",
                     c->path);
        return false;
    }
    if (h->byte_order != HK_CAPTURE_BYTE_ORDER) {
        hk_error_set(error, "%s: damaged: byte order mark is %#x", c->path, h->byte_order);
        return false;
    }
    if (h->major > HK_CAPTURE_MAJOR) {
        hk_error_set(error,
                     "%s: written by a newer heapkeeper (format %u.%u, this one reads up to %u.x); "
                     "update heapkeeper",
                     c->path, h->major, h->minor, HK_CAPTURE_MAJOR);
        return false;
    }
    if (h->major < HK_CAPTURE_MAJOR ||
        h->header_size < offsetof(struct hk_capture_header, sections[HK_SECTION_KINDS_AT_LEAST]) ||
        h->header_size > HK_CAPTURE_MAILBOX_OFFSET) {
        hk_error_set(error, "%s: damaged: format %u.%u with a header of %u bytes", c->path,
                     h->major, h->minor, h->header_size);
        return false;
    }
    return true;
}

static bool is_wanted(unsigned kind, enum hk_open_how how)
{
    return how == HK_OPEN_WHOLE || kind == HK_SECTION_MARKS || kind == HK_SECTION_TIMELINE ||
           kind == HK_SECTION_STRINGS;
}

/* The bytes of section `kind` must lie behind the status and inside the copy. */
static bool check_section(struct hk_capture *c, unsigned kind, struct hk_error *error)
{
    const struct hk_capture_section *s = &c->header.sections[kind];
    uint64_t bytes, end;

    if (s->entry_size == 0 || entry_sizes[kind] == 0) /* absent, or of a newer minor version */
        return true;
    uint64_t alignment = kind == HK_SECTION_STRINGS ? 1 : 8;
    if (s->count > s->capacity || s->offset % alignment != 0 || s->offset < STATUS_END ||
        (entry_sizes[kind] == 1 && s->entry_size != 1) ||
        s->entry_size < entry_sizes[kind] / 2 ||
        __builtin_mul_overflow(s->count, (uint64_t)s->entry_size, &bytes) ||
        __builtin_add_overflow(s->offset, bytes, &end)) {
        hk_error_set(error,
                     "%s: damaged: its section \"%s\" cannot be (offset %llu, %llu of %llu entries "
                     "of %u bytes)",
                     c->path, section_names[kind], (unsigned long long)s->offset,
                     (unsigned long long)s->count, (unsigned long long)s->capacity, s->entry_size);
        return false;
    }
    if (end > c->size) {
        hk_error_set(error,
                     "%s: truncated: its section \"%s\" ends at byte %llu, the file at %zu; "
                     "copy the file again",
                     c->path, section_names[kind], (unsigned long long)end, c->size);
        return false;
    }
    c->tables[kind] = (struct hk_table){c->bytes + s->offset, s->entry_size, (size_t)s->count};
    return true;
}

/* Two sections in the same bytes are no way to write a capture. */
static bool check_overlap(const struct hk_capture *c, struct hk_error *error)
{
    for (unsigned a = 1; a < HK_SECTION_KINDS; a++) {
        for (unsigned b = a + 1; b < HK_SECTION_KINDS; b++) {
            const struct hk_table *x = &c->tables[a], *y = &c->tables[b];
            if (x->count && y->count && x->base < y->base + y->count * y->stride &&
                y->base < x->base + x->count * x->stride) {
                hk_error_set(error, "%s: damaged: its sections \"%s\" and \"%s\" overlap", c->path,
                             section_names[a], section_names[b]);
                return false;
            }
        }
    }
    return true;
}

/* ---- points and marks ---- */

static bool point_is_whole(const struct hk_capture_point *p)
{
    return (p->sequence & 1) == 0 && (p->sequence || p->time_ns || p->allocated_bytes);
}

/* The timeline without torn points, in time order (a thinning that was cut short leaves some
 * twice). */
static void collect_points(struct hk_capture *c)
{
    size_t count = c->tables[HK_SECTION_TIMELINE].count;
    if (count > TIMELINE_MAX)
        count = TIMELINE_MAX;
    c->points = hk_must_calloc(count + 1, sizeof *c->points);
    for (size_t i = 0; i < count; i++) {
        struct hk_capture_point p;
        hk_capture_entry(c, HK_SECTION_TIMELINE, i, &p, sizeof p);
        bool forward = c->point_count == 0 || p.time_ns > c->points[c->point_count - 1].time_ns;
        if (point_is_whole(&p) && forward)
            c->points[c->point_count++] = p;
        else
            c->dropped++;
    }
    if (point_is_whole(&c->status.now)) {
        c->now = c->status.now;
        c->has_now = true;
    } else if (c->point_count) {
        c->now = c->points[c->point_count - 1];
        c->has_now = true;
        c->dropped++;
    }
    if (c->has_now) {
        while (c->point_count && c->points[c->point_count - 1].time_ns >= c->now.time_ns) {
            const struct hk_capture_point *last = &c->points[--c->point_count];
            if (last->time_ns == c->now.time_ns)
                c->now.name = last->name; /* the same moment: only the timeline's has its name */
        }
        c->points[c->point_count++] = c->now;
    }
}

static void collect_marks(struct hk_capture *c)
{
    for (size_t i = 0; i < c->tables[HK_SECTION_MARKS].count && i < HK_MARKS; i++) {
        struct hk_capture_mark m;
        hk_capture_entry(c, HK_SECTION_MARKS, i, &m, sizeof m);
        if (i && (m.time_ns < c->marks[i - 1].time_ns ||
                  m.allocated_bytes < c->marks[i - 1].allocated_bytes)) {
            c->dropped++;
            break;
        }
        c->marks[c->mark_count++] = m;
    }
}

/* What the writer's entries are: in the order of time, and of one generation and cause one after the other. A merging that was cut
 * short leaves some that are in a sum already. */
static void collect_collections(struct hk_capture *c)
{
    uint64_t last[HK_CAPTURE_GENERATIONS][HK_CAPTURE_CAUSES] = {{0}};
    size_t count = c->tables[HK_SECTION_COLLECTIONS].count;
    if (count > COLLECTIONS_MAX)
        count = COLLECTIONS_MAX;
    c->collections = hk_must_calloc(count, sizeof *c->collections);
    for (size_t i = 0; i < count; i++) {
        struct hk_capture_collection e;
        hk_capture_entry(c, HK_SECTION_COLLECTIONS, i, &e, sizeof e);
        bool good = e.count > 0 && e.generation < HK_CAPTURE_GENERATIONS && e.cause < HK_CAPTURE_CAUSES && e.last_ns >= e.time_ns &&
                    e.longest_ns <= e.duration_ns;
        good = good && (c->collection_count == 0 || e.time_ns >= c->collections[c->collection_count - 1].time_ns);
        if (!good || e.time_ns < last[e.generation][e.cause]) {
            c->dropped++;
            continue;
        }
        last[e.generation][e.cause] = e.last_ns + 1;
        c->collections[c->collection_count++] = e;
    }
}

static int by_begin(const void *a, const void *b)
{
    const struct hk_capture_span *x = a, *y = b;
    if (x->begin_ns != y->begin_ns)
        return x->begin_ns < y->begin_ns ? -1 : 1;
    return x->serial < y->serial ? -1 : x->serial > y->serial;
}

static void collect_spans(struct hk_capture *c)
{
    size_t count = c->tables[HK_SECTION_SPANS].count;
    if (count > SPANS_MAX)
        count = SPANS_MAX;
    c->spans = hk_must_calloc(count, sizeof *c->spans);
    for (size_t i = 0; i < count; i++) {
        struct hk_capture_span span;
        hk_capture_entry(c, HK_SECTION_SPANS, i, &span, sizeof span);
        if ((span.sequence & 1) != 0 || (span.end_ns != 0 && span.end_ns < span.begin_ns))
            c->dropped++;
        else if (span.serial != 0)
            c->spans[c->span_count++] = span;
    }
    qsort(c->spans, c->span_count, sizeof *c->spans, by_begin);
}

static void find_life(struct hk_capture *c, bool ask_the_system)
{
    const struct hk_capture_header *h = &c->header;
    uint64_t last = c->has_now ? c->now.time_ns : 0;

    c->duration_ns = last;
    switch (h->state) {
    case HK_STATE_EMPTY:
        c->life = HK_LIFE_EMPTY;
        break;
    case HK_STATE_EXITED:
        c->life = HK_LIFE_ENDED;
        if (h->end_ns)
            c->duration_ns = h->end_ns;
        break;
    default:
        c->life = HK_LIFE_KILLED;
        if (ask_the_system && hk_process_is(h->pid, h->start_ticks, h->boot_id)) {
            c->life = HK_LIFE_RUNNING;
            uint64_t now = hk_realtime_ns();
            if (now > h->start_realtime_ns && now - h->start_realtime_ns > last)
                c->duration_ns = now - h->start_realtime_ns;
        }
        break;
    }
}

/* Takes over `bytes`. */
static struct hk_capture *check(uint8_t *bytes, size_t size, const char *path, enum hk_open_how how,
                                bool ask, struct hk_error *error)
{
    struct hk_capture *c = hk_must_calloc(1, sizeof *c);
    c->path = hk_must_strdup(path);
    c->bytes = bytes;
    c->size = size;
    c->from_memory = !ask;
    if (size == 0) {
        c->life = HK_LIFE_EMPTY;
        return c;
    }
    if (!check_header(c, error))
        goto fail;
    if (size < STATUS_END) {
        hk_error_set(error,
                     "%s: truncated: %zu bytes are less than its fixed part; copy the file again",
                     path, size);
        goto fail;
    }
    memcpy(&c->status, bytes + HK_CAPTURE_STATUS_OFFSET, sizeof c->status);
    for (unsigned kind = 1; kind < HK_SECTION_KINDS; kind++) {
        if (!check_section(c, kind, error))
            goto fail;
    }
    if (!check_overlap(c, error))
        goto fail;
    for (unsigned kind = 1; kind < HK_SECTION_KINDS; kind++) {
        if (!is_wanted(kind, how))
            c->tables[kind].count = 0;
    }
    collect_points(c);
    collect_marks(c);
    collect_collections(c);
    collect_spans(c);
    find_life(c, ask);
    return c;
fail:
    hk_capture_close(c);
    return NULL;
}

/* ---- the copy ---- */

static bool read_all(int fd, uint8_t *to, size_t size, off_t offset)
{
    while (size) {
        ssize_t n = pread(fd, to, size, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        if (n == 0) { /* cut under us: the rest reads as a hole, and the checks will tell */
            memset(to, 0, size);
            return true;
        }
        to += n;
        offset += n;
        size -= (size_t)n;
    }
    return true;
}

static uint64_t status_word(const uint8_t *bytes, size_t field)
{
    uint64_t value;
    memcpy(&value, bytes + HK_CAPTURE_STATUS_OFFSET + field, sizeof value);
    return value;
}

/* True if the timeline and the marks have not been thinned while the copy was taken. */
static bool copy_is_settled(int fd, const uint8_t *bytes)
{
    const size_t fields[] = {offsetof(struct hk_capture_status, timeline_sequence),
                             offsetof(struct hk_capture_status, marks_generation)};
    for (size_t i = 0; i < 2; i++) {
        uint64_t again;
        if (!read_all(fd, (uint8_t *)&again, sizeof again,
                      HK_CAPTURE_STATUS_OFFSET + (off_t)fields[i]))
            return true;
        if (again != status_word(bytes, fields[i]))
            return false;
    }
    return (status_word(bytes, fields[0]) & 1) == 0;
}

/* The current point, read alone until it did not move meanwhile. */
static void read_current_point(int fd, uint8_t *bytes)
{
    const size_t size = sizeof(struct hk_capture_point);
    for (int attempt = 0; attempt < 1000; attempt++) {
        struct hk_capture_point p;
        uint64_t before, after;
        if (!read_all(fd, (uint8_t *)&before, sizeof before, HK_CAPTURE_STATUS_OFFSET) ||
            !read_all(fd, (uint8_t *)&p, size, HK_CAPTURE_STATUS_OFFSET) ||
            !read_all(fd, (uint8_t *)&after, sizeof after, HK_CAPTURE_STATUS_OFFSET))
            return;
        if (before == after && (before & 1) == 0) {
            p.sequence = before;
            memcpy(bytes + HK_CAPTURE_STATUS_OFFSET, &p, size);
            return;
        }
        sched_yield();
    }
    uint64_t odd = 1; /* dead in the middle, or too busy: the timeline's newest point will do */
    memcpy(bytes + HK_CAPTURE_STATUS_OFFSET, &odd, sizeof odd);
}

/* The map of the heap is written in turn in two places. One that was written to while it was copied is marked so. */
static void mark_torn_maps(int fd, uint8_t *bytes, size_t size)
{
    const struct hk_capture_header *header = (const struct hk_capture_header *)bytes;
    static const int kinds[] = {HK_SECTION_MAP_A, HK_SECTION_MAP_B};
    for (size_t i = 0; i < 2; i++) {
        uint64_t offset = header->sections[kinds[i]].offset, before, after;
        if (offset < STATUS_END || offset > size || size - offset < sizeof before)
            continue;
        memcpy(&before, bytes + offset, sizeof before);
        if (!read_all(fd, (uint8_t *)&after, sizeof after, (off_t)offset) || before != after) {
            before = 1;
            memcpy(bytes + offset, &before, sizeof before);
        }
    }
}

/* The fixed part, with the counts of one instant. A writer that adds without a pause is not waited for: an entry
 * whose target is not counted is shown without it. */
static bool read_fixed(int fd, uint8_t *bytes, size_t size)
{
    struct hk_capture_header *header = (struct hk_capture_header *)bytes;
    struct hk_capture_section again[HK_SECTION_KINDS];

    if (!read_all(fd, bytes, size < STATUS_END ? size : STATUS_END, 0))
        return false;
    for (int attempt = 0; size >= STATUS_END && attempt < 1000; attempt++) {
        if (!read_all(fd, (uint8_t *)again, sizeof again, offsetof(struct hk_capture_header, sections)))
            return false;
        if (memcmp(again, header->sections, sizeof again) == 0)
            break;
        memcpy(header->sections, again, sizeof again);
    }
    return true;
}

/* Fixed part first, then what the sections use of their room: the rest of the file is holes. */
static bool read_parts(int fd, uint8_t *bytes, size_t size, enum hk_open_how how)
{
    const struct hk_capture_header *header = (const struct hk_capture_header *)bytes;

    if (!read_fixed(fd, bytes, size))
        return false;
    if (size < STATUS_END)
        return true;
    for (unsigned kind = 1; kind < HK_SECTION_KINDS; kind++) {
        const struct hk_capture_section *s = &header->sections[kind];
        uint64_t used;
        if (!is_wanted(kind, how) || s->offset < STATUS_END || s->offset >= size ||
            __builtin_mul_overflow(s->count, (uint64_t)s->entry_size, &used))
            continue; /* the checks will tell */
        if (used > size - s->offset)
            used = size - s->offset;
        if (!read_all(fd, bytes + s->offset, used, (off_t)s->offset))
            return false;
    }
    return true;
}

static uint8_t *copy_file(int fd, size_t size, const char *path, enum hk_open_how how,
                          struct hk_error *error)
{
    uint8_t *bytes = calloc(size ? size : 1, 1);
    if (!bytes) {
        hk_error_set(error, "%s: no memory for a copy of its %zu bytes", path, size);
        return NULL;
    }
    ask_for_huge_pages(bytes, size);
    for (int attempt = 0; attempt < 20; attempt++) {
        if (!read_parts(fd, bytes, size, how)) {
            hk_error_set(error, "%s: cannot be read: %s", path, strerror(errno));
            free(bytes);
            return NULL;
        }
        if (size < STATUS_END || copy_is_settled(fd, bytes))
            break;
        sched_yield();
    }
    if (size >= STATUS_END && memcmp(bytes, HK_CAPTURE_MAGIC, 8) == 0) {
        read_current_point(fd, bytes);
        mark_torn_maps(fd, bytes, size);
    }
    return bytes;
}

struct hk_capture *hk_capture_open(const char *path, enum hk_open_how how, struct hk_error *error)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;

    if (fd < 0) {
        const char *why = errno == ELOOP ? "is a symbolic link; name the file itself" : NULL;
        hk_error_set(error, why ? "%s: %s" : "%s: cannot be opened: %s", path,
                     why ? why : strerror(errno));
        return NULL;
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        hk_error_set(error, "%s: not a regular file, so not a capture", path);
        close(fd);
        return NULL;
    }
    if ((uint64_t)st.st_size > HK_CAPTURE_READ_MAX) {
        hk_error_set(error,
                     "%s: not a heapkeeper capture: %lld bytes, and no capture is longer than %zu",
                     path, (long long)st.st_size, HK_CAPTURE_READ_MAX);
        close(fd);
        return NULL;
    }
    size_t size = (size_t)st.st_size;
    uint8_t *bytes = copy_file(fd, size, path, how, error);
    close(fd);
    return bytes ? check(bytes, size, path, how, true, error) : NULL;
}

struct hk_capture *hk_capture_from_memory(const void *bytes, size_t size, const char *path,
                                          struct hk_error *error)
{
    uint8_t *copy = hk_must_calloc(size, 1);
    if (size)
        memcpy(copy, bytes, size);
    return check(copy, size, path, HK_OPEN_WHOLE, false, error);
}

void hk_capture_close(struct hk_capture *c)
{
    if (!c)
        return;
    free(c->points);
    free(c->collections);
    free(c->spans);
    free(c->bytes);
    free(c->path);
    free(c);
}

/* ---- entries and strings ---- */

bool hk_capture_entry_of(const struct hk_capture *c, enum hk_section_kind kind, size_t index,
                         void *entry, size_t size)
{
    const struct hk_table *t = &c->tables[kind];
    memset(entry, 0, size);
    if (index >= t->count)
        return false;
    memcpy(entry, t->base + index * t->stride, t->stride < size ? t->stride : size);
    return true;
}

static const char *string_up_to(const struct hk_capture *c, uint32_t offset, size_t longest)
{
    const struct hk_table *t = &c->tables[HK_SECTION_STRINGS];
    if (offset == 0 || offset >= t->count)
        return "";
    size_t left = t->count - offset;
    const char *text = (const char *)t->base + offset;
    return memchr(text, 0, left < longest ? left : longest) ? text : "";
}

const char *hk_capture_string(const struct hk_capture *c, uint32_t offset)
{
    return string_up_to(c, offset, STRING_MAX);
}

const uint8_t *hk_capture_blob(const struct hk_capture *c, uint32_t offset, uint32_t size)
{
    const struct hk_table *t = &c->tables[HK_SECTION_STRINGS];
    if (offset == 0 || offset >= t->count || size > t->count - offset)
        return NULL;
    return t->base + offset;
}

size_t hk_capture_arguments(const struct hk_capture *c, char **arguments, size_t max)
{
    const char *at = string_up_to(c, c->header.command_line, COMMAND_LINE_MAX);
    size_t count = 0;
    while (*at) {
        size_t length = strcspn(at, "\x1f");
        if (count < max) {
            arguments[count] = hk_must_calloc(length + 1, 1);
            memcpy(arguments[count], at, length);
        }
        count++;
        at += length + (at[length] == '\x1f');
    }
    return count;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

/* Options of the interpreter that take the next argument. */
static bool takes_argument(const char *option)
{
    return strcmp(option, "-W") == 0 || strcmp(option, "-X") == 0 ||
           strcmp(option, "--check-hash-based-pycs") == 0;
}

/* "-c"; but what multiprocessing starts so has the name of its part: "from multiprocessing.resource_tracker import main;main(5)". */
static const char *name_of_code(const char *code, char *name, size_t size)
{
    static const char start[] = "from multiprocessing.";
    if (strncmp(code, start, strlen(start)) != 0)
        return "-c";
    code += strlen(start);
    size_t length = strcspn(code, " ");
    snprintf(name, size, "%.*s", (int)(length < 40 ? length : 40), code);
    return strcmp(name, "spawn") == 0 ? "worker" : name;
}

const char *hk_capture_program(const struct hk_capture *c, char *name, size_t size)
{
    char *arguments[64];
    size_t count = hk_capture_arguments(c, arguments, 64);
    size_t kept = count < 64 ? count : 64;
    const char *found = NULL;
    char part[48];

    for (size_t i = 1; c->header.python_version && i < kept && !found; i++) {
        if (strcmp(arguments[i], "-m") == 0 && i + 1 < kept)
            found = arguments[i + 1];
        else if (strncmp(arguments[i], "-c", 2) == 0)
            found = name_of_code(arguments[i][2] || i + 1 == kept ? arguments[i] + 2 : arguments[i + 1], part, sizeof part);
        else if (takes_argument(arguments[i]))
            i++;
        else if (arguments[i][0] != '-')
            found = base_name(arguments[i]);
    }
    if (!found && kept && arguments[0][0])
        found = base_name(arguments[0]);
    if (!found)
        found = base_name(hk_capture_string(c, c->header.executable));
    snprintf(name, size, "%s", *found ? found : "(program unknown)");
    for (size_t i = 0; i < kept; i++)
        free(arguments[i]);
    return name;
}

/* ---- sums ---- */

uint64_t hk_point_live(const struct hk_capture_point *p)
{
    return p->live_bytes + p->large_bytes;
}

double hk_capture_mean_sample(const struct hk_capture *c)
{
    return c->header.mode == HK_MODE_SAMPLE ? (double)c->header.sample_bytes : 0.0;
}

uint64_t hk_capture_peak(const struct hk_capture *c)
{
    uint64_t peak = 0;
    for (size_t i = 0; i < c->point_count; i++) {
        if (hk_point_live(&c->points[i]) > peak)
            peak = hk_point_live(&c->points[i]);
    }
    /* A sampled peak is an estimate: it is believed over the points only beyond its own noise. */
    double recorded = (double)c->status.peak_bytes;
    double noise = 4.0 * sqrt(hk_capture_mean_sample(c) * recorded);
    return recorded - noise > (double)peak ? c->status.peak_bytes : peak;
}
