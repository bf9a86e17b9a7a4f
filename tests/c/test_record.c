/* The recorder: sites and their names, sums, the peak, marks and births, samples, points,
 * requests. */
#include "record_helper.h"

#define BLOCK(i) ((const void *)(uintptr_t)(0x10000 + (uint64_t)(i)*16))

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void test_a_block_is_found_under_its_whole_stack(void **state)
{
    struct fake_code outer = helper_code("shop.py", "main", 10),
                     inner = helper_code("shop.py", "remember", 80);

    helper_start(HK_MODE_EXACT, 0, 0);
    helper_push(&outer, 4);
    helper_push(&inner, 12);
    hk_record_allocation(BLOCK(1), 100, 0, 2);
    hk_record_allocation(BLOCK(2), 50, 0, 2);
    assert_true(hk_record_free(BLOCK(1)));
    assert_false(hk_record_free(BLOCK(1)));
    assert_int_equal(hk_record_table_size(), 1);
    assert_int_equal(hk_record_check(), 0);

    struct capture c = capture_read(helper_path);
    const struct hk_capture_site *s = capture_find_site(&c, "remember", 2);
    assert_non_null(s);
    assert_int_equal(s->live_bytes, 50);
    assert_int_equal(s->total_bytes, 150);
    assert_int_equal(s->total_blocks, 2);
    assert_int_equal(capture_peak(&c, s), 150);
    const struct hk_capture_node *n = &c.nodes[s->node];
    assert_int_equal(n->offset, 12);
    assert_int_equal(n->depth, 2);
    const struct hk_capture_code *code = &c.codes[n->code];
    assert_string_equal(c.strings + code->file, "shop.py");
    assert_int_equal(code->first_line, 80);
    assert_int_equal(code->line_table_size, inner.table_size);
    assert_memory_equal(c.strings + code->line_table, inner.table, inner.table_size);
    n = &c.nodes[n->parent];
    assert_int_equal(n->parent, 0);
    assert_string_equal(c.strings + c.codes[n->code].name, "main");
    capture_check_sums(&c);
    capture_free(&c);
}

static void test_a_block_that_is_being_moved_is_alive_by_another_name(void **state)
{
    struct fake_code code = helper_code("shop.py", "grow", 10);
    const void *name = (const char *)BLOCK(1) + 1;

    helper_start(HK_MODE_SAMPLE, 4096, 0);
    helper_push(&code, 4);
    hk_record_allocation(BLOCK(1), 100000, 4096, 2);
    assert_false(hk_record_rename(BLOCK(2), name));
    assert_true(hk_record_rename(BLOCK(1), name));
    assert_int_equal(hk_record_check(), 0);
    assert_true(hk_record_rename(name, BLOCK(1))); /* it could not be moved */
    assert_true(hk_record_rename(BLOCK(1), name));
    hk_record_allocation(BLOCK(1), 50000, 4096, 2); /* it could, and another has its address */
    assert_true(hk_record_free(name));
    assert_int_equal(hk_record_table_size(), 1);
    assert_int_equal(hk_record_check(), 0);
    struct capture c = capture_read(helper_path);
    const struct hk_capture_site *s = capture_find_site(&c, "grow", 2);
    assert_int_equal(s->live_blocks, 1);
    assert_int_equal(s->live_bytes, 50000);
    capture_free(&c);
    assert_true(hk_record_free(BLOCK(1)));
    assert_int_equal(hk_record_check(), 0);
}

