/* The recorder's entrance: its lock, the hooks, facts about the process, start and exit.
 *
 * One lock (a futex) protects everything. A thread that is inside already is a signal handler
 * that interrupted the recorder: it is turned away, as it would wait for itself. Its samples are
 * lost and counted as skipped; its frees must not be lost (the address will be used again), so
 * they are put aside in a small lock-free list, which whoever holds the lock works off before
 * doing and after having done its own business.
 *
 * Every 16th sample is timed; the recorder's own time is estimated from these.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "heapkeeper/heap.h"
#include "record/exact.h"
#include "record/internal.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define TIMED_EVERY       16u
#define LONGEST_SAMPLE_NS 100000u /* longer: the thread was not running */
#define FIRST_MEAN        (64u << 10)
#define LARGEST_MEAN      (UINT64_C(1) << 31)

struct hk_recorder hk_rec;
__thread int hk_rec_inside;

static bool forget(uintptr_t block)
{
    struct hk_rec_sample *sample = hk_rec_sample_find(block);

    if (!sample)
        return false;
    if (hk_rec.stage == HK_REC_ON && !hk_rec.frozen)
        hk_rec_count_death(hk_rec_site(sample->site), sample);
    hk_rec_sample_remove(sample);
    return true;
}

static void put_aside(uintptr_t block)
{
    for (uint32_t i = 0; i < HK_REC_PENDING; i++) {
        uintptr_t empty = 0;
        if (__atomic_compare_exchange_n(&hk_rec.pending[i], &empty, block, false, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED)) {
            __atomic_add_fetch(&hk_rec.pending_count, 1, __ATOMIC_RELEASE);
            return;
        }
    }
    __atomic_add_fetch(&hk_rec.skipped, 1, __ATOMIC_RELAXED);
}

static void work_off(void)
{
    for (uint32_t i = 0; i < HK_REC_PENDING; i++) {
        uintptr_t block = __atomic_exchange_n(&hk_rec.pending[i], 0, __ATOMIC_ACQUIRE);
        if (block) {
            __atomic_sub_fetch(&hk_rec.pending_count, 1, __ATOMIC_RELAXED);
            forget(block);
        }
    }
}

HK_HOT bool hk_rec_enter(void)
{
    if (HK_UNLIKELY(hk_rec_inside))
        return false;
    hk_rec_inside = 1;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (HK_UNLIKELY(hk_rec.wiped && __atomic_load_n(hk_rec.wiped, __ATOMIC_RELAXED) != 1))
        hk_rec_check_wiped();
    hk_lock_take(&hk_rec.lock);
    if (HK_UNLIKELY(__atomic_load_n(&hk_rec.pending_count, __ATOMIC_ACQUIRE) != 0))
        work_off();
    return true;
}

HK_HOT void hk_rec_leave(void)
{
    for (;;) {
        if (HK_UNLIKELY(__atomic_load_n(&hk_rec.pending_count, __ATOMIC_ACQUIRE) != 0))
            work_off();
        hk_lock_release(&hk_rec.lock);
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        hk_rec_inside = 0;
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        if (HK_LIKELY(__atomic_load_n(&hk_rec.pending_count, __ATOMIC_RELAXED) == 0) ||
            !hk_rec_enter())
            return;
    }
}

static bool alive(void)
{
    uint32_t stage = __atomic_load_n(&hk_rec.stage, __ATOMIC_RELAXED);

    return stage == HK_REC_ON || stage == HK_REC_DETACHED;
}

static bool enter_or_skip(void)
{
    if (HK_LIKELY(hk_rec_enter()))
        return true;
    __atomic_add_fetch(&hk_rec.skipped, 1, __ATOMIC_RELAXED);
    return false;
}

bool hk_rec_wake(void)
{
    return hk_rec.stage == HK_REC_ON || (hk_rec.stage == HK_REC_DETACHED && hk_rec_adopt());
}

HK_HOT void hk_rec_event(enum hk_event_kind kind, uint64_t value, uint32_t text)
{
    struct hk_capture_event *event = hk_rec_append(HK_SECTION_EVENTS, 1);

    if (!event)
        return;
    event->time_ns = hk_rec_clock() - hk_rec.start_ns;
    event->kind = kind;
    event->text = text;
    event->value = value;
    hk_rec_publish(HK_SECTION_EVENTS, 1);
}

