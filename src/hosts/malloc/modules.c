/* What changes where code lies and how it is unwound, interposed; each is passed on to the next definition.
 *
 *   dlclose                  a return address may lie in another module from now on
 *   __register_frame, ...    of libgcc: code that was made at run time gets tables. The unwinder sorts them when it looks
 *                            something up the next time, with memory from malloc and under a lock: not in our hook
 */
#include <dlfcn.h>
#include <stddef.h>

#include "heapkeeper/heap.h"
#include "hosts/native/stack.h"
#include "record/record.h"

static void *next_of(void **known, const char *name)
{
    void *function = __atomic_load_n(known, __ATOMIC_RELAXED);
    if (function == NULL) {
        function = dlsym(RTLD_NEXT, name);
        if (function == NULL) { /* it was loaded later, for itself */
            void *library = dlopen("libgcc_s.so.1", RTLD_LAZY | RTLD_NOLOAD);
            function = library != NULL ? dlsym(library, name) : NULL;
        }
        __atomic_store_n(known, function, __ATOMIC_RELAXED);
    }
    return function;
}

HK_API int dlclose(void *handle)
{
    static void *known;
    int result = ((int (*)(void *))next_of(&known, "dlclose"))(handle);
    hk_record_modules_changed();
    return result;
}

/* Where the caller found a definition, there is a next one. */
#define REGISTER(name, parameters, arguments)                                                              \
    HK_API void name parameters;                                                                           \
    HK_API void name parameters                                                                            \
    {                                                                                                      \
        static void *known;                                                                                \
        hk_native_tables_added();                                                                          \
        void(*next) parameters = (void(*) parameters)next_of(&known, #name);                               \
        if (next != NULL)                                                                                  \
            next arguments;                                                                                \
    }

REGISTER(__register_frame, (void *begin), (begin))
REGISTER(__register_frame_table, (void *begin), (begin))
REGISTER(__register_frame_info, (const void *begin, void *object), (begin, object))
REGISTER(__register_frame_info_table, (void *begin, void *object), (begin, object))
REGISTER(__register_frame_info_bases, (const void *begin, void *object, void *text, void *data),
         (begin, object, text, data))
