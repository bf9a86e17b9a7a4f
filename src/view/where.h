/* A frame in one line of text, shared by the report and the table. */
#ifndef HK_VIEW_WHERE_H
#define HK_VIEW_WHERE_H

#include "read/sites.h"
#include "view/text.h"

/* "shop.py:88 in remember_order [libc.so.6]", or "shop.py:~88 ..." where the line is near, clean, in `columns` if they are enough: first the path loses its front.
 * Paths beneath `directory` are shortened. Written into `to`, which holds `size` bytes. */
void hk_where_text(const struct hk_terminal *terminal, const char *directory, char *to, size_t size,
                   const struct hk_source_frame *frame, size_t columns);

#endif
