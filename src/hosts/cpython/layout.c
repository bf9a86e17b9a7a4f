/* Finding the running CPython and the offsets of its structures; see layout.h for the three
 * sources.
 *
 * 3.13 and later keep a table of 64-bit offsets at the start of _PyRuntime: a cookie,
 * PY_VERSION_HEX, a flag for free-threaded builds, then offsets in an order that a minor version
 * fixes. `shapes` below says which word means what. Because a wrong shape would make every later
 * read wrong, the words are checked against what must hold in any CPython (a field lies inside its
 * structure, objects begin with a reference count and a type, ...) before they are used; a table
 * that fails is an unknown version.
 *
 * Pre-releases before the first release candidate are unknown versions too: their structures still
 * move.
 */
#include "hosts/cpython/layout.h"

#include <dlfcn.h>
#include <link.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "hosts/cpython/layout_table.h"

#define OLDEST_MINOR        9
#define NEWEST_MINOR        15
#define FIRST_RELEASE_LEVEL 0xC /* release candidate */

/* Words of the debug offsets, by index, and the few facts that the table leaves out but public
 * headers fix. */
struct shape {
    uint8_t minor;
    uint8_t runtime_interpreters;
    uint8_t interpreter_size, interpreter_id, interpreter_next, interpreter_gil,
        interpreter_own_gil;
    uint8_t thread_size, thread_interpreter, thread_frame;
    uint8_t frame_size, frame_previous; /* then executable, instr_ptr */
    uint8_t frame_owner;
    uint8_t code_size; /* then filename, name, qualname, linetable, firstlineno */
    uint8_t code_adaptive;
    uint8_t object_type, type_flags;
    uint8_t bytes_length;  /* then the data */
    uint8_t unicode_state; /* then length, size of the ASCII header */
    uint8_t first_shim_owner;
    uint8_t code_tag_mask;
    int16_t code_first_traceable; /* bytes, cpython/code.h */
    int16_t thread_executor;      /* bytes, cpython/pystate.h; -1: no JIT to ask about */
    uint8_t interpreter_gc;
    uint8_t gc_collecting;  /* 0: at the place that the 3.9 to 3.12 have it */
    uint8_t gc_counts_size; /* then a pointer to them; 0: they lie before gc_collecting */
};

/* clang-format off */
static const struct shape shapes[] = {
    {.minor = 13, .runtime_interpreters = 5,
     .interpreter_size = 6, .interpreter_id = 7, .interpreter_next = 8,
     .interpreter_gil = 14, .interpreter_own_gil = 15,
     .thread_size = 19, .thread_interpreter = 22, .thread_frame = 23,
     .frame_size = 28, .frame_previous = 29, .frame_owner = 33,
     .code_size = 34, .code_adaptive = 43, .object_type = 45, .type_flags = 49,
     .bytes_length = 65, .unicode_state = 68,
     .first_shim_owner = 3, .code_tag_mask = 0, .code_first_traceable = 184,
     .thread_executor = -1,
     .interpreter_gc = 10},
    {.minor = 14, .runtime_interpreters = 5,
     .interpreter_size = 6, .interpreter_id = 7, .interpreter_next = 8,
     .interpreter_gil = 15, .interpreter_own_gil = 16,
     .thread_size = 22, .thread_interpreter = 25, .thread_frame = 26,
     .frame_size = 31, .frame_previous = 32, .frame_owner = 36,
     .code_size = 39, .code_adaptive = 48, .object_type = 51, .type_flags = 55,
     .bytes_length = 75, .unicode_state = 78,
     .first_shim_owner = 3, .code_tag_mask = 3, .code_first_traceable = 192,
     .thread_executor = 272,
     .interpreter_gc = 11, .gc_collecting = 82},
    {.minor = 15, .runtime_interpreters = 5,
     .interpreter_size = 6, .interpreter_id = 7, .interpreter_next = 8,
     .interpreter_gil = 15, .interpreter_own_gil = 16,
     .thread_size = 22, .thread_interpreter = 25, .thread_frame = 26,
     .frame_size = 39, .frame_previous = 40, .frame_owner = 44,
     .code_size = 47, .code_adaptive = 56, .object_type = 59, .type_flags = 63,
     .bytes_length = 87, .unicode_state = 90,
     .first_shim_owner = 3, .code_tag_mask = 3, .code_first_traceable = 192,
     .thread_executor = 304,
     .interpreter_gc = 11, .gc_collecting = 95, .gc_counts_size = 97},
};
/* clang-format on */

