/* Debug mode: each seeded bug, in a child, is found, named, and reported with where the block was allocated and freed; what is
 * no bug is not. */
#include "heap/debug.h"
#include "heap_helper.h"

/* ---- sites with names of their own ---- */

#define SITE __attribute__((noinline, noclone))

SITE static void *allocated_here(hk_heap *heap, size_t size)
{
    void *block = hk_malloc(heap, size);
    __asm__ volatile("" ::: "memory"); /* no tail call: this function stays in the stack */
    return block;
}

SITE static void freed_here(hk_heap *heap, void *block)
{
    hk_free(heap, block);
    __asm__ volatile("" ::: "memory");
}

SITE static void *reallocated_here(hk_heap *heap, void *block, size_t size)
{
    block = hk_realloc(heap, block, size);
    __asm__ volatile("" ::: "memory");
    return block;
}

static hk_heap *debug_heap(const char *name)
{
    hk_heap *heap = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options), .lock = HK_LOCK_HOST, .name = name, .debug = HK_DEBUG_ON});
    if (heap == NULL)
        abort();
    return heap;
}

/* A write that the compiler knows nothing of. */
static void poke(void *block, ptrdiff_t at)
{
    *(volatile char *)((uintptr_t)block + (uintptr_t)at) = 0x41;
}

/* ---- the bugs ---- */

static void overflow_by_one_byte_found_on_free(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    poke(block, 40);
    freed_here(heap, block);
}

static void overflow_found_on_realloc(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 24);
    poke(block, 24), poke(block, 25), poke(block, 26);
    reallocated_here(heap, block, 100);
}

static void overflow_found_on_walk(void)
{
    hk_heap *heap = debug_heap("a");
    poke(allocated_here(heap, 512), 527);
    hk_debug_check();
}

static void overflow_found_at_exit(void)
{
    poke(allocated_here(debug_heap("a"), 13), 13);
    exit(0);
}

static void overflow_of_a_large_block(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 100000);
    poke(block, 100000);
    freed_here(heap, block);
}

static void overflow_of_an_empty_block(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 0);
    poke(block, 0);
    freed_here(heap, block);
}

SITE static void *aligned_here(hk_heap *heap)
{
    void *block = hk_aligned_alloc(heap, 4096, 100);
    __asm__ volatile("" ::: "memory");
    return block;
}

static void overflow_of_an_aligned_block(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = aligned_here(heap);
    poke(block, 100);
    freed_here(heap, block);
}

static void underflow_of_an_aligned_block(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = aligned_here(heap);
    poke(block, -4096);
    freed_here(heap, block);
}

SITE static void *cleared_here(hk_heap *heap)
{
    void *block = hk_calloc(heap, 3, 11);
    __asm__ volatile("" ::: "memory");
    return block;
}

static void overflow_of_a_cleared_block(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = cleared_here(heap);
    poke(block, 33);
    freed_here(heap, block);
}

static void overflow_after_realloc(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = reallocated_here(heap, hk_malloc(heap, 10), 77);
    poke(block, 77);
    freed_here(heap, block);
}

static void overflow_found_when_the_heap_is_destroyed(void)
{
    hk_heap *heap = debug_heap("a");
    poke(allocated_here(heap, 40), 41);
    hk_heap_destroy(heap);
}

static void underflow_found_on_free(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    poke(block, -1);
    freed_here(heap, block);
}

static void underflow_found_on_walk(void)
{
    hk_heap *heap = debug_heap("a");
    poke(allocated_here(heap, 4000), -16);
    hk_debug_check();
}

static void double_free_at_once(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    freed_here(heap, block);
    hk_free(heap, block);
}

static void double_free_with_others_between(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    freed_here(heap, block);
    for (int i = 0; i < 1000; i++)
        hk_free(heap, hk_malloc(heap, 40));
    hk_free(heap, block);
}

/* 17 MiB pass through the quarantine. */
static void fill_quarantine(hk_heap *heap)
{
    for (int i = 0; i < 17 * 4; i++)
        hk_free(heap, hk_malloc(heap, 256 << 10));
}

static void double_free_after_the_quarantine(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    freed_here(heap, block);
    fill_quarantine(heap);
    hk_free(heap, block);
}

