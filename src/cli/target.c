/* Finding the program.
 *
 *      x.py  -m mod  -c code    the Python beside this command (its virtual environment), else
 *                               that of $VIRTUAL_ENV, else python3 on PATH; --python overrides all
 *      anything else            a program: a path if it has a slash, else found on PATH
 *
 * Whatever cannot be run is refused here, in one line that says why: after the exec nobody is left
 * to say it.
 */
#include "cli/target.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__x86_64__)
#define THIS_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define THIS_MACHINE EM_AARCH64
#endif

__attribute__((format(printf, 1, 2))) static char *format(const char *text, ...)
{
    char *result = NULL;
    va_list arguments;
    va_start(arguments, text);
    int n = vasprintf(&result, text, arguments);
    va_end(arguments);
    return n < 0 ? hk_must_strdup("") : result;
}

static bool ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a > b && strcmp(text + a - b, end) == 0;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static bool is_program(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

/* The first program called `name` on PATH; NULL if there is none. */
static char *search_path(const char *name)
{
    const char *at = getenv("PATH");
    if (!at)
        at = "/usr/local/bin:/usr/bin:/bin";
    for (;;) {
        size_t length = strcspn(at, ":");
        char *path = length ? format("%.*s/%s", (int)length, at, name) : format("./%s", name);
        if (is_program(path))
            return path;
        free(path);
        if (!at[length])
            return NULL;
        at += length + 1;
    }
}

/* ---- the Python ---- */

static char *python_in(const char *directory)
{
    static const char *const names[] = {"python3", "python"};
    for (size_t i = 0; i < 2; i++) {
        char *path = format("%s/%s", directory, names[i]);
        if (is_program(path))
            return path;
        free(path);
    }
    return NULL;
}

/* Directory of this command. */
static char *own_directory(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0)
        return NULL;
    path[n] = 0;
    char *slash = strrchr(path, '/');
    if (slash)
        *slash = 0;
    return hk_must_strdup(path);
}

static char *default_python(void)
{
    const char *environment = getenv("VIRTUAL_ENV");
    char *directory = own_directory(), *found = NULL;

    if (directory) {
        char *mark = format("%s/../pyvenv.cfg", directory);
        bool is_environment = access(mark, F_OK) == 0;
        free(mark);
        /* An activated environment is what the user means, unless this command lives in another
         * one. */
        if (is_environment || !environment || !*environment)
            found = python_in(directory);
        free(directory);
    }
    if (!found && environment && *environment) {
        char *bin = format("%s/bin", environment);
        found = python_in(bin);
        free(bin);
    }
    if (!found)
        found = search_path("python3");
    return found;
}

static char *find_python(const char *named, struct hk_error *error)
{
    char *found =
        named ? strchr(named, '/') ? hk_must_strdup(named) : search_path(named) : default_python();
    if (!found) {
        hk_error_set(error,
                     named ? "%s: no such Python on PATH"
                           : "no %s found beside this command, in "
                             "$VIRTUAL_ENV or on PATH; name one with --python",
                     named ? named : "python3");
    } else if (!is_program(found)) {
        struct stat st;
        bool exists = stat(found, &st) == 0;
        hk_error_set(error, "%s: %s", found,
                     !exists               ? strerror(errno)
                     : S_ISDIR(st.st_mode) ? "is a directory; --python needs the program in it"
                                           : "is not executable");
        free(found);
        found = NULL;
    }
    return found;
}

/* ---- the program ---- */

/* What Python runs by its __main__.py. */
static bool is_package_directory(const char *path)
{
    struct stat st;
    char *main_file = format("%s/__main__.py", path);
    bool result = stat(path, &st) == 0 && S_ISDIR(st.st_mode) && access(main_file, F_OK) == 0;
    free(main_file);
    return result;
}

static bool check_script(const char *script, struct hk_error *error)
{
    struct stat st;
    if (stat(script, &st) != 0)
        hk_error_set(error, "%s: the script cannot be found: %s", script, strerror(errno));
    else if (S_ISDIR(st.st_mode) && !is_package_directory(script))
        hk_error_set(error, "%s: is a directory, not a script", script);
    else if (access(script, R_OK) != 0)
        hk_error_set(error, "%s: the script cannot be read: %s", script, strerror(errno));
    else
        return true;
    return false;
}

