/* See attach.h. /proc/PID/maps names the file; where there is none, the capture's magic is looked for at the start of
 * each page of the process's unnamed memory, as far as a capture could lie there. */
#include "read/attach.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "read/find.h"
#include "read/process.h"

#define PAGE      4096u
#define BATCH     512u               /* pages that are looked at in one call */
#define LOOK_MAX  ((uint64_t)1 << 28) /* bytes of unnamed memory that are looked through */
#define TRIES     20

static bool peek(int pid, uint64_t address, void *to, size_t size)
{
    struct iovec here = {to, size}, there = {(void *)(uintptr_t)address, size};
    return process_vm_readv(pid, &here, 1, &there, 1, 0) == (ssize_t)size;
}

/* True if memory at `address` begins like a capture of this process. */
static bool is_capture(int pid, uint64_t address, struct hk_capture_header *header)
{
    return peek(pid, address, header, sizeof *header) &&
           memcmp(header->magic, HK_CAPTURE_MAGIC, sizeof header->magic) == 0 &&
           header->byte_order == HK_CAPTURE_BYTE_ORDER && header->file_size <= HK_CAPTURE_READ_MAX &&
           header->file_size >= 3 * PAGE;
}

/* Copies it from memory, again while the timeline moves. */
static struct hk_capture *copy_memory(int pid, uint64_t address, uint64_t size, struct hk_error *error)
{
    struct hk_capture *capture = NULL;
    uint8_t *bytes = hk_must_calloc(size, 1);
    for (int i = 0; i < TRIES && !capture; i++)
        if (peek(pid, address, bytes, size))
            capture = hk_capture_from_memory(bytes, size, "(memory)", error);
    free(bytes);
    if (!capture)
        hk_error_set(error, "process %d: its record could not be read from its memory", pid);
    return capture;
}

struct mapping {
    uint64_t start, end;
    char mode[8];
    char path[4096];
};

static bool parse(const char *line, struct mapping *m)
{
    unsigned long long start, end;
    int at = 0;
    m->path[0] = 0;
    if (sscanf(line, "%llx-%llx %7s %*s %*s %*s%n", &start, &end, m->mode, &at) < 3 || at == 0)
        return false;
    m->start = start;
    m->end = end;
    const char *path = line + at + strspn(line + at, " ");
    snprintf(m->path, sizeof m->path, "%.*s", (int)strcspn(path, "\n"), path);
    return true;
}

/* A file that is mapped to be written, and is a capture. */
static struct hk_capture *open_mapped(const struct mapping *m, enum hk_open_how how, struct hk_error *error)
{
    struct stat st;
    char magic[8] = "";
    if (m->mode[1] != 'w' || m->mode[3] != 's' || m->path[0] != '/' || stat(m->path, &st) != 0 || !S_ISREG(st.st_mode))
        return NULL;
    int fd = open(m->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return NULL;
    bool good = pread(fd, magic, sizeof magic, 0) == sizeof magic && memcmp(magic, HK_CAPTURE_MAGIC, sizeof magic) == 0;
    close(fd);
    return good ? hk_capture_open(m->path, how, error) : NULL;
}

static struct hk_capture *find_in_pages(int pid, const struct mapping *m, struct hk_error *error)
{
    static uint64_t words[BATCH];
    struct iovec here[BATCH], there[BATCH];
    uint64_t wanted;
    memcpy(&wanted, HK_CAPTURE_MAGIC, sizeof wanted);
    for (uint64_t at = m->start; at < m->end; at += BATCH * PAGE) {
        uint64_t pages = (m->end - at) / PAGE;
        unsigned count = pages < BATCH ? (unsigned)pages : BATCH;
        for (unsigned i = 0; i < count; i++) {
            here[i] = (struct iovec){&words[i], sizeof words[i]};
            there[i] = (struct iovec){(void *)(uintptr_t)(at + i * (uint64_t)PAGE), sizeof words[i]};
        }
        ssize_t got = process_vm_readv(pid, here, count, there, count, 0);
        for (unsigned i = 0; got > 0 && i < (size_t)got / sizeof *words; i++) {
            struct hk_capture_header header;
            if (words[i] == wanted && is_capture(pid, at + i * (uint64_t)PAGE, &header))
                return copy_memory(pid, at + i * (uint64_t)PAGE, header.file_size, error);
        }
    }
    return NULL;
}

/* First the files: they are certain and cheap. */
static struct hk_capture *find_in_maps(int pid, enum hk_open_how how, bool files, struct hk_error *error)
{
    char path[64], line[4608];
    struct hk_capture *capture = NULL;
    uint64_t looked = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "re");
    while (maps && !capture && fgets(line, sizeof line, maps)) {
        struct mapping m;
        struct hk_capture_header header;
        if (!parse(line, &m))
            continue;
        if (files) {
            capture = open_mapped(&m, how, error);
        } else if (m.mode[1] == 'w' && m.mode[3] == 's' && m.path[0] == '/' && is_capture(pid, m.start, &header)) {
            capture = copy_memory(pid, m.start, header.file_size, error); /* its file was deleted */
        } else if (m.mode[1] == 'w' && m.mode[3] == 'p' && m.path[0] == 0 && looked < LOOK_MAX &&
                   m.end - m.start <= HK_CAPTURE_READ_MAX * 2) {
            looked += m.end - m.start;
            capture = find_in_pages(pid, &m, error);
        }
    }
    if (maps)
        fclose(maps);
    return capture;
}