void hk_rec_limit(uint32_t limit)
{
    struct hk_capture_header *header = hk_rec_header();

    if (!header || (header->limits & limit))
        return;
    header->limits |= limit;
    if (limit == HK_LIMIT_DISK) {
        header->limit_time_ns = hk_rec_clock() - hk_rec.start_ns;
        __atomic_store_n(&hk_rec.stage, HK_REC_DISK_FULL, __ATOMIC_RELEASE);
        hk_exact_refresh();
        hk_rec_last_point();
    }
    hk_rec_event(HK_EVENT_LIMIT, limit, 0);
}

/* Entries of a file that is left are in no table any more. trusted: false after a fork in the midst of a change; then even the
 * tables' addresses may be half written. */
void hk_rec_forget(bool trusted)
{
    if (trusted) {
        hk_rec_unmap(hk_rec.strings.slots, hk_rec.strings.capacity * sizeof *hk_rec.strings.slots);
        hk_rec_unmap(hk_rec.codes.slots, hk_rec.codes.capacity * sizeof *hk_rec.codes.slots);
        hk_rec_unmap(hk_rec.nodes.slots, hk_rec.nodes.capacity * sizeof *hk_rec.nodes.slots);
        hk_rec_unmap(hk_rec.first_site, hk_rec.node_links * sizeof *hk_rec.first_site);
        hk_rec_unmap(hk_rec.next_site, hk_rec.site_links * sizeof *hk_rec.next_site);
        hk_rec_unmap(hk_rec.addresses, hk_rec.address_capacity * sizeof *hk_rec.addresses);
    }
    memset(&hk_rec.strings, 0, sizeof hk_rec.strings);
    memset(&hk_rec.codes, 0, sizeof hk_rec.codes);
    memset(&hk_rec.nodes, 0, sizeof hk_rec.nodes);
    hk_rec.first_site = NULL;
    hk_rec.next_site = NULL;
    hk_rec.node_links = hk_rec.site_links = hk_rec.linked = 0;
    hk_rec.addresses = NULL;
    hk_rec.address_capacity = hk_rec.address_used = hk_rec.last_depth = 0;
    for (int kind = 0; kind < HK_SECTION_KINDS; kind++)
        hk_rec.section[kind].count = 0;
}

static bool reserve_first_entries(void)
{
    static const int kinds[] = {HK_SECTION_STRINGS, HK_SECTION_CODES, HK_SECTION_NODES};

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (hk_rec.section[kinds[i]].count > 0)
            continue;
        void *entry = hk_rec_append(kinds[i], 1);
        if (!entry)
            return false;
        memset(entry, 0, hk_rec.section[kinds[i]].entry_size);
        hk_rec_publish(kinds[i], 1);
    }
    return true;
}

static void reset_counters(void)
{
    hk_rec.serial = 1;
    hk_rec.live_bytes = hk_rec.peak_bytes = 0;
    hk_rec.samples_total = hk_rec.skipped = 0;
    hk_rec.spent_ns = hk_rec.peak_rss = 0;
    hk_rec.last_rss_ns = hk_rec.last_peak_rss_ns = hk_rec.next_modules_ns = 0;
    hk_rec.append_distance_ns = 0;
    hk_rec.map_sequence = hk_rec.last_map_ns = 0;
    hk_rec_spans_begin();
    hk_rec.window_samples = 0;
    hk_rec.window_ns = hk_rec_clock();
    hk_rec_status()->peak_serial = hk_rec.serial;
}

static void describe_geometry(struct hk_capture_header *header)
{
    hk_geometry geometry = {.size = sizeof geometry};
    hk_get_geometry(&geometry);
    header->geometry = hk_rec_text(geometry.name);
    header->arena_bytes = geometry.arena_bytes;
    header->pool_bytes = geometry.pool_bytes;
    header->block_step = geometry.block_step;
    header->block_max = geometry.block_max;
    header->alignment = hk_rec.options.alignment;
}

/* The file is laid out; of a child, its parent's strings, codes and nodes are in it already. */
bool hk_rec_begin(void)
{
    struct hk_capture_header *header = hk_rec_header();
    const struct hk_record_options *options = &hk_rec.options;

    reset_counters();
    header->major = HK_CAPTURE_MAJOR;
    header->minor = HK_CAPTURE_MINOR;
    header->byte_order = HK_CAPTURE_BYTE_ORDER;
    header->page_size = hk_rec.page;
    header->header_size = sizeof *header;
    header->file_size = hk_rec.bound;
    header->mode = options->mode;
    header->sample_bytes = hk_rec.mean;
    memcpy(header->run_id, options->run_id, sizeof header->run_id);
    header->exec_count = options->exec_count;
    header->forked = options->forked;
    header->is_first = options->is_first;
    header->python_version = options->python_version;
    header->python_flags = options->python_flags;
    header->watch = hk_rec.watch;
    header->watch_name = hk_rec.watch_name;
    header->stacks = hk_rec.stacks;
    header->stacks_why = hk_rec.stacks_why;
    if (!reserve_first_entries())
        return false;
    hk_rec_describe_process();
    describe_geometry(header);
    hk_rec_mark(0, 0);
    hk_exact_begin();
    if (hk_rec.section[hk_rec_site_kind()].count == 0 && !hk_rec_make_other_sites())
        return false;
    hk_rec_read_modules();
    memcpy(header->magic, HK_CAPTURE_MAGIC, sizeof header->magic);
    __atomic_store_n(&header->state, HK_STATE_RUNNING, __ATOMIC_RELEASE);
    return hk_rec.stage == HK_REC_ON;
}

