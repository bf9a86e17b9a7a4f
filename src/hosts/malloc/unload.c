/* dlclose, interposed: a return address may lie in another module from now on, where one was unloaded. */
#include <dlfcn.h>

#include "heapkeeper/heap.h"
#include "record/record.h"

HK_API int dlclose(void *handle)
{
    static int (*next)(void *);
    int (*function)(void *) = __atomic_load_n(&next, __ATOMIC_RELAXED);
    if (function == NULL) {
        function = (int (*)(void *))dlsym(RTLD_NEXT, "dlclose");
        __atomic_store_n(&next, function, __ATOMIC_RELAXED);
    }
    int result = function(handle);
    hk_record_modules_changed();
    return result;
}
