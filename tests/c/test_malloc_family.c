/* The malloc family at its edges, as glibc has it: run with the library preloaded (meson.build), so every plain call
 * here is ours. errno, overflow, alignment, sizes of zero, every shape of realloc, forks with threads at work, signal
 * handlers, and the end of the process, when destructors still allocate. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

void *volatile sink; /* so that the compiler keeps the calls */

static void *keep(void *block)
{
    sink = block;
    return sink;
}

static const size_t sizes[] = {0, 1, 15, 16, 17, 511, 512, 513, 4095, 4096, 4097, 16384, 100000, 1 << 20, 40 << 20};

static bool is_ours(const void *block)
{
    void *(*heap_of)(const void *) = (void *(*)(const void *))dlsym(RTLD_DEFAULT, "hk_heap_of");
    return heap_of != NULL && heap_of(block) != NULL;
}

/* Like zlib's state, for each file of many. Before the other tests: what they free teaches libc. */
static void test_large_blocks_that_come_and_go_keep_their_pages(void **state)
{
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    for (int round = 0; round < 200; round++) {
        char *blocks[4];
        for (size_t i = 0; i < COUNT(blocks); i++)
            blocks[i] = memset(keep(malloc(64 << 10)), 1, 64 << 10);
        for (size_t i = 0; i < COUNT(blocks); i++)
            free(blocks[i]);
    }
    getrusage(RUSAGE_SELF, &after);
    assert_in_range(after.ru_minflt - before.ru_minflt, 0, 400); /* 64 are enough; thousands if they come back each time */
}

static void test_small_blocks_are_the_heaps_and_large_ones_libcs(void **state)
{
    void *small = keep(malloc(100)), *large = keep(malloc(100000));
    assert_true(is_ours(small));
    assert_false(is_ours(large));
    free(small);
    free(large);
}

static void test_every_size_can_be_written_whole_and_is_aligned(void **state)
{
    for (size_t i = 0; i < COUNT(sizes); i++) {
        char *block = keep(malloc(sizes[i]));
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % 16, 0);
        size_t usable = malloc_usable_size(block);
        assert_true(usable >= sizes[i]);
        memset(block, 0xa5, usable);
        free(block);
        block = keep(calloc(1, sizes[i]));
        for (size_t at = 0; at < sizes[i]; at++)
            if (block[at] != 0)
                fail_msg("calloc(1, %zu): byte %zu is %d", sizes[i], at, block[at]);
        free(block);
    }
}

static void test_zero_bytes_are_blocks_of_their_own(void **state)
{
    void *a = keep(malloc(0)), *b = keep(malloc(0)), *c = keep(calloc(0, 7)), *d = keep(calloc(7, 0));
    assert_non_null(a);
    assert_non_null(c);
    assert_non_null(d);
    assert_ptr_not_equal(a, b);
    assert_ptr_not_equal(c, d);
    free(a);
    free(b);
    free(c);
    free(d);
    assert_int_equal(malloc_usable_size(NULL), 0);
}

#define REFUSED(error, call)                    \
    do {                                        \
        errno = 0;                              \
        assert_null(keep(call));                \
        assert_int_equal(errno, error);         \
    } while (0)

static void test_what_cannot_be_had_is_refused_with_glibcs_errno(void **state)
{
    volatile size_t most = SIZE_MAX, half = SIZE_MAX / 2;
    void *volatile block = keep(malloc(100));
    memset(block, 7, 100);
    for (size_t less = 0; less < 100; less += 33) {
        REFUSED(ENOMEM, malloc(most - less));
        REFUSED(ENOMEM, malloc(half + 1 + less));
        REFUSED(ENOMEM, calloc(most - less, 1));
        REFUSED(ENOMEM, realloc(block, most - less));
        REFUSED(ENOMEM, realloc(NULL, half + 1 + less));
        REFUSED(ENOMEM, memalign(64, most - less));
        REFUSED(ENOMEM, aligned_alloc(64, most - less));
        REFUSED(ENOMEM, valloc(most - less));
        REFUSED(ENOMEM, pvalloc(most - less));
    }
    REFUSED(ENOMEM, calloc(half, 3));
    REFUSED(ENOMEM, calloc(3, half));
    REFUSED(ENOMEM, reallocarray(NULL, half, 3));
    REFUSED(ENOMEM, reallocarray(block, most, most));
    REFUSED(EINVAL, memalign(half + 2, 8));
    REFUSED(EINVAL, aligned_alloc(0, 8));
    REFUSED(EINVAL, aligned_alloc(48, 8));
    for (int i = 0; i < 100; i++)
        assert_int_equal(((char *)block)[i], 7);
    free(block);
}

