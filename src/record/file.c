/* The capture file: opened, mapped, grown. Its end is pack.c.
 *
 * Writing to a hole of a full disk is SIGBUS and not an error. So the file is made as long as
 * its bound (sparse) and mapped whole, once; before a page is written for the first time it is
 * asked for by madvise(MADV_POPULATE_WRITE), which answers EFAULT where a store would kill. The
 * descriptor is closed as soon as the mapping stands: daemons close all descriptors, and a
 * reused number would receive our writes. Kernels before 5.14 do not know MADV_POPULATE_WRITE:
 * there the whole bound is allocated at start. A record in unnamed memory is reserved as a
 * whole and made writable piece by piece, since all that can be written counts towards RLIMIT_DATA.
 *
 * Sections lie at fixed places, in proportion to the bound; for 8 MiB:
 *
 *      header, mailbox, status 12 KiB | marks 4 | timeline 256 | events 16 | modules 64
 *      | collections 32 | spans 64 | codes 256 | nodes 1792 | strings 1536 | maps of the heap 2 * 256 | sites 3648
 *
 * A file-size limit of the process (RLIMIT_FSIZE) would answer ftruncate with a signal: the
 * bound is lowered to it.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "record/internal.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define STEP           (16u << 10) /* a section grows by this much, */
#define LARGE_STEP     (64u << 10) /* and by this much once it is large: fewer system calls */

HK_HOT int hk_rec_open(const char *path, int flags, unsigned mode)
{
    if (hk_os_is_confined) {
        errno = EPERM;
        return -1;
    }
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
                        mode);
}

HK_HOT long hk_rec_read(int fd, void *buffer, size_t size)
{
    return syscall(SYS_read, fd, buffer, size);
}

long hk_rec_write(int fd, const void *buffer, size_t size)
{
    return syscall(SYS_write, fd, buffer, size);
}

HK_HOT void hk_rec_close(int fd)
{
    syscall(SYS_close, fd);
}

void *hk_rec_map(size_t bytes)
{
    void *memory = hk_os_map(bytes);

    if (memory) {
        hk_os_huge_pages(memory, bytes, false);
        hk_rec.private_bytes += bytes;
    }
    return memory;
}

void hk_rec_unmap(void *memory, size_t bytes)
{
    if (!memory)
        return;
    hk_os_unmap(memory, bytes);
    hk_rec.private_bytes -= bytes;
}

static uint64_t smallest_bound(void)
{
    uint64_t pages = 32 * (uint64_t)hk_rec.page; /* each section has at least one */

    return pages > 256u << 10 ? pages : 256u << 10;
}

static uint64_t choose_bound(uint64_t wanted, bool is_file)
{
    uint64_t bound = wanted ? wanted : HK_CAPTURE_BOUND;
    struct rlimit limit;

    if (bound > HK_CAPTURE_LARGEST_BOUND)
        bound = HK_CAPTURE_LARGEST_BOUND;
    if (bound < smallest_bound())
        bound = smallest_bound();
    if (is_file && getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bound)
        bound = limit.rlim_cur;
    return bound / hk_rec.page * hk_rec.page;
}

/* Takes the first three pages at once: whether pages can be asked for is known from then on. */
static bool make_writable(int fd, uint8_t *map, uint64_t bound, const char **why)
{
    uint64_t first =
        hk_rec_round_up(HK_CAPTURE_STATUS_OFFSET + sizeof(struct hk_capture_status), hk_rec.page);

    hk_rec.preallocated = false;
    if (madvise(map, first, MADV_POPULATE_WRITE) == 0) {
        hk_rec.file_bytes = first;
        return true;
    }
    if (errno == EINVAL) {
        if (posix_fallocate(fd, 0, (off_t)bound) == 0) {
            hk_rec.preallocated = true;
            hk_rec.file_bytes = first;
            return true;
        }
    }
    *why = "no space for the capture file";
    return false;
}

static int open_file(const char *path, bool is_new, uint64_t device, uint64_t inode,
                     struct stat *status, const char **why)
{
    int fd = hk_rec_open(path, O_RDWR | O_NOFOLLOW | (is_new ? O_CREAT | O_EXCL : 0), 0600);

    if (fd < 0) {
        *why = errno == EEXIST ? "the capture file exists already"
                               : "the capture file cannot be opened";
        return -1;
    }
    if (fstat(fd, status) != 0 || !S_ISREG(status->st_mode) || status->st_uid != geteuid() ||
        status->st_size != 0 ||
        (!is_new && (status->st_dev != (dev_t)device || status->st_ino != (ino_t)inode))) {
        *why = "the capture file is not the one that was handed over";
        if (is_new)
            unlink(path);
        hk_rec_close(fd);
        return -1;
    }
    return fd;
}

