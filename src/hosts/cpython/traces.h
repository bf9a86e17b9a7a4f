/* What lives, by call site, and its stacks as (file, line), in the process. No Python object is touched here.
 *
 *      1. hk_traces_collect: one pass over the blocks' words; blocks of one site and one size are one group
 *      2. hk_traces_resolve: sites become tracebacks, cut to so many frames; the same frames have the same number
 *
 * All memory is mapped, none is of the heaps that are looked at. The caller holds the main interpreter's lock. */
#ifndef HK_HOSTS_CPYTHON_TRACES_H
#define HK_HOSTS_CPYTHON_TRACES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hk_group {
    uint64_t bytes, blocks; /* sums; of collected groups all blocks have the same size */
    uint32_t site;
    uint32_t domain; /* tracemalloc's: 0: Python's own allocators; see tracked.h */
};

/* Groups of the blocks that belong to the window (windows.h), or, -1, of all that are recorded. *groups: to be given to
 * hk_traces_free. False: no memory, or nothing is recorded. */
bool hk_traces_collect(int window, struct hk_group **groups, size_t *count);
void hk_traces_free(void *memory, size_t bytes);

enum hk_traces_key {
    HK_BY_LINE,
    HK_BY_FILE,     /* all lines are 0 */
    HK_BY_FUNCTION, /* line: the function's first one */
    HK_BY_CALL,     /* as HK_BY_LINE, and in which function */
};

struct hk_trace {
    uint64_t bytes, blocks;
    uint32_t first, length; /* of `path` */
    uint32_t depth;         /* frames that there were; more than length if it is cut */
    uint32_t hash;
};

struct hk_trace_frame {
    uint32_t file, function; /* strings; 0: unknown, or not wanted */
    int32_t line;
};

struct hk_traces {
    struct hk_trace *traces;
    struct hk_trace_frame *frames;
    uint32_t *path;  /* numbers of frames, innermost first */
    uint32_t *trace_of_group;
    size_t trace_count, frame_count, path_length, group_count;
    size_t trace_room, frame_room, path_room;
};

struct hk_traces_options {
    enum hk_traces_key key;
    uint32_t frames;   /* at most so many of a stack, at least 1 */
    bool depths;       /* stacks that differ in their depth only are different traces */
    bool cumulative;   /* each frame is a trace of its own, with what was allocated in it and what it called */
    bool as_cpython;   /* as CPython's tracemalloc: cumulative, a frame that is in the stack several times counts as often */
};

/* False: no memory, or a group of a site that does not exist. Freed by hk_traces_end in either case. */
bool hk_traces_resolve(const struct hk_group *groups, size_t count, const struct hk_traces_options *options, struct hk_traces *out);
void hk_traces_end(struct hk_traces *traces);

/* Copies a string of the record, without NUL; returns its bytes. */
size_t hk_traces_string(uint32_t string, char *buffer, size_t capacity);

/* The site of the block that holds this address; false: it has none, or does not belong to the window. */
bool hk_traces_find(const void *object, int window, struct hk_group *group);

/* What was allocated at every site since the recording began, of `*count` sites; to be given to hk_traces_free. */
bool hk_traces_totals(struct hk_group **groups, size_t *count);

/* What sites had at the window's peak, those that had anything, in bytes; blocks are not known. */
bool hk_traces_at_peak(int window, struct hk_group **groups, size_t *count);

#endif
