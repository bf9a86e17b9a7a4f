/* Exact recording without Python: the counters against a model that keeps everything, in random programs; marks, fork, stop;
 * and the words beside the heap's blocks. */
#include "record_helper.h"

#include "heap/slots.h"
#include "read/sites.h"
#include "record/exact.h"

#define SITES 6
#define BLOCKS 64
#define STEPS 400

static struct fake_code codes[SITES];

/* The model: blocks with their site and size, and what each site has, had at the peak, and was ever given. */
struct totals {
    uint64_t live, live_blocks, peak, peak_blocks, total, total_blocks;
};
static struct {
    struct {
        uint32_t site; /* index into `site` + 1; 0: no block */
        size_t bytes;
    } block[BLOCKS];
    struct totals site[SITES];
    uint32_t number[SITES]; /* the recorder's */
    bool is_main[SITES];
    uint64_t live, peak;
    bool fell; /* something was freed since the peak; until then blocks of no bytes are of it, too */
} model;

static bool child_path(char *buffer, size_t capacity, uint32_t attempt)
{
    snprintf(buffer, capacity, "%s.%d.%u", helper_path, (int)getpid(), attempt);
    return true;
}

static void visit(void (*visitor)(uint32_t, size_t))
{
    for (int i = 0; i < BLOCKS; i++)
        if (model.block[i].site != 0)
            visitor(model.number[model.block[i].site - 1], model.block[i].bytes);
}

/* Sites of the first half are of the main lane, OBJECT; the others are RAW's and malloc's. */
static uint32_t ask_for_site(int i)
{
    fake_depth = 0;
    helper_push(&codes[i], 2);
    return hk_exact_site(i < SITES / 2 ? 2 : i % 2 == 0 ? 0 : HK_DOMAIN_NATIVE, 0);
}

static void begin(void)
{
    const char *why = NULL;
    struct hk_record_options options = {.mode = HK_MODE_EXACT, .path = helper_path, .path_is_new = true, .bound = 1 << 20,
                                        .fill_point = helper_fill_point, .host_counts = true, .visit_blocks = visit,
                                        .child_path = child_path};
    helper_reset();
    hk_rec_living_clear(false);
    memset(&model, 0, sizeof model);
    unlink(helper_path);
    if (!hk_record_start(&options, &why))
        fail_msg("not started: %s", why);
    hk_record_set_source(&helper_source);
    for (int i = 0; i < SITES; i++) {
        char name[16];
        snprintf(name, sizeof name, "site%d", i);
        codes[i] = helper_code("program.py", name, i + 1);
        model.number[i] = ask_for_site(i);
        assert_int_not_equal(model.number[i], HK_EXACT_NONE);
        model.is_main[i] = hk_exact_is_main(model.number[i]);
        assert_int_equal(model.is_main[i], i < SITES / 2);
    }
}

static struct hk_capture_counters *counters(int i)
{
    return &hk_exact.counters[model.number[i]];
}

static uint64_t random_state;