bool hk_rec_file_open(const char *path, bool is_new, uint64_t device, uint64_t inode,
                      uint64_t bound, const char **why)
{
    struct stat status;
    uint8_t *map;
    int fd;

    if (strlen(path) >= sizeof hk_rec.path) {
        *why = "the path of the capture file is too long";
        return false;
    }
    bound = choose_bound(bound, true);
    if (bound < smallest_bound()) {
        *why = "the file size limit is too low for a capture";
        return false;
    }
    fd = open_file(path, is_new, device, inode, &status, why);
    if (fd < 0)
        return false;
    if (ftruncate(fd, (off_t)bound) != 0) {
        *why = "the capture file cannot be given its length";
        goto failed;
    }
    map = mmap(NULL, bound, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        *why = "the capture file cannot be mapped";
        goto failed;
    }
    madvise(map, bound, MADV_NOHUGEPAGE);
    if (!make_writable(fd, map, bound, why)) {
        munmap(map, bound);
        goto failed;
    }
    hk_rec_close(fd);
    hk_rec.map = map;
    hk_rec.bound = bound;
    hk_rec.named = true;
    hk_rec.device = status.st_dev;
    hk_rec.inode = status.st_ino;
    if (path != hk_rec.path)
        memcpy(hk_rec.path, path, strlen(path) + 1);
    return true;

failed:
    if (is_new)
        unlink(path);
    else if (ftruncate(fd, 0) != 0)
        *why = "the capture file cannot be used";
    hk_rec_close(fd);
    return false;
}

bool hk_rec_file_unnamed(uint64_t bound, const char **why)
{
    bound = choose_bound(bound, false);
    uint64_t first =
        hk_rec_round_up(HK_CAPTURE_STATUS_OFFSET + sizeof(struct hk_capture_status), hk_rec.page);
    uint8_t *map = hk_os_reserve_zero(bound, hk_rec.page);

    if (map && !hk_os_commit(map, first)) {
        hk_os_unmap(map, bound);
        map = NULL;
    }
    if (!map) {
        *why = "no memory for the recorder";
        return false;
    }
    hk_os_huge_pages(map, bound, false);
    hk_rec.map = map;
    hk_rec.bound = bound;
    hk_rec.named = false;
    hk_rec.preallocated = false;
    hk_rec.file_bytes = first;
    hk_rec.path[0] = '\0';
    return true;
}

void hk_rec_file_close(void)
{
    if (hk_rec.map)
        munmap(hk_rec.map, hk_rec.bound);
    hk_rec.map = NULL;
}

void hk_rec_file_drop(bool is_new)
{
    hk_rec_file_close();
    if (hk_rec.named && is_new)
        unlink(hk_rec.path);
    else if (hk_rec.named && truncate(hk_rec.path, 0) != 0)
        unlink(hk_rec.path);
}

static void place(int kind, uint32_t entry_size, uint64_t *offset, uint64_t bytes)
{
    struct hk_rec_section *section = &hk_rec.section[kind];
    struct hk_capture_section *published = &hk_rec_header()->sections[kind];

    bytes = hk_rec_round_up(bytes, hk_rec.page);
    section->data = hk_rec.map + *offset;
    section->entry_size = entry_size;
    section->capacity = bytes / entry_size;
    section->count = 0;
    section->ready = 0;
    published->entry_size = entry_size;
    published->offset = *offset;
    published->capacity = section->capacity;
    *offset += bytes;
}

/* Of an exact capture sites have most of the room. */
static void layout_exact(uint64_t offset)
{
    uint64_t bound = hk_rec.bound, entry = sizeof(struct hk_capture_counters) + sizeof(struct hk_capture_exact_site);

    place(HK_SECTION_TIMELINE, sizeof(struct hk_capture_point), &offset, bound / 64);
    place(HK_SECTION_EVENTS, sizeof(struct hk_capture_event), &offset, bound / 2048);
    place(HK_SECTION_MODULES, sizeof(struct hk_capture_module), &offset, bound / 512);
    place(HK_SECTION_COLLECTIONS, sizeof(struct hk_capture_collection), &offset, bound / 1024);
    place(HK_SECTION_SPANS, sizeof(struct hk_capture_span), &offset, bound / 512);
    place(HK_SECTION_THREADS, sizeof(struct hk_capture_thread), &offset, HK_CAPTURE_THREADS * sizeof(struct hk_capture_thread));
    place(HK_SECTION_LIVING, sizeof(struct hk_capture_living), &offset, bound / 1024);
    place(HK_SECTION_CODES, sizeof(struct hk_capture_code), &offset, bound / 64);
    place(HK_SECTION_NODES, sizeof(struct hk_capture_node), &offset, bound / 8);
    place(HK_SECTION_STRINGS, 1, &offset, bound / 8);
    place(HK_SECTION_MAP_A, 1, &offset, bound / 64);
    place(HK_SECTION_MAP_B, 1, &offset, bound / 64);
    uint64_t sites = (bound - offset - hk_rec.page) / entry;
    if (sites > HK_REC_EXACT_SITES)
        sites = HK_REC_EXACT_SITES;
    place(HK_SECTION_COUNTERS, sizeof(struct hk_capture_counters), &offset, sites * sizeof(struct hk_capture_counters));
    place(HK_SECTION_EXACT_SITES, sizeof(struct hk_capture_exact_site), &offset, bound - offset);
    struct hk_rec_section *section = &hk_rec.section[HK_SECTION_EXACT_SITES];
    if (section->capacity > sites)
        section->capacity = sites;
    hk_rec_header()->sections[HK_SECTION_EXACT_SITES].capacity = section->capacity;
}

