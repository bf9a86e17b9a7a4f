/* Folding: a test suite starts thousands of Pythons. The capture of a small child that ended
 * cleanly is reduced to one record in a file that the run's children share, and is removed.
 *
 * Records are appended in one write each (O_APPEND: no lock is needed). Whatever goes wrong, the
 * capture stays.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "record/internal.h"

#define SMALL_CHILD_BYTES ((uint64_t)64 << 20) /* of its own allocation: what a parent allocated before is not its */

static uint64_t peak_of_points(void)
{
    const struct hk_rec_section *section = &hk_rec.section[HK_SECTION_TIMELINE];
    const struct hk_capture_point *points = (const struct hk_capture_point *)section->data;
    uint64_t peak = 0;

    for (uint64_t i = 0; i < section->count; i++)
        if (points[i].live_bytes + points[i].large_bytes > peak)
            peak = points[i].live_bytes + points[i].large_bytes;
    return peak;
}

static void fill_name(char *name, size_t capacity)
{
    const char *line =
        (const char *)hk_rec.section[HK_SECTION_STRINGS].data + hk_rec_header()->command_line;
    size_t first = 0;

    while (line[first] != '\0' && line[first] != '\x1f')
        first++;
    while (first > 0 && line[first - 1] != '/')
        first--;
    line += first; /* the program without its directory */
    for (size_t i = 0; i + 1 < capacity && line[i] != '\0'; i++)
        name[i] = line[i] == '\x1f' ? ' ' : line[i];
}

static bool append_record(const char *path, const struct hk_capture_child *record)
{
    struct stat status;
    bool good = false;
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    int fd = hk_rec_open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, 0600);

    if (fd < 0)
        return false;
    getrlimit(RLIMIT_FSIZE, &limit); /* beyond it a write is answered with a signal */
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid() &&
        (uint64_t)status.st_size + sizeof *record <= limit.rlim_cur) {
        long written = hk_rec_write(fd, record, sizeof *record);
        good = written == (long)sizeof *record;
        /* Half a record would shift all that follow: take it back, unless one has followed
         * already. */
        if (!good && written > 0 && fstat(fd, &status) == 0 &&
            status.st_size % (off_t)sizeof *record == written &&
            ftruncate(fd, status.st_size - written) != 0)
            good = false;
    }
    hk_rec_close(fd);
    return good;
}

bool hk_rec_fold(const char *path)
{
    const struct hk_capture_header *header = hk_rec_header();
    const struct hk_capture_status *status = hk_rec_status();
    struct hk_capture_child record = {0};
    bool ours;
    int fd;

    if (!hk_rec.named || header->limits != 0 || status->now.allocated_bytes >= SMALL_CHILD_BYTES)
        return false;
    fd = hk_rec_open(hk_rec.path, O_RDONLY | O_NOFOLLOW, 0);
    ours = fd >= 0 && hk_rec_file_is_ours(fd);
    if (fd >= 0)
        hk_rec_close(fd);
    if (!ours)
        return false;
    record.pid = header->pid;
    record.start_realtime_ns = header->start_realtime_ns;
    record.duration_ns = header->end_ns;
    record.peak_bytes = peak_of_points();
    record.allocated_bytes = status->now.allocated_bytes;
    record.peak_rss_bytes = status->peak_rss_bytes;
    fill_name(record.name, sizeof record.name);
    return append_record(path, &record) && unlink(hk_rec.path) == 0;
}
