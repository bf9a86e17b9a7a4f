/* heapkeeper flame: finds the capture and writes its stacks as a page, or as JSON. With --data the page is of figures that a program has
 * put together (python/heapkeeper/magics.py). */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "cli/output.h"
#include "view/flame.h"

struct options {
    bool json, force;
    const char *output, *before, *data, *target;
};

#define DATA_MOST ((size_t)1 << 30)

static int parse(int argc, char **argv, struct options *o)
{
    const struct hk_option options[] = {
        HK_FLAG("json", 'j', &o->json),
        HK_FILE("output", 'o', &o->output),
        HK_FLAG("force", 'f', &o->force),
        HK_FILE("before", 0, &o->before),
        HK_FILE("data", 0, &o->data),
        HK_NO_OPTION,
    };
    int status = hk_cli_options(argc, argv, options);
    if (!status)
        status = hk_cli_target(argc, argv, "capture or process", &o->target);
    if (!status && o->data && (o->target || o->before || o->json))
        return hk_cli_fail(HK_EXIT_USAGE, "flame: --data has the figures; it goes with -o and --force only");
    return status;
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

/* All of a file, with a NUL after it; the caller frees it. NULL: a line on stderr has said why. */
static char *read_whole(const char *path)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    size_t room = 1 << 16, length = 0;
    char *text = hk_must_calloc(room, 1);
    while (file && length < DATA_MOST) {
        length += fread(text + length, 1, room - 1 - length, file);
        if (length < room - 1)
            break;
        text = hk_must_realloc(text, room *= 2, 1);
    }
    if (!file || ferror(file) || length >= DATA_MOST) {
        hk_cli_fail(0, "flame: %s: %s", path, file && length >= DATA_MOST ? "more than 1 GiB is no picture" : strerror(errno));
        free(text);
        text = NULL;
    } else
        text[length] = 0;
    if (file && file != stdin)
        fclose(file);
    return text;
}

/* The page of figures that somebody else has put together. */
static int make_of_data(const struct options *o)
{
    char *data = read_whole(o->data);
    struct hk_output output;
    int status = HK_EXIT_FAILURE;
    if (data && data[strspn(data, " \t\r\n")] != '{')
        hk_cli_fail(0, "flame: %s has no object of JSON, which --data takes", o->data);
    else if (data && hk_output_open(&output, o->output, o->force, NULL)) {
        hk_flame_html_of_data(data, output.file);
        status = hk_output_close(&output, "the flame graph");
    }
    free(data);
    return status;
}

int hk_cli_flame(int argc, char **argv)
{
    struct options o = {.json = false};
    int status = parse(argc, argv, &o);
    if (status || o.data)
        return status ? status : make_of_data(&o);
    struct hk_capture *capture = hk_cli_open(o.target), *before = NULL;
    status = HK_EXIT_FAILURE;
    if (capture && (!o.before || (before = hk_cli_open(o.before))))
        status = make(&o, capture, before);
    hk_capture_close(before);
    hk_capture_close(capture);
    return status;
}