static void seed_if_needed(void)
{
    if (hk_rec.seeded)
        return;
    hk_record_seed(hk_rec_clock() * 0x9e3779b97f4a7c15u ^ (uint64_t)getpid() << 40 ^
                   (uintptr_t)&hk_rec);
    hk_rec.seeded = false;
}

static void take_options(const struct hk_record_options *options)
{
    hk_rec.options = *options;
    hk_rec.options.path = NULL; /* borrowed; the file keeps its own copy */
    hk_rec.exact = options->mode == HK_MODE_EXACT && options->host_counts;
    hk_rec.automatic = options->mode == HK_MODE_SAMPLE && options->sample_bytes == 0;
    hk_rec.mean = options->mode != HK_MODE_SAMPLE ? 0
                  : options->sample_bytes         ? options->sample_bytes
                                                  : FIRST_MEAN;
    if (hk_rec.mean > LARGEST_MEAN)
        hk_rec.mean = LARGEST_MEAN;
    hk_rec.page = (uint32_t)hk_os_page_size();
    hk_rec.start_ns = hk_rec_clock();
    hk_rec.recording = 1;
}

static bool make_wiped_page(void)
{
    hk_rec.wiped = hk_rec_map(hk_rec.page);
    if (!hk_rec.wiped)
        return false;
    madvise(hk_rec.wiped, hk_rec.page, MADV_WIPEONFORK); /* older kernels: fork's handlers remain */
    *hk_rec.wiped = 1;
    return true;
}

static bool start(const struct hk_record_options *options, const char **why)
{
    bool good;

    if (hk_rec.stage != HK_REC_OFF) {
        *why = "recording has been started already";
        return false;
    }
    take_options(options);
    seed_if_needed();
    if (!hk_rec.wiped && !make_wiped_page()) {
        *why = "no memory for the recorder";
        return false;
    }
    good = options->path ? hk_rec_file_open(options->path, options->path_is_new, options->device,
                                            options->inode, options->bound, why)
                         : hk_rec_file_unnamed(options->bound, why);
    if (!good)
        return false;
    hk_rec_layout();
    __atomic_store_n(&hk_rec.stage, HK_REC_ON, __ATOMIC_RELEASE);
    if (!hk_rec_begin()) {
        *why = "no space for the capture file";
        hk_rec_file_drop(options->path_is_new);
        hk_rec_forget(true);
        __atomic_store_n(&hk_rec.stage, HK_REC_OFF, __ATOMIC_RELEASE);
        return false;
    }
    hk_rec_point(true, 0, false);
    hk_exact_refresh();
    return true;
}

bool hk_record_start(const struct hk_record_options *options, const char **why)
{
    int error = errno;
    bool good;

    *why = "";
    if (!hk_rec_enter()) {
        *why = "called inside the recorder";
        return false;
    }
    good = start(options, why);
    hk_rec_leave();
    errno = error;
    return good;
}

HK_HOT bool hk_record_is_on(void)
{
    return alive() && __atomic_load_n(&hk_rec.recording, __ATOMIC_RELAXED) &&
           !__atomic_load_n(&hk_rec.frozen, __ATOMIC_RELAXED);
}

void hk_record_set_source(const struct hk_stack_source *source)
{
    if (!hk_rec_enter())
        return;
    if (source)
        hk_rec.source = *source;
    else
        memset(&hk_rec.source, 0, sizeof hk_rec.source);
    hk_rec_leave();
}

