/* Walks, code objects and strings in a made-up interpreter, once for each version's layout. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <sys/mman.h>

#include "python_world.h"

static struct world w;
static hk_py_frame frames[WORLD_FRAMES];
static char why[128];

/* Runs the body for each version, on a fresh world of n frames. */
#define EACH_VERSION(n)                                                                            \
    static const int versions_[] = WORLD_VERSIONS;                                                 \
    for (size_t v_ = 0;                                                                            \
         v_ < sizeof versions_ / sizeof *versions_ && (world_make(&w, versions_[v_], n), true);    \
         v_++)

static int walk(int max, bool *truncated)
{
    return hk_py_walk(&w.layout, w.thread, frames, max, truncated);
}

static void test_frames_come_innermost_first_with_their_offsets(void **state)
{
    EACH_VERSION(10)
    {
        bool truncated = true;
        assert_int_equal(walk(WORLD_FRAMES, &truncated), 10);
        assert_false(truncated);
        for (int i = 0; i < 10; i++) {
            assert_ptr_equal(frames[i].code, w.code[i]);
            assert_int_equal(frames[i].offset, 2 * i);
        }
    }
}

static void test_a_thread_without_frames_has_an_empty_stack(void **state)
{
    EACH_VERSION(0)
    {
        bool truncated = true;
        assert_int_equal(walk(WORLD_FRAMES, &truncated), 0);
        assert_false(truncated);
        assert_int_equal(hk_py_walk(&w.layout, NULL, frames, 1, NULL), 0);
        assert_true(hk_py_self_test(&w.layout, w.thread, why, sizeof why));
    }
}

static void test_a_stack_deeper_than_the_buffer_is_cut_and_says_so(void **state)
{
    EACH_VERSION(10)
    {
        bool truncated;
        assert_int_equal(walk(4, &truncated), 4);
        assert_true(truncated);
        assert_ptr_equal(frames[3].code, w.code[3]);
        assert_int_equal(walk(10, &truncated), 10);
        assert_false(truncated);
        assert_int_equal(walk(0, &truncated), 0);
        assert_true(truncated);
    }
}

static void test_a_frame_that_has_not_begun_has_offset_minus_one(void **state)
{
    EACH_VERSION(2)
    {
        world_instruction(&w, 0, w.layout.frames == HK_PY_FRAME_OBJECTS ? -1 : -2);
        assert_int_equal(walk(WORLD_FRAMES, NULL), 2);
        assert_int_equal(frames[0].offset, -1);
        assert_true(hk_py_self_test(&w.layout, w.thread, why, sizeof why));
    }
}

static void test_the_interpreters_own_frames_are_left_out(void **state)
{
    EACH_VERSION(6)
    {
        if (w.layout.frame_owner < 0 || w.layout.minor == 11)
            continue;
        w.frame[0][w.layout.frame_owner] = 3;
        w.frame[3][w.layout.frame_owner] = w.layout.minor == 14 ? 4 : 3;
        w.frame[4][w.layout.frame_owner] = 1; /* a generator's */
        world_put(w.frame[0], w.layout.frame_code, NULL);
        assert_int_equal(walk(WORLD_FRAMES, NULL), 4);
        assert_ptr_equal(frames[0].code, w.code[1]);
        assert_ptr_equal(frames[2].code, w.code[4]);
        assert_true(hk_py_self_test(&w.layout, w.thread, why, sizeof why));
    }
}

static void test_the_clean_up_frame_of_init_is_left_out(void **state)
{
    EACH_VERSION(4)
    {
        if (!w.layout.has_init_trampoline)
            continue;
        world_put(w.code[1], w.layout.code_filename, w.name);
        world_put_word(w.code[1], w.layout.code_units, 3);
        assert_true(hk_py_is_trampoline(&w.layout, w.code[1]));
        assert_false(hk_py_is_trampoline(&w.layout, w.code[2]));
        assert_int_equal(walk(WORLD_FRAMES, NULL), 3);
        assert_ptr_equal(frames[1].code, w.code[2]);
        w.layout.init_cleanup = w.code[0]; /* where the address is known, that is all that counts */
        assert_int_equal(walk(WORLD_FRAMES, NULL), 3);
        assert_ptr_equal(frames[0].code, w.code[1]);
    }
}

