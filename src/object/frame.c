/* The stack of frames of a runtime.
 *
 *      chunk    [ head | frame | frame | frame |  room  ]  <-  [ head | frame |   room   ]
 *                                                 ^ end of the older one's frames: `top_before` of the newer
 *
 * A frame lies in one piece in a chunk; where there is no room a further chunk begins, and the frame that begins a chunk takes it
 * along when it is popped. One such chunk is kept, so that a program that goes back and forth over its border
 * does not make a chunk each time.
 *
 * The recorder asks in an allocation hook for the frames of the calling thread, whatever runtime it uses. They are found
 * by a table of slots that is never given back, one a runtime: whose thread it was that pushed last, and its innermost frame.
 * Nobody else writes to a slot that has this thread's name, so reading it needs no lock; a runtime that
 * finds no slot free has a stack like any other, which is not shown.
 *
 * A frame that was popped is its own caller: as long as its place is not used again, popping it once more is seen to be
 * a mistake. */
#include <stdio.h>

#include "heapkeeper/frame.h"
#include "object/runtime.h"

#define CHUNK_BYTES 16384u /* CPython's; its head and the heap's are taken off */
#define CHUNK_ROOM (CHUNK_BYTES - sizeof(struct hk_frame_chunk) - sizeof(struct hk_large) - 16)
#define SLOTS 256

struct hk_frame_chunk {
    struct hk_frame_chunk *previous;
    char *top_before, *end_before; /* of the one before */
    char *end;
};

static struct hk_frame_slot slots[SLOTS];
static uint32_t slots_used; /* none behind them was ever used */
static hk_lock slots_lock;

/* --- whose frames --- */

static const void *this_thread(void)
{
    return __builtin_thread_pointer();
}

static int frames_here(struct hk_program_frame *out, int max)
{
    const struct hk_frame_slot *mine = NULL;
    uint32_t used = __atomic_load_n(&slots_used, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < used; i++) {
        const struct hk_frame_slot *slot = &slots[i];
        if (__atomic_load_n(&slot->thread, __ATOMIC_RELAXED) == this_thread() && slot->current != NULL &&
            (mine == NULL || slot->c_stack < mine->c_stack)) /* of two runtimes, that whose frame is the inner one */
            mine = slot;
    }
    int count = 0;
    for (const hk_frame *frame = mine != NULL ? mine->current : NULL; frame != NULL && count < max; frame = frame->caller)
        out[count++] = (struct hk_program_frame){frame->code, frame->line};
    return count;
}

static void slot_take(struct hk_frames *frames)
{
    hk_lock_take(&slots_lock);
    frames->slot = &frames->unseen;
    for (uint32_t i = 0; i < SLOTS && frames->slot == &frames->unseen; i++)
        if (!slots[i].taken) {
            frames->slot = &slots[i];
            slots[i].taken = true;
            if (i >= slots_used)
                __atomic_store_n(&slots_used, i + 1, __ATOMIC_RELEASE);
        }
    hk_program_frames = frames_here;
    hk_lock_release(&slots_lock);
}

void hk_frames_end(struct hk_frames *frames)
{
    if (frames->slot == NULL)
        return;
    hk_lock_take(&slots_lock);
    __atomic_store_n(&frames->slot->thread, NULL, __ATOMIC_RELAXED);
    frames->slot->current = NULL;
    frames->slot->taken = false;
    hk_lock_release(&slots_lock);
}

/* --- chunks --- */

static bool chunk_add(hk_runtime *runtime, size_t size)
{
    struct hk_frames *frames = &runtime->frames;
    size_t room = size > CHUNK_ROOM ? size : CHUNK_ROOM;
    struct hk_frame_chunk *chunk = frames->spare;
    if (chunk != NULL && room == CHUNK_ROOM)
        frames->spare = NULL;
    else if ((chunk = hk_memory(runtime, sizeof(*chunk) + room)) == NULL)
        return false;
    if (frames->slot == NULL)
        slot_take(frames);
    *chunk = (struct hk_frame_chunk){frames->chunk, frames->top, frames->end, (char *)(chunk + 1) + room};
    frames->chunk = chunk;
    frames->top = (char *)(chunk + 1);
    frames->end = chunk->end;
    return true;
}

