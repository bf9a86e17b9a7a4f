/* Exact recording: the counters behind exact.h, and how they begin, end, and go on in the child of a fork.
 *
 * Nothing here walks a stack or touches a block; the host has the site of each block and calls hk_exact_site for
 * stacks that it does not know yet. The lock of the recorder protects the tree of sites, as always; the order of locks is
 * hk_exact_apart, then the recorder's. */
#include "record/exact.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "record/internal.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define ORPHANS 64u

union hk_exact_page hk_exact_page __attribute__((aligned(4096)));
hk_lock hk_exact_apart;
uint32_t hk_exact_codes_died;

static struct {
    uint32_t site;
    size_t bytes;
} orphans[ORPHANS]; /* hk_exact.orphans of them; under hk_exact_apart */

static bool host_is_ready, host_watches;

static struct hk_capture_exact_site *site_of(const struct hk_capture_counters *counters)
{
    return hk_rec_exact_site((uint32_t)(counters - hk_exact.counters));
}

/* --- peak and marks --- */

/* Pairs of spans become one, at_mark of the second stays; the newest is not written yet. */
static void merge_pairs(struct hk_capture_counters *counters, struct hk_capture_exact_site *site)
{
    counters->mark /= 2;
    for (uint32_t i = 0; i < counters->mark; i++)
        site->at_mark[i] = site->at_mark[2 * i + 1];
    counters->mark_generation++;
}

static __attribute__((noinline)) void bring_up_marks(struct hk_capture_counters *counters, uint32_t mark)
{
    struct hk_capture_exact_site *site = site_of(counters);
    uint32_t live = hk_rec_kib(site->inherited_bytes + counters->total_bytes - counters->freed_bytes);
    while (counters->mark_generation != mark >> 16)
        merge_pairs(counters, site);
    for (uint32_t i = counters->mark; i < (mark & 0xffff); i++)
        site->at_mark[i] = live;
    counters->mark = (uint16_t)mark;
}

void hk_exact_bring_up(struct hk_capture_counters *counters)
{
    uint32_t epoch = __atomic_load_n(&hk_exact.epoch, __ATOMIC_RELAXED);
    uint32_t mark = __atomic_load_n(&hk_exact.mark, __ATOMIC_RELAXED);
    uint32_t serial = __atomic_load_n(&hk_exact.serial, __ATOMIC_RELAXED);
    if (__atomic_load_n(&hk_exact.dipped, __ATOMIC_RELAXED) && counters->peak_serial != serial) {
        counters->peak_bytes = counters->total_bytes - counters->freed_bytes;
        counters->peak_blocks = counters->total_blocks - counters->freed_blocks;
        __atomic_store_n(&counters->peak_serial, serial, __ATOMIC_RELEASE);
    }
    if (HK_UNLIKELY((counters->mark | (uint32_t)counters->mark_generation << 16) != mark))
        bring_up_marks(counters, mark);
    counters->epoch = epoch;
}

static void next_epoch(void)
{
    __atomic_add_fetch(&hk_exact.epoch, 1, __ATOMIC_RELEASE);
}

/* Both lanes end and begin dips; where they do so at once, what sites had at the peak may be from shortly before or after. */
static void end_dip(void)
{
    if (HK_LIKELY(!hk_exact.dipped))
        return;
    hk_exact.dipped = 0;
    hk_exact.serial++;
    __atomic_store_n(&hk_rec_status()->peak_serial, hk_exact.serial, __ATOMIC_RELEASE);
}

void hk_exact_dip(void)
{
    if (hk_exact.dipped)
        return;
    hk_exact.dipped = 1;
    next_epoch();
}

HK_HOT void hk_exact_marked(void)
{
    if (!hk_rec.exact)
        return;
    __atomic_store_n(&hk_exact.mark, hk_rec.mark | (hk_rec.generation & 0xffff) << 16, __ATOMIC_RELAXED);
    next_epoch();
}

static bool apart_waits(void)
{
    return __atomic_load_n(&hk_exact.apart, __ATOMIC_RELAXED) != 0 || __atomic_load_n(&hk_exact.apart_high, __ATOMIC_RELAXED) != 0;
}

