/* The prompt, files, and how it all begins and ends. */
#include "scheme.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool run_text(struct scheme *s, const char *text, hk_object *env, hk_object **value)
{
    struct reader reader = {.at = text, .line = 1};
    for (;;) {
        hk_object *expr = read_datum(s, &reader);
        if (expr == NULL)
            return reader.is_end;
        hk_object *result = evaluate(s, expr, env);
        hk_decref(s->runtime, expr);
        if (result == NULL)
            return false;
        if (value != NULL)
            hk_set(s->runtime, value, result);
        else
            hk_decref(s->runtime, result);
    }
}

/* The whole file, with a NUL behind it; NULL: it cannot be read. */
static char *file_text(FILE *file)
{
    char *text = NULL;
    size_t size = 0, capacity = 0, got;
    if (file == NULL)
        return NULL;
    do {
        if (size + 4096 > capacity) {
            char *more = realloc(text, capacity = 2 * capacity + 8192);
            if (more == NULL) {
                free(text);
                return NULL;
            }
            text = more;
        }
        got = fread(text + size, 1, capacity - size - 1, file);
        size += got;
    } while (got > 0);
    text[size] = '\0';
    return text;
}

static bool run_file(struct scheme *s, const char *name)
{
    FILE *file = fopen(name, "r");
    char *text = file_text(file);
    bool is_good = text != NULL;
    s->file = name;
    if (!is_good)
        fprintf(stderr, "%s: cannot be read\n", name);
    else if (!(is_good = run_text(s, text, s->global, NULL)))
        fprintf(stderr, "%s: %s\n", name, s->error);
    free(text);
    if (file != NULL)
        fclose(file);
    return is_good;
}

/* Evaluates what stands in the text; *used: how much of it, up to where a datum is not complete yet. */
static void answer(struct scheme *s, const char *text, size_t *used)
{
    struct reader reader = {.at = text, .line = 1};
    for (;;) {
        hk_object *expr = read_datum(s, &reader);
        if (expr == NULL && reader.is_incomplete)
            return;
        if (expr == NULL && !reader.is_end)
            printf("error: %s\n", s->error);
        hk_object *value = expr != NULL ? evaluate(s, expr, s->global) : NULL;
        hk_object *out = value != NULL && value != hk_none() ? written(s, value, true) : NULL;
        if (out != NULL)
            printf("%s\n", hk_str_text(out));
        else if (expr != NULL && value == NULL)
            printf("error: %s\n", s->error);
        hk_xdecref(s->runtime, out);
        hk_xdecref(s->runtime, value);
        hk_xdecref(s->runtime, expr);
        *used = expr == NULL ? strlen(text) : (size_t)(reader.at - text); /* after what cannot be read, nothing is */
        if (expr == NULL)
            return;
    }
}

static void prompt(struct scheme *s)
{
    char *text = NULL, *line = NULL;
    size_t size = 0, capacity = 0, used;
    ssize_t got;
    bool is_terminal = isatty(STDIN_FILENO);
    s->file = "prompt";
    printf("%s", is_terminal ? "> " : "");
    while (fflush(stdout), (got = getline(&line, &capacity, stdin)) > 0) {
        char *more = realloc(text, size + (size_t)got + 1);
        if (more == NULL)
            break;
        text = more;
        memcpy(text + size, line, (size_t)got + 1);
        size += (size_t)got;
        used = 0;
        answer(s, text, &used);
        memmove(text, text + used, size - used + 1);
        size -= used;
        printf("%s", !is_terminal ? "" : size > 0 ? ". " : "> ");
    }
    free(line);
    free(text);
}

static void end(struct scheme *s)
{
    HK_CLEAR(s->runtime, s->global);
    HK_CLEAR(s->runtime, s->symbols);
    hk_runtime_destroy(s->runtime);
    for (uint32_t i = 0; i < s->codes_count; i++)
        free((void *)s->codes[i]);
    free(s->codes);
}

int main(int argc, char **argv)
{
    struct scheme s = {.runtime = hk_runtime_create(NULL), .file = "scheme"};
    int status = 0;
    if (s.runtime == NULL || !eval_begin(&s) || !primitives_begin(&s)) {
        fprintf(stderr, "scheme: it does not begin: %s\n", s.error);
        return 1;
    }
    hk_frame_set_limit(s.runtime, 10000000); /* some GiB: an endless recursion is an error before it is a full memory */
    if (argc > 2 && strcmp(argv[1], "--random") == 0)
        status = random_programs(&s, (unsigned)atoi(argv[2]), argc > 3 ? strtoull(argv[3], NULL, 10) : 1);
    else if (argc > 1)
        for (int i = 1; i < argc && status == 0; i++)
            status = !run_file(&s, argv[i]);
    else
        prompt(&s);
    end(&s);
    return status;
}
