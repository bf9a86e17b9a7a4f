/* Domains: PEP 445 for C programs. Three tables of functions; the default ones allocate from a heap per domain,
 * made when the domain is first used: RAW's locks itself, MEM's and OBJECT's are under the program's lock. */
#include "heap/misuse.h"

static hk_heap *default_heaps[HK_DOMAINS];
static hk_lock default_lock;

static hk_heap *default_heap(hk_domain domain)
{
    static const char *const names[] = {"raw", "mem", "object"};
    hk_heap *heap = __atomic_load_n(&default_heaps[domain], __ATOMIC_ACQUIRE);
    if (heap != NULL)
        return heap;
    hk_lock_take(&default_lock);
    heap = default_heaps[domain];
    if (heap == NULL) {
        heap = hk_heap_create(&(hk_heap_options){
            .size = sizeof(hk_heap_options),
            .lock = domain == HK_DOMAIN_RAW ? HK_LOCK_OWN : HK_LOCK_HOST,
            .name = names[domain],
            .alignment = domain == HK_DOMAIN_RAW ? 16 : 8,
        });
        if (heap != NULL) {
            heap->domain = (int16_t)domain;
            heap->is_domain = true;
        }
        __atomic_store_n(&default_heaps[domain], heap, __ATOMIC_RELEASE);
    }
    hk_lock_release(&default_lock);
    return heap;
}

/* The context of a default table is the address of its domain's slot in default_heaps. */
static hk_heap *heap_of_context(void *context)
{
    return default_heap((hk_domain)((hk_heap **)context - default_heaps));
}

static void *default_malloc(void *context, size_t size)
{
    hk_heap *heap = heap_of_context(context);
    return heap != NULL ? hk_malloc(heap, size) : NULL;
}

static void *default_calloc(void *context, size_t count, size_t size)
{
    hk_heap *heap = heap_of_context(context);
    return heap != NULL ? hk_calloc(heap, count, size) : NULL;
}

static void *default_realloc(void *context, void *block, size_t size)
{
    hk_heap *heap = heap_of_context(context);
    return heap != NULL ? hk_realloc(heap, block, size) : NULL;
}

static void default_free(void *context, void *block)
{
    hk_heap *heap = block != NULL ? heap_of_context(context) : NULL;
    if (heap != NULL)
        hk_free(heap, block);
}

#define DEFAULT(domain) {&default_heaps[domain], default_malloc, default_calloc, default_realloc, default_free}

static hk_allocator tables[HK_DOMAINS] = {DEFAULT(HK_DOMAIN_RAW), DEFAULT(HK_DOMAIN_MEM), DEFAULT(HK_DOMAIN_OBJECT)};

static bool is_domain(hk_domain domain, const char *function)
{
    if (__builtin_expect((unsigned)domain < HK_DOMAINS, 1))
        return true;
    hk_misuse(NULL, "%s: %d is no domain", function, (int)domain);
    return false;
}

void hk_get_allocator(hk_domain domain, hk_allocator *allocator)
{
    if (allocator == NULL)
        hk_misuse(NULL, "hk_get_allocator: the allocator is NULL");
    else if (is_domain(domain, "hk_get_allocator"))
        *allocator = tables[domain];
    else
        *allocator = (hk_allocator){.context = NULL};
}

void hk_set_allocator(hk_domain domain, const hk_allocator *allocator)
{
    if (allocator == NULL)
        hk_misuse(NULL, "hk_set_allocator: the allocator is NULL");
    else if (allocator->malloc == NULL || allocator->calloc == NULL || allocator->realloc == NULL || allocator->free == NULL)
        hk_misuse(NULL, "hk_set_allocator: a function of the allocator is NULL");
    else if (is_domain(domain, "hk_set_allocator"))
        tables[domain] = *allocator;
}

void *hk_domain_malloc(hk_domain domain, size_t size)
{
    return is_domain(domain, "hk_domain_malloc") ? tables[domain].malloc(tables[domain].context, size) : NULL;
}

void *hk_domain_calloc(hk_domain domain, size_t count, size_t size)
{
    return is_domain(domain, "hk_domain_calloc") ? tables[domain].calloc(tables[domain].context, count, size) : NULL;
}

void *hk_domain_realloc(hk_domain domain, void *block, size_t size)
{
    return is_domain(domain, "hk_domain_realloc") ? tables[domain].realloc(tables[domain].context, block, size) : NULL;
}

void hk_domain_free(hk_domain domain, void *block)
{
    if (is_domain(domain, "hk_domain_free"))
        tables[domain].free(tables[domain].context, block);
}
