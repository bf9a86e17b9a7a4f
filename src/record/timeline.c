/* The timeline: the current point, points over time, marks, requests of a reader.
 *
 * hk_record_tick() is called on the heap's slow paths and mostly finds that nothing is due: one
 * look at the coarse clock and two comparisons. When it is due
 *
 *   - the current point is written anew: at most every 10 ms, and no more often than costs 0.4 %
 *     of the time, or 0.1 % where nothing else is recorded (filling a point takes time in
 *     proportion to the number of pools), but at least every second;
 *   - it is appended to the timeline when the distance has passed: 20 ms at first, doubled
 *     whenever the section is full and thinned by two;
 *   - a new mark begins when 50 ms or 4 MiB of allocation have passed since the last, doubled
 *     likewise;
 *   - a request in the mailbox is done.
 *
 * There is no thread: a program that does not allocate gets no points, and its memory does not
 * change either.
 */
#include <string.h>

#include "record/internal.h"

#define MS                UINT64_C(1000000)
#define SHORTEST_POINT    (10 * MS)
#define LONGEST_POINT     (1000 * MS)
#define COST_SHARE        250u
#define COST_SHARE_ALONE  1000u /* nothing but points is recorded: the program is to run as if nothing was */
#define RSS_DISTANCE      (100 * MS)
#define PEAK_RSS_DISTANCE (1000 * MS)
#define FIRST_APPEND      (20 * MS)
#define FIRST_MODULES     (1000 * MS)
#define MAP_DISTANCE      (100 * MS)

static uint64_t since_start(uint64_t now)
{
    return now > hk_rec.start_ns ? now - hk_rec.start_ns : 0;
}

static void fill_point(struct hk_capture_point *point, uint64_t now, bool final)
{
    uint64_t before = hk_rec_clock();

    memset(point, 0, sizeof *point);
    if (hk_rec.options.fill_point)
        hk_rec.options.fill_point(point);
    point->allocated_bytes -= hk_rec.base.allocated_bytes;
    point->allocated_blocks -= hk_rec.base.allocated_blocks;
    for (int domain = 0; domain < HK_REC_DOMAINS; domain++)
        point->domain_allocated_bytes[domain] -= hk_rec.base.domain_allocated_bytes[domain];
    if (final || now - hk_rec.last_rss_ns >= RSS_DISTANCE || hk_rec.last_rss_ns == 0) {
        bool peak_too = final || now - hk_rec.last_peak_rss_ns >= PEAK_RSS_DISTANCE;
        hk_rec_read_rss(peak_too);
        hk_rec.last_rss_ns = now;
        if (peak_too)
            hk_rec.last_peak_rss_ns = now;
        point->rss_bytes = hk_rec.rss;
    }
    point->time_ns = since_start(now);
    point->recorder_bytes += hk_rec.file_bytes + hk_rec.private_bytes + sizeof hk_rec;
    point->samples = hk_rec.samples_total;
    if (hk_rec.exact)
        point->samples = point->allocated_blocks < UINT32_MAX ? (uint32_t)point->allocated_blocks : UINT32_MAX;
    point->mark = hk_rec.mark;
    point->skipped = __atomic_load_n(&hk_rec.skipped, __ATOMIC_RELAXED);
    uint64_t cost = hk_rec_clock() - before;
    hk_rec.point_cost_ns = hk_rec.point_cost_ns ? (hk_rec.point_cost_ns * 3 + cost) / 4 : cost;
    hk_rec.spent_ns += cost;
    point->recorder_ns = hk_rec.spent_ns;
}

