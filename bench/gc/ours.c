/* The workloads of work.h on heapkeeper's runtime, through its public functions. `trees-acyclic` is `trees` with a type
 * that says that its objects are in no cycle, which the collector then never sees. */
#include "heapkeeper/gc.h"
#include "heapkeeper/values.h"
#include "work.h"

static hk_runtime *runtime;

static void must(bool good)
{
    if (!good)
        abort(); /* no memory */
}

static void drop(void *object)
{
    hk_decref(runtime, object);
}

/* --- trees --- */

struct tree {
    hk_object head;
    struct tree *left, *right;
};

static hk_type tree_type = {.name = "tree", .size = sizeof(struct tree), .pointers = 6};
static hk_type acyclic_type = {.name = "tree", .size = sizeof(struct tree), .pointers = 6, .flags = HK_TYPE_ACYCLIC};

static struct tree *tree_new(hk_type *type)
{
    struct tree *tree = (struct tree *)hk_new(runtime, type);
    must(tree != NULL);
    return tree;
}

static struct tree *tree_make(hk_type *type, int depth)
{
    struct tree *tree = tree_new(type);
    if (depth > 0) {
        tree->left = tree_make(type, depth - 1);
        tree->right = tree_make(type, depth - 1);
    }
    return tree;
}

static uint64_t tree_check(const struct tree *tree)
{
    return tree->left != NULL ? 1 + tree_check(tree->left) + tree_check(tree->right) : 1;
}

static uint64_t trees_of(hk_type *type)
{
    struct tree *tree = tree_make(type, TREES_DEPTH + 1);
    uint64_t sum = tree_check(tree);
    drop(tree);
    struct tree *stays = tree_make(type, TREES_DEPTH);
    for (int depth = 4; depth <= TREES_DEPTH; depth += 2)
        for (int i = 0; i < 1 << (TREES_DEPTH - depth + 4); i++) {
            tree = tree_make(type, depth);
            sum += tree_check(tree);
            drop(tree);
        }
    sum += tree_check(stays);
    drop(stays);
    return sum;
}

static uint64_t trees(void)
{
    return trees_of(&tree_type);
}

static uint64_t trees_acyclic(void)
{
    return trees_of(&acyclic_type);
}

/* --- gcbench --- */

struct node {
    hk_object head;
    struct node *left, *right;
    int32_t i, j;
};

static hk_type node_type = {.name = "node", .size = sizeof(struct node), .pointers = 6};

static struct node *node_new(void)
{
    struct node *node = (struct node *)hk_new(runtime, &node_type);
    must(node != NULL);
    return node;
}

static void populate(int depth, struct node *node)
{
    if (depth <= 0)
        return;
    node->left = node_new();
    node->right = node_new();
    populate(depth - 1, node->left);
    populate(depth - 1, node->right);
}

static struct node *bottom_up(int depth)
{
    if (depth <= 0)
        return node_new();
    struct node *left = bottom_up(depth - 1), *right = bottom_up(depth - 1), *node = node_new();
    node->left = left;
    node->right = right;
    return node;
}

static uint64_t node_count(const struct node *node)
{
    return node == NULL ? 0 : 1 + node_count(node->left) + node_count(node->right);
}

static uint64_t gcbench(void)
{
    uint64_t sum = 0;
    drop(bottom_up(BENCH_STRETCH));
    struct node *stays = node_new();
    populate(BENCH_LONG_LIVED, stays);
    double *array = hk_memory(runtime, BENCH_ARRAY * sizeof(double));
    must(array != NULL);
    for (int i = 0; i < BENCH_ARRAY; i++)
        array[i] = 1.0 / (i + 1);
    for (int depth = 4; depth <= BENCH_MAX; depth += 2) {
        int times = 2 * ((1 << (BENCH_STRETCH + 1)) - 1) / ((1 << (depth + 1)) - 1);
        for (int i = 0; i < times; i++) {
            struct node *node = node_new();
            populate(depth, node);
            drop(node);
        }
        for (int i = 0; i < times; i++)
            drop(bottom_up(depth));
        sum += (uint64_t)times;
    }
    sum += node_count(stays) + (array[999] == 1.0 / 1000);
    drop(stays);
    hk_memory_free(runtime, array);
    return sum;
}

