/* The recorder and processes that split: fork with and without handlers, from threads, from
 * signal handlers; and processes that are killed. Each test runs in a process of its own, as
 * children end by _exit. */
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

#include "record_helper.h"

#define BLOCK(i) ((const void *)(uintptr_t)(0x100000 + (uint64_t)(i)*16))

static struct fake_code parent_code, child_code;

static bool child_path(char *buffer, size_t capacity, uint32_t attempt)
{
    snprintf(buffer, capacity, "%s.%d.%u", helper_path, (int)getpid(), attempt);
    return true;
}

static void start(void)
{
    static bool handlers;

    helper_start(HK_MODE_EXACT, 0, 0);
    hk_rec.options.child_path = child_path;
    parent_code = helper_code("p.py", "parent", 1);
    child_code = helper_code("c.py", "child", 2);
    if (!handlers)
        pthread_atfork(hk_record_fork_prepare, hk_record_fork_parent, hk_record_fork_child);
    handlers = true;
}

static void allocate(const struct fake_code *code, uint64_t block, size_t bytes)
{
    fake_depth = 0;
    helper_push(code, 2);
    hk_record_allocation(BLOCK(block), bytes, 0, 2);
}

static int wait_for(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static struct capture read_child(pid_t pid)
{
    char path[200];
    snprintf(path, sizeof path, "%s.%d.0", helper_path, (int)pid);
    return capture_read(path);
}

static bool child_has_file(pid_t pid)
{
    char path[200];
    snprintf(path, sizeof path, "%s.%d.0", helper_path, (int)pid);
    return access(path, F_OK) == 0;
}

static void child_works(void)
{
    hk_record_free(BLOCK(1)); /* the parent's, inherited */
    allocate(&child_code, 100, 7);
    allocate(&parent_code, 101, 9);
    hk_record_free(BLOCK(2));
    int broken = hk_record_check();
    hk_record_exit(NULL);
    _exit(broken ? 100 + broken : 0);
}

static void check_parent_and_child(pid_t pid)
{
    int status = wait_for(pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    allocate(&parent_code, 4, 50);
    assert_int_equal(hk_record_check(), 0);

    struct capture c = capture_read(helper_path); /* the parent's: nothing of the child */
    capture_check_sums(&c);
    assert_null(capture_find_site(&c, "child", 2));
    const struct hk_capture_site *s = capture_find_site(&c, "parent", 2);
    assert_int_equal(s->live_bytes, 10 + 20 + 30 + 50);
    assert_int_equal(s->total_bytes, 10 + 20 + 30 + 50);
    assert_int_equal(c.header->forked, 0);
    capture_free(&c);

    c = read_child(pid);
    capture_check_sums(&c);
    assert_int_equal(c.header->forked, 1);
    assert_int_equal(c.header->pid, pid);
    assert_int_equal(c.header->parent_pid, getpid());
    assert_int_equal(c.header->state, HK_STATE_EXITED);
    s = capture_find_site(&c, "parent", 2);
    assert_int_equal(s->inherited_bytes, 30); /* 10 and 20 were freed */
    assert_int_equal(s->live_bytes, 30 + 9);
    assert_int_equal(s->total_bytes, 9);
    s = capture_find_site(&c, "child", 2);
    assert_int_equal(s->live_bytes, 7);
    assert_int_equal(s->inherited_bytes, 0);
    assert_int_equal(c.status->recorded_total_bytes, 16);
    assert_int_equal(c.status->now.allocated_bytes, 5000);
    capture_free(&c);
}

static void parent_allocates(void)
{
    allocate(&parent_code, 1, 10);
    allocate(&parent_code, 2, 20);
    allocate(&parent_code, 3, 30);
    fake_heap.allocated_bytes = 1000000;
    hk_record_point(NULL);
}

static void test_after_fork_parent_and_child_are_both_right(void **state)
{
    start();
    parent_allocates();
    pid_t pid = fork();
    if (pid == 0) {
        fake_heap.allocated_bytes += 5000;
        child_works();
    }
    check_parent_and_child(pid);
}

static void test_after_a_raw_clone_parent_and_child_are_both_right(void **state)
{
    start();
    parent_allocates();
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0);
    if (pid == 0) {
        hk_record_tick(fake_heap.allocated_bytes); /* the first the recorder hears of it */
        fake_heap.allocated_bytes += 5000;
        child_works();
    }
    check_parent_and_child(pid);
}

static void test_a_child_that_records_nothing_leaves_no_file(void **state)
{
    start();
    parent_allocates();
    pid_t pid = fork();
    if (pid == 0) {
        hk_record_free(BLOCK(1));
        hk_record_set_watch(HK_WATCH_UNKNOWN, NULL);
        hk_record_exit(NULL);
        _exit(0);
    }
    assert_int_equal(wait_for(pid), 0);
    assert_false(child_has_file(pid));
    pid = fork();
    if (pid == 0) {
        execl("/bin/true", "true", NULL);
        _exit(1);
    }
    assert_int_equal(wait_for(pid), 0);
    assert_false(child_has_file(pid));
    assert_int_equal(hk_rec_status()->recorded_live_bytes, 60);
    assert_int_equal(hk_record_check(), 0);
}

static void test_what_the_parent_records_after_the_fork_is_not_in_the_child(void **state)
{
    int to_child[2], to_parent[2];
    char byte = 0;

    start();
    parent_allocates();
    assert_int_equal(pipe(to_child) | pipe(to_parent), 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (read(to_child[0], &byte, 1) != 1)
            _exit(99);
        fake_heap.allocated_bytes += 5000;
        child_works();
    }
    struct fake_code late = helper_code("p.py", "late", 9);
    for (int i = 0; i < 5000; i++) { /* new strings, codes, nodes and sites */
        snprintf(late.name, sizeof late.name, "late%d", i);
        late.line = i;
        allocate(&late, 1000 + (uint64_t)i, 1);
        hk_record_free(BLOCK(1000 + i));
    }
    assert_int_equal(write(to_child[1], &byte, 1), 1);
    check_parent_and_child(pid);
    struct capture c = read_child(pid);
    assert_null(capture_find_site(&c, "late7", 2));
    assert_true(c.count[HK_SECTION_SITES] < 10);
    capture_free(&c);
}

static void test_a_small_child_becomes_one_record(void **state)
{
    char children[200];
    struct hk_capture_child records[4];

    start();
    parent_allocates();
    snprintf(children, sizeof children, "%s.children", helper_path);
    for (int i = 0; i < 3; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            allocate(&child_code, 100, 7);
            fake_heap.allocated_bytes += 10 + (uint64_t)i;
            fake_heap.live_bytes = 300;
            hk_record_exit(children);
            _exit(0);
        }
        assert_int_equal(wait_for(pid), 0);
        assert_false(child_has_file(pid));
        int fd = open(children, O_RDONLY);
        assert_int_equal(read(fd, records, sizeof records), (i + 1) * 128);
        close(fd);
        assert_int_equal(records[i].pid, pid);
        assert_int_equal(records[i].allocated_bytes, 10 + i);
        assert_int_equal(records[i].peak_bytes, 300);
        assert_true(records[i].peak_rss_bytes > 0 && records[i].start_realtime_ns > 0);
        assert_memory_equal(records[i].name, program_invocation_short_name,
                            strlen(program_invocation_short_name));
    }
    pid_t pid = fork();
    if (pid == 0) { /* where the record cannot be written the capture stays */
        allocate(&child_code, 100, 7);
        hk_record_exit("/nowhere/children");
        _exit(0);
    }
    assert_int_equal(wait_for(pid), 0);
    struct capture c = read_child(pid);
    assert_int_equal(c.header->state, HK_STATE_EXITED);
    capture_free(&c);
}

