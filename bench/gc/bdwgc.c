/* The workloads of work.h on the Boehm-Demers-Weiser collector, as its documentation has a program use it: GC_MALLOC, and
 * GC_MALLOC_ATOMIC for what holds no pointers. The dict is made as heapkeeper's is. */
#include <gc.h>
#include <stdbool.h>

#include "work.h"

static void *must(void *memory)
{
    if (memory == NULL)
        abort();
    return memory;
}

#define NEW(type) ((type *)must(GC_MALLOC(sizeof(type))))

/* --- trees --- */

struct tree {
    struct tree *left, *right;
};

static struct tree *tree_make(int depth)
{
    struct tree *tree = NEW(struct tree);
    if (depth > 0) {
        tree->left = tree_make(depth - 1);
        tree->right = tree_make(depth - 1);
    }
    return tree;
}

static uint64_t tree_check(const struct tree *tree)
{
    return tree->left != NULL ? 1 + tree_check(tree->left) + tree_check(tree->right) : 1;
}

static uint64_t trees(void)
{
    uint64_t sum = tree_check(tree_make(TREES_DEPTH + 1));
    struct tree *stays = tree_make(TREES_DEPTH);
    for (int depth = 4; depth <= TREES_DEPTH; depth += 2)
        for (int i = 0; i < 1 << (TREES_DEPTH - depth + 4); i++)
            sum += tree_check(tree_make(depth));
    return sum + tree_check(stays);
}

/* --- gcbench --- */

struct node {
    struct node *left, *right;
    int32_t i, j;
};

static void populate(int depth, struct node *node)
{
    if (depth <= 0)
        return;
    node->left = NEW(struct node);
    node->right = NEW(struct node);
    populate(depth - 1, node->left);
    populate(depth - 1, node->right);
}

static struct node *bottom_up(int depth)
{
    if (depth <= 0)
        return NEW(struct node);
    struct node *left = bottom_up(depth - 1), *right = bottom_up(depth - 1), *node = NEW(struct node);
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
    bottom_up(BENCH_STRETCH);
    struct node *stays = NEW(struct node);
    populate(BENCH_LONG_LIVED, stays);
    double *array = must(GC_MALLOC_ATOMIC(BENCH_ARRAY * sizeof(double)));
    for (int i = 0; i < BENCH_ARRAY; i++)
        array[i] = 1.0 / (i + 1);
    for (int depth = 4; depth <= BENCH_MAX; depth += 2) {
        int times = 2 * ((1 << (BENCH_STRETCH + 1)) - 1) / ((1 << (depth + 1)) - 1);
        for (int i = 0; i < times; i++)
            populate(depth, NEW(struct node));
        for (int i = 0; i < times; i++)
            bottom_up(depth);
        sum += (uint64_t)times;
    }
    return sum + node_count(stays) + (array[999] == 1.0 / 1000);
}

/* --- strings --- */

struct string {
    uint32_t size, hash;
    char data[];
};

static struct string *string_new(size_t size)
{
    struct string *string = must(GC_MALLOC_ATOMIC(sizeof(*string) + size + 1));
    string->size = (uint32_t)size;
    string->hash = 0;
    string->data[size] = 0;
    return string;
}

static uint64_t mix(uint64_t value)
{
    value = (value ^ value >> 32) * 0x9fb21c651e98df25u;
    return value ^ value >> 29;
}

static uint32_t string_hash(struct string *string)
{
    if (string->hash == 0) {
        uint64_t hash = string->size, word;
        const char *data = string->data;
        size_t size = string->size;
        for (; size >= 8; data += 8, size -= 8) {
            memcpy(&word, data, 8);
            hash = mix(hash ^ word);
        }
        word = 0;
        memcpy(&word, data, size);
        string->hash = (uint32_t)mix(hash ^ word) | 1;
    }
    return string->hash;
}

