/* Machine code in captures: programs that ask malloc for memory, recorded by native_probe, and read again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "read/sites.h"

static char directory[64], capture_path[128], child_path[140];

static int setup(void **state)
{
    strcpy(directory, "/tmp/hk-native-XXXXXX");
    if (!mkdtemp(directory))
        return -1;
    snprintf(capture_path, sizeof capture_path, "%s/capture", directory);
    snprintf(child_path, sizeof child_path, "%s.child", capture_path);
    return 0;
}

static int teardown(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    return system(command) ? -1 : 0;
}

struct run {
    struct hk_capture *capture;
    struct hk_sites *sites;
};

static struct run read_back(const char *path)
{
    struct hk_error error;
    struct run run = {hk_capture_open(path, HK_OPEN_WHOLE, &error), NULL};
    if (!run.capture)
        fail_msg("%s", error.text);
    run.sites = hk_sites_read(run.capture);
    return run;
}

static void run_done(struct run *run)
{
    hk_sites_free(run->sites);
    hk_capture_close(run->capture);
    unlink(capture_path);
    unlink(child_path);
}

static struct run record(const char *environment, const char *program, const char *argument)
{
    char command[4096];
    snprintf(command, sizeof command, "LD_PRELOAD='%s' NATIVE_CAPTURE='%s' %s '%s' %s", NATIVE_PROBE, capture_path, environment,
             program, argument);
    assert_int_equal(system(command), 0);
    return read_back(capture_path);
}

/* The site whose stack is, from the inside, `functions`; what comes behind them does not matter. */
static const struct hk_site *find(const struct run *run, const char *const *functions, struct hk_source_frame *innermost)
{
    for (size_t i = 0; i < run->sites->site_count; i++) {
        struct hk_source_frame frames[64];
        bool cut;
        size_t count = hk_sites_stack(run->sites, run->sites->sites[i].node, frames, 64, &cut), matched = 0;
        while (functions[matched] && matched < count && strcmp(frames[count - 1 - matched].function, functions[matched]) == 0)
            matched++;
        if (count && !functions[matched]) {
            *innermost = frames[count - 1];
            return &run->sites->sites[i];
        }
    }
    return NULL;
}

static int line_with(const char *text)
{
    char line[512];
    int number = 0;
    FILE *source = fopen(NATIVE_SOURCE, "r");
    assert_non_null(source);
    for (int at = 1; fgets(line, sizeof line, source); at++)
        if (strstr(line, text) && !number)
            number = at;
    fclose(source);
    assert_true(number > 0);
    return number;
}

static const char *const take[] = {"take", NULL}, *const forget[] = {"forget", NULL};
static const char *const whole[] = {"take", "remember", "main", NULL};
static const char *const plugin[] = {"plugin_make", NULL};
static const char *const other_plugin[] = {"other_make", NULL};
static const char *const made[] = {"(code made at run time)", NULL};

static void expect_lines(struct hk_source_frame frame, const char *text)
{
#ifdef HK_HAVE_LIBDW
    assert_string_equal(strrchr(frame.file, '/'), "/native_program.c");
    assert_int_equal(frame.line, line_with(text));
#endif
}

static void test_the_caller_of_malloc_is_named_with_its_line(void **state)
{
    struct run run = record("", NATIVE_PROGRAM, "");
    struct hk_source_frame frame;
    const struct hk_site *site = find(&run, take, &frame);
    assert_non_null(site);
    assert_int_equal(site->domain, 3);
    assert_int_equal(site->live_bytes, 20 * 1000);
    assert_int_equal(site->total_blocks, 20);
    assert_string_equal(frame.module, strrchr(NATIVE_PROGRAM, '/') + 1);
    expect_lines(frame, "void *block = malloc(size);");
    site = find(&run, forget, &frame);
    assert_non_null(site);
    assert_int_equal(site->live_bytes, 0);
    assert_int_equal(site->total_bytes, 30 * 500);
    expect_lines(frame, "malloc(500)");
    assert_null(find(&run, whole, &frame));
    run_done(&run);
}

static void expect_whole_stack(const char *environment, const char *program)
{
    struct run run = record(environment, program, "");
    struct hk_source_frame frame;
    const struct hk_site *site = find(&run, whole, &frame);
    if (!site)
        fail_msg("no whole stack with %s", environment);
    assert_int_equal(site->live_bytes, 20 * 1000);
    run_done(&run);
}

static void test_whole_stacks_are_unwound_without_frame_pointers(void **state)
{
    expect_whole_stack("NATIVE_WHOLE=1", NATIVE_PROGRAM_BARE);
}

static void test_whole_stacks_are_followed_by_frame_pointers_where_there_is_no_unwinder(void **state)
{
    expect_whole_stack("NATIVE_WHOLE=1 NATIVE_NO_TABLES=1", NATIVE_PROGRAM);
}

static void test_a_function_that_the_compiler_put_into_another_is_a_frame_of_its_own(void **state)
{
#ifdef HK_HAVE_LIBDW
    static const char *const grab[] = {"grab", "hoard", NULL};
    struct run run = record("", NATIVE_PROGRAM, "");
    struct hk_source_frame frame, frames[2];
    const struct hk_site *site = find(&run, grab, &frame);
    bool cut;
    assert_non_null(site);
    assert_int_equal(site->live_bytes, 3000);
    expect_lines(frame, "in grab, which is a part of hoard");
    assert_int_equal(hk_sites_stack(run.sites, site->node, frames, 2, &cut), 2);
    expect_lines(frames[0], "the call of grab");
    run_done(&run);
#else
    skip();
#endif
}

