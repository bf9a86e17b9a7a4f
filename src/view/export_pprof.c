/* pprof's profile.proto, packed with gzip: what `go tool pprof` and others read.
 *
 *      message Profile   1 sample_type  2 sample  4 location  5 function  6 string_table  9 time_nanos  10 duration_nanos
 *                        11 period_type  12 period  13 comment  14 default_sample_type
 *      ValueType         1 type  2 unit
 *      Sample            1 location_id (packed, innermost first)  2 value (packed)
 *      Location          1 id  4 line          Line  1 function_id  2 line
 *      Function          1 id  2 name  4 filename    (with a system_name pprof would take "<module>" for a template's)
 *
 * A location is a frame of the call tree, a function what its frames have in common; strings are there once, number 0 is empty. A
 * message inside another is its field's number, its length, its bytes; numbers are varints. Figures are the names of Go's heap
 * profiles, and those at the peak beside them.
 */
#include <stdlib.h>
#include <string.h>

#include "read/calltree.h"
#include "read/index.h"
#include "view/deflate.h"
#include "view/export.h"
#include "view/text.h"

#define STEPS_MAX   (1u << 24) /* frames of all stacks together; beyond that stacks are cut */
#define STACK_SHORT 8u

struct bytes {
    uint8_t *at;
    size_t size, room;
};

static void put_byte(struct bytes *b, uint8_t byte)
{
    b->at = hk_array_room(b->at, b->size, &b->room, 1);
    b->at[b->size++] = byte;
}

static void put_varint(struct bytes *b, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        put_byte(b, (uint8_t)(value | 0x80));
    put_byte(b, (uint8_t)value);
}

static void put_number(struct bytes *b, unsigned field, uint64_t value)
{
    put_varint(b, field << 3);
    put_varint(b, value);
}

static void put_part(struct bytes *b, unsigned field, const void *data, size_t size)
{
    put_varint(b, field << 3 | 2);
    put_varint(b, size);
    for (size_t i = 0; i < size; i++)
        put_byte(b, ((const uint8_t *)data)[i]);
}

struct pprof {
    struct bytes out, part, inner;
    char **strings;
    size_t string_count, string_room;
    struct hk_index string_index, function_index;
    struct function {
        uint32_t name, file;
    } *functions;
    size_t function_count, function_room;
};

/* Control characters and what is not UTF-8 become question marks. */
static uint32_t string_of(struct pprof *p, const char *raw)
{
    static const struct hk_terminal utf8 = {.utf8 = true};
    char text[4200];
    hk_text_clean(&utf8, text, sizeof text, raw);
    struct hk_probe probe = hk_index_probe(&p->string_index, hk_hash_text(HK_HASH, text));
    while (hk_index_next(&probe))
        if (strcmp(p->strings[probe.number], text) == 0)
            return probe.number;
    hk_index_put(&probe, p->string_count);
    p->strings = hk_array_room(p->strings, p->string_count, &p->string_room, sizeof *p->strings);
    p->strings[p->string_count++] = hk_must_strdup(text);
    return (uint32_t)p->string_count - 1;
}

/* Its id, from 1. */
static uint32_t function_of(struct pprof *p, struct function f)
{
    struct hk_probe probe = hk_index_probe(&p->function_index, (uint64_t)f.name << 32 | f.file);
    while (hk_index_next(&probe))
        if (p->functions[probe.number].name == f.name && p->functions[probe.number].file == f.file)
            return probe.number + 1;
    hk_index_put(&probe, p->function_count);
    p->functions = hk_array_room(p->functions, p->function_count, &p->function_room, sizeof *p->functions);
    p->functions[p->function_count++] = f;
    return (uint32_t)p->function_count;
}

/* Ends the message in p->part: field `field` of the profile. */
static void end_part(struct pprof *p, unsigned field)
{
    put_part(&p->out, field, p->part.at, p->part.size);
    p->part.size = 0;
}

static void end_inner(struct pprof *p, unsigned field)
{
    put_part(&p->part, field, p->inner.at, p->inner.size);
    p->inner.size = 0;
}

static void put_type(struct pprof *p, unsigned field, const char *type, const char *unit)
{
    put_number(&p->part, 1, string_of(p, type));
    put_number(&p->part, 2, string_of(p, unit));
    end_part(p, field);
}