static void test_grandchildren_have_captures_of_their_own(void **state)
{
    start();
    parent_allocates();
    pid_t pid = fork();
    if (pid == 0) { /* records nothing itself */
        pid_t grandchild = fork();
        if (grandchild == 0)
            child_works();
        int status;
        waitpid(grandchild, &status, 0);
        hk_record_exit(NULL);
        struct capture c = read_child(grandchild);
        capture_check_sums(&c);
        _exit(status == 0 && capture_find_site(&c, "parent", 2)->inherited_bytes == 30 ? 0 : 1);
    }
    assert_int_equal(wait_for(pid), 0);
    assert_false(child_has_file(pid));
}

static void test_without_a_path_the_child_records_into_unnamed_memory(void **state)
{
    start();
    hk_rec.options.child_path = NULL;
    parent_allocates();
    pid_t pid = fork();
    if (pid == 0) {
        allocate(&child_code, 100, 7);
        _exit(hk_record_check() == 0 && !hk_rec.named && hk_rec_status()->recorded_live_bytes == 67
                  ? 0
                  : 1);
    }
    assert_int_equal(wait_for(pid), 0);
    assert_false(child_has_file(pid));
}

static void *allocate_all_the_time(void *stop)
{
    for (uint64_t i = 0; !__atomic_load_n((int *)stop, __ATOMIC_RELAXED); i++) {
        hk_record_allocation(BLOCK(5000 + i % 1000), 64, 0, 0);
        hk_record_free(BLOCK(5000 + i % 1000));
        if (i % 64 == 0)
            hk_record_tick(i * 1000);
    }
    return NULL;
}

