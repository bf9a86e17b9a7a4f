/* Facts about the process, from /proc: for the header, its memory, and the native modules in it.
 *
 * Files are read through a small buffer of the recorder, opened and closed at once. A fact that
 * cannot be read (no /proc in a chroot, no descriptors left) stays 0. Build ids are read from
 * the modules' memory by process_vm_readv on ourselves: it answers EFAULT where a load would
 * kill if the module is unloaded just now, and needs none of the loader's locks, so that modules
 * can be read inside an allocation hook.
 */
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "record/internal.h"

static uint64_t read_clock(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t hk_rec_clock(void)
{
    return hk_os_clock_ns();
}

uint64_t hk_rec_coarse_clock(void)
{
    return read_clock(CLOCK_MONOTONIC_COARSE);
}

/* Reads at most capacity - 1 bytes and puts a NUL behind them; returns their number. */
static size_t read_file(const char *path, char *buffer, size_t capacity)
{
    size_t size = 0;
    int fd = hk_rec_open(path, O_RDONLY, 0);

    if (fd >= 0) {
        while (size + 1 < capacity) {
            long got = hk_rec_read(fd, buffer + size, capacity - 1 - size);
            if (got <= 0)
                break;
            size += (size_t)got;
        }
        hk_rec_close(fd);
    }
    buffer[size] = '\0';
    return size;
}

static uint64_t parse_number(const char **at, int base)
{
    uint64_t value = 0;

    for (;; ++*at) {
        char c = **at;
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
        if (digit >= base)
            return value;
        value = value * (uint64_t)base + (uint64_t)digit;
    }
}

static void read_boot_id(uint8_t id[16])
{
    char text[64];
    const char *at = text;

    read_file("/proc/sys/kernel/random/boot_id", text, sizeof text);
    for (int i = 0; i < 16; i++) {
        char pair[3] = {0};
        while (*at == '-')
            at++;
        if (!at[0] || !at[1])
            return;
        memcpy(pair, at, 2);
        at += 2;
        const char *digits = pair;
        id[i] = (uint8_t)parse_number(&digits, 16);
    }
}

/* Field 22 of /proc/self/stat; the second field may hold anything, spaces and parentheses too. */
static uint64_t read_start_ticks(void)
{
    char text[1024];
    const char *at;

    read_file("/proc/self/stat", text, sizeof text);
    at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at)
        return 0;
    at++;
    return parse_number(&at, 10);
}

static uint32_t read_command_line(void)
{
    size_t size = read_file("/proc/self/cmdline", hk_rec.buffer, 8192);

    for (size_t i = 0; i < size; i++)
        if (hk_rec.buffer[i] == '\0')
            hk_rec.buffer[i] = '\x1f';
    return hk_rec_string(hk_rec.buffer, size);
}

void hk_rec_describe_process(void)
{
    struct hk_capture_header *header = hk_rec_header();
    ssize_t size;

    header->pid = (uint32_t)getpid();
    header->parent_pid = (uint32_t)getppid();
    read_boot_id(header->boot_id);
    header->start_realtime_ns = read_clock(CLOCK_REALTIME) - (hk_rec_clock() - hk_rec.start_ns);
    header->start_ticks = read_start_ticks();
    header->command_line = read_command_line();
    size = readlink("/proc/self/exe", hk_rec.buffer, 4096);
    header->executable = hk_rec_string(hk_rec.buffer, size > 0 ? (size_t)size : 0);
    header->working_directory = getcwd(hk_rec.buffer, 4096) ? hk_rec_text(hk_rec.buffer) : 0;
}

