/* Reading and writing. */
#include "scheme.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

hk_type nil_type = {.name = "nil", .size = sizeof(hk_object), .flags = HK_TYPE_ACYCLIC};
hk_type pair_type = {.name = "pair", .size = sizeof(struct pair), .pointers = 2 | 4};
hk_type symbol_type = {.name = "symbol", .size = sizeof(struct symbol), .flags = HK_TYPE_ACYCLIC, .pointers = 2};

hk_object nil;

hk_object *fail(struct scheme *s, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(s->error, sizeof(s->error), format, arguments);
    va_end(arguments);
    return NULL;
}

hk_object *fail_at(struct scheme *s, const char *what, const hk_object *object)
{
    hk_object *text = written(s, object, true);
    fail(s, "%s: %.150s", what, text != NULL ? hk_str_text(text) : "");
    hk_xdecref(s->runtime, text);
    return NULL;
}

hk_object *cons(struct scheme *s, hk_object *first, hk_object *rest)
{
    struct pair *pair = first != NULL && rest != NULL ? (struct pair *)hk_new(s->runtime, &pair_type) : NULL;
    if (pair == NULL) {
        hk_xdecref(s->runtime, first);
        hk_xdecref(s->runtime, rest);
        return NULL;
    }
    pair->car = first;
    pair->cdr = rest;
    return &pair->head;
}

hk_object *intern(struct scheme *s, const char *name)
{
    hk_object *text = hk_str_intern(s->runtime, name);
    hk_object *found = text != NULL ? hk_dict_get(s->symbols, text) : NULL;
    if (found != NULL) {
        hk_incref(found);
    } else if (text != NULL && (found = hk_new(s->runtime, &symbol_type)) != NULL) {
        ((struct symbol *)found)->name = hk_incref(text);
        if (!hk_dict_set(s->runtime, s->symbols, text, found))
            HK_CLEAR(s->runtime, found);
    }
    hk_xdecref(s->runtime, text);
    return found;
}

const char *symbol_text(const hk_object *symbol)
{
    return hk_str_text(((const struct symbol *)symbol)->name);
}

/* --- reading --- */

static void skip_blanks(struct reader *reader)
{
    for (;; reader->at++) {
        if (*reader->at == ';')
            reader->at += strcspn(reader->at, "\n");
        reader->line += *reader->at == '\n';
        if (*reader->at == '\0' || strchr(" \t\r\n", *reader->at) == NULL)
            return;
    }
}

static hk_object *read_list(struct scheme *s, struct reader *reader)
{
    hk_object *first = NULL, **end = &first; /* where the next pair goes */
    for (;;) {
        skip_blanks(reader);
        if (*reader->at == ')') {
            reader->at++;
            *end = &nil;
            return first;
        }
        bool is_dotted = end != &first && strncmp(reader->at, ". ", 2) == 0;
        reader->at += is_dotted;
        uint32_t line = reader->line;
        hk_object *datum = read_datum(s, reader);
        if (datum != NULL && is_dotted) {
            *end = datum;
            skip_blanks(reader);
            if (*reader->at++ == ')')
                return first;
            fail(s, "line %u: no ) after the datum behind a dot", line);
            break;
        }
        *end = cons(s, datum, &nil);
        if (*end == NULL) {
            *end = &nil;
            break;
        }
        ((struct pair *)*end)->line = line;
        end = &((struct pair *)*end)->cdr;
    }
    hk_decref(s->runtime, first);
    return NULL;
}

static hk_object *read_string(struct scheme *s, struct reader *reader)
{
    hk_builder builder;
    uint32_t line = reader->line;
    hk_builder_begin(&builder, s->runtime, 0);
    while (*++reader->at != '"' && *reader->at != '\0') {
        reader->line += *reader->at == '\n';
        bool is_escape = *reader->at == '\\' && reader->at[1] != '\0';
        reader->at += is_escape;
        hk_builder_add(&builder, is_escape && *reader->at == 'n' ? "\n" : reader->at, 1);
    }
    hk_object *text = hk_builder_finish(&builder);
    if (*reader->at == '"') {
        reader->at++;
        return text;
    }
    hk_xdecref(s->runtime, text);
    reader->is_incomplete = true;
    return fail(s, "line %u: a string without end", line);
}

