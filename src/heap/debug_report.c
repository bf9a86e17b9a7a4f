/* What debug mode says before it ends the process: one block of text on stderr, then abort().
 *
 *      heapkeeper: heap buffer overflow: 3 bytes written behind a block of 40 bytes (object domain)
 *        found when the block was freed, by thread 4711:
 *            release (buffers.so+0x11c9)
 *            close (/srv/app/buffers.py:31)
 *        block 0x7f1e5c0a9b50, allocation number 8113
 *        changed from 0x7f1e5c0a9b78: 41 41 41 fd fd fd fd fd
 *        allocated by thread 4711:
 *            ...
 *        freed by thread 4711:
 *            ...
 *
 * Locks may be held here (the block's shard), so nothing is locked and nothing is allocated; the process is not to be trusted
 * any more, either. A second thread with a finding waits for the end.
 */
#include "heap/debug.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/symbols.h"

bool hk_debug_dying;

static struct {
    char text[32768];
    size_t length;
} report;

static void put(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void put(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(report.text + report.length, sizeof(report.text) - report.length, format, arguments);
    va_end(arguments);
    if (length > 0)
        report.length += (size_t)length;
    if (report.length >= sizeof(report.text))
        report.length = sizeof(report.text) - 1;
}

const char *hk_debug_heap_name(const hk_heap *heap, char *buffer, size_t capacity)
{
    snprintf(buffer, capacity, heap->is_domain ? "%s domain" : "heap \"%s\"", heap->name);
    return buffer;
}

/* True for this library's own functions, which stand innermost in every stack. In a program that has it linked in, they
 * are known by their names. */
static bool is_own(const struct hk_symbol *symbol)
{
    static const char *const own[] = {
        "hk_",         "default_",     "malloc_entering", "malloc_slowly", "malloc_again", "malloc_charged_already", "free_entering",
        "free_block",  "block_begin",  "check_owner",     "check_all",     "look_at",      "report_change",          "is_domain",
        "size_is_good", "buffer_is_good", "file_is_good",
    };
    Dl_info library;
    uintptr_t program = getauxval(AT_PHDR);
    if (dladdr((const void *)(uintptr_t)hk_debug_report, &library) == 0 || library.dli_fbase != symbol->base)
        return false;
    if (program < (uintptr_t)library.dli_fbase || program - (uintptr_t)library.dli_fbase >= 4096)
        return true;
    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
        if (strncmp(symbol->name, own[i], strlen(own[i])) == 0)
            return true;
    return false;
}

static void put_native(const struct hk_symbol *symbol)
{
    const char *slash = symbol->file != NULL ? strrchr(symbol->file, '/') : NULL;
    const char *file = slash != NULL ? slash + 1 : symbol->file;
    if (symbol->name[0] != '\0')
        put("      %s (%s+0x%zx)\n", symbol->name, file, symbol->offset);
    else if (file != NULL)
        put("      %s+0x%zx\n", file, symbol->offset);
    else
        put("      %p\n", symbol->address);
}

/* Of a program with a host, whose stack says more, native frames are shown as far as the host's own code: once it is reached, all
 * that called it is the host again. If nothing else was before it, its innermost frame is. */
static void put_natives(const uint64_t *frames, int count, bool has_host_frames)
{
    bool shown = false, skipping = true;
    struct hk_symbol symbol, host = {.base = NULL};
    if (hk_debug_host != NULL)
        hk_symbol_find(hk_debug_host->code, &host);
    for (int i = 0; i < count && !(frames[i] & HK_DEBUG_HOST_BIT); i++) {
        hk_symbol_find((const char *)(uintptr_t)frames[i] - 1, &symbol);
        if (skipping && is_own(&symbol))
            continue;
        skipping = false;
        bool is_host = host.base != NULL && symbol.base == host.base;
        if (!(is_host && has_host_frames && shown))
            put_native(&symbol);
        if (is_host && has_host_frames)
            break;
        shown = true;
    }
}

static void put_site(uint32_t site)
{
    char text[1024];
    const uint64_t *frames;
    int count = hk_debug_site_frames(site, &frames);
    if (site == HK_DEBUG_TABLE_FULL)
        put("      (table full: too many different stacks)\n");
    else if (count == 0)
        put("      (no stack)\n");
    put_natives(frames, count, count > 0 && (frames[count - 1] & HK_DEBUG_HOST_BIT));
    for (int i = 0; i < count; i++)
        if (frames[i] & HK_DEBUG_HOST_BIT && hk_debug_host->describe(frames[i], text, sizeof(text)) > 0)
            put("      %s\n", text);
}

static void put_bytes(const struct hk_debug_record *record, const void *changed)
{
    const char *end = (const char *)record->block + record->size + hk_debug_rear(record);
    size_t count = (size_t)(end - (const char *)changed);
    put("  changed from %p (block%+td):", changed, (const char *)changed - (const char *)record->block);
    for (size_t i = 0; i < count && i < 32; i++)
        put(" %02x", ((const unsigned char *)changed)[i]);
    put("%s\n", count > 32 ? " ..." : "");
}

static void put_block(const struct hk_debug_finding *finding)
{
    const struct hk_debug_record *record = finding->record;
    char name[96];
    put("  block %p, %" PRIu64 " bytes, %s, allocation number %" PRIu64 "\n", (void *)record->block, (uint64_t)record->size,
        hk_debug_heap_name(record->heap, name, sizeof(name)), (uint64_t)record->serial);
    if (finding->pointer != NULL && (uintptr_t)finding->pointer != record->block)
        put("  the pointer is %p (block%+td)\n", finding->pointer, (const char *)finding->pointer - (const char *)record->block);
    if (finding->changed != NULL)
        put_bytes(record, finding->changed);
    put("  allocated by thread %u:\n", record->allocated_by);
    put_site(record->allocated);
    if (record->state == HK_DEBUG_WAITING || record->state == HK_DEBUG_BURIED) {
        put("  freed by thread %u:\n", record->freed_by);
        put_site(record->freed);
    }
}

static void write_all(void)
{
    for (size_t done = 0; done < report.length;) {
        ssize_t n = write(STDERR_FILENO, report.text + done, report.length - done);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
}

void hk_debug_report(const struct hk_debug_finding *finding)
{
    if (__atomic_exchange_n(&hk_debug_dying, true, __ATOMIC_SEQ_CST))
        for (;;)
            pause();
    uint32_t here = hk_debug_site(finding->record != NULL ? finding->record->heap->domain : HK_DOMAIN_RAW);
    put("heapkeeper: %s\n", finding->what);
    put("  found %s%sby thread %u:\n", finding->found != NULL ? finding->found : "", finding->found != NULL ? ", " : "",
        (unsigned)syscall(SYS_gettid));
    put_site(here);
    if (finding->record != NULL)
        put_block(finding);
    else if (finding->pointer != NULL)
        put("  the pointer is %p\n", finding->pointer);
    write_all();
    abort();
}
