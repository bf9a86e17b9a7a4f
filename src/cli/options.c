/* See options.h. */
#include "cli/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

enum { MOST = 24, FIRST = 256 }; /* options of a command; what getopt_long returns for the first of them */

bool hk_cli_number(const char *text, void *number)
{
    char *end;
    errno = 0;
    *(size_t *)number = strtoul(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && errno == 0;
}

bool hk_cli_count(const char *text, void *number)
{
    return hk_cli_number(text, number) && *(size_t *)number != 0;
}

bool hk_cli_bytes(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "KMG";
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (end == text || text[0] == '-' || text[0] == '+' || errno)
        return false;
    const char *suffix = *end ? strchr(suffixes, *end & ~0x20) : NULL;
    unsigned shift = suffix ? 10 * (unsigned)(suffix - suffixes + 1) : 0;
    if (suffix)
        end++;
    if (suffix && strcmp(end, "iB") == 0)
        end += 2;
    else if (suffix && *end == 'B')
        end++;
    if (*end || value == 0 || value > (UINT64_MAX >> 1) >> shift)
        return false;
    *bytes = value << shift;
    return true;
}

size_t hk_cli_limit(size_t limit, bool json, size_t rows)
{
    return limit != HK_NOT_GIVEN ? limit : json ? 0 : rows;
}

static int take(const char *command, const struct hk_option *o, const char *value)
{
    char name[40] = "--";
    strncat(name, o->name, sizeof name - 3);
    switch (o->kind) {
    case HK_OPTION_FLAG:
        *o->to.flag = true;
        return 0;
    case HK_OPTION_TEXT:
        *o->to.text = value;
        return o->needs && !*value ? hk_cli_fail(HK_EXIT_USAGE, "%s: %s %s", command, name, o->needs) : 0;
    case HK_OPTION_MAYBE:
        *o->to.text = value ? value : "";
        return value && !*value ? hk_cli_fail(HK_EXIT_USAGE, "%s: option %s= needs a value; see \"heapkeeper help %s\"", command, name, command) : 0;
    case HK_OPTION_WORD:
        *o->to.word = hk_cli_choice(command, name, value, o->words);
        return *o->to.word < 0 ? HK_EXIT_USAGE : 0;
    case HK_OPTION_COLOUR:
        *o->to.text = value;
        return hk_cli_choice(command, name, value, hk_cli_colour_words) < 0 ? HK_EXIT_USAGE : 0;
    default:
        return o->parse(value, o->to.value) ? 0 : hk_cli_fail(HK_EXIT_USAGE, "%s: %s %s, not \"%s\"", command, name, o->needs, value);
    }
}

/* What a program to run may begin with, and what would be an option else: -c CODE, -m MODULE. */
static bool begins_program(const char *word)
{
    return word && word[0] == '-' && (word[1] == 'c' || word[1] == 'm');
}

int hk_cli_options(int argc, char **argv, const struct hk_option *options)
{
    struct option known[MOST + 2] = {{.name = NULL}};
    char letters[2 * MOST + 3], *letter = letters;
    int count = 0, entries = 0, found;
    while (options[count].name)
        count++;
    if (options[count].letter == '+')
        *letter++ = '+';
    *letter++ = ':';
    for (int i = 0; i < count && i < MOST; i++) {
        const struct hk_option *o = &options[i];
        int takes = o->kind == HK_OPTION_FLAG ? no_argument : o->kind == HK_OPTION_MAYBE ? optional_argument : required_argument;
        known[entries++] = (struct option){o->name, takes, NULL, FIRST + i};
        if (o->kind == HK_OPTION_COLOUR)
            known[entries++] = (struct option){"colour", takes, NULL, FIRST + i};
        if (o->letter) {
            *letter++ = o->letter;
            if (takes == required_argument)
                *letter++ = ':';
        }
    }
    *letter = 0;
    opterr = 0;
    bool stops = letters[0] == '+';
    while (!(stops && begins_program(argv[optind])) && (found = getopt_long(argc, argv, letters, known, NULL)) != -1) {
        if (found == '?' || found == ':')
            return hk_cli_bad_option(argc, argv, found);
        int i = found - FIRST;
        for (int k = 0; found < FIRST && k < count; k++)
            if (options[k].letter == found)
                i = k;
        int status = take(argv[0], &options[i], optarg);
        if (status)
            return status;
    }
    return 0;
}

int hk_cli_target(int argc, char **argv, const char *what, const char **target)
{
    if (argc - optind > 1)
        return hk_cli_fail(HK_EXIT_USAGE, "%s: one %s at a time, not \"%s\" too", argv[0], what, argv[optind + 1]);
    *target = argv[optind];
    return *target && !**target ? hk_cli_fail(HK_EXIT_USAGE, "%s: the name of the %s is empty", argv[0], what) : 0;
}
