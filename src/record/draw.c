/* Sampling: distances, weights, and the mean that suits the program.
 *
 * The heap counts requested bytes down from an exponential distance; the block that brings the
 * sum to the distance or beyond is the sample. Distances have no memory, so a block of n bytes
 * is chosen with probability p = 1 - exp(-n / mean) whatever came before, and stands for n / p
 * bytes and 1 / p blocks. Both are rounded to whole numbers at random, which keeps every sum
 * unbiased.
 *
 * Automatic mode moves the mean between 32 KiB and 512 KiB so that samples take about 1/2 % of
 * the time, by their measured cost, and are no more than 4000 a second: all but the fastest
 * allocators get finer figures for the same price. (A rise of 5 MiB is 3 standard errors at a
 * mean of 512 KiB and 9 at 64 KiB: small leaks need it.) The new mean depends only on samples
 * already taken and each weight on the mean its distance was drawn with, so nothing is biased by
 * the moves.
 *
 * log and exp are our own: a preloaded library should not bring libm into the program.
 */
#include <string.h>

#include "record/internal.h"

#define LN2                0.693147180559945309417232121458
#define FINEST_MEAN        (32u << 10)
#define COARSEST_MEAN      (512u << 10)
#define SAMPLES_PER_SECOND 4000u
#define COST_SHARE         200u /* of the time, at most one part in so many for samples */
#define WINDOW             64u  /* samples between looks at the clock */
#define LARGEST_DISTANCE   4e18

/* x = m * 2^e with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh((m - 1) / (m + 1)), a series in
 * s^2 < 0.03. */
double hk_rec_log(double x)
{
    uint64_t bits;
    double m, s, square, sum = 0;

    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffu) | 0x3ff0000000000000u;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.41421356237309504880) {
        m *= 0.5;
        exponent++;
    }
    s = (m - 1) / (m + 1);
    square = s * s;
    for (int k = 21; k >= 1; k -= 2)
        sum = sum * square + 1.0 / k;
    return exponent * LN2 + 2 * s * sum;
}

/* exp(-x) = 2^-k exp(-r) with r in [0, ln 2); for small x the series of 1 - exp(-x) itself,
 * which loses nothing. */
double hk_rec_one_minus_exp_minus(double x)
{
    double r = x, series = 1;
    int halvings = 0;

    if (x > 40)
        return 1;
    if (x > LN2) {
        halvings = (int)(x / LN2);
        r = x - halvings * LN2;
    }
    for (int k = 16; k >= 2; k--) /* 1 - exp(-r) = r (1 - r/2 (1 - r/3 (1 - ...))) */
        series = 1 - r / k * series;
    series *= r;
    if (halvings == 0)
        return series;
    return 1 - (1 - series) / (double)(UINT64_C(1) << halvings);
}

uint64_t hk_rec_random(void)
{
    uint64_t z = __atomic_add_fetch(&hk_rec.random, 0x9e3779b97f4a7c15u, __ATOMIC_RELAXED);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double random_unit(void) /* in (0, 1] */
{
    return (double)((hk_rec_random() >> 11) + 1) * 0x1p-53;
}

void hk_record_seed(uint64_t seed)
{
    __atomic_store_n(&hk_rec.random, seed * 0xd1342543de82ef95u + 1, __ATOMIC_RELAXED);
    hk_rec.seeded = true;
}

uint64_t hk_record_draw(uint64_t *mean)
{
    uint64_t in_force = __atomic_load_n(&hk_rec.mean, __ATOMIC_RELAXED);
    double distance;

    *mean = in_force;
    if (in_force == 0)
        return 1;
    distance = -(double)in_force * hk_rec_log(random_unit());
    if (distance >= LARGEST_DISTANCE)
        return (uint64_t)LARGEST_DISTANCE;
    /* Rounded up: a whole number of bytes reaches it if and only if it reaches the real one. */
    uint64_t whole = (uint64_t)distance;
    return whole + (distance > (double)whole || whole == 0);
}

void hk_rec_weigh(size_t bytes, uint64_t mean, uint64_t *weight, uint32_t *blocks)
{
    double n = bytes > 0 ? (double)bytes : 1, chance, stands_for;

    if (mean == 0) {
        *weight = bytes;
        *blocks = 1;
        return;
    }
    chance = hk_rec_one_minus_exp_minus(n / (double)mean);
    if (chance >= 1) {
        *weight = bytes;
        *blocks = 1;
        return;
    }
    *weight = (uint64_t)(n / chance + 1 - random_unit());
    stands_for = 1 / chance + 1 - random_unit();
    *blocks = stands_for < 4e9 ? (uint32_t)stands_for : 4000000000u;
}

static uint64_t wanted_distance_ns(void) /* between two samples */
{
    uint64_t by_cost = hk_rec.sample_cost_ns * COST_SHARE,
             by_rate = UINT64_C(1000000000) / SAMPLES_PER_SECOND;

    return by_cost > by_rate ? by_cost : by_rate;
}

/* Called for every sample. At most halves or doubles the mean at a time. */
void hk_rec_adapt_mean(void)
{
    struct hk_capture_header *header = hk_rec_header();
    uint64_t now, elapsed, wanted, mean = hk_rec.mean;

    if (!hk_rec.automatic || ++hk_rec.window_samples < WINDOW)
        return;
    now = hk_rec_clock();
    elapsed = now - hk_rec.window_ns;
    hk_rec.window_ns = now;
    hk_rec.window_samples = 0;
    if (elapsed == 0)
        elapsed = 1;
    if (elapsed > 10000000000u)
        elapsed = 10000000000u;
    wanted = mean * WINDOW * wanted_distance_ns() / elapsed;
    if (wanted > mean * 2)
        wanted = mean * 2;
    if (wanted < mean / 2)
        wanted = mean / 2;
    if (wanted > COARSEST_MEAN)
        wanted = COARSEST_MEAN;
    if (wanted < FINEST_MEAN)
        wanted = FINEST_MEAN;
    __atomic_store_n(&hk_rec.mean, wanted, __ATOMIC_RELAXED);
    if (wanted > header->sample_bytes)
        header->sample_bytes = wanted;
}
