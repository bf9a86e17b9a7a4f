/* The recorder's spans: in the file from their beginning, the longest kept when there are too many, and each process's own. */
#include <pthread.h>

#include "record_helper.h"

#define SMALL (256u << 10) /* bound of a capture with room for 56 spans */

static struct hk_capture_span found[20000];

/* Those of the file that are not free, as they lie; the program would be dead by now. */
static size_t read_spans(const char *path, uint64_t *left_out)
{
    struct capture c = capture_read(path);
    const struct hk_capture_span *spans = capture_section(&c, HK_SECTION_SPANS, sizeof *spans);
    size_t count = 0;
    for (uint64_t i = 0; i < c.count[HK_SECTION_SPANS]; i++) {
        assert_int_equal(spans[i].sequence % 2, 0);
        assert_true(spans[i].name < c.count[HK_SECTION_STRINGS] && spans[i].code < c.count[HK_SECTION_CODES]);
        if (spans[i].serial != 0)
            found[count++] = spans[i];
    }
    if (left_out)
        *left_out = c.status->spans_left_out;
    capture_free(&c);
    return count;
}

static const char *name_of(const struct hk_capture_span *span)
{
    return (const char *)hk_rec.section[HK_SECTION_STRINGS].data + span->name;
}

static void wait_ns(uint64_t ns)
{
    for (uint64_t until = hk_rec_clock() + ns; hk_rec_clock() < until;)
        ;
}

static void test_a_span_is_in_the_file_from_its_beginning_and_has_both_moments_after_its_end(void **state)
{
    struct fake_code code = helper_code("shop.py", "load", 10);

    helper_start(HK_MODE_SAMPLE, 4096, 0);
    fake_heap.live_bytes = 1000;
    hk_mark("begin");
    uint64_t outer = hk_span_begin("outer"), inner = hk_record_span_begin(NULL, &code);
    assert_int_equal(read_spans(helper_path, NULL), 2);
    assert_int_equal(found[0].end_ns, 0);
    assert_string_equal(name_of(&found[0]), "outer");
    assert_int_equal(found[0].begin_bytes, 1000);
    assert_true(found[0].begin_rss_bytes > 0);
    assert_int_equal(found[0].thread, getpid());
    const struct hk_capture_code *codes = (const struct hk_capture_code *)hk_rec.section[HK_SECTION_CODES].data;
    assert_string_equal((const char *)hk_rec.section[HK_SECTION_STRINGS].data + codes[found[1].code].name, "load");
    fake_heap.live_bytes = 3000;
    hk_mark("end");
    hk_span_end(inner);
    hk_span_end(outer);
    assert_int_equal(read_spans(helper_path, NULL), 2);
    assert_true(found[0].begin_ns <= found[1].begin_ns && found[1].end_ns > found[1].begin_ns && found[1].end_ns <= found[0].end_ns);
    assert_int_equal(found[0].end_bytes, 3000);
    assert_int_equal(hk_record_check(), 0);
}

static void test_what_is_unknown_or_has_ended_does_not_end_again(void **state)
{
    helper_start(HK_MODE_SAMPLE, 4096, 0);
    uint64_t span = hk_span_begin("once");
    hk_span_end(span);
    read_spans(helper_path, NULL);
    uint64_t end = found[0].end_ns;
    hk_span_end(span);
    hk_span_end(0);
    hk_span_end(UINT64_MAX);
    hk_span_end(span + 1);
    hk_span_end(span + (UINT64_C(1) << 32));
    assert_int_equal(read_spans(helper_path, NULL), 1);
    assert_int_equal(found[0].end_ns, end);
    assert_int_equal(hk_record_check(), 0);
}

static void test_the_longest_are_kept_and_all_are_counted(void **state)
{
    enum { SHORT = 5000, LONG = 10 };
    size_t longs = 0;
    uint64_t left_out;

    helper_start(HK_MODE_SAMPLE, 4096, SMALL);
    uint64_t outer = hk_span_begin("outer");
    for (int i = 0; i < SHORT; i++) {
        uint64_t span = hk_span_begin(i % (SHORT / LONG) == 0 ? "long" : "short");
        if (i % (SHORT / LONG) == 0)
            wait_ns(3000000);
        hk_span_end(span);
        if (i % 100 == 0)
            assert_int_equal(hk_record_check(), 0);
    }
    hk_mark("done");
    size_t count = read_spans(helper_path, &left_out);
    assert_true(count <= SMALL / 128 / sizeof(struct hk_capture_span) + 40);
    assert_int_equal(count + left_out, SHORT + 1);
    bool has_outer = false;
    for (size_t i = 0; i < count; i++) {
        longs += strcmp(name_of(&found[i]), "long") == 0;
        has_outer |= strcmp(name_of(&found[i]), "outer") == 0 && found[i].end_ns == 0;
    }
    assert_int_equal(longs, LONG);
    assert_true(has_outer);
    hk_span_end(outer);
    assert_int_equal(hk_record_check(), 0);
}

