/* The way into an unmodified CPython: PyMem_SetAllocator for RAW, MEM and OBJECT before main, so that no block of
 * another allocator is ever seen (checked on 3.9-3.15: no foreign frees).
 *
 *      heap          domain    protected by        holds
 *      mem, object   MEM, OBJ  the main GIL        what the main interpreter and those that share its GIL allocate
 *      raw           RAW       its own lock        PyMem_RawMalloc: any thread, with or without a GIL
 *      interpreters  MEM, OBJ  its own lock        what interpreters with their own GIL allocate (PEP 684)
 *      (on a version of 3.12 or later whose layout is not known, mem and object have locks of their own too)
 *      watched 0..2  each      their own locks     the blocks that the recorder sampled
 *
 * A free goes to the heap that owns the block, found by address. At first whoever calls MEM or OBJECT holds the main
 * GIL. Before the first interpreter with its own GIL can allocate, these two tables are replaced by functions that look
 * which GIL their thread has (`become_many`): on 3.13 and later at the RAW calloc of an interpreter's state, which its
 * creator makes while it has no thread state; on 3.12 at the audit event. Threads still inside the old functions
 * belong to the main GIL, for which these are right; the new interpreter's first call comes after the replacement,
 * in the same thread. The tables' contexts stay, so a thread that reads a table meanwhile sees a valid pair. If a hook
 * (tracemalloc) stands before us, it would go on calling the old functions: then the interpreter is refused, as if
 * there were no memory for it.
 *
 * Arena requests (PyObject_SetArenaAllocator) can only be chunks of the interpreter's frame stacks, since pymalloc is
 * not in use: they are mapped pages, counted.
 */
#include "hosts/cpython/domains.h"

#include <dlfcn.h>
#include <string.h>

#include "heap/pool.h"
#include "hosts/cpython/frames.h"
#include "record/record.h"

#define TICKS_PER_WATCH 8 /* of 256 KiB each: whether another hook stands before us */

/* Public C API of CPython, found by name. The table's shape is PyMemAllocatorEx of PEP 445, as hk_allocator's. */
typedef struct {
    void *context;
    void *(*alloc)(void *context, size_t size);
    void (*free)(void *context, void *chunk, size_t size);
} arena_allocator;

static struct {
    void (*set_allocator)(int domain, hk_allocator *table);
    void (*get_allocator)(int domain, hk_allocator *table);
    void (*set_arena_allocator)(arena_allocator *table);
    const char *(*current_name)(void); /* not on 3.12 once finalised: takes a lock that is gone by then */
    int (*add_audit_hook)(int (*hook)(const char *, void *, void *), void *data);
    int (*is_initialized)(void);
    int (*is_finalizing)(void);
    int (*add_pending_call)(int (*function)(void *), void *argument);
} python;

static const hk_py_layout *layout;
static hk_heap *heaps[HK_DOMAINS], *watched[HK_DOMAINS], *interpreters;
static bool many; /* interpreters with their own GIL exist or existed */
static bool stacks_on, stacks_tested;
static bool seen_under_hook;
static bool finalizing;       /* of the interpreter, as our hooks saw it last */
static unsigned lives = 1;    /* it was initialised so often; only the first is recorded */
static const void *main_interpreter;
static uint64_t interpreter_size;
static int64_t frame_chunk_bytes;
static uint32_t python_flags;
static __thread hk_heap *ticking;

/* --- which GIL --- */

static const void *interpreter_of_this_thread(void *state)
{
    return *(void *const *)((const char *)state + layout->thread_interpreter);
}

/* True if this thread runs an interpreter under the main GIL. For MEM and OBJECT calls, once there are many. */
static bool under_main_gil(void)
{
    void *state = hk_py_locked_thread_state(layout);
    if (state == NULL)
        return false;
    const void *interpreter = interpreter_of_this_thread(state);
    if (interpreter == __atomic_load_n(&main_interpreter, __ATOMIC_RELAXED))
        return true;
    if (hk_py_interpreter_id(layout, state) == 0) {
        __atomic_store_n(&main_interpreter, interpreter, __ATOMIC_RELAXED);
        return true;
    }
    return !hk_py_interp_has_own_gil(layout, state);
}

static hk_heap *heap_for_this_thread(hk_heap *heap)
{
    return under_main_gil() ? heap : interpreters;
}

/* --- MEM and OBJECT, under the main GIL --- */

#define FAST __attribute__((aligned(64)))

FAST static void *locked_malloc(void *heap, size_t size)
{
    return hk_malloc_unlocked(heap, size);
}

