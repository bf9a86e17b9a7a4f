/* Dict and set: a compact table that keeps the order of insertion (Raymond Hettinger's design, CPython's Objects/dictobject.c).
 *
 *      indices   an open-addressing table, a power of two: 1, 2 or 4 bytes each, as few as will do. As many bits as number the
 *                slots are the number of an entry; those above are bits of its hash, the tag, so that where another
 *                key is found that is seen, mostly, without a look at its entry. EMPTY, or DELETED where an entry was: there is
 *                no entry with these numbers, the last ones
 *      entries   key, value, in the order of insertion; two thirds as many as indices. A deleted one has no key
 *      hashes    of the entries, 32 bits each
 *
 * All are in one piece of memory beside the object: hashes, which grow down from where the indices begin, indices, entries. Hashes have
 * a place of their own since a look-up in a large table waits for what it reads, and there the tag alone tells other keys apart. When the entries are used up the table is built anew for what is alive
 * in it, so deletions cost nothing in the long run. A set is a dict without values. */
#include <string.h>

#include "heapkeeper/values.h"
#include "object/runtime.h"
#include "object/text.h"

#define EMPTY UINT32_MAX /* of an index, as many bits as it has */
#define DELETED (UINT32_MAX - 1)
#define SMALLEST 8

struct entry {
    hk_object *key, *value;
};

struct dict {
    hk_object head;
    uint32_t count;  /* alive */
    uint32_t filled; /* entries in use, deleted ones too */
    uint32_t size;   /* of the indices; 0: no table yet */
    uint32_t version; /* changes with each key that comes or goes */
    void *table; /* the indices */
};

static size_t index_width(uint32_t size)
{
    return size <= 128 ? 1 : size <= 32768 ? 2 : 4;
}

static uint32_t usable(uint32_t size)
{
    return size / 3 * 2;
}

static struct entry *entries_of(const struct dict *dict)
{
    return (struct entry *)((char *)dict->table + dict->size * index_width(dict->size));
}

static inline uint32_t *hash_at(void *table, uint32_t number)
{
    return (uint32_t *)table - 1 - number;
}

/* Bytes of the memory that begins with the hashes; so many before the indices. */
static size_t hash_bytes(uint32_t size)
{
    return (usable(size) * sizeof(uint32_t) + 15) / 16 * 16;
}

static size_t table_bytes(uint32_t size)
{
    return size == 0 ? 0 : hash_bytes(size) + size * index_width(size) + usable(size) * sizeof(struct entry);
}

static void table_free(hk_runtime *runtime, void *table, uint32_t size)
{
    if (size > 0)
        hk_memory_free(runtime, (char *)table - hash_bytes(size));
}

/* Of an index, all bits. */
static inline uint32_t ones(size_t width)
{
    return width == 4 ? UINT32_MAX : (1u << 8 * width) - 1;
}

static inline uint32_t index_get(const void *table, size_t slot, size_t width)
{
    return width == 1 ? ((const uint8_t *)table)[slot] : width == 2 ? ((const uint16_t *)table)[slot] : ((const uint32_t *)table)[slot];
}

static inline void index_put(void *table, size_t slot, size_t width, uint32_t index)
{
    switch (width) {
    case 1: ((uint8_t *)table)[slot] = (uint8_t)index; break;
    case 2: ((uint16_t *)table)[slot] = (uint16_t)index; break;
    default: ((uint32_t *)table)[slot] = index;
    }
}

static inline uint32_t tag_of(uint32_t hash, size_t mask, size_t width)
{
    return hash & ~(uint32_t)mask & ones(width);
}

/* Where to look next: a walk through all slots, in which every bit of the hash has its say. */
static inline size_t probe(size_t slot, size_t mask, uint32_t *perturb)
{
    *perturb >>= 5;
    return (slot * 5 + *perturb + 1) & mask;
}

