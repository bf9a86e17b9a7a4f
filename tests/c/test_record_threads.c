/* The recorder used from several threads at once, and its file read while it is written. */
#include <pthread.h>

#include "record_helper.h"

#define BLOCK(i) ((const void *)(uintptr_t)(0x100000 + (uint64_t)(i)*16))
enum { THREADS = 4, ROUNDS = 60000 };

static struct fake_code codes[32];
static uint64_t totals[THREADS], lives[THREADS];
static uint64_t allocated;

static int threaded_stack(int domain, struct hk_frame *frames, int max, uint8_t *flags, struct hk_stack_known *known)
{
    static __thread uint64_t r = 1;
    int depth = (int)(r % 20) + 1;

    r = r * 6364136223846793005u + 1442695040888963407u;
    for (int i = 0; i < depth; i++)
        frames[i] = (struct hk_frame){&codes[(r >> (20 + i)) & 31], (int32_t)(r >> (30 + i) & 6)};
    return depth;
}

static void fill_point(struct hk_capture_point *point)
{
    point->allocated_bytes = __atomic_load_n(&allocated, __ATOMIC_RELAXED);
    point->live_bytes = point->allocated_bytes / 3; /* a reader can tell a torn point by it */
}

static void *work(void *argument)
{
    uint64_t me = (uint64_t)(uintptr_t)argument, r = me * 977 + 1, sizes[256] = {0};

    for (int i = 0; i < ROUNDS; i++) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        uint64_t slot = r >> 56, block = me * 256 + slot;
        if (sizes[slot]) {
            assert_true(hk_record_free(BLOCK(block)));
            lives[me] -= sizes[slot];
            sizes[slot] = 0;
        } else {
            sizes[slot] = 1 + (r >> 40 & 4095);
            hk_record_allocation(BLOCK(block), sizes[slot], 0, (int)me);
            lives[me] += sizes[slot];
            totals[me] += sizes[slot];
            __atomic_add_fetch(&allocated, sizes[slot] * 100, __ATOMIC_RELAXED);
        }
        if (i % 16 == 0)
            hk_record_tick(__atomic_load_n(&allocated, __ATOMIC_RELAXED));
        if (i % 5000 == 0)
            hk_record_point("now and then");
        if (i % 7000 == 0) {
            uint64_t mean;
            hk_record_draw(&mean);
            hk_record_event(HK_EVENT_NOTE, me, "note");
            hk_record_count_foreign(me % 2);
            hk_record_set_watch(me % 2 ? HK_WATCH_OURS : HK_WATCH_OURS_UNDER_HOOK, "watched");
        }
    }
    return NULL;
}

static void start(enum hk_capture_mode mode)
{
    struct hk_stack_source source = helper_source;

    for (int i = 0; i < 32; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%d", i);
        codes[i] = helper_code("t.py", name, i);
    }
    allocated = 0;
    memset(totals, 0, sizeof totals);
    memset(lives, 0, sizeof lives);
    helper_start(mode, 0, 2 << 20);
    hk_rec.options.fill_point = fill_point;
    source.stack = threaded_stack;
    hk_record_set_source(&source);
}

static void run_threads(void)
{
    pthread_t threads[THREADS];

    for (uint64_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void test_no_event_of_any_thread_is_lost(void **state)
{
    start(HK_MODE_EXACT);
    run_threads();
    assert_int_equal(hk_record_check(), 0);
    struct capture c = capture_read(helper_path);
    capture_check_sums(&c);
    uint64_t live = 0;
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(c.status->recorded_domain_total_bytes[i], totals[i]);
        live += lives[i];
    }
    assert_int_equal(c.status->recorded_live_bytes, live);
    assert_int_equal(c.status->now.skipped, 0);
    capture_free(&c);
}

/* What a live view does: another process, again and again, without a lock. */
static void read_for_ever(void)
{
    uint64_t last_total = 0, last_sites = 0, last_nodes = 0;

    for (;;) {
        struct capture c = capture_read(helper_path), again = capture_read(helper_path);
        const struct hk_capture_point *now = &c.status->now;
        if (now->sequence % 2 == 0 && again.status->now.sequence == now->sequence)
            assert_int_equal(now->live_bytes, now->allocated_bytes / 3);
        capture_free(&again);
        assert_true(c.status->recorded_total_bytes >= last_total);
        assert_true(c.count[HK_SECTION_SITES] >= last_sites &&
                    c.count[HK_SECTION_NODES] >= last_nodes);
        last_total = c.status->recorded_total_bytes;
        last_sites = c.count[HK_SECTION_SITES];
        last_nodes = c.count[HK_SECTION_NODES];
        capture_free(&c);
    }
}

static void test_a_reader_in_another_process_sees_a_valid_file_at_every_moment(void **state)
{
    start(HK_MODE_EXACT);
    pid_t pid = fork();
    if (pid == 0) {
        read_for_ever();
        _exit(1);
    }
    run_threads();
    int status;
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0); /* it would have ended on a failure */
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    assert_int_equal(hk_record_check(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_event_of_any_thread_is_lost),
        cmocka_unit_test(test_a_reader_in_another_process_sees_a_valid_file_at_every_moment),
    };
    return cmocka_run_group_tests(tests, helper_setup, helper_teardown);
}