static void double_free_of_a_block_too_large_for_the_quarantine(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 3 << 20);
    freed_here(heap, block);
    hk_free(heap, block);
}

static void double_free_by_another_function(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    freed_here(heap, block);
    hk_free_remote(block);
}

static void realloc_after_free(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    freed_here(heap, block);
    hk_realloc(heap, block, 80);
}

static void use_after_free_found_on_walk(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    freed_here(heap, block);
    poke(block, 39);
    hk_debug_check();
}

static void use_after_free_found_on_a_later_free(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    freed_here(heap, block);
    poke(block, 0);
    fill_quarantine(heap);
}

/* Those do not wait in the quarantine, so they push nobody out. */
static void use_after_free_found_though_large_blocks_were_freed_since(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    freed_here(heap, block);
    for (int i = 0; i < 4; i++)
        hk_free(heap, hk_malloc(heap, (size_t)20 << 20));
    poke(block, 7);
    hk_debug_check();
}

static void use_after_free_found_at_exit(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    freed_here(heap, block);
    poke(block, 8);
    exit(0);
}

static void use_after_realloc(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    reallocated_here(heap, block, 41);
    poke(block, 8);
    hk_debug_check();
}

static void overflow_behind_a_freed_block(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    freed_here(heap, block);
    poke(block, 40);
    hk_debug_check();
}

static void free_inside_of_a_block(void)
{
    hk_heap *heap = debug_heap("a");
    char *block = allocated_here(heap, 40);
    hk_free(heap, block + 8);
}

static void free_of_the_stack(void)
{
    char array[64];
    hk_free(debug_heap("a"), array + 16);
}

static void free_of_what_malloc_gave(void)
{
    hk_free(debug_heap("a"), malloc(100));
}

static void free_of_another_heaps_block_that_is_not_watched(void)
{
    hk_heap *plain = heap_new(HK_LOCK_HOST);
    hk_free(debug_heap("a"), hk_malloc(plain, 100));
}

static void realloc_of_what_malloc_gave(void)
{
    hk_realloc(debug_heap("a"), malloc(100), 200);
}

static void free_into_another_heap(void)
{
    hk_heap *heap = debug_heap("a");
    hk_free(debug_heap("b"), allocated_here(heap, 100));
}

static void free_into_a_heap_without_debug_mode(void)
{
    hk_heap *heap = debug_heap("a");
    hk_free(heap_new(HK_LOCK_HOST), allocated_here(heap, 100));
}

static void free_of_a_large_block_into_a_heap_without_debug_mode(void)
{
    hk_heap *heap = debug_heap("a");
    hk_free(heap_new(HK_LOCK_THREADS), allocated_here(heap, 100000));
}

static void realloc_in_another_heap(void)
{
    hk_heap *heap = debug_heap("a");
    hk_realloc(heap_new(HK_LOCK_OWN), allocated_here(heap, 100), 20);
}

SITE static void *domain_allocated_here(hk_domain domain)
{
    void *block = hk_domain_malloc(domain, 64);
    __asm__ volatile("" ::: "memory");
    return block;
}

static void raw_block_freed_as_an_object(void)
{
    hk_debug_default(true);
    hk_domain_free(HK_DOMAIN_OBJECT, domain_allocated_here(HK_DOMAIN_RAW));
}

static void object_block_reallocated_as_mem(void)
{
    hk_debug_default(true);
    hk_domain_realloc(HK_DOMAIN_MEM, domain_allocated_here(HK_DOMAIN_OBJECT), 128);
}

static hk_heap *shared_heap;

SITE static void *overflow_in_thread(void *argument)
{
    char *block = allocated_here(shared_heap, 64);
    poke(block, 70);
    return block;
}

static void overflow_by_another_thread(void)
{
    pthread_t thread;
    void *block;
    shared_heap = debug_heap("a");
    pthread_create(&thread, NULL, overflow_in_thread, NULL);
    pthread_join(thread, &block);
    freed_here(shared_heap, block);
}

struct bug {
    void (*commit)(void);
    const char *kind, *found, *allocated, *freed; /* NULL: not said; by functions' names */
};