/* Copies a finished point over the one readers see, between an odd and an even sequence number. */
static void store_point(struct hk_capture_point *out, const struct hk_capture_point *point)
{
    uint64_t sequence = out->sequence | 1;

    __atomic_store_n(&out->sequence, sequence, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    memcpy((char *)out + sizeof out->sequence, (const char *)point + sizeof point->sequence,
           sizeof *point - sizeof point->sequence);
    __atomic_store_n(&out->sequence, sequence + 1, __ATOMIC_RELEASE);
}

/* Of two neighbours: the one a user named, else the one with more live. */
static bool second_is_better(const struct hk_capture_point *a, const struct hk_capture_point *b)
{
    if (a->name != 0 || b->name != 0)
        return a->name == 0;
    return b->live_bytes + b->large_bytes > a->live_bytes + a->large_bytes;
}

static void thin_timeline(void)
{
    struct hk_rec_section *section = &hk_rec.section[HK_SECTION_TIMELINE];
    struct hk_capture_point *points = (struct hk_capture_point *)section->data;
    struct hk_capture_status *status = hk_rec_status();
    uint64_t half = section->count / 2;

    __atomic_store_n(&status->timeline_sequence, status->timeline_sequence | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (uint64_t i = 0; i < half; i++)
        points[i] = second_is_better(&points[2 * i], &points[2 * i + 1]) ? points[2 * i + 1]
                                                                         : points[2 * i];
    if (section->count % 2)
        points[half] = points[2 * half];
    section->count = half + section->count % 2;
    hk_rec_publish(HK_SECTION_TIMELINE, 0);
    __atomic_store_n(&status->timeline_sequence, status->timeline_sequence + 1, __ATOMIC_RELEASE);
    hk_rec.append_distance_ns *= 2;
}

static void append_point(const struct hk_capture_point *point, uint64_t now)
{
    struct hk_rec_section *section = &hk_rec.section[HK_SECTION_TIMELINE];
    struct hk_capture_point *place;

    if (hk_rec.append_distance_ns == 0)
        hk_rec.append_distance_ns = FIRST_APPEND;
    if (section->count == section->capacity)
        thin_timeline();
    place = hk_rec_append(HK_SECTION_TIMELINE, 1);
    if (!place)
        return;
    place->sequence = 0;
    store_point(place, point);
    hk_rec_publish(HK_SECTION_TIMELINE, 1);
    hk_rec.last_append_ns = now;
}

static void schedule(uint64_t now)
{
    uint64_t distance = hk_rec.point_cost_ns * (hk_rec.options.mode == HK_MODE_NONE ? COST_SHARE_ALONE : COST_SHARE);

    if (distance < SHORTEST_POINT)
        distance = SHORTEST_POINT;
    if (distance > LONGEST_POINT)
        distance = LONGEST_POINT;
    hk_rec.last_point_ns = now;
    __atomic_store_n(&hk_rec.next_tick_ns, now + distance, __ATOMIC_RELAXED);
}

static void map_heap(uint64_t now, bool bits, bool final)
{
    uint64_t before = hk_rec_clock(), cost;

    hk_rec_map_heap(hk_rec.scratch.time_ns, bits, final);
    hk_rec.last_map_ns = now;
    cost = hk_rec_clock() - before;
    hk_rec.spent_ns += cost;
    hk_rec.point_cost_ns += cost / 4;
}

/* Writes the current point now, and to the timeline if asked to. */
HK_HOT void hk_rec_point(bool append, uint32_t name, bool final)
{
    struct hk_capture_status *status = hk_rec_status();
    uint64_t now = hk_rec_clock();

    fill_point(&hk_rec.scratch, now, final);
    hk_rec.point_live = hk_rec.scratch.live_bytes + hk_rec.scratch.large_bytes;
    hk_rec.point_counted = hk_rec_counted();
    status->spans_left_out = __atomic_load_n(&hk_rec.spans_left_out, __ATOMIC_RELAXED);
    hk_exact_publish(hk_rec.scratch.time_ns, final);
    store_point(&status->now, &hk_rec.scratch);
    if (append || now - hk_rec.last_map_ns >= MAP_DISTANCE)
        map_heap(now, name != 0 || final, final);
    status->peak_rss_bytes = hk_rec.peak_rss;
    schedule(now);
    if (append) {
        hk_rec.scratch.name = name;
        append_point(&hk_rec.scratch, now);
    }
}

/* Writes the current point only, wherever the recorder is: recording ends here. */
void hk_rec_last_point(void)
{
    struct hk_capture_point point;

    fill_point(&point, hk_rec_clock(), true);
    hk_exact_publish(point.time_ns, true);
    store_point(&hk_rec_status()->now, &point);
    hk_rec_status()->peak_rss_bytes = hk_rec.peak_rss;
}

static void do_request(void)
{
    struct hk_capture_mailbox *box =
        (struct hk_capture_mailbox *)(hk_rec.map + HK_CAPTURE_MAILBOX_OFFSET);
    uint32_t asked = __atomic_load_n(&box->asked, __ATOMIC_ACQUIRE);
    char name[sizeof box->name];
    int32_t result = 0;

    if (HK_LIKELY(asked == box->done))
        return;
    switch (box->kind) {
    case HK_REQUEST_MARK:
        memcpy(name, box->name, sizeof name);
        hk_rec_point(true, hk_rec_string(name, strnlen(name, sizeof name)), false);
        break;
    case HK_REQUEST_FLUSH:
        hk_rec_point(true, 0, false);
        break;
    case HK_REQUEST_START:
    case HK_REQUEST_STOP:
        __atomic_store_n(&hk_rec.recording, box->kind == HK_REQUEST_START, __ATOMIC_RELAXED);
        hk_exact_refresh();
        break;
    case HK_REQUEST_TRIM:
        result = hk_rec.options.trim ? hk_rec.options.trim() : -1;
        hk_rec_point(true, 0, false);
        break;
    default:
        result = -1;
    }
    box->result = result;
    __atomic_store_n(&box->done, asked, __ATOMIC_RELEASE);
}

static void mark_if_due(uint64_t now, uint64_t allocated_bytes)
{
    uint64_t elapsed = since_start(now);

    if (elapsed - hk_rec.mark_ns >= hk_rec.mark_distance_ns ||
        (int64_t)(allocated_bytes - hk_rec.mark_allocated) >= (int64_t)hk_rec.mark_distance_bytes)
        hk_rec_mark(elapsed, allocated_bytes);
    __atomic_store_n(&hk_rec.next_mark_bytes,
                     hk_rec.mark_allocated + hk_rec.mark_distance_bytes +
                         hk_rec.base.allocated_bytes,
                     __ATOMIC_RELAXED);
}

HK_HOT void hk_rec_tick(uint64_t allocated_bytes)
{
    uint64_t now = hk_rec_clock();

    mark_if_due(now, allocated_bytes - hk_rec.base.allocated_bytes);
    if (now < __atomic_load_n(&hk_rec.next_tick_ns, __ATOMIC_RELAXED))
        return;
    hk_rec_point(now - hk_rec.last_append_ns >= hk_rec.append_distance_ns, 0, false);
    do_request();
    if (hk_rec.next_modules_ns == 0)
        hk_rec.next_modules_ns = FIRST_MODULES;
    if (since_start(now) >=
        hk_rec.next_modules_ns) { /* what was loaded meanwhile: at 1, 2, 4, ... s */
        hk_rec_read_modules();
        if (hk_rec.options.mode == HK_MODE_NONE) /* that was all of it that is seldom used */
            hk_os_rest_code();
        hk_rec.next_modules_ns = since_start(now) * 2;
    }
}
