/* heapkeeper table: a row a group, as text for a person and as JSON for a program. */
#ifndef HK_VIEW_TABLE_H
#define HK_VIEW_TABLE_H

#include "read/groups.h"
#include "view/json.h"
#include "view/text.h"

enum hk_sort {
    HK_SORT_LIVE,
    HK_SORT_PEAK,
    HK_SORT_TOTAL,
    HK_SORT_BLOCKS,
    HK_SORT_CHOICES,
    HK_SORT_TEMPORARY = HK_SORT_CHOICES, /* these two of tables only, where hk_sites_have_lives */
    HK_SORT_LARGEST,
    HK_SORT_AGE, /* of tables only, where hk_sites_have_ages */
};

/* Everything is borrowed. */
struct hk_table_view {
    const struct hk_capture *capture;
    const struct hk_sites *sites;
    enum hk_group_by by;
    enum hk_sort sort;  /* largest first */
    const char *filter; /* rows whose name has it somewhere; * and ? stand for any text, any byte. NULL: all */
    size_t limit;       /* rows; 0: all */
};

void hk_table_text(const struct hk_table_view *view, const struct hk_terminal *terminal);

/* Keys are stable: names are never changed or removed within a major version, only added. */
void hk_table_json(const struct hk_table_view *view, FILE *out);

/* The words of the choices, "live" and so on, with a NULL behind them; and that of one. */
extern const char *const hk_sort_words[HK_SORT_AGE + 2];
const char *hk_sort_word(enum hk_sort sort);

/* True if `pattern`, in which * stands for any bytes and ? for one, is found in `text`. */
bool hk_pattern_found(const char *pattern, const char *text);

/* ---- shared with other views of groups ---- */

/* What a group is called, in full; the caller frees it. */
char *hk_group_name(const struct hk_group *group);

/* The same, clean and in `columns`, paths as the report has them. `to` holds `size` bytes. */
void hk_group_text(const struct hk_terminal *terminal, const struct hk_capture *capture, const struct hk_group *group, char *to,
                   size_t size, size_t columns);

/* Into the object that is open, where the capture knows it: largest_bytes, and temporary_share, null where no block was watched. */
void hk_lives_json(struct hk_json *json, const struct hk_sites *sites, const struct hk_lives *lives);

/* The same: ages[], of each epoch of which there is something its least age and its share of what lives. */
void hk_ages_json(struct hk_json *json, const struct hk_sites *sites, const struct hk_ages *ages);

/* Their keys, into the object that is open. */
void hk_amounts_json(struct hk_json *json, const struct hk_amounts *amounts);
void hk_group_json(struct hk_json *json, enum hk_group_by by, const struct hk_group *group);

#endif
