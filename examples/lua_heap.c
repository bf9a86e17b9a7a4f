/* Lua on the runtime's memory, through its own allocator hook, and with its functions as frames:
 *
 *      cc -O2 lua_heap.c $(pkg-config --cflags --libs heapkeeper) $(pkg-config --cflags --libs lua5.4) -o lua_heap
 *      ./lua_heap [script.lua]
 *      heapkeeper run ./lua_heap script.lua     the report's stacks are the script's functions and lines
 *
 * The script is run twice, once on the C allocator and once here. What it prints must be the same. Without a script it is one that
 * builds and drops strings, tables and closures, and fails now and then. */
#include <heapkeeper/frame.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usual_script[] =
    "local function tree(depth)\n"
    "  if depth == 0 then return {1} end\n"
    "  return {tree(depth - 1), tree(depth - 1), name = ('x'):rep(depth) .. depth}\n"
    "end\n"
    "local function leaves(t) return t[2] and leaves(t[1]) + leaves(t[2]) or t[1] end\n"
    "local function fails(n) if n == 0 then error('as it should') end return fails(n - 1) + 1 end\n"
    "local total, words = 0, {}\n"
    "for round = 1, 20 do\n"
    "  local t = tree(9)\n"
    "  t.self = t\n"
    "  total = total + leaves(t)\n"
    "  for i = 1, 2000 do words[#words % 5000 + 1] = round .. ':' .. i * i end\n"
    "  print(round, pcall(fails, round))\n"
    "end\n"
    "table.sort(words)\n"
    "print(total, #words, words[1], words[#words], #table.concat(words))\n";

/* --- the allocator --- */

static void *on_runtime(void *runtime, void *block, size_t old_size, size_t size)
{
    (void)old_size; /* of no block: what it is going to be for */
    if (size == 0) {
        hk_memory_free(runtime, block);
        return NULL;
    }
    void *moved = hk_memory_resize(runtime, block, size);
    return moved == NULL && block != NULL && size <= old_size ? block : moved; /* Lua counts on it that shrinking works */
}

static void *on_libc(void *unused, void *block, size_t old_size, size_t size)
{
    (void)unused;
    (void)old_size;
    if (size > 0)
        return realloc(block, size);
    free(block);
    return NULL;
}

/* --- frames --- */

static struct {
    hk_runtime *runtime; /* NULL: of the C allocator's run */
    lua_State *main;     /* coroutines have no frames of their own here */
    struct known {
        hk_code code;
        struct known *next;
    } *known; /* functions, kept for as long as a report may ask */
} frames;

static char *copy_of(const char *text)
{
    char *copy = malloc(strlen(text) + 1);
    return copy != NULL ? strcpy(copy, text) : NULL;
}

static const hk_code *code_of(const lua_Debug *function)
{
    const char *name = function->name != NULL ? function->name : *function->what == 'm' ? "main chunk" : "function";
    uint32_t line = function->linedefined > 0 ? (uint32_t)function->linedefined : 0;
    struct known *known = frames.known;
    while (known != NULL && !(known->code.line == line && strcmp(known->code.function, name) == 0 &&
                              strcmp(known->code.file, function->short_src) == 0))
        known = known->next;
    if (known == NULL && (known = malloc(sizeof(*known))) != NULL) {
        known->code = (hk_code){copy_of(name), copy_of(function->short_src), line};
        known->next = frames.known;
        if (known->code.function == NULL || known->code.file == NULL)
            return NULL; /* no memory: it has no frame */
        frames.known = known;
    }
    return known != NULL ? &known->code : NULL;
}

