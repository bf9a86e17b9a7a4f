/* Read capi.h and windows.h first.
 *
 *      CPython's _tracemalloc     start stop is_tracing clear_traces get_traced_memory reset_peak get_traceback_limit
 *                                 get_tracemalloc_memory _get_traces _get_object_traceback
 *      our own                    _why_not _has_native; windows: _open _freeze _close _restart _figures _reset_peak _sums _at_peak; what lives:
 *                                 _collect, _collect_traced, _look (bytes objects: struct hk_group); and what is made of these: _group, _traces
 *
 * CPython's own module begins empty at start(): here that is a window (windows.h). Whatever is allocated to make an
 * answer belongs to no window, as CPython's own does not trace that.
 *
 * Under `run --tracemalloc` the table of built-in modules has our _tracemalloc in the place of CPython's, so that the standard
 * library's tracemalloc.py stands on it. Where the interpreter itself has begun to trace, that is stopped, and
 * everything that we have recorded since the process began belongs to our window. */
#include "hosts/cpython/tracemalloc.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "heap/slots.h"
#include "heap/threads.h"
#include "hosts/cpython/exact.h"
#include "hosts/cpython/trace_objects.h"
#include "hosts/cpython/tracked.h"
#include "hosts/cpython/windows.h"
#include "record/exact.h"
#include "record/look.h"

static struct {
    int window; /* -1: not tracing */
    uint32_t limit;
} tracing = {-1, 1};

/* --- what stands in the way --- */

static const char *why_not(void)
{
    struct hk_look look;
    const void *state;
    if (hk_python.layout == NULL || hk_python.interpreters == NULL)
        return "this process does not run on heapkeeper's heap: start it with `heapkeeper run --exact`";
    if (!hk_python.exact)
        return "allocations are not recorded exactly: start the program with `heapkeeper run --exact`; if that was done, "
               "`heapkeeper report` says why it was not possible";
    if (!hk_cpython_serves())
        return HK_CPYTHON_REPLACED;
    if (!hk_look(&look))
        return "nothing is being recorded any more; `heapkeeper report` says why";
    state = hk_py_this_thread_state(hk_python.layout);
    if (hk_python.many && state != NULL && hk_py_interpreter_id(hk_python.layout, state) != 0)
        return "this is not the main interpreter, whose allocations alone can be looked at from inside";
    return NULL;
}

static bool may_work(void)
{
    const char *why = why_not();
    if (why != NULL)
        hk_capi.PyErr_Format(*hk_capi.runtime_error, "heapkeeper: %s", why);
    return why == NULL;
}

/* --- while an answer is made --- */

/* What allocates in here belongs to no window. */
static void pause(void)
{
    hk_windows.paused++;
}

static object *resume(object *result)
{
    hk_windows.paused--;
    return result;
}

/* --- objects from free lists, which no allocator sees: 3.13 on, unless somebody else traces references --- */

static int reference_made(object *made, int event, void *unused)
{
    if (event == 0) /* PyRefTracer_CREATE */
        hk_cpython_exact_reborn(made);
    return 0;
}

/* After a window was opened or closed. There is one place for a tracer. */
static void trace_references(void)
{
    void *data;
    if (hk_capi.set_tracer == NULL || hk_capi.get_tracer == NULL)
        return;
    int (*now)(object *, int, void *) = hk_capi.get_tracer(&data);
    if (hk_windows.end != 0 && now == NULL)
        hk_capi.set_tracer(reference_made, NULL);
    else if (hk_windows.end == 0 && now == reference_made)
        hk_capi.set_tracer(NULL, NULL);
}

/* --- our own functions --- */

static object *why_not_object(object *self, object *unused)
{
    return hk_capi_text(why_not());
}

/* What every site had allocated when the window was opened. */
static struct totals {
    struct hk_group *groups;
    size_t count;
} opened[HK_WINDOWS];

static void subtract(struct hk_group *groups, size_t count, const struct totals *before)
{
    for (size_t i = 0; i < count && i < before->count; i++) {
        groups[i].bytes -= before->groups[i].bytes;
        groups[i].blocks -= before->groups[i].blocks;
    }
}

