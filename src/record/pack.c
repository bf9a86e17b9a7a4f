/* The end of the file: it is cut, or a packed copy takes its place.
 *
 * Sections lie apart, each with room for its share of the bound, so a capture in which little was written is mostly holes: a copy that
 * does not know holes (scp, an upload, most archives) would be as long as the bound. When a process ends cleanly its file is therefore
 * written once more, section behind section, if that is half as long at most, and takes less than a hundredth of the time for which
 * the process ran (a Python that does nothing would take 2 % longer):
 *
 *      .NAME.PID.new    is made beside it, and written in one call;
 *      NAME             is what it is renamed to.
 *
 * At every instant the name leads to a whole capture. Nothing is moved in the old file: readers have it open, another thread may be
 * counting in it, a child that was forked may still read its parent's entries there. Whatever goes wrong (no room, no permission,
 * another file of that name) the old file stays, and is cut after its last used page. What a kill leaves behind in between is found by
 * `heapkeeper run`, which removes it (cli/prune.c). */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "record/internal.h"

#define FIXED_END hk_rec_round_up(HK_CAPTURE_STATUS_OFFSET + sizeof(struct hk_capture_status), 8)

/* Sections by where they lie; returns their number. */
static int in_order(int kinds[HK_SECTION_KINDS])
{
    int count = 0;

    for (int kind = 1; kind < HK_SECTION_KINDS; kind++) {
        int at = count;
        if (hk_rec.section[kind].entry_size == 0)
            continue;
        for (; at > 0 && hk_rec.section[kinds[at - 1]].data > hk_rec.section[kind].data; at--)
            kinds[at] = kinds[at - 1];
        kinds[at] = kind;
        count++;
    }
    return count;
}

/* DIRECTORY/.NAME.PID.new, the PID in hexadecimal digits. False: too long. */
static bool name_copy(char copy[PATH_MAX])
{
    const char *slash = strrchr(hk_rec.path, '/');
    size_t length = strlen(hk_rec.path), directory = slash ? (size_t)(slash + 1 - hk_rec.path) : 0;

    if (length + sizeof "..12345678.new" > PATH_MAX)
        return false;
    memcpy(copy, hk_rec.path, directory);
    copy[directory] = '.';
    memcpy(copy + directory + 1, hk_rec.path + directory, length - directory);
    copy += length + 1;
    *copy++ = '.';
    for (int shift = 28; shift >= 0; shift -= 4)
        *copy++ = "0123456789abcdef"[hk_rec_header()->pid >> shift & 15];
    memcpy(copy, ".new", sizeof ".new");
    return true;
}

/* The fixed part with the sections' new places, and the sections, each as large as it is. */
static bool write_copy(int fd, const int *kinds, int count)
{
    static const uint8_t zeros[8];
    struct hk_capture_header *header = (struct hk_capture_header *)hk_rec.buffer;
    struct iovec parts[2 + 2 * HK_SECTION_KINDS];
    uint64_t offset = FIXED_END;
    int used = 2;

    memcpy(header, hk_rec.map, HK_CAPTURE_MAILBOX_OFFSET);
    parts[0] = (struct iovec){header, HK_CAPTURE_MAILBOX_OFFSET};
    parts[1] = (struct iovec){hk_rec.map + HK_CAPTURE_MAILBOX_OFFSET, FIXED_END - HK_CAPTURE_MAILBOX_OFFSET};
    for (int i = 0; i < count; i++) {
        const struct hk_rec_section *section = &hk_rec.section[kinds[i]];
        uint64_t bytes = section->count * section->entry_size, padding = -bytes % 8;
        struct hk_capture_section *published = &header->sections[kinds[i]];
        published->offset = offset;
        published->capacity = published->count = section->count;
        parts[used++] = (struct iovec){section->data, bytes};
        parts[used++] = (struct iovec){(void *)zeros, padding};
        offset += bytes + padding;
    }
    return syscall(SYS_writev, fd, parts, used) == (long)offset;
}

/* True: the path leads to a packed copy now. What others made of the file, by links or permissions, stays as it is. To write beyond the
 * limit on file sizes would be a signal. */
static bool pack(int old, uint64_t length)
{
    struct stat status;
    struct rlimit limit;
    char *copy = hk_rec.buffer + sizeof hk_rec.buffer - PATH_MAX;
    int kinds[HK_SECTION_KINDS], count = in_order(kinds);
    uint64_t packed = FIXED_END;

    for (int i = 0; i < count; i++)
        packed += hk_rec.section[kinds[i]].count * hk_rec.section[kinds[i]].entry_size + 7;
    if (packed > length / 2 || packed > hk_rec_header()->end_ns / HK_REC_PACK_NS || getrlimit(RLIMIT_FSIZE, &limit) != 0 ||
        limit.rlim_cur < packed || !name_copy(copy) || fstat(old, &status) != 0 || status.st_uid != geteuid() ||
        status.st_nlink != 1 || (status.st_mode & 07777) != 0600)
        return false;
    int fd = hk_rec_open(copy, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (fd < 0)
        return false;
    bool good = fchmod(fd, 0600) == 0 && write_copy(fd, kinds, count);
    hk_rec_close(fd);
    good = good && rename(copy, hk_rec.path) == 0;
    if (!good)
        unlink(copy);
    return good;
}

/* By its path, as no descriptor was kept: it may be gone or another. */
void hk_rec_file_end(void)
{
    uint64_t used = HK_CAPTURE_STATUS_OFFSET + sizeof(struct hk_capture_status);

    if (!hk_rec.named)
        return;
    for (int kind = 1; kind < HK_SECTION_KINDS; kind++) {
        const struct hk_rec_section *section = &hk_rec.section[kind];
        uint64_t end = (uint64_t)(section->data - hk_rec.map) + section->count * section->entry_size;
        if (section->count > 0 && end > used)
            used = end;
    }
    used = hk_rec_round_up(used, hk_rec.page);
    int fd = hk_rec_open(hk_rec.path, O_RDWR | O_NOFOLLOW, 0);
    if (fd < 0)
        return;
    if (hk_rec_file_is_ours(fd) && !pack(fd, used) && used < hk_rec.bound && ftruncate(fd, (off_t)used) != 0) {
        /* It stays as long as it was: sparse, and as valid. */
    }
    hk_rec_close(fd);
}
