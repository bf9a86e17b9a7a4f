/* heapkeeper: where a Python program's memory goes. This file finds the subcommand. */
#include "cli/cli.h"

#include <getopt.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "view/text.h"

static const char usage[] =
    "usage: heapkeeper run [OPTIONS] SCRIPT.py [ARGUMENTS]    record a Python script\n"
    "       heapkeeper run [OPTIONS] -m MODULE | -c CODE ...  the same for a module, for code\n"
    "       heapkeeper run [OPTIONS] PROGRAM [ARGUMENTS]      a program found on PATH (gunicorn, "
    "python3, ...)\n"
    "       heapkeeper report [OPTIONS] [CAPTURE|PID]         where the memory went; the newest "
    "run without CAPTURE\n"
    "       heapkeeper blocks [OPTIONS] [CAPTURE|PID]         arenas, pools and blocks of the heap\n"
    "       heapkeeper table [OPTIONS] [CAPTURE|PID]          a row for each line, function, file, module "
    "or domain\n"
    "       heapkeeper export --format FORMAT [CAPTURE|PID]   for flame graphs, speedscope, pprof, Perfetto, ...\n"
    "       heapkeeper diff [OPTIONS] BEFORE AFTER            what rose and what fell; also between two moments of one\n"
    "       heapkeeper lines [OPTIONS] FILE [CAPTURE|PID]     the source of a file, with what each line allocated\n"
    "       heapkeeper flame [OPTIONS] [CAPTURE|PID]          the stacks as a picture: one HTML file\n"
    "       heapkeeper plot [OPTIONS] [CAPTURE|PID]           memory over time, in the terminal, as SVG or PNG\n"
    "       heapkeeper tree [OPTIONS] [CAPTURE|PID]           the calls as a tree; in a terminal to move in\n"
    "       heapkeeper live [OPTIONS] [PID|CAPTURE]           the report of a running process, again and again\n"
    "       heapkeeper compare [OPTIONS] A.py B.py            runs two programs in turn: time, memory, the lines that differ\n"
    "       heapkeeper help [COMMAND]                         options\n"
    "       heapkeeper version\n";

static const char run_usage[] =
    "usage: heapkeeper run [OPTIONS] SCRIPT.py|-m MODULE|-c CODE|PROGRAM [ARGUMENTS]\n"
    "\n"
    "Starts the program in place of itself, unchanged but for its allocator, and records where its "
    "memory goes.\n"
    "\n"
    "  --exact             record every block of Python's, with its whole stack. This is the default, but\n"
    "                      for what --debug runs, and programs without Python\n"
    "  --sample[=BYTES]    record one allocation per BYTES on average (K, M: 64K, 1M; chosen by itself if\n"
    "                      not given): no slower than without, for production\n"
    "  --no-record         only the heap's own counters\n"
    "  --exact-lines       without Python's JIT (3.14, 3.15), of whose code lines may be 1 to 3 off: they have a ~\n"
    "  --tracemalloc       --exact, and the program's own `import tracemalloc` reads that record\n"
    "  --memory-profiler   the program's own `import memory_profiler` and `-m memory_profiler` are heapkeeper's\n"
    "  --lines[=PATTERN]   figures beside the source of functions, line by line, at the program's end: those of the\n"
    "                      main script, or shop.put, Cart.add, shop.py:*, shop.*; several with commas\n"
    "  --lines-output FILE to FILE: text, or as it ends in .html or .json\n"
    "  --rss               with --lines: what the resident size rose by, too\n"
    "  --native            memory of the C library's malloc, too, with the Python lines that cause it, and in all\n"
    "                      children; of a program without Python it is recorded always\n"
    "  --native-stacks     with the callers of the functions that call malloc; for Python, --native "
    "as well\n"
    "  --keep-children     a capture of each process of the run; else small ones that ended well are summed up\n"
    "  --bound SIZE        a capture of at most so many bytes (default 8M, of every block 64M): a program with more call sites has\n"
    "                      the stacks of the later ones cut\n"
    "  --geometry NAME     sizes of arenas, pools and blocks: default, or guide (256 KiB, 4 KiB, 8 "
    "to 512\n"
    "                      bytes in eights); guide,align=16 aligns every block to 16 bytes\n"
    "  --debug             find misuse of memory by C code (overflow, double free, use after free, "
    "wrong\n"
    "                      domain): say where the block is from, and abort\n"
    "  -o, --output FILE   write the capture to FILE (further processes: FILE.PID); /dev/null "
    "keeps nothing\n"
    "  -f, --force         write over an existing FILE\n"
    "  -q, --quiet         say nothing on a terminal, either\n"
    "  --python PYTHON     the Python for a script, -m and -c; else the one beside this command, "
    "else\n"
    "                      $VIRTUAL_ENV's, else python3 on PATH\n"
    "\n"
    "Captures go to $HEAPKEEPER_DIR, else $XDG_RUNTIME_DIR/heapkeeper, else "
    "/dev/shm/heapkeeper-UID.\n";

