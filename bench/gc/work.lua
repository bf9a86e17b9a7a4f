-- The workloads of work.h in Lua 5.4. Small objects are arrays, the cheapest that Lua has.
local number = {}
for name, value in io.open((arg[0]:gsub("%.lua$", ".h"))):read("a"):gmatch("([A-Z_]+) = (%d+),") do
    number[name] = math.tointeger(tonumber(value))
end
local TREES_DEPTH = number.TREES_DEPTH
local BENCH_STRETCH, BENCH_LONG_LIVED = number.BENCH_STRETCH, number.BENCH_LONG_LIVED
local BENCH_ARRAY, BENCH_MAX = number.BENCH_ARRAY, number.BENCH_MAX
local STRINGS_ROUNDS, STRINGS_KEYS = number.STRINGS_ROUNDS, number.STRINGS_KEYS
local STRINGS_STEPS, STRINGS_LONGEST = number.STRINGS_STEPS, number.STRINGS_LONGEST
local CYCLES_GRAPHS, CYCLES_WINDOW, CYCLES_NODES = number.CYCLES_GRAPHS, number.CYCLES_WINDOW, number.CYCLES_NODES
local CACHE_KEYS, CACHE_ENTRIES, CACHE_REQUESTS = number.CACHE_KEYS, number.CACHE_ENTRIES, number.CACHE_REQUESTS

local random = 42
local function below(limit)
    random = (random * 1103515245 + 12345) & 0x7fffffff
    return (random >> 8) % limit
end

local workloads = {}

local function tree_make(depth)
    if depth > 0 then
        return {tree_make(depth - 1), tree_make(depth - 1)}
    end
    return {false, false}
end

local function tree_check(tree)
    if tree[1] then
        return 1 + tree_check(tree[1]) + tree_check(tree[2])
    end
    return 1
end

function workloads.trees()
    local sum = tree_check(tree_make(TREES_DEPTH + 1))
    local stays = tree_make(TREES_DEPTH)
    for depth = 4, TREES_DEPTH, 2 do
        for _ = 1, 1 << (TREES_DEPTH - depth + 4) do
            sum = sum + tree_check(tree_make(depth))
        end
    end
    return sum + tree_check(stays)
end

local function node_new()
    return {false, false, 0, 0}
end

local function populate(depth, node)
    if depth <= 0 then
        return
    end
    node[1] = node_new()
    node[2] = node_new()
    populate(depth - 1, node[1])
    populate(depth - 1, node[2])
end

local function bottom_up(depth)
    if depth <= 0 then
        return node_new()
    end
    return {bottom_up(depth - 1), bottom_up(depth - 1), 0, 0}
end

local function node_count(node)
    return node and 1 + node_count(node[1]) + node_count(node[2]) or 0
end

function workloads.gcbench()
    local sum = 0
    bottom_up(BENCH_STRETCH)
    local stays = node_new()
    populate(BENCH_LONG_LIVED, stays)
    local array = {}
    for i = 1, BENCH_ARRAY do
        array[i] = 1.0 / i
    end
    for depth = 4, BENCH_MAX, 2 do
        local times = 2 * ((1 << (BENCH_STRETCH + 1)) - 1) // ((1 << (depth + 1)) - 1)
        for _ = 1, times do
            populate(depth, node_new())
        end
        for _ = 1, times do
            bottom_up(depth)
        end
        sum = sum + times
    end
    return sum + node_count(stays) + (array[1000] == 1.0 / 1000 and 1 or 0)
end

function workloads.strings()
    local sum = 0
    for _ = 1, STRINGS_ROUNDS do
        local dict = {}
        for _ = 1, STRINGS_STEPS do
            local key = "key-" .. below(STRINGS_KEYS)
            local old = dict[key]
            if old == nil then
                dict[key] = key
            elseif #old > STRINGS_LONGEST then
                dict[key] = nil
            else
                dict[key] = old .. "," .. key
            end
        end
        local list = {}
        for _, value in pairs(dict) do
            list[#list + 1] = value
        end
        sum = sum + #table.concat(list, "; ")
    end
    return sum
end

local function ring_make(count)
    local vertices = {}
    for i = 1, count do
        vertices[i] = {false, false, false, i - 1}
    end
    for i = 1, count do
        local vertex = vertices[i]
        vertex[1] = vertices[i % count + 1]
        vertex[2] = vertices[below(count) + 1]
        vertex[3] = vertices[below(count) + 1]
    end
    return vertices[1]
end

function workloads.cycles()
    local window, sum = {}, 0
    for i = 1, CYCLES_WINDOW do
        window[i] = false
    end
    for _ = 1, CYCLES_GRAPHS do
        local ring = ring_make(2 + below(CYCLES_NODES - 1))
        sum = sum + ring[2][4] + ring[1][3][4]
        window[below(CYCLES_WINDOW) + 1] = ring
    end
    for i = 1, CYCLES_WINDOW do
        if window[i] then
            sum = sum + window[i][2][4]
        end
    end
    return sum
end

-- An entry is {previous, next, page, key}.
local function entry_make(key)
    return {false, false, {{false, false}, {false, false}, {false, false}, {false, false}}, key}
end

local function entry_unlink(entry)
    local previous, next = entry[1], entry[2]
    previous[2], next[1] = next, previous
    entry[1], entry[2] = false, false
end

local function entry_link(list, entry)
    local next = list[2]
    entry[1], entry[2] = list, next
    next[1], list[2] = entry, entry
end

function workloads.cache()
    local sum, count = 0, 0
    local entries, list = {}, entry_make(CACHE_KEYS)
    for i = 1, CACHE_KEYS do
        entries[i] = false
    end
    list[1], list[2] = list, list
    for _ = 1, CACHE_REQUESTS do
        local key, other, third = below(CACHE_KEYS), below(CACHE_KEYS), below(CACHE_KEYS)
        key = key < other and key or other
        key = key < third and key or third
        local entry = entries[key + 1]
        if entry then
            entry_unlink(entry)
            entry_link(list, entry)
            sum = sum + 1
        else
            entry = entry_make(key)
            entries[key + 1] = entry
            entry_link(list, entry)
            count = count + 1
            if count > CACHE_ENTRIES then
                local oldest = list[1]
                entry_unlink(oldest)
                entries[oldest[4] + 1] = false
                count = count - 1
            end
        end
        local request, response = {false, entry}, {false, entry}
        request[1], response[1] = response, request
        sum = sum + request[1][2][4]
    end
    return sum
end

local run = workloads[arg[1]]
if not run then
    os.exit(2)
end
if arg[2] then
    collectgarbage(arg[2])
end
local start = os.clock() -- CPU seconds of the process
local checksum = run()
local spent = os.clock() - start
local peak = "0"
for line in io.lines("/proc/self/status") do
    peak = line:match("^VmHWM:%s*(%d+)") or peak
end
print(string.format("%d %.6f %s", checksum, spent, peak))