#define OVERFLOW "heap buffer overflow: "
#define UNDERFLOW "heap buffer underflow: "
#define DOUBLE "double free of a block of "
#define AFTER "use after free: 1 byte written into a freed block of 40 bytes (heap \"a\")"
#define ON_FREE "when the block was freed"
#define ON_WALK "when all blocks were checked"
#define AT_EXIT "when all blocks were checked at the program's end"

static const struct bug bugs[] = {
    {overflow_by_one_byte_found_on_free, OVERFLOW "1 byte written behind a block of 40 bytes (heap \"a\")", ON_FREE, "allocated_here", NULL},
    {overflow_found_on_realloc, OVERFLOW "3 bytes written behind a block of 24 bytes", "when the block was reallocated", "allocated_here", NULL},
    {overflow_found_on_walk, OVERFLOW "1 byte written behind a block of 512 bytes", ON_WALK, "allocated_here", NULL},
    {overflow_found_at_exit, OVERFLOW, AT_EXIT, "allocated_here", NULL},
    {overflow_of_a_large_block, OVERFLOW "1 byte written behind a block of 100000 bytes", ON_FREE, "allocated_here", NULL},
    {overflow_of_an_empty_block, OVERFLOW "1 byte written behind a block of 0 bytes", ON_FREE, "allocated_here", NULL},
    {overflow_of_an_aligned_block, OVERFLOW "1 byte written behind a block of 100 bytes", ON_FREE, "aligned_here", NULL},
    {underflow_of_an_aligned_block, UNDERFLOW "1 byte written in front of a block of 100 bytes", ON_FREE, "aligned_here", NULL},
    {overflow_of_a_cleared_block, OVERFLOW "1 byte written behind a block of 33 bytes", ON_FREE, "cleared_here", NULL},
    {overflow_after_realloc, OVERFLOW "1 byte written behind a block of 77 bytes", ON_FREE, "reallocated_here", NULL},
    {overflow_found_when_the_heap_is_destroyed, OVERFLOW, "when the heap was destroyed", "allocated_here", NULL},
    {overflow_by_another_thread, OVERFLOW "1 byte written behind a block of 64 bytes", ON_FREE, "overflow_in_thread", NULL},
    {underflow_found_on_free, UNDERFLOW "1 byte written in front of a block of 40 bytes", ON_FREE, "allocated_here", NULL},
    {underflow_found_on_walk, UNDERFLOW "1 byte written in front of a block of 4000 bytes", ON_WALK, "allocated_here", NULL},
    {double_free_at_once, DOUBLE "40 bytes (heap \"a\")", "when it was freed", "allocated_here", "freed_here"},
    {double_free_with_others_between, DOUBLE "40 bytes", "when it was freed", "allocated_here", "freed_here"},
    {double_free_after_the_quarantine, DOUBLE "40 bytes", "when it was freed", "allocated_here", "freed_here"},
    {double_free_of_a_block_too_large_for_the_quarantine, DOUBLE "3145728 bytes", "when it was freed", "allocated_here", "freed_here"},
    {double_free_by_another_function, DOUBLE "40 bytes", "when it was freed by hk_free_remote", "allocated_here", "freed_here"},
    {realloc_after_free, DOUBLE "40 bytes", "when it was reallocated", "allocated_here", "freed_here"},
    {use_after_free_found_on_walk, AFTER, ON_WALK, "allocated_here", "freed_here"},
    {use_after_free_found_on_a_later_free, AFTER, "when the freed block left the quarantine", "allocated_here", "freed_here"},
    {use_after_free_found_though_large_blocks_were_freed_since, AFTER, ON_WALK, "allocated_here", "freed_here"},
    {use_after_free_found_at_exit, AFTER, AT_EXIT, "allocated_here", "freed_here"},
    {use_after_realloc, AFTER, ON_WALK, "allocated_here", "reallocated_here"},
    {overflow_behind_a_freed_block, OVERFLOW "1 byte written behind a block of 40 bytes", ON_WALK, "allocated_here", "freed_here"},
    {free_inside_of_a_block, "invalid free: the pointer is not the start of a block", "when it was freed", "allocated_here", NULL},
    {free_of_the_stack, "foreign free: ", "when it was freed", NULL, NULL},
    {free_of_what_malloc_gave, "foreign free: ", "when it was freed", NULL, NULL},
    {free_of_another_heaps_block_that_is_not_watched, "foreign free: ", "when it was freed", NULL, NULL},
    {realloc_of_what_malloc_gave, "foreign free: ", "when it was reallocated", NULL, NULL},
    {free_into_another_heap, "wrong heap: a block of the heap \"a\" was given to the heap \"b\"", "when it was freed", "allocated_here", NULL},
    {free_into_a_heap_without_debug_mode, "wrong heap: a block of the heap \"a\" was given to the heap \"test\"", "when it was freed", "allocated_here", NULL},
    {free_of_a_large_block_into_a_heap_without_debug_mode, "wrong heap: ", "when it was freed", "allocated_here", NULL},
    {realloc_in_another_heap, "wrong heap: ", "when it was reallocated", "allocated_here", NULL},
    {raw_block_freed_as_an_object, "wrong domain: a block of the raw domain was given to the object domain", "when it was freed",
     "domain_allocated_here", NULL},
    {object_block_reallocated_as_mem, "wrong domain: a block of the object domain was given to the mem domain", "when it was reallocated",
     "domain_allocated_here", NULL},
};