static object *groups_object(bool good, struct hk_group *groups, size_t count)
{
    pause();
    object *bytes = good ? hk_capi.PyBytes_FromStringAndSize((const char *)groups, (ssize_t)(count * sizeof *groups)) : hk_capi.PyErr_NoMemory();
    hk_traces_free(groups, count * sizeof *groups);
    return resume(bytes);
}

static object *has_native(object *self, object *unused)
{
    return hk_capi.PyBool_FromLong(hk_process_heap != NULL);
}

static object *open_window(object *self, object *arguments)
{
    int everything = 0, at_peak = 0, this_thread = 0, totals = 1, native = 0;
    if (!hk_capi.PyArg_ParseTuple(arguments, "|ppppp:_open", &everything, &at_peak, &this_thread, &totals, &native) || !may_work())
        return NULL;
    struct totals before = {NULL, 0};
    struct hk_window_options options = {everything, at_peak, this_thread, native};
    int window = !totals || hk_traces_totals(&before.groups, &before.count) ? hk_window_open(options) : -1;
    if (window >= 0)
        opened[window] = before;
    else
        hk_traces_free(before.groups, before.count * sizeof *before.groups);
    if (window < 0)
        return hk_capi.PyErr_Format(*hk_capi.runtime_error, "heapkeeper: %d trackers are at work already, or there is no memory for another",
                               HK_WINDOWS);
    trace_references();
    return hk_capi.PyLong_FromLong(window);
}

static bool is_open(int window)
{
    bool open = window >= 0 && window < HK_WINDOWS && hk_windows.at[window].first != 0;
    if (!open)
        hk_capi.PyErr_Format(*hk_capi.value_error, "no such window: %d", window);
    return open;
}

static int window_of(object *arguments, const char *format)
{
    int window;
    return hk_capi.PyArg_ParseTuple(arguments, format, &window) && is_open(window) ? window : -1;
}

static object *close_window(object *self, object *arguments)
{
    int window = window_of(arguments, "i:_close");
    if (window < 0)
        return NULL;
    hk_window_close(window);
    trace_references();
    hk_traces_free(opened[window].groups, opened[window].count * sizeof *opened[window].groups);
    opened[window] = (struct totals){NULL, 0};
    return hk_capi_none();
}

#define ON_WINDOW(name, format, call)                     \
    static object *name(object *self, object *arguments)  \
    {                                                     \
        int window = window_of(arguments, format);        \
        if (window < 0)                                   \
            return NULL;                                  \
        call(window);                                     \
        return hk_capi_none();                            \
    }

ON_WINDOW(freeze_window, "i:_freeze", hk_window_freeze)
ON_WINDOW(restart_window, "i:_restart", hk_window_restart)
ON_WINDOW(reset_window_peak, "i:_reset_peak", hk_window_reset_peak)

static object *figures(int window)
{
    uint64_t live = 0, peak = 0;
    if (window >= 0)
        hk_window_figures(window, &live, &peak);
    return hk_capi_tuple(hk_capi.PyLong_FromUnsignedLongLong(live), hk_capi.PyLong_FromUnsignedLongLong(peak), NULL, NULL, 2);
}

static object *window_figures(object *self, object *arguments)
{
    int window = window_of(arguments, "i:_figures");
    if (window < 0)
        return NULL;
    pause();
    return resume(figures(window));
}

/* (live bytes, peak bytes, bytes and blocks that were allocated since the window was opened). */
static object *window_sums(object *self, object *arguments)
{
    int window = window_of(arguments, "i:_sums");
    uint64_t live, peak;
    if (window < 0)
        return NULL;
    hk_window_figures(window, &live, &peak);
    const struct hk_window *at = &hk_windows.at[window];
    uint64_t bytes = __atomic_load_n(&at->born_bytes, __ATOMIC_RELAXED), blocks = __atomic_load_n(&at->born_blocks, __ATOMIC_RELAXED);
    pause();
    return resume(hk_capi_tuple(hk_capi.PyLong_FromUnsignedLongLong(live), hk_capi.PyLong_FromUnsignedLongLong(peak),
                             hk_capi.PyLong_FromUnsignedLongLong(bytes), hk_capi.PyLong_FromUnsignedLongLong(blocks), 4));
}

