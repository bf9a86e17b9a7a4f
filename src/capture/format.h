/* The capture file: what the process writes and the reader reads. The only thing the two halves share.
 *
 *      offset 0     +--------------------------+
 *                   | header (one page)        |  who, when, how; state; section table
 *      4096         +--------------------------+
 *                   | mailbox (one page)       |  requests from a reader of the same user
 *      8192         +--------------------------+
 *                   | current point + status   |  rewritten in place, under a sequence number
 *                   +--------------------------+
 *                   | marks                    |  the instants at which sites keep their live bytes
 *                   | timeline                 |  points over time, thinned by two when full
 *                   | events                   |  what happened: fork, allocator replaced, ...
 *                   | collections              |  of cycles, by the program's collector
 *                   | spans                    |  stretches that have a name: calls of profiled functions, and what the program named
 *                   | modules                  |  native modules: where they lay, and their build ids
 *                   | threads                  |  of an exact capture: who allocated
 *                   | living                   |  of an exact capture: when some of the living blocks were allocated
 *                   | codes                    |  one entry per code object and per native module seen
 *                   | nodes                    |  the call tree: (parent, code, instruction offset)
 *                   | strings                  |  names, line tables; NUL terminated, offsets into it
 *                   | maps                     |  the heap's pools, twice, written in turn
 *                   | sites                    |  counters per (node, domain); of an exact capture in two sections
 *                   +--------------------------+
 *
 * The file is as long as its bound from the start and sparse: a page costs memory once it is written.
 * At a clean exit it is cut after the last used page, or a copy takes its place in which section follows
 * section (record/pack.c); the order of sections is no part of the format.
 *
 * Rules
 * - One process writes; any number read, without locks, at any moment, also after the writer was killed.
 * - All numbers are in the writer's byte order, aligned to their size. Bytes are bytes, times are
 *   nanoseconds: `*_ns` since the process's start, except `*_realtime_ns` (since 1970).
 * - Codes, nodes, strings and sites are append-only: an entry is complete before the section's `count`
 *   is raised with a release store. `count` is entries, for strings bytes. What an entry refers to is counted
 *   before it; a reader of a growing file reads the sections until two readings agree.
 * - A record with a `sequence` is being written while that is odd: a reader retries; of a dead process it
 *   drops the record.
 * - Index 0 of strings, codes, nodes is reserved and means "none". Node 0 is the root: a stack ends there.
 * - Nothing here is trusted by a reader: every offset, count and size is checked against the file, and
 *   sums are computed again.
 * - A new minor version only appends fields into reserved space or adds section kinds; a reader skips
 *   kinds it does not know. Anything else is a new major version.
 */
#ifndef HK_CAPTURE_FORMAT_H
#define HK_CAPTURE_FORMAT_H

#include <stdint.h>

#define HK_CAPTURE_MAGIC "hkcaptur" /* 8 bytes, no NUL */
#define HK_CAPTURE_MAJOR 1
#define HK_CAPTURE_MINOR 9
#define HK_CAPTURE_BYTE_ORDER 0x01020304u
#define HK_CAPTURE_BOUND (8u << 20) /* default length of a file in bytes */
#define HK_CAPTURE_EXACT_BOUND (64u << 20) /* of an exact one */
#define HK_CAPTURE_LARGEST_BOUND (512u << 20) /* that can be asked for; a longer file is no capture */

