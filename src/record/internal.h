/* The recorder's inside, shared by the files of this folder and by its tests.
 *
 *   record.c    what the heap and the hosts call: start, allocation, free, facts, exit
 *   file.c      the capture file: created or taken over, mapped once, grown without a descriptor
 *   pack.c      its end: a packed copy takes its place, or it is cut
 *   process.c   facts about the process for the header
 *   modules.c   the map of native modules; return addresses to modules and offsets
 *   index.c     hash indexes in anonymous memory: hash -> number of an entry in the file
 *   codes.c     strings and code objects
 *   sites.c     the call tree and its sites, and what happens when they no longer fit
 *   samples.c   the table of sampled live blocks
 *   counters.c  counters of a site: peak by the serial rule, marks and births
 *   exact.c     the same of exact recording, where the host counts every block (exact.h)
 *   look.c      what exact recording has written, for the process itself
 *   draw.c      random distances, weights of samples, automatic mean distance
 *   timeline.c  points, marks, requests
 *   collections.c  collections of cycles, merged when there are many
 *   spans.c     stretches with a name; the shortest are left out when there are many
 *   living.c    of exact recording, a sample of the living blocks, with their ages
 *   heapmap.c   the map of the heap's pools
 *   fork.c      a child leaves its parent's file and makes its own
 *   fold.c      a small child's capture becomes one record
 *   check.c     validity of all of these
 *
 * All mutable state is in one struct, `hk_rec`. Whoever touches it has entered by
 * hk_rec_enter(), which takes the lock, unless a comment says otherwise. Numbers of entries live
 * in private memory (`section[].count`) and are published to the file: after a fork the child
 * still knows how far its parent's entries were complete.
 */
#ifndef HK_RECORD_INTERNAL_H
#define HK_RECORD_INTERNAL_H

#include <errno.h>
#include <limits.h>

#include "base/os.h"
#include "record/record.h"

#define HK_REC_FRAMES  2048u /* deeper stacks are cut to the innermost so many */
#define HK_REC_PENDING 64u   /* frees by signal handlers that interrupted the recorder */
#define HK_REC_NONE    UINT32_MAX
#define HK_REC_DOMAINS 4
#define HK_REC_EXACT_SITES ((1u << 20) - 2) /* a block has 20 bits for its site */
#define HK_REC_LATE_NODES 4096u
#define HK_REC_HUGE_BYTES (4u << 20) /* all of a hash table is in memory; from here on most probes would wait for the kernel's tables of pages, too */
#define HK_REC_PACK_NS 128u /* a process that ran for less per byte does not pack its capture; a byte takes some 0.7 */
#define HK_REC_MODULES 1024u /* that are looked up; the file has room for fewer */

#define HK_LIKELY(x)   __builtin_expect(!!(x), 1)
#define HK_UNLIKELY(x) __builtin_expect(!!(x), 0)

enum hk_rec_stage {
    HK_REC_OFF = 0, /* never started, or nothing can be recorded any more */
    HK_REC_ON = 1,
    HK_REC_DISK_FULL = 2, /* the file cannot grow: nothing is recorded, the end is still noted */
    HK_REC_DETACHED = 3,  /* a forked child that has not recorded anything yet */
    HK_REC_ENDED = 4,
};

struct hk_rec_section {
    uint8_t *data;
    uint64_t capacity; /* entries */
    uint64_t count;    /* entries complete; the file's count follows */
    uint64_t ready;    /* bytes that can be written without a fault that kills */
    uint32_t entry_size;
};

struct hk_rec_slot {
    uint32_t hash;
    uint32_t entry; /* HK_REC_NONE: empty */
};

struct hk_rec_index {
    struct hk_rec_slot *slots;
    uint32_t capacity, used; /* capacity: a power of two, or 0 */
};

/* The nodes of the tree by what they are: hash -> number, of as few bytes as may be, since there are up to millions. See sites.c. */
struct hk_rec_nodes {
    uint32_t *slots;
    uint32_t capacity, used; /* capacity: a power of two, or 0 */
};

struct hk_rec_site_link {
    uint32_t next; /* site of the same node, + 1; 0: none */
    uint8_t domain, flags; /* what tells sites of a node apart, so that the site itself need not be looked at */
    uint16_t thread;
};