static const char report_usage[] = "usage: heapkeeper report [OPTIONS] [CAPTURE|PID]\n"
                                   "\n"
                                   "Says where the memory went: what grows, what is large, the "
                                   "heap, what is outside it. Without CAPTURE\n"
                                   "or PID the newest run is shown. The program may still be running.\n"
                                   "\n"
                                   "  --json              everything, for programs\n"
                                   "  --html              one HTML file with the curve of memory and the flame graph; its name is\n"
                                   "                      PROGRAM-PID.report.html, here, unless -o\n"
                                   "  -o, --output FILE   write to FILE; - is standard output\n"
                                   "  -f, --force         write over an existing FILE\n"
                                   "  --pid PID           another process of the same run\n"
                                   "  --top N             lines in each list (default 10)\n"
                                   "  --color WHEN        auto, always, never\n";

static const char blocks_usage[] =
    "usage: heapkeeper blocks [OPTIONS] [CAPTURE|PID]\n"
    "\n"
    "Shows the heap: arenas, pools and blocks by state, per size class, and what is lost where. Of a "
    "running\n"
    "process its memory is read, without stopping it; of one that has ended or was killed, the last "
    "map in its\n"
    "capture. Without CAPTURE or PID: the newest run.\n"
    "\n"
    "  --heap NAME         one heap only (raw, mem, object, ...)\n"
    "  --class BYTES       one size class: how full its pools are, and where they lie\n"
    "  --arena N           one arena, a row for each pool\n"
    "  --pool N.M          pool M of arena N, a character for each block; also --pool 0xADDRESS: "
    "the pool of a block\n"
    "  --all               all arenas, however many\n"
    "  --stored            the map in the capture, also of a running process\n"
    "  --json              everything, for programs\n"
    "  --color WHEN        auto, always, never\n";

static const char table_usage[] =
    "usage: heapkeeper table [OPTIONS] [CAPTURE|PID]\n"
    "\n"
    "One row for each line of source, or each function, file, module, domain, size or thread, with what it has live, had at\n"
    "the peak and allocated in total. What is not shown is summed up as \"others\". Without CAPTURE or PID: the newest\n"
    "run.\n"
    "\n"
    "  --by WORD           line (default), function, file, module, domain; size (the average block of each call path; what the\n"
    "                      heap has of each size class: heapkeeper blocks); thread, where every block was recorded\n"
    "  --sort WORD         live (default), peak, total, blocks, age (of what lives): the largest, or oldest, come\n"
    "                      first; where every block was recorded also temporary (freed soon), largest (block)\n"
    "  --filter PATTERN    only rows whose name has PATTERN in it; * is any text, ? any byte\n"
    "  --limit N           rows (default 20, with --json all); 0: all\n"
    "  --json              for programs\n"
    "  --color WHEN        auto, always, never\n";

static const char export_usage[] =
    "usage: heapkeeper export --format FORMAT [OPTIONS] [CAPTURE|PID]\n"
    "\n"
    "Writes the sites of a capture for other tools. Without CAPTURE or PID: the newest run.\n"
    "\n"
    "  --format FORMAT     collapsed   stacks for flame graphs: frames between semicolons, then bytes\n"
    "                      speedscope  for https://www.speedscope.app\n"
    "                      pprof       for `go tool pprof` (profile.proto, gzip)\n"
    "                      chrome      for Perfetto and chrome://tracing: counters over time, and stacks\n"
    "                      csv         a row a site\n"
    "                      json        a line a site, an object each\n"
    "  --of WORD           live (default), peak, total: the bytes of stacks, the order of rows\n"
    "  -o, --output FILE   write to FILE and not to standard output\n"
    "  -f, --force         write over an existing FILE\n";