FAST static void locked_free(void *heap, void *block)
{
    hk_free_unlocked(heap, block);
}

static void *locked_calloc(void *heap, size_t count, size_t size)
{
    return hk_calloc_unlocked(heap, count, size);
}

static void *locked_realloc(void *heap, void *block, size_t size)
{
    if (block == NULL) /* a list's first items */
        return hk_malloc_unlocked(heap, size);
    return hk_realloc(heap, block, size);
}

/* --- MEM and OBJECT, once there are interpreters with their own GIL --- */

static void *many_malloc(void *heap, size_t size)
{
    return hk_malloc(heap_for_this_thread(heap), size);
}

static void many_free(void *heap, void *block)
{
    hk_free(heap_for_this_thread(heap), block);
}

static void *many_calloc(void *heap, size_t count, size_t size)
{
    return hk_calloc(heap_for_this_thread(heap), count, size);
}

static void *many_realloc(void *heap, void *block, size_t size)
{
    return hk_realloc(heap_for_this_thread(heap), block, size);
}

static void *raw_malloc(void *heap, size_t size);

static bool table_is_ours(int domain)
{
    hk_allocator table;
    python.get_allocator(domain, &table);
    return table.context == heaps[domain] &&
           (table.malloc == locked_malloc || table.malloc == many_malloc || table.malloc == raw_malloc);
}

/* False: another hook stands before us. */
static bool become_many(void)
{
    if (many)
        return true;
    if (!table_is_ours(HK_DOMAIN_MEM) || !table_is_ours(HK_DOMAIN_OBJECT)) {
        hk_record_event(HK_EVENT_INTERPRETERS, 0, "an interpreter with its own GIL was refused: another hook is installed");
        return false;
    }
    many = true;
    for (int i = HK_DOMAIN_MEM; i <= HK_DOMAIN_OBJECT; i++)
        python.set_allocator(i, &(hk_allocator){heaps[i], many_malloc, many_calloc, many_realloc, many_free});
    hk_record_event(HK_EVENT_INTERPRETERS, 1, "interpreters with their own GIL: they share a locked heap");
    return true;
}

/* --- RAW --- */

static void *raw_malloc(void *heap, size_t size)
{
    return hk_malloc(heap, size);
}

static void *raw_calloc(void *heap, size_t count, size_t size)
{
    if (size - interpreter_size < 64 && count == 1 && interpreter_size != 0 && !become_many())
        return NULL;
    return hk_calloc(heap, count, size);
}

static void *raw_realloc(void *heap, void *block, size_t size)
{
    return hk_realloc(heap, block, size);
}

static void raw_free(void *heap, void *block)
{
    hk_free(heap, block);
}

/* 3.12: the audit event that precedes each new interpreter. */
static int audit(const char *event, void *arguments, void *data)
{
    if (event[0] == 'c' && strcmp(event, "cpython.PyInterpreterState_New") == 0 && python.is_initialized())
        return become_many() ? 0 : -1;
    return 0;
}

static void set_table(int domain)
{
    hk_heap *heap = heaps[domain];
    if (heap->mode == HK_LOCK_OWN)
        python.set_allocator(domain, &(hk_allocator){heap, raw_malloc, raw_calloc, raw_realloc, raw_free});
    else
        python.set_allocator(domain, &(hk_allocator){heap, locked_malloc, locked_calloc, locked_realloc, locked_free});
}

static void set_locked_tables(void)
{
    set_table(HK_DOMAIN_MEM);
    set_table(HK_DOMAIN_OBJECT);
}

/* 3.12 frees its audit hooks with the RAW function of the end; -X dev and PYTHONMALLOC replace RAW after us, and free
 * would not know our block. So the hook is added at the first use of MEM or OBJECT: by then it is settled who serves. */
static void *first_malloc(void *heap, size_t size)
{
    set_locked_tables();
    python.add_audit_hook(audit, NULL);
    return locked_malloc(heap, size);
}

static void *first_calloc(void *heap, size_t count, size_t size)
{
    set_locked_tables();
    python.add_audit_hook(audit, NULL);
    return locked_calloc(heap, count, size);
}

/* --- frame stack chunks --- */

static void *chunk_alloc(void *context, size_t size)
{
    void *chunk = hk_os_map(size);
    if (chunk != NULL)
        __atomic_add_fetch(&frame_chunk_bytes, (int64_t)size, __ATOMIC_RELAXED);
    return chunk;
}