/* The first entry with this hash, from *slot on; NULL: there is none. *slot: where its index is, or where one would go. Other tags
 * than that of the hash make a number that no entry has, and so do EMPTY and DELETED. Of a wide index the tag is as good as the hash: it
 * has 16 bits in the smallest of such tables, and the next thing that is looked at is the key, anyway. */
static inline __attribute__((always_inline)) struct entry *with_hash(const struct dict *dict, uint32_t hash, size_t width, size_t *slot,
                                                                     uint32_t *perturb)
{
    struct entry *entries = (struct entry *)((char *)dict->table + dict->size * width);
    size_t mask = dict->size - 1;
    uint32_t tag = tag_of(hash, mask, width), filled = dict->filled;
    for (;; *slot = probe(*slot, mask, perturb)) {
        uint32_t index = index_get(dict->table, *slot, width), number = index ^ tag;
        if (number < filled && (width == 4 || *hash_at(dict->table, number) == hash))
            return &entries[number];
        if (index == (EMPTY & ones(width)))
            return NULL;
    }
}

static inline __attribute__((always_inline)) struct entry *next_with_hash(const struct dict *dict, uint32_t hash, size_t *slot, uint32_t *perturb)
{
    if (dict->size > 32768)
        return with_hash(dict, hash, 4, slot, perturb);
    return dict->size > 128 ? with_hash(dict, hash, 2, slot, perturb) : with_hash(dict, hash, 1, slot, perturb);
}

static __attribute__((noinline)) struct entry *find_any(const struct dict *dict, const hk_object *key, uint32_t hash, size_t *slot)
{
    uint32_t perturb = hash;
    if (dict->size == 0)
        return NULL;
    for (*slot = hash & (dict->size - 1);; *slot = probe(*slot, dict->size - 1, &perturb)) {
        struct entry *entry = next_with_hash(dict, hash, slot, &perturb);
        if (entry == NULL || hk_equal(entry->key, key))
            return entry;
    }
}

/* Of a string: mostly it is the first with its hash, and short, so that no other function has to be called. */
static __attribute__((noinline)) struct entry *find_text(const struct dict *dict, const hk_object *key, uint32_t hash, size_t *found)
{
    size_t slot = hash & (dict->size - 1);
    uint32_t perturb = hash;
    if (dict->size == 0)
        return NULL;
    struct entry *entry = next_with_hash(dict, hash, &slot, &perturb);
    *found = slot;
    if (entry == NULL)
        return NULL;
    __builtin_prefetch(entry->value); /* it is asked for next, mostly, and can come together with the key */
    const struct hk_text *a = (const struct hk_text *)entry->key, *b = (const struct hk_text *)key;
    if (a == b || (a->head.type == b->head.type && a->size == b->size && a->size <= 64 && hk_bytes_equal(a->data, b->data, a->size)))
        return entry;
    return find_any(dict, key, hash, found);
}

/* The entry of the key; NULL: it is not there. *slot: where its index is, or where one would go, if there is a table. */
static inline struct entry *find(const struct dict *dict, const hk_object *key, uint32_t *hash, size_t *slot)
{
    bool is_text = hk_is(key, &hk_str_type);
    *hash = (uint32_t)(is_text ? hk_text_hash((struct hk_text *)key) : hk_hash_mix(hk_hash(key)));
    return is_text ? find_text(dict, key, *hash, slot) : find_any(dict, key, *hash, slot);
}

static inline const struct entry *entry_of(const struct dict *dict, const hk_object *key)
{
    uint32_t hash;
    size_t slot;
    return find(dict, key, &hash, &slot);
}

/* The numbers of the entries, by their hashes, into the indices, which are empty. */
static inline __attribute__((always_inline)) void index_all(struct dict *dict, size_t width)
{
    size_t mask = dict->size - 1;
    for (uint32_t i = 0; i < dict->filled; i++) {
        uint32_t hash = *hash_at(dict->table, i), perturb = hash;
        size_t slot = hash & mask;
        while (index_get(dict->table, slot, width) != (EMPTY & ones(width)))
            slot = probe(slot, mask, &perturb);
        index_put(dict->table, slot, width, tag_of(hash, mask, width) | i);
    }
}