static void chunk_drop(hk_runtime *runtime)
{
    struct hk_frames *frames = &runtime->frames;
    struct hk_frame_chunk *chunk = frames->chunk;
    frames->chunk = chunk->previous;
    frames->top = chunk->top_before;
    frames->end = chunk->end_before;
    if ((size_t)(chunk->end - (char *)(chunk + 1)) == CHUNK_ROOM) { /* the last one is kept: there a frame may be popped again */
        struct hk_frame_chunk *before = frames->spare;
        frames->spare = chunk;
        chunk = before;
    }
    hk_memory_free(runtime, chunk);
}

/* --- frames --- */

hk_frame *hk_frame_push(hk_runtime *runtime, const hk_code *code, uint32_t locals)
{
    struct hk_frames *frames = &runtime->frames;
    size_t size = sizeof(hk_frame) + locals * sizeof(hk_object *);
    if (frames->limit != 0 && frames->depth >= frames->limit)
        return NULL;
    if ((size_t)(frames->end - frames->top) < size && !chunk_add(runtime, size))
        return NULL;
    struct hk_frame_slot *slot = frames->slot;
    hk_frame *frame = (hk_frame *)frames->top;
    frame->code = code;
    frame->caller = frames->depth > 0 ? slot->current : NULL;
    frame->runtime = runtime;
    frame->line = code->line;
    frame->count = locals;
    for (uint32_t i = 0; i < locals; i++)
        frame->locals[i] = NULL;
    frames->top += size;
    frames->depth++;
    __atomic_signal_fence(__ATOMIC_RELEASE); /* a signal handler may allocate, and the recorder look */
    slot->current = frame;
    slot->c_stack = __builtin_frame_address(0);
    __atomic_store_n(&slot->thread, this_thread(), __ATOMIC_RELAXED);
    return frame;
}

static void pop_one(hk_runtime *runtime, hk_frame *frame)
{
    struct hk_frames *frames = &runtime->frames;
    for (uint32_t i = 0; i < frame->count; i++)
        HK_CLEAR(runtime, frame->locals[i]);
    frames->slot->current = frame->caller;
    __atomic_signal_fence(__ATOMIC_RELEASE);
    frame->caller = frame;
    frames->depth--;
    frames->top = (char *)frame;
    if (frames->top == (char *)(frames->chunk + 1))
        chunk_drop(runtime);
}

/* It is not the innermost one: a longjmp left others above it, or it is no frame any more. */
static __attribute__((noinline)) bool is_there(const hk_runtime *runtime, const hk_frame *frame)
{
    const hk_frame *other = runtime->frames.slot->current;
    while (other != NULL && other != frame)
        other = other->caller;
    if (other != NULL)
        return true;
    char text[256];
    snprintf(text, sizeof(text), "hk_frame_pop: a frame of \"%s\" (%s:%u) was popped before", frame->code->function,
             frame->code->file, frame->code->line);
    hk_watch_misuse(runtime, text);
    return false;
}

void hk_frame_pop(hk_frame *frame)
{
    hk_runtime *runtime = frame->runtime;
    if (runtime->frames.slot->current != frame && !is_there(runtime, frame))
        return;
    while (runtime->frames.slot->current != frame)
        pop_one(runtime, runtime->frames.slot->current);
    pop_one(runtime, frame);
}

hk_frame *hk_frame_current(hk_runtime *runtime)
{
    return runtime->frames.slot != NULL ? runtime->frames.slot->current : NULL;
}

uint64_t hk_frame_depth(const hk_runtime *runtime)
{
    return runtime->frames.depth;
}

void hk_frame_set_limit(hk_runtime *runtime, uint64_t limit)
{
    runtime->frames.limit = limit;
}

uint64_t hk_frame_get_limit(const hk_runtime *runtime)
{
    return runtime->frames.limit;
}

void hk_frame_get_referrers(hk_runtime *runtime, const hk_object *target, hk_frame_function *function, void *argument)
{
    for (hk_frame *frame = hk_frame_current(runtime); frame != NULL; frame = frame->caller)
        for (uint32_t i = 0; i < frame->count; i++)
            if (frame->locals[i] == target && !function(frame, i, argument))
                return;
}
