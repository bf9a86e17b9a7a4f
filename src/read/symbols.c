/* The only file that knows libdw: see symbols.h. It is compiled with libdw's headers but loaded when the first module
 * is asked for, so that the same command runs where there is none. */
#include "read/symbols.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#ifdef HK_HAVE_LIBDW

#include <dwarf.h>
#include <elfutils/libdwfl.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define EACH_FUNCTION(F)                                                                                   \
    F(dwfl_begin)                                                                                          \
    F(dwfl_report_begin)                                                                                   \
    F(dwfl_report_elf)                                                                                     \
    F(dwfl_report_end)                                                                                     \
    F(dwfl_end)                                                                                            \
    F(dwfl_build_id_find_elf)                                                                              \
    F(dwfl_standard_find_debuginfo)                                                                        \
    F(dwfl_offline_section_address)                                                                        \
    F(dwfl_module_getelf)                                                                                  \
    F(dwfl_module_build_id)                                                                                \
    F(dwfl_module_addrname)                                                                                \
    F(dwfl_module_getdwarf)                                                                                \
    F(dwfl_module_getsrc)                                                                                  \
    F(dwfl_module_addrdie)                                                                                 \
    F(dwarf_getscopes)                                                                                     \
    F(dwarf_getscopes_die)                                                                                 \
    F(dwarf_dieoffset)                                                                                     \
    F(dwarf_offdie)                                                                                        \
    F(dwarf_tag)                                                                                           \
    F(dwarf_diename)                                                                                       \
    F(dwarf_attr)                                                                                          \
    F(dwarf_attr_integrate)                                                                                \
    F(dwarf_formudata)                                                                                     \
    F(dwarf_formstring)                                                                                    \
    F(dwarf_getsrcfiles)                                                                                   \
    F(dwarf_filesrc)                                                                                       \
    F(dwfl_lineinfo)                                                                                       \
    F(dwfl_line_comp_dir)

#define DECLARE(name) __typeof__(&(name)) name;
static struct {
    EACH_FUNCTION(DECLARE)
} dw;

