/* The recorder at its bound: more stacks, lines, names or disk than there is room for. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "record_helper.h"

#define BLOCK(i) ((const void *)(uintptr_t)(0x100000 + (uint64_t)(i)*16))

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

enum { FUNCTIONS = 20 };
static struct fake_code functions[FUNCTIONS], heavy, outer;

static void make_functions(void)
{
    for (int i = 0; i < FUNCTIONS; i++) {
        char name[16];
        snprintf(name, sizeof name, "step%d", i);
        functions[i] = helper_code("gen.py", name, i * 10);
    }
    heavy = helper_code("gen.py", "heavy", 500);
    outer = helper_code("gen.py", "main", 1);
}

/* One of 2^20 stacks: each bit of `path` chooses where in its function a call stands. */
static void push_path(uint32_t path)
{
    fake_depth = 0;
    helper_push(&outer, 2);
    for (int i = 0; i < FUNCTIONS; i++)
        helper_push(&functions[i], path >> i & 1 ? 10 : 4);
}

static uint64_t other_total(const struct capture *c)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < c->count[HK_SECTION_SITES]; i++)
        if (c->sites[i].flags & HK_SITE_OTHER)
            sum += c->sites[i].total_bytes;
    return sum;
}

static uint64_t total_by_name(const struct capture *c, const char *name)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < c->count[HK_SECTION_SITES]; i++) {
        uint32_t node = c->sites[i].node;
        if (node && strcmp(c->strings + c->codes[c->nodes[node].code].name, name) == 0)
            sum += c->sites[i].total_bytes;
    }
    return sum;
}

static void test_with_a_million_stacks_sums_agree_and_a_known_heavy_line_is_named(void **state)
{
    struct stat st;
    uint64_t heavy_bytes = 0;

    make_functions();
    helper_start(HK_MODE_SAMPLE, 64, 0);
    for (uint32_t i = 0; i < 1000000; i++) {
        push_path(i * 2654435761u >> 12);
        hk_record_allocation(BLOCK(i), 64, 64, 2);
        if (i % 8 != 0)
            hk_record_free(BLOCK(i));
        if (i % 10 == 0) { /* known from the first on, by ever new ways */
            helper_push(&heavy, 6);
            hk_record_allocation(BLOCK(2000000 + i), 4096, 64, 1);
            heavy_bytes += 4096;
        }
    }
    assert_int_equal(hk_record_check(), 0);
    hk_record_exit(NULL);
    assert_int_equal(stat(helper_path, &st), 0);
    assert_true(st.st_size <= HK_CAPTURE_BOUND);
    struct capture c = capture_read(helper_path);
    capture_check_sums(&c);
    assert_int_equal(c.status->now.samples, 1100000);
    assert_true(c.header->limits & HK_LIMIT_NODES);
    assert_false(c.header->limits & HK_LIMIT_SITES);
    assert_int_equal(total_by_name(&c, "heavy"), heavy_bytes);
    assert_int_equal(other_total(&c), 0);
    assert_true(total_by_name(&c, "step19") > 0);
    capture_free(&c);
}

static void test_more_lines_than_sites_go_to_other_of_their_domain(void **state)
{
    uint64_t total = 0;

    make_functions();
    helper_start(HK_MODE_EXACT, 0, 256 << 10);
    uint64_t capacity = hk_rec.section[HK_SECTION_SITES].capacity;
    for (uint32_t i = 0; i < capacity * 4; i++) {
        fake_depth = 0;
        helper_push(&outer, (int32_t)i);
        helper_push(&functions[0], (int32_t)i);
        hk_record_allocation(BLOCK(i), 100, 0, (int)(i % 4));
        total += 100;
    }
    assert_int_equal(hk_record_check(), 0);
    struct capture c = capture_read(helper_path);
    capture_check_sums(&c);
    assert_true(c.header->limits & HK_LIMIT_SITES);
    assert_true(other_total(&c) > total / 4);
    assert_int_equal(c.status->recorded_total_bytes, total);
    assert_int_equal(c.count[HK_SECTION_SITES], capacity);
    for (uint32_t d = 0; d < 4; d++)
        assert_int_equal(c.status->recorded_domain_total_bytes[d], total / 4);
    uint64_t limits = 0; /* each limit is told once */
    for (uint64_t i = 0; i < c.count[HK_SECTION_EVENTS]; i++)
        limits += c.events[i].kind == HK_EVENT_LIMIT;
    assert_int_equal(limits, 2);
    for (uint32_t i = 0; i < capacity * 4; i++)
        assert_true(hk_record_free(BLOCK(i)));
    assert_int_equal(hk_record_check(), 0);
    assert_int_equal(hk_rec_status()->recorded_live_bytes, 0);
    capture_free(&c);
}

