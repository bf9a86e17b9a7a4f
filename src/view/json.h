/* Writes JSON as it goes, two spaces a level. Commas and nesting are kept by the writer; the caller
 * opens and closes. Strings are always valid UTF-8 in the output: bytes that are not become U+FFFD,
 * control bytes are escaped, so a hostile name can neither break the document nor a terminal it is
 * shown on.
 */
#ifndef HK_VIEW_JSON_H
#define HK_VIEW_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define HK_JSON_DEPTH 16

struct hk_json {
    FILE *out;
    bool in_html; /* for a script element of a page: "<" is escaped, so that no name can end it. Set after hk_json_start */
    unsigned depth;
    bool has_items[HK_JSON_DEPTH];
    bool flat[HK_JSON_DEPTH]; /* on one line */
};

/* `key` is NULL inside an array and at the top. `flat` puts the whole object or array on one
 * line. */
void hk_json_start(struct hk_json *json, FILE *out);
void hk_json_object(struct hk_json *json, const char *key, bool flat);
void hk_json_array(struct hk_json *json, const char *key, bool flat);
void hk_json_end_object(struct hk_json *json);
void hk_json_end_array(struct hk_json *json);
void hk_json_string(struct hk_json *json, const char *key, const char *value);
void hk_json_unsigned(struct hk_json *json, const char *key, uint64_t value);
void hk_json_signed(struct hk_json *json, const char *key, int64_t value);
void hk_json_number(struct hk_json *json, const char *key, double value); /* not finite: null */
void hk_json_bool(struct hk_json *json, const char *key, bool value);

#endif