static void test_the_header_says_who_and_when(void **state)
{
    char text[64];
    uint8_t none[16] = {0};

    helper_start(HK_MODE_SAMPLE, 4096, 0);
    hk_record_set_python(0x030c01f0, 2);
    hk_record_set_watch(HK_WATCH_OURS, "ours");
    hk_record_set_stacks(HK_STACKS_OFF, "unknown layout");
    struct capture c = capture_read(helper_path);
    assert_int_equal(c.header->pid, getpid());
    assert_int_equal(c.header->parent_pid, getppid());
    assert_int_equal(c.header->state, HK_STATE_RUNNING);
    assert_int_equal(c.header->sample_bytes, 4096);
    assert_int_equal(c.header->python_version, 0x030c01f0);
    assert_string_equal(c.strings + c.header->watch_name, "ours");
    assert_string_equal(c.strings + c.header->stacks_why, "unknown layout");
    assert_string_equal(c.strings + c.header->working_directory,
                        getcwd(text, sizeof text) ? text : "");
    assert_non_null(strstr(c.strings + c.header->command_line, program_invocation_short_name));
    assert_true(memcmp(c.header->boot_id, none, 16) != 0);
    assert_true(c.header->start_ticks > 0);
    assert_true(c.count[HK_SECTION_MODULES] > 1);
    bool has_build_id = false;
    for (uint64_t i = 0; i < c.count[HK_SECTION_MODULES]; i++)
        has_build_id |= c.modules[i].build_id_size == 20;
    assert_true(has_build_id);
    capture_free(&c);
}

static void test_an_address_used_again_by_another_code_is_another_code(void **state)
{
    struct fake_code code = helper_code("a.py", "first", 1);

    helper_start(HK_MODE_EXACT, 0, 0);
    helper_push(&code, 2);
    hk_record_allocation(BLOCK(1), 10, 0, 2);
    code = helper_code("b.py", "second", 2);
    hk_record_allocation(BLOCK(2), 20, 0, 2);
    struct capture c = capture_read(helper_path);
    assert_int_equal(capture_find_site(&c, "first", 2)->live_bytes, 10);
    assert_int_equal(capture_find_site(&c, "second", 2)->live_bytes, 20);
    capture_free(&c);
}

static void test_the_same_source_compiled_again_is_the_same_code(void **state)
{
    struct fake_code codes[50];

    helper_start(HK_MODE_EXACT, 0, 0);
    for (int i = 0; i < 50; i++) {
        codes[i] = helper_code("a.py", "again", 7);
        fake_depth = 0;
        helper_push(&codes[i], 2);
        hk_record_allocation(BLOCK(i), 10, 0, 2);
    }
    struct capture c = capture_read(helper_path);
    assert_int_equal(c.count[HK_SECTION_CODES], 2);
    assert_int_equal(capture_find_site(&c, "again", 2)->live_bytes, 500);
    capture_free(&c);
}

static void test_recursion_deeper_than_the_limit_keeps_its_innermost_frames_and_says_so(void **state)
{
    struct fake_code code = helper_code("a.py", "deep", 1);

    helper_start(HK_MODE_EXACT, 0, 0);
    for (int i = 0; i < 3000; i++)
        helper_push(&code, 2);
    hk_record_allocation(BLOCK(1), 10, 0, 2);
    struct capture c = capture_read(helper_path);
    const struct hk_capture_site *s = capture_find_site(&c, "deep", 2);
    assert_int_equal(c.nodes[s->node].depth, 256); /* its innermost ones: each further call would be another whole stack */
    assert_true(s->flags & HK_SITE_CUT);
    assert_int_equal(hk_record_check(), 0);
    capture_free(&c);
}

static void test_a_block_whose_death_was_not_told_is_replaced(void **state)
{
    struct fake_code code = helper_code("a.py", "f", 1);

    helper_start(HK_MODE_EXACT, 0, 0);
    helper_push(&code, 2);
    hk_record_allocation(BLOCK(1), 10, 0, 2);
    hk_record_allocation(BLOCK(1), 30, 0, 2);
    assert_int_equal(hk_record_table_size(), 1);
    assert_int_equal(hk_rec_status()->recorded_live_bytes, 30);
    assert_int_equal(hk_record_check(), 0);
}

/* A model that keeps everything and does at once what the recorder puts off. */
enum { MODEL_BLOCKS = 4000, MODEL_SITES = 40 };

struct model {
    uint64_t weight[MODEL_BLOCKS];
    int site[MODEL_BLOCKS];
    uint32_t birth[MODEL_BLOCKS]; /* span */
    uint64_t live[MODEL_SITES], at_peak[MODEL_SITES], sum, peak;
    uint64_t at_end[HK_MARKS][MODEL_SITES]; /* live at the end of each span */
    uint32_t span;
};

