/* Heaps over a buffer, a file and huge pages, and large blocks from a heap's own pools. */
#include "heap_program.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define BUFFER ((size_t)3 << 20)

static struct program program;

static hk_heap *heap_of_buffer(void *buffer, size_t size, hk_lock_mode lock)
{
    return hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = lock, .name = "buffer",
                                             .source = HK_SOURCE_BUFFER, .buffer = buffer, .buffer_size = size});
}

static hk_heap *heap_of(hk_source source, hk_lock_mode lock, int file, bool large_from_source)
{
    return hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = lock, .name = "source",
                                             .source = source, .file = file, .large_from_source = large_from_source});
}

static void run_program(hk_heap *heap, uint64_t seed, size_t largest)
{
    assert_non_null(heap);
    memset(&program, 0, sizeof(program));
    program.heap = heap;
    program.random = seed;
    program.largest = largest;
    for (int i = 0; i < 5; i++) {
        program_run(&program, rounds(4000));
        assert_int_equal(program.wrong, 0);
        hk_heap_trim(heap);
    }
    program_end(&program);
    assert_int_equal(program.wrong, 0);
}

/* ---- buffers ---- */

static void *no_malloc(size_t size)
{
    abort();
}

static int no_memalign(void **block, size_t alignment, size_t size)
{
    abort();
}

/* The C allocator must not be asked for anything. */
static struct hk_libc forbid_libc(void)
{
    struct hk_libc usual = hk_libc;
    hk_libc.malloc = no_malloc;
    hk_libc.memalign = no_memalign;
    return usual;
}

static void test_a_heap_in_a_buffer_needs_nothing_but_the_buffer(void **state)
{
    static char buffer[BUFFER];
    struct hk_libc usual = forbid_libc();
    for (int lock = HK_LOCK_OWN; lock <= HK_LOCK_HOST; lock++) {
        hk_heap *heap = heap_of_buffer(buffer, sizeof(buffer), (hk_lock_mode)lock);
        run_program(heap, 1 + (uint64_t)lock, sizeof(buffer) / 3);
        assert_true(program.refused > 0 || is_under_valgrind()); /* where it does too little to fill the buffer */
        for (size_t size = 1; size < 300000; size = size * 3 + 1) {
            char *block = hk_malloc(heap, size);
            assert_true(block >= buffer && block + size <= buffer + sizeof(buffer));
            assert_ptr_equal(hk_heap_of(block), heap);
            assert_true(hk_usable_size(block) >= size);
        }
        hk_heap_destroy(heap);
    }
    hk_libc = usual;
}

static void test_what_a_buffer_is_used_for_adds_up_to_its_size(void **state)
{
    static char buffer[BUFFER];
    hk_heap *heap = heap_of_buffer(buffer + 5, sizeof(buffer) - 5, HK_LOCK_HOST);
    void *blocks[] = {hk_malloc(heap, 10), hk_malloc(heap, 500), hk_malloc(heap, 100000)};
    hk_heap_stats s = stats_of(heap);
    assert_int_equal(s.mapped_bytes, sizeof(buffer) - 5);
    assert_int_equal(sum_of_classes(&s), sizeof(buffer) - 5);
    assert_int_equal(s.returned_bytes + s.large_bytes, 0);
    assert_int_equal(s.own_large_blocks, 1);
    assert_int_equal(s.source, HK_SOURCE_BUFFER);
    for (size_t i = 0; i < COUNT(blocks); i++)
        hk_free(heap, blocks[i]);
    assert_int_equal(hk_heap_trim(heap), 0);
    s = stats_of(heap);
    assert_int_equal(s.mapped_bytes, sizeof(buffer) - 5);
    hk_heap_destroy(heap);
}