static void record(uintptr_t block, size_t bytes, uint64_t mean, int domain)
{
    struct hk_capture_site *site;
    struct hk_rec_sample *sample;
    uint64_t weight;
    uint32_t blocks, number;

    if (HK_UNLIKELY(hk_rec.table_count != 0))
        forget(block); /* its death was not told */
    number = hk_rec_site_here(domain, 0);
    if (number == HK_REC_NONE)
        return;
    site = hk_rec_site(number);
    hk_rec_weigh(bytes, mean, &weight, &blocks);
    hk_rec_count_total(site, weight, blocks);
    hk_rec.samples_total += hk_rec.samples_total != UINT32_MAX;
    sample = hk_rec_sample_add(block);
    if (!sample)
        return;
    sample->weight = weight;
    sample->blocks = blocks;
    sample->site = number;
    sample->birth_mark = (uint8_t)hk_rec.mark;
    sample->birth_generation = (uint8_t)hk_rec.generation;
    hk_rec_count_birth(site, sample);
    hk_rec_adapt_mean();
}

static void count_cost(uint64_t ns)
{
    if (ns > LONGEST_SAMPLE_NS)
        ns = LONGEST_SAMPLE_NS;
    hk_rec.spent_ns += ns * TIMED_EVERY;
    hk_rec.sample_cost_ns = hk_rec.sample_cost_ns ? (hk_rec.sample_cost_ns * 7 + ns) / 8 : ns;
}

void hk_record_allocation(const void *block, size_t bytes, uint64_t mean, int domain)
{
    int error = errno;
    uint64_t before = 0;
    bool timed;

    if (!hk_record_is_on() || !block || !enter_or_skip())
        return;
    if (domain < 0 || domain >= HK_REC_DOMAINS)
        domain = HK_REC_DOMAINS - 1;
    if (hk_rec_wake()) {
        timed = hk_rec.events++ % TIMED_EVERY == 0;
        if (timed)
            before = hk_rec_clock();
        record((uintptr_t)block, bytes, mean, domain);
        if (timed)
            count_cost(hk_rec_clock() - before);
    }
    hk_rec_leave();
    errno = error;
}

bool hk_record_free(const void *block)
{
    int error = errno;
    bool known;

    if (!block || !alive() || __atomic_load_n(&hk_rec.table_count, __ATOMIC_RELAXED) == 0)
        return false;
    if (HK_UNLIKELY(!hk_rec_enter())) {
        put_aside((uintptr_t)block);
        return false;
    }
    known = forget((uintptr_t)block);
    hk_rec_leave();
    errno = error;
    return known;
}

static bool rename_block(uintptr_t block, uintptr_t name)
{
    struct hk_rec_sample *sample = hk_rec_sample_find(block), kept;

    if (!sample)
        return false;
    kept = *sample;
    hk_rec_sample_remove(sample);
    kept.block = name;
    *hk_rec_sample_add(name) = kept; /* there is room: one was removed */
    return true;
}

bool hk_record_rename(const void *block, const void *name)
{
    int error = errno;
    bool known;

    if (!alive() || __atomic_load_n(&hk_rec.table_count, __ATOMIC_RELAXED) == 0)
        return false;
    if (HK_UNLIKELY(!hk_rec_enter())) {
        put_aside((uintptr_t)block);
        return false;
    }
    known = rename_block((uintptr_t)block, (uintptr_t)name);
    hk_rec_leave();
    errno = error;
    return known;
}

HK_HOT uint32_t hk_record_table_size(void)
{
    return alive() ? __atomic_load_n(&hk_rec.table_count, __ATOMIC_RELAXED) : 0;
}

/* A forked child's record is in memory, and has not had its chance to become a file. */
static bool wants_name(void)
{
    return hk_rec.exact && hk_rec.options.forked && !hk_rec.named && !hk_rec.naming_tried;
}

HK_HOT void hk_record_tick(uint64_t allocated_bytes)
{
    int error = errno;

    if (!alive() || __atomic_load_n(&hk_rec.frozen, __ATOMIC_RELAXED))
        return;
    if (HK_LIKELY(__atomic_load_n(hk_rec.wiped, __ATOMIC_RELAXED) == 1) &&
        allocated_bytes < __atomic_load_n(&hk_rec.next_mark_bytes, __ATOMIC_RELAXED) && !wants_name() &&
        hk_rec_coarse_clock() < __atomic_load_n(&hk_rec.next_tick_ns, __ATOMIC_RELAXED))
        return;
    if (!hk_rec_enter())
        return;
    /* What a child's first tick stands for was mostly allocated before the fork: it makes no capture yet. */
    bool first = (hk_rec.stage == HK_REC_DETACHED || (hk_rec.exact && hk_rec.options.forked)) && !hk_rec.ticked;
    hk_rec.ticked = true;
    if (!first && hk_rec_wake()) {
        hk_rec_tick(allocated_bytes);
        hk_exact.names = wants_name();
    }
    hk_rec_leave();
    errno = error;
}

