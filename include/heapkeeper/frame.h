/* heapkeeper/frame.h: a runtime's stack of frames. Read object.h first.
 *
 * A frame is what one call of a function has: where the function is defined, the line it is at, and local variables that own
 * references. Frames lie one behind the other in chunks of memory of the runtime, as CPython's do since 3.11
 * (_PyStackChunk), so pushing one is a few stores, and how deep a program goes is a matter of memory, not of the C stack.
 *
 *      static hk_object *join(hk_runtime *runtime, hk_object *words)
 *      {
 *          HK_FRAME(runtime, frame, 2);
 *          if (frame == NULL)
 *              return NULL;                                        // too deep, or no memory
 *          frame->locals[0] = hk_str(runtime, ", ");
 *          if (frame->locals[0] == NULL)
 *              return NULL;                                        // the frame is popped on every way out
 *          frame->locals[1] = hk_str_join(runtime, frame->locals[0], words);
 *          return frame->locals[1] != NULL ? hk_incref(frame->locals[1]) : NULL;
 *      }
 *
 * What the collector sees of it. It has no roots to look for: a reference that it cannot explain by another object keeps alive
 * what it refers to (gc.h), and a frame's variable is one that is counted and explained by nobody. So nothing that a frame
 * refers to is ever collected, whether the collector knows of frames or not; and no write to a variable costs
 * anything but the count. Frames are seen where people ask: hk_frame_get_referrers names those that hold an object, next to
 * hk_gc_get_referrers, which names objects, and `heapkeeper run` shows the stack of frames as where memory was asked for.
 *
 * Frames belong to the thread that pushed them: a runtime goes to another thread only while it has none. Functions are to be called
 * by the thread that uses the runtime. */
#ifndef HEAPKEEPER_FRAME_H
#define HEAPKEEPER_FRAME_H

#include "heapkeeper/object.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where a function is defined. Of C functions a static table each (HK_FRAME makes it); an interpreter has one for each function of
 * its language. Borrowed, with its strings, for as long as a frame has it. */
typedef struct {
    const char *function, *file; /* NUL terminated UTF-8; not NULL */
    uint32_t line;               /* the first */
} hk_code;

typedef struct hk_call_frame {
    const hk_code *code;
    struct hk_call_frame *caller; /* NULL: the outermost */
    hk_runtime *runtime;
    uint32_t line;  /* at which it is; the program keeps it up to date if it likes. At first: code->line */
    uint32_t count; /* of locals */
    hk_object *locals[]; /* owned or NULL; the program puts them in, by assignment or hk_set. At first: NULL */
} hk_frame;

/* Pushes a frame. code: borrowed. NULL: no memory, or there are as many frames already as the limit says. */
HK_API hk_frame *hk_frame_push(hk_runtime *runtime, const hk_code *code, uint32_t locals);
/* Pops the frame, and first those that were pushed after it and are still there (a longjmp left them). Its locals are given up,
 * the first one first; while that runs finalizers, the frame is still there, with what has been given up NULL. A frame that was
 * popped before: in debug mode that is reported, otherwise nothing is done; but once others have been pushed in its place, it may
 * not be looked at any more. */
HK_API void hk_frame_pop(hk_frame *frame);

/* The innermost frame; NULL: there is none. Borrowed until it is popped. */
HK_API hk_frame *hk_frame_current(hk_runtime *runtime);
HK_API uint64_t hk_frame_depth(const hk_runtime *runtime);

/* The limit of frames; 0: none but memory. 0 unless set. C functions that call each other use the C stack, too: a program whose
 * frames are those of C functions sets a limit that its C stack can bear. */
HK_API void hk_frame_set_limit(hk_runtime *runtime, uint64_t frames);
HK_API uint64_t hk_frame_get_limit(const hk_runtime *runtime);

/* Calls the function for each local that refers to the target, from the innermost frame on, until it returns false. The frame is
 * borrowed. The function must not push or pop. */
typedef bool hk_frame_function(hk_frame *frame, uint32_t local, void *argument);
HK_API void hk_frame_get_referrers(hk_runtime *runtime, const hk_object *target, hk_frame_function *function, void *argument);

#if defined(__GNUC__)
static inline void hk_frame_leave(hk_frame **frame) /* private: HK_FRAME's */
{
    if (*frame != NULL)
        hk_frame_pop(*frame);
}

/* Declares `name`, a frame for the function that this stands in, popped when the block is left, however: by return, break or
 * goto; after a longjmp, with the next frame that is popped below it. NULL as with hk_frame_push. */
#define HK_FRAME(runtime, name, locals)                                                                                  \
    static const hk_code name##_code = {__func__, __FILE__, __LINE__};                                                   \
    __attribute__((cleanup(hk_frame_leave))) hk_frame *name = hk_frame_push(runtime, &name##_code, locals)

/* The frame is at this line. */
#define HK_FRAME_HERE(name) ((void)((name)->line = __LINE__))
#endif

#ifdef __cplusplus
}
#endif
#endif