static void test_a_buffer_of_any_size_and_place_is_a_heap_or_too_small(void **state)
{
    enum { EDGE = 64 };
    static unsigned char memory[EDGE + 200000 + EDGE];
    size_t smallest = 0;
    for (size_t size = 0; size <= 200000; size += size < 3000 ? 97 : 4999)
        for (size_t shift = 0; shift < 48; shift += 7) {
            memset(memory, 0xee, sizeof(memory));
            unsigned char *buffer = memory + EDGE - 10 + shift;
            hk_heap *heap = heap_of_buffer(buffer, size, HK_LOCK_HOST);
            if (heap == NULL) {
                assert_true(smallest == 0 || size < 2 * HK_POOL_SIZE + 8192);
                continue;
            }
            if (smallest == 0)
                smallest = size;
            void *block;
            while ((block = hk_malloc(heap, 200)) != NULL)
                memset(block, 1, 200);
            assert_in_order(heap);
            hk_heap_destroy(heap);
            for (unsigned char *at = memory; at < buffer; at++)
                assert_int_equal(*at, 0xee);
            for (unsigned char *at = buffer + size; at < memory + sizeof(memory); at++)
                assert_int_equal(*at, 0xee);
        }
    assert_true(smallest >= HK_POOL_SIZE && smallest < 2 * HK_POOL_SIZE + 8192);
    assert_null(heap_of_buffer(NULL, 100000, HK_LOCK_OWN));
    assert_null(heap_of_buffer(memory, SIZE_MAX, HK_LOCK_OWN));
    assert_null(heap_of_buffer(memory, sizeof(memory), HK_LOCK_THREADS)); /* threads' members need more memory */
}

static void test_a_full_buffer_says_null_and_is_whole_again_when_all_is_freed(void **state)
{
    static char buffer[BUFFER];
    static void *blocks[BUFFER / 16];
    for (int lock = HK_LOCK_OWN; lock <= HK_LOCK_HOST; lock++) {
        hk_heap *heap = heap_of_buffer(buffer, sizeof(buffer), (hk_lock_mode)lock);
        size_t pools = heap->own_region->span / HK_POOL_SIZE;
        for (size_t size = 16; size <= 4 * HK_POOL_SIZE; size *= 2) {
            size_t count = 0;
            while ((blocks[count] = hk_malloc(heap, size)) != NULL)
                count++;
            if (size <= HK_BLOCK_MAX || size % HK_POOL_SIZE == 0) /* between them, a pool each */
                assert_true(count * size > sizeof(buffer) * 9 / 10);
            assert_null(hk_calloc(heap, 1, size));
            assert_null(hk_realloc(heap, blocks[0], sizeof(buffer)));
            assert_in_order(heap);
            for (size_t i = 0; i < count; i++)
                hk_free(heap, blocks[i]);
            void *all = hk_malloc(heap, pools * HK_POOL_SIZE);
            assert_non_null(all);
            assert_int_equal(hk_usable_size(all), pools * HK_POOL_SIZE);
            assert_in_order(heap);
            hk_free(heap, all);
        }
        hk_heap_destroy(heap);
    }
}

