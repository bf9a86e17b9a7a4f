/* C++'s operator new and delete, in all forms, by the names that the ABI gives them: so the library needs no C++ runtime.
 *
 *      Znw Zna            new, new[]: (size_t), then perhaps St11align_val_t, then perhaps RKSt9nothrow_t
 *      Zdl Zda            delete, delete[]: (void *), then perhaps the size or the alignment, or nothrow_t
 *
 * Where the heap has no memory the next definition is called, libstdc++'s: it asks us again by malloc's name, calls the new
 * handler, and throws. What delete is told of the block's size is not believed: the pool knows. Where the heap does
 * not serve, the next definitions do throughout: a library may have replaced them. */
#include <dlfcn.h>
#include <stdlib.h>

#include "hosts/malloc/family.h"
#include "hosts/malloc/interpose.h"

static void *next_of(void **known, const char *name)
{
    void *function = __atomic_load_n(known, __ATOMIC_RELAXED);
    if (function == NULL) {
        function = dlsym(RTLD_NEXT, name);
        if (function == NULL) { /* the runtime was opened later, with a plugin, for that alone */
            void *library = dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_NOLOAD);
            function = library != NULL ? dlsym(library, name) : NULL;
        }
        __atomic_store_n(known, function, __ATOMIC_RELAXED);
    }
    return function;
}

static inline __attribute__((always_inline)) bool serves(void)
{
    if (__builtin_expect(hk_process_heap == NULL, 0))
        hk_family_decide();
    return hk_process_heap != NULL;
}

/* The next definition; without one (no C++ runtime among the program's libraries) there is nobody who could throw. */
#define NEXT(result, name, parameters, arguments, otherwise)                        \
    static void *known;                                                             \
    result(*next) parameters = (result(*) parameters)next_of(&known, #name);        \
    if (next == NULL)                                                               \
        otherwise;                                                                  \
    else                                                                            \
        return next arguments

#define NEW(name, parameters, arguments, serve, otherwise)                          \
    static __attribute__((noinline)) void *slow##name parameters                    \
    {                                                                               \
        void *block = serves() ? serve : NULL;                                      \
        if (block != NULL)                                                          \
            return block;                                                           \
        NEXT(void *, name, parameters, arguments, otherwise);                       \
    }                                                                               \
    HK_API void *name parameters;                                                   \
    HK_API void *name parameters

#define NEW_FORMS(name)                                                                                              \
    NEW(name##m, (size_t size), (size), hk_family_malloc_slow(size), abort())                                        \
    {                                                                                                                \
        void *block = hk_family_malloc_fast(size);                                                                   \
        return __builtin_expect(block != NULL, 1) ? block : slow##name##m(size);                                     \
    }                                                                                                                \
    NEW(name##mRKSt9nothrow_t, (size_t size, const void *nothrow), (size, nothrow), hk_family_malloc_slow(size),     \
        return NULL)                                                                                                 \
    {                                                                                                                \
        void *block = hk_family_malloc_fast(size);                                                                   \
        return __builtin_expect(block != NULL, 1) ? block : slow##name##mRKSt9nothrow_t(size, nothrow);              \
    }                                                                                                                \
    NEW(name##mSt11align_val_t, (size_t size, size_t alignment), (size, alignment),                                  \
        hk_family_aligned(alignment, size), abort())                                                                 \
    {                                                                                                                \
        return slow##name##mSt11align_val_t(size, alignment);                                                        \
    }                                                                                                                \
    NEW(name##mSt11align_val_tRKSt9nothrow_t, (size_t size, size_t alignment, const void *nothrow),                  \
        (size, alignment, nothrow), hk_family_aligned(alignment, size), return NULL)                                 \
    {                                                                                                                \
        return slow##name##mSt11align_val_tRKSt9nothrow_t(size, alignment, nothrow);                                 \
    }

NEW_FORMS(_Znw)
NEW_FORMS(_Zna)

#define DELETE(name, parameters, arguments)                                         \
    static __attribute__((noinline)) void slow##name parameters                     \
    {                                                                               \
        if (serves() || hk_region_has(block) || hk_family_is_early(block)) {        \
            free(block);                                                            \
            return;                                                                 \
        }                                                                           \
        NEXT(void, name, parameters, arguments, free(block));                       \
    }                                                                               \
    HK_API void name parameters;                                                    \
    HK_API void name parameters                                                     \
    {                                                                               \
        if (__builtin_expect(hk_process_heap != NULL, 1))                           \
            hk_family_free(block);                                                  \
        else                                                                        \
            slow##name arguments;                                                   \
    }

#define DELETE_FORMS(name)                                                                                          \
    DELETE(name##Pv, (void *block), (block))                                                                        \
    DELETE(name##Pvm, (void *block, size_t size), (block, size))                                                    \
    DELETE(name##PvRKSt9nothrow_t, (void *block, const void *nothrow), (block, nothrow))                            \
    DELETE(name##PvSt11align_val_t, (void *block, size_t alignment), (block, alignment))                            \
    DELETE(name##PvmSt11align_val_t, (void *block, size_t size, size_t alignment), (block, size, alignment))        \
    DELETE(name##PvSt11align_val_tRKSt9nothrow_t, (void *block, size_t alignment, const void *nothrow),             \
           (block, alignment, nothrow))

DELETE_FORMS(_Zdl)
DELETE_FORMS(_Zda)