static char *find_program(const char *word, struct hk_error *error)
{
    struct stat st;
    if (!strchr(word, '/')) {
        char *found = search_path(word);
        if (!found && stat(word, &st) == 0 && S_ISDIR(st.st_mode))
            hk_error_set(error, "%s: is a directory, not a program", word);
        else if (!found)
            hk_error_set(error,
                         stat(word, &st) == 0 ? "%s: not found on PATH; for the file here write "
                                                "./%s, or \"python3 %s\" for a Python script"
                                              : "%s: no such program on PATH",
                         word, word, word);
        return found;
    }
    if (stat(word, &st) != 0)
        hk_error_set(error, "%s: the program cannot be found: %s", word, strerror(errno));
    else if (S_ISDIR(st.st_mode))
        hk_error_set(error, "%s: is a directory, not a program", word);
    else if (!S_ISREG(st.st_mode))
        hk_error_set(error, "%s: is not a regular file", word);
    else if (access(word, X_OK) != 0)
        hk_error_set(error, "%s: is not executable; for a Python script write \"python3 %s\"", word,
                     word);
    else
        return hk_must_strdup(word);
    return NULL;
}

static bool is_python_words(char **words)
{
    return is_package_directory(words[0]) || strncmp(words[0], "-m", 2) == 0 ||
           strncmp(words[0], "-c", 2) == 0 || ends_with(words[0], ".py") ||
           ends_with(words[0], ".pyw") || ends_with(words[0], ".pyz");
}

static char *name_of(char **words)
{
    if (strncmp(words[0], "-m", 2) == 0)
        return hk_must_strdup(words[0][2] ? words[0] + 2 : words[1] ? words[1] : "module");
    return hk_must_strdup(strncmp(words[0], "-c", 2) == 0 ? "code" : base_name(words[0]));
}

const char *hk_target_lacks(char **words)
{
    bool alone = !words[1];
    return alone && strcmp(words[0], "-m") == 0 ? "a module" : alone && strcmp(words[0], "-c") == 0 ? "code" : NULL;
}

bool hk_target_find(struct hk_target *t, char **words, const char *python, struct hk_error *error)
{
    size_t count = 0;
    while (words[count])
        count++;
    *t = (struct hk_target){.is_python = is_python_words(words)};
    if (t->is_python) {
        if (words[0][0] != '-' && !check_script(words[0], error))
            return false;
        t->path = find_python(python, error);
    } else {
        t->path = find_program(words[0], error);
    }
    if (!t->path)
        return false;
    t->name = name_of(words);
    t->argv = hk_must_calloc(count + 2, sizeof *t->argv);
    size_t at = 0;
    if (t->is_python)
        t->argv[at++] = t->path;
    for (size_t i = 0; i < count; i++)
        t->argv[at++] = words[i];
    return true;
}

void hk_target_free(struct hk_target *t)
{
    free(t->path);
    free(t->argv);
    free(t->name);
}

/* ---- doubts ---- */

struct elf_facts {
    bool is_elf, other_machine, is_dynamic, other_libc, fixed_address;
};

static struct elf_facts inspect(const char *path)
{
    struct elf_facts facts = {false, false, false, false, false};
    Elf64_Ehdr header;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return facts;
    if (pread(fd, &header, sizeof header, 0) == (ssize_t)sizeof header &&
        memcmp(header.e_ident, ELFMAG, SELFMAG) == 0) {
        facts.is_elf = true;
        facts.fixed_address = header.e_type == ET_EXEC;
        facts.other_machine =
            header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != THIS_MACHINE;
        for (unsigned i = 0; i < header.e_phnum && i < 64 && !facts.other_machine; i++) {
            Elf64_Phdr segment;
            char interpreter[256] = "";
            if (pread(fd, &segment, sizeof segment, (off_t)(header.e_phoff + i * sizeof segment)) !=
                (ssize_t)sizeof segment)
                break;
            if (segment.p_type != PT_INTERP)
                continue;
            facts.is_dynamic = true;
            if (pread(fd, interpreter, sizeof interpreter - 1, (off_t)segment.p_offset) > 0)
                facts.other_libc = strstr(interpreter, "musl") != NULL;
        }
    }
    close(fd);
    return facts;
}

