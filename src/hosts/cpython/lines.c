/* Tables, code objects, threads and the stacks of records of the line profile; see lines.h. */
#include "hosts/cpython/lines.h"

#include <pthread.h>
#include <string.h>

#include "record/record.h"

#define FIRST_RECORDS 32u
#define FIRST_CODES 64u
#define QUICK_CALLS 100u
#define QUICK_NS 1000000u

__thread uint16_t hk_line_number;
struct hk_line_thread *hk_line_threads[HK_LINE_THREADS];

static struct {
    struct hk_line_code **entries; /* by the code's address, open addressing, at most half full */
    size_t capacity, used;
} codes;

static uint32_t enabled; /* tables */
static uint32_t enabled_native; /* of them, that want malloc's memory. Read in hooks of any thread: atomic */

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* --- code objects --- */

static size_t home(const void *code)
{
    return (size_t)(((uintptr_t)code >> 4) * 0x9e3779b97f4a7c15u >> 32) & (codes.capacity - 1);
}

static struct hk_line_code **place_of(const void *code)
{
    size_t at = home(code);
    while (codes.entries[at] != NULL && codes.entries[at]->code != code)
        at = (at + 1) & (codes.capacity - 1);
    return &codes.entries[at];
}

struct hk_line_code *hk_line_code_find(const void *code)
{
    return codes.used != 0 ? *place_of(code) : NULL;
}

static bool codes_grow(void)
{
    struct hk_line_code **old = codes.entries;
    size_t had = codes.capacity, capacity = had != 0 ? 2 * had : FIRST_CODES;
    struct hk_line_code **entries = hk_libc.calloc(capacity, sizeof(*entries));
    if (entries == NULL)
        return false;
    codes.entries = entries;
    codes.capacity = capacity;
    for (size_t i = 0; i < had; i++)
        if (old[i] != NULL)
            *place_of(old[i]->code) = old[i];
    hk_libc.free(old);
    return true;
}

static struct hk_line_code *code_add(object *code)
{
    struct hk_line_code *found = hk_line_code_find(code);
    if (found != NULL)
        return found;
    if (2 * codes.used >= codes.capacity && !codes_grow())
        return NULL;
    found = hk_libc.calloc(1, sizeof(*found));
    if (found == NULL)
        return NULL;
    found->code = code;
    memcpy(&found->first_line, (const char *)code + hk_python.layout->code_firstlineno, sizeof found->first_line);
    hk_capi.Py_IncRef(code);
    *place_of(code) = found;
    codes.used++;
    return found;
}

static void code_remove(struct hk_line_code *code)
{
    struct hk_line_code **hole = place_of(code->code), **end = codes.entries + codes.capacity;
    *hole = NULL;
    codes.used--;
    for (struct hk_line_code **at = hole + 1;; at++) { /* what was pushed on by it moves back */
        if (at == end)
            at = codes.entries;
        struct hk_line_code *moved = *at;
        if (moved == NULL)
            break;
        *at = NULL;
        *place_of(moved->code) = moved;
    }
    hk_capi.Py_DecRef((object *)code->code);
    hk_libc.free(code);
}

/* --- tables --- */

static void table_release(struct hk_line_table *table)
{
    hk_libc.free(table->lines);
    hk_libc.free(table->more);
    hk_libc.free(table);
}

static size_t rows(const struct hk_line_table *table)
{
    return (size_t)table->count + 1;
}

struct hk_line_table *hk_line_table_new(int first, int last, int wants)
{
    struct hk_line_table *table = hk_libc.calloc(1, sizeof(*table));
    if (table == NULL)
        return NULL;
    table->first = first;
    table->count = last >= first ? last - first + 1 : 0;
    table->first_live = -1;
    table->wants = wants;
    table->lines = hk_libc.calloc(rows(table), sizeof(*table->lines));
    if (wants & HK_LINE_MORE)
        table->more = hk_libc.calloc(rows(table), sizeof(*table->more));
    if (table->lines != NULL && (!(wants & HK_LINE_MORE) || table->more != NULL))
        return table;
    table_release(table);
    return NULL;
}

bool hk_line_table_add(struct hk_line_table *table, object *code, bool is_outermost)
{
    struct hk_line_code *found = code_add(code);
    struct hk_line_link *link = found != NULL ? hk_libc.calloc(1, sizeof(*link)) : NULL;
    if (link == NULL)
        return false;
    *link = (struct hk_line_link){table, found->links, is_outermost};
    found->links = link;
    hk_line_gate_mark(code);
    return true;
}

/* --- spans --- */

