/* The face of the line profile in Python (heapkeeper/lines.py): tables, and the functions that sys.monitoring calls. */
#include "hosts/cpython/lines.h"

#include "hosts/cpython/exact_stack.h"

#include <string.h>

#define CAPSULE "heapkeeper.lines.table"

/* --- tables --- */

static const char *why_not(void)
{
    if (hk_python.layout == NULL || hk_python.interpreters == NULL)
        return "this process does not run on heapkeeper's heap: start it with `heapkeeper run`";
    if (!hk_python.layout->stacks)
        return hk_python.layout->why;
    if (!hk_cpython_serves())
        return HK_CPYTHON_REPLACED;
    const void *state = hk_py_this_thread_state(hk_python.layout);
    if (state != NULL && hk_py_interpreter_id(hk_python.layout, state) > 0)
        return "this is not the main interpreter, whose lines alone can be profiled";
    return NULL;
}

static object *why_not_object(object *self, object *unused)
{
    return hk_capi_text(why_not());
}

static void table_end(object *capsule)
{
    struct hk_line_table *table = hk_capi.PyCapsule_GetPointer(capsule, CAPSULE);
    if (table != NULL)
        hk_line_table_free(table);
}

static object *table_new(object *self, object *arguments)
{
    int first, last, wants;
    if (!hk_capi.PyArg_ParseTuple(arguments, "iii:table", &first, &last, &wants))
        return NULL;
    if (why_not() != NULL)
        return hk_capi.PyErr_Format(*hk_capi.runtime_error, "heapkeeper: %s", why_not());
    struct hk_line_table *table = hk_line_table_new(first, last, wants);
    object *capsule = table != NULL ? hk_capi.PyCapsule_New(table, CAPSULE, table_end) : hk_capi.PyErr_NoMemory();
    if (table != NULL && capsule == NULL)
        hk_line_table_free(table);
    return capsule;
}

static struct hk_line_table *table_of(object *capsule)
{
    return hk_capi.PyCapsule_GetPointer(capsule, CAPSULE);
}

static object *table_add(object *self, object *arguments)
{
    object *capsule, *code;
    int is_outermost;
    if (!hk_capi.PyArg_ParseTuple(arguments, "OOp:add", &capsule, &code, &is_outermost))
        return NULL;
    struct hk_line_table *table = table_of(capsule);
    if (table == NULL)
        return NULL;
    if (hk_word_at(code, hk_python.layout->object_type) != (uintptr_t)hk_python.layout->code_type)
        return hk_capi.PyErr_Format(*hk_capi.value_error, "not a code object");
    return hk_line_table_add(table, code, is_outermost) ? hk_capi_none() : hk_capi.PyErr_NoMemory();
}

#define ON_TABLE(name, call)                                    \
    static object *name(object *self, object *capsule)          \
    {                                                           \
        struct hk_line_table *table = table_of(capsule);        \
        if (table == NULL)                                      \
            return NULL;                                        \
        call(table);                                            \
        return hk_capi_none();                                  \
    }

static void enable_table(struct hk_line_table *table)
{
    hk_line_table_enable(table);
    hk_line_gate_adopt();
}

ON_TABLE(table_enable, enable_table)
ON_TABLE(table_disable, hk_line_table_disable)
ON_TABLE(table_reset, hk_line_table_reset)

/* (calls, peak, live at the first call or -1, the lines as struct hk_line, as struct hk_line_more or None). */
static object *table_figures(object *self, object *capsule)
{
    struct hk_line_table *table = table_of(capsule);
    if (table == NULL)
        return NULL;
    const size_t count = (size_t)table->count + 1;
    hk_line_table_look(table);
    object *parts[5] = {
        hk_capi.PyLong_FromLong((long)table->calls),
        hk_capi.PyLong_FromLong((long)table->peak),
        hk_capi.PyLong_FromLong((long)table->first_live),
        hk_capi.PyBytes_FromStringAndSize((const char *)table->lines, (ssize_t)(count * sizeof(*table->lines))),
        table->more == NULL ? hk_capi_none() : hk_capi.PyBytes_FromStringAndSize((const char *)table->more, (ssize_t)(count * sizeof(*table->more))),
    };
    object *tuple = hk_capi.PyTuple_New(5);
    bool good = tuple != NULL;
    for (int i = 0; i < 5; i++) {
        good &= parts[i] != NULL;
        if (parts[i] != NULL && tuple != NULL)
            hk_capi.PyTuple_SetItem(tuple, i, parts[i]);
        else if (parts[i] != NULL)
            hk_capi.Py_DecRef(parts[i]);
    }
    if (good)
        return tuple;
    if (tuple != NULL)
        hk_capi.Py_DecRef(tuple);
    return NULL;
}

