/* From counters per call path to answers: frames, lines, what is large and what is growing.
 *
 * Sites are resolved to frames (function, file, line) through the call tree, the code objects and
 * their line tables. Paths that end in the same line are merged for the lists a person reads, and
 * each merged line keeps its heaviest path as the example of how one gets there.
 */
#ifndef HK_READ_SITES_H
#define HK_READ_SITES_H

#include "read/capture.h"
#include "read/growth.h"
#include "read/symbols.h"

/* Strings are borrowed from the capture and from its resolver; line 0: unknown. */
struct hk_source_frame {
    const char *function;       /* "remember_order"; of machine code without a name "libshop.so.1+0x1234" */
    const char *qualified_name; /* "Shop.remember_order"; the plain name before Python 3.11 */
    const char *file;           /* as the code object or the debug information has it; "" for none */
    int line;
    const char *module;  /* of machine code: the file name of its module; NULL: a Python frame */
    uint64_t address;    /* of machine code: the return address, as its module counts */
    const char *through; /* of a Python frame: the module of the machine code that asked on its behalf; or NULL */
    bool is_near;        /* of a line: some of it was asked for by code of a JIT, and may be of a line 1 to 3 further up or down */
};

/* What blocks are like, since format 1.5 of exact captures; see struct hk_capture_exact_site. */
struct hk_lives {
    uint64_t largest_bytes; /* of the largest block; UINT32_MAX: that or more */
    uint64_t sampled, temporary;
};
void hk_lives_add(struct hk_lives *sum, const struct hk_lives *more);

/* The ages of what lives, by epochs of powers of two: bytes, estimated from a sample, that lived for so long at the capture's end or now. Epoch 0 is
 * all below 1/64 s, epoch 7 from 1 s on, the last 2^20 s and more. */
#define HK_EPOCHS 28
struct hk_ages {
    uint64_t bytes[HK_EPOCHS];
    uint64_t samples; /* behind them; a large block counts as several */
};
void hk_ages_add(struct hk_ages *sum, const struct hk_ages *more);
uint64_t hk_epoch_ns(unsigned epoch); /* the least age */
/* The oldest epoch that `part` of the bytes have at least; HK_EPOCHS: nothing is known. */
unsigned hk_ages_epoch(const struct hk_ages *ages, double part);

/* One call path in one domain. */
struct hk_site {
    uint32_t node;
    uint8_t domain, flags; /* HK_SITE_* */
    uint16_t thread;       /* 0: not known */
    uint64_t live_bytes, live_blocks;
    uint64_t peak_bytes, peak_blocks; /* live when the recorded total was at its peak */
    uint64_t total_bytes, total_blocks;
    uint64_t inherited_bytes;
    uint32_t samples_total, samples_live;
    struct hk_lives lives;
    struct hk_growth growth;
    uint32_t line;  /* index of its merged line */
    uint32_t entry; /* of the capture */
};

/* All paths, of all domains, that end in the same line. */
struct hk_line {
    struct hk_source_frame frame;
    uint8_t flags; /* HK_SITE_* of all its sites, or'ed */
    uint32_t site_count;
    uint64_t live_bytes, live_blocks, peak_bytes, peak_blocks, total_bytes, total_blocks;
    uint64_t samples_total;
    struct hk_lives lives;
    struct hk_ages ages;
    uint64_t at_mark[HK_MARKS], born_in[HK_MARKS];
    uint32_t heaviest_live, heaviest_peak, heaviest_total; /* index of a site */
    uint32_t steepest; /* index of the site that rose most: the path to show for a growing line */
    struct hk_growth growth;
};

/* A block of the sample of the living; of a sampled capture, what a site has from one of the spans between marks. */
struct hk_living {
    uint32_t site; /* its index */
    uint32_t epoch;
    uint64_t bytes, samples;
};

struct hk_sites {
    const struct hk_capture *capture;
    enum hk_section_kind kind; /* where sites are */
    struct hk_site *sites;
    size_t site_count;
    struct hk_line *lines;
    size_t line_count;
    struct hk_living *living;
    size_t living_count, living_room;
    struct hk_growth_run run;
    uint64_t live_bytes, peak_bytes, total_bytes; /* sums over all sites */
    uint64_t domain_total_bytes[4];
    uint64_t other_bytes; /* total bytes in "(other)" */
    uint64_t blind_bytes; /* total bytes without a stack */
    uint64_t dropped;     /* sites that cannot be */
    struct hk_resolver *resolver;
};

/* Reads all sites. `capture` is borrowed until hk_sites_free. Never fails: what cannot be, is
 * dropped and counted. */
struct hk_sites *hk_sites_read(const struct hk_capture *capture);
void hk_sites_free(struct hk_sites *sites);

/* The stack above and including `node`, outermost frame first, without the interpreter's
 * trampolines; at most `max` frames, the innermost ones. Returns how many; `*cut` tells whether
 * some are missing. */
size_t hk_sites_stack(const struct hk_sites *sites, uint32_t node, struct hk_source_frame *frames,
                      size_t max, bool *cut);

/* Where a site's bytes were asked for: its innermost frame, or "(no Python frame)", "(other)". Of machine code, the
 * innermost Python frame beneath it; without one, the innermost frame outside the C and C++ libraries. */
struct hk_source_frame hk_sites_where(const struct hk_sites *sites, const struct hk_site *site);

/* The frame of machine code that a site's memory was asked from; false if there is none. */
bool hk_sites_native(const struct hk_sites *sites, const struct hk_site *site, struct hk_source_frame *frame);

/* Paths of modules whose functions could not be looked up for the reason `state`; NULL after the last. *at: 0. */
const char *hk_sites_unread_module(const struct hk_sites *sites, enum hk_symbols_state state, size_t *at);

/* Bytes that a sample stands for, for the variance of a sum of samples. The recorder may have moved
 * the mean during the run and the header has the largest; what these samples weighed tells more. 0:
 * exact. */
double hk_sites_mean(const struct hk_sites *sites, uint64_t total_bytes, uint64_t samples);

/* "main (1234)", "worker (1240)", "63 threads and more", "(not recorded)"; of a thread the kernel's number. Allocated; the caller frees it. */
char *hk_sites_thread(const struct hk_sites *sites, unsigned thread);
/* A site's live KiB at the end of each span and, of a sampled capture, those born in it, both up to date; see growth.h. They are
 * not kept: there may be hundreds of thousands of sites. */
void hk_sites_marks(const struct hk_sites *sites, const struct hk_site *site, uint64_t at_mark[HK_MARKS],
                    uint64_t born_in[HK_MARKS]);

/* True if the capture knows the largest block of a site, and which share of what it allocated was freed soon. */
bool hk_sites_have_lives(const struct hk_sites *sites);
/* True if the capture knows when what lives was allocated: an exact one since format 1.8. */
bool hk_sites_have_ages(const struct hk_sites *sites);
void hk_living_add(struct hk_ages *sum, const struct hk_living *one);
/* True if the capture tells threads apart. */
bool hk_sites_have_threads(const struct hk_sites *sites);

const char *hk_domain_name(unsigned domain); /* "raw", "mem", "object", "native" */

#endif