/* "python3.13t" */
static bool looks_free_threaded(const char *path)
{
    char *real = realpath(path, NULL);
    const char *name = base_name(real ? real : path);
    size_t length = strlen(name);
    bool result = strncmp(name, "python3.", 8) == 0 && length > 9 && name[length - 1] == 't';
    free(real);
    return result;
}

bool hk_target_takes_library(const struct hk_target *t)
{
    struct elf_facts facts = inspect(t->path);
    return !facts.other_machine && !facts.other_libc;
}

/* The interpreter on a script's first line ("#!/usr/bin/env python3": as found on PATH); NULL: none. The caller frees. */
static char *interpreter_of(const char *script)
{
    char line[256] = "", *rest = NULL;
    FILE *file = fopen(script, "re");
    if (!file)
        return NULL;
    bool named = fgets(line, sizeof line, file) && strncmp(line, "#!", 2) == 0;
    fclose(file);
    char *word = named ? strtok_r(line + 2, " \t\n", &rest) : NULL;
    if (word && strcmp(base_name(word), "env") == 0)
        word = strtok_r(NULL, " \t\n", &rest);
    if (!word)
        return NULL;
    return strchr(word, '/') ? hk_must_strdup(word) : search_path(word);
}

bool hk_target_lies_low(const struct hk_target *t)
{
    struct elf_facts facts = inspect(t->path);
    if (facts.is_elf)
        return facts.fixed_address;
    char *interpreter = interpreter_of(t->path);
    bool low = interpreter && inspect(interpreter).fixed_address;
    free(interpreter);
    return low;
}

/* ---- is there a Python in it? ---- */

static bool read_at(int fd, void *out, size_t size, uint64_t offset)
{
    return offset <= INT64_MAX && pread(fd, out, size, (off_t)offset) == (ssize_t)size;
}

/* Where the file has what will be at `address`; UINT64_MAX: nowhere. */
static uint64_t offset_of(const Elf64_Phdr *segments, size_t count, uint64_t address)
{
    for (size_t i = 0; i < count; i++)
        if (segments[i].p_type == PT_LOAD && address - segments[i].p_vaddr < segments[i].p_filesz)
            return address - segments[i].p_vaddr + segments[i].p_offset;
    return UINT64_MAX;
}

/* The names that the program shares with its libraries, those of the libraries among them; NULL: none, or no program. The
 * caller frees. */
static char *dynamic_strings(int fd, size_t *size)
{
    Elf64_Ehdr header;
    Elf64_Phdr segments[64];
    uint64_t address = 0, bytes = 0;
    if (!read_at(fd, &header, sizeof header, 0) || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
        header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_phentsize != sizeof *segments)
        return NULL;
    size_t count = header.e_phnum < 64 ? header.e_phnum : 64;
    if (!read_at(fd, segments, count * sizeof *segments, header.e_phoff))
        return NULL;
    for (size_t i = 0; i < count; i++) {
        Elf64_Dyn entry;
        for (uint64_t at = 0; segments[i].p_type == PT_DYNAMIC && at < segments[i].p_filesz; at += sizeof entry) {
            if (!read_at(fd, &entry, sizeof entry, segments[i].p_offset + at))
                return NULL;
            if (entry.d_tag == DT_STRTAB)
                address = entry.d_un.d_ptr;
            if (entry.d_tag == DT_STRSZ)
                bytes = entry.d_un.d_val;
        }
    }
    uint64_t offset = offset_of(segments, count, address);
    if (bytes == 0 || bytes > (64u << 20) || offset == UINT64_MAX)
        return NULL;
    char *strings = hk_must_calloc(bytes, 1);
    *size = bytes;
    if (read_at(fd, strings, bytes, offset))
        return strings;
    free(strings);
    return NULL;
}

static bool file_has_python(const char *path)
{
    size_t size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    char *strings = fd >= 0 ? dynamic_strings(fd, &size) : NULL;
    bool found = strings && (memmem(strings, size, "libpython3", 10) ||
                             memmem(strings, size, "\0PyMem_SetAllocator", 20));
    free(strings);
    if (fd >= 0)
        close(fd);
    return found;
}

bool hk_target_has_python(const struct hk_target *t)
{
    if (t->is_python || file_has_python(t->path))
        return true;
    char *interpreter = interpreter_of(t->path);
    bool found = interpreter && file_has_python(interpreter);
    free(interpreter);
    return found;
}

