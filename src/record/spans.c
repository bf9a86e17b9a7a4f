/* Spans: stretches of what a thread does, with a name; calls of profiled functions, or what the program itself names.
 *
 * An entry is written when its span begins, so that it is in the file if the program is killed in it, and again when it ends. An
 * entry that is not needed any more is free: such form a list, by their `name`.
 *
 * When all entries are used, the ended ones are counted by the power of two below their length, and the shortest are left out: all below
 * some power, and every second one of that power, so that a quarter of all entries becomes free, or half of the ended ones if these
 * are few. From then on a span shorter than that power is left out as soon as it ends. So what is kept is what can be seen in a
 * picture of the whole run, and a span costs the same however many there are.
 *
 * What lives at a moment is the last point's figure, and by how much what is recorded has grown since: no walk of the heap. The resident
 * size is read from /proc every 10 ms at most. */
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "record/internal.h"

#define NAME_BYTES   63u
#define RSS_DISTANCE UINT64_C(10000000)
#define LENGTHS      64u

static struct hk_capture_span *span_at(uint64_t entry)
{
    return (struct hk_capture_span *)hk_rec.section[HK_SECTION_SPANS].data + entry;
}

void hk_rec_spans_begin(void)
{
    hk_rec.first_free_span = 0;
    hk_rec.shortest_span_ns = hk_rec.span_names = hk_rec.span_rss_ns = 0;
    __atomic_store_n(&hk_rec.spans_left_out, 0, __ATOMIC_RELAXED);
}

