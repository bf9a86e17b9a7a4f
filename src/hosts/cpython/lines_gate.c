/* How 3.9 to 3.11 tell of lines: they have no sys.monitoring.
 *
 * Every frame runs through the interpreter's evaluation function, which can be replaced (PEP 523). Ours, the gate, sets the thread's
 * trace function around frames of profiled functions, and takes it away around all others, so that those run as fast
 * as without. (On 3.11 calls are no longer made within the evaluation function meanwhile, but through the gate.)
 *
 * A frame that runs already when its function is to be profiled did not come through the gate: it is adopted. The trace function is set
 * where it stands, and taken away when the frame ends or pauses; the next one up the stack may be adopted then.
 *
 * Other tools' trace functions go on: `theirs` is the one that stood there, ours calls it with every event, and what was set meanwhile
 * (sys.settrace, a debugger) takes its place. The thread's trace object, which sys.gettrace() shows, stays theirs.
 *
 * 3.11 makes a frame object for a frame that is traced. It is the tool's: neither its birth nor its end is counted, unless an exception
 * is raised in the frame, whose traceback would have had to make it. */
#include "hosts/cpython/lines.h"

#include <dlfcn.h>
#include <string.h>

typedef object *evaluate(void *state, void *frame, int throwing); /* _PyFrameEvalFunction */
typedef int trace_function(object *self, object *frame, int what, object *argument);
static int trace(object *self, object *frame, int what, object *argument);
enum { CALL = 0, EXCEPTION = 1, LINE = 2, RETURN = 3 }; /* PyTrace_* */
enum { GC_HEADER = 16, MARKS = 4096, FIRST_FRAMES = 1024 };

static struct {
    bool open;
    evaluate *next;
    evaluate *(*get)(void *interpreter);
    void (*set)(void *interpreter, evaluate *function);
    int (*line_of)(object *frame);
    uint8_t marks[MARKS]; /* 1: perhaps a profiled code object's; by a hash of its address */
    const void **made; /* 3.11: blocks of frame objects that were made for us, open addressing, at most half full */
    size_t made_capacity, made_count;
    const void *method_type; /* PyCFunction_Type */
} gate;

static inline size_t hash(const void *pointer, size_t size)
{
    return (size_t)(((uintptr_t)pointer >> 4) * 0x9e3779b97f4a7c15u >> 40) & (size - 1);
}

void hk_line_gate_mark(const void *code)
{
    gate.marks[hash(code, MARKS)] = 1;
}

/* --- the thread's state --- */

static inline trace_function **trace_of(void *state)
{
    return (trace_function **)((char *)state + hk_python.layout->thread_trace);
}

static bool is_tracing(const void *state)
{
    int tracing;
    memcpy(&tracing, (const char *)state + hk_python.layout->thread_tracing, sizeof tracing);
    return tracing != 0;
}

/* The interpreter looks at its trace and profile functions only where this says so. */
static void set_use(void *state, bool wanted)
{
    const hk_py_layout *layout = hk_python.layout;
    char *at = (char *)state + layout->thread_use_tracing;
    wanted |= hk_word_at(state, layout->thread_profile) != 0;
    if (layout->minor == 9) {
        *(int *)at = wanted;
        return;
    }
    at = *(char **)at; /* the first field of its _PyCFrame */
    if (layout->minor == 10)
        *(int *)at = wanted;
    else
        *(uint8_t *)at = wanted ? 255 : 0;
}

/* 3.9 looks at trace functions only where some thread of the interpreter has one. It counts them as here, since the program may call
 * sys.settrace while ours is set. */
static void set_trace(void *state, trace_function *function)
{
    const hk_py_layout *layout = hk_python.layout;
    trace_function **now = trace_of(state);
    if (layout->minor == 9)
        *(int *)(hk_word_at(state, layout->thread_interpreter) + (uintptr_t)layout->interpreter_tracing) += (function != NULL) - (*now != NULL);
    *now = function;
}

/* --- frame objects of 3.11 --- */

static const void **made_place(const void *block)
{
    size_t at = hash(block, gate.made_capacity);
    while (gate.made[at] != NULL && gate.made[at] != block)
        at = (at + 1) & (gate.made_capacity - 1);
    return &gate.made[at];
}

