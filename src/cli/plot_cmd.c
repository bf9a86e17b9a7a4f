/* heapkeeper plot: memory over time, of one process or of all of a run. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "cli/output.h"
#include "read/find.h"
#include "view/plot.h"

#define ROWS 16

enum format { FORMAT_TEXT, FORMAT_SVG, FORMAT_PNG, FORMAT_JSON };

struct options {
    int format; /* -1: by the file's name */
    bool of_run, force, slope;
    size_t rows;
    const char *output, *colour, *target;
};

static const char *const format_words[] = {"text", "svg", "png", "json", NULL};

static bool parse_height(const char *text, void *rows)
{
    return hk_cli_number(text, rows) && *(size_t *)rows >= 4 && *(size_t *)rows <= 200;
}

static int parse(int argc, char **argv, struct options *o)
{
    bool json = false;
    const struct hk_option options[] = {
        HK_FLAG("json", 'j', &json),
        HK_WORD("format", &o->format, format_words),
        HK_FLAG("run", 0, &o->of_run),
        HK_FLAG("slope", 's', &o->slope),
        HK_VALUE("height", 0, &o->rows, parse_height, "is 4 to 200 rows"),
        HK_FILE("output", 'o', &o->output),
        HK_FLAG("force", 'f', &o->force),
        HK_COLOUR(&o->colour),
        HK_NO_OPTION,
    };
    int status = hk_cli_options(argc, argv, options);
    if (status || (status = hk_cli_target(argc, argv, "capture or process", &o->target)) != 0)
        return status;
    if (json && o->format >= 0 && o->format != FORMAT_JSON)
        return hk_cli_fail(HK_EXIT_USAGE, "plot: --json and --format %s exclude each other", format_words[o->format]);
    if (json)
        o->format = FORMAT_JSON;
    const char *ending = o->output ? strrchr(o->output, '.') : NULL;
    if (o->format < 0 && ending)
        o->format = strcmp(ending, ".svg") == 0    ? FORMAT_SVG
                    : strcmp(ending, ".png") == 0  ? FORMAT_PNG
                    : strcmp(ending, ".json") == 0 ? FORMAT_JSON
                    : strcmp(ending, ".txt") == 0  ? FORMAT_TEXT
                                                   : -1;
    if (o->format < 0 && o->output && strcmp(o->output, "-") != 0)
        return hk_cli_fail(HK_EXIT_USAGE, "plot: \"%s\" ends in none of .svg, .png, .json and .txt; --format says what it is to be", o->output);
    if (o->format < 0)
        o->format = FORMAT_TEXT;
    return 0;
}

/* The processes of the run, the other ones brief; `captures[0]` is `first`. The caller closes all but that and frees the array. */
static struct hk_capture **open_run(const struct hk_family *family, struct hk_capture *first, size_t *count)
{
    struct hk_capture **captures = hk_must_calloc(family->count + 1, sizeof *captures);
    const struct hk_process *itself = hk_family_member(family, first);
    struct hk_error error;
    captures[(*count)++] = first;
    for (size_t i = 0; i < family->count; i++) {
        const struct hk_process *process = &family->processes[i];
        struct hk_capture *c = process == itself ? NULL : hk_capture_open(process->path, HK_OPEN_BRIEF, &error);
        if (!c)
            continue;
        c->life = process->life;
        captures[(*count)++] = c;
    }
    return captures;
}

static int draw(const struct options *o, const struct hk_plot *plot)
{
    struct hk_output output;
    struct hk_terminal terminal;
    if (!hk_output_open(&output, o->output, o->force, plot->capture))
        return HK_EXIT_FAILURE;
    hk_cli_terminal(&terminal, o->colour);
    if (output.path) {
        hk_terminal_for(&terminal, output.file);
        terminal.colour = false;
    }
    switch (o->format) {
    case FORMAT_SVG:
        hk_plot_svg(plot, output.file);
        break;
    case FORMAT_PNG:
        hk_plot_png(plot, output.file);
        break;
    case FORMAT_JSON:
        hk_plot_json(plot, output.file);
        break;
    default:
        hk_plot_text(plot, &terminal, (unsigned)o->rows);
    }
    return hk_output_close(&output, "the plot");
}

int hk_cli_plot(int argc, char **argv)
{
    struct options o = {.format = -1, .rows = ROWS};
    struct hk_plot plot;
    int status = parse(argc, argv, &o);
    if (status)
        return status;
    struct hk_capture *capture = hk_cli_open(o.target);
    if (!capture)
        return HK_EXIT_FAILURE;
    size_t count = 0;
    struct hk_family *family = o.of_run ? hk_family_find(capture->path) : NULL;
    struct hk_capture **captures = family ? open_run(family, capture, &count) : NULL;
    if (family)
        hk_plot_of_run(&plot, captures, count, family);
    else
        hk_plot_of(&plot, capture);
    if (o.slope)
        hk_plot_trends(&plot);
    status = draw(&o, &plot);
    hk_plot_free(&plot);
    for (size_t i = 1; i < count; i++)
        hk_capture_close(captures[i]);
    free(captures);
    hk_family_free(family);
    hk_capture_close(capture);
    return status;
}
