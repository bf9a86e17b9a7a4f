/* Lists of tracebacks, as Python's tracemalloc has them, of traces (traces.h): tuples of frames, which are tuples of file and line. What is
 * the same is one object: a frame, a traceback, the name of a file. */
#include "hosts/cpython/trace_objects.h"

#include "base/os.h"

struct maker {
    const struct hk_traces *traces;
    bool with_functions;
    object **frames, **tracebacks; /* made already; of the former, file names are in `files` */
    object **files;                /* by frame: the same object for the same name, through the frame that had it first */
    size_t frame_count, trace_count;
};

static object *make_string(uint32_t string)
{
    static char buffer[4096]; /* under the GIL */
    size_t size = hk_traces_string(string, buffer, sizeof buffer);
    if (size == 0)
        return hk_capi_text("<unknown>");
    return hk_capi.PyUnicode_DecodeUTF8(buffer, (ssize_t)size, "surrogateescape");
}

static object *again(object *made)
{
    if (made != NULL)
        hk_capi.Py_IncRef(made);
    return made;
}

/* The file names of neighbouring frames are mostly the same: looked for among the frames that are made, by a small table. */
static object *file_of(struct maker *m, uint32_t file)
{
    static struct {
        const struct maker *whose;
        uint32_t file, frame;
    } known[256];
    uint32_t at = file * 0x9e3779b9u >> 24;
    if (known[at].whose == m && known[at].file == file && known[at].frame < m->frame_count &&
        m->traces->frames[known[at].frame].file == file && m->files[known[at].frame] != NULL)
        return again(m->files[known[at].frame]);
    object *name = make_string(file);
    for (uint32_t i = 0; name != NULL && i < m->frame_count; i++) {
        if (m->traces->frames[i].file != file)
            continue;
        if (m->files[i] == NULL)
            m->files[i] = again(name);
        known[at].whose = m;
        known[at].file = file;
        known[at].frame = i;
        break;
    }
    return name;
}

static object *frame_of(struct maker *m, uint32_t frame)
{
    const struct hk_trace_frame *f = &m->traces->frames[frame];
    if (m->frames[frame] != NULL)
        return again(m->frames[frame]);
    object *file = file_of(m, f->file), *line = hk_capi.PyLong_FromLong(f->line);
    object *function = m->with_functions ? make_string(f->function) : NULL;
    m->frames[frame] = hk_capi_tuple(file, line, function, NULL, m->with_functions ? 3 : 2);
    return again(m->frames[frame]);
}

static object *traceback_of(struct maker *m, uint32_t trace)
{
    const struct hk_trace *t = &m->traces->traces[trace];
    if (m->tracebacks[trace] != NULL)
        return again(m->tracebacks[trace]);
    object *tuple = hk_capi.PyTuple_New(t->length);
    for (uint32_t i = 0; tuple != NULL && i < t->length; i++) {
        object *frame = frame_of(m, m->traces->path[t->first + i]);
        if (frame == NULL) {
            hk_capi.Py_DecRef(tuple);
            return NULL;
        }
        hk_capi.PyTuple_SetItem(tuple, i, frame);
    }
    m->tracebacks[trace] = tuple;
    return again(tuple);
}

static bool maker_begin(struct maker *m, const struct hk_traces *traces, bool with_functions)
{
    *m = (struct maker){.traces = traces,
                        .with_functions = with_functions,
                        .frame_count = traces->frame_count,
                        .trace_count = traces->trace_count};
    m->frames = hk_os_map(m->frame_count * sizeof(object *) + 1);
    m->files = hk_os_map(m->frame_count * sizeof(object *) + 1);
    m->tracebacks = hk_os_map(m->trace_count * sizeof(object *) + 1);
    return m->frames != NULL && m->files != NULL && m->tracebacks != NULL;
}

static void drop(object **list, size_t count)
{
    for (size_t i = 0; list != NULL && i < count; i++)
        if (list[i] != NULL)
            hk_capi.Py_DecRef(list[i]);
    hk_traces_free(list, count * sizeof(object *) + 1);
}

static void maker_end(struct maker *m)
{
    drop(m->tracebacks, m->trace_count);
    drop(m->frames, m->frame_count);
    drop(m->files, m->frame_count);
}

/* [(frames, bytes, blocks)] of every trace that has any. */
static object *list_sums(struct maker *m)
{
    ssize_t count = 0, at = 0;
    for (size_t i = 0; i < m->trace_count; i++)
        count += m->traces->traces[i].blocks != 0 || m->traces->traces[i].bytes != 0;
    object *list = hk_capi.PyList_New(count);
    for (uint32_t i = 0; list != NULL && i < m->trace_count; i++) {
        const struct hk_trace *t = &m->traces->traces[i];
        if (t->blocks == 0 && t->bytes == 0)
            continue;
        object *entry = hk_capi_tuple(traceback_of(m, i), hk_capi.PyLong_FromUnsignedLongLong(t->bytes),
                                   hk_capi.PyLong_FromUnsignedLongLong(t->blocks), NULL, 3);
        if (entry == NULL) {
            hk_capi.Py_DecRef(list);
            return NULL;
        }
        hk_capi.PyList_SetItem(list, at++, entry);
    }
    return list;
}

static object *trace_object(struct maker *m, const struct hk_group *group, uint32_t trace)
{
    return hk_capi_tuple(hk_capi.PyLong_FromLong((long)group->domain), hk_capi.PyLong_FromUnsignedLongLong(group->bytes / group->blocks),
                      traceback_of(m, trace), hk_capi.PyLong_FromLong(m->traces->traces[trace].depth < HK_MOST_FRAMES ?
                                                                 (long)m->traces->traces[trace].depth : HK_MOST_FRAMES), 4);
}

/* A trace (0, size, frames, depth) for each block; or, not flat, [(trace, blocks)]. */
static object *list_traces(struct maker *m, const struct hk_group *groups, bool flat)
{
    size_t count = m->traces->group_count, length = 0, at = 0;
    for (size_t i = 0; i < count; i++)
        length += flat ? groups[i].blocks : 1;
    object *list = hk_capi.PyList_New((ssize_t)length);
    for (size_t i = 0; list != NULL && i < count; i++) {
        object *trace = trace_object(m, &groups[i], m->traces->trace_of_group[i]);
        if (!flat)
            trace = hk_capi_tuple(trace, hk_capi.PyLong_FromUnsignedLongLong(groups[i].blocks), NULL, NULL, 2);
        if (trace == NULL) {
            hk_capi.Py_DecRef(list);
            return NULL;
        }
        for (uint64_t k = flat ? groups[i].blocks : 1; k > 0; k--)
            hk_capi.PyList_SetItem(list, (ssize_t)at++, k > 1 ? again(trace) : trace);
    }
    return list;
}

object *hk_trace_objects(const struct hk_group *groups, size_t count, const struct hk_traces_options *options, enum hk_trace_objects what)
{
    struct hk_traces traces;
    struct maker maker = {0};
    object *made = NULL;
    if (!hk_traces_resolve(groups, count, options, &traces) || !maker_begin(&maker, &traces, options->key >= HK_BY_FUNCTION))
        hk_capi.PyErr_NoMemory();
    else if (what == HK_TRACEBACK)
        made = traceback_of(&maker, traces.trace_of_group[0]);
    else
        made = what == HK_SUMS ? list_sums(&maker) : list_traces(&maker, groups, what == HK_TRACES_FLAT);
    maker_end(&maker);
    hk_traces_end(&traces);
    return made;
}
