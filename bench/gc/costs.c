/* What a collection costs on heapkeeper's runtime. One measurement a process; the line it prints is read by bench/gc.py --costs.
 *
 *      costs full GRAPH N      makes N objects with three references each; nanoseconds an object of a full collection that
 *                              finds nothing, and of one that finds everything
 *      costs growing N         makes N objects that stay, with automatic collections; seconds of the program, seconds of the
 *                              collector, full collections
 *      costs release SHAPE N   bytes of C stack that it takes to release N objects: list, tree, cycle
 *      costs size BYTES        resident bytes an object, of many with so many bytes behind the head
 *      costs fork N            kilobytes that a forked child's full collection of N live objects takes out of what it shares with
 *                              its parent, and by which it grows what it has alone
 *
 * GRAPH near: references lead to objects made about the same time, as in most programs. random: anywhere. */
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heapkeeper/gc.h"
#include "work.h"

struct vertex {
    hk_object head;
    struct vertex *next, *a, *b;
    uint64_t number;
};

static hk_type vertex_type = {.name = "vertex", .size = sizeof(struct vertex), .pointers = 14};
static hk_runtime *runtime;

static void *must(void *memory)
{
    if (memory == NULL)
        abort(); /* no memory */
    return memory;
}

static struct vertex *vertex_new(void)
{
    return (struct vertex *)must(hk_new(runtime, &vertex_type));
}

static uint32_t any(uint32_t limit)
{
    return (uint32_t)(((uint64_t)below(1 << 23) << 20 ^ below(1 << 23)) % limit);
}

/* A ring through all of them, so that they live and die together; the caller's reference to the first. */
static struct vertex *graph(const char *kind, uint32_t count)
{
    struct vertex **all = must(malloc(count * sizeof(*all)));
    uint32_t reach = strcmp(kind, "near") == 0 && count > 1000 ? 1000 : count;
    for (uint32_t i = 0; i < count; i++)
        all[i] = vertex_new();
    for (uint32_t i = 0; i < count; i++) {
        uint32_t from = i < reach / 2 ? 0 : i - reach / 2 > count - reach ? count - reach : i - reach / 2;
        all[i]->next = (struct vertex *)hk_incref(&all[(i + 1) % count]->head);
        all[i]->a = (struct vertex *)hk_incref(&all[from + any(reach)]->head);
        all[i]->b = (struct vertex *)hk_incref(&all[from + any(reach)]->head);
    }
    for (uint32_t i = 1; i < count; i++)
        hk_decref(runtime, &all[i]->head);
    struct vertex *first = all[0];
    free(all);
    return first;
}

static void full(const char *kind, uint32_t count)
{
    hk_gc_disable(runtime);
    struct vertex *first = graph(kind, count);
    hk_gc_collect(runtime, 2); /* its tables are there now */
    int times = count < 1000000 ? 1 + 2000000 / (int)count : 2;
    double start = cpu_seconds();
    for (int i = 0; i < times; i++)
        hk_gc_collect(runtime, 2);
    double alive = (cpu_seconds() - start) / times;
    hk_decref(runtime, &first->head);
    start = cpu_seconds();
    if (hk_gc_collect(runtime, 2) != count)
        abort();
    printf("%.2f %.2f\n", 1e9 * alive / count, 1e9 * (cpu_seconds() - start) / count);
}

static double collector_began, collector_spent; /* CPU seconds */

static void time_collection(hk_runtime *unused, bool begins, int generation, uint64_t found, void *argument)
{
    if (begins)
        collector_began = cpu_seconds();
    else
        collector_spent += cpu_seconds() - collector_began;
}

static void growing(uint32_t count)
{
    hk_gc_stats stats;
    struct vertex *first = vertex_new(), *last = first;
    hk_gc_add_callback(runtime, time_collection, NULL);
    double start = cpu_seconds();
    for (uint32_t i = 1; i < count; i++) {
        struct vertex *vertex = vertex_new();
        vertex->a = (struct vertex *)hk_incref(&last->head);
        last->next = vertex;
        last = vertex;
    }
    double spent = cpu_seconds() - start;
    hk_gc_get_stats(runtime, 2, &stats);
    printf("%.4f %.4f %" PRIu64 "\n", spent, collector_spent, stats.collections);
}

/* --- stacks --- */

