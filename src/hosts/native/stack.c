/* How an allocation hook learns who called malloc.
 *
 *      main                    3  return address in main          <- whole stacks only
 *      load_table              2  return address in load_table    <- whole stacks only
 *      xmalloc                 1  return address in xmalloc       <- always
 *      ------------------------- our own code: malloc, the heap's slow path, the recorder, this file
 *
 * Our own code has frame pointers (meson.build), so the chain is followed from here to the first return address
 * outside our text: no address has to be handed down through the heap.
 *
 * From there on the program decides. Whole stacks are unwound with the tables that compilers write for exceptions
 * (.eh_frame; on by default for every language and not lost by strip), by the compiler's own unwinder, libgcc_s, as
 * glibc's backtrace(3) does. It is loaded and used once at the start, since its first use allocates. It must take no
 * lock here, as the heap's may be held: so it is used only where it finds tables through _dl_find_object (glibc 2.35
 * and GCC 12, both 2022), not when the unwinder itself asks for memory, and no more once a program has registered tables
 * of its own for code that it makes. Where it cannot be used, or finds no way
 * out of the first function (code without tables), frame pointers are followed: every word is read
 * with care, and a return address must follow a call instruction.
 */
#include "hosts/native/stack.h"

#include <dlfcn.h>
#include <link.h>
#include <string.h>
#include <unwind.h>

#include "base/os.h"

#define LARGEST_FRAME (1u << 20) /* bytes; a frame pointer that goes further is none */

struct range {
    uintptr_t start, end;
};

static struct {
    struct range own, unwinder, interpreter; /* addresses of executable code */
    bool whole;
    bool tables_added; /* atomic */
    _Unwind_Reason_Code (*backtrace)(_Unwind_Trace_Fn, void *); /* NULL: may not be used */
    _Unwind_Ptr (*address)(struct _Unwind_Context *, int *);
} native;

bool hk_native_no_unwinder;

static bool is_in(const struct range *range, uintptr_t address)
{
    return address - range->start < range->end - range->start;
}

/* --- frame pointers --- */

struct frame_record { /* what a frame pointer points to, on x86-64 and aarch64 */
    uintptr_t caller, return_address;
};

/* aarch64 may sign return addresses in their upper bits. */
static uintptr_t plain(uintptr_t return_address)
{
#if defined(__aarch64__)
    return return_address & ((UINT64_C(1) << 48) - 1);
#else
    return return_address;
#endif
}

static bool is_next_frame(uintptr_t frame, uintptr_t next)
{
    return next > frame && next - frame < LARGEST_FRAME && next % sizeof(uintptr_t) == 0;
}

static bool follows_a_call(uintptr_t address)
{
    if (address < 4096)
        return false;
#if defined(__x86_64__)
    uint8_t before[7]; /* call rel32; call through a register or memory: ff /2, 2 to 7 bytes long with prefix */
    if (!hk_os_read_memory((const void *)(address - sizeof(before)), before, sizeof(before)))
        return false;
    if (before[2] == 0xe8)
        return true;
    for (int i = 0; i <= 5; i++)
        if (before[i] == 0xff && (before[i + 1] & 0x38) == 0x10)
            return true;
    return false;
#else
    uint32_t before; /* bl, blr */
    return hk_os_read_memory((const void *)(address - 4), &before, 4) && (before >> 26 == 0x25 || (before & 0xfffffc1f) == 0xd63f0000);
#endif
}

/* Leaves our own code. The caller's frame pointer is what its callers are found by, if it has one. */
static uintptr_t caller_from_outside(uintptr_t frame, uintptr_t *outside_frame)
{
    for (int i = 0; i < 64; i++) {
        struct frame_record record = *(struct frame_record *)frame;
        record.return_address = plain(record.return_address);
        if (!is_in(&native.own, record.return_address)) {
            *outside_frame = is_next_frame(frame, record.caller) ? record.caller : 0;
            return record.return_address;
        }
        if (!is_next_frame(frame, record.caller))
            return 0;
        frame = record.caller;
    }
    return 0;
}

struct walk {
    struct hk_frame *frames;
    int count, max;
    bool outside; /* of our own code */
    bool above_python, more;
};

/* False: the stack ends here. */
static bool add(struct walk *walk, uintptr_t return_address)
{
    if (walk->above_python && walk->count > 0 && is_in(&native.interpreter, return_address))
        return false;
    if (walk->count == walk->max) {
        walk->more = true;
        return false;
    }
    walk->frames[walk->count++] = (struct hk_frame){(const void *)return_address, HK_FRAME_NATIVE};
    return true;
}

static void walk_frame_pointers(struct walk *walk, uintptr_t frame)
{
    struct frame_record record;
    while (frame != 0 && hk_os_read_memory((const void *)frame, &record, sizeof(record)) && follows_a_call(plain(record.return_address)) &&
           add(walk, plain(record.return_address)))
        frame = is_next_frame(frame, record.caller) ? record.caller : 0;
}

