/* Captures of one run lie in one directory and share a run id. Names are not trusted for that: the
 * header is read. They only limit what is opened: files that end in .hkc, and beside a capture F
 * that was named by hand also F.PID and F.PID.N.
 */
#include "read/find.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "read/process.h"
#include "read/sites.h"

#define SUFFIX ".hkc"

static bool ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

static char *join(const char *directory, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", directory, name) < 0)
        return hk_must_strdup("");
    return path;
}

size_t hk_places(char *places[HK_PLACES_MAX])
{
    const char *own = getenv("HEAPKEEPER_DIR"), *runtime = getenv("XDG_RUNTIME_DIR");
    const char *temporary = getenv("TMPDIR");
    char name[64];
    size_t count = 0;

    if (own && *own) {
        places[count++] = hk_must_strdup(own);
        return count;
    }
    snprintf(name, sizeof name, "heapkeeper-%u", (unsigned)geteuid());
    if (runtime && *runtime == '/')
        places[count++] = join(runtime, "heapkeeper");
    places[count++] = join("/dev/shm", name);
    if (temporary && *temporary == '/')
        places[count++] = join(temporary, name);
    places[count++] = join("/tmp", name);
    return count;
}

/* When a capture started: by its header, or, while it is empty, by its file. 0: not a capture. */
static uint64_t start_of(int directory, const char *name)
{
    struct hk_capture_header header;
    struct stat st;
    int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return 0;
    uint64_t start = 0;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        ssize_t n = pread(fd, &header, sizeof header, 0);
        start = (uint64_t)st.st_ctim.tv_sec * 1000000000u + (uint64_t)st.st_ctim.tv_nsec;
        if (n == (ssize_t)sizeof header && memcmp(header.magic, HK_CAPTURE_MAGIC, 8) == 0 &&
            header.start_realtime_ns)
            start = header.start_realtime_ns;
    }
    close(fd);
    return start;
}

/* True if of two captures of one process, a copy among them, the first one knows more. */
static bool got_further(const char *path, const char *other)
{
    uint64_t allocated[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        struct hk_error ignored;
        struct hk_capture *c = hk_capture_open(i ? other : path, HK_OPEN_BRIEF, &ignored);
        allocated[i] = c ? c->now.allocated_bytes : 0;
        hk_capture_close(c);
    }
    return allocated[0] > allocated[1];
}

static void newest_in(const char *place, char **best, uint64_t *best_start)
{
    int fd = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat st;
    DIR *directory = NULL;
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == geteuid())
        directory = fdopendir(fd);
    if (!directory) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (entry->d_name[0] == '.' || !ends_with(entry->d_name, SUFFIX))
            continue;
        uint64_t start = start_of(dirfd(directory), entry->d_name);
        if (start == 0 || start < *best_start)
            continue;
        char *path = join(place, entry->d_name);
        if (start == *best_start && !got_further(path, *best)) {
            free(path);
            continue;
        }
        free(*best);
        *best = path;
        *best_start = start;
    }
    closedir(directory);
}

char *hk_find_newest(struct hk_error *error)
{
    char *places[HK_PLACES_MAX], *best = NULL;
    size_t count = hk_places(places);
    uint64_t best_start = 0;

    for (size_t i = 0; i < count; i++)
        newest_in(places[i], &best, &best_start);
    if (!best)
        hk_error_set(
            error,
            "no capture found in %s%s; record one with \"heapkeeper run PROGRAM\", or name "
            "the file",
            places[0], count > 1 ? " or the other usual places" : "");
    for (size_t i = 0; i < count; i++)
        free(places[i]);
    return best;
}

/* ---- families ---- */

static void add_process(struct hk_family *f, const struct hk_capture *c)
{
    f->processes = hk_must_realloc(f->processes, f->count + 1, sizeof *f->processes);
    struct hk_process *p = &f->processes[f->count++];
    *p = (struct hk_process){
        .path = hk_must_strdup(c->path),
        .pid = c->header.pid,
        .parent_pid = c->header.parent_pid,
        .exec_count = c->header.exec_count,
        .start_ticks = c->header.start_ticks,
        .forked = c->header.forked != 0,
        .is_first = c->header.is_first != 0,
        .life = c->life,
        .start_realtime_ns = c->header.start_realtime_ns,
        .duration_ns = c->duration_ns,
        .peak_bytes = hk_capture_peak(c),
        .live_bytes = hk_point_live(&c->now),
        .allocated_bytes = c->now.allocated_bytes,
        .peak_rss_bytes = c->status.peak_rss_bytes,
    };
    hk_capture_program(c, p->program, sizeof p->program);
}

static bool is_candidate(const char *name, const char *root)
{
    size_t length = strlen(root);
    if (name[0] == '.')
        return false;
    return ends_with(name, SUFFIX) ||
           (strncmp(name, root, length) == 0 && (name[length] == '.' || name[length] == 0));
}

