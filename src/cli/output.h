/* A file that a command writes: one that exists is left alone unless the user says so, and the capture always. What could not
 * be written whole does not stay. */
#ifndef HK_CLI_OUTPUT_H
#define HK_CLI_OUTPUT_H

#include <stdbool.h>
#include <stdio.h>

#include "read/capture.h"

struct hk_output {
    FILE *file;
    const char *path; /* NULL: standard output */
    bool made;        /* it was not there before */
};

/* Opens `path` ("-" or NULL: standard output), which is borrowed. False: a line on stderr has said why. */
bool hk_output_open(struct hk_output *output, const char *path, bool force, const struct hk_capture *capture);

/* False, and a line on stderr: writing to `path` would destroy that capture. hk_output_open has asked about its own. */
bool hk_output_spares(const char *path, const struct hk_capture *capture);

/* Ends it; returns the command's exit status. `what` is it for a person if it has no path: "the export". */
int hk_output_close(struct hk_output *output, const char *what);

#define HK_OUTPUT_NAME 320

/* A name for a file in the working directory, "shop.py-4242." and `ending`, of characters that need no quotes; returns `name`. */
char *hk_output_name(char name[HK_OUTPUT_NAME], const struct hk_capture *capture, const char *ending);

/* Says on standard output where a page was written; returns the exit status. */
int hk_output_say(const char *path);

#endif
