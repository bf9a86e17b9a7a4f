/* The way into an unmodified CPython: PyMem_SetAllocator for RAW, MEM and OBJECT before main, so that no block of
 * another allocator is ever seen (checked on 3.9-3.15: no foreign frees).
 *
 *      heap             domain    protected by     holds
 *      mem, object      MEM, OBJ  the main GIL     what the main interpreter and those that share its GIL allocate
 *      raw              RAW       its own lock     PyMem_RawMalloc: any thread, with or without a GIL
 *      interpreter N    MEM, OBJ  that one's GIL   what an interpreter with its own GIL allocates; see interpreters.c
 *      interpreters     MEM, OBJ  its own lock     the same where no more heaps can be made; threads without a GIL
 *      (on a version of 3.12 or later whose layout is not known, mem and object have locks of their own too)
 *      watched 0..2     each      their own locks  the blocks that the recorder sampled
 *
 * A free goes to the heap that owns the block, found by address.
 *
 * Arena requests (PyObject_SetArenaAllocator) can only be chunks of the interpreter's frame stacks, since pymalloc is
 * not in use: they are mapped pages, counted.
 */
#include "hosts/cpython/exact.h"
#include "hosts/cpython/lines_auto.h"
#include "hosts/cpython/lines_count.h"

#include <dlfcn.h>
#include <string.h>

#include "heap/threads.h"
#include "record/exact.h"
#include "record/record.h"

struct hk_python hk_python;
static uint64_t interpreter_size;
static uint32_t python_flags;

/* --- MEM and OBJECT, under the main GIL --- */

#define FAST __attribute__((aligned(64), hot))

FAST static void *locked_malloc(void *heap, size_t size)
{
    return hk_malloc_unlocked(heap, size);
}

FAST static void locked_free(void *heap, void *block)
{
    hk_free_unlocked(heap, block);
}

HK_HOT static void *locked_calloc(void *heap, size_t count, size_t size)
{
    return hk_calloc_unlocked(heap, count, size);
}

/* hk_realloc of a block of the heap's own pools, without its questions: lists grow by it, and give their items back at 0, of which
 * a byte is asked for: the class of none has no fast path. */
HK_HOT static void *locked_realloc(void *heap, void *block, size_t size)
{
    if (block == NULL) /* a list's first items */
        return hk_malloc_unlocked(heap, size);
    struct hk_pool *pool = hk_region_has(block) ? hk_pool_of(block) : NULL;
    if (pool == NULL || pool->heap != heap || pool->block_size == 0 || (HK_STEP < HK_ALIGNMENT && size <= pool->block_size))
        return hk_realloc(heap, block, size);
    size_t old = pool->block_size;
    if (size <= old && size > old - old / 4)
        return block;
    void *moved = hk_malloc_unlocked(heap, size + (size == 0));
    if (moved == NULL)
        return size <= old ? block : NULL;
    memcpy(moved, block, size < old ? size : old);
    hk_pool_free(heap, pool, block);
    return moved;
}

/* --- RAW --- */

/* CPython puts its own RAW table in our place for a moment at times, while other threads allocate (3.12 with every
 * interpreter that it makes): a thread may then see our functions with its context, NULL. The other mixture, its
 * functions with our context, ends at libc's names, which know our blocks (src/hosts/malloc/interpose.c). */
static inline hk_heap *raw_heap(void *context)
{
    return __builtin_expect(context != NULL, 1) ? context : hk_python.heaps[HK_DOMAIN_RAW];
}

HK_HOT static void *raw_malloc(void *context, size_t size)
{
    return hk_malloc(raw_heap(context), size);
}

HK_HOT void hk_cpython_raw_calloc_seen(size_t count, size_t size)
{
    if (size - interpreter_size < 64 && count == 1 && interpreter_size != 0)
        hk_cpython_become_many();
}

HK_HOT static void *raw_calloc(void *context, size_t count, size_t size)
{
    hk_cpython_raw_calloc_seen(count, size);
    return hk_calloc(raw_heap(context), count, size);
}