static void test_a_wrapper_of_malloc_is_not_what_a_line_is_named_by(void **state)
{
    struct run run = record("NATIVE_WHOLE=1", NATIVE_PROGRAM, "");
    const struct hk_line *found = NULL;
    for (size_t i = 0; i < run.sites->line_count; i++)
        if (run.sites->lines[i].live_bytes == 4000)
            found = &run.sites->lines[i];
    assert_non_null(found);
    assert_string_equal(found->frame.function, "serve");
    expect_lines(found->frame, "the line to be named");
    run_done(&run);
}

static void test_a_library_that_is_loaded_later_is_known(void **state)
{
    struct run run = record("", NATIVE_PROGRAM, "'" NATIVE_PLUGIN "'");
    struct hk_source_frame frame;
    const struct hk_site *site = find(&run, plugin, &frame);
    assert_non_null(site);
    assert_int_equal(site->live_bytes, 7000);
    assert_string_equal(frame.module, strrchr(NATIVE_PLUGIN, '/') + 1);
    run_done(&run);
}

static void test_a_library_that_lies_where_another_lay_is_told_from_it(void **state)
{
    struct run run = record("", NATIVE_PROGRAM, "'" NATIVE_PLUGIN "' '" NATIVE_OTHER_PLUGIN "'");
    struct hk_source_frame frame;
    const struct hk_site *site = find(&run, plugin, &frame);
    assert_non_null(site);
    assert_int_equal(site->live_bytes, 7000);
    site = find(&run, other_plugin, &frame);
    assert_non_null(site);
    assert_int_equal(site->live_bytes, 8000);
    assert_string_equal(frame.module, strrchr(NATIVE_OTHER_PLUGIN, '/') + 1);
    run_done(&run);
}

static void test_code_that_was_made_at_run_time_is_one_line(void **state)
{
#if defined(__x86_64__)
    struct run run = record("NATIVE_WHOLE=1", NATIVE_PROGRAM, "");
    struct hk_source_frame frame;
    const struct hk_site *site = find(&run, made, &frame);
    assert_non_null(site);
    assert_int_equal(site->live_bytes, 6000);
    run_done(&run);
#else
    skip();
#endif
}

static void test_a_child_knows_the_modules_of_its_parent(void **state)
{
    struct run run = record("", NATIVE_PROGRAM, "'" NATIVE_PLUGIN "'"), child = read_back(child_path);
    struct hk_source_frame frame;
    const struct hk_site *site = find(&child, plugin, &frame); /* unloaded before the fork */
    assert_non_null(site);
    assert_int_equal(site->inherited_bytes, 7000);
    assert_int_equal(site->total_bytes, 0);
    site = find(&child, take, &frame);
    assert_non_null(site);
    assert_int_equal(site->inherited_bytes, 20 * 1000);
    assert_int_equal(site->total_bytes, 9000);
    run_done(&child);
    run_done(&run);
}

static void copy(const char *from, const char *to)
{
    char command[4096];
    snprintf(command, sizeof command, "cp '%s' '%s'", from, to);
    assert_int_equal(system(command), 0);
}

static void test_a_program_that_was_replaced_gets_no_wrong_names(void **state)
{
    char program[128];
    snprintf(program, sizeof program, "%s/program", directory);
    copy(NATIVE_PROGRAM, program);
    struct run run = record("", program, "");
    run_done(&run);
    run = record("", program, "");
    hk_sites_free(run.sites);
    copy(NATIVE_PROGRAM_BARE, program);
    run.sites = hk_sites_read(run.capture);
    struct hk_source_frame frame;
    assert_null(find(&run, take, &frame));
    size_t at = 0;
#ifdef HK_HAVE_LIBDW
    assert_string_equal(hk_sites_unread_module(run.sites, HK_SYMBOLS_ANOTHER_FILE, &at), program);
#endif
    bool found = false;
    for (size_t i = 0; i < run.sites->line_count; i++)
        found |= strncmp(run.sites->lines[i].frame.function, "program+0x", 10) == 0 && run.sites->lines[i].live_bytes == 20000;
    assert_true(found);
    unlink(program);
    run_done(&run);
}

static void test_a_capture_from_another_machine_gives_modules_and_offsets(void **state)
{
    char program[128];
    snprintf(program, sizeof program, "%s/gone", directory);
    copy(NATIVE_PROGRAM, program);
    struct run run = record("", program, "");
    hk_sites_free(run.sites);
    unlink(program);
    run.sites = hk_sites_read(run.capture);
    size_t at = 0;
    assert_string_equal(hk_sites_unread_module(run.sites, HK_SYMBOLS_NO_FILE, &at), program);
    run_done(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_caller_of_malloc_is_named_with_its_line),
        cmocka_unit_test(test_whole_stacks_are_unwound_without_frame_pointers),
        cmocka_unit_test(test_whole_stacks_are_followed_by_frame_pointers_where_there_is_no_unwinder),
        cmocka_unit_test(test_a_function_that_the_compiler_put_into_another_is_a_frame_of_its_own),
        cmocka_unit_test(test_a_wrapper_of_malloc_is_not_what_a_line_is_named_by),
        cmocka_unit_test(test_a_library_that_is_loaded_later_is_known),
        cmocka_unit_test(test_a_library_that_lies_where_another_lay_is_told_from_it),
        cmocka_unit_test(test_code_that_was_made_at_run_time_is_one_line),
        cmocka_unit_test(test_a_child_knows_the_modules_of_its_parent),
        cmocka_unit_test(test_a_program_that_was_replaced_gets_no_wrong_names),
        cmocka_unit_test(test_a_capture_from_another_machine_gives_modules_and_offsets),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