static void model_change(struct model *m, int block, int site, uint64_t weight)
{
    if (weight == 0) {
        m->live[m->site[block]] -= m->weight[block];
        m->sum -= m->weight[block];
    } else {
        m->live[site] += weight;
        m->sum += weight;
        m->site[block] = site;
        m->birth[block] = m->span;
    }
    m->weight[block] = weight;
    if (m->sum > m->peak) {
        m->peak = m->sum;
        memcpy(m->at_peak, m->live, sizeof m->live);
    }
    memcpy(m->at_end[m->span], m->live, sizeof m->live);
}

static void model_new_mark(struct model *m)
{
    if (m->span == HK_MARKS - 1) {
        for (int i = 0; i < HK_MARKS / 2; i++)
            memcpy(m->at_end[i], m->at_end[2 * i + 1], sizeof m->live);
        for (int b = 0; b < MODEL_BLOCKS; b++)
            m->birth[b] /= 2;
        m->span = HK_MARKS / 2 - 1;
    }
    m->span++;
    memcpy(m->at_end[m->span], m->live, sizeof m->live);
}

static void compare_with_model(const struct model *m, const struct capture *c)
{
    assert_int_equal(c->count[HK_SECTION_MARKS], m->span + 1);
    for (int i = 0; i < MODEL_SITES; i++) {
        char name[16];
        uint32_t at_mark[HK_MARKS], born_in[HK_MARKS];
        uint64_t born[HK_MARKS] = {0}, blocks[HK_MARKS] = {0};
        snprintf(name, sizeof name, "site%d", i);
        const struct hk_capture_site *s = capture_find_site(c, name, i % 4);
        if (!s)
            continue;
        assert_int_equal(s->live_bytes, m->live[i]);
        assert_int_equal(capture_peak(c, s), m->at_peak[i]);
        capture_site_marks(c, s, at_mark, born_in);
        for (int b = 0; b < MODEL_BLOCKS; b++) {
            if (m->weight[b] && m->site[b] == i) {
                born[m->birth[b]] += m->weight[b];
                blocks[m->birth[b]]++;
            }
        }
        for (uint32_t mark = 0; mark <= m->span; mark++) {
            assert_int_equal(at_mark[mark], (m->at_end[mark][i] + 512) >> 10);
            /* births are kept in KiB, each rounded at random: standard deviation at most 1/2 KiB
             * a block */
            double slack = 3 * sqrt((double)blocks[mark]);
            assert_true(fabs((double)born_in[mark] - (double)born[mark] / 1024) <= slack);
        }
    }
}

static void test_peak_marks_and_births_agree_with_a_model_that_keeps_everything(void **state)
{
    static struct fake_code codes[MODEL_SITES];
    struct model *m = calloc(1, sizeof *m);
    uint64_t allocated = 0;

    helper_start(HK_MODE_EXACT, 0, 0);
    for (int i = 0; i < MODEL_SITES; i++) {
        char name[16];
        snprintf(name, sizeof name, "site%d", i);
        codes[i] = helper_code("m.py", name, i);
    }
    for (int step = 0; step < 300000; step++) {
        int block = (int)(next_random() % MODEL_BLOCKS);
        int rare = (int)(next_random() % MODEL_SITES),
            site = (int)(next_random() % (uint64_t)(rare + 1));
        if (m->weight[block]) {
            assert_true(hk_record_free(BLOCK(block)));
            model_change(m, block, 0, 0);
        } else if (next_random() % 100 <
                   30 +
                       (uint64_t)(step / 4000) % 60) { /* the level wanders: peaks early and late */
            uint64_t size = 1 + next_random() % 5000;
            fake_depth = 0;
            helper_push(&codes[site], 2);
            hk_record_allocation(BLOCK(block), size, 0, site % 4);
            model_change(m, block, site, size);
            allocated += size;
        }
        if (step % 50 == 0) {
            uint64_t before = hk_rec.mark_ns;
            hk_record_tick(allocated);
            if (hk_rec.mark_ns != before)
                model_new_mark(m);
        }
        if (step % 10000 == 9999) {
            assert_int_equal(hk_record_check(), 0);
            struct capture c = capture_read(helper_path);
            capture_check_sums(&c);
            compare_with_model(m, &c);
            capture_free(&c);
        }
    }
    assert_true(hk_rec.generation >= 2);
    free(m);
}

