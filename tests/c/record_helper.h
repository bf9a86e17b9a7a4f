/* What the recorder's tests share: a made-up program (codes, stacks, a heap's figures), a fresh
 * recorder for each test, and a small reader of capture files that trusts nothing it need not. */
#ifndef HK_TESTS_RECORD_HELPER_H
#define HK_TESTS_RECORD_HELPER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "record/internal.h"

struct fake_code {
    char file[64], name[64];
    int line;
    uint8_t table[200];
    size_t table_size;
    bool trampoline;
};

static struct hk_frame fake_stack[4096]; /* innermost first */
static int fake_depth;
static uint8_t fake_flags;
static struct hk_capture_point fake_heap;
static char helper_directory[64];
static char helper_path[128];

static inline int helper_stack(int domain, struct hk_frame *frames, int max, uint8_t *flags, struct hk_stack_known *known)
{
    int n = fake_depth < max ? fake_depth : max;
    memcpy(frames, fake_stack, (size_t)n * sizeof *frames);
    *flags |= fake_flags | (n < fake_depth ? HK_SITE_CUT : 0);
    return n;
}

/* Of a function "site7": 7; -1: it is another. */
static inline int helper_site_number(const char *function)
{
    int number = -1;
    return sscanf(function, "site%d", &number) == 1 ? number : -1;
}

static inline void helper_identify(const void *code, struct hk_code_identity *out)
{
    const struct fake_code *c = code;
    out->file = (uintptr_t)c->file;
    out->name = (uintptr_t)c->name;
    out->table = c->table;
    out->first_line = c->line;
    out->size = (uint32_t)c->table_size;
}

static inline size_t helper_name(const void *code, int which, char *buffer, size_t capacity)
{
    const struct fake_code *c = code;
    const char *text = which == 0 ? c->file : which == 1 ? c->name : "";
    size_t size = strlen(text) < capacity ? strlen(text) : capacity;
    memcpy(buffer, text, size);
    return size;
}

static inline const uint8_t *helper_line_table(const void *code, size_t *size)
{
    const struct fake_code *c = code;
    *size = c->table_size;
    return c->table;
}

static inline bool helper_is_trampoline(const void *code)
{
    return ((const struct fake_code *)code)->trampoline;
}

static const struct hk_stack_source helper_source = {helper_stack, helper_identify, helper_name,
                                                     helper_line_table, helper_is_trampoline, false};

static inline void helper_fill_point(struct hk_capture_point *point)
{
    *point = fake_heap;
}

static inline struct fake_code helper_code(const char *file, const char *name, int line)
{
    struct fake_code code = {.line = line, .table_size = 20};
    snprintf(code.file, sizeof code.file, "%s", file);
    snprintf(code.name, sizeof code.name, "%s", name);
    for (size_t i = 0; i < sizeof code.table; i++)
        code.table[i] = (uint8_t)(i * 7 + (size_t)line);
    return code;
}

static inline void helper_push(const struct fake_code *code,
                               int32_t offset) /* a call: the new innermost frame */
{
    memmove(fake_stack + 1, fake_stack, (size_t)fake_depth * sizeof *fake_stack);
    fake_stack[0] = (struct hk_frame){code, offset};
    fake_depth++;
}

/* Forgets everything: the recorder is started once a process otherwise. */
static inline void helper_reset(void)
{
    if (hk_rec.map)
        munmap(hk_rec.map, hk_rec.bound);
    memset(&hk_rec, 0, sizeof hk_rec);
    hk_rec_inside = 0;
    fake_depth = 0;
    fake_flags = 0;
    memset(&fake_heap, 0, sizeof fake_heap);
}

