/* Counters of a site: live and total, the values at the peak, live bytes at marks, births by
 * span.
 *
 * A site is brought up to date only when it changes (see struct hk_capture_site for what a
 * reader does with one that is not). Order of business for a change: bring up, change, write the
 * newest span's live value; the process-wide sums last. A writer killed in between leaves one
 * event half counted, nothing worse.
 *
 * Births are kept in KiB and must be taken back in the same amount, without a place for a
 * remainder: a block's share is its weight in KiB rounded up or down by a hash of its address,
 * which is the same at its death.
 */
#include <string.h>

#include "record/internal.h"

#define FIRST_DISTANCE_NS    50000000u
#define FIRST_DISTANCE_BYTES (4u << 20)

uint32_t hk_rec_kib(uint64_t bytes)
{
    uint64_t kib = (bytes + 512) >> 10;

    return kib < UINT32_MAX ? (uint32_t)kib : UINT32_MAX;
}

/* The same by either name of the block: see hk_record_rename. */
uint32_t hk_rec_birth_kib(const struct hk_rec_sample *sample)
{
    uint64_t kib = (sample->weight + (hk_rec_hash(sample->block & ~(uintptr_t)1, 1) & 1023)) >> 10;

    return kib < UINT32_MAX ? (uint32_t)kib : UINT32_MAX;
}

/* Pairs of spans become one: the second's live value, the births of both. */
static void merge_pairs(struct hk_capture_site *site, uint32_t live)
{
    uint32_t newest = site->mark;

    for (uint32_t i = 0; i <= newest / 2; i++) {
        bool both = 2 * i + 1 <= newest;
        site->at_mark[i] = both ? site->at_mark[2 * i + 1] : live;
        site->born_in[i] = site->born_in[2 * i] + (both ? site->born_in[2 * i + 1] : 0);
    }
    site->mark = (uint16_t)(newest / 2);
    site->mark_generation++;
}

static void bring_up(struct hk_capture_site *site)
{
    if (site->peak_serial != hk_rec.serial) {
        site->peak_bytes = site->live_bytes;
        site->peak_blocks = site->live_blocks;
        __atomic_store_n(&site->peak_serial, hk_rec.serial, __ATOMIC_RELEASE);
    }
    if (HK_LIKELY(site->mark == hk_rec.mark && site->mark_generation == hk_rec.generation))
        return;
    uint32_t live = hk_rec_kib(site->live_bytes);
    while (site->mark_generation != (uint16_t)hk_rec.generation)
        merge_pairs(site, live);
    for (uint32_t i = site->mark + 1u; i <= hk_rec.mark; i++) {
        site->at_mark[i] = live;
        site->born_in[i] = 0;
    }
    site->mark = (uint16_t)hk_rec.mark;
}

static uint32_t birth_span(const struct hk_rec_sample *sample)
{
    return (uint32_t)sample->birth_mark >> (hk_rec.generation - sample->birth_generation);
}

static void set_live(struct hk_capture_site *site, uint64_t bytes, uint64_t blocks)
{
    site->live_bytes = bytes;
    site->live_blocks = blocks;
    site->at_mark[site->mark] = hk_rec_kib(bytes);
}

void hk_rec_count_total(struct hk_capture_site *site, uint64_t bytes, uint64_t blocks)
{
    struct hk_capture_status *status = hk_rec_status();

    site->total_bytes += bytes;
    site->total_blocks += blocks;
    site->samples_total += site->samples_total != UINT32_MAX;
    status->recorded_total_bytes += bytes;
    status->recorded_domain_total_bytes[site->domain] += bytes;
}

void hk_rec_count_birth(struct hk_capture_site *site, const struct hk_rec_sample *sample)
{
    struct hk_capture_status *status = hk_rec_status();

    bring_up(site);
    site->born_in[birth_span(sample)] += hk_rec_birth_kib(sample);
    if (sample->inherited)
        site->inherited_bytes += sample->weight;
    site->samples_live++;
    set_live(site, site->live_bytes + sample->weight, site->live_blocks + sample->blocks);
    hk_rec.live_bytes += sample->weight;
    status->recorded_live_bytes = hk_rec.live_bytes;
    if (hk_rec.live_bytes > hk_rec.peak_bytes) {
        hk_rec.peak_bytes = hk_rec.live_bytes;
        hk_rec.serial++;
        status->peak_bytes = hk_rec.peak_bytes;
        status->peak_serial = hk_rec.serial;
        uint64_t now = hk_rec_coarse_clock(); /* may lag behind the start by a few ms */
        status->peak_ns = now > hk_rec.start_ns ? now - hk_rec.start_ns : 0;
    }
}

void hk_rec_count_death(struct hk_capture_site *site, const struct hk_rec_sample *sample)
{
    bring_up(site);
    site->born_in[birth_span(sample)] -= hk_rec_birth_kib(sample);
    if (sample->inherited)
        site->inherited_bytes -= sample->weight;
    site->samples_live--;
    set_live(site, site->live_bytes - sample->weight, site->live_blocks - sample->blocks);
    hk_rec.live_bytes -= sample->weight;
    hk_rec_status()->recorded_live_bytes = hk_rec.live_bytes;
}

/* Drops every second mark: mark i is then what mark 2i was, and its span reaches to the next one
 * kept. */
static void thin_marks(struct hk_capture_mark *marks)
{
    struct hk_rec_section *section = &hk_rec.section[HK_SECTION_MARKS];

    for (uint32_t i = 1; i < HK_MARKS / 2; i++)
        marks[i] = marks[2 * i];
    section->count = HK_MARKS / 2;
    hk_rec_publish(HK_SECTION_MARKS, 0);
    hk_rec.mark = HK_MARKS / 2 - 1;
    hk_rec.generation++;
    hk_rec_status()->marks_generation = hk_rec.generation;
    hk_rec.mark_distance_ns *= 2;
    hk_rec.mark_distance_bytes *= 2;
}

/* A new span starts now. */
HK_HOT void hk_rec_mark(uint64_t now_ns, uint64_t allocated_bytes)
{
    struct hk_rec_section *section = &hk_rec.section[HK_SECTION_MARKS];
    struct hk_capture_mark *mark;

    if (section->count == 0) {
        hk_rec.generation = 0;
        hk_rec.mark_distance_ns = FIRST_DISTANCE_NS;
        hk_rec.mark_distance_bytes = FIRST_DISTANCE_BYTES;
    }
    /* The sum over heaps that others are allocating from meanwhile may be a little less than the one before. */
    if (section->count > 0 && allocated_bytes < hk_rec.mark_allocated)
        allocated_bytes = hk_rec.mark_allocated;
    if (section->count == HK_MARKS)
        thin_marks((struct hk_capture_mark *)section->data);
    mark = hk_rec_append(HK_SECTION_MARKS, 1);
    if (!mark)
        return;
    mark->time_ns = now_ns;
    mark->allocated_bytes = allocated_bytes;
    hk_rec.mark = (uint32_t)section->count;
    hk_rec.mark_ns = now_ns;
    hk_rec.mark_allocated = allocated_bytes;
    hk_rec_publish(HK_SECTION_MARKS, 1);
    hk_exact_marked();
}
