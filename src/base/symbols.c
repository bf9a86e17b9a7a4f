/* See symbols.h. The file may be any file by now (replaced while the program ran), so whatever is read of it is checked
 * against its length. The object that was read last stays mapped: neighbouring frames are often of the same one. */
#include "base/symbols.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    const void *base;
    const char *data;
    size_t size;
} file;

static bool is_inside(uint64_t offset, uint64_t size)
{
    return offset <= file.size && size <= file.size - offset;
}

static void map_file(const void *base, const char *path)
{
    struct stat status;
    if (file.base == base)
        return;
    if (file.data != NULL)
        munmap((void *)(uintptr_t)file.data, file.size);
    file.base = base;
    file.data = NULL;
    file.size = 0;
    uintptr_t program = getauxval(AT_PHDR);
    bool is_program = program >= (uintptr_t)base && program - (uintptr_t)base < 4096;
    int fd = open(is_program ? "/proc/self/exe" : path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size >= (off_t)sizeof(ElfW(Ehdr))) {
        void *data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data != MAP_FAILED) {
            file.data = data;
            file.size = (size_t)status.st_size;
        }
    }
    close(fd);
}

/* Where the object's addresses begin: 0 for a program at a fixed address. */
static uintptr_t bias_of(const ElfW(Ehdr) *header, const void *base)
{
    if (header->e_type != ET_DYN || !is_inside(header->e_phoff, (uint64_t)header->e_phnum * sizeof(ElfW(Phdr))))
        return 0;
    const ElfW(Phdr) *segments = (const void *)(file.data + header->e_phoff);
    for (int i = 0; i < header->e_phnum; i++)
        if (segments[i].p_type == PT_LOAD)
            return (uintptr_t)base - (segments[i].p_vaddr & ~(uintptr_t)4095);
    return (uintptr_t)base;
}

static bool copy_name(const ElfW(Shdr) *strings, uint32_t at, char *name, size_t capacity)
{
    if (!is_inside(strings->sh_offset, strings->sh_size) || at >= strings->sh_size)
        return false;
    const char *text = file.data + strings->sh_offset + at;
    size_t length = strnlen(text, strings->sh_size - at);
    if (length == 0 || length >= capacity)
        return false;
    memcpy(name, text, length);
    name[length] = '\0';
    return true;
}

static bool find_in(const ElfW(Shdr) *table, const ElfW(Shdr) *strings, uintptr_t address, struct hk_symbol *out)
{
    if (!is_inside(table->sh_offset, table->sh_size))
        return false;
    const ElfW(Sym) *symbols = (const void *)(file.data + table->sh_offset);
    size_t count = table->sh_size / sizeof(*symbols);
    for (size_t i = 0; i < count; i++)
        if ((symbols[i].st_info & 15) == STT_FUNC && symbols[i].st_shndx != SHN_UNDEF && address >= symbols[i].st_value &&
            address - symbols[i].st_value < symbols[i].st_size &&
            copy_name(strings, symbols[i].st_name, out->name, sizeof(out->name)))
            return true;
    return false;
}

static void find_in_file(struct hk_symbol *out)
{
    const ElfW(Ehdr) *header = (const void *)file.data;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_ident[EI_CLASS] != (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32))
        return;
    uintptr_t address = (uintptr_t)out->address - bias_of(header, out->base);
    out->offset = address;
    if (header->e_shentsize != sizeof(ElfW(Shdr)) || header->e_shoff % sizeof(void *) != 0 ||
        !is_inside(header->e_shoff, (uint64_t)header->e_shnum * sizeof(ElfW(Shdr))))
        return;
    const ElfW(Shdr) *sections = (const void *)(file.data + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++)
        if ((sections[i].sh_type == SHT_SYMTAB || sections[i].sh_type == SHT_DYNSYM) && sections[i].sh_link < header->e_shnum &&
            sections[i].sh_offset % sizeof(void *) == 0 && find_in(&sections[i], &sections[sections[i].sh_link], address, out))
            return;
}

void hk_symbol_find(const void *address, struct hk_symbol *out)
{
    Dl_info info;
    memset(out, 0, sizeof(*out));
    out->address = address;
    if (dladdr(address, &info) == 0)
        return;
    out->base = info.dli_fbase;
    out->file = info.dli_fname;
    out->offset = (size_t)((const char *)address - (const char *)info.dli_fbase);
    map_file(info.dli_fbase, info.dli_fname);
    if (file.data != NULL)
        find_in_file(out);
}
