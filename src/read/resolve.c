/* One pass over the codes and one over the nodes at the start; lines on demand.
 *
 * A node's parent has a lower index, so one pass in order knows for each node its nearest caller
 * that is to be shown, and a walk upwards always ends. A line is found by running through the
 * code's line table, once for each place (code, offset): hundreds of thousands of nodes are some thousand places. A hostile
 * capture could point a million nodes at a table of megabytes, so the
 * bytes run through are limited; after that only first lines are known. Frames of machine code are
 * looked up by native.c.
 */
#include "read/resolve.h"

#include <stdlib.h>
#include <string.h>

#include "read/index.h"
#include "read/lines.h"
#include "read/native.h"

#define LINE_WORK_MAX ((uint64_t)1 << 30) /* bytes of line tables; a second or two */
#define WRAPPERS_MAX  24                  /* frames that are looked at for one that is no wrapper */

struct code {
    const char *file, *name, *qualified_name;
    uint32_t function;
    uint32_t module, prologue; /* as struct hk_capture_code has them; 0 if they are not its */
    bool hidden, native;
};

/* Lines by place: open addressing, at most half full. */
struct places {
    struct hk_index index;
    struct place {
        uint64_t key; /* code and offset */
        int32_t line;
    } *at;
    size_t count, room;
};

struct hk_resolver {
    const struct hk_capture *capture;
    struct code *codes;
    size_t code_count;
    uint32_t *shown;   /* per node: itself or its nearest shown caller */
    uint32_t *parents; /* per node */
    uint32_t *node_codes;
    uint32_t *python; /* per node: itself or its nearest caller that is a Python frame to be shown */
    uint32_t *native; /* per node of machine code: itself, or from a system library its caller outside of these */
    struct hk_native *machine;
    struct places places;
    size_t node_count;
    size_t function_count;
    uint64_t line_work;
    int minor;
};

static bool same_function(const struct code *a, const struct code *b)
{
    return strcmp(a->name, b->name) == 0 && strcmp(a->file, b->file) == 0 &&
           strcmp(a->qualified_name, b->qualified_name) == 0;
}

/* Gives equal functions equal numbers, from 1. */
static void number_functions(struct hk_resolver *r)
{
    struct hk_index index = {.size = 0};
    r->function_count = 1;
    for (size_t i = 1; i < r->code_count; i++) {
        struct code *code = &r->codes[i];
        struct hk_probe probe = hk_index_probe(&index, hk_hash_text(hk_hash_text(HK_HASH, code->name), code->file));
        while (!code->function && hk_index_next(&probe))
            if (same_function(&r->codes[probe.number], code))
                code->function = r->codes[probe.number].function;
        if (!code->function) {
            code->function = (uint32_t)r->function_count++;
            hk_index_put(&probe, i);
        }
    }
    hk_index_free(&index);
}

static void read_codes(struct hk_resolver *r)
{
    const struct hk_capture *c = r->capture;
    r->code_count = c->tables[HK_SECTION_CODES].count;
    r->codes = hk_must_calloc(r->code_count, sizeof *r->codes);
    for (size_t i = 1; i < r->code_count; i++) {
        struct hk_capture_code entry;
        struct code *code = &r->codes[i];
        hk_capture_entry(c, HK_SECTION_CODES, i, &entry, sizeof entry);
        code->file = hk_capture_string(c, entry.file);
        code->name = hk_capture_string(c, entry.name);
        code->qualified_name = hk_capture_string(c, entry.qualified_name);
        code->native = entry.flags & HK_CODE_NATIVE;
        code->module = code->native ? entry.module : 0;
        code->prologue = code->native ? 0 : entry.prologue;
        if (!*code->name)
            code->name = "(name unknown)";
        if (!*code->qualified_name)
            code->qualified_name = code->name;
        /* The interpreter's own shim for calling __init__ has that for a file, and no lines. Where the walk was found to
         * be wrong, what it saw before is too. */
        code->hidden = (entry.flags & HK_CODE_TRAMPOLINE) || (c->header.stacks == HK_STACKS_OFF && !code->native) ||
                       (!code->native && entry.line_table_size == 0 && strcmp(code->name, "__init__") == 0 &&
                        strcmp(code->file, "__init__") == 0);
    }
}

