/* The growth rule against simulated programs: what leaks is found, what is merely large is not.
 *
 * A program is simulated as sampled blocks: each has a weight, a time of birth and a time of death
 * that its site's habit decides. Marks are taken as the recorder takes them, by time and by bytes,
 * thinned by two. Everything follows from a seed, so a failure can be repeated.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "read/growth.h"

#define STEPS 2000
#define MIB   1048576.0

static uint64_t state;

static double uniform(void)
{
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static unsigned poisson(double mean)
{
    double limit = exp(-mean), product = uniform();
    unsigned n = 0;
    for (; product > limit; n++)
        product *= uniform();
    return n;
}

/* How long a block lives that is born at `step`, in steps; more than STEPS: for ever. */
enum habit {
    LEAK,         /* for ever */
    TEMPORARY,    /* one step */
    FIFO_CACHE,   /* a fixed number of steps: a cache of fixed size */
    RANDOM_CACHE, /* geometric: a cache with random replacement */
    SAWTOOTH,     /* until the next clearing */
    EARLY,        /* for ever, but only allocated in the first part of the run */
    FILLING,      /* for ever, ever more seldom: misses of a cache that becomes complete */
};

struct site {
    enum habit habit;
    double rate;   /* bytes a step */
    double period; /* steps: size of the cache, distance of clearings, end of the early part */
};

struct result {
    uint64_t at_mark[HK_MARKS], born_in[HK_MARKS];
};

static double death(const struct site *s, double step)
{
    switch (s->habit) {
    case TEMPORARY:
        return step + 1;
    case FIFO_CACHE:
        return step + s->period;
    case RANDOM_CACHE:
        return step - s->period * log(1 - uniform());
    case SAWTOOTH:
        return (floor(step / s->period) + 1) * s->period;
    default:
        return 10 * STEPS;
    }
}

static double rate_at(const struct site *s, double step)
{
    if (s->habit == EARLY)
        return step < s->period ? s->rate : 0;
    if (s->habit == FILLING)
        return s->rate * exp(-step / s->period);
    return s->rate;
}

static void simulate(const struct site *s, double mean, const struct hk_capture_mark *marks,
                     unsigned count, struct result *result)
{
    double at[HK_MARKS] = {0}, born[HK_MARKS] = {0};
    double end = STEPS;
    for (int step = 0; step < STEPS; step++) {
        unsigned n = poisson(rate_at(s, step) / mean);
        while (n--) {
            double birth = step + uniform(), dies = death(s, birth);
            unsigned span = 0;
            while (span + 1 < count && (double)marks[span + 1].time_ns <= birth * 1e6)
                span++;
            for (unsigned i = span; i < count; i++) {
                double edge = i + 1 < count ? (double)marks[i + 1].time_ns / 1e6 : end;
                at[i] += dies > edge ? mean : 0;
            }
            born[span] += dies > end ? mean : 0;
        }
    }
    for (unsigned i = 0; i < HK_MARKS; i++) {
        result->at_mark[i] = (uint64_t)(at[i] / 1024);
        result->born_in[i] = (uint64_t)(born[i] / 1024);
    }
}

/* Marks of a steady program, as many as the thinning leaves: 8 to 16. */
static unsigned make_marks(struct hk_capture_mark *marks, double bytes_a_step)
{
    unsigned count = 9 + (unsigned)(uniform() * 8);
    double distance = STEPS / (count - uniform());
    for (unsigned i = 0; i < count; i++) {
        marks[i].time_ns = (uint64_t)(i * distance * 1e6);
        marks[i].allocated_bytes = (uint64_t)(i * distance * bytes_a_step);
    }
    return count;
}

/* The same on a busy machine: from one sixteenth of the work to the next it is given four times as much of the processor, or a quarter.
 * Returns the time at which the work is done. */
static double make_uneven(struct hk_capture_mark *marks, unsigned count)
{
    const double part = STEPS / 16.0;
    double starts[17] = {0};
    for (unsigned i = 0; i < 16; i++)
        starts[i + 1] = starts[i] + part * (uniform() < 0.5 ? 0.25 : 4);
    for (unsigned i = 0; i < count; i++) {
        double work = (double)marks[i].time_ns / 1e6 / part;
        unsigned at = (unsigned)work;
        marks[i].time_ns = (uint64_t)((starts[at] + (work - at) * (starts[at + 1] - starts[at])) * 1e6);
    }
    return starts[16];
}