/* What the apart lane counted without the main lock; hk_exact_apart is held. It has ended and begun dips. */
static void take_apart(void)
{
    int64_t high = hk_exact.apart_high, beyond = high - hk_exact.headroom;
    if (beyond > 0) {
        hk_exact.peak += (uint64_t)beyond;
        hk_exact.headroom = high;
    }
    hk_exact.headroom -= hk_exact.apart;
    __atomic_store_n(&hk_exact.apart, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&hk_exact.apart_high, 0, __ATOMIC_RELAXED);
}

void hk_exact_take_over(void)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (HK_LIKELY(!apart_waits()))
        return;
    bool mine = hk_lock_is_mine(&hk_exact_apart);
    if (!mine)
        hk_lock_take(&hk_exact_apart);
    take_apart();
    if (!mine)
        hk_lock_release(&hk_exact_apart);
}

void hk_exact_rise(void)
{
    hk_exact.peak += (uint64_t)-hk_exact.headroom;
    hk_exact.headroom = 0;
    end_dip();
}

/* --- main lane --- */

static void change_total(int64_t bytes)
{
    if ((hk_exact.headroom -= bytes) < 0)
        hk_exact_rise();
}

void hk_exact_move(struct hk_capture_counters *from, size_t had, struct hk_capture_counters *to, size_t bytes)
{
    hk_exact_take_over();
    if (bytes < had && hk_exact.headroom == 0)
        hk_exact_dip();
    hk_exact_bring_up_if_due(from);
    from->freed_bytes += had;
    from->freed_blocks++;
    hk_exact_count_birth(to, bytes);
    change_total((int64_t)bytes - (int64_t)had);
}

void hk_exact_shrink(struct hk_capture_counters *counters, size_t bytes)
{
    hk_exact_take_over();
    if (hk_exact.headroom == 0)
        hk_exact_dip();
    hk_exact_bring_up_if_due(counters);
    counters->freed_bytes += bytes;
    hk_exact.headroom += (int64_t)bytes;
}

void hk_exact_life(uint32_t site, uint32_t weight, bool is_temporary)
{
    struct hk_capture_exact_site *at = hk_rec_exact_site(site);
    if (is_temporary)
        at->temporary += weight;
    else
        at->sampled += weight;
}

bool hk_exact_marking_stop(void)
{
    return hk_rec_enter();
}

void hk_exact_marking_go_on(void)
{
    hk_rec_leave();
}

static void adopt_orphans(void)
{
    hk_lock_take(&hk_exact_apart);
    for (uint32_t i = 0; i < hk_exact.orphans; i++)
        hk_exact_death(&hk_exact.counters[orphans[i].site], orphans[i].bytes);
    __atomic_store_n(&hk_exact.orphans, 0, __ATOMIC_RELAXED);
    hk_lock_release(&hk_exact_apart);
}

void hk_exact_tick(void)
{
    if (!hk_exact.deaths)
        return;
    if (__atomic_load_n(&hk_exact.orphans, __ATOMIC_RELAXED) != 0)
        adopt_orphans();
    hk_exact_take_over();
}

/* --- apart lane --- */

bool hk_exact_apart_enter(void)
{
    if (HK_UNLIKELY(hk_lock_is_mine(&hk_exact_apart))) {
        __atomic_add_fetch(&hk_rec.skipped, 1, __ATOMIC_RELAXED);
        return false;
    }
    hk_lock_take(&hk_exact_apart);
    return true;
}

/* The sum is the main lane's total and this; it is as high as never before, while that one stands still. */
static bool apart_is_on_top(void)
{
    return hk_exact.apart >= hk_exact.apart_high && hk_exact.apart >= __atomic_load_n(&hk_exact.headroom, __ATOMIC_RELAXED);
}

static void apart_change(int64_t bytes)
{
    bool waited = apart_waits();
    __atomic_store_n(&hk_exact.apart, hk_exact.apart + bytes, __ATOMIC_RELAXED);
    if (hk_exact.apart > hk_exact.apart_high) {
        __atomic_store_n(&hk_exact.apart_high, hk_exact.apart, __ATOMIC_RELAXED);
        if (hk_exact.apart > __atomic_load_n(&hk_exact.headroom, __ATOMIC_RELAXED))
            end_dip();
    }
    if (!waited && bytes != 0)
        next_epoch(); /* whoever has the main lock is to look */
}