/* ---- reports ---- */

static void test_every_seeded_bug_is_found_and_both_sites_are_named(void **state)
{
    static char text[65536], expected[256];
    for (size_t i = 0; i < COUNT(bugs); i++) {
        const struct bug *bug = &bugs[i];
        int status = run_child(bug->commit, text, sizeof(text));
        snprintf(expected, sizeof(expected), "heapkeeper: %s", bug->kind);
        bool good = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strncmp(text, expected, strlen(expected)) == 0;
        snprintf(expected, sizeof(expected), "  found %s, by thread ", bug->found);
        good = good && strstr(text, expected) != NULL;
        good = good && (bug->allocated == NULL || has_in_stack(text, "\n  allocated by thread ", bug->allocated));
        good = good && (bug->freed == NULL || has_in_stack(text, "\n  freed by thread ", bug->freed));
        good = good && (bug->freed != NULL || strstr(text, "\n  freed by") == NULL);
        if (!good)
            fail_msg("bug %zu (%s): status %x, and it said:\n%s", i, bug->kind, (unsigned)status, text);
    }
}

static void test_the_changed_bytes_are_shown(void **state)
{
    static char text[65536];
    run_child(overflow_found_on_realloc, text, sizeof(text));
    assert_non_null(strstr(text, "(block+24): 41 41 41 fd fd fd"));
}

/* ---- what is no bug ---- */

