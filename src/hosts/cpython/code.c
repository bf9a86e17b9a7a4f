/* What a code object and the strings it points to say, read by offset.
 *
 * A code object's fields never change once it exists, except its instructions (specialisation,
 * instrumentation), whose number stays. The addresses of its names do not tell it from a later one at the same
 * address: what was freed with it is given out again, in the same order, when the next one is compiled. Their
 * hashes do, with first line and size; and where names, size and first line are the same, so are lines nearly always.
 */
#include <string.h>

#include "hosts/cpython/frames.h"

#define SUBCLASS_OF_BYTES (1ul << 27) /* Py_TPFLAGS_*_SUBCLASS, stable ABI */
#define SUBCLASS_OF_STR   (1ul << 28)
#define MOST_UNITS        (1u << 28)

static const void *pointer_at(const void *base, int32_t offset)
{
    const void *value;
    memcpy(&value, (const char *)base + offset, sizeof value);
    return value;
}

static int64_t word_at(const void *base, int32_t offset)
{
    int64_t value;
    memcpy(&value, (const char *)base + offset, sizeof value);
    return value;
}

static int32_t int_at(const void *base, int32_t offset)
{
    int32_t value;
    memcpy(&value, (const char *)base + offset, sizeof value);
    return value;
}

/* 48-bit user space, objects are aligned to 8 at least, and nothing is mapped in the first 64
 * KiB. */
static bool is_plausible(const void *pointer)
{
    uintptr_t bits = (uintptr_t)pointer;
    return bits >= 0x10000 && bits < (1ull << 47) && (bits & 7) == 0;
}

static bool is_a(const hk_py_layout *l, const void *object, const void *type,
                 unsigned long subclass_flag)
{
    if (!is_plausible(object))
        return false;
    const void *its_type = pointer_at(object, l->object_type);
    if (its_type == type)
        return true;
    return is_plausible(its_type) &&
           ((unsigned long)word_at(its_type, l->type_flags) & subclass_flag);
}

bool hk_py_code_info(const hk_py_layout *layout, const void *code, hk_py_code *out)
{
    memset(out, 0, sizeof *out);
    if (!layout->stacks || !is_plausible(code) ||
        pointer_at(code, layout->object_type) != layout->code_type)
        return false;
    int64_t units;
    if (layout->code_bytes >= 0) {
        const void *instructions = pointer_at(code, layout->code_bytes);
        if (!is_plausible(instructions))
            return false;
        units = word_at(instructions, layout->bytes_length) / 2;
    } else {
        units = word_at(code, layout->code_units);
        out->first_traceable = (uint32_t)int_at(code, layout->code_first_traceable);
    }
    if (units < 1 || units > MOST_UNITS)
        return false;
    out->units = (uint32_t)units;
    out->filename = pointer_at(code, layout->code_filename);
    out->name = pointer_at(code, layout->code_name);
    if (layout->code_qualname >= 0)
        out->qualname = pointer_at(code, layout->code_qualname);
    out->linetable = pointer_at(code, layout->code_linetable);
    out->firstlineno = int_at(code, layout->code_firstlineno);
    return true;
}

/* Where its address is not exported (3.13) it is known by its file, name and qualified name being
 * one string: "__init__". A user's __init__ in a file of that very name would have a string of its
 * own for one of them. */
bool hk_py_is_trampoline(const hk_py_layout *layout, const void *code)
{
    if (!layout->has_init_trampoline || !code)
        return false;
    if (layout->init_cleanup)
        return code == layout->init_cleanup;
    const void *file = pointer_at(code, layout->code_filename);
    return file == pointer_at(code, layout->code_name) &&
           file == pointer_at(code, layout->code_qualname) && word_at(code, layout->code_units) < 8;
}

const uint8_t *hk_py_bytes(const hk_py_layout *layout, const void *object, size_t *length)
{
    *length = 0;
    if (!layout->stacks || !is_a(layout, object, layout->bytes_type, SUBCLASS_OF_BYTES))
        return NULL;
    int64_t size = word_at(object, layout->bytes_length);
    if (size < 0)
        return NULL;
    *length = (size_t)size;
    return (const uint8_t *)object + layout->bytes_data;
}

