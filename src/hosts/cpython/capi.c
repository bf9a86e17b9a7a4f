/* Python's API by name; see capi.h. */
#include "hosts/cpython/capi.h"

#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

struct hk_capi hk_capi;

bool hk_capi_find(void)
{
    static bool found;
    bool good = true;
    if (found)
        return true;
#define FIND(result, name, parameters) good &= (hk_capi.name = (result(*) parameters)(uintptr_t)dlsym(RTLD_DEFAULT, #name)) != NULL;
    HK_CAPI_FUNCTIONS(FIND)
    good &= (hk_capi.none = dlsym(RTLD_DEFAULT, "_Py_NoneStruct")) != NULL;
    good &= (hk_capi.value_error = dlsym(RTLD_DEFAULT, "PyExc_ValueError")) != NULL;
    good &= (hk_capi.runtime_error = dlsym(RTLD_DEFAULT, "PyExc_RuntimeError")) != NULL;
    good &= (hk_capi.module_type = dlsym(RTLD_DEFAULT, "PyModuleDef_Type")) != NULL;
    *(void **)&hk_capi.set_tracer = dlsym(RTLD_DEFAULT, "PyRefTracer_SetTracer");
    *(void **)&hk_capi.get_tracer = dlsym(RTLD_DEFAULT, "PyRefTracer_GetTracer");
    return found = good;
}

object *hk_capi_text(const char *text)
{
    return text == NULL ? hk_capi_none() : hk_capi.PyUnicode_DecodeUTF8(text, (ssize_t)strlen(text), NULL);
}

object *hk_capi_tuple(object *a, object *b, object *c, object *d, ssize_t count)
{
    object *items[] = {a, b, c, d}, *tuple = hk_capi.PyTuple_New(count);
    bool good = tuple != NULL;
    for (ssize_t i = 0; i < count; i++)
        good &= items[i] != NULL;
    for (ssize_t i = 0; i < count; i++) {
        if (good)
            hk_capi.PyTuple_SetItem(tuple, i, items[i]);
        else if (items[i] != NULL)
            hk_capi.Py_DecRef(items[i]);
    }
    if (!good && tuple != NULL)
        hk_capi.Py_DecRef(tuple);
    return good ? tuple : NULL;
}

object *hk_capi_module(const char *name, struct method *methods)
{
    object *module = hk_capi_find() ? hk_capi.PyModule_New(name) : NULL;
    if (module == NULL || hk_capi.PyModule_AddFunctions(module, methods) == 0)
        return module;
    hk_capi.Py_DecRef(module);
    return NULL;
}
