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

/* Who to name for memory that was asked for at `node` (one that is to be shown): *python is the innermost Python frame,
 * itself or a caller; *native, if it is machine code, the innermost frame outside the C and C++ libraries, or itself.
 * 0: there is none. */
void hk_resolver_owners(const struct hk_resolver *resolver, uint32_t node, uint32_t *python, uint32_t *native);

/* As hk_native_problem. */
const char *hk_resolver_problem(const struct hk_resolver *resolver, enum hk_symbols_state state, size_t *at);

/* False if there is no such node. */
bool hk_resolver_frame(struct hk_resolver *resolver, uint32_t node, struct hk_source_frame *frame);

/* A number for the function (name, qualified name, file) of `node`: equal for equal text, whatever
 * code object it came from (a function defined in a loop has many). 0 for no node. */
uint32_t hk_resolver_function(struct hk_resolver *resolver, uint32_t node);

/* One more than the largest number hk_resolver_function has returned. */
size_t hk_resolver_function_count(const struct hk_resolver *resolver);

#endif