static struct vertex *shape_of(const char *shape, uint32_t count)
{
    struct vertex *first = vertex_new(), *last = first;
    if (strcmp(shape, "tree") == 0) {
        struct vertex **level = must(malloc((count + 1) * sizeof(*level)));
        level[0] = first;
        for (uint32_t i = 1; i < count; i++) {
            level[i] = vertex_new();
            *(i % 2 ? &level[(i - 1) / 2]->a : &level[(i - 1) / 2]->b) = level[i];
        }
        free(level);
        return first;
    }
    for (uint32_t i = 1; i < count; i++) {
        last->next = vertex_new();
        last = last->next;
    }
    if (strcmp(shape, "cycle") == 0)
        last->next = (struct vertex *)hk_incref(&first->head);
    return first;
}

struct releasing {
    struct vertex *first;
    bool cycle;
};

static void *release(void *argument)
{
    struct releasing *releasing = argument;
    hk_decref(runtime, &releasing->first->head);
    if (releasing->cycle)
        hk_gc_collect(runtime, 2);
    return NULL;
}

/* A thread of its own, whose stack was filled with a pattern, does it. */
static void stack(const char *shape, uint32_t count)
{
    enum { STACK = 1 << 20 };
    hk_gc_disable(runtime);
    struct releasing releasing = {shape_of(shape, count), strcmp(shape, "cycle") == 0};
    unsigned char *memory = must(aligned_alloc(4096, STACK));
    memset(memory, 0xa5, STACK);
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, memory, STACK);
    if (pthread_create(&thread, &attributes, release, &releasing) != 0 || pthread_join(thread, NULL) != 0)
        abort();
    size_t untouched = 0;
    while (untouched < STACK && memory[untouched] == 0xa5)
        untouched++;
    printf("%zu\n", STACK - untouched);
}

static uint64_t resident(void)
{
    unsigned long size, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%lu %lu", &size, &pages) != 2)
        abort();
    fclose(file);
    return (uint64_t)pages * 4096;
}

static void size(uint32_t bytes)
{
    enum { COUNT = 1000000 };
    static hk_type type = {.name = "small", .item_size = 1};
    type.size = sizeof(hk_object);
    hk_object **all = must(malloc(COUNT * sizeof(*all)));
    memset(all, 1, COUNT * sizeof(*all));
    hk_gc_disable(runtime);
    uint64_t before = resident();
    for (int i = 0; i < COUNT; i++)
        all[i] = must(hk_new_items(runtime, &type, bytes));
    printf("%.1f\n", (double)(resident() - before) / COUNT);
}

/* Kilobytes of the process's memory that it shares, and that it has alone. */
static void sharing(int64_t *shared, int64_t *alone)
{
    char line[128];
    int64_t kilobytes;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    if (file == NULL)
        abort();
    *shared = *alone = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "Shared_Clean: %" SCNd64, &kilobytes) == 1 || sscanf(line, "Shared_Dirty: %" SCNd64, &kilobytes) == 1)
            *shared += kilobytes;
        if (sscanf(line, "Private_Clean: %" SCNd64, &kilobytes) == 1 || sscanf(line, "Private_Dirty: %" SCNd64, &kilobytes) == 1)
            *alone += kilobytes;
    }
    fclose(file);
}

static void collect_in_child(void)
{
    int64_t shared[2], alone[2];
    sharing(&shared[0], &alone[0]); /* its own buffers are there then */
    sharing(&shared[0], &alone[0]);
    if (hk_gc_collect(runtime, 2) != 0)
        abort();
    sharing(&shared[1], &alone[1]);
    printf("%" PRId64 " %" PRId64 "\n", shared[0] - shared[1], alone[1] - alone[0]);
    fflush(stdout);
    _exit(0);
}

static void forked(uint32_t count)
{
    int status;
    hk_gc_disable(runtime);
    graph("near", count);
    hk_gc_collect(runtime, 2);
    pid_t child = fork();
    if (child == 0)
        collect_in_child();
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        abort();
}

int main(int argc, char **argv)
{
    runtime = must(hk_runtime_create(NULL));
    if (argc == 4 && strcmp(argv[1], "full") == 0)
        full(argv[2], (uint32_t)atoi(argv[3]));
    else if (argc == 3 && strcmp(argv[1], "growing") == 0)
        growing((uint32_t)atoi(argv[2]));
    else if (argc == 4 && strcmp(argv[1], "release") == 0)
        stack(argv[2], (uint32_t)atoi(argv[3]));
    else if (argc == 3 && strcmp(argv[1], "size") == 0)
        size((uint32_t)atoi(argv[2]));
    else if (argc == 3 && strcmp(argv[1], "fork") == 0)
        forked((uint32_t)atoi(argv[2]));
    else
        return 2;
    return 0;
}
