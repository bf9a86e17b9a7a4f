/* Interpreters with a GIL of their own (PEP 684; 3.12 on): each allocates MEM and OBJECT from one heap of its own, which
 * its GIL protects. Interpreters that share the main GIL use the main heaps.
 *
 *      none        at first whoever calls MEM or OBJECT holds the main GIL
 *      many        before the first such interpreter can allocate, the two tables are replaced by the functions below
 *                  (become_many): on 3.13 and later at the RAW calloc of an interpreter's state, which its creator makes
 *                  while it has no thread state; on 3.12 at the audit event. Threads still inside the old functions
 *                  belong to the main GIL, for which these are right; the new interpreter's first call comes after
 *                  the replacement, in the same thread. The tables' contexts stay, so a thread that reads a table
 *                  meanwhile sees a valid pair
 *      alive       at its first allocation an interpreter gets a heap: one that an ended one left, else a new one, else
 *                  (no more can be made) a heap with a lock that such interpreters share
 *      ended       when its state is freed, its heap gives its empty arenas back and waits for the next one. Blocks
 *                  that outlive it stay valid; they can be freed from anywhere, and the next interpreter takes them in.
 *                  A heap is never unmapped, so statistics may be read at any time
 *      lost        in the child of a fork, which has no thread to go on with it: used by nobody again
 *
 * Whose GIL a thread holds is asked of its thread state in each call; the answer is kept by the interpreter's id, which
 * is never used twice. A free looks whose block it is: blocks of another GIL's heap (CPython frees none) take the remote
 * way, as does all that is freed by a thread without a thread state.
 *
 * Where another hook (tracemalloc, a memory profiler) stands before us, it would go on calling the old functions. If
 * its context is its copy of our table, as the documentation of PyMem_SetAllocator has it, the copy is corrected.
 * If not, we stand in front of it: it is called for the main GIL only, and what other interpreters allocate passes
 * it by. (To refuse the interpreter is no way out: CPython ends the process then.)
 */
#include "hosts/cpython/exact.h"
#include "hosts/cpython/lines_count.h"

#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "record/record.h"

#define MEMBERS 256         /* interpreters that have a heap of their own at a time */
#define STATE_ALIGNMENT 64u /* an interpreter's state begins at most so far into its block */
#define HOOKS_MAX 8         /* one before the other */

enum state { UNUSED, ALIVE, ENDED, LOST };

struct member {
    const void *interpreter; /* its state; atomic: hk_cpython_state_freed looks without the lock */
    int64_t id; /* of the interpreter; atomic: threads compare it without the lock, the heap then is theirs */
    hk_heap *heap; /* NULL: it shares the main GIL and uses the main heaps. Never changes */
    enum state state;
    uint64_t ended_at; /* serial number: the last to end is the first to be used again */
    char name[32];     /* the heap's */
};

static struct {
    struct member member[MEMBERS];
    uint32_t count; /* that were ever used; atomic */
    uint64_t ends;
    hk_lock lock; /* taken before every other lock of ours */
} family;

/* Whose heap this thread asked for last. Initialised, so that it lies in a gap of the little there is for threads. */
static struct member main_member = {.state = ALIVE}, crowd = {.id = -1}, crowd_of_main = {.id = -1};
static __thread struct member *here = &main_member;

/* --- whose heap --- */

static struct member *member_of(int64_t id)
{
    for (uint32_t i = 0; i < family.count; i++)
        if (family.member[i].state == ALIVE && family.member[i].id == id)
            return &family.member[i];
    return NULL;
}

static hk_heap *heap_create(char *name)
{
    hk_heap *heap = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options),
        .lock = HK_LOCK_HOST,
        .name = name,
        .debug = HK_DEBUG_OFF,
        .alignment = hk_python.alignment,
    });
    if (heap != NULL)
        heap->watched = hk_python.watched[HK_DOMAIN_OBJECT];
    return heap;
}

/* One that was left last, with a heap or without, else a new one; NULL: there can be no more. */
static struct member *member_take(bool own)
{
    struct member *best = NULL;
    for (uint32_t i = 0; i < family.count; i++) {
        struct member *member = &family.member[i];
        if (member->state == ENDED && (member->heap != NULL) == own && (best == NULL || member->ended_at > best->ended_at))
            best = member;
    }
    if (best != NULL || family.count == MEMBERS)
        return best;
    best = &family.member[family.count];
    if (own && (best->heap = heap_create(best->name)) == NULL)
        return NULL;
    __atomic_store_n(&family.count, family.count + 1, __ATOMIC_RELEASE);
    return best;
}

static struct member *member_for(const void *interpreter, int64_t id, bool own)
{
    hk_lock_take(&family.lock);
    struct member *member = member_of(id);
    if (member == NULL && (member = member_take(own)) != NULL) {
        member->state = ALIVE;
        snprintf(member->name, sizeof(member->name), "interpreter %lld", (long long)id);
        __atomic_store_n(&member->id, id, __ATOMIC_RELEASE);
        __atomic_store_n(&member->interpreter, interpreter, __ATOMIC_RELEASE);
    }
    hk_lock_release(&family.lock);
    if (member != NULL)
        return member;
    crowd.heap = hk_python.interpreters;
    return own ? &crowd : &crowd_of_main; /* no id matches these: looked up each time */
}