static void test_blocks_are_filled_when_fresh_and_when_dead(void **state)
{
    hk_heap *heap = debug_heap("fill");
    unsigned char *block = hk_malloc(heap, 100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(block[i], 0xCD);
    memset(block, 1, 100);
    hk_free(heap, block);
    for (int i = 0; i < 100; i++)
        assert_int_equal(block[i], 0xDD); /* in quarantine: still there */
    unsigned char *cleared = hk_calloc(heap, 10, 10);
    for (int i = 0; i < 100; i++)
        assert_int_equal(cleared[i], 0);
    hk_heap_destroy(heap);
}

static void test_a_freed_block_is_not_handed_out_again_at_once(void **state)
{
    hk_heap *heap = debug_heap("quarantine");
    void *block = hk_malloc(heap, 48);
    hk_free(heap, block);
    for (int i = 0; i < 10000; i++) {
        void *other = hk_malloc(heap, 48);
        assert_ptr_not_equal(other, block);
        hk_free(heap, other);
    }
    hk_heap_destroy(heap);
}

static void test_sizes_are_exact_and_alignment_is_kept(void **state)
{
    hk_heap *heap = debug_heap("sizes");
    for (size_t size = 0; size < 6000; size += 1 + size / 8) {
        void *block = hk_malloc(heap, size);
        assert_int_equal(hk_usable_size(block), size);
        assert_int_equal((uintptr_t)block % 16, 0);
        hk_free(heap, block);
    }
    for (size_t alignment = 1; alignment <= HK_ALIGNMENT_MAX; alignment *= 2) {
        void *block = hk_aligned_alloc(heap, alignment, 100);
        assert_int_equal((uintptr_t)block % alignment, 0);
        assert_int_equal(hk_usable_size(block), 100);
        hk_free(heap, block);
    }
    hk_heap_destroy(heap);
}

static void test_what_cannot_be_had_is_refused_and_nothing_changes(void **state)
{
    hk_heap *heap = debug_heap("refused");
    struct shadow s;
    shadow_fill(&s, hk_malloc(heap, 100), 100, 5);
    assert_null(hk_malloc(heap, SIZE_MAX));
    assert_null(hk_malloc(heap, PTRDIFF_MAX));
    assert_null(hk_calloc(heap, SIZE_MAX / 2, 3));
    assert_null(hk_aligned_alloc(heap, 4096, SIZE_MAX - 100));
    assert_null(hk_realloc(heap, s.block, PTRDIFF_MAX));
    assert_true(is_intact(&s));
    hk_free(heap, s.block);
    hk_free(heap, NULL);
    hk_heap_destroy(heap);
}

/* A random program without a bug: nothing is found, and the heap below and its statistics are in order. */
static void test_a_program_without_a_bug_gives_no_finding(void **state)
{
    hk_heap *heap = debug_heap("clean");
    uint64_t random = 7;
    struct shadow slots[500] = {{NULL, 0, 0}};
    for (int i = 0; i < rounds(100000); i++) {
        struct shadow *s = &slots[random_below(&random, COUNT(slots))];
        size_t size = random_size(&random);
        if (s->block == NULL) {
            void *block = i % 3 != 0 ? hk_malloc(heap, size) : hk_aligned_alloc(heap, (size_t)1 << random_below(&random, 12), size);
            shadow_fill(s, block, size, random);
        } else if (i % 2 == 0) {
            size_t kept = size < s->size ? size : s->size;
            void *block = hk_realloc(heap, s->block, size);
            assert_true(shadow_holds(block, kept, s->tag));
            shadow_fill(s, block, size, random);
        } else {
            assert_true(is_intact(s));
            hk_free(heap, s->block);
            s->block = NULL;
        }
    }
    size_t live = 0;
    for (size_t i = 0; i < COUNT(slots); i++)
        live += slots[i].block != NULL;
    assert_true(hk_debug_check() >= live);
    assert_in_order(heap);
    hk_heap_destroy(heap);
    assert_int_equal(hk_debug_check(), 0);
}

static void *passed[64];

static void *thread_work(void *argument)
{
    uint64_t random = (uint64_t)(uintptr_t)argument;
    for (int i = 0; i < rounds(20000); i++) {
        void *block = hk_malloc(shared_heap, random_below(&random, 2000));
        void *other = __atomic_exchange_n(&passed[random_below(&random, COUNT(passed))], block, __ATOMIC_ACQ_REL);
        hk_free(shared_heap, other);
        if (i % 5000 == 0)
            hk_debug_check();
    }
    return NULL;
}

static void test_threads_free_each_others_blocks(void **state)
{
    pthread_t threads[4];
    shared_heap = debug_heap("threads");
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_create(&threads[i], NULL, thread_work, (void *)(i + 1));
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < COUNT(passed); i++) {
        hk_free(shared_heap, passed[i]);
        passed[i] = NULL;
    }
    assert_in_order(shared_heap);
    hk_heap_destroy(shared_heap);
}

static void *fork_work(void *argument)
{
    while (!__atomic_load_n((bool *)argument, __ATOMIC_ACQUIRE))
        hk_free(shared_heap, hk_malloc(shared_heap, 100));
    return NULL;
}

