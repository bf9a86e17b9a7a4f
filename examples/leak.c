/* A program with a cache, which is large and stays as it is, and a leak, which is small and grows:
 *
 *      cc -g -O2 leak.c -o leak
 *      heapkeeper run ./leak
 *      heapkeeper report
 *
 * The report names the leak's line. With `heapkeeper run --native-stacks ./leak` it says how the program gets there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGES 4096

struct order {
    struct order *next;
    unsigned number;
    char items[200];
};

static struct order *orders; /* every order is put here, and none is taken out */
static char *pages[PAGES];   /* the newest page of each product */

static void remember_order(unsigned number)
{
    struct order *order = malloc(sizeof(*order)); /* the leak */
    if (order == NULL)
        exit(1);
    order->number = number;
    snprintf(order->items, sizeof(order->items), "items of order %u", number);
    order->next = orders;
    orders = order;
}

static const char *render_page(unsigned product)
{
    char **page = &pages[product % PAGES];
    size_t size = 1500 + product % 700;
    free(*page);
    *page = malloc(size); /* the cache */
    if (*page == NULL)
        exit(1);
    snprintf(*page, size, "<h1>Product %u</h1>", product);
    return *page;
}

static size_t handle_request(unsigned number)
{
    size_t sent = strlen(render_page(number * 7919u));
    if (number % 2 == 0)
        remember_order(number);
    return sent;
}

int main(int argc, char **argv)
{
    unsigned requests = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 200000;
    size_t sent = 0;
    for (unsigned i = 0; i < requests; i++)
        sent += handle_request(i);
    printf("%u requests, %zu bytes\n", requests, sent);
    return 0;
}