static uint32_t draw(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

/* Whether the main lock is held while the apart lane counts: mostly as the last time. */
static bool has_main_lock(void)
{
    static bool has;
    if (draw(3) == 0)
        has = draw(2) == 0;
    return has;
}

static void model_change(int64_t bytes)
{
    model.live += (uint64_t)bytes;
    if (model.live < model.peak || (model.live == model.peak && model.fell))
        return;
    model.fell = false;
    model.peak = model.live;
    for (int i = 0; i < SITES; i++) {
        model.site[i].peak = model.site[i].live;
        model.site[i].peak_blocks = model.site[i].live_blocks;
    }
}

static void model_add(int i, size_t bytes)
{
    model.site[i].live += bytes;
    model.site[i].live_blocks++;
    model.site[i].total += bytes;
    model.site[i].total_blocks++;
}

static void birth(int block, int i, size_t bytes)
{
    model.block[block].site = (uint32_t)i + 1;
    model.block[block].bytes = bytes;
    model_add(i, bytes);
    model_change((int64_t)bytes);
    if (model.is_main[i]) {
        hk_exact_birth(counters(i), bytes);
    } else {
        hk_lock_take(&hk_exact_apart);
        hk_exact_apart_birth(model.number[i], bytes, has_main_lock());
        hk_lock_release(&hk_exact_apart);
    }
}

static void death(int block)
{
    int i = (int)model.block[block].site - 1;
    size_t bytes = model.block[block].bytes;
    model.block[block].site = 0;
    model.fell = true;
    model.site[i].live -= bytes;
    model.site[i].live_blocks--;
    model.live -= bytes;
    if (model.is_main[i]) {
        hk_exact_death(counters(i), bytes);
    } else {
        hk_lock_take(&hk_exact_apart);
        hk_exact_apart_death(model.number[i], bytes, has_main_lock());
        hk_lock_release(&hk_exact_apart);
    }
}

/* A block of the main lane grows, charged to another site; or one loses bytes. */
static void move(int block, int to, size_t bytes)
{
    int from = (int)model.block[block].site - 1;
    size_t had = model.block[block].bytes;
    model.block[block].bytes = bytes;
    if (bytes < had) {
        model.fell = true;
        model.site[from].live -= had - bytes;
        model.live -= had - bytes;
        if (model.is_main[from]) {
            hk_exact_shrink(counters(from), had - bytes);
            return;
        }
        hk_lock_take(&hk_exact_apart);
        hk_exact_apart_shrink(model.number[from], had - bytes, has_main_lock());
        hk_lock_release(&hk_exact_apart);
        return;
    }
    model.block[block].site = (uint32_t)to + 1;
    model.site[from].live -= had;
    model.site[from].live_blocks--;
    model_add(to, bytes);
    model_change((int64_t)bytes - (int64_t)had);
    hk_exact_move(counters(from), had, counters(to), bytes);
}

static void step(void)
{
    int block = (int)draw(BLOCKS);
    uint32_t site = model.block[block].site;
    if (site == 0)
        birth(block, (int)draw(SITES), draw(10) == 0 ? 0 : draw(1000));
    else if (draw(4) == 0 && model.is_main[site - 1])
        move(block, (int)draw(SITES / 2), draw(1200));
    else if (draw(4) == 0 && model.block[block].bytes > 0)
        move(block, 0, draw((uint32_t)model.block[block].bytes));
    else
        death(block);
}

/* What a reader makes of the file at this moment is what the model says. */
static void check(const char *path)
{
    struct hk_error error;
    struct hk_capture *capture = hk_capture_open(path, HK_OPEN_WHOLE, &error);
    if (!capture)
        fail_msg("%s", error.text);
    struct hk_sites *sites = hk_sites_read(capture);
    assert_int_equal(sites->dropped, 0);
    assert_int_equal(sites->live_bytes, model.live);
    assert_int_equal(sites->peak_bytes, model.peak);
    int found = 0;
    for (size_t k = 0; k < sites->site_count; k++) {
        const struct hk_site *site = &sites->sites[k];
        int i = helper_site_number(hk_sites_where(sites, site).function);
        if (i < 0)
            continue;
        found++;
        assert_int_equal(site->live_bytes, model.site[i].live);
        assert_int_equal(site->live_blocks, model.site[i].live_blocks);
        assert_int_equal(site->peak_bytes, model.site[i].peak);
        assert_int_equal(site->peak_blocks, model.site[i].peak_blocks);
        assert_int_equal(site->total_bytes, model.site[i].total);
        assert_int_equal(site->total_blocks, model.site[i].total_blocks);
    }
    assert_int_equal(found, SITES);
    hk_sites_free(sites);
    hk_capture_close(capture);
}

static void test_counters_and_peak_equal_a_model_in_a_thousand_random_programs(void **state)
{
    for (uint64_t program = 0; program < 1000; program++) {
        random_state = program * 0x9e3779b97f4a7c15u + 1;
        begin();
        int steps = (int)draw(STEPS);
        for (int i = 0; i < steps; i++)
            step();
        check(helper_path);
        assert_int_equal(hk_record_check(), 0);
    }
}

static void test_nothing_is_allocated_and_nothing_was(void **state)
{
    begin();
    check(helper_path);
}

/* Oscillating at the peak, and exactly to it, is where serials are easily raised too often or not. */
static void test_the_first_of_two_equal_peaks_is_kept(void **state)
{
    begin();
    birth(0, 0, 100);
    birth(1, 1, 50);
    death(1);
    birth(2, 2, 50); /* the same total, by another site: not a new peak */
    check(helper_path);
    assert_int_equal(model.site[1].peak, 50);
    death(2);
    birth(3, 2, 51);
    check(helper_path);
    assert_int_equal(model.site[1].peak, 0);
    assert_int_equal(model.site[2].peak, 51);
}

/* Without the main lock the total is handed over later; the sites' own figures are right at once. */
static void test_what_is_counted_without_the_main_lock_is_taken_over(void **state)
{
    begin();
    hk_lock_take(&hk_exact_apart);
    hk_exact_apart_birth(model.number[SITES - 1], 1000, false);
    hk_lock_release(&hk_exact_apart);
    assert_int_equal(hk_exact.peak, 0);
    hk_exact_tick();
    assert_int_equal(hk_exact.peak, 1000);
    birth(0, 0, 10);
    assert_int_equal(hk_exact.peak, 1010);
    hk_lock_take(&hk_exact_apart);
    hk_exact_orphan(model.number[0], 10);
    hk_exact_apart_death(model.number[SITES - 1], 1000, false);
    hk_lock_release(&hk_exact_apart);
    assert_int_equal(counters(0)->freed_bytes, 0);
    hk_exact_tick();
    assert_int_equal(counters(0)->freed_bytes, 10);
    assert_int_equal(hk_exact.peak - (uint64_t)hk_exact.headroom, 0);
}

/* Each span keeps the live bytes at its end, whether the site changed in it or not. */
static void test_marks_have_the_levels_of_their_spans(void **state)
{
    uint64_t allocated = 0, truth[200] = {0};
    begin();
    for (int span = 0; span < 100; span++) {
        if (span % 3 != 1) /* not in every span */
            birth(span % BLOCKS, 0, 4096);
        if (span % 7 == 6 && model.block[(span - 4) % BLOCKS].site)
            death((span - 4) % BLOCKS);
        truth[span] = model.site[0].live;
        allocated += hk_rec.mark_distance_bytes;
        hk_record_tick(allocated);
        if (span + 1 == 60)
            for (int i = 0; i < BLOCKS; i++)
                if (model.block[i].site)
                    death(i);
    }
    struct hk_error error;
    struct hk_capture *capture = hk_capture_open(helper_path, HK_OPEN_WHOLE, &error);
    assert_non_null(capture);
    struct hk_sites *sites = hk_sites_read(capture);
    uint64_t generation = capture->status.marks_generation;
    assert_true(generation > 0);
    for (size_t k = 0; k < sites->site_count; k++) {
        if (strcmp(hk_sites_where(sites, &sites->sites[k]).function, "site0") != 0)
            continue;
        uint64_t at_mark[HK_MARKS], born_in[HK_MARKS];
        hk_sites_marks(sites, &sites->sites[k], at_mark, born_in);
        for (unsigned i = 0; i + 1 < capture->mark_count; i++) {
            /* the last of the spans that became this one: mark i + 1 began at so many bytes */
            uint64_t end = 0, at = 0, distance = 4 << 20;
            int last = -1, used = 1;
            for (int span = 0; span < 100 && at < capture->marks[i + 1].allocated_bytes; span++) {
                at += distance;
                if (++used > HK_MARKS) {
                    distance *= 2;
                    used = HK_MARKS / 2 + 1;
                }
                last = span;
            }
            assert_true(last >= 0);
            end = truth[last];
            assert_int_equal(at_mark[i], (end + 512) >> 10);
        }
    }
    hk_sites_free(sites);
    hk_capture_close(capture);
}

static void test_a_stop_counts_no_births_and_goes_on_counting_deaths(void **state)
{
    begin();
    birth(0, 0, 100);
    struct hk_capture_mailbox *box = (struct hk_capture_mailbox *)(hk_rec.map + HK_CAPTURE_MAILBOX_OFFSET);
    box->kind = HK_REQUEST_STOP;
    box->asked++;
    hk_rec.next_tick_ns = 0;
    hk_record_tick(1);
    assert_int_equal(box->done, box->asked);
    assert_int_equal(hk_exact.births, 0);
    assert_false(hk_exact_wake() && hk_exact.births);
    assert_int_equal(hk_exact.deaths, 1);
    box->kind = HK_REQUEST_START;
    box->asked++;
    hk_rec.next_tick_ns = 0;
    hk_record_tick(2);
    assert_int_equal(hk_exact.births, 1);
    hk_record_freeze();
    assert_int_equal(hk_exact.births + hk_exact.deaths + hk_exact.fast, 0);
    assert_false(hk_exact_wake());
}

/* --- fork --- */

static void child_of_a_random_program(void)
{
    assert_int_equal(hk_exact.births + hk_exact.deaths, 0);
    assert_true(hk_exact_wake() && hk_exact.births);
    uint64_t base = 0;
    for (int i = 0; i < SITES; i++) {
        base += model.site[i].live;
        model.site[i].total = model.site[i].total_blocks = 0;
    }
    model.peak = 0;
    model.live = base;
    model_change(0);
    for (int i = 0; i < 200; i++)
        step();
    fake_heap.allocated_bytes = 1 << 20;
    hk_rec.next_tick_ns = 0;
    hk_record_tick(1 << 20);
    assert_false(hk_exact.names);
    hk_rec.next_tick_ns = 0;
    hk_record_tick(2 << 20);
    assert_true(hk_exact.names);
    for (int i = 0; i < 50; i++)
        step();
    hk_exact_name();
    assert_true(hk_rec.named);
    for (int i = 0; i < 50; i++)
        step();
    check(hk_rec.path);
}

static void fork_by(bool handlers)
{
    for (uint64_t program = 0; program < 20; program++) {
        random_state = program + 77;
        begin();
        for (int i = 0; i < 150; i++)
            step();
        if (handlers)
            hk_record_fork_prepare();
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            if (handlers)
                hk_record_fork_child();
            child_of_a_random_program();
            unlink(hk_rec.path);
            _exit(0);
        }
        if (handlers)
            hk_record_fork_parent();
        for (int i = 0; i < 150; i++) /* meanwhile */
            step();
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        check(helper_path);
    }
}

