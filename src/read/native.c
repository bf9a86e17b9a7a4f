/* Places are kept by (module, offset), functions by their text. A capture is hostile: there may be a million addresses,
 * and each that is new may cost a look into debug information, so after LOOKUPS_MAX of them only offsets are given. */
#include "read/native.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "read/index.h"

#define LOOKUPS_MAX 100000u
#define DELETED     " (deleted)" /* what the kernel puts behind the path of a file that is gone */

#define INLINED_MAX 16u /* functions that one address may be in */

struct module {
    char *path;       /* without DELETED */
    const char *name; /* its last part */
    uint64_t base_vaddr;
    bool has_base, is_system;
    bool tried;
    enum hk_symbols_state state;
    struct hk_symbols *symbols;
};

struct hk_native {
    const struct hk_capture *capture;
    struct module *modules; /* [0]: no module */
    size_t module_count;
    struct hk_index place_index, function_index;
    struct entry {
        uint32_t module, offset;
        struct hk_native_place *place;
    } *entries;
    size_t entry_count, entry_room;
    struct hk_native_place **functions; /* one place of each */
    size_t function_count, function_room;
    char **texts;
    size_t text_count, text_room;
    uint32_t lookups;
};

static bool is_system_name(const char *name)
{
    static const char *const names[] = {"libc.so", "libc-", "libstdc++.so", "libc++.so", "libgcc_s", "ld-linux", "ld-2", "libm.so", "libpthread", "libdl.so"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strncmp(name, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

/* Functions that allocate for whoever calls them: to name them says nothing. Of C++ and Rust their standard libraries,
 * which become part of every program. */
static bool is_wrapper(const struct hk_native_place *p)
{
    static const char *const names[] = {
        "xmalloc", "xcalloc", "xrealloc", "xzalloc", "xstrdup", "xstrndup", "xmemdup", "xmemdupz", "g_malloc", "g_malloc0",
        "g_malloc_n", "g_malloc0_n", "g_realloc", "g_realloc_n", "g_try_malloc", "g_strdup", "g_strndup", "g_memdup2",
        "g_slice_alloc", "zmalloc", "zcalloc", "zrealloc", "ztrymalloc", "ztrymalloc_usable", "zmalloc_usable", "sqlite3MemMalloc", "sqlite3MemRealloc",
        "mallocWithAlarm", "sqlite3Malloc", "sqlite3MallocZero", "sqlite3Realloc", "sqlite3_malloc", "sqlite3_malloc64", "sqlite3_realloc64",
        "CRYPTO_malloc", "CRYPTO_zalloc", "CRYPTO_realloc", "CRYPTO_strdup", "av_malloc", "av_mallocz", "av_realloc",
    };
    static const char *const beginnings[] = {"std::", "__gnu_cxx::", "alloc::", "<alloc::", "core::", "<core::", "hashbrown::", "operator new", "__rust_", "__rdl_"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(p->function, names[i]) == 0)
            return true;
    for (size_t i = 0; i < sizeof beginnings / sizeof beginnings[0]; i++)
        if (strncmp(p->qualified_name, beginnings[i], strlen(beginnings[i])) == 0)
            return true;
    /* Of a template the result stands before the name: "void std::vector<...>::_M_realloc_insert<...>(...)". */
    return strncmp(p->qualified_name, "void std::", 10) == 0 || strncmp(p->qualified_name, "decltype (", 10) == 0;
}

static void read_modules(struct hk_native *n)
{
    n->module_count = n->capture->tables[HK_SECTION_MODULES].count + 1;
    n->modules = hk_must_calloc(n->module_count, sizeof *n->modules);
    n->modules[0].path = hk_must_strdup("");
    n->modules[0].name = "";
    for (size_t i = 1; i < n->module_count; i++) {
        struct hk_capture_module m;
        struct module *module = &n->modules[i];
        hk_capture_entry(n->capture, HK_SECTION_MODULES, i - 1, &m, sizeof m);
        module->path = hk_must_strdup(hk_capture_string(n->capture, m.path));
        size_t length = strlen(module->path), tail = strlen(DELETED);
        if (length > tail && strcmp(module->path + length - tail, DELETED) == 0)
            module->path[length - tail] = 0;
        const char *slash = strrchr(module->path, '/');
        module->name = slash && slash[1] ? slash + 1 : module->path;
        module->is_system = is_system_name(module->name);
        module->has_base = m.base != 0;
        module->base_vaddr = m.base_vaddr;
    }
}

struct hk_native *hk_native_new(const struct hk_capture *capture)
{
    struct hk_native *n = hk_must_calloc(1, sizeof *n);
    n->capture = capture;
    read_modules(n);
    return n;
}

void hk_native_free(struct hk_native *n)
{
    if (!n)
        return;
    for (size_t i = 0; i < n->module_count; i++) {
        hk_symbols_close(n->modules[i].symbols);
        free(n->modules[i].path);
    }
    for (size_t i = 0; i < n->entry_count; i++)
        free(n->entries[i].place);
    for (size_t i = 0; i < n->text_count; i++)
        free(n->texts[i]);
    free(n->texts);
    hk_index_free(&n->place_index);
    hk_index_free(&n->function_index);
    free(n->functions);
    free(n->entries);
    free(n->modules);
    free(n);
}

static char *copy_of(const char *text, size_t size)
{
    char *copy = hk_must_calloc(size + 1, 1);
    memcpy(copy, text, size);
    return copy;
}

/* Takes `text` over. */
static const char *keep(struct hk_native *n, char *text)
{
    n->texts = hk_array_room(n->texts, n->text_count, &n->text_room, sizeof *n->texts);
    return n->texts[n->text_count++] = text;
}

/* ---- functions ---- */

static bool same_function(const struct hk_native_place *a, const struct hk_native_place *b)
{
    return strcmp(a->function, b->function) == 0 && strcmp(a->module, b->module) == 0 && strcmp(a->file, b->file) == 0;
}

static void number_function(struct hk_native *n, struct hk_native_place *p)
{
    struct hk_probe probe = hk_index_probe(&n->function_index, hk_hash_text(hk_hash_text(HK_HASH, p->function), p->module));
    while (hk_index_next(&probe)) {
        if (same_function(n->functions[probe.number], p)) {
            p->number = probe.number;
            return;
        }
    }
    hk_index_put(&probe, n->function_count);
    n->functions = hk_array_room(n->functions, n->function_count, &n->function_room, sizeof *n->functions);
    p->number = (uint32_t)n->function_count;
    n->functions[n->function_count++] = p;
}

/* ---- places ---- */

static void open_symbols(struct hk_native *n, uint32_t index)
{
    struct module *module = &n->modules[index];
    struct hk_capture_module m;
    module->tried = true;
    module->state = HK_SYMBOLS_GOOD;
    if (n->capture->from_memory || !module->has_base || module->path[0] != '/')
        return; /* nothing to complain about */
    hk_capture_entry(n->capture, HK_SECTION_MODULES, index - 1, &m, sizeof m);
    size_t size = m.build_id_size <= sizeof m.build_id ? m.build_id_size : 0;
    module->symbols = hk_symbols_open(module->path, m.build_id, size, n->capture->header.start_realtime_ns, &module->state);
}

static void name_place(struct hk_native *n, struct hk_native_place *p, const struct hk_symbol *symbol)
{
    char text[512];
    if (symbol->file && symbol->line) {
        p->file = symbol->file;
        p->line = symbol->line;
    }
    if (symbol->function && *symbol->function) {
        const char *version = strchr(symbol->function, '@'); /* "fopen@@GLIBC_2.2.5" */
        p->function = version && version > symbol->function
                          ? keep(n, copy_of(symbol->function, (size_t)(version - symbol->function)))
                          : symbol->function;
        char *plain = hk_demangle(p->function);
        p->qualified_name = plain ? keep(n, plain) : p->function;
    } else {
        snprintf(text, sizeof text, "%s+0x%llx", p->module, (unsigned long long)p->address);
        p->function = p->qualified_name = keep(n, hk_must_strdup(text));
    }
    p->is_wrapper = is_wrapper(p);
}

static void fill_place(struct hk_native *n, struct hk_native_place *p, uint32_t index, uint32_t offset)
{
    struct module *module = &n->modules[index];
    struct hk_symbol symbols[INLINED_MAX] = {{NULL, NULL, 0}};
    size_t count = 1;
    *p = (struct hk_native_place){.file = "", .module = module->name, .address = module->base_vaddr + offset};
    if (!module->name[0]) {
        p->function = p->qualified_name = "(code made at run time)";
        number_function(n, p);
        return;
    }
    if (!module->tried)
        open_symbols(n, index);
    if (module->symbols && n->lookups++ < LOOKUPS_MAX) /* the call, not what it returns to */
        count = hk_symbols_find(module->symbols, p->address - 1, symbols, INLINED_MAX);
    for (size_t i = 0; i < count; i++) {
        struct hk_native_place *outer = NULL;
        name_place(n, p, &symbols[i]);
        if (i + 1 < count) {
            outer = hk_must_calloc(1, sizeof *outer);
            *outer = (struct hk_native_place){.file = "", .module = p->module, .address = p->address};
            p->inlined_in = outer;
            keep(n, (char *)outer); /* freed as the texts are */
        }
        number_function(n, p);
        p = outer;
    }
}

const struct hk_native_place *hk_native_place(struct hk_native *n, uint32_t module, uint32_t offset)
{
    if (module >= n->module_count)
        module = 0;
    struct hk_probe probe = hk_index_probe(&n->place_index, (uint64_t)module << 32 | offset);
    while (hk_index_next(&probe))
        if (n->entries[probe.number].module == module && n->entries[probe.number].offset == offset)
            return n->entries[probe.number].place;
    hk_index_put(&probe, n->entry_count);
    n->entries = hk_array_room(n->entries, n->entry_count, &n->entry_room, sizeof *n->entries);
    struct hk_native_place *place = hk_must_calloc(1, sizeof *place);
    n->entries[n->entry_count++] = (struct entry){module, offset, place};
    fill_place(n, place, module, offset);
    return place;
}

bool hk_native_is_system(struct hk_native *n, uint32_t module)
{
    return module < n->module_count && n->modules[module].is_system;
}

uint32_t hk_native_function_count(const struct hk_native *n)
{
    return (uint32_t)n->function_count;
}

const char *hk_native_problem(const struct hk_native *n, enum hk_symbols_state state, size_t *at)
{
    for (; *at < n->module_count; ++*at)
        if (n->modules[*at].tried && n->modules[*at].state == state)
            return n->modules[(*at)++].path;
    return NULL;
}