static void chunk_free(void *context, void *chunk, size_t size)
{
    __atomic_sub_fetch(&frame_chunk_bytes, (int64_t)size, __ATOMIC_RELAXED);
    hk_os_unmap(chunk, size);
}

/* --- the recorder's questions --- */

static void *thread_state_for(int domain)
{
    if (domain == HK_DOMAIN_RAW || many)
        return hk_py_this_thread_state(layout);
    return hk_py_locked_thread_state(layout);
}

static int source_stack(int domain, struct hk_frame *frames, int max, uint8_t *flags)
{
    void *state = stacks_on ? thread_state_for(domain) : NULL;
    if (state == NULL) {
        *flags |= HK_SITE_BLIND;
        return 0;
    }
    bool truncated = false;
    int count = hk_py_walk(layout, state, frames, max, &truncated);
    if (truncated)
        *flags |= HK_SITE_CUT;
    if (hk_py_in_jit(layout, state))
        *flags |= HK_SITE_JIT;
    return count;
}

static void source_identify(const void *code, struct hk_code_identity *out)
{
    hk_py_code info;
    memset(out, 0, sizeof(*out));
    if (hk_py_code_info(layout, code, &info))
        *out = (struct hk_code_identity){info.filename, info.name, info.linetable, info.firstlineno, info.units};
}

static size_t source_name(const void *code, int which, char *buffer, size_t capacity)
{
    hk_py_code info;
    if (!hk_py_code_info(layout, code, &info))
        return 0;
    const void *name = which == 0 ? info.filename : which == 1 ? info.name : info.qualname;
    return name == NULL ? 0 : hk_py_copy_string(layout, name, buffer, capacity);
}

static const uint8_t *source_line_table(const void *code, size_t *size)
{
    hk_py_code info;
    *size = 0;
    return hk_py_code_info(layout, code, &info) ? hk_py_bytes(layout, info.linetable, size) : NULL;
}

static bool source_is_trampoline(const void *code)
{
    return hk_py_is_trampoline(layout, code);
}

static const struct hk_stack_source source = {source_stack, source_identify, source_name, source_line_table,
                                              source_is_trampoline};

/* --- watch and self-test --- */

static bool tables_are_ours(void)
{
    return table_is_ours(HK_DOMAIN_RAW) && table_is_ours(HK_DOMAIN_MEM) && table_is_ours(HK_DOMAIN_OBJECT);
}

/* Called from our own hooks: we are at work, if perhaps beneath another. */
static void watch_in_hook(void)
{
    static bool said;
    bool under = !tables_are_ours();
    if (under == seen_under_hook && said)
        return;
    said = true;
    seen_under_hook = under;
    hk_record_set_watch(under ? HK_WATCH_OURS_UNDER_HOOK : HK_WATCH_OURS, NULL);
}

void hk_cpython_watch_at_exit(void)
{
    if (layout == NULL || python.get_allocator == NULL || lives > 1)
        return;
    if (tables_are_ours()) {
        if (!finalizing) /* else the interpreter has put back by now what stood before us at the end of the program */
            hk_record_set_watch(HK_WATCH_OURS, NULL);
        return;
    }
    bool may_ask = layout->minor != 12 || (python.is_initialized != NULL && python.is_initialized());
    const char *name = python.current_name != NULL && may_ask ? python.current_name() : NULL;
    if (name != NULL || heaps[HK_DOMAIN_OBJECT]->arenas == NULL || !seen_under_hook)
        hk_record_set_watch(HK_WATCH_REPLACED, name != NULL ? name : "another allocator");
    else
        hk_record_set_watch(HK_WATCH_OURS_UNDER_HOOK, NULL);
}

static void stacks_decided(bool good, const char *why)
{
    stacks_on = good;
    stacks_tested = true;
    hk_record_set_stacks(good ? HK_STACKS_GOOD : HK_STACKS_OFF, good ? NULL : why);
}

/* Once, from the interpreter's main loop, soon after the self-test: is our walk what the public API says? It cannot be
 * asked in a hook, since it allocates. Here are frames for certain: where no hook has seen one, the layout is wrong. */
static int public_check(void *unused)
{
    static char why[160];
    if (stacks_tested && !stacks_on)
        return 0;
    if (!hk_py_self_test(layout, hk_py_this_thread_state(layout), why, sizeof(why)) ||
        !hk_py_public_check(layout, why, sizeof(why)))
        stacks_decided(false, why);
    return 0;
}

