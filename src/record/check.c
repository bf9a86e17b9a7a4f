/* Validity of the recorder's structures, for tests and debug builds: each rule has a number. */
#include <string.h>

#include "record/exact.h"
#include "record/internal.h"

#define RULE(number, holds)                                                                        \
    if (!(holds))                                                                                  \
    return number

static int check_sections(void)
{
    for (int kind = 1; kind < HK_SECTION_KINDS; kind++) {
        const struct hk_rec_section *section = &hk_rec.section[kind];
        const struct hk_capture_section *published = &hk_rec_header()->sections[kind];
        RULE(1, section->count <= section->capacity);
        RULE(2, published->count == section->count && published->capacity == section->capacity);
        RULE(3, section->count * section->entry_size <= section->ready);
    }
    return 0;
}

static int check_tree(void)
{
    uint64_t nodes = hk_rec.section[HK_SECTION_NODES].count,
             codes = hk_rec.section[HK_SECTION_CODES].count;
    uint64_t strings = hk_rec.section[HK_SECTION_STRINGS].count;

    for (uint32_t i = 1; i < nodes; i++) {
        const struct hk_capture_node *node = hk_rec_node(i);
        RULE(10, node->parent < i);
        RULE(11, node->code > 0 && node->code < codes);
        RULE(12, node->depth == (node->parent ? hk_rec_node(node->parent)->depth + 1 : 1));
    }
    for (uint32_t i = 1; i < codes; i++) {
        const struct hk_capture_code *code =
            (const struct hk_capture_code *)hk_rec.section[HK_SECTION_CODES].data + i;
        RULE(13, code->file < strings && code->name < strings && code->qualified_name < strings);
        RULE(14, (uint64_t)code->line_table + code->line_table_size < strings);
    }
    RULE(15, strings == 0 || hk_rec.section[HK_SECTION_STRINGS].data[strings - 1] == '\0');
    RULE(16, hk_rec.nodes.used + 1 == nodes &&
                 hk_rec.linked == hk_rec.section[hk_rec_site_kind()].count);
    return 0;
}

static int check_spans(void)
{
    const struct hk_rec_section *section = &hk_rec.section[HK_SECTION_SPANS];
    const struct hk_capture_span *spans = (const struct hk_capture_span *)section->data;
    uint64_t free_ones = 0, listed = 0;

    for (uint64_t i = 0; i < section->count; i++) {
        free_ones += spans[i].serial == 0;
        RULE(17, spans[i].sequence % 2 == 0 && spans[i].serial <= hk_rec.span_serial);
        RULE(18, spans[i].serial == 0 || spans[i].end_ns == 0 || spans[i].end_ns > spans[i].begin_ns);
    }
    for (uint32_t next = hk_rec.first_free_span; next != 0 && listed <= free_ones; next = spans[next - 1].name, listed++)
        RULE(19, next <= section->count && spans[next - 1].serial == 0);
    RULE(19, listed == free_ones);
    return 0;
}

static int check_site(const struct hk_capture_site *site)
{
    RULE(20, site->node < hk_rec.section[HK_SECTION_NODES].count);
    RULE(21, site->domain < HK_REC_DOMAINS);
    RULE(22, site->live_bytes <= site->total_bytes + site->inherited_bytes);
    RULE(23, site->peak_serial <= hk_rec.serial);
    RULE(24, site->mark < HK_MARKS);
    RULE(25, site->mark_generation <= hk_rec.generation);
    RULE(26, site->mark_generation < hk_rec.generation || site->mark <= hk_rec.mark);
    RULE(27, site->samples_live > 0 || site->live_bytes == 0);
    RULE(28, site->at_mark[site->mark] == hk_rec_kib(site->live_bytes));
    return 0;
}

static int check_sums(void)
{
    const struct hk_capture_status *status = hk_rec_status();
    uint64_t live = 0, peak = 0, total[HK_REC_DOMAINS] = {0};

    for (uint32_t i = 0; i < hk_rec.section[HK_SECTION_SITES].count; i++) {
        const struct hk_capture_site *site = hk_rec_site(i);
        int broken = check_site(site);
        if (broken)
            return broken;
        live += site->live_bytes;
        peak += site->peak_serial == status->peak_serial ? site->peak_bytes : site->live_bytes;
        total[site->domain] += site->total_bytes;
    }
    RULE(30, live == status->recorded_live_bytes && live == hk_rec.live_bytes);
    RULE(31, peak == status->peak_bytes);
    for (int domain = 0; domain < HK_REC_DOMAINS; domain++)
        RULE(32, total[domain] == status->recorded_domain_total_bytes[domain]);
    RULE(33, total[0] + total[1] + total[2] + total[3] == status->recorded_total_bytes);
    return 0;
}