enum hk_section_kind {
    HK_SECTION_NONE = 0,
    HK_SECTION_MARKS = 1,    /* struct hk_capture_mark */
    HK_SECTION_TIMELINE = 2, /* struct hk_capture_point */
    HK_SECTION_EVENTS = 3,   /* struct hk_capture_event */
    HK_SECTION_MODULES = 4,  /* struct hk_capture_module */
    HK_SECTION_CODES = 5,    /* struct hk_capture_code */
    HK_SECTION_NODES = 6,    /* struct hk_capture_node */
    HK_SECTION_STRINGS = 7,  /* bytes */
    HK_SECTION_SITES = 8,    /* struct hk_capture_site */
    HK_SECTION_MAP_A = 9,    /* bytes, since 1.1: struct hk_capture_map and what follows it; */
    HK_SECTION_MAP_B = 10,   /* two, written in turn: one is whole at every instant */
    HK_SECTION_COUNTERS = 11,    /* since 1.2, of exact captures: struct hk_capture_counters, and with the same index */
    HK_SECTION_EXACT_SITES = 12, /* struct hk_capture_exact_site; there is no section of sites then */
    HK_SECTION_COLLECTIONS = 13, /* since 1.3: struct hk_capture_collection */
    HK_SECTION_THREADS = 14,     /* since 1.4, of exact captures: struct hk_capture_thread */
    HK_SECTION_SPANS = 15,       /* since 1.6: struct hk_capture_span */
    HK_SECTION_LIVING = 16,      /* since 1.8, of exact captures: struct hk_capture_living */
    HK_SECTION_KINDS = 20,   /* slots in the header's table; the index is the kind. Up to 1.7 they were */
    HK_SECTION_KINDS_AT_LEAST = 16
};

struct hk_capture_section {
    uint32_t entry_size; /* bytes; 1 for strings; 0: section absent */
    uint32_t reserved;
    uint64_t offset;   /* of the first entry, from the start of the file */
    uint64_t capacity; /* entries */
    uint64_t count;    /* entries in use; release-stored by the writer */
};

/* Life of the recorded process as far as it told. A reader combines RUNNING with whether pid lives. */
enum hk_capture_state {
    HK_STATE_EMPTY = 0,   /* created by `heapkeeper run`; no library has taken it over yet */
    HK_STATE_RUNNING = 1, /* the writer is at work, or was killed, or has exec'd another program */
    HK_STATE_EXITED = 2,  /* ended through exit(); figures are final */
};

/* Who answers CPython's allocation functions; contract "An allocator watch". */
enum hk_capture_watch {
    HK_WATCH_UNKNOWN = 0,
    HK_WATCH_OURS = 1,
    HK_WATCH_OURS_UNDER_HOOK = 2, /* ours, beneath tracemalloc or another wrapper */
    HK_WATCH_REPLACED = 3,        /* `watch_name` says by what; figures stop at watch_time_ns */
    HK_WATCH_NOT_PYTHON = 4,
    HK_WATCH_REFUSED = 5, /* free-threaded, debug, ...: observed only; `watch_name` says why */
};

enum hk_capture_stacks {
    HK_STACKS_UNTESTED = 0, /* no Python frame was seen yet */
    HK_STACKS_GOOD = 1,     /* self-test passed */
    HK_STACKS_OFF = 2,      /* unknown version or failed self-test: `stacks_why` */
};

enum hk_capture_mode {
    HK_MODE_NONE = 0,   /* counters and timeline only */
    HK_MODE_SAMPLE = 1, /* one sample per `sample_bytes` on average */
    HK_MODE_EXACT = 2,  /* every block */
};

/* Why recording is less than whole; bits of `limits`. */
enum hk_capture_limit {
    HK_LIMIT_SITES = 1,   /* section full: further sites are counted in "(other)" of their domain */
    HK_LIMIT_NODES = 2,   /* stacks were cut to their innermost frames */
    HK_LIMIT_STRINGS = 4, /* names of late code objects are missing */
    HK_LIMIT_DISK = 8,    /* the file system was full (of a child that had no file yet: memory): recording stopped at `limit_time_ns`; others have a HK_EVENT_LIMIT */
    HK_LIMIT_MEMORY = 16, /* no memory for the recorder's own tables */
};

