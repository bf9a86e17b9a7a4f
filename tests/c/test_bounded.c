/* Containers with a limit, against a plain model: what is evicted, in which order, and what happens meanwhile. */
#include "runtime_helper.h"

#include "heapkeeper/bounded.h"

enum { MOST = 64 };

static struct model {
    struct {
        int key;
        int64_t value;
        size_t weight;
    } entries[MOST + 1]; /* the first is evicted first */
    size_t count, bytes;
} model;

static int evicted_keys[4 * MOST], evicted_count;

static size_t weigh(const hk_object *key, const hk_object *value, void *argument)
{
    assert_ptr_equal(argument, &model);
    return (size_t)hk_int_value(value) % 50;
}

static void note(hk_runtime *unused, hk_object *container, hk_object *key, hk_object *value, void *argument)
{
    hk_bounded_stats stats = {.size = sizeof(stats)};
    hk_bounded_get_stats(container, &stats);
    assert_in_range(stats.entries, 0, MOST); /* already out */
    assert_in_range(evicted_count, 0, (int)COUNT(evicted_keys) - 1);
    evicted_keys[evicted_count++] = (int)hk_int_value(key != NULL ? key : value);
}

static void model_remove(size_t at)
{
    model.bytes -= model.entries[at].weight;
    model.count--;
    memmove(&model.entries[at], &model.entries[at + 1], (model.count - at) * sizeof(*model.entries));
}

static size_t model_find(int key)
{
    size_t at = 0;
    while (at < model.count && model.entries[at].key != key)
        at++;
    return at;
}

static void model_use(size_t at, hk_evict evict)
{
    if (evict != HK_EVICT_UNUSED || at == model.count)
        return;
    model.entries[model.count] = model.entries[at];
    memmove(&model.entries[at], &model.entries[at + 1], (model.count - at) * sizeof(*model.entries));
}

static void assert_matches(hk_object *dict)
{
    hk_bounded_stats stats = {.size = sizeof(stats)};
    hk_bounded_get_stats(dict, &stats);
    assert_int_equal(stats.entries, model.count);
    assert_int_equal(stats.bytes, model.bytes);
    hk_object *keys = hk_iter(runtime, dict), *key;
    for (size_t i = 0; i < model.count; i++) {
        assert_int_equal(hk_iter_next(runtime, keys, &key), HK_ITER_ITEM);
        assert_int_equal(hk_int_value(key), model.entries[i].key);
        assert_int_equal(hk_int_value(hk_bounded_dict_peek(dict, key)), model.entries[i].value);
        give_up(key);
    }
    assert_int_equal(hk_iter_next(runtime, keys, &key), HK_ITER_END);
    give_up(keys);
}

static void step_set(hk_object *dict, int key, int64_t value, const hk_bounds *bounds)
{
    size_t weight = (size_t)value % 50, at = model_find(key);
    hk_object *name = hk_int(runtime, key), *number = hk_int(runtime, value);
    evicted_count = 0;
    bool done = hk_bounded_dict_set(runtime, dict, name, number);
    give_up(name);
    give_up(number);
    assert_int_equal(done, bounds->max_bytes == 0 || weight <= bounds->max_bytes);
    if (!done)
        return;
    bool is_new = at == model.count;
    size_t replaced = is_new ? 0 : model.entries[at].weight;
    int evicted = 0;
    while ((bounds->max_entries != 0 && model.count + is_new > bounds->max_entries) ||
           (bounds->max_bytes != 0 && model.bytes - replaced + weight > bounds->max_bytes)) {
        size_t out = !is_new && model.entries[0].key == key ? 1 : 0;
        assert_int_equal(evicted_keys[evicted++], model.entries[out].key);
        model_remove(out);
    }
    assert_int_equal(evicted, evicted_count);
    at = is_new ? model.count++ : model_find(key);
    model.bytes += weight - replaced;
    model.entries[at].key = key;
    model.entries[at].value = value;
    model.entries[at].weight = weight;
    model_use(at, bounds->evict);
}