static void put_locations(struct pprof *p, const struct hk_call_tree *tree)
{
    for (size_t i = 1; i < tree->frame_count; i++) {
        const struct hk_source_frame *f = &tree->frames[i];
        const char *name = *f->qualified_name ? f->qualified_name : f->function, *file = *f->file ? f->file : f->module;
        uint32_t id = function_of(p, (struct function){string_of(p, *name ? name : "?"), string_of(p, file ? file : "")});
        put_number(&p->inner, 1, id);
        if (f->line > 0)
            put_number(&p->inner, 2, (uint64_t)f->line);
        put_number(&p->part, 1, i);
        end_inner(p, 4);
        end_part(p, 4);
    }
    for (size_t i = 0; i < p->function_count; i++) {
        put_number(&p->part, 1, i + 1);
        put_number(&p->part, 2, p->functions[i].name);
        put_number(&p->part, 4, p->functions[i].file);
        end_part(p, 5);
    }
}

/* False: it had to cut stacks. */
static bool put_samples(struct pprof *p, const struct hk_call_tree *tree)
{
    size_t steps = 0;
    bool whole = true;
    for (size_t i = 0; i < tree->leaf_count; i++) {
        const struct hk_amounts *a = &tree->leaves[i].amounts;
        const uint64_t values[] = {a->total_blocks, a->total_bytes, a->live_blocks, a->live_bytes, a->peak_blocks, a->peak_bytes};
        uint64_t any = 0;
        for (size_t k = 0; k < 6; k++)
            any |= values[k];
        if (!any)
            continue;
        size_t left = steps < STEPS_MAX ? STEPS_MAX - steps : STACK_SHORT;
        for (uint32_t node = tree->leaves[i].node; node; node = tree->nodes[node].parent, steps++) {
            if (left-- == 0) {
                whole = false;
                break;
            }
            put_varint(&p->inner, tree->nodes[node].frame);
        }
        end_inner(p, 1);
        for (size_t k = 0; k < 6; k++)
            put_varint(&p->inner, values[k] < INT64_MAX ? values[k] : INT64_MAX);
        end_inner(p, 2);
        end_part(p, 2);
    }
    return whole;
}

bool hk_export_pprof(const struct hk_capture *c, const struct hk_sites *sites, enum hk_export_of of, FILE *out)
{
    static const char *const defaults[] = {"inuse_space", "peak_space", "alloc_space"};
    struct hk_call_tree *tree = hk_call_tree_make(sites);
    struct pprof p = {.string_count = 0};
    char program[256];
    size_t packed;
    string_of(&p, "");
    put_type(&p, 1, "alloc_objects", "count");
    put_type(&p, 1, "alloc_space", "bytes");
    put_type(&p, 1, "inuse_objects", "count");
    put_type(&p, 1, "inuse_space", "bytes");
    put_type(&p, 1, "peak_objects", "count");
    put_type(&p, 1, "peak_space", "bytes");
    bool whole = put_samples(&p, tree);
    put_locations(&p, tree);
    put_number(&p.out, 9, c->header.start_realtime_ns & INT64_MAX);
    put_number(&p.out, 10, c->duration_ns & INT64_MAX);
    put_type(&p, 11, "space", "bytes");
    put_number(&p.out, 12, c->header.mode == HK_MODE_SAMPLE ? c->header.sample_bytes & INT64_MAX : 1);
    put_varint(&p.inner, string_of(&p, "heapkeeper " HK_VERSION));
    put_varint(&p.inner, string_of(&p, hk_capture_program(c, program, sizeof program)));
    put_part(&p.out, 13, p.inner.at, p.inner.size);
    put_number(&p.out, 14, string_of(&p, defaults[of]));
    for (size_t i = 0; i < p.string_count; i++) {
        put_part(&p.out, 6, p.strings[i], strlen(p.strings[i]));
        free(p.strings[i]);
    }
    uint8_t *zipped = hk_gzip(p.out.at, p.out.size, &packed);
    fwrite(zipped, 1, packed, out);
    free(zipped);
    free(p.out.at);
    free(p.part.at);
    free(p.inner.at);
    free(p.strings);
    hk_index_free(&p.string_index);
    free(p.functions);
    hk_index_free(&p.function_index);
    hk_call_tree_free(tree);
    return whole;
}