static bool refuse(hk_py_layout *layout, const char *why)
{
    layout->stacks = false;
    layout->why = why;
    return false;
}

/* True if a field of `width` bytes at `offset` lies inside a structure of `size` bytes. */
static bool inside(int64_t offset, int64_t width, int64_t size)
{
    return offset >= 0 && offset + width <= size;
}

/* What holds in every CPython; words are not trusted before this says so. */
static bool is_sane(const hk_py_layout *l, const uint64_t *word, const struct shape *shape)
{
    int64_t thread_size = (int64_t)word[shape->thread_size];
    int64_t frame_size = (int64_t)word[shape->frame_size];
    int64_t interpreter_size = (int64_t)word[shape->interpreter_size];
    const int64_t most = 1 << 24;
    return thread_size > 100 && thread_size < most && frame_size >= 64 && frame_size < 1024 &&
           interpreter_size > 4096 && interpreter_size < most && l->code_size >= 128 &&
           l->code_size < 1024 && inside(l->interpreter_id, 8, interpreter_size) &&
           inside(l->interpreter_next, 8, interpreter_size) &&
           inside(l->interpreter_gil, 8, interpreter_size) &&
           inside(l->interpreter_own_gil, 8, interpreter_size) &&
           inside(l->thread_interpreter, 8, thread_size) &&
           inside(l->thread_frame, 8, thread_size) &&
           (l->thread_executor < 0 || inside(l->thread_executor, 8, thread_size)) &&
           inside(l->frame_previous, 8, frame_size) && inside(l->frame_code, 8, frame_size) &&
           inside(l->frame_instruction, 8, frame_size) && inside(l->frame_owner, 1, frame_size) &&
           inside(l->code_filename, 8, l->code_size) && inside(l->code_name, 8, l->code_size) &&
           inside(l->code_qualname, 8, l->code_size) &&
           inside(l->code_linetable, 8, l->code_size) &&
           inside(l->code_firstlineno, 4, l->code_size) &&
           inside(l->code_adaptive, 1, l->code_size) &&
           inside(l->code_first_traceable, 4, l->code_adaptive) && l->object_type == 8 &&
           l->bytes_length == 16 && l->bytes_data == 32 && l->unicode_length == 16 &&
           l->unicode_state == 32 && l->unicode_ascii_size == 40 && inside(l->type_flags, 8, 1024);
}

/* An offset as the table gives it; one that does not fit becomes -1, which no check accepts. */
static int32_t word_at(const uint64_t *word, int index)
{
    return word[index] < (1u << 24) ? (int32_t)word[index] : -1;
}

#define GC_HEAD_SIZE   24 /* of a generation: two pointers, two ints */
#define GC_COUNTS_SIZE 72 /* three numbers for each */

/* Struct _gc_runtime_state, whose first member are the generations, more or less, and one after them is permanent:
 *
 *      3.13   heads at 24 or 20, generation0, permanent, counts, collecting (at 200), garbage
 *      3.14   heads, permanent, counts, collecting, garbage
 *      3.15   heads at 8, permanent, pointer to the counts, collecting, frame, garbage
 *
 * What is found there is looked at before it is believed (collections.c). */
static void collector_from_debug_offsets(hk_py_layout *l, const uint64_t *word, const struct shape *s)
{
    int32_t gc = word_at(word, s->interpreter_gc), collecting = s->gc_collecting ? word_at(word, s->gc_collecting) : 200;
    const int32_t least = 4 * GC_HEAD_SIZE + GC_COUNTS_SIZE;
    if (gc <= 0 || collecting > 4096 || (int64_t)l->interpreter_size < gc + 4096 || collecting < (s->gc_counts_size ? 112 : least))
        return;
    l->gc_collecting = gc + collecting;
    l->gc_counts_size = s->gc_counts_size ? word_at(word, s->gc_counts_size) : GC_COUNTS_SIZE;
    l->gc_counts = s->gc_counts_size ? gc + word_at(word, s->gc_counts_size + 1) : l->gc_collecting - GC_COUNTS_SIZE;
    l->gc_garbage = l->gc_collecting + (s->gc_counts_size ? 16 : 8);
    l->gc_generations = s->gc_counts_size ? gc + 8 : s->gc_collecting ? l->gc_counts - 4 * GC_HEAD_SIZE : gc + 24;
}