/* What each site had at the peak of a window that keeps it. */
static object *window_at_peak(object *self, object *arguments)
{
    int window = window_of(arguments, "i:_at_peak");
    struct hk_group *groups;
    size_t count;
    if (window < 0 || !may_work())
        return NULL;
    bool good = hk_traces_at_peak(window, &groups, &count);
    return groups_object(good, groups, count);
}

static object *collect(object *self, object *arguments)
{
    struct hk_group *groups;
    size_t count;
    int window = -1;
    if (!hk_capi.PyArg_ParseTuple(arguments, "|i:_collect", &window) || (window != -1 && !is_open(window)) || !may_work())
        return NULL;
    bool good = hk_traces_collect(window, &groups, &count);
    return groups_object(good, groups, count);
}

static bool collect_all(struct hk_group **groups, size_t *count)
{
    return hk_traces_collect(tracing.window, groups, count) && hk_tracked_append(groups, count);
}

/* Of what tracemalloc traces. */
static object *collect_traced(object *self, object *unused)
{
    struct hk_group *groups = NULL;
    size_t count = 0;
    if (tracing.window >= 0 && !may_work())
        return NULL;
    bool good = tracing.window < 0 || collect_all(&groups, &count);
    return groups_object(good, groups, count);
}

/* (live bytes, peak bytes, what lives, what was allocated since the window was opened). All of it is of one moment. */
static object *look(object *self, object *arguments)
{
    int window = window_of(arguments, "i:_look");
    struct hk_group *live = NULL, *allocated = NULL;
    size_t live_count = 0, count = 0;
    uint64_t bytes, peak;
    if (window < 0 || !may_work())
        return NULL;
    hk_window_figures(window, &bytes, &peak);
    bool good = hk_traces_collect(window, &live, &live_count) && hk_traces_totals(&allocated, &count);
    if (good)
        subtract(allocated, count, &opened[window]);
    pause();
    object *result = hk_capi_tuple(hk_capi.PyLong_FromUnsignedLongLong(bytes), hk_capi.PyLong_FromUnsignedLongLong(peak),
                                groups_object(good, live, live_count), groups_object(good, allocated, count), 4);
    return resume(result);
}

static bool take_groups(object *bytes, const struct hk_group **groups, size_t *count)
{
    char *data;
    ssize_t size;
    if (hk_capi.PyBytes_AsStringAndSize(bytes, &data, &size) != 0 || !may_work())
        return false;
    *groups = (const void *)data;
    *count = (size_t)size / sizeof **groups;
    return true;
}

static object *group(object *self, object *arguments)
{
    object *bytes;
    const struct hk_group *groups;
    size_t count;
    int key, limit, cumulative, as_cpython;
    if (!hk_capi.PyArg_ParseTuple(arguments, "Oiipp:_group", &bytes, &key, &limit, &cumulative, &as_cpython) || !take_groups(bytes, &groups, &count))
        return NULL;
    if (key < HK_BY_LINE || key > HK_BY_CALL || limit < 1)
        return hk_capi.PyErr_Format(*hk_capi.value_error, "no such key, or a limit below 1");
    struct hk_traces_options options = {(enum hk_traces_key)key, (uint32_t)limit, false, cumulative, as_cpython};
    pause();
    return resume(hk_trace_objects(groups, count, &options, HK_SUMS));
}

static object *traces(object *self, object *arguments)
{
    object *bytes;
    const struct hk_group *groups;
    size_t count;
    int limit;
    if (!hk_capi.PyArg_ParseTuple(arguments, "Oi:_traces", &bytes, &limit) || !take_groups(bytes, &groups, &count))
        return NULL;
    struct hk_traces_options options = {HK_BY_LINE, (uint32_t)limit, true, false, true};
    for (size_t i = 0; i < count; i++)
        if (groups[i].blocks == 0)
            return hk_capi.PyErr_Format(*hk_capi.value_error, "a group without blocks");
    pause();
    return resume(hk_trace_objects(groups, count, &options, HK_TRACES));
}