static bool load(void)
{
    static bool tried, loaded;
    if (tried)
        return loaded;
    tried = true;
    void *library = dlopen("libdw.so.1", RTLD_NOW), *found = library;
#define FIND(function)                                                                                     \
    if (found && (found = dlsym(library, #function)) != NULL)                                              \
        memcpy(&dw.function, &found, sizeof found);
    EACH_FUNCTION(FIND)
    return loaded = found != NULL;
}

struct hk_symbols {
    Dwfl *session;
    Dwfl_Module *module;
    char **paths; /* put together from a directory and a name */
    size_t path_count, path_room;
};

static char *debug_path; /* NULL: beside the file, .debug/ beside it, /usr/lib/debug */

static Dwfl_Callbacks callbacks;

static int open_regular(const char *path, struct stat *st)
{
    int fd = path[0] == '/' ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
    if (fd >= 0 && (fstat(fd, st) != 0 || !S_ISREG(st->st_mode))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool is_same_file(Dwfl_Module *module, const struct stat *st, const uint8_t *build_id, size_t size,
                         uint64_t started_ns)
{
    const unsigned char *bits;
    GElf_Addr where;
    int length = dw.dwfl_module_build_id(module, &bits, &where);
    if (size)
        return length > 0 && (size_t)length == size && memcmp(bits, build_id, size) == 0;
    return length <= 0 && (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec < started_ns;
}

struct hk_symbols *hk_symbols_open(const char *path, const uint8_t *build_id, size_t size, uint64_t started_ns,
                                   enum hk_symbols_state *state)
{
    struct stat st;
    GElf_Addr bias;
    int fd = open_regular(path, &st);
    *state = fd < 0 ? HK_SYMBOLS_NO_FILE : load() ? HK_SYMBOLS_DAMAGED : HK_SYMBOLS_NOT_BUILT;
    if (fd < 0 || *state == HK_SYMBOLS_NOT_BUILT) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    callbacks = (Dwfl_Callbacks){.find_elf = dw.dwfl_build_id_find_elf,
                                 .find_debuginfo = dw.dwfl_standard_find_debuginfo,
                                 .section_address = dw.dwfl_offline_section_address,
                                 .debuginfo_path = &debug_path};
    unsetenv("DEBUGINFOD_URLS"); /* or libdw asks servers for what it does not find */
    struct hk_symbols *s = calloc(1, sizeof *s);
    s->session = s ? dw.dwfl_begin(&callbacks) : NULL;
    if (s && s->session) {
        dw.dwfl_report_begin(s->session);
        s->module = dw.dwfl_report_elf(s->session, path, path, fd, 0, true); /* takes the descriptor over */
        dw.dwfl_report_end(s->session, NULL, NULL);
    }
    if (!s || !s->module)
        close(fd);
    if (s && s->module && dw.dwfl_module_getelf(s->module, &bias))
        *state = is_same_file(s->module, &st, build_id, size, started_ns) ? HK_SYMBOLS_GOOD : HK_SYMBOLS_ANOTHER_FILE;
    if (*state == HK_SYMBOLS_GOOD)
        return s;
    hk_symbols_close(s);
    return NULL;
}

void hk_symbols_close(struct hk_symbols *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->path_count; i++)
        free(s->paths[i]);
    free(s->paths);
    if (s->session)
        dw.dwfl_end(s->session);
    free(s);
}

/* "/a/build/../b.c" to "/a/b.c", and "/a/./b.c" too; in place. */
static void tidy(char *path)
{
    char *to = path;
    for (const char *at = path; *at;) {
        size_t length = 1 + strcspn(at + 1, "/");
        if (at[0] == '/' && length == 3 && strncmp(at, "/..", 3) == 0 && to > path) {
            while (to > path && *--to != '/')
                ;
        } else if (!(at[0] == '/' && length == 2 && at[1] == '.')) {
            memmove(to, at, length);
            to += length;
        }
        at += length;
    }
    *to = 0;
}

/* Kept until the symbols are closed; the plain name where there is no memory. */
static const char *join(struct hk_symbols *s, const char *directory, const char *name)
{
    char *path = NULL;
    if (s->path_count == s->path_room) {
        size_t room = s->path_room ? s->path_room * 2 : 64;
        char **more = realloc(s->paths, room * sizeof *more);
        if (!more)
            return name;
        s->paths = more;
        s->path_room = room;
    }
    if (asprintf(&path, "%s/%s", directory, name) < 0)
        return name;
    tidy(path);
    s->paths[s->path_count++] = path;
    return path;
}

/* As the linker knows it, so that it can be demangled; else as it is called in the source. */
static const char *name_of(Dwarf_Die *die)
{
    Dwarf_Attribute attribute;
    const char *name = dw.dwarf_formstring(dw.dwarf_attr_integrate(die, DW_AT_linkage_name, &attribute));
    return name ? name : dw.dwarf_diename(die);
}

static int number_of(Dwarf_Die *die, unsigned attribute_name)
{
    Dwarf_Attribute attribute;
    Dwarf_Word value;
    if (dw.dwarf_formudata(dw.dwarf_attr(die, attribute_name, &attribute), &value) != 0 || value > INT32_MAX)
        return 0;
    return (int)value;
}

/* From the innermost scope outwards; the caller frees. The scopes of an address leave the function where inlined code
 * begins: they are asked for again, of the innermost one, as it stands in the tree. */
static int scopes_at(struct hk_symbols *s, Dwarf_Die *unit, Dwarf_Addr address, Dwarf_Die **scopes)
{
    Dwarf_Addr bias;
    Dwarf_Die innermost;
    *scopes = NULL;
    if (dw.dwarf_getscopes(unit, address, scopes) <= 0)
        return 0;
    Dwarf_Off offset = dw.dwarf_dieoffset(&(*scopes)[0]);
    free(*scopes);
    *scopes = NULL;
    if (!dw.dwarf_offdie(dw.dwfl_module_getdwarf(s->module, &bias), offset, &innermost))
        return 0;
    int count = dw.dwarf_getscopes_die(&innermost, scopes);
    return count > 0 ? count : 0;
}

static const char *file_of_call(struct hk_symbols *s, Dwarf_Die *unit, Dwarf_Die *call, const char *directory)
{
    Dwarf_Files *files;
    size_t count;
    int index = number_of(call, DW_AT_call_file);
    if (dw.dwarf_getsrcfiles(unit, &files, &count) != 0 || (size_t)index >= count)
        return NULL;
    const char *name = dw.dwarf_filesrc(files, (size_t)index, NULL, NULL);
    return name && name[0] != '/' && directory ? join(s, directory, name) : name;
}

size_t hk_symbols_find(struct hk_symbols *s, uint64_t address, struct hk_symbol *found, size_t max)
{
    struct hk_symbol here = {NULL, NULL, 0};
    Dwarf_Addr bias;
    size_t count = 0;
    if (!s) {
        found[0] = here;
        return 1;
    }
    dw.dwfl_module_getdwarf(s->module, &bias);
    Dwfl_Line *line = dw.dwfl_module_getsrc(s->module, address);
    const char *directory = line ? dw.dwfl_line_comp_dir(line) : NULL;
    here.file = line ? dw.dwfl_lineinfo(line, NULL, &here.line, NULL, NULL, NULL) : NULL;
    if (here.file && here.file[0] != '/' && directory)
        here.file = join(s, directory, here.file);
    if (here.line < 0)
        here.line = 0;

    Dwarf_Die *unit = dw.dwfl_module_addrdie(s->module, address, &bias), *scopes = NULL;
    int scope_count = unit ? scopes_at(s, unit, address - bias, &scopes) : 0;
    for (int i = 0; i < scope_count && count + 1 < max; i++) {
        if (dw.dwarf_tag(&scopes[i]) != DW_TAG_inlined_subroutine)
            continue;
        here.function = name_of(&scopes[i]);
        found[count++] = here;
        here.file = file_of_call(s, unit, &scopes[i], directory);
        here.line = here.file ? number_of(&scopes[i], DW_AT_call_line) : 0;
    }
    free(scopes);
    here.function = dw.dwfl_module_addrname(s->module, address);
    found[count++] = here;
    return count;
}

#else

struct hk_symbols *hk_symbols_open(const char *path, const uint8_t *build_id, size_t size, uint64_t started_ns,
                                   enum hk_symbols_state *state)
{
    *state = HK_SYMBOLS_NOT_BUILT;
    return NULL;
}

void hk_symbols_close(struct hk_symbols *s)
{
}

size_t hk_symbols_find(struct hk_symbols *s, uint64_t address, struct hk_symbol *found, size_t max)
{
    found[0] = (struct hk_symbol){NULL, NULL, 0};
    return 1;
}

#endif

char *hk_demangle(const char *name)
{
    static char *(*demangle)(const char *, char *, size_t *, int *);
    static bool looked;
    int status = 0;
    if (strncmp(name, "_Z", 2) != 0 || strlen(name) > 2000)
        return NULL;
    if (!looked) {
        void *library = dlopen("libstdc++.so.6", RTLD_LAZY);
        void *found = library ? dlsym(library, "__cxa_demangle") : NULL;
        memcpy(&demangle, &found, sizeof found);
        looked = true;
    }
    char *plain = demangle ? demangle(name, NULL, NULL, &status) : NULL;
    if (status == 0)
        return plain;
    free(plain);
    return NULL;
}
