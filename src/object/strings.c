/* str and bytes: one block each, the content behind the head, with its hash once somebody asked for it. Interned strings are
 * in a table of the runtime that does not own them: a string that dies leaves it. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>

#include "heapkeeper/values.h"
#include "object/runtime.h"
#include "object/text.h"

static uint64_t text_hash(const hk_object *self);
static bool text_equal(const hk_object *self, const hk_object *other);
static void str_destroy(hk_runtime *runtime, hk_object *self);

hk_type hk_str_type = {.name = "str", .size = sizeof(struct hk_text) + 1, .item_size = 1,
                       .flags = HK_TYPE_ACYCLIC | HK_TYPE_DESTROYS_FLAGGED, /* HK_INTERNED */
                       .destroy = str_destroy, .hash = text_hash, .equal = text_equal};
hk_type hk_bytes_type = {.name = "bytes", .size = sizeof(struct hk_text) + 1, .item_size = 1, .flags = HK_TYPE_ACYCLIC,
                         .hash = text_hash, .equal = text_equal};

static uint64_t seed;

/* From the kernel's random bytes for this process, so that nobody can choose strings that collide. */
__attribute__((constructor)) static void seed_take(void)
{
    const void *random = (const void *)getauxval(AT_RANDOM);
    if (random != NULL)
        memcpy(&seed, random, sizeof(seed));
}

/* All of fewer than 8 bytes. (Put together in a word of the stack, they would be read before they have come there.) */
static inline uint64_t few_bytes(const char *data, size_t size)
{
    uint32_t first, last;
    if (size >= 4) {
        memcpy(&first, data, 4);
        memcpy(&last, data + size - 4, 4);
        return first | (uint64_t)last << 32;
    }
    const uint8_t *bytes = (const uint8_t *)data;
    return size > 0 ? bytes[0] | (uint64_t)bytes[size / 2] << 8 | (uint64_t)bytes[size - 1] << 16 : 0;
}

static uint32_t hash_of(const char *data, size_t size)
{
    uint64_t hash = seed ^ size, word;
    for (; size >= 8; data += 8, size -= 8) {
        memcpy(&word, data, 8);
        hash = (hash ^ word) * 0x9fb21c651e98df25u;
        hash ^= hash >> 29;
    }
    hash = hk_hash_mix((hash ^ few_bytes(data, size)) * 0x9fb21c651e98df25u);
    return (uint32_t)hash | 1;
}

uint32_t hk_text_hash_first(struct hk_text *text)
{
    return text->hash = hash_of(text->data, text->size);
}

static uint64_t text_hash(const hk_object *self)
{
    return hk_text_hash((struct hk_text *)self);
}

static bool text_equal(const hk_object *self, const hk_object *other)
{
    return hk_text_equal((const struct hk_text *)self, (const struct hk_text *)other);
}

/* With the content still to be filled in; the NUL stands. */
static struct hk_text *text_new(hk_runtime *runtime, hk_type *type, size_t size)
{
    if (size > UINT32_MAX)
        return NULL;
    struct hk_text *text = (struct hk_text *)hk_new_raw(runtime, type, type->size + size);
    if (text != NULL) {
        text->size = (uint32_t)size;
        text->hash = 0;
        text->data[size] = 0;
    }
    return text;
}

static struct hk_text *text_from(hk_runtime *runtime, hk_type *type, const void *bytes, size_t size)
{
    struct hk_text *text = text_new(runtime, type, size);
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
    struct hk_text *text = size < 0 ? NULL : text_new(runtime, &hk_str_type, (size_t)size);
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
    const struct hk_text *between = (const struct hk_text *)separator;
    for (size_t i = 0; i < count; i++) {
        const hk_object *item = item_of(items, i);
        if (!hk_is(item, &hk_str_type))
            return NULL;
        total += ((const struct hk_text *)item)->size + (i > 0 ? between->size : 0);
    }
    struct hk_text *text = text_new(runtime, &hk_str_type, total);
    char *at = text != NULL ? text->data : NULL;
    for (size_t i = 0; text != NULL && i < count; i++) {
        const struct hk_text *item = (const struct hk_text *)item_of(items, i);
        if (i > 0)
            at = (char *)memcpy(at, between->data, between->size) + between->size;
        at = (char *)memcpy(at, item->data, item->size) + item->size;
    }
    return (hk_object *)text;
}

