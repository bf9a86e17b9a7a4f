/* A private heap in a C program: make one, use it, see what it costs.
 *
 *     cc examples/embed.c $(pkg-config --cflags --libs heapkeeper) -o embed && ./embed
 */
#include <heapkeeper/heap.h>

#include <stdio.h>
#include <string.h>

struct word {
    struct word *next;
    char text[];
};

int main(void)
{
    static const char verse[] = "a heap that says where every byte of it went";
    hk_heap *heap = hk_heap_create(NULL); /* NULL: it locks itself, any thread may use it */
    struct word *words = NULL;
    char report[4096];

    if (heap == NULL) {
        return 1;
    }
    for (const char *start = verse; *start != '\0';) {
        size_t length = strcspn(start, " ");
        struct word *word = hk_malloc(heap, sizeof *word + length + 1);
        if (word == NULL) {
            return 1;
        }
        memcpy(word->text, start, length);
        word->text[length] = '\0';
        word->next = words;
        words = word;
        start += length + strspn(start + length, " ");
    }
    for (const struct word *word = words; word != NULL; word = word->next) {
        printf("%s%s", word->text, word->next != NULL ? " " : "\n");
    }

    hk_stats_text(report, sizeof report);
    fputs(report, stdout);

    hk_heap_destroy(heap); /* with all that is in it: nothing has to be freed one by one */
    return 0;
}
