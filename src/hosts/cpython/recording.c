/* CPython's part in a record: the stacks of its threads, the self-test that must pass before any is walked, the watch
 * that the interpreter's allocators are still ours, and the moment at which the program is over and only its runtime is
 * being torn down.
 *
 * A stack is asked for inside an allocation hook, so nothing here allocates or takes a lock. The one comparison with
 * the public API is made later, from a pending call. Whether another hook stands before us is looked at in the ticks of
 * the heap, since a call that reaches us at all proves that we are at work. */
#include "heap/slots.h"
#include "hosts/cpython/exact.h"
#include "hosts/cpython/exact_stack.h"
#include "hosts/cpython/tracemalloc.h"

#include <string.h>

#include "hosts/native/stack.h"
#include "record/record.h"

#define TICKS_PER_WATCH 8 /* of 128 KiB or less each: whether another hook stands before us */

static bool stacks_on, stacks_tested;
static bool seen_under_hook;
static bool finalizing;    /* of the interpreter, as our hooks saw it last */
static unsigned lives = 1; /* it was initialised so often; only the first is recorded */
static __thread hk_heap *ticking;

static bool is_finalizing(void)
{
    return hk_python.is_finalizing != NULL && hk_python.is_finalizing();
}

/* Memory from malloc's names is asked for with and without the interpreter's lock: sqlite works without it, on behalf
 * of a Python line that waits for it. The frames of a thread's own state stand still then. At finalisation the states
 * of other threads are freed, and they may be at work still. */
static void *thread_state_for(int domain)
{
    if (domain >= HK_DOMAINS)
        return is_finalizing() ? NULL : hk_py_own_thread_state(hk_python.layout);
    if (domain == HK_DOMAIN_RAW || hk_python.many)
        return hk_py_this_thread_state(hk_python.layout);
    return hk_py_locked_thread_state(hk_python.layout);
}

static int source_stack(int domain, struct hk_frame *frames, int max, uint8_t *flags, struct hk_stack_known *known)
{
    void *state = stacks_on ? thread_state_for(domain) : NULL;
    int native = domain >= HK_DOMAINS ? hk_native_stack(state != NULL, frames, max, flags) : 0, count = -1;
    if (state == NULL) {
        *flags |= HK_SITE_BLIND;
        return native;
    }
    bool truncated = false;
    if (known != NULL) /* the main lane's, which has looked at this stack just now */
        count = hk_exact_seen_frames(state, frames, max, known);
    if (count < 0)
        count = native + hk_py_walk(hk_python.layout, state, frames + native, max - native, &truncated);
    if (truncated)
        *flags |= HK_SITE_CUT;
    if (hk_py_in_jit(hk_python.layout, state))
        *flags |= HK_SITE_JIT;
    return count;
}

static size_t source_name(const void *code, int which, char *buffer, size_t capacity)
{
    hk_py_code info;
    if (!hk_py_code_info(hk_python.layout, code, &info))
        return 0;
    const void *name = which == 0 ? info.filename : which == 1 ? info.name : info.qualname;
    return name == NULL ? 0 : hk_py_copy_string(hk_python.layout, name, buffer, capacity);
}

static void source_identify(const void *code, struct hk_code_identity *out)
{
    if (hk_python.exact)
        hk_cpython_exact_mark_code(code);
    hk_py_identify(hk_python.layout, code, out);
}

static const uint8_t *source_line_table(const void *code, size_t *size)
{
    hk_py_code info;
    *size = 0;
    return hk_py_code_info(hk_python.layout, code, &info) ? hk_py_bytes(hk_python.layout, info.linetable, size) : NULL;
}

static bool source_is_trampoline(const void *code)
{
    return hk_py_is_trampoline(hk_python.layout, code);
}

static const struct hk_stack_source source = {source_stack, source_identify, source_name, source_line_table,
                                              source_is_trampoline, false};

/* --- watch and self-test --- */

HK_HOT static bool tables_are_ours(void)
{
    return hk_cpython_table_is_ours(HK_DOMAIN_RAW) && hk_cpython_table_is_ours(HK_DOMAIN_MEM) && hk_cpython_table_is_ours(HK_DOMAIN_OBJECT);
}

/* Called from our own hooks: we are at work, if perhaps beneath another. */
HK_HOT static void watch_in_hook(void)
{
    static bool said;
    bool under = !tables_are_ours();
    if (under == seen_under_hook && said)
        return;
    said = true;
    seen_under_hook = under;
    hk_record_set_watch(under ? HK_WATCH_OURS_UNDER_HOOK : HK_WATCH_OURS, NULL);
}

bool hk_cpython_is_covered(void)
{
    return seen_under_hook;
}

