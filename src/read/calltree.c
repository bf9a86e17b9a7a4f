/* Two passes over the capture's nodes. The first, from the last to the first, marks those that lie on the way from a site to
 * the outermost frame: a node's caller has a lower index. The second, from the first to the last, gives each of these its node of
 * the tree, which is a child of that of its caller; a table finds the child for a frame.
 *
 * A capture's node can be on whole stacks and on such that were cut: those are beneath another root, "...", and the passes are
 * made for each. Of two captures that are compared the second comes on top of the first, in the same tables.
 *
 * Names are compared by their first NAME_MAX bytes: a hostile capture has 64 MiB of strings that end in one another.
 */
#include "read/calltree.h"

#include <stdlib.h>
#include <string.h>

#include "read/index.h"
#include "read/resolve.h"

#define NAME_MAX_BYTES 4096
#define INLINED_MAX    64 /* functions that the compiler put into one another */

struct builder {
    const struct hk_sites *sites;
    struct hk_call_tree *tree;
    size_t frame_room, node_room, leaf_room;
    struct hk_index frames, children;
    bool is_before;  /* the sites are those of the other capture */
    uint32_t *place; /* by node of the capture: its node of the tree; 0: not asked for */
};

/* ---- frames ---- */

static uint64_t hash_text(uint64_t hash, const char *text)
{
    return hk_hash_bytes(hash, text, text ? strnlen(text, NAME_MAX_BYTES) : 0);
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strncmp(a, b, NAME_MAX_BYTES) == 0);
}

static bool same_frame(const struct hk_source_frame *a, const struct hk_source_frame *b)
{
    return a->line == b->line && same_text(a->qualified_name, b->qualified_name) && same_text(a->function, b->function) &&
           same_text(a->file, b->file) && same_text(a->module, b->module);
}

static uint32_t frame_index(struct builder *b, const struct hk_source_frame *f)
{
    struct hk_call_tree *t = b->tree;
    uint64_t hash = hash_text(hash_text(HK_HASH ^ (uint32_t)f->line, f->qualified_name), f->file);
    struct hk_probe probe = hk_index_probe(&b->frames, hash_text(hash, f->module));
    while (hk_index_next(&probe))
        if (same_frame(&t->frames[probe.number], f))
            return probe.number;
    hk_index_put(&probe, t->frame_count);
    t->frames = hk_array_room(t->frames, t->frame_count, &b->frame_room, sizeof *t->frames);
    t->frames[t->frame_count++] = *f;
    return (uint32_t)t->frame_count - 1;
}

/* ---- nodes ---- */

static uint32_t new_node(struct builder *b, struct hk_tree_node node)
{
    struct hk_call_tree *t = b->tree;
    t->nodes = hk_array_room(t->nodes, t->node_count, &b->node_room, sizeof *t->nodes);
    t->nodes[t->node_count++] = node;
    return (uint32_t)t->node_count - 1;
}

static uint32_t child(struct builder *b, uint32_t parent, const struct hk_source_frame *f)
{
    const struct hk_call_tree *t = b->tree;
    uint32_t frame = frame_index(b, f);
    struct hk_probe probe = hk_index_probe(&b->children, (uint64_t)parent << 32 | frame);
    while (hk_index_next(&probe))
        if (t->nodes[probe.number].parent == parent && t->nodes[probe.number].frame == frame)
            return probe.number;
    hk_index_put(&probe, t->node_count);
    return new_node(b, (struct hk_tree_node){.parent = parent, .frame = frame});
}

static void make_root(struct builder *b)
{
    frame_index(b, &(struct hk_source_frame){"", "", "", 0, NULL, 0, NULL, false});
    new_node(b, (struct hk_tree_node){0, 0, 0}); /* nobody's child */
}

/* ---- stacks ---- */

/* The capture's node whose stack a site has; 0: none. */
static uint32_t stack_of(const struct builder *b, const struct hk_site *site)
{
    return site->flags & HK_SITE_OTHER ? 0 : hk_resolver_shown(b->sites->resolver, site->node);
}

static bool is_cut(const struct hk_site *site)
{
    return site->flags & HK_SITE_CUT;
}

static void place_node(struct builder *b, uint32_t node, uint32_t root)
{
    struct hk_source_frame frames[INLINED_MAX];
    uint32_t caller = hk_resolver_parent(b->sites->resolver, node), at = caller ? b->place[caller] : root;
    for (size_t i = hk_resolver_frames(b->sites->resolver, node, frames, INLINED_MAX); i-- > 0;)
        at = child(b, at, &frames[i]); /* they come innermost first */
    b->place[node] = at;
}

