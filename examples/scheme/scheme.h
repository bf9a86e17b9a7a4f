/* A small Scheme on the runtime: closures, cycles, proper tail calls, recursion as deep as memory goes.
 *
 *      cc -std=gnu11 -O2 *.c $(pkg-config --cflags --libs heapkeeper) -lm -o scheme
 *      ./scheme                         a prompt
 *      ./scheme tests.scm               files, one after the other
 *      ./scheme --random 600 [SEED]     for 600 seconds programs at random: each must give what it should, and leave nothing
 *      heapkeeper run ./scheme x.scm    its functions and lines are the stacks of the report
 *
 * What a program has is objects of the runtime: numbers, strings, booleans and vectors (lists there) are basic types; pairs,
 * symbols, closures and environments are types of our own, each a table of a few words that says where its references stand.
 * Nothing is freed by hand: what is no longer referred to dies at once, and the collector finds the cycles, of which there are
 * many, since a function that calls itself is one (closure -> environment -> closure).
 *
 * The convention of all functions here: arguments are borrowed and results are new references, unless a comment says otherwise; NULL or
 * false is an error, described in scheme.error, or lack of memory if nothing stands there. */
#ifndef SCHEME_H
#define SCHEME_H

#include <heapkeeper/frame.h>
#include <heapkeeper/gc.h>
#include <heapkeeper/values.h>

struct pair {
    hk_object head;
    hk_object *car, *cdr;
    uint32_t line; /* in the source; 0: made by the program */
    uint32_t code; /* of an expression that makes a closure: number of its hk_code; 0: none yet */
};

struct symbol {
    hk_object head;
    hk_object *name; /* str */
    int form;        /* of quote, if, ...: enum form in eval.c; otherwise 0 */
};

struct env {
    hk_object head;
    hk_object *variables, *parent; /* dict by symbol; NULL: the outermost */
};

struct closure {
    hk_object head;
    hk_object *parameters, *body, *env;
    const hk_code *code;
};

struct scheme;
typedef hk_object *primitive_function(struct scheme *s, hk_object *arguments); /* a list: the primitive, then the arguments */

struct primitive {
    hk_object head;
    primitive_function *function;
    const char *name;
    size_t least, most; /* arguments */
};

struct scheme {
    hk_runtime *runtime;
    hk_object *symbols, *global; /* dict of str -> symbol; the outermost environment */
    const char *file;            /* borrowed for ever, since a recorder keeps it */
    const hk_code **codes;       /* one for each function, file and line; number 0 is the top level */
    uint32_t codes_count;
    uint64_t steps; /* until it is stopped; 0: never */
    char error[200];
};

extern hk_type nil_type, pair_type, symbol_type, env_type, closure_type, primitive_type;
extern hk_object nil; /* immortal */

static inline bool is_pair(const hk_object *object)
{
    return hk_is(object, &pair_type);
}

/* Of what is known to be a pair; borrowed. */
static inline hk_object *car(const hk_object *object)
{
    return ((const struct pair *)object)->car;
}

static inline hk_object *cdr(const hk_object *object)
{
    return ((const struct pair *)object)->cdr;
}

/* text.c */
hk_object *fail(struct scheme *s, const char *format, ...) __attribute__((format(printf, 2, 3))); /* NULL */
hk_object *fail_at(struct scheme *s, const char *what, const hk_object *object);                   /* NULL */
/* Takes both references over, whatever it returns; if one is NULL, so is the result. */
hk_object *cons(struct scheme *s, hk_object *first, hk_object *rest);
hk_object *intern(struct scheme *s, const char *name);
const char *symbol_text(const hk_object *symbol); /* borrowed */

struct reader {
    const char *at;
    uint32_t line;
    int depth;
    bool is_end;        /* there was nothing more: that is why it returned NULL */
    bool is_incomplete; /* the text ended inside of a datum */
};

hk_object *read_datum(struct scheme *s, struct reader *reader);
hk_object *written(struct scheme *s, const hk_object *object, bool is_quoted); /* a str */

/* eval.c */
bool eval_begin(struct scheme *s);
hk_object *env_new(struct scheme *s, hk_object *parent); /* parent may be NULL */
bool env_define(struct scheme *s, hk_object *env, hk_object *symbol, hk_object *value);
hk_object *evaluate(struct scheme *s, hk_object *expr, hk_object *env);

/* primitives.c */
bool primitives_begin(struct scheme *s);

/* random.c */
int random_programs(struct scheme *s, unsigned seconds, uint64_t seed); /* exit status */

/* main.c */
bool run_text(struct scheme *s, const char *text, hk_object *env, hk_object **value); /* value: of the last; may be NULL */

#endif