static void test_posix_memalign_answers_by_its_result_and_leaves_errno(void **state)
{
    static const size_t wrong[] = {0, 1, 2, 4, 3, 12, 24, 4097};
    void *block = state;
    errno = 77;
    for (size_t i = 0; i < COUNT(wrong); i++)
        assert_int_equal(posix_memalign(&block, wrong[i], 8), EINVAL);
    assert_int_equal(posix_memalign(&block, 64, SIZE_MAX - 64), ENOMEM);
    assert_ptr_equal(block, state);
    assert_int_equal(errno, 77);
}

static void test_free_keeps_errno(void **state)
{
    for (size_t i = 0; i < COUNT(sizes); i++) {
        void *block = keep(malloc(sizes[i]));
        errno = 4711;
        free(block);
        assert_int_equal(errno, 4711);
    }
    free(NULL);
    assert_int_equal(errno, 4711);
}

static void test_every_alignment_holds_for_every_size_and_survives_realloc(void **state)
{
    for (size_t alignment = 8; alignment <= 1 << 20; alignment *= 2)
        for (size_t i = 0; i < COUNT(sizes) - 1; i++) {
            void *blocks[3];
            blocks[0] = keep(memalign(alignment, sizes[i]));
            blocks[1] = keep(aligned_alloc(alignment, sizes[i]));
            assert_int_equal(posix_memalign(&blocks[2], alignment, sizes[i]), 0);
            for (int b = 0; b < 3; b++) {
                assert_non_null(blocks[b]);
                assert_int_equal((uintptr_t)blocks[b] % alignment, 0);
                assert_true(malloc_usable_size(blocks[b]) >= sizes[i]);
                memset(blocks[b], b + 1, sizes[i]);
            }
            for (int b = 0; b < 3; b++) {
                char *grown = keep(realloc(blocks[b], sizes[i] + 5000));
                for (size_t at = 0; at < sizes[i]; at += 1 + at / 8)
                    assert_int_equal(grown[at], b + 1);
                free(grown);
            }
        }
    void *page = keep(valloc(10)), *pages = keep(pvalloc(4097)), *odd = keep(memalign(48, 100));
    assert_int_equal((uintptr_t)page % (size_t)sysconf(_SC_PAGESIZE), 0);
    assert_true(malloc_usable_size(pages) >= 2 * (size_t)sysconf(_SC_PAGESIZE));
    assert_int_equal((uintptr_t)odd % 64, 0);
    free(page);
    free(pages);
    free(odd);
}

static void test_realloc_keeps_what_both_sizes_hold(void **state)
{
    for (size_t from = 1; from < COUNT(sizes) - 1; from++)
        for (size_t to = 1; to < COUNT(sizes) - 1; to++) {
            unsigned char *block = keep(malloc(sizes[from]));
            for (size_t i = 0; i < sizes[from]; i++)
                block[i] = (unsigned char)(i * 31);
            block = keep(realloc(block, sizes[to]));
            assert_non_null(block);
            size_t least = sizes[from] < sizes[to] ? sizes[from] : sizes[to];
            for (size_t i = 0; i < least; i++)
                if (block[i] != (unsigned char)(i * 31))
                    fail_msg("realloc from %zu to %zu: byte %zu", sizes[from], sizes[to], i);
            free(block);
        }
    volatile size_t none = 0;
    assert_null(keep(realloc(malloc(100), none)));
    void *block = keep(realloc(NULL, none));
    assert_non_null(block);
    free(block);
    block = keep(reallocarray(NULL, 10, 20));
    assert_true(malloc_usable_size(block) >= 200);
    free(block);
}