/* --- CPython's --- */

static object *start(object *self, object *arguments)
{
    int limit = 1;
    if (!hk_capi.PyArg_ParseTuple(arguments, "|i:start", &limit))
        return NULL;
    if (limit < 1 || limit > HK_MOST_FRAMES)
        return hk_capi.PyErr_Format(*hk_capi.value_error, "the number of frames must be in range [1; %d]", HK_MOST_FRAMES);
    if (tracing.window >= 0)
        return hk_capi_none();
    if (!may_work())
        return NULL;
    tracing.window = hk_window_open((struct hk_window_options){0});
    if (tracing.window < 0)
        return hk_capi.PyErr_NoMemory();
    tracing.limit = (uint32_t)limit;
    trace_references();
    return hk_capi_none();
}

static object *stop(object *self, object *unused)
{
    if (tracing.window >= 0)
        hk_window_close(tracing.window);
    tracing.window = -1;
    hk_tracked_clear();
    trace_references();
    return hk_capi_none();
}

static object *is_tracing(object *self, object *unused)
{
    return hk_capi.PyBool_FromLong(tracing.window >= 0);
}

static object *clear_traces(object *self, object *unused)
{
    if (tracing.window >= 0)
        hk_window_restart(tracing.window);
    hk_tracked_clear();
    return hk_capi_none();
}

static object *get_traced_memory(object *self, object *unused)
{
    return figures(tracing.window);
}

static object *reset_peak(object *self, object *unused)
{
    if (tracing.window >= 0)
        hk_window_reset_peak(tracing.window);
    return hk_capi_none();
}

static object *get_traceback_limit(object *self, object *unused)
{
    return hk_capi.PyLong_FromLong((long)tracing.limit);
}

static object *get_tracemalloc_memory(object *self, object *unused)
{
    return hk_capi.PyLong_FromUnsignedLongLong(hk_slots_bytes() + hk_look_own_bytes());
}

static object *get_traces(object *self, object *unused)
{
    struct hk_group *groups = NULL;
    size_t count = 0;
    if (tracing.window < 0)
        return hk_capi.PyList_New(0);
    if (!may_work())
        return NULL;
    struct hk_traces_options options = {HK_BY_LINE, tracing.limit, true, false, true};
    pause();
    object *list = collect_all(&groups, &count) ? hk_trace_objects(groups, count, &options, HK_TRACES_FLAT) : hk_capi.PyErr_NoMemory();
    hk_traces_free(groups, count * sizeof *groups);
    return resume(list);
}

static object *traceback_of_site(uint32_t site, uint32_t limit)
{
    struct hk_group found = {.blocks = 1, .site = site};
    struct hk_traces_options options = {HK_BY_LINE, limit, true, false, true};
    pause();
    return resume(hk_trace_objects(&found, 1, &options, HK_TRACEBACK));
}

static object *get_object_traceback(object *self, object *asked)
{
    struct hk_group found;
    if (tracing.window < 0 || !hk_traces_find(asked, tracing.window, &found))
        return hk_capi_none();
    return traceback_of_site(found.site, tracing.limit);
}

/* --- what C code tells of memory of its own: PyTraceMalloc_*. Extension modules find ours, which comes before the interpreter's --- */

HK_API int PyTraceMalloc_Track(unsigned domain, uintptr_t address, size_t size);
HK_API int PyTraceMalloc_Untrack(unsigned domain, uintptr_t address);
HK_API void *_PyTraceMalloc_GetTraceback(unsigned domain, uintptr_t address); /* CPython's tests */

enum { DISABLED = -2 }; /* what CPython answers then */

