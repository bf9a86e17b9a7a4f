/* The end of a capture file: a packed copy takes its place, at no moment of which the path leads to anything but a whole capture. Calls
 * of the system go through this file, which lets them fail, or the process die in them, or end in a reader's. */
#include "record_helper.h"

#include <dirent.h>
#include <sys/syscall.h>

#include "read/sites.h"
#include "record/exact.h"

#define SITES 40

enum point { NOWHERE, AT_OPEN, AT_WRITE, AFTER_WRITE, AT_RENAME, AFTER_RENAME, POINTS };
static enum point failing, killing, writing_half;
static int reads_until_exit; /* > 0: the how many-th read from here on finds the process ended */

static bool meet(enum point point)
{
    if (killing == point)
        kill(getpid(), SIGKILL);
    if (failing == point)
        errno = ENOSPC;
    return failing == point;
}

long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    bool makes_copy = number == SYS_openat && (c & O_CREAT) && strstr((const char *)b, ".new");
    if ((makes_copy && meet(AT_OPEN)) || (number == SYS_writev && meet(AT_WRITE)))
        return -1;
    if (number == SYS_writev && writing_half)
        return __real_syscall(number, a, b, c / 2, d, e, f);
    long result = __real_syscall(number, a, b, c, d, e, f);
    if (number == SYS_writev)
        meet(AFTER_WRITE);
    return result;
}

int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to)
{
    if (meet(AT_RENAME))
        return -1;
    int result = __real_rename(from, to);
    meet(AFTER_RENAME);
    return result;
}

ssize_t __real_pread(int fd, void *to, size_t size, off_t offset);
ssize_t __wrap_pread(int fd, void *to, size_t size, off_t offset);
ssize_t __wrap_pread64(int fd, void *to, size_t size, off_t offset) __attribute__((alias("__wrap_pread")));
ssize_t __wrap_pread(int fd, void *to, size_t size, off_t offset)
{
    if (reads_until_exit > 0 && --reads_until_exit == 0)
        hk_record_exit(NULL);
    return __real_pread(fd, to, size, offset);
}

static uint64_t clock_stands_at; /* but for a nanosecond at each look; 0: it runs */
uint64_t __real_hk_rec_clock(void);
uint64_t __wrap_hk_rec_clock(void);
uint64_t __wrap_hk_rec_clock(void)
{
    return clock_stands_at != 0 ? clock_stands_at++ : __real_hk_rec_clock();
}

/* Half of what site i allocates, i + 1 blocks of 2 * (i + 1) bytes, it frees again. */
static void record(uint64_t bound)
{
    const char *why = NULL;
    struct hk_record_options options = {.mode = HK_MODE_EXACT, .path = helper_path, .path_is_new = true, .bound = bound,
                                        .fill_point = helper_fill_point, .host_counts = true};
    static struct fake_code codes[SITES];
    helper_reset();
    hk_rec_living_clear(false);
    unlink(helper_path);
    if (!hk_record_start(&options, &why))
        fail_msg("not started: %s", why);
    hk_record_set_source(&helper_source);
    if (clock_stands_at == 0)
        hk_rec.start_ns -= 60000000000u; /* it has run for a minute */
    for (int i = 0; i < SITES; i++) {
        char name[16];
        snprintf(name, sizeof name, "site%d", i);
        codes[i] = helper_code("program.py", name, i + 1);
        fake_depth = 0;
        helper_push(&codes[i / 2], 4);
        helper_push(&codes[i], 2);
        uint32_t site = hk_exact_site(2, 0);
        assert_int_not_equal(site, HK_EXACT_NONE);
        for (int k = 0; k <= i; k++) {
            hk_exact_birth(&hk_exact.counters[site], 2 * (size_t)(i + 1));
            hk_exact_shrink(&hk_exact.counters[site], (size_t)i + 1);
        }
    }
    hk_record_point("a point");
}

static void check_capture(struct hk_capture *capture, const struct hk_error *error)
{
    if (!capture)
        fail_msg("%s", error->text);
    struct hk_sites *sites = hk_sites_read(capture);
    int found = 0;
    assert_int_equal(sites->dropped, 0);
    assert_int_equal(capture->dropped, 0);
    for (size_t k = 0; k < sites->site_count; k++) {
        const struct hk_site *site = &sites->sites[k];
        int i = helper_site_number(hk_sites_where(sites, site).function);
        if (i < 0)
            continue;
        found++;
        assert_int_equal(site->live_bytes, (i + 1) * (i + 1));
        assert_int_equal(site->live_blocks, i + 1);
        assert_int_equal(site->total_bytes, 2 * (i + 1) * (i + 1));
    }
    assert_int_equal(found, SITES);
    bool named = false;
    for (size_t i = 0; i < capture->point_count; i++)
        named |= strcmp(hk_capture_string(capture, capture->points[i].name), "a point") == 0;
    assert_true(named);
    assert_true(capture->tables[HK_SECTION_MODULES].count > 1);
    hk_sites_free(sites);
    hk_capture_close(capture);
}