static void span_begins(struct hk_line_record *record, struct hk_line_code *code)
{
    record->began = hk_record_moment_now();
    if (record->began.ns == 0) /* nothing is recorded */
        return;
    record->code = code;
    record->span = code->quick < QUICK_CALLS ? hk_record_span_begin(NULL, code->code) : 0;
}

static void span_ends(struct hk_line_record *record)
{
    struct hk_line_code *code = record->code;
    bool is_quick = hk_record_moment_now().ns - record->began.ns < QUICK_NS;
    if (record->span != 0)
        hk_record_span_end(record->span);
    else if (is_quick)
        hk_record_span_left_out();
    else
        hk_record_span_late(record->began, code->code);
    code->quick = is_quick ? code->quick + (code->quick < QUICK_CALLS) : 0;
    record->code = NULL;
}

/* --- what is beside Python's memory --- */

bool hk_line_has_native(void)
{
    return hk_process_heap != NULL;
}

/* For a thread whose calls of malloc are counted. In a hook. */
static struct hk_counted *counted_here(void)
{
    return hk_line_number != 0 && __atomic_load_n(&enabled_native, __ATOMIC_RELAXED) != 0 ? &hk_line_here()->native : NULL;
}

static struct hk_line_more more_now(const struct hk_line_thread *thread, const struct hk_line_table *table)
{
    return (struct hk_line_more){.native = thread->native, .rss = table->wants & HK_LINE_RSS ? (int64_t)hk_record_resident() : 0};
}

static void charge_more(const struct hk_line_thread *thread, struct hk_line_record *record)
{
    if (record->table->more == NULL)
        return;
    const struct hk_line_more now = more_now(thread, record->table), since = record->more_since;
    struct hk_line_more *more = &record->table->more[record->line - record->table->lines];
    more->native.allocated += now.native.allocated - since.native.allocated;
    more->native.freed += now.native.freed - since.native.freed;
    more->native.blocks += now.native.blocks - since.native.blocks;
    more->native.freed_blocks += now.native.freed_blocks - since.native.freed_blocks;
    more->rss += now.rss - since.rss;
    record->more_since = now;
}

/* --- records --- */

static void charge(struct hk_line_thread *thread, struct hk_line_record *record)
{
    hk_line_charge(thread, record);
    charge_more(thread, record);
}

static void line_ends(struct hk_line_thread *thread, struct hk_line_record *record, int64_t live, int64_t most)
{
    hk_line_ends(thread, record, live, most);
    charge_more(thread, record);
}

/* The top record is another, or has another state. */
static void see_top(struct hk_line_thread *thread)
{
    struct hk_line_record *top = thread->records + thread->depth - 1;
    bool is_plain = thread->depth > 0 && top->table != NULL && top->table->more == NULL && !top->is_shared;
    thread->plain = top;
    thread->plain_frame = is_plain ? top->frame : 0;
}

/* What was counted before is none of the record's business. */
static void count_from_here(const struct hk_line_thread *thread, struct hk_line_record *record)
{
    record->since = thread->counts;
    if (record->table->more != NULL)
        record->more_since = more_now(thread, record->table);
}

/* The most that lived since the newest event, for the records of the innermost frame; what comes next begins anew. */
static inline void hand_down(struct hk_line_thread *thread, int64_t live, int64_t most)
{
    struct hk_line_record *top = thread->records + thread->depth - 1;
    thread->peak = live;
    if (thread->depth == 0)
        return;
    for (struct hk_line_record *record = top; record >= thread->records && record->frame == top->frame; record--)
        record->most = larger(record->most, most);
}

static bool room_for_records(struct hk_line_thread *thread)
{
    uint32_t capacity = thread->capacity != 0 ? 2 * thread->capacity : FIRST_RECORDS;
    if (thread->depth < thread->capacity)
        return true;
    void *records = hk_libc.realloc(thread->records, capacity * sizeof(*thread->records));
    if (records == NULL)
        return false;
    thread->records = records;
    thread->capacity = capacity;
    return true;
}

