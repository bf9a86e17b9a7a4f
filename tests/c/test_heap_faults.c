/* Every call of the system fails once.
 *
 * The calls that the library makes (mmap, munmap, mremap, mprotect, madvise, posix_fallocate, ...) are led through this
 * file by the linker (--wrap), where one can fail: the n-th, or the n-th and all that follow; so can the C allocator's.
 * A child does a long program of heap operations: a heap of each source and lock is made, worked, trimmed and ended; or
 * something is recorded. Whatever fails, a call returns NULL or something else is used instead; contents stay, the heap passes its
 * checks, and when calls succeed again everything can be had again. This for every n, until there is no n-th call.
 *
 * The child need not begin again for each n: where it comes to a call it makes a copy of itself, waits for it, and goes on. In
 * the copy the call fails. What a copy shares with its original (the pages of a heap in a file, a recorder's capture) would be
 * changed under it, so there a new child begins for each n. */
#include "heap_program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "record/exact.h"
#include "record/record.h"

enum call { MMAP, MUNMAP, MREMAP, MPROTECT, MADVISE, FALLOCATE, FTRUNCATE, FSTAT, KEY_CREATE, SETSPECIFIC, OPEN_READ_WRITE, LIBC, CALLS };

/* What children leave behind for their parent: how many calls were made to fail, whether the last one's own was among them, and
 * which kinds of calls came through here at all. */
static struct {
    uint64_t tried;
    bool failed, seen[CALLS];
} *result;

static struct {
    uint64_t calls;              /* so far */
    uint64_t fail_at, fail_from; /* 1: the first; 0: none */
    uint64_t failed;
    bool libc_too; /* calls of the C allocator count as well */
    enum { TRY_NONE, TRY_EACH, TRY_EACH_AND_FOLLOWING } trying; /* in a copy of the process */
} faults;

long __real_syscall(long number, long a, long b, long c, long d, long e, long f);

/* Returns true in a copy, false in the original after the copy has ended well. The call comes out of the midst of the
 * library, under its locks, so it must be neither fork, whose handlers take them, nor any other function that does. */
static bool go_on_in_copy(uint64_t n)
{
    int status = 0, saved = errno;
    pid_t pid = (pid_t)__real_syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0, 0);
    if (pid == 0) {
        alarm(100);
        return true;
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
        fprintf(stderr, "call %u, in a copy: status %x\n", (unsigned)n, (unsigned)status);
        _exit(1);
    }
    errno = saved;
    return false;
}

/* Where a tool makes each copy slow, some calls are left out. */
static bool is_tried(uint64_t n)
{
    return n < 8 || getenv("HEAPKEEPER_EVERY_CALL") != NULL || !is_watched_by_tool() || n % 29 == 0;
}

static bool is_failing(enum call call)
{
    uint64_t n = ++faults.calls;
    result->seen[call] = true;
    if (faults.trying != TRY_NONE && is_tried(n) && go_on_in_copy(n)) {
        *(faults.trying == TRY_EACH ? &faults.fail_at : &faults.fail_from) = n;
        faults.trying = TRY_NONE;
    }
    bool fails = n == faults.fail_at || (faults.fail_from != 0 && n >= faults.fail_from);
    faults.failed += fails;
    if (fails)
        errno = ENOMEM;
    return fails;
}

/* Code that is compiled for large files calls some by another name. */
#define ALSO(name) __attribute__((alias(name)))

void *__real_mmap(void *start, size_t size, int protection, int flags, int file, off_t offset);
void *__wrap_mmap(void *start, size_t size, int protection, int flags, int file, off_t offset);
void *__wrap_mmap64(void *start, size_t size, int protection, int flags, int file, off_t offset) ALSO("__wrap_mmap");
void *__wrap_mmap(void *start, size_t size, int protection, int flags, int file, off_t offset)
{
    return is_failing(MMAP) ? MAP_FAILED : __real_mmap(start, size, protection, flags, file, offset);
}

int __real_munmap(void *start, size_t size);
int __wrap_munmap(void *start, size_t size);
int __wrap_munmap(void *start, size_t size)
{
    return is_failing(MUNMAP) ? -1 : __real_munmap(start, size);
}

void *__real_mremap(void *start, size_t old, size_t size, int flags, void *to);
void *__wrap_mremap(void *start, size_t old, size_t size, int flags, void *to);
void *__wrap_mremap(void *start, size_t old, size_t size, int flags, void *to)
{
    return is_failing(MREMAP) ? MAP_FAILED : __real_mremap(start, old, size, flags, to);
}

