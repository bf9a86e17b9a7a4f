/* The three line tables of lines.h. Lines are summed in 64 bits and held within +-2^40, so that no
 * table can overflow them; a line that does not fit an int is no line.
 */
#include "read/lines.h"

#include <stdbool.h>

#define NO_LINE (-1)

static int64_t move_line(int64_t line, int64_t delta)
{
    const int64_t most = (int64_t)1 << 40;
    line += delta;
    return line > most ? most : line < -most ? -most : line;
}

static int as_line(int64_t line)
{
    return line >= 0 && line <= INT32_MAX ? (int)line : NO_LINE;
}

/* 3.9: the line changes at each pair's start, so the last pair that begins at or before the offset
 * counts. A line delta above 127 is spread over pairs that add no bytes. */
static int line_in_lnotab(const uint8_t *table, size_t length, int firstlineno, int offset)
{
    int64_t line = firstlineno, address = 0;
    for (size_t i = 0; i + 1 < length; i += 2) {
        address += table[i];
        if (address > offset)
            break;
        line = move_line(line, (int8_t)table[i + 1]);
    }
    return as_line(line);
}

/* 3.10: each pair covers the bytes that follow; one that covers none only moves the line. */
static int line_in_linetable(const uint8_t *table, size_t length, int firstlineno, int offset)
{
    int64_t line = firstlineno, end = 0;
    for (size_t i = 0; i + 1 < length; i += 2) {
        int delta = (int8_t)table[i + 1];
        end += table[i];
        if (delta != -128)
            line = move_line(line, delta);
        if (offset < end)
            return delta == -128 ? NO_LINE : as_line(line);
    }
    return NO_LINE;
}

/* A variable-length number: 6 bits a byte, lowest first, bit 6 says that more follow. Leaves *at
 * behind it. More than six such bytes do not occur; their bits are dropped. */
static uint64_t read_varint(const uint8_t *table, size_t length, size_t *at)
{
    uint64_t value = 0;
    for (unsigned shift = 0; *at < length; shift += 6) {
        uint8_t byte = table[(*at)++];
        if (shift < 36)
            value |= (uint64_t)(byte & 63) << shift;
        if (!(byte & 64))
            break;
    }
    return value;
}

static int64_t read_signed_varint(const uint8_t *table, size_t length, size_t *at)
{
    uint64_t value = read_varint(table, length, at);
    return value & 1 ? -(int64_t)(value >> 1) : (int64_t)(value >> 1);
}

enum { ONE_LINE_0 = 10, ONE_LINE_1, ONE_LINE_2, NO_COLUMNS, LONG_FORM, NO_LOCATION };

/* 3.11 on: an entry's first byte has bit 7 set, then a 4-bit form and the number of code units less
 * one; the bytes behind it never have bit 7 set, so an entry ends where the next such byte is. */
static int line_in_locations(const uint8_t *table, size_t length, int firstlineno, int offset)
{
    int64_t line = firstlineno, end = 0;
    size_t at = 0;
    while (at < length) {
        uint8_t first = table[at++];
        int form = first >> 3 & 15;
        end += ((first & 7) + 1) * 2;
        if (form == NO_COLUMNS || form == LONG_FORM)
            line = move_line(line, read_signed_varint(table, length, &at));
        else if (form >= ONE_LINE_0 && form <= ONE_LINE_2)
            line = move_line(line, form - ONE_LINE_0);
        if (offset < end)
            return form == NO_LOCATION ? NO_LINE : as_line(line);
        while (at < length && !(table[at] & 128))
            at++;
    }
    return NO_LINE;
}

int hk_line_of(int minor, const uint8_t *table, size_t length, int firstlineno, int offset_bytes)
{
    if (offset_bytes < 0)
        return as_line(firstlineno);
    if (minor <= 9)
        return line_in_lnotab(table, length, firstlineno, offset_bytes);
    if (minor == 10)
        return line_in_linetable(table, length, firstlineno, offset_bytes);
    return line_in_locations(table, length, firstlineno, offset_bytes);
}
