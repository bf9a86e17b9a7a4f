/* The heap where there is little: no address space before the first heap is made, none afterwards, no memory, a C
 * allocator that refuses. It then uses the C allocator, or says NULL, and what is allocated stays as it is.
 *
 * Each test is a child, so that each begins without a heap: the parent never makes one. RLIMIT_AS refuses mmap, and
 * RLIMIT_DATA also the mprotect by which reserved addresses become memory. Tools that need address space for
 * themselves (sanitizers, valgrind) run only the tests that set no limit. */
#include "heap_helper.h"

#include <sys/resource.h>

static uint64_t tags;

static void set_limit(int which, uint64_t bytes)
{
    struct rlimit limit;
    CHILD_CHECK(getrlimit((__typeof__(RLIMIT_AS))which, &limit) == 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    CHILD_CHECK(setrlimit((__typeof__(RLIMIT_AS))which, &limit) == 0);
}

/* The process's bytes by the n-th number of /proc/self/statm: 0 all of its addresses, 5 its data. */
static uint64_t statm(int n)
{
    unsigned long long pages[7] = {0};
    FILE *file = fopen("/proc/self/statm", "r");
    CHILD_CHECK(file != NULL);
    for (int i = 0; i < 7; i++)
        CHILD_CHECK(fscanf(file, "%llu", &pages[i]) == 1);
    fclose(file);
    return pages[n] * hk_os_page_size();
}

/* A random program in which any call may give NULL. Returns how many did. */
static int hungry_program(hk_heap *heap, int steps, uint64_t seed)
{
    enum { SLOTS = 2000 };
    static struct shadow slots[SLOTS];
    int refused = 0;
    uint64_t random = seed;
    memset(slots, 0, sizeof(slots));
    for (int i = 0; i < steps; i++) {
        struct shadow *s = &slots[random_below(&random, SLOTS)];
        size_t size = random_size(&random);
        unsigned char *block;
        if (s->block != NULL) {
            CHILD_CHECK(is_intact(s));
            if (random_below(&random, 2) && (block = hk_realloc(heap, s->block, size)) != NULL) {
                CHILD_CHECK(shadow_holds(block, size < s->size ? size : s->size, s->tag));
                shadow_fill(s, block, size, tags++);
                continue;
            }
            CHILD_CHECK(is_intact(s)); /* also where realloc gave NULL */
            hk_free(heap, s->block);
            s->block = NULL;
        }
        size_t alignment = (size_t)1 << random_below(&random, 15);
        block = i % 4 == 0 ? hk_aligned_alloc(heap, alignment, size)
                : i % 4 == 1 ? hk_calloc(heap, 1, size) : hk_malloc(heap, size);
        if (block == NULL) {
            refused++;
            continue;
        }
        CHILD_CHECK((uintptr_t)block % (i % 4 ? alignment_of(size) : alignment) == 0);
        shadow_fill(s, block, size, tags++);
    }
    for (int i = 0; i < SLOTS; i++)
        if (slots[i].block != NULL) {
            CHILD_CHECK(is_intact(&slots[i]));
            hk_free(heap, slots[i].block);
        }
    CHILD_CHECK(disagreement(heap) == 0);
    hk_heap_stats s = stats_of(heap);
    CHILD_CHECK(s.live_blocks + s.live_bytes + s.large_blocks + s.large_bytes == 0);
    return refused;
}

/* ---- addresses ---- */

static void little_address_space(void)
{
    set_limit(RLIMIT_AS, statm(0) + ((uint64_t)1 << 30));
    hk_heap *heap = hk_heap_create(NULL);
    CHILD_CHECK(heap != NULL);
    CHILD_CHECK(hk_region.span <= (size_t)512 << 20); /* the program needs some for itself */
    CHILD_CHECK(hungry_program(heap, 50000, 1) == 0);
    void *stack_of_a_thread = hk_os_map((size_t)256 << 20);
    CHILD_CHECK(stack_of_a_thread != NULL);
}

static void more_than_all_addresses(void)
{
    size_t limit = ((size_t)statm(0) + ((size_t)1 << 30)) / 4096 * 4096;
    set_limit(RLIMIT_AS, limit);
    hk_heap *heap = hk_heap_create(NULL);
    void *small = hk_malloc(heap, 100), *large = hk_malloc(heap, 100000);
    size_t span = hk_region.span;
    CHILD_CHECK(small != NULL && large != NULL && span != 0);
    CHILD_CHECK(hk_malloc(heap, limit) == NULL && hk_calloc(heap, 1, limit) == NULL);
    CHILD_CHECK(hk_aligned_alloc(heap, 4096, limit) == NULL && hk_realloc(heap, large, limit) == NULL);
    CHILD_CHECK(hk_region.span == span); /* giving addresses back would not have helped */
    CHILD_CHECK(hk_realloc(heap, large, (size_t)850 << 20) != NULL); /* here it does */
    CHILD_CHECK(hk_region.span < span);
}

static void next_to_no_address_space(void)
{
    set_limit(RLIMIT_AS, statm(0) + ((uint64_t)24 << 20));
    hk_heap *heap = hk_heap_create(NULL);
    if (heap != NULL)
        hungry_program(heap, 50000, 2);
    CHILD_CHECK(heap != NULL || hk_domain_malloc(HK_DOMAIN_RAW, 100) == NULL);
}

static void no_address_space(void)
{
    set_limit(RLIMIT_AS, 1 << 20);
    CHILD_CHECK(hk_heap_create(NULL) == NULL);
    for (int i = 0; i < HK_DOMAINS; i++) {
        CHILD_CHECK(hk_domain_malloc((hk_domain)i, 100) == NULL);
        CHILD_CHECK(hk_domain_calloc((hk_domain)i, 10, 10) == NULL);
        CHILD_CHECK(hk_domain_realloc((hk_domain)i, NULL, 100) == NULL);
        hk_domain_free((hk_domain)i, NULL);
    }
    hk_heap_stats s = stats_of(NULL);
    CHILD_CHECK(s.mapped_bytes == 0);
    set_limit(RLIMIT_AS, RLIM_INFINITY); /* and afterwards it works */
    hk_heap *heap = hk_heap_create(NULL);
    CHILD_CHECK(heap != NULL);
    CHILD_CHECK(hungry_program(heap, 10000, 3) == 0);
    CHILD_CHECK(hk_domain_malloc(HK_DOMAIN_RAW, 100) != NULL);
}

static void addresses_taken_away_later(void)
{
    hk_heap *heap = hk_heap_create(NULL);
    CHILD_CHECK(hungry_program(heap, 10000, 4) == 0);
    set_limit(RLIMIT_AS, 1 << 20); /* what was reserved before is reserved */
    CHILD_CHECK(hungry_program(heap, 50000, 5) < 5000);
    set_limit(RLIMIT_AS, RLIM_INFINITY);
    CHILD_CHECK(hungry_program(heap, 10000, 6) == 0);
}

/* ---- memory ---- */

static void no_memory(hk_lock_mode lock)
{
    hk_heap *heap = heap_new(lock);
    struct shadow s;
    shadow_fill(&s, hk_malloc(heap, 100), 100, 1);
    set_limit(RLIMIT_DATA, statm(5) + ((uint64_t)4 << 20));
    void *chain = NULL, **block;
    int given = 0;
    while ((block = hk_malloc(heap, 1000)) != NULL) {
        *block = chain;
        chain = block;
        CHILD_CHECK(++given < 1 << 20);
    }
    CHILD_CHECK(given > 1000);
    CHILD_CHECK(hk_calloc(heap, 100, 100000) == NULL);
    CHILD_CHECK(hk_aligned_alloc(heap, 1024, 10000000) == NULL);
    CHILD_CHECK(hk_realloc(heap, s.block, 10000000) == NULL);
    CHILD_CHECK(is_intact(&s));
    CHILD_CHECK(disagreement(heap) == 0);
    while (chain != NULL) {
        void *next = *(void **)chain;
        hk_free(heap, chain);
        chain = next;
    }
    hk_free(heap, s.block);
    hungry_program(heap, 20000, 7);
    set_limit(RLIMIT_DATA, RLIM_INFINITY);
    CHILD_CHECK(hungry_program(heap, 20000, 8) == 0);
    hk_heap_destroy(heap);
}

static void no_memory_under_the_hosts_lock(void)
{
    no_memory(HK_LOCK_HOST);
}

static void no_memory_under_its_own_lock(void)
{
    no_memory(HK_LOCK_OWN);
}

static void no_memory_for_a_heap(void)
{
    hk_heap *heap = heap_new(HK_LOCK_OWN), *beside;
    set_limit(RLIMIT_DATA, 1); /* of 0 the kernel makes an exception, for valgrind */
    CHILD_CHECK((beside = hk_heap_create(NULL)) == NULL || hk_heap_create(NULL) == NULL); /* two heaps' structures share a page */
    if (beside != NULL)
        hk_heap_destroy(beside);
    set_limit(RLIMIT_DATA, RLIM_INFINITY);
    hk_heap *other = hk_heap_create(NULL);
    CHILD_CHECK(other != NULL && other != heap);
}

/* ---- the C allocator refuses ---- */

static int refuse_each; /* 3: each third call is refused; 1: all; 0: none */
static int libc_calls;

static bool refused(void)
{
    return refuse_each != 0 && ++libc_calls % refuse_each == 0;
}

static void *refusing_malloc(size_t size)
{
    return refused() ? NULL : malloc(size);
}

static void *refusing_calloc(size_t count, size_t size)
{
    return refused() ? NULL : calloc(count, size);
}

static void *refusing_realloc(void *block, size_t size)
{
    return refused() ? NULL : realloc(block, size);
}

static int refusing_memalign(void **block, size_t alignment, size_t size)
{
    return refused() ? 12 : posix_memalign(block, alignment, size);
}

static void refuse(int each)
{
    refuse_each = each;
    libc_calls = 0;
    hk_libc.malloc = refusing_malloc;
    hk_libc.calloc = refusing_calloc;
    hk_libc.realloc = refusing_realloc;
    hk_libc.memalign = refusing_memalign;
}

static void c_allocator_that_refuses(void)
{
    for (int lock = HK_LOCK_OWN; lock <= HK_LOCK_HOST; lock++)
        for (int each = 1; each <= 5; each++) {
            hk_heap *heap = heap_new((hk_lock_mode)lock);
            refuse(each);
            CHILD_CHECK(hungry_program(heap, rounds(20000), (uint64_t)each) > 0);
            refuse(0);
            CHILD_CHECK(hungry_program(heap, rounds(5000), (uint64_t)each) == 0);
            hk_heap_destroy(heap);
        }
}

static void block_made_smaller_with_no_smaller_one_to_be_had(void)
{
    hk_heap *heap = heap_new(HK_LOCK_HOST);
    struct shadow s;
    refuse(0);
    shadow_fill(&s, hk_malloc(heap, 50000), 50000, 2);
    CHILD_CHECK(hk_region_shrink(0));
    while (hk_heap_of(hk_malloc(heap, 64)) == heap)
        ;
    refuse(1);
    CHILD_CHECK(hk_realloc(heap, s.block, 64) == s.block); /* it stays where it is, large enough */
    CHILD_CHECK(is_intact(&s));
    CHILD_CHECK(hk_realloc(heap, s.block, 60000) == NULL);
    CHILD_CHECK(is_intact(&s));
    hk_free(heap, s.block);
}

static const void *sampled; /* what the recorder knows */

static uint32_t one_sample(void)
{
    return sampled != NULL;
}

static bool forget_sample(const void *block)
{
    bool known = block == sampled;
    sampled = known ? NULL : sampled;
    return known;
}

static bool rename_sample(const void *block, const void *name)
{
    bool known = block == sampled;
    sampled = known ? name : sampled;
    return known;
}

static void sampled_block_that_cannot_grow(void)
{
    hk_heap *heap = heap_new(HK_LOCK_HOST);
    hk_recorder = (struct hk_heap_recorder){.free = forget_sample, .rename = rename_sample, .table_size = one_sample};
    void *block = hk_malloc(heap, 50000);
    sampled = block;
    refuse(1);
    CHILD_CHECK(hk_realloc(heap, block, 60000) == NULL);
    CHILD_CHECK(sampled == block);
    refuse(0);
    block = hk_realloc(heap, block, 60000);
    CHILD_CHECK(block != NULL && sampled == NULL);
    hk_free(heap, block);
}

/* ---- the region, shrunk: what happens when a running program's RLIMIT_AS is lowered ---- */

static void shrunk_region(hk_lock_mode lock, size_t spare)
{
    hk_heap *heap = heap_new(lock), *other = heap_new(HK_LOCK_OWN);
    struct shadow s;
    shadow_fill(&s, hk_malloc(heap, 100), 100, 1);
    hungry_program(other, rounds(5000), 9);
    size_t span = hk_region.span;
    char *end = hk_region.base + span;
    CHILD_CHECK(!hk_region_shrink(span)); /* there is not more than that */
    CHILD_CHECK(hk_region_shrink(spare));
    CHILD_CHECK(hk_region.span < span && hk_region.span >= spare);
    CHILD_CHECK(hk_heap_of(end - 1) == NULL);
    CHILD_CHECK(!hk_region_shrink(spare));
    CHILD_CHECK(is_intact(&s));

    /* All that is left, and then more: from the C allocator. */
    size_t left = hk_region.span + ((size_t)4 << 20);
    void *chain = NULL;
    for (size_t given = 0; given < left; given += 2048) {
        void **block = hk_malloc(heap, 2048);
        CHILD_CHECK(block != NULL);
        *block = chain;
        chain = block;
    }
    CHILD_CHECK(stats_of(heap).large_blocks > 0);
    CHILD_CHECK(hk_heap_of(chain) == NULL);
    CHILD_CHECK(disagreement(heap) == 0);
    CHILD_CHECK(hungry_program(other, rounds(20000), 10) == 0);
    while (chain != NULL) {
        void *next = *(void **)chain;
        hk_free(heap, chain);
        chain = next;
    }
    hk_free(heap, s.block);
    CHILD_CHECK(hungry_program(heap, rounds(20000), 11) == 0);
    hk_heap_destroy(heap);
    CHILD_CHECK(hungry_program(other, rounds(20000), 12) == 0); /* the other's arenas are its own now */
    CHILD_CHECK(hk_heap_create(NULL) != NULL);
}

static void region_without_a_spare_arena(void)
{
    shrunk_region(HK_LOCK_HOST, 0);
}

static void region_with_a_few_spare_arenas(void)
{
    shrunk_region(HK_LOCK_OWN, (size_t)8 << 20);
}

/* ---- the tests ---- */

static void in_limited_child(void (*function)(void))
{
    if (is_watched_by_tool())
        skip();
    in_child(function);
}

static void test_with_little_address_space_less_is_reserved(void **state)
{
    in_limited_child(little_address_space);
}

static void test_with_next_to_no_address_space_there_is_a_heap_or_there_is_none(void **state)
{
    in_limited_child(next_to_no_address_space);
}

static void test_without_address_space_there_is_no_heap_until_there_is_some(void **state)
{
    in_limited_child(no_address_space);
}

static void test_a_limit_that_is_set_later_leaves_the_heap_what_it_has(void **state)
{
    in_limited_child(addresses_taken_away_later);
}

static void test_without_memory_calls_give_null_and_blocks_stay(void **state)
{
    in_limited_child(no_memory_under_the_hosts_lock);
    in_limited_child(no_memory_under_its_own_lock);
}

static void test_addresses_are_given_back_only_for_what_can_be_had_then(void **state)
{
    in_limited_child(more_than_all_addresses);
}

static void test_a_block_that_could_not_grow_is_still_known_to_the_recorder(void **state)
{
    in_child(sampled_block_that_cannot_grow);
}

static void test_without_memory_no_heap_is_made(void **state)
{
    in_limited_child(no_memory_for_a_heap);
}

static void test_a_c_allocator_that_refuses_costs_nothing_but_null(void **state)
{
    in_child(c_allocator_that_refuses);
}

static void test_shrinking_a_block_never_fails(void **state)
{
    in_child(block_made_smaller_with_no_smaller_one_to_be_had);
}

static void test_a_shrunk_region_serves_what_is_left_and_then_the_c_allocator(void **state)
{
    in_child(region_without_a_spare_arena);
    in_child(region_with_a_few_spare_arenas);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_with_little_address_space_less_is_reserved),
        cmocka_unit_test(test_with_next_to_no_address_space_there_is_a_heap_or_there_is_none),
        cmocka_unit_test(test_without_address_space_there_is_no_heap_until_there_is_some),
        cmocka_unit_test(test_a_limit_that_is_set_later_leaves_the_heap_what_it_has),
        cmocka_unit_test(test_without_memory_calls_give_null_and_blocks_stay),
        cmocka_unit_test(test_without_memory_no_heap_is_made),
        cmocka_unit_test(test_addresses_are_given_back_only_for_what_can_be_had_then),
        cmocka_unit_test(test_a_block_that_could_not_grow_is_still_known_to_the_recorder),
        cmocka_unit_test(test_a_c_allocator_that_refuses_costs_nothing_but_null),
        cmocka_unit_test(test_shrinking_a_block_never_fails),
        cmocka_unit_test(test_a_shrunk_region_serves_what_is_left_and_then_the_c_allocator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
