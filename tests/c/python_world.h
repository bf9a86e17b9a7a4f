/* A made-up CPython in a few arrays, laid out as a given version lays itself out: for tests of
 * layouts and walks that need no Python. The debug offsets of 3.13-3.15 are filled in the order of
 * those versions' tables.
 */
#ifndef HK_TESTS_PYTHON_WORLD_H
#define HK_TESTS_PYTHON_WORLD_H

#include <string.h>

#include "hosts/cpython/frames.h"

#define WORLD_FRAMES 64
#define WORLD_VERSIONS                                                                             \
    {                                                                                              \
        9, 10, 11, 12, 13, 14, 15                                                                  \
    }

static inline uint32_t world_version(int minor)
{
    return 3u << 24 | (uint32_t)minor << 16 | 2 << 8 | 0xF0;
}

/* Values as real builds have them; words that nobody reads stay 0. */
static inline void world_debug_offsets(int minor, uint64_t word[128])
{
    memset(word, 0, 128 * sizeof *word);
    memcpy(word, "xdebugpy", 8);
    word[1] = world_version(minor);
    word[5] = 808;
    word[6] = 225824, word[7] = 7272, word[8] = 7264;
    int gil = minor == 13 ? 14 : 15, thread = minor == 13 ? 19 : 22,
        frame = minor == 13   ? 28
                : minor == 14 ? 31
                              : 39;
    word[gil] = 16, word[gil + 1] = 7760;
    word[thread] = 832, word[thread + 3] = 16, word[thread + 4] = 72;
    word[frame] = 88, word[frame + 1] = 8, word[frame + 2] = 0, word[frame + 3] = 56;
    word[frame + 5] = minor == 13 ? 70 : 74;
    int code = minor == 13 ? 34 : minor == 14 ? 39 : 47;
    word[code] = minor == 13 ? 208 : 216;
    word[code + 1] = 112, word[code + 2] = 120, word[code + 3] = 128, word[code + 4] = 136,
                word[code + 5] = 68;
    word[code + 9] = minor == 13 ? 200 : 208;
    int object = code + (minor == 13 ? 10 : 11);
    word[object] = 16, word[object + 1] = 8, word[object + 5] = 168;
    int bytes = minor == 13 ? 64 : minor == 14 ? 74 : 86;
    word[bytes] = 33, word[bytes + 1] = 16, word[bytes + 2] = 32;
    word[bytes + 3] = 64, word[bytes + 4] = 32, word[bytes + 5] = 16, word[bytes + 6] = 40;
    word[minor == 13 ? 10 : 11] = 7400;
    if (minor == 14)
        word[82] = 192;
    if (minor == 15)
        word[95] = 112, word[97] = 1120, word[98] = 104;
}

struct world {
    hk_py_layout layout;
    uint64_t debug_offsets[128];
    _Alignas(16) char thread[1024], interpreter[16384], cframe[64];
    _Alignas(16) char frame[WORLD_FRAMES][256], code[WORLD_FRAMES][512];
    _Alignas(16) char instructions[256], name[128], file[128], table[128];
    _Alignas(16) char code_type[512], unicode_type[512], bytes_type[512], other_type[512];
    int frames;
};

static inline void world_put(void *base, int32_t offset, const void *value)
{
    memcpy((char *)base + offset, &value, sizeof value);
}

static inline void world_put_word(void *base, int32_t offset, int64_t value)
{
    memcpy((char *)base + offset, &value, sizeof value);
}

static inline void world_put_int(void *base, int32_t offset, int32_t value)
{
    memcpy((char *)base + offset, &value, sizeof value);
}

/* A compact str of `length` characters of the given width (1, 2, 4). */
static inline void world_string(struct world *w, char *at, int kind, bool ascii, const void *data,
                                int64_t length)
{
    const hk_py_layout *l = &w->layout;
    world_put(at, l->object_type, w->unicode_type);
    world_put_word(at, l->unicode_length, length);
    uint32_t state = (uint32_t)kind << l->unicode_kind_shift | 1u << l->unicode_compact_shift |
                     (uint32_t)ascii << l->unicode_ascii_shift;
    if (l->unicode_ready_shift >= 0)
        state |= 1u << l->unicode_ready_shift;
    world_put_int(at, l->unicode_state, (int32_t)state);
    memcpy(at + (ascii ? l->unicode_ascii_size : l->unicode_compact_size), data,
           (size_t)(length * kind));
}

