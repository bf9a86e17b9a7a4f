/* Finding garbage a little at a time, while the program goes on between. See step.c.
 *
 * One for each runtime that steps, zero before the first. What it knows of objects is in tables of its own (hk_gc_marks,
 * step_count in tables.h), so ordinary collections may come between. */
#ifndef HK_GC_STEP_H
#define HK_GC_STEP_H

#include "gc/scan.h"

enum { HK_GC_STEP_STACK = 4096 };

struct hk_gc_chunk; /* of a stack in pieces, which grows without being copied */

struct hk_gc_step {
    const struct hk_gc_model *model; /* set by the owner, as the next */
    const hk_heap *heap;

    int phase; /* 0: no round is under way */
    unsigned pass;
    bool failed, stop; /* stop: the round is not to go on */
    bool noted;        /* what is allocated in some pools is tracked now, also that which is no object; cleared by the owner */
    uint64_t deadline;

    struct hk_gc_pools pools; /* those of the round's start; later, those with suspects */
    size_t at, kept;          /* where the phase is in them */
    unsigned word;
    uint64_t candidates, candidate_bytes;
    uint32_t suspects, sifted; /* when they were counted last, and before that */

    hk_traversal visitor; /* into buffer */
    hk_object *buffer[256];
    void (*child)(struct hk_gc_step *step, hk_object *child); /* what is done with that */

    hk_object *stack[HK_GC_STEP_STACK]; /* reached: grey, but those that died since */
    size_t top;
    bool spilled, sweeping; /* grey ones for which it had no room; they are being looked for */

    /* Components: by the number of a suspect. */
    uint32_t *first_seen, *low;
    void **order; /* components that are complete from the front; the suspects of incomplete ones from the end: */
    uint32_t *numbers; /* of these, at the same place */
    uint32_t *path;
    uint32_t mapped, seen, ordered, waiting, path_length, current;
    struct hk_gc_chunk *work, *spare;

    struct hk_gc_array batch; /* borrowed, of order */
    uint64_t largest; /* component of the batch */
};

enum hk_gc_step_result {
    HK_GC_STEP_LATE,   /* the deadline is there */
    HK_GC_STEP_NOTED,  /* objects are looked at from now on: what was noted and is none is to be untracked before */
    HK_GC_STEP_BATCH,  /* `batch` looks dead, and is to be checked and freed at once */
    HK_GC_STEP_END,    /* of the round */
    HK_GC_STEP_FAILED, /* no memory; the round is given up */
};

/* A round begins: with the pools in `pools`. Not inside of a release. */
void hk_gc_step_begin(struct hk_gc_step *step);
/* Goes on until something is to be done or it is late. */
enum hk_gc_step_result hk_gc_step_on(struct hk_gc_step *step, uint64_t deadline);
/* No round is under way; nothing is kept. */
void hk_gc_step_give_up(struct hk_gc_step *step);

#endif
