/* Characters of text that may be any bytes. */
#ifndef HK_BASE_UTF8_H
#define HK_BASE_UTF8_H

#include <stdint.h>

/* Length of the well-formed UTF-8 sequence at `text` and its code point; 0 if there is none. May be called in a hook. */
unsigned hk_utf8_next(const char *text, uint32_t *point);

#endif
