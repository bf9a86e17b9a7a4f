/* The stack walk, the two questions about a thread that go with it, and the tests that it is right.
 *
 *   3.9, 3.10   thread state -> PyFrameObject -> f_back ...; the instruction is an index
 *   3.11, 3.12  thread state -> cframe -> _PyInterpreterFrame -> previous ...; the instruction is a
 *               pointer to the code unit before the next one
 *   3.13 on     thread state -> _PyInterpreterFrame -> previous ...; a pointer to the current
 *               instruction; from 3.14 on the code pointer carries tags in its low bits
 *
 * A walk may start while a frame is being made: it is linked into the chain when it is complete
 * enough for what is read here, with an instruction before its first one. Generators are linked
 * while they run only.
 */
#include "hosts/cpython/frames.h"

#include <dlfcn.h>
#include <string.h>

#include "base/os.h"

/* More of the interpreter's own frames in a row than this is a chain gone wrong. */
#define MOST_SHIMS 65536
/* Frames of a stack that the self-test follows before it calls the chain endless. */
#define MOST_STEPS 100000
/* Instructions of a code object larger than this do not exist (3.11's limit is far below). */
#define MOST_BYTES (1 << 29)

static inline uintptr_t bits_at(const void *base, int32_t offset)
{
    uintptr_t value;
    memcpy(&value, (const char *)base + offset, sizeof value);
    return value;
}

static inline bool is_plausible(uintptr_t bits)
{
    return bits >= 0x10000 && bits < (1ull << 47) && (bits & 7) == 0;
}

HK_HOT void *hk_py_this_thread_state(const hk_py_layout *layout)
{
    if (!layout->stacks)
        return NULL;
    void *state = layout->thread_state();
    if (!layout->raw_may_walk && state && layout->thread_state_of_thread() != state)
        return NULL;
    return state;
}

void *hk_py_own_thread_state(const hk_py_layout *layout)
{
    void *state = hk_py_this_thread_state(layout);
    if (!state && layout->stacks && layout->thread_state_of_thread)
        state = layout->thread_state_of_thread();
    return state;
}

bool hk_py_in_jit(const hk_py_layout *layout, const void *thread_state)
{
    return layout->stacks && thread_state && layout->thread_executor >= 0 &&
           bits_at(thread_state, layout->thread_executor) != 0;
}

/* The innermost frame, 0 if there is none. */
static uintptr_t first_frame(const hk_py_layout *l, const void *thread_state)
{
    uintptr_t frame = bits_at(thread_state, l->thread_frame);
    if (l->cframe_current < 0 || frame == 0)
        return frame;
    return is_plausible(frame) ? bits_at((const void *)frame, l->cframe_current) : 0;
}

bool hk_py_has_frame(const hk_py_layout *layout, const void *thread_state)
{
    return first_frame(layout, thread_state) != 0;
}

static inline bool read_object(const hk_py_layout *l, uintptr_t frame, hk_py_frame *out)
{
    uintptr_t code = bits_at((const void *)frame, l->frame_code);
    int32_t index;
    memcpy(&index, (const char *)frame + l->frame_instruction, sizeof index);
    if (!is_plausible(code) || index > MOST_BYTES / 2)
        return false;
    out->code = (const void *)code;
    out->offset = index < 0 ? -1 : index * l->instruction_unit;
    return true;
}

static int walk_objects(const hk_py_layout *l, uintptr_t frame, hk_py_frame *out, int max,
                        bool *more)
{
    int n = 0;
    for (; frame != 0; frame = bits_at((const void *)frame, l->frame_previous)) {
        if (n == max || !is_plausible(frame) || !read_object(l, frame, &out[n])) {
            *more = true;
            break;
        }
        n++;
    }
    return n;
}

/* The offsets are copied first: the frames that are written could, for all the compiler knows, be part
 * of the layout. */
struct offsets {
    int32_t code, instruction, owner, first_shim;
    intptr_t instructions, trampoline_end;
    uintptr_t code_bits;
};

static inline struct offsets offsets_of(const hk_py_layout *l)
{
    return (struct offsets){
        .code = l->frame_code,
        .instruction = l->frame_instruction,
        .owner = l->frame_owner,
        .first_shim = l->first_shim_owner,
        .instructions = l->code_adaptive,
        /* The clean-up code is a handful of units, so only a frame at its very start needs a look. */
        .trampoline_end = l->has_init_trampoline ? 16 : -16,
        .code_bits = ~l->code_tag_mask,
    };
}