/* ---- the usual places ---- */

/* Numbers are used again: one that runs is what was recorded only if it began then. */
static bool is_of(const char *path, int pid, bool runs, uint64_t *start)
{
    struct hk_capture_header header;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd >= 0 ? pread(fd, &header, sizeof header, 0) : -1;
    if (fd >= 0)
        close(fd);
    *start = header.start_realtime_ns;
    return n == (ssize_t)sizeof header && memcmp(header.magic, HK_CAPTURE_MAGIC, sizeof header.magic) == 0 &&
           header.pid == (uint32_t)pid && (!runs || hk_process_is(header.pid, header.start_ticks, header.boot_id));
}

/* The newest capture there whose process had this number; the caller frees it. */
static char *find_in_places(int pid, bool runs)
{
    char *places[HK_PLACES_MAX], *best = NULL, path[4096];
    size_t count = hk_places(places);
    uint64_t best_start = 0, start;
    for (size_t i = 0; i < count; i++) {
        struct stat st;
        DIR *directory = stat(places[i], &st) == 0 && st.st_uid == geteuid() ? opendir(places[i]) : NULL;
        for (struct dirent *entry; directory && (entry = readdir(directory));) {
            int length = snprintf(path, sizeof path, "%s/%s", places[i], entry->d_name);
            if (entry->d_name[0] == '.' || length >= (int)sizeof path || !is_of(path, pid, runs, &start) || start < best_start)
                continue;
            free(best);
            best = hk_must_strdup(path);
            best_start = start;
        }
        if (directory)
            closedir(directory);
        free(places[i]);
    }
    return best;
}

struct hk_capture *hk_capture_of_process(int pid, enum hk_open_how how, struct hk_error *error)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    bool runs = (kill(pid, 0) == 0 || errno == EPERM) && !hk_process_is_zombie((uint32_t)pid), seen = access(path, R_OK) == 0;
    struct hk_capture *capture = runs ? find_in_maps(pid, how, true, error) : NULL;
    if (!capture && runs)
        capture = find_in_maps(pid, how, false, error);
    if (capture) {
        capture->life = HK_LIFE_RUNNING;
        return capture;
    }
    char *file = find_in_places(pid, runs);
    if (file)
        capture = hk_capture_open(file, how, error);
    else if (!runs)
        hk_error_set(error, "there is no process %d, and no capture of one in the usual places; name the file", pid);
    else if (!seen)
        hk_error_set(error, "process %d may not be looked at (is it another user's?)", pid);
    else
        hk_error_set(error, "process %d does not run under heapkeeper: start it with \"heapkeeper run\"", pid);
    free(file);
    return capture;
}
