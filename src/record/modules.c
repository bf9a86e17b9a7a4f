/* The map of native modules, and return addresses to (module, offset).
 *
 * The map is /proc/self/maps, read with plain system calls: the loader's own list is behind a lock that a thread may
 * hold while it allocates, so inside an allocation hook it cannot be asked for. What a module says of itself (build id,
 * the addresses it was linked for) is read from its memory with care, as it may be unloaded just now.
 *
 * The map is read at the start, now and then by the timeline, and when an address is in no module that is known: a
 * module was loaded meanwhile, or code is made at run time. Memory without a file becomes an entry without a path, so
 * that it is known from then on. Entries are never taken out of the file, since sites point to them; which of them lie
 * in memory now is kept beside it.
 */
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>

#include "record/exact.h"
#include "record/internal.h"

#define FREE_READS 64u  /* of the map for addresses in no module; beyond, they may take */
#define COST_SHARE 100u /* one part in so many of the time */

static void read_build_id(uintptr_t notes_at, size_t size, struct hk_capture_module *module)
{
    uint8_t notes[512];

    if (size > sizeof notes)
        size = sizeof notes;
    if (module->build_id_size != 0 || !hk_os_read_memory((const void *)notes_at, notes, size))
        return;
    for (size_t at = 0; at + sizeof(ElfW(Nhdr)) <= size;) {
        ElfW(Nhdr) note;
        memcpy(&note, notes + at, sizeof note);
        size_t text = at + sizeof note + (note.n_namesz + UINT64_C(3)) / 4 * 4;
        size_t next = text + (note.n_descsz + UINT64_C(3)) / 4 * 4;
        if (next > size || next <= at)
            return;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_descsz <= sizeof module->build_id) {
            memcpy(module->build_id, notes + text, note.n_descsz);
            module->build_id_size = note.n_descsz;
            return;
        }
        at = next;
    }
}

/* `base`: where the file's first bytes are mapped. Leaves the module as it is where they are not an ELF header. */
static void read_headers(uintptr_t base, struct hk_capture_module *module)
{
    ElfW(Ehdr) elf;
    ElfW(Phdr) segments[64];
    uint64_t low = UINT64_MAX, high = 0;

    if (!hk_os_read_memory((const void *)base, &elf, sizeof elf) || memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 ||
        elf.e_phentsize != sizeof segments[0])
        return;
    unsigned count = elf.e_phnum < 64 ? elf.e_phnum : 64;
    if (!hk_os_read_memory((const void *)(base + elf.e_phoff), segments, count * sizeof segments[0]))
        return;
    for (unsigned i = 0; i < count; i++) {
        if (segments[i].p_type != PT_LOAD)
            continue;
        if (segments[i].p_offset < hk_rec.page && segments[i].p_vaddr < low)
            low = segments[i].p_vaddr & ~((uint64_t)hk_rec.page - 1);
        if (segments[i].p_vaddr + segments[i].p_memsz > high)
            high = segments[i].p_vaddr + segments[i].p_memsz;
    }
    if (low > high)
        return;
    module->base = base;
    module->base_vaddr = low;
    module->image_size = high - low;
    for (unsigned i = 0; i < count; i++)
        if (segments[i].p_type == PT_NOTE)
            read_build_id(base + segments[i].p_vaddr - low, segments[i].p_filesz, module);
}

static struct hk_capture_module *modules(void)
{
    return (struct hk_capture_module *)hk_rec.section[HK_SECTION_MODULES].data;
}

static uint32_t module_count(void)
{
    uint64_t count = hk_rec.section[HK_SECTION_MODULES].count;

    return count < HK_REC_MODULES ? (uint32_t)count : HK_REC_MODULES;
}

/* The entry of the same mapping, if it has one. Memory without a file grows. */
static bool known_module(const struct hk_capture_module *module)
{
    for (uint32_t i = 0; i < module_count(); i++) {
        const struct hk_capture_module *known = &modules()[i];
        if (known->start == module->start && known->end == module->end && known->path == module->path) {
            hk_rec.module_loaded[i] = 1;
            return true;
        }
    }
    return false;
}

struct map_state {
    uintptr_t base; /* where the file that was mapped last begins, */
    uint64_t inode; /* and which it is */
};

static const char *skip_word(const char *at)
{
    while (*at != '\0' && *at != ' ')
        at++;
    while (*at == ' ')
        at++;
    return at;
}