struct hk_rec_sample {
    uintptr_t block; /* 0: empty */
    uint64_t weight; /* bytes it stands for */
    uint32_t site;
    uint32_t blocks; /* blocks it stands for */
    uint8_t birth_mark, birth_generation;
    uint8_t inherited; /* allocated by the parent before fork */
    uint8_t is_code;   /* exact: a code object lives in it */
    uint8_t age;       /* exact: see hk_exact_large_add */
    uint8_t reserved[3];
};

struct hk_rec_code_slot {
    const void *address; /* NULL: empty */
    struct hk_code_identity identity;
    uint32_t code;
    uint32_t codes; /* hk_exact_codes() when it was looked at last */
};

struct hk_rec_level { /* of the stack seen last, outermost first */
    const void *address; /* of the code object */
    uint32_t code;
    int32_t offset;
    uint32_t node;
};

struct hk_recorder {
    /* touched without the lock, by atomic operations */
    hk_lock lock;
    uint32_t stage;
    uint32_t recording; /* 0: stopped by a request */
    uint32_t frozen;    /* 1: the program is over, its runtime is being torn down */
    uint32_t skipped;
    uint32_t pending_count;
    uintptr_t pending[HK_REC_PENDING];
    uint32_t table_count; /* blocks in the table */
    uint64_t mean;        /* in force; 0: exact */
    uint64_t random;
    uint64_t next_tick_ns;    /* monotonic, coarse clock; nothing is due before */
    uint64_t next_mark_bytes; /* as the heap counts allocation */
    uint32_t *wiped;          /* 0 in a process that was forked just now */

    /* the file */
    uint8_t *map;
    uint64_t bound;
    bool named;        /* false: unnamed memory */
    bool preallocated; /* of a file: it needs no population */
    bool fork_interrupted;
    bool ticked; /* since the fork: see hk_record_tick */
    bool exact;  /* HK_MODE_EXACT, and the host counts */
    bool naming_tried; /* see hk_rec_name */
    uint32_t page;
    uint64_t device, inode;
    uint64_t file_bytes;    /* of the mapping, populated */
    uint64_t private_bytes; /* anonymous memory of tables */
    struct hk_rec_section section[HK_SECTION_KINDS];
    char path[PATH_MAX];

    /* tables */
    struct hk_rec_index strings, codes;
    struct hk_rec_nodes nodes;
    uint32_t *first_site; /* per node: a site + 1; 0: none */
    struct hk_rec_site_link *next_site; /* per site */
    uint32_t node_links, site_links;  /* room in them */
    uint32_t linked;                  /* sites */
    struct hk_rec_code_slot *addresses;
    uint32_t address_capacity, address_used;
    uint8_t module_loaded[HK_REC_MODULES]; /* 1: was in the map when it was read last */
    uint32_t last_module;
    uint32_t modules_changed; /* atomic: the map is to be read again */
    uint32_t module_reads;
    uint64_t modules_read_ns;
    struct hk_rec_sample *samples;
    uint32_t sample_capacity;

    /* counters that the child of a fork must not read from the file */
    uint64_t serial, peak_bytes, live_bytes;
    uint32_t mark, generation; /* newest mark, and how often they were thinned */
    uint64_t mark_ns, mark_allocated, mark_distance_ns, mark_distance_bytes;

    /* sampling */
    bool automatic, seeded;
    uint32_t samples_total, window_samples;
    uint64_t window_ns, sample_cost_ns; /* the latter: an average of late */

    /* time */
    uint64_t start_ns; /* monotonic */
    uint64_t spent_ns; /* estimate */
    uint32_t events;
    uint64_t point_cost_ns, last_point_ns, last_append_ns, append_distance_ns, last_rss_ns,
        last_peak_rss_ns, next_modules_ns;
    uint64_t rss, peak_rss;
    uint64_t map_sequence, last_map_ns;
    uint64_t point_live;   /* bytes at the last point, */
    int64_t point_counted; /* and what hk_rec_counted() was then */

    /* spans; see spans.c */
    uint32_t span_serial, first_free_span; /* the latter: its entry + 1, or 0 */
    uint64_t shortest_span_ns, span_names, spans_left_out, span_rss_ns;

    struct hk_capture_point base; /* of a child: what its parent had allocated */
    struct hk_capture_point scratch;

    /* facts kept for a child's header */
    uint32_t watch, watch_name, stacks, stacks_why;

    struct hk_record_options options;
    struct hk_stack_source source;

