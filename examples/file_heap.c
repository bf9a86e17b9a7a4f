/* A heap in a file: more memory than one wants resident, or than there is. The program's blocks lie in the file, the kernel
 * keeps of them in memory what is used, and the program may send away what it does not need for now. A full disk is
 * NULL like any other end of memory, not a signal.
 *
 *      cc file_heap.c $(pkg-config --cflags --libs heapkeeper) -o file_heap && ./file_heap [FILE [MiB]]
 */
#define _DEFAULT_SOURCE
#include <heapkeeper/heap.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define SENT_AWAY_EVERY (4 * MIB) /* of records */

struct record {
    struct record *next;
    unsigned number;
    size_t length;
    char text[];
};

static size_t most; /* resident, bytes */

static size_t resident(void)
{
    unsigned long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm == NULL || fscanf(statm, "%*u %lu", &pages) != 1)
        return 0;
    fclose(statm);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* A pool's pages need not be in memory: what they hold is in the file, and comes back when it is looked at. */
static bool send_away(const hk_pool_info *pool, void *block, hk_block_state state, void *argument)
{
    (void)block, (void)state, (void)argument;
    madvise(pool->start, pool->size, MADV_DONTNEED);
    return false; /* its blocks need not be shown */
}

/* Every few MiB that the program works on. */
static void work_on(hk_heap *heap, size_t bytes)
{
    static size_t since;
    since += bytes;
    if (since < SENT_AWAY_EVERY)
        return;
    since = 0;
    size_t now = resident();
    most = now > most ? now : most;
    hk_heap_visit(heap, send_away, NULL);
}

int main(int argc, char **argv)
{
    FILE *temporary = argc > 1 ? NULL : tmpfile();
    int file = argc > 1 ? open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600) : temporary != NULL ? fileno(temporary) : -1;
    size_t wanted = (argc > 2 ? strtoul(argv[2], NULL, 10) : 64) * MIB, bytes = 0;
    if (file < 0) {
        perror("file_heap: no file");
        return 1;
    }
    hk_heap *heap = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options),
        .name = "records",
        .source = HK_SOURCE_FILE,
        .file = file,
        .large_from_source = true, /* large blocks lie in the file, too */
    });
    if (heap == NULL)
        return 1;

    struct record *records = NULL;
    unsigned count = 0;
    while (bytes < wanted) {
        size_t length = 100 + count * 7919u % 380;
        struct record *record = hk_malloc(heap, sizeof *record + length);
        if (record == NULL) {
            printf("the disk is full: hk_malloc says NULL\n");
            break;
        }
        *record = (struct record){.next = records, .number = count, .length = length};
        memset(record->text, (int)(count % 251), length);
        records = record;
        count++;
        bytes += length;
        work_on(heap, length);
    }

    unsigned intact = 0;
    work_on(heap, SENT_AWAY_EVERY); /* all of it */
    for (const struct record *r = records; r != NULL; r = r->next) {
        const unsigned char *text = (const unsigned char *)r->text;
        intact += text[0] == r->number % 251 && memcmp(text, text + 1, r->length - 1) == 0;
        work_on(heap, r->length);
    }
    printf("%u records, %zu MiB, in a file of %zu MiB; %zu MiB were resident at most\n", count, bytes / MIB,
           (size_t)lseek(file, 0, SEEK_END) / MIB, most / MIB);
    printf("%u of them are as they were written\n", intact);
    hk_heap_destroy(heap);
    return intact != count;
}