static void test_a_child_counts_what_it_inherited_and_its_own(void **state)
{
    fork_by(true);
}

/* Only the page that the kernel wipes tells the child. */
static void test_a_child_without_fork_handlers_does_so_too(void **state)
{
    fork_by(false);
}

/* --- the living --- */

#define LIVING 4096 /* more than find room: 256 */

static uint8_t world[LIVING]; /* their addresses */

/* Of each weight: how many there are, and how much they stand for by the section. */
static void sum_living(uint32_t weight, unsigned *count, uint64_t *sum)
{
    const struct hk_rec_section *section = &hk_rec.section[HK_SECTION_LIVING];
    uint64_t least = UINT64_C(1) << hk_rec_status()->living_shift;
    *count = 0;
    *sum = 0;
    for (uint64_t i = 0; i < section->count; i++) {
        const struct hk_capture_living *one = (const struct hk_capture_living *)section->data + i;
        if (one->weight != weight)
            continue;
        assert_true(one->site == model.number[weight % SITES]);
        ++*count;
        *sum += one->weight > least ? one->weight : least;
    }
}

static void watch(int block, uint32_t weight)
{
    struct hk_exact_living living = {.birth_ns = (uint64_t)block, .weight = weight};
    assert_true(hk_exact_marking_stop());
    hk_exact_living_add(&world[block], model.number[weight % SITES], &living);
    hk_exact_marking_go_on();
}