static bool is_busy; /* so it is */
static bool fell; /* the last span ends with everything let go: judged before it, by levels */

/* How many of `runs` runs call the site growing. `beside` is the rate of the rest of the
 * program. */
static unsigned count_growing(struct site site, double mean, double beside, unsigned runs,
                              uint64_t seed)
{
    unsigned found = 0;
    for (unsigned run = 0; run < runs; run++) {
        struct hk_capture_mark marks[HK_MARKS];
        struct result r;
        state = seed * 1000003 + run;
        unsigned count = make_marks(marks, site.rate + beside);
        simulate(&site, mean, marks, count, &r);
        uint64_t end_ns = (uint64_t)((is_busy ? make_uneven(marks, count) : STEPS) * 1e6);
        uint64_t end_allocated = (uint64_t)(STEPS * (site.rate + beside));
        if (fell) {
            count--;
            end_ns = marks[count].time_ns;
            end_allocated = marks[count].allocated_bytes;
        }
        struct hk_growth_run growth =
            hk_growth_prepare(marks, count, end_ns, end_allocated, 64 << 20);
        growth.by_levels = fell;
        assert_true(growth.usable || is_busy);
        found += hk_growth_judge(&growth, mean, r.at_mark, r.born_in).growing;
    }
    return found;
}

static void test_leak_of_ten_mebibytes_is_found_at_64_kib_samples(void **s)
{
    struct site leak = {LEAK, 10 * MIB / STEPS, 0};
    assert_int_equal(count_growing(leak, 65536, 50000, 300, 1), 300);
}

static void test_leak_of_forty_mebibytes_is_found_at_512_kib_samples(void **s)
{
    struct site leak = {LEAK, 40 * MIB / STEPS, 0};
    assert_in_range(count_growing(leak, 524288, 50000, 300, 2), 297, 300);
}

static int on_a_busy_machine(void **s)
{
    is_busy = true;
    return 0;
}

static int on_an_idle_machine(void **s)
{
    is_busy = false;
    return 0;
}

static void test_leak_is_found_on_a_busy_machine(void **s)
{
    struct site leak = {LEAK, 20 * MIB / STEPS, 0};
    assert_in_range(count_growing(leak, 65536, 50000, 300, 1), 285, 300); /* 263 if half the pace by time is asked for */
}

static void test_leak_is_found_when_every_block_is_recorded(void **s)
{
    struct site leak = {LEAK, 2 * MIB / STEPS, 0};
    struct hk_capture_mark marks[HK_MARKS];
    struct result r;
    state = 3;
    unsigned count = make_marks(marks, 1e5);
    simulate(&leak, 64, marks, count, &r);
    struct hk_growth_run growth =
        hk_growth_prepare(marks, count, (uint64_t)(STEPS * 1e6), (uint64_t)(STEPS * 1e5), 1 << 20);
    assert_true(hk_growth_judge(&growth, 0, r.at_mark, r.born_in).growing);
}

static void test_temporary_blocks_do_not_grow(void **s)
{
    struct site busy = {TEMPORARY, 2 * MIB, 0};
    assert_int_equal(count_growing(busy, 65536, 1000, 300, 4), 0);
}

static void test_full_fifo_cache_does_not_grow(void **s)
{
    struct site cache = {FIFO_CACHE, MIB, 64};
    assert_int_equal(count_growing(cache, 65536, 50000, 500, 5), 0);
    assert_int_equal(count_growing(cache, 524288, 50000, 500, 6), 0);
}

static void test_full_cache_with_random_replacement_does_not_grow(void **s)
{
    struct site cache = {RANDOM_CACHE, MIB, 64};
    assert_int_equal(count_growing(cache, 65536, 50000, 500, 7), 0);
    assert_int_equal(count_growing(cache, 524288, 50000, 500, 8), 0);
}

static void test_batch_that_is_emptied_and_filled_does_not_grow(void **s)
{
    unsigned found = 0;
    for (int i = 0; i < 6; i++) {
        struct site batch = {SAWTOOTH, MIB / 8, 90 + 37.7 * i}; /* up to 14 % of the run */
        found += count_growing(batch, 65536, 5000, 200, 20 + (uint64_t)i);
    }
    /* By levels alone a batch that beats in time with the marks looks like a leak. */
    assert_in_range(found, 0, fell ? 60 : 0);
}

