/* See index.h. A table keeps 32 bits of each hash, which also say where a thing is: so it is widened without its owner. */
#include "read/index.h"

#include <stdlib.h>

#include "read/capture.h"

void *hk_array_room(void *array, size_t count, size_t *room, size_t size)
{
    if (count < *room)
        return array;
    *room = *room ? *room * 2 : 64;
    return hk_must_realloc(array, *room, size);
}

void hk_index_widen(struct hk_index *index)
{
    struct hk_index wider = {.size = index->size ? index->size * 2 : 256, .used = index->used};
    wider.slots = hk_must_calloc(wider.size, sizeof *wider.slots);
    for (size_t i = 0; i < index->size; i++) {
        size_t at = index->slots[i].hash;
        if (index->slots[i].number == 0)
            continue;
        while (wider.slots[at & (wider.size - 1)].number != 0)
            at++;
        wider.slots[at & (wider.size - 1)] = index->slots[i];
    }
    free(index->slots);
    *index = wider;
}

void hk_index_free(struct hk_index *index)
{
    free(index->slots);
    *index = (struct hk_index){NULL, 0, 0};
}