/* Whatever lock another thread holds at the moment of the fork, the child goes on. */
static void test_a_child_goes_on_while_threads_were_at_work(void **state)
{
    pthread_t threads[2];
    bool stop = false;
    shared_heap = debug_heap("fork");
    hk_heap *own = heap_new(HK_LOCK_THREADS); /* its handlers take the heaps' own locks */
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_create(&threads[i], NULL, fork_work, &stop);
    for (int i = 0; i < rounds(100); i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            void *block = hk_malloc(shared_heap, 200);
            hk_free(shared_heap, block);
            hk_debug_check();
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    hk_heap_destroy(own);
    hk_heap_destroy(shared_heap);
}

static void environment_asks(void)
{
    setenv("HEAPKEEPER_DEBUG", "1", 1);
    hk_heap *heap = heap_new(HK_LOCK_HOST);
    poke(hk_malloc(heap, 20), 20);
    hk_debug_check();
}

static void environment_says_no(void)
{
    setenv("HEAPKEEPER_DEBUG", "0", 1);
    CHILD_CHECK(!heap_new(HK_LOCK_HOST)->is_debug);
    setenv("HEAPKEEPER_DEBUG", "1", 1);
    hk_debug_default(false);
    CHILD_CHECK(!heap_new(HK_LOCK_HOST)->is_debug);
    hk_debug_default(true);
    CHILD_CHECK(heap_new(HK_LOCK_HOST)->is_debug);
    CHILD_CHECK(!hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .debug = HK_DEBUG_OFF})->is_debug);
}

static void test_the_environment_turns_it_on_and_the_program_has_the_last_word(void **state)
{
    static char text[65536];
    int status = run_child(environment_asks, text, sizeof(text));
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(text, OVERFLOW));
    in_child(environment_says_no);
}

static bool count_calls(hk_heap *heap, size_t wanted, void *argument)
{
    ++*(int *)argument;
    return false;
}

/* A heap that cannot grow must not be filled by what its program has freed. */
static void test_blocks_leave_the_quarantine_where_their_heap_has_no_other_memory(void **state)
{
    static char buffer[256 << 10];
    int asked = 0;
    hk_heap_options options = {.size = sizeof(options), .debug = HK_DEBUG_ON, .source = HK_SOURCE_BUFFER, .buffer = buffer,
                               .buffer_size = sizeof(buffer), .at_limit = count_calls, .at_limit_argument = &asked};
    for (int limited = 0; limited < 2; limited++) {
        options.limit_bytes = limited ? 1 << 20 : 0;
        options.source = limited ? HK_SOURCE_SYSTEM : HK_SOURCE_BUFFER;
        hk_heap *heap = hk_heap_create(&options);
        char *kept = hk_malloc(heap, 100);
        memset(kept, 7, 100);
        for (int i = 0; i < 3000; i++) {
            void *block = i % 3 == 0   ? hk_malloc(heap, 1000)
                          : i % 3 == 1 ? hk_calloc(heap, 10, 3000)
                                       : hk_aligned_alloc(heap, 4096, 5000);
            assert_non_null(block);
            block = hk_realloc(heap, block, 2000);
            assert_non_null(block);
            hk_free(heap, block);
        }
        assert_null(hk_malloc(heap, SIZE_MAX)); /* which no limit refuses */
        assert_int_equal(asked, 0);
        assert_null(hk_malloc(heap, 2 << 20));
        assert_int_equal(asked, limited);
        for (int i = 0; i < 100; i++)
            assert_int_equal(kept[i], 7);
        hk_debug_check();
        hk_heap_destroy(heap);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_seeded_bug_is_found_and_both_sites_are_named),
        cmocka_unit_test(test_the_changed_bytes_are_shown),
        cmocka_unit_test(test_blocks_are_filled_when_fresh_and_when_dead),
        cmocka_unit_test(test_a_freed_block_is_not_handed_out_again_at_once),
        cmocka_unit_test(test_sizes_are_exact_and_alignment_is_kept),
        cmocka_unit_test(test_what_cannot_be_had_is_refused_and_nothing_changes),
        cmocka_unit_test(test_a_program_without_a_bug_gives_no_finding),
        cmocka_unit_test(test_threads_free_each_others_blocks),
        cmocka_unit_test(test_a_child_goes_on_while_threads_were_at_work),
        cmocka_unit_test(test_the_environment_turns_it_on_and_the_program_has_the_last_word),
        cmocka_unit_test(test_blocks_leave_the_quarantine_where_their_heap_has_no_other_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
