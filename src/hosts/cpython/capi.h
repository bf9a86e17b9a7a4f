/* Modules of Python's in C without Python's headers: the functions of its API that we call are looked up by name, and the
 * structures that describe a module are declared here (they are part of the stable ABI). Under the GIL; not in a hook. */
#ifndef HK_HOSTS_CPYTHON_CAPI_H
#define HK_HOSTS_CPYTHON_CAPI_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct object object; /* PyObject */

struct method { /* PyMethodDef */
    const char *name;
    object *(*call)(object *self, object *arguments);
    int flags;
    const char *documentation;
};
enum { VARIABLE = 1, NO_ARGUMENTS = 4, ONE_ARGUMENT = 8 }; /* METH_VARARGS, METH_NOARGS, METH_O */

struct module_slot {
    int slot;
    void *value;
};

struct module { /* PyModuleDef */
    ssize_t references;
    void *type;
    object *(*init)(void);
    ssize_t index;
    object *copy;
    const char *name, *documentation;
    ssize_t size;
    struct method *methods;
    struct module_slot *slots;
    void *traverse, *clear, *free;
};

struct type_member { /* PyMemberDef */
    const char *name;
    int type;
    ssize_t offset;
    int flags;
    const char *documentation;
};

struct type_spec { /* PyType_Spec */
    const char *name;
    int size, item_size;
    unsigned flags;
    struct module_slot *slots; /* PyType_Slot: the same shape */
};

struct builtin { /* struct _inittab */
    const char *name;
    object *(*init)(void);
};

#define HK_CAPI_FUNCTIONS(X)                                                            \
    X(object *, PyList_New, (ssize_t))                                                  \
    X(int, PyList_SetItem, (object *, ssize_t, object *))                               \
    X(object *, PyTuple_New, (ssize_t))                                                 \
    X(int, PyTuple_SetItem, (object *, ssize_t, object *))                              \
    X(object *, PyLong_FromUnsignedLongLong, (unsigned long long))                      \
    X(object *, PyLong_FromLong, (long))                                                \
    X(object *, PyBool_FromLong, (long))                                                \
    X(object *, PyUnicode_DecodeUTF8, (const char *, ssize_t, const char *))            \
    X(object *, PyBytes_FromStringAndSize, (const char *, ssize_t))                     \
    X(int, PyBytes_AsStringAndSize, (object *, char **, ssize_t *))                     \
    X(int, PyArg_ParseTuple, (object *, const char *, ...))                             \
    X(object *, PyErr_Format, (object *, const char *, ...))                            \
    X(object *, PyErr_NoMemory, (void))                                                 \
    X(void, PyErr_Clear, (void))                                                        \
    X(void, Py_IncRef, (object *))                                                      \
    X(void, Py_DecRef, (object *))                                                      \
    X(object *, PyModule_New, (const char *))                                           \
    X(int, PyModule_AddFunctions, (object *, struct method *))                          \
    X(struct module *, PyModule_GetDef, (object *))                                     \
    X(object *, PyModuleDef_Init, (struct module *))                                    \
    X(long, PyLong_AsLong, (object *))                                                  \
    X(int, PyCode_Addr2Line, (object *, int))                                           \
    X(object *, PyDict_New, (void))                                                     \
    X(int, PyDict_SetItemString, (object *, const char *, object *))                    \
    X(object *, PyDict_GetItemString, (object *, const char *))                         \
    X(object *, PyEval_GetBuiltins, (void))                                             \
    X(object *, PyRun_String, (const char *, int, object *, object *))                  \
    X(void, PyErr_Print, (void))                                                        \
    X(object *, PyTuple_GetItem, (object *, ssize_t))                                   \
    X(object *, PyObject_CallFunctionObjArgs, (object *, ...))                          \
    X(object *, PyCapsule_New, (void *, const char *, void (*)(object *)))            \
    X(void *, PyCapsule_GetPointer, (object *, const char *))                           \
    X(int, PySys_Audit, (const char *, const char *, ...))                              \
    X(object *, PyType_FromSpec, (struct type_spec *))                                       \
    X(object *, PyType_GenericAlloc, (object *, ssize_t))                               \
    X(object *, PyVectorcall_Call, (object *, object *, object *))                      \
    X(int, PyObject_SetAttrString, (object *, const char *, object *))                  \
    X(int, PyGILState_Ensure, (void))                                                   \
    X(void, PyGILState_Release, (int))

struct hk_capi {
#define HK_CAPI_DECLARE(result, name, parameters) result(*name) parameters;
    HK_CAPI_FUNCTIONS(HK_CAPI_DECLARE)
#undef HK_CAPI_DECLARE
    object *none;
    object **value_error, **runtime_error;
    void *module_type; /* of a struct module */
    int (*set_tracer)(int (*tracer)(object *, int, void *), void *data); /* PyRefTracer_*; NULL before 3.13 */
    int (*(*get_tracer)(void **data))(object *, int, void *);
};
extern struct hk_capi hk_capi;

/* False: something is not there. */
bool hk_capi_find(void);

/* A new reference. */
static inline object *hk_capi_none(void)
{
    hk_capi.Py_IncRef(hk_capi.none);
    return hk_capi.none;
}

/* A str; of NULL None. A new reference; NULL with an exception. */
object *hk_capi_text(const char *text);

/* A tuple of the first `count` of these, whose references it takes; NULL among them: nothing is made. */
object *hk_capi_tuple(object *a, object *b, object *c, object *d, ssize_t count);

/* A module object with these functions; NULL with an exception, or without where Python's API is not there. */
object *hk_capi_module(const char *name, struct method *methods);

#endif
