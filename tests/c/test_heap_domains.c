/* Domains, the C form of PEP 445: each has a heap of its own, a table can be wrapped and put back. */
#include "heap_helper.h"

static hk_heap *default_of(hk_domain domain)
{
    void *block = hk_domain_malloc(domain, 100);
    hk_heap *heap = hk_heap_of(block);
    hk_domain_free(domain, block);
    return heap;
}

static void test_each_domain_has_a_heap_of_its_own(void **state)
{
    hk_heap *raw = default_of(HK_DOMAIN_RAW), *mem = default_of(HK_DOMAIN_MEM), *object = default_of(HK_DOMAIN_OBJECT);
    assert_non_null(raw);
    assert_true(raw != mem && mem != object && object != raw);
    assert_int_equal(raw->mode, HK_LOCK_OWN);
    assert_int_equal(mem->mode, HK_LOCK_HOST);
    assert_int_equal(object->mode, HK_LOCK_HOST);
    for (int i = 0; i < HK_DOMAINS; i++) {
        assert_ptr_equal(default_of((hk_domain)i), default_of((hk_domain)i));
        assert_in_order(default_of((hk_domain)i));
    }
}

static void test_the_four_functions_do_what_their_names_say(void **state)
{
    for (int i = 0; i < HK_DOMAINS; i++) {
        hk_domain domain = (hk_domain)i;
        uint64_t before = stats_of(default_of(domain)).live_blocks;
        struct shadow s;
        shadow_fill(&s, hk_domain_malloc(domain, 100), 100, 9);
        s.block = hk_domain_realloc(domain, s.block, 50000);
        assert_true(is_intact(&s));
        s.block = hk_domain_realloc(domain, s.block, 101);
        assert_true(is_intact(&s));
        hk_domain_free(domain, s.block);
        unsigned char *cleared = hk_domain_calloc(domain, 10, 30);
        for (int k = 0; k < 300; k++)
            assert_int_equal(cleared[k], 0);
        hk_domain_free(domain, cleared);
        hk_domain_free(domain, NULL);
        hk_domain_free(domain, hk_domain_realloc(domain, NULL, 7));
        assert_null(hk_domain_malloc(domain, SIZE_MAX));
        assert_null(hk_domain_calloc(domain, SIZE_MAX, 16));
        assert_int_equal(stats_of(default_of(domain)).live_blocks, before);
    }
}

/* A hook in the manner of PEP 445: counts and passes on. */
struct hook {
    hk_allocator wrapped;
    int mallocs, callocs, reallocs, frees;
    bool refuses;
};

static void *hook_malloc(void *context, size_t size)
{
    struct hook *hook = context;
    hook->mallocs++;
    return hook->refuses ? NULL : hook->wrapped.malloc(hook->wrapped.context, size);
}

static void *hook_calloc(void *context, size_t count, size_t size)
{
    struct hook *hook = context;
    hook->callocs++;
    return hook->refuses ? NULL : hook->wrapped.calloc(hook->wrapped.context, count, size);
}

static void *hook_realloc(void *context, void *block, size_t size)
{
    struct hook *hook = context;
    hook->reallocs++;
    return hook->refuses ? NULL : hook->wrapped.realloc(hook->wrapped.context, block, size);
}

static void hook_free(void *context, void *block)
{
    struct hook *hook = context;
    hook->frees++;
    hook->wrapped.free(hook->wrapped.context, block);
}

static void hook_install(struct hook *hook, hk_domain domain)
{
    memset(hook, 0, sizeof(*hook));
    hk_get_allocator(domain, &hook->wrapped);
    hk_set_allocator(domain, &(hk_allocator){hook, hook_malloc, hook_calloc, hook_realloc, hook_free});
}

