/* The evaluator is a loop. It evaluates an expression, or gives a value to whoever waits for it: what is to be done later, such
 * as the rest of a call's arguments, waits in a frame of the runtime. So the C stack stays flat, what a frame holds is given up
 * on every way out, and after an error the frames are just popped.
 *
 * A frame is popped before its last expression is evaluated: tail calls take no room. It bears the name of the function that the
 * waiting expression stands in, and its line: `heapkeeper run` shows them. */
#include "scheme.h"

#include <stdlib.h>
#include <string.h>

hk_type env_type = {.name = "env", .size = sizeof(struct env), .pointers = 2 | 4};
hk_type closure_type = {.name = "closure", .size = sizeof(struct closure), .pointers = 2 | 4 | 8};
hk_type primitive_type = {.name = "primitive", .size = sizeof(struct primitive), .flags = HK_TYPE_ACYCLIC};

enum form { NO_FORM, QUOTE, IF, DEFINE, SET, LAMBDA, BEGIN, LET, LETREC, COND, AND, OR, FORMS };

static const char *const form_names[FORMS] = {NULL,     "quote", "if",  "define", "set!", "lambda", "begin",
                                              "let",    "letrec", "cond", "and",    "or"};

enum waiting { FOR_TEST, FOR_DEFINE, FOR_SET, FOR_BODY, FOR_CLAUSE, FOR_AND, FOR_OR, FOR_BINDING, FOR_ARGUMENT };
enum { WAITING, REST, ENV, VALUES, LOCALS }; /* a frame's */

struct machine {
    hk_object *expr, *env; /* to be evaluated; expr NULL: the value is there */
    hk_object *value;
    const hk_code *code; /* of the function that the expression stands in */
    uint32_t line;
};

/* --- environments --- */

hk_object *env_new(struct scheme *s, hk_object *parent)
{
    struct env *env = (struct env *)hk_new(s->runtime, &env_type);
    if (env == NULL)
        return NULL;
    env->parent = parent != NULL ? hk_incref(parent) : NULL;
    if ((env->variables = hk_dict(s->runtime)) != NULL)
        return &env->head;
    hk_decref(s->runtime, &env->head);
    return NULL;
}

bool env_define(struct scheme *s, hk_object *env, hk_object *symbol, hk_object *value)
{
    return hk_dict_set(s->runtime, ((struct env *)env)->variables, symbol, value);
}

/* The innermost dict with the variable, borrowed; NULL: there is none, which is an error. */
static hk_object *variables_with(struct scheme *s, const hk_object *env, const hk_object *symbol)
{
    for (const struct env *at = (const struct env *)env; at != NULL; at = (const struct env *)at->parent)
        if (hk_dict_get(at->variables, symbol) != NULL)
            return at->variables;
    return fail_at(s, "unbound", symbol);
}

/* Those of the list from number `from` on, in a Scheme list. */
static hk_object *rest_of(struct scheme *s, const hk_object *arguments, size_t from)
{
    hk_object *rest = &nil;
    for (size_t i = hk_list_count(arguments); i > from && rest != NULL; i--)
        rest = cons(s, hk_incref(hk_list_get(arguments, i - 1)), rest);
    return rest;
}

/* An environment in which the closure's parameters are the arguments: names, and perhaps one for all that are left. */
static hk_object *bind(struct scheme *s, const struct closure *closure, const hk_object *arguments)
{
    hk_object *env = env_new(s, closure->env), *name = closure->parameters;
    size_t next = 1, count = hk_list_count(arguments); /* the first is the closure */
    bool is_good = env != NULL;
    for (; is_good && is_pair(name) && next < count; name = cdr(name), next++)
        is_good = env_define(s, env, car(name), hk_list_get(arguments, next));
    if (is_good && hk_is(name, &symbol_type)) {
        hk_object *rest = rest_of(s, arguments, next);
        is_good = rest != NULL && env_define(s, env, name, rest);
        hk_xdecref(s->runtime, rest);
    } else if (is_good && (name != &nil || next < count)) {
        is_good = fail(s, "%s: wrong number of arguments: %zu", closure->code->function, count - 1) != NULL;
    }
    if (env != NULL && !is_good)
        HK_CLEAR(s->runtime, env);
    return env;
}

