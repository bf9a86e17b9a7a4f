/* What tells of malloc's state and tunes it: mallinfo, malloc_stats, malloc_info, malloc_trim, mallopt. The figures are the
 * sums of the heap's and, for large blocks, the next definition's. */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hosts/malloc/family.h"
#include "hosts/malloc/interpose.h"

/* Before glibc 2.33 there is no mallinfo2, and no type for it. Its shape is for ever. */
struct info {
    size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};
HK_API struct info hk_family_mallinfo2(void) __asm__("mallinfo2");

static hk_heap *serving(void)
{
    hk_family_decide();
    return hk_process_heap;
}

/* Of the heap, and of the blocks that the recorder sampled. */
static hk_heap_stats family_stats(void)
{
    hk_heap_stats all = {.size = sizeof(all)}, s = {.size = sizeof(s)};
    hk_heap_get_stats(hk_process_heap, &all);
    if (hk_family_watched != NULL) {
        hk_heap_get_stats(hk_family_watched, &s);
        all.mapped_bytes += s.mapped_bytes;
        all.live_bytes += s.live_bytes;
        all.live_blocks += s.live_blocks;
        all.free_bytes += s.free_bytes;
        all.untouched_bytes += s.untouched_bytes;
        all.tail_bytes += s.tail_bytes;
        all.empty_bytes += s.empty_bytes;
        all.pools_empty += s.pools_empty;
        all.large_bytes += s.large_bytes;
        all.large_blocks += s.large_blocks;
    }
    return all;
}

static struct info next_info(void)
{
    struct info (*next)(void) = (struct info(*)(void))dlsym(RTLD_NEXT, "mallinfo2");
    if (next != NULL)
        return next();
    struct mallinfo (*older)(void) = (struct mallinfo(*)(void))dlsym(RTLD_NEXT, "mallinfo");
    if (older == NULL)
        return (struct info){0};
    struct mallinfo i = older();
    return (struct info){(unsigned)i.arena, (unsigned)i.ordblks, (unsigned)i.smblks, (unsigned)i.hblks, (unsigned)i.hblkhd,
                         (unsigned)i.usmblks, (unsigned)i.fsmblks, (unsigned)i.uordblks, (unsigned)i.fordblks,
                         (unsigned)i.keepcost};
}

HK_API struct info hk_family_mallinfo2(void)
{
    struct info info = next_info();
    if (serving() == NULL)
        return info;
    hk_heap_stats s = family_stats();
    info.arena += s.mapped_bytes;
    info.ordblks += s.pools_empty;
    info.uordblks += s.live_bytes;
    info.fordblks += s.free_bytes + s.untouched_bytes + s.tail_bytes + s.empty_bytes;
    info.keepcost += s.empty_bytes;
    return info;
}

static int narrow(size_t value)
{
    return value > INT_MAX ? INT_MAX : (int)value;
}

HK_API struct mallinfo mallinfo(void)
{
    struct info i = hk_family_mallinfo2();
    return (struct mallinfo){narrow(i.arena), narrow(i.ordblks), narrow(i.smblks), narrow(i.hblks), narrow(i.hblkhd),
                             narrow(i.usmblks), narrow(i.fsmblks), narrow(i.uordblks), narrow(i.fordblks), narrow(i.keepcost)};
}

HK_API int malloc_trim(size_t pad)
{
    hk_heap *heap = serving();
    hk_next_find();
    size_t bytes = heap != NULL ? hk_heap_trim(heap) : 0; /* which trims the next one's, too */
    int next = hk_next.trim != NULL ? hk_next.trim(pad) : 0;
    return bytes != 0 || next;
}

/* Of large blocks; the heap has nothing to tune. */
HK_API int mallopt(int parameter, int value)
{
    int (*next)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "mallopt");
    return next != NULL ? next(parameter, value) : 0;
}

/* By a system call, since stdio may be in use. */
static void write_whole(int fd, const char *text, size_t length)
{
    for (size_t at = 0; at < length;) {
        ssize_t written = write(fd, text + at, length - at);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            break;
        at += (size_t)written;
    }
}

/* On stderr, as libc's. It holds no lock while it writes, which may take for ever: a process forked meanwhile has its own turn. */
HK_API void malloc_stats(void)
{
    enum { CAPACITY = 16384 };
    char *text = serving() != NULL ? hk_os_map(CAPACITY) : NULL;
    if (text != NULL) {
        size_t length = hk_stats_text(text, CAPACITY);
        write_whole(STDERR_FILENO, text, length < CAPACITY ? length : CAPACITY - 1);
        hk_os_unmap(text, CAPACITY);
    }
    void (*next)(void) = (void (*)(void))dlsym(RTLD_NEXT, "malloc_stats");
    if (next != NULL)
        next();
}

/* A document of its own with libc's root element: libc's cannot be had without writing it. */
HK_API int malloc_info(int options, FILE *stream)
{
    if (serving() == NULL) {
        int (*next)(int, FILE *) = (int (*)(int, FILE *))dlsym(RTLD_NEXT, "malloc_info");
        if (next != NULL)
            return next(options, stream);
        errno = ENOSYS;
        return -1;
    }
    if (options != 0) {
        errno = EINVAL;
        return -1;
    }
    hk_heap_stats s = family_stats();
    int length = fprintf(stream,
                         "<malloc version=\"1\">\n<heap nr=\"0\">\n"
                         "<total type=\"live\" count=\"%llu\" size=\"%llu\"/>\n"
                         "<total type=\"rest\" count=\"%u\" size=\"%llu\"/>\n"
                         "<total type=\"large\" count=\"%llu\" size=\"%llu\"/>\n"
                         "<system type=\"current\" size=\"%llu\"/>\n</heap>\n</malloc>\n",
                         (unsigned long long)s.live_blocks, (unsigned long long)s.live_bytes, s.pools_empty,
                         (unsigned long long)(s.mapped_bytes - s.live_bytes), (unsigned long long)s.large_blocks,
                         (unsigned long long)s.large_bytes, (unsigned long long)s.mapped_bytes);
    return length < 0 ? -1 : 0;
}