static void test_a_chain_that_leads_nowhere_ends_the_walk(void **state)
{
    static const uintptr_t nonsense[] = {1, 0x1000, 0x7fff00000001, 0xffff800000000000,
                                         (uintptr_t)-8};
    for (size_t i = 0; i < sizeof nonsense / sizeof *nonsense; i++) {
        EACH_VERSION(5)
        {
            bool truncated;
            world_put(w.frame[2], w.layout.frame_previous, (void *)nonsense[i]);
            assert_int_equal(walk(WORLD_FRAMES, &truncated), 3);
            assert_true(truncated);
            assert_false(hk_py_self_test(&w.layout, w.thread, why, sizeof why));
            world_put(w.frame[1], w.layout.frame_code, (void *)((nonsense[i] & ~(uintptr_t)3) | 4));
            assert_int_equal(walk(WORLD_FRAMES, &truncated), 1);
            assert_true(truncated);
        }
    }
}

static void test_a_chain_that_bites_its_tail_ends_at_the_buffers_end(void **state)
{
    EACH_VERSION(5)
    {
        bool truncated;
        world_put(w.frame[4], w.layout.frame_previous, w.frame[1]);
        assert_int_equal(walk(WORLD_FRAMES, &truncated), WORLD_FRAMES);
        assert_true(truncated);
        assert_false(hk_py_self_test(&w.layout, w.thread, why, sizeof why));
        assert_string_equal(why, "the chain of frames does not end");
        if (w.layout.frame_owner < 0 || w.layout.minor == 11)
            continue;
        for (int i = 1; i < 5; i++)
            w.frame[i][w.layout.frame_owner] = 3;
        assert_int_equal(walk(WORLD_FRAMES, &truncated), 1);
        assert_true(truncated);
    }
}

static void *other_thread(void)
{
    return w.interpreter;
}

static void test_before_3_12_only_the_thread_that_holds_the_lock_may_walk(void **state)
{
    EACH_VERSION(1)
    {
        assert_ptr_equal(hk_py_this_thread_state(&w.layout), w.thread);
        w.layout.thread_state_of_thread = other_thread;
        assert_ptr_equal(hk_py_this_thread_state(&w.layout),
                         w.layout.minor < 12 ? NULL : (void *)w.thread);
        assert_ptr_equal(hk_py_locked_thread_state(&w.layout), w.thread);
    }
}

static void *no_thread(void)
{
    return NULL;
}

static void test_a_thread_without_the_lock_has_frames_of_its_own_and_not_the_holders(void **state)
{
    EACH_VERSION(1)
    {
        assert_ptr_equal(hk_py_own_thread_state(&w.layout), w.thread);
        w.layout.thread_state = w.layout.minor < 12 ? other_thread : no_thread; /* before: the holder's */
        assert_null(hk_py_this_thread_state(&w.layout));
        assert_ptr_equal(hk_py_own_thread_state(&w.layout), w.thread);
        w.layout.thread_state_of_thread = no_thread;
        assert_null(hk_py_own_thread_state(&w.layout));
    }
}

static void test_the_executor_of_the_thread_tells_jit_code(void **state)
{
    EACH_VERSION(1)
    {
        assert_false(hk_py_in_jit(&w.layout, w.thread));
        if (w.layout.thread_executor < 0)
            continue;
        world_put(w.thread, w.layout.thread_executor, w.cframe);
        assert_true(hk_py_in_jit(&w.layout, w.thread));
        assert_false(hk_py_in_jit(&w.layout, NULL));
    }
}

static void test_interpreters_have_ids_and_locks(void **state)
{
    EACH_VERSION(1)
    {
        assert_int_equal(hk_py_interpreter_id(&w.layout, w.thread), 0);
        assert_true(hk_py_interp_has_own_gil(&w.layout, w.thread));
        world_put_word(w.interpreter, w.layout.interpreter_id, 7);
        assert_int_equal(hk_py_interpreter_id(&w.layout, w.thread), 7);
        assert_int_equal(hk_py_interp_has_own_gil(&w.layout, w.thread), w.layout.minor >= 12);
        if (w.layout.interpreter_gil < 0)
            continue;
        world_put(w.interpreter, w.layout.interpreter_gil, w.cframe);
        assert_false(hk_py_interp_has_own_gil(&w.layout, w.thread));
    }
}

static void test_a_code_object_tells_what_identifies_it(void **state)
{
    EACH_VERSION(3)
    {
        hk_py_code code;
        assert_true(hk_py_code_info(&w.layout, w.code[2], &code));
        assert_ptr_equal(code.filename, w.file);
        assert_ptr_equal(code.name, w.name);
        assert_ptr_equal(code.qualname, w.layout.minor >= 11 ? w.name : NULL);
        assert_ptr_equal(code.linetable, w.table);
        assert_int_equal(code.firstlineno, 102);
        assert_int_equal(code.units, 40);
        world_put(w.code[2], w.layout.object_type, w.other_type);
        assert_false(hk_py_code_info(&w.layout, w.code[2], &code));
        assert_false(hk_py_code_info(&w.layout, NULL, &code));
        assert_false(hk_py_code_info(&w.layout, w.code[1] + 1, &code));
    }
}