    struct hk_rec_slot late_nodes[HK_REC_LATE_NODES]; /* by hash, entry 0: none; see find_node */
    uint32_t forked_from; /* a recorded process; 0: none */
    uint32_t last_depth, last_codes; /* the latter: hk_exact_codes() then */
    bool last_told; /* the stack seen last was told as struct hk_stack_known says */
    struct hk_rec_level last[HK_REC_FRAMES];
    struct hk_frame frames[HK_REC_FRAMES];
    uint32_t frame_codes[HK_REC_FRAMES];
    char buffer[16384];
};

extern struct hk_recorder hk_rec;
extern __thread int hk_rec_inside;

/* record.c */
bool hk_rec_enter(void); /* false: this thread is inside already; counted as skipped */
void hk_rec_leave(void);
bool hk_rec_begin(void); /* fills a fresh file: header, first mark, "(other)" sites */
void hk_rec_forget(bool trusted); /* all entries of the file that is left */
bool hk_rec_wake(void);  /* ready to write? a forked child makes its capture here */
void hk_rec_limit(uint32_t limit);
void hk_rec_event(enum hk_event_kind kind, uint64_t value, uint32_t text);

/* file.c */
bool hk_rec_file_open(const char *path, bool is_new, uint64_t device, uint64_t inode,
                      uint64_t bound, const char **why);
bool hk_rec_file_unnamed(uint64_t bound, const char **why);
void hk_rec_file_close(void); /* unmaps */
void hk_rec_file_drop(bool is_new); /* and leaves no file where there was none, or an empty one */
bool hk_rec_file_is_ours(int fd); /* fd: opened by the path the capture was made under */
void hk_rec_layout(void);
/* Room for `more` entries, which can be written; NULL: full, or the disk is. */
void *hk_rec_append(int kind, uint64_t more);
void hk_rec_publish(int kind, uint64_t more);
/* open, read, write and close as system calls: the C library's are cancellation points, and a
 * thread that is cancelled in a hook would end with the lock held. */
int hk_rec_open(const char *path, int flags, unsigned mode);
long hk_rec_read(int fd, void *buffer, size_t size);
long hk_rec_write(int fd, const void *buffer, size_t size);
void hk_rec_close(int fd);
/* Anonymous, zero, never huge pages; counted in private_bytes; or NULL. */
void *hk_rec_map(size_t bytes);
void hk_rec_unmap(void *memory, size_t bytes);

/* process.c */
void hk_rec_describe_process(void);
void hk_rec_read_rss(bool peak_too);
uint64_t hk_rec_clock(void);        /* monotonic, ns */
uint64_t hk_rec_coarse_clock(void); /* the same, some ms late, cheaper */
uint64_t hk_rec_parse_number(const char **at, int base);

/* modules.c */
void hk_rec_read_modules(void);
/* The code of the module with this return address, and the address' offset from its load base; 0: no room, and *offset as it was. Uses
 * hk_rec.buffer. */
uint32_t hk_rec_native_code(uintptr_t address, int32_t *offset);

/* index.c */
uint32_t hk_rec_hash(uint64_t a, uint64_t b);
uint32_t hk_rec_hash_bytes(const void *data, size_t size);
bool hk_rec_index_add(struct hk_rec_index *index, uint32_t hash, uint32_t entry);

/* codes.c */
uint32_t hk_rec_string(const void *text, size_t size); /* 0 when empty or no room */
uint32_t hk_rec_text(const char *text);                /* the same for a C string; NULL gives 0 */
uint32_t hk_rec_code(const void *address);             /* 0: no room */
/* The entry with this content, old or new; 0: no room. */
uint32_t hk_rec_code_by_content(const struct hk_capture_code *content);

/* sites.c */
/* Walks the stack; HK_REC_NONE: cannot write. extra: HK_SITE_APART or 0. */
uint32_t hk_rec_site_here(int domain, uint8_t extra);
bool hk_rec_make_other_sites(void);
bool hk_rec_link_sites(void);

/* samples.c */
struct hk_rec_sample *hk_rec_sample_find(uintptr_t block);
/* A block that is not in the table yet; NULL: no memory. */
struct hk_rec_sample *hk_rec_sample_add(uintptr_t block);
void hk_rec_sample_remove(struct hk_rec_sample *sample);
void hk_rec_samples_clear(bool trusted);

