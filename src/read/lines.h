/* From an instruction's offset to its line, for the line tables of CPython 3.9 to 3.15. Pure
 * functions over bytes that come from a capture and may be anything: every read is inside the
 * table, any input ends and gives a number.
 *
 *   3.9       co_lnotab: pairs (bytes of code, signed lines); every offset has a line
 *   3.10      co_linetable (PEP 626): pairs (bytes of code, signed lines; -128: no line)
 *   3.11 on   location table: entries of 2-10 bytes, one per run of up to 8 code units
 *
 * On 3.9 the table is given by co_lnotab, and an offset before the first pair, or a negative one,
 * is the first line; a negative offset is the first line on every version (the frame has not
 * begun).
 */
#ifndef HK_READ_LINES_H
#define HK_READ_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The line of the instruction `offset_bytes` into the code, -1 if it has none or the table does not
 * reach that far. minor: 9 for Python 3.9; below 9 is read as 9, above 15 as 15. Thread-safe. */
int hk_line_of(int minor, const uint8_t *table, size_t length, int firstlineno, int offset_bytes);

/* True of a frame at an instruction of its code's prologue (struct hk_capture_code): CPython shows no such frame, in tracebacks or
 * tracemalloc, and its generator is charged to the call. */
static inline bool hk_has_not_begun(uint32_t prologue, int32_t offset)
{
    return prologue > 0 && offset < (int64_t)prologue;
}

#endif
