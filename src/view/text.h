/* Words, numbers and little pictures for a terminal.
 *
 * Everything that comes from a capture passes hk_text_clean before it reaches a terminal: control
 * bytes, escape sequences, direction marks and broken UTF-8 do not get through.
 */
#ifndef HK_VIEW_TEXT_H
#define HK_VIEW_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/utf8.h"

struct hk_terminal {
    FILE *out;
    bool utf8; /* else everything is ASCII */
    bool colour;
    unsigned width; /* columns; 0: no limit (not a terminal) */
};

/* Looks at the stream, the locale (setlocale must have been called), NO_COLOR, TERM and COLUMNS. */
void hk_terminal_for(struct hk_terminal *terminal, FILE *out);

enum hk_style { HK_PLAIN, HK_BOLD, HK_DIM, HK_RED, HK_GREEN, HK_YELLOW, HK_CYAN };
const char *hk_style(const struct hk_terminal *terminal,
                     enum hk_style style); /* HK_PLAIN ends a style */

/* Must not reach a terminal: C0, C1, DEL, direction marks, zero-width and separator characters. */
bool hk_is_control(uint32_t point);

/* `text` without what would harm a terminal, cut to fit `size` bytes; returns `to`. */
char *hk_text_clean(const struct hk_terminal *terminal, char *to, size_t size, const char *text);

/* Columns that clean text takes. */
size_t hk_text_columns(const char *text);

/* Cuts clean text to `columns`, with an ellipsis in front: the end of a path says more. In
 * place. */
void hk_text_keep_end(const struct hk_terminal *terminal, char *text, size_t columns);

/* The same with the ellipsis at the end. `text` holds `size` bytes. */
void hk_text_keep_start(const struct hk_terminal *terminal, char *text, size_t size,
                        size_t columns);

/* A short form of a clean source path: without `directory`, or from site-packages or the standard
 * library on; of "<frozen NAME>" the name. In place. */
void hk_text_shorten_path(char *path, const char *directory);

/* "31.0 MiB", "212 MiB", "812 B"; "121 000"; "12.4 s", "3 min 20 s". `to` holds 32 bytes;
 * returned. */
char *hk_text_bytes(char to[32], double bytes);
char *hk_text_count(char to[32], uint64_t count);
char *hk_text_duration(char to[32], uint64_t ns);
char *hk_text_percent(char to[32], double part, double whole);

/* `count` bars from 0 to the largest value. `to` holds 3 bytes a bar and one more. */
char *hk_text_sparkline(const struct hk_terminal *terminal, char *to, const double *values,
                        size_t count);

#endif
