/* The options of the commands that show something: each has a table of them, and one loop reads the command line.
 *
 *      const struct hk_option options[] = {HK_FLAG("json", 'j', &o->json), HK_TEXT("filter", 0, &o->filter), HK_NO_OPTION};
 *      int status = hk_cli_options(argc, argv, options);      0, or a line on stderr has said what is wrong
 *
 * A letter of 0: the option has none. Words are borrowed from argv; from optind on are those that are no options. Options may come after
 * them, but where `HK_STOP_AT_WORD` ends the table: the words are another program's, which may be `-c CODE` or `-m MODULE`. */
#ifndef HK_CLI_OPTIONS_H
#define HK_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hk_option {
    const char *name;
    char letter;
    enum { HK_OPTION_FLAG, HK_OPTION_TEXT, HK_OPTION_MAYBE, HK_OPTION_WORD, HK_OPTION_COLOUR, HK_OPTION_VALUE } kind;
    union {
        bool *flag;
        const char **text;
        int *word; /* its place in `words` */
        void *value;
    } to;
    const char *const *words; /* NULL ends them */
    bool (*parse)(const char *text, void *value);
    const char *needs; /* says of a value that `parse` refuses, of a text that is empty: "needs a number of rows" */
};

#define HK_FLAG(NAME, LETTER, TO) {.name = NAME, .letter = LETTER, .kind = HK_OPTION_FLAG, .to.flag = TO}
#define HK_TEXT(NAME, LETTER, TO) {.name = NAME, .letter = LETTER, .kind = HK_OPTION_TEXT, .to.text = TO}
#define HK_FILE(NAME, LETTER, TO) {.name = NAME, .letter = LETTER, .kind = HK_OPTION_TEXT, .to.text = TO, .needs = "needs the name of a file"}
#define HK_MAYBE(NAME, TO) {.name = NAME, .kind = HK_OPTION_MAYBE, .to.text = TO} /* --NAME or --NAME=TEXT; "" without TEXT */
#define HK_WORD(NAME, TO, WORDS) {.name = NAME, .kind = HK_OPTION_WORD, .to.word = TO, .words = WORDS}
#define HK_COLOUR(TO) {.name = "color", .kind = HK_OPTION_COLOUR, .to.text = TO} /* --colour, too; a word for hk_cli_terminal */
#define HK_VALUE(NAME, LETTER, TO, PARSE, NEEDS)                                                                                       \
    {.name = NAME, .letter = LETTER, .kind = HK_OPTION_VALUE, .to.value = TO, .parse = PARSE, .needs = NEEDS}
#define HK_NO_OPTION {.name = NULL}
#define HK_STOP_AT_WORD {.name = NULL, .letter = '+'}

#define HK_NOT_GIVEN ((size_t)-1) /* of numbers, where the command says so */

int hk_cli_options(int argc, char **argv, const struct hk_option *options);

/* The one word that may be left, NULL if there is none; more, or "", are refused: "one WHAT at a time". */
int hk_cli_target(int argc, char **argv, const char *what, const char **target);

/* For HK_VALUE: decimal digits and nothing else, to a size_t. */
bool hk_cli_number(const char *text, void *number);
bool hk_cli_count(const char *text, void *number); /* the same, not 0 */

/* "64K", "1M", "4096". False if it is no number of bytes, or 0. */
bool hk_cli_bytes(const char *text, uint64_t *bytes);

/* Rows to show: as many as --limit said, else all in JSON, else `rows`; 0 is all. */
size_t hk_cli_limit(size_t limit, bool json, size_t rows);

#endif