static void test_more_codes_than_fit_leave_the_known_ones_named(void **state)
{
    struct fake_code code;

    make_functions();
    helper_start(HK_MODE_EXACT, 0, 0);
    for (uint32_t i = 0; i < 100000; i++) {
        char name[32];
        snprintf(name, sizeof name, "generated_%u", i);
        code = helper_code("template.html", name, (int)i);
        fake_depth = 0;
        helper_push(&outer, 2);
        helper_push(&heavy, 6);
        hk_record_allocation(BLOCK(2 * i), 1000, 0, 2);
        helper_push(&code, 2);
        hk_record_allocation(BLOCK(2 * i + 1), 10, 0, 2);
    }
    assert_int_equal(hk_record_check(), 0);
    struct capture c = capture_read(helper_path);
    capture_check_sums(&c);
    assert_int_equal(total_by_name(&c, "heavy"), 100000000);
    assert_true(c.header->limits & HK_LIMIT_SITES);
    capture_free(&c);
}

static void test_when_strings_run_out_line_tables_go_first_and_lines_stay_apart(void **state)
{
    static struct fake_code codes[400];
    uint64_t with_table = 0, with_name = 0;

    helper_start(HK_MODE_EXACT, 0, 256 << 10);
    for (int i = 0; i < 400; i++) {
        char name[64];
        snprintf(name, sizeof name, "a_function_with_a_long_name_to_fill_the_section_%d", i);
        codes[i] = helper_code("f.py", name, i);
        codes[i].table_size = sizeof codes[i].table;
        for (size_t j = 0; j < sizeof codes[i].table; j++)
            codes[i].table[j] = (uint8_t)next_random();
        hk_rec_code(&codes[i]); /* through the inside: sites would run out first */
    }
    struct capture c = capture_read(helper_path);
    assert_true(c.header->limits & HK_LIMIT_STRINGS);
    for (uint64_t i = 1; i < c.count[HK_SECTION_CODES]; i++) {
        with_table += c.codes[i].line_table != 0;
        with_name += c.codes[i].name != 0;
    }
    assert_true(with_table > 0 && with_name > with_table);
    assert_int_equal(hk_record_check(), 0);
    capture_free(&c);
}

static void test_addresses_come_and_go_without_bound(void **state)
{
    enum { SPREAD = 200000 };
    struct fake_code *codes = calloc(SPREAD, sizeof *codes);

    helper_start(HK_MODE_EXACT, 0, 0);
    for (int i = 0; i < SPREAD; i++) {
        codes[i] = helper_code("a.py", "f", 3);
        fake_depth = 0;
        helper_push(&codes[i], 2);
        hk_record_allocation(BLOCK(i), 8, 0, 0);
    }
    assert_int_equal(hk_rec.section[HK_SECTION_CODES].count, 2);
    assert_true(hk_rec.address_capacity <= 1 << 15);
    assert_int_equal(hk_record_check(), 0);
    free(codes);
}

static void test_a_full_disk_stops_the_record_and_not_the_program(void **state)
{
    char where[160];
    const char *why;

    snprintf(where, sizeof where, "%s/small", helper_directory);
    mkdir(where, 0700);
    if (mount("none", where, "tmpfs", 0, "size=400k") != 0) {
        print_message("mounting a small tmpfs is not allowed here\n");
        skip();
    }
    helper_start(HK_MODE_EXACT, 0, 0);
    helper_reset();
    make_functions();
    struct hk_record_options options = {
        .mode = HK_MODE_EXACT, .path_is_new = true, .fill_point = helper_fill_point};
    char path[200];
    snprintf(path, sizeof path, "%s/capture", where);
    options.path = path;
    assert_true(hk_record_start(&options, &why));
    hk_record_set_source(&helper_source);
    uint32_t i;
    for (i = 0; i < 100000 && hk_record_is_on(); i++) {
        push_path(i);
        hk_record_allocation(BLOCK(i), 64, 0, 2);
    }
    assert_true(i < 100000);
    hk_record_allocation(BLOCK(i), 64, 0, 2); /* from here on nothing happens */
    assert_false(hk_record_free(BLOCK(0)));
    hk_record_tick(1 << 30);
    hk_record_point("x");
    struct capture c = capture_read(path);
    assert_true(c.header->limits & HK_LIMIT_DISK);
    assert_int_equal(c.header->state, HK_STATE_RUNNING);
    capture_check_sums(&c);
    assert_true(c.status->recorded_total_bytes >= (i - 1) * 64);
    capture_free(&c);
    hk_record_exit(NULL);
    c = capture_read(path);
    assert_int_equal(c.header->state, HK_STATE_EXITED);
    capture_free(&c);

    /* and with no room at all it is refused, and nothing is left behind */
    helper_reset();
    char second[200];
    snprintf(second, sizeof second, "%s/second", where);
    int fd = open("/dev/zero", O_RDONLY), fill;
    char filler[200], page[4096];
    snprintf(filler, sizeof filler, "%s/filler", where);
    fill = open(filler, O_CREAT | O_WRONLY, 0600);
    while (read(fd, page, sizeof page) > 0 && write(fill, page, sizeof page) > 0)
        ;
    close(fd);
    close(fill);
    options.path = second;
    assert_false(hk_record_start(&options, &why));
    assert_non_null(strstr(why, "space"));
    assert_int_equal(access(second, F_OK), -1);
    umount(where);
}