static void test_the_sample_of_the_living_stays_fair_when_it_is_full(void **state)
{
    unsigned count;
    uint64_t sum;
    begin();
    for (int i = 0; i < LIVING; i++)
        watch(i, i % 64 == 0 ? 1000 : 1);
    assert_int_equal(hk_record_check(), 0);
    assert_true(hk_rec_status()->living_shift > 0);
    sum_living(1000, &count, &sum);
    assert_int_equal(count, LIVING / 64);
    assert_int_equal(sum, LIVING / 64 * 1000);
    sum_living(1, &count, &sum);
    assert_true(count > 20 && count < 256);
    assert_true(sum > LIVING / 2 && sum < LIVING * 2);
}

static void test_a_block_of_the_sample_dies_moves_and_is_renewed(void **state)
{
    struct hk_exact_living living = {.weight = 0};
    unsigned count;
    uint64_t sum;
    begin();
    for (int i = 0; i < 100; i++)
        watch(i, 1);
    for (int i = 0; i < 100; i += 2)
        assert_true(hk_exact_living_take(&world[i], &living));
    assert_true(living.birth_ns == 98 && living.weight == 1 && !living.is_code);
    assert_false(hk_exact_living_take(&world[0], &living));
    assert_int_equal(hk_record_check(), 0);
    sum_living(1, &count, &sum);
    assert_int_equal(count, 50);
    for (int i = 0; i < 50; i += 2) /* in the entries of those that died */
        watch(i, 2);
    assert_int_equal(hk_rec.section[HK_SECTION_LIVING].count, 100);
    sum_living(2, &count, &sum);
    assert_int_equal(count, 25);
    assert_true(hk_exact_marking_stop());
    hk_exact_living_mark_code(&world[1]);
    assert_true(hk_exact_living_has(&world[1]) && !hk_exact_living_has(&world[60]));
    hk_exact_marking_go_on();
    hk_exact_living_renew(&world[3], model.number[2]);
    hk_exact_living_renew(&world[60], model.number[2]);
    assert_true(hk_exact_living_take(&world[1], &living) && living.is_code);
    assert_int_equal(hk_record_check(), 0);
    hk_record_freeze(); /* figures stand still, blocks die */
    assert_true(hk_exact_living_take(&world[5], &living));
    sum_living(2, &count, &sum);
    assert_int_equal(count, 25);
}