/* Callers have lower numbers: what is known of them serves here. */
static void find_owners(struct hk_resolver *r, uint32_t node)
{
    const struct code *code = &r->codes[r->node_codes[node]];
    uint32_t caller = r->shown[r->parents[node]], owner = r->native[caller];

    if (r->shown[node] != node) {
        r->python[node] = r->python[r->parents[node]];
        return;
    }
    r->python[node] = code->native ? r->python[caller] : node;
    if (!code->native)
        return;
    bool caller_is_better = hk_native_is_system(r->machine, code->module) && owner &&
                            !hk_native_is_system(r->machine, r->codes[r->node_codes[owner]].module);
    r->native[node] = caller_is_better ? owner : node;
}

static void read_nodes(struct hk_resolver *r)
{
    r->node_count = r->capture->tables[HK_SECTION_NODES].count;
    r->shown = hk_must_calloc(r->node_count, sizeof *r->shown);
    r->parents = hk_must_calloc(r->node_count, sizeof *r->parents);
    r->node_codes = hk_must_calloc(r->node_count, sizeof *r->node_codes);
    r->python = hk_must_calloc(r->node_count, sizeof *r->python);
    r->native = hk_must_calloc(r->node_count, sizeof *r->native);
    for (size_t i = 1; i < r->node_count; i++) {
        struct hk_capture_node node;
        hk_capture_entry(r->capture, HK_SECTION_NODES, i, &node, sizeof node);
        uint32_t parent = node.parent < i ? node.parent : 0;
        const struct code *code = &r->codes[node.code < r->code_count ? node.code : 0]; /* 0: none */
        bool is_shown = code != r->codes && !code->hidden && !hk_has_not_begun(code->prologue, node.offset);
        r->parents[i] = parent;
        r->node_codes[i] = (uint32_t)(code - r->codes);
        r->shown[i] = is_shown ? (uint32_t)i : r->shown[parent];
        find_owners(r, (uint32_t)i);
    }
}

struct hk_resolver *hk_resolver_new(const struct hk_capture *capture)
{
    struct hk_resolver *r = hk_must_calloc(1, sizeof *r);
    r->capture = capture;
    r->minor = (int)(capture->header.python_version >> 16 & 0xff);
    r->machine = hk_native_new(capture);
    read_codes(r);
    number_functions(r);
    read_nodes(r);
    return r;
}

void hk_resolver_free(struct hk_resolver *r)
{
    if (!r)
        return;
    free(r->codes);
    free(r->shown);
    free(r->parents);
    free(r->node_codes);
    free(r->python);
    free(r->native);
    hk_index_free(&r->places.index);
    free(r->places.at);
    hk_native_free(r->machine);
    free(r);
}

uint32_t hk_resolver_shown(const struct hk_resolver *r, uint32_t node)
{
    return node < r->node_count ? r->shown[node] : 0;
}

uint32_t hk_resolver_parent(const struct hk_resolver *r, uint32_t node)
{
    return node < r->node_count ? hk_resolver_shown(r, r->parents[node]) : 0;
}

const char *hk_resolver_problem(const struct hk_resolver *r, enum hk_symbols_state state, size_t *at)
{
    return hk_native_problem(r->machine, state, at);
}

/* NULL for a Python frame. */
static const struct hk_native_place *place_of(struct hk_resolver *r, uint32_t node)
{
    const struct code *code = &r->codes[r->node_codes[node]];
    struct hk_capture_node entry;
    if (!code->native)
        return NULL;
    hk_capture_entry(r->capture, HK_SECTION_NODES, node, &entry, sizeof entry);
    return hk_native_place(r->machine, code->module, (uint32_t)entry.offset);
}

size_t hk_resolver_function_count(const struct hk_resolver *r)
{
    return r->function_count + hk_native_function_count(r->machine);
}