/* 1: a frame of the program's; 0: one of the interpreter's own; -1: none at all. */
static inline int read_struct(const hk_py_layout *l, const struct offsets *to, uintptr_t frame, hk_py_frame *out)
{
    const char *f = (const char *)frame;
    if ((unsigned char)f[to->owner] >= to->first_shim)
        return 0;
    uintptr_t code = bits_at(f, to->code) & to->code_bits;
    intptr_t offset = (intptr_t)(bits_at(f, to->instruction) - code) - to->instructions;
    if (!is_plausible(code) || offset < -2 || offset > MOST_BYTES)
        return -1;
    if (offset < to->trampoline_end && hk_py_is_trampoline(l, (const void *)code))
        return 0;
    out->code = (const void *)code;
    out->offset = offset < 0 ? -1 : (int32_t)offset;
    return 1;
}

static int walk_structs(const hk_py_layout *l, uintptr_t frame, hk_py_frame *out, int max,
                        bool *more)
{
    const int32_t to_previous = l->frame_previous;
    const struct offsets to = offsets_of(l);
    int n = 0, shims = 0;
    for (; frame != 0; frame = bits_at((const void *)frame, to_previous)) {
        hk_py_frame read;
        int is_ours = is_plausible(frame) ? read_struct(l, &to, frame, &read) : -1;
        if (is_ours < 0 || (is_ours == 1 && n == max) || (is_ours == 0 && ++shims > MOST_SHIMS)) {
            *more = true;
            break;
        }
        if (is_ours == 1)
            out[n++] = read;
    }
    return n;
}

int hk_py_frame_at(const hk_py_layout *layout, uintptr_t frame, hk_py_frame *out)
{
    if (layout->frames != HK_PY_FRAME_OBJECTS) {
        const struct offsets to = offsets_of(layout);
        return is_plausible(frame) ? read_struct(layout, &to, frame, out) : -1;
    }
    return is_plausible(frame) && read_object(layout, frame, out) ? 1 : -1;
}

int hk_py_walk(const hk_py_layout *layout, const void *thread_state, hk_py_frame *out, int max,
               bool *truncated)
{
    bool more = false;
    int n = 0;
    if (layout->stacks && thread_state) {
        uintptr_t frame = first_frame(layout, thread_state);
        n = layout->frames == HK_PY_FRAME_OBJECTS ? walk_objects(layout, frame, out, max, &more)
                                                  : walk_structs(layout, frame, out, max, &more);
    }
    if (truncated)
        *truncated = more;
    return n;
}

/* --- self-test --- */

static bool failed(char *why, size_t size, const char *text)
{
    if (size == 0)
        return false;
    size_t n = strlen(text);
    if (n >= size)
        n = size - 1;
    memcpy(why, text, n);
    why[n] = 0;
    return false;
}

static bool read_word(const void *base, int32_t offset, uintptr_t *value)
{
    return is_plausible((uintptr_t)base) &&
           hk_os_read_memory((const char *)base + offset, value, sizeof *value);
}

static bool is_of_type(const hk_py_layout *l, uintptr_t object, const void *type)
{
    uintptr_t its_type;
    return read_word((const void *)object, l->object_type, &its_type) &&
           its_type == (uintptr_t)type;
}

/* A str must have a state that can be (a known width of characters) and a length that is mapped. */
static bool is_string(const hk_py_layout *l, uintptr_t object)
{
    uintptr_t length, state;
    if (!is_of_type(l, object, l->unicode_type) ||
        !read_word((const void *)object, l->unicode_length, &length) ||
        !read_word((const void *)object, l->unicode_state, &state))
        return false;
    unsigned kind = state >> l->unicode_kind_shift & 7;
    return (kind == 1 || kind == 2 || kind == 4 || (kind == 0 && l->unicode_ready_shift >= 0)) &&
           length < 1ul << 30;
}