static object *has_native(object *self, object *unused)
{
    return hk_capi.PyBool_FromLong(hk_line_has_native());
}

static object *open_gate(object *self, object *unused)
{
    return hk_capi.PyBool_FromLong(hk_line_gate_open());
}

static object *close_gate(object *self, object *unused)
{
    hk_line_gate_close();
    return hk_capi_none();
}

static object *heap_live(object *self, object *unused)
{
    return hk_capi.PyLong_FromLong((long)hk_line_heap_live());
}

/* --- sys.monitoring: each is given the code object and a number (an offset or a line) --- */

static inline uintptr_t frame_here(void)
{
    const void *state = hk_exact_state();
    return hk_line_innermost(state != NULL ? state : hk_python.layout->thread_state());
}

static void let_go(struct hk_line_thread *thread)
{
    object *held = thread->held;
    thread->held = NULL;
    if (*(const int32_t *)(const void *)held == 1) /* ours is the last reference; ints hold nothing, and may go into a free list */
        hk_line_free_uncounted(held);
    else
        hk_capi.Py_DecRef(held);
}

/* The number, if it was made just now, is nothing that the program allocated. */
static __attribute__((noinline)) void disregard(struct hk_line_thread *thread, object *number)
{
    if (thread->held != NULL)
        let_go(thread);
    if (thread->newest != (const void *)number)
        return;
    thread->counts.allocated -= hk_line_bytes(number);
    thread->counts.blocks--;
    thread->newest = NULL;
    hk_capi.Py_IncRef(number);
    thread->held = number;
}

/* None is immortal where these are called. */

static int digits; /* 1: an int of one digit has its value where we look, as on 3.12 to 3.15; -1: not so; 0: not looked yet */

static __attribute__((noinline)) int value_asked(object *number, int32_t digit)
{
    int value = (int)hk_capi.PyLong_AsLong(number);
    if (digits == 0 && value > 0)
        digits = value == digit ? 1 : -1;
    return value;
}

static inline int value_of(object *number)
{
    int32_t digit;
    memcpy(&digit, (const char *)number + 24, sizeof digit);
    return __builtin_expect(digits > 0, 1) ? digit : value_asked(number, digit);
}

/* No record of the frame: it was enabled while the frame ran. */
static __attribute__((noinline)) object *line_unexpected(object *code, int line)
{
    struct hk_line_code *known = hk_line_code_find(code);
    struct hk_line_thread *thread = known != NULL ? hk_line_thread_here() : NULL;
    if (thread != NULL && !hk_line_step_slow(thread, frame_here(), line)) {
        hk_line_begin(thread, known, frame_here(), line, false);
        hk_line_step_slow(thread, frame_here(), line);
    }
    return hk_capi.none;
}

static object *on_line(object *self, object *const *arguments, size_t count, object *names)
{
    struct hk_line_thread *thread = hk_line_here();
    int line = value_of(arguments[1]);
    if (__builtin_expect(thread == NULL, 0))
        return line_unexpected(arguments[0], line);
    if (__builtin_expect(thread->held != NULL || thread->newest == (const void *)arguments[1], 0))
        disregard(thread, arguments[1]);
    if (__builtin_expect(!hk_line_step(thread, frame_here(), line), 0))
        return line_unexpected(arguments[0], line);
    return hk_capi.none;
}

static object *on_start(object *self, object *const *arguments, size_t count, object *names)
{
    struct hk_line_thread *thread = hk_line_thread_here();
    struct hk_line_code *code = hk_line_code_find(arguments[0]);
    if (thread == NULL)
        return hk_capi.none;
    disregard(thread, arguments[1]);
    if (code != NULL)
        hk_line_begin(thread, code, frame_here(), code->first_line, true);
    return hk_capi.none;
}