static void random_cache(uint64_t seed)
{
    uint64_t random = seed;
    hk_bounds bounds = {.size = sizeof(bounds), .evict = seed % 2 ? HK_EVICT_UNUSED : HK_EVICT_OLDEST, .callback = note,
                        .weigh = weigh, .argument = &model};
    bounds.max_entries = seed % 3 == 0 ? 0 : 1 + random_below(&random, MOST - 1);
    bounds.max_bytes = seed % 3 == 1 ? 0 : 1 + random_below(&random, 400);
    if (bounds.max_entries == 0)
        bounds.max_bytes = 40; /* so that the model holds what weighs nothing */
    hk_object *dict = hk_bounded_dict(runtime, &bounds);
    memset(&model, 0, sizeof(model));
    for (int step = 0; step < 400; step++) {
        int key = (int)random_below(&random, bounds.max_entries == 0 ? MOST : 2 * MOST) * 1000;
        uint64_t kind = random_below(&random, 10);
        size_t at = model_find(key);
        hk_object *name = hk_int(runtime, key);
        if (kind < 5) {
            step_set(dict, key, (int64_t)random_below(&random, 10000), &bounds);
        } else if (kind < 8) {
            hk_object *found = hk_bounded_dict_get(dict, name);
            assert_int_equal(found != NULL, at < model.count);
            if (found != NULL)
                assert_int_equal(hk_int_value(found), model.entries[at].value);
            model_use(at, bounds.evict);
        } else if (kind < 9) {
            assert_int_equal(hk_bounded_dict_delete(runtime, dict, name), at < model.count);
            if (at < model.count)
                model_remove(at);
        } else if (random_below(&random, 20) == 0) {
            hk_bounded_clear(runtime, dict);
            memset(&model, 0, sizeof(model));
        }
        give_up(name);
        assert_matches(dict);
    }
    evicted_count = 0;
    hk_bounded_limit(runtime, dict, 3, 0);
    for (int i = 0; i < evicted_count; i++) {
        assert_int_equal(evicted_keys[i], model.entries[0].key);
        model_remove(0);
    }
    assert_matches(dict);
    assert_in_range(model.count, 0, 3);
    give_up(dict);
}

static void test_bounded_dict_evicts_what_the_model_does(void **state)
{
    for (int seed = 0; seed < rounds(600); seed++)
        random_cache((uint64_t)seed);
}

static void test_bounded_list_evicts_what_the_model_does(void **state)
{
    for (int seed = 0; seed < rounds(600); seed++) {
        uint64_t random = (uint64_t)seed;
        hk_bounds bounds = {.size = sizeof(bounds), .max_entries = 1 + random_below(&random, MOST - 1),
                            .evict = seed % 2 ? HK_EVICT_UNUSED : HK_EVICT_OLDEST, .callback = note};
        hk_object *list = hk_bounded_list(runtime, &bounds);
        static struct {
            int value, used;
        } items[MOST + 1];
        size_t count = 0;
        for (int step = 1; step < 600; step++) {
            uint64_t kind = random_below(&random, 10);
            size_t at = count > 0 ? random_below(&random, count) : 0;
            if (kind < 6) {
                hk_object *item = hk_int(runtime, step * 1000);
                evicted_count = 0;
                assert_true(hk_bounded_list_append(runtime, list, item));
                give_up(item);
                if (count == bounds.max_entries) {
                    size_t out = 0;
                    for (size_t i = 1; seed % 2 && i < count; i++)
                        out = items[i].used < items[out].used ? i : out;
                    assert_int_equal(evicted_count, 1);
                    assert_int_equal(evicted_keys[0], items[out].value);
                    memmove(&items[out], &items[out + 1], (--count - out) * sizeof(*items));
                } else {
                    assert_int_equal(evicted_count, 0);
                }
                items[count].value = step * 1000;
                items[count++].used = step;
            } else if (kind < 9 && count > 0) {
                assert_int_equal(hk_int_value(hk_bounded_list_get(list, at)), items[at].value);
                items[at].used = step;
            } else if (count > 0) {
                hk_object *item = hk_bounded_list_pop(runtime, list, at);
                assert_int_equal(hk_int_value(item), items[at].value);
                give_up(item);
                memmove(&items[at], &items[at + 1], (--count - at) * sizeof(*items));
            }
            assert_int_equal(hk_bounded_list_count(list), count);
            hk_object *all = hk_iter_list(runtime, list);
            for (size_t i = 0; i < count; i++)
                assert_int_equal(hk_int_value(hk_list_get(all, i)), items[i].value);
            assert_int_equal(hk_list_count(all), count);
            give_up(all);
        }
        assert_null(hk_bounded_list_get(list, count));
        assert_null(hk_bounded_list_pop(runtime, list, count));
        hk_bounded_clear(runtime, list);
        assert_int_equal(hk_bounded_list_count(list), 0);
        give_up(list);
    }
}

static void test_cache_over_a_stream_stays_within_its_bytes(void **state)
{
    size_t limit = 1 << 20;
    hk_object *cache = hk_bounded_dict(runtime, &(hk_bounds){.size = sizeof(hk_bounds), .max_bytes = limit});
    hk_bounded_stats stats = {.size = sizeof(stats)};
    for (int i = 0; i < rounds(20000); i++) {
        hk_object *key = hk_int(runtime, i), *page = hk_str_format(runtime, "%0*d", 500 + i % 3000, i);
        assert_true(hk_bounded_dict_set(runtime, cache, key, page));
        give_up(key);
        give_up(page);
        hk_bounded_get_stats(cache, &stats);
        assert_in_range(stats.bytes, 1, limit);
        assert_int_equal(stats.evicted, (uint64_t)i + 1 - stats.entries);
    }
    if (stats.evicted > 0) /* pages that are larger than a pool's block are the C allocator's */
        assert_in_range(stats_of(runtime->acyclic).live_bytes + stats_of(runtime->acyclic).large_bytes, limit / 4, limit + limit / 8);
    hk_object *huge = hk_str_format(runtime, "%0*d", 2 << 20, 1);
    assert_false(hk_bounded_dict_set(runtime, cache, huge, hk_none()));
    hk_bounded_stats after = {.size = sizeof(after)};
    hk_bounded_get_stats(cache, &after);
    assert_memory_equal(&after, &stats, sizeof(after)); /* nothing had to go for it */
    give_up(huge);
    give_up(cache);
}