/* A kernel before 5.14: madvise answers EINVAL to MADV_POPULATE_WRITE (23). For the rest of this
 * process. */
static bool become_an_old_kernel(void)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 23, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof rules / sizeof rules[0], rules};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void test_on_a_kernel_that_cannot_populate_the_whole_bound_is_allocated(void **state)
{
    pid_t pid = fork();

    if (pid == 0) {
        struct stat st;
        if (!become_an_old_kernel())
            _exit(77);
        make_functions();
        helper_start(HK_MODE_EXACT, 0, 1 << 20);
        if (stat(helper_path, &st) != 0 || st.st_blocks * 512 < 1 << 20)
            _exit(1);
        for (uint32_t i = 0; i < 5000; i++) {
            push_path(i);
            hk_record_allocation(BLOCK(i), 64, 0, 2);
        }
        if (hk_record_check() != 0)
            _exit(2);
        hk_record_exit(NULL);
        _exit(stat(helper_path, &st) == 0 && st.st_size <= 1 << 20 ? 0 : 3);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("a system call filter is not allowed here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
    struct capture c = capture_read(helper_path);
    capture_check_sums(&c);
    capture_free(&c);
}

static void test_a_file_size_limit_lowers_the_bound_and_kills_nobody(void **state)
{
    struct rlimit old, low;
    const char *why;
    struct hk_record_options options = {
        .mode = HK_MODE_EXACT, .path = helper_path, .path_is_new = true};

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 1 << 20;
    helper_reset();
    unlink(helper_path);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    bool started = hk_record_start(&options, &why);
    uint64_t bound = hk_rec.bound;
    low.rlim_cur = 8192;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    helper_reset();
    unlink(helper_path);
    bool refused = !hk_record_start(&options, &why);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_true(started);
    assert_int_equal(bound, 1 << 20);
    assert_true(refused);
    assert_non_null(strstr(why, "limit"));
    assert_int_equal(access(helper_path, F_OK), -1);
}

static void test_without_memory_for_the_table_totals_go_on(void **state)
{
    struct rlimit old, low;
    uint64_t total = 0;

    make_functions();
    helper_start(HK_MODE_EXACT, 0, 0);
    push_path(0);
    hk_record_allocation(BLOCK(0), 64, 0, 2);
    total += 64;
    assert_int_equal(getrlimit(RLIMIT_AS, &old), 0);
    low = old;
    low.rlim_cur = 1 << 20;
    assert_int_equal(setrlimit(RLIMIT_AS, &low), 0);
    for (uint32_t i = 1; i < 100000; i++, total += 64)
        hk_record_allocation(BLOCK(i), 64, 0, 2);
    setrlimit(RLIMIT_AS, &old);
    assert_int_equal(hk_record_check(), 0);
    assert_int_equal(hk_rec_status()->recorded_total_bytes, total);
    assert_true(hk_rec_header()->limits & HK_LIMIT_MEMORY);
    for (uint32_t i = 0; i < 100000; i++)
        hk_record_free(BLOCK(i));
    assert_int_equal(hk_rec_status()->recorded_live_bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_with_a_million_stacks_sums_agree_and_a_known_heavy_line_is_named),
        cmocka_unit_test(test_more_lines_than_sites_go_to_other_of_their_domain),
        cmocka_unit_test(test_more_codes_than_fit_leave_the_known_ones_named),
        cmocka_unit_test(test_when_strings_run_out_line_tables_go_first_and_lines_stay_apart),
        cmocka_unit_test(test_addresses_come_and_go_without_bound),
        cmocka_unit_test(test_a_full_disk_stops_the_record_and_not_the_program),
        cmocka_unit_test(test_on_a_kernel_that_cannot_populate_the_whole_bound_is_allocated),
        cmocka_unit_test(test_a_file_size_limit_lowers_the_bound_and_kills_nobody),
        cmocka_unit_test(test_without_memory_for_the_table_totals_go_on),
    };
    return cmocka_run_group_tests(tests, helper_setup, helper_teardown);
}
