/* The stacks of a capture as one tree of frames: what flame graphs and trees of calls are drawn from.
 *
 * Frames are the same if function, file, line and module are: code objects of one function, and calls of it in different
 * places of a line, meet in one node. Native frames that the compiler put into one another are nodes of their own.
 *
 * What a stack holds stands at its innermost node, which is then a leaf of the tree's list (though others may be called from
 * there, too); every site is in exactly one leaf, so leaves add up to the sums over all sites. A site without a stack is below
 * the root, named "(other)" or the like; the outer frames that a cut stack lacks are a node "...".
 *
 * The tree takes time and memory in proportion to the capture's nodes, however long the stacks are.
 * Not thread-safe; not to be called inside a measured program.
 */
#ifndef HK_READ_CALLTREE_H
#define HK_READ_CALLTREE_H

#include "read/groups.h"

struct hk_tree_node {
    uint32_t parent; /* always a lower index; the root's is 0 */
    uint32_t frame;  /* index */
    uint32_t leaf;   /* index + 1 of what is asked for here and not further in; 0: nothing */
};

struct hk_tree_leaf {
    uint32_t node;
    struct hk_amounts amounts;
    uint64_t at_mark[HK_MARKS]; /* KiB, as those of sites */
    struct hk_amounts before;   /* of the same stack in the other capture; zeros without one */
};

struct hk_call_tree {
    struct hk_source_frame *frames; /* each once, is_near if it is so in a stack; 0 is the root's, with empty names */
    size_t frame_count;
    struct hk_tree_node *nodes; /* 0 is the root */
    size_t node_count;
    struct hk_tree_leaf *leaves;
    size_t leaf_count;
    struct hk_amounts totals;
    uint64_t at_mark[HK_MARKS]; /* KiB, of all */
    struct hk_amounts before;   /* of the other capture */
};

/* `sites` is borrowed until hk_call_tree_free: names are its resolver's. Never fails. */
struct hk_call_tree *hk_call_tree_make(const struct hk_sites *sites);

/* The same with the stacks of another capture beside it, to be compared: those that only it has are leaves with nothing but
 * `before`. Both are borrowed; before NULL: none. */
struct hk_call_tree *hk_call_tree_compare(const struct hk_sites *sites, const struct hk_sites *before);

void hk_call_tree_free(struct hk_call_tree *tree);

/* Adds what is beneath each node to it: `sums`, zeros or leaves' values by node, node_count of them. */
void hk_call_tree_add_up(const struct hk_call_tree *tree, uint64_t *sums);

#endif