static void check_copy(int kind, bool ascii, const void *data, int64_t length, const char *expected,
                       size_t bytes)
{
    _Alignas(16) char string[256] = {0};
    char out[64];
    world_string(&w, string, kind, ascii, data, length);
    memset(out, '#', sizeof out);
    assert_int_equal(hk_py_copy_string(&w.layout, string, out, sizeof out), bytes);
    assert_memory_equal(out, expected, bytes + 1);
    for (size_t cap = 1; cap <= bytes; cap++) {
        size_t n = hk_py_copy_string(&w.layout, string, out, cap);
        assert_true(n < cap);
        assert_memory_equal(out, expected, n);
        assert_int_equal(out[n], 0);
        assert_true(((unsigned char)expected[n] & 0xC0) != 0x80); /* cut between characters */
    }
    out[0] = '#';
    assert_int_equal(hk_py_copy_string(&w.layout, string, out, 0), 0);
    assert_int_equal(out[0], '#');
}

static void test_strings_of_every_width_become_utf8(void **state)
{
    EACH_VERSION(1)
    {
        static const uint16_t two[] = {0x41, 0x20AC, 0xD800, 0x7FF};
        static const uint32_t four[] = {0x1F600, 0x10FFFF, 0x110000, 0xE9};
        check_copy(1, true, "plain", 5, "plain", 5);
        check_copy(1, true, "", 0, "", 0);
        check_copy(1, true, "a\0b", 3, "a\0b", 3);
        check_copy(1, false, "\xe9t\xe9", 3, "\xc3\xa9t\xc3\xa9", 5);
        check_copy(2, false, two, 4, "A\xe2\x82\xac\xef\xbf\xbd\xdf\xbf", 9);
        check_copy(4, false, four, 4, "\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf\xef\xbf\xbd\xc3\xa9", 13);
    }
}

static void test_what_is_not_a_string_is_not_copied(void **state)
{
    EACH_VERSION(1)
    {
        char out[16] = "#";
        assert_int_equal(hk_py_copy_string(&w.layout, w.table, out, sizeof out), 0);
        assert_string_equal(out, "");
        assert_int_equal(hk_py_copy_string(&w.layout, NULL, out, sizeof out), 0);
        world_put_int(w.name, w.layout.unicode_state,
                      3 << 2 | 1 << 5 | 1 << 6 | 1 << 7); /* no such width */
        assert_int_equal(hk_py_copy_string(&w.layout, w.name, out, sizeof out), 0);
        if (w.layout.unicode_ready_shift < 0)
            continue;
        world_string(&w, w.name, 1, true, "name", 4);
        w.name[w.layout.unicode_state] &= (char)~(1 << w.layout.unicode_ready_shift);
        assert_int_equal(hk_py_copy_string(&w.layout, w.name, out, sizeof out), 0);
    }
}

static void test_a_subclass_of_str_is_a_string_too(void **state)
{
    EACH_VERSION(1)
    {
        char out[16];
        static const char elsewhere[] = "data";
        world_put(w.name, w.layout.object_type, w.other_type);
        assert_int_equal(hk_py_copy_string(&w.layout, w.name, out, sizeof out), 0);
        world_put_word(w.other_type, w.layout.type_flags, 1 << 28);
        assert_int_equal(hk_py_copy_string(&w.layout, w.name, out, sizeof out), 4);
        w.name[w.layout.unicode_state] &= (char)~(1 << w.layout.unicode_compact_shift);
        world_put(w.name, w.layout.unicode_compact_size, elsewhere);
        assert_int_equal(hk_py_copy_string(&w.layout, w.name, out, sizeof out), 4);
        assert_string_equal(out, "data");
    }
}

static void test_bytes_are_lent(void **state)
{
    EACH_VERSION(1)
    {
        size_t length = 9;
        assert_memory_equal(hk_py_bytes(&w.layout, w.table, &length), "\x02\x01", 2);
        assert_int_equal(length, 2);
        assert_null(hk_py_bytes(&w.layout, w.name, &length));
        assert_int_equal(length, 0);
    }
}

static void expect_fault(const char *expected)
{
    assert_false(hk_py_self_test(&w.layout, w.thread, why, sizeof why));
    assert_string_equal(why, expected);
}