struct hk_capture_header {
    char magic[8];
    uint16_t major, minor;
    uint32_t byte_order;
    uint32_t page_size;
    uint32_t header_size; /* sizeof(struct hk_capture_header) of the writer */
    uint64_t file_size;   /* bound, bytes */
    uint32_t state;       /* enum hk_capture_state */
    uint32_t mode;        /* enum hk_capture_mode */
    uint64_t sample_bytes;
    uint8_t boot_id[16];
    uint8_t run_id[16]; /* the same in every capture of one `heapkeeper run` */
    uint32_t pid, parent_pid; /* the latter: of a forked one, that of the recorded process it comes from */
    uint32_t exec_count;    /* earlier captures of this same process in this run */
    uint32_t forked;        /* 1: this process was forked from a recorded one without exec */
    uint64_t start_realtime_ns;
    uint64_t start_ticks; /* field 22 of /proc/PID/stat: tells a reused pid */
    uint64_t end_ns;      /* at HK_STATE_EXITED */
    uint32_t python_version; /* PY_VERSION_HEX; 0: no Python */
    uint32_t python_flags;   /* 1 free-threaded, 2 debug, 4 trace-refs, 8 JIT seen */
    uint32_t command_line;   /* string: arguments, each followed by \x1f */
    uint32_t executable;     /* string: path of the program */
    uint32_t working_directory; /* string */
    uint32_t watch;             /* enum hk_capture_watch */
    uint32_t watch_name;        /* string */
    uint32_t stacks;            /* enum hk_capture_stacks */
    uint32_t stacks_why;        /* string */
    uint32_t limits;            /* bits of enum hk_capture_limit */
    uint64_t watch_time_ns;
    uint64_t limit_time_ns;
    uint64_t exit_status_known; /* reserved, 0 */
    uint32_t geometry; /* string: name of the heap's geometry; with it, in bytes: */
    uint32_t arena_bytes, pool_bytes; /* 0: not known (an older writer) */
    uint32_t block_step, block_max;   /* small classes are so far apart; larger blocks are the C allocator's */
    uint32_t alignment;               /* of mem's and object's blocks */
    uint32_t is_first;  /* 1: the process that the command became, before or after an exec */
    uint32_t reserved_half;
    uint64_t reserved[16];
    struct hk_capture_section sections[HK_SECTION_KINDS];
};

/* Requests. A reader fills kind and name, then raises `asked`; the owner acts on its next slow path,
 * writes `result` and sets `done` to the value of `asked` it saw. */
enum hk_request_kind {
    HK_REQUEST_MARK = 1,  /* put a mark with `name` on the timeline */
    HK_REQUEST_FLUSH = 2, /* take a full point now */
    HK_REQUEST_START = 3,
    HK_REQUEST_STOP = 4,
    HK_REQUEST_TRIM = 5, /* give free pools back to the system */
};

struct hk_capture_mailbox {
    uint32_t asked, done;
    uint32_t kind;
    int32_t result;
    char name[112];
};

/* One moment of the whole process. Bytes of the heap are in exactly one class:
 *   mapped = live + free_in_used_pools + empty_pools + metadata  (+ frame_chunks, which is beside the pools) */
struct hk_capture_point {
    uint64_t sequence; /* odd while written */
    uint64_t time_ns;
    uint64_t allocated_bytes;  /* requested by the program since the start, exact */
    uint64_t allocated_blocks; /* exact */
    uint64_t live_bytes;       /* in allocated blocks, rounded to their size class, exact, pools only */
    uint64_t live_blocks;
    uint64_t large_bytes; /* live in large blocks of the C allocator that came through our domains */
    uint64_t large_blocks;
    uint64_t mapped_bytes;             /* total of the classes */
    uint64_t free_in_used_pools_bytes; /* free or untouched blocks, and tails, of pools in use */
    uint64_t empty_pools_bytes;        /* kept for reuse */
    uint64_t returned_bytes;           /* of empty pools, given back to the system; not in mapped */
    uint64_t metadata_bytes;
    uint64_t frame_chunks_bytes;
    uint64_t rss_bytes; /* of the process; 0: not read at this point */
    uint64_t recorder_bytes; /* memory of the recorder, file pages included */
    uint64_t recorder_ns;    /* estimated time spent recording so far */
    uint32_t samples;        /* events recorded so far (saturates) */
    uint32_t arenas;
    uint32_t pools_used, pools_full, pools_empty;
    uint32_t mark;      /* index of the newest mark */
    uint32_t name;      /* string: given by a mark request or hk_mark, or 0 */
    uint32_t skipped;   /* events not recorded because the recorder was interrupted by a signal handler */
    uint64_t domain_allocated_bytes[4]; /* raw, mem, object, malloc: requested since the start */
    uint64_t domain_live_bytes[4];      /* pools and large, rounded */
    uint64_t untouched_bytes; /* of free_in_used_pools_bytes: blocks never handed out, whose pages are mostly not in
                                 memory */
    uint64_t reserved[1];
};