static const char diff_usage[] =
    "usage: heapkeeper diff [OPTIONS] BEFORE AFTER\n"
    "       heapkeeper diff [OPTIONS] --from MOMENT [--to MOMENT] [CAPTURE|PID]\n"
    "\n"
    "What rose and what fell between two captures (or processes), or two moments of one (without CAPTURE: the newest run).\n"
    "Rows add up to the difference of the totals.\n"
    "\n"
    "  --from MOMENT       start (default), end, a share of the time (30%), a time since the start (@2.5, 300ms, 5min);\n"
    "  --to MOMENT         (default end) of some sixteen that a capture keeps the nearest is taken\n"
    "  --by WORD           line (default), function, file, module, domain, size, thread\n"
    "  --sort WORD         live (default), peak, total, blocks: the largest changes of it come first\n"
    "  --filter PATTERN    only rows whose name has PATTERN in it; * is any text, ? any byte\n"
    "  --limit N           rows (default 20, with --json all); 0: all that changed\n"
    "  --json              for programs\n"
    "  --color WHEN        auto, always, never\n";

static const char lines_usage[] =
    "usage: heapkeeper lines [OPTIONS] FILE [CAPTURE|PID]\n"
    "\n"
    "The source of one file, each line with what it has live, had at the peak and allocated. FILE is a path or the end of\n"
    "one: shop.py, web/views.py. Without CAPTURE or PID: the newest run.\n"
    "\n"
    "  --all               every line, not only those that allocated and some around them\n"
    "  --context N         how many of these (default 2)\n"
    "  --json              for programs\n"
    "  --color WHEN        auto, always, never\n";

static const char flame_usage[] =
    "usage: heapkeeper flame [OPTIONS] [CAPTURE|PID]\n"
    "\n"
    "Makes one HTML file that shows the stacks of a capture as nested boxes, as wide as the memory asked for in them: live at\n"
    "the end, at the peak, in total, and at moments of the run. It needs nothing but a browser. Without CAPTURE or PID: the\n"
    "newest run.\n"
    "\n"
    "  -o, --output FILE   write to FILE (default: PROGRAM-PID.flame.html, here); - is standard output\n"
    "  -f, --force         write over an existing FILE\n"
    "  --before CAPTURE    with the change since an earlier capture (or process) of the same program, in colours\n"
    "  --data FILE         the page of figures from elsewhere: JSON as the page holds it; - is standard input\n"
    "  --json              the tree, for programs; on standard output, unless -o\n";

static const char plot_usage[] =
    "usage: heapkeeper plot [OPTIONS] [CAPTURE|PID]\n"
    "\n"
    "Memory over time: what is live, what the heap has mapped, the resident size. Without CAPTURE or PID: the newest run.\n"
    "\n"
    "  --run               what is live in each process of the run, and in all together\n"
    "  -s, --slope         how fast each line rises or falls, with its 95 % interval, and that straight line (not in a PNG)\n"
    "  -o, --output FILE   write to FILE: a picture if it ends in .svg or .png\n"
    "  --format FORMAT     text, svg, png or json, whatever FILE ends in\n"
    "  -f, --force         write over an existing FILE\n"
    "  --height N          rows of the text (default 16)\n"
    "  --json              for programs\n"
    "  --color WHEN        auto, always, never\n";

static const char tree_usage[] =
    "usage: heapkeeper tree [OPTIONS] [CAPTURE|PID]\n"
    "\n"
    "The calls as a tree, the heaviest first. In a terminal one moves in it with the arrows (q quits); else it is text. Without\n"
    "CAPTURE or PID: the newest run.\n"
    "\n"
    "  -i, --inverted      who asked for memory first, below each those that called it\n"
    "  --of WORD           live (default), peak, total, blocks\n"
    "  -t, --text          text in a terminal, too; also with the next two\n"
    "  --depth N           so many calls deep\n"
    "  --min SHARE         only frames with as much of the whole (default 1%, with --json 0%)\n"
    "  --json              for programs\n"
    "  --color WHEN        auto, always, never\n";

static const char live_usage[] =
    "usage: heapkeeper live [OPTIONS] [PID|CAPTURE]\n"
    "\n"
    "The report of a running process, read anew every second. In a terminal it takes all of it (q quits); else it prints a report\n"
    "every interval until the process ends. Without PID or CAPTURE: the newest run.\n"
    "\n"
    "  -i, --interval S    seconds between reports (default 1)\n"
    "  --count N           so many reports\n"
    "  --top N             lines in each list (default 10)\n"
    "  --json              for programs: one document after another\n"
    "  --color WHEN        auto, always, never\n";

