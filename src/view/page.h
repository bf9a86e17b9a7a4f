/* Pages: one HTML file that needs nothing else, readable in light and dark.
 *
 * What a page is made of lies in src/view/page/ and is put into the command when it is built. A page forbids itself, by its
 * Content-Security-Policy, to load anything from anywhere. Whatever comes from a capture is escaped here or, as data of a
 * script, by the JSON writer (json.h, in_html); scripts put it into the page as text only.
 */
#ifndef HK_VIEW_PAGE_H
#define HK_VIEW_PAGE_H

#include <stdio.h>

extern const char hk_page_page_css[], hk_page_page_js[]; /* of every page */
extern const char hk_page_flame_css[], hk_page_flame_html[], hk_page_flame_tree_js[], hk_page_flame_js[];
extern const char hk_page_report_css[];

/* From "<!doctype html>" to "<body>". The list of styles ends with NULL. */
void hk_page_start(FILE *out, const char *title, const char *const *styles);

/* The scripts (a list that ends with NULL) and the end of the document. */
void hk_page_end(FILE *out, const char *const *scripts);

/* Text with what is special in HTML escaped; bytes that are not UTF-8, and control characters, are replaced. */
void hk_page_text(FILE *out, const char *text);

#endif
