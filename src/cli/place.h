/* Where `heapkeeper run` puts the capture: the directory, the file, and room for it. */
#ifndef HK_CLI_PLACE_H
#define HK_CLI_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "read/capture.h"

struct hk_place {
    char *directory; /* for further processes; NULL with -o */
    char *file;      /* of the first process: made, empty, ours; NULL with -o /dev/null */
    char *output;    /* -o's argument, absolute; NULL without */
    uint64_t device, inode;
};

/* Makes the default directory and a file in it for a program called `name`. */
bool hk_place_default(struct hk_place *place, const char *name, struct hk_error *error);

/* Makes `output`, which must not exist unless `force`. /dev/null: nothing is made. */
bool hk_place_output(struct hk_place *place, const char *output, bool force,
                     struct hk_error *error);

/* A directory of ours (0700) for a symbolic link, whose path has none of the characters that
 * LD_PRELOAD splits at; NULL if there is none. The caller frees it. */
char *hk_place_for_link(const struct hk_place *place);

/* Takes the file back, when the program could not be started. */
void hk_place_undo(const struct hk_place *place);
void hk_place_free(struct hk_place *place);

/* Removes the oldest runs in `directory` until what is left takes 256 MiB at most. Runs with a
 * living process stay. */
void hk_prune(const char *directory);

#endif
