/* The trace-event format of Chrome's and Perfetto's trace viewers, as JSON: counters of the process over time, collections of cycles
 * as slices, moments that the program named as instants, and each stack as a sample at the end of the trace, which weighs its bytes
 * and hangs on the tree of "stackFrames". Times are microseconds.
 */
#include <stdlib.h>

#include "read/calltree.h"
#include "view/export.h"
#include "view/json.h"
#include "view/report.h"

static void put_event(struct hk_json *j, const char *phase, const char *name, const struct hk_capture *c, uint64_t time_ns)
{
    hk_json_object(j, NULL, true);
    hk_json_string(j, "ph", phase);
    hk_json_string(j, "name", name);
    hk_json_unsigned(j, "pid", c->header.pid);
    hk_json_unsigned(j, "tid", c->header.pid);
    hk_json_unsigned(j, "ts", time_ns / 1000);
}

static void put_process(struct hk_json *j, const struct hk_capture *c)
{
    char program[256];
    put_event(j, "M", "process_name", c, 0);
    hk_json_object(j, "args", true);
    hk_json_string(j, "name", hk_capture_program(c, program, sizeof program));
    hk_json_end_object(j);
    hk_json_end_object(j);
}

static void put_counters(struct hk_json *j, const struct hk_capture *c)
{
    for (size_t i = 0; i < c->point_count; i++) {
        const struct hk_capture_point *p = &c->points[i];
        put_event(j, "C", "memory", c, p->time_ns);
        hk_json_object(j, "args", true);
        hk_json_unsigned(j, "live", hk_point_live(p));
        hk_json_unsigned(j, "mapped", p->mapped_bytes + p->large_bytes);
        hk_json_end_object(j);
        hk_json_end_object(j);
        if (p->rss_bytes) {
            put_event(j, "C", "resident", c, p->time_ns);
            hk_json_object(j, "args", true);
            hk_json_unsigned(j, "rss", p->rss_bytes);
            hk_json_end_object(j);
            hk_json_end_object(j);
        }
        if (p->name) {
            put_event(j, "i", hk_capture_string(c, p->name), c, p->time_ns);
            hk_json_string(j, "s", "p");
            hk_json_end_object(j);
        }
    }
}

static void put_collections(struct hk_json *j, const struct hk_capture *c)
{
    for (size_t i = 0; i < c->collection_count; i++) {
        const struct hk_capture_collection *e = &c->collections[i];
        uint64_t end = e->longest_at_ns, start = end > e->longest_ns ? end - e->longest_ns : 0;
        put_event(j, "X", "collection", c, start);
        hk_json_number(j, "dur", (double)(end - start) / 1000);
        hk_json_object(j, "args", true);
        hk_json_unsigned(j, "generation", e->generation);
        hk_json_unsigned(j, "count", e->count);
        hk_json_unsigned(j, "freed", e->freed);
        hk_json_end_object(j);
        hk_json_end_object(j);
    }
}

static uint64_t weight(const struct hk_tree_leaf *leaf, enum hk_export_of of)
{
    const struct hk_amounts *a = &leaf->amounts;
    return of == HK_EXPORT_LIVE ? a->live_bytes : of == HK_EXPORT_PEAK ? a->peak_bytes : a->total_bytes;
}

static void put_samples(struct hk_json *j, const struct hk_capture *c, const struct hk_call_tree *tree, enum hk_export_of of)
{
    hk_json_array(j, "samples", false);
    for (size_t i = 0; i < tree->leaf_count; i++) {
        uint64_t bytes = weight(&tree->leaves[i], of);
        if (!bytes)
            continue;
        hk_json_object(j, NULL, true);
        hk_json_string(j, "name", hk_export_of_word(of));
        hk_json_unsigned(j, "cpu", 0);
        hk_json_unsigned(j, "pid", c->header.pid);
        hk_json_unsigned(j, "tid", c->header.pid);
        hk_json_unsigned(j, "ts", c->now.time_ns / 1000);
        hk_json_unsigned(j, "sf", tree->leaves[i].node);
        hk_json_unsigned(j, "weight", bytes);
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
}

/* Those on the way to a sample. */
static void put_frames(struct hk_json *j, const struct hk_call_tree *tree, enum hk_export_of of)
{
    bool *needed = hk_must_calloc(tree->node_count, sizeof *needed);
    char id[24], name[1200];
    for (size_t i = 0; i < tree->leaf_count; i++)
        if (weight(&tree->leaves[i], of))
            needed[tree->leaves[i].node] = true;
    for (size_t i = tree->node_count; i-- > 1;) /* callers have lower numbers */
        if (needed[i])
            needed[tree->nodes[i].parent] = true;
    hk_json_object(j, "stackFrames", false);
    for (size_t i = 1; i < tree->node_count; i++) {
        const struct hk_source_frame *f = &tree->frames[tree->nodes[i].frame];
        if (!needed[i])
            continue;
        snprintf(id, sizeof id, "%zu", i);
        snprintf(name, sizeof name, f->line > 0 ? "%s:%d" : "%s", *f->qualified_name ? f->qualified_name : "?", f->line);
        hk_json_object(j, id, true);
        hk_json_string(j, "name", name);
        hk_json_string(j, "category", *f->file ? f->file : f->module ? f->module : "");
        if (tree->nodes[i].parent)
            hk_json_unsigned(j, "parent", tree->nodes[i].parent);
        hk_json_end_object(j);
    }
    hk_json_end_object(j);
    free(needed);
}

void hk_export_chrome(const struct hk_capture *c, const struct hk_sites *sites, enum hk_export_of of, FILE *out)
{
    struct hk_call_tree *tree = hk_call_tree_make(sites);
    struct hk_json json, *j = &json;
    hk_json_start(j, out);
    hk_json_object(j, NULL, false);
    hk_json_array(j, "traceEvents", false);
    put_process(j, c);
    put_counters(j, c);
    put_collections(j, c);
    hk_json_end_array(j);
    hk_json_string(j, "displayTimeUnit", "ms");
    put_samples(j, c, tree, of);
    put_frames(j, tree, of);
    hk_json_object(j, "otherData", true);
    hk_json_string(j, "exporter", "heapkeeper " HK_VERSION);
    hk_json_string(j, "mode", hk_mode_word(c->header.mode));
    hk_json_end_object(j);
    hk_json_end_object(j);
    hk_call_tree_free(tree);
}