static inline void world_bytes(struct world *w, char *at, const void *data, int64_t length)
{
    world_put(at, w->layout.object_type, w->bytes_type);
    world_put_word(at, w->layout.bytes_length, length);
    memcpy(at + w->layout.bytes_data, data, (size_t)length);
}

/* Code number i: 40 code units, first line 100 + i. */
static inline void world_code(struct world *w, int i)
{
    const hk_py_layout *l = &w->layout;
    char *code = w->code[i];
    world_put(code, l->object_type, w->code_type);
    world_put(code, l->code_filename, w->file);
    world_put(code, l->code_name, w->name);
    if (l->code_qualname >= 0)
        world_put(code, l->code_qualname, w->name);
    world_put(code, l->code_linetable, w->table);
    world_put_int(code, l->code_firstlineno, 100 + i);
    if (l->code_bytes >= 0)
        world_put(code, l->code_bytes, w->instructions);
    if (l->code_units >= 0)
        world_put_word(code, l->code_units, 40);
    if (l->code_first_traceable >= 0)
        world_put_int(code, l->code_first_traceable, 1);
}

/* Puts frame i's instruction at `offset` bytes; its code is number i. */
static inline void world_instruction(struct world *w, int i, int offset)
{
    const hk_py_layout *l = &w->layout;
    if (l->frames == HK_PY_FRAME_OBJECTS)
        world_put_int(w->frame[i], l->frame_instruction,
                      offset < 0 ? -1 : offset / l->instruction_unit);
    else
        world_put(w->frame[i], l->frame_instruction, w->code[i] + l->code_adaptive + offset);
}

static struct world *world_now;

static void *world_thread(void)
{
    return world_now->thread;
}

/* The current frame of the thread; NULL: none. */
static inline void world_current(struct world *w, const void *frame)
{
    const hk_py_layout *l = &w->layout;
    if (l->cframe_current >= 0) {
        world_put(w->thread, l->thread_frame, w->cframe);
        world_put(w->cframe, l->cframe_current, frame);
    } else {
        world_put(w->thread, l->thread_frame, frame);
    }
}

/* n frames, frame 0 innermost, frame i at instruction 2 * i. */
static inline void world_make(struct world *w, int minor, int n)
{
    memset(w, 0, sizeof *w);
    world_now = w;
    struct hk_py_facts facts = {.version = world_version(minor)};
    if (minor >= 13) {
        world_debug_offsets(minor, w->debug_offsets);
        facts.debug_offsets = w->debug_offsets;
    }
    hk_py_layout *l = &w->layout;
    hk_py_layout_from(l, &facts);
    l->code_type = w->code_type;
    l->unicode_type = w->unicode_type;
    l->bytes_type = w->bytes_type;
    l->thread_state = world_thread;
    l->thread_state_of_thread = world_thread;

    world_string(w, w->name, 1, true, "name", 4);
    world_string(w, w->file, 1, true, "file.py", 7);
    world_bytes(w, w->table, "\x02\x01", 2);
    world_bytes(w, w->instructions, "", 0);
    world_put_word(w->instructions, l->bytes_length, 80);
    world_put(w->thread, l->thread_interpreter, w->interpreter);
    if (l->interpreter_gil >= 0)
        world_put(w->interpreter, l->interpreter_gil, w->interpreter + l->interpreter_own_gil);
    for (int i = 0; i < n; i++) {
        world_code(w, i);
        world_put(w->frame[i], l->frame_previous, i + 1 < n ? w->frame[i + 1] : NULL);
        world_put(w->frame[i], l->frame_code, w->code[i] + (l->code_tag_mask ? 1 : 0));
        world_instruction(w, i, 2 * i);
    }
    w->frames = n;
    world_current(w, n ? w->frame[0] : NULL);
}

#endif
