/* Loaded by native_program. */
#include <stdlib.h>

void *plugin_make(size_t size);

__attribute__((visibility("default"), noinline)) void *plugin_make(size_t size)
{
    void *block = malloc(size);
    __asm__ volatile("" : : "r"(block) : "memory");
    return block;
}
