/* A profile of memory by line, of chosen functions: what each line allocated and freed while it ran, with all that it called.
 *
 *      code      each code object of a chosen function is known to us (lines.c); the interpreter tells us when a frame of it
 *                begins, goes to another line, and ends: by sys.monitoring from 3.12 on (lines_module.c), before that by
 *                lines_gate.c
 *      thread    counts what it allocates and frees (lines_count.c), and has a stack of the profiled frames that run in it.
 *                What another thread does changes nothing
 *      line      is charged, when it is left, with what its thread's counters have risen since it was begun
 *
 * A table is one function's, with the code objects in it (comprehensions, inner functions). Of frames of the same table on one
 * thread's stack only the innermost is charged, so that the lines add up to the function, in a recursion too.
 *
 * Peaks. The thread's `peak` is the most that lived since the newest event; each event hands it down: to the line that is left, by it to
 * its call, and by that to the line of the caller.
 *
 * Spans. Each stretch in which a frame of the function itself runs is a span of the record (src/record/spans.c): from its call to its end,
 * of a generator from where it goes on to where it yields. Of a function whose last QUICK_CALLS stretches were all shorter than
 * a millisecond only those are told from then on which were not, when they have ended: two looks at the clock are all that others cost.
 *
 * What does the telling may allocate itself: the number of a line is an int, made before we are called. Such a block, the newest of
 * the thread, is taken out of the counters, and kept until the next event, so that its end is not counted either.
 *
 * All but the counters is protected by the main interpreter's lock. */
#ifndef HK_HOSTS_CPYTHON_LINES_H
#define HK_HOSTS_CPYTHON_LINES_H

#include "heap/threads.h"
#include "hosts/cpython/capi.h"
#include "hosts/cpython/lines_count.h"
#include "record/record.h"

/* What was counted for a line. Bytes, but for the numbers of blocks; the Python half unpacks it as it is. */
struct hk_line {
    uint64_t hits, allocated, freed, blocks, freed_blocks;
    int64_t peak;                       /* most above what lived when the line began */
    int64_t live, live_max, first_live; /* after it, at its last visit; at most; when it began first */
};

/* The same beside it, where it was asked for. The Python half unpacks it, too. */
struct hk_line_more {
    struct hk_counted native; /* malloc's memory, of the thread */
    int64_t rss;              /* bytes that the process's resident size rose by */
};
enum { HK_LINE_NATIVE = 1, HK_LINE_RSS = 2, HK_LINE_MORE = HK_LINE_NATIVE | HK_LINE_RSS };
/* Hits as memory_profiler counts occurrences: a line is also come to where a frame goes on at it, and by the call of code inside of the
 * function (the function's own calls are known apart). */
enum { HK_LINE_ENTRIES = 4 };

struct hk_line_table {
    struct hk_line *lines; /* `count`, and one for lines elsewhere */
    struct hk_line_more *more; /* as many; NULL: not asked for */
    int32_t first, count;
    int wants; /* HK_LINE_NATIVE, HK_LINE_RSS, HK_LINE_ENTRIES */
    uint32_t enabled; /* by so many */
    uint32_t running; /* records of it on all stacks */
    uint64_t calls;
    int64_t peak, first_live; /* of its calls as of a line */
};

struct hk_line_link { /* a code object belongs to a table */
    struct hk_line_table *table;
    struct hk_line_link *next;
    bool is_outermost; /* the function itself */
};

struct hk_line_code {
    const void *code; /* a reference is held */
    struct hk_line_link *links;
    int32_t first_line;
    uint32_t quick; /* spans in a row that were short */
};

struct hk_line_record { /* of a frame that runs, in a table */
    struct hk_line_table *table; /* NULL: it has ended for us */
    uintptr_t frame;
    struct hk_line *line;
    struct hk_counted since;          /* the thread's, when the line began or went on */
    struct hk_line_more more_since;   /* where the table has such */
    int64_t start, most;         /* live when the line began, and at most since */
    int64_t call_start, call_most;
    struct hk_line_code *code; /* whose span this is; NULL: it has none, or another record of the frame has it */
    struct hk_record_moment began;
    uint64_t span; /* 0: it is not recorded yet */
    int32_t outer;  /* of the same table, further down; -1: none */
    bool is_shared; /* the record below is of the same frame */
};