static void test_more_open_ones_than_there_is_room_for_do_no_harm(void **state)
{
    static uint64_t spans[500];
    uint64_t left_out;

    helper_start(HK_MODE_SAMPLE, 4096, SMALL);
    for (int i = 0; i < 500; i++)
        spans[i] = hk_span_begin("deep");
    hk_mark("deepest");
    size_t count = read_spans(helper_path, &left_out);
    assert_int_equal(count, hk_rec.section[HK_SECTION_SPANS].capacity);
    assert_int_equal(count + left_out, 500);
    for (int i = 499; i >= 0; i--)
        hk_span_end(spans[i]);
    assert_int_equal(hk_record_check(), 0);
    hk_span_end(hk_span_begin("after"));
    assert_int_equal(hk_record_check(), 0);
}

static void test_names_without_end_leave_room_for_those_of_functions(void **state)
{
    char name[100];

    helper_start(HK_MODE_SAMPLE, 4096, SMALL);
    for (int i = 0; i < 20000; i++) {
        snprintf(name, sizeof name, "request number %d, and what else can be told of it in so many words as this", i);
        hk_span_end(hk_span_begin(name));
    }
    assert_int_equal(hk_rec_header()->limits, 0);
    assert_true(hk_rec.section[HK_SECTION_STRINGS].count < hk_rec.section[HK_SECTION_STRINGS].capacity / 2);
    assert_int_equal(hk_record_check(), 0);
}

static bool child_path(char *buffer, size_t capacity, uint32_t attempt)
{
    snprintf(buffer, capacity, "%s.child", helper_path);
    return attempt == 0;
}

static void test_a_child_has_its_own_and_cannot_end_its_parents(void **state)
{
    char path[200];
    int status;

    helper_start(HK_MODE_SAMPLE, 4096, 0);
    hk_rec.options.child_path = child_path;
    snprintf(path, sizeof path, "%s.child", helper_path);
    uint64_t outer = hk_span_begin("parent");
    pid_t pid = fork();
    if (pid == 0) {
        hk_span_end(outer);
        uint64_t own = hk_span_begin("child");
        hk_span_end(outer);
        bool known = own != 0 && hk_rec.stage == HK_REC_ON;
        kill(getpid(), known ? SIGKILL : SIGTERM);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(read_spans(helper_path, NULL), 1);
    assert_int_equal(found[0].end_ns, 0);
    hk_span_end(outer);
    read_spans(helper_path, NULL);
    assert_true(found[0].end_ns > 0);
    assert_int_equal(read_spans(path, NULL), 1); /* after SIGKILL */
    assert_int_equal(found[0].end_ns, 0);
    assert_int_equal(found[0].thread, pid);
    unlink(path);
}

static void *many_spans(void *unused)
{
    for (int i = 0; i < 3000; i++) {
        uint64_t outer = hk_span_begin("outer"), inner = hk_span_begin("inner");
        hk_span_end(inner);
        hk_span_end(outer);
    }
    return NULL;
}

static void test_threads_have_them_at_the_same_time(void **state)
{
    pthread_t threads[4];
    uint64_t left_out;

    helper_start(HK_MODE_SAMPLE, 4096, SMALL);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, many_spans, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(hk_record_check(), 0);
    hk_mark("done");
    size_t count = read_spans(helper_path, &left_out);
    assert_int_equal(count + left_out, 4 * 6000);
}

static void test_without_a_record_there_are_none(void **state)
{
    helper_reset();
    assert_int_equal(hk_span_begin("nothing"), 0);
    hk_span_end(0);
    hk_span_end(1);
    helper_start(HK_MODE_SAMPLE, 4096, 0);
    uint64_t span = hk_span_begin("last");
    hk_record_freeze();
    assert_int_equal(hk_span_begin("late"), 0);
    hk_span_end(span);
    assert_int_equal(read_spans(helper_path, NULL), 1);
    assert_true(found[0].end_ns > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_span_is_in_the_file_from_its_beginning_and_has_both_moments_after_its_end),
        cmocka_unit_test(test_what_is_unknown_or_has_ended_does_not_end_again),
        cmocka_unit_test(test_the_longest_are_kept_and_all_are_counted),
        cmocka_unit_test(test_more_open_ones_than_there_is_room_for_do_no_harm),
        cmocka_unit_test(test_names_without_end_leave_room_for_those_of_functions),
        cmocka_unit_test(test_a_child_has_its_own_and_cannot_end_its_parents),
        cmocka_unit_test(test_threads_have_them_at_the_same_time),
        cmocka_unit_test(test_without_a_record_there_are_none),
    };
    return cmocka_run_group_tests(tests, helper_setup, helper_teardown);
}