/* Reads only the header first: a directory may hold thousands of other runs. */
static bool has_run_id(const char *path, const uint8_t run_id[16])
{
    struct hk_capture_header header;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    ssize_t n = pread(fd, &header, sizeof header, 0);
    close(fd);
    return n == (ssize_t)sizeof header && memcmp(header.magic, HK_CAPTURE_MAGIC, 8) == 0 &&
           memcmp(header.run_id, run_id, 16) == 0;
}

static void read_children(struct hk_family *f, const char *directory, const uint8_t run_id[16])
{
    char name[64];
    struct hk_child_record record;
    for (int i = 0; i < 16; i++)
        snprintf(name + 2 * i, 3, "%02x", run_id[i]);
    strcat(name, ".children");
    char *path = join(directory, name);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    free(path);
    if (fd < 0)
        return;
    while (f->folded < 10000000 && read(fd, &record, sizeof record) == (ssize_t)sizeof record) {
        f->folded++;
        f->folded_allocated_bytes += record.allocated_bytes;
        f->folded_duration_ns += record.duration_ns;
        if (record.peak_bytes >= f->folded_peak_bytes) {
            f->folded_peak_bytes = record.peak_bytes;
            memcpy(f->folded_heaviest, record.name, sizeof record.name);
            f->folded_heaviest[sizeof record.name] = 0;
            size_t length = strlen(f->folded_heaviest);
            while (length && f->folded_heaviest[length - 1] == ' ')
                f->folded_heaviest[--length] = 0;
        }
    }
    close(fd);
}