/* Between these a reader finds an odd sequence. */
static void open_entry(struct hk_capture_span *span)
{
    __atomic_store_n(&span->sequence, span->sequence | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void close_entry(struct hk_capture_span *span)
{
    __atomic_store_n(&span->sequence, span->sequence + 1, __ATOMIC_RELEASE);
}

void hk_record_span_left_out(void)
{
    __atomic_add_fetch(&hk_rec.spans_left_out, 1, __ATOMIC_RELAXED);
}

static void leave_out(struct hk_capture_span *span)
{
    open_entry(span);
    span->serial = 0;
    span->name = hk_rec.first_free_span;
    close_entry(span);
    hk_rec.first_free_span = (uint32_t)(span - span_at(0)) + 1;
    hk_record_span_left_out();
}

/* The power of two below the length; LENGTHS: it has not ended, or is free. */
static unsigned length_of(const struct hk_capture_span *span)
{
    if (span->serial == 0 || span->end_ns <= span->begin_ns)
        return LENGTHS;
    return 63u - (unsigned)__builtin_clzll(span->end_ns - span->begin_ns);
}

static void leave_out_the_shortest(void)
{
    const struct hk_rec_section *section = &hk_rec.section[HK_SECTION_SPANS];
    uint64_t counts[LENGTHS + 1] = {0}, ended = 0, shorter = 0;
    unsigned at = 0;
    bool every_second = false;

    for (uint64_t i = 0; i < section->count; i++)
        counts[length_of(span_at(i))]++;
    for (unsigned i = 0; i < LENGTHS; i++)
        ended += counts[i];
    uint64_t wanted = section->capacity / 4 < (ended + 1) / 2 ? section->capacity / 4 : (ended + 1) / 2;
    while (at + 1 < LENGTHS && shorter + (counts[at] + 1) / 2 < wanted)
        shorter += counts[at++];
    for (uint64_t i = 0; i < section->count; i++) {
        unsigned length = length_of(span_at(i));
        if (length < at || (length == at && (every_second = !every_second)))
            leave_out(span_at(i));
    }
    hk_rec.shortest_span_ns = UINT64_C(1) << at;
}

/* An entry that is free; NULL: there is none. The caller fills it between open_entry and close_entry. */
static struct hk_capture_span *take_entry(void)
{
    struct hk_rec_section *section = &hk_rec.section[HK_SECTION_SPANS];

    if (hk_rec.first_free_span == 0 && section->count == section->capacity)
        leave_out_the_shortest();
    if (hk_rec.first_free_span != 0) {
        struct hk_capture_span *span = span_at(hk_rec.first_free_span - 1);
        hk_rec.first_free_span = span->name <= section->count ? span->name : 0;
        return span;
    }
    struct hk_capture_span *span = hk_rec_append(HK_SECTION_SPANS, 1);
    if (!span)
        return NULL;
    memset(span, 0, sizeof *span);
    hk_rec_publish(HK_SECTION_SPANS, 1);
    return span;
}

/* Names share the strings with those of functions: what comes after an eighth of the room is used up has none. */
static uint32_t name_of(const char *name)
{
    const struct hk_rec_section *strings = &hk_rec.section[HK_SECTION_STRINGS];
    uint64_t before = strings->count;

    if (!name || hk_rec.span_names > strings->capacity / 8)
        return 0;
    uint32_t text = hk_rec_string(name, strnlen(name, NAME_BYTES));
    hk_rec.span_names += strings->count - before;
    return text;
}

HK_HOT int64_t hk_rec_counted(void)
{
    return hk_rec.exact ? hk_exact_live() : (int64_t)hk_rec.live_bytes;
}

static uint64_t live_now(void)
{
    int64_t live = (int64_t)hk_rec.point_live + hk_rec_counted() - hk_rec.point_counted;
    return live > 0 ? (uint64_t)live : 0;
}

struct hk_record_moment hk_record_moment_now(void)
{
    struct hk_record_moment moment = {0, 0};

    if (hk_record_is_on()) {
        moment.ns = hk_rec_clock();
        moment.bytes = live_now();
    }
    return moment;
}

/* The same with the lock held; a point is taken if one is due, and the resident size read. */
static struct hk_record_moment moment_here(void)
{
    struct hk_record_moment moment = {.ns = hk_rec_clock()};

    if (!hk_rec.frozen) {
        if (moment.ns >= __atomic_load_n(&hk_rec.next_tick_ns, __ATOMIC_RELAXED))
            hk_rec_point(moment.ns - hk_rec.last_append_ns >= hk_rec.append_distance_ns, 0, false);
        if (moment.ns - hk_rec.span_rss_ns >= RSS_DISTANCE) {
            hk_rec_read_rss(false);
            hk_rec.span_rss_ns = moment.ns;
        }
    }
    moment.bytes = live_now();
    return moment;
}

static uint64_t since_start(uint64_t ns)
{
    return ns > hk_rec.start_ns ? ns - hk_rec.start_ns : 0;
}

static struct hk_capture_span *begin(struct hk_record_moment moment, uint64_t rss, const char *name, const void *code)
{
    uint32_t known = code ? hk_rec_code(code) : 0;
    struct hk_capture_span *span = code && known == 0 ? NULL : take_entry();

    if (!span) {
        hk_record_span_left_out();
        return NULL;
    }
    open_entry(span);
    span->serial = ++hk_rec.span_serial != 0 ? hk_rec.span_serial : ++hk_rec.span_serial;
    span->name = name_of(name);
    span->code = known;
    span->thread = (uint32_t)syscall(SYS_gettid);
    span->begin_ns = since_start(moment.ns);
    span->end_ns = 0;
    span->begin_bytes = moment.bytes;
    span->begin_rss_bytes = rss;
    span->end_bytes = span->end_rss_bytes = 0;
    close_entry(span);
    return span;
}

static void end(struct hk_capture_span *span, struct hk_record_moment moment)
{
    uint64_t now = since_start(moment.ns);

    now = now > span->begin_ns ? now : span->begin_ns + 1;
    if (now - span->begin_ns < hk_rec.shortest_span_ns) {
        leave_out(span);
        return;
    }
    open_entry(span);
    span->end_bytes = moment.bytes;
    span->end_rss_bytes = hk_rec.rss;
    span->end_ns = now;
    close_entry(span);
}

uint64_t hk_record_span_begin(const char *name, const void *code)
{
    int error = errno;
    uint64_t handle = 0;

    if (!hk_record_is_on() || !hk_rec_enter())
        return 0;
    if (hk_rec_wake()) {
        struct hk_record_moment moment = moment_here();
        struct hk_capture_span *span = begin(moment, hk_rec.rss, name, code);
        if (span)
            handle = (uint64_t)span->serial << 32 | (uint64_t)(span - span_at(0) + 1);
    }
    hk_rec_leave();
    errno = error;
    return handle;
}

void hk_record_span_end(uint64_t handle)
{
    int error = errno;
    uint64_t entry = (uint32_t)handle - UINT64_C(1);

    if (handle == 0 || __atomic_load_n(&hk_rec.stage, __ATOMIC_RELAXED) != HK_REC_ON || !hk_rec_enter())
        return;
    if (hk_rec.stage == HK_REC_ON && entry < hk_rec.section[HK_SECTION_SPANS].count) {
        struct hk_capture_span *span = span_at(entry);
        if (span->serial == handle >> 32 && span->end_ns == 0)
            end(span, moment_here());
    }
    hk_rec_leave();
    errno = error;
}

void hk_record_span_late(struct hk_record_moment moment, const void *code)
{
    int error = errno;

    if (moment.ns == 0 || !hk_record_is_on() || !hk_rec_enter())
        return;
    if (hk_rec_wake()) {
        struct hk_capture_span *span = begin(moment, 0, NULL, code);
        if (span)
            end(span, moment_here());
    }
    hk_rec_leave();
    errno = error;
}