enum { HK_LINE_METHODS = 15 };

struct hk_line_thread {
    struct hk_counted counts;     /* written in hooks */
    struct hk_counted native;     /* the same, where a table wants it */
    int64_t base, peak;           /* what lives: base + allocated - freed */
    const void *newest;           /* block */
    const void *skip, *skipped;   /* a block whose end is not counted; one that has ended; see lines_gate.c */
    const void *suspect;          /* perhaps a method object that tracing has made: the newest block; lines_gate.c */
    const void *methods[HK_LINE_METHODS + 1]; /* such blocks, whose ends are not counted, from 1 on */
    uint32_t method_count;
    object *held;                 /* an int: see above */
    struct hk_line_record *records;
    uint32_t depth, capacity;
    struct hk_line_record *plain; /* the top record, where it is its frame's only one, in a table without `more`; of the frame */
    uintptr_t plain_frame;        /* 0: it is not so */
    uintptr_t frame;              /* lines_gate.c: the innermost profiled one, and */
    void *theirs;                 /* the trace function of another tool */
    uintptr_t adopted, outer;     /* the frame, if it did not come through the gate; what was there in its place */
    bool is_thrown;               /* an exception is thrown into the frame that begins */
    bool is_used;
};

/* The counters of this thread: a number, since there is no room for a pointer in what is local to threads. 0: it has none. */
#define HK_LINE_THREADS 4096
extern __thread uint16_t hk_line_number;
extern struct hk_line_thread *hk_line_threads[HK_LINE_THREADS];

/* The innermost frame of a thread state that has one. */
static inline uintptr_t hk_line_innermost(const void *state)
{
    const hk_py_layout *layout = hk_python.layout;
    uintptr_t frame = hk_word_at(state, layout->thread_frame);
    return layout->cframe_current >= 0 ? hk_word_at((const void *)frame, layout->cframe_current) : frame;
}

static inline struct hk_line_thread *hk_line_here(void)
{
    return hk_line_threads[hk_line_number];
}

static inline int64_t hk_line_live(const struct hk_line_thread *thread)
{
    return thread->base + (int64_t)(thread->counts.allocated - thread->counts.freed);
}

/* --- counting, in hooks --- */

static inline void hk_line_born(struct hk_line_thread *thread, const void *block, size_t bytes)
{
    thread->newest = block;
    thread->counts.allocated += bytes;
    thread->counts.blocks++;
}

/* Before bytes are freed: what lives now may be the most. */
static inline void hk_line_look_at_peak(struct hk_line_thread *thread)
{
    int64_t live = hk_line_live(thread);
    if (live > thread->peak)
        thread->peak = live;
}

static inline void hk_line_dies(struct hk_line_thread *thread, size_t bytes)
{
    hk_line_look_at_peak(thread);
    thread->counts.freed += bytes;
    thread->counts.freed_blocks++;
}

/* A block of `had` bytes has become this one. */
static inline void hk_line_moved(struct hk_line_thread *thread, const void *block, size_t had, size_t has)
{
    if (has < had) {
        thread->newest = block;
        hk_line_look_at_peak(thread);
        thread->counts.freed += had - has;
        return;
    }
    hk_line_born(thread, block, has);
    thread->counts.freed += had;
    thread->counts.freed_blocks++;
}

/* --- lines.c --- */

/* For lines [first, last] of a file. wants: HK_LINE_NATIVE, if hk_line_has_native(), HK_LINE_RSS, HK_LINE_ENTRIES. NULL: no memory. */
struct hk_line_table *hk_line_table_new(int first, int last, int wants);
bool hk_line_has_native(void); /* malloc's memory is ours in this process */
void hk_line_table_free(struct hk_line_table *table);
bool hk_line_table_add(struct hk_line_table *table, object *code, bool is_outermost); /* false: no memory */
void hk_line_table_enable(struct hk_line_table *table);
void hk_line_table_disable(struct hk_line_table *table);
void hk_line_table_reset(struct hk_line_table *table);
void hk_line_table_look(struct hk_line_table *table); /* its peak, also of calls that run */