void hk_rec_layout(void)
{
    uint64_t bound = hk_rec.bound;
    uint64_t offset =
        hk_rec_round_up(HK_CAPTURE_STATUS_OFFSET + sizeof(struct hk_capture_status), hk_rec.page);

    place(HK_SECTION_MARKS, sizeof(struct hk_capture_mark), &offset,
          HK_MARKS * sizeof(struct hk_capture_mark));
    if (hk_rec.exact) {
        layout_exact(offset);
        return;
    }
    place(HK_SECTION_TIMELINE, sizeof(struct hk_capture_point), &offset, bound / 32);
    place(HK_SECTION_EVENTS, sizeof(struct hk_capture_event), &offset, bound / 512);
    place(HK_SECTION_MODULES, sizeof(struct hk_capture_module), &offset, bound / 128);
    place(HK_SECTION_COLLECTIONS, sizeof(struct hk_capture_collection), &offset, bound / 256);
    place(HK_SECTION_SPANS, sizeof(struct hk_capture_span), &offset, bound / 128);
    place(HK_SECTION_CODES, sizeof(struct hk_capture_code), &offset, bound / 32);
    place(HK_SECTION_NODES, sizeof(struct hk_capture_node), &offset, bound / 32 * 7);
    place(HK_SECTION_STRINGS, 1, &offset, bound / 16 * 3);
    place(HK_SECTION_MAP_A, 1, &offset, bound / 32);
    place(HK_SECTION_MAP_B, 1, &offset, bound / 32);
    place(HK_SECTION_SITES, sizeof(struct hk_capture_site), &offset, bound - offset);
}

/* Pages that were never written to. */
static bool ask_for(uint8_t *start, uint64_t bytes)
{
    int tries = 3;

    if (!hk_rec.named)
        return hk_os_commit(start, bytes);
    while (!hk_rec.preallocated && madvise(start, bytes, MADV_POPULATE_WRITE) != 0)
        if ((errno != EAGAIN && errno != EINTR) || --tries == 0)
            return false;
    return true;
}

/* Makes the section's first `bytes` bytes writable. */
static bool make_ready(struct hk_rec_section *section, uint64_t bytes)
{
    uint64_t step = section->ready >= 4 * LARGE_STEP ? LARGE_STEP : section->ready >= STEP ? STEP : hk_rec.page;
    uint64_t end = hk_rec_round_up(section->capacity * section->entry_size, hk_rec.page);
    uint64_t wanted = hk_rec_round_up(bytes, step);

    if (wanted > end)
        wanted = end;
    wanted = hk_rec_round_up(wanted, hk_rec.page);
    if (!ask_for(section->data + section->ready, wanted - section->ready)) {
        hk_rec_limit(HK_LIMIT_DISK);
        return false;
    }
    hk_rec.file_bytes += wanted - section->ready;
    section->ready = wanted;
    return true;
}

HK_HOT void *hk_rec_append(int kind, uint64_t more)
{
    struct hk_rec_section *section = &hk_rec.section[kind];
    uint64_t bytes = (section->count + more) * section->entry_size;

    if (section->count + more > section->capacity)
        return NULL;
    if (HK_UNLIKELY(bytes > section->ready) && !make_ready(section, bytes))
        return NULL;
    return section->data + section->count * section->entry_size;
}

HK_HOT void hk_rec_publish(int kind, uint64_t more)
{
    hk_rec.section[kind].count += more;
    __atomic_store_n(&hk_rec_header()->sections[kind].count, hk_rec.section[kind].count,
                     __ATOMIC_RELEASE);
}

bool hk_rec_file_is_ours(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 && status.st_dev == (dev_t)hk_rec.device &&
           status.st_ino == (ino_t)hk_rec.inode;
}