/* There are as many as calls of profiled functions stand on all stacks, and generators of theirs are suspended. */
static bool made_has_room(void)
{
    const void **old = gate.made;
    size_t had = gate.made_capacity, capacity = had != 0 ? 2 * had : FIRST_FRAMES;
    if (2 * gate.made_count < had)
        return true;
    const void **made = hk_libc.calloc(capacity, sizeof(*made));
    if (made == NULL)
        return false;
    gate.made = made;
    gate.made_capacity = capacity;
    for (size_t i = 0; i < had; i++)
        if (old[i] != NULL)
            *made_place(old[i]) = old[i];
    hk_libc.free(old);
    return true;
}

static bool made_has(const void *block)
{
    return gate.made_count != 0 && *made_place(block) == block;
}

static void made_remove(const void *block)
{
    if (!made_has(block))
        return;
    const void **hole = made_place(block);
    size_t mask = gate.made_capacity - 1;
    *hole = NULL;
    gate.made_count--;
    for (size_t at = (size_t)(hole - gate.made + 1) & mask; gate.made[at] != NULL; at = (at + 1) & mask) {
        const void *moved = gate.made[at]; /* what was pushed on by it moves back */
        gate.made[at] = NULL;
        *made_place(moved) = moved;
    }
}

static void forget_skipped(struct hk_line_thread *thread)
{
    if (thread->skipped != NULL)
        made_remove(thread->skipped);
    thread->skipped = NULL;
}

static void made_now(struct hk_line_thread *thread, const void *frame_object)
{
    const char *block = (const char *)frame_object - GC_HEADER;
    forget_skipped(thread);
    if (thread->newest != block || !made_has_room()) /* then its birth and its end are counted */
        return;
    thread->counts.allocated -= hk_line_bytes(block);
    thread->counts.blocks--;
    thread->newest = NULL;
    const void **place = made_place(block);
    gate.made_count += *place == NULL;
    *place = block;
}

/* A traceback has it now, and would have made it: from here on it is the program's. */
static void needed_now(struct hk_line_thread *thread, const void *frame_object)
{
    const char *block = (const char *)frame_object - GC_HEADER;
    forget_skipped(thread);
    if (!made_has(block))
        return;
    made_remove(block);
    if (thread->skip == block) /* since the generator paused */
        thread->skip = NULL;
    thread->counts.allocated += hk_line_bytes(block);
    thread->counts.blocks++;
}

static void ends_soon(struct hk_line_thread *thread, const void *frame_object)
{
    const char *block = (const char *)frame_object - GC_HEADER;
    forget_skipped(thread);
    if (made_has(block))
        thread->skip = block;
}

/* --- method objects ---
 *
 * Where a trace function is set, 3.9 to 3.11 make an object of each method of a built-in type that is called, and free it afterwards. */

bool hk_line_gate_suspects(const struct hk_line_thread *thread, void *block)
{
    enum { CALL_METHOD = 161, CALL_ANY = 171, FIRST_SPECIAL_CALL = 22, LAST_SPECIAL_CALL = 24 }; /* of 3.9 and 3.10; of 3.11 */
    const hk_py_layout *layout = hk_python.layout;
    const char *state = layout->thread_state();
    uintptr_t frame = hk_line_innermost(state);
    if (frame != thread->frame || hk_word_at(state, layout->thread_trace) != (uintptr_t)trace)
        return false;
    memset((char *)block + GC_HEADER + layout->object_type, 0, sizeof(void *)); /* a method was here before, perhaps */
    uintptr_t at = hk_word_at((const void *)frame, layout->frame_instruction);
    if (layout->frames == HK_PY_FRAME_OBJECTS) {
        uintptr_t bytes = hk_word_at((const void *)hk_word_at((const void *)frame, layout->frame_code), layout->code_bytes);
        at = bytes + (uintptr_t)layout->bytes_data + (uintptr_t)((int32_t)at * layout->instruction_unit);
        return *(const uint8_t *)at == CALL_METHOD;
    }
    uint8_t operation = *(const uint8_t *)at;
    return operation == CALL_ANY || (operation >= FIRST_SPECIAL_CALL && operation <= LAST_SPECIAL_CALL);
}