/* --- unwinding --- */

void hk_native_tables_added(void)
{
    __atomic_store_n(&native.tables_added, true, __ATOMIC_RELAXED);
}

static _Unwind_Reason_Code unwound(struct _Unwind_Context *context, void *data)
{
    struct walk *walk = data;
    int is_exact = 0; /* 1: interrupted by a signal just there */
    uintptr_t address = native.address(context, &is_exact);
    if (address == 0)
        return _URC_END_OF_STACK;
    if (!walk->outside && is_in(&native.own, address))
        return _URC_NO_REASON;
    walk->outside = true;
    return add(walk, address + (is_exact ? 1 : 0)) ? _URC_NO_REASON : _URC_END_OF_STACK;
}

int hk_native_stack(bool above_python, struct hk_frame *frames, int max, uint8_t *flags)
{
    uintptr_t frame = 0, caller;
    struct walk walk = {.frames = frames, .max = max < HK_NATIVE_FRAMES ? max : HK_NATIVE_FRAMES,
                        .above_python = above_python};
    if (native.own.end == 0)
        return 0;
    caller = caller_from_outside((uintptr_t)__builtin_frame_address(0), &frame);
    if (native.whole && native.backtrace != NULL && !is_in(&native.unwinder, caller) &&
        !__atomic_load_n(&native.tables_added, __ATOMIC_RELAXED))
        native.backtrace(unwound, &walk);
    if (walk.count < 2 && caller != 0) {
        walk.count = 0;
        if (add(&walk, caller) && native.whole)
            walk_frame_pointers(&walk, frame);
    }
    if (walk.more)
        *flags |= HK_SITE_CUT;
    return walk.count;
}

bool hk_native_is_whole(void)
{
    return native.whole;
}

/* --- at the start --- */

struct search {
    uintptr_t address;
    struct range range;       /* the executable part of the module that has it */
    const char *strings;      /* names in its dynamic symbol table */
    size_t string_bytes;
};

static void find_strings(struct search *search, const struct dl_phdr_info *info, const ElfW(Phdr) *segment)
{
    const ElfW(Dyn) *entry = (const ElfW(Dyn) *)(info->dlpi_addr + segment->p_vaddr);
    for (; entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_STRTAB)
            search->strings = (const char *)entry->d_un.d_ptr;
        if (entry->d_tag == DT_STRSZ)
            search->string_bytes = entry->d_un.d_val;
    }
}

static int look_at_module(struct dl_phdr_info *info, size_t size, void *data)
{
    struct search *search = data;
    struct range code = {UINTPTR_MAX, 0};
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + segment->p_vaddr, end = start + segment->p_memsz;
        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X))
            continue;
        code.start = start < code.start ? start : code.start;
        code.end = end > code.end ? end : code.end;
    }
    if (code.end == 0 || !is_in(&code, search->address))
        return 0;
    search->range = code;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
            find_strings(search, info, &info->dlpi_phdr[i]);
    return 1;
}

static struct search find_module(const void *address)
{
    struct search search = {.address = (uintptr_t)address};
    dl_iterate_phdr(look_at_module, &search);
    return search;
}

static _Unwind_Reason_Code ignore(struct _Unwind_Context *context, void *data)
{
    int is_exact;
    native.address(context, &is_exact);
    return _URC_NO_REASON;
}

static const char *load_unwinder(void)
{
    static const char name[] = "_dl_find_object";
    void *library = hk_native_no_unwinder ? NULL : dlopen("libgcc_s.so.1", RTLD_NOW); /* for ever */
    void *backtrace = library != NULL ? dlsym(library, "_Unwind_Backtrace") : NULL;
    void *address = library != NULL ? dlsym(library, "_Unwind_GetIPInfo") : NULL;
    if (backtrace == NULL || address == NULL)
        return "libgcc_s.so.1, the compiler's unwinder, is not on this system: stacks of machine code are followed by "
               "frame pointers, where the program has them";
    struct search search = find_module(backtrace);
    if (dlsym(RTLD_DEFAULT, name) == NULL || search.strings == NULL ||
        memmem(search.strings, search.string_bytes, name, sizeof(name)) == NULL)
        return "this system's unwinder is from before GCC 12 or glibc 2.35 and takes a lock: stacks of machine code "
               "are followed by frame pointers, where the program has them";
    native.unwinder = search.range;
    memcpy(&native.address, &address, sizeof(address));
    memcpy(&native.backtrace, &backtrace, sizeof(backtrace));
    native.backtrace(ignore, NULL); /* its first use may allocate */
    return NULL;
}

const char *hk_native_init(bool whole, const void *interpreter)
{
    const char *why = whole ? load_unwinder() : NULL;
    native.whole = whole;
    if (interpreter != NULL)
        native.interpreter = find_module(interpreter).range;
    native.own = find_module((const void *)hk_native_init).range;
    return why;
}