/* counters.c */
void hk_rec_count_birth(struct hk_capture_site *site, const struct hk_rec_sample *sample);
void hk_rec_count_total(struct hk_capture_site *site, uint64_t bytes, uint64_t blocks);
void hk_rec_count_death(struct hk_capture_site *site, const struct hk_rec_sample *sample);
void hk_rec_mark(uint64_t now_ns, uint64_t allocated_bytes);
uint32_t hk_rec_kib(uint64_t bytes);
uint32_t hk_rec_birth_kib(const struct hk_rec_sample *sample);

/* thread_table.c, of exact recording: hk_exact_thread is this thread's number from then on; its name may be another by now */
void hk_rec_meet_thread(void);
void hk_rec_look_at_thread(void);
void hk_rec_thread_forked(void);

/* exact.c; all do nothing in other modes */
void hk_exact_begin(void);
void hk_exact_refresh(void); /* births and deaths are as they should be */
void hk_exact_marked(void);
void hk_exact_publish(uint64_t now_ns, bool final);
int64_t hk_exact_live(void); /* bytes; any thread */
uint64_t hk_exact_peak(void); /* the same */
bool hk_exact_adopt(const struct hk_rec_section *parent); /* a child's sites */
void hk_exact_inherit(void);                             /* and what they inherit */

/* living.c */
void hk_rec_living_clear(bool trusted);
void hk_rec_living_drop(const void *block);
bool hk_rec_living_adopt(void); /* a child's section, of what it knows of its parent's */
int hk_rec_living_check(void);

/* draw.c */
double hk_rec_log(double x);                 /* x > 0, normal */
double hk_rec_one_minus_exp_minus(double x); /* 1 - exp(-x), x >= 0 */
uint64_t hk_rec_random(void);
void hk_rec_weigh(size_t bytes, uint64_t mean, uint64_t *weight, uint32_t *blocks);
void hk_rec_adapt_mean(void);

/* timeline.c */
void hk_rec_point(bool append, uint32_t name, bool final);
void hk_rec_last_point(void);
void hk_rec_tick(uint64_t allocated_bytes);

/* spans.c */
void hk_rec_spans_begin(void);
int64_t hk_rec_counted(void); /* live bytes by what is recorded: exact, or estimated */

/* heapmap.c */
void hk_rec_map_heap(uint64_t time_ns, bool bits, bool final); /* bits: which blocks are allocated, too */

/* fork.c */
void hk_rec_detach(bool trusted);
bool hk_rec_adopt(void);
void hk_rec_name(void); /* the capture moves from memory to a file; nobody counts meanwhile */
void hk_rec_check_wiped(void);

/* fold.c */
bool hk_rec_fold(const char *path); /* true: the record is written, the capture removed */

/* pack.c */
void hk_rec_file_end(void); /* nothing is written to the file any more */

static inline uint64_t hk_rec_round_up(uint64_t bytes, uint64_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

static inline struct hk_capture_header *hk_rec_header(void)
{
    return (struct hk_capture_header *)hk_rec.map;
}

static inline struct hk_capture_status *hk_rec_status(void)
{
    return (struct hk_capture_status *)(hk_rec.map + HK_CAPTURE_STATUS_OFFSET);
}

static inline struct hk_capture_site *hk_rec_site(uint32_t number)
{
    return (struct hk_capture_site *)hk_rec.section[HK_SECTION_SITES].data + number;
}

static inline struct hk_capture_exact_site *hk_rec_exact_site(uint32_t number)
{
    return (struct hk_capture_exact_site *)hk_rec.section[HK_SECTION_EXACT_SITES].data + number;
}

/* Where sites are, and what all kinds of them begin with. */
static inline int hk_rec_site_kind(void)
{
    return hk_rec.exact ? HK_SECTION_EXACT_SITES : HK_SECTION_SITES;
}

struct hk_rec_site_key {
    uint32_t node;
    uint8_t domain, flags;
    uint16_t thread;
};

static inline struct hk_rec_site_key *hk_rec_site_key(uint32_t number)
{
    const struct hk_rec_section *section = &hk_rec.section[hk_rec_site_kind()];
    return (struct hk_rec_site_key *)(section->data + (uint64_t)number * section->entry_size);
}

static inline struct hk_capture_node *hk_rec_node(uint32_t number)
{
    return (struct hk_capture_node *)hk_rec.section[HK_SECTION_NODES].data + number;
}

#endif
