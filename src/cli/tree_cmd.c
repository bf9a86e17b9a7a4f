/* heapkeeper tree: the calls as a tree; on a terminal to move in, else as text. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "view/screen.h"
#include "view/tree.h"

struct options {
    bool json, text, inverted;
    int of;
    size_t depth;
    double least; /* below 0: not given */
    const char *colour, *target;
};

/* "1%", "0.5". */
static bool parse_share(const char *word, void *to)
{
    char *end;
    double share = *(double *)to = strtod(word, &end) / 100;
    return end != word && (!*end || strcmp(end, "%") == 0) && share >= 0 && share <= 1;
}

static int parse(int argc, char **argv, struct options *o)
{
    const struct hk_option options[] = {
        HK_FLAG("json", 'j', &o->json),
        HK_FLAG("text", 't', &o->text),
        HK_FLAG("inverted", 'i', &o->inverted),
        HK_WORD("of", &o->of, hk_cli_sort_words),
        HK_VALUE("depth", 0, &o->depth, hk_cli_number, "needs a number of calls"),
        HK_VALUE("min", 0, &o->least, parse_share, "is a share of the whole, 0% to 100%"),
        HK_COLOUR(&o->colour),
        HK_NO_OPTION,
    };
    int status = hk_cli_options(argc, argv, options);
    o->text |= o->depth != HK_NOT_GIVEN || o->least >= 0;
    return status ? status : hk_cli_target(argc, argv, "capture or process", &o->target);
}

int hk_cli_tree(int argc, char **argv)
{
    struct options o = {.least = -1, .depth = HK_NOT_GIVEN};
    struct hk_terminal terminal;
    int status = parse(argc, argv, &o);
    if (status)
        return status;
    struct hk_capture *capture = hk_cli_open(o.target);
    if (!capture)
        return HK_EXIT_FAILURE;
    struct hk_sites *sites = hk_sites_read(capture);
    struct hk_call_tree *tree = hk_call_tree_make(sites);
    struct hk_tree_view view = {capture,    tree,
                                (enum hk_sort)o.of, o.inverted,
                                hk_cli_limit(o.depth, true, 0), o.least >= 0 ? o.least : o.json ? 0 : 0.01};
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
