/* The source files of a capture: which it names, and their text as it is on this system now.
 *
 * A capture does not hold source. It knows when the run began: a file that was changed after that may have other lines
 * than those that ran, and whoever shows it has to say so. Paths come from the capture and may be anything: only a regular
 * file of a bearable size is read.
 */
#ifndef HK_READ_SOURCE_H
#define HK_READ_SOURCE_H

#include "read/sites.h"

/* The paths, as the capture has them, that `name` means: one that is the same, else (`name` or what it resolves to being
 * one) the same file, else all that end in it, from a slash on, or are that frozen module. Sorted, each once; strings are borrowed from the sites, the
 * array is the caller's to free. Returns how many. */
size_t hk_source_find(const struct hk_sites *sites, const char *name, const char ***paths);

/* All paths, in the same way. */
size_t hk_source_all(const struct hk_sites *sites, const char ***paths);

enum hk_source_state {
    HK_SOURCE_GOOD,
    HK_SOURCE_CHANGED, /* written after the run began */
    HK_SOURCE_SHORTER, /* has fewer lines than the capture names: another file, or changed */
    HK_SOURCE_MISSING,
    HK_SOURCE_UNREADABLE, /* no regular file, too large, or not permitted: `why` */
    HK_SOURCE_NO_FILE,    /* code that is of no file: "<string>", a frozen module */
};

struct hk_source {
    enum hk_source_state state;
    char *path;  /* that was looked at, allocated */
    char *text;  /* with NULs for the ends of lines; NULL: there is none */
    char **lines; /* into it; lines[0] is line 1 */
    size_t line_count;
    char why[128];
};

/* The text of a path of the capture's; a relative one is beneath the run's directory. `last_line`: the largest line that
 * the capture has of it. Free it with hk_source_free. */
struct hk_source hk_source_read(const struct hk_capture *capture, const char *path, int last_line);
void hk_source_free(struct hk_source *source);

/* A stable word of a state: good changed shorter missing unreadable no_file. */
const char *hk_source_word(enum hk_source_state state);

#endif
