/* A heap in a static array: a queue of messages that never asks the system for memory, and what it does when the array is
 * full. The oldest messages go until the new one fits, whatever its size.
 *
 *      cc buffer.c $(pkg-config --cflags --libs heapkeeper) -o buffer && ./buffer
 */
#include <heapkeeper/heap.h>

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define MESSAGES 20000

struct message {
    struct message *next;
    unsigned number;
    size_t length;
    char text[];
};

static char array[256 * 1024]; /* all the memory there is: the heap lies inside, with all that it knows */
static struct message *oldest, *newest;
static unsigned kept;

static void drop_oldest(hk_heap *heap)
{
    struct message *message = oldest;
    oldest = message->next;
    hk_free(heap, message);
    kept--;
}

/* False: the message is larger than the array. */
static bool add_message(hk_heap *heap, unsigned number, size_t length)
{
    struct message *message;
    while ((message = hk_malloc(heap, sizeof *message + length)) == NULL && oldest != NULL)
        drop_oldest(heap);
    if (message == NULL)
        return false;
    *message = (struct message){.number = number, .length = length};
    memset(message->text, 'a' + (int)(number % 26), length);
    if (oldest == NULL)
        oldest = message;
    else
        newest->next = message;
    newest = message;
    kept++;
    return true;
}

/* The queue holds the newest messages, in their order, as they were sent. */
static bool is_intact(unsigned last)
{
    unsigned number = last - kept;
    for (const struct message *m = oldest; m != NULL; m = m->next) {
        bool is_inside = (const char *)m >= array && m->text + m->length <= array + sizeof array;
        if (m->number != ++number || !is_inside)
            return false;
        for (size_t i = 0; i < m->length; i++)
            if (m->text[i] != (char)('a' + number % 26))
                return false;
    }
    return number == last;
}

int main(void)
{
    hk_heap *heap = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options),
        .name = "messages",
        .source = HK_SOURCE_BUFFER,
        .buffer = array,
        .buffer_size = sizeof array,
    });
    if (heap == NULL)
        return 1; /* an array too small for a heap */
    for (unsigned number = 1; number <= MESSAGES; number++)
        if (!add_message(heap, number, number * 7919 % 100))
            return 1;

    hk_heap_stats stats = {.size = sizeof stats};
    hk_heap_get_stats(heap, &stats);
    printf("%d messages sent, the newest %u kept, %s\n", MESSAGES, kept, is_intact(MESSAGES) ? "intact" : "BROKEN");
    printf("%llu of %zu bytes are theirs; the heap needs %llu for itself\n", (unsigned long long)stats.live_bytes, sizeof array,
           (unsigned long long)stats.metadata_bytes);
    printf("a message of 1 MiB: %s\n", add_message(heap, 0, 1 << 20) ? "KEPT" : "refused");
    hk_heap_destroy(heap); /* the array is the program's again */
    return 0;
}