static void add_leaf(struct builder *b, uint32_t node, const struct hk_site *site)
{
    struct hk_call_tree *t = b->tree;
    if (!t->nodes[node].leaf) {
        t->leaves = hk_array_room(t->leaves, t->leaf_count, &b->leaf_room, sizeof *t->leaves);
        t->leaves[t->leaf_count++] = (struct hk_tree_leaf){.node = node};
        t->nodes[node].leaf = (uint32_t)t->leaf_count;
    }
    struct hk_tree_leaf *leaf = &t->leaves[t->nodes[node].leaf - 1];
    struct hk_amounts amounts = hk_amounts_of_site(site);
    if (b->is_before) {
        hk_amounts_add(&leaf->before, &amounts);
        hk_amounts_add(&t->before, &amounts);
        return;
    }
    uint64_t at_mark[HK_MARKS], born_in[HK_MARKS];
    hk_sites_marks(b->sites, site, at_mark, born_in);
    hk_amounts_add(&leaf->amounts, &amounts);
    hk_amounts_add(&t->totals, &amounts);
    for (unsigned i = 0; i < HK_MARKS; i++) {
        leaf->at_mark[i] += at_mark[i];
        t->at_mark[i] += at_mark[i];
    }
}

/* The stacks that are whole, or those that are cut, beneath `root`. */
static void add_stacks(struct builder *b, bool cut)
{
    const struct hk_sites *s = b->sites;
    size_t count = s->capture->tables[HK_SECTION_NODES].count, wanted = 0;
    memset(b->place, 0, count * sizeof *b->place);
    for (size_t i = 0; i < s->site_count; i++) {
        if (is_cut(&s->sites[i]) == cut) {
            uint32_t node = stack_of(b, &s->sites[i]);
            wanted++;
            if (node)
                b->place[node] = 1;
        }
    }
    if (!wanted)
        return;
    for (size_t i = count; i-- > 1;) {
        uint32_t caller = b->place[i] ? hk_resolver_parent(s->resolver, (uint32_t)i) : 0;
        if (caller)
            b->place[caller] = 1;
    }
    uint32_t root = cut ? child(b, 0, &(struct hk_source_frame){"...", "...", "", 0, NULL, 0, NULL, false}) : 0;
    for (size_t i = 1; i < count; i++)
        if (b->place[i])
            place_node(b, (uint32_t)i, root);
    for (size_t i = 0; i < s->site_count; i++) {
        const struct hk_site *site = &s->sites[i];
        if (is_cut(site) != cut)
            continue;
        uint32_t node = stack_of(b, site);
        struct hk_source_frame word;
        if (!node) {
            word = hk_sites_where(s, site);
            add_leaf(b, child(b, root, &word), site);
        } else {
            struct hk_source_frame *frame = &b->tree->frames[b->tree->nodes[b->place[node]].frame];
            frame->is_near |= (site->flags & HK_SITE_JIT) != 0 && frame->line > 0 && !frame->module;
            add_leaf(b, b->place[node], site);
        }
    }
}

static void add_capture(struct builder *b, const struct hk_sites *sites, bool is_before)
{
    b->sites = sites;
    b->is_before = is_before;
    b->place = hk_must_calloc(sites->capture->tables[HK_SECTION_NODES].count, sizeof *b->place);
    add_stacks(b, false);
    add_stacks(b, true);
    free(b->place);
}

struct hk_call_tree *hk_call_tree_compare(const struct hk_sites *sites, const struct hk_sites *before)
{
    struct builder builder = {.tree = hk_must_calloc(1, sizeof *builder.tree)}, *b = &builder;
    make_root(b);
    add_capture(b, sites, false);
    if (before)
        add_capture(b, before, true);
    hk_index_free(&b->frames);
    hk_index_free(&b->children);
    return b->tree;
}

struct hk_call_tree *hk_call_tree_make(const struct hk_sites *sites)
{
    return hk_call_tree_compare(sites, NULL);
}

void hk_call_tree_free(struct hk_call_tree *tree)
{
    if (!tree)
        return;
    free(tree->frames);
    free(tree->nodes);
    free(tree->leaves);
    free(tree);
}

void hk_call_tree_add_up(const struct hk_call_tree *tree, uint64_t *sums)
{
    for (size_t i = tree->node_count; i-- > 1;)
        sums[tree->nodes[i].parent] += sums[i];
}