HK_HOT static void *raw_realloc(void *context, void *block, size_t size)
{
    return hk_realloc(raw_heap(context), block, size);
}

HK_HOT void hk_cpython_raw_free(void *context, void *block)
{
    if (__builtin_expect(hk_python.many, 0) && !hk_region_has(block))
        hk_cpython_state_freed(block);
    hk_free(raw_heap(context), block);
}

/* 3.12: the audit event that precedes each new interpreter. */
static int audit(const char *event, void *arguments, void *data)
{
    if (event[0] == 'c' && strcmp(event, "cpython.PyInterpreterState_New") == 0 && hk_python.is_initialized())
        hk_cpython_become_many();
    return 0;
}

HK_HOT hk_allocator hk_cpython_table(int domain)
{
    hk_heap *heap = hk_python.heaps[domain];
    if (hk_python.exact)
        return hk_cpython_exact_table(domain);
    if (heap->mode == HK_LOCK_OWN)
        return (hk_allocator){heap, raw_malloc, raw_calloc, raw_realloc, hk_cpython_raw_free};
    return (hk_allocator){heap, locked_malloc, locked_calloc, locked_realloc, locked_free};
}

HK_HOT bool hk_cpython_table_is_ours(int domain)
{
    hk_allocator table;
    hk_cpython_get_table(domain, &table);
    hk_line_count_below(domain, &table);
    return table.context == hk_python.heaps[domain] &&
           (table.malloc == hk_cpython_table(domain).malloc || hk_cpython_is_many_table(&table));
}

static bool serves(int domain)
{
    hk_allocator table;
    if (hk_cpython_table_is_ours(domain))
        return true;
    hk_cpython_get_table(domain, &table);
    void *block = table.malloc(table.context, 16);
    bool ours = block != NULL && hk_region_has(block);
    table.free(table.context, block);
    return ours;
}

bool hk_cpython_serves(void)
{
    return serves(HK_DOMAIN_MEM) && serves(HK_DOMAIN_OBJECT);
}

static void set_table(int domain)
{
    hk_allocator table = hk_cpython_table(domain);
    hk_cpython_put_table(domain, &table);
}

static void set_locked_tables(void)
{
    set_table(HK_DOMAIN_MEM);
    set_table(HK_DOMAIN_OBJECT);
}

/* 3.12 frees its audit hooks with the RAW function of the end; -X dev and PYTHONMALLOC replace RAW after us, and free
 * would not know our block. So the hook is added at the first use of MEM or OBJECT: by then it is settled who serves. */
static void settled(void)
{
    set_locked_tables();
    if (hk_python.layout->minor == 12)
        hk_python.add_audit_hook(audit, NULL);
    hk_cpython_lines_watch();
}

static void *first_malloc(void *heap, size_t size)
{
    settled();
    return hk_cpython_table(((hk_heap *)heap)->domain).malloc(heap, size);
}

bool hk_cpython_is_unsettled(void)
{
    hk_allocator table = {0};
    if (hk_python.get_allocator != NULL)
        hk_cpython_get_table(HK_DOMAIN_MEM, &table);
    return table.malloc == first_malloc;
}

static void *first_calloc(void *heap, size_t count, size_t size)
{
    settled();
    return hk_cpython_table(((hk_heap *)heap)->domain).calloc(heap, count, size);
}

void hk_cpython_set_tables(void)
{
    for (int i = 0; i < HK_DOMAINS; i++) {
        hk_allocator table;
        hk_cpython_get_table(i, &table);
        if (table.malloc != first_malloc)
            set_table(i);
    }
}

/* --- frame stack chunks --- */

HK_HOT static void *chunk_alloc(void *context, size_t size)
{
    void *chunk = hk_os_map(size);
    if (chunk != NULL)
        __atomic_add_fetch(&hk_python.frame_chunk_bytes, (int64_t)size, __ATOMIC_RELAXED);
    return chunk;
}

