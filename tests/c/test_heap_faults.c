/* Every call of the system fails once.
 *
 * The calls that the library makes (mmap, munmap, mremap, mprotect, madvise, posix_fallocate, ...) are led through this
 * file by the linker (--wrap), where one can fail: the n-th, or the n-th and all that follow; so can the C allocator's.
 * A child does a long program of heap operations: a heap of each source and lock is made, worked, trimmed and ended; or
 * something is recorded. Whatever fails, a call returns NULL or something else is used instead; contents stay, the heap passes its
 * checks, and when calls succeed again everything can be had again. This for every n, until there is no n-th call. */
#include "heap_program.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "record/record.h"

static struct {
    uint64_t calls;              /* so far */
    uint64_t fail_at, fail_from; /* 1: the first; 0: none */
    uint64_t failed;
    bool libc_too; /* calls of the C allocator count as well */
} faults;

static bool is_failing(void)
{
    uint64_t n = ++faults.calls;
    bool fails = n == faults.fail_at || (faults.fail_from != 0 && n >= faults.fail_from);
    faults.failed += fails;
    if (fails)
        errno = ENOMEM;
    return fails;
}

void *__real_mmap(void *start, size_t size, int protection, int flags, int file, off_t offset);
void *__wrap_mmap(void *start, size_t size, int protection, int flags, int file, off_t offset);
void *__wrap_mmap(void *start, size_t size, int protection, int flags, int file, off_t offset)
{
    return is_failing() ? MAP_FAILED : __real_mmap(start, size, protection, flags, file, offset);
}

int __real_munmap(void *start, size_t size);
int __wrap_munmap(void *start, size_t size);
int __wrap_munmap(void *start, size_t size)
{
    return is_failing() ? -1 : __real_munmap(start, size);
}

void *__real_mremap(void *start, size_t old, size_t size, int flags, void *to);
void *__wrap_mremap(void *start, size_t old, size_t size, int flags, void *to);
void *__wrap_mremap(void *start, size_t old, size_t size, int flags, void *to)
{
    return is_failing() ? MAP_FAILED : __real_mremap(start, old, size, flags, to);
}

int __real_mprotect(void *start, size_t size, int protection);
int __wrap_mprotect(void *start, size_t size, int protection);
int __wrap_mprotect(void *start, size_t size, int protection)
{
    return is_failing() ? -1 : __real_mprotect(start, size, protection);
}

int __real_madvise(void *start, size_t size, int advice);
int __wrap_madvise(void *start, size_t size, int advice);
int __wrap_madvise(void *start, size_t size, int advice)
{
    return is_failing() ? -1 : __real_madvise(start, size, advice);
}

int __real_posix_fallocate(int file, off_t offset, off_t size);
int __wrap_posix_fallocate(int file, off_t offset, off_t size);
int __wrap_posix_fallocate(int file, off_t offset, off_t size)
{
    return is_failing() ? ENOSPC : __real_posix_fallocate(file, offset, size);
}

int __real_ftruncate(int file, off_t size);
int __wrap_ftruncate(int file, off_t size);
int __wrap_ftruncate(int file, off_t size)
{
    return is_failing() ? -1 : __real_ftruncate(file, size);
}

int __real_pthread_key_create(pthread_key_t *key, void (*end)(void *));
int __wrap_pthread_key_create(pthread_key_t *key, void (*end)(void *));
int __wrap_pthread_key_create(pthread_key_t *key, void (*end)(void *))
{
    return is_failing() ? EAGAIN : __real_pthread_key_create(key, end);
}

int __real_pthread_setspecific(pthread_key_t key, const void *value);
int __wrap_pthread_setspecific(pthread_key_t key, const void *value);
int __wrap_pthread_setspecific(pthread_key_t key, const void *value)
{
    return is_failing() ? ENOMEM : __real_pthread_setspecific(key, value);
}

/* The recorder calls these by number, so that nobody's interposition sees them. */
long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    bool counts = number == SYS_openat || number == SYS_read || number == SYS_write;
    return counts && is_failing() ? -1 : __real_syscall(number, a, b, c, d, e, f);
}

/* ---- the C allocator ---- */

static struct hk_libc usual;

static void *may_malloc(size_t size)
{
    return faults.libc_too && is_failing() ? NULL : usual.malloc(size);
}

