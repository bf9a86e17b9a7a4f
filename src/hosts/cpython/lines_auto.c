/* `heapkeeper run --lines`: lines are profiled in a program that knows nothing of it.
 *
 * An audit hook (PEP 578) is told of all code that is executed as a module. Before the program itself begins, at the event that announces
 * it, heapkeeper/lines_run.py is loaded, from where the command found it; it is given each module's code object, and chooses
 * functions in it.
 *
 *   HEAPKEEPER_LINES         patterns; "": functions of the main script
 *   HEAPKEEPER_LINES_MODULE  path of lines_run.py
 *   HEAPKEEPER_LINES_OUTPUT  of --lines-output
 *   HEAPKEEPER_LINES_RSS     1: with what the resident size changed by
 *   HEAPKEEPER_LINES_PID     the process that the command became, which alone says something on stderr */
#include "hosts/cpython/lines_auto.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hosts/cpython/capi.h"
#include "hosts/cpython/internal.h"

static enum { OFF, WANTED, BEGINNING, AT_WORK } state;
static bool was_loaded; /* which says itself what stands in its way */
static object *consider; /* a function of one code object */

/* In a namespace of its own: the program's modules are as without, but for heapkeeper's. */
static const char begin[] =
    "def begin():\n"
    "    import os, sys\n"
    "    package = os.path.dirname(os.environ['HEAPKEEPER_LINES_MODULE'])\n"
    "    if 'heapkeeper' not in sys.modules:\n"
    "        from importlib.util import module_from_spec, spec_from_file_location\n"
    "        spec = spec_from_file_location('heapkeeper', os.path.join(package, '__init__.py'), submodule_search_locations=[package])\n"
    "        sys.modules['heapkeeper'] = module_from_spec(spec)\n"
    "        spec.loader.exec_module(sys.modules['heapkeeper'])\n"
    "    from heapkeeper import lines_run\n"
    "    return lines_run.begin()\n"
    "consider = begin()\n";

static void load(void)
{
    enum { FILE_INPUT = 257 }; /* Py_file_input */
    state = BEGINNING;
    was_loaded = true;
    object *names = hk_capi.PyDict_New(), *done = NULL;
    if (names != NULL && hk_capi.PyDict_SetItemString(names, "__builtins__", hk_capi.PyEval_GetBuiltins()) == 0)
        done = hk_capi.PyRun_String(begin, FILE_INPUT, names, names);
    consider = done != NULL ? hk_capi.PyDict_GetItemString(names, "consider") : NULL;
    if (done == NULL)
        hk_capi.PyErr_Print();
    if (consider == hk_capi.none)
        consider = NULL;
    if (consider != NULL)
        hk_capi.Py_IncRef(consider);
    state = consider != NULL ? AT_WORK : OFF;
}

static void executed(object *arguments)
{
    object *code = hk_capi.PyTuple_GetItem(arguments, 0);
    object *done = code != NULL ? hk_capi.PyObject_CallFunctionObjArgs(consider, code, NULL) : NULL;
    if (done != NULL)
        hk_capi.Py_DecRef(done);
    else
        hk_capi.PyErr_Print();
}

static bool in_main_interpreter(void)
{
    const void *thread = hk_py_this_thread_state(hk_python.layout);
    return thread != NULL && hk_py_interpreter_id(hk_python.layout, thread) <= 0;
}

static int audit(const char *event, void *arguments, void *data)
{
    if (state == AT_WORK && event[0] == 'e' && strcmp(event, "exec") == 0 && in_main_interpreter())
        executed(arguments);
    else if (state == WANTED && event[0] == 'c' && strncmp(event, "cpython.run_", 12) == 0 && hk_capi_find() && in_main_interpreter())
        load();
    return 0;
}

static bool is_first_process(void)
{
    const char *pid = secure_getenv("HEAPKEEPER_LINES_PID");
    return pid != NULL && strtol(pid, NULL, 10) == (long)getpid();
}

bool hk_cpython_lines_wanted(void)
{
    if (hk_python.add_audit_hook == NULL || secure_getenv("HEAPKEEPER_LINES") == NULL || secure_getenv("HEAPKEEPER_LINES_MODULE") == NULL)
        return false;
    return secure_getenv("HEAPKEEPER_LINES_OUTPUT") != NULL || is_first_process();
}

void hk_cpython_lines_watch(void)
{
    if (!hk_cpython_lines_wanted() || state != OFF)
        return;
    state = WANTED;
    hk_python.add_audit_hook(audit, NULL);
}

void hk_cpython_lines_at_exit(void)
{
    const hk_py_layout *layout = hk_python.layout;
    if (layout == NULL || !layout->present || was_loaded || secure_getenv("HEAPKEEPER_LINES") == NULL || !is_first_process())
        return;
    if (layout->stacks && (state == WANTED || hk_cpython_is_unsettled())) /* `python --version` begins no program */
        return;
    char text[256];
    int size = snprintf(text, sizeof(text), "heapkeeper: --lines: %s\n", !layout->stacks && layout->why != NULL && *layout->why ? layout->why :
                        "nothing was profiled: this Python does not run on heapkeeper's heap; `heapkeeper report` says why");
    if (write(STDERR_FILENO, text, size < (int)sizeof(text) ? (size_t)size : sizeof(text) - 1) < 0)
        return; /* there is nobody to tell */
}
