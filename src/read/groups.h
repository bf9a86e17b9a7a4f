/* Sums over the sites of a capture: by line, function, file, module, domain, size or thread.
 *
 * Every site is in exactly one group, so the groups of any choice add up to the same totals. Threads are told apart by captures of every
 * block only.
 *
 * Not thread-safe; not to be called inside a measured program.
 */
#ifndef HK_READ_GROUPS_H
#define HK_READ_GROUPS_H

#include "read/sites.h"

enum hk_group_by {
    HK_BY_LINE,     /* as the report's lists have it */
    HK_BY_FUNCTION, /* all lines of one */
    HK_BY_FILE,     /* of code without a file its module; of no code "(other)" and the like */
    HK_BY_MODULE,   /* of Python by its path; what machine code asked for belongs to its library or program */
    HK_BY_DOMAIN,
    HK_BY_SIZE, /* of a site's average block: a call path mostly asks for one size. What the heap has of each class is in its map */
    HK_BY_THREAD,
    HK_GROUP_CHOICES
};

/* Bytes, and numbers of blocks and of samples. In a sampled capture these are estimates. */
struct hk_amounts {
    uint64_t live_bytes, live_blocks, peak_bytes, peak_blocks, total_bytes, total_blocks, samples;
    struct hk_lives lives;
};

struct hk_group {
    struct hk_source_frame frame; /* what the group has in common; "", 0 and NULL for the rest */
    char *name;                   /* of a module, a domain, a thread or a size; NULL: the frame says it */
    struct hk_amounts amounts;
    struct hk_ages ages;
    uint64_t at_mark[HK_MARKS], born_in[HK_MARKS]; /* KiB, as those of sites */
    uint32_t site_count;
};

struct hk_groups {
    struct hk_group *groups; /* in the order in which the capture names them first; none is all zeros */
    size_t count;
    struct hk_amounts totals;
    struct hk_ages ages; /* of all */
};

/* The words of the choices, "line" and so on, with a NULL behind them; and that of one. */
extern const char *const hk_group_words[HK_GROUP_CHOICES + 1];
const char *hk_group_word(enum hk_group_by by);

/* `sites` is borrowed until hk_groups_free. Never fails. */
struct hk_groups *hk_groups_make(const struct hk_sites *sites, enum hk_group_by by);
void hk_groups_free(struct hk_groups *groups);

/* True for groups of the same name, also of two captures; the hash is equal then. Groups of one choice only. */
bool hk_group_same(const struct hk_group *a, const struct hk_group *b);
uint64_t hk_group_hash(const struct hk_group *group);

struct hk_amounts hk_amounts_of_line(const struct hk_line *line);
struct hk_amounts hk_amounts_of_site(const struct hk_site *site);
void hk_amounts_add(struct hk_amounts *sum, const struct hk_amounts *more);

/* The dotted name of the Python module in `file`: of a path in site-packages or the standard library from there on, of
 * one beneath `directory` from there on, else the name of the file alone; of "<frozen NAME>" the name. Allocated; the
 * caller frees it. */
char *hk_module_name(const char *file, const char *directory);

#endif
