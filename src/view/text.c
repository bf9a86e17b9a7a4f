/* See text.h. */
#include "view/text.h"

#include <langinfo.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

/* ---- the terminal ---- */

static unsigned columns_of(FILE *out)
{
    struct winsize size;
    const char *columns = getenv("COLUMNS");
    if (columns && atoi(columns) > 0)
        return (unsigned)atoi(columns);
    if (!isatty(fileno(out)))
        return 0;
    if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col)
        return size.ws_col;
    return 80;
}

void hk_terminal_for(struct hk_terminal *t, FILE *out)
{
    const char *codeset = nl_langinfo(CODESET), *no_colour = getenv("NO_COLOR"),
               *term = getenv("TERM");
    t->out = out;
    t->utf8 = codeset && (strcasecmp(codeset, "UTF-8") == 0 || strcasecmp(codeset, "utf8") == 0);
    t->colour =
        isatty(fileno(out)) && !(no_colour && *no_colour) && term && strcmp(term, "dumb") != 0;
    t->width = columns_of(out);
    if (t->width && t->width < 60)
        t->width = 60;
}

const char *hk_style(const struct hk_terminal *t, enum hk_style style)
{
    static const char *const codes[] = {"\033[0m",  "\033[1m",  "\033[2m", "\033[31m",
                                        "\033[32m", "\033[33m", "\033[36m"};
    return t->colour ? codes[style] : "";
}

/* ---- UTF-8 ---- */

bool hk_is_control(uint32_t p)
{
    return p < 0x20 || (p >= 0x7f && p < 0xa0) || p == 0xad || p == 0x61c ||
           (p >= 0x200b && p <= 0x200f) || (p >= 0x2028 && p <= 0x202e) ||
           (p >= 0x2060 && p <= 0x206f) || p == 0xfeff;
}

char *hk_text_clean(const struct hk_terminal *t, char *to, size_t size, const char *text)
{
    size_t at = 0;
    while (*text && at + 5 < size) {
        uint32_t point;
        unsigned length = hk_utf8_next(text, &point);
        if (length == 0 || hk_is_control(point) || (point >= 0x80 && !t->utf8)) {
            to[at++] = '?';
            text += length ? length : 1;
            continue;
        }
        memcpy(to + at, text, length);
        at += length;
        text += length;
    }
    to[at] = 0;
    return to;
}

static size_t columns_of_point(uint32_t point)
{
    int width = wcwidth((wchar_t)point);
    return width < 0 ? 1 : (size_t)width;
}

size_t hk_text_columns(const char *text)
{
    size_t columns = 0;
    while (*text) {
        uint32_t point;
        unsigned length = hk_utf8_next(text, &point);
        columns += length ? columns_of_point(point) : 1;
        text += length ? length : 1;
    }
    return columns;
}

void hk_text_keep_end(const struct hk_terminal *t, char *text, size_t columns)
{
    size_t have = hk_text_columns(text);
    const char *dots = t->utf8 ? "…" : "...";
    size_t room = columns > hk_text_columns(dots) ? columns - hk_text_columns(dots) : 0;
    const char *at = text;

    if (have <= columns)
        return;
    while (*at && have > room) {
        uint32_t point;
        unsigned length = hk_utf8_next(at, &point);
        have -= length ? columns_of_point(point) : 1;
        at += length ? length : 1;
    }
    size_t dropped = (size_t)(at - text), left = strlen(at);
    if (dropped < strlen(dots))
        return;
    memmove(text + strlen(dots), at, left + 1);
    memcpy(text, dots, strlen(dots));
}

void hk_text_keep_start(const struct hk_terminal *t, char *text, size_t size, size_t columns)
{
    const char *dots = t->utf8 ? "…" : "...";
    size_t room = columns > hk_text_columns(dots) ? columns - hk_text_columns(dots) : 0, used = 0;
    char *at = text;

    if (hk_text_columns(text) <= columns)
        return;
    while (*at) {
        uint32_t point;
        unsigned length = hk_utf8_next(at, &point);
        used += length ? columns_of_point(point) : 1;
        if (used > room)
            break;
        at += length ? length : 1;
    }
    if ((size_t)(at - text) + strlen(dots) < size)
        strcpy(at, dots);
}

void hk_text_shorten_path(char *path, const char *directory)
{
    size_t length = strlen(directory);
    char *from = path, *at;

    if (length > 1 && strncmp(path, directory, length) == 0 && path[length] == '/')
        from = path + length + 1;
    else if ((at = strstr(path, "-packages/")))
        from = at + strlen("-packages/");
    else if ((at = strstr(path, "/lib/python3")) && (at = strchr(at + 5, '/')) && at[1])
        from = at + 1;
    else if (strncmp(path, "<frozen ", 8) == 0 && path[8] && path[strlen(path) - 1] == '>') {
        from = path + 8;
        path[strlen(path) - 1] = 0;
    }
    memmove(path, from, strlen(from) + 1);
}

/* ---- numbers ---- */

char *hk_text_bytes(char to[32], double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    const char *sign = bytes < 0 ? "-" : "";
    unsigned unit = 0;
    bytes = fabs(bytes);
    while (bytes >= 999.5 && unit < 6) {
        bytes /= 1024;
        unit++;
    }
    if (unit == 0)
        snprintf(to, 32, "%s%.0f B", sign, bytes);
    else
        snprintf(to, 32, "%s%.*f %s", sign,
                 bytes < 9.995   ? 2
                 : bytes < 99.95 ? 1
                                 : 0,
                 bytes, units[unit]);
    return to;
}

char *hk_text_count(char to[32], uint64_t count)
{
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)count), at = 0;
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0)
            to[at++] = ' ';
        to[at++] = digits[i];
    }
    to[at] = 0;
    return to;
}

char *hk_text_duration(char to[32], uint64_t ns)
{
    double s = (double)ns / 1e9;
    if (s < 0.0005)
        snprintf(to, 32, "%.0f us", s * 1e6);
    else if (s < 0.9995)
        snprintf(to, 32, "%.0f ms", s * 1e3);
    else if (s < 9.995)
        snprintf(to, 32, "%.2f s", s);
    else if (s < 99.95)
        snprintf(to, 32, "%.1f s", s);
    else if (s < 3600)
        snprintf(to, 32, "%u min %02u s", (unsigned)(s / 60), (unsigned)s % 60);
    else
        snprintf(to, 32, "%llu h %02u min", (unsigned long long)(s / 3600),
                 (unsigned)((uint64_t)s / 60 % 60));
    return to;
}

char *hk_text_percent(char to[32], double part, double whole)
{
    double percent = whole > 0 ? 100.0 * part / whole : 0.0;
    if (percent > 0 && percent < 0.95)
        snprintf(to, 32, "%.1f%%", percent < 0.1 ? 0.1 : percent);
    else
        snprintf(to, 32, "%.0f%%", percent > 999 ? 999 : percent);
    return to;
}

char *hk_text_sparkline(const struct hk_terminal *t, char *to, const double *values, size_t count)
{
    static const char *const bars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char ascii[] = "_.-:=+*#";
    double most = 0;
    char *at = to;

    for (size_t i = 0; i < count; i++)
        most = values[i] > most ? values[i] : most;
    for (size_t i = 0; i < count; i++) {
        int level = most > 0 ? (int)(values[i] / most * 7.999) : 0;
        level = level < 0 ? 0 : level > 7 ? 7 : level;
        if (t->utf8) {
            memcpy(at, bars[level], 3);
            at += 3;
        } else {
            *at++ = ascii[level];
        }
    }
    *at = 0;
    return to;
}
