/* heapkeeper report --html: the report as a page. */
#ifndef HK_VIEW_REPORT_HTML_H
#define HK_VIEW_REPORT_HTML_H

#include "read/calltree.h"
#include "view/report.h"

/* What the text says, with the curve of memory over time and, if there is anything in `tree`, the flame graph. Borrowed. */
void hk_report_html(const struct hk_report *report, const struct hk_call_tree *tree, FILE *out);

#endif
