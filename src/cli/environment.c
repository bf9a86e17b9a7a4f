/* The library's path and the environment of the program.
 *
 * The loader splits LD_PRELOAD at spaces and colons and expands "$ORIGIN" and its like, and knows
 * no quoting. A library whose path has one of these is reached through a symbolic link in a private
 * directory.
 */
#include "cli/environment.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* [guide's geometry, and 2 with the malloc family][linked for addresses below 4 GiB] */
static const char *const libraries[4][2] = {
    {"libheapkeeper-preload.so", "libheapkeeper-low-preload.so"},
    {"libheapkeeper-guide-preload.so", "libheapkeeper-guide-low-preload.so"},
    {"libheapkeeper-malloc-preload.so", "libheapkeeper-malloc-low-preload.so"},
    {"libheapkeeper-guide-malloc-preload.so", "libheapkeeper-guide-malloc-low-preload.so"},
};
#define KINDS (sizeof libraries / sizeof libraries[0])

/* Where the library may lie, seen from the command's directory: the build tree, an installation,
 * the package directories of a Python environment. */
static const char *const patterns[] = {
    "",
    "/../lib/heapkeeper",
    "/../lib64/heapkeeper",
    "/../lib/*-linux-gnu*/heapkeeper",
    "/../lib",
    "/../lib/python3*/site-packages/heapkeeper",
    "/../lib/python3*/site-packages/.heapkeeper.mesonpy.libs",
    "/../lib/python3*/site-packages/heapkeeper.libs",
    "/../lib/python3*/dist-packages/heapkeeper",
    "/../lib/python3*/dist-packages/.heapkeeper.mesonpy.libs",
    "/../lib64/python3*/site-packages/heapkeeper",
    "/../lib64/python3*/site-packages/.heapkeeper.mesonpy.libs",
    "/..",
    "/../.heapkeeper.mesonpy.libs",
    "/../python/heapkeeper",
};

/* Backslashes before what glob would take for a pattern. */
static void quote(char *to, const char *from)
{
    for (; *from; from++) {
        if (strchr("*?[]\\", *from))
            *to++ = '\\';
        *to++ = *from;
    }
    *to = 0;
}

/* The first file of that name in one of the places; NULL: there is none. The caller frees it. */
static char *find(const char *name, char self[4096])
{
    char quoted[2 * 4096], *found = NULL;
    ssize_t n = readlink("/proc/self/exe", self, 4095);
    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = 0;
    quote(quoted, self);
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0] && !found; i++) {
        char *pattern = NULL;
        glob_t matches;
        if (asprintf(&pattern, "%s%s/%s", quoted, patterns[i], name) < 0)
            break;
        if (glob(pattern, 0, NULL, &matches) == 0) {
            found = realpath(matches.gl_pathv[0], NULL);
            globfree(&matches);
        }
        free(pattern);
    }
    return found;
}

char *hk_library_find(const struct hk_settings *settings, struct hk_error *error)
{
    const char *library = libraries[2 * settings->family + settings->guide][0];
    char self[4096];
    char *found = find(library, self);
    if (!found)
        hk_error_set(
            error,
            "%s was not found beside %s or in the usual places; build or install heapkeeper again",
            library, self);
    return found;
}

char *hk_library_low(const char *library)
{
    const char *slash = strrchr(library, '/');
    char *low = NULL;
    if (!slash)
        return NULL;
    size_t kind = 0;
    while (kind < KINDS && strcmp(slash + 1, libraries[kind][0]) != 0)
        kind++;
    if (kind == KINDS ||
        asprintf(&low, "%.*s/%s", (int)(slash - library), library, libraries[kind][1]) < 0)
        return NULL;
    if (access(low, R_OK) == 0)
        return low;
    free(low);
    return NULL;
}

static bool ends_with(const char *text, size_t length, const char *end)
{
    size_t n = strlen(end);
    return length >= n && strncmp(text + length - n, end, n) == 0;
}

/* A link to `library` in a directory whose path the loader takes as it is. */
static char *link_to(const struct hk_place *place, const char *library, struct hk_error *error)
{
    char *directory = hk_place_for_link(place), *path = NULL, there[4096];
    struct stat st;

    if (directory && stat(library, &st) == 0 &&
        asprintf(&path, "%s/library-%llx-%llx.so", directory, (unsigned long long)st.st_dev,
                 (unsigned long long)st.st_ino) > 0) {
        ssize_t n = readlink(path, there, sizeof there - 1);
        there[n > 0 ? n : 0] = 0;
        if (strcmp(there, library) != 0) {
            unlink(path);
            if (symlink(library, path) != 0) {
                free(path);
                path = NULL;
            }
        }
    }
    if (!path)
        hk_error_set(error,
                     "%s: its path has a character that LD_PRELOAD cannot hold, and no private "
                     "directory was "
                     "found for a link to it; set HEAPKEEPER_DIR to one",
                     library);
    free(directory);
    return path;
}

/* Is this one of ours, wherever it lies? */
static bool is_library(const char *path, size_t length)
{
    bool found = false;
    for (size_t i = 0; i < 2 * KINDS; i++)
        found |= ends_with(path, length, libraries[i / 2][i % 2]);
    return found;
}