int PyTraceMalloc_Track(unsigned domain, uintptr_t address, size_t size)
{
    static int (*theirs)(unsigned, uintptr_t, size_t);
    if (tracing.window < 0) {
        if (theirs == NULL)
            *(void **)&theirs = dlsym(RTLD_NEXT, "PyTraceMalloc_Track");
        return theirs != NULL ? theirs(domain, address, size) : DISABLED;
    }
    int state = hk_capi.PyGILState_Ensure(), result = -1;
    uint32_t site = hk_cpython_exact_site_here();
    size_t had;
    if (tracing.window < 0) {
        result = DISABLED;
    } else if (site != HK_EXACT_NONE && hk_tracked_put(domain, address, size, site, &had)) {
        hk_window_add(tracing.window, (int64_t)size - (int64_t)had);
        result = 0;
    }
    hk_capi.PyGILState_Release(state);
    return result;
}

int PyTraceMalloc_Untrack(unsigned domain, uintptr_t address)
{
    static int (*theirs)(unsigned, uintptr_t);
    if (tracing.window < 0) {
        if (theirs == NULL)
            *(void **)&theirs = dlsym(RTLD_NEXT, "PyTraceMalloc_Untrack");
        return theirs != NULL ? theirs(domain, address) : DISABLED;
    }
    int state = hk_capi.PyGILState_Ensure();
    size_t had;
    if (hk_tracked_remove(domain, address, &had) && tracing.window >= 0)
        hk_window_add(tracing.window, -(int64_t)had);
    hk_capi.PyGILState_Release(state);
    return 0;
}

void *_PyTraceMalloc_GetTraceback(unsigned domain, uintptr_t address)
{
    static void *(*theirs)(unsigned, uintptr_t);
    const struct hk_tracked *found = tracing.window >= 0 ? hk_tracked_find(domain, address) : NULL;
    if (tracing.window >= 0)
        return found != NULL ? traceback_of_site(found->site - 1, tracing.limit) : hk_capi_none();
    if (theirs == NULL)
        *(void **)&theirs = dlsym(RTLD_NEXT, "_PyTraceMalloc_GetTraceback");
    return theirs != NULL ? theirs(domain, address) : NULL;
}

static struct method methods[] = {
    {"is_tracing", is_tracing, NO_ARGUMENTS,
     "is_tracing($module, /)\n--\n\nReturn True if the tracemalloc module is tracing Python memory allocations."},
    {"clear_traces", clear_traces, NO_ARGUMENTS, "clear_traces($module, /)\n--\n\nClear traces of memory blocks allocated by Python."},
    {"_get_traces", get_traces, NO_ARGUMENTS,
     "_get_traces($module, /)\n--\n\nGet traces of all memory blocks allocated by Python.\n\n"
     "Return a list of (domain, size: int, traceback: tuple, total_nframe: int) tuples."},
    {"_get_object_traceback", get_object_traceback, ONE_ARGUMENT,
     "_get_object_traceback($module, obj, /)\n--\n\nGet the traceback where the Python object obj was allocated."},
    {"start", start, VARIABLE,
     "start($module, nframe=1, /)\n--\n\nStart tracing Python memory allocations.\n\n"
     "Also set the maximum number of frames stored in the traceback of a trace to nframe."},
    {"stop", stop, NO_ARGUMENTS, "stop($module, /)\n--\n\nStop tracing Python memory allocations."},
    {"get_traceback_limit", get_traceback_limit, NO_ARGUMENTS,
     "get_traceback_limit($module, /)\n--\n\nGet the maximum number of frames stored in the traceback of a trace."},
    {"get_tracemalloc_memory", get_tracemalloc_memory, NO_ARGUMENTS,
     "get_tracemalloc_memory($module, /)\n--\n\nGet the memory usage in bytes of what keeps the traces."},
    {"get_traced_memory", get_traced_memory, NO_ARGUMENTS,
     "get_traced_memory($module, /)\n--\n\nGet the current size and peak size of memory blocks traced by tracemalloc, in bytes."},
    {"reset_peak", reset_peak, NO_ARGUMENTS,
     "reset_peak($module, /)\n--\n\nSet the peak size of memory blocks traced by tracemalloc to the current size."},
    {"_why_not", why_not_object, NO_ARGUMENTS, NULL},
    {"_has_native", has_native, NO_ARGUMENTS, NULL},
    {"_open", open_window, VARIABLE, NULL},
    {"_freeze", freeze_window, VARIABLE, NULL},
    {"_close", close_window, VARIABLE, NULL},
    {"_restart", restart_window, VARIABLE, NULL},
    {"_figures", window_figures, VARIABLE, NULL},
    {"_reset_peak", reset_window_peak, VARIABLE, NULL},
    {"_sums", window_sums, VARIABLE, NULL},
    {"_at_peak", window_at_peak, VARIABLE, NULL},
    {"_collect", collect, VARIABLE, NULL},
    {"_collect_traced", collect_traced, NO_ARGUMENTS, NULL},
    {"_look", look, VARIABLE, NULL},
    {"_group", group, VARIABLE, NULL},
    {"_traces", traces, VARIABLE, NULL},
    {NULL, NULL, 0, NULL},
};

