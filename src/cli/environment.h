/* What `heapkeeper run` tells the library: the environment that src/hosts/malloc/preload.c
 * reads. */
#ifndef HK_CLI_ENVIRONMENT_H
#define HK_CLI_ENVIRONMENT_H

#include "cli/place.h"

struct hk_settings {
    const char *mode;      /* none, sample, exact */
    uint64_t sample_bytes; /* 0: chosen by the recorder */
    uint64_t bound;        /* most bytes of the capture; 0: chosen by the library */
    bool guide;            /* the guide's geometry */
    bool align16;          /* in it: every block is aligned to 16 */
    bool debug;            /* misuse of memory is found, reported, and ends the program */
    bool family;           /* the library with the malloc family */
    bool native_stacks;    /* with the callers of those who call malloc */
    bool exact_lines;      /* Python's JIT stays off */
    bool tracemalloc;      /* the standard library's stands on our record */
    bool memory_profiler;  /* the program's import memory_profiler is heapkeeper.memory_profiler */
    char *lines, *lines_output; /* patterns of functions to be profiled by line ("": the main script's); NULL: none */
    bool keep_children; /* captures of small ones, too */
    bool lines_rss; /* with what the resident size changed by */
    bool native;           /* which serves every process of the run; else this one, unless it is a Python */
};

/* The library's file for these settings, found from where this command lies; the caller frees it.
 * NULL and an error if it is nowhere. */
char *hk_library_find(const struct hk_settings *settings, struct hk_error *error);

/* The same library, linked for addresses below 4 GiB, if it lies beside `library`; else NULL. The caller frees it. */
char *hk_library_low(const char *library);

/* Sets LD_PRELOAD (what was there is kept) and HEAPKEEPER_*. library NULL: leaves LD_PRELOAD alone. */
bool hk_environment_set(const struct hk_settings *settings, const struct hk_place *place,
                        const char *library, struct hk_error *error);

#endif
