/* The stacks of programs without Python: of machine code, or, where the program keeps frames of its own (frame.h), those.
 *
 *      who asked for memory               the thread has frames        it has none
 *      objects and buffers of a runtime   frames                       machine code
 *      the C library's malloc             who called malloc, frames    machine code
 *      ... with --native-stacks           machine code                 machine code
 *
 * Frames that stand for C functions are on both stacks: so they are never one behind the other, but for the one address that
 * called malloc. */
#include <string.h>

#include "heap/pool.h"
#include "heapkeeper/frame.h"
#include "hosts/native/stack.h"

static int program_stack(struct hk_frame *frames, int max, uint8_t *flags)
{
    struct hk_program_frame found[HK_NATIVE_FRAMES];
    int most = max < HK_NATIVE_FRAMES ? max : HK_NATIVE_FRAMES - 1;
    int count = hk_program_frames != NULL && most > 0 ? hk_program_frames(found, most + 1) : 0;
    if (count > most) {
        count = most;
        *flags |= HK_SITE_CUT;
    }
    for (int i = 0; i < count; i++) {
        const hk_code *code = found[i].code;
        frames[i] = (struct hk_frame){code, found[i].line > code->line ? (int32_t)(found[i].line - code->line) : 0};
    }
    return count;
}

static int source_stack(int domain, struct hk_frame *frames, int max, uint8_t *flags, struct hk_stack_known *known)
{
    uint8_t cut = 0;
    if (domain < HK_DOMAINS) {
        int count = program_stack(frames, max, flags);
        return count > 0 ? count : hk_native_stack(false, frames, max, flags);
    }
    int native = hk_native_stack(false, frames, max, &cut);
    int innermost = native > 1 ? 1 : native;
    int count = hk_native_is_whole() || max <= innermost ? 0 : program_stack(frames + innermost, max - innermost, flags);
    if (count > 0)
        return innermost + count;
    *flags |= cut;
    return native;
}

static void source_identify(const void *address, struct hk_code_identity *out)
{
    const hk_code *code = address;
    *out = (struct hk_code_identity){.file = (uintptr_t)code->file, .name = (uintptr_t)code->function, .first_line = (int32_t)code->line};
}

static size_t source_name(const void *address, int which, char *buffer, size_t capacity)
{
    const hk_code *code = address;
    const char *name = which == 0 ? code->file : which == 1 ? code->function : NULL;
    size_t size = name != NULL ? strlen(name) : 0;
    if (size > capacity)
        size = capacity;
    memcpy(buffer, name != NULL ? name : "", size);
    return size;
}

const struct hk_stack_source hk_native_source = {source_stack, source_identify, source_name, .counts_lines = true};