static void test_log_and_exp_are_those_of_libm(void **state)
{
    for (int i = 0; i < 200000; i++) {
        double u = (double)((next_random() >> 11) + 1) * 0x1p-53;
        assert_true(fabs(hk_rec_log(u) - log(u)) <= 1e-14 * (1 + fabs(log(u))));
        double x = 60 * u * u * u;
        assert_true(fabs(hk_rec_one_minus_exp_minus(x) + expm1(-x)) <= 1e-14 * -expm1(-x));
    }
    assert_true(hk_rec_one_minus_exp_minus(0) == 0);
    assert_true(hk_rec_log(1) == 0);
}

/* A heap that samples: ten sites with their own block sizes. */
static void test_sampled_totals_are_unbiased(void **state)
{
    static const size_t sizes[] = {8, 24, 100, 512, 4000, 30000, 65536, 200000, 1000000, 3000000};
    struct fake_code codes[10];
    double truth[10] = {0}, estimate[10] = {0}, blocks[10] = {0}, true_blocks[10] = {0},
           variance[10] = {0};

    for (int i = 0; i < 10; i++) {
        char name[16];
        snprintf(name, sizeof name, "size%d", i);
        codes[i] = helper_code("s.py", name, i);
    }
    for (uint64_t seed = 1; seed <= 8; seed++) {
        helper_start(HK_MODE_SAMPLE, 65536, 0);
        hk_record_seed(seed);
        uint64_t mean, distance = hk_record_draw(&mean), since = 0;
        assert_int_equal(mean, 65536);
        for (int site = 0; site < 10; site++) {
            fake_depth = 0;
            helper_push(&codes[site], 2);
            uint64_t count = 40000000 / sizes[site] + 200;
            for (uint64_t i = 0; i < count; i++) {
                since += sizes[site];
                if (since >= distance) {
                    hk_record_allocation(BLOCK(i), sizes[site], mean, 2);
                    hk_record_free(BLOCK(i));
                    distance = hk_record_draw(&mean);
                    since = 0;
                }
            }
            double p = -expm1(-(double)sizes[site] / 65536);
            truth[site] += (double)count * (double)sizes[site];
            true_blocks[site] += (double)count;
            variance[site] +=
                (double)count * (double)sizes[site] * (double)sizes[site] * (1 - p) / p;
        }
        assert_int_equal(hk_record_check(), 0);
        struct capture c = capture_read(helper_path);
        for (int site = 0; site < 10; site++) {
            char name[16];
            snprintf(name, sizeof name, "size%d", site);
            estimate[site] += (double)capture_find_site(&c, name, 2)->total_bytes;
            blocks[site] += (double)capture_find_site(&c, name, 2)->total_blocks;
        }
        capture_free(&c);
    }
    double sum = 0, true_sum = 0;
    for (int site = 0; site < 10; site++) {
        double sigma = sqrt(variance[site]);
        assert_true(fabs(estimate[site] - truth[site]) <= 4 * sigma + 1);
        double rounding = 4 * sqrt(true_blocks[site]);
        assert_true(fabs(blocks[site] - true_blocks[site]) <=
                    4 * sigma / (double)sizes[site] + rounding);
        sum += estimate[site];
        true_sum += truth[site];
    }
    assert_true(fabs(sum / true_sum - 1) <= 0.01);
}

