/* Places are kept by (module, offset), functions by their text. A capture is hostile: there may be a million addresses,
 * and each that is new may cost a look into debug information, so after LOOKUPS_MAX of them only offsets are given. */
#include "read/native.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOKUPS_MAX 100000u
#define DELETED     " (deleted)" /* what the kernel puts behind the path of a file that is gone */

struct module {
    char *path;       /* without DELETED */
    const char *name; /* its last part */
    uint64_t base_vaddr;
    bool has_base, is_system;
    bool tried;
    enum hk_symbols_state state;
    struct hk_symbols *symbols;
};

struct entry {
    uint32_t module, offset;
    struct hk_native_place *place;
};

struct hk_native {
    const struct hk_capture *capture;
    struct module *modules; /* [0]: no module */
    size_t module_count;
    struct entry *entries; /* open addressing */
    size_t room, used;
    struct hk_native_place **functions; /* one place of each, by the hash of their text */
    size_t function_room;
    uint32_t function_count;
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
    for (size_t i = 0; i < n->room; i++)
        free(n->entries[i].place);
    for (size_t i = 0; i < n->text_count; i++)
        free(n->texts[i]);
    free(n->texts);
    free(n->functions);
    free(n->entries);
    free(n->modules);
    free(n);
}

/* Takes `text` over. */
static const char *keep(struct hk_native *n, char *text)
{
    if (n->text_count == n->text_room) {
        n->text_room = n->text_room ? n->text_room * 2 : 64;
        n->texts = hk_must_realloc(n->texts, n->text_room, sizeof *n->texts);
    }
    return n->texts[n->text_count++] = text;
}

/* ---- functions ---- */

static uint64_t hash_text(uint64_t hash, const char *text)
{
    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * 0x100000001b3u;
    return (hash ^ 0xff) * 0x100000001b3u;
}

static size_t function_slot(const struct hk_native *n, const struct hk_native_place *p)
{
    uint64_t hash = hash_text(hash_text(0xcbf29ce484222325u, p->function), p->module);
    size_t at = (hash ^ hash >> 29) & (n->function_room - 1);
    while (n->functions[at] &&
           (strcmp(n->functions[at]->function, p->function) != 0 || strcmp(n->functions[at]->module, p->module) != 0 ||
            strcmp(n->functions[at]->file, p->file) != 0))
        at = (at + 1) & (n->function_room - 1);
    return at;
}

static void number_function(struct hk_native *n, struct hk_native_place *p)
{
    if (n->function_count * 2 >= n->function_room) {
        struct hk_native_place **old = n->functions;
        size_t old_room = n->function_room;
        n->function_room = old_room ? old_room * 2 : 256;
        n->functions = hk_must_calloc(n->function_room, sizeof *n->functions);
        for (size_t i = 0; i < old_room; i++)
            if (old[i])
                n->functions[function_slot(n, old[i])] = old[i];
        free(old);
    }
    size_t at = function_slot(n, p);
    if (n->functions[at]) {
        p->number = n->functions[at]->number;
        return;
    }
    p->number = n->function_count++;
    n->functions[at] = p;
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

static void fill_place(struct hk_native *n, struct hk_native_place *p, uint32_t index, uint32_t offset)
{
    struct module *module = &n->modules[index];
    char text[512];
    *p = (struct hk_native_place){.file = "", .module = module->name, .address = module->base_vaddr + offset};
    if (!module->name[0]) {
        p->function = p->qualified_name = "(code made at run time)";
        return;
    }
    if (!module->tried)
        open_symbols(n, index);
    struct hk_symbol symbol = {NULL, NULL, 0};
    if (module->symbols && n->lookups++ < LOOKUPS_MAX)
        symbol = hk_symbols_find(module->symbols, p->address - 1); /* the call, not what it returns to */
    if (symbol.file && symbol.line) {
        p->file = symbol.file;
        p->line = symbol.line;
    }
    if (symbol.function && *symbol.function) {
        char *plain = hk_demangle(symbol.function);
        p->function = symbol.function;
        p->qualified_name = plain ? keep(n, plain) : symbol.function;
        return;
    }
    snprintf(text, sizeof text, "%s+0x%llx", module->name, (unsigned long long)p->address);
    p->function = p->qualified_name = keep(n, hk_must_strdup(text));
}

static size_t entry_slot(const struct hk_native *n, uint32_t module, uint32_t offset)
{
    uint64_t hash = ((uint64_t)module << 32 | offset) * 0x9e3779b97f4a7c15u;
    size_t at = (hash >> 20) & (n->room - 1);
    while (n->entries[at].place && (n->entries[at].module != module || n->entries[at].offset != offset))
        at = (at + 1) & (n->room - 1);
    return at;
}

const struct hk_native_place *hk_native_place(struct hk_native *n, uint32_t module, uint32_t offset)
{
    if (module >= n->module_count)
        module = 0;
    if (n->used * 2 >= n->room) {
        struct entry *old = n->entries;
        size_t old_room = n->room;
        n->room = old_room ? old_room * 2 : 1024;
        n->entries = hk_must_calloc(n->room, sizeof *n->entries);
        for (size_t i = 0; i < old_room; i++)
            if (old[i].place)
                n->entries[entry_slot(n, old[i].module, old[i].offset)] = old[i];
        free(old);
    }
    struct entry *entry = &n->entries[entry_slot(n, module, offset)];
    if (!entry->place) {
        *entry = (struct entry){module, offset, hk_must_calloc(1, sizeof *entry->place)};
        n->used++;
        fill_place(n, entry->place, module, offset);
        number_function(n, entry->place);
    }
    return entry->place;
}

bool hk_native_is_system(struct hk_native *n, uint32_t module)
{
    return module < n->module_count && n->modules[module].is_system;
}

uint32_t hk_native_function_count(const struct hk_native *n)
{
    return n->function_count;
}

const char *hk_native_problem(const struct hk_native *n, enum hk_symbols_state state, size_t *at)
{
    for (; *at < n->module_count; ++*at)
        if (n->modules[*at].tried && n->modules[*at].state == state)
            return n->modules[(*at)++].path;
    return NULL;
}