/* --- strings --- */

static hk_object *concatenation(const hk_object *a, const char *between, const hk_object *b)
{
    hk_builder builder;
    hk_builder_begin(&builder, runtime, hk_str_size(a) + hk_str_size(b) + 2);
    hk_builder_add_str(&builder, a);
    hk_builder_add(&builder, between, 1);
    hk_builder_add_str(&builder, b);
    return hk_builder_finish(&builder);
}

static void strings_step(hk_object *dict)
{
    char text[32] = "key-";
    size_t size = 4 + digits(text + 4, below(STRINGS_KEYS));
    hk_object *key = hk_str_from(runtime, text, size), *old = hk_dict_get(dict, key);
    must(key != NULL);
    if (old == NULL) {
        must(hk_dict_set(runtime, dict, key, key));
    } else if (hk_str_size(old) > STRINGS_LONGEST) {
        must(hk_dict_delete(runtime, dict, key));
    } else {
        hk_object *value = concatenation(old, ",", key);
        must(value != NULL && hk_dict_set(runtime, dict, key, value));
        drop(value);
    }
    drop(key);
}

static uint64_t strings(void)
{
    uint64_t sum = 0;
    hk_object *separator = hk_str(runtime, "; ");
    must(separator != NULL);
    for (int round = 0; round < STRINGS_ROUNDS; round++) {
        hk_object *dict = hk_dict(runtime), *list = hk_list(runtime), *key, *value;
        must(dict != NULL && list != NULL);
        for (int i = 0; i < STRINGS_STEPS; i++)
            strings_step(dict);
        for (size_t position = 0; hk_dict_next(dict, &position, &key, &value);)
            must(hk_list_append(runtime, list, value));
        hk_object *all = hk_str_join(runtime, separator, list);
        must(all != NULL);
        sum += hk_str_size(all);
        drop(all);
        drop(list);
        drop(dict);
    }
    drop(separator);
    return sum;
}

/* --- cycles --- */

struct vertex {
    hk_object head;
    struct vertex *next, *a, *b;
    uint64_t number;
};

static hk_type vertex_type = {.name = "vertex", .size = sizeof(struct vertex), .pointers = 14};

static struct vertex *ring_make(uint32_t count)
{
    struct vertex *vertices[CYCLES_NODES];
    for (uint32_t i = 0; i < count; i++) {
        vertices[i] = (struct vertex *)hk_new(runtime, &vertex_type);
        must(vertices[i] != NULL);
        vertices[i]->number = i;
    }
    for (uint32_t i = 0; i < count; i++) {
        vertices[i]->next = vertices[(i + 1) % count]; /* the reference that making it gave us */
        vertices[i]->a = (struct vertex *)hk_incref(&vertices[below(count)]->head);
        vertices[i]->b = (struct vertex *)hk_incref(&vertices[below(count)]->head);
    }
    return (struct vertex *)hk_incref(&vertices[0]->head);
}

static uint64_t cycles(void)
{
    static struct vertex *window[CYCLES_WINDOW];
    uint64_t sum = 0;
    for (int i = 0; i < CYCLES_GRAPHS; i++) {
        struct vertex *ring = ring_make(2 + below(CYCLES_NODES - 1));
        sum += ring->a->number + ring->next->b->number;
        hk_set(runtime, (hk_object **)&window[below(CYCLES_WINDOW)], &ring->head);
    }
    for (int i = 0; i < CYCLES_WINDOW; i++)
        if (window[i] != NULL) {
            sum += window[i]->a->number;
            drop(window[i]);
        }
    return sum;
}

/* --- cache --- */

struct page {
    hk_object head;
    struct tree *parts[4];
};

struct entry {
    hk_object head;
    struct entry *previous, *next;
    struct page *page;
    uint64_t key;
};

struct request {
    hk_object head;
    struct request *other; /* its response; of a response: its request */
    struct entry *entry;
};

