/* str and bytes: one block each, the content behind the head, with its hash once somebody asked for it. Interned strings are
 * in a table of the runtime that does not own them: a string that dies leaves it. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>

#include "heapkeeper/values.h"
#include "object/runtime.h"

struct text {
    hk_object head;
    uint32_t size; /* without the NUL */
    uint32_t hash; /* 0: not known yet */
    char data[];
};

static uint64_t text_hash(const hk_object *self);
static bool text_equal(const hk_object *self, const hk_object *other);
static void str_destroy(hk_runtime *runtime, hk_object *self);

hk_type hk_str_type = {.name = "str", .size = sizeof(struct text) + 1, .item_size = 1, .flags = HK_TYPE_ACYCLIC,
                       .destroy = str_destroy, .hash = text_hash, .equal = text_equal};
hk_type hk_bytes_type = {.name = "bytes", .size = sizeof(struct text) + 1, .item_size = 1, .flags = HK_TYPE_ACYCLIC,
                         .hash = text_hash, .equal = text_equal};

static uint64_t seed;

/* From the kernel's random bytes for this process, so that nobody can choose strings that collide. */
__attribute__((constructor)) static void seed_take(void)
{
    const void *random = (const void *)getauxval(AT_RANDOM);
    if (random != NULL)
        memcpy(&seed, random, sizeof(seed));
}

static uint32_t hash_of(const char *data, size_t size)
{
    uint64_t hash = seed ^ size, word;
    for (; size >= 8; data += 8, size -= 8) {
        memcpy(&word, data, 8);
        hash = (hash ^ word) * 0x9fb21c651e98df25u;
        hash ^= hash >> 29;
    }
    word = 0;
    memcpy(&word, data, size);
    hash = hk_hash_mix((hash ^ word) * 0x9fb21c651e98df25u);
    return (uint32_t)hash | 1;
}

static uint64_t text_hash(const hk_object *self)
{
    struct text *text = (struct text *)self;
    if (text->hash == 0)
        text->hash = hash_of(text->data, text->size);
    return hk_hash_mix(text->hash);
}

static bool text_equal(const hk_object *self, const hk_object *other)
{
    const struct text *a = (const struct text *)self, *b = (const struct text *)other;
    return a->size == b->size && (a->hash == b->hash || a->hash == 0 || b->hash == 0) && memcmp(a->data, b->data, a->size) == 0;
}

/* With the content still to be filled in; the NUL stands. */
static struct text *text_new(hk_runtime *runtime, hk_type *type, size_t size)
{
    if (size > UINT32_MAX)
        return NULL;
    struct text *text = (struct text *)hk_new_raw(runtime, type, type->size + size);
    if (text != NULL) {
        text->size = (uint32_t)size;
        text->hash = 0;
        text->data[size] = 0;
    }
    return text;
}

static struct text *text_from(hk_runtime *runtime, hk_type *type, const void *bytes, size_t size)
{
    struct text *text = text_new(runtime, type, size);
    if (text != NULL && size > 0)
        memcpy(text->data, bytes, size);
    return text;
}

hk_object *hk_str(hk_runtime *runtime, const char *text)
{
    return (hk_object *)text_from(runtime, &hk_str_type, text, strlen(text));
}

hk_object *hk_str_from(hk_runtime *runtime, const char *bytes, size_t size)
{
    return (hk_object *)text_from(runtime, &hk_str_type, bytes, size);
}

hk_object *hk_bytes(hk_runtime *runtime, const void *bytes, size_t size)
{
    return (hk_object *)text_from(runtime, &hk_bytes_type, bytes, size);
}

hk_object *hk_str_format(hk_runtime *runtime, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    struct text *text = size < 0 ? NULL : text_new(runtime, &hk_str_type, (size_t)size);
    if (text == NULL)
        return NULL;
    va_start(arguments, format);
    vsnprintf(text->data, (size_t)size + 1, format, arguments);
    va_end(arguments);
    return &text->head;
}

static hk_object *item_of(const hk_object *items, size_t index)
{
    return hk_is(items, &hk_list_type) ? hk_list_get(items, index) : hk_tuple_get(items, index);
}

hk_object *hk_str_join(hk_runtime *runtime, const hk_object *separator, const hk_object *items)
{
    size_t count = hk_is(items, &hk_list_type) ? hk_list_count(items) : hk_tuple_count(items), total = 0;
    const struct text *between = (const struct text *)separator;
    for (size_t i = 0; i < count; i++) {
        const hk_object *item = item_of(items, i);
        if (!hk_is(item, &hk_str_type))
            return NULL;
        total += ((const struct text *)item)->size + (i > 0 ? between->size : 0);
    }
    struct text *text = text_new(runtime, &hk_str_type, total);
    char *at = text != NULL ? text->data : NULL;
    for (size_t i = 0; text != NULL && i < count; i++) {
        const struct text *item = (const struct text *)item_of(items, i);
        if (i > 0)
            at = (char *)memcpy(at, between->data, between->size) + between->size;
        at = (char *)memcpy(at, item->data, item->size) + item->size;
    }
    return (hk_object *)text;
}