static void test_cache_filled_early_does_not_grow(void **s)
{
    for (int i = 1; i <= 4; i++) {
        struct site cache = {EARLY, MIB / 8, STEPS * 0.1 * i};
        assert_int_equal(count_growing(cache, 65536, 50000, 200, 30 + (uint64_t)i), 0);
    }
}

static void test_cache_that_becomes_complete_does_not_grow(void **s)
{
    struct site cache = {FILLING, MIB / 4, STEPS / 8.0};
    assert_in_range(count_growing(cache, 65536, 50000, 300, 40), 0,
                    6); /* a few are still filling */
}

static int before_the_fall(void **s)
{
    fell = true;
    return 0;
}

static int after_the_fall(void **s)
{
    fell = false;
    return 0;
}

static void test_leak_that_is_let_go_at_the_end_is_found(void **s)
{
    struct site leak = {LEAK, 10 * MIB / STEPS, 0};
    assert_in_range(count_growing(leak, 65536, 50000, 300, 50), 297, 300);
    leak.rate = 40 * MIB / STEPS;
    assert_in_range(count_growing(leak, 262144, 50000, 300, 51), 297, 300);
}

static void test_fall_is_seen_only_at_the_very_end(void **s)
{
    uint64_t times[100], live[100];
    for (unsigned i = 0; i < 100; i++) {
        times[i] = i * 100000000u;
        live[i] = 1000 + i;
    }
    assert_false(hk_growth_fell(times, live, 100));
    live[99] = 100;
    assert_true(hk_growth_fell(times, live, 100));
    for (unsigned i = 80; i < 100; i++)
        live[i] = 100;
    assert_false(hk_growth_fell(times, live, 100)); /* a fifth of the run was spent with little */
}

static void test_two_large_tables_are_no_trend(void **s)
{
    struct hk_capture_mark marks[12];
    uint64_t at_mark[HK_MARKS] = {0}, born_in[HK_MARKS] = {0};
    for (unsigned i = 0; i < 12; i++) {
        marks[i] = (struct hk_capture_mark){i * 100, i * 1000};
        at_mark[i] = i < 7 ? 0 : i < 10 ? 50000 : 100000;
    }
    born_in[7] = born_in[10] = 50000;
    struct hk_growth_run growth = hk_growth_prepare(marks, 12, 1200, 12000, 1 << 27);
    assert_false(hk_growth_judge(&growth, 0, at_mark, born_in).growing);
    born_in[8] = born_in[9] = 25000;
    at_mark[8] = 75000, at_mark[9] = 100000, at_mark[10] = at_mark[11] = 150000;
    assert_true(hk_growth_judge(&growth, 0, at_mark, born_in).growing);
}

static void test_short_run_says_nothing(void **s)
{
    struct hk_capture_mark marks[3] = {{0, 0}, {10, 10}, {20, 20}};
    struct hk_growth_run growth = hk_growth_prepare(marks, 3, 30, 30, 1000);
    uint64_t at_mark[HK_MARKS] = {0, 1 << 20, 2 << 20}, born_in[HK_MARKS] = {0, 1 << 20, 1 << 20};
    assert_false(growth.usable);
    assert_false(hk_growth_judge(&growth, 0, at_mark, born_in).growing);
}

static void test_clocks_must_agree(void **s)
{
    /* By time the second half is an idle wait after everything was allocated. */
    struct hk_capture_mark marks[8];
    for (unsigned i = 0; i < 8; i++)
        marks[i] = (struct hk_capture_mark){i * 10, i * 1000};
    struct hk_growth_run growth = hk_growth_prepare(marks, 8, 100000, 8000, 1000);
    assert_false(growth.usable);
}

static void test_site_is_brought_up_to_date_over_spans_it_slept_through(void **s)
{
    struct hk_capture_site site = {
        .live_bytes = 5 << 10, .mark = 2, .at_mark = {1, 3, 5}, .born_in = {1, 2, 2}};
    uint64_t at_mark[HK_MARKS], born_in[HK_MARKS];
    hk_growth_update(&site, 0, 6, at_mark, born_in);
    const uint64_t expected_at[] = {1, 3, 5, 5, 5, 5}, expected_born[] = {1, 2, 2, 0, 0, 0};
    assert_memory_equal(at_mark, expected_at, sizeof expected_at);
    assert_memory_equal(born_in, expected_born, sizeof expected_born);
}