static void test_a_buffer_with_few_pools_serves_every_size_from_what_it_has(void **state)
{
    static char buffer[64 * 1024];
    hk_heap *heap = heap_of_buffer(buffer, sizeof(buffer), HK_LOCK_HOST);
    void *largest = hk_malloc(heap, HK_BLOCK_MAX); /* its pool has room for others */
    void *run;
    while ((run = hk_malloc(heap, HK_POOL_SIZE)) != NULL)
        assert_true(hk_usable_size(run) >= HK_POOL_SIZE);
    void *small = hk_malloc(heap, 10), *middle = hk_malloc(heap, 300), *aligned = hk_aligned_alloc(heap, 256, 256);
    assert_true(small != NULL && middle != NULL);
    assert_int_equal(hk_usable_size(small), HK_BLOCK_MAX);
    assert_int_equal((uintptr_t)aligned % 256, 0);
    assert_in_order(heap);
    hk_free(heap, small);
    hk_free(heap, middle);
    hk_free(heap, aligned);
    hk_free(heap, largest);
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

static void test_blocks_of_a_buffer_are_known_to_every_heap(void **state)
{
    static char buffers[3][BUFFER / 8];
    hk_heap *usual[] = {heap_new(HK_LOCK_OWN), heap_new(HK_LOCK_HOST)};
    for (int lock = HK_LOCK_OWN; lock <= HK_LOCK_HOST; lock++) {
        hk_heap *heaps[3];
        for (int i = 0; i < 3; i++)
            heaps[i] = heap_of_buffer(buffers[i], sizeof(buffers[i]), (hk_lock_mode)lock);
        for (int round = 0; round < 300; round++)
            for (int i = 0; i < 3; i++) {
                size_t size = round % 7 == 0 ? 20000 : 200;
                void *block = hk_malloc(heaps[i], size);
                assert_non_null(block);
                assert_ptr_equal(hk_heap_of(block), heaps[i]);
                if (round % 3 == 0)
                    hk_free(usual[round % 2], block);
                else if (round % 3 == 1)
                    hk_free(heaps[(i + 1) % 3], block);
                else
                    assert_true(hk_free_remote(block));
            }
        for (int i = 0; i < 3; i++) {
            hk_heap_trim(heaps[i]); /* takes back what was freed from outside */
            assert_int_equal(stats_of(heaps[i]).live_blocks, 0);
            assert_in_order(heaps[i]);
        }
        void *moved = hk_realloc(usual[0], hk_malloc(heaps[0], 50), 30000);
        assert_null(hk_heap_of(moved));
        hk_free(usual[1], moved);
        hk_heap_destroy(heaps[1]);
        assert_null(hk_heap_of(buffers[1] + sizeof(buffers[1]) / 2));
        assert_ptr_equal(hk_heap_of(buffers[2] + sizeof(buffers[2]) / 2), heaps[2]);
        hk_heap_destroy(heaps[0]);
        hk_heap_destroy(heaps[2]);
    }
    hk_heap_destroy(usual[0]);
    hk_heap_destroy(usual[1]);
}

static void test_all_statistics_include_heaps_in_buffers(void **state)
{
    static char buffer[BUFFER / 8], text[8000];
    hk_heap_stats before = stats_of(NULL);
    hk_heap *heap = heap_of_buffer(buffer, sizeof(buffer), HK_LOCK_OWN);
    assert_non_null(hk_malloc(heap, 100));
    assert_int_equal(stats_of(NULL).live_blocks, before.live_blocks + 1);
    assert_int_equal(hk_heap_check(NULL), 0);
    assert_true(hk_stats_json(text, sizeof(text)) < sizeof(text));
    assert_non_null(strstr(text, "{\"name\":\"buffer\",\"source\":\"buffer\",\"limit_bytes\":0,"));
    assert_true(hk_stats_text(text, sizeof(text)) < sizeof(text));
    assert_non_null(strstr(text, "  pages from: buffer\n"));
    hk_heap_destroy(heap);
    hk_heap_stats after = stats_of(NULL);
    assert_memory_equal(&before, &after, sizeof(before));
}

struct worker {
    hk_heap *heap;
    uint64_t seed;
    int wrong;
};

static void *work(void *argument)
{
    struct worker *w = argument;
    static __thread struct shadow slots[50];
    uint64_t random = w->seed;
    memset(slots, 0, sizeof(slots));
    for (int i = 0; i < rounds(30000) + 50; i++) {
        struct shadow *s = &slots[i % 50];
        if (s->block != NULL && !is_intact(s))
            w->wrong = __LINE__;
        hk_free(w->heap, s->block);
        s->block = NULL;
        size_t size = random_size(&random);
        void *block = i >= rounds(30000) ? NULL : hk_malloc(w->heap, size);
        if (block != NULL)
            shadow_fill(s, block, size, random);
    }
    return NULL;
}

static void test_threads_share_a_heap_in_a_buffer(void **state)
{
    static char buffer[BUFFER / 3];
    hk_heap *heap = heap_of_buffer(buffer, sizeof(buffer), HK_LOCK_OWN);
    pthread_t threads[4];
    struct worker workers[4];
    for (int i = 0; i < 4; i++) {
        workers[i] = (struct worker){heap, (uint64_t)i, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].wrong, 0);
    }
    assert_int_equal(stats_of(heap).live_blocks, 0);
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

/* ---- large blocks from the heap's own pools ---- */

static void test_large_blocks_may_come_from_the_heaps_own_pools(void **state)
{
    struct hk_libc usual = forbid_libc();
    for (int lock = HK_LOCK_OWN; lock <= HK_LOCK_THREADS; lock++) {
        hk_heap *heap = heap_of(HK_SOURCE_SYSTEM, (hk_lock_mode)lock, 0, true);
        run_program(heap, 3 + (uint64_t)lock, 5 * HK_ARENA_SIZE);
        assert_int_equal(program.refused, 0);
        void *block = hk_malloc(heap, 10 * HK_ARENA_SIZE + 1);
        assert_ptr_equal(hk_heap_of(block), heap);
        assert_int_equal(hk_usable_size(block), 10 * HK_ARENA_SIZE + HK_POOL_SIZE);
        memset(block, 1, hk_usable_size(block));
        hk_heap_stats s = stats_of(heap);
        assert_int_equal(s.own_large_blocks, 1);
        assert_int_equal(s.own_large_bytes, hk_usable_size(block));
        assert_int_equal(s.large_blocks + s.large_bytes, 0);
        assert_in_order(heap);
        hk_heap_destroy(heap);
    }
    hk_libc = usual;
}

/* The table that shows whose a pool is becomes writable as pools of small blocks are taken: there none was, so far up. */
static void test_a_heap_of_threads_that_has_only_a_large_block_far_up_may_be_destroyed(void **state)
{
    hk_heap *heap = heap_of(HK_SOURCE_SYSTEM, HK_LOCK_THREADS, 0, true);
    size_t far = (hk_region.owners_writable + 2 * HK_ARENA_POOLS) * HK_POOL_SIZE;
    assert_non_null(hk_malloc(heap, 16));
    assert_non_null(hk_malloc(heap, far));
    assert_in_order(heap);
    hk_heap_destroy(heap);
    heap = heap_of(HK_SOURCE_SYSTEM, HK_LOCK_THREADS, 0, true);
    assert_non_null(hk_malloc(heap, 16));
    hk_heap_destroy(heap);
}

static void test_destroy_frees_large_blocks_of_the_heaps_own(void **state)
{
    uint32_t taken = 0;
    for (int round = 0; round < 20; round++) {
        hk_heap *heap = heap_of(HK_SOURCE_SYSTEM, HK_LOCK_HOST, 0, true);
        for (int i = 0; i < 5; i++)
            assert_non_null(hk_malloc(heap, 3 * HK_ARENA_SIZE));
        hk_heap_destroy(heap);
        if (round == 0)
            taken = hk_region.arena_next;
    }
    assert_int_equal(hk_region.arena_next, taken);
}

static void test_a_large_block_grows_and_shrinks_in_its_place_where_it_can(void **state)
{
    hk_heap *heap = heap_of(HK_SOURCE_SYSTEM, HK_LOCK_HOST, 0, true);
    struct shadow s, behind;
    hk_free(heap, hk_malloc(heap, 200 * HK_POOL_SIZE));
    shadow_fill(&s, hk_malloc(heap, 3 * HK_POOL_SIZE), 3 * HK_POOL_SIZE, 1);
    void *first = s.block;
    assert_ptr_equal(hk_realloc(heap, first, 100 * HK_POOL_SIZE), first); /* also into the next arena */
    assert_int_equal(hk_usable_size(first), 100 * HK_POOL_SIZE);
    assert_true(is_intact(&s));
    assert_in_order(heap);
    assert_ptr_equal(hk_realloc(heap, first, 5 * HK_POOL_SIZE), first);
    assert_int_equal(hk_usable_size(first), 5 * HK_POOL_SIZE);
    shadow_fill(&behind, hk_malloc(heap, HK_POOL_SIZE), HK_POOL_SIZE, 2);
    unsigned char *moved = hk_realloc(heap, first, 6 * HK_POOL_SIZE);
    assert_ptr_not_equal(moved, first);
    assert_true(shadow_holds(moved, s.size, s.tag));
    assert_true(is_intact(&behind));
    moved = hk_realloc(heap, moved, 100);
    assert_int_not_equal(hk_usable_size(moved), 6 * HK_POOL_SIZE);
    assert_true(shadow_holds(moved, 100, s.tag));
    hk_free(heap, moved);
    hk_free(heap, behind.block);
    assert_int_equal(stats_of(heap).live_blocks, 0);
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

static size_t shown_bytes;

static bool show_large(const hk_pool_info *pool, void *block, hk_block_state state, void *argument)
{
    if (block != NULL && pool->block_size > HK_BLOCK_MAX) {
        assert_ptr_equal(block, argument);
        assert_ptr_equal(pool->start, block);
        assert_int_equal(state, HK_BLOCK_ALLOCATED);
        assert_int_equal(pool->state, HK_POOL_FULL);
        shown_bytes = pool->size;
    }
    return true;
}

static void test_a_large_block_of_the_heaps_own_is_shown_as_one_pool(void **state)
{
    hk_heap *heap = heap_of(HK_SOURCE_SYSTEM, HK_LOCK_OWN, 0, true);
    void *block = hk_malloc(heap, 70 * HK_POOL_SIZE);
    hk_heap_visit(heap, show_large, block);
    assert_int_equal(shown_bytes, 70 * HK_POOL_SIZE);
    hk_heap_destroy(heap);
}

/* ---- files ---- */

static int new_file(void)
{
    int file = memfd_create("heap", 0);
    assert_true(file >= 0);
    return file;
}

static void test_a_heap_over_a_file_keeps_its_blocks_there(void **state)
{
    for (int lock = HK_LOCK_OWN; lock <= HK_LOCK_THREADS; lock++) {
        int file = new_file();
        struct hk_libc usual = forbid_libc();
        hk_heap *heap = heap_of(HK_SOURCE_FILE, (hk_lock_mode)lock, file, true);
        run_program(heap, 5 + (uint64_t)lock, 3 * HK_ARENA_SIZE);
        assert_int_equal(program.refused, 0);
        char *small = hk_malloc(heap, 100), *large = hk_malloc(heap, 200000);
        strcpy(small, "a small block of the file's heap");
        strcpy(large, "a large block of the file's heap");
        hk_libc = usual;
        struct stat status;
        assert_int_equal(fstat(file, &status), 0);
        char *all = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, file, 0);
        assert_non_null(memmem(all, (size_t)status.st_size, small, strlen(small)));
        assert_non_null(memmem(all, (size_t)status.st_size, large, strlen(large)));
        munmap(all, (size_t)status.st_size);
        assert_in_order(heap);
        hk_heap_destroy(heap);
        close(file);
    }
}

static void test_what_is_trimmed_goes_back_to_the_file_system(void **state)
{
    int file = new_file();
    hk_heap *heap = heap_of(HK_SOURCE_FILE, HK_LOCK_HOST, file, true);
    char *block = hk_malloc(heap, 4 * HK_ARENA_SIZE);
    memset(block, 1, 4 * HK_ARENA_SIZE);
    struct stat before, after;
    assert_int_equal(fstat(file, &before), 0);
    assert_true(before.st_blocks * 512 >= (off_t)(4 * HK_ARENA_SIZE));
    hk_free(heap, block);
    assert_true(hk_heap_trim(heap) >= 4 * HK_ARENA_SIZE);
    assert_int_equal(fstat(file, &after), 0);
    assert_true(after.st_blocks * 512 < (off_t)HK_ARENA_SIZE);
    block = hk_malloc(heap, 4 * HK_ARENA_SIZE);
    for (size_t i = 0; i < 4 * HK_ARENA_SIZE; i++)
        assert_int_equal(block[i], 0);
    assert_in_order(heap);
    hk_heap_destroy(heap);
    close(file);
}

static void file_cannot_grow(bool limited)
{
    int file = memfd_create("heap", MFD_ALLOW_SEALING);
    hk_heap *heap = heap_of(HK_SOURCE_FILE, HK_LOCK_HOST, file, true);
    struct shadow s;
    struct stat before;
    struct rlimit old;
    shadow_fill(&s, hk_malloc(heap, 1000), 1000, 1);
    assert_int_equal(fstat(file, &before) + getrlimit(RLIMIT_FSIZE, &old), 0);
    if (limited)
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &(struct rlimit){(rlim_t)before.st_size + 5000, old.rlim_max}), 0);
    else
        assert_int_equal(fcntl(file, F_ADD_SEALS, F_SEAL_GROW), 0);
    assert_null(hk_malloc(heap, 2 * HK_ARENA_SIZE));
    size_t count = 0;
    while (hk_malloc(heap, 500) != NULL)
        count++;
    assert_true(count <= HK_POOL_SIZE / 500);
    assert_true(is_intact(&s));
    assert_in_order(heap);
    hk_free(heap, s.block);
    assert_non_null(hk_malloc(heap, 1000));
    hk_heap_destroy(heap);
    close(file);
    setrlimit(RLIMIT_FSIZE, &old);
}

