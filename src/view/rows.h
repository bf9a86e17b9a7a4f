/* Rows of figures with a name at the end: columns of cells, as wide as the widest, two spaces apart, aligned at the right.
 *
 *      struct hk_rows rows = {.columns = 3};
 *      char (*cells)[HK_CELL] = hk_rows_add(&rows);     fill cells[0] to cells[2]; the first row is mostly the head
 *      hk_rows_lay_out(&rows, terminal, 24);
 *      hk_rows_put(&rows, terminal, 0, "name", HK_BOLD);
 *      hk_rows_free(&rows);
 */
#ifndef HK_VIEW_ROWS_H
#define HK_VIEW_ROWS_H

#include "view/text.h"

#define HK_CELL        40 /* bytes of a cell */
#define HK_ROWS_WIDEST 11 /* columns of cells */

struct hk_rows {
    unsigned columns;
    bool left_out[HK_ROWS_WIDEST]; /* not shown */
    bool optional[HK_ROWS_WIDEST]; /* left out together where names had less room than they need */
    unsigned widths[HK_ROWS_WIDEST];
    size_t name_columns; /* that a name may take */
    char (*cells)[HK_CELL];
    size_t count, room;
};

/* The cells of a new row, empty; valid until the next is added. */
char (*hk_rows_add(struct hk_rows *rows))[HK_CELL];

/* Once all are in. `name_least`: columns that names need. */
void hk_rows_lay_out(struct hk_rows *rows, const struct hk_terminal *terminal, unsigned name_least);

/* Prints row `index` behind two spaces. The name is clean, and as short as name_columns asks. */
void hk_rows_put(const struct hk_rows *rows, const struct hk_terminal *terminal, size_t index, const char *name,
                 enum hk_style style);

void hk_rows_free(struct hk_rows *rows);

#endif
