/* Reads a capture file as hostile input.
 *
 * A capture is copied into memory whole (a mapping would turn a file that is cut under us into
 * SIGBUS), then every offset, count and size is checked once, here. What the rest of the reader
 * gets is tables whose entries lie inside the copy, strings that end inside it, and a list of
 * points that were not torn.
 *
 * Whoever allocates: an opened capture owns all its memory, strings included; hk_capture_close
 * frees it. Nothing here is thread-safe, and nothing here may be called inside a measured program.
 */
#ifndef HK_READ_CAPTURE_H
#define HK_READ_CAPTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include "capture/format.h"

#define HK_CAPTURE_READ_MAX ((size_t)HK_CAPTURE_LARGEST_BOUND) /* bytes; a longer file is no capture of ours */

/* One clear line: what, why, what to do. Without "heapkeeper:" and without a newline. */
struct hk_error {
    char text[1024];
};
void hk_error_set(struct hk_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* malloc and friends that end the command with one line when there is no memory. */
void *hk_must_calloc(size_t count, size_t size);
void *hk_must_realloc(void *old, size_t count, size_t size);
char *hk_must_strdup(const char *text);

/* What became of the recorded process. */
enum hk_life {
    HK_LIFE_EMPTY,   /* the library was never loaded: nothing was recorded */
    HK_LIFE_RUNNING, /* alive, this machine, this boot */
    HK_LIFE_ENDED,   /* ended through exit(); figures are final */
    HK_LIFE_KILLED,  /* gone without a word: a signal, _exit, power */
    HK_LIFE_EXECED,  /* the process went on as another program, which has a later capture */
};
/* "nothing recorded", "running", "ended", "killed", "exec'd" */
const char *hk_life_name(enum hk_life life);

/* A section, checked against the copy. `stride` is the writer's entry size, which may differ from
 * ours. */
struct hk_table {
    const uint8_t *base;
    size_t stride, count;
};

struct hk_capture {
    char *path;
    uint8_t *bytes;
    size_t size;
    struct hk_capture_header header;
    struct hk_capture_status status; /* `now` in it may be torn: use the field below */
    struct hk_table tables[HK_SECTION_KINDS];

    bool has_now;
    struct hk_capture_point now; /* the newest point that can be trusted; zeros without has_now */
    struct hk_capture_point *points; /* the timeline, in time order, `now` last */
    size_t point_count;
    struct hk_capture_mark marks[HK_MARKS];
    unsigned mark_count;
    struct hk_capture_collection *collections; /* of cycles, in time order; generation and cause are known ones */
    size_t collection_count;
    struct hk_capture_span *spans; /* whole ones, as they began; none ends before it begins */
    size_t span_count;

    enum hk_life life;
    bool from_memory; /* of no file: nothing is asked of this system about it */
    uint64_t duration_ns;
    uint64_t dropped; /* records that were torn or pointed outside the file */
};

enum hk_open_how {
    HK_OPEN_WHOLE,
    HK_OPEN_BRIEF, /* no sites and no call tree: enough for a row of a table */
};

/* Opens `path`; NULL and an error if it cannot be read, is no capture, is damaged or is newer than
 * this reader. A file of length 0 (made by `heapkeeper run`, never taken over) opens with life
 * HK_LIFE_EMPTY. */
struct hk_capture *hk_capture_open(const char *path, enum hk_open_how how, struct hk_error *error);

/* The same from memory, which is copied; `path` is only a name. Never asks whether a process
 * lives. */
struct hk_capture *hk_capture_from_memory(const void *bytes, size_t size, const char *path,
                                          struct hk_error *error);

void hk_capture_close(struct hk_capture *capture);

/* When the first of these limits (enum hk_capture_limit) was reached; 0: none was. */
uint64_t hk_capture_limit_ns(const struct hk_capture *capture, uint32_t limits);

/* Entry `index` of section `kind`, copied into `entry` of `size` bytes: cut if the writer's entries
 * are longer, zero-filled if shorter. False (and zeros) if there is no such entry. */
bool hk_capture_entry_of(const struct hk_capture *capture, enum hk_section_kind kind, size_t index,
                         void *entry, size_t size);

/* Mostly the writer was of our version: then a copy of a size that the compiler knows. */
static inline bool hk_capture_entry(const struct hk_capture *capture, enum hk_section_kind kind, size_t index,
                                    void *entry, size_t size)
{
    const struct hk_table *t = &capture->tables[kind];
    if (index >= t->count || t->stride < size)
        return hk_capture_entry_of(capture, kind, index, entry, size);
    memcpy(entry, t->base + index * t->stride, size);
    return true;
}

/* The string at `offset`, borrowed; "" for 0 and for what is not a terminated string of the
 * section. */
const char *hk_capture_string(const struct hk_capture *capture, uint32_t offset);

/* `size` bytes of the strings section, borrowed; NULL if they do not lie in it. */
const uint8_t *hk_capture_blob(const struct hk_capture *capture, uint32_t offset, uint32_t size);

/* Arguments of the recorded program: the string at command_line split at \x1f. Returns how many
 * there are; stores at most `max` copies in `arguments`, to be freed by the caller. */
size_t hk_capture_arguments(const struct hk_capture *capture, char **arguments, size_t max);

/* The name a person calls the program by: the script's file name, or the module after -m, "worker" of what
 * multiprocessing spawned, else the program's own name. Written into `name`, returned. */
const char *hk_capture_program(const struct hk_capture *capture, char *name, size_t size);

/* The most bytes that were live at once, as well as the capture can tell: the largest point, or the
 * recorder's own peak where that saw a spike between two points. */
uint64_t hk_capture_peak(const struct hk_capture *capture);

/* Bytes live at `point`: blocks in pools (rounded to their size class) and large blocks. */
uint64_t hk_point_live(const struct hk_capture_point *point);

/* Bytes that one sample stands for on average; 0 when every block was recorded. */
double hk_capture_mean_sample(const struct hk_capture *capture);

#endif
