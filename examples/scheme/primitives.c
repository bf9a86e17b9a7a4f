/* The functions that are written in C, and those that are written in Scheme: the prelude. */
#include "scheme.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static hk_object *argument(const hk_object *arguments, size_t number) /* from 1; borrowed */
{
    return hk_list_get(arguments, number);
}

static bool is_a(struct scheme *s, const hk_object *object, const hk_type *type)
{
    if (!hk_is(object, type))
        fail_at(s, type == &hk_list_type ? "not a vector" : type == &hk_int_type ? "not an integer" : type->name, object);
    return hk_is(object, type);
}

/* --- numbers --- */

static bool is_number(const hk_object *object)
{
    return hk_is(object, &hk_int_type) || hk_is(object, &hk_float_type);
}

static double real_of(const hk_object *object)
{
    return hk_is(object, &hk_int_type) ? (double)hk_int_value(object) : hk_float_value(object);
}

static hk_object *calculate(struct scheme *s, char operator, const hk_object *a, const hk_object *b)
{
    int64_t result = 0;
    if (!is_number(a) || !is_number(b))
        return fail_at(s, "not a number", is_number(a) ? b : a);
    if (hk_is(a, &hk_float_type) || hk_is(b, &hk_float_type)) {
        double x = real_of(a), y = real_of(b);
        return hk_float(s->runtime, operator == '+' ? x + y : operator == '-' ? x - y : x * y);
    }
    int64_t x = hk_int_value(a), y = hk_int_value(b);
    bool is_over = operator == '+' ? __builtin_add_overflow(x, y, &result)
                   : operator == '-' ? __builtin_sub_overflow(x, y, &result)
                                     : __builtin_mul_overflow(x, y, &result);
    return is_over ? fail(s, "%c: more than 64 bits", operator) : hk_int(s->runtime, result);
}

static hk_object *accumulate(struct scheme *s, char operator, hk_object *arguments)
{
    size_t count = hk_list_count(arguments), next = 1;
    hk_object *result = hk_int(s->runtime, operator == '*');
    if (operator == '-' && count > 2)
        result = hk_incref(argument(arguments, next++));
    for (; next < count && result != NULL; next++) {
        hk_object *more = calculate(s, operator, result, argument(arguments, next));
        hk_decref(s->runtime, result);
        result = more;
    }
    return result;
}

static hk_object *plus(struct scheme *s, hk_object *arguments)
{
    return accumulate(s, '+', arguments);
}

static hk_object *minus(struct scheme *s, hk_object *arguments)
{
    return accumulate(s, '-', arguments);
}

static hk_object *times(struct scheme *s, hk_object *arguments)
{
    return accumulate(s, '*', arguments);
}

static hk_object *divide(struct scheme *s, hk_object *arguments)
{
    const hk_object *a = argument(arguments, 1), *b = argument(arguments, 2);
    if (!is_number(a) || !is_number(b))
        return fail_at(s, "not a number", is_number(a) ? b : a);
    return hk_float(s->runtime, real_of(a) / real_of(b));
}