static void test_automatic_mean_stays_in_its_bounds_and_the_header_has_the_coarsest(void **state)
{
    struct fake_code code = helper_code("a.py", "f", 1);
    uint64_t mean, coarsest = 0;

    helper_start(HK_MODE_SAMPLE, 0, 0);
    helper_push(&code, 2);
    for (int i = 0; i < 5000; i++) { /* as fast as possible: far more than 4000 a second */
        hk_record_draw(&mean);
        assert_in_range(mean, 32768, 524288);
        coarsest = mean > coarsest ? mean : coarsest;
        hk_record_allocation(BLOCK(i), 64, mean, 2);
    }
    assert_int_equal(coarsest, 524288);
    assert_int_equal(hk_rec_header()->sample_bytes, 524288);
}

static void test_points_carry_the_heaps_figures(void **state)
{
    helper_start(HK_MODE_NONE, 0, 0);
    fake_heap.live_bytes = 12345;
    fake_heap.domain_live_bytes[2] = 345;
    hk_record_point("half way");
    struct capture c = capture_read(helper_path);
    uint64_t n = c.count[HK_SECTION_TIMELINE];
    assert_true(n >= 2);
    assert_int_equal(c.timeline[n - 1].live_bytes, 12345);
    assert_int_equal(c.timeline[n - 1].domain_live_bytes[2], 345);
    assert_string_equal(c.strings + c.timeline[n - 1].name, "half way");
    assert_int_equal(c.status->now.live_bytes, 12345);
    assert_int_equal(c.status->now.sequence % 2, 0);
    assert_true(c.timeline[0].rss_bytes > 0);
    capture_free(&c);
}

static void test_a_full_timeline_is_thinned_and_keeps_named_points(void **state)
{
    helper_start(HK_MODE_NONE, 0, 1 << 20);
    uint64_t capacity = hk_rec.section[HK_SECTION_TIMELINE].capacity;
    hk_record_point("keep me");
    for (uint64_t i = 0; i < capacity * 5; i++) {
        fake_heap.live_bytes = i;
        hk_record_point(NULL);
    }
    struct capture c = capture_read(helper_path);
    bool kept = false;
    assert_true(c.count[HK_SECTION_TIMELINE] >= capacity / 2);
    assert_int_equal(c.status->timeline_sequence % 2, 0);
    for (uint64_t i = 0; i < c.count[HK_SECTION_TIMELINE]; i++) {
        kept |= strcmp(c.strings + c.timeline[i].name, "keep me") == 0;
        assert_true(i == 0 || c.timeline[i].time_ns >= c.timeline[i - 1].time_ns);
        assert_true(c.timeline[i].sequence > 0 && c.timeline[i].sequence % 2 == 0);
    }
    assert_true(kept);
    assert_int_equal(c.timeline[c.count[HK_SECTION_TIMELINE] - 1].live_bytes, capacity * 5 - 1);
    assert_int_equal(hk_record_check(), 0);
    capture_free(&c);
}

static uint64_t told_of(const struct capture *c, unsigned generation, unsigned cause)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < c->count[HK_SECTION_COLLECTIONS]; i++)
        if (c->collections[i].generation == generation && c->collections[i].cause == cause)
            count += c->collections[i].count;
    return count;
}

