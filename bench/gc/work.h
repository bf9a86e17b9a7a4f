/* What the C programs of bench/gc.py share: the numbers, the clock, the line that each prints. The workloads, which every runtime
 * has under the same name and does step by step alike, so that all print the same checksum:
 *
 *      trees     binary trees of the Benchmarks Game: many that die young at eight depths, one that stays
 *      gcbench   Ellis, Kovac and Boehm's: trees built from the top and from the bottom, beside a large one and an array
 *                of numbers that stay
 *      strings   keys made, looked up in a dict, values put together and replaced; at the end of a round all are joined
 *      cycles    graphs of 2 to 64 nodes, a ring with two random references from each; 1024 of them are alive at a time
 *      cache     50 000 entries in a list of least recent use, most of them old; each request makes two objects that
 *                refer to each other and to what was found
 *
 * Nothing is cyclic in the first three. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* work.lua and work.py read these, too. */
enum {
    TREES_DEPTH = 15,
    BENCH_STRETCH = 17, BENCH_LONG_LIVED = 15, BENCH_ARRAY = 500000, BENCH_MAX = 16,
    STRINGS_ROUNDS = 8, STRINGS_KEYS = 30000, STRINGS_STEPS = 100000, STRINGS_LONGEST = 120,
    CYCLES_GRAPHS = 60000, CYCLES_WINDOW = 1024, CYCLES_NODES = 64,
    CACHE_KEYS = 200000, CACHE_ENTRIES = 50000, CACHE_REQUESTS = 600000,
};

/* The same in all languages: numbers stay below 2^31, products below 2^63. */
static uint64_t work_random = 42;

static inline uint32_t below(uint32_t limit)
{
    work_random = (work_random * 1103515245 + 12345) & 0x7fffffff;
    return (uint32_t)((work_random >> 8) % limit);
}

/* The digits of a number; returns how many. */
static inline size_t digits(char *to, uint32_t number)
{
    char reversed[10];
    size_t count = 0;
    do
        reversed[count++] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    for (size_t i = 0; i < count; i++)
        to[i] = reversed[count - 1 - i];
    return count;
}

static inline uint64_t peak_kilobytes(void)
{
    char line[128];
    uint64_t kilobytes = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (strncmp(line, "VmHWM:", 6) == 0)
            kilobytes = strtoull(line + 6, NULL, 10);
    if (file != NULL)
        fclose(file);
    return kilobytes;
}

static inline double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now); /* of all threads: markers count */
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

struct workload {
    const char *name;
    uint64_t (*run)(void);
};

/* Prints checksum, CPU seconds and peak resident kilobytes; extra: what else is to be said. */
static inline int work(const struct workload *workloads, const char *name, void (*extra)(void))
{
    for (; workloads->name != NULL; workloads++) {
        if (name == NULL)
            puts(workloads->name);
        else if (strcmp(workloads->name, name) == 0) {
            double start = cpu_seconds();
            uint64_t checksum = workloads->run();
            double spent = cpu_seconds() - start;
            printf("%" PRIu64 " %.6f %" PRIu64 "\n", checksum, spent, peak_kilobytes());
            if (extra != NULL && getenv("GC_EXTRA") != NULL)
                extra();
            return 0;
        }
    }
    return name == NULL ? 0 : 2;
}