static bool string_equal(const struct string *a, const struct string *b)
{
    return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

struct dict_entry {
    uint64_t hash;
    struct string *key, *value;
};

struct dict {
    uint32_t count, filled, size; /* alive; used entries; of the indices */
    int32_t *indices;             /* -1: empty, -2: deleted */
    struct dict_entry *entries;   /* two thirds as many, in the order of insertion */
};

static int64_t dict_find(const struct dict *dict, const struct string *key, uint32_t hash)
{
    if (dict->size == 0)
        return -1;
    uint32_t mask = dict->size - 1;
    for (uint32_t slot = hash & mask;; slot = (slot + 1) & mask) {
        int32_t index = dict->indices[slot];
        if (index == -1)
            return -1;
        if (index >= 0 && dict->entries[index].hash == hash && string_equal(dict->entries[index].key, key))
            return slot;
    }
}

static void dict_rebuild(struct dict *dict)
{
    struct dict next = {.size = 8};
    while (next.size / 3 * 2 < 2 * dict->count)
        next.size *= 2;
    next.indices = must(GC_MALLOC_ATOMIC(next.size * sizeof(*next.indices)));
    next.entries = must(GC_MALLOC(next.size / 3 * 2 * sizeof(*next.entries)));
    memset(next.indices, 0xff, next.size * sizeof(*next.indices));
    for (uint32_t i = 0; i < dict->filled; i++)
        if (dict->entries[i].key != NULL) {
            uint32_t slot = dict->entries[i].hash & (next.size - 1);
            while (next.indices[slot] >= 0)
                slot = (slot + 1) & (next.size - 1);
            next.indices[slot] = (int32_t)next.filled;
            next.entries[next.filled++] = dict->entries[i];
        }
    next.count = dict->count;
    *dict = next;
}

static struct string *dict_get(const struct dict *dict, struct string *key)
{
    int64_t slot = dict_find(dict, key, string_hash(key));
    return slot < 0 ? NULL : dict->entries[dict->indices[slot]].value;
}

static void dict_set(struct dict *dict, struct string *key, struct string *value)
{
    uint32_t hash = string_hash(key);
    int64_t found = dict_find(dict, key, hash);
    if (found >= 0) {
        dict->entries[dict->indices[found]].value = value;
        return;
    }
    if (dict->size == 0 || dict->filled == dict->size / 3 * 2)
        dict_rebuild(dict);
    uint32_t slot = hash & (dict->size - 1);
    while (dict->indices[slot] >= 0)
        slot = (slot + 1) & (dict->size - 1);
    dict->indices[slot] = (int32_t)dict->filled;
    dict->entries[dict->filled++] = (struct dict_entry){hash, key, value};
    dict->count++;
}

static void dict_delete(struct dict *dict, struct string *key)
{
    int64_t slot = dict_find(dict, key, string_hash(key));
    struct dict_entry *entry = &dict->entries[dict->indices[slot]];
    dict->indices[slot] = -2;
    entry->key = entry->value = NULL;
    dict->count--;
}

static struct string *concatenation(const struct string *a, char between, const struct string *b)
{
    struct string *all = string_new(a->size + b->size + 1u);
    memcpy(all->data, a->data, a->size);
    all->data[a->size] = between;
    memcpy(all->data + a->size + 1, b->data, b->size);
    return all;
}

static void strings_step(struct dict *dict)
{
    char text[32] = "key-";
    size_t size = 4 + digits(text + 4, below(STRINGS_KEYS));
    struct string *key = string_new(size);
    memcpy(key->data, text, size);
    struct string *old = dict_get(dict, key);
    if (old == NULL)
        dict_set(dict, key, key);
    else if (old->size > STRINGS_LONGEST)
        dict_delete(dict, key);
    else
        dict_set(dict, key, concatenation(old, ',', key));
}

static struct string *join(struct string **list, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += list[i]->size + (i > 0 ? 2 : 0);
    struct string *all = string_new(size);
    char *to = all->data;
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            to = (char *)memcpy(to, "; ", 2) + 2;
        to = (char *)memcpy(to, list[i]->data, list[i]->size) + list[i]->size;
    }
    return all;
}