/* What must hold of a code object; NULL if it does, with its size in bytes. */
static const char *code_fault(const hk_py_layout *l, const void *code, int64_t *bytes)
{
    uintptr_t file, name, table, units, instructions;
    if (!is_of_type(l, (uintptr_t)code, l->code_type))
        return "a frame does not run a code object";
    if (!read_word(code, l->code_filename, &file) || !read_word(code, l->code_name, &name) ||
        !read_word(code, l->code_linetable, &table))
        return "a code object is not in mapped memory";
    if (!is_string(l, file) || !is_string(l, name))
        return "a code object's names are not strings";
    if (!is_of_type(l, table, l->bytes_type))
        return "a code object's line table is not bytes";
    if (l->code_bytes >= 0) {
        if (!read_word(code, l->code_bytes, &instructions) ||
            !is_of_type(l, instructions, l->bytes_type) ||
            !read_word((const void *)instructions, l->bytes_length, &units))
            return "a code object's instructions are not bytes";
        units /= 2;
    } else if (!read_word(code, l->code_units, &units)) {
        return "a code object is not in mapped memory";
    }
    if (units < 1 || units > MOST_BYTES / 2)
        return "a code object's size is not one";
    *bytes = (int64_t)units * 2;
    return NULL;
}

/* Code objects that were found good: a deep stack repeats few of them. */
struct known_codes {
    uintptr_t code[64];
    int64_t bytes[64];
};

static const char *frame_fault(const hk_py_layout *l, uintptr_t code, int64_t offset,
                               struct known_codes *known)
{
    unsigned slot = (unsigned)(code >> 5) % 64;
    if (known->code[slot] != code || code == 0) {
        const char *fault = code_fault(l, (const void *)code, &known->bytes[slot]);
        if (fault)
            return fault;
        known->code[slot] = code;
    }
    return offset < -2 || offset >= known->bytes[slot] ? "a frame's instruction is outside its code"
                                                       : NULL;
}

/* A frame's fields as a walk would see them, in one read; false: not in mapped memory. */
static bool read_frame(const hk_py_layout *l, uintptr_t frame, uintptr_t *previous, uintptr_t *code,
                       int64_t *offset, bool *shim)
{
    char image[256];
    const int32_t field[] = {l->frame_previous, l->frame_code, l->frame_instruction,
                             l->frame_owner};
    int32_t end = 0;
    for (int i = 0; i < 4; i++)
        if (field[i] + (i < 3 ? 8 : 1) > end)
            end = field[i] + (i < 3 ? 8 : 1);
    if (!is_plausible(frame) || end > (int32_t)sizeof image ||
        !hk_os_read_memory((const void *)frame, image, (size_t)end))
        return false;
    *previous = bits_at(image, l->frame_previous);
    *code = bits_at(image, l->frame_code) & ~l->code_tag_mask;
    uintptr_t instruction = bits_at(image, l->frame_instruction);
    if (l->frames == HK_PY_FRAME_OBJECTS) {
        *shim = false;
        *offset = (int64_t)(int32_t)instruction * l->instruction_unit;
    } else {
        *shim = (unsigned char)image[l->frame_owner] >= l->first_shim_owner;
        *offset = (int64_t)(instruction - *code) - l->code_adaptive;
    }
    return true;
}

/* The thread state and its interpreter; NULL if they are sound, with the innermost frame. */
static const char *thread_fault(const hk_py_layout *l, const void *thread_state, uintptr_t *frame)
{
    uintptr_t interpreter, id, gil;
    if (!read_word(thread_state, l->thread_frame, frame) ||
        !read_word(thread_state, l->thread_interpreter, &interpreter) ||
        !read_word((const void *)interpreter, l->interpreter_id, &id))
        return "the thread state is not in mapped memory";
    if (id > 1ul << 32)
        return "the interpreter's id is not one";
    if (id == 0 && l->interpreter_gil >= 0 &&
        (!read_word((const void *)interpreter, l->interpreter_gil, &gil) ||
         gil != interpreter + (uintptr_t)l->interpreter_own_gil))
        return "the main interpreter's lock is not where it should be";
    if (l->cframe_current >= 0 && *frame &&
        !read_word((const void *)*frame, l->cframe_current, frame))
        return "the current frame is not in mapped memory";
    return NULL;
}