const char *hk_str_text(const hk_object *str)
{
    return ((const struct text *)str)->data;
}

size_t hk_str_size(const hk_object *str)
{
    return ((const struct text *)str)->size;
}

size_t hk_str_length(const hk_object *str)
{
    const struct text *text = (const struct text *)str;
    size_t length = 0;
    for (size_t i = 0; i < text->size; i++)
        length += (text->data[i] & 0xc0) != 0x80;
    return length;
}

const void *hk_bytes_data(const hk_object *bytes)
{
    return ((const struct text *)bytes)->data;
}

size_t hk_bytes_size(const hk_object *bytes)
{
    return ((const struct text *)bytes)->size;
}

/* --- the builder --- */

void hk_builder_begin(hk_builder *builder, hk_runtime *runtime, size_t expected_size)
{
    *builder = (hk_builder){.runtime = runtime};
    if (expected_size > 0) {
        builder->data = hk_memory(runtime, expected_size);
        builder->capacity = builder->data != NULL ? expected_size : 0;
    }
}

void hk_builder_add(hk_builder *builder, const char *bytes, size_t size)
{
    if (builder->failed || size == 0)
        return;
    if (size > builder->capacity - builder->size) {
        size_t capacity = builder->capacity < 64 ? 64 : builder->capacity;
        while (capacity - builder->size < size && capacity < SIZE_MAX / 2)
            capacity *= 2;
        char *data = capacity - builder->size < size ? NULL : hk_memory_resize(builder->runtime, builder->data, capacity);
        if (data == NULL) {
            builder->failed = true;
            return;
        }
        builder->data = data;
        builder->capacity = capacity;
    }
    memcpy(builder->data + builder->size, bytes, size);
    builder->size += size;
}

void hk_builder_add_str(hk_builder *builder, const hk_object *str)
{
    hk_builder_add(builder, hk_str_text(str), hk_str_size(str));
}

hk_object *hk_builder_finish(hk_builder *builder)
{
    hk_object *str = builder->failed ? NULL : hk_str_from(builder->runtime, builder->data, builder->size);
    hk_memory_free(builder->runtime, builder->data);
    *builder = (hk_builder){.runtime = builder->runtime};
    return str;
}

/* --- interned strings: a table of borrowed pointers, open addressing --- */

static size_t intern_slot(const struct hk_interned *table, const char *data, size_t size, uint32_t hash)
{
    size_t mask = table->capacity - 1, slot = hash & mask;
    for (; table->items[slot] != NULL; slot = (slot + 1) & mask) {
        const struct text *text = (const struct text *)table->items[slot];
        if (text->hash == hash && text->size == size && memcmp(text->data, data, size) == 0)
            break;
    }
    return slot;
}

static void intern_put(struct hk_interned *table, hk_object *object)
{
    const struct text *text = (const struct text *)object;
    table->items[intern_slot(table, text->data, text->size, text->hash)] = object;
}

static bool intern_grow(struct hk_interned *table)
{
    struct hk_interned bigger = {.count = table->count, .capacity = table->capacity == 0 ? 512 : 2 * table->capacity};
    bigger.items = hk_os_map(bigger.capacity * sizeof(*bigger.items));
    if (bigger.items == NULL)
        return false;
    for (size_t i = 0; i < table->capacity; i++)
        if (table->items[i] != NULL)
            intern_put(&bigger, table->items[i]);
    if (table->items != NULL)
        hk_os_unmap(table->items, table->capacity * sizeof(*table->items));
    *table = bigger;
    return true;
}

hk_object *hk_str_intern(hk_runtime *runtime, const char *data)
{
    struct hk_interned *table = &runtime->interned;
    size_t size = strlen(data);
    uint32_t hash = hash_of(data, size);
    if (4 * (table->count + 1) > 3 * table->capacity && !intern_grow(table))
        return NULL;
    size_t slot = intern_slot(table, data, size, hash);
    if (table->items[slot] != NULL)
        return hk_incref(table->items[slot]);
    struct text *text = text_from(runtime, &hk_str_type, data, size);
    if (text == NULL)
        return NULL;
    text->hash = hash;
    text->head.flags |= HK_INTERNED;
    table->items[slot] = &text->head;
    table->count++;
    return &text->head;
}

static void str_destroy(hk_runtime *runtime, hk_object *self)
{
    struct hk_interned *table = &runtime->interned;
    const struct text *text = (const struct text *)self;
    if (!(self->flags & HK_INTERNED) || runtime->ending)
        return;
    size_t mask = table->capacity - 1, slot = intern_slot(table, text->data, text->size, text->hash);
    table->items[slot] = NULL;
    table->count--;
    for (slot = (slot + 1) & mask; table->items[slot] != NULL; slot = (slot + 1) & mask) {
        hk_object *moving = table->items[slot];
        table->items[slot] = NULL;
        intern_put(table, moving);
    }
}