static void test_a_wrapped_domain_counts_and_the_others_do_not(void **state)
{
    struct hook hook;
    void *old = hk_domain_malloc(HK_DOMAIN_MEM, 64);
    hook_install(&hook, HK_DOMAIN_MEM);
    void *block = hk_domain_malloc(HK_DOMAIN_MEM, 64);
    block = hk_domain_realloc(HK_DOMAIN_MEM, block, 640);
    void *cleared = hk_domain_calloc(HK_DOMAIN_MEM, 4, 4);
    hk_domain_free(HK_DOMAIN_OBJECT, hk_domain_malloc(HK_DOMAIN_OBJECT, 64));
    hk_domain_free(HK_DOMAIN_RAW, hk_domain_malloc(HK_DOMAIN_RAW, 64));
    hk_domain_free(HK_DOMAIN_MEM, old); /* from before: through the new table, which wraps the old one */
    hk_domain_free(HK_DOMAIN_MEM, cleared);
    hk_domain_free(HK_DOMAIN_MEM, block);
    assert_int_equal(hook.mallocs, 1);
    assert_int_equal(hook.reallocs, 1);
    assert_int_equal(hook.callocs, 1);
    assert_int_equal(hook.frees, 3);
    hk_set_allocator(HK_DOMAIN_MEM, &hook.wrapped);
}

static void test_hooks_are_stacked_and_taken_off_again(void **state)
{
    struct hook inner, outer;
    hk_allocator original, restored;
    hk_get_allocator(HK_DOMAIN_OBJECT, &original);
    hook_install(&inner, HK_DOMAIN_OBJECT);
    hook_install(&outer, HK_DOMAIN_OBJECT);
    void *block = hk_domain_malloc(HK_DOMAIN_OBJECT, 48);
    assert_int_equal(inner.mallocs + outer.mallocs, 2);
    hk_set_allocator(HK_DOMAIN_OBJECT, &outer.wrapped);
    hk_domain_free(HK_DOMAIN_OBJECT, block);
    assert_int_equal(inner.frees, 1);
    assert_int_equal(outer.frees, 0);
    hk_set_allocator(HK_DOMAIN_OBJECT, &inner.wrapped);
    hk_get_allocator(HK_DOMAIN_OBJECT, &restored);
    assert_memory_equal(&original, &restored, sizeof(original));
    hk_domain_free(HK_DOMAIN_OBJECT, hk_domain_malloc(HK_DOMAIN_OBJECT, 48));
    assert_int_equal(inner.mallocs, 1);
}

static void test_what_a_hook_refuses_is_refused(void **state)
{
    struct hook hook;
    struct shadow s;
    shadow_fill(&s, hk_domain_malloc(HK_DOMAIN_RAW, 100), 100, 3);
    hook_install(&hook, HK_DOMAIN_RAW);
    hook.refuses = true;
    assert_null(hk_domain_malloc(HK_DOMAIN_RAW, 1));
    assert_null(hk_domain_calloc(HK_DOMAIN_RAW, 1, 1));
    assert_null(hk_domain_realloc(HK_DOMAIN_RAW, s.block, 200));
    assert_true(is_intact(&s));
    hk_set_allocator(HK_DOMAIN_RAW, &hook.wrapped);
    hk_domain_free(HK_DOMAIN_RAW, s.block);
}

static void *raw_work(void *argument)
{
    for (int i = 0; i < 20000; i++)
        hk_domain_free(HK_DOMAIN_RAW, hk_domain_malloc(HK_DOMAIN_RAW, (size_t)i % 700));
    return NULL;
}

static void test_raw_needs_no_lock(void **state)
{
    pthread_t threads[4];
    uint64_t before = stats_of(default_of(HK_DOMAIN_RAW)).live_blocks;
    for (size_t i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, raw_work, NULL), 0);
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(stats_of(default_of(HK_DOMAIN_RAW)).live_blocks, before);
    assert_in_order(default_of(HK_DOMAIN_RAW));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_domain_has_a_heap_of_its_own),
        cmocka_unit_test(test_the_four_functions_do_what_their_names_say),
        cmocka_unit_test(test_a_wrapped_domain_counts_and_the_others_do_not),
        cmocka_unit_test(test_hooks_are_stacked_and_taken_off_again),
        cmocka_unit_test(test_what_a_hook_refuses_is_refused),
        cmocka_unit_test(test_raw_needs_no_lock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