/* A table for twice as many as are alive. */
static bool rebuild(hk_runtime *runtime, struct dict *dict)
{
    struct dict next = *dict;
    next.size = SMALLEST;
    while (usable(next.size) < 2 * dict->count && next.size < 1u << 31)
        next.size *= 2;
    if (usable(next.size) <= dict->count)
        return false;
    char *memory = hk_memory(runtime, table_bytes(next.size));
    if (memory == NULL)
        return false;
    next.table = memory + hash_bytes(next.size);
    memset(next.table, 0xff, next.size * index_width(next.size));
    next.filled = 0;
    struct entry *from = dict->size > 0 ? entries_of(dict) : NULL, *to = entries_of(&next);
    for (uint32_t i = 0; i < dict->filled; i++)
        if (from[i].key != NULL) {
            *hash_at(next.table, next.filled) = *hash_at(dict->table, i);
            to[next.filled++] = from[i];
        }
    if (next.size > 32768)
        index_all(&next, 4);
    else if (next.size > 128)
        index_all(&next, 2);
    else
        index_all(&next, 1);
    table_free(runtime, dict->table, dict->size);
    *dict = next;
    return true;
}

static bool put(hk_runtime *runtime, struct dict *dict, hk_object *key, hk_object *value)
{
    uint32_t hash;
    size_t slot = 0;
    struct entry *entry = find(dict, key, &hash, &slot);
    if (entry != NULL) {
        if (value != NULL)
            hk_set(runtime, &entry->value, hk_incref(value));
        return true;
    }
    if (dict->filled == (dict->size > 0 ? usable(dict->size) : 0)) {
        if (!rebuild(runtime, dict))
            return false;
        find(dict, key, &hash, &slot);
    }
    size_t width = index_width(dict->size);
    index_put(dict->table, slot, width, tag_of(hash, dict->size - 1, width) | dict->filled);
    *hash_at(dict->table, dict->filled) = hash;
    entries_of(dict)[dict->filled++] = (struct entry){hk_incref(key), value != NULL ? hk_incref(value) : NULL};
    dict->count++;
    dict->version++;
    return true;
}

static bool take_out(hk_runtime *runtime, struct dict *dict, const hk_object *key)
{
    size_t slot, width = index_width(dict->size);
    uint32_t hash;
    struct entry *entry = find(dict, key, &hash, &slot);
    if (entry == NULL)
        return false;
    struct entry old = *entry;
    index_put(dict->table, slot, width, DELETED & ones(width));
    entry->key = entry->value = NULL;
    dict->count--;
    dict->version++;
    hk_decref(runtime, old.key);
    hk_xdecref(runtime, old.value);
    return true;
}

static bool next(const struct dict *dict, size_t *position, hk_object **key, hk_object **value)
{
    const struct entry *entries = dict->size > 0 ? entries_of(dict) : NULL;
    while (*position < dict->filled && entries[*position].key == NULL)
        ++*position;
    if (*position >= dict->filled)
        return false;
    *key = entries[*position].key;
    if (value != NULL)
        *value = entries[*position].value;
    ++*position;
    return true;
}

static void dict_traverse(const hk_object *self, hk_traversal *traversal)
{
    const struct dict *dict = (const struct dict *)self;
    const struct entry *entries = dict->size > 0 ? entries_of(dict) : NULL;
    for (uint32_t i = 0; i < dict->filled; i++) {
        hk_visit(traversal, entries[i].key);
        hk_visit(traversal, entries[i].value);
    }
}

static void dict_destroy(hk_runtime *runtime, hk_object *self)
{
    const struct dict *dict = (const struct dict *)self;
    table_free(runtime, dict->table, dict->size);
}

static size_t dict_memory(const hk_object *self)
{
    return table_bytes(((const struct dict *)self)->size);
}

