/* A program to be recorded: functions that ask for memory, one of them in a library that is loaded at run time. Compiled with and without frame pointers. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#define NOT_INLINED __attribute__((noinline, noclone))

static void *volatile keep[64];

NOT_INLINED static void *take(size_t size)
{
    void *block = malloc(size); /* the line of every block that is asked for through take() */
    __asm__ volatile("" : : "r"(block) : "memory");
    return block;
}

NOT_INLINED static int remember(int count)
{
    for (int i = 0; i < count; i++)
        keep[i] = take(1000); /* called from here */
    return count;
}

NOT_INLINED static int forget(int count)
{
    int sum = 0;
    for (int i = 0; i < count; i++) {
        void *block = malloc(500);
        sum += block != NULL;
        __asm__ volatile("" : : "r"(block) : "memory");
        free(block);
    }
    return sum;
}

static inline __attribute__((always_inline)) void *grab(size_t size)
{
    void *block = malloc(size); /* in grab, which is a part of hoard */
    __asm__ volatile("" : : "r"(block) : "memory");
    return block;
}

NOT_INLINED static int hoard(void)
{
    keep[50] = grab(3000); /* the call of grab */
    return keep[50] != NULL;
}

NOT_INLINED static void *xmalloc(size_t size)
{
    void *block = malloc(size);
    __asm__ volatile("" : : "r"(block) : "memory");
    return block;
}

NOT_INLINED static int serve(void)
{
    keep[51] = xmalloc(4000); /* the line to be named */
    return keep[51] != NULL;
}

int main(int argc, char **argv)
{
    int sum = remember(20) + forget(30) + hoard() + serve();
    if (argc > 1) {
        void *library = dlopen(argv[1], RTLD_NOW);
        void *(*make)(size_t) = library != NULL ? (void *(*)(size_t))dlsym(library, "plugin_make") : NULL;
        if (make == NULL)
            return 1;
        keep[40] = make(7000);
        sum++;
    }
    return sum >= 52 ? 0 : 1;
}
