/* Which function an address is in, for a process that is about to end: from the symbol table of the object's file, which has
 * static functions as well. */
#ifndef HK_BASE_SYMBOLS_H
#define HK_BASE_SYMBOLS_H

#include <stddef.h>

struct hk_symbol {
    const void *address, *base; /* base NULL: in no loaded object */
    size_t offset;              /* of the address in the object, as tools like addr2line want it */
    const char *file;           /* of the object, borrowed from the loader; NULL: none */
    char name[200];             /* of the function; "": not known */
};

/* Takes the loader's lock; reads and maps the object's file. Neither in a hook nor in a signal handler, unless the
 * process ends there anyway. */
void hk_symbol_find(const void *address, struct hk_symbol *out);

#endif
