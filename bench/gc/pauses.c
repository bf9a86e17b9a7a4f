/* How long a program waits for the collector. One measurement a process; the line it prints is read by bench/gc.py --pauses.
 *
 *      pauses steps|full OBJECTS REQUESTS MICROSECONDS REQUESTS_A_STEP
 *
 * A heap of so many objects stays as large as it is: groups of eight that refer to each other at random and to the row that
 * they stand in. A request replaces one of them, so that eight old objects are garbage, and makes another that is garbage at once.
 * steps: hk_gc_step after so many requests; full: full collections start by themselves. Young ones do in both.
 *
 * Prints, in milliseconds of CPU, what the program waited for at once (steps, or full collections): the median, 99th and 99.9th
 * percentile, the longest; the longest of them in wall time; the longest young collection; a full collection of the
 * heap at the end. Then the number of waits, of rounds, of full collections; the most garbage, and the garbage at the
 * end, for one live object; the share of the collector in all CPU time; largest component; objects checked in vain. */
#include "heapkeeper/gc.h"
#include "work.h"

enum { GROUP = 8, ROW = 60 };

struct node {
    hk_object head;
    struct node *next, *any;
    hk_object *row;
};

struct row {
    hk_object head;
    struct node *groups[ROW];
    struct row *next;
};

static hk_type node_type = {.name = "node", .size = sizeof(struct node), .pointers = 14};
static hk_type row_type = {.name = "row", .size = sizeof(struct row), .pointers = (((uint64_t)1 << (ROW + 1)) - 1) << 1};
static hk_runtime *runtime;
static uint64_t made;

static void *must(void *memory)
{
    if (memory == NULL)
        abort(); /* no memory */
    return memory;
}

static struct node *group_new(struct row *row)
{
    struct node *group[GROUP];
    for (int i = 0; i < GROUP; i++) {
        group[i] = must(hk_new(runtime, &node_type));
        group[i]->row = hk_incref(&row->head);
    }
    for (int i = 0; i < GROUP; i++) {
        group[i]->next = group[(i + 1) % GROUP];
        group[i]->any = (struct node *)hk_incref(&group[below(GROUP)]->head);
    }
    made += GROUP;
    hk_incref(&group[0]->head);
    return group[0];
}

static struct row **rows_new(uint32_t count)
{
    struct row **rows = must(malloc(count * sizeof(*rows)));
    for (uint32_t i = 0; i < count; i++) {
        rows[i] = must(hk_new(runtime, &row_type));
        made++;
        for (int j = 0; j < ROW; j++)
            rows[i]->groups[j] = group_new(rows[i]);
        if (i > 0)
            rows[i - 1]->next = rows[i]; /* the program keeps the first */
    }
    return rows;
}

/* --- pauses --- */

static double *waits, longest_wall, longest_young, collecting;
static size_t wait_count;
static double began_cpu, began_wall;

static double wall_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void wait_begin(void)
{
    began_wall = wall_seconds();
    began_cpu = cpu_seconds();
}

static void wait_end(bool counted)
{
    double spent = cpu_seconds() - began_cpu, wall = wall_seconds() - began_wall;
    collecting += spent;
    if (!counted) {
        longest_young = spent > longest_young ? spent : longest_young;
        return;
    }
    waits[wait_count++] = spent;
    longest_wall = wall > longest_wall ? wall : longest_wall;
}

static void collection(hk_runtime *unused, bool begins, int generation, uint64_t found, void *argument)
{
    if (begins)
        wait_begin();
    else
        wait_end(generation == 2);
}

static int compare(const void *one, const void *two)
{
    double a = *(const double *)one, b = *(const double *)two;
    return (a > b) - (a < b);
}

static double percentile(double part)
{
    return wait_count == 0 ? 0 : 1000 * waits[(size_t)(part * (double)(wait_count - 1))];
}

static uint64_t freed(void)
{
    hk_gc_step_stats steps = {.size = sizeof(steps)};
    hk_gc_get_step_stats(runtime, &steps);
    uint64_t count = steps.freed;
    for (int generation = 0; generation < HK_GENERATIONS; generation++) {
        hk_gc_stats stats;
        hk_gc_get_stats(runtime, generation, &stats);
        count += stats.collected;
    }
    return count;
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    bool steps = strcmp(argv[1], "steps") == 0;
    uint32_t count = (uint32_t)atoi(argv[2]) / (ROW * GROUP + 1), requests = (uint32_t)atoi(argv[3]);
    uint32_t budget = (uint32_t)atoi(argv[4]), every = (uint32_t)atoi(argv[5]);
    runtime = must(hk_runtime_create(NULL));
    struct row **rows = rows_new(count);
    hk_gc_collect(runtime, 2);
    uint64_t live = made - freed(), garbage = 0;
    waits = must(malloc((requests / every + 10000) * sizeof(*waits)));
    hk_gc_add_callback(runtime, collection, NULL);
    hk_gc_stats before, after;
    hk_gc_get_stats(runtime, 2, &before);
    double start = cpu_seconds();
    for (uint32_t i = 1; i <= requests; i++) {
        struct row *row = rows[below(count)];
        hk_set(runtime, (hk_object **)&row->groups[below(ROW)], &group_new(row)->head);
        hk_decref(runtime, &group_new(row)->head);
        if (i % every != 0)
            continue;
        if (made - freed() - live > garbage)
            garbage = made - freed() - live;
        if (steps) {
            wait_begin();
            if (hk_gc_step(runtime, budget) < 0)
                abort();
            wait_end(true);
        }
    }
    double spent = cpu_seconds() - start, share = collecting / spent;
    hk_gc_get_stats(runtime, 2, &after);
    hk_gc_step_stats stats = {.size = sizeof(stats)};
    hk_gc_get_step_stats(runtime, &stats);
    uint64_t left = made - freed() - live;
    qsort(waits, wait_count, sizeof(*waits), compare);
    double numbers[] = {percentile(0.5), percentile(0.99), percentile(0.999), percentile(1), 1000 * longest_wall, 1000 * longest_young};
    size_t number = wait_count;
    hk_gc_collect(runtime, 2);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        printf("%.3f ", numbers[i]);
    printf("%.3f %zu %" PRIu64 " %" PRIu64 " %.3f %.3f %.3f %" PRIu64 " %" PRIu64 "\n", 1000 * waits[number], number, stats.rounds,
           after.collections - before.collections, (double)garbage / (double)live, (double)left / (double)live, share,
           stats.largest_component, stats.checked - stats.freed);
    return 0;
}
