/* Addresses of one native module to functions, files and lines, by elfutils' libdw: from the module's own symbols and
 * DWARF, and from separate debug files where the system has them (/usr/lib/debug, by build id). Nothing is asked of
 * the network. Without libdw nothing is found and the state says so.
 *
 * The path comes from a capture, so it may be anything: only a regular file is opened, and only one with the build id
 * that the program ran with is believed. */
#ifndef HK_READ_SYMBOLS_H
#define HK_READ_SYMBOLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum hk_symbols_state {
    HK_SYMBOLS_GOOD,
    HK_SYMBOLS_NO_FILE,      /* or not one that may be read */
    HK_SYMBOLS_ANOTHER_FILE, /* the file there now is not the one that ran */
    HK_SYMBOLS_DAMAGED,      /* the file cannot be understood */
    HK_SYMBOLS_NOT_BUILT,    /* no libdw: heapkeeper was built without, or it is not on this system */
};

/* Strings live as long as the symbols. */
struct hk_symbol {
    const char *function; /* as the linker knows it; NULL: unknown */
    const char *file;     /* absolute if the compiler said in which directory it ran; NULL: unknown */
    int line;             /* 0: unknown */
};

struct hk_symbols;

/* Opens the module at `path`. Without a build id (size 0) the file must be older than started_ns, in nanoseconds since
 * 1970. NULL unless *state is GOOD. */
struct hk_symbols *hk_symbols_open(const char *path, const uint8_t *build_id, size_t build_id_size,
                                   uint64_t started_ns, enum hk_symbols_state *state);
void hk_symbols_close(struct hk_symbols *symbols);

/* What is at `address`, in the file's own numbering (p_vaddr): the function, behind those that the compiler put into it
 * there, innermost first. Fills at most `max`; returns how many, at least 1. Unknown parts are NULL and 0. */
size_t hk_symbols_find(struct hk_symbols *symbols, uint64_t address, struct hk_symbol *found, size_t max);

/* The name as a C++ or Rust programmer wrote it, allocated; NULL if it is not such a name, or there is no libstdc++ on
 * this system to ask. */
char *hk_demangle(const char *name);

#endif
