/* The way into a Python that runs already (`import heapkeeper; heapkeeper.install()`, for notebooks).
 *
 * Its MEM and OBJECT tables are replaced while the caller holds the GIL. Blocks from before are still another
 * allocator's, so every free and realloc is routed by address, and stays with the owner:
 *
 *      malloc, calloc   up to 512 bytes: ours; larger: the previous allocator's, as all of RAW is
 *      realloc          of its block: the previous allocator's, whatever the size. Of ours: here while it fits, else it moves
 *      free             by address
 *
 * The order of publication: first tables whose realloc and free know both owners and whose malloc is still the previous
 * one, then our malloc; so at no time can a block of ours meet a free that does not know it. There is no way back:
 * objects live on.
 *
 * Interpreters with their own GIL that come later stay with the previous allocator, which keeps a state for each. They are
 * noticed as in domains.c, by the RAW calloc of their state (3.13 on) or the audit event (3.12). RAW's table is replaced for that
 * alone and passes everything on. It may be called meanwhile by threads without a GIL; that is harmless, since neither
 * the functions before (CPython's own ignore their context) nor ours look at the context they are given.
 */
#include "hosts/cpython/capi.h"
#include "hosts/cpython/internal.h"

#include <pthread.h>
#include <string.h>

#define INSTALLS "heapkeeper.install" /* an audit event, on 3.12 */
#define LATE_MAX 512u /* CPython's own threshold (Objects/obmalloc.c): over it, requests are malloc's */

static struct {
    hk_allocator previous[HK_DOMAINS];
    hk_heap *heaps[HK_DOMAINS]; /* of MEM and OBJECT */
    uint64_t interpreter_size;
    bool installed;
    bool many; /* there may be interpreters with their own GIL; atomic, never taken back */
    bool audited; /* our audit hook is called */
} late;

/* --- whose GIL --- */

/* True if the GIL that the caller holds is not the main one. */
static bool elsewhere(void)
{
    if (!__atomic_load_n(&late.many, __ATOMIC_RELAXED))
        return false;
    const void *state = hk_py_locked_thread_state(hk_python.layout);
    if (state == NULL)
        return true;
    return hk_py_interpreter_id(hk_python.layout, state) != 0 && hk_py_interp_has_own_gil(hk_python.layout, state);
}

/* --- MEM and OBJECT; the context is the domain --- */

static void *late_malloc(void *context, size_t size)
{
    size_t domain = (size_t)context;
    if (size <= LATE_MAX && !elsewhere()) {
        void *block = hk_malloc_unlocked(late.heaps[domain], size);
        if (hk_region_has(block))
            return block;
        hk_free(late.heaps[domain], block); /* no addresses left: the previous allocator may have some */
    }
    return late.previous[domain].malloc(late.previous[domain].context, size);
}

static void *late_calloc(void *context, size_t count, size_t size)
{
    size_t domain = (size_t)context, total;
    if (!__builtin_mul_overflow(count, size, &total) && total <= LATE_MAX) {
        void *block = late_malloc(context, total);
        return block != NULL ? memset(block, 0, total) : NULL;
    }
    return late.previous[domain].calloc(late.previous[domain].context, count, size);
}

static void late_free(void *context, void *block)
{
    size_t domain = (size_t)context;
    if (!hk_region_has(block))
        late.previous[domain].free(late.previous[domain].context, block);
    else if (elsewhere())
        hk_free_remote(block);
    else
        hk_free_unlocked(late.heaps[domain], block);
}

static void *late_realloc(void *context, void *block, size_t size)
{
    size_t domain = (size_t)context;
    if (block == NULL)
        return late_malloc(context, size);
    if (!hk_region_has(block))
        return late.previous[domain].realloc(late.previous[domain].context, block, size);
    size_t had = hk_usable_size(block);
    if (size <= LATE_MAX && !elsewhere()) {
        void *moved = hk_realloc(late.heaps[domain], block, size);
        if (moved == NULL || hk_region_has(moved))
            return moved;
        block = moved; /* no addresses left: it went to the C allocator, and goes on to the previous one */
        had = size;
    }
    void *moved = late.previous[domain].malloc(late.previous[domain].context, size);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, had < size ? had : size);
    if (hk_region_has(block))
        late_free(context, block);
    else
        hk_free(late.heaps[domain], block);
    return moved;
}

/* The first tables of the two: allocation as before, frees and reallocs by address. */
static void *previous_malloc(void *context, size_t size)
{
    size_t domain = (size_t)context;
    return late.previous[domain].malloc(late.previous[domain].context, size);
}

static void *previous_calloc(void *context, size_t count, size_t size)
{
    size_t domain = (size_t)context;
    return late.previous[domain].calloc(late.previous[domain].context, count, size);
}

/* --- RAW passes through --- */

static void *raw_malloc(void *context, size_t size)
{
    return late.previous[HK_DOMAIN_RAW].malloc(late.previous[HK_DOMAIN_RAW].context, size);
}

static void *raw_calloc(void *context, size_t count, size_t size)
{
    if (count == 1 && size - late.interpreter_size < 64)
        __atomic_store_n(&late.many, true, __ATOMIC_RELAXED); /* its first call comes later, in this thread */
    return late.previous[HK_DOMAIN_RAW].calloc(late.previous[HK_DOMAIN_RAW].context, count, size);
}