static void hook(lua_State *lua, lua_Debug *event)
{
    hk_frame *frame = hk_frame_current(frames.runtime);
    if (lua != frames.main)
        return;
    if (event->event == LUA_HOOKLINE) {
        if (frame != NULL)
            frame->line = (uint32_t)event->currentline;
        return;
    }
    if (event->event != LUA_HOOKCALL && frame != NULL) /* returned, or replaced by a tail call */
        hk_frame_pop(frame);
    static const hk_code unknown = {"?", "?", 0};
    if (event->event != LUA_HOOKRET && lua_getinfo(lua, "nS", event)) {
        const hk_code *code = code_of(event);
        hk_frame_push(frames.runtime, code != NULL ? code : &unknown, 0);
    }
}

/* An error leaves functions without a word: whoever catches it gives up their frames. */
static int pcall(lua_State *lua)
{
    hk_frame *frame = hk_frame_current(frames.runtime);
    luaL_checkany(lua, 1);
    int status = lua_pcall(lua, lua_gettop(lua) - 1, LUA_MULTRET, 0);
    while (hk_frame_current(frames.runtime) != frame)
        hk_frame_pop(hk_frame_current(frames.runtime));
    lua_pushboolean(lua, status == LUA_OK);
    lua_insert(lua, 1);
    return lua_gettop(lua);
}

/* --- a run --- */

static struct text {
    char *bytes;
    size_t size;
} said;

static int print(lua_State *lua)
{
    int count = lua_gettop(lua);
    for (int i = 1; i <= count; i++) {
        size_t size;
        const char *item = luaL_tolstring(lua, i, &size);
        char *more = realloc(said.bytes, said.size + size + 2);
        if (more == NULL)
            return luaL_error(lua, "out of memory");
        memcpy(more + said.size, item, size);
        more[said.size + size] = i < count ? '\t' : '\n';
        said = (struct text){more, said.size + size + 1};
        lua_pop(lua, 1);
    }
    return 0;
}

/* What the script says; NULL: no memory for Lua. */
static struct text run(lua_Alloc allocator, void *argument, const char *script)
{
    lua_State *lua = lua_newstate(allocator, argument);
    said = (struct text){NULL, 0};
    if (lua == NULL)
        return said;
    frames.runtime = argument;
    frames.main = lua;
    luaL_openlibs(lua);
    lua_register(lua, "print", print);
    if (argument != NULL) {
        lua_register(lua, "pcall", pcall);
        lua_sethook(lua, hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE, 0);
    }
    int status = script != NULL ? luaL_loadfile(lua, script) : luaL_loadbuffer(lua, usual_script, strlen(usual_script), "=script");
    if (status == LUA_OK)
        status = lua_pcall(lua, 0, 0, 0);
    while (argument != NULL && hk_frame_depth(argument) > 0)
        hk_frame_pop(hk_frame_current(argument));
    if (status != LUA_OK)
        print(lua); /* the error */
    lua_sethook(lua, NULL, 0, 0);
    lua_close(lua);
    return said;
}

int main(int argc, char **argv)
{
    const char *script = argc > 1 ? argv[1] : NULL;
    hk_runtime *runtime = hk_runtime_create(&(hk_runtime_options){.size = sizeof(hk_runtime_options), .name = "lua"});
    if (runtime == NULL)
        return 1;
    struct text libc = run(on_libc, NULL, script), ours = run(on_runtime, runtime, script);
    bool is_same = libc.size == ours.size && libc.size > 0 && memcmp(libc.bytes, ours.bytes, libc.size) == 0;
    fwrite(ours.bytes, 1, ours.size, stdout);
    hk_heap_stats stats = {.size = sizeof(stats)};
    hk_heap_get_stats(NULL, &stats);
    printf("%zu bytes said, on the C allocator and here: %s\n", ours.size, is_same ? "the same" : "not the same");
    printf("%llu blocks were served; %llu left, of the stack of frames\n", (unsigned long long)stats.allocated_blocks,
           (unsigned long long)(stats.live_blocks + stats.large_blocks));
    free(libc.bytes);
    free(ours.bytes);
    hk_runtime_destroy(runtime);
    return !is_same;
}