static void test_self_test_accepts_a_sound_stack(void **state)
{
    EACH_VERSION(WORLD_FRAMES / 2)
    {
        assert_true(hk_py_self_test(&w.layout, w.thread, why, sizeof why));
        assert_string_equal(why, "");
    }
}

static void test_self_test_finds_what_is_wrong(void **state)
{
    void *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(hole, 4096);
    EACH_VERSION(5)
    {
        world_put(w.code[3], w.layout.object_type, w.other_type);
        expect_fault("a frame does not run a code object");
        world_code(&w, 3);
        world_instruction(&w, 2, 80);
        expect_fault("a frame's instruction is outside its code");
        world_instruction(&w, 2, 4);
        world_put(w.code[1], w.layout.code_name, w.table);
        expect_fault("a code object's names are not strings");
        world_code(&w, 1);
        world_put(w.code[1], w.layout.code_linetable, w.name);
        expect_fault("a code object's line table is not bytes");
        world_code(&w, 1);
        world_put(w.frame[1], w.layout.frame_previous, hole);
        expect_fault("a frame is not in mapped memory");
        world_put(w.frame[1], w.layout.frame_previous, w.frame[2]);
        assert_true(hk_py_self_test(&w.layout, w.thread, why, sizeof why));
        assert_false(hk_py_self_test(&w.layout, hole, why, sizeof why));
        if (w.layout.interpreter_gil < 0)
            continue;
        world_put(w.interpreter, w.layout.interpreter_gil, w.cframe);
        expect_fault("the main interpreter's lock is not where it should be");
    }
}

static void test_a_reason_is_cut_to_its_buffer(void **state)
{
    world_make(&w, 12, 2);
    world_put(w.code[0], w.layout.object_type, w.other_type);
    char small[8];
    assert_false(hk_py_self_test(&w.layout, w.thread, small, sizeof small));
    assert_string_equal(small, "a frame");
    assert_false(hk_py_self_test(&w.layout, w.thread, NULL, 0));
}

static void test_without_a_layout_nothing_is_read(void **state)
{
    hk_py_layout none = {.why = "because"};
    hk_py_code code;
    char out[8];
    size_t length;
    assert_int_equal(hk_py_walk(&none, w.thread, frames, 8, NULL), 0);
    assert_null(hk_py_this_thread_state(&none));
    assert_false(hk_py_code_info(&none, w.code[0], &code));
    assert_int_equal(hk_py_copy_string(&none, w.name, out, sizeof out), 0);
    assert_null(hk_py_bytes(&none, w.table, &length));
    assert_false(hk_py_in_jit(&none, w.thread));
    assert_false(hk_py_self_test(&none, w.thread, why, sizeof why));
    assert_string_equal(why, "because");
    assert_false(hk_py_public_check(&none, why, sizeof why));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames_come_innermost_first_with_their_offsets),
        cmocka_unit_test(test_a_thread_without_frames_has_an_empty_stack),
        cmocka_unit_test(test_a_stack_deeper_than_the_buffer_is_cut_and_says_so),
        cmocka_unit_test(test_a_frame_that_has_not_begun_has_offset_minus_one),
        cmocka_unit_test(test_the_interpreters_own_frames_are_left_out),
        cmocka_unit_test(test_the_clean_up_frame_of_init_is_left_out),
        cmocka_unit_test(test_a_chain_that_leads_nowhere_ends_the_walk),
        cmocka_unit_test(test_a_chain_that_bites_its_tail_ends_at_the_buffers_end),
        cmocka_unit_test(test_before_3_12_only_the_thread_that_holds_the_lock_may_walk),
        cmocka_unit_test(test_a_thread_without_the_lock_has_frames_of_its_own_and_not_the_holders),
        cmocka_unit_test(test_the_executor_of_the_thread_tells_jit_code),
        cmocka_unit_test(test_interpreters_have_ids_and_locks),
        cmocka_unit_test(test_a_code_object_tells_what_identifies_it),
        cmocka_unit_test(test_strings_of_every_width_become_utf8),
        cmocka_unit_test(test_what_is_not_a_string_is_not_copied),
        cmocka_unit_test(test_a_subclass_of_str_is_a_string_too),
        cmocka_unit_test(test_bytes_are_lent),
        cmocka_unit_test(test_self_test_accepts_a_sound_stack),
        cmocka_unit_test(test_self_test_finds_what_is_wrong),
        cmocka_unit_test(test_a_reason_is_cut_to_its_buffer),
        cmocka_unit_test(test_without_a_layout_nothing_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