/* --- words --- */

static int visited;
static size_t visited_bytes;

static void count_word(uint32_t *word, size_t bytes, void *argument)
{
    assert_int_equal(hk_slot_site(*word), 7);
    visited++;
    visited_bytes += bytes;
}

static int by_address(const void *a, const void *b)
{
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return x < y ? -1 : x > y;
}

static void test_every_block_has_a_word_of_its_own(void **state)
{
    enum { COUNT = 40000 };
    static void *block[COUNT];
    static uintptr_t word[COUNT];
    size_t bytes = 0;
    hk_heap *heap = hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = HK_LOCK_HOST});
    assert_non_null(heap);
    assert_true(hk_slots_begin());
    for (int i = 0; i < COUNT; i++) {
        size_t size = (size_t)i % HK_BLOCK_MAX;
        block[i] = hk_malloc(heap, size);
        const struct hk_pool *pool = hk_pool_of(block[i]);
        uint32_t *at = hk_slot_at(pool, block[i]);
        assert_int_equal(*at, 0);
        assert_true(pool->block_size - size <= HK_SLOT_SLACK_MAX);
        *at = hk_slot_word(7, pool->block_size - size);
        word[i] = (uintptr_t)at;
        bytes += size;
    }
    visited = 0;
    visited_bytes = 0;
    hk_slots_visit(count_word, NULL);
    assert_int_equal(visited, COUNT);
    assert_int_equal(visited_bytes, bytes);
    assert_true(hk_slots_bytes() > COUNT * 4);
    qsort(word, COUNT, sizeof word[0], by_address);
    for (int i = 1; i < COUNT; i++)
        assert_true(word[i] >= word[i - 1] + 4);
    for (int i = 0; i < COUNT; i++) {
        *hk_slot_at(hk_pool_of(block[i]), block[i]) = 0;
        hk_free(heap, block[i]);
    }
    uint64_t before = hk_slots_bytes();
    hk_heap_trim(heap);
    assert_true(hk_slots_bytes() < before);
    assert_int_equal(hk_heap_check(heap), 0);
    hk_heap_destroy(heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counters_and_peak_equal_a_model_in_a_thousand_random_programs),
        cmocka_unit_test(test_nothing_is_allocated_and_nothing_was),
        cmocka_unit_test(test_the_first_of_two_equal_peaks_is_kept),
        cmocka_unit_test(test_what_is_counted_without_the_main_lock_is_taken_over),
        cmocka_unit_test(test_marks_have_the_levels_of_their_spans),
        cmocka_unit_test(test_a_stop_counts_no_births_and_goes_on_counting_deaths),
        cmocka_unit_test(test_a_child_counts_what_it_inherited_and_its_own),
        cmocka_unit_test(test_a_child_without_fork_handlers_does_so_too),
        cmocka_unit_test(test_the_sample_of_the_living_stays_fair_when_it_is_full),
        cmocka_unit_test(test_a_block_of_the_sample_dies_moves_and_is_renewed),
        cmocka_unit_test(test_every_block_has_a_word_of_its_own),
    };
    return cmocka_run_group_tests(tests, helper_setup, helper_teardown);
}