bool hk_line_gate_is_method(const void *block)
{
    enum { DEFINITION = 16, SELF = 24 }; /* of a PyCFunctionObject: m_ml, which begins with a name; m_self */
    const char *method = (const char *)block + GC_HEADER;
    if (hk_word_at(method, hk_python.layout->object_type) != (uintptr_t)gate.method_type)
        return false;
    if (hk_python.layout->minor < 11)
        return true;
    /* There a function is called by the same instruction, and sorted() makes a method of a list of its own. */
    const char *const *name = (const void *)hk_word_at(method, DEFINITION);
    const ssize_t *self = (const void *)hk_word_at(method, SELF);
    return self == NULL || *self > 2 || strcmp(*name, "sort") != 0;
}

/* --- events --- */

/* A generator that goes on does not begin; nor does one that an exception is thrown into, as close() does. */
static bool is_call(const struct hk_line_thread *thread)
{
    const void *frame = (const void *)thread->frame;
    const hk_py_layout *layout = hk_python.layout;
    if (thread->is_thrown)
        return false;
    if (layout->frames == HK_PY_FRAME_OBJECTS) {
        int32_t last;
        memcpy(&last, (const char *)frame + layout->frame_instruction, sizeof last);
        return last < 0;
    }
    const uint8_t *resume = (const uint8_t *)hk_word_at(frame, layout->frame_instruction);
    return resume[1] == 0; /* RESUME 0 */
}

static void begins(struct hk_line_thread *thread, object *frame, bool is_call_)
{
    const void *code = (const void *)hk_word_at((const void *)thread->frame, hk_python.layout->frame_code);
    struct hk_line_code *known = hk_line_code_find(code);
    if (known != NULL)
        hk_line_begin(thread, known, thread->frame, gate.line_of(frame), is_call_);
}

/* The first frame from here on, up to those that came through the gate, whose code is known. */
static void adopt(struct hk_line_thread *thread, void *state, uintptr_t frame)
{
    const hk_py_layout *layout = hk_python.layout;
    while (frame != 0 && frame != thread->frame && hk_line_code_find((const void *)hk_word_at((const void *)frame, layout->frame_code)) == NULL)
        frame = hk_word_at((const void *)frame, layout->frame_previous);
    if (frame == 0 || frame == thread->frame || *trace_of(state) == trace)
        return;
    thread->outer = thread->frame;
    thread->adopted = thread->frame = frame;
    thread->theirs = (void *)*trace_of(state);
    set_trace(state, trace);
    set_use(state, true);
}

/* The adopted frame, which is the innermost, ends or pauses. */
static void let_go(struct hk_line_thread *thread, void *state)
{
    const uintptr_t frame = thread->adopted;
    set_trace(state, (trace_function *)thread->theirs);
    set_use(state, thread->theirs != NULL);
    thread->theirs = NULL;
    thread->frame = thread->outer;
    thread->adopted = 0;
    adopt(thread, state, hk_word_at((const void *)frame, hk_python.layout->frame_previous));
}

static int trace(object *self, object *frame, int what, object *argument)
{
    void *state = hk_python.layout->thread_state();
    struct hk_line_thread *thread = hk_line_here();
    if (thread == NULL)
        return 0;
    trace_function *theirs = (trace_function *)thread->theirs;
    hk_line_count_settle(thread);
    if (hk_line_innermost(state) != thread->frame) { /* of what the adopted one calls, or is called by */
    } else if (what == LINE) {
        int line = gate.line_of(frame);
        if (!hk_line_step(thread, thread->frame, line) && !hk_line_step_slow(thread, thread->frame, line)) {
            if (hk_python.layout->minor == 11)
                made_now(thread, frame);
            begins(thread, frame, false);
            hk_line_step_slow(thread, thread->frame, line);
        }
    } else if (what == CALL) {
        if (hk_python.layout->minor == 11)
            made_now(thread, frame);
        begins(thread, frame, is_call(thread));
    } else if (what == EXCEPTION && hk_python.layout->minor == 11) {
        needed_now(thread, frame);
    } else if (what == RETURN) {
        hk_line_leave(thread, thread->frame);
        if (hk_python.layout->minor == 11)
            ends_soon(thread, frame);
        if (thread->frame == thread->adopted)
            let_go(thread, state);
    }
    return theirs != NULL ? theirs(self, frame, what, argument) : 0;
}

