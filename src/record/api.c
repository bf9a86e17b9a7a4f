/* The public face: heapkeeper/record.h. */
#include "heapkeeper/record.h"

#include "record/record.h"

bool hk_recording(void)
{
    return hk_record_is_on();
}

uint64_t hk_mark(const char *name)
{
    return hk_record_point(name);
}