/* --- where functions are defined --- */

static uint32_t code_make(struct scheme *s, const char *name, uint32_t line)
{
    const hk_code **codes = realloc(s->codes, (s->codes_count + 1) * sizeof(*codes));
    hk_code *code = malloc(sizeof(*code));
    if (codes != NULL)
        s->codes = codes;
    if (codes == NULL || code == NULL) {
        free(code);
        return 0;
    }
    *code = (hk_code){name, s->file, line};
    s->codes[s->codes_count] = code;
    return s->codes_count++;
}

static const hk_code *code_of(struct scheme *s, struct pair *expr, const char *name)
{
    for (uint32_t i = 1; i < s->codes_count && expr->code == 0; i++)
        if (s->codes[i]->function == name && s->codes[i]->line == expr->line && s->codes[i]->file == s->file)
            expr->code = i;
    if (expr->code == 0)
        expr->code = code_make(s, name, expr->line);
    return s->codes[expr->code];
}

/* expr: the pair that says so in the source. */
static hk_object *closure_new(struct scheme *s, hk_object *expr, hk_object *env, hk_object *parameters, hk_object *body,
                              const char *name)
{
    struct closure *closure = (struct closure *)hk_new(s->runtime, &closure_type);
    if (closure == NULL)
        return NULL;
    closure->parameters = hk_incref(parameters);
    closure->body = hk_incref(body);
    closure->env = hk_incref(env);
    closure->code = code_of(s, (struct pair *)expr, name);
    return &closure->head;
}

/* --- the machine's moves; each returns false after an error --- */

static bool malformed(struct scheme *s, const hk_object *what)
{
    fail_at(s, "malformed", what);
    return false;
}

static bool next(struct scheme *s, struct machine *m, hk_object *expr)
{
    hk_set(s->runtime, &m->expr, hk_incref(expr));
    return true;
}

/* Takes the value over; NULL: an error. */
static bool give(struct scheme *s, struct machine *m, hk_object *value)
{
    hk_set(s->runtime, &m->value, value);
    HK_CLEAR(s->runtime, m->expr);
    return value != NULL;
}

/* Goes on with the expression, and then with the rest. Takes `values` over, which may be NULL. */
static bool next_and_wait(struct scheme *s, struct machine *m, hk_object *expr, enum waiting waiting, hk_object *rest,
                          hk_object *values)
{
    hk_frame *frame = hk_frame_push(s->runtime, m->code, LOCALS);
    if (frame == NULL) {
        hk_xdecref(s->runtime, values);
        return false;
    }
    frame->line = m->line;
    frame->locals[WAITING] = hk_int(s->runtime, waiting); /* small, and so immortal */
    frame->locals[REST] = hk_incref(rest);
    frame->locals[ENV] = hk_incref(m->env);
    frame->locals[VALUES] = values;
    return next(s, m, expr);
}

static bool body(struct scheme *s, struct machine *m, hk_object *list)
{
    if (list == &nil)
        return give(s, m, hk_none());
    if (!is_pair(list))
        return malformed(s, list);
    return cdr(list) == &nil ? next(s, m, car(list)) : next_and_wait(s, m, car(list), FOR_BODY, cdr(list), NULL);
}

static bool define(struct scheme *s, struct machine *m, hk_object *symbol, hk_object *taken_over)
{
    bool is_good = taken_over != NULL && env_define(s, m->env, symbol, taken_over) && give(s, m, hk_none());
    hk_xdecref(s->runtime, taken_over);
    return is_good;
}

static bool assign(struct scheme *s, struct machine *m, hk_object *symbol)
{
    hk_object *variables = variables_with(s, m->env, symbol);
    return variables != NULL && hk_dict_set(s->runtime, variables, symbol, m->value) && give(s, m, hk_none());
}

/* The arguments are all there. The frame that has them is popped after a primitive has run, so that what that allocates is
 * its caller's, and before a closure's body is evaluated. */
