/* Signal handlers that interrupt malloc and its family and fork, in a program of one thread: glibc bears that, so must we.
 * Run with the library preloaded (meson.build). The children end, allocate and end, or return from the handler and go on.
 * Once at every instruction of a walk over the slow paths, once at moments that a timer picks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <malloc.h>
#include <stdlib.h>
#include <sys/time.h>

#include "stepping.h"

enum { BLOCKS = 24, PLACES = 1000, MINUTES = 60 }; /* seconds */

struct kept {
    unsigned char *block;
    size_t size;
    unsigned char fill;
};

static struct kept kept[BLOCKS];
static const size_t sizes[] = {4096, 2000, 64, 3000, 16, 4096, 800, 4096};
static size_t our_largest; /* that is the heap's, and not glibc's, whose malloc bears no second call when it is interrupted */

static size_t size_of(size_t i)
{
    return sizes[i % 8] < our_largest ? sizes[i % 8] : our_largest;
}

static void find_largest(void)
{
    void *(*heap_of)(const void *) = (void *(*)(const void *))dlsym(RTLD_DEFAULT, "hk_heap_of");
    for (our_largest = 4096; heap_of != NULL && heap_of(malloc(our_largest)) == NULL; our_largest /= 2)
        ;
}

static void check(bool good, int line)
{
    if (!good)
        _exit(line % 200 + 50);
}
#define CHECK(good) check(good, __LINE__)

static void keep(struct kept *k, void *block, size_t size, unsigned char fill)
{
    CHECK(block != NULL);
    *k = (struct kept){block, size, fill};
    memset(block, fill, size);
}

static void verify(const struct kept *k)
{
    for (size_t i = 0; i < k->size; i++)
        CHECK(k->block[i] == k->fill);
}

/* Not from pools that the interrupted call is changing: as much as POSIX allows, and more. */
static void child_allocates(void)
{
    struct kept mine[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        size_t size = size_of(i);
        keep(&mine[i], i % 3 == 0 ? calloc(1, size) : malloc(size), size, (unsigned char)i);
    }
    for (size_t i = 0; i < BLOCKS; i += 2) {
        size_t size = size_of(i + 3);
        keep(&mine[i], realloc(mine[i].block, size), size, (unsigned char)i);
    }
    for (size_t i = 0; i < BLOCKS; i++)
        free(mine[i].block);
}

/* Pools begin, fill up, open again and become empty. */
static void walk(void)
{
    for (size_t i = 0; i < BLOCKS; i++)
        kept[i].block = malloc(kept[i].size = size_of(i));
    for (size_t i = 0; i < BLOCKS; i += 4)
        kept[i].block = realloc(kept[i].block, kept[i].size = kept[i].size / 2);
    for (size_t i = 1; i < BLOCKS; i += 2)
        free(kept[i].block);
    for (size_t i = 1; i < BLOCKS; i += 2)
        kept[i].block = malloc(kept[i].size = size_of(i / 2));
    for (size_t i = 0; i < BLOCKS; i++)
        free(kept[i].block);
}

/* What is allocated stays so in a child that goes on, and the walk works there. */
static void end_as_child(const struct kept *before)
{
    for (size_t i = 0; i < BLOCKS; i++)
        verify(&before[i]);
    walk();
    _exit(0);
}

static void step_through_the_walk(void)
{
    struct kept before[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++)
        keep(&before[i], malloc(size_of(i)), size_of(i), (unsigned char)~i);
    walk();
    step_prepare(0, child_allocates);
    step_begin();
    walk();
    step_end();
    long stride = stepping.step / PLACES;
    CHECK(stepping.step > 1000);
    step_prepare(stride + 1 + stride % 2, child_allocates); /* odd: no even loop hides an instruction for ever */
    do { /* again, should the counted walk have met more samples than this one: a sample is many instructions */
        step_begin();
        walk();
        step_end();
    } while (!stepping.is_child && stepping.failed_at == 0 && stepping.children < PLACES / 2);
    if (stepping.is_child)
        end_as_child(before);
    CHECK(step_went_well(PLACES / 2));
    end_as_child(before);
}

static void test_a_handler_forks_at_any_instruction_of_malloc_and_free(void **state)
{
    if (!CAN_STEP)
        skip();
    assert_int_equal(in_process(step_through_the_walk, 10 * MINUTES), 0);
}

/* --- a timer --- */

enum { FORKS = 300, SLOTS = 256 };

static void timer_set(int microseconds)
{
    struct itimerval timer = {.it_value.tv_usec = microseconds};
    setitimer(ITIMER_REAL, &timer, NULL);
}

static void timer_handler(int number)
{
    if (stepping.is_child)
        return;
    stepping.step++;
    if (!fork_in_handler())
        timer_set(20 + (int)(stepping.step * 37 % 211));
}

static void churn(struct kept *slots, unsigned *random, size_t largest)
{
    *random = *random * 1103515245 + 12345;
    struct kept *slot = &slots[*random >> 16 & (SLOTS - 1)];
    size_t size = 1 + (*random >> 8) % largest;
    unsigned char fill = (unsigned char)*random;
    if (slot->block == NULL) {
        keep(slot, *random & 1 << 24 ? malloc(size) : memalign(64, size), size, fill);
        return;
    }
    verify(slot);
    if (*random & 3 << 24) {
        free(slot->block);
        slot->block = NULL;
    } else {
        keep(slot, realloc(slot->block, size), size, fill);
    }
}

static void churn_under_a_timer(size_t largest, void (*work)(void))
{
    static struct kept slots[SLOTS];
    unsigned random = 1;
    memset(&stepping, 0, sizeof(stepping));
    stepping.work = work;
    signal(SIGALRM, timer_handler);
    timer_set(500);
    while (stepping.step < FORKS && !stepping.is_child && stepping.failed_at == 0)
        churn(slots, &random, largest);
    timer_set(0);
    CHECK(stepping.is_child || step_went_well(FORKS));
    for (int i = 0; i < 2000; i++)
        churn(slots, &random, largest);
    for (int i = 0; i < SLOTS; i++)
        if (slots[i].block != NULL)
            verify(&slots[i]);
    _exit(0);
}

static void churn_small(void)
{
    churn_under_a_timer(our_largest, child_allocates);
}

/* Of what glibc's own malloc does to a block meanwhile, a handler of glibc's may know nothing. */
static void child_does_nothing(void)
{
}

static void churn_all(void)
{
    churn_under_a_timer(40000, child_does_nothing);
}

static void test_a_handler_forks_whenever_a_timer_says(void **state)
{
    assert_int_equal(in_process(churn_small, 5 * MINUTES), 0);
    assert_int_equal(in_process(churn_all, 5 * MINUTES), 0);
}

int main(void)
{
    find_largest();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_handler_forks_at_any_instruction_of_malloc_and_free),
        cmocka_unit_test(test_a_handler_forks_whenever_a_timer_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