/* quotient rounds to 0, modulo has the sign of the divisor. */
static hk_object *integer_divide(struct scheme *s, hk_object *arguments, bool is_modulo)
{
    if (!is_a(s, argument(arguments, 1), &hk_int_type) || !is_a(s, argument(arguments, 2), &hk_int_type))
        return NULL;
    int64_t a = hk_int_value(argument(arguments, 1)), b = hk_int_value(argument(arguments, 2));
    if (b == 0 || (a == INT64_MIN && b == -1))
        return fail(s, "division by 0, or more than 64 bits");
    int64_t rest = a % b;
    return hk_int(s->runtime, !is_modulo ? a / b : rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
}

static hk_object *quotient(struct scheme *s, hk_object *arguments)
{
    return integer_divide(s, arguments, false);
}

static hk_object *modulo(struct scheme *s, hk_object *arguments)
{
    return integer_divide(s, arguments, true);
}

/* True if `less` or `equal` holds between each and the next. */
static hk_object *compare(struct scheme *s, hk_object *arguments, bool less, bool equal)
{
    for (size_t i = 1; i + 1 < hk_list_count(arguments); i++) {
        const hk_object *a = argument(arguments, i), *b = argument(arguments, i + 1);
        if (!is_number(a) || !is_number(b))
            return fail_at(s, "not a number", is_number(a) ? b : a);
        bool is_less = hk_is(a, &hk_int_type) && hk_is(b, &hk_int_type) ? hk_int_value(a) < hk_int_value(b)
                                                                       : real_of(a) < real_of(b);
        if (!((less && is_less) || (equal && hk_equal(a, b))))
            return hk_bool(false);
    }
    return hk_bool(true);
}

static hk_object *is_less(struct scheme *s, hk_object *arguments)
{
    return compare(s, arguments, true, false);
}

static hk_object *is_at_most(struct scheme *s, hk_object *arguments)
{
    return compare(s, arguments, true, true);
}

static hk_object *is_same_number(struct scheme *s, hk_object *arguments)
{
    return compare(s, arguments, false, true);
}

static hk_object *square_root(struct scheme *s, hk_object *arguments)
{
    const hk_object *a = argument(arguments, 1);
    return is_number(a) ? hk_float(s->runtime, sqrt(real_of(a))) : fail_at(s, "not a number", a);
}

/* --- pairs --- */

static hk_object *make_pair(struct scheme *s, hk_object *arguments)
{
    return cons(s, hk_incref(argument(arguments, 1)), hk_incref(argument(arguments, 2)));
}

static hk_object *first(struct scheme *s, hk_object *arguments)
{
    hk_object *pair = argument(arguments, 1);
    return is_pair(pair) ? hk_incref(car(pair)) : fail_at(s, "car: not a pair", pair);
}

static hk_object *rest(struct scheme *s, hk_object *arguments)
{
    hk_object *pair = argument(arguments, 1);
    return is_pair(pair) ? hk_incref(cdr(pair)) : fail_at(s, "cdr: not a pair", pair);
}

static hk_object *set_first(struct scheme *s, hk_object *arguments)
{
    struct pair *pair = (struct pair *)argument(arguments, 1);
    if (!is_pair(&pair->head))
        return fail_at(s, "set-car!: not a pair", &pair->head);
    hk_set(s->runtime, &pair->car, hk_incref(argument(arguments, 2)));
    return hk_none();
}

static hk_object *set_rest(struct scheme *s, hk_object *arguments)
{
    struct pair *pair = (struct pair *)argument(arguments, 1);
    if (!is_pair(&pair->head))
        return fail_at(s, "set-cdr!: not a pair", &pair->head);
    hk_set(s->runtime, &pair->cdr, hk_incref(argument(arguments, 2)));
    return hk_none();
}

/* --- what is it --- */

static hk_object *is_pair_there(struct scheme *s, hk_object *arguments)
{
    return hk_bool(is_pair(argument(arguments, 1)));
}

static hk_object *is_null(struct scheme *s, hk_object *arguments)
{
    return hk_bool(argument(arguments, 1) == &nil);
}

static hk_object *is_any_number(struct scheme *s, hk_object *arguments)
{
    return hk_bool(is_number(argument(arguments, 1)));
}

static hk_object *is_symbol(struct scheme *s, hk_object *arguments)
{
    return hk_bool(hk_is(argument(arguments, 1), &symbol_type));
}

static hk_object *is_string(struct scheme *s, hk_object *arguments)
{
    return hk_bool(hk_is(argument(arguments, 1), &hk_str_type));
}

static hk_object *is_vector(struct scheme *s, hk_object *arguments)
{
    return hk_bool(hk_is(argument(arguments, 1), &hk_list_type));
}

static hk_object *is_function(struct scheme *s, hk_object *arguments)
{
    const hk_object *object = argument(arguments, 1);
    return hk_bool(hk_is(object, &closure_type) || hk_is(object, &primitive_type));
}

static bool is_same(const hk_object *a, const hk_object *b)
{
    return a == b || (a->type == b->type && is_number(a) && hk_equal(a, b));
}

static hk_object *is_eq(struct scheme *s, hk_object *arguments)
{
    return hk_bool(is_same(argument(arguments, 1), argument(arguments, 2)));
}

/* Lists may be of any length, and circles end it as unequal: so much work, and so deep. */
static bool is_equal_within(const hk_object *a, const hk_object *b, int *work, int depth)
{
    for (; --*work > 0 && depth < 1000; a = cdr(a), b = cdr(b)) {
        if (is_same(a, b) || (hk_is(a, &hk_str_type) && hk_equal(a, b)))
            return true;
        if (hk_is(a, &hk_list_type) && hk_is(b, &hk_list_type) && hk_list_count(a) == hk_list_count(b)) {
            for (size_t i = 0; i < hk_list_count(a); i++)
                if (!is_equal_within(hk_list_get(a, i), hk_list_get(b, i), work, depth + 1))
                    return false;
            return true;
        }
        if (!is_pair(a) || !is_pair(b) || !is_equal_within(car(a), car(b), work, depth + 1))
            return false;
    }
    return false;
}

static hk_object *is_equal(struct scheme *s, hk_object *arguments)
{
    int work = 10000000;
    return hk_bool(is_equal_within(argument(arguments, 1), argument(arguments, 2), &work, 0));
}

/* --- vectors --- */

static hk_object *vector(struct scheme *s, hk_object *arguments)
{
    hk_object *made = hk_list(s->runtime);
    for (size_t i = 1; made != NULL && i < hk_list_count(arguments); i++)
        if (!hk_list_append(s->runtime, made, argument(arguments, i)))
            HK_CLEAR(s->runtime, made);
    return made;
}

static hk_object *make_vector(struct scheme *s, hk_object *arguments)
{
    if (!is_a(s, argument(arguments, 1), &hk_int_type))
        return NULL;
    hk_object *made = hk_list(s->runtime), *fill = argument(arguments, 2);
    for (int64_t i = hk_int_value(argument(arguments, 1)); made != NULL && i > 0; i--)
        if (!hk_list_append(s->runtime, made, fill != NULL ? fill : hk_none()))
            HK_CLEAR(s->runtime, made);
    return made;
}

/* The index; SIZE_MAX: an error. */
static size_t vector_index(struct scheme *s, const hk_object *arguments)
{
    const hk_object *made = argument(arguments, 1), *index = argument(arguments, 2);
    if (!is_a(s, made, &hk_list_type) || !is_a(s, index, &hk_int_type))
        return SIZE_MAX;
    if (hk_int_value(index) < 0 || (uint64_t)hk_int_value(index) >= hk_list_count(made)) {
        fail_at(s, "no such index", index);
        return SIZE_MAX;
    }
    return (size_t)hk_int_value(index);
}

static hk_object *vector_ref(struct scheme *s, hk_object *arguments)
{
    size_t index = vector_index(s, arguments);
    return index != SIZE_MAX ? hk_incref(hk_list_get(argument(arguments, 1), index)) : NULL;
}

static hk_object *vector_set(struct scheme *s, hk_object *arguments)
{
    size_t index = vector_index(s, arguments);
    if (index == SIZE_MAX)
        return NULL;
    hk_list_set(s->runtime, argument(arguments, 1), index, argument(arguments, 3));
    return hk_none();
}

static hk_object *vector_length(struct scheme *s, hk_object *arguments)
{
    const hk_object *made = argument(arguments, 1);
    return is_a(s, made, &hk_list_type) ? hk_int(s->runtime, (int64_t)hk_list_count(made)) : NULL;
}

/* --- strings --- */

static hk_object *string_append(struct scheme *s, hk_object *arguments)
{
    hk_builder out;
    hk_builder_begin(&out, s->runtime, 0);
    bool is_good = true;
    for (size_t i = 1; i < hk_list_count(arguments) && is_good; i++)
        if ((is_good = is_a(s, argument(arguments, i), &hk_str_type)))
            hk_builder_add_str(&out, argument(arguments, i));
    hk_object *made = hk_builder_finish(&out);
    if (made != NULL && !is_good)
        HK_CLEAR(s->runtime, made);
    return made;
}

static hk_object *string_length(struct scheme *s, hk_object *arguments)
{
    const hk_object *text = argument(arguments, 1);
    return is_a(s, text, &hk_str_type) ? hk_int(s->runtime, (int64_t)hk_str_length(text)) : NULL;
}

static hk_object *to_string(struct scheme *s, hk_object *arguments)
{
    return written(s, argument(arguments, 1), false);
}

static hk_object *put(struct scheme *s, const hk_object *object, bool is_quoted)
{
    hk_object *text = written(s, object, is_quoted);
    if (text == NULL)
        return NULL;
    fwrite(hk_str_text(text), 1, hk_str_size(text), stdout);
    hk_decref(s->runtime, text);
    return hk_none();
}

static hk_object *display(struct scheme *s, hk_object *arguments)
{
    return put(s, argument(arguments, 1), false);
}

static hk_object *write_quoted(struct scheme *s, hk_object *arguments)
{
    return put(s, argument(arguments, 1), true);
}

static hk_object *newline(struct scheme *s, hk_object *arguments)
{
    putchar('\n');
    return hk_none();
}

/* --- the rest --- */

static hk_object *raise(struct scheme *s, hk_object *arguments)
{
    hk_object *text = written(s, argument(arguments, 1), false);
    if (text != NULL && hk_list_count(arguments) > 2)
        fail_at(s, hk_str_text(text), argument(arguments, 2));
    else if (text != NULL)
        fail(s, "%.150s", hk_str_text(text));
    hk_xdecref(s->runtime, text);
    return NULL;
}

/* Turns (apply f a (b c)) into f a b c, for the evaluator to call. */
static hk_object *apply(struct scheme *s, hk_object *arguments)
{
    hk_object *list = hk_list_pop(s->runtime, arguments, hk_list_count(arguments) - 1), *at = list;
    hk_decref(s->runtime, hk_list_pop(s->runtime, arguments, 0));
    bool is_good = true;
    for (; is_good && is_pair(at); at = cdr(at))
        is_good = hk_list_append(s->runtime, arguments, car(at));
    if (at != &nil && is_good)
        is_good = fail_at(s, "apply: not a list", list) != NULL;
    hk_decref(s->runtime, list);
    return is_good ? hk_incref(arguments) : NULL;
}

/* (collect): the number of objects that were garbage. */
static hk_object *collect(struct scheme *s, hk_object *arguments)
{
    int64_t found = hk_gc_collect(s->runtime, 2);
    return found >= 0 ? hk_int(s->runtime, found) : NULL;
}

static hk_object *depth(struct scheme *s, hk_object *arguments)
{
    return hk_int(s->runtime, (int64_t)hk_frame_depth(s->runtime));
}

static const struct {
    const char *name;
    primitive_function *function;
    size_t least, most;
} primitives[] = {
    {"+", plus, 0, SIZE_MAX}, {"-", minus, 1, SIZE_MAX}, {"*", times, 0, SIZE_MAX}, {"/", divide, 2, 2},
    {"quotient", quotient, 2, 2}, {"modulo", modulo, 2, 2}, {"sqrt", square_root, 1, 1},
    {"<", is_less, 1, SIZE_MAX}, {"<=", is_at_most, 1, SIZE_MAX}, {"=", is_same_number, 1, SIZE_MAX},
    {"cons", make_pair, 2, 2}, {"car", first, 1, 1}, {"cdr", rest, 1, 1}, {"set-car!", set_first, 2, 2},
    {"set-cdr!", set_rest, 2, 2}, {"pair?", is_pair_there, 1, 1}, {"null?", is_null, 1, 1}, {"number?", is_any_number, 1, 1},
    {"symbol?", is_symbol, 1, 1}, {"string?", is_string, 1, 1}, {"vector?", is_vector, 1, 1}, {"procedure?", is_function, 1, 1},
    {"eq?", is_eq, 2, 2}, {"equal?", is_equal, 2, 2}, {"vector", vector, 0, SIZE_MAX}, {"make-vector", make_vector, 1, 2},
    {"vector-ref", vector_ref, 2, 2}, {"vector-set!", vector_set, 3, 3}, {"vector-length", vector_length, 1, 1},
    {"string-append", string_append, 0, SIZE_MAX}, {"string-length", string_length, 1, 1}, {"number->string", to_string, 1, 1},
    {"symbol->string", to_string, 1, 1}, {"display", display, 1, 1}, {"write", write_quoted, 1, 1}, {"newline", newline, 0, 0},
    {"error", raise, 1, 2}, {"apply", apply, 2, SIZE_MAX}, {"collect", collect, 0, 0}, {"depth", depth, 0, 0},
};

static const char prelude[] =
    "(define (list . items) items)\n"
    "(define (not x) (if x #f #t))\n"
    "(define (> a b) (< b a))\n"
    "(define (>= a b) (<= b a))\n"
    "(define (zero? n) (= n 0))\n"
    "(define (abs n) (if (< n 0) (- n) n))\n"
    "(define (min a b) (if (< a b) a b))\n"
    "(define (max a b) (if (< a b) b a))\n"
    "(define (cadr l) (car (cdr l)))\n"
    "(define (cddr l) (cdr (cdr l)))\n"
    "(define (length l) (let loop ((l l) (n 0)) (if (null? l) n (loop (cdr l) (+ n 1)))))\n"
    "(define (reverse l) (let loop ((l l) (done '())) (if (null? l) done (loop (cdr l) (cons (car l) done)))))\n"
    "(define (fold f start l) (if (null? l) start (fold f (f start (car l)) (cdr l))))\n"
    "(define (map f l) (if (null? l) '() (cons (f (car l)) (map f (cdr l)))))\n"
    "(define (for-each f l) (cond ((pair? l) (f (car l)) (for-each f (cdr l)))))\n"
    "(define (filter f l) (cond ((null? l) l) ((f (car l)) (cons (car l) (filter f (cdr l)))) (else (filter f (cdr l)))))\n"
    "(define (append a b) (if (null? a) b (cons (car a) (append (cdr a) b))))\n"
    "(define (list-ref l n) (if (= n 0) (car l) (list-ref (cdr l) (- n 1))))\n"
    "(define (range n) (let loop ((n n) (l '())) (if (= n 0) l (loop (- n 1) (cons (- n 1) l)))))\n"
    "(define (assoc key l) (cond ((null? l) #f) ((equal? key (car (car l))) (car l)) (else (assoc key (cdr l)))))\n";

bool primitives_begin(struct scheme *s)
{
    for (size_t i = 0; i < sizeof(primitives) / sizeof(*primitives); i++) {
        hk_object *symbol = intern(s, primitives[i].name);
        struct primitive *primitive = (struct primitive *)hk_new(s->runtime, &primitive_type);
        if (primitive != NULL) {
            primitive->function = primitives[i].function;
            primitive->name = primitives[i].name;
            primitive->least = primitives[i].least;
            primitive->most = primitives[i].most;
        }
        bool is_good = symbol != NULL && primitive != NULL && env_define(s, s->global, symbol, &primitive->head);
        hk_xdecref(s->runtime, symbol);
        hk_xdecref(s->runtime, (hk_object *)primitive);
        if (!is_good)
            return false;
    }
    s->file = "prelude";
    return run_text(s, prelude, s->global, NULL);
}
