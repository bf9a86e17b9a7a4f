/* The JSON writer: see json.h. */
#include "view/json.h"

#include <math.h>

#include "view/text.h"

static void indent(struct hk_json *j)
{
    if (j->depth && j->flat[j->depth]) {
        if (j->has_items[j->depth])
            fputc(' ', j->out);
        return;
    }
    fputc('\n', j->out);
    for (unsigned i = 0; i < j->depth; i++)
        fputs("  ", j->out);
}

/* Bytes of a string that stand for themselves: printable ASCII, but a few. */
static size_t plain(const char *text)
{
    size_t length = 0;
    while (text[length] >= ' ' && text[length] < 0x7f && text[length] != '"' && text[length] != '\\' && text[length] != '<')
        length++;
    return length;
}

static void put_string(const struct hk_json *j, const char *text)
{
    FILE *out = j->out;
    fputc('"', out);
    while (*text) {
        uint32_t point;
        size_t as_it_is = plain(text);
        if (as_it_is > 0) {
            fwrite(text, 1, as_it_is, out);
            text += as_it_is;
            continue;
        }
        unsigned length = hk_utf8_next(text, &point);
        if (length == 0) { /* not UTF-8 */
            fputs("\\ufffd", out);
            text++;
            continue;
        }
        if (point == '"' || point == '\\')
            fprintf(out, "\\%c", (char)point);
        else if (hk_is_control(point) || (point == '<' && j->in_html))
            fprintf(out, "\\u%04x", point);
        else
            fwrite(text, 1, length, out);
        text += length;
    }
    fputc('"', out);
}

/* What comes before any value: a comma, a line, its key. */
static void before(struct hk_json *j, const char *key)
{
    if (j->has_items[j->depth])
        fputc(',', j->out);
    if (j->depth)
        indent(j);
    j->has_items[j->depth] = true;
    if (key) {
        put_string(j, key);
        fputs(": ", j->out);
    }
}

static void open_level(struct hk_json *j, const char *key, char bracket, bool flat)
{
    before(j, key);
    fputc(bracket, j->out);
    bool inherited = j->flat[j->depth];
    if (j->depth + 1 < HK_JSON_DEPTH)
        j->depth++;
    j->has_items[j->depth] = false;
    j->flat[j->depth] = flat || inherited;
}

static void close_level(struct hk_json *j, char bracket)
{
    bool had_items = j->has_items[j->depth], flat = j->flat[j->depth];
    if (j->depth)
        j->depth--;
    if (had_items && !flat)
        indent(j);
    fputc(bracket, j->out);
    if (j->depth == 0)
        fputc('\n', j->out);
}

void hk_json_start(struct hk_json *j, FILE *out)
{
    *j = (struct hk_json){.out = out};
}

void hk_json_object(struct hk_json *j, const char *key, bool flat)
{
    open_level(j, key, '{', flat);
}

void hk_json_array(struct hk_json *j, const char *key, bool flat)
{
    open_level(j, key, '[', flat);
}

void hk_json_end_object(struct hk_json *j)
{
    close_level(j, '}');
}

void hk_json_end_array(struct hk_json *j)
{
    close_level(j, ']');
}

void hk_json_string(struct hk_json *j, const char *key, const char *value)
{
    before(j, key);
    put_string(j, value);
}

void hk_json_unsigned(struct hk_json *j, const char *key, uint64_t value)
{
    char digits[20], *at = digits + sizeof digits;
    before(j, key);
    do
        *--at = (char)('0' + value % 10);
    while (value /= 10);
    fwrite(at, 1, (size_t)(digits + sizeof digits - at), j->out);
}

void hk_json_signed(struct hk_json *j, const char *key, int64_t value)
{
    before(j, key);
    fprintf(j->out, "%lld", (long long)value);
}

void hk_json_number(struct hk_json *j, const char *key, double value)
{
    before(j, key);
    if (!isfinite(value))
        fputs("null", j->out);
    else
        fprintf(j->out, "%.6g", value);
}

void hk_json_bool(struct hk_json *j, const char *key, bool value)
{
    before(j, key);
    fputs(value ? "true" : "false", j->out);
}
