/* heapkeeper blocks --json; docs/command.md lists the keys. */
#include <stdlib.h>
#include <string.h>

#include "view/blocks.h"
#include "view/json.h"
#include "view/report.h"

static void put_sums(struct hk_json *j, const struct hk_map_sums *s)
{
    hk_json_unsigned(j, "mapped_bytes", s->mapped_bytes);
    hk_json_unsigned(j, "live_bytes", s->allocated_bytes);
    hk_json_unsigned(j, "free_bytes", s->free_bytes);
    hk_json_unsigned(j, "untouched_bytes", s->untouched_bytes);
    hk_json_unsigned(j, "tail_bytes", s->tail_bytes);
    hk_json_unsigned(j, "empty_bytes", s->empty_bytes);
    hk_json_unsigned(j, "metadata_bytes", s->metadata_bytes);
    hk_json_unsigned(j, "returned_bytes", s->returned_bytes);
    hk_json_unsigned(j, "live_blocks", s->allocated_blocks);
    hk_json_unsigned(j, "free_blocks", s->free_blocks);
    hk_json_unsigned(j, "untouched_blocks", s->untouched_blocks);
    hk_json_unsigned(j, "large_bytes", s->large_bytes);
    hk_json_unsigned(j, "large_blocks", s->large_blocks);
    hk_json_unsigned(j, "own_large_bytes", s->own_large_bytes);
    hk_json_unsigned(j, "own_large_blocks", s->own_large_blocks);
    hk_json_unsigned(j, "arenas", s->arenas);
    hk_json_unsigned(j, "pools_used", s->pools_used);
    hk_json_unsigned(j, "pools_full", s->pools_full);
    hk_json_unsigned(j, "pools_empty", s->pools_empty + s->pools_returned);
}

static void put_class(struct hk_json *j, const struct hk_blocks *b, const struct hk_map_class *c)
{
    hk_json_object(j, NULL, true);
    hk_json_unsigned(j, "block_size", c->block_size);
    hk_json_unsigned(j, "capacity", c->capacity);
    hk_json_unsigned(j, "pools_used", c->pools_used);
    hk_json_unsigned(j, "pools_full", c->pools_full);
    hk_json_unsigned(j, "allocated", c->allocated);
    hk_json_unsigned(j, "free", c->free);
    hk_json_unsigned(j, "untouched", c->untouched);
    hk_json_unsigned(j, "lost_bytes", hk_class_lost(b, c));
    hk_json_end_object(j);
}

static void put_heap(struct hk_json *j, const struct hk_blocks *b, size_t index)
{
    const struct hk_map_heap *heap = &b->map->heaps[index];
    static const char *const domains[] = {"raw", "mem", "object", "native"};
    hk_json_object(j, NULL, false);
    hk_json_string(j, "name", heap->name);
    hk_json_string(j, "domain", heap->domain < 4 ? domains[heap->domain] : "unknown");
    hk_json_unsigned(j, "pool_size", heap->pool_size);
    hk_json_unsigned(j, "arena_pools", heap->arena_pools);
    put_sums(j, &heap->sums);
    hk_json_array(j, "classes", false);
    for (size_t i = 0; i < b->map->class_count; i++)
        if (b->map->classes[i].heap == index)
            put_class(j, b, &b->map->classes[i]);
    hk_json_end_array(j);
    hk_json_end_object(j);
}

static void put_pool(struct hk_json *j, const char *key, const struct hk_map_pool *p, const char *blocks)
{
    hk_json_object(j, key, true);
    hk_json_string(j, "state", hk_pool_state_word(p->state));
    hk_json_unsigned(j, "block_size", p->block_size);
    hk_json_unsigned(j, "capacity", p->capacity);
    hk_json_unsigned(j, "allocated", p->allocated);
    hk_json_unsigned(j, "free", p->touched - p->allocated);
    hk_json_unsigned(j, "untouched", p->capacity - p->touched);
    hk_json_bool(j, "current", p->is_current);
    if (blocks)
        hk_json_string(j, "blocks", blocks);
    hk_json_end_object(j);
}

static void put_arena(struct hk_json *j, const struct hk_blocks *b, size_t index)
{
    const struct hk_map_arena *arena = &b->map->arenas[index];
    hk_json_object(j, NULL, false);
    hk_json_unsigned(j, "arena", index);
    hk_json_string(j, "heap", b->map->heaps[arena->heap].name);
    hk_json_unsigned(j, "start", arena->start);
    hk_json_array(j, "pools", false);
    for (uint32_t i = 0; i < arena->pool_count; i++)
        put_pool(j, NULL, &b->map->pools[arena->first_pool + i], NULL);
    hk_json_end_array(j);
    hk_json_end_object(j);
}

void hk_blocks_json(struct hk_blocks *b, FILE *out)
{
    const struct hk_capture *c = b->capture;
    struct hk_map_sums sums = hk_blocks_sums(b);
    char program[256], version[32], meaning[1100];
    struct hk_json j;

    hk_json_start(&j, out);
    hk_json_object(&j, NULL, false);
    hk_json_string(&j, "format", "heapkeeper-blocks-1");
    hk_json_string(&j, "state", hk_state_word(c->life));
    hk_json_string(&j, "source", b->map->source == HK_MAP_OF_PROCESS ? "process" : "capture");
    hk_json_bool(&j, "final", b->map->is_final);
    hk_json_unsigned(&j, "time_ns", b->map->time_ns);
    hk_json_string(&j, "note", b->note ? b->note : "");
    hk_json_string(&j, "program", hk_capture_program(c, program, sizeof program));
    hk_json_unsigned(&j, "pid", b->map->source == HK_MAP_OF_PROCESS ? (uint64_t)b->map->pid : c->header.pid);
    hk_json_string(&j, "python", hk_python_version(c->header.python_version, version));
    hk_blocks_meaning(b, meaning, sizeof meaning);
    hk_json_string(&j, "meaning", meaning);
    hk_json_object(&j, "total", false);
    put_sums(&j, &sums);
    hk_json_end_object(&j);
    hk_json_array(&j, "heaps", false);
    for (size_t i = 0; i < b->map->heap_count; i++)
        if (hk_blocks_shows(b, i))
            put_heap(&j, b, i);
    hk_json_end_array(&j);
    hk_json_array(&j, "arenas", false);
    for (size_t i = 0; i < b->map->arena_count; i++)
        if (hk_blocks_shows(b, b->map->arenas[i].heap) && (b->arena < 0 || (size_t)b->arena == i))
            put_arena(&j, b, i);
    hk_json_end_array(&j);
    hk_json_unsigned(&j, "arenas_left_out", b->map->arenas_left_out);
    hk_json_unsigned(&j, "dropped_records", b->map->dropped);
    if (b->arena >= 0 && b->pool >= 0) {
        const struct hk_map_arena *arena = &b->map->arenas[b->arena];
        char *blocks = hk_heap_map_blocks(b->map, arena, (uint32_t)b->pool);
        put_pool(&j, "pool", &b->map->pools[arena->first_pool + (size_t)b->pool], blocks);
        free(blocks);
    }
    hk_json_end_object(&j);
    fputc('\n', out);
}