static inline void helper_start(enum hk_capture_mode mode, uint64_t sample_bytes, uint64_t bound)
{
    const char *why = NULL;
    struct hk_record_options options = {.mode = mode,
                                        .sample_bytes = sample_bytes,
                                        .path = helper_path,
                                        .path_is_new = true,
                                        .bound = bound,
                                        .fill_point = helper_fill_point};
    helper_reset();
    hk_record_seed(1);
    unlink(helper_path);
    if (!hk_record_start(&options, &why))
        fail_msg("not started: %s", why);
    hk_record_set_source(&helper_source);
}

static inline int helper_setup(void **state)
{
    strcpy(helper_directory, "/tmp/hk-record-XXXXXX");
    if (!mkdtemp(helper_directory))
        return -1;
    snprintf(helper_path, sizeof helper_path, "%s/capture", helper_directory);
    return 0;
}

static inline int helper_teardown(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", helper_directory);
    return system(command) ? -1 : 0;
}

/* A capture that was read. Pointers lead into `data`. */
struct capture {
    uint8_t *data;
    uint64_t size;
    const struct hk_capture_header *header;
    const struct hk_capture_status *status;
    const struct hk_capture_mark *marks;
    const struct hk_capture_point *timeline;
    const struct hk_capture_event *events;
    const struct hk_capture_module *modules;
    const struct hk_capture_code *codes;
    const struct hk_capture_node *nodes;
    const char *strings;
    const struct hk_capture_site *sites;
    const struct hk_capture_collection *collections;
    uint64_t count[HK_SECTION_KINDS];
};

static inline const void *capture_section(struct capture *c, int kind, size_t entry_size)
{
    struct hk_capture_section s = c->header->sections[kind];
    assert_int_equal(s.entry_size, entry_size);
    assert_true(s.count <= s.capacity);
    assert_true(s.offset % 8 == 0 && s.offset >= HK_CAPTURE_STATUS_OFFSET);
    assert_true(s.offset <= c->header->file_size &&
                s.capacity <= (c->header->file_size - s.offset) / s.entry_size);
    assert_true(s.count == 0 || s.offset + s.count * s.entry_size <= c->size);
    c->count[kind] = s.count;
    return c->data + s.offset;
}

/* Checks what holds at any instant, also in the midst of a change. */
static inline struct capture capture_read(const char *path)
{
    struct capture c = {0};
    struct stat st;
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    c.size = (uint64_t)st.st_size;
    assert_true(c.size >= HK_CAPTURE_STATUS_OFFSET + sizeof *c.status);
    c.data = malloc(c.size);
    c.header = (const void *)c.data;
    struct hk_capture_header settled; /* all counts of one instant, and before what they count */
    do {
        assert_int_equal(pread(fd, &settled, sizeof settled, 0), sizeof settled);
        assert_int_equal(pread(fd, c.data, sizeof settled, 0), sizeof settled);
    } while (memcmp(settled.sections, c.header->sections, sizeof settled.sections) != 0);
    for (uint64_t at = sizeof settled; at < c.size;) {
        ssize_t got = pread(fd, c.data + at, c.size - at, (off_t)at);
        assert_true(got > 0);
        at += (uint64_t)got;
    }
    close(fd);
    c.status = (const void *)(c.data + HK_CAPTURE_STATUS_OFFSET);
    assert_memory_equal(c.header->magic, HK_CAPTURE_MAGIC, 8);
    assert_int_equal(c.header->byte_order, HK_CAPTURE_BYTE_ORDER);
    c.marks = capture_section(&c, HK_SECTION_MARKS, sizeof *c.marks);
    c.timeline = capture_section(&c, HK_SECTION_TIMELINE, sizeof *c.timeline);
    c.events = capture_section(&c, HK_SECTION_EVENTS, sizeof *c.events);
    c.modules = capture_section(&c, HK_SECTION_MODULES, sizeof *c.modules);
    c.codes = capture_section(&c, HK_SECTION_CODES, sizeof *c.codes);
    c.nodes = capture_section(&c, HK_SECTION_NODES, sizeof *c.nodes);
    c.strings = capture_section(&c, HK_SECTION_STRINGS, 1);
    c.sites = capture_section(&c, HK_SECTION_SITES, sizeof *c.sites);
    c.collections = capture_section(&c, HK_SECTION_COLLECTIONS, sizeof *c.collections);
    uint64_t strings = c.count[HK_SECTION_STRINGS];
    assert_true(strings > 0 && c.strings[0] == '\0' && c.strings[strings - 1] == '\0');
    for (uint64_t i = 1; i < c.count[HK_SECTION_CODES]; i++) {
        assert_true(c.codes[i].file < strings && c.codes[i].name < strings);
        assert_true((uint64_t)c.codes[i].line_table + c.codes[i].line_table_size < strings);
    }
    for (uint64_t i = 1; i < c.count[HK_SECTION_NODES]; i++) {
        assert_true(c.nodes[i].parent < i);
        assert_true(c.nodes[i].code > 0 && c.nodes[i].code < c.count[HK_SECTION_CODES]);
    }
    for (uint64_t i = 0; i < c.count[HK_SECTION_SITES]; i++) {
        assert_true(c.sites[i].node < c.count[HK_SECTION_NODES]);
        assert_true(c.sites[i].mark < HK_MARKS && c.sites[i].domain < 4);
    }
    return c;
}

