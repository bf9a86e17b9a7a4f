/* Return addresses of a capture, as (module, offset), to places in source. */
#ifndef HK_READ_NATIVE_H
#define HK_READ_NATIVE_H

#include "read/capture.h"
#include "read/symbols.h"

struct hk_native_place {
    const char *function;       /* "remember_order"; of an unknown one "libshop.so.1+0x1234" */
    const char *qualified_name; /* demangled; else the function */
    const char *file;           /* "" for unknown */
    const char *module;         /* "libshop.so.1"; "" for code in no module */
    int line;                   /* 0: unknown */
    uint64_t address;           /* of the return address, in the module's own numbering, as addr2line takes it */
    uint32_t number;            /* of the function, from 0: equal for equal name, file and module */
    bool is_wrapper;            /* allocates for its callers: xmalloc, std::vector, ... */
    const struct hk_native_place *inlined_in; /* where the compiler put this function into; NULL: it stands alone */
};

struct hk_native *hk_native_new(const struct hk_capture *capture); /* borrows the capture */
void hk_native_free(struct hk_native *native);

/* The place of a return address, innermost; `module` as struct hk_capture_code has it. Never NULL; lives as long as `native`.
 * A capture that was read from memory is resolved without a look at files. */
const struct hk_native_place *hk_native_place(struct hk_native *native, uint32_t module, uint32_t offset);

/* True for a module whose functions allocate for their callers: the C and C++ libraries, the loader. */
bool hk_native_is_system(struct hk_native *native, uint32_t module);

/* How many different functions have been given a number. */
uint32_t hk_native_function_count(const struct hk_native *native);

/* The path of a module that was asked for and could not be opened so; NULL: no more of them. *at is to be 0 at first. */
const char *hk_native_problem(const struct hk_native *native, enum hk_symbols_state state, size_t *at);

#endif