static bool call(struct scheme *s, struct machine *m, hk_frame *frame)
{
    for (;;) {
        hk_object *arguments = frame->locals[VALUES], *function = hk_list_get(arguments, 0);
        size_t count = hk_list_count(arguments) - 1;
        if (hk_is(function, &primitive_type)) {
            const struct primitive *primitive = (const struct primitive *)function;
            if (count < primitive->least || count > primitive->most)
                return fail(s, "%s: wrong number of arguments: %zu", primitive->name, count) != NULL;
            if (!give(s, m, primitive->function(s, arguments)))
                return false;
            if (m->value == arguments) /* that was apply: they are the function and its arguments now */
                continue;
            hk_frame_pop(frame);
            return true;
        }
        if (!hk_is(function, &closure_type))
            return fail_at(s, "not a function", function) != NULL;
        struct closure *closure = (struct closure *)hk_incref(function);
        hk_object *env = bind(s, closure, arguments);
        if (env != NULL) {
            hk_set(s->runtime, &m->env, env);
            m->code = closure->code;
            hk_frame_pop(frame);
        }
        bool is_good = env != NULL && body(s, m, closure->body);
        hk_decref(s->runtime, &closure->head);
        return is_good;
    }
}

/* let: its values are evaluated one after the other, then bound in an environment of its own. rest: bindings and body. */
static bool let(struct scheme *s, struct machine *m, hk_object *rest, hk_object *values)
{
    hk_object *binding = car(rest), *env;
    for (size_t i = hk_list_count(values); i > 0 && is_pair(binding); i--)
        binding = cdr(binding);
    if (is_pair(binding)) {
        hk_object *one = car(binding);
        if (!is_pair(one) || !hk_is(car(one), &symbol_type) || !is_pair(cdr(one)))
            return malformed(s, one);
        return next_and_wait(s, m, car(cdr(one)), FOR_BINDING, rest, hk_incref(values));
    }
    if ((env = env_new(s, m->env)) == NULL)
        return false;
    hk_set(s->runtime, &m->env, env);
    binding = car(rest);
    for (size_t i = 0; i < hk_list_count(values); i++, binding = cdr(binding))
        if (!env_define(s, env, car(car(binding)), hk_list_get(values, i)))
            return false;
    return body(s, m, cdr(rest));
}

/* Names and initial expressions of bindings, as two lists in front of which nothing stands. */
static bool split(struct scheme *s, const hk_object *bindings, hk_object **names, hk_object **expressions)
{
    *names = *expressions = &nil;
    hk_object **name = names, **expression = expressions;
    for (; is_pair(bindings); bindings = cdr(bindings)) {
        hk_object *one = car(bindings);
        if (!is_pair(one) || !is_pair(cdr(one)))
            return malformed(s, one);
        hk_object *a = cons(s, hk_incref(car(one)), &nil), *b = cons(s, hk_incref(car(cdr(one))), &nil);
        if (a != NULL) {
            *name = a;
            name = &((struct pair *)a)->cdr;
        }
        if (b != NULL) {
            *expression = b;
            expression = &((struct pair *)b)->cdr;
        }
        if (a == NULL || b == NULL)
            return false;
    }
    return bindings == &nil || malformed(s, bindings);
}

/* A let with a name is a call of the function of that name, which stands in an environment of its own. rest: name, bindings, body. */
static bool named_let(struct scheme *s, struct machine *m, hk_object *rest)
{
    hk_object *names, *expressions, *name = car(rest), *function = NULL, *values = hk_list(s->runtime);
    hk_object *env = values != NULL ? env_new(s, m->env) : NULL;
    bool is_good = split(s, car(cdr(rest)), &names, &expressions) && env != NULL;
    if (is_good)
        function = closure_new(s, m->expr, env, names, cdr(cdr(rest)), symbol_text(name));
    is_good = function != NULL && env_define(s, env, name, function) && hk_list_append(s->runtime, values, function);
    if (is_good && expressions != &nil)
        is_good = next_and_wait(s, m, car(expressions), FOR_ARGUMENT, cdr(expressions), hk_incref(values));
    else if (is_good)
        is_good = next_and_wait(s, m, m->expr, FOR_ARGUMENT, &nil, hk_incref(values)) &&
                  call(s, m, hk_frame_current(s->runtime));
    hk_xdecref(s->runtime, function);
    hk_xdecref(s->runtime, env);
    hk_xdecref(s->runtime, values);
    hk_decref(s->runtime, names);
    hk_decref(s->runtime, expressions);
    return is_good;
}

