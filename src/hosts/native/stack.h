/* Stacks of machine code, for memory that comes from the C library's names: who called malloc, and who called that. */
#ifndef HK_HOSTS_NATIVE_STACK_H
#define HK_HOSTS_NATIVE_STACK_H

#include <stdbool.h>

#include "record/record.h"

#define HK_NATIVE_FRAMES 256 /* deeper stacks are cut to the innermost so many */

/* Once, before anything is recorded, not in a hook: it may allocate and load the compiler's unwinder. `whole`: stacks
 * with all callers, as far as they can be had; else the innermost return address. `interpreter`: an address in the
 * code of the interpreter, where stacks above Python frames end; NULL: there is none. Returns NULL, or a static
 * sentence on what whole stacks cannot do here. */
const char *hk_native_init(bool whole, const void *interpreter);

/* From here on stacks are followed by frame pointers: the unwinder would have to ask for memory. */
void hk_native_tables_added(void);

/* For tests: as if this system had no unwinder. Before hk_native_init. */
extern bool hk_native_no_unwinder;

/* Fills at most max frames (HK_FRAME_NATIVE), innermost first, and returns their number: the code that called the
 * library from outside, and its callers. above_python: up to and without the interpreter. Sets HK_SITE_CUT in *flags
 * if there were more. In a hook: yes. In a signal handler: yes. 0 before hk_native_init. */
int hk_native_stack(bool above_python, struct hk_frame *frames, int max, uint8_t *flags);

/* Whole stacks were asked for. */
bool hk_native_is_whole(void);

/* The source for programs without Python (frames.c). */
extern const struct hk_stack_source hk_native_source;

#endif
