/* Marks in frames, from 3.13 on: the walk of a deep stack ends at the first frame of which it is known that its callers
 * are the same as they were.
 *
 * A frame has a place for the dict of its locals, which a function does not use: the interpreter writes NULL there when
 * it makes the frame, and since 3.13 (PEP 667) reads it for modules and classes only. There a mark goes. While it is
 * there the frame is the same activation, for every new one begins with NULL, also at the same address. And while an
 * activation runs, its callers wait where they called: so what they add to the key is as it was when the mark was placed.
 * The frame's own instruction is read anew each time.
 *
 *      walk     from the innermost frame outwards to a mark, or to the end
 *      marks    are placed where so many frames had none (HK_LONG): in the fifth frame, whose callers hardly change
 *               soon, and in every eighth from there to the next mark. So a walk is short also when the stack has shrunk.
 *               And now and then, where walks pass more than a frame or two (HK_FAR), in the innermost: a loop that
 *               allocates has a short walk however it was called
 *      a mark   lies in a table, by its frame's address, and says whose it is. A copy of the frame (of one that has ended,
 *               for a traceback) has the pointer too, but another address
 *
 * No marks: in a generator's frame, whose caller is another each time it runs, and in code that could become one; in the
 * interpreter's own frames; in modules and classes. What is in the frame is an object to Python, an immortal `object()`:
 * the interpreter releases it when the frame ends, and its collector passes it by.
 *
 * Where the place is does not stand in the table of offsets, though its neighbours do. It is believed when a module's
 * frame has been seen, whose locals are its globals. When a key was not in the cache, its stack is walked whole, too (of stacks
 * of thousands of frames one in some); if the two are not the same all marks are worthless, and the walk is believed. A debugger that moves a caller to another
 * line (f_lineno) may do that; and greenlet, while it takes the interpreter's own frames out of a stack that it leaves.
 *
 * All of this under the main interpreter's lock. The apart lane walks whole stacks. */
#include "hosts/cpython/exact_stack.h"

#include <dlfcn.h>

#define FIRST_MARK  4
#define NEXT_MARK   8
#define NEAR_FRAMES 3 /* which of them may have a mark gets one, when patience is over */
#define PATIENCE    64
#define MOST_PATIENCE 4096 /* where nothing can be mended */

#define LAYOUT_GLOBALS 24 /* of frames; beside HK_WAY_LOCALS */
#define CODE_FLAGS 48     /* of code objects; cpython/code.h */
#define FLAGS_OF_FUNCTIONS 0x3u    /* CO_OPTIMIZED, CO_NEWLOCALS */
#define FLAGS_OF_GENERATORS 0x3a0u /* all kinds of generators and coroutines, and iterable coroutines */

static struct {
    struct hk_frame_mark *table; /* NULL: none are placed */
    uint64_t references;
    const void *type;
    intptr_t frame_owner;
    uintptr_t code_tag_mask;
    uint64_t inverse; /* of HK_KEY_BASE */
    bool is_proven;   /* that the place is where we believe */
} marks;

static bool is_mark(uintptr_t word)
{
    return word - (uintptr_t)marks.table < HK_MARKS_BYTES;
}

/* Newton: each step doubles the right bits, of which an odd number is its own inverse's three. */
static uint64_t inverse_of(uint64_t odd)
{
    uint64_t inverse = odd;
    for (int i = 0; i < 5; i++)
        inverse *= 2 - odd * inverse;
    return inverse;
}

void hk_exact_marks_init(const hk_py_layout *layout)
{
    const uint64_t *none = dlsym(RTLD_DEFAULT, "_Py_NoneStruct");
    marks.type = dlsym(RTLD_DEFAULT, "PyBaseObject_Type");
    if (none == NULL || marks.type == NULL || (int32_t)*none >= 0) /* an immortal object's count is negative in 32 bits */
        return;
    marks.references = *none;
    marks.frame_owner = layout->frame_owner;
    marks.code_tag_mask = layout->code_tag_mask;
    marks.inverse = inverse_of(HK_KEY_BASE);
    marks.table = hk_os_map(HK_MARKS_BYTES);
    if (marks.table != NULL)
        hk_exact_stacks.unmarked = HK_LONG;
    hk_exact_stacks.patience = PATIENCE;
    hk_exact_stacks.generation = 1;
}

/* --- frames --- */

static uintptr_t innermost(const void *state)
{
    return hk_word_at(state, hk_exact_stacks.thread_frame);
}

static uintptr_t previous_of(uintptr_t frame)
{
    return hk_word_at((const void *)frame, HK_WAY_PREVIOUS(HK_WAY_3_13));
}

static uint64_t step(uint64_t key, uintptr_t frame)
{
    return (key + hk_word_at((const void *)frame, HK_WAY_INSTRUCTION)) * HK_KEY_BASE;
}

static uintptr_t locals_of(uintptr_t frame)
{
    return hk_word_at((const void *)frame, HK_WAY_LOCALS);
}

