/* heapkeeper export: the sites of a capture in other tools' formats. docs/command.md describes each.
 *
 * Names come from the recorded program and may hold anything. In JSON they are valid UTF-8; in the other formats a byte
 * that the format cannot hold is written as a backslash, x and two hexadecimal digits, and a backslash as two.
 */
#ifndef HK_VIEW_EXPORT_H
#define HK_VIEW_EXPORT_H

#include <stdio.h>

#include "read/sites.h"

enum hk_export_format {
    HK_EXPORT_COLLAPSED,
    HK_EXPORT_SPEEDSCOPE,
    HK_EXPORT_PPROF,
    HK_EXPORT_CHROME,
    HK_EXPORT_CSV,
    HK_EXPORT_JSON,
    HK_EXPORT_FORMATS
};
enum hk_export_of { HK_EXPORT_LIVE, HK_EXPORT_PEAK, HK_EXPORT_TOTAL, HK_EXPORT_MEASURES };

/* "collapsed", ...; "live", ... */
const char *hk_export_format_word(enum hk_export_format format);
const char *hk_export_of_word(enum hk_export_of of);

/* Writes all sites; those of one measure that have nothing of it are left out of stacks. False: there were so many
 * frames that some stacks have only their innermost ones, beneath "...". Errors of `out` are the caller's to look for. */
bool hk_export(const struct hk_capture *capture, const struct hk_sites *sites, enum hk_export_format format,
               enum hk_export_of of, FILE *out);

/* ---- formats with a file of their own; hk_export calls them ---- */

bool hk_export_pprof(const struct hk_capture *capture, const struct hk_sites *sites, enum hk_export_of of, FILE *out);
void hk_export_chrome(const struct hk_capture *capture, const struct hk_sites *sites, enum hk_export_of of, FILE *out);

#endif
