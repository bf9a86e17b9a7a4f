/* heapkeeper tree: the calls as a tree; on a terminal to move in, else as text. */
#include "cli/cli.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "view/screen.h"
#include "view/tree.h"

struct options {
    bool json, text, inverted;
    int of;
    size_t depth;
    double least; /* below 0: not given */
    const char *colour, *target;
};

static const char *const of_words[] = {"live", "peak", "total", "blocks", NULL};

/* "1%", "0.5". */
static bool parse_share(const char *word, double *share)
{
    char *end;
    *share = strtod(word, &end) / 100;
    return end != word && (!*end || strcmp(end, "%") == 0) && *share >= 0 && *share <= 1;
}

static int parse_option(struct options *o, int option)
{
    switch (option) {
    case 'j':
        o->json = true;
        return 0;
    case 't':
        o->text = true;
        return 0;
    case 'i':
        o->inverted = true;
        return 0;
    case 'O':
        return (o->of = hk_cli_choice("tree", "--of", optarg, of_words)) < 0 ? HK_EXIT_USAGE : 0;
    case 'd':
        o->text = true;
        return hk_cli_number(optarg, &o->depth)
                   ? 0
                   : hk_cli_fail(HK_EXIT_USAGE, "tree: --depth needs a number of calls, not \"%s\"", optarg);
    case 'm':
        o->text = true;
        return parse_share(optarg, &o->least)
                   ? 0
                   : hk_cli_fail(HK_EXIT_USAGE, "tree: --min is a share of the whole, 0%% to 100%%, not \"%s\"", optarg);
    default:
        o->colour = optarg;
        return hk_cli_choice("tree", "--color", optarg, hk_cli_colour_words) < 0 ? HK_EXIT_USAGE : 0;
    }
}

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option known[] = {
        {"json", no_argument, NULL, 'j'},        {"text", no_argument, NULL, 't'},       {"inverted", no_argument, NULL, 'i'},
        {"of", required_argument, NULL, 'O'},    {"depth", required_argument, NULL, 'd'}, {"min", required_argument, NULL, 'm'},
        {"color", required_argument, NULL, 'c'}, {"colour", required_argument, NULL, 'c'}, {NULL, 0, NULL, 0},
    };
    int option, status;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":jti", known, NULL)) != -1) {
        if (option == '?' || option == ':')
            return hk_cli_bad_option(argc, argv, option);
        if ((status = parse_option(o, option)) != 0)
            return status;
    }
    if (argc - optind > 1)
        return hk_cli_fail(HK_EXIT_USAGE, "tree: one capture or process at a time, not \"%s\" too", argv[optind + 1]);
    o->target = argv[optind];
    return 0;
}

int hk_cli_tree(int argc, char **argv)
{
    struct options o = {.least = -1};
    struct hk_terminal terminal;
    int status = parse(argc, argv, &o);
    if (status)
        return status;
    struct hk_capture *capture = hk_cli_open(o.target);
    if (!capture)
        return HK_EXIT_FAILURE;
    struct hk_sites *sites = hk_sites_read(capture);
    struct hk_call_tree *tree = hk_call_tree_make(sites);
    struct hk_tree_view view = {capture, tree, (enum hk_sort)o.of, o.inverted, o.depth, o.least >= 0 ? o.least : o.json ? 0 : 0.01};
    hk_cli_terminal(&terminal, o.colour);
    if (o.json)
        hk_tree_json(&view, stdout);
    else if (o.text || !hk_screen_possible() || !hk_tree_browse(&view, &terminal))
        hk_tree_text(&view, &terminal);
    hk_call_tree_free(tree);
    hk_sites_free(sites);
    hk_capture_close(capture);
    return hk_cli_written("tree");
}