static void apart_total(int64_t bytes, bool main)
{
    if (main)
        change_total(bytes);
    else
        apart_change(bytes);
}

static void apart_free(uint32_t site, size_t bytes, uint32_t blocks, bool main)
{
    struct hk_capture_counters *counters = &hk_exact.counters[site];
    if (main)
        hk_exact_take_over();
    if (main ? hk_exact.headroom == 0 : apart_is_on_top())
        hk_exact_dip();
    hk_exact_bring_up_if_due(counters);
    counters->freed_bytes += bytes;
    counters->freed_blocks += blocks;
    apart_total(-(int64_t)bytes, main);
}

void hk_exact_apart_birth(uint32_t site, size_t bytes, bool main)
{
    if (main)
        hk_exact_take_over();
    hk_exact_count_birth(&hk_exact.counters[site], bytes);
    apart_total((int64_t)bytes, main);
}

void hk_exact_apart_death(uint32_t site, size_t bytes, bool main)
{
    apart_free(site, bytes, 1, main);
}

void hk_exact_apart_shrink(uint32_t site, size_t bytes, bool main)
{
    apart_free(site, bytes, 0, main);
}

void hk_exact_orphan(uint32_t site, size_t bytes)
{
    if (hk_exact.orphans == ORPHANS) {
        __atomic_add_fetch(&hk_rec.skipped, 1, __ATOMIC_RELAXED);
        return;
    }
    orphans[hk_exact.orphans].site = site;
    orphans[hk_exact.orphans].bytes = bytes;
    __atomic_store_n(&hk_exact.orphans, hk_exact.orphans + 1, __ATOMIC_RELAXED);
}

/* --- sites and large blocks --- */

uint32_t hk_exact_site(int domain, uint8_t flags)
{
    int error = errno;
    uint32_t site = HK_EXACT_NONE;

    if (!hk_rec_enter()) {
        __atomic_add_fetch(&hk_rec.skipped, 1, __ATOMIC_RELAXED);
        return HK_EXACT_NONE;
    }
    if (hk_rec_wake() && hk_exact.births) {
        uint64_t had = hk_rec.section[HK_SECTION_EXACT_SITES].count;
        hk_rec_meet_thread();
        site = hk_rec_site_here(domain, flags);
        if (hk_rec.section[HK_SECTION_EXACT_SITES].count != had && hk_rec.stage == HK_REC_ON)
            hk_rec_look_at_thread();
    }
    if (HK_UNLIKELY(hk_rec.stage != HK_REC_ON))
        hk_exact_refresh();
    hk_rec_leave();
    errno = error;
    return site;
}

void hk_exact_meet_thread(void)
{
    int error = errno;

    if (hk_rec_enter()) {
        if (hk_rec_wake())
            hk_rec_meet_thread();
        hk_rec_leave();
    }
    errno = error;
}

bool hk_exact_is_main(uint32_t site)
{
    const struct hk_capture_exact_site *at = hk_rec_exact_site(site);
    return at->domain != 0 && at->domain != HK_DOMAIN_NATIVE && !(at->flags & HK_SITE_APART);
}

int hk_exact_domain_of(uint32_t site)
{
    return hk_rec_exact_site(site)->domain;
}

uint16_t hk_exact_thread_of(uint32_t site)
{
    return hk_rec_exact_site(site)->thread;
}

bool hk_exact_large_add(const void *block, size_t bytes, uint32_t site, uint8_t age)
{
    int error = errno;
    struct hk_rec_sample *entry;

    if (!hk_rec_enter()) {
        __atomic_add_fetch(&hk_rec.skipped, 1, __ATOMIC_RELAXED);
        return false;
    }
    entry = hk_rec_sample_find((uintptr_t)block);
    if (entry) /* its death was not told: C's free */
        hk_rec_living_drop(block);
    else
        entry = hk_rec_sample_add((uintptr_t)block);
    if (entry) {
        entry->weight = bytes;
        entry->site = site;
        entry->age = age;
        entry->is_code = 0;
    }
    hk_rec_leave();
    errno = error;
    return entry != NULL;
}