static void check_file(void)
{
    struct hk_error error;
    check_capture(hk_capture_open(helper_path, HK_OPEN_WHOLE, &error), &error);
}

static uint64_t length(void)
{
    struct stat st;
    assert_int_equal(stat(helper_path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    return (uint64_t)st.st_size;
}

static int count_files(void)
{
    DIR *directory = opendir(helper_directory);
    int count = 0;
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(directory);
    return count;
}

static void test_a_capture_is_as_long_as_what_is_in_it(void **state)
{
    static const uint64_t bounds[] = {8 << 20, 64 << 20, 512 << 20};
    uint64_t first = 0;
    for (size_t i = 0; i < 3; i++) {
        record(bounds[i]);
        assert_int_equal(length(), bounds[i]);
        mode_t mask = umask(0777);
        hk_record_exit(NULL);
        umask(mask);
        first = first ? first : length();
        assert_in_range(length(), first - 4096, first + 4096); /* whatever the bound */
        assert_true(length() < 256 << 10);
        assert_int_equal(count_files(), 1);
        check_file();
    }
}

static void test_a_reader_in_whose_midst_the_process_ends_sees_a_whole_capture(void **state)
{
    int reads = 0;
    for (int at = 1;; at++) {
        struct hk_error error;
        record(64 << 20);
        reads_until_exit = at;
        struct hk_capture *capture = hk_capture_open(helper_path, HK_OPEN_WHOLE, &error);
        bool over = reads_until_exit > 0;
        reads_until_exit = 0;
        check_capture(capture, &error);
        if (over)
            break;
        reads++;
        check_file();
    }
    assert_true(reads > 15);
}

static void test_killed_at_any_moment_of_its_end_a_process_leaves_a_whole_capture(void **state)
{
    for (enum point point = AT_OPEN; point < POINTS; point++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            record(64 << 20);
            killing = point;
            hk_record_exit(NULL);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        check_file();
        helper_teardown(NULL);
        helper_setup(NULL);
    }
}

static void test_where_no_copy_can_be_made_the_file_is_cut_and_nothing_is_left_behind(void **state)
{
    static const enum point points[] = {AT_OPEN, AT_WRITE, AT_RENAME, NOWHERE};
    for (size_t i = 0; i < 4; i++) {
        record(64 << 20);
        failing = points[i];
        writing_half = points[i] == NOWHERE;
        errno = 4711;
        hk_record_exit(NULL);
        assert_int_equal(errno, 4711);
        failing = writing_half = NOWHERE;
        assert_true(length() > 32 << 20 && length() < 64 << 20);
        assert_int_equal(count_files(), 1);
        check_file();
    }
}

static void test_what_ran_for_a_moment_does_not_pay_for_it(void **state)
{
    clock_stands_at = hk_rec_clock();
    record(64 << 20);
    killing = AT_OPEN;
    hk_record_exit(NULL);
    killing = NOWHERE;
    clock_stands_at = 0;
    assert_true(length() > 32 << 20);
    check_file();
}

/* Another link, or other permissions, would lead elsewhere afterwards, or be gone. */
static void test_a_file_that_others_have_a_hand_in_keeps_its_inode(void **state)
{
    char other[160];
    struct stat before, after;
    snprintf(other, sizeof other, "%s.link", helper_path);
    record(64 << 20);
    assert_int_equal(link(helper_path, other), 0);
    assert_int_equal(stat(helper_path, &before), 0);
    hk_record_exit(NULL);
    assert_int_equal(stat(other, &after), 0);
    assert_int_equal(after.st_ino, before.st_ino);
    assert_int_equal(stat(helper_path, &after), 0);
    assert_int_equal(after.st_ino, before.st_ino);
    unlink(other);
    check_file();

    record(64 << 20);
    assert_int_equal(rename(helper_path, other), 0); /* and one that is gone is not made again */
    hk_record_exit(NULL);
    assert_int_equal(access(helper_path, F_OK), -1);
    unlink(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_capture_is_as_long_as_what_is_in_it),
        cmocka_unit_test(test_a_reader_in_whose_midst_the_process_ends_sees_a_whole_capture),
        cmocka_unit_test(test_killed_at_any_moment_of_its_end_a_process_leaves_a_whole_capture),
        cmocka_unit_test(test_where_no_copy_can_be_made_the_file_is_cut_and_nothing_is_left_behind),
        cmocka_unit_test(test_what_ran_for_a_moment_does_not_pay_for_it),
        cmocka_unit_test(test_a_file_that_others_have_a_hand_in_keeps_its_inode),
    };
    return cmocka_run_group_tests(tests, helper_setup, helper_teardown);
}