static void run_children_beside_threads(bool raw)
{
    pthread_t threads[2];
    int stop = 0;

    start();
    parent_allocates();
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, allocate_all_the_time, &stop), 0);
    for (int i = 0; i < 60; i++) {
        pid_t pid = raw ? (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0) : fork();
        if (pid == 0) {
            for (int j = 0; j < 20; j++)
                hk_record_allocation(BLOCK(100 + j), 7, 0, 2);
            int broken = hk_record_check();
            hk_record_exit(NULL);
            _exit(broken ? 100 + broken : 0);
        }
        assert_int_equal(wait_for(pid), 0);
        struct capture c = read_child(pid);
        capture_check_sums(&c);
        assert_int_equal(c.status->recorded_total_bytes, 140);
        const struct hk_capture_site *s = capture_find_site(&c, "parent", 2);
        assert_true(raw || s->inherited_bytes == 60);
        capture_free(&c);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(hk_record_check(), 0);
    assert_int_equal(hk_rec_status()->recorded_live_bytes, 60);
}

static void test_fork_while_threads_record(void **state)
{
    run_children_beside_threads(false);
}

static void test_raw_clone_while_threads_record(void **state)
{
#ifdef __SANITIZE_THREAD__
    skip(); /* TSan does not see a raw clone: in the child it takes the parent's threads for alive */
#endif
    run_children_beside_threads(true);
}

/* --- signal handlers ------------------------------------------------------------------------- */

static volatile int handled, in_source;
static void (*in_handler)(void);

static void on_signal(int number)
{
    handled++;
    in_handler();
}

static int interrupted_stack(int domain, struct hk_frame *frames, int max, uint8_t *flags, struct hk_stack_known *known)
{
    if (in_source) {
        in_source = 0;
        raise(SIGUSR1); /* arrives here, with the recorder's lock held */
    }
    return helper_stack(domain, frames, max, flags, known);
}

static void interrupt_with(void (*handler)(void))
{
    struct hk_stack_source source = helper_source;

    source.stack = interrupted_stack;
    hk_record_set_source(&source);
    in_handler = handler;
    handled = 0;
    signal(SIGUSR1, on_signal);
    in_source = 1;
    allocate(&parent_code, 5, 500);
    assert_int_equal(handled, 1);
    signal(SIGUSR1, SIG_DFL);
}

