/* heapkeeper diff: what rose and what fell, as text for a person and as JSON for a program. */
#ifndef HK_VIEW_DIFF_H
#define HK_VIEW_DIFF_H

#include "read/diff.h"
#include "view/table.h"

/* Everything is borrowed. */
struct hk_diff_view {
    const struct hk_capture *before, *after; /* the same for two moments */
    const struct hk_moment *from, *to;       /* NULL: two captures */
    const struct hk_diff *diff;
    enum hk_group_by by;
    enum hk_sort sort;  /* the largest change of it first; between moments live */
    const char *filter; /* as the table's */
    size_t limit;       /* rows; 0: all that changed */
};

void hk_diff_text(const struct hk_diff_view *view, const struct hk_terminal *terminal);

/* Keys are stable: names are never changed or removed within a major version, only added. */
void hk_diff_json(const struct hk_diff_view *view, FILE *out);

/* The rows alone, into the array that is open. */
void hk_diff_json_rows(const struct hk_diff_view *view, struct hk_json *json);

#endif