void hk_cpython_watch_at_exit(void)
{
    if (hk_python.layout == NULL || hk_python.get_allocator == NULL || lives > 1)
        return;
    if (tables_are_ours()) {
        if (!finalizing) /* else the interpreter has put back by now what stood before us at the end of the program */
            hk_record_set_watch(HK_WATCH_OURS, NULL);
        return;
    }
    bool may_ask = hk_python.layout->minor != 12 || (hk_python.is_initialized != NULL && hk_python.is_initialized());
    const char *name = hk_python.current_name != NULL && may_ask ? hk_python.current_name() : NULL;
    if (name != NULL || hk_python.heaps[HK_DOMAIN_OBJECT]->arenas == NULL || !seen_under_hook)
        hk_record_set_watch(HK_WATCH_REPLACED, name != NULL ? name : "another allocator");
    else
        hk_record_set_watch(HK_WATCH_OURS_UNDER_HOOK, NULL);
}

static void stacks_decided(bool good, const char *why)
{
    stacks_on = good;
    stacks_tested = true;
    hk_cpython_exact_stacks(good);
    hk_record_set_stacks(good ? HK_STACKS_GOOD : HK_STACKS_OFF, good ? NULL : why);
}

/* Once, from the interpreter's main loop, soon after the self-test: is our walk what the public API says? It cannot be
 * asked in a hook, since it allocates. Here are frames for certain: where no hook has seen one, the layout is wrong. */
static int public_check(void *unused)
{
    static char why[160];
    if (stacks_tested && !stacks_on)
        return 0;
    if (!hk_py_self_test(hk_python.layout, hk_py_this_thread_state(hk_python.layout), why, sizeof(why)) ||
        !hk_py_public_check(hk_python.layout, why, sizeof(why)))
        stacks_decided(false, why);
    return 0;
}

/* Made for signal handlers: it neither allocates nor needs the GIL. */
static void ask_for_public_check(void)
{
    static bool asked;
    if (!asked && hk_python.add_pending_call != NULL) {
        asked = true;
        hk_python.add_pending_call(public_check, NULL);
    }
}

/* Until there was a frame: may we walk? The self-test reads with care; the walk, after it, does not. */
static void self_test(int domain)
{
    struct hk_frame frame;
    char why[160];
    void *state = thread_state_for(domain);
    if (state == NULL)
        return;
    bool good = hk_py_self_test(hk_python.layout, state, why, sizeof(why));
    bool decided = !good || hk_py_walk(hk_python.layout, state, &frame, 1, NULL) != 0;
    if (decided) {
        watch_in_hook();
        stacks_decided(good, why);
    }
    if (decided || (hk_python.is_initialized != NULL && hk_python.is_initialized()))
        ask_for_public_check();
}

/* A thread state without a frame is looked at with care once, and from then on with one load. */
bool hk_cpython_stacks_ready(int domain)
{
    static const void *looked_at;
    if (stacks_tested || !hk_python.layout->stacks)
        return stacks_on;
    const void *state = thread_state_for(domain);
    if (state != looked_at || (state != NULL && hk_py_has_frame(hk_python.layout, state)))
        self_test(domain);
    looked_at = state;
    return stacks_on;
}

/* Finalisation frees what the program left: its figures are those from before. It shows in the first events. */
HK_HOT void hk_cpython_freeze_if_finalizing(void)
{
    bool now = is_finalizing();
    if (__builtin_expect(now == finalizing, 1))
        return;
    finalizing = now;
    if (now) {
        watch_in_hook();
        hk_cpython_collections_end();
        hk_exact_stacks_say();
        hk_record_freeze();
    } else if (lives++ == 1) {
        hk_record_set_watch(HK_WATCH_REPLACED, "a second Py_Initialize");
    }
}

static void recorder_allocation(const void *block, size_t size, uint64_t mean, int domain)
{
    hk_cpython_freeze_if_finalizing();
    if (__builtin_expect(!stacks_tested, 0) && hk_python.layout->stacks)
        self_test(domain);
    hk_record_allocation(block, size, mean, domain);
}

static bool recorder_free(const void *block)
{
    hk_cpython_freeze_if_finalizing();
    return hk_record_free(block);
}

static void count_foreign(void)
{
    hk_record_count_foreign(false);
}

HK_HOT static void recorder_tick(hk_heap *heap, uint64_t allocated_bytes)
{
    static unsigned ticks;
    hk_cpython_freeze_if_finalizing();
    if (!finalizing && __atomic_fetch_add(&ticks, 1, __ATOMIC_RELAXED) % TICKS_PER_WATCH == 0)
        watch_in_hook();
    if (__builtin_expect(seen_under_hook, 0))
        hk_cpython_tracemalloc_ask();
    ticking = heap;
    hk_record_tick(allocated_bytes);
    ticking = NULL;
    if (heap != hk_python.heaps[HK_DOMAIN_MEM] && heap != hk_python.heaps[HK_DOMAIN_OBJECT])
        return;
    if (hk_python.exact)
        hk_cpython_exact_tick();
    if (!finalizing) {
        hk_cpython_collections_begin();
        hk_cpython_collections_look();
    }
}

/* In a free. */
HK_HOT static void recorder_pool_reopened(void)
{
    hk_cpython_freeze_if_finalizing();
    hk_cpython_collections_look();
}