static void test_collections_are_merged_when_there_are_many_and_their_sums_stay_exact(void **state)
{
    enum { YOUNG = 50000, EVERY = 1000 };
    helper_start(HK_MODE_SAMPLE, 4096, 0);
    hk_collection young = {sizeof(hk_collection), 0, HK_COLLECTION_YOUNG, 10, 0, 3, 2, 1};
    hk_collection full = {sizeof(hk_collection), 2, HK_COLLECTION_GROWTH, 1000, 0, 100, 50, 0};
    for (int i = 0; i < YOUNG; i++) {
        young.nanoseconds = i == YOUNG / 3 ? 500 : 10;
        hk_note_collection(&young);
        if (i % EVERY == 0)
            hk_note_collection(&full);
    }
    struct capture c = capture_read(helper_path);
    uint64_t entries = c.count[HK_SECTION_COLLECTIONS], full_entries = 0;
    uint64_t duration = 0, examined = 0, freed = 0, uncollectable = 0, longest_young = 0;
    assert_true(entries <= hk_rec.section[HK_SECTION_COLLECTIONS].capacity);
    assert_int_equal(told_of(&c, 0, HK_CAUSE_YOUNG), YOUNG);
    assert_int_equal(told_of(&c, 2, HK_CAUSE_GROWTH), YOUNG / EVERY);
    for (uint64_t i = 0; i < entries; i++) {
        const struct hk_capture_collection *e = &c.collections[i];
        assert_true(i == 0 || e->time_ns >= c.collections[i - 1].time_ns);
        assert_true(e->last_ns >= e->time_ns && e->longest_at_ns >= e->time_ns && e->longest_at_ns <= e->last_ns);
        duration += e->duration_ns;
        examined += e->examined;
        freed += e->freed;
        uncollectable += e->uncollectable;
        full_entries += e->generation == 2;
        if (e->generation == 0 && e->longest_ns > longest_young)
            longest_young = e->longest_ns;
    }
    assert_int_equal(duration, YOUNG * 10 + 490 + YOUNG / EVERY * 1000);
    assert_int_equal(examined, YOUNG * 3 + YOUNG / EVERY * 100);
    assert_int_equal(freed, YOUNG * 2 + YOUNG / EVERY * 50);
    assert_int_equal(uncollectable, YOUNG);
    assert_int_equal(longest_young, 500);
    assert_int_equal(full_entries, told_of(&c, 2, HK_CAUSE_GROWTH)); /* the many are merged before the few are */
    assert_int_equal(c.status->timeline_sequence % 2, 0);
    assert_int_equal(hk_record_check(), 0);
    capture_free(&c);
}

static void test_collections_that_are_told_late_are_put_in_order(void **state)
{
    helper_start(HK_MODE_SAMPLE, 4096, 0);
    uint64_t before = hk_os_clock_ns();
    hk_note_collection(&(hk_collection){sizeof(hk_collection), 1, HK_COLLECTION_GROWTH, 5, 0, 0, 0, 0});
    struct hk_capture_collection late[2] = {
        {.time_ns = before, .last_ns = before + 1, .longest_at_ns = before, .freed = 3, .count = 2},
        {.time_ns = before + 1, .last_ns = before + 3600000000000, .longest_at_ns = before + 2, .freed = 4, .count = 5, .generation = 2},
    };
    assert_true(hk_record_collections(late, 2));
    assert_true(hk_record_collections(late, 2));
    struct capture c = capture_read(helper_path);
    assert_int_equal(c.count[HK_SECTION_COLLECTIONS], 5);
    assert_int_equal(told_of(&c, 0, HK_CAUSE_OTHER), 4);
    assert_int_equal(told_of(&c, 2, HK_CAUSE_OTHER), 10);
    for (unsigned i = 1; i < 5; i++) {
        const struct hk_capture_collection *e = &c.collections[i];
        assert_true(e->time_ns >= c.collections[i - 1].time_ns);
        assert_true(e->last_ns >= e->time_ns && e->longest_at_ns >= e->time_ns && e->longest_at_ns <= e->last_ns);
    }
    capture_free(&c);
}

static void test_collections_of_every_generation_and_cause_fit_the_smallest_capture(void **state)
{
    uint64_t told = 0;
    helper_start(HK_MODE_NONE, 0, 1);
    for (unsigned i = 0; i < 200; i++)
        for (unsigned generation = 0; generation < 6; generation++)
            for (unsigned cause = 0; cause < 7; cause++, told++)
                hk_note_collection(&(hk_collection){sizeof(hk_collection), generation, (hk_collection_cause)cause, 5, 9, 1, 0, 0});
    struct capture c = capture_read(helper_path);
    uint64_t count = 0;
    for (uint64_t i = 0; i < c.count[HK_SECTION_COLLECTIONS]; i++) {
        count += c.collections[i].count;
        assert_true(c.collections[i].generation < HK_CAPTURE_GENERATIONS && c.collections[i].cause < HK_CAPTURE_CAUSES);
        assert_int_equal(c.collections[i].longest_ns, 5);
    }
    assert_int_equal(count, told);
    assert_int_equal(hk_record_check(), 0);
    capture_free(&c);
}

static int trims;

