/* heapkeeper export: finds the capture and writes its sites for another tool, to standard output or a file.
 *
 * A file that exists is left alone unless --force; the capture itself always. What could not be written whole does not
 * stay. */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "view/export.h"

struct options {
    int format, of; /* format -1: not given */
    bool force;
    const char *output, *target;
};

static const char *const format_words[] = {"collapsed", "speedscope", "csv", "json", NULL};
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
        return hk_cli_fail(HK_EXIT_USAGE, "export: --format is needed: collapsed, speedscope, csv or json");
    if (argc - optind > 1)
        return hk_cli_fail(HK_EXIT_USAGE, "export: one capture or process at a time, not \"%s\" too", argv[optind + 1]);
    o->target = argv[optind];
    return 0;
}

static bool is_file(const char *path, const char *other)
{
    struct stat a, b;
    return stat(path, &a) == 0 && stat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* NULL: a line on stderr has said why. *made: it was not there before. */
static FILE *open_output(const struct options *o, const struct hk_capture *capture, bool *made)
{
    struct stat st;
    bool there = stat(o->output, &st) == 0, regular = there && S_ISREG(st.st_mode);
    *made = !there;
    if (is_file(o->output, capture->path)) {
        hk_cli_fail(HK_EXIT_FAILURE, "%s: is the capture itself", o->output);
        return NULL;
    }
    if (regular && !o->force) {
        hk_cli_fail(HK_EXIT_FAILURE, "%s: exists already; --force writes over it", o->output);
        return NULL;
    }
    int fd = open(o->output, O_WRONLY | O_CLOEXEC | (there ? regular ? O_TRUNC : 0 : O_CREAT | O_EXCL), 0666);
    FILE *out = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!out)
        hk_cli_fail(HK_EXIT_FAILURE, "%s: cannot be written: %s", o->output, strerror(errno));
    return out;
}

static int write_sites(const struct options *o, const struct hk_capture *capture)
{
    bool made = false, to_file = o->output && strcmp(o->output, "-") != 0;
    FILE *out = to_file ? open_output(o, capture, &made) : stdout;
    if (!out)
        return HK_EXIT_FAILURE;
    struct hk_sites *sites = hk_sites_read(capture);
    bool whole = hk_export(capture, sites, (enum hk_export_format)o->format, (enum hk_export_of)o->of, out);
    hk_sites_free(sites);
    bool bad = fflush(out) != 0 || ferror(out);
    int why = errno;
    if (to_file && fclose(out) != 0 && !bad) {
        bad = true;
        why = errno;
    }
    if (bad) {
        if (made)
            unlink(o->output);
        return hk_cli_fail(HK_EXIT_FAILURE, "%s could not be written: %s", to_file ? o->output : "the export", strerror(why));
    }
    if (!whole)
        hk_cli_fail(0, "export: too many frames: some stacks have only their innermost ones, beneath \"...\"");
    return 0;
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