/* Made for signal handlers: it neither allocates nor needs the GIL. */
static void ask_for_public_check(void)
{
    static bool asked;
    if (!asked && python.add_pending_call != NULL) {
        asked = true;
        python.add_pending_call(public_check, NULL);
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
    bool good = hk_py_self_test(layout, state, why, sizeof(why));
    bool decided = !good || hk_py_walk(layout, state, &frame, 1, NULL) != 0;
    if (decided) {
        watch_in_hook();
        stacks_decided(good, why);
    }
    if (decided || (python.is_initialized != NULL && python.is_initialized()))
        ask_for_public_check();
}

/* Finalisation frees what the program left: its figures are those from before. It shows in the first events. */
static void freeze_if_finalizing(void)
{
    bool now = python.is_finalizing != NULL && python.is_finalizing();
    if (__builtin_expect(now == finalizing, 1))
        return;
    finalizing = now;
    if (now) {
        watch_in_hook();
        hk_record_freeze();
    } else if (lives++ == 1) {
        hk_record_set_watch(HK_WATCH_REPLACED, "a second Py_Initialize");
    }
}

static void recorder_allocation(const void *block, size_t size, uint64_t mean, int domain)
{
    freeze_if_finalizing();
    if (__builtin_expect(!stacks_tested, 0) && layout->stacks)
        self_test(domain);
    hk_record_allocation(block, size, mean, domain);
}

static bool recorder_free(const void *block)
{
    freeze_if_finalizing();
    return hk_record_free(block);
}

static void recorder_tick(hk_heap *heap, uint64_t allocated_bytes)
{
    static unsigned ticks;
    if (__atomic_fetch_add(&ticks, 1, __ATOMIC_RELAXED) % TICKS_PER_WATCH == 0)
        watch_in_hook();
    ticking = heap;
    hk_record_tick(allocated_bytes);
    ticking = NULL;
}

void hk_cpython_attach_recorder(bool samples)
{
    if (interpreters == NULL)
        return; /* refused: there is nothing to record */
    if (!layout->stacks)
        hk_record_set_stacks(HK_STACKS_OFF, layout->why);
    hk_record_set_source(&source);
    for (int i = 0; samples && i < HK_DOMAINS; i++) {
        static const char *const names[] = {"raw, sampled", "mem, sampled", "object, sampled"};
        watched[i] = hk_heap_create(&(hk_heap_options){sizeof(hk_heap_options), HK_LOCK_OWN, names[i]});
        if (watched[i] == NULL)
            continue;
        watched[i]->is_watched = true;
        watched[i]->domain = (int16_t)i;
        heaps[i]->watched = watched[i];
    }
    interpreters->watched = watched[HK_DOMAIN_OBJECT];
    hk_recorder = (struct hk_heap_recorder){
        .draw = samples ? hk_record_draw : NULL,
        .allocation = recorder_allocation,
        .free = recorder_free,
        .pool_reopened = freeze_if_finalizing,
        .table_size = hk_record_table_size,
        .tick = recorder_tick,
    };
}

void hk_cpython_fill_point(struct hk_capture_point *point)
{
    for (int i = 0; i < HK_MAX_HEAPS; i++) {
        hk_heap *heap = hk_heaps[i];
        if (heap == NULL)
            continue;
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
    point->frame_chunks_bytes = (uint64_t)__atomic_load_n(&frame_chunk_bytes, __ATOMIC_RELAXED);
    point->mapped_bytes += point->frame_chunks_bytes;
}

/* Heaps under the GIL can only be trimmed by who holds it: a tick of one of them. Of RAW's heap the lock is held
 * in its own ticks only, and taking it here would be the wrong order. */
int32_t hk_cpython_trim(void)
{
    size_t bytes = 0;
    if (ticking == NULL)
        return -1;
    if (ticking->mode == HK_LOCK_OWN)
        bytes += hk_heap_discard(ticking, 0);
    else
        bytes += hk_heap_trim(heaps[HK_DOMAIN_MEM]) + hk_heap_trim(heaps[HK_DOMAIN_OBJECT]);
    return (int32_t)(bytes / 4096);
}

/* --- fork --- */

static hk_heap *const *own_locks(void)
{
    static hk_heap *list[2 * HK_DOMAINS + 2];
    int n = 0;
    for (int i = 0; i < HK_DOMAINS; i++)
        if (heaps[i]->mode == HK_LOCK_OWN)
            list[n++] = heaps[i];
    list[n++] = interpreters;
    for (int i = 0; i < HK_DOMAINS; i++)
        if (watched[i] != NULL)
            list[n++] = watched[i];
    list[n] = NULL;
    return list;
}

void hk_cpython_fork_prepare(void)
{
    if (interpreters == NULL)
        return;
    for (hk_heap *const *heap = own_locks(); *heap != NULL; heap++)
        hk_lock_take(&(*heap)->lock);
    hk_lock_take(&hk_region.lock);
}

void hk_cpython_fork_release(void)
{
    if (interpreters == NULL)
        return;
    hk_lock_release(&hk_region.lock);
    for (hk_heap *const *heap = own_locks(); *heap != NULL; heap++)
        hk_lock_release(&(*heap)->lock);
}

/* --- installation --- */

static bool python_find(void)
{
    python.set_allocator = dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
    python.get_allocator = dlsym(RTLD_DEFAULT, "PyMem_GetAllocator");
    python.set_arena_allocator = dlsym(RTLD_DEFAULT, "PyObject_SetArenaAllocator");
    python.current_name = dlsym(RTLD_DEFAULT, "_PyMem_GetCurrentAllocatorName");
    python.add_audit_hook = dlsym(RTLD_DEFAULT, "PySys_AddAuditHook");
    python.is_initialized = dlsym(RTLD_DEFAULT, "Py_IsInitialized");
    python.add_pending_call = dlsym(RTLD_DEFAULT, "Py_AddPendingCall");
    python.is_finalizing = dlsym(RTLD_DEFAULT, "Py_IsFinalizing");
    if (python.is_finalizing == NULL)
        python.is_finalizing = dlsym(RTLD_DEFAULT, "_Py_IsFinalizing");
    return python.set_allocator != NULL && python.get_allocator != NULL;
}

/* Where interpreters may have their own GIL, but this version's are not known to us, MEM and OBJECT are locked too. */
static bool gil_can_be_known(void)
{
    return layout->minor < 12 || layout->stacks;
}

static bool heaps_create(void)
{
    static const char *const names[] = {"raw", "mem", "object"};
    for (int i = 0; i < HK_DOMAINS; i++) {
        hk_lock_mode mode = i == HK_DOMAIN_RAW || !gil_can_be_known() ? HK_LOCK_OWN : HK_LOCK_HOST;
        heaps[i] = hk_heap_create(&(hk_heap_options){sizeof(hk_heap_options), mode, names[i]});
        if (heaps[i] == NULL)
            return false;
        heaps[i]->domain = (int16_t)i;
    }
    interpreters = hk_heap_create(&(hk_heap_options){sizeof(hk_heap_options), HK_LOCK_OWN, "interpreters"});
    return interpreters != NULL;
}

uint32_t hk_cpython_version(uint32_t *flags)
{
    *flags = python_flags;
    return layout != NULL && layout->present ? layout->version : 0;
}

static enum hk_capture_watch refuse(const char **why, const char *text)
{
    *why = text;
    python.get_allocator = NULL; /* nothing of ours to watch */
    return HK_WATCH_REFUSED;
}

enum hk_capture_watch hk_cpython_install(const char **why)
{
    if (!python_find())
        return HK_WATCH_NOT_PYTHON;
    if (python.is_initialized != NULL && python.is_initialized())
        return HK_WATCH_NOT_PYTHON; /* opened in a Python that runs already, whose blocks are another allocator's */
    layout = hk_py_layout_find();
    python_flags = layout->free_threaded * 1u | layout->debug * 2u | layout->trace_refs * 4u;
    if (layout->free_threaded)
        return refuse(why, "a free-threaded interpreter requires its own allocator");
    if (layout->trace_refs || layout->debug)
        return refuse(why, "a debug build of the interpreter keeps its own allocator");
    if (!heaps_create())
        return refuse(why, "no address space for the heap (RLIMIT_AS or overcommit)");

    for (int i = 0; i < HK_DOMAINS; i++)
        set_table(i);
    if (layout->minor >= 11 && python.set_arena_allocator != NULL)
        python.set_arena_allocator(&(arena_allocator){NULL, chunk_alloc, chunk_free});
    if (layout->minor >= 13)
        interpreter_size = hk_py_interpreter_size(layout);
    bool audited = layout->minor == 12 && python.add_audit_hook != NULL && gil_can_be_known();
    for (int i = HK_DOMAIN_MEM; audited && i <= HK_DOMAIN_OBJECT; i++)
        python.set_allocator(i, &(hk_allocator){heaps[i], first_malloc, first_calloc, locked_realloc, locked_free});
    return HK_WATCH_OURS;
}
