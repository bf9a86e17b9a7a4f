/* Frames of a runtime: locals that own, order of release, ways out, chunks, depth, and who is shown to hold what. */
#include "heap_helper.h"

#include <setjmp.h>

#include "heapkeeper/values.h"
#include "object/runtime.h"

struct noisy { /* says its number when it dies */
    hk_object head;
    int number;
};

static int deaths[16], deaths_count;

static void note_death(hk_runtime *runtime, hk_object *self)
{
    if (deaths_count < (int)COUNT(deaths))
        deaths[deaths_count] = ((struct noisy *)self)->number;
    deaths_count++;
}

static hk_type noisy_type = {.name = "noisy", .size = sizeof(struct noisy), .destroy = note_death};

static hk_object *noisy(hk_runtime *runtime, int number)
{
    struct noisy *object = (struct noisy *)hk_new(runtime, &noisy_type);
    assert_non_null(object);
    object->number = number;
    return &object->head;
}

static hk_runtime *fresh(void)
{
    hk_runtime *runtime = hk_runtime_create(NULL);
    assert_non_null(runtime);
    deaths_count = 0;
    return runtime;
}

static uint64_t live_blocks(hk_runtime *runtime)
{
    hk_heap_stats stats = {.size = sizeof(stats)};
    uint64_t sum = 0;
    hk_heap *heaps[] = {runtime->cyclic, runtime->acyclic, runtime->memory};
    hk_watch_let_go(runtime);
    for (size_t i = 0; i < COUNT(heaps); i++) {
        hk_heap_get_stats(heaps[i], &stats);
        sum += stats.live_blocks + stats.large_blocks;
    }
    return sum;
}

static void end(hk_runtime *runtime)
{
    assert_int_equal(hk_frame_depth(runtime), 0);
    assert_null(hk_frame_current(runtime));
    assert_int_equal(hk_heap_check(NULL), 0);
    hk_runtime_destroy(runtime);
}

static const hk_code code = {"somewhere", "file.c", 7};

static void test_locals_are_released_in_order_when_the_frame_is_popped(void **state)
{
    hk_runtime *runtime = fresh();
    hk_frame *frame = hk_frame_push(runtime, &code, 5);
    assert_non_null(frame);
    for (int i = 0; i < 5; i++) {
        assert_null(frame->locals[i]);
        if (i != 3)
            frame->locals[i] = noisy(runtime, i);
    }
    hk_object *returned = hk_incref(frame->locals[1]);
    hk_frame_pop(frame);
    assert_int_equal(deaths_count, 3);
    assert_int_equal(deaths[0], 0);
    assert_int_equal(deaths[1], 2);
    assert_int_equal(deaths[2], 4);
    assert_int_equal(returned->references, 1);
    hk_decref(runtime, returned);
    end(runtime);
}

/* way: 0 falls off the end, 1 returns early, 2 goes to a label outside, 3 breaks out of a loop, 4 jumps */
static jmp_buf jump;

static int leave_by(hk_runtime *runtime, int way)
{
    for (;;) {
        HK_FRAME(runtime, frame, 1);
        assert_string_equal(frame->code->function, "leave_by");
        frame->locals[0] = noisy(runtime, way);
        if (way == 1)
            return 1;
        if (way == 2)
            goto out;
        if (way == 4)
            longjmp(jump, 1);
        break;
    }
out:
    assert_int_equal(deaths_count, 1);
    return 0;
}

static void test_frame_is_popped_on_every_way_out(void **state)
{
    hk_runtime *runtime = fresh();
    for (volatile int way = 0; way <= 4; way++) {
        deaths_count = 0;
        hk_frame *outer = hk_frame_push(runtime, &code, 0);
        if (setjmp(jump) == 0)
            leave_by(runtime, way);
        assert_int_equal(hk_frame_depth(runtime), way == 4 ? 2 : 1);
        hk_frame_pop(hk_frame_depth(runtime) == 2 ? hk_frame_current(runtime)->caller : outer); /* takes the lost one along */
        assert_int_equal(deaths_count, 1);
        assert_int_equal(deaths[0], way);
    }
    end(runtime);
}

static int64_t sum_up_to(hk_runtime *runtime, int64_t n, uint64_t *deepest)
{
    HK_FRAME(runtime, frame, 2);
    if (frame == NULL)
        return -1;
    frame->locals[0] = noisy(runtime, 1);
    *deepest = hk_frame_depth(runtime) > *deepest ? hk_frame_depth(runtime) : *deepest;
    if (n == 0)
        return 0;
    int64_t rest = sum_up_to(runtime, n - 1, deepest);
    return rest < 0 ? rest : rest + n;
}