static bool from_debug_offsets(hk_py_layout *l, const uint64_t *word, const struct shape *s)
{
    l->source = HK_PY_SOURCE_DEBUG_OFFSETS;
    l->raw_may_walk = true;
    l->runtime_interpreters = word_at(word, s->runtime_interpreters);
    l->runtime_main = -1;
    l->runtime_finalizing = word_at(word, s->runtime_interpreters - 1); /* they are neighbours in the table */
    l->interpreter_size = word[s->interpreter_size];
    l->interpreter_id = word_at(word, s->interpreter_id);
    l->interpreter_next = word_at(word, s->interpreter_next);
    l->interpreter_gil = word_at(word, s->interpreter_gil);
    l->interpreter_own_gil = word_at(word, s->interpreter_own_gil);
    l->thread_interpreter = word_at(word, s->thread_interpreter);
    l->thread_frame = word_at(word, s->thread_frame);
    l->cframe_current = -1;
    l->thread_executor = s->thread_executor;

    l->frames = HK_PY_FRAME_STRUCTS;
    l->frame_previous = word_at(word, s->frame_previous);
    l->frame_code = word_at(word, s->frame_previous + 1);
    l->frame_instruction = word_at(word, s->frame_previous + 2);
    l->frame_owner = word_at(word, s->frame_owner);
    l->first_shim_owner = s->first_shim_owner;
    l->code_tag_mask = s->code_tag_mask;
    l->has_init_trampoline = true;

    l->code_size = word_at(word, s->code_size);
    l->code_filename = word_at(word, s->code_size + 1);
    l->code_name = word_at(word, s->code_size + 2);
    l->code_qualname = word_at(word, s->code_size + 3);
    l->code_linetable = word_at(word, s->code_size + 4);
    l->code_firstlineno = word_at(word, s->code_size + 5);
    l->code_adaptive = word_at(word, s->code_adaptive);
    l->code_first_traceable = s->code_first_traceable;
    l->code_bytes = -1;

    l->object_type = word_at(word, s->object_type);
    l->type_flags = word_at(word, s->type_flags);
    l->bytes_length = word_at(word, s->bytes_length);
    l->bytes_data = word_at(word, s->bytes_length + 1);
    l->code_units = l->bytes_length; /* both are PyVarObject.ob_size */
    l->unicode_state = word_at(word, s->unicode_state);
    l->unicode_length = word_at(word, s->unicode_state + 1);
    l->unicode_ascii_size = word_at(word, s->unicode_state + 2);
    /* Public, unchanged since 3.12: the non-ASCII header adds a length and a pointer; bits of the
     * state word. */
    l->unicode_compact_size = l->unicode_ascii_size + 16;
    l->unicode_kind_shift = 2;
    l->unicode_compact_shift = 5;
    l->unicode_ascii_shift = 6;
    l->unicode_ready_shift = -1;
    collector_from_debug_offsets(l, word, s);
    return is_sane(l, word, s) ||
           refuse(l, "no Python stacks: the interpreter's table of offsets is not as expected");
}

static bool from_table(hk_py_layout *l, int minor)
{
    for (size_t i = 0; i < sizeof hk_py_layout_table / sizeof *hk_py_layout_table; i++) {
        if (hk_py_layout_table[i].minor != minor)
            continue;
        hk_py_layout row = hk_py_layout_table[i];
        row.present = l->present;
        row.debug = l->debug;
        row.trace_refs = l->trace_refs;
        row.version = l->version;
        row.source = HK_PY_SOURCE_TABLE;
        row.thread_executor = -1;
        *l = row;
        return true;
    }
    return false;
}

/* All but the addresses; false leaves a reason. */
static bool lay_out(hk_py_layout *l, const struct hk_py_facts *facts)
{
    if (l->version >> 24 != 3 || l->minor < OLDEST_MINOR)
        return refuse(l, "no Python stacks: this Python is older than 3.9");
    if (l->minor > NEWEST_MINOR)
        return refuse(l, "no Python stacks: this Python is newer than 3.15");
    if ((l->version >> 4 & 0xF) < FIRST_RELEASE_LEVEL)
        return refuse(l, "no Python stacks: this Python is a pre-release");
    if (l->minor < 13) {
        if (l->trace_refs)
            return refuse(l, "no Python stacks: this Python was built with trace-refs");
        return from_table(l, l->minor) || refuse(l, "no Python stacks: unknown version of Python");
    }
    if (!facts->debug_offsets)
        return refuse(l, "no Python stacks: the interpreter has no table of offsets");
    if ((uint32_t)facts->debug_offsets[1] != l->version)
        return refuse(l,
                      "no Python stacks: the interpreter's table of offsets is of another version");
    if (l->free_threaded)
        return refuse(l, "no Python stacks: this Python is free-threaded");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (shapes[i].minor == l->minor)
            return from_debug_offsets(l, facts->debug_offsets, &shapes[i]);
    return refuse(l, "no Python stacks: unknown version of Python");
}