static inline void capture_free(struct capture *c)
{
    free(c->data);
}

static inline uint64_t capture_peak(const struct capture *c, const struct hk_capture_site *s)
{
    return s->peak_serial == c->status->peak_serial ? s->peak_bytes : s->live_bytes;
}

/* Sums that are exact when no event is under way. */
static inline void capture_check_sums(const struct capture *c)
{
    uint64_t live = 0, peak = 0, total = 0, domains[4] = {0};
    for (uint64_t i = 0; i < c->count[HK_SECTION_SITES]; i++) {
        live += c->sites[i].live_bytes;
        peak += capture_peak(c, &c->sites[i]);
        total += c->sites[i].total_bytes;
        domains[c->sites[i].domain] += c->sites[i].total_bytes;
    }
    assert_int_equal(live, c->status->recorded_live_bytes);
    assert_int_equal(peak, c->status->peak_bytes);
    assert_int_equal(total, c->status->recorded_total_bytes);
    for (int d = 0; d < 4; d++)
        assert_int_equal(domains[d], c->status->recorded_domain_total_bytes[d]);
}

/* As a reader does it: what is not written yet is filled in, pairs are merged. */
static inline void capture_site_marks(const struct capture *c, const struct hk_capture_site *s,
                                      uint32_t at_mark[HK_MARKS], uint32_t born_in[HK_MARKS])
{
    uint32_t live = (uint32_t)((s->live_bytes + 512) >> 10);
    for (uint32_t i = 0; i < HK_MARKS; i++) {
        at_mark[i] = i <= s->mark ? s->at_mark[i] : live;
        born_in[i] = i <= s->mark ? s->born_in[i] : 0;
    }
    for (uint64_t g = s->mark_generation; g < c->status->marks_generation; g++) {
        for (uint32_t i = 0; i < HK_MARKS / 2; i++) {
            at_mark[i] = at_mark[2 * i + 1];
            born_in[i] = born_in[2 * i] + born_in[2 * i + 1];
        }
        for (uint32_t i = HK_MARKS / 2; i < HK_MARKS; i++) {
            at_mark[i] = live;
            born_in[i] = 0;
        }
    }
}

static inline const struct hk_capture_site *capture_find_site(const struct capture *c,
                                                              const char *name, int domain)
{
    for (uint64_t i = 0; i < c->count[HK_SECTION_SITES]; i++) {
        uint32_t node = c->sites[i].node;
        if (node && c->sites[i].domain == domain &&
            strcmp(c->strings + c->codes[c->nodes[node].code].name, name) == 0)
            return &c->sites[i];
    }
    return NULL;
}

#endif