/* What the table says is alive, by site; `sums` has bytes, blocks, samples and births for each. */
static int check_table(uint64_t (*sums)[4])
{
    uint64_t sites = hk_rec.section[HK_SECTION_SITES].count;
    uint32_t used = 0;

    for (uint32_t i = 0; i < hk_rec.sample_capacity; i++) {
        const struct hk_rec_sample *sample = &hk_rec.samples[i];
        if (sample->block == 0)
            continue;
        used++;
        RULE(40, sample->site < sites);
        RULE(41, hk_rec_sample_find(sample->block) == sample);
        RULE(42, sample->birth_generation <= hk_rec.generation);
        sums[sample->site][0] += sample->weight;
        sums[sample->site][1] += sample->blocks;
        sums[sample->site][2]++;
        sums[sample->site][3] += hk_rec_birth_kib(sample);
    }
    RULE(43, used == hk_rec.table_count);
    for (uint64_t i = 0; i < sites; i++) {
        const struct hk_capture_site *site = hk_rec_site((uint32_t)i);
        uint64_t born = 0;
        for (uint32_t mark = 0; mark <= site->mark; mark++)
            born += site->born_in[mark];
        RULE(44, sums[i][0] == site->live_bytes);
        RULE(45, sums[i][1] == site->live_blocks);
        RULE(46, sums[i][2] == site->samples_live);
        RULE(47, sums[i][3] == born);
    }
    return 0;
}

/* --- exact --- */

static uint64_t (*exact_sums)[2]; /* bytes and blocks of each site, by what blocks say */
static bool exact_strange;        /* a block of a site that there is not */

static void add_block(uint32_t site, size_t bytes)
{
    if (site >= hk_rec.section[HK_SECTION_EXACT_SITES].count) {
        exact_strange = true;
        return;
    }
    exact_sums[site][0] += bytes;
    exact_sums[site][1]++;
}

static int check_exact_site(uint32_t i, uint64_t *live, uint64_t *peak)
{
    const struct hk_capture_exact_site *site = hk_rec_exact_site(i);
    const struct hk_capture_counters *counters = &hk_exact.counters[i];
    uint64_t bytes = site->inherited_bytes + counters->total_bytes - counters->freed_bytes;
    RULE(50, site->node < hk_rec.section[HK_SECTION_NODES].count && site->domain < HK_REC_DOMAINS);
    RULE(51, site->inherited_bytes + counters->total_bytes >= counters->freed_bytes);
    RULE(52, site->inherited_blocks + counters->total_blocks >= counters->freed_blocks);
    RULE(53, counters->mark < HK_MARKS && counters->peak_serial <= hk_exact.serial);
    *live += bytes;
    *peak += hk_exact.dipped && counters->peak_serial == hk_exact.serial ? site->inherited_bytes + counters->peak_bytes : bytes;
    if (hk_rec.options.visit_blocks && exact_sums != NULL) {
        RULE(54, exact_sums[i][0] == bytes);
        RULE(55, exact_sums[i][1] == site->inherited_blocks + counters->total_blocks - counters->freed_blocks);
    }
    return 0;
}

/* Holds while nobody counts. */
static int check_exact(void)
{
    uint64_t count = hk_rec.section[HK_SECTION_EXACT_SITES].count, live = 0, peak = 0;
    int broken = 0;

    RULE(56, hk_rec.section[HK_SECTION_COUNTERS].count == count);
    exact_sums = hk_rec_map((count + 1) * sizeof *exact_sums);
    exact_strange = false;
    if (exact_sums != NULL && hk_rec.options.visit_blocks)
        hk_rec.options.visit_blocks(add_block);
    for (uint32_t i = 0; exact_sums != NULL && i < hk_rec.sample_capacity; i++)
        if (hk_rec.samples[i].block != 0)
            add_block(hk_rec.samples[i].site, hk_rec.samples[i].weight);
    for (uint32_t i = 0; i < count && !broken && hk_exact.deaths; i++)
        broken = check_exact_site(i, &live, &peak);
    hk_rec_unmap(exact_sums, (count + 1) * sizeof *exact_sums);
    if (broken || !hk_exact.deaths)
        return broken;
    RULE(57, !exact_strange);
    RULE(58, live == hk_exact.peak - (uint64_t)hk_exact.headroom + (uint64_t)hk_exact.apart);
    RULE(59, hk_exact.apart != 0 || peak == hk_exact_peak());
    return 0;
}

static int check_all(void)
{
    size_t bytes = (hk_rec.section[HK_SECTION_SITES].count + 1) * sizeof(uint64_t[4]);
    uint64_t(*sums)[4];
    int broken = check_sections();

    if (!broken)
        broken = check_tree();
    if (!broken)
        broken = check_spans();
    if (hk_rec.exact && !broken && !hk_rec.frozen)
        broken = hk_rec_living_check();
    if (hk_rec.exact)
        return broken ? broken : check_exact();
    if (!broken)
        broken = check_sums();
    if (broken || hk_rec.frozen) /* frozen: the table goes on, figures do not */
        return broken;
    sums = hk_rec_map(bytes);
    if (!sums)
        return 0;
    broken = check_table(sums);
    hk_rec_unmap(sums, bytes);
    return broken;
}

int hk_record_check(void)
{
    int broken = 0, error = errno;

    if (!hk_rec_enter())
        return 0;
    if (hk_rec.stage == HK_REC_ON)
        broken = check_all();
    hk_rec_leave();
    errno = error;
    return broken;
}