/* Right after the mailbox's page. */
struct hk_capture_status {
    struct hk_capture_point now; /* the newest point; never older than 1 s or 512 KiB of allocation
                                    while the program allocates */
    uint64_t peak_serial;        /* see hk_capture_site */
    uint64_t peak_bytes;         /* recorded live bytes at the peak of the recorded total */
    uint64_t peak_ns;
    uint64_t recorded_live_bytes;
    uint64_t recorded_total_bytes;
    uint64_t recorded_domain_total_bytes[4]; /* sum over all sites of a domain, "(other)" included */
    uint64_t peak_rss_bytes; /* as the kernel counted it; at points that read it and at exit */
    uint64_t timeline_sequence; /* odd while the timeline or the collections are being thinned */
    uint64_t marks_generation;  /* how often the marks were thinned by two */
    uint64_t foreign_frees;     /* blocks freed that neither we nor the C allocator through us gave */
    uint64_t libc_frees;        /* our blocks freed by a libc name (free, realloc) */
    uint64_t spans_left_out;    /* since 1.6: that began, and are not in the section (any more) */
    uint64_t living_shift;      /* since 1.8; see hk_capture_living */
    uint64_t reserved[6];
};

/* Marks: instants at which sites keep their live bytes; at most HK_MARKS, taken when enough time or enough
 * allocation has passed since the last. When they are all used, every second is dropped and both distances
 * double (generation + 1). Mark i of generation g spans what marks 2i and 2i+1 of g-1 spanned. */
#define HK_MARKS 16
struct hk_capture_mark {
    uint64_t time_ns;         /* start of the span */
    uint64_t allocated_bytes; /* by then */
};

#define HK_DOMAIN_NATIVE 3 /* behind Python's three */

/* A site: one call path in one domain, with its counters. In sample mode bytes and blocks are unbiased
 * estimates (a sample of n bytes stands for n / (1 - exp(-n / mean)) bytes), `samples` the count behind them.
 *
 * Peak, by the serial rule: the recorder has a peak serial, raised whenever the recorded total reaches a new
 * peak. A site saves its live values the first time it changes after a raise. So
 *      bytes at peak = (peak_serial == status.peak_serial) ? peak_bytes : live_bytes.
 *
 * Growth: `at_mark[i]` is the site's live KiB at the end of span i, `born_in[i]` the KiB live now that were
 * allocated in span i. Both are brought up to date when the site changes: values for spans after `mark` are
 * not written yet and equal live_bytes (at_mark) or 0 (born_in); if `mark_generation` is older than the
 * status', pairs are to be merged first (at_mark: the second of the pair; born_in: the sum).
 */
struct hk_capture_site {
    uint32_t node;  /* innermost frame; 0: no stack */
    uint8_t domain; /* 0 raw, 1 mem, 2 object, 3 native: the C library's malloc and its family */
    uint8_t flags;  /* HK_SITE_* */
    uint16_t thread; /* reserved, 0 */
    uint64_t live_bytes, live_blocks;
    uint64_t peak_bytes, peak_blocks;
    uint64_t total_bytes, total_blocks;
    uint64_t peak_serial;
    uint64_t inherited_bytes; /* of live_bytes: allocated by the parent before fork */
    uint32_t samples_total, samples_live;
    uint16_t mark; /* span of the last change */
    uint16_t mark_generation;
    uint32_t reserved0;
    uint32_t at_mark[HK_MARKS]; /* KiB */
    uint32_t born_in[HK_MARKS]; /* KiB */
    uint64_t reserved[5];
};

