/* What the two files of tests share that say again, of this runtime, what CPython's own tests say of Python: an object with three
 * references and, if it likes, a finalizer of its own; what finalizers have kept; and what was said, in order. */
#ifndef HK_TESTS_SEMANTICS_HELPER_H
#define HK_TESTS_SEMANTICS_HELPER_H

#include "runtime_helper.h"

struct thing {
    hk_object head;
    hk_object *a, *b, *c;
    void (*del)(struct thing *self); /* its __del__ */
    const char *name;
    bool broken; /* it has given up its references itself */
};

static char said_text[512];

static inline void say(const char *word)
{
    size_t length = strlen(said_text);
    snprintf(said_text + length, sizeof(said_text) - length, "%s%s", length > 0 ? " " : "", word);
}

/* All that was said since the last time. */
#define assert_said(text) (assert_string_equal(said_text, text), (void)(said_text[0] = '\0'))

static int dels; /* finalizers that have run */
static hk_object *kept[16];
static size_t kept_count;

static inline void kept_clear(void)
{
    while (kept_count > 0)
        hk_decref(runtime, kept[--kept_count]);
}

static inline void thing_finalize(hk_runtime *one, hk_object *self)
{
    struct thing *thing = (struct thing *)self;
    dels++;
    if (thing->del != NULL)
        thing->del(thing);
}

static hk_type thing_type = {.name = "thing", .size = sizeof(struct thing), .pointers = 14};
static hk_type del_type = {.name = "thing with del", .size = sizeof(struct thing), .pointers = 14, .finalize = thing_finalize};

static inline struct thing *thing_new(void)
{
    struct thing *thing = (struct thing *)hk_new(runtime, &thing_type);
    assert_non_null(thing);
    return thing;
}

static inline struct thing *thing_with_del(void (*del)(struct thing *))
{
    struct thing *thing = (struct thing *)hk_new(runtime, &del_type);
    assert_non_null(thing);
    thing->del = del;
    return thing;
}

/* C1055820: garbage for a collection, once it is given up. */
static inline struct thing *loop_new(void)
{
    struct thing *thing = thing_new();
    thing->a = hk_incref(&thing->head);
    return thing;
}

static inline void del_keeps(struct thing *self)
{
    assert_true(kept_count < COUNT(kept));
    kept[kept_count++] = hk_incref(&self->head);
}

static inline void del_breaks(struct thing *self)
{
    HK_CLEAR(runtime, self->a);
    HK_CLEAR(runtime, self->b);
    self->broken = true;
}

static inline hk_object *weak_to(const void *object, hk_weakref_callback *callback, const void *argument)
{
    hk_object *weak = hk_weakref_new(runtime, (hk_object *)object, callback, (void *)argument);
    assert_non_null(weak);
    return weak;
}

static inline bool is_dead(hk_object *weak)
{
    hk_object *object = hk_weakref_get(weak);
    hk_xdecref(runtime, object);
    return object == NULL;
}

static inline void say_argument(hk_runtime *one, hk_object *weak, void *argument)
{
    assert_null(hk_weakref_get(weak));
    say(argument);
}

static inline int begin_quiet(void **state)
{
    dels = 0;
    said_text[0] = '\0';
    kept_count = 0;
    int failed = begin(state);
    if (!failed)
        hk_gc_disable(runtime);
    return failed;
}

/* Garbage may be left. */
static inline int end_quiet(void **state)
{
    hk_gc_collect(runtime, 2);
    return end(state);
}

/* As EACH; collections come when they are asked for. */
#define QUIET(test) cmocka_unit_test_setup_teardown(test, begin_quiet, end_quiet)

#endif
