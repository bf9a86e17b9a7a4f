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

/* Who to name for memory that was asked for at `node` (one that is to be shown): the innermost Python frame, itself or a
 * caller; without one hk_resolver_native's. *function is the number of its function. False: there is no such node. */
bool hk_resolver_named(struct hk_resolver *resolver, uint32_t node, struct hk_source_frame *frame, uint32_t *function);

/* If `node` is machine code: the innermost frame outside the C and C++ libraries that does not allocate for whoever
 * calls it (xmalloc, std::vector), if the stack has one; else the innermost outside these libraries, or itself. */
bool hk_resolver_native(struct hk_resolver *resolver, uint32_t node, struct hk_source_frame *frame);

/* As hk_native_problem. */
const char *hk_resolver_problem(const struct hk_resolver *resolver, enum hk_symbols_state state, size_t *at);

/* The frames at `node`, innermost first: one, or several where the compiler put functions into others. At most `max`;
 * returns how many, 0 if there is no such node. */
size_t hk_resolver_frames(struct hk_resolver *resolver, uint32_t node, struct hk_source_frame *frames, size_t max);

/* Numbers of functions are equal for equal text (name, qualified name, file), whatever code object it came from (a
 * function defined in a loop has many). One more than the largest that was given: */
size_t hk_resolver_function_count(const struct hk_resolver *resolver);

#endif
