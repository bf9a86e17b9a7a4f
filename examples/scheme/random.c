/* Programs at random. Each is made together with the value that it must have. They use closures that keep variables, lists and
 * vectors that are circles, functions that call themselves, and recursion thousands deep; when one has been run nothing of
 * it may be left. */
#include "scheme.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PRIME = 1009, NAMES = 8, TEXT = 1 << 16 };

static const char helpers[] =
    "(define (deep n) (if (= n 0) 0 (+ 1 (deep (- n 1)))))\n"
    "(define (circle n) (let ((l (range n))) (let loop ((at l)) (if (null? (cdr at)) (set-cdr! at l) (loop (cdr at)))) l))\n"
    "(define (counter n) (lambda () (set! n (+ n 1)) n))\n"
    "(define (knot n) (let ((v (make-vector 3))) (vector-set! v 0 v) (vector-set! v 1 (lambda () v)) (vector-set! v 2 n) v))\n"
    "(define (tree n parent) (let ((v (vector parent #f #f)))\n"
    "  (if (= n 0) v (begin (vector-set! v 1 (tree (- n 1) v)) (vector-set! v 2 (tree (- n 1) v)) v))))\n"
    "(define (leaves t) (if (vector-ref t 1) (+ (leaves (vector-ref t 1)) (leaves (vector-ref t 2))) 1))\n";

struct program {
    uint64_t luck;
    char text[TEXT];
    size_t size;
    int64_t values[NAMES]; /* of v0, v1, ... */
    int names;             /* that are bound here */
};

static int below(struct program *p, int limit)
{
    uint64_t z = (p->luck += 0x9e3779b97f4a7c15u); /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (int)((z ^ (z >> 31)) % (uint64_t)limit);
}

static void add(struct program *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct program *p, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(p->text + p->size, TEXT - p->size, format, arguments);
    va_end(arguments);
    if (size > 0 && p->size + (size_t)size < TEXT)
        p->size += (size_t)size;
}

static int64_t number(struct program *p, int depth); /* adds an expression; returns its value, 0 ... PRIME - 1 */

/* Text, a number, text. */
static int64_t around(struct program *p, int depth, const char *before, const char *after)
{
    add(p, "%s", before);
    int64_t value = number(p, depth);
    add(p, "%s", after);
    return value;
}

/* With one name more; `form` takes its value. */
static int64_t with_name(struct program *p, int depth, bool is_let)
{
    int name = p->names;
    if (name == NAMES)
        return around(p, depth, "(car (list ", "))");
    if (is_let) {
        add(p, "(let ((v%d ", name);
        p->values[name] = number(p, depth);
        add(p, ")) ");
        p->names++;
        int64_t value = around(p, depth, "", ")");
        p->names--;
        return value;
    }
    int64_t given = below(p, PRIME); /* the body comes first: its value is known before the argument's text */
    add(p, "((lambda (v%d . more) ", name);
    p->values[name] = given;
    p->names++;
    int64_t value = around(p, depth, "", ")");
    p->names--;
    add(p, " %" PRId64 " 1 2)", given);
    return value;
}

static int64_t number(struct program *p, int depth)
{
    int64_t a, b, c;
    int kind = depth <= 0 || p->size > TEXT - 4096 ? below(p, 2) : below(p, 14);
    switch (kind) {
    case 0:
        a = below(p, PRIME);
        add(p, "%" PRId64, a);
        return a;
    case 1:
        if (p->names == 0)
            return around(p, 0, "(+ ", " 0)");
        a = below(p, p->names);
        add(p, "v%d", (int)a);
        return p->values[a];
    case 2: case 3:
        a = around(p, depth - 1, kind == 2 ? "(modulo (+ " : "(modulo (* ", " ");
        b = around(p, depth - 1, "", ") 1009)");
        return (kind == 2 ? a + b : a * b) % PRIME;
    case 4:
        a = around(p, depth - 1, "(if (< ", " ");
        b = around(p, depth - 1, "", ") ");
        c = around(p, depth - 1, "", " ");
        b = a < b ? 1 : 0;
        a = around(p, depth - 1, "", ")");
        return b ? c : a;
    case 5: return with_name(p, depth - 1, true);
    case 6: return with_name(p, depth - 1, false);
    case 7:
        a = below(p, PRIME);
        add(p, "(deep %" PRId64 ")", a);
        return a;
    case 8:
        a = 1 + below(p, 40);
        b = below(p, 100);
        add(p, "(list-ref (circle %" PRId64 ") %" PRId64 ")", a, b);
        return b % a;
    case 9:
        a = around(p, depth - 1, "(let ((next (counter ", "))) (next) (modulo (next) 1009))");
        return (a + 2) % PRIME;
    case 10: return around(p, depth - 1, "(vector-ref ((vector-ref (vector-ref (knot ", ") 0) 1)) 2)");
    case 11:
        a = below(p, 6);
        add(p, "(leaves (tree %" PRId64 " #f))", a);
        return (int64_t)1 << a;
    case 12:
        a = around(p, depth - 1, "(string-length (string-append \"ab\" (number->string ", ")))");
        return 2 + (a > 999) + (a > 99) + (a > 9) + 1;
    default:
        a = below(p, 30);
        b = around(p, depth - 1, "(let loop ((i 0) (sum ", "))");
        add(p, " (if (= i %" PRId64 ") (modulo sum 1009) (loop (+ i 1) (+ sum i))))", a);
        return (b + a * (a - 1) / 2) % PRIME;
    }
}

/* False: it has another value, or none. */
static bool run_one(struct scheme *s, struct program *p, hk_object *helper_env)
{
    hk_object *env = env_new(s, helper_env), *value = NULL;
    p->size = 0;
    p->names = 0;
    int64_t wanted = around(p, 6, "(define (f again) (if again (f #f) ", "))\n(f #t)\n");
    bool is_good = env != NULL && run_text(s, p->text, env, &value) && hk_is(value, &hk_int_type) && hk_int_value(value) == wanted;
    if (!is_good)
        printf("%swanted %" PRId64 "; %s\n", p->text, wanted, s->error);
    hk_xdecref(s->runtime, value);
    hk_xdecref(s->runtime, env);
    return is_good;
}

static uint64_t live_blocks(struct scheme *s)
{
    hk_heap_stats stats = {.size = sizeof(stats)};
    hk_gc_collect(s->runtime, 2);
    hk_heap_get_stats(NULL, &stats);
    return stats.live_blocks + stats.large_blocks;
}

int random_programs(struct scheme *s, unsigned seconds, uint64_t seed)
{
    enum { ROUND = 500 };
    static struct program program;
    struct timespec start, now;
    hk_object *env = env_new(s, s->global);
    uint64_t programs = 0, first = 0, most = 0, last = 0;
    bool is_good = env != NULL && run_text(s, helpers, env, NULL);
    program.luck = seed;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (int i = 0; i < ROUND && is_good; i++, programs++)
            is_good = run_one(s, &program, env);
        last = live_blocks(s);
        first = first == 0 ? last : first; /* by now the names are known */
        most = last > most ? last : most;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (is_good && (now.tv_sec - start.tv_sec < (time_t)seconds || programs < 3 * ROUND));
    hk_xdecref(s->runtime, env);
    bool is_flat = most <= first + 16;
    printf("%" PRIu64 " programs; live blocks after the first %d: %" PRIu64 ", at most %" PRIu64 ", at the end %" PRIu64 ": %s\n",
           programs, ROUND, first, most, last, is_flat ? "flat" : "they grow");
    return !(is_good && is_flat);
}