/* The same of an exact capture, in which every block is counted. A site is entry i of both sections.
 *
 *      total    allocated since the start
 *      live     = inherited + total - freed
 *      peak     = the same difference at the peak, without inherited: two's complement, if peak_serial is the status' (its
 *                 lower 32 bits); else the site has not changed since, and peak = live
 *
 * A raise of the peak serial is the first allocation beyond the old peak; sites are saved from the first free after
 * that on. `at_mark[i]` is written for spans before `mark`; those from `mark` on equal live. */
struct hk_capture_counters {
    uint64_t total_bytes, total_blocks;
    uint64_t freed_bytes, freed_blocks;
    uint64_t peak_bytes, peak_blocks;
    uint32_t peak_serial;
    uint32_t epoch; /* the writer's: when it was brought up to date */
    uint16_t mark, mark_generation;
    uint32_t largest; /* since 1.5: bytes of the largest block; UINT32_MAX: that or more */
};

/* How long blocks live, since 1.5: of those of the main lane one in HK_CAPTURE_LIFE_BYTES on average is watched, each byte with the
 * same chance. `sampled` counts these, one of n bytes as 1 + n / HK_CAPTURE_LIFE_BYTES; `temporary` those of them that were freed before
 * HK_CAPTURE_LIFE_SHORT bytes and twice its own size more had been allocated in these domains: the copy that takes its place is one. */
#define HK_CAPTURE_LIFE_BYTES 65536u
#define HK_CAPTURE_LIFE_SHORT 16384u
struct hk_capture_exact_site {
    uint32_t node;  /* these as in hk_capture_site */
    uint8_t domain;
    uint8_t flags;
    uint16_t thread; /* since 1.4: its entry + 1 in the threads; 0: not known */
    uint64_t inherited_bytes, inherited_blocks; /* alive at the fork, allocated by the parent */
    uint32_t sampled, temporary; /* since 1.5 */
    uint32_t at_mark[HK_MARKS]; /* KiB */
};

/* When what lives was allocated, since 1.8: a sample of the living blocks, of all lanes. Of what is allocated a block in HK_CAPTURE_LIFE_BYTES on
 * average is taken up, each byte with the same chance, and stays until it is freed; one that grows or moves keeps its time, at the site that is
 * charged with it now. When the section is full, every second is left out on average, the smaller ones first (living_shift + 1): an entry of
 * `weight` stands for max(weight, 2^living_shift) * HK_CAPTURE_LIFE_BYTES bytes. They are in no order. */
struct hk_capture_living {
    uint32_t site;
    uint32_t weight;   /* 1 + bytes / HK_CAPTURE_LIFE_BYTES; 0: the entry is free */
    uint64_t birth_ns; /* to some ms; 0 of a block that the parent allocated before the fork */
};

/* A thread that allocated. The last of HK_CAPTURE_THREADS stands for all that came when the others were taken: it has no id. */
#define HK_CAPTURE_THREADS 64
struct hk_capture_thread {
    uint32_t id;   /* the kernel's; the main thread's is the process's */
    uint32_t name; /* string: as the kernel has it, 15 bytes at most */
    uint64_t first_ns;
};

enum hk_site_flag {
    HK_SITE_OTHER = 1, /* "(other)" of its domain: what came after the bound was reached */
    HK_SITE_CUT = 2,   /* the stack is cut: outer frames are missing */
    HK_SITE_JIT = 4,   /* recorded inside JIT code: the line may be 1-3 off */
    HK_SITE_BLIND = 8, /* no Python thread state: native code without the interpreter's lock */
    HK_SITE_APART = 16, /* since 1.2, exact: allocated without the main interpreter's lock, by another with its own */
};

/* A frame of Python has a code object for its code; one of machine code has a module (HK_CODE_NATIVE), and its offset,
 * read as unsigned, is that of a return address from the module's load base: the call is just before it. On a path,
 * machine code that Python called stands inside the frame that called it. Frames of a program on the runtime
 * (include/heapkeeper/frame.h) are HK_CODE_LINES and otherwise as Python's. */
