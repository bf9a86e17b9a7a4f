/* heapkeeper flame: the stacks of a capture as a picture of nested boxes, an interactive page, and as JSON.
 *
 * Both have everything that the picture can be switched to: bytes live at the end, at the peak, allocated in total, and live at
 * each moment that sites keep (marks; src/capture/format.h).
 */
#ifndef HK_VIEW_FLAME_H
#define HK_VIEW_FLAME_H

#include <stdio.h>

#include "read/calltree.h"

/* Everything is borrowed. */
struct hk_flame {
    const struct hk_capture *capture;
    const struct hk_sites *sites;
    const struct hk_call_tree *tree;
    const struct hk_capture *before; /* whose stacks the tree has, too, to be compared; NULL: none */
};

/* The whole page. */
void hk_flame_html(const struct hk_flame *flame, FILE *out);

/* The same of data in JSON, NUL-terminated, as the page has them (flame.c); only made safe to stand in it. */
void hk_flame_html_of_data(const char *data, FILE *out);

/* Its section and its data, for another page, which has hk_page_flame_css, hk_page_flame_tree_js and hk_page_flame_js. */
void hk_flame_section(const struct hk_flame *flame, FILE *out);

/* Keys are stable: names are never changed or removed within a major version, only added. */
void hk_flame_json(const struct hk_flame *flame, FILE *out);

#endif
