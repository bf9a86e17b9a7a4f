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

/* The same bytes: a few words, mostly, for which memcmp is a long way. Where they are no multiple of one, the last overlaps. */
static inline bool hk_bytes_equal(const char *a, const char *b, size_t size)
{
    uint64_t x, y;
    if (size > 64)
        return memcmp(a, b, size) == 0;
    if (size >= 8) {
        for (size_t i = 0; i + 8 < size; i += 8) {
            memcpy(&x, a + i, 8);
            memcpy(&y, b + i, 8);
            if (x != y)
                return false;
        }
        memcpy(&x, a + size - 8, 8);
        memcpy(&y, b + size - 8, 8);
        return x == y;
    }
    if (size >= 4) {
        uint32_t v, w;
        memcpy(&v, a, 4);
        memcpy(&w, b, 4);
        if (v != w)
            return false;
        memcpy(&v, a + size - 4, 4);
        memcpy(&w, b + size - 4, 4);
        return v == w;
    }
    for (size_t i = 0; i < size; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

static inline bool hk_text_equal(const struct hk_text *a, const struct hk_text *b)
{
    return a->size == b->size && (a->hash == b->hash || a->hash == 0 || b->hash == 0) && hk_bytes_equal(a->data, b->data, a->size);
}

uint32_t hk_text_hash_first(struct hk_text *text); /* strings.c */

/* hk_hash of a str. */
static inline uint64_t hk_text_hash(struct hk_text *text)
{
    return hk_hash_mix(text->hash != 0 ? text->hash : hk_text_hash_first(text));
}

#endif
