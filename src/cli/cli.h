/* The command: one function a subcommand, each in a file of its own.
 *
 * Exit status: 0 done, 1 it could not be done (a line on stderr says why), 2 the command line is
 * wrong.
 */
#ifndef HK_CLI_CLI_H
#define HK_CLI_CLI_H

#define HK_EXIT_FAILURE 1
#define HK_EXIT_USAGE   2

/* `argv[0]` is the subcommand's name. */
int hk_cli_run(int argc, char **argv); /* does not return when the program was started */
int hk_cli_report(int argc, char **argv);
int hk_cli_blocks(int argc, char **argv);

/* "heapkeeper: " and one line on stderr; returns `status`. */
int hk_cli_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Says which option getopt_long stumbled over; returns HK_EXIT_USAGE. */
int hk_cli_bad_option(int argc, char **argv, int result);

#endif