void *hk_python_tracing(void)
{
    return hk_capi_module("_tracemalloc", methods);
}

/* --- run --tracemalloc --- */

static object *(*original)(void); /* CPython's PyInit__tracemalloc */

static object *call_original(struct method *list, const char *name)
{
    for (; list->name != NULL; list++)
        if (strcmp(list->name, name) == 0)
            return list->call(NULL, NULL);
    return NULL;
}

/* What the interpreter itself traces goes on here, with all that was recorded before. */
static void take_over(void)
{
    if (original == NULL || tracing.window >= 0 || !hk_capi_find() || why_not() != NULL)
        return;
    object *theirs = original();
    if (theirs == NULL) {
        hk_capi.PyErr_Clear();
        return;
    }
    struct module *description = (struct module *)theirs;
    if (description->type != hk_capi.module_type)
        description = hk_capi.PyModule_GetDef(theirs);
    struct method *list = description->methods;
    object *limit = call_original(list, "get_traceback_limit"), *traces = call_original(list, "is_tracing");
    object *yes = hk_capi.PyBool_FromLong(1);
    if (traces == yes && limit != NULL) {
        object *stopped = call_original(list, "stop");
        if (stopped != NULL)
            hk_capi.Py_DecRef(stopped);
        tracing.limit = (uint32_t)hk_capi.PyLong_AsLong(limit);
        tracing.window = hk_window_open((struct hk_window_options){.everything = true});
        trace_references();
    }
    hk_capi.Py_DecRef(yes);
    hk_capi.Py_DecRef(traces);
    hk_capi.Py_DecRef(limit);
}

static bool asked;

static int take_over_pending(void *unused)
{
    take_over();
    return 0;
}

void hk_cpython_tracemalloc_ask(void)
{
    if (original == NULL || asked || hk_python.add_pending_call == NULL || hk_python.is_initialized == NULL ||
        !hk_python.is_initialized()) /* it begins before that; site and the program come after */
        return;
    asked = true;
    hk_python.add_pending_call(take_over_pending, NULL);
}

static object *init(void)
{
    static struct module module = {
        .references = 1,
        .name = "_tracemalloc",
        .documentation = "Debug module to trace memory blocks allocated by Python: heapkeeper's.",
        .methods = methods,
    };
    if (!hk_capi_find())
        return NULL;
    if (why_not() != NULL)
        return original();
    take_over();
    return hk_capi.PyModuleDef_Init(&module);
}

void hk_cpython_tracemalloc_prepare(void)
{
    enum { MOST = 255 };
    static struct builtin table[MOST + 1];
    struct builtin **theirs = dlsym(RTLD_DEFAULT, "PyImport_Inittab");
    size_t count = 0;
    while (theirs != NULL && *theirs != NULL && count <= MOST && (*theirs)[count].name != NULL)
        count++;
    if (count == 0 || count > MOST)
        return;
    memcpy(table, *theirs, count * sizeof *table);
    for (size_t i = 0; i < count; i++)
        if (strcmp(table[i].name, "_tracemalloc") == 0) {
            original = table[i].init;
            table[i].init = init;
        }
    if (original != NULL)
        *theirs = table;
}