/* Resident memory now; its peak (a larger file, so rarely) from the kernel's own count. */
void hk_rec_read_rss(bool peak_too)
{
    char text[2048];
    const char *at;

    if (read_file("/proc/self/statm", text, sizeof text) > 0) {
        at = strchr(text, ' ');
        if (at) {
            at++;
            hk_rec.rss = parse_number(&at, 10) * hk_rec.page;
        }
    }
    if (peak_too && read_file("/proc/self/status", text, sizeof text) > 0 &&
        (at = strstr(text, "VmHWM:"))) {
        at += strlen("VmHWM:");
        while (*at == ' ' || *at == '\t')
            at++;
        uint64_t peak = parse_number(&at, 10) << 10;
        if (peak > hk_rec.peak_rss)
            hk_rec.peak_rss = peak;
    }
    if (hk_rec.rss > hk_rec.peak_rss)
        hk_rec.peak_rss = hk_rec.rss;
}

static bool read_memory(uintptr_t address, void *out, size_t size)
{
    struct iovec here = {out, size}, there = {(void *)address, size};

    return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == (ssize_t)size;
}

static void read_build_id(uintptr_t base, struct hk_capture_module *module)
{
    ElfW(Ehdr) elf;
    ElfW(Phdr) segment;
    uint8_t notes[512];

    if (!read_memory(base, &elf, sizeof elf) || memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 ||
        elf.e_phentsize != sizeof segment)
        return;
    for (unsigned i = 0; i < elf.e_phnum && i < 64; i++) {
        if (!read_memory(base + elf.e_phoff + i * sizeof segment, &segment, sizeof segment))
            return;
        if (segment.p_type != PT_NOTE)
            continue;
        size_t size = segment.p_filesz < sizeof notes ? segment.p_filesz : sizeof notes;
        if (!read_memory(base + segment.p_offset, notes, size))
            continue;
        for (size_t at = 0; at + sizeof(ElfW(Nhdr)) <= size;) {
            ElfW(Nhdr) note;
            memcpy(&note, notes + at, sizeof note);
            size_t text = at + sizeof note + (note.n_namesz + UINT64_C(3)) / 4 * 4;
            size_t next = text + (note.n_descsz + UINT64_C(3)) / 4 * 4;
            if (next > size || next <= at)
                break;
            if (note.n_type == NT_GNU_BUILD_ID && note.n_descsz <= sizeof module->build_id) {
                memcpy(module->build_id, notes + text, note.n_descsz);
                module->build_id_size = note.n_descsz;
                return;
            }
            at = next;
        }
    }
}

static bool known_module(const struct hk_capture_module *module)
{
    const struct hk_rec_section *section = &hk_rec.section[HK_SECTION_MODULES];
    const struct hk_capture_module *modules = (const struct hk_capture_module *)section->data;

    for (uint64_t i = 0; i < section->count; i++)
        if (modules[i].start == module->start && modules[i].end == module->end &&
            modules[i].path == module->path)
            return true;
    return false;
}

struct map_state {
    uintptr_t base; /* where the file that was mapped last begins */
    uint32_t path;
};

/* One line: "start-end rwxp offset major:minor inode   path". */
static void read_map_line(const char *line, struct map_state *state)
{
    struct hk_capture_module module = {0}, *place;
    const char *at = line, *path = strchr(line, '/');

    module.start = parse_number(&at, 16);
    if (*at++ != '-' || !path)
        return;
    module.end = parse_number(&at, 16);
    if (strlen(at) < 6)
        return;
    bool executable = at[3] == 'x';
    at += 6;
    module.offset = parse_number(&at, 16);
    if (module.offset == 0)
        state->base = module.start;
    if (!executable)
        return;
    module.path = hk_rec_text(path);
    if (known_module(&module))
        return;
    if (module.start - state->base == module.offset)
        read_build_id(state->base, &module);
    place = hk_rec_append(HK_SECTION_MODULES, 1);
    if (!place)
        return;
    *place = module;
    hk_rec_publish(HK_SECTION_MODULES, 1);
}

void hk_rec_read_modules(void)
{
    struct map_state state = {0};
    char *buffer = hk_rec.buffer;
    size_t filled = 0;
    int fd = hk_rec_open("/proc/self/maps", O_RDONLY, 0);

    if (fd < 0)
        return;
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