size_t hk_str_length(const hk_object *str)
{
    const struct hk_text *text = (const struct hk_text *)str;
    size_t length = 0;
    for (size_t i = 0; i < text->size; i++)
        length += (text->data[i] & 0xc0) != 0x80;
    return length;
}

const void *hk_bytes_data(const hk_object *bytes)
{
    return ((const struct hk_text *)bytes)->data;
}

size_t hk_bytes_size(const hk_object *bytes)
{
    return ((const struct hk_text *)bytes)->size;
}

/* --- the builder: into a string that is as long as its capacity, until it is finished --- */

static struct hk_text *text_of(const hk_builder *builder)
{
    return builder->data == NULL ? NULL : (struct hk_text *)(builder->data - offsetof(struct hk_text, data));
}

static void builder_use(hk_builder *builder, struct hk_text *text, size_t capacity)
{
    builder->data = text->data;
    builder->capacity = capacity;
}

void hk_builder_begin(hk_builder *builder, hk_runtime *runtime, size_t expected_size)
{
    *builder = (hk_builder){.runtime = runtime};
    struct hk_text *text = expected_size > 0 ? text_new(runtime, &hk_str_type, expected_size) : NULL;
    if (text != NULL)
        builder_use(builder, text, expected_size);
}

/* A string for so many bytes with the pieces so far; the old one is gone then. */
static struct hk_text *text_resized(const hk_builder *builder, size_t capacity)
{
    struct hk_text *old = text_of(builder), *text;
    if (old != NULL && (old->head.flags & HK_LARGE) && capacity > HK_BLOCK_MAX && capacity <= UINT32_MAX && builder->runtime->watch == NULL)
        return (struct hk_text *)hk_object_resize_large(builder->runtime, &old->head, hk_str_type.size + capacity);
    text = text_new(builder->runtime, &hk_str_type, capacity);
    if (text == NULL || old == NULL)
        return text;
    memcpy(text->data, old->data, builder->size);
    hk_decref(builder->runtime, &old->head);
    return text;
}

void hk_builder_add_slow(hk_builder *builder, const char *bytes, size_t size)
{
    if (builder->failed || size == 0)
        return;
    if (size > builder->capacity - builder->size) {
        size_t capacity = builder->capacity < 64 ? 64 : builder->capacity;
        while (capacity - builder->size < size && capacity < SIZE_MAX / 2)
            capacity *= 2;
        struct hk_text *text = capacity - builder->size < size ? NULL : text_resized(builder, capacity);
        if (text == NULL) {
            builder->failed = true;
            return;
        }
        builder_use(builder, text, capacity);
    }
    memcpy(builder->data + builder->size, bytes, size);
    builder->size += size;
}

hk_object *hk_builder_finish(hk_builder *builder)
{
    struct hk_text *text = text_of(builder), *str = NULL;
    size_t had = hk_str_type.size + builder->capacity, size = builder->size;
    if (!builder->failed && text != NULL && ((had + 15) / 16 == (hk_str_type.size + size + 15) / 16 || had - size <= had / 8)) { /* as it is */
        str = text;
        str->size = (uint32_t)size;
        str->data[size] = 0;
    } else {
        if (!builder->failed)
            str = text_from(builder->runtime, &hk_str_type, builder->data, size);
        if (text != NULL)
            hk_decref(builder->runtime, &text->head);
    }
    *builder = (hk_builder){.runtime = builder->runtime};
    return (hk_object *)str;
}

/* --- interned strings: a table of borrowed pointers, open addressing --- */

static size_t intern_slot(const struct hk_interned *table, const char *data, size_t size, uint32_t hash)
{
    size_t mask = table->capacity - 1, slot = hash & mask;
    for (; table->items[slot] != NULL; slot = (slot + 1) & mask) {
        const struct hk_text *text = (const struct hk_text *)table->items[slot];
        if (text->hash == hash && text->size == size && memcmp(text->data, data, size) == 0)
            break;
    }
    return slot;
}

static void intern_put(struct hk_interned *table, hk_object *object)
{
    const struct hk_text *text = (const struct hk_text *)object;
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
    struct hk_text *text = text_from(runtime, &hk_str_type, data, size);
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
    const struct hk_text *text = (const struct hk_text *)self;
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