void hk_py_layout_from(hk_py_layout *layout, const struct hk_py_facts *facts)
{
    memset(layout, 0, sizeof *layout);
    layout->present = true;
    layout->why = "";
    layout->version = facts->version;
    layout->minor = (int)(facts->version >> 16 & 0xFF);
    layout->debug = facts->debug;
    layout->trace_refs = facts->trace_refs;
    layout->free_threaded = facts->debug_offsets && (facts->debug_offsets[2] & 1);
    layout->thread_interpreter = layout->interpreter_id = layout->interpreter_gil = -1;
    layout->thread_executor = -1;
    if (lay_out(layout, facts)) {
        layout->stacks = true;
        layout->why = "";
    }
}

/* "3.9.18 (main, ...", "3.10.0rc2+ (...": PY_VERSION_HEX without the serial number; 0 if it is no
 * version. */
static uint32_t parse_version(const char *text)
{
    uint32_t part[3] = {0, 0, 0};
    for (int i = 0; i < 3; i++) {
        if (*text < '0' || *text > '9')
            return 0;
        while (*text >= '0' && *text <= '9' && part[i] < 1000)
            part[i] = part[i] * 10 + (uint32_t)(*text++ - '0');
        if (i < 2 && *text++ != '.')
            return 0;
        if (part[i] > 255)
            return 0;
    }
    uint32_t level = *text == 'a'                   ? 0xA
                     : *text == 'b'                 ? 0xB
                     : *text == 'r' || *text == 'c' ? 0xC
                                                    : 0xF;
    return part[0] << 24 | part[1] << 16 | part[2] << 8 | level << 4;
}

/* Function pointers come out of dlsym as object pointers; POSIX promises that they are the same
 * size. */
static void *(*function_named(const char *name))(void)
{
    void *address = dlsym(RTLD_DEFAULT, name);
    void *(*function)(void);
    memcpy(&function, &address, sizeof function);
    return function;
}

static uint32_t version_of_process(const uint64_t *debug_offsets)
{
    if (debug_offsets)
        return (uint32_t)debug_offsets[1];
    const unsigned long *constant = dlsym(RTLD_DEFAULT, "Py_Version"); /* 3.11 on */
    if (constant)
        return (uint32_t)*constant;
    const char *(*get_version)(void);
    void *(*found)(void) = function_named("Py_GetVersion");
    if (!found)
        return 0;
    memcpy(&get_version, &found, sizeof get_version);
    return parse_version(get_version()); /* may be called before Py_Initialize */
}

static bool find_addresses(hk_py_layout *l)
{
    l->code_type = dlsym(RTLD_DEFAULT, "PyCode_Type");
    l->unicode_type = dlsym(RTLD_DEFAULT, "PyUnicode_Type");
    l->bytes_type = dlsym(RTLD_DEFAULT, "PyBytes_Type");
    if (l->has_init_trampoline)
        l->init_cleanup = dlsym(RTLD_DEFAULT, "_Py_InitCleanup");
    l->thread_state = function_named("PyThreadState_GetUnchecked"); /* 3.13 on */
    if (!l->thread_state)
        l->thread_state = function_named("_PyThreadState_UncheckedGet");
    l->thread_state_of_thread = function_named("PyGILState_GetThisThreadState");
    return l->code_type && l->unicode_type && l->bytes_type && l->thread_state &&
           (l->raw_may_walk || l->thread_state_of_thread);
}

static uint64_t size_of_symbol(const void *address)
{
    Dl_info info;
    const ElfW(Sym) *symbol = NULL;
    return dladdr1(address, &info, (void **)&symbol, RTLD_DL_SYMENT) && symbol ? symbol->st_size
                                                                               : 0;
}