static int32_t count_trim(void)
{
    trims++;
    return 7;
}

static struct hk_capture_mailbox *ask(uint32_t kind, const char *name)
{
    struct hk_capture_mailbox *box =
        (struct hk_capture_mailbox *)(hk_rec.map + HK_CAPTURE_MAILBOX_OFFSET);
    box->kind = kind;
    snprintf(box->name, sizeof box->name, "%s", name);
    box->asked++;
    hk_rec.next_tick_ns = 0; /* as if the time had passed */
    hk_record_tick(0);
    assert_int_equal(box->done, box->asked);
    return box;
}

static void test_requests_are_done_at_the_next_tick(void **state)
{
    struct fake_code code = helper_code("a.py", "f", 1);

    helper_start(HK_MODE_EXACT, 0, 0);
    hk_rec.options.trim = count_trim;
    helper_push(&code, 2);
    assert_int_equal(ask(HK_REQUEST_TRIM, "")->result, 7);
    assert_int_equal(trims, 1);
    ask(HK_REQUEST_MARK, "deployed");
    assert_int_equal(ask(99, "")->result, -1);
    hk_record_allocation(BLOCK(1), 10, 0, 2);
    ask(HK_REQUEST_STOP, "");
    assert_false(hk_record_is_on());
    hk_record_allocation(BLOCK(2), 10, 0, 2);
    assert_true(hk_record_free(BLOCK(1))); /* a death is still noticed */
    assert_int_equal(hk_rec_status()->recorded_total_bytes, 10);
    ask(HK_REQUEST_START, "");
    assert_true(hk_record_is_on());
    hk_record_allocation(BLOCK(3), 10, 0, 2);
    assert_int_equal(hk_rec_status()->recorded_total_bytes, 20);
    struct capture c = capture_read(helper_path);
    bool found = false;
    for (uint64_t i = 0; i < c.count[HK_SECTION_TIMELINE]; i++)
        found |= strcmp(c.strings + c.timeline[i].name, "deployed") == 0;
    assert_true(found);
    capture_free(&c);
}

static void test_exit_cuts_the_file_and_says_so(void **state)
{
    struct fake_code code = helper_code("a.py", "f", 1);

    helper_start(HK_MODE_EXACT, 0, 0);
    helper_push(&code, 2);
    hk_record_allocation(BLOCK(1), 10, 0, 2);
    hk_record_exit(NULL);
    assert_false(hk_record_is_on());
    assert_int_equal(hk_record_table_size(), 0);
    hk_record_allocation(BLOCK(2), 10, 0, 2); /* nothing happens any more */
    assert_false(hk_record_free(BLOCK(1)));
    hk_record_tick(1 << 30);
    struct capture c = capture_read(helper_path);
    assert_int_equal(c.header->state, HK_STATE_EXITED);
    assert_true(c.size < HK_CAPTURE_BOUND);
    assert_true(c.status->peak_rss_bytes >= c.timeline[0].rss_bytes);
    assert_int_equal(capture_find_site(&c, "f", 2)->live_bytes, 10);
    capture_check_sums(&c);
    capture_free(&c);
}

static void test_a_handed_over_file_is_taken_only_if_it_is_that_file(void **state)
{
    struct hk_record_options options = {
        .mode = HK_MODE_EXACT, .path = helper_path, .path_is_new = false};
    const char *why;
    struct stat st;

    unlink(helper_path);
    int fd = open(helper_path, O_CREAT | O_RDWR, 0600);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    options.device = st.st_dev;
    options.inode = st.st_ino + 1;
    helper_reset();
    assert_false(hk_record_start(&options, &why));
    assert_non_null(strstr(why, "handed over"));
    options.inode = st.st_ino;
    assert_int_equal(write(fd, "x", 1), 1);
    assert_false(hk_record_start(&options, &why));
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_true(hk_record_start(&options, &why));
    assert_true(hk_record_is_on());
    close(fd);
}