static void use_the_recorder(void)
{
    hk_record_free(BLOCK(1));
    hk_record_allocation(BLOCK(1), 77, 0, 1); /* lost */
    hk_record_free(BLOCK(2));
    hk_record_tick(1 << 30);
    hk_record_point("in a handler");
}

static void test_a_signal_handler_inside_a_hook_is_turned_away_and_its_frees_are_kept(void **state)
{
    start();
    parent_allocates();
    interrupt_with(use_the_recorder);
    assert_int_equal(hk_rec_status()->recorded_live_bytes, 30 + 500);
    assert_int_equal(hk_record_table_size(), 2);
    assert_int_equal(hk_record_check(), 0);
    hk_record_point(NULL);
    assert_int_equal(hk_rec_status()->now.skipped, 2);
}

static pid_t forked_in_handler;

static void fork_in_handler(void)
{
    forked_in_handler = fork();
}

static void test_a_signal_handler_that_forks_inside_a_hook_harms_neither(void **state)
{
    start();
    parent_allocates();
    pid_t self = getpid();
    interrupt_with(fork_in_handler);
    if (getpid() != self) {
        allocate(&child_code, 100, 7);
        hk_record_free(BLOCK(3));
        hk_record_tick(1 << 30);
        hk_record_exit(NULL);
        _exit(0);
    }
    assert_int_equal(wait_for(forked_in_handler), 0);
    assert_int_equal(hk_rec_status()->recorded_live_bytes, 60 + 500);
    assert_int_equal(hk_record_check(), 0);
}

static void test_signals_at_any_moment_neither_block_nor_corrupt(void **state)
{
    struct itimerval {
        struct timeval every, next;
    } timer = {{0, 50}, {0, 50}}, none = {{0, 0}, {0, 0}};

    start();
    parent_allocates();
    in_handler = use_the_recorder;
    handled = 0;
    signal(SIGALRM, on_signal);
    assert_int_equal(syscall(SYS_setitimer, 0, &timer, NULL), 0);
    for (uint64_t i = 0; handled < 2000; i++) {
        allocate(&child_code, 10 + i % 100, 64);
        hk_record_free(BLOCK(10 + (i * 7) % 100));
        hk_record_tick(i);
    }
    assert_int_equal(syscall(SYS_setitimer, 0, &none, NULL), 0);
    signal(SIGALRM, SIG_DFL);
    assert_int_equal(hk_record_check(), 0);
    struct capture c = capture_read(helper_path);
    capture_check_sums(&c);
    capture_free(&c);
}

static void *record_while_cancelled(void *unused)
{
    pthread_cancel(pthread_self());
    hk_record_tick(UINT64_C(1) << 40);
    hk_record_point("reads files, which are places to be cancelled at");
    allocate(&child_code, 70, 7);
    hk_record_free(BLOCK(70));
    *(int *)unused = 1;
    pthread_testcancel();
    return NULL;
}

static void test_a_cancelled_thread_does_not_end_inside_a_hook(void **state)
{
    pthread_t thread;
    int came_out = 0;

    start();
    parent_allocates();
    hk_rec.next_modules_ns = 1;
    assert_int_equal(pthread_create(&thread, NULL, record_while_cancelled, &came_out), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(came_out);
    assert_int_equal(hk_rec.lock.word, 0);
    assert_int_equal(hk_record_check(), 0);
}

/* --- killed ---------------------------------------------------------------------------------- */

static void write_until_killed(int pipe_end, unsigned seed)
{
    uint64_t counters[2] = {0, 0}, r = seed * 2654435761u + 1;
    struct fake_code codes[64];

    for (int i = 0; i < 64; i++) {
        char name[16];
        snprintf(name, sizeof name, "k%d", i);
        codes[i] = helper_code("k.py", name, i);
    }
    helper_start(HK_MODE_SAMPLE, 4096, 0);
    for (uint64_t i = 0;; i++) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        if (i % 4 == 0)
            fake_depth = 0;
        helper_push(&codes[r >> 58], (int32_t)(r >> 40 & 62));
        hk_record_allocation(BLOCK(i % 20000), 100 + (r >> 50), 4096, (int)(r >> 62));
        hk_record_free(BLOCK(r >> 33 & 16383));
        fake_heap.allocated_bytes += 65536;
        fake_heap.allocated_blocks =
            fake_heap.allocated_bytes / 64; /* readers can tell a torn point by these */
        fake_heap.live_bytes = fake_heap.allocated_bytes ^ 0x5555;
        hk_record_tick(fake_heap.allocated_bytes);
        if (i == 1000)
            assert_int_equal(write(pipe_end, counters, 1), 1); /* well under way */
    }
}

