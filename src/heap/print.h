/* Text into a buffer that may be too small, without allocation. */
#ifndef HK_HEAP_PRINT_H
#define HK_HEAP_PRINT_H

#include <stddef.h>

struct hk_print {
    char *buffer;
    size_t capacity;
    size_t length; /* that the text would have if it all fitted */
};

/* As snprintf, behind what is there. Only integers and strings: the C library allocates nothing for these. */
void hk_print(struct hk_print *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Quoted and escaped; what is no UTF-8 becomes U+FFFD. */
void hk_print_json_string(struct hk_print *out, const char *text);

#endif