/* A frame that is not profiled, called by one that is. */
static __attribute__((noinline)) object *run_untraced(struct hk_line_thread *thread, void *state, void *frame, int throwing)
{
    uintptr_t caller = thread->frame;
    trace_function *theirs = (trace_function *)thread->theirs;
    set_trace(state, theirs);
    set_use(state, theirs != NULL);
    object *result = gate.next(state, frame, throwing);
    thread->theirs = (void *)*trace_of(state);
    thread->frame = caller;
    set_trace(state, trace);
    set_use(state, true);
    return result;
}

static __attribute__((noinline)) object *run_traced(void *state, void *frame, int throwing)
{
    struct hk_line_thread *thread = hk_line_thread_here();
    if (thread == NULL)
        return gate.next(state, frame, throwing);
    bool nested = *trace_of(state) == trace;
    uintptr_t caller = thread->frame;
    if (!nested)
        thread->theirs = (void *)*trace_of(state);
    thread->frame = (uintptr_t)frame;
    thread->is_thrown = throwing != 0;
    if (thread->adopted == thread->frame) /* another frame was there, whose end was told to another trace function */
        thread->adopted = 0;
    set_trace(state, trace);
    set_use(state, true);
    object *result = gate.next(state, frame, throwing);
    trace_function *now = *trace_of(state);
    if (now == trace)
        now = (trace_function *)thread->theirs;
    hk_line_leave(thread, (uintptr_t)frame); /* where its end was told to another trace function */
    thread->frame = caller;
    thread->theirs = nested ? (void *)now : NULL;
    set_trace(state, nested ? trace : now);
    set_use(state, nested || now != NULL);
    return result;
}

static object *gate_frame(void *state, void *frame, int throwing)
{
    const void *code = (const void *)hk_word_at(frame, hk_python.layout->frame_code);
    struct hk_line_thread *thread;
    if (__builtin_expect(gate.marks[hash(code, MARKS)] != 0, 0) && hk_line_code_find(code) != NULL && !is_tracing(state))
        return run_traced(state, frame, throwing);
    if (__builtin_expect(*trace_of(state) == trace, 0) && (thread = hk_line_here()) != NULL && !is_tracing(state))
        return run_untraced(thread, state, frame, throwing);
    return gate.next(state, frame, throwing);
}

/* --- open and close --- */

static void *interpreter_here(void)
{
    return (void *)hk_word_at(hk_python.layout->thread_state(), hk_python.layout->thread_interpreter);
}

bool hk_line_gate_open(void)
{
    if (hk_python.layout->minor >= 12 || !hk_python.layout->stacks)
        return false;
    if (gate.get == NULL) {
        *(void **)&gate.set = dlsym(RTLD_DEFAULT, "_PyInterpreterState_SetEvalFrameFunc");
        *(void **)&gate.line_of = dlsym(RTLD_DEFAULT, "PyFrame_GetLineNumber");
        *(void **)&gate.get = dlsym(RTLD_DEFAULT, "_PyInterpreterState_GetEvalFrameFunc");
    }
    gate.method_type = dlsym(RTLD_DEFAULT, "PyCFunction_Type");
    if (gate.get == NULL || gate.set == NULL || gate.line_of == NULL || gate.method_type == NULL)
        return false;
    evaluate *now = gate.get(interpreter_here());
    if (now != gate_frame) {
        gate.next = now;
        gate.set(interpreter_here(), gate_frame);
    }
    gate.open = true;
    return true;
}

void hk_line_gate_adopt(void)
{
    void *state = hk_python.layout->thread_state();
    struct hk_line_thread *thread = gate.open ? hk_line_thread_here() : NULL;
    if (thread != NULL && !is_tracing(state))
        adopt(thread, state, hk_line_innermost(state));
}

/* Frames that run in it leave through it. */
void hk_line_gate_close(void)
{
    if (gate.open && gate.get(interpreter_here()) == gate_frame)
        gate.set(interpreter_here(), gate.next);
    gate.open = false;
}