static __attribute__((noinline)) void look_up(const void *state, int64_t id)
{
    const void *interpreter = *(void *const *)((const char *)state + hk_python.layout->thread_interpreter);
    here = id == 0 ? &main_member : member_for(interpreter, id, hk_py_interp_has_own_gil(hk_python.layout, state));
}

/* The heap that this thread may use without a lock, or the shared one, which has a lock. */
hk_heap *hk_cpython_heap_here(hk_heap *context)
{
    const char *state = hk_py_locked_thread_state(hk_python.layout);
    if (__builtin_expect(state == NULL, 0))
        return hk_python.interpreters;
    const char *interpreter = *(const char *const *)(state + hk_python.layout->thread_interpreter);
    int64_t id = *(const int64_t *)(interpreter + hk_python.layout->interpreter_id);
    if (__builtin_expect(id != __atomic_load_n(&here->id, __ATOMIC_RELAXED), 0))
        look_up(state, id);
    return here->heap != NULL ? here->heap : context;
}

/* The block may be freed into its heap by who may use `heap`. */
bool hk_cpython_is_within_reach(const hk_heap *heap, const void *block)
{
    if (!hk_region_has(block))
        return true;
    const hk_heap *owner = hk_pool_of(block)->heap;
    if (owner == heap || owner->mode == HK_LOCK_OWN)
        return true;
    const hk_heap *mem = hk_python.heaps[HK_DOMAIN_MEM], *object = hk_python.heaps[HK_DOMAIN_OBJECT];
    return (owner == mem || owner == object) && (heap == mem || heap == object);
}

/* --- MEM and OBJECT --- */

static void *many_malloc(void *context, size_t size)
{
    return hk_malloc(hk_cpython_heap_here(context), size);
}

static void many_free(void *context, void *block)
{
    hk_heap *heap = hk_cpython_heap_here(context);
    if (__builtin_expect(hk_cpython_is_within_reach(heap, block), 1))
        hk_free(heap, block);
    else
        hk_free_remote(block);
}

static void *many_calloc(void *context, size_t count, size_t size)
{
    return hk_calloc(hk_cpython_heap_here(context), count, size);
}

static void *many_realloc(void *context, void *block, size_t size)
{
    hk_heap *heap = hk_cpython_heap_here(context);
    if (block == NULL)
        return hk_malloc(heap, size);
    if (__builtin_expect(hk_cpython_is_within_reach(heap, block), 1))
        return hk_realloc(heap, block, size);
    size_t old = hk_usable_size(block);
    void *moved = hk_malloc(heap, size);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, size < old ? size : old);
    hk_free_remote(block);
    return moved;
}

static hk_allocator many_table(int domain)
{
    if (hk_python.exact)
        return hk_cpython_exact_many_table(domain);
    return (hk_allocator){hk_python.heaps[domain], many_malloc, many_calloc, many_realloc, many_free};
}

bool hk_cpython_is_many_table(const hk_allocator *table)
{
    return table->malloc == many_table(HK_DOMAIN_OBJECT).malloc;
}

/* --- becoming many --- */

static bool is_table(const hk_allocator *a, const hk_allocator *b)
{
    return a->context == b->context && a->malloc == b->malloc && a->calloc == b->calloc && a->realloc == b->realloc &&
           a->free == b->free;
}

/* False too where the system forbids the call. */
static bool copy_checked(void *mine, void *theirs, size_t size, bool to_them)
{
    struct iovec local = {mine, size}, remote = {theirs, size};
    ssize_t done = to_them ? process_vm_writev(getpid(), &local, 1, &remote, 1, 0)
                           : process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
    return done == (ssize_t)size;
}

/* Where the hooks that stand before us keep our table: each hook's context is the table that it calls. NULL: not found,
 * or not writable. */
static hk_allocator *find_copy(const hk_allocator *in_force, const hk_allocator *ours)
{
    hk_allocator table = *in_force;
    for (int i = 0; i < HOOKS_MAX; i++) {
        hk_allocator *at = table.context;
        if ((uintptr_t)at % sizeof(void *) != 0 || !copy_checked(&table, at, sizeof(table), false))
            return NULL;
        if (is_table(&table, ours)) /* written as it is, to see that it can be */
            return copy_checked(&table, at, sizeof(table), true) ? at : NULL;
    }
    return NULL;
}

/* In front of a hook. Contexts stay the hook's, so that any mixture of its table and ours that a thread reads is right. */
static hk_allocator hooks[HK_DOMAINS];

static void *front_malloc(int domain, void *context, size_t size)
{
    hk_heap *heap = hk_cpython_heap_here(hk_python.heaps[domain]);
    hk_allocator many = many_table(domain);
    return heap == many.context ? hooks[domain].malloc(context, size) : many.malloc(many.context, size);
}