bool hk_exact_large_take(const void *block, size_t *bytes, uint32_t *site, uint8_t *age, bool *is_code, bool *is_watched)
{
    int error = errno;
    struct hk_rec_sample *entry;

    if (__atomic_load_n(&hk_rec.table_count, __ATOMIC_RELAXED) == 0 || !hk_rec_enter())
        return false;
    entry = hk_rec_sample_find((uintptr_t)block);
    if (entry) {
        *bytes = entry->weight;
        *site = entry->site;
        *age = entry->age;
        *is_code = entry->is_code;
        *is_watched = hk_exact_living_has(block);
        hk_rec_sample_remove(entry);
    }
    hk_rec_leave();
    errno = error;
    return entry != NULL;
}

bool hk_exact_large_find(const void *block, size_t *bytes, uint32_t *site, uint8_t *age)
{
    struct hk_rec_sample *entry;

    if (!hk_rec_enter())
        return false;
    entry = hk_rec_sample_find((uintptr_t)block);
    if (entry) {
        *bytes = entry->weight;
        *site = entry->site;
        *age = entry->age;
    }
    hk_rec_leave();
    return entry != NULL;
}

void hk_exact_large_visit(void (*visitor)(uint32_t site, size_t bytes, uint8_t *age, void *argument), void *argument)
{
    if (!hk_rec_enter())
        return;
    for (uint32_t i = 0; i < hk_rec.sample_capacity; i++)
        if (hk_rec.samples[i].block != 0)
            visitor(hk_rec.samples[i].site, hk_rec.samples[i].weight, &hk_rec.samples[i].age, argument);
    hk_rec_leave();
}

void hk_exact_large_mark_code(const void *block)
{
    struct hk_rec_sample *entry = hk_rec_sample_find((uintptr_t)block);

    if (entry)
        entry->is_code = 1;
}

/* --- beginning and end --- */

void hk_exact_refresh(void)
{
    bool on = hk_rec.exact && hk_rec.stage == HK_REC_ON && !hk_rec.frozen;
    __atomic_store_n(&hk_exact.deaths, on, __ATOMIC_RELAXED);
    __atomic_store_n(&hk_exact.births, on && hk_rec.recording, __ATOMIC_RELAXED);
    __atomic_store_n(&hk_exact.fast, on && hk_rec.recording && host_is_ready && !host_watches, __ATOMIC_RELAXED);
    __atomic_store_n(&hk_exact.fast_deaths, on && !host_watches, __ATOMIC_RELAXED);
}

void hk_exact_set_host(bool ready)
{
    __atomic_store_n(&host_is_ready, ready, __ATOMIC_RELAXED);
    hk_exact_refresh(); /* the lock may be held: what is looked at are words */
}

void hk_exact_set_watched(bool watched)
{
    host_watches = watched;
    hk_exact_refresh();
}

/* The file is laid out and has its first entries. */
void hk_exact_begin(void)
{
    static bool wiped;
    if (!hk_rec.exact)
        return;
    if (!wiped && hk_rec.page == sizeof hk_exact_page) /* older kernels: fork's handlers remain */
        madvise(&hk_exact_page, sizeof hk_exact_page, MADV_WIPEONFORK);
    wiped = true;
    hk_exact.headroom = 0;
    hk_exact.counters = (struct hk_capture_counters *)hk_rec.section[HK_SECTION_COUNTERS].data;
    hk_exact.epoch = 1;
    hk_exact.serial = 1;
    hk_exact.dipped = 0;
    hk_exact.peak = 0;
    hk_exact.apart = hk_exact.apart_high = 0;
    hk_exact.orphans = 0;
    hk_exact.mark = hk_rec.mark | (hk_rec.generation & 0xffff) << 16;
}

bool hk_exact_wake(void)
{
    int error = errno;
    uint32_t stage = __atomic_load_n(&hk_rec.stage, __ATOMIC_RELAXED);
    bool is_new = hk_rec.wiped && __atomic_load_n(hk_rec.wiped, __ATOMIC_RELAXED) != 1;

    if (!hk_rec.exact || (stage != HK_REC_DETACHED && stage != HK_REC_ON) ||
        __atomic_load_n(&hk_rec.frozen, __ATOMIC_RELAXED) || (stage == HK_REC_ON && !is_new && hk_exact.deaths) ||
        !hk_rec_enter())
        return false;
    if (hk_rec_wake())
        hk_exact_refresh();
    hk_rec_leave();
    errno = error;
    return hk_exact.deaths;
}