int __real_mprotect(void *start, size_t size, int protection);
int __wrap_mprotect(void *start, size_t size, int protection);
int __wrap_mprotect(void *start, size_t size, int protection)
{
    return is_failing(MPROTECT) ? -1 : __real_mprotect(start, size, protection);
}

int __real_madvise(void *start, size_t size, int advice);
int __wrap_madvise(void *start, size_t size, int advice);
int __wrap_madvise(void *start, size_t size, int advice)
{
    return is_failing(MADVISE) ? -1 : __real_madvise(start, size, advice);
}

int __real_posix_fallocate(int file, off_t offset, off_t size);
int __wrap_posix_fallocate(int file, off_t offset, off_t size);
int __wrap_posix_fallocate64(int file, off_t offset, off_t size) ALSO("__wrap_posix_fallocate");
int __wrap_posix_fallocate(int file, off_t offset, off_t size)
{
    return is_failing(FALLOCATE) ? ENOSPC : __real_posix_fallocate(file, offset, size);
}

int __real_ftruncate(int file, off_t size);
int __wrap_ftruncate(int file, off_t size);
int __wrap_ftruncate64(int file, off_t size) ALSO("__wrap_ftruncate");
int __wrap_ftruncate(int file, off_t size)
{
    return is_failing(FTRUNCATE) ? -1 : __real_ftruncate(file, size);
}

int __real_fstat(int file, struct stat *status);
int __wrap_fstat(int file, struct stat *status);
int __wrap_fstat64(int file, struct stat *status) ALSO("__wrap_fstat");
int __wrap_fstat(int file, struct stat *status)
{
    return is_failing(FSTAT) ? -1 : __real_fstat(file, status);
}

int __real_pthread_key_create(pthread_key_t *key, void (*end)(void *));
int __wrap_pthread_key_create(pthread_key_t *key, void (*end)(void *));
int __wrap_pthread_key_create(pthread_key_t *key, void (*end)(void *))
{
    return is_failing(KEY_CREATE) ? EAGAIN : __real_pthread_key_create(key, end);
}

int __real_pthread_setspecific(pthread_key_t key, const void *value);
int __wrap_pthread_setspecific(pthread_key_t key, const void *value);
int __wrap_pthread_setspecific(pthread_key_t key, const void *value)
{
    return is_failing(SETSPECIFIC) ? ENOMEM : __real_pthread_setspecific(key, value);
}

/* The recorder calls these by number, so that nobody's interposition sees them. */
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    bool counts = number == SYS_openat || number == SYS_read || number == SYS_write;
    return counts && is_failing(OPEN_READ_WRITE) ? -1 : __real_syscall(number, a, b, c, d, e, f);
}

/* ---- the C allocator ---- */

static struct hk_libc usual;

static void *may_malloc(size_t size)
{
    return faults.libc_too && is_failing(LIBC) ? NULL : usual.malloc(size);
}

static void *may_calloc(size_t count, size_t size)
{
    return faults.libc_too && is_failing(LIBC) ? NULL : usual.calloc(count, size);
}

static void *may_realloc(void *block, size_t size)
{
    return faults.libc_too && is_failing(LIBC) ? NULL : usual.realloc(block, size);
}

static int may_memalign(void **block, size_t alignment, size_t size)
{
    return faults.libc_too && is_failing(LIBC) ? ENOMEM : usual.memalign(block, alignment, size);
}

/* ---- the program ---- */

static struct program program;
static char buffer[1 << 20];

static hk_heap *heap_make(hk_source source, hk_lock_mode lock, bool large_from_source, int file)
{
    return hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = lock, .source = source,
                                             .large_from_source = large_from_source, .file = file, .buffer = buffer,
                                             .buffer_size = sizeof(buffer)});
}

static char *block_of(hk_heap *heap, size_t size)
{
    char *block = hk_malloc(heap, size);
    if (block != NULL)
        block[0] = block[size - 1] = 1;
    program.refused += block == NULL;
    return block;
}