HK_HOT static void chunk_free(void *context, void *chunk, size_t size)
{
    __atomic_sub_fetch(&hk_python.frame_chunk_bytes, (int64_t)size, __ATOMIC_RELAXED);
    hk_os_unmap(chunk, size);
}

/* --- fork --- */

static hk_heap *const *own_locks(void)
{
    static hk_heap *list[2 * HK_DOMAINS + 2];
    int n = 0;
    for (int i = 0; i < HK_DOMAINS; i++)
        if (hk_python.heaps[i]->mode == HK_LOCK_OWN)
            list[n++] = hk_python.heaps[i];
    list[n++] = hk_python.interpreters;
    for (int i = 0; i < HK_DOMAINS; i++)
        if (hk_python.watched[i] != NULL)
            list[n++] = hk_python.watched[i];
    list[n] = NULL;
    return list;
}

void hk_cpython_fork_prepare(void)
{
    if (hk_python.interpreters != NULL) {
        hk_cpython_interpreters_fork_prepare();
        for (hk_heap *const *heap = own_locks(); *heap != NULL; heap++)
            hk_lock_take_to_fork(&(*heap)->lock);
    }
    hk_heaps_fork_prepare(); /* an embedding program's, too */
    hk_lock_take_to_fork(&hk_region.lock);
    hk_lock_take_to_fork(&hk_exact_apart);
}

void hk_cpython_fork_release(bool child)
{
    hk_lock_release_forked(&hk_exact_apart);
    hk_lock_release_forked(&hk_region.lock);
    hk_heaps_fork_release();
    if (hk_python.interpreters == NULL)
        return;
    for (hk_heap *const *heap = own_locks(); *heap != NULL; heap++)
        hk_lock_release_forked(&(*heap)->lock);
    hk_cpython_interpreters_fork_release(child);
    if (child)
        hk_cpython_collections_forked();
}

/* --- installation --- */

/* Looked up by the loader, among all the other symbols. A dlsym that fails puts a message together, with malloc, and
 * dlerror, which must be called then, translates it: half the cost of our start in a program without Python. */
extern void PyMem_SetAllocator(int domain, hk_allocator *table) __attribute__((weak));

const void *hk_cpython_address(void)
{
    return (const void *)PyMem_SetAllocator;
}

bool hk_cpython_find(void)
{
    hk_python.set_allocator = dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
    hk_python.get_allocator = dlsym(RTLD_DEFAULT, "PyMem_GetAllocator");
    hk_python.set_arena_allocator = dlsym(RTLD_DEFAULT, "PyObject_SetArenaAllocator");
    hk_python.current_name = dlsym(RTLD_DEFAULT, "_PyMem_GetCurrentAllocatorName");
    hk_python.add_audit_hook = dlsym(RTLD_DEFAULT, "PySys_AddAuditHook");
    hk_python.is_initialized = dlsym(RTLD_DEFAULT, "Py_IsInitialized");
    hk_python.add_pending_call = dlsym(RTLD_DEFAULT, "Py_AddPendingCall");
    hk_python.is_finalizing = dlsym(RTLD_DEFAULT, "Py_IsFinalizing");
    if (hk_python.is_finalizing == NULL)
        hk_python.is_finalizing = dlsym(RTLD_DEFAULT, "_Py_IsFinalizing");
    return hk_python.set_allocator != NULL && hk_python.get_allocator != NULL;
}

/* Where interpreters may have their own GIL, but this version's are not known to us, MEM and OBJECT are locked too. */
static bool gil_can_be_known(void)
{
    return hk_python.layout->minor < 12 || hk_python.layout->stacks;
}