static void *may_calloc(size_t count, size_t size)
{
    return faults.libc_too && is_failing() ? NULL : usual.calloc(count, size);
}

static void *may_realloc(void *block, size_t size)
{
    return faults.libc_too && is_failing() ? NULL : usual.realloc(block, size);
}

static int may_memalign(void **block, size_t alignment, size_t size)
{
    return faults.libc_too && is_failing() ? ENOMEM : usual.memalign(block, alignment, size);
}

/* ---- the program ---- */

#define LARGE ((size_t)20 << 20)

static struct program program;
static char buffer[1 << 20];

static hk_heap *heap_make(hk_source source, hk_lock_mode lock, bool large_from_source, int file)
{
    return hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = lock, .source = source,
                                             .large_from_source = large_from_source, .file = file, .buffer = buffer,
                                             .buffer_size = sizeof(buffer)});
}

/* A block that makes the heap so large that it asks for huge pages. */
static void large_block(hk_heap *heap)
{
    char *block = hk_malloc(heap, LARGE);
    if (block == NULL) {
        program.refused++;
        return;
    }
    block[0] = block[LARGE - 1] = 1;
    char *moved = hk_realloc(heap, block, 2 * LARGE);
    CHILD_CHECK(moved == NULL || (moved[0] == 1 && moved[LARGE - 1] == 1));
    program.refused += moved == NULL;
    hk_free(heap, moved != NULL ? moved : block);
}

/* Works a heap until nothing is left in it. Returns how often it said NULL. */
static uint64_t work(hk_heap *heap, uint64_t seed, int steps)
{
    memset(&program, 0, sizeof(program));
    program.heap = heap;
    program.random = seed;
    program.largest = 300000;
    errno = 12345;
    program_run(&program, steps);
    if (!heap->is_closed || heap->source != HK_SOURCE_BUFFER)
        large_block(heap);
    hk_heap_trim(heap);
    program_run(&program, steps);
    if (heap->is_closed) /* the C allocator sets errno where it refuses */
        CHILD_CHECK(errno == 12345);
    program_end(&program);
    if (program.wrong)
        fprintf(stderr, "heap_program.h:%d, source %d, lock %d\n", program.wrong, heap->source, heap->mode);
    CHILD_CHECK(program.wrong == 0);
    CHILD_CHECK(disagreement(heap) == 0);
    return program.refused;
}

enum { KINDS = 24 };

/* Returns how often there was NULL; a buffer may be full. */
static uint64_t heap_of_kind(int kind, int steps)
{
    hk_lock_mode lock = (hk_lock_mode)(kind % 3);
    hk_source source = (hk_source)(kind / 3 % 4);
    if (source == HK_SOURCE_BUFFER && lock == HK_LOCK_THREADS)
        return 0;
    int file = memfd_create("faults", 0);
    hk_heap *heap = heap_make(source, lock, kind / 12, file);
    uint64_t refused = 1;
    if (heap != NULL) {
        refused = work(heap, (uint64_t)kind, steps);
        hk_heap_destroy(heap);
    }
    close(file);
    CHILD_CHECK(hk_heap_check(NULL) == 0);
    CHILD_CHECK(heap != NULL || source != HK_SOURCE_BUFFER);
    return source == HK_SOURCE_BUFFER ? 0 : refused;
}

static void record_some(void)
{
    char path[64];
    snprintf(path, sizeof(path), "/tmp/hk-faults-%d", (int)getpid());
    struct hk_record_options options = {.mode = HK_MODE_EXACT, .path = path, .path_is_new = true, .bound = 16 << 20};
    const char *why = NULL;
    if (hk_record_start(&options, &why)) {
        for (uintptr_t i = 1; i <= 40000; i++)
            hk_record_allocation((const void *)(i * 16), 100, 0, 0);
        hk_record_point("half");
        for (uintptr_t i = 1; i <= 40000; i++)
            hk_record_free((const void *)(i * 16));
        hk_record_exit(NULL);
    } else {
        CHILD_CHECK(why != NULL);
    }
    unlink(path);
}

/* ---- the sweep ---- */

static struct {
    uint64_t fail_at, fail_from;
    bool libc_too, records;
    int kind, steps;
} sweep;

/* What a child leaves behind for its parent. */
static uint64_t *made_calls;

