/* None, bool, int, float; equality and hashes across types.
 *
 * The immortal ones are static: 262 small integers, two bools and none, shared by all runtimes. They are made, and their types get
 * their numbers, when the first runtime is, or when somebody asks for one: a program without a runtime has no pages of them in
 * memory. A number's hash is its value's, whatever its type, as in Python. */
#include <math.h>
#include <string.h>

#include "heapkeeper/values.h"
#include "object/runtime.h"

#define SMALL_FIRST (-5)
#define SMALL_LAST 256

struct number {
    hk_object head;
    union {
        int64_t integer;
        double real;
    };
};

static uint64_t number_hash(const hk_object *self);
static bool number_equal(const hk_object *self, const hk_object *other);

hk_type hk_none_type = {.name = "none", .size = sizeof(hk_object), .flags = HK_TYPE_ACYCLIC};
hk_type hk_bool_type = {.name = "bool", .size = sizeof(struct number), .flags = HK_TYPE_ACYCLIC, .hash = number_hash,
                        .equal = number_equal};
hk_type hk_int_type = {.name = "int", .size = sizeof(struct number), .flags = HK_TYPE_ACYCLIC, .hash = number_hash,
                       .equal = number_equal};
hk_type hk_float_type = {.name = "float", .size = sizeof(struct number), .flags = HK_TYPE_ACYCLIC, .hash = number_hash,
                         .equal = number_equal};

static struct number none, bools[2], small[SMALL_LAST - SMALL_FIRST + 1];

static void immortal(struct number *number, const hk_type *type, int64_t value)
{
    number->head = (hk_object){HK_IMMORTAL, (uint16_t)type->number, 0};
    number->integer = value;
}

static bool immortals_made; /* atomic */

static __attribute__((noinline)) void immortals_make(void)
{
    static hk_lock lock;
    hk_type *const types[] = {&hk_none_type, &hk_bool_type, &hk_int_type, &hk_float_type};
    hk_lock_take(&lock);
    if (immortals_made) {
        hk_lock_release(&lock);
        return;
    }
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
        hk_type_ready(types[i]);
    immortal(&none, &hk_none_type, 0);
    for (int i = 0; i < 2; i++)
        immortal(&bools[i], &hk_bool_type, i);
    for (int i = SMALL_FIRST; i <= SMALL_LAST; i++)
        immortal(&small[i - SMALL_FIRST], &hk_int_type, i);
    __atomic_store_n(&immortals_made, true, __ATOMIC_RELEASE);
    hk_lock_release(&lock);
}

void hk_immortals_begin(void)
{
    if (__builtin_expect(!__atomic_load_n(&immortals_made, __ATOMIC_ACQUIRE), 0))
        immortals_make();
}

hk_object *hk_none(void)
{
    hk_immortals_begin();
    return &none.head;
}

hk_object *hk_bool(bool value)
{
    hk_immortals_begin();
    return &bools[value].head;
}

hk_object *hk_int(hk_runtime *runtime, int64_t value)
{
    if (value >= SMALL_FIRST && value <= SMALL_LAST)
        return &small[value - SMALL_FIRST].head;
    struct number *number = (struct number *)hk_new(runtime, &hk_int_type);
    if (number != NULL)
        number->integer = value;
    return (hk_object *)number;
}

int64_t hk_int_value(const hk_object *object)
{
    return ((const struct number *)object)->integer;
}

hk_object *hk_float(hk_runtime *runtime, double value)
{
    struct number *number = (struct number *)hk_new(runtime, &hk_float_type);
    if (number != NULL)
        number->real = value;
    return (hk_object *)number;
}

double hk_float_value(const hk_object *object)
{
    return ((const struct number *)object)->real;
}

/* --- hashes and equality --- */

static bool is_number(const hk_object *object)
{
    return hk_is(object, &hk_int_type) || hk_is(object, &hk_float_type) || hk_is(object, &hk_bool_type);
}

/* True if the number has a value among the 64-bit integers. */
static bool integer_of(const hk_object *object, int64_t *value)
{
    const struct number *number = (const struct number *)object;
    if (!hk_is(object, &hk_float_type)) {
        *value = number->integer;
        return true;
    }
    if (!(number->real >= -0x1p63 && number->real < 0x1p63) || number->real != floor(number->real))
        return false;
    *value = (int64_t)number->real;
    return true;
}

static uint64_t number_hash(const hk_object *self)
{
    int64_t value;
    uint64_t bits;
    if (integer_of(self, &value))
        return hk_hash_mix((uint64_t)value);
    memcpy(&bits, &((const struct number *)self)->real, sizeof(bits));
    return hk_hash_mix(bits);
}

static bool number_equal(const hk_object *self, const hk_object *other)
{
    int64_t a = 0, b = 0;
    bool a_is = integer_of(self, &a), b_is = integer_of(other, &b);
    if (a_is || b_is)
        return a_is && b_is && a == b;
    return hk_float_value(self) == hk_float_value(other);
}

uint64_t hk_hash(const hk_object *object)
{
    const hk_type *type = hk_type_of(object);
    return type->hash != NULL ? type->hash(object) : hk_hash_mix((uint64_t)(uintptr_t)object >> 4);
}

bool hk_equal(const hk_object *a, const hk_object *b)
{
    if (a == b)
        return true;
    if (a->type != b->type)
        return is_number(a) && is_number(b) && number_equal(a, b);
    const hk_type *type = hk_type_of(a);
    return type->equal != NULL && type->equal(a, b);
}