bool hk_py_self_test(const hk_py_layout *layout, const void *thread_state, char *why, size_t size)
{
    if (size)
        why[0] = 0;
    if (!layout->stacks)
        return failed(why, size, layout->why);
    if (!thread_state)
        return true;
    uintptr_t frame = 0;
    const char *fault = thread_fault(layout, thread_state, &frame);
    struct known_codes known;
    memset(&known, 0, sizeof known);
    for (int steps = 0; frame != 0 && !fault; steps++) {
        uintptr_t previous, code;
        int64_t offset;
        bool shim;
        if (steps == MOST_STEPS)
            return failed(why, size, "the chain of frames does not end");
        if (!read_frame(layout, frame, &previous, &code, &offset, &shim))
            return failed(why, size, "a frame is not in mapped memory");
        if (!shim)
            fault = frame_fault(layout, code, offset, &known);
        frame = previous;
    }
    return fault ? failed(why, size, fault) : true;
}

/* --- comparison with the public API --- */

struct public_api {
    void *(*frame_of_thread)(void *);
    void *(*back)(void *);
    void *(*code)(void *);
    int (*last_instruction)(void *); /* 3.11 on */
    void (*decref)(void *);
};

static bool find_public_api(struct public_api *api)
{
    void *found[5] = {dlsym(RTLD_DEFAULT, "PyThreadState_GetFrame"),
                      dlsym(RTLD_DEFAULT, "PyFrame_GetBack"),
                      dlsym(RTLD_DEFAULT, "PyFrame_GetCode"),
                      dlsym(RTLD_DEFAULT, "PyFrame_GetLasti"), dlsym(RTLD_DEFAULT, "Py_DecRef")};
    memcpy(&api->frame_of_thread, &found[0], sizeof found[0]);
    memcpy(&api->back, &found[1], sizeof found[1]);
    memcpy(&api->code, &found[2], sizeof found[2]);
    memcpy(&api->last_instruction, &found[3], sizeof found[3]);
    memcpy(&api->decref, &found[4], sizeof found[4]);
    return found[0] && found[1] && found[2] && found[4];
}

/* From 3.11 on, frames that have not reached their first traceable instruction exist for a walk but
 * not for the public API. */
static int skip_incomplete(const hk_py_layout *l, const hk_py_frame *frames, int at, int n)
{
    if (l->frames == HK_PY_FRAME_OBJECTS)
        return at;
    for (; at < n; at++) {
        hk_py_code info;
        if (!hk_py_code_info(l, frames[at].code, &info) ||
            frames[at].offset >= (int32_t)info.first_traceable * 2)
            break;
    }
    return at;
}

static const char *compare_with_public(const hk_py_layout *l, const struct public_api *api,
                                       void *frame, const hk_py_frame *frames, int n)
{
    const char *fault = NULL;
    int at = skip_incomplete(l, frames, 0, n);
    while (frame && at < n && !fault) {
        void *code = api->code(frame);
        if (code != frames[at].code)
            fault = "a frame's code is not what the interpreter says";
        else if (api->last_instruction) {
            int public_offset = api->last_instruction(frame);
            if ((public_offset < 0 ? -1 : public_offset) != frames[at].offset)
                fault = "a frame's instruction is not what the interpreter says";
        }
        if (code)
            api->decref(code);
        void *caller = api->back(frame);
        api->decref(frame);
        frame = caller;
        at = skip_incomplete(l, frames, at + 1, n);
    }
    if (frame) {
        api->decref(frame);
        if (!fault && n < 64)
            fault = "frames are missing";
    } else if (!fault && at < n) {
        fault = "there are more frames than the interpreter says";
    }
    return fault;
}

bool hk_py_public_check(const hk_py_layout *layout, char *why, size_t size)
{
    if (size)
        why[0] = 0;
    if (!layout->stacks)
        return failed(why, size, layout->why);
    struct public_api api;
    if (!find_public_api(&api))
        return failed(why, size, "the interpreter hides the functions to compare with");
    void *state = hk_py_this_thread_state(layout);
    if (!state)
        return failed(why, size, "this thread has no thread state");
    hk_py_frame frames[64];
    int n = hk_py_walk(layout, state, frames, 64, NULL);
    void *frame = api.frame_of_thread(state);
    if (!frame && n == 0)
        return true;
    const char *fault = frame ? compare_with_public(layout, &api, frame, frames, n)
                              : (skip_incomplete(layout, frames, 0, n) < n
                                     ? "the interpreter says there is no frame"
                                     : NULL);
    return fault ? failed(why, size, fault) : true;
}