/* --- meanwhile --- */

static hk_object *within; /* the container that evicts */
static bool is_refused;

static void tries_to_change(hk_runtime *unused, hk_object *container, hk_object *key, hk_object *value, void *argument)
{
    assert_ptr_equal(container, within);
    assert_null(hk_bounded_dict_peek(container, key)); /* out */
    assert_false(hk_bounded_dict_set(runtime, container, key, value));
    hk_object *keys = hk_iter(runtime, container), *other;
    if (hk_iter_next(runtime, keys, &other) == HK_ITER_ITEM) {
        assert_false(hk_bounded_dict_delete(runtime, container, other));
        assert_non_null(hk_bounded_dict_get(container, other));
        give_up(other);
    }
    give_up(keys);
    hk_bounded_clear(runtime, container);
    hk_bounded_limit(runtime, container, 1, 0);
    ++*(int *)argument;
}

struct mourner {
    hk_object head;
    hk_object *cache;
};

static void set_when_dying(hk_runtime *unused, hk_object *self)
{
    assert_int_equal(hk_bounded_dict_set(runtime, within, hk_none(), hk_none()), !is_refused);
}

static hk_type mourner_type = {.name = "mourner", .size = sizeof(struct mourner), .pointers = 2, .finalize = set_when_dying};

static void test_callback_and_finalizers_may_look_and_not_change(void **state)
{
    int calls = 0;
    within = hk_bounded_dict(runtime, &(hk_bounds){.size = sizeof(hk_bounds), .max_entries = 2, .evict = HK_EVICT_UNUSED,
                                                   .callback = tries_to_change, .argument = &calls});
    is_refused = true;
    for (int i = 0; i < 20; i++) {
        struct mourner *mourner = (struct mourner *)hk_new(runtime, &mourner_type);
        hk_object *key = hk_int(runtime, i);
        mourner->cache = hk_incref(within); /* a cycle as well */
        assert_true(hk_bounded_dict_set(runtime, within, key, &mourner->head));
        give_up(&mourner->head);
        give_up(key);
        assert_int_equal(hk_bounded_dict_count(within), i == 0 ? 1 : 2);
    }
    assert_int_equal(calls, 18);
    is_refused = false; /* nothing is being evicted from here on */
    assert_true(hk_bounded_dict_delete(runtime, within, hk_int(runtime, 19)));
    assert_non_null(hk_bounded_dict_peek(within, hk_none())); /* put in by the finalizer */
    hk_object *keys = hk_iter(runtime, within), *key;
    assert_int_equal(hk_iter_next(runtime, keys, &key), HK_ITER_ITEM);
    give_up(key);
    hk_object *last = hk_int(runtime, 7);
    is_refused = true;
    assert_true(hk_bounded_dict_set(runtime, within, last, last));
    assert_int_equal(hk_iter_next(runtime, keys, &key), HK_ITER_ERROR); /* it has changed */
    is_refused = false;
    give_up(keys);
    hk_bounded_clear(runtime, within);
    give_up(within);
}

static void test_memory_of_an_object_is_its_block_and_what_it_has_beside(void **state)
{
    assert_int_equal(hk_object_memory(hk_int(runtime, 1)), 16); /* static */
    hk_object *real = hk_float(runtime, 1), *list = hk_list(runtime), *text = hk_str_format(runtime, "%0100000d", 1);
    hk_object *tuple = hk_tuple(runtime, 100), *dict = hk_dict(runtime), *pair = hk_tuple(runtime, 2);
    assert_in_range(hk_object_memory(real), 16, 32);
    size_t empty = hk_object_memory(list);
    for (int i = 0; i < 1000; i++)
        assert_true(hk_list_append(runtime, list, real));
    assert_in_range(hk_object_memory(list), empty + 8000, empty + 9600);
    assert_in_range(hk_object_memory(text), 100000, 110000);
    assert_in_range(hk_object_memory(tuple), 800 + 40, 800 + 64);
    assert_in_range(hk_object_memory(pair), 56, 80);
    empty = hk_object_memory(dict);
    assert_true(hk_dict_set(runtime, dict, real, real));
    assert_int_equal(hk_object_memory(dict), empty + 16 + 8 + 4 * 16);
    give_up(real);
    give_up(list);
    give_up(text);
    give_up(tuple);
    give_up(pair);
    give_up(dict);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(test_bounded_dict_evicts_what_the_model_does),
        EACH(test_bounded_list_evicts_what_the_model_does),
        EACH(test_cache_over_a_stream_stays_within_its_bytes),
        EACH(test_callback_and_finalizers_may_look_and_not_change),
        EACH(test_memory_of_an_object_is_its_block_and_what_it_has_beside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
