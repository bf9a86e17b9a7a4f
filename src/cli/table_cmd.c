/* heapkeeper table: finds the capture, groups its sites, shows them. */
#include "cli/cli.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "view/table.h"

#define ROWS 20 /* of a text, unless asked for more */

struct options {
    bool json, limited;
    int by, sort;
    size_t limit;
    const char *filter, *colour, *target;
};

static const char *const by_words[] = {"line", "function", "file", "module", "domain", "thread", NULL};
static const char *const sort_words[] = {"live", "peak", "total", "blocks", NULL};

static int parse_option(struct options *o, int option)
{
    switch (option) {
    case 'j':
        o->json = true;
        return 0;
    case 'b':
        return (o->by = hk_cli_choice("table", "--by", optarg, by_words)) < 0 ? HK_EXIT_USAGE : 0;
    case 's':
        return (o->sort = hk_cli_choice("table", "--sort", optarg, sort_words)) < 0 ? HK_EXIT_USAGE : 0;
    case 'F':
        o->filter = optarg;
        return 0;
    case 'n':
        o->limited = true;
        return hk_cli_number(optarg, &o->limit)
                   ? 0
                   : hk_cli_fail(HK_EXIT_USAGE, "table: --limit needs a number of rows, not \"%s\"", optarg);
    default:
        o->colour = optarg;
        return hk_cli_choice("table", "--color", optarg, hk_cli_colour_words) < 0 ? HK_EXIT_USAGE : 0;
    }
}

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option known[] = {
        {"json", no_argument, NULL, 'j'},        {"by", required_argument, NULL, 'b'},
        {"sort", required_argument, NULL, 's'},  {"filter", required_argument, NULL, 'F'},
        {"limit", required_argument, NULL, 'n'}, {"color", required_argument, NULL, 'c'},
        {"colour", required_argument, NULL, 'c'}, {NULL, 0, NULL, 0},
    };
    int option, status;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":jn:", known, NULL)) != -1) {
        if (option == '?' || option == ':')
            return hk_cli_bad_option(argc, argv, option);
        if ((status = parse_option(o, option)) != 0)
            return status;
    }
    if (argc - optind > 1)
        return hk_cli_fail(HK_EXIT_USAGE, "table: one capture or process at a time, not \"%s\" too", argv[optind + 1]);
    o->target = argv[optind];
    return 0;
}

int hk_cli_table(int argc, char **argv)
{
    struct options o = {.limit = ROWS};
    struct hk_terminal terminal;
    int status = parse(argc, argv, &o);
    if (status)
        return status;
    struct hk_capture *capture = hk_cli_open(o.target);
    if (!capture)
        return HK_EXIT_FAILURE;

    struct hk_sites *sites = hk_sites_read(capture);
    if (o.by == HK_BY_THREAD && !hk_sites_have_threads(sites)) {
        hk_sites_free(sites);
        hk_capture_close(capture);
        return hk_cli_fail(HK_EXIT_FAILURE, "table: this capture does not tell threads apart; "
                                             "a record of every block does (run without --sample)");
    }
    struct hk_table_view view = {capture,  sites,  (enum hk_group_by)o.by, (enum hk_sort)o.sort,
                                 o.filter, o.json && !o.limited ? 0 : o.limit};
    hk_cli_terminal(&terminal, o.colour);
    if (o.json)
        hk_table_json(&view, stdout);
    else
        hk_table_text(&view, &terminal);
    hk_sites_free(sites);
    hk_capture_close(capture);
    return hk_cli_written("table");
}
