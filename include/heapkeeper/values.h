/* heapkeeper/values.h: the basic types: none, bool, int, float, str, bytes, tuple, list, dict, set.
 *
 * They behave as Python's of the same name, within what C programs need: int has 64 bits, str is UTF-8. Functions return
 * new references and borrow their arguments, unless they say otherwise; NULL or false is "no memory", and nothing was changed.
 * An argument of another type than the function is for is a mistake of the program: hk_is_list and so on tell. */
#ifndef HEAPKEEPER_VALUES_H
#define HEAPKEEPER_VALUES_H

#include <string.h>

#include "heapkeeper/object.h"

#ifdef __cplusplus
extern "C" {
#endif

HK_API extern hk_type hk_none_type, hk_bool_type, hk_int_type, hk_float_type, hk_str_type, hk_bytes_type, hk_tuple_type,
    hk_list_type, hk_dict_type, hk_set_type;

static inline bool hk_is(const hk_object *object, const hk_type *type)
{
    return object->type == type->number && type->number != 0;
}

/* The only ones of their types; immortal, shared by all runtimes: counting references to them costs nothing. */
HK_API hk_object *hk_none(void);
HK_API hk_object *hk_bool(bool value);

/* Integers from -5 to 256 are immortal and exist once (CPython's small ints). */
HK_API hk_object *hk_int(hk_runtime *runtime, int64_t value);
HK_API int64_t hk_int_value(const hk_object *object);
HK_API hk_object *hk_float(hk_runtime *runtime, double value);
HK_API double hk_float_value(const hk_object *object);

/* Strings: bytes of UTF-8 (not checked), without end and with: a NUL follows the last one. One block each. At most 4 GiB. */
HK_API hk_object *hk_str(hk_runtime *runtime, const char *text); /* NUL terminated */
HK_API hk_object *hk_str_from(hk_runtime *runtime, const char *bytes, size_t size);
/* As printf. Measured first, so that the string is made once, in its final size. */
HK_API hk_object *hk_str_format(hk_runtime *runtime, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The strings of a list or tuple with the separator between them: one allocation, whatever their number. NULL also if an item
 * is not a str. */
HK_API hk_object *hk_str_join(hk_runtime *runtime, const hk_object *separator, const hk_object *items);

struct hk_text_head { /* private: the bytes follow it */
    hk_object head;
    uint32_t size, hash;
};

static inline const char *hk_str_text(const hk_object *str) /* borrowed; NUL terminated */
{
    return (const char *)((const struct hk_text_head *)str + 1);
}

static inline size_t hk_str_size(const hk_object *str) /* in bytes, without the NUL */
{
    return ((const struct hk_text_head *)str)->size;
}

HK_API size_t hk_str_length(const hk_object *str);    /* in code points */
/* The one string with this content that all who intern it share. Lives as long as somebody holds it. */
HK_API hk_object *hk_str_intern(hk_runtime *runtime, const char *text);

HK_API hk_object *hk_bytes(hk_runtime *runtime, const void *bytes, size_t size);
HK_API const void *hk_bytes_data(const hk_object *bytes); /* borrowed */
HK_API size_t hk_bytes_size(const hk_object *bytes);

/* A string that is put together piece by piece, in its own memory, which doubles: with the expected size it is allocated once.
 * After a failure the pieces are ignored, and finish returns NULL. Each that was begun is to be finished. */
typedef struct {
    hk_runtime *runtime;
    char *data;
    size_t size, capacity;
    bool failed;
} hk_builder;

HK_API void hk_builder_begin(hk_builder *builder, hk_runtime *runtime, size_t expected_size);
HK_API void hk_builder_add_slow(hk_builder *builder, const char *bytes, size_t size); /* private: there may be no room */

static inline void hk_builder_add(hk_builder *builder, const char *bytes, size_t size)
{
    if (size == 0 || size > builder->capacity - builder->size) {
        hk_builder_add_slow(builder, bytes, size);
        return;
    }
    memcpy(builder->data + builder->size, bytes, size);
    builder->size += size;
}

static inline void hk_builder_add_str(hk_builder *builder, const hk_object *str)
{
    hk_builder_add(builder, hk_str_text(str), hk_str_size(str));
}

HK_API hk_object *hk_builder_finish(hk_builder *builder); /* gives up the buffer, always */

/* Tuples: hk_tuple makes one of `count` items, all none; hk_tuple_init puts one in (takes the reference over), while nobody else
 * has seen the tuple. */
HK_API hk_object *hk_tuple(hk_runtime *runtime, size_t count);
HK_API void hk_tuple_init(hk_object *tuple, size_t index, hk_object *item);
HK_API size_t hk_tuple_count(const hk_object *tuple);
HK_API hk_object *hk_tuple_get(const hk_object *tuple, size_t index); /* borrowed; NULL: out of range */

/* Lists over-allocate by an eighth, as CPython's, so that appending n items copies O(n). */
HK_API hk_object *hk_list(hk_runtime *runtime);
HK_API size_t hk_list_count(const hk_object *list);
HK_API hk_object *hk_list_get(const hk_object *list, size_t index); /* borrowed; NULL: out of range */
HK_API bool hk_list_append(hk_runtime *runtime, hk_object *list, hk_object *item);
HK_API bool hk_list_insert(hk_runtime *runtime, hk_object *list, size_t index, hk_object *item); /* past the end: appended */
HK_API bool hk_list_set(hk_runtime *runtime, hk_object *list, size_t index, hk_object *item);    /* false: out of range */
/* Takes the item out: the caller's reference. NULL: out of range. */
HK_API hk_object *hk_list_pop(hk_runtime *runtime, hk_object *list, size_t index);
HK_API void hk_list_clear(hk_runtime *runtime, hk_object *list);

/* Dicts keep the order of insertion, in a compact table (CPython's since 3.6). Keys must not change while they are in. */
HK_API hk_object *hk_dict(hk_runtime *runtime);
HK_API size_t hk_dict_count(const hk_object *dict);
HK_API hk_object *hk_dict_get(const hk_object *dict, const hk_object *key); /* borrowed; NULL: not there */
HK_API bool hk_dict_set(hk_runtime *runtime, hk_object *dict, hk_object *key, hk_object *value);
HK_API bool hk_dict_delete(hk_runtime *runtime, hk_object *dict, const hk_object *key); /* false: was not there */
HK_API void hk_dict_clear(hk_runtime *runtime, hk_object *dict);
/* Goes through it in order: *position from 0. Borrowed. The dict must not grow or shrink meanwhile; values may be replaced. */
HK_API bool hk_dict_next(const hk_object *dict, size_t *position, hk_object **key, hk_object **value);

HK_API hk_object *hk_set_new(hk_runtime *runtime);
HK_API size_t hk_set_count(const hk_object *set);
HK_API bool hk_set_has(const hk_object *set, const hk_object *member);
HK_API bool hk_set_add(hk_runtime *runtime, hk_object *set, hk_object *member);
HK_API bool hk_set_remove(hk_runtime *runtime, hk_object *set, const hk_object *member); /* false: was not there */
HK_API bool hk_set_next(const hk_object *set, size_t *position, hk_object **member);

#ifdef __cplusplus
}
#endif
#endif
