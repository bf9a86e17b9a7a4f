/* The report: what a capture says, as text for a person and as JSON for a program. */
#ifndef HK_VIEW_REPORT_H
#define HK_VIEW_REPORT_H

#include "read/find.h"
#include "read/sites.h"
#include "view/json.h"
#include "view/text.h"

/* Everything is borrowed. */
struct hk_report {
    const struct hk_capture *capture;
    const struct hk_sites *sites;
    const struct hk_family *family; /* the processes of the run; NULL: unknown */
    unsigned top;                   /* lines in a list of the text */
};

void hk_report_text(const struct hk_report *report, const struct hk_terminal *terminal);

/* "3 small children that ended cleanly: 115 MiB allocated, the largest peak 46.4 MiB (its name)", clean for `terminal`. */
char *hk_report_small_children(char to[400], const struct hk_family *family, const struct hk_terminal *terminal);

/* The sentences of a part of the text, a line each, without its heading; for `terminal` without a width. Allocated; the caller
 * frees it. */
enum hk_report_part { HK_PART_HEAP, HK_PART_GC, HK_PART_OUTSIDE, HK_PART_RECORDER };
char *hk_report_sentences(const struct hk_report *report, enum hk_report_part part, const struct hk_terminal *terminal);

/* Keys are stable: names are never changed or removed within a major version, only added. */
void hk_report_json(const struct hk_report *report, FILE *out);

/* ---- shared by both ---- */

/* The keys of a frame, into the object that is open. */
void hk_report_json_frame(struct hk_json *json, const struct hk_source_frame *frame);
/* In an open object: where the site is, its domain, and what is allocated there. */
void hk_report_json_site(struct hk_json *j, const struct hk_sites *s, const struct hk_source_frame *where, const struct hk_site *site);

/* The heap at the newest point, with sums made here and not taken from the file. */
struct hk_heap_view {
    struct hk_capture_point at;
    uint64_t peak_bytes;              /* most bytes live at once */
    uint64_t live_bytes, live_blocks; /* pools and large blocks */
    uint64_t mapped_bytes;            /* sum of the classes */
    int64_t unexplained_bytes; /* the writer's total less that sum; 0 unless something is wrong */
    uint64_t rss_bytes;        /* at the newest point that read it; 0: never */
    uint64_t peak_rss_bytes;
    uint64_t outside_bytes; /* of that rss: not heap, not large blocks, not the recorder; if all */
    uint64_t
        outside_most_bytes; /* that is mapped was touched, and if nothing but live blocks was */
    uint32_t pools;
};
struct hk_heap_view hk_heap_view(const struct hk_capture *capture);

/* The three totals. They are the heap's at the newest point; but where every block was recorded, that record goes on when the point is old: the
 * process was killed, or sleeps. If more was allocated after it than can be passed over, they are sums over sites. */
struct hk_totals {
    uint64_t peak_bytes, live_bytes, live_blocks, allocated_bytes, allocated_blocks;
    uint64_t peak_rss_bytes; /* 0: not known */
    uint64_t later_bytes; /* allocated after the newest point; 0: they are of the point */
};
struct hk_totals hk_report_totals(const struct hk_report *report);

/* The collections of cycles, summed. */
struct hk_gc_view {
    uint64_t collections, by_generation[HK_CAPTURE_GENERATIONS];
    uint64_t duration_ns, longest_ns, longest_at_ns;
    uint64_t examined, freed, uncollectable;
    unsigned longest_generation, longest_cause; /* of the longest */
};
struct hk_gc_view hk_gc_view(const struct hk_capture *capture);

/* Sentences on what kept us out, made us blind or less than exact; newly allocated, to be freed by
 * the caller with hk_notes_free. */
struct hk_notes {
    char **texts;
    size_t count;
};
struct hk_notes hk_notes(const struct hk_report *report);
void hk_notes_free(struct hk_notes *notes);

/* "3.13.0", "3.14.0rc1"; "" for no Python. */
const char *hk_python_version(uint32_t version, char text[32]);

/* Stable words of the JSON, also used in sentences. */
const char *hk_state_word(enum hk_life life); /* empty running ended killed execed */
const char *hk_mode_word(uint32_t mode);      /* none sample exact */
/* unknown ours ours_under_hook replaced not_python refused */
const char *hk_watch_word(uint32_t watch);
const char *hk_stacks_word(uint32_t stacks); /* untested good off */
const char *hk_cause_word(unsigned cause);   /* other young growth explicit steps */

#endif
