/* What public functions do not accept, and the one place that says so. */
#include "heap/misuse.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "heap/debug.h"

#define MOST_OPTIONS 4096 /* bytes: a size beyond is none */

void hk_misuse(const void *pointer, const char *format, ...)
{
    char text[256];
    va_list arguments;
    if (!hk_debug_on && !hk_debug_wanted())
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    hk_debug_report(&(struct hk_debug_finding){.what = text, .pointer = pointer});
}

bool hk_misuse_no_heap(const hk_heap *heap, const char *function)
{
    if (heap == NULL)
        hk_misuse(NULL, "%s: the heap is NULL", function);
    else if (heap->magic == HK_HEAP_ENDED)
        hk_misuse(heap, "%s: the heap was destroyed before", function);
    else
        hk_misuse(heap, "%s: the pointer is no heap", function);
    return false;
}

/* ---- options ---- */

/* A later version's options, of which this one does not know what they ask for. */
static bool asks_for_unknown(const hk_heap_options *given)
{
    const char *byte = (const char *)given + sizeof(*given), *end = (const char *)given + given->size;
    while (byte < end && *byte == 0)
        byte++;
    return byte < end;
}

static bool size_is_good(const hk_heap_options *given)
{
    if (given->size < offsetof(hk_heap_options, name) || given->size > MOST_OPTIONS) {
        hk_misuse(NULL, "hk_heap_create: options.size is %zu, and not sizeof(hk_heap_options)", given->size);
        return false;
    }
    if (given->size > sizeof(*given) && asks_for_unknown(given)) {
        hk_misuse(NULL, "hk_heap_create: something is set in options that this version does not know");
        return false;
    }
    return true;
}

static bool buffer_is_good(const hk_heap_options *o)
{
    if (o->lock == HK_LOCK_THREADS)
        hk_misuse(NULL, "hk_heap_create: a heap in a buffer cannot be under HK_LOCK_THREADS");
    else if (o->buffer == NULL)
        hk_misuse(NULL, "hk_heap_create: the buffer is NULL");
    else if (o->buffer_size > PTRDIFF_MAX || (uintptr_t)o->buffer + o->buffer_size < (uintptr_t)o->buffer)
        hk_misuse(NULL, "hk_heap_create: a buffer of %zu bytes", o->buffer_size);
    else if (hk_buffer_overlaps(o->buffer, o->buffer_size))
        hk_misuse(o->buffer, "hk_heap_create: another heap lies in the buffer");
    else
        return true;
    return false;
}

static bool is_in_use(const struct stat *file)
{
    struct hk_heap_cursor cursor = {0};
    struct stat other;
    for (const hk_heap *heap; (heap = hk_heap_next(&cursor)) != NULL;)
        if (heap->source == HK_SOURCE_FILE && fstat(heap->file, &other) == 0 && other.st_dev == file->st_dev &&
            other.st_ino == file->st_ino)
            return true;
    return false;
}

static bool file_is_good(const hk_heap_options *o)
{
    struct stat file;
    int flags = fcntl(o->file, F_GETFL);
    if (flags < 0 || fstat(o->file, &file) != 0)
        hk_misuse(NULL, "hk_heap_create: the file is not open");
    else if ((flags & O_ACCMODE) != O_RDWR)
        hk_misuse(NULL, "hk_heap_create: the file is not open for reading and writing");
    else if (!S_ISREG(file.st_mode))
        hk_misuse(NULL, "hk_heap_create: the file is not a regular one");
    else if (is_in_use(&file))
        hk_misuse(NULL, "hk_heap_create: another heap lies in the file");
    else
        return true;
    return false;
}

bool hk_options_are_good(const hk_heap_options *given, const hk_heap_options *o)
{
    if (given != NULL && !size_is_good(given))
        return false;
    if ((unsigned)o->lock > HK_LOCK_THREADS)
        hk_misuse(NULL, "hk_heap_create: %d is no hk_lock_mode", (int)o->lock);
    else if ((unsigned)o->source > HK_SOURCE_HUGE_PAGES)
        hk_misuse(NULL, "hk_heap_create: %d is no hk_source", (int)o->source);
    else if ((unsigned)o->debug > HK_DEBUG_OFF)
        hk_misuse(NULL, "hk_heap_create: %d is no hk_debug_mode", (int)o->debug);
    else if (o->alignment != 8 && o->alignment != 16)
        hk_misuse(NULL, "hk_heap_create: an alignment of %zu is neither 8 nor 16", o->alignment);
    else
        return o->source == HK_SOURCE_BUFFER ? buffer_is_good(o) : o->source == HK_SOURCE_FILE ? file_is_good(o) : true;
    return false;
}