uint64_t hk_record_point(const char *name)
{
    int error = errno;
    uint64_t allocated = 0;

    if (!alive() || hk_rec.frozen || !enter_or_skip())
        return 0;
    if (hk_rec_wake()) {
        hk_rec_point(true, hk_rec_text(name), false);
        allocated = hk_rec_status()->now.allocated_bytes;
    }
    hk_rec_leave();
    errno = error;
    return allocated;
}

void hk_record_event(enum hk_event_kind kind, uint64_t value, const char *text)
{
    int error = errno;

    if (!alive() || !enter_or_skip())
        return;
    if (hk_rec_wake())
        hk_rec_event(kind, value, hk_rec_text(text));
    hk_rec_leave();
    errno = error;
}

/* A child that only confirms what its parent knew has recorded nothing and needs no capture. */
HK_HOT void hk_record_set_watch(enum hk_capture_watch watch, const char *name)
{
    int error = errno;

    if (!alive() || !enter_or_skip())
        return;
    if (hk_rec.watch != watch && hk_rec_wake()) {
        struct hk_capture_header *header = hk_rec_header();
        header->watch_name = hk_rec.watch_name = name != NULL ? hk_rec_text(name) : 0;
        header->watch_time_ns = hk_rec_clock() - hk_rec.start_ns;
        header->watch = hk_rec.watch = watch;
        hk_rec_event(HK_EVENT_WATCH, watch, hk_rec.watch_name);
    }
    hk_rec_leave();
    errno = error;
}

void hk_record_set_stacks(enum hk_capture_stacks stacks, const char *why)
{
    int error = errno;

    if (!alive() || !enter_or_skip())
        return;
    if (hk_rec.stacks != stacks && hk_rec_wake()) {
        hk_rec_header()->stacks_why = hk_rec.stacks_why = hk_rec_text(why);
        hk_rec_header()->stacks = hk_rec.stacks = stacks;
    }
    hk_rec_leave();
    errno = error;
}

void hk_record_set_python(uint32_t version, uint32_t flags)
{
    if (!alive() || !enter_or_skip())
        return;
    hk_rec.options.python_version = version;
    hk_rec.options.python_flags = flags;
    if (hk_rec.stage == HK_REC_ON) {
        hk_rec_header()->python_version = version;
        hk_rec_header()->python_flags = flags;
    }
    hk_rec_leave();
}

void hk_record_count_foreign(bool by_libc_name)
{
    if (!alive() || !enter_or_skip())
        return;
    if (hk_rec.stage == HK_REC_ON) {
        struct hk_capture_status *status = hk_rec_status();
        uint64_t *counter = by_libc_name ? &status->libc_frees : &status->foreign_frees;
        ++*counter;
    }
    hk_rec_leave();
}

void hk_record_freeze(void)
{
    int error = errno;

    if (__atomic_load_n(&hk_rec.frozen, __ATOMIC_RELAXED) || !alive() || !hk_rec_enter())
        return;
    if (alive() && !hk_rec.frozen) {
        if (hk_rec.stage == HK_REC_ON) /* a child without a capture needs none any more */
            hk_rec_point(true, 0, true);
        __atomic_store_n(&hk_rec.frozen, 1, __ATOMIC_RELAXED);
        hk_exact_refresh();
    }
    hk_rec_leave();
    errno = error;
}

void hk_record_exit(const char *small_child)
{
    int error = errno;
    uint32_t stage;

    if (!hk_rec_enter())
        return;
    stage = hk_rec.stage;
    if ((stage == HK_REC_ON || stage == HK_REC_DISK_FULL) &&
        hk_rec_header()->pid != (uint32_t)getpid()) {
        hk_rec_leave(); /* a vfork's child: this memory is its parent's */
        return;
    }
    if (stage == HK_REC_ON) {
        hk_rec_read_modules();
        if (!hk_rec.frozen)
            hk_rec_point(true, 0, true);
    }
    if (stage == HK_REC_DISK_FULL)
        hk_exact_publish(hk_rec_header()->limit_time_ns, true); /* with what was under way then */
    if (stage == HK_REC_ON || stage == HK_REC_DISK_FULL) {
        hk_rec_header()->end_ns = hk_rec_clock() - hk_rec.start_ns;
        __atomic_store_n(&hk_rec_header()->state, HK_STATE_EXITED, __ATOMIC_RELEASE);
        if (stage != HK_REC_ON || !small_child || !hk_rec_fold(small_child))
            hk_rec_file_end();
    }
    if (!hk_rec.exact) /* another thread may be counting */
        hk_rec_file_close();
    __atomic_store_n(&hk_rec.stage, HK_REC_ENDED, __ATOMIC_RELEASE);
    hk_exact_refresh();
    hk_rec_leave();
    errno = error;
}