static const char compare_usage[] =
    "usage: heapkeeper compare [OPTIONS] A B\n"
    "       heapkeeper compare [OPTIONS] A [ARGUMENTS] -- B [ARGUMENTS]\n"
    "\n"
    "Runs two programs in turn, each as often without recording (time, resident size) as with it (peak, allocated, blocks), and\n"
    "shows medians and the lines that differ. A and B are what \"heapkeeper run\" takes, a script, -c CODE, -m MODULE or a program;\n"
    "with arguments for one of them, -- stands between the two. Their output is dropped.\n"
    "\n"
    "  -r, --runs N        of each (default 5)\n"
    "  --by WORD           line (default), function, file, module, domain, size: the rows of the difference\n"
    "  -n, --limit N       rows (default 10); 0: all\n"
    "  --sample[=BYTES]    record samples and not every block\n"
    "  --python PYTHON     the Python for scripts, -m and -c\n"
    "  --json              for programs\n"
    "  --color WHEN        auto, always, never\n";

int hk_cli_fail(int status, const char *format, ...)
{
    struct hk_terminal terminal;
    char text[2048], clean[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    hk_terminal_for(&terminal, stderr); /* names may hold anything, and this may be a terminal */
    fflush(stdout);
    fprintf(stderr, "heapkeeper: %s\n", hk_text_clean(&terminal, clean, sizeof clean, text));
    return status;
}

/* The subcommands; those that help tells options of. */
static const struct {
    const char *word, *usage;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", run_usage, hk_cli_run},          {"report", report_usage, hk_cli_report}, {"blocks", blocks_usage, hk_cli_blocks},
    {"table", table_usage, hk_cli_table},    {"export", export_usage, hk_cli_export}, {"diff", diff_usage, hk_cli_diff},
    {"lines", lines_usage, hk_cli_lines},    {"flame", flame_usage, hk_cli_flame},    {"plot", plot_usage, hk_cli_plot},
    {"tree", tree_usage, hk_cli_tree},       {"live", live_usage, hk_cli_live},       {"compare", compare_usage, hk_cli_compare},
};
#define COMMANDS (sizeof commands / sizeof commands[0])

static int help(const char *word)
{
    const char *text = word ? NULL : usage;
    for (size_t i = 0; word && i < COMMANDS; i++)
        if (strcmp(word, commands[i].word) == 0)
            text = commands[i].usage;
    if (!text && strcmp(word, "help") != 0 && strcmp(word, "version") != 0)
        return hk_cli_fail(HK_EXIT_USAGE, "help: unknown command \"%s\"; see \"heapkeeper help\"", word);
    fputs(text ? text : usage, stdout);
    return hk_cli_written("help");
}

int hk_cli_bad_option(int argc, char **argv, int result)
{
    const char *word = optind > 0 && optind <= argc ? argv[optind - 1] : "";
    char letter[3] = {'-', (char)optopt, 0};
    bool is_long = word[0] == '-' && word[1] == '-', is_help = is_long ? strcmp(word, "--help") == 0 : optopt == 'h';

    if (result == '?' && is_help)
        exit(help(argv[0]));
    if (result == ':')
        return hk_cli_fail(HK_EXIT_USAGE, "%s: option %s needs a value; see \"heapkeeper help %s\"",
                           argv[0], is_long ? word : letter, argv[0]);
    if (is_long && optopt) /* there is one of this name */
        return hk_cli_fail(HK_EXIT_USAGE, "%s: option %.*s takes no value; see \"heapkeeper help %s\"", argv[0], (int)strcspn(word, "="), word, argv[0]);
    return hk_cli_fail(HK_EXIT_USAGE, "%s: unknown option %s; see \"heapkeeper help %s\"", argv[0],
                       is_long || !optopt ? word : letter, argv[0]);
}

static int version(void)
{
    puts("heapkeeper " HK_VERSION);
    return hk_cli_written("version");
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, "");
    if (argc < 2) {
        fputs(usage, stderr);
        return HK_EXIT_USAGE;
    }
    const char *word = argv[1];
    if (argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0))
        return help(word);
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(word, commands[i].word) == 0)
            return commands[i].run(argc - 1, argv + 1);
    if (strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        return help(argv[2]);
    if (strcmp(word, "version") == 0 || strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0)
        return version();
    return hk_cli_fail(HK_EXIT_USAGE, "unknown %s \"%s\"; see \"heapkeeper help\"",
                       word[0] == '-' ? "option" : "command", word);
}
