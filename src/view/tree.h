/* heapkeeper tree: the calls as a tree, as text, as JSON, and to move in.
 *
 * From the callers in: below each frame those that it called. Inverted, from the callees out: first who asked for memory, below
 * each those that called it.
 */
#ifndef HK_VIEW_TREE_H
#define HK_VIEW_TREE_H

#include "read/calltree.h"
#include "view/table.h"

struct hk_tree_row {
    uint32_t parent, frame; /* the frame is an index of the call tree's */
    uint32_t first, next;   /* the largest child and the next largest sibling; 0: none */
    uint64_t bytes, blocks; /* with what is below */
    uint64_t own_bytes;     /* asked for in this frame itself (inverted: by whom nobody else called) */
};

/* A call tree as it is shown; row 0 is the whole. */
struct hk_outline {
    struct hk_tree_row *rows;
    size_t count;
    bool whole; /* false: there were so many frames that some stacks have only their innermost ones (inverted) */
};

/* `of`: which bytes and blocks, and the order of siblings. */
struct hk_outline hk_outline_make(const struct hk_call_tree *tree, enum hk_sort of, bool inverted);
void hk_outline_free(struct hk_outline *outline);

/* Everything is borrowed. */
struct hk_tree_view {
    const struct hk_capture *capture;
    const struct hk_call_tree *tree;
    enum hk_sort of;
    bool inverted;
    size_t depth; /* 0: all */
    double least; /* share of the whole below which a frame is one of the "others" */
};

void hk_tree_text(const struct hk_tree_view *view, const struct hk_terminal *terminal);

/* Keys are stable: names are never changed or removed within a major version, only added. */
void hk_tree_json(const struct hk_tree_view *view, FILE *out);

/* Takes the terminal over until the user quits; `terminal` says what it can. False: it could not be taken over. */
bool hk_tree_browse(const struct hk_tree_view *view, const struct hk_terminal *terminal);

/* ---- shared ---- */

/* The figure that a row is shown and sorted by. */
uint64_t hk_tree_figure(const struct hk_tree_row *row, enum hk_sort of);

/* The cells in front of a row's frame: its bytes, share, blocks and own bytes. */
void hk_tree_cells(const struct hk_tree_view *view, const struct hk_outline *outline, const struct hk_tree_row *row,
                   char (*cells)[40]);

/* "remember_order  shop.py:88", clean, in `columns`. `to` holds `size` bytes. */
void hk_tree_name(const struct hk_tree_view *view, const struct hk_terminal *terminal, const struct hk_tree_row *row, char *to,
                  size_t size, size_t columns);

#endif
