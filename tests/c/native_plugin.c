/* Loaded by native_program; made twice, with another name of its function. */
#include <stdlib.h>

void *PLUGIN_FUNCTION(size_t size);

__attribute__((visibility("default"), noinline)) void *PLUGIN_FUNCTION(size_t size)
{
    void *block = malloc(size);
    __asm__ volatile("" : : "r"(block) : "memory");
    return block;
}