/* `library` in front of what LD_PRELOAD holds, without an older entry for our library. */
static bool set_preload(const char *library)
{
    const char *old = getenv("LD_PRELOAD");
    size_t room = strlen(library) + (old ? strlen(old) : 0) + 2;
    char *value = hk_must_calloc(room, 1);
    strcpy(value, library);
    while (old && *old) {
        size_t length = strcspn(old, " :");
        bool ours = (length == strlen(library) && strncmp(old, library, length) == 0) ||
                    is_library(old, length);
        if (length && !ours) {
            strcat(value, ":");
            strncat(value, old, length);
        }
        old += length + (old[length] != 0);
    }
    bool done = setenv("LD_PRELOAD", value, 1) == 0;
    free(value);
    return done;
}

static bool set(const char *name, const char *value)
{
    return value ? setenv(name, value, 1) == 0 : unsetenv(name) == 0;
}

/* A file of the Python package, which `option` needs; NULL: it is not there. The caller frees it. */
static char *find_module(const char *name, const char *option, struct hk_error *error)
{
    char self[4096], *module = find(name, self);
    if (!module)
        hk_error_set(error, "%s: heapkeeper's Python package was not found beside %s; install it with pip", option, self);
    return module;
}

/* The directory with our memory_profiler in front of the modules that Python finds. */
static bool set_memory_profiler(struct hk_error *error)
{
    char *module = find_module("instead/memory_profiler.py", "--memory-profiler", error), *value = NULL;
    const char *old = getenv("PYTHONPATH");
    if (!module)
        return false;
    *strrchr(module, '/') = 0;
    bool done = asprintf(&value, "%s%s%s", module, old && *old ? ":" : "", old ? old : "") > 0 && setenv("PYTHONPATH", value, 1) == 0;
    if (!done)
        hk_error_set(error, "the environment cannot be set: %s", strerror(errno));
    free(value);
    free(module);
    return done;
}

/* What lines_auto.c reads. */
static bool set_lines(const struct hk_settings *s, struct hk_error *error)
{
    char pid[32], *module = s->lines ? find_module("lines_run.py", "--lines", error) : NULL;
    if (s->lines && !module)
        return false;
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    bool done = set("HEAPKEEPER_LINES", s->lines) && set("HEAPKEEPER_LINES_PID", s->lines ? pid : NULL) && set("HEAPKEEPER_LINES_MODULE", module) &&
                set("HEAPKEEPER_LINES_OUTPUT", s->lines ? s->lines_output : NULL) && set("HEAPKEEPER_LINES_RSS", s->lines_rss ? "1" : NULL);
    if (!done)
        hk_error_set(error, "the environment cannot be set: %s", strerror(errno));
    free(module);
    return done;
}

/* 32 hexadecimal digits, never all zero. */
static void draw_run_id(char digits[33])
{
    uint8_t id[16];
    if (getrandom(id, sizeof id, 0) != (ssize_t)sizeof id) {
        uint64_t now = (uint64_t)getpid() << 32 ^ (uint64_t)(uintptr_t)id;
        memcpy(id, &now, sizeof now);
        memset(id + 8, 0x5a, 8);
    }
    id[0] |= 1;
    for (int i = 0; i < 16; i++)
        snprintf(digits + 2 * i, 3, "%02x", id[i]);
}

bool hk_environment_set(const struct hk_settings *s, const struct hk_place *place,
                        const char *library, struct hk_error *error)
{
    char run[33], id[96], sample[32], self[32], bound[32];
    char *linked = !library                  ? NULL
                   : strpbrk(library, " :$") ? link_to(place, library, error)
                                             : hk_must_strdup(library);
    if (library && !linked)
        return false;
    if ((s->memory_profiler && !set_memory_profiler(error)) || !set_lines(s, error)) {
        free(linked);
        return false;
    }
    draw_run_id(run);
    snprintf(id, sizeof id, "%llu:%llu:%d", (unsigned long long)place->device,
             (unsigned long long)place->inode, (int)getpid());
    snprintf(sample, sizeof sample, "%llu", (unsigned long long)s->sample_bytes);
    snprintf(bound, sizeof bound, "%llu", (unsigned long long)s->bound);
    snprintf(self, sizeof self, "%d", (int)getpid());
    bool done = (!linked || set_preload(linked)) && set("HEAPKEEPER_LIBRARY", linked) &&
                set("HEAPKEEPER_RUN", run) && set("HEAPKEEPER_CAPTURE", place->file) &&
                set("HEAPKEEPER_CAPTURE_ID", place->file ? id : NULL) &&
                set("HEAPKEEPER_CAPTURE_DIR", place->directory ? place->directory : "") &&
                set("HEAPKEEPER_OUTPUT", place->output) && set("HEAPKEEPER_MODE", s->mode) &&
                set("HEAPKEEPER_SAMPLE", sample) && set("HEAPKEEPER_BOUND", s->bound ? bound : NULL) &&
                (!s->debug || set("HEAPKEEPER_DEBUG", "1")) &&
                set("HEAPKEEPER_NATIVE_STACKS", s->native_stacks ? "1" : NULL) &&
                set("HEAPKEEPER_NATIVE", s->native ? "all" : s->family ? self : NULL) &&
                set("HEAPKEEPER_CHILDREN", s->keep_children ? "keep" : NULL) &&
                (!s->exact_lines || set("PYTHON_JIT", "0")) &&
                set("HEAPKEEPER_TRACEMALLOC", s->tracemalloc ? "1" : NULL) &&
                set("HEAPKEEPER_ALIGN", s->align16 ? "16" : NULL);
    if (!done)
        hk_error_set(error, "the environment cannot be set: %s", strerror(errno));
    free(linked);
    return done;
}