struct hk_capture_node {
    uint32_t parent; /* the caller's node, always a lower index; 0: outermost */
    uint32_t code;
    int32_t offset; /* bytes into the code's instructions; < 0: before the first */
    uint32_t depth; /* 1 for a node whose parent is 0 */
};

struct hk_capture_code {
    uint32_t file, name, qualified_name; /* strings; qualified_name 0 before Python 3.11 */
    uint32_t line_table, line_table_size; /* string offset and bytes; 0: missing */
    int32_t first_line;
    uint32_t flags;  /* HK_CODE_* */
    union {
        uint32_t module;   /* since 1.1; of HK_CODE_NATIVE: index of its entry in the modules + 1, 0: in no module. Only
                              `file`, the module's path, is filled in then */
        uint32_t prologue; /* since 1.9; of bytecode: bytes before its first traceable instruction. A frame there makes its
                              cells or its generator, and does not exist yet: what it allocates is its caller's */
    };
};

enum hk_code_flag {
    HK_CODE_TRAMPOLINE = 1, /* interpreter's internal trampoline: not to be shown */
    HK_CODE_NATIVE = 2,     /* since 1.1; machine code of one module */
    HK_CODE_LINES = 4,      /* since 1.1; no bytecode: a node's offset counts lines from the first one */
};

/* A mapping with executable code, as it was when first seen: modules come and go. A file that has several shares
 * `path` and `base` among them. */
struct hk_capture_module {
    uint64_t start, end; /* addresses */
    uint64_t offset;     /* in the file, of start */
    uint32_t path;       /* string; 0: code that was made at run time, in no file */
    uint32_t build_id_size;
    uint8_t build_id[32];
    /* since 1.1; 0 before */
    uint64_t base;       /* address of the file's first mapping: the load base; 0: not known, then start - offset */
    uint64_t base_vaddr; /* the same place in the file's own numbering (p_vaddr); symbols are at address - base + this */
    uint64_t image_size; /* bytes from the load base to the end of its last segment */
};

enum hk_event_kind {
    HK_EVENT_FORK = 1,          /* value: pid of the child */
    HK_EVENT_WATCH = 2,         /* value: enum hk_capture_watch */
    HK_EVENT_LIMIT = 3,         /* value: enum hk_capture_limit */
    HK_EVENT_INTERPRETERS = 4,  /* value: 1: interpreters with their own GIL from here on; 0: as `text` says */
    HK_EVENT_NOTE = 5,          /* text */
    HK_EVENT_CULPRIT = 6,       /* value: the address that called libc's `text` with a block of ours; each once, 16 at most */
};

struct hk_capture_event {
    uint64_t time_ns;
    uint32_t kind;
    uint32_t text; /* string */
    uint64_t value;
};

/* A collection of cycles that has ended; or, when the section has been full, several of one generation and cause that followed each
 * other, as a sum. So sums over all entries are exact, however many there were, and so is the longest pause with its time. Entries
 * are in the order of `time_ns`; those of one generation and cause do not overlap. Of a collector that does not say when (CPython, up to
 * 3.14) time_ns and last_ns are the times between which they ended, and longest_at_ns is the best guess; durations are 0. */
enum hk_capture_cause {
    HK_CAUSE_OTHER = 0,
    HK_CAUSE_YOUNG = 1,    /* as many objects more were made than died as the threshold says */
    HK_CAUSE_GROWTH = 2,   /* the heap had grown */
    HK_CAUSE_EXPLICIT = 3, /* the program asked for it */
    HK_CAUSE_STEPS = 4,    /* a round of a collector that works in steps, between which the program runs */
};
#define HK_CAPTURE_CAUSES 5
#define HK_CAPTURE_GENERATIONS 4

struct hk_capture_collection {
    uint64_t time_ns, last_ns; /* when the first of them ended, and the last */
    uint64_t duration_ns;      /* of all */
    uint64_t longest_ns;       /* for which the program stood still at a stretch; of steps: the longest step */
    uint64_t longest_at_ns;    /* when that ended */
    uint64_t examined, freed;  /* objects */
    uint64_t uncollectable;    /* found unreachable, and not freed: saved by a finalizer, or kept on request */
    uint32_t count;
    uint8_t generation, cause;
    uint16_t reserved;
};

