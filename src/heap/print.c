/* See print.h. */
#include "heap/print.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/utf8.h"

void hk_print(struct hk_print *out, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = out->length < out->capacity ? out->capacity - out->length : 0;
    int length = vsnprintf(room ? out->buffer + out->length : NULL, room, format, arguments);
    va_end(arguments);
    if (length > 0)
        out->length += (size_t)length;
}

void hk_print_json_string(struct hk_print *out, const char *text)
{
    hk_print(out, "\"");
    while (*text != '\0') {
        uint32_t point = 0;
        unsigned length = hk_utf8_next(text, &point);
        if (length == 0 || point < 0x20)
            hk_print(out, "\\u%04x", length == 0 ? 0xfffdu : point);
        else
            hk_print(out, point == '"' || point == '\\' ? "\\%.*s" : "%.*s", (int)length, text);
        text += length == 0 ? 1 : length;
    }
    hk_print(out, "\"");
}