static void push(struct hk_line_thread *thread, const struct hk_line_link *link, uintptr_t frame, int line, bool is_call)
{
    struct hk_line_table *table = link->table;
    int64_t live = hk_line_live(thread);
    int32_t outer = -1;
    if (!room_for_records(thread))
        return;
    for (int32_t i = (int32_t)thread->depth - 1; table->running != 0 && i >= 0 && outer < 0; i--)
        if (thread->records[i].table == table)
            outer = i;
    if (outer >= 0)
        charge(thread, &thread->records[outer]);
    if (is_call && link->is_outermost) {
        table->calls++;
        if (table->first_live < 0)
            table->first_live = live;
    }
    table->running++;
    struct hk_line_record *record = &thread->records[thread->depth];
    *record = (struct hk_line_record){
        .table = table,
        .frame = frame,
        .line = hk_line_of(table, line),
        .start = live,
        .most = live,
        .call_start = live,
        .call_most = live,
        .outer = outer,
        .is_shared = thread->depth > 0 && thread->records[thread->depth - 1].frame == frame,
    };
    if (table->wants & HK_LINE_ENTRIES && !(is_call && link->is_outermost) && record->line->hits++ == 0)
        record->line->first_live = live;
    if (table->wants & HK_LINE_NATIVE)
        hk_threads_count();
    count_from_here(thread, record);
    thread->depth++;
}

void hk_line_begin(struct hk_line_thread *thread, struct hk_line_code *code, uintptr_t frame, int line, bool is_call)
{
    int64_t live = hk_line_live(thread);
    uint32_t depth = thread->depth;
    bool is_function = false;
    hand_down(thread, live, larger(live, thread->peak));
    for (const struct hk_line_link *link = code->links; link != NULL; link = link->next) {
        if (link->table->enabled != 0) {
            push(thread, link, frame, line, is_call);
            is_function |= link->is_outermost;
        }
    }
    see_top(thread);
    if (is_function && thread->depth > depth)
        span_begins(&thread->records[depth], code);
}

/* For us the record's frame runs no more. */
static void record_ends(struct hk_line_thread *thread, struct hk_line_record *record, int64_t live)
{
    struct hk_line_table *table = record->table;
    if (table == NULL)
        return;
    if (record->code != NULL)
        span_ends(record);
    line_ends(thread, record, live, live);
    table->peak = larger(table->peak, record->call_most - record->call_start);
    table->running--;
    record->table = NULL;
    if (record->outer >= 0 && thread->records[record->outer].table != NULL)
        count_from_here(thread, &thread->records[record->outer]);
}

/* The top record is one that has not ended for us. */
static void drop_ended(struct hk_line_thread *thread)
{
    while (thread->depth > 0 && thread->records[thread->depth - 1].table == NULL)
        thread->depth--;
    see_top(thread);
}

static void pop_frame(struct hk_line_thread *thread, int64_t live)
{
    uintptr_t frame = thread->records[thread->depth - 1].frame;
    int64_t most = live;
    while (thread->depth > 0 && thread->records[thread->depth - 1].frame == frame) {
        struct hk_line_record *record = &thread->records[thread->depth - 1];
        record_ends(thread, record, live);
        most = larger(most, record->call_most);
        thread->depth--;
    }
    drop_ended(thread);
    hand_down(thread, live, most);
}

/* What lies above the frame has ended without our being told, as under greenlets. False: the frame is not there. */
static bool uncover(struct hk_line_thread *thread, uintptr_t frame, int64_t live)
{
    uint32_t depth = thread->depth;
    while (depth > 0 && thread->records[depth - 1].frame != frame)
        depth--;
    if (depth == 0)
        return false;
    while (thread->depth > depth)
        pop_frame(thread, live);
    return thread->depth == depth;
}

bool hk_line_step_slow(struct hk_line_thread *thread, uintptr_t frame, int line)
{
    int64_t live = hk_line_live(thread), most = larger(live, thread->peak);
    if (!uncover(thread, frame, live))
        return false;
    thread->peak = live;
    for (struct hk_line_record *record = thread->records + thread->depth; record-- > thread->records && record->frame == frame;) {
        if (record->table == NULL)
            continue;
        line_ends(thread, record, live, most);
        hk_line_starts(record, line, live);
    }
    return true;
}

void hk_line_again(struct hk_line_thread *thread, uintptr_t frame)
{
    if (!uncover(thread, frame, hk_line_live(thread)))
        return;
    for (struct hk_line_record *record = thread->records + thread->depth; record-- > thread->records && record->frame == frame;)
        if (record->table != NULL)
            record->line->hits++;
}

void hk_line_leave(struct hk_line_thread *thread, uintptr_t frame)
{
    int64_t live = hk_line_live(thread);
    if (!uncover(thread, frame, live))
        return;
    hand_down(thread, live, larger(live, thread->peak));
    pop_frame(thread, live);
}

/* --- all threads --- */

