/* SQLite on the runtime's memory, through its own allocator hooks, and with its statements as frames:
 *
 *      cc -O2 sqlite_heap.c $(pkg-config --cflags --libs heapkeeper) $(pkg-config --cflags --libs sqlite3) -o sqlite_heap
 *      ./sqlite_heap
 *      heapkeeper run ./sqlite_heap     the report's stacks are SQL statements, by the line of their text
 *
 * The same statements are run twice, once on the C allocator and once here. What they answer must be the same. */
#include <heapkeeper/frame.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const statements[] = {
    "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL, note BLOB)",
    "CREATE TABLE sale (item INTEGER REFERENCES item, day INTEGER, count INTEGER)",
    "CREATE INDEX sale_item ON sale (item, day)",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
    " INSERT INTO item SELECT i, 'item ' || (i * 7919 % 5000), (i * 31 % 1000) / 10.0, zeroblob(i % 300) FROM n",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
    " INSERT INTO sale SELECT i * 13 % 5000 + 1, i % 365, i % 7 FROM n",
    "SELECT count(*), sum(length(note)), min(name), max(name) FROM item",
    "SELECT item.name, sum(count) AS c FROM sale JOIN item ON item.id = sale.item GROUP BY item.id ORDER BY c DESC, name LIMIT 5",
    "SELECT day, group_concat(item) FROM (SELECT * FROM sale WHERE count = 6 ORDER BY day, item) GROUP BY day LIMIT 3",
    "SELECT a.name, b.name FROM item a, item b WHERE a.price = b.price AND a.id < b.id ORDER BY a.name, b.name LIMIT 4",
    "SELECT nothing FROM nowhere",
    "DELETE FROM item WHERE id % 3 = 0",
    "UPDATE item SET note = name || name || name",
    "SELECT hex(note), count(*) FROM item GROUP BY length(note) ORDER BY 1 LIMIT 4",
};

/* --- the allocator: SQLite asks for sizes, so each block has its own in front of it --- */

static hk_runtime *runtime;

#define HEAD 16

static void *block_with(void *memory, int size)
{
    if (memory == NULL)
        return NULL;
    *(int *)memory = size;
    return (char *)memory + HEAD;
}

static void *xMalloc(int size)
{
    return block_with(hk_memory(runtime, (size_t)size + HEAD), size);
}

static void xFree(void *block)
{
    if (block != NULL)
        hk_memory_free(runtime, (char *)block - HEAD);
}

static void *xRealloc(void *block, int size)
{
    return block_with(hk_memory_resize(runtime, (char *)block - HEAD, (size_t)size + HEAD), size);
}

static int xSize(void *block)
{
    return *(int *)(void *)((char *)block - HEAD);
}

static int xRoundup(int size)
{
    return (size + 7) & ~7;
}

static int xInit(void *unused)
{
    (void)unused;
    return SQLITE_OK;
}

static void xShutdown(void *unused)
{
    (void)unused;
}

static const sqlite3_mem_methods here = {xMalloc, xFree, xRealloc, xSize, xRoundup, xInit, xShutdown, NULL};

/* --- a run --- */

struct text {
    char *bytes;
    size_t size;
};

static void add(struct text *text, const char *what)
{
    char *more = realloc(text->bytes, text->size + strlen(what) + 2);
    if (more == NULL)
        exit(1);
    text->bytes = more;
    text->size += (size_t)sprintf(more + text->size, "%s|", what);
}

static void execute(sqlite3 *database, size_t number, struct text *out)
{
    hk_code code = {statements[number], "statements", (uint32_t)number + 1};
    hk_frame *frame = runtime != NULL ? hk_frame_push(runtime, &code, 0) : NULL;
    sqlite3_stmt *statement = NULL;
    int status = sqlite3_prepare_v2(database, statements[number], -1, &statement, NULL);
    while (status == SQLITE_OK || status == SQLITE_ROW) {
        status = sqlite3_step(statement);
        for (int i = 0; status == SQLITE_ROW && i < sqlite3_column_count(statement); i++)
            add(out, (const char *)sqlite3_column_text(statement, i));
    }
    add(out, status == SQLITE_DONE ? "done\n" : sqlite3_errmsg(database));
    sqlite3_finalize(statement);
    if (frame != NULL)
        hk_frame_pop(frame);
}

/* methods NULL: the C allocator's. */
static struct text run(const sqlite3_mem_methods *methods)
{
    static sqlite3_mem_methods usual;
    struct text out = {NULL, 0};
    sqlite3 *database;
    sqlite3_shutdown();
    if (usual.xMalloc == NULL)
        sqlite3_config(SQLITE_CONFIG_GETMALLOC, &usual);
    sqlite3_config(SQLITE_CONFIG_SINGLETHREAD); /* a runtime is used by one thread at a time */
    sqlite3_config(SQLITE_CONFIG_MALLOC, methods != NULL ? methods : &usual);
    if (sqlite3_initialize() != SQLITE_OK || sqlite3_open(":memory:", &database) != SQLITE_OK)
        exit(1);
    for (size_t i = 0; i < sizeof(statements) / sizeof(*statements); i++)
        execute(database, i, &out);
    sqlite3_close(database);
    sqlite3_shutdown();
    return out;
}

int main(void)
{
    struct text libc = run(NULL);
    runtime = hk_runtime_create(&(hk_runtime_options){.size = sizeof(hk_runtime_options), .name = "sqlite"});
    if (runtime == NULL)
        return 1;
    struct text ours = run(&here);
    bool is_same = libc.size == ours.size && memcmp(libc.bytes, ours.bytes, libc.size) == 0;
    hk_heap_stats stats = {.size = sizeof(stats)};
    hk_heap_get_stats(NULL, &stats);
    fwrite(ours.bytes, 1, ours.size, stdout);
    printf("\n%zu bytes of answers, on the C allocator and here: %s\n", ours.size, is_same ? "the same" : "not the same");
    printf("%llu blocks were served; %llu left, of the stack of frames\n", (unsigned long long)stats.allocated_blocks,
           (unsigned long long)(stats.live_blocks + stats.large_blocks));
    free(libc.bytes);
    free(ours.bytes);
    hk_runtime_destroy(runtime);
    return !is_same;
}