static object *on_resume(object *self, object *const *arguments, size_t count, object *names)
{
    struct hk_line_thread *thread = hk_line_here();
    struct hk_line_code *code = hk_line_code_find(arguments[0]);
    if (thread == NULL && code != NULL)
        thread = hk_line_thread_here();
    if (thread == NULL)
        return hk_capi.none;
    disregard(thread, arguments[1]);
    if (code != NULL)
        hk_line_begin(thread, code, frame_here(), hk_capi.PyCode_Addr2Line(arguments[0], (int)hk_capi.PyLong_AsLong(arguments[1])), false);
    return hk_capi.none;
}

static object *on_leave(object *self, object *const *arguments, size_t count, object *names)
{
    struct hk_line_thread *thread = hk_line_here();
    if (thread == NULL)
        return hk_capi.none;
    disregard(thread, arguments[1]);
    hk_line_leave(thread, frame_here());
    return hk_capi.none;
}

static object *no_more; /* sys.monitoring.DISABLE, a reference */

static object *set_no_more(object *self, object *value)
{
    hk_capi.Py_IncRef(value);
    no_more = value;
    return hk_capi_none();
}

/* Back to the line that it comes from: of that there is no event of lines. Of other jumps nothing more is to be told. (The destination is
 * an int too, and is charged to the line, where it is no small one.) */
static object *on_jump(object *self, object *const *arguments, size_t count, object *names)
{
    struct hk_line_thread *thread = hk_line_here();
    int from = (int)hk_capi.PyLong_AsLong(arguments[1]), to = (int)hk_capi.PyLong_AsLong(arguments[2]);
    if (thread != NULL)
        disregard(thread, arguments[1]);
    if (to >= from || hk_capi.PyCode_Addr2Line(arguments[0], from) != hk_capi.PyCode_Addr2Line(arguments[0], to)) {
        hk_capi.Py_IncRef(no_more);
        return no_more;
    }
    if (thread != NULL)
        hk_line_again(thread, frame_here());
    return hk_capi.none;
}

/* --- events of all code, without a word to each code object ---
 *
 * That a frame ends by an exception can only be had of all code at once. sys.monitoring.set_events makes the interpreter go through each
 * code object when it runs next, and allocate something for it: that would be charged to the line which calls it. Those events need
 * none of it: the interpreter looks at a byte of its own for each, with a bit for each tool. It lies a little before the table of
 * callbacks, which is known by our callback in it; and which byte it is, by what sys.monitoring.get_events says when the bit is set. */

enum { PY_RETURN = 2, PY_YIELD = 3, BEFORE = 1024 };

/* The row of the tool in the table of callbacks [tool][event], where the callback is that of all three events; NULL: not found. */
static uint8_t *row_of(uint8_t *state, size_t size, const object *callback, int unwind)
{
    const intptr_t word = sizeof(object *), end = (intptr_t)size - (unwind + 1) * word;
    for (intptr_t row = BEFORE; row <= end; row += word)
        if (hk_word_at(state, row + PY_RETURN * word) == (uintptr_t)callback && hk_word_at(state, row + PY_YIELD * word) == (uintptr_t)callback &&
            hk_word_at(state, row + unwind * word) == (uintptr_t)callback)
            return state + row;
    return NULL;
}

static long events_of(object *get_events, object *tool)
{
    object *number = hk_capi.PyObject_CallFunctionObjArgs(get_events, tool, NULL);
    long events = number != NULL ? hk_capi.PyLong_AsLong(number) : -1;
    if (number != NULL)
        hk_capi.Py_DecRef(number);
    else
        hk_capi.PyErr_Clear();
    return events;
}

/* (get_events, tool, callback, PY_UNWIND's number, PY_THROW's, on): True if these two events, and no others, are set for the tool, or
 * none. The callback is that of PY_RETURN, PY_YIELD and PY_UNWIND. */