/* Tests ask whether the self-test notices a layout that is not this interpreter's. */
static void break_for_test(hk_py_layout *l)
{
    const char *which = secure_getenv("HEAPKEEPER_TEST_BREAK_LAYOUT");
    int32_t *const offsets[] = {&l->frame_code, &l->frame_previous, &l->frame_instruction, &l->thread_frame};
    if (which && which[0] >= '1' && which[0] <= '4')
        *offsets[which[0] - '1'] += 8;
    else if (which && which[0] == '6')
        l->gc_generations += 8;
    else if (which && which[0] == '5')
        refuse(l, "no Python stacks: unknown version of Python");
}

static void find_in_process(hk_py_layout *l)
{
    memset(l, 0, sizeof *l);
    l->why = "no Python in this process";
    l->thread_interpreter = l->interpreter_id = l->interpreter_gil = l->thread_executor = -1;
    const void *runtime = dlsym(RTLD_DEFAULT, "_PyRuntime");
    if (!runtime || !dlsym(RTLD_DEFAULT, "PyMem_SetAllocator"))
        return;

    struct hk_py_facts facts = {0};
    if (memcmp(runtime, "xdebugpy", 8) == 0)
        facts.debug_offsets = runtime;
    facts.version = version_of_process(facts.debug_offsets);
    /* Each is compiled into such builds only. */
    facts.debug = dlsym(RTLD_DEFAULT, "_Py_NegativeRefcount") != NULL;
    facts.trace_refs = dlsym(RTLD_DEFAULT, "PyModule_Create2TraceRefs") != NULL;
    hk_py_layout_from(l, &facts);
    l->runtime = runtime;
    l->runtime_size = size_of_symbol(runtime);
    if (!find_addresses(l) && l->stacks)
        refuse(l, "no Python stacks: the interpreter hides symbols that are needed");
    break_for_test(l);
}

const hk_py_layout *hk_py_layout_find(void)
{
    static hk_py_layout layout;
    static atomic_bool found;
    if (!atomic_load_explicit(&found, memory_order_acquire)) {
        find_in_process(&layout);
        atomic_store_explicit(&found, true, memory_order_release);
    }
    return &layout;
}

static const void *pointer_at(const void *base, int32_t offset)
{
    const void *value;
    memcpy(&value, (const char *)base + offset, sizeof value);
    return value;
}

/* 3.12 has no table, and the size differs between micro versions. But the main interpreter is
 * embedded in _PyRuntime as its last member, and the symbol table knows how long _PyRuntime is. */
uint64_t hk_py_interpreter_size(const hk_py_layout *layout)
{
    if (!layout->stacks)
        return 0;
    if (layout->minor != 12)
        return layout->interpreter_size;
    const char *main_interpreter = pointer_at(layout->runtime, layout->runtime_main);
    uint64_t at = (uint64_t)(main_interpreter - (const char *)layout->runtime);
    return main_interpreter && at < layout->runtime_size ? layout->runtime_size - at : 0;
}

static const void *interpreter_of(const hk_py_layout *layout, const void *thread_state)
{
    if (!layout->stacks || !thread_state)
        return NULL;
    return pointer_at(thread_state, layout->thread_interpreter);
}

static int64_t id_of(const hk_py_layout *layout, const void *interpreter)
{
    int64_t id;
    memcpy(&id, (const char *)interpreter + layout->interpreter_id, sizeof id);
    return id;
}

static bool has_own_gil(const hk_py_layout *layout, const void *interpreter)
{
    return pointer_at(interpreter, layout->interpreter_gil) == (const char *)interpreter + layout->interpreter_own_gil;
}

HK_HOT int64_t hk_py_interpreter_id(const hk_py_layout *layout, const void *thread_state)
{
    const void *interpreter = interpreter_of(layout, thread_state);
    return interpreter ? id_of(layout, interpreter) : -1;
}

HK_HOT bool hk_py_interp_has_own_gil(const hk_py_layout *layout, const void *thread_state)
{
    const void *interpreter = interpreter_of(layout, thread_state);
    if (!interpreter)
        return false;
    if (layout->interpreter_gil < 0)
        return hk_py_interpreter_id(layout, thread_state) == 0;
    return has_own_gil(layout, interpreter);
}

bool hk_py_some_have_own_gil(const hk_py_layout *layout)
{
    const void *interpreter = layout->interpreter_gil < 0 ? NULL : pointer_at(layout->runtime, layout->runtime_interpreters);
    for (; interpreter; interpreter = pointer_at(interpreter, layout->interpreter_next))
        if (id_of(layout, interpreter) != 0 && has_own_gil(layout, interpreter))
            return true;
    return false;
}
