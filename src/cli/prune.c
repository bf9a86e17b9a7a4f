/* Old runs make room for new ones. A run is pruned as a whole: half a run would be read as a whole
 * one. */
#include "cli/place.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "read/process.h"

#define KEEP_BYTES         ((uint64_t)256 << 20)
#define KEEP_EMPTY_SECONDS (24 * 3600) /* a capture nobody took over takes no room, but a name */
#define KEEP_COPY_SECONDS  60 /* a copy that is not in its place yet: whoever makes it was killed (record/pack.c) */

struct file {
    char name[256];
    uint8_t run_id[16];
    uint64_t bytes;  /* on the file system */
    int64_t changed; /* seconds */
    bool lives;
};

static bool ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a > b && strcmp(text + a - b, end) == 0;
}

/* The run id in a name like 0123456789abcdef0123456789abcdef.children. */
static void run_id_of_name(const char *name, uint8_t run_id[16])
{
    for (int i = 0; i < 16; i++) {
        unsigned value = 0;
        if (sscanf(name + 2 * i, "%2x", &value) != 1)
            return;
        run_id[i] = (uint8_t)value;
    }
}

static bool look_at(int directory, const char *name, struct file *file)
{
    struct hk_capture_header header;
    struct stat st;
    int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    *file = (struct file){.lives = false};
    bool fine = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
                strlen(name) < sizeof file->name;
    if (fine) {
        strcpy(file->name, name);
        file->bytes = (uint64_t)st.st_blocks * 512;
        file->changed =
            st.st_mtim.tv_sec > st.st_ctim.tv_sec ? st.st_mtim.tv_sec : st.st_ctim.tv_sec;
        if (ends_with(name, ".children")) {
            run_id_of_name(name, file->run_id);
        } else if (pread(fd, &header, sizeof header, 0) == (ssize_t)sizeof header &&
                   memcmp(header.magic, HK_CAPTURE_MAGIC, 8) == 0) {
            memcpy(file->run_id, header.run_id, 16);
            file->lives = header.state != HK_STATE_EXITED &&
                          hk_process_is(header.pid, header.start_ticks, header.boot_id);
        } else if (st.st_size == 0) {
            file->lives = time(NULL) - file->changed < KEEP_EMPTY_SECONDS;
        }
    }
    close(fd);
    return fine;
}

static bool same_run(const struct file *a, const struct file *b)
{
    static const uint8_t none[16];
    return a == b || (memcmp(a->run_id, none, 16) != 0 && memcmp(a->run_id, b->run_id, 16) == 0);
}

static int by_run(const void *a, const void *b)
{
    return memcmp(((const struct file *)a)->run_id, ((const struct file *)b)->run_id, 16);
}

/* What holds for one file of a run holds for all: the newest change, and that it lives. */
static void spread(struct file *files, size_t count)
{
    qsort(files, count, sizeof *files, by_run);
    for (size_t from = 0, to; from < count; from = to) {
        struct file sum = files[from];
        for (to = from + 1; to < count && same_run(&files[from], &files[to]); to++) {
            sum.lives |= files[to].lives;
            sum.changed = files[to].changed > sum.changed ? files[to].changed : sum.changed;
        }
        for (size_t i = from; i < to; i++) {
            files[i].lives = sum.lives;
            files[i].changed = sum.changed;
        }
    }
}

static int by_age(const void *a, const void *b)
{
    const struct file *x = a, *y = b;
    if (x->changed != y->changed)
        return x->changed < y->changed ? -1 : 1;
    return memcmp(x->run_id, y->run_id, 16);
}

static void remove_oldest(int directory, struct file *files, size_t count)
{
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += files[i].bytes;
    spread(files, count);
    qsort(files, count, sizeof *files, by_age);
    for (size_t i = 0; i < count; i++) {
        bool empty = files[i].bytes == 0 && ends_with(files[i].name, ".hkc");
        bool begun = i > 0 && same_run(&files[i - 1], &files[i]) && files[i - 1].name[0] == 0;
        if (files[i].lives || (total <= KEEP_BYTES && !begun && !empty))
            continue;
        if (unlinkat(directory, files[i].name, 0) == 0) {
            total -= files[i].bytes;
            files[i].name[0] = 0;
        }
    }
}

static bool is_left_copy(int directory, const char *name)
{
    struct stat st;
    return name[0] == '.' && ends_with(name, ".new") && strstr(name, ".hkc.") && fstatat(directory, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISREG(st.st_mode) && st.st_uid == geteuid() && time(NULL) - st.st_mtim.tv_sec > KEEP_COPY_SECONDS;
}

void hk_prune(const char *directory)
{
    DIR *d = opendir(directory);
    struct file *files = NULL;
    size_t count = 0;
    if (!d)
        return;
    for (struct dirent *entry; (entry = readdir(d)) && count < 20000;) {
        if (is_left_copy(dirfd(d), entry->d_name))
            unlinkat(dirfd(d), entry->d_name, 0);
        if (entry->d_name[0] == '.' ||
            !(ends_with(entry->d_name, ".hkc") || ends_with(entry->d_name, ".children")))
            continue;
        if (count % 64 == 0)
            files = hk_must_realloc(files, count + 64, sizeof *files);
        count += look_at(dirfd(d), entry->d_name, &files[count]);
    }
    if (count)
        remove_oldest(dirfd(d), files, count);
    free(files);
    closedir(d);
}