static const char *doubt_on_file(const char *path)
{
    struct stat st;
    struct elf_facts facts = inspect(path);
    if (stat(path, &st) == 0 && st.st_mode & (S_ISUID | S_ISGID))
        return "it is set-uid or set-gid: the system does not let a library be preloaded, nothing "
               "will be recorded";
    if (facts.is_elf && facts.other_machine)
        return "it is built for another architecture: nothing will be recorded";
    if (facts.is_elf && !facts.is_dynamic)
        return "it is statically linked: no library can be preloaded, nothing will be recorded";
    if (facts.other_libc)
        return "it uses another C library than glibc: nothing will be recorded";
    if (looks_free_threaded(path))
        return "it is a free-threaded Python, which needs its own allocator: it is only observed";
    return NULL;
}

/* ---- what Python is told about its allocators ---- */

struct settings {
    bool ignores_environment; /* -E, -I */
    bool dev, tracemalloc;    /* -X dev, -X tracemalloc */
};

static void read_x_option(struct settings *s, const char *option)
{
    s->dev |= strcmp(option, "dev") == 0;
    s->tracemalloc |= strcmp(option, "tracemalloc") == 0 ||
                      (strncmp(option, "tracemalloc=", 12) == 0 && strcmp(option + 12, "0") != 0);
}

/* One word of options, "-sEX" "dev" or "-Xdev"; `next` is the word behind it, or NULL. Returns the words used; 0: the
 * options end here. */
static int read_option_word(struct settings *s, const char *word, const char *next)
{
    if (word[0] != '-' || word[1] == '\0' || strcmp(word, "--") == 0)
        return 0;
    if (word[1] == '-')
        return 1 + (strcmp(word, "--check-hash-based-pycs") == 0);
    for (const char *letter = word + 1; *letter; letter++) {
        if (*letter == 'c' || *letter == 'm')
            return 0;
        s->ignores_environment |= *letter == 'E' || *letter == 'I';
        if (*letter == 'W' || *letter == 'X') {
            const char *argument = letter[1] ? letter + 1 : next;
            if (*letter == 'X' && argument)
                read_x_option(s, argument);
            return letter[1] ? 1 : 2;
        }
    }
    return 1;
}

/* The options before the script; of another program than Python none are looked at. */
static struct settings read_settings(const struct hk_target *t)
{
    struct settings s = {false, false, false};
    const char *slash = strrchr(t->path, '/'), *name = slash ? slash + 1 : t->path;
    if (strncmp(name, "python", 6) != 0)
        return s;
    for (int i = 1, used; t->argv[i] && (used = read_option_word(&s, t->argv[i], t->argv[i + 1])) > 0;)
        for (; used > 0 && t->argv[i]; used--)
            i++;
    return s;
}

/* What the variable says to a Python that looks at its environment; NULL: nothing. */
static const char *variable(const struct settings *s, const char *name)
{
    const char *value = s->ignores_environment ? NULL : getenv(name);
    return value && *value ? value : NULL;
}

size_t hk_target_doubts(const struct hk_target *t, char **doubts, size_t max)
{
    struct settings settings = read_settings(t);
    const char *allocator = variable(&settings, "PYTHONMALLOC"), *file = doubt_on_file(t->path);
    const char *trace = variable(&settings, "PYTHONTRACEMALLOC");
    size_t count = 0;

    if (file && count < max)
        doubts[count++] = format("%s: %s", t->path, file);
    if (allocator && count < max)
        doubts[count++] = format(
            "PYTHONMALLOC=%s makes Python choose its allocator itself: little will be recorded",
            allocator);
    if ((settings.dev || variable(&settings, "PYTHONDEVMODE")) && count < max)
        doubts[count++] = format(
            "Python's development mode puts its debug allocator in our place: little will be "
            "recorded");
    if ((settings.tracemalloc || (trace && strcmp(trace, "0") != 0)) && count < max)
        doubts[count++] = format("tracemalloc will stand before us: both record, and the program pays for both");
    if (variable(&settings, "PYTHONMALLOCSTATS") && count < max)
        doubts[count++] = format(
            "PYTHONMALLOCSTATS prints what Python's own allocator has, which is not in use: see `heapkeeper report`");
    return count;
}
