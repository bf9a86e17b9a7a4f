/* The command: one function a subcommand, each in a file of its own.
 *
 * Exit status: 0 done, 1 it could not be done (a line on stderr says why), 2 the command line is
 * wrong.
 */
#ifndef HK_CLI_CLI_H
#define HK_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>

struct hk_capture;
struct hk_terminal;

#define HK_EXIT_FAILURE 1
#define HK_EXIT_USAGE   2

/* `argv[0]` is the subcommand's name. */
int hk_cli_run(int argc, char **argv); /* does not return when the program was started */
int hk_cli_report(int argc, char **argv);
int hk_cli_blocks(int argc, char **argv);
int hk_cli_table(int argc, char **argv);
int hk_cli_export(int argc, char **argv);
int hk_cli_diff(int argc, char **argv);
int hk_cli_compare(int argc, char **argv);
int hk_cli_live(int argc, char **argv);
int hk_cli_tree(int argc, char **argv);
int hk_cli_plot(int argc, char **argv);
int hk_cli_lines(int argc, char **argv);
int hk_cli_flame(int argc, char **argv);

/* "heapkeeper: " and one line on stderr; returns `status`. */
int hk_cli_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Says which option getopt_long stumbled over; returns HK_EXIT_USAGE. It was --help or -h: shows that and ends. */
int hk_cli_bad_option(int argc, char **argv, int result);

/* The index of `word` in `words`, a list that NULL ends; -1 if it is not one of them, then a line on stderr names them. */
int hk_cli_choice(const char *command, const char *option, const char *word, const char *const *words);

extern const char *const hk_cli_colour_words[]; /* of --color */
extern const char *const hk_cli_sort_words[];   /* those of hk_sort_words that all captures have */

/* Standard output, with --color's word (NULL: not given). */
void hk_cli_terminal(struct hk_terminal *terminal, const char *colour);

/* Flushes standard output; the exit status, having said that "the WHAT could not be written" if it could not. */
int hk_cli_written(const char *what);

/* Opens what `target` names: a capture, the process with that number, or, if NULL, the newest run, of which it is the
 * process that `heapkeeper report` shows. The caller closes it. NULL: a line on stderr has said why. */
struct hk_capture *hk_cli_open(const char *target);

/* The process that `target` names: a number that is no file's name. 0: none. */
int hk_cli_pid(const char *target);

#endif