/* Every block is recorded: the heap tells only of what others than our tables free. */
static void attach_exact(void)
{
    hk_recorder = (struct hk_heap_recorder){
        .free = hk_cpython_exact_forget,
        .table_size = hk_record_table_size,
        .came_home = hk_cpython_exact_came_home,
        .pool_reopened = recorder_pool_reopened,
        .foreign = count_foreign,
        .tick = recorder_tick,
        .collection = hk_record_collection,
    };
    hk_cpython_set_tables();
}

void hk_cpython_attach_recorder(bool samples)
{
    if (hk_python.interpreters == NULL)
        return; /* refused: there is nothing to record */
    if (!hk_python.layout->stacks)
        hk_record_set_stacks(HK_STACKS_OFF, hk_python.layout->why);
    hk_record_set_source(&source);
    if (hk_python.exact) {
        attach_exact();
        return;
    }
    for (int i = 0; samples && i < HK_DOMAINS; i++) {
        static const char *const names[] = {"raw, sampled", "mem, sampled", "object, sampled"};
        hk_python.watched[i] = hk_heap_create(&(hk_heap_options){
            .size = sizeof(hk_heap_options),
            .name = names[i],
            .debug = HK_DEBUG_OFF,
            .alignment = i == HK_DOMAIN_RAW ? 0 : hk_python.alignment,
        });
        if (hk_python.watched[i] == NULL)
            continue;
        hk_python.watched[i]->is_watched = hk_python.watched[i]->is_frugal = true;
        hk_python.watched[i]->domain = (int16_t)i;
        hk_python.heaps[i]->watched = hk_python.watched[i];
    }
    hk_python.interpreters->watched = hk_python.watched[HK_DOMAIN_OBJECT];
    hk_recorder = (struct hk_heap_recorder){
        .draw = samples ? hk_record_draw : NULL,
        .allocation = recorder_allocation,
        .free = recorder_free,
        .rename = hk_record_rename,
        .pool_reopened = recorder_pool_reopened,
        .table_size = hk_record_table_size,
        .foreign = count_foreign,
        .tick = recorder_tick,
        .collection = hk_record_collection,
    };
}

HK_HOT void hk_cpython_fill_point(struct hk_capture_point *point)
{
    struct hk_heap_cursor cursor = {0};
    for (hk_heap *heap; (heap = hk_heap_next(&cursor)) != NULL;) {
        hk_heap_stats s = {.size = sizeof(s)};
        hk_heap_get_stats(heap, &s);
        point->allocated_bytes += s.allocated_bytes;
        point->allocated_blocks += s.allocated_blocks;
        point->live_bytes += s.live_bytes;
        point->live_blocks += s.live_blocks;
        point->large_bytes += s.large_bytes;
        point->large_blocks += s.large_blocks;
        point->free_in_used_pools_bytes += s.free_bytes + s.untouched_bytes + s.tail_bytes;
        point->untouched_bytes += s.untouched_bytes;
        point->empty_pools_bytes += s.empty_bytes;
        point->returned_bytes += s.returned_bytes;
        point->metadata_bytes += s.metadata_bytes;
        point->mapped_bytes += s.mapped_bytes;
        point->arenas += s.arenas;
        point->pools_used += s.pools_used;
        point->pools_full += s.pools_full;
        point->pools_empty += s.pools_empty;
        point->domain_allocated_bytes[heap->domain] += s.allocated_bytes;
        point->domain_live_bytes[heap->domain] += s.live_bytes + s.large_bytes;
    }
    for (int domain = 0; domain < 4; domain++) {
        uint64_t ended = __atomic_load_n(&hk_heaps_ended.bytes[domain], __ATOMIC_RELAXED);
        point->allocated_bytes += ended;
        point->domain_allocated_bytes[domain] += ended;
    }
    point->allocated_blocks += __atomic_load_n(&hk_heaps_ended.blocks, __ATOMIC_RELAXED);
    point->recorder_bytes = hk_slots_bytes();
    point->frame_chunks_bytes = (uint64_t)__atomic_load_n(&hk_python.frame_chunk_bytes, __ATOMIC_RELAXED);
    point->mapped_bytes += point->frame_chunks_bytes;
}

/* Heaps under a GIL can only be trimmed by who holds it: a tick of one of them. Of RAW's heap the lock is held
 * in its own ticks only, and taking it here would be the wrong order. */
int32_t hk_cpython_trim(void)
{
    size_t bytes = 0;
    if (ticking == NULL || ticking->mode == HK_LOCK_MEMBER) /* one of malloc's heap, which needs no GIL */
        return -1;
    if (ticking->mode == HK_LOCK_OWN)
        bytes += hk_heap_discard(ticking, 0);
    else if (ticking != hk_python.heaps[HK_DOMAIN_MEM] && ticking != hk_python.heaps[HK_DOMAIN_OBJECT])
        bytes += hk_heap_trim(ticking); /* of an interpreter with its own GIL */
    else
        bytes += hk_heap_trim(hk_python.heaps[HK_DOMAIN_MEM]) + hk_heap_trim(hk_python.heaps[HK_DOMAIN_OBJECT]);
    return (int32_t)(bytes / 4096);
}

