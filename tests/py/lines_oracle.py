"""The source, in C, of what writes down all that Python allocates and frees, and what the program says of where it is, in one order:
the truth for test_line_truth.py. Its functions allocate nothing. Without Python's headers: ctypes loads it into any Python."""

SOURCE = r"""
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

typedef struct object object;
struct method {
    const char *name;
    void *call;
    int flags;
    const char *documentation;
};
typedef struct {
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
} table;
extern void PyMem_GetAllocator(int, table *), PyMem_SetAllocator(int, table *);
extern object *PyModule_New(const char *), _Py_NoneStruct, *PyBytes_FromStringAndSize(const char *, ptrdiff_t);
extern int PyModule_AddFunctions(object *, struct method *);
extern void Py_IncRef(object *);
extern long PyLong_AsLong(object *);

enum kind { ALLOCATED, FREED, RESIZED, ENTERED, MARKED, RETURNED_TO, LEFT };
struct event {
    uint64_t thread, kind, size, had; /* bytes */
};
enum { MOST = 1 << 20, BLOCKS = 1 << 22 };
static struct event *events;
static uint64_t count;
static int writing;
static table below[3];
static __thread uint64_t thread;

/* Every block that lives, with what was asked for: open addressing by address. */
static struct block {
    uintptr_t address;
    size_t size;
} *blocks;
static char lock;

static struct block *place_of(const void *address)
{
    size_t at = (uintptr_t)address * 0x9e3779b97f4a7c15u >> 42;
    while (blocks[at].address != 0 && blocks[at].address != (uintptr_t)address)
        at = (at + 1) % BLOCKS;
    return &blocks[at];
}

static void put(const void *address, size_t size)
{
    while (__atomic_test_and_set(&lock, __ATOMIC_ACQUIRE))
        ;
    *place_of(address) = (struct block){(uintptr_t)address, size};
    __atomic_clear(&lock, __ATOMIC_RELEASE);
}

static size_t take_size(const void *address)
{
    while (__atomic_test_and_set(&lock, __ATOMIC_ACQUIRE))
        ;
    struct block *hole = place_of(address);
    size_t size = hole->size;
    *hole = (struct block){0, 0};
    for (size_t at = (size_t)(hole - blocks + 1) % BLOCKS; blocks[at].address != 0; at = (at + 1) % BLOCKS) {
        struct block moved = blocks[at];
        blocks[at] = (struct block){0, 0};
        *place_of((void *)moved.address) = moved;
    }
    __atomic_clear(&lock, __ATOMIC_RELEASE);
    return size;
}

static void note(enum kind kind, uint64_t size, uint64_t had)
{
    static uint64_t threads;
    if (!writing)
        return;
    if (!thread)
        thread = __atomic_add_fetch(&threads, 1, __ATOMIC_RELAXED);
    uint64_t at = __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED);
    if (at < MOST)
        events[at] = (struct event){thread, kind, size, had};
}

#define DOMAIN(n)                                                       \
    static void *malloc_##n(void *context, size_t size)                 \
    {                                                                   \
        void *block = below[n].malloc(context, size);                   \
        put(block, size);                                               \
        note(ALLOCATED, size, 0);                                       \
        return block;                                                   \
    }                                                                   \
    static void *calloc_##n(void *context, size_t items, size_t size)   \
    {                                                                   \
        void *block = below[n].calloc(context, items, size);            \
        put(block, items * size);                                       \
        note(ALLOCATED, items * size, 0);                               \
        return block;                                                   \
    }                                                                   \
    static void free_##n(void *context, void *block)                    \
    {                                                                   \
        if (block)                                                      \
            note(FREED, 0, take_size(block));                           \
        below[n].free(context, block);                                  \
    }                                                                   \
    static void *realloc_##n(void *context, void *block, size_t size)   \
    {                                                                   \
        if (!block)                                                     \
            return malloc_##n(context, size);                           \
        size_t had = take_size(block);                                  \
        void *moved = below[n].realloc(context, block, size);           \
        put(moved, size);                                               \
        note(RESIZED, size, had);                                       \
        return moved;                                                   \
    }
DOMAIN(0)
DOMAIN(1)
DOMAIN(2)

static object *none(void)
{
    Py_IncRef(&_Py_NoneStruct);
    return &_Py_NoneStruct;
}

static object *say(enum kind kind, object *number)
{
    if (writing)
        note(kind, number ? (uint64_t)PyLong_AsLong(number) : 0, 0);
    return none();
}

static object *enter(object *self, object *function)
{
    return say(ENTERED, function);
}
static object *mark(object *self, object *line)
{
    return say(MARKED, line);
}
static object *back(object *self, object *line)
{
    return say(RETURNED_TO, line);
}
static object *leave(object *self, object *unused)
{
    return say(LEFT, NULL);
}

/* From now on all is written down. */
static object *begin(object *self, object *unused)
{
    count = 0;
    writing = 1;
    return none();
}

/* What was, as bytes. */
static object *end(object *self, object *unused)
{
    writing = 0;
    return PyBytes_FromStringAndSize((const char *)events, (ptrdiff_t)((count < MOST ? count : MOST) * sizeof *events));
}

static struct method methods[] = {
    {"enter", enter, 8, NULL}, {"mark", mark, 8, NULL},   {"back", back, 8, NULL}, {"leave", leave, 4, NULL},
    {"begin", begin, 4, NULL}, {"end", end, 4, NULL},     {NULL, NULL, 0, NULL},
};

object *oracle(void);
object *oracle(void)
{
    static const table ours[3] = {{NULL, malloc_0, calloc_0, realloc_0, free_0},
                                  {NULL, malloc_1, calloc_1, realloc_1, free_1},
                                  {NULL, malloc_2, calloc_2, realloc_2, free_2}};
    object *module = PyModule_New("oracle");
    PyModule_AddFunctions(module, methods);
    blocks = mmap(NULL, BLOCKS * sizeof *blocks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    events = mmap(NULL, MOST * sizeof *events, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (int i = 0; i < 3; i++) {
        PyMem_GetAllocator(i, &below[i]);
        table mine = ours[i];
        mine.context = below[i].context;
        PyMem_SetAllocator(i, &mine);
    }
    return module;
}
"""