/* letrec: definitions in an environment of its own. */
static bool letrec(struct scheme *s, struct machine *m, hk_object *bindings, hk_object *forms)
{
    hk_object *env = env_new(s, m->env), *list = hk_incref(forms);
    for (; env != NULL && list != NULL && is_pair(bindings); bindings = cdr(bindings))
        list = cons(s, cons(s, intern(s, "define"), hk_incref(car(bindings))), list);
    if (env != NULL)
        hk_set(s->runtime, &m->env, env);
    bool is_good = env != NULL && list != NULL && body(s, m, list);
    hk_xdecref(s->runtime, list);
    return is_good;
}

static bool cond(struct scheme *s, struct machine *m, hk_object *clauses)
{
    if (clauses == &nil)
        return give(s, m, hk_none());
    hk_object *clause = is_pair(clauses) ? car(clauses) : clauses;
    if (!is_pair(clause))
        return malformed(s, clauses);
    if (hk_is(car(clause), &symbol_type) && strcmp(symbol_text(car(clause)), "else") == 0)
        return body(s, m, cdr(clause));
    return next_and_wait(s, m, car(clause), FOR_CLAUSE, clauses, NULL);
}

static bool and_or(struct scheme *s, struct machine *m, enum form form, hk_object *rest)
{
    if (rest == &nil)
        return give(s, m, hk_bool(form == AND));
    if (!is_pair(rest))
        return malformed(s, rest);
    return cdr(rest) == &nil ? next(s, m, car(rest))
                             : next_and_wait(s, m, car(rest), form == AND ? FOR_AND : FOR_OR, cdr(rest), NULL);
}

static bool special(struct scheme *s, struct machine *m, enum form form, hk_object *rest)
{
    hk_object *first = is_pair(rest) ? car(rest) : NULL, *others = first != NULL ? cdr(rest) : NULL;
    bool has_two = others != NULL && is_pair(others), names_one = first != NULL && hk_is(first, &symbol_type);
    if (form == BEGIN)
        return body(s, m, rest);
    if (form == COND)
        return cond(s, m, rest);
    if (form == AND || form == OR)
        return and_or(s, m, form, rest);
    if (form == QUOTE && first != NULL)
        return give(s, m, hk_incref(first));
    if (form == LAMBDA && first != NULL)
        return give(s, m, closure_new(s, m->expr, m->env, first, others, "lambda"));
    if (form == IF && has_two)
        return next_and_wait(s, m, first, FOR_TEST, others, NULL);
    if (form == DEFINE && has_two && is_pair(first) && hk_is(car(first), &symbol_type))
        return define(s, m, car(first), closure_new(s, m->expr, m->env, cdr(first), others, symbol_text(car(first))));
    if ((form == DEFINE || form == SET) && has_two && names_one)
        return next_and_wait(s, m, car(others), form == DEFINE ? FOR_DEFINE : FOR_SET, first, NULL);
    if (form == LETREC && first != NULL)
        return letrec(s, m, first, others);
    if (form == LET && names_one && has_two)
        return named_let(s, m, rest);
    if (form == LET && first != NULL && !names_one) {
        hk_object *values = hk_list(s->runtime);
        bool is_good = values != NULL && let(s, m, rest, values);
        hk_xdecref(s->runtime, values);
        return is_good;
    }
    return malformed(s, m->expr);
}

static bool step_evaluate(struct scheme *s, struct machine *m)
{
    hk_object *expr = m->expr;
    if (hk_is(expr, &symbol_type)) {
        hk_object *variables = variables_with(s, m->env, expr);
        return variables != NULL && give(s, m, hk_incref(hk_dict_get(variables, expr)));
    }
    if (!is_pair(expr))
        return expr != &nil ? give(s, m, hk_incref(expr)) : malformed(s, expr);
    if (((struct pair *)expr)->line != 0)
        m->line = ((struct pair *)expr)->line;
    hk_object *operator = car(expr), *values;
    if (hk_is(operator, &symbol_type) && ((struct symbol *)operator)->form != NO_FORM)
        return special(s, m, ((struct symbol *)operator)->form, cdr(expr));
    return (values = hk_list(s->runtime)) != NULL && next_and_wait(s, m, operator, FOR_ARGUMENT, cdr(expr), values);
}