/* A stretch of what one thread did, with a name. `count` is how many entries have ever been used at a time: an entry whose span is left
 * out is free, and used again, so they are in no order. When all are used the shortest that have ended are left out, half of them or
 * so; so those inside of others go before these. Bytes are what lives in the heap: the last point's, and what was recorded since. */
struct hk_capture_span {
    uint32_t sequence; /* odd while written */
    uint32_t serial;   /* the how many-th that began; 0: the entry is free */
    uint32_t name;     /* string; 0: the code's */
    uint32_t code;     /* a call of this function; 0: the program named it */
    uint32_t thread;   /* the kernel's id */
    uint32_t reserved;
    uint64_t begin_ns, end_ns; /* the latter 0: it has not ended */
    uint64_t begin_bytes, end_bytes;
    uint64_t begin_rss_bytes, end_rss_bytes; /* read 10 ms ago at most; 0: not known */
};

/* The map of the heap: every pool at one moment, and its sums per size class. It is written with the points that are
 * appended to the timeline, every tenth of a second at least while the program allocates, and at the end; alternately
 * into two sections, so that the older is whole while the newer is being written. A reader takes the one with the
 * higher even sequence.
 *
 * After the header follow arrays, each at `*_offset` bytes from the start of the map, entries `*_size` bytes apart:
 *
 *      heaps    one entry a heap
 *      arenas   by heap, then by address
 *      pools    those of the arenas, in their order
 *      classes  sums, one entry for each size class that has a pool in use, of each heap
 *      bits     only with HK_MAP_BITS: of each used pool, in order, (capacity + 7) / 8 bytes; bit i is set if block i
 *               is allocated
 *
 * If there are more pools than fit, the last arenas are left out; classes are of all. Beyond HK_MAP_HEAPS heaps the last
 * are left out. */
#define HK_MAP_HEAPS 256
enum hk_map_flag {
    HK_MAP_BITS = 1,
    HK_MAP_FINAL = 2, /* the program's end */
};

enum hk_map_pool_state {
    HK_MAP_POOL_EMPTY = 0,    /* kept for reuse */
    HK_MAP_POOL_RETURNED = 1, /* empty, and its pages went back to the system or were never used */
    HK_MAP_POOL_USED = 2,
    HK_MAP_POOL_FULL = 3,
    HK_MAP_POOL_LARGE = 4, /* part of a large block that is made of pools */
};

/* Where the same is found in the memory of the running process, for a reader of the same user: addresses, and offsets
 * of fields in bytes. What the fields mean is src/heap/pool.h; `version` is raised when that changes. */
#define HK_MAP_LIVE_VERSION 1
struct hk_capture_live {
    uint32_t version; /* 0: there is nothing to be found */
    uint32_t reserved0;
    uint64_t heaps; /* list of chunks: pointer to the next chunk, 32 bits count, at 16 a pointer to an array of pointers
                       to heaps; NULL: free slot */
    uint64_t region;
    uint32_t pool_size; /* bytes of a pool */
    uint32_t arena_pools;
    uint32_t current; /* the mark in `pool_used` of a current pool */
    uint16_t region_base, region_pools, region_arenas, region_arena_next;
    uint16_t pool_stride, arena_stride;
    uint16_t pool_free, pool_other_free, pool_used, pool_held, pool_used_before, pool_block_size, pool_carved, pool_capacity,
        pool_place;
    uint16_t arena_heap, arena_empty, arena_dirty, arena_number;
    uint16_t heap_name, heap_domain, heap_mode, heap_large_bytes, heap_large_blocks, heap_size;
    uint16_t threads_mode; /* heap_mode of a heap that has members, one a thread; their pools lie in its arenas */
    uint16_t heap_members, heap_next_member;
    uint16_t place_empty, place_current, place_run;
    uint16_t member_size; /* of what stands for a thread, a heap and more; 0: heap_size */
    uint16_t threads_size; /* of a heap that has members, without them; 0: heap_size */
    uint16_t owner_size;   /* what such a heap has beside each descriptor of a pool */
    uint16_t reserved1[3];
    uint64_t reserved[3];
};