static void test_figures_follow_what_is_allocated(void **state)
{
    enum { BLOCKS = 2000 };
    void *blocks[BLOCKS];
    size_t before = mallinfo2().uordblks;
    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = malloc(1000);
    size_t middle = mallinfo2().uordblks;
    assert_true(middle - before >= BLOCKS * 1000);
    for (int i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    assert_true(mallinfo2().uordblks < before + 100000);
    malloc_trim(0);
    assert_int_equal(mallopt(M_MMAP_THRESHOLD, 128 << 10), 1);
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    assert_int_equal(malloc_info(0, stream), 0);
    fclose(stream);
    assert_memory_equal(text, "<malloc version=", 16);
    free(text);
    errno = 0;
    assert_int_equal(malloc_info(1, stderr), -1);
    assert_int_equal(errno, EINVAL);
}

/* --- signals --- */

static volatile sig_atomic_t handled;

static void allocating_handler(int number)
{
    for (size_t i = 0; i < 200; i++)
        free(malloc(i * 40));
    handled++;
}

static void test_a_handler_that_interrupts_no_malloc_may_allocate(void **state)
{
    signal(SIGUSR1, allocating_handler);
    for (int i = 0; i < 20; i++) {
        void *block = keep(malloc((size_t)i * 100));
        raise(SIGUSR1);
        free(block);
    }
    assert_int_equal(handled, 20);
    signal(SIGUSR1, SIG_DFL);
}

/* --- threads and forks --- */

static volatile bool stop;

static void *churn(void *argument)
{
    void *blocks[64] = {NULL};
    unsigned random = (unsigned)(uintptr_t)argument;
    while (!stop) {
        random = random * 1103515245 + 12345;
        unsigned i = random >> 8 & 63;
        free(blocks[i]);
        blocks[i] = malloc(random >> 16 & 8191);
    }
    for (int i = 0; i < 64; i++)
        free(blocks[i]);
    return NULL;
}

static void child_works(void)
{
    void *blocks[500];
    for (size_t i = 0; i < COUNT(blocks); i++) {
        blocks[i] = malloc(i * 20);
        memset(blocks[i], 1, i * 20);
    }
    for (size_t i = 0; i < COUNT(blocks); i++)
        free(blocks[i]);
    pthread_t thread;
    stop = true;
    if (pthread_create(&thread, NULL, churn, NULL) != 0 || pthread_join(thread, NULL) != 0)
        _exit(3);
    _exit(0);
}

static void test_children_forked_while_threads_allocate_can_allocate(void **state)
{
    pthread_t threads[3];
    stop = false;
    for (uintptr_t i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)), 0);
    for (int i = 0; i < 50; i++) {
        int status = -1;
        pid_t pid = fork();
        if (pid == 0) {
            alarm(20);
            child_works();
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
    stop = true;
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_join(threads[i], NULL);
}

static void *print_stats(void *argument)
{
    *(volatile pid_t *)argument = gettid();
    malloc_stats();
    return NULL;
}

/* 'S': it waits in the kernel. */
static char state_of_thread(pid_t thread)
{
    char path[64], text[256] = "";
    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)thread);
    int file = open(path, O_RDONLY);
    if (file >= 0 && read(file, text, sizeof(text) - 1) < 0)
        text[0] = '\0';
    close(file);
    const char *after_name = strrchr(text, ')');
    return after_name != NULL && after_name[1] == ' ' ? after_name[2] : '?';
}

