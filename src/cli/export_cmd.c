/* heapkeeper export: finds the capture and writes its sites for another tool, to standard output or a file. */
#include "cli/cli.h"


#include "cli/options.h"
#include "cli/output.h"
#include "view/export.h"

struct options {
    int format, of; /* format -1: not given */
    bool force;
    const char *output, *target;
};

static const char *const format_words[] = {"collapsed", "speedscope", "pprof", "chrome", "csv", "json", NULL};
static const char *const of_words[] = {"live", "peak", "total", NULL};

static int parse(int argc, char **argv, struct options *o)
{
    const struct hk_option options[] = {
        HK_WORD("format", &o->format, format_words),
        HK_WORD("of", &o->of, of_words),
        HK_FILE("output", 'o', &o->output),
        HK_FLAG("force", 'f', &o->force),
        HK_NO_OPTION,
    };
    int status = hk_cli_options(argc, argv, options);
    if (status)
        return status;
    if (o->format < 0)
        return hk_cli_fail(HK_EXIT_USAGE, "export: --format is needed: collapsed, speedscope, pprof, chrome, csv or json");
    return hk_cli_target(argc, argv, "capture or process", &o->target);
}

static int write_sites(const struct options *o, const struct hk_capture *capture)
{
    struct hk_output output;
    if (!hk_output_open(&output, o->output, o->force, capture))
        return HK_EXIT_FAILURE;
    struct hk_sites *sites = hk_sites_read(capture);
    bool whole = hk_export(capture, sites, (enum hk_export_format)o->format, (enum hk_export_of)o->of, output.file);
    hk_sites_free(sites);
    int status = hk_output_close(&output, "the export");
    if (!status && !whole)
        hk_cli_fail(0, "export: too many frames: some stacks have only their innermost ones, beneath \"...\"");
    return status;
}

int hk_cli_export(int argc, char **argv)
{
    struct options o = {.format = -1};
    int status = parse(argc, argv, &o);
    if (status)
        return status;
    struct hk_capture *capture = hk_cli_open(o.target);
    if (!capture)
        return HK_EXIT_FAILURE;
    status = write_sites(&o, capture);
    hk_capture_close(capture);
    return status;
}
