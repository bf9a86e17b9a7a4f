/* The public face: heapkeeper/record.h. */
#include "heapkeeper/record.h"

#include <string.h>

#include "record/record.h"

bool hk_recording(void)
{
    return hk_record_is_on();
}

uint64_t hk_mark(const char *name)
{
    return hk_record_point(name);
}

uint64_t hk_span_begin(const char *name)
{
    return hk_record_span_begin(name, NULL);
}

void hk_span_end(uint64_t span)
{
    hk_record_span_end(span);
}

void hk_note_collection(const hk_collection *told)
{
    hk_collection collection = {0};
    memcpy(&collection, told, told->size < sizeof collection ? told->size : sizeof collection);
    hk_record_collection(&collection);
}