static void test_a_file_that_cannot_grow_is_null_and_no_signal(void **state)
{
    (void)state;
    file_cannot_grow(false);
    file_cannot_grow(true);
}

static void test_a_descriptor_that_is_no_file_is_null(void **state)
{
    int file = open("/dev/null", O_RDWR), read_only = open("/proc/self/exe", O_RDONLY);
    int files[] = {-1, file, read_only};
    for (size_t i = 0; i < COUNT(files); i++)
        assert_null(heap_of(HK_SOURCE_FILE, HK_LOCK_HOST, files[i], true));
    close(file);
    close(read_only);
}

/* After the heap was made. */
static void test_a_file_that_is_closed_under_its_heap_is_null(void **state)
{
    int file = memfd_create("closed", 0);
    hk_heap *heap = heap_of(HK_SOURCE_FILE, HK_LOCK_HOST, file, true);
    assert_non_null(heap);
    close(file);
    assert_null(hk_malloc(heap, 10));
    assert_null(hk_malloc(heap, 100000));
    assert_in_order(heap);
    hk_heap_destroy(heap);
    heap = heap_new(HK_LOCK_HOST); /* the arenas that were tried are as good as new */
    run_program(heap, 9, 100000);
    hk_heap_destroy(heap);
}

static void test_arenas_of_a_file_are_plain_memory_for_the_next_heap(void **state)
{
    int file = new_file();
    hk_heap *heap = heap_of(HK_SOURCE_FILE, HK_LOCK_HOST, file, true);
    char *block = hk_malloc(heap, HK_ARENA_SIZE);
    memset(block, 1, HK_ARENA_SIZE);
    hk_heap_destroy(heap);
    heap = heap_of(HK_SOURCE_SYSTEM, HK_LOCK_HOST, 0, true);
    block = hk_malloc(heap, HK_ARENA_SIZE);
    memset(block, 2, HK_ARENA_SIZE);
    char byte;
    assert_int_equal(pread(file, &byte, 1, 1000), 1);
    assert_int_not_equal(byte, 2);
    hk_heap_destroy(heap);
    close(file);
}