/* Blocks that make the heap so large that it asks for huge pages. A file's would cost time for nothing. */
static void large_blocks(hk_heap *heap)
{
    size_t huge = (size_t)20 << 20, large = (size_t)1 << 20;
    char *first = heap->source != HK_SOURCE_FILE ? block_of(heap, huge) : NULL, *second = block_of(heap, large);
    char *moved = second != NULL ? hk_realloc(heap, second, 2 * large) : NULL;
    program.refused += moved == NULL;
    CHILD_CHECK(moved == NULL || (moved[0] == 1 && moved[large - 1] == 1));
    CHILD_CHECK(first == NULL || (first[0] == 1 && first[huge - 1] == 1));
    hk_free(heap, first);
    hk_free(heap, moved != NULL ? moved : second);
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
        large_blocks(heap);
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

/* `counted`: the host keeps the sums, as that of CPython does. What cannot be begun in a file is begun in memory, as under `run`. */
static void record_some(bool counted)
{
    char path[64];
    snprintf(path, sizeof(path), "/tmp/hk-faults-%d", (int)getpid());
    struct hk_record_options options = {.mode = HK_MODE_EXACT, .host_counts = counted, .path = path, .path_is_new = true, .bound = 16 << 20};
    const char *why = NULL;
    bool started = hk_record_start(&options, &why);
    if (!started) {
        CHILD_CHECK(why != NULL && access(path, F_OK) != 0);
        options.path = NULL;
        started = hk_record_start(&options, &why);
    }
    if (started && counted) {
        for (int domain = 0; domain <= HK_DOMAIN_NATIVE; domain++)
            hk_exact_site(domain, domain == 0 ? 0 : HK_SITE_APART);
        hk_record_exit(NULL);
    } else if (started) {
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
    bool and_following, in_copies, libc_too, records, counted;
    int kind, steps;
} sweep;

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
    if (sweep.in_copies) {
        alarm(0);
        faults.trying = sweep.and_following ? TRY_EACH_AND_FOLLOWING : TRY_EACH;
    }
    if (sweep.records)
        record_some(sweep.counted);
    else
        heap_of_kind(sweep.kind, sweep.steps);
    result->failed = faults.failed != 0;
    result->tried += result->failed;
    memset(&faults, 0, sizeof(faults));
    hk_region_shrink((size_t)1 << 30);
    CHILD_CHECK(heap_of_kind(sweep.kind, sweep.steps) == 0); /* as if nothing had been */
}

/* Returns how many calls were made to fail. */
static uint64_t sweep_calls(bool and_following)
{
    result->tried = 0;
    sweep.and_following = and_following;
    sweep.fail_at = sweep.fail_from = 0;
    sweep.in_copies = !sweep.records && sweep.kind / 3 % 4 != HK_SOURCE_FILE;
    if (sweep.in_copies)
        in_child(sweep_child);
    for (uint64_t n = 1; !sweep.in_copies && (n == 1 || result->failed); n++) {
        while (!is_tried(n))
            n++;
        *(and_following ? &sweep.fail_from : &sweep.fail_at) = n;
        in_child(sweep_child);
    }
    return result->tried;
}

/* Under valgrind, where a child takes a second, each source has one lock in each sweep, another one in the next. */
static bool is_swept(int kind, bool and_following)
{
    int which = kind / 3 + and_following + 2 * sweep.libc_too;
    return getenv("HEAPKEEPER_EVERY_CALL") != NULL || !is_under_valgrind() || kind % 3 == which % 3;
}

static void sweep_all(bool and_following)
{
    for (sweep.kind = 0; sweep.kind < KINDS; sweep.kind++) {
        if (!is_swept(sweep.kind, and_following))
            continue;
        uint64_t calls = sweep_calls(and_following);
        if (getenv("HEAPKEEPER_EVERY_CALL") != NULL)
            print_message("source %d, lock %d, large blocks %s: %d calls\n", sweep.kind / 3 % 4, sweep.kind % 3,
                          sweep.kind / 12 ? "its own" : "the C allocator's", (int)calls);
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
    for (int counted = 0; counted < 2; counted++) {
        sweep.counted = counted;
        assert_true(sweep_calls(false) > 5);
        assert_true(sweep_calls(true) > 5);
    }
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

/* Runs last. A call that came by another name would not have been made to fail. */
static void test_every_kind_of_call_came_through_here(void **state)
{
    for (int call = 0; call < CALLS; call++)
        if (!result->seen[call])
            fail_msg("call %d was never seen", call);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whichever_call_of_the_system_fails_the_heap_goes_on),
        cmocka_unit_test(test_when_all_calls_fail_from_some_on_the_heap_goes_on_with_what_it_has),
        cmocka_unit_test(test_whichever_call_of_the_c_allocator_fails_the_heap_goes_on),
        cmocka_unit_test(test_whichever_call_of_the_recorder_fails_the_program_goes_on),
        cmocka_unit_test(test_a_heap_in_a_buffer_makes_no_call_of_the_system),
        cmocka_unit_test(test_every_kind_of_call_came_through_here),
    };
    result = __real_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