static void dict_reset(hk_runtime *runtime, hk_object *self, size_t keep)
{
    struct dict *dict = (struct dict *)self;
    if (dict->size > 0 && (dict->size > SMALLEST || dict_memory(self) > keep)) {
        table_free(runtime, dict->table, dict->size);
        dict->table = NULL;
        dict->size = 0;
    } else if (dict->size > 0) {
        memset(dict->table, 0xff, dict->size * index_width(dict->size));
    }
    dict->count = dict->filled = 0;
}

static bool dict_equal(const hk_object *self, const hk_object *other)
{
    const struct dict *a = (const struct dict *)self, *b = (const struct dict *)other;
    if (a->count != b->count)
        return false;
    hk_object *key, *value;
    for (size_t position = 0; next(a, &position, &key, &value);) {
        const struct entry *entry = entry_of(b, key);
        if (entry == NULL || (value != NULL && !hk_equal(value, entry->value)))
            return false;
    }
    return true;
}

hk_type hk_dict_type = {.name = "dict", .size = sizeof(struct dict), .flags = HK_TYPE_FREE_LIST, .traverse = dict_traverse,
                        .destroy = dict_destroy, .equal = dict_equal, .memory = dict_memory, .reset = dict_reset};
hk_type hk_set_type = {.name = "set", .size = sizeof(struct dict), .flags = HK_TYPE_FREE_LIST, .traverse = dict_traverse,
                       .destroy = dict_destroy, .equal = dict_equal, .memory = dict_memory, .reset = dict_reset};

/* --- the public functions --- */

hk_object *hk_dict(hk_runtime *runtime)
{
    return hk_new(runtime, &hk_dict_type);
}

uint32_t hk_dict_version(const hk_object *dict)
{
    return ((const struct dict *)dict)->version;
}

size_t hk_dict_count(const hk_object *dict)
{
    return ((const struct dict *)dict)->count;
}

hk_object *hk_dict_get(const hk_object *self, const hk_object *key)
{
    const struct entry *entry = entry_of((const struct dict *)self, key);
    return entry != NULL ? entry->value : NULL;
}

bool hk_dict_set(hk_runtime *runtime, hk_object *dict, hk_object *key, hk_object *value)
{
    return put(runtime, (struct dict *)dict, key, value);
}

bool hk_dict_delete(hk_runtime *runtime, hk_object *dict, const hk_object *key)
{
    return take_out(runtime, (struct dict *)dict, key);
}

/* The dict is empty before the first entry is given up: a finalizer may look at it. */
void hk_dict_clear(hk_runtime *runtime, hk_object *self)
{
    struct dict *dict = (struct dict *)self, old = *dict;
    dict->count = dict->filled = dict->size = 0;
    dict->version++;
    dict->table = NULL;
    struct entry *entries = old.size > 0 ? entries_of(&old) : NULL;
    for (uint32_t i = 0; i < old.filled; i++) {
        hk_xdecref(runtime, entries[i].key);
        hk_xdecref(runtime, entries[i].value);
    }
    table_free(runtime, old.table, old.size);
}

bool hk_dict_next(const hk_object *dict, size_t *position, hk_object **key, hk_object **value)
{
    return next((const struct dict *)dict, position, key, value);
}

hk_object *hk_set_new(hk_runtime *runtime)
{
    return hk_new(runtime, &hk_set_type);
}

size_t hk_set_count(const hk_object *set)
{
    return hk_dict_count(set);
}

bool hk_set_has(const hk_object *set, const hk_object *member)
{
    return entry_of((const struct dict *)set, member) != NULL;
}

bool hk_set_add(hk_runtime *runtime, hk_object *set, hk_object *member)
{
    return put(runtime, (struct dict *)set, member, NULL);
}

bool hk_set_remove(hk_runtime *runtime, hk_object *set, const hk_object *member)
{
    return take_out(runtime, (struct dict *)set, member);
}

bool hk_set_next(const hk_object *set, size_t *position, hk_object **member)
{
    return next((const struct dict *)set, position, member, NULL);
}
