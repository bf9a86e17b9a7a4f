/* heapkeeper export: finds the capture and writes its sites for another tool, to standard output or a file. */
#include "cli/cli.h"

#include <getopt.h>

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
    static const struct option known[] = {
        {"format", required_argument, NULL, 'F'}, {"of", required_argument, NULL, 'O'}, {"output", required_argument, NULL, 'o'},
        {"force", no_argument, NULL, 'f'},        {NULL, 0, NULL, 0},
    };
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":o:f", known, NULL)) != -1) {
        switch (option) {
        case 'F':
            if ((o->format = hk_cli_choice("export", "--format", optarg, format_words)) < 0)
                return HK_EXIT_USAGE;
            break;
        case 'O':
            if ((o->of = hk_cli_choice("export", "--of", optarg, of_words)) < 0)
                return HK_EXIT_USAGE;
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
    if (o->format < 0)
        return hk_cli_fail(HK_EXIT_USAGE, "export: --format is needed: collapsed, speedscope, pprof, chrome, csv or json");
    if (argc - optind > 1)
        return hk_cli_fail(HK_EXIT_USAGE, "export: one capture or process at a time, not \"%s\" too", argv[optind + 1]);
    o->target = argv[optind];
    return 0;
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