static bool heaps_create(void)
{
    HK_HOT_TABLE static const char names[][16] = {"raw", "mem", "object", "interpreters"}; /* each map of the heap has them */
    for (int i = 0; i < HK_DOMAINS; i++) {
        hk_lock_mode mode = i == HK_DOMAIN_RAW || !gil_can_be_known() ? HK_LOCK_OWN : HK_LOCK_HOST;
        hk_python.heaps[i] = hk_heap_create(&(hk_heap_options){
            .size = sizeof(hk_heap_options),
            .lock = mode,
            .name = names[i],
            .alignment = i == HK_DOMAIN_RAW ? 0 : hk_python.alignment,
        });
        if (hk_python.heaps[i] == NULL)
            return false;
        hk_python.heaps[i]->domain = (int16_t)i;
        hk_python.heaps[i]->is_domain = true;
        hk_python.heaps[i]->is_frugal = !hk_python.heaps[i]->is_debug;
    }
    if (hk_python.heaps[HK_DOMAIN_MEM]->mode == HK_LOCK_HOST && hk_python.heaps[HK_DOMAIN_OBJECT]->mode == HK_LOCK_HOST) {
        hk_python.heaps[HK_DOMAIN_MEM]->sibling = hk_python.heaps[HK_DOMAIN_OBJECT];
        hk_python.heaps[HK_DOMAIN_OBJECT]->sibling = hk_python.heaps[HK_DOMAIN_MEM];
    }
    hk_python.interpreters = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options),
        .name = names[HK_DOMAINS],
        .debug = HK_DEBUG_OFF,
        .alignment = hk_python.alignment,
    });
    return hk_python.interpreters != NULL;
}

uint32_t hk_cpython_version(uint32_t *flags)
{
    *flags = python_flags;
    return hk_python.layout != NULL && hk_python.layout->present ? hk_python.layout->version : 0;
}

static enum hk_capture_watch refuse(const char **why, const char *text)
{
    *why = text;
    hk_python.get_allocator = NULL; /* nothing of ours to watch */
    return HK_WATCH_REFUSED;
}

enum hk_capture_watch hk_cpython_install(size_t alignment, const char **why)
{
    hk_python.alignment = alignment;
    if (hk_cpython_address() == NULL || !hk_cpython_find())
        return HK_WATCH_NOT_PYTHON;
    if (hk_python.is_initialized != NULL && hk_python.is_initialized())
        return HK_WATCH_NOT_PYTHON; /* opened in a Python that runs already, whose blocks are another allocator's */
    hk_python.layout = hk_py_layout_find();
    python_flags = hk_python.layout->free_threaded * 1u | hk_python.layout->debug * 2u | hk_python.layout->trace_refs * 4u;
    if (hk_python.layout->free_threaded)
        return refuse(why, "a free-threaded interpreter requires its own allocator");
    if (hk_python.layout->trace_refs || hk_python.layout->debug)
        return refuse(why, "a debug build of the interpreter keeps its own allocator");
    if (!heaps_create())
        return refuse(why, "no address space for the heap (RLIMIT_AS or overcommit)");

    bool is_debug = hk_python.heaps[HK_DOMAIN_OBJECT]->is_debug;
    if (is_debug)
        hk_cpython_debug_begin();
    for (int i = 0; i < HK_DOMAINS; i++)
        set_table(i);
    hk_cpython_tables_find();
    if (hk_python.layout->minor >= 11 && hk_python.set_arena_allocator != NULL) {
        hk_python.set_arena_allocator(&(struct hk_arena_allocator){NULL, chunk_alloc, chunk_free});
        hk_os_rest_code_around((const void *)hk_python.set_arena_allocator); /* of CPython's cold code */
    }
    if (hk_python.layout->minor >= 13)
        interpreter_size = hk_py_interpreter_size(hk_python.layout);
    bool audited = hk_python.add_audit_hook != NULL && gil_can_be_known() && !is_debug &&
                   (hk_python.layout->minor == 12 || hk_cpython_lines_wanted());
    for (int i = HK_DOMAIN_MEM; audited && i <= HK_DOMAIN_OBJECT; i++)
        hk_cpython_put_table(i, &(hk_allocator){hk_python.heaps[i], first_malloc, first_calloc, locked_realloc, locked_free});
    return HK_WATCH_OURS;
}