/* Encodes one character; returns its length. What stands for a byte of a path that is no UTF-8 (PEP 383) becomes that byte. */
static size_t put_utf8(uint32_t c, char out[4])
{
    if (c < 0x80 || (c >= 0xDC80 && c < 0xDD00)) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
        c = 0xFFFD;
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

static uint32_t character_at(const void *data, int kind, int64_t index)
{
    switch (kind) {
    case 1:
        return ((const uint8_t *)data)[index];
    case 2:
        return ((const uint16_t *)data)[index];
    default:
        return ((const uint32_t *)data)[index];
    }
}

/* Where a str keeps its characters, and how wide they are (1, 2 or 4 bytes); NULL if it has none
 * that can be read (before 3.12 a string made by an old C API may not be "ready"). */
static const void *characters_of(const hk_py_layout *l, const void *unicode, int *kind)
{
    uint32_t state = (uint32_t)int_at(unicode, l->unicode_state);
    if (l->unicode_ready_shift >= 0 && !(state >> l->unicode_ready_shift & 1))
        return NULL;
    *kind = (int)(state >> l->unicode_kind_shift & 7);
    if (*kind != 1 && *kind != 2 && *kind != 4)
        return NULL;
    if (!(state >> l->unicode_compact_shift & 1))
        return pointer_at(unicode, l->unicode_compact_size);
    bool ascii = state >> l->unicode_ascii_shift & 1;
    return (const char *)unicode + (ascii ? l->unicode_ascii_size : l->unicode_compact_size);
}

size_t hk_py_copy_string(const hk_py_layout *layout, const void *unicode, char *buffer, size_t cap)
{
    if (cap == 0)
        return 0;
    buffer[0] = 0;
    if (!layout->stacks || !is_a(layout, unicode, layout->unicode_type, SUBCLASS_OF_STR))
        return 0;
    int kind;
    const void *data = characters_of(layout, unicode, &kind);
    int64_t length = word_at(unicode, layout->unicode_length);
    if (!data || length < 0)
        return 0;
    size_t used = 0;
    for (int64_t i = 0; i < length; i++) {
        char encoded[4];
        size_t n = put_utf8(character_at(data, kind, i), encoded);
        if (used + n >= cap)
            break;
        memcpy(buffer + used, encoded, n);
        used += n;
    }
    buffer[used] = 0;
    return used;
}

/* Of a str: the hash that it keeps, once it has been asked for it, as all interned ones have; else one of ours. */
static uint64_t hash_of(const hk_py_layout *l, const void *unicode)
{
    int kind;
    if (!is_a(l, unicode, l->unicode_type, SUBCLASS_OF_STR))
        return 0;
    uint64_t hash = (uint64_t)word_at(unicode, l->unicode_length + (int32_t)sizeof(hash)), word = 0;
    if (hash != UINT64_MAX)
        return hash;
    const char *data = characters_of(l, unicode, &kind);
    int64_t length = word_at(unicode, l->unicode_length);
    if (data == NULL || length < 0)
        return 0;
    length *= kind;
    hash = (uint64_t)length;
    for (; length > 0; length -= (int64_t)sizeof(word), data += sizeof(word)) { /* words are aligned: the last is readable whole */
        memcpy(&word, data, sizeof(word));
        if (length < (int64_t)sizeof(word))
            word &= ~(UINT64_MAX << 8 * length);
        hash = (hash + word) * 0x9e3779b97f4a7c15u;
    }
    return hash;
}

bool hk_py_identify(const hk_py_layout *layout, const void *code, struct hk_code_identity *out)
{
    hk_py_code info;
    memset(out, 0, sizeof(*out));
    if (!hk_py_code_info(layout, code, &info))
        return false;
    out->file = hash_of(layout, info.filename);
    out->name = hash_of(layout, info.name);
    if (info.qualname != NULL && info.qualname != info.name)
        out->name += 31 * hash_of(layout, info.qualname);
    out->table = info.linetable;
    out->first_line = info.firstlineno;
    out->size = info.units;
    out->prologue = info.first_traceable * 2;
    return true;
}
