/* The interpreter's three tables of allocator functions (PEP 445), read and written where they lie.
 *
 * From 3.12 on PyMem_GetAllocator and PyMem_SetAllocator take a mutex of the runtime's; from 3.13 on who waits for it gives
 * the GIL away, and waits for that afterwards. In a hook both are wrong: the program's code runs in the middle of an allocation,
 * and a lock of ours that this thread holds is then waited for by whoever has the GIL, for ever. So from 3.12 on we go by the
 * tables themselves, three in a row in _PyRuntime (allocators.standard: raw, mem, obj), found once by what was just put
 * there: this needs no offset of a version. PyMem_Malloc reads them without the mutex too, so whoever writes one owes its readers no more
 * than we do: each pointer is whole, and any mixture of two tables that may follow each other is right (domains.c).
 *
 * Before 3.12 there is no mutex, and the functions are called; so they are where the tables are not found.
 */
#include "hosts/cpython/internal.h"

#include "base/os.h"

enum { WITHIN = 4096 }; /* of the runtime's beginning: they lie at 96 to 1008 in 3.12 to 3.15 */

static hk_allocator *in_force;

void hk_cpython_tables_find(void)
{
    hk_allocator now[HK_DOMAINS];
    const hk_py_layout *layout = hk_python.layout;
    if (layout->minor < 12 || layout->runtime == NULL)
        return;
    for (int i = 0; i < HK_DOMAINS; i++)
        hk_python.get_allocator(i, &now[i]);
    size_t size = layout->runtime_size != 0 && layout->runtime_size < WITHIN ? layout->runtime_size : WITHIN;
    in_force = memmem(layout->runtime, size, now, sizeof(now));
}

HK_HOT void hk_cpython_get_table(int domain, hk_allocator *table)
{
    if (in_force == NULL) {
        hk_python.get_allocator(domain, table);
        return;
    }
    const hk_allocator *from = &in_force[domain];
    table->context = __atomic_load_n(&from->context, __ATOMIC_RELAXED);
    table->malloc = __atomic_load_n(&from->malloc, __ATOMIC_RELAXED);
    table->calloc = __atomic_load_n(&from->calloc, __ATOMIC_RELAXED);
    table->realloc = __atomic_load_n(&from->realloc, __ATOMIC_RELAXED);
    table->free = __atomic_load_n(&from->free, __ATOMIC_RELAXED);
}

void hk_cpython_write_table(hk_allocator *to, const hk_allocator *table)
{
    __atomic_store_n(&to->context, table->context, __ATOMIC_RELEASE);
    __atomic_store_n(&to->malloc, table->malloc, __ATOMIC_RELEASE);
    __atomic_store_n(&to->calloc, table->calloc, __ATOMIC_RELEASE);
    __atomic_store_n(&to->realloc, table->realloc, __ATOMIC_RELEASE);
    __atomic_store_n(&to->free, table->free, __ATOMIC_RELEASE);
}

void hk_cpython_put_table(int domain, const hk_allocator *table)
{
    if (in_force != NULL)
        hk_cpython_write_table(&in_force[domain], table);
    else
        hk_python.set_allocator(domain, table);
}
