/* What `heapkeeper run` is asked to run, and what can be known about it before it starts. */
#ifndef HK_CLI_TARGET_H
#define HK_CLI_TARGET_H

#include <stdbool.h>
#include <stddef.h>

#include "read/capture.h"

struct hk_target {
    char *path;     /* to exec; symbolic links are kept: a virtual environment is known by them */
    char **argv;    /* NULL-terminated */
    char *name;     /* of the capture: the script, the module or the program */
    bool is_python; /* started by us as a Python: a script, -m or -c */
};

/* Works out the target of the words behind the options; `python` is --python's value or NULL. False
 * and an error if there is nothing that could be run. */
bool hk_target_find(struct hk_target *target, char **words, const char *python,
                    struct hk_error *error);

/* What the words `-c` and `-m` alone lack: "code", "a module". NULL: nothing. */
const char *hk_target_lacks(char **words);
void hk_target_free(struct hk_target *target);

/* False if the program's loader would stop or complain at a library for glibc on this machine. */
bool hk_target_takes_library(const struct hk_target *target);

/* True if it is a Python, or the interpreter that its first line names is one, or a Python is linked
 * into it. */
bool hk_target_has_python(const struct hk_target *target);

/* True if the program, or the interpreter that its first line names, is linked for a fixed address: it then lies below
 * 4 GiB, as Debian's and Ubuntu's Pythons do. */
bool hk_target_lies_low(const struct hk_target *target);

/* Why nothing, or not all, will be recorded, as far as it shows from outside: set-uid, static,
 * another architecture, another C library, free-threaded; and what PYTHONMALLOC, PYTHONDEVMODE,
 * PYTHONTRACEMALLOC, PYTHONMALLOCSTATS and -X (unless -E or -I) make of it. Sentences; the caller frees
 * each. At most `max`; returns how many. */
size_t hk_target_doubts(const struct hk_target *target, char **doubts, size_t max);

#endif