static void *raw_realloc(void *context, void *block, size_t size)
{
    return late.previous[HK_DOMAIN_RAW].realloc(late.previous[HK_DOMAIN_RAW].context, block, size);
}

static void raw_free(void *context, void *block)
{
    late.previous[HK_DOMAIN_RAW].free(late.previous[HK_DOMAIN_RAW].context, block);
}

static int audit(const char *event, void *arguments, void *data)
{
    if (event[0] == 'c' && strcmp(event, "cpython.PyInterpreterState_New") == 0)
        __atomic_store_n(&late.many, true, __ATOMIC_RELAXED);
    else if (event[0] == 'h' && strcmp(event, INSTALLS) == 0)
        late.audited = true;
    return 0;
}

/* The program's own audit hooks may keep another from being added, with an exception or without a word: so an event must
 * arrive. False: it does not. */
static bool audit_begin(void)
{
    if (late.audited)
        return true;
    if (hk_python.add_audit_hook == NULL || !hk_capi_find())
        return false;
    bool good = hk_python.add_audit_hook(audit, NULL) == 0 && hk_capi.PySys_Audit(INSTALLS, NULL) == 0;
    if (!good)
        hk_capi.PyErr_Clear();
    return good && late.audited;
}

/* --- installation --- */

/* In the parent's other threads' place: the only lock of ours that one of them can hold. */
static void fork_prepare(void)
{
    hk_lock_take_to_fork(&hk_region.lock);
}

static void fork_release(void)
{
    hk_lock_release_forked(&hk_region.lock);
}

/* CPython's own, without its debug hooks; what any other allocator does with blocks that are not its own is not known. */
static bool is_stock(const char *name)
{
    return name != NULL && (strcmp(name, "pymalloc") == 0 || strcmp(name, "malloc") == 0 || strcmp(name, "mimalloc") == 0);
}

static const char *why_not(void)
{
    const hk_py_layout *layout = hk_python.layout;
    if (layout->free_threaded)
        return "this is a free-threaded Python, which requires its own allocator";
    if (layout->debug || layout->trace_refs)
        return "this is a debug build of Python, which keeps its own allocator";
    if (layout->minor >= 12 && !layout->stacks)
        return "this version of Python is not known, so it cannot be seen which interpreters have their own GIL";
    const char *name = hk_python.current_name != NULL ? hk_python.current_name() : NULL;
    size_t length = name != NULL ? strlen(name) : 0;
    if (length > 6 && strcmp(name + length - 6, "_debug") == 0)
        return "the debug hooks are installed (-X dev or PYTHONMALLOC): start Python without them";
    if (!is_stock(name))
        return "another allocator or hook is installed (a profiler?): stop it first, or start with `heapkeeper run`";
    return NULL;
}

static bool heaps_create(void)
{
    static const char *const names[] = {[HK_DOMAIN_MEM] = "mem", [HK_DOMAIN_OBJECT] = "object"};
    for (int i = HK_DOMAIN_MEM; i <= HK_DOMAIN_OBJECT; i++) {
        if (late.heaps[i] == NULL)
            late.heaps[i] = hk_heap_create(&(hk_heap_options){
                .size = sizeof(hk_heap_options),
                .lock = HK_LOCK_HOST,
                .name = names[i],
                .debug = HK_DEBUG_OFF,
            });
        if (late.heaps[i] == NULL)
            return false;
        late.heaps[i]->domain = (int16_t)i;
    }
    return true;
}

static void watch_interpreters(void)
{
    late.interpreter_size = hk_python.layout->minor >= 13 ? hk_py_interpreter_size(hk_python.layout) : 0;
    if (late.interpreter_size != 0)
        hk_python.set_allocator(HK_DOMAIN_RAW, &(hk_allocator){NULL, raw_malloc, raw_calloc, raw_realloc, raw_free});
}

const char *hk_python_install(void)
{
    if (late.installed)
        return NULL;
    if (!hk_cpython_find())
        return "there is no Python in this process";
    hk_python.layout = hk_py_layout_find();
    const char *why = why_not();
    if (why != NULL)
        return why;
    if (!heaps_create())
        return "no address space for the heap (RLIMIT_AS or overcommit)";
    if (hk_python.layout->minor == 12 && !audit_begin())
        return "an audit hook of the program's keeps ours out, which would notice interpreters with their own GIL";
    for (int i = 0; i < HK_DOMAINS; i++)
        hk_python.get_allocator(i, &late.previous[i]);
    watch_interpreters(); /* first, so that none is missed between */
    if (hk_python.layout->minor >= 12 && hk_py_some_have_own_gil(hk_python.layout)) {
        hk_python.set_allocator(HK_DOMAIN_RAW, &late.previous[HK_DOMAIN_RAW]);
        return "an interpreter with its own GIL exists; it uses the allocator that would be replaced";
    }
    for (size_t i = HK_DOMAIN_MEM; i <= HK_DOMAIN_OBJECT; i++)
        hk_python.set_allocator((int)i, &(hk_allocator){(void *)i, previous_malloc, previous_calloc, late_realloc, late_free});
    for (size_t i = HK_DOMAIN_MEM; i <= HK_DOMAIN_OBJECT; i++)
        hk_python.set_allocator((int)i, &(hk_allocator){(void *)i, late_malloc, late_calloc, late_realloc, late_free});
    late.installed = true;
    pthread_atfork(fork_prepare, fork_release, fork_release);
    return NULL;
}
