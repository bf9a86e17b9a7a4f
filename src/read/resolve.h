/* Nodes of the call tree to functions, files and lines, with what was worked out kept for the next
 * time. */
#ifndef HK_READ_RESOLVE_H
#define HK_READ_RESOLVE_H

#include "read/sites.h"

struct hk_resolver *hk_resolver_new(const struct hk_capture *capture); /* borrows the capture */
void hk_resolver_free(struct hk_resolver *resolver);

/* The node itself, or its nearest caller that is to be shown; 0 for none. */
uint32_t hk_resolver_shown(const struct hk_resolver *resolver, uint32_t node);

/* The caller of `node` that is to be shown next; 0 for none. */
uint32_t hk_resolver_parent(const struct hk_resolver *resolver, uint32_t node);

/* False if there is no such node. */
bool hk_resolver_frame(struct hk_resolver *resolver, uint32_t node, struct hk_source_frame *frame);

/* A number for the function (name, qualified name, file) of `node`: equal for equal text, whatever
 * code object it came from (a function defined in a loop has many). 0 for no node. */
uint32_t hk_resolver_function(const struct hk_resolver *resolver, uint32_t node);

/* One more than the largest number hk_resolver_function returns. */
size_t hk_resolver_function_count(const struct hk_resolver *resolver);

#endif