static void sweep_child(void)
{
    usual = hk_libc;
    hk_libc.malloc = may_malloc;
    hk_libc.calloc = may_calloc;
    hk_libc.realloc = may_realloc;
    hk_libc.memalign = may_memalign;
    faults.libc_too = sweep.libc_too;
    faults.fail_at = sweep.fail_at;
    faults.fail_from = sweep.fail_from;
    if (sweep.records)
        record_some();
    else
        heap_of_kind(sweep.kind, sweep.steps);
    *made_calls = faults.calls;
    bool nothing_failed = faults.failed == 0;
    memset(&faults, 0, sizeof(faults));
    hk_region_shrink((size_t)1 << 30);
    CHILD_CHECK(heap_of_kind(sweep.kind, sweep.steps) == 0); /* as if nothing had been */
    if (nothing_failed)
        *made_calls = 0;
}

/* Returns how many calls were made to fail. Each of them with HEAPKEEPER_EVERY_CALL=1 (some minutes); else the first ones and every
 * seventh; where a tool makes a fork slow, fewer. */
static uint64_t sweep_calls(bool and_following)
{
    uint64_t n = 1, stride = is_watched_by_tool() ? 29 : getenv("HEAPKEEPER_EVERY_CALL") != NULL ? 1 : 7;
    do {
        sweep.fail_at = and_following ? 0 : n;
        sweep.fail_from = and_following ? n : 0;
        in_child(sweep_child);
        n += n < 16 && !is_watched_by_tool() ? 1 : stride;
    } while (*made_calls != 0 && n < 100000);
    return n;
}

static void sweep_all(bool and_following)
{
    for (sweep.kind = 0; sweep.kind < KINDS; sweep.kind++) {
        uint64_t calls = sweep_calls(and_following);
        assert_true(calls > 5 || sweep.kind / 3 % 4 == HK_SOURCE_BUFFER);
    }
}

static void test_whichever_call_of_the_system_fails_the_heap_goes_on(void **state)
{
    memset(&sweep, 0, sizeof(sweep));
    sweep.steps = 100;
    sweep_all(false);
}

static void test_when_all_calls_fail_from_some_on_the_heap_goes_on_with_what_it_has(void **state)
{
    memset(&sweep, 0, sizeof(sweep));
    sweep.steps = 100;
    sweep_all(true);
}

static void test_whichever_call_of_the_c_allocator_fails_the_heap_goes_on(void **state)
{
    memset(&sweep, 0, sizeof(sweep));
    sweep.steps = 50;
    sweep.libc_too = true;
    sweep_all(false);
}

static void test_whichever_call_of_the_recorder_fails_the_program_goes_on(void **state)
{
    memset(&sweep, 0, sizeof(sweep));
    sweep.records = true;
    sweep.steps = 20;
    assert_true(sweep_calls(false) > 5);
    assert_true(sweep_calls(true) > 5);
}

static void buffer_without_system(void)
{
    usual = hk_libc;
    hk_libc.malloc = may_malloc;
    hk_libc.calloc = may_calloc;
    hk_libc.realloc = may_realloc;
    hk_libc.memalign = may_memalign;
    faults.libc_too = true;
    for (int lock = HK_LOCK_OWN; lock <= HK_LOCK_HOST; lock++) {
        hk_heap *heap = heap_make(HK_SOURCE_BUFFER, (hk_lock_mode)lock, false, 0);
        CHILD_CHECK(heap != NULL);
        work(heap, 1, rounds(5000));
        hk_heap_destroy(heap);
    }
    CHILD_CHECK(faults.calls == 0);
}

static void test_a_heap_in_a_buffer_makes_no_call_of_the_system(void **state)
{
    in_child(buffer_without_system);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whichever_call_of_the_system_fails_the_heap_goes_on),
        cmocka_unit_test(test_when_all_calls_fail_from_some_on_the_heap_goes_on_with_what_it_has),
        cmocka_unit_test(test_whichever_call_of_the_c_allocator_fails_the_heap_goes_on),
        cmocka_unit_test(test_whichever_call_of_the_recorder_fails_the_program_goes_on),
        cmocka_unit_test(test_a_heap_in_a_buffer_makes_no_call_of_the_system),
    };
    made_calls = __real_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