static void test_recursion_beyond_the_limit_is_an_error_and_the_runtime_goes_on(void **state)
{
    hk_runtime *runtime = fresh();
    uint64_t deepest = 0;
    assert_int_equal(hk_frame_get_limit(runtime), 0);
    hk_frame_set_limit(runtime, 1000);
    assert_int_equal(sum_up_to(runtime, 999, &deepest), 999 * 1000 / 2);
    assert_int_equal(sum_up_to(runtime, 1000, &deepest), -1);
    assert_int_equal(deepest, 1000);
    assert_int_equal(deaths_count, 2000);
    hk_frame_set_limit(runtime, 0);
    assert_int_equal(sum_up_to(runtime, 2000, &deepest), 2000 * 2001 / 2);
    end(runtime);
}

/* An interpreter's frames need no C stack: it may have a million of them. */
static void test_million_frames_lie_in_chunks_that_go_with_them(void **state)
{
    hk_runtime *runtime = fresh();
    int count = rounds(1000 * 1000);
    uint64_t before = live_blocks(runtime);
    for (int i = 0; i < count; i++) {
        hk_frame *frame = hk_frame_push(runtime, &code, (uint32_t)i % 7);
        assert_non_null(frame);
        if (i % 7 > 2)
            frame->locals[2] = hk_int(runtime, 1000000 + i);
    }
    assert_int_equal(hk_frame_depth(runtime), count);
    for (int i = count - 1; i >= 0; i--) {
        hk_frame *frame = hk_frame_current(runtime);
        assert_int_equal(frame->count, i % 7);
        if (i % 7 > 2)
            assert_int_equal(hk_int_value(frame->locals[2]), 1000000 + i);
        hk_frame_pop(frame);
    }
    if (getenv("HEAPKEEPER_DEBUG") == NULL) /* where freed blocks wait */
        assert_int_equal(live_blocks(runtime), before + 1); /* a chunk is kept */
    end(runtime);
}

static void test_frame_larger_than_a_chunk_has_its_own(void **state)
{
    hk_runtime *runtime = fresh();
    for (int round = 0; round < 3; round++) {
        hk_frame *small = hk_frame_push(runtime, &code, 3), *wide = hk_frame_push(runtime, &code, 100000),
                 *inner = hk_frame_push(runtime, &code, 3);
        for (uint32_t i = 0; i < wide->count; i++)
            wide->locals[i] = hk_bool(true);
        small->locals[2] = noisy(runtime, 1);
        inner->locals[0] = noisy(runtime, 2);
        assert_null(small->locals[0]);
        hk_frame_pop(wide); /* with the inner one */
        assert_ptr_equal(hk_frame_current(runtime), small);
        hk_frame_pop(small);
    }
    assert_int_equal(deaths_count, 6);
    end(runtime);
}

/* The border of a chunk is crossed with every call: no memory is asked for. */
static void test_going_back_and_forth_over_the_border_of_a_chunk_asks_for_no_memory(void **state)
{
    hk_runtime *runtime = fresh();
    hk_frame *frame;
    const struct hk_frame_chunk *chunk;
    do {
        chunk = runtime->frames.chunk;
        frame = hk_frame_push(runtime, &code, 9);
    } while (chunk == NULL || chunk == runtime->frames.chunk);
    hk_frame_pop(frame);
    uint64_t asked = runtime->memory->large_allocations;
    for (int i = 0; i < 1000; i++)
        hk_frame_pop(hk_frame_push(runtime, &code, 9));
    assert_int_equal(runtime->memory->large_allocations, asked);
    while (hk_frame_current(runtime) != NULL)
        hk_frame_pop(hk_frame_current(runtime));
    end(runtime);
}

/* --- what the collector, and people, see --- */

struct seen {
    const hk_frame *frame[4];
    uint32_t local[4];
    int count;
};

static bool note_referrer(hk_frame *frame, uint32_t local, void *argument)
{
    struct seen *seen = argument;
    seen->frame[seen->count] = frame;
    seen->local[seen->count] = local;
    return ++seen->count < 4;
}

static void test_what_a_frame_holds_is_not_collected_and_the_frame_is_named(void **state)
{
    hk_runtime *runtime = fresh();
    hk_frame *outer = hk_frame_push(runtime, &code, 2), *inner = hk_frame_push(runtime, &code, 3);
    hk_object *list = inner->locals[2] = hk_list(runtime);
    assert_true(hk_list_append(runtime, list, list)); /* a cycle */
    outer->locals[1] = hk_incref(list);
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    struct seen seen = {.count = 0};
    hk_frame_get_referrers(runtime, list, note_referrer, &seen);
    assert_int_equal(seen.count, 2);
    assert_ptr_equal(seen.frame[0], inner);
    assert_int_equal(seen.local[0], 2);
    assert_ptr_equal(seen.frame[1], outer);
    assert_int_equal(seen.local[1], 1);
    hk_frame_pop(inner);
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    hk_frame_pop(outer);
    assert_int_equal(hk_gc_collect(runtime, 2), 1);
    end(runtime);
}