struct hk_line_code *hk_line_code_find(const void *code); /* NULL: it is in no table */
struct hk_line_thread *hk_line_thread_here(void);         /* made if need be; NULL: no memory, or there are too many */

/* A frame of the code begins, or goes on (is_call: no). */
void hk_line_begin(struct hk_line_thread *thread, struct hk_line_code *code, uintptr_t frame, int line, bool is_call);
/* It comes to a line. False: no such frame is known; of hk_line_step: hk_line_step_slow may know it. */
bool hk_line_step_slow(struct hk_line_thread *thread, uintptr_t frame, int line);
/* It comes once more to the line at which it is, as on_jump says. */
void hk_line_again(struct hk_line_thread *thread, uintptr_t frame);
/* It ends, or pauses. */
void hk_line_leave(struct hk_line_thread *thread, uintptr_t frame);

static inline struct hk_line *hk_line_of(const struct hk_line_table *table, int line)
{
    uint32_t at = (uint32_t)line - (uint32_t)table->first;
    return &table->lines[at < (uint32_t)table->count ? at : (uint32_t)table->count];
}

static inline __attribute__((always_inline)) void hk_line_charge(struct hk_line_thread *thread, struct hk_line_record *record)
{
    const struct hk_counted now = thread->counts, since = record->since;
    struct hk_line *line = record->line;
    line->allocated += now.allocated - since.allocated;
    line->freed += now.freed - since.freed;
    line->blocks += now.blocks - since.blocks;
    line->freed_blocks += now.freed_blocks - since.freed_blocks;
    record->since = now;
}

/* The line of the record is left, at which `live` bytes live; since the newest event at most `most` did. */
static inline __attribute__((always_inline)) void hk_line_ends(struct hk_line_thread *thread, struct hk_line_record *record, int64_t live, int64_t most)
{
    struct hk_line *line = record->line;
    most = record->most > most ? record->most : most;
    hk_line_charge(thread, record);
    if (most - record->start > line->peak)
        line->peak = most - record->start;
    line->live = live;
    if (live > line->live_max)
        line->live_max = live;
    if (most > record->call_most)
        record->call_most = most;
}

static inline __attribute__((always_inline)) void hk_line_starts(struct hk_line_record *record, int line, int64_t live)
{
    struct hk_line *begun = hk_line_of(record->table, line);
    record->line = begun;
    if (begun->hits++ == 0)
        begun->first_live = live;
    record->start = record->most = live;
}

static inline __attribute__((always_inline)) bool hk_line_step(struct hk_line_thread *thread, uintptr_t frame, int line)
{
    struct hk_line_record *record = thread->plain;
    if (__builtin_expect(thread->plain_frame != frame, 0))
        return false;
    int64_t live = hk_line_live(thread), most = live > thread->peak ? live : thread->peak;
    thread->peak = live;
    hk_line_ends(thread, record, live, most);
    hk_line_starts(record, line, live);
    return true;
}

/* --- lines_gate.c: 3.9 to 3.11 --- */

bool hk_line_gate_open(void); /* false: not in this Python */
void hk_line_gate_close(void);
void hk_line_gate_adopt(void); /* a frame of known code that runs in this thread; after open, or else nothing */
void hk_line_gate_mark(const void *code);
#define HK_LINE_METHOD_BYTES 72 /* of a built-in method's object and its header */
/* A block of that size was allocated while a profiled frame is known to the gate; nothing is in it yet. In a hook. */
bool hk_line_gate_suspects(const struct hk_line_thread *thread, void *block);
bool hk_line_gate_is_method(const void *block);

/* --- lines_module.c --- */

/* A new module object (PyObject *) with what heapkeeper.lines needs; NULL with a Python exception. The caller holds the GIL of the
 * main interpreter (ctypes.PyDLL). Not in a hook. */
HK_API void *hk_python_lines(void);

#endif
