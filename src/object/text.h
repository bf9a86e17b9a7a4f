/* What str and bytes are, for those who look at them often: dicts. */
#ifndef HK_OBJECT_TEXT_H
#define HK_OBJECT_TEXT_H

#include <string.h>

#include "heapkeeper/values.h"
#include "object/runtime.h"

struct hk_text {
    hk_object head;
    uint32_t size; /* without the NUL */
    uint32_t hash; /* 0: not known yet */
    char data[];
};
_Static_assert(offsetof(struct hk_text, data) == sizeof(struct hk_text_head), "values.h has the same");

/* The same bytes: a few words, mostly, for which memcmp is a long way. */
static inline bool hk_bytes_equal(const char *a, const char *b, size_t size)
{
    uint64_t x, y;
    if (size < 8) {
        for (size_t i = 0; i < size; i++)
            if (a[i] != b[i])
                return false;
        return true;
    }
    if (size > 64)
        return memcmp(a, b, size) == 0;
    for (size_t i = 0; i + 8 <= size; i += 8) {
        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y)
            return false;
    }
    memcpy(&x, a + size - 8, 8);
    memcpy(&y, b + size - 8, 8);
    return x == y;
}

static inline bool hk_text_equal(const struct hk_text *a, const struct hk_text *b)
{
    return a->size == b->size && (a->hash == b->hash || a->hash == 0 || b->hash == 0) && hk_bytes_equal(a->data, b->data, a->size);
}

/* hk_equal of two that are not the same one. */
static inline bool hk_text_equal_or(const hk_object *a, const hk_object *b)
{
    if (hk_is(a, &hk_str_type) && a->type == b->type)
        return hk_text_equal((const struct hk_text *)a, (const struct hk_text *)b);
    return hk_equal(a, b);
}

uint32_t hk_text_hash(struct hk_text *text); /* strings.c: the first time */

/* hk_hash. */
static inline uint64_t hk_text_hash_or(const hk_object *object)
{
    struct hk_text *text = (struct hk_text *)object;
    if (!hk_is(object, &hk_str_type))
        return hk_hash(object);
    return hk_hash_mix(text->hash != 0 ? text->hash : hk_text_hash(text));
}

#endif