static void test_an_existing_file_or_a_symbolic_link_is_never_written(void **state)
{
    struct hk_record_options options = {
        .mode = HK_MODE_EXACT, .path = helper_path, .path_is_new = true};
    const char *why;
    char target[160];

    unlink(helper_path);
    snprintf(target, sizeof target, "%s.target", helper_path);
    assert_int_equal(symlink(target, helper_path), 0);
    helper_reset();
    assert_false(hk_record_start(&options, &why));
    assert_int_equal(access(target, F_OK), -1);
    unlink(helper_path);
    close(open(helper_path, O_CREAT | O_RDWR, 0600));
    assert_false(hk_record_start(&options, &why));
    assert_non_null(strstr(why, "exists"));
}

static int count_descriptors(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void test_no_descriptor_stays_open_and_errno_is_kept(void **state)
{
    int before = count_descriptors();

    helper_start(HK_MODE_EXACT, 0, 0);
    errno = 4711;
    hk_record_allocation(BLOCK(1), 10, 0, 2);
    hk_record_point("x");
    hk_record_free(BLOCK(1));
    hk_record_tick(1 << 30);
    hk_record_exit(NULL);
    assert_int_equal(errno, 4711);
    assert_int_equal(count_descriptors(), before);
}

static void test_little_memory_is_touched_at_the_start(void **state)
{
    struct stat st;

    helper_start(HK_MODE_SAMPLE, 0, 0);
    assert_int_equal(stat(helper_path, &st), 0);
    assert_true(st.st_blocks * 512 <= 400 << 10);
    assert_true(hk_rec.file_bytes + hk_rec.private_bytes <= 400 << 10);
}

static void test_unnamed_memory_records_as_well(void **state)
{
    struct hk_record_options options = {.mode = HK_MODE_EXACT};
    const char *why;

    helper_reset();
    assert_true(hk_record_start(&options, &why));
    hk_record_allocation(BLOCK(1), 10, 0, 0);
    assert_int_equal(hk_rec_status()->recorded_live_bytes, 10);
    assert_int_equal(hk_record_check(), 0);
    hk_record_exit(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_block_is_found_under_its_whole_stack),
        cmocka_unit_test(test_a_block_that_is_being_moved_is_alive_by_another_name),
        cmocka_unit_test(test_the_header_says_who_and_when),
        cmocka_unit_test(test_an_address_used_again_by_another_code_is_another_code),
        cmocka_unit_test(test_the_same_source_compiled_again_is_the_same_code),
        cmocka_unit_test(test_recursion_deeper_than_the_limit_keeps_its_innermost_frames_and_says_so),
        cmocka_unit_test(test_a_block_whose_death_was_not_told_is_replaced),
        cmocka_unit_test(test_peak_marks_and_births_agree_with_a_model_that_keeps_everything),
        cmocka_unit_test(test_log_and_exp_are_those_of_libm),
        cmocka_unit_test(test_sampled_totals_are_unbiased),
        cmocka_unit_test(test_automatic_mean_stays_in_its_bounds_and_the_header_has_the_coarsest),
        cmocka_unit_test(test_points_carry_the_heaps_figures),
        cmocka_unit_test(test_a_full_timeline_is_thinned_and_keeps_named_points),
        cmocka_unit_test(test_collections_are_merged_when_there_are_many_and_their_sums_stay_exact),
        cmocka_unit_test(test_collections_of_every_generation_and_cause_fit_the_smallest_capture),
        cmocka_unit_test(test_collections_that_are_told_late_are_put_in_order),
        cmocka_unit_test(test_requests_are_done_at_the_next_tick),
        cmocka_unit_test(test_exit_cuts_the_file_and_says_so),
        cmocka_unit_test(test_a_handed_over_file_is_taken_only_if_it_is_that_file),
        cmocka_unit_test(test_an_existing_file_or_a_symbolic_link_is_never_written),
        cmocka_unit_test(test_no_descriptor_stays_open_and_errno_is_kept),
        cmocka_unit_test(test_little_memory_is_touched_at_the_start),
        cmocka_unit_test(test_unnamed_memory_records_as_well),
    };
    return cmocka_run_group_tests(tests, helper_setup, helper_teardown);
}
