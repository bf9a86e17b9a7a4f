/* The floor of what any replacement can reach: PyMem_SetAllocator with functions that only call the ones before.
 * Preloaded like ours, it makes each allocation and free pay the indirect calls that a replacement pays, and saves
 * nothing. Built and used by macro.py's mode `hook`. */
#include <dlfcn.h>
#include <stddef.h>

typedef struct { /* PyMemAllocatorEx, PEP 445 */
    void *context;
    void *(*malloc)(void *context, size_t size);
    void *(*calloc)(void *context, size_t count, size_t size);
    void *(*realloc)(void *context, void *block, size_t size);
    void (*free)(void *context, void *block);
} allocator;

static allocator before[3]; /* by domain: raw, mem, object */

static void *hook_malloc(void *context, size_t size)
{
    allocator *next = context;
    return next->malloc(next->context, size);
}

static void *hook_calloc(void *context, size_t count, size_t size)
{
    allocator *next = context;
    return next->calloc(next->context, count, size);
}

static void *hook_realloc(void *context, void *block, size_t size)
{
    allocator *next = context;
    return next->realloc(next->context, block, size);
}

static void hook_free(void *context, void *block)
{
    allocator *next = context;
    next->free(next->context, block);
}

__attribute__((constructor)) static void install(void)
{
    void (*get)(int, allocator *) = dlsym(RTLD_DEFAULT, "PyMem_GetAllocator");
    void (*set)(int, allocator *) = dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
    for (int domain = 1; get != NULL && set != NULL && domain < 3; domain++) {
        get(domain, &before[domain]);
        set(domain, &(allocator){&before[domain], hook_malloc, hook_calloc, hook_realloc, hook_free});
    }
}
