/* A heap with a limit: a cache that takes what it is allowed, and never more. When the heap would grow beyond its limit it
 * calls at_limit, which drops the pages that nobody has asked for longest; then the request goes on.
 *
 *      cc limits.c $(pkg-config --cflags --libs heapkeeper) -o limits && ./limits
 */
#include <heapkeeper/heap.h>

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define LIMIT ((size_t)4 << 20)
#define PRODUCTS 20000
#define REQUESTS 200000

struct page {
    struct page *newer, *older; /* by when it was last asked for */
    unsigned product;
    char text[];
};

static struct page *pages[PRODUCTS]; /* NULL: not in the cache */
static struct page *newest, *oldest;
static unsigned dropped, calls;

static void unlink_page(struct page *page)
{
    *(page->newer != NULL ? &page->newer->older : &newest) = page->older;
    *(page->older != NULL ? &page->older->newer : &oldest) = page->newer;
}

static void link_newest(struct page *page)
{
    page->newer = NULL;
    page->older = newest;
    *(newest != NULL ? &newest->newer : &oldest) = page;
    newest = page;
}

/* The heap would have to grow by `wanted` bytes: makes room. True: try again. */
static bool drop_oldest_pages(hk_heap *heap, size_t wanted, void *argument)
{
    size_t freed = 0;
    (void)argument;
    calls++;
    while (oldest != NULL && freed < wanted) {
        struct page *page = oldest;
        freed += hk_usable_size(page);
        pages[page->product] = NULL;
        unlink_page(page);
        hk_free(heap, page);
        dropped++;
    }
    return freed > 0; /* false: the cache is empty, and hk_malloc says NULL */
}

static const char *find_page(hk_heap *heap, unsigned product, unsigned *hits)
{
    struct page *page = pages[product];
    if (page != NULL) {
        ++*hits;
        unlink_page(page);
    } else {
        size_t length = 300 + product * 31 % 1500;
        page = hk_malloc(heap, sizeof *page + length + 1);
        if (page == NULL)
            return NULL;
        page->product = product;
        memset(page->text, ' ', length);
        page->text[length] = '\0';
        snprintf(page->text, length, "<h1>Product %u</h1>", product);
        pages[product] = page;
    }
    link_newest(page);
    return page->text;
}

int main(void)
{
    hk_heap *heap = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options),
        .name = "cache",
        .limit_bytes = LIMIT,
        .at_limit = drop_oldest_pages,
    });
    hk_heap_stats stats = {.size = sizeof stats};
    unsigned random = 1, hits = 0;
    size_t most = 0;

    for (int i = 0; heap != NULL && i < REQUESTS; i++) {
        random = random * 1664525 + 1013904223;
        unsigned product = (random >> 24) * (random >> 16 & 255) % PRODUCTS; /* some are asked for more often */
        if (find_page(heap, product, &hits) == NULL)
            return 1;
        hk_heap_get_stats(heap, &stats);
        if (stats.mapped_bytes + stats.large_bytes > most)
            most = stats.mapped_bytes + stats.large_bytes;
    }
    printf("%d requests, %u from the cache; at_limit was called %u times and dropped %u pages\n", REQUESTS, hits, calls, dropped);
    printf("the heap took %zu bytes at most, of %zu allowed: %s\n", most, LIMIT, most <= LIMIT ? "within" : "OVER");
    hk_heap_destroy(heap);
    return most > LIMIT;
}
