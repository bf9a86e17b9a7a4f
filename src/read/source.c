/* See source.h. */
#include "read/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SOURCE_MAX ((off_t)32 << 20) /* bytes */

/* ---- which ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static size_t sort_once(const char **paths, size_t count)
{
    size_t kept = 0;
    qsort(paths, count, sizeof *paths, by_text);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || strcmp(paths[kept - 1], paths[i]) != 0)
            paths[kept++] = paths[i];
    return kept;
}

size_t hk_source_all(const struct hk_sites *s, const char ***paths)
{
    size_t codes = s->capture->tables[HK_SECTION_CODES].count, count = 0;
    *paths = hk_must_calloc(codes + s->line_count + 1, sizeof **paths);
    for (size_t i = 1; i < codes; i++) {
        struct hk_capture_code code;
        hk_capture_entry(s->capture, HK_SECTION_CODES, i, &code, sizeof code);
        const char *file = hk_capture_string(s->capture, code.file);
        if (!(code.flags & (HK_CODE_NATIVE | HK_CODE_TRAMPOLINE)) && *file)
            (*paths)[count++] = file;
    }
    for (size_t i = 0; i < s->line_count; i++)
        if (*s->lines[i].frame.file) /* of native code, too, if it has debug information */
            (*paths)[count++] = s->lines[i].frame.file;
    return sort_once(*paths, count);
}

static bool ends_in(const char *path, const char *name)
{
    size_t a = strlen(path), b = strlen(name);
    return b > 0 && a > b && strcmp(path + a - b, name) == 0 && path[a - b - 1] == '/';
}

/* "importlib._bootstrap" for "<frozen importlib._bootstrap>" */
static bool is_frozen(const char *path, const char *name)
{
    size_t length = strlen(name);
    return strncmp(path, "<frozen ", 8) == 0 && strncmp(path + 8, name, length) == 0 && strcmp(path + 8 + length, ">") == 0;
}

size_t hk_source_find(const struct hk_sites *s, const char *name, const char ***paths)
{
    size_t count = hk_source_all(s, paths), kept = 0;
    char *real = realpath(name, NULL);
    while (strncmp(name, "./", 2) == 0)
        name += 2;
    for (size_t i = 0; i < count; i++) {
        if (strcmp((*paths)[i], name) == 0 || (real && strcmp((*paths)[i], real) == 0)) {
            (*paths)[0] = (*paths)[i];
            free(real);
            return 1;
        }
    }
    for (size_t i = 0; i < count; i++)
        if (ends_in((*paths)[i], name) || is_frozen((*paths)[i], name))
            (*paths)[kept++] = (*paths)[i];
    free(real);
    return kept;
}

/* ---- the text ---- */

const char *hk_source_word(enum hk_source_state state)
{
    static const char *const words[] = {"good", "changed", "shorter", "missing", "unreadable", "no_file"};
    return state <= HK_SOURCE_NO_FILE ? words[state] : "unknown";
}

static void fail(struct hk_source *s, enum hk_source_state state, const char *why)
{
    s->state = state;
    snprintf(s->why, sizeof s->why, "%s", why);
}

static void read_text(struct hk_source *s, int fd, size_t size)
{
    size_t have = 0;
    s->text = hk_must_calloc(size + 1, 1);
    while (have < size) {
        ssize_t n = read(fd, s->text + have, size - have);
        if (n <= 0)
            break;
        have += (size_t)n;
    }
    for (size_t i = 0; i < have; i++)
        if (s->text[i] == 0)
            s->text[i] = '?';
    for (char *at = s->text; *at;) {
        if (s->line_count % 256 == 0)
            s->lines = hk_must_realloc(s->lines, s->line_count + 256, sizeof *s->lines);
        s->lines[s->line_count++] = at;
        char *end = at + strcspn(at, "\n");
        bool last = !*end;
        if (end > at && end[-1] == '\r')
            end[-1] = 0;
        *end = 0;
        at = last ? end : end + 1;
    }
}

struct hk_source hk_source_read(const struct hk_capture *c, const char *path, int last_line)
{
    struct hk_source s = {.state = HK_SOURCE_GOOD};
    struct stat st;
    const char *directory = hk_capture_string(c, c->header.working_directory);
    if (*path == '/' || !*directory)
        s.path = hk_must_strdup(path);
    else if (asprintf(&s.path, "%s/%s", directory, path) < 0)
        s.path = hk_must_strdup("");
    if (c->from_memory || *path == '<') {
        fail(&s, HK_SOURCE_NO_FILE, "it is code of no file");
        return s;
    }
    int fd = open(s.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        fail(&s, errno == ENOENT || errno == ENOTDIR ? HK_SOURCE_MISSING : HK_SOURCE_UNREADABLE, strerror(errno));
    else if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        fail(&s, HK_SOURCE_UNREADABLE, "not a regular file");
    else if (st.st_size > SOURCE_MAX)
        fail(&s, HK_SOURCE_UNREADABLE, "too large for source");
    if (s.state == HK_SOURCE_GOOD) {
        read_text(&s, fd, (size_t)st.st_size);
        uint64_t written = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
        if (last_line > 0 && (size_t)last_line > s.line_count)
            fail(&s, HK_SOURCE_SHORTER, "it has fewer lines than ran");
        else if (written > c->header.start_realtime_ns)
            fail(&s, HK_SOURCE_CHANGED, "it was written after the run began");
    }
    if (fd >= 0)
        close(fd);
    return s;
}

void hk_source_free(struct hk_source *s)
{
    free(s->path);
    free(s->text);
    free(s->lines);
}