static void test_site_is_brought_up_to_date_over_thinnings(void **s)
{
    struct hk_capture_site site = {.live_bytes = 5 << 10,
                                   .mark = 2,
                                   .mark_generation = 3,
                                   .at_mark = {1, 3, 5},
                                   .born_in = {1, 2, 2}};
    uint64_t at_mark[HK_MARKS], born_in[HK_MARKS];
    hk_growth_update(&site, 4, 9, at_mark, born_in);
    const uint64_t expected_at[] = {3, 5, 5}, expected_born[] = {3, 2, 0};
    assert_memory_equal(at_mark, expected_at, sizeof expected_at);
    assert_memory_equal(born_in, expected_born, sizeof expected_born);
    hk_growth_update(&site, 3 + 65536 + 1, 9, at_mark, born_in); /* generations wrap at 2^16 */
    assert_memory_equal(at_mark, expected_at, sizeof expected_at);
    hk_growth_update(&site, 40, 9, at_mark, born_in); /* many thinnings: all in the first span */
    assert_int_equal(born_in[0], 5);
    assert_int_equal(born_in[1], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_leak_of_ten_mebibytes_is_found_at_64_kib_samples),
        cmocka_unit_test(test_leak_of_forty_mebibytes_is_found_at_512_kib_samples),
        cmocka_unit_test_setup_teardown(test_leak_is_found_on_a_busy_machine, on_a_busy_machine, on_an_idle_machine),
        cmocka_unit_test(test_leak_is_found_when_every_block_is_recorded),
        cmocka_unit_test(test_temporary_blocks_do_not_grow),
        cmocka_unit_test(test_full_fifo_cache_does_not_grow),
        cmocka_unit_test(test_full_cache_with_random_replacement_does_not_grow),
        cmocka_unit_test(test_batch_that_is_emptied_and_filled_does_not_grow),
        cmocka_unit_test(test_cache_filled_early_does_not_grow),
        cmocka_unit_test(test_cache_that_becomes_complete_does_not_grow),
        cmocka_unit_test_setup_teardown(test_leak_that_is_let_go_at_the_end_is_found,
                                        before_the_fall, after_the_fall),
        cmocka_unit_test_setup_teardown(test_temporary_blocks_do_not_grow, before_the_fall,
                                        after_the_fall),
        cmocka_unit_test_setup_teardown(test_full_fifo_cache_does_not_grow, before_the_fall,
                                        after_the_fall),
        cmocka_unit_test_setup_teardown(test_full_cache_with_random_replacement_does_not_grow,
                                        before_the_fall, after_the_fall),
        cmocka_unit_test_setup_teardown(test_batch_that_is_emptied_and_filled_does_not_grow,
                                        before_the_fall, after_the_fall),
        cmocka_unit_test_setup_teardown(test_cache_filled_early_does_not_grow, before_the_fall,
                                        after_the_fall),
        cmocka_unit_test_setup_teardown(test_temporary_blocks_do_not_grow, on_a_busy_machine, on_an_idle_machine),
        cmocka_unit_test_setup_teardown(test_full_fifo_cache_does_not_grow, on_a_busy_machine, on_an_idle_machine),
        cmocka_unit_test_setup_teardown(test_full_cache_with_random_replacement_does_not_grow, on_a_busy_machine, on_an_idle_machine),
        cmocka_unit_test_setup_teardown(test_batch_that_is_emptied_and_filled_does_not_grow, on_a_busy_machine, on_an_idle_machine),
        cmocka_unit_test_setup_teardown(test_cache_filled_early_does_not_grow, on_a_busy_machine, on_an_idle_machine),
        cmocka_unit_test_setup_teardown(test_cache_that_becomes_complete_does_not_grow, on_a_busy_machine, on_an_idle_machine),
        cmocka_unit_test(test_fall_is_seen_only_at_the_very_end),
        cmocka_unit_test(test_two_large_tables_are_no_trend),
        cmocka_unit_test(test_short_run_says_nothing),
        cmocka_unit_test(test_clocks_must_agree),
        cmocka_unit_test(test_site_is_brought_up_to_date_over_spans_it_slept_through),
        cmocka_unit_test(test_site_is_brought_up_to_date_over_thinnings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
