/* The face of windows and traces in Python: functions with the names and meanings of CPython's _tracemalloc, and some of our own
 * for heapkeeper.Tracker. */
#ifndef HK_HOSTS_CPYTHON_TRACEMALLOC_H
#define HK_HOSTS_CPYTHON_TRACEMALLOC_H

#include "heapkeeper/heap.h"

/* A new module object (a new reference, PyObject *) with these functions; NULL with a Python exception. The caller holds the
 * GIL of the main interpreter (ctypes.PyDLL). Not in a hook. */
HK_API void *hk_python_tracing(void);

/* Before Python is initialised: `import _tracemalloc` gives this module, and what -X tracemalloc or PYTHONTRACEMALLOC started is
 * stopped, and goes on here. */
void hk_cpython_tracemalloc_prepare(void);
/* Another hook stands before us: perhaps the interpreter's own tracemalloc, which is to be stopped soon. hook: yes. */
void hk_cpython_tracemalloc_ask(void);

#endif
