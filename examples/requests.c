/* A heap for each request: whatever a handler allocates goes with its heap, in one step, and nothing it forgets to free
 * outlives it. Here the worker's own buffer is the memory of each heap in turn, so that to make one and to drop it costs next to
 * nothing. The same requests are handled on one heap that stays, and freed block by block, to compare.
 *
 *      cc -O2 requests.c $(pkg-config --cflags --libs heapkeeper) -o requests && ./requests
 */
#define _DEFAULT_SOURCE
#include <heapkeeper/heap.h>

#include <stdio.h>
#include <string.h>
#include <time.h>

#define REQUESTS 2000
#define PAIRS 500

struct pair {
    struct pair *next;
    char *name, *value;
};

static char body[32 * PAIRS];    /* name=value&name=value... */
static char buffer[1024 * 1024]; /* of one worker */

static char *copy_text(hk_heap *heap, const char *text, size_t length)
{
    char *copy = hk_malloc(heap, length + 1);
    if (copy != NULL) {
        memcpy(copy, text, length);
        copy[length] = '\0';
    }
    return copy;
}

/* Parses the body: three blocks for each pair. NULL: no memory; what was allocated is in `*pairs`, as otherwise. */
static struct pair *parse(hk_heap *heap, struct pair **pairs)
{
    *pairs = NULL;
    for (const char *at = body; *at != '\0';) {
        size_t name = strcspn(at, "="), value = strcspn(at + name + 1, "&");
        struct pair *pair = hk_calloc(heap, 1, sizeof *pair);
        if (pair == NULL)
            return NULL;
        pair->next = *pairs;
        *pairs = pair;
        pair->name = copy_text(heap, at, name);
        pair->value = copy_text(heap, at + name + 1, value);
        if (pair->name == NULL || pair->value == NULL)
            return NULL;
        at += name + 1 + value;
        at += *at == '&';
    }
    return *pairs;
}

static unsigned answer(const struct pair *pair)
{
    unsigned sum = 0;
    for (; pair != NULL; pair = pair->next)
        sum = sum * 31 + (unsigned)strlen(pair->name) + (unsigned char)pair->value[0];
    return sum;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void keep_least(double *least, double time)
{
    if (*least == 0 || time < *least)
        *least = time;
}

/* As it is usually done: the handler finds all that it allocated and frees it. */
static unsigned handle_and_free(hk_heap *heap, double *least)
{
    struct pair *pairs;
    unsigned sum = parse(heap, &pairs) != NULL ? answer(pairs) : 0;
    double start = now();
    for (struct pair *next; pairs != NULL; pairs = next) {
        next = pairs->next;
        hk_free(heap, pairs->name);
        hk_free(heap, pairs->value);
        hk_free(heap, pairs);
    }
    keep_least(least, now() - start);
    return sum;
}

/* With a heap of its own in the worker's buffer. A request that needs more than that gets NULL; others do not notice. */
static unsigned handle_and_drop(double *least)
{
    struct pair *pairs;
    double start = now();
    hk_heap *heap = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options),
        .name = "request",
        .lock = HK_LOCK_HOST, /* one thread works on a request */
        .source = HK_SOURCE_BUFFER,
        .buffer = buffer,
        .buffer_size = sizeof buffer,
    });
    if (heap == NULL)
        return 0;
    double made = now();
    unsigned sum = parse(heap, &pairs) != NULL ? answer(pairs) : 0;
    double done = now();
    hk_heap_destroy(heap); /* and all that is in it */
    keep_least(least, now() - done + (made - start));
    return sum;
}

int main(void)
{
    unsigned freed = 0, dropped = 0;
    double to_free = 0, to_drop = 0; /* seconds; the least of all requests */
    size_t length = 0;
    for (int i = 0; i < PAIRS; i++)
        length += (size_t)sprintf(body + length, "%sfield%d=%c%0*d", i > 0 ? "&" : "", i, 'a' + i % 26, i % 8 + 1, i);

    hk_heap *heap = hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = HK_LOCK_HOST});
    if (heap == NULL)
        return 1;
    for (int i = 0; i < REQUESTS; i++)
        freed = freed * 31 + handle_and_free(heap, &to_free);
    for (int i = 0; i < REQUESTS; i++)
        dropped = dropped * 31 + handle_and_drop(&to_drop);
    hk_heap_destroy(heap);

    hk_heap_stats stats = {.size = sizeof stats};
    hk_heap_get_stats(NULL, &stats); /* of all heaps */
    printf("%d requests of %d blocks each, with %s answers\n", REQUESTS, 3 * PAIRS, freed == dropped ? "the same" : "OTHER");
    printf("freed one by one:        %6.2f us a request\n", to_free * 1e6);
    printf("a heap made and dropped: %6.2f us a request; %llu blocks left\n", to_drop * 1e6,
           (unsigned long long)stats.live_blocks);
    return freed != dropped;
}