static void check_point(const struct hk_capture_point *p)
{
    if (p->sequence % 2 || p->allocated_bytes == 0)
        return;
    assert_int_equal(p->allocated_blocks, p->allocated_bytes / 64);
    assert_int_equal(p->live_bytes, p->allocated_bytes ^ 0x5555);
}

static void test_killed_at_a_random_moment_the_file_is_valid(void **state)
{
    for (unsigned round = 0; round < 40; round++) {
        int ends[2];
        char byte;
        assert_int_equal(pipe(ends), 0);
        pid_t pid = fork();
        if (pid == 0) {
            write_until_killed(ends[1], round);
            _exit(1);
        }
        assert_int_equal(read(ends[0], &byte, 1), 1);
        usleep(round * 911 % 20000); /* any moment will do */
        kill(pid, SIGKILL);
        wait_for(pid);
        close(ends[0]);
        close(ends[1]);
        struct capture c = capture_read(helper_path);
        assert_int_equal(c.header->state, HK_STATE_RUNNING);
        check_point(&c.status->now);
        for (uint64_t i = 0;
             i < c.count[HK_SECTION_TIMELINE] && c.status->timeline_sequence % 2 == 0; i++)
            check_point(&c.timeline[i]);
        uint64_t live = 0, total = 0, largest = 4096 * 2 + 20000;
        for (uint64_t i = 0; i < c.count[HK_SECTION_SITES]; i++) {
            live += c.sites[i].live_bytes;
            total += c.sites[i].total_bytes;
        }
        /* at most one event was under way */
        assert_in_range(live + largest, c.status->recorded_live_bytes,
                        c.status->recorded_live_bytes + 2 * largest);
        assert_in_range(total + largest, c.status->recorded_total_bytes,
                        c.status->recorded_total_bytes + 2 * largest);
        capture_free(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_after_fork_parent_and_child_are_both_right),
        cmocka_unit_test(test_after_a_raw_clone_parent_and_child_are_both_right),
        cmocka_unit_test(test_a_child_that_records_nothing_leaves_no_file),
        cmocka_unit_test(test_what_the_parent_records_after_the_fork_is_not_in_the_child),
        cmocka_unit_test(test_a_small_child_becomes_one_record),
        cmocka_unit_test(test_grandchildren_have_captures_of_their_own),
        cmocka_unit_test(test_without_a_path_the_child_records_into_unnamed_memory),
        cmocka_unit_test(test_fork_while_threads_record),
        cmocka_unit_test(test_raw_clone_while_threads_record),
        cmocka_unit_test(test_a_signal_handler_inside_a_hook_is_turned_away_and_its_frees_are_kept),
        cmocka_unit_test(test_a_signal_handler_that_forks_inside_a_hook_harms_neither),
        cmocka_unit_test(test_signals_at_any_moment_neither_block_nor_corrupt),
        cmocka_unit_test(test_a_cancelled_thread_does_not_end_inside_a_hook),
        cmocka_unit_test(test_killed_at_a_random_moment_the_file_is_valid),
    };
    return cmocka_run_group_tests(tests, helper_setup, helper_teardown);
}
