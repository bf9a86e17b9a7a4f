/* What the report lists, and in which order; shared by its text and its page. */
#ifndef HK_VIEW_REPORT_LISTS_H
#define HK_VIEW_REPORT_LISTS_H

#include "view/report.h"

enum hk_report_list { HK_LIST_GROWING, HK_LIST_LIVE, HK_LIST_PEAK };

/* Those of lines by size that say something of their own, in order. Returns how many. */
size_t hk_lists_by_size(const struct hk_report *report, enum hk_report_list lists[2]);

/* Indices of the lines that have something in a list, the largest first; the first *shown are worth a row. Returns how many
 * there are; the caller frees *order. */
size_t hk_list_rank(const struct hk_report *report, enum hk_report_list list, uint32_t **order, size_t *shown);

/* What a list has a line for, bytes. */
double hk_list_amount(const struct hk_line *line, enum hk_report_list list);

/* One standard error of that; 0: exact. */
double hk_list_error(const struct hk_report *report, const struct hk_line *line, enum hk_report_list list);

/* The share that a row gives: `part` bytes of `whole`. */
struct hk_share {
    double part, whole;
};
struct hk_share hk_list_share(const struct hk_report *report, const struct hk_line *line, enum hk_report_list list);

/* The site that shows how one gets to a line: its index. */
uint32_t hk_list_example(const struct hk_line *line, enum hk_report_list list);

/* The frames that a person wants to see of a site's stack, the outermost first: without the import system and what the C
 * library runs before main, and of native code only its ends, with `dots` between. Returns how many, HK_LIST_FRAMES at most.
 * *cut: there are more outside. */
#define HK_LIST_FRAMES 128
size_t hk_list_path(const struct hk_report *report, const struct hk_site *site, const char *dots,
                    struct hk_source_frame frames[HK_LIST_FRAMES], bool *cut);

/* The share that was freed soon, "41%"; "-": too few blocks were watched to say. */
char *hk_list_temporary(char to[32], const struct hk_lives *lives);
/* "8 s": so old is half of what lives, at least; "-" where few blocks are known. The first is an epoch's least age. */
char *hk_list_epoch(char to[32], unsigned epoch);
char *hk_list_age(char to[32], const struct hk_ages *ages);

/* "handle:61"; of a module's own code "shop.py:190". Clean; written into `to`, which holds `size` bytes. */
void hk_list_piece(const struct hk_terminal *terminal, char *to, size_t size, const struct hk_source_frame *frame);

#endif
