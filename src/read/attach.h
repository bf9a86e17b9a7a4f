/* From a process id to its capture. */
#ifndef HK_READ_ATTACH_H
#define HK_READ_ATTACH_H

#include "read/capture.h"

/* The capture of a process: the file that it has mapped, wherever it lies, or the memory it records into if it keeps
 * none (-o /dev/null, a file that was deleted); else the newest with this pid in the directories of captures, of a process
 * that has ended, too. A forked process that has not recorded anything yet has its parent's. NULL and an error: no such
 * process, nothing of ours in it, or it may not be looked at. */
struct hk_capture *hk_capture_of_process(int pid, enum hk_open_how how, struct hk_error *error);

#endif