static void test_a_child_forked_while_a_thread_cannot_print_its_statistics_prints_its_own(void **state)
{
    int pipes[2], status = -1, real = dup(2);
    char filler[4096] = {0};
    volatile pid_t writer = 0;
    pthread_t thread;
    assert_int_equal(pipe2(pipes, O_NONBLOCK), 0);
    while (write(pipes[1], filler, sizeof(filler)) > 0) /* full */
        ;
    assert_int_equal(fcntl(pipes[1], F_SETFL, 0), 0);
    dup2(pipes[1], 2);
    close(pipes[1]);
    assert_int_equal(pthread_create(&thread, NULL, print_stats, (void *)&writer), 0);
    while (writer == 0 || state_of_thread(writer) != 'S')
        usleep(1000);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        dup2(open("/dev/null", O_WRONLY), 2);
        malloc_stats();
        _exit(0);
    }
    waitpid(pid, &status, 0);
    while (pthread_tryjoin_np(thread, NULL) != 0)
        if (read(pipes[0], filler, sizeof(filler)) < 0)
            usleep(1000);
    dup2(real, 2);
    close(real);
    close(pipes[0]);
    assert_int_equal(status, 0);
}

/* Blocks of a thread that has ended are freed by another. */
static void *give_blocks(void *argument)
{
    void **blocks = malloc(1000 * sizeof(void *));
    for (size_t i = 0; i < 1000; i++)
        memset(blocks[i] = malloc(i * 7), (int)i, i * 7);
    return blocks;
}

static void test_blocks_outlive_their_thread(void **state)
{
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, give_blocks, NULL);
    pthread_join(thread, &result);
    unsigned char **blocks = result;
    for (size_t i = 0; i < 1000; i++) {
        assert_true(i == 0 || blocks[i][i * 7 - 1] == (unsigned char)i);
        free(blocks[i]);
    }
    free(blocks);
}

/* --- the end --- */

static void *from_main;

static void at_exit_allocates(void)
{
    free(from_main);
    for (size_t i = 0; i < 2000; i++)
        free(malloc(i * 10));
    if (write(1, "atexit ", 7) != 7)
        abort();
}

__attribute__((destructor)) static void destructor_allocates(void)
{
    if (from_main == NULL)
        return;
    char *last = strdup("destructor\n");
    if (write(1, last, strlen(last)) < 0)
        abort();
    free(last);
}

static void test_the_end_of_the_process_allocates_still(void **state)
{
    int pipes[2], status = -1;
    char text[64] = "";
    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pipes[1], 1);
        from_main = malloc(3000);
        atexit(at_exit_allocates);
        exit(0);
    }
    close(pipes[1]);
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    for (size_t at = 0; at < sizeof(text) - 1;) {
        ssize_t got = read(pipes[0], text + at, sizeof(text) - 1 - at);
        if (got <= 0)
            break;
        at += (size_t)got;
    }
    close(pipes[0]);
    assert_non_null(strstr(text, "atexit destructor\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_large_blocks_that_come_and_go_keep_their_pages),
        cmocka_unit_test(test_small_blocks_are_the_heaps_and_large_ones_libcs),
        cmocka_unit_test(test_every_size_can_be_written_whole_and_is_aligned),
        cmocka_unit_test(test_zero_bytes_are_blocks_of_their_own),
        cmocka_unit_test(test_what_cannot_be_had_is_refused_with_glibcs_errno),
        cmocka_unit_test(test_posix_memalign_answers_by_its_result_and_leaves_errno),
        cmocka_unit_test(test_free_keeps_errno),
        cmocka_unit_test(test_every_alignment_holds_for_every_size_and_survives_realloc),
        cmocka_unit_test(test_realloc_keeps_what_both_sizes_hold),
        cmocka_unit_test(test_figures_follow_what_is_allocated),
        cmocka_unit_test(test_a_handler_that_interrupts_no_malloc_may_allocate),
        cmocka_unit_test(test_children_forked_while_threads_allocate_can_allocate),
        cmocka_unit_test(test_a_child_forked_while_a_thread_cannot_print_its_statistics_prints_its_own),
        cmocka_unit_test(test_blocks_outlive_their_thread),
        cmocka_unit_test(test_the_end_of_the_process_allocates_still),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