static void *front_calloc(int domain, void *context, size_t count, size_t size)
{
    hk_heap *heap = hk_cpython_heap_here(hk_python.heaps[domain]);
    hk_allocator many = many_table(domain);
    return heap == many.context ? hooks[domain].calloc(context, count, size) : many.calloc(many.context, count, size);
}

static void *front_realloc(int domain, void *context, void *block, size_t size)
{
    hk_heap *heap = hk_cpython_heap_here(hk_python.heaps[domain]);
    if (heap == hk_python.heaps[domain] && hk_cpython_is_within_reach(heap, block))
        return hooks[domain].realloc(context, block, size);
    hk_allocator many = many_table(domain);
    return many.realloc(many.context, block, size);
}

static void front_free(int domain, void *context, void *block)
{
    hk_heap *heap = hk_cpython_heap_here(hk_python.heaps[domain]);
    if (heap == hk_python.heaps[domain] && hk_cpython_is_within_reach(heap, block))
        hooks[domain].free(context, block);
    else
        many_table(domain).free(hk_python.heaps[domain], block);
}

HK_TABLE_FUNCTIONS(front_mem, front, HK_DOMAIN_MEM)
HK_TABLE_FUNCTIONS(front_object, front, HK_DOMAIN_OBJECT)

static hk_allocator front_table(int domain)
{
    if (domain == HK_DOMAIN_MEM)
        return (hk_allocator){hooks[domain].context, front_mem_malloc, front_mem_calloc, front_mem_realloc, front_mem_free};
    return (hk_allocator){hooks[domain].context, front_object_malloc, front_object_calloc, front_object_realloc,
                          front_object_free};
}

/* True: nobody is passed by. */
static bool replace_table(int domain)
{
    hk_allocator table = many_table(domain), ours = hk_cpython_table(domain), in_force;
    hk_cpython_get_table(domain, &in_force);
    hk_line_count_below(domain, &in_force);
    hk_allocator *copy = NULL;
    bool is_hooked = !is_table(&in_force, &ours);
    if (is_hooked && (copy = find_copy(&in_force, &ours)) != NULL) {
        hk_cpython_write_table(copy, &table);
        return true;
    }
    if (is_hooked) {
        hooks[domain] = in_force;
        table = front_table(domain);
    }
    if (!hk_line_count_put_below(domain, &table))
        hk_cpython_put_table(domain, &table);
    return !is_hooked;
}

/* Called by each creator of an interpreter. If a hook that we stood in front of has gone since, and put our old
 * table back, that is replaced again. */
void hk_cpython_become_many(void)
{
    static bool passed_by; /* said once */
    bool begins = false, good = true;
    if (hk_python.heaps[HK_DOMAIN_OBJECT]->is_debug)
        return; /* heaps in debug mode lock themselves */
    hk_lock_take(&family.lock);
    for (int i = HK_DOMAIN_MEM; i <= HK_DOMAIN_OBJECT; i++) {
        hk_allocator in_force, ours = hk_cpython_table(i);
        hk_cpython_get_table(i, &in_force);
        hk_line_count_below(i, &in_force);
        if (!hk_python.many || is_table(&in_force, &ours))
            good &= replace_table(i);
    }
    begins = !hk_python.many;
    __atomic_store_n(&hk_python.many, true, __ATOMIC_RELEASE);
    hk_lock_release(&family.lock);
    if (begins)
        hk_record_event(HK_EVENT_INTERPRETERS, 1, "interpreters with their own GIL: each has a heap of its own");
    if (!good && !__atomic_exchange_n(&passed_by, true, __ATOMIC_RELAXED))
        hk_record_event(HK_EVENT_INTERPRETERS, 0,
                        "another hook is installed: what interpreters with their own lock allocate passes it by");
}

/* --- ends --- */

void hk_cpython_state_freed(const void *block)
{
    uint32_t count = __atomic_load_n(&family.count, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < count; i++) {
        struct member *member = &family.member[i];
        const void *interpreter = __atomic_load_n(&member->interpreter, __ATOMIC_RELAXED);
        if (interpreter == NULL || (uintptr_t)interpreter - (uintptr_t)block >= STATE_ALIGNMENT)
            continue;
        hk_lock_take(&family.lock);
        if (member->state == ALIVE && member->interpreter == interpreter) {
            if (member->heap != NULL)
                hk_heap_rest(member->heap);
            snprintf(member->name, sizeof(member->name), "interpreter (ended)");
            member->state = ENDED;
            member->ended_at = ++family.ends;
            __atomic_store_n(&member->interpreter, NULL, __ATOMIC_RELAXED);
        }
        hk_lock_release(&family.lock);
        return;
    }
}

void hk_cpython_interpreters_fork_prepare(void)
{
    hk_lock_take_to_fork(&family.lock);
}

void hk_cpython_interpreters_fork_release(bool child)
{
    for (uint32_t i = 0; child && i < family.count; i++)
        if (family.member[i].state == ALIVE && &family.member[i] != here) {
            family.member[i].state = LOST;
            family.member[i].interpreter = NULL;
        }
    hk_lock_release_forked(&family.lock);
}
