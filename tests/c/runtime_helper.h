/* What the tests of the runtime share: one runtime a test, which must be left without a block. */
#ifndef HK_TESTS_RUNTIME_HELPER_H
#define HK_TESTS_RUNTIME_HELPER_H

#include "heap_helper.h"

#include "heapkeeper/gc.h"
#include "heapkeeper/iter.h"
#include "heapkeeper/values.h"
#include "object/runtime.h"

static hk_runtime *runtime;

/* HEAPKEEPER_DEBUG=1: what a test does wrong on purpose ends the process there, and memory beside objects, once freed, waits. */
static inline bool is_debug(void)
{
    return getenv("HEAPKEEPER_DEBUG") != NULL;
}

static inline uint64_t live_blocks_of(hk_runtime *one)
{
    hk_heap *const heaps[] = {one->cyclic, one->acyclic, one->memory};
    uint64_t blocks = 0;
    hk_watch_let_go(one);
    for (size_t i = 0; i < (is_debug() ? 2 : COUNT(heaps)); i++) {
        hk_heap_stats stats = stats_of(heaps[i]);
        blocks += stats.live_blocks + (is_debug() ? 0 : stats.large_blocks);
    }
    return blocks;
}

/* Of what is in use: nothing is kept for reuse. */
static inline uint64_t live_blocks(void)
{
    hk_free_lists_trim(runtime);
    return live_blocks_of(runtime);
}

static inline int begin(void **state)
{
    runtime = hk_runtime_create(NULL);
    return runtime == NULL;
}

static inline int end(void **state)
{
    bool clean = hk_gc_collect(runtime, 2) == 0 && live_blocks() == 0 && hk_heap_check(NULL) == 0;
    hk_runtime_destroy(runtime);
    return !clean;
}

static inline void give_up(hk_object *object)
{
    assert_non_null(object);
    hk_decref(runtime, object);
}

/* A test that begins with a runtime of its own, and leaves nothing in it. */
#define EACH(test) cmocka_unit_test_setup_teardown(test, begin, end)

#endif
