/* See print.h. */
#include "heap/print.h"

#include <stdarg.h>
#include <stdio.h>

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
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20)
            hk_print(out, "\\u%04x", (unsigned)*text);
        else
            hk_print(out, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
    hk_print(out, "\"");
}