/* ---- huge pages ---- */

static void test_huge_pages_are_used_where_there_are_some_and_else_asked_for(void **state)
{
    for (int lock = HK_LOCK_OWN; lock <= HK_LOCK_THREADS; lock++) {
        hk_heap *heap = heap_of(HK_SOURCE_HUGE_PAGES, (hk_lock_mode)lock, 0, true);
        run_program(heap, 7 + (uint64_t)lock, 3 * HK_ARENA_SIZE);
        assert_int_equal(program.refused, 0);
        hk_heap_stats s = stats_of(heap);
        assert_int_equal(s.huge_page_bytes % ((size_t)2 << 20), 0);
        void *there = mmap(NULL, (size_t)2 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
        if (there != MAP_FAILED) {
            munmap(there, (size_t)2 << 20);
            assert_true(s.huge_page_bytes > 0);
        }
        assert_true(s.empty_bytes >= s.huge_page_bytes);
        hk_heap_destroy(heap);
    }
}

/* ---- options ---- */

static void test_a_program_with_an_older_header_gets_what_it_knew(void **state)
{
    struct {
        size_t size;
        hk_lock_mode lock;
        const char *name;
        unsigned char other[sizeof(hk_heap_options)];
    } old = {.size = offsetof(hk_heap_options, alignment), .lock = HK_LOCK_HOST, .name = "old"};
    memset(old.other, 0xff, sizeof(old.other));
    hk_heap *heap = hk_heap_create((const hk_heap_options *)&old);
    assert_non_null(heap);
    assert_int_equal(stats_of(heap).limit_bytes, 0);
    hk_heap_destroy(heap);
}

static void test_a_source_that_does_not_exist_is_refused(void **state)
{
    assert_null(heap_of((hk_source)4, HK_LOCK_OWN, 0, false));
    assert_null(heap_of((hk_source)-1, HK_LOCK_OWN, 0, false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_heap_in_a_buffer_needs_nothing_but_the_buffer),
        cmocka_unit_test(test_what_a_buffer_is_used_for_adds_up_to_its_size),
        cmocka_unit_test(test_a_buffer_of_any_size_and_place_is_a_heap_or_too_small),
        cmocka_unit_test(test_a_full_buffer_says_null_and_is_whole_again_when_all_is_freed),
        cmocka_unit_test(test_a_buffer_with_few_pools_serves_every_size_from_what_it_has),
        cmocka_unit_test(test_blocks_of_a_buffer_are_known_to_every_heap),
        cmocka_unit_test(test_all_statistics_include_heaps_in_buffers),
        cmocka_unit_test(test_threads_share_a_heap_in_a_buffer),
        cmocka_unit_test(test_large_blocks_may_come_from_the_heaps_own_pools),
        cmocka_unit_test(test_a_heap_of_threads_that_has_only_a_large_block_far_up_may_be_destroyed),
        cmocka_unit_test(test_destroy_frees_large_blocks_of_the_heaps_own),
        cmocka_unit_test(test_a_large_block_grows_and_shrinks_in_its_place_where_it_can),
        cmocka_unit_test(test_a_large_block_of_the_heaps_own_is_shown_as_one_pool),
        cmocka_unit_test(test_a_heap_over_a_file_keeps_its_blocks_there),
        cmocka_unit_test(test_what_is_trimmed_goes_back_to_the_file_system),
        cmocka_unit_test(test_a_file_that_cannot_grow_is_null_and_no_signal),
        cmocka_unit_test(test_a_descriptor_that_is_no_file_is_null),
        cmocka_unit_test(test_a_file_that_is_closed_under_its_heap_is_null),
        cmocka_unit_test(test_arenas_of_a_file_are_plain_memory_for_the_next_heap),
        cmocka_unit_test(test_huge_pages_are_used_where_there_are_some_and_else_asked_for),
        cmocka_unit_test(test_a_program_with_an_older_header_gets_what_it_knew),
        cmocka_unit_test(test_a_source_that_does_not_exist_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
