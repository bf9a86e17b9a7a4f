/* Python's part in the stacks of debug mode (heap/debug.h): frames as numbers, and what they say when a report is written.
 *
 * Code objects die, and their addresses are used again, so what a code object says (names, first line, line table) is copied
 * when it is first seen; a code at a known address is the same one if its identity is (frames.h). Lines are worked out
 * only in a report.
 *
 *      frame    bit 63: Python's; bits 32-62: number of the code; bits 0-31: offset of the instruction + 1 (0: not begun)
 *
 * Both tables are reservations of bounded size, used as they fill; when they are full, new frames are left out.
 */
#include "hosts/cpython/internal.h"

#include <stdio.h>
#include <string.h>

#include "heap/debug.h"
#include "read/lines.h"

#define MOST_CODES (1u << 17)
#define MOST_SLOTS (MOST_CODES * 2)
#define MOST_TEXT ((size_t)32 << 20)
#define LONGEST_NAME 4096

struct code {
    const void *address;
    struct hk_code_identity identity;
    uint32_t file, name; /* in the text, NUL terminated */
    uint32_t table, table_size;
};

static struct {
    hk_lock lock;
    struct code *codes; /* from 1 */
    uint32_t *slots;    /* by address: number of a code; 0: free */
    char *text;
    size_t text_used;
    uint32_t count;
    bool is_tested, is_good;
} known;

static bool tables_make(void)
{
    if (known.codes != NULL)
        return known.text != NULL && known.slots != NULL;
    known.codes = hk_os_map(MOST_CODES * sizeof(*known.codes));
    known.slots = hk_os_map(MOST_SLOTS * sizeof(*known.slots));
    known.text = hk_os_map(MOST_TEXT);
    known.text_used = 1;
    return known.codes != NULL && known.text != NULL && known.slots != NULL;
}

static uint32_t put_name(const void *string)
{
    if (string == NULL || known.text_used + LONGEST_NAME > MOST_TEXT)
        return 0;
    uint32_t at = (uint32_t)known.text_used;
    known.text_used += hk_py_copy_string(hk_python.layout, string, known.text + at, LONGEST_NAME) + 1;
    return at;
}

static void put_table(struct code *code, const void *bytes)
{
    size_t size = 0;
    const uint8_t *table = hk_py_bytes(hk_python.layout, bytes, &size);
    if (table == NULL || size > MOST_TEXT - known.text_used)
        return;
    code->table = (uint32_t)known.text_used;
    code->table_size = (uint32_t)size;
    memcpy(known.text + known.text_used, table, size);
    known.text_used += size;
}

/* The number of a code object; 0: not known. The lock is held. */
static uint32_t number_of(const void *address)
{
    struct hk_code_identity identity;
    hk_py_code info;
    if (!hk_py_identify(hk_python.layout, address, &identity))
        return 0;
    uint32_t at = (uint32_t)(((uintptr_t)address >> 4) * 0x9e3779b97f4a7c15u >> 40) & (MOST_SLOTS - 1);
    while (known.slots[at] != 0 && known.codes[known.slots[at]].address != address)
        at = (at + 1) & (MOST_SLOTS - 1);
    if (known.slots[at] != 0 && hk_same_code(&known.codes[known.slots[at]].identity, &identity))
        return known.slots[at];
    if (known.count + 1 >= MOST_CODES || !hk_py_code_info(hk_python.layout, address, &info))
        return 0;
    struct code *code = &known.codes[++known.count];
    *code = (struct code){.address = address, .identity = identity};
    code->file = put_name(info.filename);
    code->name = put_name(info.qualname != NULL ? info.qualname : info.name);
    put_table(code, info.linetable);
    known.slots[at] = known.count;
    return known.count;
}

static void *thread_state(int domain)
{
    bool is_locked = domain != HK_DOMAIN_RAW && !hk_python.layout->raw_may_walk;
    return is_locked ? hk_py_locked_thread_state(hk_python.layout) : hk_py_this_thread_state(hk_python.layout);
}

/* The first stack with frames decides whether the layout is right. */
static bool may_walk(const void *state)
{
    struct hk_frame frame;
    char why[160];
    if (__atomic_load_n(&known.is_tested, __ATOMIC_ACQUIRE))
        return known.is_good;
    bool good = hk_py_self_test(hk_python.layout, state, why, sizeof(why));
    if (good && hk_py_walk(hk_python.layout, state, &frame, 1, NULL) == 0)
        return false;
    known.is_good = good;
    __atomic_store_n(&known.is_tested, true, __ATOMIC_RELEASE);
    return good;
}

static int walk(int domain, uint64_t *out, int max)
{
    struct hk_frame frames[HK_DEBUG_HOST_FRAMES];
    void *state = hk_python.layout != NULL && hk_python.layout->stacks ? thread_state(domain) : NULL;
    if (state == NULL || !may_walk(state))
        return 0;
    int count = hk_py_walk(hk_python.layout, state, frames, max < HK_DEBUG_HOST_FRAMES ? max : HK_DEBUG_HOST_FRAMES, NULL), n = 0;
    hk_lock_take(&known.lock);
    for (int i = 0; i < count && tables_make(); i++) {
        uint64_t number = number_of(frames[i].code);
        if (number != 0)
            out[n++] = HK_DEBUG_HOST_BIT | number << 32 | (uint32_t)(frames[i].offset + 1);
    }
    hk_lock_release(&known.lock);
    return n;
}

static size_t describe(uint64_t frame, char *buffer, size_t capacity)
{
    uint32_t number = (uint32_t)(frame >> 32) & 0x7fffffff;
    if (number == 0 || number > known.count)
        return 0;
    const struct code *code = &known.codes[number];
    int line = hk_line_of(hk_python.layout->minor, (const uint8_t *)known.text + code->table, code->table_size,
                          code->identity.first_line, (int32_t)(uint32_t)frame - 1);
    int length = snprintf(buffer, capacity, "%s (%s:%d)", known.text + code->name, known.text + code->file,
                          line >= 0 ? line : code->identity.first_line);
    for (char *at = buffer; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?'; /* names come from the program, and go to a terminal */
    return length > 0 ? (size_t)length : 0;
}

static void fork_prepare(void)
{
    hk_lock_take_to_fork(&known.lock);
}

static void fork_release(void)
{
    hk_lock_release_forked(&known.lock);
}

void hk_cpython_debug_begin(void)
{
    static struct hk_debug_host host = {walk, describe, fork_prepare, fork_release, NULL};
    host.code = (const void *)(uintptr_t)hk_python.set_allocator;
    __atomic_store_n(&hk_debug_host, &host, __ATOMIC_RELEASE);
}