static bool finalizer_saw_the_frame;

static void look_at_frames(hk_runtime *runtime, hk_object *self)
{
    hk_frame *frame = hk_frame_current(runtime);
    finalizer_saw_the_frame = frame->count == 2 && frame->locals[0] == NULL && frame->locals[1] != NULL;
    HK_FRAME(runtime, own, 1); /* it may call what it likes */
    own->locals[0] = hk_list(runtime);
}

static hk_type watcher_type = {.name = "watcher", .size = sizeof(hk_object), .finalize = look_at_frames};

static void test_finalizer_of_a_local_finds_the_frame_and_may_push_its_own(void **state)
{
    hk_runtime *runtime = fresh();
    hk_frame *frame = hk_frame_push(runtime, &code, 2);
    frame->locals[0] = hk_new(runtime, &watcher_type);
    frame->locals[1] = noisy(runtime, 1);
    finalizer_saw_the_frame = false;
    hk_frame_pop(frame);
    assert_true(finalizer_saw_the_frame);
    assert_int_equal(deaths_count, 1);
    end(runtime);
}

/* --- what the recorder is told --- */

static void *look_from_another_thread(void *unused)
{
    struct hk_program_frame frames[4];
    return (void *)(intptr_t)hk_program_frames(frames, 4);
}

static void test_recorder_finds_the_frames_of_the_thread_and_of_the_innermost_runtime(void **state)
{
    static const hk_code main_code = {"main", "a.c", 10}, call_code = {"call", "a.c", 20}, other_code = {"other", "b.c", 1};
    struct hk_program_frame frames[4];
    hk_runtime *runtime = fresh(), *second = hk_runtime_create(NULL);
    hk_frame *outer = hk_frame_push(runtime, &main_code, 0);
    outer->line = 12;
    hk_frame *inner = hk_frame_push(runtime, &call_code, 0);
    assert_int_equal(hk_program_frames(frames, 4), 2);
    assert_ptr_equal(frames[0].code, &call_code);
    assert_int_equal(frames[0].line, 20);
    assert_ptr_equal(frames[1].code, &main_code);
    assert_int_equal(frames[1].line, 12);
    assert_int_equal(hk_program_frames(frames, 1), 1);
    pthread_t thread;
    void *seen;
    pthread_create(&thread, NULL, look_from_another_thread, NULL);
    pthread_join(thread, &seen);
    assert_ptr_equal(seen, NULL);
    {
        char *volatile deeper = __builtin_alloca(256);
        deeper[0] = 0;
        hk_frame *other = hk_frame_push(second, &other_code, 0);
        hk_frame_pop(other);
    }
    assert_int_equal(hk_program_frames(frames, 4), 2);
    hk_frame_pop(inner);
    hk_frame_pop(outer);
    assert_int_equal(hk_program_frames(frames, 4), 0);
    hk_runtime_destroy(second);
    end(runtime);
}

static void test_more_runtimes_than_are_shown_have_frames_all_the_same(void **state)
{
    static hk_runtime *runtimes[300];
    for (size_t i = 0; i < COUNT(runtimes); i++) {
        runtimes[i] = fresh();
        hk_frame *frame = hk_frame_push(runtimes[i], &code, 1);
        frame->locals[0] = noisy(runtimes[i], 1);
    }
    for (size_t i = 0; i < COUNT(runtimes); i++) {
        hk_frame_pop(hk_frame_current(runtimes[i]));
        end(runtimes[i]);
    }
    assert_int_equal(deaths_count, COUNT(runtimes));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_locals_are_released_in_order_when_the_frame_is_popped),
        cmocka_unit_test(test_frame_is_popped_on_every_way_out),
        cmocka_unit_test(test_recursion_beyond_the_limit_is_an_error_and_the_runtime_goes_on),
        cmocka_unit_test(test_million_frames_lie_in_chunks_that_go_with_them),
        cmocka_unit_test(test_frame_larger_than_a_chunk_has_its_own),
        cmocka_unit_test(test_going_back_and_forth_over_the_border_of_a_chunk_asks_for_no_memory),
        cmocka_unit_test(test_what_a_frame_holds_is_not_collected_and_the_frame_is_named),
        cmocka_unit_test(test_finalizer_of_a_local_finds_the_frame_and_may_push_its_own),
        cmocka_unit_test(test_recorder_finds_the_frames_of_the_thread_and_of_the_innermost_runtime),
        cmocka_unit_test(test_more_runtimes_than_are_shown_have_frames_all_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