static hk_type page_type = {.name = "page", .size = sizeof(struct page), .pointers = 30};
static hk_type entry_type = {.name = "entry", .size = sizeof(struct entry), .pointers = 14};
static hk_type request_type = {.name = "request", .size = sizeof(struct request), .pointers = 6};

static struct entry **entries; /* by key; references */

static struct entry *entry_make(uint32_t key)
{
    struct page *page = (struct page *)hk_new(runtime, &page_type);
    must(page != NULL);
    for (int i = 0; i < 4; i++)
        page->parts[i] = tree_make(&tree_type, 0);
    struct entry *entry = (struct entry *)hk_new(runtime, &entry_type);
    must(entry != NULL);
    entry->page = page;
    entry->key = key;
    return entry;
}

static void entry_unlink(struct entry *entry)
{
    struct entry *previous = entry->previous, *next = entry->next;
    previous->next = next; /* the references that the entry had */
    next->previous = previous;
    entry->previous = entry->next = NULL;
    drop(entry);
    drop(entry);
}

static void entry_link(struct entry *list, struct entry *entry)
{
    entry->previous = list;
    entry->next = list->next; /* the reference that the list had */
    list->next->previous = (struct entry *)hk_incref(&entry->head);
    list->next = (struct entry *)hk_incref(&entry->head);
}

static uint64_t cache(void)
{
    uint64_t sum = 0;
    uint32_t count = 0;
    entries = hk_memory(runtime, CACHE_KEYS * sizeof(*entries));
    must(entries != NULL);
    memset(entries, 0, CACHE_KEYS * sizeof(*entries));
    struct entry *list = entry_make(CACHE_KEYS);
    list->previous = (struct entry *)hk_incref(&list->head);
    list->next = (struct entry *)hk_incref(&list->head);
    for (int i = 0; i < CACHE_REQUESTS; i++) {
        uint32_t key = below(CACHE_KEYS), other = below(CACHE_KEYS), third = below(CACHE_KEYS);
        key = key < other ? key : other;
        key = key < third ? key : third;
        struct entry *entry = entries[key];
        if (entry != NULL) {
            hk_incref(&entry->head);
            entry_unlink(entry);
            entry_link(list, entry);
            sum++;
        } else {
            entry = entry_make(key);
            entry_link(list, entry);
            entries[key] = (struct entry *)hk_incref(&entry->head);
            if (++count > CACHE_ENTRIES) {
                struct entry *oldest = list->previous;
                entry_unlink(oldest);
                HK_CLEAR(runtime, *(hk_object **)&entries[oldest->key]);
                count--;
            }
        }
        struct request *request = (struct request *)hk_new(runtime, &request_type);
        must(request != NULL);
        struct request *response = (struct request *)hk_new(runtime, &request_type);
        must(response != NULL);
        request->other = response;
        response->other = (struct request *)hk_incref(&request->head);
        response->entry = (struct entry *)hk_incref(&entry->head);
        request->entry = entry;
        sum += request->other->entry->key;
        drop(request);
    }
    return sum;
}

static void extra(void)
{
    for (int generation = 0; generation < HK_GENERATIONS; generation++) {
        hk_gc_stats stats;
        hk_gc_get_stats(runtime, generation, &stats);
        printf("generation %d: %" PRIu64 " collections, %" PRIu64 " candidates, %" PRIu64 " freed, %.1f ms, longest %.2f ms\n",
               generation, stats.collections, stats.candidates, stats.collected, 1e-6 * (double)stats.nanoseconds,
               1e-6 * (double)stats.longest_nanoseconds);
    }
}

int main(int argc, char **argv)
{
    static const struct workload workloads[] = {
        {"trees", trees},     {"trees-acyclic", trees_acyclic}, {"gcbench", gcbench}, {"strings", strings},
        {"cycles", cycles},   {"cache", cache},                 {NULL, NULL},
    };
    runtime = hk_runtime_create(NULL);
    must(runtime != NULL);
    int status = work(workloads, argc > 1 ? argv[1] : NULL, extra);
    hk_runtime_destroy(runtime);
    return status;
}
