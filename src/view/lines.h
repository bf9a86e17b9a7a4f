/* heapkeeper lines: the source of one file with what each line allocated, as text for a person and as JSON for a program. */
#ifndef HK_VIEW_LINES_H
#define HK_VIEW_LINES_H

#include "read/source.h"
#include "view/text.h"

/* Everything is borrowed. */
struct hk_lines_view {
    const struct hk_capture *capture;
    const struct hk_sites *sites;
    const char *file;  /* a path of the capture's */
    bool all;          /* every line of the file, not only those with figures and a few around them */
    size_t context;    /* so many */
};

void hk_lines_text(const struct hk_lines_view *view, const struct hk_terminal *terminal);

/* Keys are stable: names are never changed or removed within a major version, only added. */
void hk_lines_json(const struct hk_lines_view *view, FILE *out);

#endif