struct hk_capture_map {
    uint64_t sequence; /* odd while written */
    uint64_t time_ns;
    uint32_t flags; /* enum hk_map_flag */
    uint32_t size;  /* bytes of the whole map */
    uint32_t heap_offset, heap_size, heap_count;
    uint32_t arena_offset, arena_size, arena_count;
    uint32_t pool_offset, pool_size, pool_count;
    uint32_t class_offset, class_size, class_count;
    uint32_t bits_offset, bits_size, bits_count; /* bits_size: 1 */
    uint32_t arenas_left_out, heaps_left_out;
    uint32_t reserved0;
    struct hk_capture_live live;
    uint64_t reserved[4];
};

struct hk_capture_map_heap {
    char name[24]; /* NUL terminated, cut */
    uint32_t number;
    uint16_t domain; /* as in hk_capture_site */
    uint16_t locks_itself;
    uint32_t pool_size; /* bytes */
    uint32_t arena_pools;
    uint32_t arenas, pools_used, pools_full, pools_empty, pools_returned; /* of all, whatever was left out */
    uint32_t pools_large;
    uint64_t large_bytes, large_blocks; /* of the C allocator */
    uint64_t metadata_bytes;
    uint64_t own_large_bytes, own_large_blocks; /* made of pools; bytes: whole pools */
    uint64_t reserved[3];
};

struct hk_capture_map_arena {
    uint64_t start; /* address */
    uint32_t heap;  /* number of a hk_capture_map_heap */
    uint32_t number; /* in its heap */
};

struct hk_capture_map_pool {
    uint16_t block_size; /* in units of 8 bytes; 0: empty */
    uint16_t allocated;  /* blocks */
    uint16_t touched;    /* blocks that were handed out at least once */
    uint8_t state;       /* enum hk_map_pool_state */
    uint8_t is_current;  /* 1: the next block of its class comes from here */
};

struct hk_capture_map_class {
    uint32_t heap; /* its number */
    uint32_t block_size;
    uint32_t capacity; /* blocks of a pool */
    uint32_t pools_used, pools_full;
    uint32_t reserved;
    uint64_t allocated, free, untouched; /* blocks, in all of its pools */
};

/* Small children of a run that ended cleanly leave no capture of their own but one such record each, appended to
 * the file RUNID.children (run id in hex) in the directory of the captures. */
struct hk_capture_child {
    uint32_t pid, reserved;
    uint64_t start_realtime_ns, duration_ns;
    uint64_t peak_bytes; /* most live bytes at a point of its timeline */
    uint64_t allocated_bytes, peak_rss_bytes;
    char name[80]; /* its command line, NUL terminated, cut */
};

#define HK_CAPTURE_MAILBOX_OFFSET 4096u
#define HK_CAPTURE_STATUS_OFFSET 8192u

_Static_assert(sizeof(struct hk_capture_header) <= 4096, "the header is one page");
_Static_assert(sizeof(struct hk_capture_status) <= 4096, "the status is one page");
_Static_assert(sizeof(struct hk_capture_node) == 16, "nodes stay small");
_Static_assert(sizeof(struct hk_capture_site) == 256, "sites stay small");
_Static_assert(sizeof(struct hk_capture_counters) == 64, "a line of the cache");
_Static_assert(sizeof(struct hk_capture_exact_site) == 96, "with its counters 160 bytes");
_Static_assert(sizeof(struct hk_capture_collection) == 72, "nothing between");
_Static_assert(sizeof(struct hk_capture_thread) == 16, "nothing between");
_Static_assert(sizeof(struct hk_capture_span) == 72, "nothing between");
_Static_assert(sizeof(struct hk_capture_living) == 16, "nothing between");
_Static_assert(sizeof(struct hk_capture_child) == 128, "readers step by this");
_Static_assert(sizeof(struct hk_capture_map_pool) == 8, "one for each pool");
_Static_assert(sizeof(struct hk_capture_map) % 8 == 0, "arrays follow it");

#endif