static hk_object *read_atom(struct scheme *s, struct reader *reader)
{
    char text[128], *end;
    size_t size = strcspn(reader->at, " \t\r\n()\";'");
    if (size == 0 || size >= sizeof(text))
        return fail(s, "line %u: no datum: %.10s", reader->line, reader->at);
    memcpy(text, reader->at, size);
    text[size] = '\0';
    reader->at += size;
    if (strcmp(text, "#t") == 0 || strcmp(text, "#f") == 0)
        return hk_bool(text[1] == 't');
    errno = 0;
    int64_t integer = strtoll(text, &end, 10);
    if (*end == '\0' && errno == 0)
        return hk_int(s->runtime, integer);
    double real = strtod(text, &end);
    if (*end == '\0' && strpbrk(text, "0123456789") != NULL) /* inf and nan are names */
        return hk_float(s->runtime, real);
    return intern(s, text);
}

hk_object *read_datum(struct scheme *s, struct reader *reader)
{
    hk_object *datum;
    skip_blanks(reader);
    uint32_t line = reader->line;
    if (*reader->at == '\0') {
        *(reader->depth > 0 ? &reader->is_incomplete : &reader->is_end) = true;
        return fail(s, "line %u: the end, and a ) is missing", line);
    }
    if (reader->depth == 1000)
        return fail(s, "line %u: nested too deep", line);
    reader->depth++;
    if (*reader->at == '(') {
        reader->at++;
        datum = read_list(s, reader);
    } else if (*reader->at == '\'') {
        reader->at++;
        datum = cons(s, intern(s, "quote"), cons(s, read_datum(s, reader), &nil));
    } else {
        datum = *reader->at == '"' ? read_string(s, reader) : read_atom(s, reader);
    }
    reader->depth--;
    if (datum != NULL && is_pair(datum))
        ((struct pair *)datum)->line = line;
    return datum;
}

/* --- writing: of a list at most 1000 items, and 100 deep, since it may be a circle --- */

static void write_datum(hk_builder *out, const hk_object *object, bool is_quoted, int depth);

static void add(hk_builder *out, const char *text)
{
    hk_builder_add(out, text, strlen(text));
}

static void write_list(hk_builder *out, const hk_object *object, bool is_quoted, int depth)
{
    for (int count = 0; is_pair(object) && count < 1000; object = cdr(object)) {
        add(out, count++ > 0 ? " " : "");
        write_datum(out, car(object), is_quoted, depth);
    }
    if (object == &nil)
        return;
    add(out, " . ");
    if (is_pair(object))
        add(out, "...");
    else
        write_datum(out, object, is_quoted, depth);
}

static void write_number(hk_builder *out, const hk_object *object)
{
    char text[64];
    if (hk_is(object, &hk_int_type))
        snprintf(text, sizeof(text), "%" PRId64, hk_int_value(object));
    else if (fabs(hk_float_value(object)) < 1e15 && hk_float_value(object) == rint(hk_float_value(object)))
        snprintf(text, sizeof(text), "%.1f", hk_float_value(object));
    else
        snprintf(text, sizeof(text), "%.15g", hk_float_value(object));
    add(out, text);
}

static void write_datum(hk_builder *out, const hk_object *object, bool is_quoted, int depth)
{
    if (depth > 100) {
        add(out, "...");
    } else if (object == &nil || is_pair(object)) {
        add(out, "(");
        write_list(out, object, is_quoted, depth + 1);
        add(out, ")");
    } else if (hk_is(object, &hk_int_type) || hk_is(object, &hk_float_type)) {
        write_number(out, object);
    } else if (hk_is(object, &hk_bool_type)) {
        add(out, object == hk_bool(true) ? "#t" : "#f");
    } else if (hk_is(object, &hk_str_type)) {
        add(out, is_quoted ? "\"" : "");
        hk_builder_add_str(out, object);
        add(out, is_quoted ? "\"" : "");
    } else if (hk_is(object, &symbol_type)) {
        add(out, symbol_text(object));
    } else if (hk_is(object, &hk_list_type)) {
        add(out, "#(");
        for (size_t i = 0; i < hk_list_count(object) && i < 1000; i++) {
            add(out, i > 0 ? " " : "");
            write_datum(out, hk_list_get(object, i), is_quoted, depth + 1);
        }
        add(out, ")");
    } else {
        add(out, "#<");
        add(out, hk_type_of(object)->name);
        add(out, ">");
    }
}

hk_object *written(struct scheme *s, const hk_object *object, bool is_quoted)
{
    hk_builder out;
    hk_builder_begin(&out, s->runtime, 0);
    write_datum(&out, object, is_quoted, 0);
    return hk_builder_finish(&out);
}
