/* `size BYTES` of costs.c on the Boehm-Demers-Weiser collector. */
#include <gc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static double resident(void)
{
    unsigned long size, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%lu %lu", &size, &pages) != 2)
        abort();
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

int main(int argc, char **argv)
{
    enum { COUNT = 1000000 };
    GC_INIT();
    if (argc != 3 || strcmp(argv[1], "size") != 0)
        return 2;
    void **all = GC_MALLOC_UNCOLLECTABLE(COUNT * sizeof(*all));
    if (all == NULL)
        return 1;
    memset(all, 1, COUNT * sizeof(*all));
    GC_disable();
    double before = resident();
    for (int i = 0; i < COUNT; i++)
        if ((all[i] = GC_MALLOC((size_t)atoi(argv[2]))) == NULL)
            return 1;
    printf("%.1f\n", (resident() - before) / COUNT);
    return 0;
}