static int32_t find_line(struct hk_resolver *r, uint32_t number, int32_t offset)
{
    struct hk_capture_code code;
    hk_capture_entry(r->capture, HK_SECTION_CODES, number, &code, sizeof code);

    int first = code.first_line > 0 ? code.first_line : 0;
    if (code.flags & HK_CODE_LINES)
        return offset > 0 && offset < INT32_MAX - first ? first + offset : first;
    const uint8_t *table = hk_capture_blob(r->capture, code.line_table, code.line_table_size);
    if (!table || offset < 0 || r->line_work > LINE_WORK_MAX)
        return first;
    r->line_work += code.line_table_size;
    int line = hk_line_of(r->minor, table, code.line_table_size, code.first_line, offset);
    return line > 0 ? line : first;
}

static int32_t line_at(struct hk_resolver *r, uint32_t node)
{
    struct hk_capture_node entry;
    hk_capture_entry(r->capture, HK_SECTION_NODES, node, &entry, sizeof entry);
    uint64_t key = (uint64_t)r->node_codes[node] << 32 | (uint32_t)entry.offset;
    struct places *p = &r->places;
    struct hk_probe probe = hk_index_probe(&p->index, key);
    while (hk_index_next(&probe))
        if (p->at[probe.number].key == key)
            return p->at[probe.number].line;
    hk_index_put(&probe, p->count);
    p->at = hk_array_room(p->at, p->count, &p->room, sizeof *p->at);
    p->at[p->count] = (struct place){key, find_line(r, r->node_codes[node], entry.offset)};
    return p->at[p->count++].line;
}

static struct hk_source_frame frame_of_place(const struct hk_native_place *place)
{
    return (struct hk_source_frame){place->function, place->qualified_name, place->file, place->line,
                                    place->module,   place->address,        NULL,
                                    false};
}

size_t hk_resolver_frames(struct hk_resolver *r, uint32_t node, struct hk_source_frame *frames, size_t max)
{
    if (node == 0 || node >= r->node_count || r->node_codes[node] == 0 || max == 0)
        return 0;
    const struct code *code = &r->codes[r->node_codes[node]];
    const struct hk_native_place *place = place_of(r, node);
    if (place) {
        size_t count = 0;
        for (; place && count < max; place = place->inlined_in)
            frames[count++] = frame_of_place(place);
        return count;
    }
    frames[0] = (struct hk_source_frame){code->name, code->qualified_name, code->file, line_at(r, node), NULL, 0, NULL, false};
    return 1;
}

/* Looks at a few frames: a stack of nothing but wrappers is named by its innermost. */
static const struct hk_native_place *named_place(struct hk_resolver *r, uint32_t node)
{
    uint32_t owner = node < r->node_count ? r->native[node] : 0, at = owner;
    for (int i = 0; i < WRAPPERS_MAX && at; i++, at = hk_resolver_parent(r, at)) {
        const struct hk_native_place *place = place_of(r, at);
        if (!place)
            break; /* a Python frame */
        for (; place; place = place->inlined_in)
            if (!place->is_wrapper)
                return place;
    }
    return owner ? place_of(r, owner) : NULL;
}

bool hk_resolver_native(struct hk_resolver *r, uint32_t node, struct hk_source_frame *frame)
{
    const struct hk_native_place *place = named_place(r, node);
    if (place)
        *frame = frame_of_place(place);
    return place != NULL;
}

bool hk_resolver_named(struct hk_resolver *r, uint32_t node, struct hk_source_frame *frame, uint32_t *function)
{
    uint32_t python = node < r->node_count ? r->python[node] : 0;
    const struct hk_native_place *place = python ? NULL : named_place(r, node);
    *function = 0;
    if (place) {
        *frame = frame_of_place(place);
        *function = (uint32_t)r->function_count + place->number;
        return true;
    }
    if (!hk_resolver_frames(r, python, frame, 1))
        return false;
    *function = r->codes[r->node_codes[python]].function;
    return true;
}