uint64_t hk_exact_peak(void)
{
    int64_t beyond = __atomic_load_n(&hk_exact.apart_high, __ATOMIC_RELAXED) - hk_exact.headroom;
    return hk_exact.peak + (uint64_t)(beyond > 0 ? beyond : 0);
}

/* Sums for the status, and at the end of all sites. */
HK_HOT void hk_exact_publish(uint64_t now_ns, bool final)
{
    static uint32_t last;
    struct hk_capture_status *status = hk_rec_status();
    uint64_t totals[HK_REC_DOMAINS] = {0}, live = 0;

    if (!hk_rec.exact)
        return;
    status->peak_bytes = hk_exact_peak();
    status->recorded_live_bytes = (uint64_t)hk_exact_live();
    if (last != hk_exact.serial || !hk_exact.dipped)
        status->peak_ns = now_ns;
    last = hk_exact.serial;
    if (!final)
        return;
    for (uint32_t i = 0; i < hk_rec.section[HK_SECTION_EXACT_SITES].count; i++) {
        const struct hk_capture_counters *counters = &hk_exact.counters[i];
        totals[hk_rec_exact_site(i)->domain] += counters->total_bytes;
        live += hk_rec_exact_site(i)->inherited_bytes + counters->total_bytes - counters->freed_bytes;
    }
    status->recorded_live_bytes = live;
    status->recorded_total_bytes = 0;
    for (int domain = 0; domain < HK_REC_DOMAINS; domain++) {
        status->recorded_domain_total_bytes[domain] = totals[domain];
        status->recorded_total_bytes += totals[domain];
    }
}

/* --- fork --- */

static void inherit(uint32_t site, size_t bytes)
{
    struct hk_capture_exact_site *at = hk_rec_exact_site(site);
    if (site >= hk_rec.section[HK_SECTION_EXACT_SITES].count)
        return;
    at->inherited_bytes += bytes;
    at->inherited_blocks++;
    hk_exact.peak += bytes;
}

int64_t hk_exact_live(void)
{
    return (int64_t)hk_exact.peak - hk_exact.headroom + __atomic_load_n(&hk_exact.apart, __ATOMIC_RELAXED);
}

/* A child's sites have its parent's numbers, with counters of their own. What they inherit is what blocks say. */
bool hk_exact_adopt(const struct hk_rec_section *parent)
{
    uint64_t count = parent[HK_SECTION_EXACT_SITES].count;
    if (count == 0)
        return true; /* the parent's cannot be trusted: the child starts empty */
    struct hk_capture_exact_site *sites = hk_rec_append(HK_SECTION_EXACT_SITES, count);
    struct hk_capture_counters *counters = hk_rec_append(HK_SECTION_COUNTERS, count);
    if (!sites || !counters)
        return false;
    memcpy(sites, parent[HK_SECTION_EXACT_SITES].data, count * sizeof *sites);
    for (uint64_t i = 0; i < count; i++) {
        sites[i].inherited_bytes = sites[i].inherited_blocks = 0;
        sites[i].sampled = sites[i].temporary = 0;
        memset(sites[i].at_mark, 0, sizeof sites[i].at_mark);
    }
    hk_rec_publish(HK_SECTION_COUNTERS, count);
    hk_rec_publish(HK_SECTION_EXACT_SITES, count);
    return true;
}

void hk_exact_inherit(void)
{
    if (hk_rec.options.visit_blocks)
        hk_rec.options.visit_blocks(inherit);
    for (uint32_t i = 0; i < hk_rec.sample_capacity; i++)
        if (hk_rec.samples[i].block != 0)
            inherit(hk_rec.samples[i].site, hk_rec.samples[i].weight);
}

void hk_exact_name(void)
{
    int error = errno;

    hk_lock_take(&hk_exact_apart);
    if (hk_rec_enter()) {
        if (hk_rec.stage == HK_REC_ON && hk_exact.names)
            hk_rec_name();
        hk_exact.names = 0;
        hk_rec_leave();
    }
    hk_lock_release(&hk_exact_apart);
    errno = error;
}