/* One line: "start-end rwxp offset major:minor inode   path". */
static void read_map_line(const char *line, struct map_state *state)
{
    struct hk_capture_module module = {0}, *place;
    const char *at = line, *path;

    module.start = hk_rec_parse_number(&at, 16);
    if (*at++ != '-')
        return;
    module.end = hk_rec_parse_number(&at, 16);
    if (strlen(at) < 6)
        return;
    bool executable = at[3] == 'x';
    at += 6;
    module.offset = hk_rec_parse_number(&at, 16);
    path = skip_word(skip_word(*at == ' ' ? at + 1 : at)); /* over the device and the inode */
    at = *at == ' ' ? skip_word(at + 1) : at;
    uint64_t inode = hk_rec_parse_number(&at, 10);
    if (module.offset == 0 && inode != 0 && inode != state->inode) {
        state->base = module.start;
        state->inode = inode;
    }
    if (!executable || module.start >= module.end || module.start >= (uint64_t)INT64_MAX)
        return; /* the last: vsyscall */
    module.path = *path != '\0' ? hk_rec_text(path) : 0;
    if (known_module(&module))
        return;
    if (inode != 0 && inode == state->inode && module.start >= state->base)
        read_headers(state->base, &module);
    else if (strcmp(path, "[vdso]") == 0)
        read_headers(module.start, &module);
    place = hk_rec_append(HK_SECTION_MODULES, 1);
    if (!place)
        return;
    *place = module;
    hk_rec_publish(HK_SECTION_MODULES, 1);
    if (hk_rec.section[HK_SECTION_MODULES].count <= HK_REC_MODULES)
        hk_rec.module_loaded[hk_rec.section[HK_SECTION_MODULES].count - 1] = 1;
}

void hk_rec_read_modules(void)
{
    struct map_state state = {0};
    char *buffer = hk_rec.buffer;
    size_t filled = 0;

    __atomic_store_n(&hk_rec.modules_changed, 0, __ATOMIC_RELAXED);
    int fd = hk_rec_open("/proc/self/maps", O_RDONLY, 0);
    if (fd < 0)
        return;
    memset(hk_rec.module_loaded, 0, sizeof hk_rec.module_loaded);
    for (;;) {
        long got = hk_rec_read(fd, buffer + filled, sizeof hk_rec.buffer - 1 - filled);
        if (got <= 0)
            break;
        filled += (size_t)got;
        buffer[filled] = '\0';
        char *line = buffer, *end;
        while ((end = strchr(line, '\n')) != NULL) {
            *end = '\0';
            read_map_line(line, &state);
            line = end + 1;
        }
        filled -= (size_t)(line - buffer);
        if (filled == sizeof hk_rec.buffer - 1)
            break; /* a line without an end: not a maps file we know */
        memmove(buffer, line, filled);
    }
    hk_rec_close(fd);
}

void hk_record_modules_changed(void)
{
    __atomic_store_n(&hk_rec.modules_changed, 1, __ATOMIC_RELAXED);
    hk_exact_codes_forget();
}

static uint32_t find_module(uintptr_t address)
{
    uint32_t last = hk_rec.last_module;

    if (last < module_count() && hk_rec.module_loaded[last] && address >= modules()[last].start &&
        address < modules()[last].end)
        return last;
    for (uint32_t i = 0; i < module_count(); i++)
        if (hk_rec.module_loaded[i] && address >= modules()[i].start && address < modules()[i].end)
            return hk_rec.last_module = i;
    return HK_REC_NONE;
}

/* Reading the map takes from 50 microseconds to milliseconds, and where it does not help the next address asks again. */
static bool may_read_again(uint64_t now)
{
    return hk_rec.module_reads < FREE_READS || now - hk_rec.start_ns > hk_rec.modules_read_ns * COST_SHARE;
}

static uint32_t look_up(uintptr_t address)
{
    uint32_t found = HK_REC_NONE;

    if (HK_LIKELY(!__atomic_load_n(&hk_rec.modules_changed, __ATOMIC_RELAXED)))
        found = find_module(address);
    if (HK_LIKELY(found != HK_REC_NONE))
        return found;
    uint64_t before = hk_rec_clock();
    if (may_read_again(before)) {
        hk_rec_read_modules();
        hk_rec.module_reads++;
        hk_rec.modules_read_ns += hk_rec_clock() - before;
    }
    return find_module(address);
}

/* A file with several executable mappings is one code: that of the first. */
static uint32_t first_of_image(uint32_t index)
{
    const struct hk_capture_module *module = &modules()[index];

    for (uint32_t i = 0; module->path != 0 && module->base != 0 && i < index; i++)
        if (modules()[i].path == module->path && modules()[i].base == module->base)
            return i;
    return index;
}

uint32_t hk_rec_native_code(uintptr_t address, int32_t *offset)
{
    struct hk_capture_code code = {.flags = HK_CODE_NATIVE};
    uint32_t index = look_up(address), number;
    int32_t inside = 0;

    if (index != HK_REC_NONE && modules()[index].path != 0) { /* else: made at run time, and its place says nothing */
        const struct hk_capture_module *module = &modules()[index];
        code.file = module->path;
        code.module = first_of_image(index) + 1;
        inside = (int32_t)(uint32_t)(address - (module->base ? module->base : module->start - module->offset));
    }
    number = hk_rec.stage == HK_REC_ON ? hk_rec_code_by_content(&code) : 0;
    if (number != 0) /* else it is an address still, for whoever asks again */
        *offset = inside;
    return number;
}