static object *set_quietly(object *self, object *arguments)
{
    object *get_events, *tool, *callback;
    int unwind, throw, on;
    if (!hk_capi.PyArg_ParseTuple(arguments, "OOOiip:set_quietly", &get_events, &tool, &callback, &unwind, &throw, &on))
        return NULL;
    const hk_py_layout *layout = hk_python.layout;
    uint8_t *state = (uint8_t *)hk_word_at(layout->thread_state(), layout->thread_interpreter);
    const uint8_t bit = (uint8_t)(1 << hk_capi.PyLong_AsLong(tool));
    const long wanted = on ? 1l << unwind | 1l << throw : 0;
    uint8_t *row = row_of(state, hk_py_interpreter_size(layout), callback, unwind);
    for (uint8_t *first = row != NULL ? row - throw - 1 : NULL; first != NULL && first >= row - BEFORE; first--) {
        uint8_t had[2] = {first[unwind], first[throw]};
        if (((had[0] & bit) != 0) == on || ((had[1] & bit) != 0) == on)
            continue;
        first[unwind] ^= bit;
        first[throw] ^= bit;
        if (events_of(get_events, tool) == wanted)
            return hk_capi.PyBool_FromLong(1);
        first[unwind] = had[0];
        first[throw] = had[1];
    }
    return hk_capi.PyBool_FromLong(0);
}

static struct method methods[] = {
    {"why_not", why_not_object, NO_ARGUMENTS, NULL},
    {"table", table_new, VARIABLE, NULL},
    {"add", table_add, VARIABLE, NULL},
    {"enable", table_enable, ONE_ARGUMENT, NULL},
    {"disable", table_disable, ONE_ARGUMENT, NULL},
    {"reset", table_reset, ONE_ARGUMENT, NULL},
    {"figures", table_figures, ONE_ARGUMENT, NULL},
    {"has_native", has_native, NO_ARGUMENTS, NULL},
    {"open_gate", open_gate, NO_ARGUMENTS, NULL},
    {"close_gate", close_gate, NO_ARGUMENTS, NULL},
    {"set_quietly", set_quietly, VARIABLE, NULL},
    {"set_no_more", set_no_more, ONE_ARGUMENT, NULL},
    {"heap_live", heap_live, NO_ARGUMENTS, NULL},
    {NULL, NULL, 0, NULL},
};

/* --- what is registered with sys.monitoring: objects whose vector call (PEP 590) is one of the functions above. A built-in function
 * would be called through the interpreter's, which looks at its flags and at the depth of the stack each time --- */

typedef object *vector_call(object *self, object *const *arguments, size_t count, object *names);
enum { IS_VECTOR_CALLED = 1 << 11, NO_INSTANCES = 1 << 7 }; /* Py_TPFLAGS_* */
enum { CALL = 50, MEMBERS = 72 };                          /* Py_tp_* */
enum { SIZE = 19, READ_ONLY = 1 };                         /* of a member */

static object *callback_type(void)
{
    static object *made;
    const int place = hk_python.layout->object_type + (int)sizeof(void *);
    struct type_member members[] = {{"__vectorcalloffset__", SIZE, place, READ_ONLY, NULL}, {NULL, 0, 0, 0, NULL}};
    struct module_slot slots[] = {{CALL, (void *)(uintptr_t)hk_capi.PyVectorcall_Call}, {MEMBERS, members}, {0, NULL}};
    struct type_spec type = {"heapkeeper.lines.Callback", place + (int)sizeof(vector_call *), 0, IS_VECTOR_CALLED | NO_INSTANCES, slots};
    if (made == NULL)
        made = hk_capi.PyType_FromSpec(&type);
    return made;
}

static bool add_callback(object *module, const char *name, vector_call *function)
{
    object *type = callback_type(), *callback = type != NULL ? hk_capi.PyType_GenericAlloc(type, 0) : NULL;
    if (callback == NULL)
        return false;
    memcpy((char *)callback + hk_python.layout->object_type + sizeof(void *), &function, sizeof function);
    bool done = hk_capi.PyObject_SetAttrString(module, name, callback) == 0;
    hk_capi.Py_DecRef(callback);
    return done;
}

void *hk_python_lines(void)
{
    object *module = hk_capi_module("_lines", methods);
    if (module == NULL || hk_python.layout == NULL || hk_python.layout->minor < 12 ||
        (add_callback(module, "on_line", on_line) && add_callback(module, "on_start", on_start) &&
         add_callback(module, "on_resume", on_resume) && add_callback(module, "on_leave", on_leave) &&
         add_callback(module, "on_jump", on_jump)))
        return module;
    hk_capi.Py_DecRef(module);
    return NULL;
}
