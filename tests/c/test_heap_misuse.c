/* Misuse of every public function of heap.h, each row in two children: in debug mode it is named and ends the process; without, the
 * result is what the row says, nothing is printed, and the heap can be used as before, under every lock.
 *
 * The rows are docs/heap.md's table of misuse: it holds these, in this order, and no others. */
#include "heap_misuse.h"

static const struct row *row;

static void commit_in_debug_mode(void)
{
    hk_debug_default(true);
    hk_heap *heap = heap_new(lock);
    if (row->commit(heap) && row->debug == NULL)
        _exit(0);
    _exit(3);
}

static void commit_without(void)
{
    hk_debug_default(false);
    hk_heap *heap = heap_new(lock);
    void *kept = hk_malloc(heap, 50);
    CHILD_CHECK(row->commit(heap));
    CHILD_CHECK(hk_heap_check(NULL) == 0);
    hk_free(heap, kept);
    for (size_t size = 0; size < 20000; size += 333)
        hk_free(heap, memset(hk_malloc(heap, size), 1, size));
    CHILD_CHECK(disagreement(heap) == 0);
    hk_heap_destroy(heap);
    CHILD_CHECK(hk_heap_check(NULL) == 0);
}

static void test_in_debug_mode_each_misuse_is_named_with_where_it_happened(void **state)
{
    static char text[65536], expected[512];
    for (row = rows; row < rows + COUNT(rows); row++) {
        int status = run_child(commit_in_debug_mode, text, sizeof(text));
        bool good;
        if (row->debug == NULL) {
            good = status == 0 && text[0] == '\0';
        } else {
            snprintf(expected, sizeof(expected), "heapkeeper: %s\n  found ", row->debug);
            good = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strncmp(text, expected, strlen(expected)) == 0 &&
                   is_top_of_stack(text, "\n  found ", row->innermost);
        }
        if (!good)
            fail_msg("%s, %s: status %x, and it said:\n%s", row->function, row->misuse, (unsigned)status, text);
    }
}

static void test_without_debug_mode_each_has_the_result_that_the_table_says(void **state)
{
    static char text[65536];
    for (lock = HK_LOCK_OWN; lock <= HK_LOCK_THREADS; lock++)
        for (row = rows; row < rows + COUNT(rows); row++) {
            if (strcmp(row->release, AS_IN_C) == 0 || (is_under_valgrind() && (row - rows) % 3 != (int)lock)) /* each under one */
                continue;
            int status = run_child(commit_without, text, sizeof(text));
            if (status != 0 || text[0] != '\0')
                fail_msg("%s, %s, lock %d: status %x, and it said:\n%s", row->function, row->misuse, (int)lock, (unsigned)status, text);
        }
    lock = HK_LOCK_OWN;
}

/* The line of the table in docs/heap.md. */
static void put_row(const struct row *r, char *line, size_t capacity)
{
    char said[256];
    snprintf(said, sizeof(said), r->debug != NULL ? "`%s`" : "–%s", r->debug != NULL ? r->debug : "");
    snprintf(line, capacity, "| `%s` | %s | %s | %s |\n", r->function, r->misuse, said, r->release);
}

static void test_the_table_in_the_docs_holds_these_rows_and_no_others(void **state)
{
    static char page[1 << 20], line[1024];
    const char *heading = "| function | misuse | debug mode says | otherwise |\n|---|---|---|---|\n";
    FILE *file = fopen(HEAP_PAGE, "r");
    assert_non_null(file);
    page[fread(page, 1, sizeof(page) - 1, file)] = '\0';
    fclose(file);
    const char *at = strstr(page, heading);
    assert_non_null(at);
    at += strlen(heading);
    for (const struct row *r = rows; r < rows + COUNT(rows); r++) {
        put_row(r, line, sizeof(line));
        if (strncmp(at, line, strlen(line)) != 0)
            fail_msg("docs/heap.md has not, where it should (test_heap_misuse --table prints all):\n%s", line);
        at += strlen(line);
    }
    assert_int_equal(*at, '\n');
}

/* Every function that the header declares has a row, but for those that have nothing to misuse. */
static void test_every_public_function_has_a_row(void **state)
{
    static char header[1 << 20];
    static const char *const without[] = {"hk_debug_default", "hk_debug_check", "hk_version"};
    int functions = 0;
    FILE *file = fopen(HEAP_HEADER, "r");
    assert_non_null(file);
    header[fread(header, 1, sizeof(header) - 1, file)] = '\0';
    fclose(file);
    for (const char *at = header; (at = strstr(at, "\nHK_API ")) != NULL;) {
        const char *end = strchr(at + 1, '('), *name = end;
        while (name[-1] == '_' || (name[-1] >= 'a' && name[-1] <= 'z'))
            name--;
        at = end;
        functions++;
        bool has = false;
        for (size_t i = 0; i < COUNT(rows) && !has; i++)
            has = strlen(rows[i].function) == (size_t)(end - name) && strncmp(rows[i].function, name, (size_t)(end - name)) == 0;
        for (size_t i = 0; i < COUNT(without) && !has; i++)
            has = strncmp(without[i], name, (size_t)(end - name)) == 0;
        if (!has)
            fail_msg("%.*s has no row", (int)(end - name), name);
    }
    assert_true(functions > 25);
}

int main(int count, char **words)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_debug_mode_each_misuse_is_named_with_where_it_happened),
        cmocka_unit_test(test_without_debug_mode_each_has_the_result_that_the_table_says),
        cmocka_unit_test(test_the_table_in_the_docs_holds_these_rows_and_no_others),
        cmocka_unit_test(test_every_public_function_has_a_row),
    };
    char line[1024];
    for (size_t i = 0; count > 1 && i < COUNT(rows); i++) {
        put_row(&rows[i], line, sizeof(line));
        fputs(line, stdout);
    }
    return count > 1 ? 0 : cmocka_run_group_tests(tests, NULL, NULL);
}
