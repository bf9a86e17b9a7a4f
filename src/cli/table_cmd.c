/* heapkeeper table: finds the capture, groups its sites, shows them. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "view/table.h"

#define ROWS 20 /* of a text, unless asked for more */

struct options {
    bool json;
    int by, sort;
    size_t limit;
    const char *filter, *colour, *target;
};

static int parse(int argc, char **argv, struct options *o)
{
    const struct hk_option options[] = {
        HK_FLAG("json", 'j', &o->json),
        HK_WORD("by", &o->by, hk_group_words),
        HK_WORD("sort", &o->sort, hk_sort_words),
        HK_TEXT("filter", 0, &o->filter),
        HK_VALUE("limit", 'n', &o->limit, hk_cli_number, "needs a number of rows"),
        HK_COLOUR(&o->colour),
        HK_NO_OPTION,
    };
    int status = hk_cli_options(argc, argv, options);
    return status ? status : hk_cli_target(argc, argv, "capture or process", &o->target);
}

int hk_cli_table(int argc, char **argv)
{
    struct options o = {.limit = HK_NOT_GIVEN};
    struct hk_terminal terminal;
    int status = parse(argc, argv, &o);
    if (status)
        return status;
    struct hk_capture *capture = hk_cli_open(o.target);
    if (!capture)
        return HK_EXIT_FAILURE;

    struct hk_sites *sites = hk_sites_read(capture);
    const char *lacks = o.by == HK_BY_THREAD && !hk_sites_have_threads(sites) ? "does not tell threads apart"
                        : o.sort == HK_SORT_AGE && !hk_sites_have_ages(sites) ? "does not know when what lives was allocated"
                        : o.sort > HK_SORT_BLOCKS && o.sort != HK_SORT_AGE && !hk_sites_have_lives(sites)
                            ? "does not know how long blocks live, nor how large they were"
                            : NULL;
    if (lacks != NULL) {
        hk_sites_free(sites);
        hk_capture_close(capture);
        return hk_cli_fail(HK_EXIT_FAILURE, "table: this capture %s; a record of every block does (run without --sample)", lacks);
    }
    struct hk_table_view view = {capture,  sites,  (enum hk_group_by)o.by, (enum hk_sort)o.sort,
                                 o.filter, hk_cli_limit(o.limit, o.json, ROWS)};
    hk_cli_terminal(&terminal, o.colour);
    if (o.json)
        hk_table_json(&view, stdout);
    else
        hk_table_text(&view, &terminal);
    hk_sites_free(sites);
    hk_capture_close(capture);
    return hk_cli_written("table");
}