static bool is_same_file(const char *path, const char *other)
{
    struct stat a, b;
    return stat(path, &a) == 0 && stat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int by_start(const void *a, const void *b)
{
    const struct hk_process *x = a, *y = b;
    if (x->start_realtime_ns != y->start_realtime_ns)
        return x->start_realtime_ns < y->start_realtime_ns ? -1 : 1;
    if (x->exec_count != y->exec_count)
        return x->exec_count < y->exec_count ? -1 : 1;
    if (x->pid != y->pid)
        return x->pid < y->pid ? -1 : 1;
    return strcmp(x->path, y->path);
}

/* A capture that was copied is there twice, perhaps as it was a while ago: of those of one process the one at `path` stays,
 * else the one that got furthest. */
static void drop_copies(struct hk_family *f, const char *path)
{
    size_t kept = 0;
    for (size_t i = 1; i < f->count; i++) { /* copies are neighbours */
        struct hk_process *p = &f->processes[i], *last = &f->processes[kept];
        if (p->pid != last->pid || p->exec_count != last->exec_count || p->start_realtime_ns != last->start_realtime_ns ||
            p->start_ticks != last->start_ticks) {
            f->processes[++kept] = *p;
            continue;
        }
        bool further = p->allocated_bytes != last->allocated_bytes ? p->allocated_bytes > last->allocated_bytes
                                                                   : p->duration_ns > last->duration_ns;
        bool better = is_same_file(p->path, path) || (further && !is_same_file(last->path, path));
        free(better ? last->path : p->path);
        if (better)
            *last = *p;
    }
    f->count = f->count ? kept + 1 : 0;
}

/* True if b is what process a became by exec. The process's start, in the kernel's ticks, is the same across exec; a
 * capture's own start is not. */
static bool became(const struct hk_process *a, const struct hk_process *b)
{
    if (a->pid != b->pid || a->start_ticks != b->start_ticks)
        return false;
    return a->start_realtime_ns != b->start_realtime_ns ? a->start_realtime_ns < b->start_realtime_ns
                                                        : a->exec_count < b->exec_count;
}

/* A process that seems killed but has a later capture went on as another program. */
static void find_execs(struct hk_family *f)
{
    for (size_t i = 0; i < f->count; i++) {
        for (size_t j = 0; j < f->count; j++) {
            if (became(&f->processes[i], &f->processes[j]) &&
                (f->processes[i].life == HK_LIFE_KILLED || f->processes[i].life == HK_LIFE_RUNNING))
                f->processes[i].life = HK_LIFE_EXECED;
        }
    }
}

static void scan(struct hk_family *f, const char *directory, const char *root,
                 const uint8_t run_id[16])
{
    DIR *d = opendir(directory);
    if (!d)
        return;
    for (struct dirent *entry; (entry = readdir(d));) {
        if (!is_candidate(entry->d_name, root))
            continue;
        char *path = join(directory, entry->d_name);
        struct hk_error ignored;
        struct hk_capture *c =
            has_run_id(path, run_id) ? hk_capture_open(path, HK_OPEN_BRIEF, &ignored) : NULL;
        if (c)
            add_process(f, c);
        hk_capture_close(c);
        free(path);
    }
    closedir(d);
}

/* "F" of F, F.123 and F.123.1. */
static void cut_numbers(char *name)
{
    for (int i = 0; i < 2; i++) {
        char *dot = strrchr(name, '.');
        if (!dot || !dot[1] || strspn(dot + 1, "0123456789") != strlen(dot + 1))
            return;
        *dot = 0;
    }
}

/* The run of an empty capture at path: that of the first "path.PID" which started since. */
static bool run_id_beside(const char *directory, const char *path, uint8_t run_id[16])
{
    const char *slash = strrchr(path, '/'), *root = slash ? slash + 1 : path;
    size_t length = strlen(root);
    uint64_t first = UINT64_MAX;
    struct stat st = {0};
    DIR *d = lstat(path, &st) == 0 ? opendir(directory) : NULL;
    uint64_t made = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
    for (struct dirent *entry; d && (entry = readdir(d));) {
        struct hk_capture_header header;
        if (strncmp(entry->d_name, root, length) != 0 || entry->d_name[length] != '.')
            continue;
        int fd = openat(dirfd(d), entry->d_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
            continue;
        if (pread(fd, &header, sizeof header, 0) == (ssize_t)sizeof header &&
            memcmp(header.magic, HK_CAPTURE_MAGIC, 8) == 0 && header.start_realtime_ns >= made &&
            header.start_realtime_ns < first) {
            first = header.start_realtime_ns;
            memcpy(run_id, header.run_id, 16);
        }
        close(fd);
    }
    if (d)
        closedir(d);
    return first != UINT64_MAX;
}

struct hk_family *hk_family_find(const char *path)
{
    static const uint8_t nobody[16];
    struct hk_family *f = hk_must_calloc(1, sizeof *f);
    struct hk_error ignored;
    struct hk_capture *c = hk_capture_open(path, HK_OPEN_BRIEF, &ignored);
    if (!c)
        return f;

    char *directory = hk_must_strdup(path);
    char *slash = strrchr(directory, '/');
    char *root = hk_must_strdup(slash ? slash + 1 : path);
    if (slash)
        *(slash == directory ? slash + 1 : slash) = 0;
    cut_numbers(root);
    uint8_t run_id[16];
    memcpy(run_id, c->header.run_id, sizeof run_id);
    if (c->size ? memcmp(run_id, nobody, 16) != 0 : run_id_beside(slash ? directory : ".", path, run_id)) {
        scan(f, slash ? directory : ".", root, run_id);
        read_children(f, slash ? directory : ".", run_id);
    }
    if (f->count == 0)
        add_process(f, c);
    qsort(f->processes, f->count, sizeof *f->processes, by_start);
    drop_copies(f, path);
    find_execs(f);
    free(root);
    free(directory);
    hk_capture_close(c);
    return f;
}

static void judge_process(struct hk_process *process)
{
    struct hk_error ignored;
    struct hk_capture *c = hk_capture_open(process->path, HK_OPEN_WHOLE, &ignored);
    struct hk_sites *s = c ? hk_sites_read(c) : NULL;
    const struct hk_line *steepest = NULL;

    for (size_t i = 0; s && i < s->line_count; i++) {
        const struct hk_line *line = &s->lines[i];
        if (!line->growth.growing)
            continue;
        process->growing++;
        if (!steepest || line->growth.rise > steepest->growth.rise)
            steepest = line;
    }
    if (steepest) {
        snprintf(process->growing_function, sizeof process->growing_function, "%s",
                 steepest->frame.function);
        snprintf(process->growing_file, sizeof process->growing_file, "%s", steepest->frame.file);
        process->growing_line = steepest->frame.line;
        process->growing_rise = steepest->growth.rise;
    }
    process->judged = s != NULL;
    hk_sites_free(s);
    hk_capture_close(c);
}

void hk_family_judge(struct hk_family *f, size_t most)
{
    while (most--) {
        struct hk_process *next = NULL;
        for (size_t i = 0; i < f->count; i++) {
            struct hk_process *p = &f->processes[i];
            if (!p->judged && p->life != HK_LIFE_EMPTY &&
                (!next || p->peak_bytes > next->peak_bytes))
                next = p;
        }
        if (!next)
            return;
        judge_process(next);
        next->judged = true;
    }
}

const struct hk_process *hk_family_member(const struct hk_family *family, const struct hk_capture *capture)
{
    for (size_t i = 0; i < family->count; i++) {
        const struct hk_process *p = &family->processes[i];
        if (p->pid == capture->header.pid && p->exec_count == capture->header.exec_count &&
            p->start_realtime_ns == capture->header.start_realtime_ns)
            return p;
    }
    return NULL;
}

void hk_family_free(struct hk_family *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->count; i++)
        free(f->processes[i].path);
    free(f->processes);
    free(f);
}

/* A shell that starts the program by exec records nothing itself; what it ran before has the earlier start. */
size_t hk_family_main(const struct hk_family *f)
{
    size_t first = 0, heaviest = 0;
    for (size_t i = 1; i < f->count; i++) {
        if ((f->processes[i].is_first && !f->processes[first].is_first) || became(&f->processes[first], &f->processes[i]))
            first = i;
        if (f->processes[i].peak_bytes > f->processes[heaviest].peak_bytes)
            heaviest = i;
    }
    if (f->count &&
        (f->processes[first].life == HK_LIFE_EMPTY || f->processes[first].allocated_bytes == 0))
        return heaviest;
    return first;
}