static uint64_t strings(void)
{
    uint64_t sum = 0;
    for (int round = 0; round < STRINGS_ROUNDS; round++) {
        struct dict *dict = NEW(struct dict);
        for (int i = 0; i < STRINGS_STEPS; i++)
            strings_step(dict);
        struct string **list = NULL;
        size_t count = 0, capacity = 0;
        for (uint32_t i = 0; i < dict->filled; i++)
            if (dict->entries[i].key != NULL) {
                if (count == capacity) {
                    capacity += (capacity >> 3) + 6;
                    list = must(GC_REALLOC(list, capacity * sizeof(*list)));
                }
                list[count++] = dict->entries[i].value;
            }
        sum += join(list, count)->size;
    }
    return sum;
}

/* --- cycles --- */

struct vertex {
    struct vertex *next, *a, *b;
    uint64_t number;
};

static struct vertex *ring_make(uint32_t count)
{
    struct vertex *vertices[CYCLES_NODES];
    for (uint32_t i = 0; i < count; i++) {
        vertices[i] = NEW(struct vertex);
        vertices[i]->number = i;
    }
    for (uint32_t i = 0; i < count; i++) {
        vertices[i]->next = vertices[(i + 1) % count];
        vertices[i]->a = vertices[below(count)];
        vertices[i]->b = vertices[below(count)];
    }
    return vertices[0];
}

static uint64_t cycles(void)
{
    static struct vertex *window[CYCLES_WINDOW];
    uint64_t sum = 0;
    for (int i = 0; i < CYCLES_GRAPHS; i++) {
        struct vertex *ring = ring_make(2 + below(CYCLES_NODES - 1));
        sum += ring->a->number + ring->next->b->number;
        window[below(CYCLES_WINDOW)] = ring;
    }
    for (int i = 0; i < CYCLES_WINDOW; i++)
        if (window[i] != NULL)
            sum += window[i]->a->number;
    return sum;
}

/* --- cache --- */

struct page {
    struct tree *parts[4];
};

struct entry {
    struct entry *previous, *next;
    struct page *page;
    uint64_t key;
};

struct request {
    struct request *other;
    struct entry *entry;
};

static struct entry *entry_make(uint32_t key)
{
    struct page *page = NEW(struct page);
    for (int i = 0; i < 4; i++)
        page->parts[i] = tree_make(0);
    struct entry *entry = NEW(struct entry);
    entry->page = page;
    entry->key = key;
    return entry;
}

static void entry_unlink(struct entry *entry)
{
    entry->previous->next = entry->next;
    entry->next->previous = entry->previous;
    entry->previous = entry->next = NULL;
}

static void entry_link(struct entry *list, struct entry *entry)
{
    entry->previous = list;
    entry->next = list->next;
    list->next->previous = entry;
    list->next = entry;
}

static uint64_t cache(void)
{
    uint64_t sum = 0;
    uint32_t count = 0;
    struct entry **entries = must(GC_MALLOC(CACHE_KEYS * sizeof(*entries))), *list = entry_make(CACHE_KEYS);
    list->previous = list->next = list;
    for (int i = 0; i < CACHE_REQUESTS; i++) {
        uint32_t key = below(CACHE_KEYS), other = below(CACHE_KEYS), third = below(CACHE_KEYS);
        key = key < other ? key : other;
        key = key < third ? key : third;
        struct entry *entry = entries[key];
        if (entry != NULL) {
            entry_unlink(entry);
            entry_link(list, entry);
            sum++;
        } else {
            entry = entries[key] = entry_make(key);
            entry_link(list, entry);
            if (++count > CACHE_ENTRIES) {
                struct entry *oldest = list->previous;
                entry_unlink(oldest);
                entries[oldest->key] = NULL;
                count--;
            }
        }
        struct request *request = NEW(struct request), *response = NEW(struct request);
        request->other = response;
        response->other = request;
        response->entry = entry;
        request->entry = entry;
        sum += request->other->entry->key;
    }
    return sum;
}

static void extra(void)
{
    printf("%lu collections, heap %zu KiB\n", (unsigned long)GC_get_gc_no(), GC_get_heap_size() / 1024);
}

int main(int argc, char **argv)
{
    static const struct workload workloads[] = {
        {"trees", trees}, {"gcbench", gcbench}, {"strings", strings}, {"cycles", cycles}, {"cache", cache}, {NULL, NULL},
    };
    GC_INIT();
    return work(workloads, argc > 1 ? argv[1] : NULL, extra);
}