static bool is_of_thread(uintptr_t frame) /* FRAME_OWNED_BY_THREAD; neither a generator's nor the interpreter's own */
{
    return ((const char *)frame)[marks.frame_owner] == 0;
}

static uint32_t code_flags_of(uintptr_t frame)
{
    uint32_t flags;
    memcpy(&flags, (const char *)(hk_word_at((const void *)frame, hk_exact_stacks.frame_code) & ~marks.code_tag_mask) + CODE_FLAGS,
           sizeof flags);
    return flags;
}

static bool may_have_mark(uintptr_t frame)
{
    return is_of_thread(frame) && (locals_of(frame) == 0 || is_mark(locals_of(frame))) &&
           (code_flags_of(frame) & (FLAGS_OF_FUNCTIONS | FLAGS_OF_GENERATORS)) == FLAGS_OF_FUNCTIONS;
}

/* Has a module's frame been seen? */
static bool is_proven(const void *state)
{
    for (uintptr_t frame = innermost(state); frame != 0 && !marks.is_proven; frame = previous_of(frame)) {
        uintptr_t globals = hk_word_at((const void *)frame, LAYOUT_GLOBALS);
        if (is_of_thread(frame) && globals != 0 && locals_of(frame) == globals && (code_flags_of(frame) & FLAGS_OF_FUNCTIONS) == 0) {
            marks.is_proven = true;
            hk_exact_stacks.marks = (uintptr_t)marks.table;
        }
    }
    return marks.is_proven;
}

/* --- marks --- */

static const struct hk_frame_mark *mark_of(uintptr_t frame)
{
    uintptr_t word = locals_of(frame);
    const struct hk_frame_mark *mark = (const void *)word;
    return is_mark(word) && mark->frame == frame && mark->generation == hk_exact_stacks.generation ? mark : NULL;
}

static void place(uintptr_t frame, uint64_t power, uint64_t rest)
{
    struct hk_frame_mark *mark = &marks.table[(frame >> 3) * HK_KEY_BASE >> (64 - HK_MARK_BITS)];
    *mark = (struct hk_frame_mark){
        .references = marks.references,
        .type = marks.type,
        .frame = frame,
        .generation = hk_exact_stacks.generation,
        .power = power,
        .rest = rest,
    };
    memcpy((char *)frame + HK_WAY_LOCALS, &mark, sizeof mark);
}

/* In the `count` frames from `frame` outwards: in the first after `wait` others that may have one, and in every `next` from there
 * on; `total` is the key of the whole stack, and what follows them adds to a key by `power`. */
static void place_some(uintptr_t frame, uint64_t count, uint64_t key, uint64_t power, uint64_t total, int wait, int next)
{
    for (uint64_t i = 0; i < count; i++)
        power *= HK_KEY_BASE;
    for (; count > 0; count--, frame = previous_of(frame)) {
        key = step(key, frame);
        power *= marks.inverse;
        if (--wait < 0 && may_have_mark(frame)) {
            place(frame, power, total - key * power);
            wait = next - 1;
        }
    }
}

/* The same in the innermost frames only. */
static void place_near(uintptr_t frame, uint64_t count, uint64_t key, uint64_t power, uint64_t total)
{
    static uint32_t patience = PATIENCE;
    bool is_new = false;
    for (uint64_t i = 0; i < count; i++)
        power *= HK_KEY_BASE;
    for (uint64_t i = 0; i < count && i < NEAR_FRAMES; i++, frame = previous_of(frame)) {
        key = step(key, frame);
        power *= marks.inverse;
        if (mark_of(frame) == NULL && may_have_mark(frame)) {
            place(frame, power, total - key * power);
            is_new = true;
        }
    }
    patience = is_new ? PATIENCE : patience < MOST_PATIENCE ? 2 * patience : patience;
    hk_exact_stacks.patience = patience;
}

uint64_t hk_exact_key_deep(const void *state, uint64_t start)
{
    const struct hk_frame_mark *mark = NULL;
    uint64_t count = 0, key = start;
    for (uintptr_t frame = innermost(state); frame != 0 && mark == NULL; frame = previous_of(frame), count++) {
        key = step(key, frame);
        if (marks.is_proven)
            mark = mark_of(frame);
    }
    if (mark != NULL) {
        key = key * mark->power + mark->rest;
        hk_exact_stacks.shortened++;
    }
    uint64_t power = mark != NULL ? mark->power : 1;
    bool is_over = hk_exact_stacks.patience == 0 || (count > HK_FAR && --hk_exact_stacks.patience == 0);
    if (is_over)
        hk_exact_stacks.patience = MOST_PATIENCE;
    if ((count >= HK_LONG || is_over) && marks.table != NULL && is_proven(state)) {
        if (count >= HK_LONG)
            place_some(innermost(state), count, start, power, key, FIRST_MARK, NEXT_MARK);
        if (is_over)
            place_near(innermost(state), count, start, power, key);
    }
    return hk_exact_jit(state, key, HK_WAY_3_13);
}