/* Each record of the table, in every thread. */
static void for_each_record(struct hk_line_table *table, void (*visitor)(struct hk_line_thread *, struct hk_line_record *))
{
    for (uint32_t i = 1; i < HK_LINE_THREADS && hk_line_threads[i] != NULL && table->running != 0; i++)
        for (uint32_t k = hk_line_threads[i]->depth; k-- > 0;)
            if (hk_line_threads[i]->records[k].table == table)
                visitor(hk_line_threads[i], &hk_line_threads[i]->records[k]);
}

static void end_now(struct hk_line_thread *thread, struct hk_line_record *record)
{
    record_ends(thread, record, hk_line_live(thread));
    drop_ended(thread);
}

static void begin_anew(struct hk_line_thread *thread, struct hk_line_record *record)
{
    count_from_here(thread, record);
    record->start = record->most = record->call_start = record->call_most = hk_line_live(thread);
}

void hk_line_table_enable(struct hk_line_table *table)
{
    if (table->enabled++ == 0) {
        enabled++;
        if (table->wants & HK_LINE_NATIVE)
            __atomic_add_fetch(&enabled_native, 1, __ATOMIC_RELAXED);
    }
    hk_counted_here = counted_here;
    hk_line_count_begin();
}

void hk_line_table_disable(struct hk_line_table *table)
{
    if (table->enabled == 0 || --table->enabled != 0)
        return;
    for_each_record(table, end_now);
    if (table->wants & HK_LINE_NATIVE)
        __atomic_sub_fetch(&enabled_native, 1, __ATOMIC_RELAXED);
    if (--enabled == 0)
        hk_line_count_end();
}

void hk_line_table_reset(struct hk_line_table *table)
{
    for_each_record(table, begin_anew);
    memset(table->lines, 0, rows(table) * sizeof(*table->lines));
    if (table->more != NULL)
        memset(table->more, 0, rows(table) * sizeof(*table->more));
    table->calls = 0;
    table->peak = 0;
    table->first_live = -1;
}

static void see_peak(struct hk_line_thread *thread, struct hk_line_record *record)
{
    record->table->peak = larger(record->table->peak, record->call_most - record->call_start);
}

void hk_line_table_look(struct hk_line_table *table)
{
    for_each_record(table, see_peak);
}

void hk_line_table_free(struct hk_line_table *table)
{
    while (table->enabled != 0)
        hk_line_table_disable(table);
    for (size_t i = 0; i < codes.capacity; i++) {
        struct hk_line_code *code = codes.entries[i];
        for (struct hk_line_link **at = code != NULL ? &code->links : NULL; at != NULL && *at != NULL;) {
            struct hk_line_link *link = *at;
            if (link->table != table) {
                at = &link->next;
                continue;
            }
            *at = link->next;
            hk_libc.free(link);
        }
        if (code != NULL && code->links == NULL) {
            code_remove(code);
            i--; /* another may lie here now */
        }
    }
    table_release(table);
}

/* --- threads --- */

static struct {
    pthread_key_t key;
    bool has_key;
} ends;

/* What it allocates and frees from here on is not counted. */
static void thread_ends(void *pointer)
{
    struct hk_line_thread *thread = pointer;
    hk_line_number = 0;
    __atomic_store_n(&thread->is_used, false, __ATOMIC_RELEASE);
}

/* A number that no thread has (any more), and its counters. */
static uint32_t thread_take(void)
{
    for (uint32_t i = 1; i < HK_LINE_THREADS; i++) {
        if (hk_line_threads[i] == NULL)
            hk_line_threads[i] = hk_libc.calloc(1, sizeof(struct hk_line_thread));
        if (hk_line_threads[i] == NULL)
            return 0;
        if (!__atomic_load_n(&hk_line_threads[i]->is_used, __ATOMIC_ACQUIRE))
            return i;
    }
    return 0;
}

struct hk_line_thread *hk_line_thread_here(void)
{
    if (hk_line_number != 0)
        return hk_line_here();
    if (!ends.has_key)
        ends.has_key = pthread_key_create(&ends.key, thread_ends) == 0;
    uint32_t number = ends.has_key ? thread_take() : 0;
    struct hk_line_thread *thread = hk_line_threads[number];
    if (thread == NULL || pthread_setspecific(ends.key, thread) != 0)
        return NULL;
    for (uint32_t i = 0; i < thread->depth; i++) /* of a thread that ended in the midst */
        if (thread->records[i].table != NULL)
            thread->records[i].table->running--;
    *thread = (struct hk_line_thread){.records = thread->records, .capacity = thread->capacity, .is_used = true};
    thread->base = thread->peak = hk_line_heap_live();
    hk_line_number = (uint16_t)number;
    return thread;
}
