/* heapkeeper flame: finds the capture and writes its stacks as a page, or as JSON. */
#include "cli/cli.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli/output.h"
#include "view/flame.h"

struct options {
    bool json, force;
    const char *output, *target;
};

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option known[] = {
        {"json", no_argument, NULL, 'j'},
        {"output", required_argument, NULL, 'o'},
        {"force", no_argument, NULL, 'f'},
        {NULL, 0, NULL, 0},
    };
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":jo:f", known, NULL)) != -1) {
        switch (option) {
        case 'j':
            o->json = true;
            break;
        case 'o':
            o->output = optarg;
            break;
        case 'f':
            o->force = true;
            break;
        default:
            return hk_cli_bad_option(argc, argv, option);
        }
    }
    if (argc - optind > 1)
        return hk_cli_fail(HK_EXIT_USAGE, "flame: one capture or process at a time, not \"%s\" too", argv[optind + 1]);
    o->target = argv[optind];
    return 0;
}

int hk_cli_flame(int argc, char **argv)
{
    struct options o = {.json = false};
    struct hk_output output;
    char name[HK_OUTPUT_NAME];
    int status = parse(argc, argv, &o);
    if (status)
        return status;
    struct hk_capture *capture = hk_cli_open(o.target);
    if (!capture)
        return HK_EXIT_FAILURE;
    if (!o.output && !o.json)
        o.output = hk_output_name(name, capture, "flame.html");
    if (!hk_output_open(&output, o.output, o.force, capture)) {
        hk_capture_close(capture);
        return HK_EXIT_FAILURE;
    }
    struct hk_sites *sites = hk_sites_read(capture);
    struct hk_call_tree *tree = hk_call_tree_make(sites);
    struct hk_flame flame = {capture, sites, tree};
    if (o.json)
        hk_flame_json(&flame, output.file);
    else
        hk_flame_html(&flame, output.file);
    bool to_file = output.path != NULL;
    status = hk_output_close(&output, "the flame graph");
    if (!status && to_file)
        status = hk_output_say(o.output);
    hk_call_tree_free(tree);
    hk_sites_free(sites);
    hk_capture_close(capture);
    return status;
}
