/* Where captures lie, which is the newest, and which belong together. */
#ifndef HK_READ_FIND_H
#define HK_READ_FIND_H

#include "read/capture.h"

#define HK_PLACES_MAX 5

/* The directories in which `heapkeeper run` may have put captures, in its order of preference:
 * $HEAPKEEPER_DIR alone if set, else $XDG_RUNTIME_DIR/heapkeeper, /dev/shm/heapkeeper-UID,
 * $TMPDIR/heapkeeper-UID, /tmp/heapkeeper-UID. Returns how many; the caller frees the strings. */
size_t hk_places(char *places[HK_PLACES_MAX]);

/* The newest capture in those directories; the caller frees it. NULL and an error if there is
 * none. */
char *hk_find_newest(struct hk_error *error);

/* A process of a run, as the table of processes shows it. */
struct hk_process {
    char *path;
    uint32_t pid, parent_pid, exec_count;
    uint64_t start_ticks; /* of the process, the same across exec; 0: not known */
    bool forked, is_first; /* is_first: the process that the command became; false of an older heapkeeper's, too */
    char program[256];
    enum hk_life life;
    uint64_t start_realtime_ns, duration_ns;
    uint64_t peak_bytes, live_bytes, allocated_bytes, peak_rss_bytes;
    /* Filled by hk_family_judge: how many lines grow, and the steepest of them. */
    bool judged;
    uint32_t growing;
    char growing_function[128], growing_file[512];
    int growing_line;
    double growing_rise; /* bytes */
};

/* Small children that ended cleanly are kept as one record each in RUNID.children. */
struct hk_child_record {
    uint32_t pid, reserved;
    uint64_t start_realtime_ns, duration_ns, peak_bytes, allocated_bytes, max_rss_bytes;
    char name[80];
};
_Static_assert(sizeof(struct hk_child_record) == 128, "a child's record is 128 bytes");

struct hk_family {
    struct hk_process *processes; /* by start time */
    size_t count;
    size_t unreadable; /* captures of the directory that could not be opened */
    uint64_t folded;   /* small children that ended cleanly */
    uint64_t folded_peak_bytes, folded_allocated_bytes, folded_duration_ns; /* largest; sums */
    char folded_heaviest[81]; /* name of the one with the largest peak */
};

/* Every capture beside `path` with the same run id, itself included. Never fails: what cannot be
 * opened is counted. */
struct hk_family *hk_family_find(const char *path);
void hk_family_free(struct hk_family *family);

/* The process of the family that `capture` is of, whatever its path is called here; NULL: none of them. */
const struct hk_process *hk_family_member(const struct hk_family *family, const struct hk_capture *capture);

/* Looks into the sites of the processes for what grows; into the `most` with the largest peaks. */
void hk_family_judge(struct hk_family *family, size_t most);

/* The process to show whole when nobody chose one: the first of the run, as what it last exec'd to;
 * if that recorded nothing, the one with the largest peak. Index into `processes`. */
size_t hk_family_main(const struct hk_family *family);

#endif