static bool argument(struct scheme *s, struct machine *m, hk_frame *frame)
{
    hk_object *rest = frame->locals[REST];
    if (!hk_list_append(s->runtime, frame->locals[VALUES], m->value))
        return false;
    if (!is_pair(rest))
        return call(s, m, frame);
    bool is_good = next(s, m, car(rest));
    hk_set(s->runtime, &frame->locals[REST], hk_incref(cdr(rest)));
    return is_good;
}

/* What has waited for a value other than an argument's, with its frame popped. */
static bool resume(struct scheme *s, struct machine *m, enum waiting waiting, hk_object *rest, hk_object *values)
{
    bool is_true = m->value != hk_bool(false);
    switch (waiting) {
    case FOR_TEST:
        if (!is_true)
            return is_pair(cdr(rest)) ? next(s, m, car(cdr(rest))) : give(s, m, hk_none());
        return next(s, m, car(rest));
    case FOR_CLAUSE:
        if (!is_true)
            return cond(s, m, cdr(rest));
        return cdr(car(rest)) == &nil || body(s, m, cdr(car(rest)));
    case FOR_DEFINE: return define(s, m, rest, hk_incref(m->value));
    case FOR_SET: return assign(s, m, rest);
    case FOR_BODY: return body(s, m, rest);
    case FOR_AND: return !is_true || and_or(s, m, AND, rest);
    case FOR_OR: return is_true || and_or(s, m, OR, rest);
    default: return hk_list_append(s->runtime, values, m->value) && let(s, m, rest, values);
    }
}

static bool step_return(struct scheme *s, struct machine *m)
{
    hk_frame *frame = hk_frame_current(s->runtime);
    enum waiting waiting = (enum waiting)hk_int_value(frame->locals[WAITING]);
    m->code = frame->code;
    m->line = frame->line;
    hk_set(s->runtime, &m->env, hk_incref(frame->locals[ENV]));
    if (waiting == FOR_ARGUMENT)
        return argument(s, m, frame);
    hk_object *rest = hk_incref(frame->locals[REST]), *values = frame->locals[VALUES];
    frame->locals[VALUES] = NULL;
    hk_frame_pop(frame);
    bool is_good = resume(s, m, waiting, rest, values);
    hk_xdecref(s->runtime, values);
    hk_decref(s->runtime, rest);
    return is_good;
}

hk_object *evaluate(struct scheme *s, hk_object *expr, hk_object *env)
{
    uint64_t base = hk_frame_depth(s->runtime);
    struct machine m = {hk_incref(expr), hk_incref(env), NULL, s->codes[0], 0};
    bool is_good = true;
    s->error[0] = '\0';
    while (is_good && (m.expr != NULL || hk_frame_depth(s->runtime) > base)) {
        is_good = m.expr != NULL ? step_evaluate(s, &m) : step_return(s, &m);
        if (s->steps > 0 && --s->steps == 0)
            is_good = fail(s, "stopped") != NULL;
    }
    while (hk_frame_depth(s->runtime) > base)
        hk_frame_pop(hk_frame_current(s->runtime));
    hk_xdecref(s->runtime, m.expr);
    hk_decref(s->runtime, m.env);
    if (!is_good)
        HK_CLEAR(s->runtime, m.value);
    if (!is_good && s->error[0] == '\0')
        fail(s, "out of memory");
    return m.value;
}

bool eval_begin(struct scheme *s)
{
    if (!hk_type_ready(&nil_type))
        return false;
    nil = (hk_object){HK_IMMORTAL, (uint16_t)nil_type.number, 0};
    s->symbols = hk_dict(s->runtime);
    s->global = s->symbols != NULL ? env_new(s, NULL) : NULL;
    s->codes_count = 0;
    bool is_good = s->global != NULL && (code_make(s, "top level", 0), s->codes_count > 0);
    for (int form = 1; form < FORMS && is_good; form++) {
        hk_object *symbol = intern(s, form_names[form]);
        is_good = symbol != NULL;
        if (is_good) {
            ((struct symbol *)symbol)->form = form;
            hk_decref(s->runtime, symbol);
        }
    }
    return is_good;
}
