/* heapkeeper flame: finds the capture and writes its stacks as a page, or as JSON. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "cli/output.h"
#include "view/flame.h"

struct options {
    bool json, force;
    const char *output, *before, *target;
};

static int parse(int argc, char **argv, struct options *o)
{
    const struct hk_option options[] = {
        HK_FLAG("json", 'j', &o->json),
        HK_TEXT("output", 'o', &o->output),
        HK_FLAG("force", 'f', &o->force),
        HK_TEXT("before", 0, &o->before),
        HK_NO_OPTION,
    };
    int status = hk_cli_options(argc, argv, options);
    return status ? status : hk_cli_target(argc, argv, "capture or process", &o->target);
}

/* Writes what was asked for; `before` may be NULL. */
static void write_flame(const struct options *o, const struct hk_capture *capture, const struct hk_capture *before, FILE *out)
{
    struct hk_sites *sites = hk_sites_read(capture), *others = before ? hk_sites_read(before) : NULL;
    struct hk_call_tree *tree = hk_call_tree_compare(sites, others);
    struct hk_flame flame = {capture, sites, tree, before};
    if (o->json)
        hk_flame_json(&flame, out);
    else
        hk_flame_html(&flame, out);
    hk_call_tree_free(tree);
    hk_sites_free(others);
    hk_sites_free(sites);
}

static int make(const struct options *o, const struct hk_capture *capture, const struct hk_capture *before)
{
    struct hk_output output;
    char name[HK_OUTPUT_NAME];
    const char *path = o->output ? o->output : o->json ? NULL : hk_output_name(name, capture, "flame.html");
    if (before && !hk_output_spares(path, before))
        return HK_EXIT_FAILURE;
    if (!hk_output_open(&output, path, o->force, capture))
        return HK_EXIT_FAILURE;
    write_flame(o, capture, before, output.file);
    bool to_file = output.path != NULL;
    int status = hk_output_close(&output, "the flame graph");
    return !status && to_file ? hk_output_say(path) : status;
}

int hk_cli_flame(int argc, char **argv)
{
    struct options o = {.json = false};
    int status = parse(argc, argv, &o);
    if (status)
        return status;
    struct hk_capture *capture = hk_cli_open(o.target), *before = NULL;
    status = HK_EXIT_FAILURE;
    if (capture && (!o.before || (before = hk_cli_open(o.before))))
        status = make(&o, capture, before);
    hk_capture_close(before);
    hk_capture_close(capture);
    return status;
}
