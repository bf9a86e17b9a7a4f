"""Thirteen small Python programs that stress the memory manager in different ways.

Each workload is a function of `scale` (1.0 is the size used for published figures: 0.1 to 0.6 s of
CPU a call on a 2024 server core) that returns a checksum. The checksum depends on the scale only, not
on the Python version, the hash seed or the allocator, so a run that computed something else is caught.
At scale 1.0 it is compared with CHECKSUMS below.

    python3 workloads.py NAME [--scale S] [--repeat N]

runs one workload N times in this process and prints one line of JSON: CPU seconds (user + system) of
each call, the peak resident size (VmHWM), the checksum, and what evidence there is of the allocator in
charge. That line is what macro.py reads. Modules that only one workload needs are imported by it.

Standard library only, CPython 3.9 and later, no files, no threads, no network.
"""

import resource
import sys
import zlib
from random import Random


def _crc(text, seed=0):
    return zlib.crc32(text if isinstance(text, bytes) else text.encode(), seed)


# ------------------------------------------------------------------------------------------ data

WORDS = (
    "amber basket cobalt drift ember falcon granite harbor island juniper kettle lantern meadow "
    "nickel orchard pepper quartz ribbon saddle timber umbrella velvet walnut yonder zephyr"
).split()


def _documents(count, seed):
    """Records as a web service would send them: nested dicts, lists, texts, ints, floats, None."""
    rnd = Random(seed).random
    documents = []
    for serial in range(count):
        lines = [
            {
                "sku": "%s-%04d" % (WORDS[int(rnd() * 25)], int(rnd() * 10000)),
                "quantity": 1 + int(rnd() * 9),
                "price": int(rnd() * 100000) / 4,
                "gift": rnd() < 0.2,
            }
            for _ in range(1 + int(rnd() * 6))
        ]
        documents.append(
            {
                "id": 100000 + serial * 7,
                "customer": {
                    "name": " ".join(WORDS[int(rnd() * 25)].title() for _ in range(2)),
                    "mail": "%s%d@example.org" % (WORDS[int(rnd() * 25)], serial),
                    "tags": [WORDS[int(rnd() * 25)] for _ in range(int(rnd() * 4))],
                },
                "lines": lines,
                "note": None if rnd() < 0.5 else " ".join(WORDS[int(rnd() * 25)] for _ in range(12)),
                "total": lines[0]["price"] * lines[0]["quantity"],
            }
        )
    return documents


# ------------------------------------------------------------------------- library-heavy workloads


def json_roundtrip(scale):
    """json: decode and encode a list of orders; each decoded copy replaces the one before."""
    import json

    text = json.dumps(_documents(int(1500 * scale), 1))
    total = 0
    for turn in range(9):
        decoded = json.loads(text)
        decoded[turn]["id"] += turn
        again = json.dumps(decoded, sort_keys=True)
        total = _crc(again, total)
    return total


class _Parcel:
    def __init__(self, serial, parts, owner):
        self.serial = serial
        self.parts = parts
        self.owner = owner
        self.weight = serial * 0.25
        self.label = "parcel %d" % serial


def pickle_roundtrip(scale):
    """pickle: an object graph with shared owners, through dumps and loads."""
    import pickle

    rnd = Random(2).random
    owners = [{"name": word, "rank": rank, "history": []} for rank, word in enumerate(WORDS)]
    graph = []
    for serial in range(int(9000 * scale)):
        parts = tuple((int(rnd() * 1000000), WORDS[int(rnd() * 25)]) for _ in range(4))
        graph.append(_Parcel(serial, parts, owners[int(rnd() * 25)]))
    total = 0
    for _ in range(6):
        data = pickle.dumps(graph, protocol=4)
        graph = pickle.loads(data)
        total = (total * 31 + graph[-1].parts[0][0] + len(graph)) & 0xFFFFFFFF
        total ^= graph[0].owner["rank"]
    return total


def _source(functions, seed):
    """A Python module of plausible shape: classes, functions, loops, calls, literals."""
    rnd = Random(seed).random

    def name():
        return WORDS[int(rnd() * 25)]

    def expression(depth):
        pick = int(rnd() * (9 if depth else 4))
        if pick == 0:
            return str(int(rnd() * 100000))
        if pick == 1:
            return repr(name() + " " + name())
        if pick <= 3:
            return name()
        if pick == 4:
            return "(%s + %s)" % (expression(depth - 1), expression(depth - 1))
        if pick == 5:
            return "%s(%s, key=%s)" % (name(), expression(depth - 1), expression(depth - 1))
        if pick == 6:
            return "[%s, %s]" % (expression(depth - 1), expression(depth - 1))
        if pick == 7:
            return "{%r: %s}" % (name(), expression(depth - 1))
        return "%s.%s[%s]" % (name(), name(), expression(depth - 1))

    lines = []
    for number in range(functions):
        lines.append("class %s%d:" % (name().title(), number))
        lines.append("    def method_%d(self, first, second=None, *rest):" % number)
        lines.append('        """%s %s %s."""' % (name(), name(), name()))
        for _ in range(4):
            lines.append("        %s = %s" % (name(), expression(3)))
        lines.append("        for item in %s:" % expression(2))
        lines.append("            if %s < %s and not item:" % (expression(1), expression(1)))
        lines.append("                self.%s = %s" % (name(), expression(3)))
        lines.append("            else:")
        lines.append("                yield %s, %s" % (expression(2), expression(2)))
        lines.append("        return [x for x in first if x != %s]" % expression(1))
    return "\n".join(lines) + "\n"


def ast_parse(scale):
    """ast: parse a module, count and change nodes, compile what came out."""
    import ast

    source = _source(int(130 * scale), 3)
    total = 0
    for turn in range(4):
        tree = ast.parse(source)
        nodes = names = 0
        for node in ast.walk(tree):
            nodes += 1
            if isinstance(node, ast.Name):
                names += 1
                node.id = node.id + "_x"
        compile(tree, "module%d" % turn, "exec")
        total = (total * 31 + nodes * 7 + names) & 0xFFFFFFFF
    return total


def regex(scale):
    """regex: matches with groups, substitution by a function, splitting, over log lines."""
    import re

    rnd = Random(4).random
    lines = []
    for serial in range(int(5000 * scale)):
        lines.append(
            "2024-%02d-%02d %02d:%02d:%02d %s[%d]: user=%s ip=10.%d.%d.%d took %dms path=/%s/%s?id=%d"
            % (
                1 + int(rnd() * 12), 1 + int(rnd() * 28), int(rnd() * 24), int(rnd() * 60),
                int(rnd() * 60), WORDS[int(rnd() * 25)], int(rnd() * 30000), WORDS[int(rnd() * 25)],
                int(rnd() * 256), int(rnd() * 256), int(rnd() * 256), int(rnd() * 900),
                WORDS[int(rnd() * 25)], WORDS[int(rnd() * 25)], serial,
            )
        )
    text = "\n".join(lines)
    entry = re.compile(
        r"(?P<date>\d{4}-\d\d-\d\d) (?P<time>[\d:]+) (?P<who>\w+)\[(?P<pid>\d+)\]: user=(?P<user>\w+) "
        r"ip=(?P<ip>[\d.]+) took (?P<ms>\d+)ms path=(?P<path>\S+)"
    )
    number = re.compile(r"\d+")
    separator = re.compile(r"[ =/?:]+")
    total = 0
    for _ in range(2):
        found = [match.groupdict() for match in entry.finditer(text)]
        total = (total * 31 + sum(int(item["ms"]) for item in found)) & 0xFFFFFFFF
        total ^= len(number.sub(lambda match: "<%s>" % match.group(), text))
        total = (total * 31 + sum(len(separator.split(line)) for line in lines)) & 0xFFFFFFFF
        total ^= len(number.findall(text))
    return total


def strings(scale):
    """str: split, join, slice, format, replace, encode; mostly short-lived texts under 512 bytes."""
    rnd = Random(5).random
    text = " ".join(WORDS[int(rnd() * 25)] + str(int(rnd() * 1000)) for _ in range(int(12000 * scale)))
    total = 0
    for turn in range(16):
        words = text.split(" ")
        words = [word.upper() if len(word) & 1 else word.title() for word in words]
        pairs = ["%s=%s;" % (left, right) for left, right in zip(words, words[1:])]
        cut = [pair[2:-1].replace("=", ":") for pair in pairs]
        joined = ",".join(cut)
        fields = [field.partition(":")[2] + field[:3] for field in joined.split(",")]
        raw = [field.encode() for field in fields]
        total = _crc(b"".join(raw), total)
        text = text[1:] + text[turn]
    return total


# ------------------------------------------------------------------------ the interpreter's objects


def ints(scale):
    """int: numbers beyond the small-integer cache and beyond one digit, made and dropped at once."""
    total = 0
    state = 88172645463325252
    for block in range(int(36 * scale)):
        values = []
        for _ in range(9000):
            state ^= (state << 13) & 0xFFFFFFFFFFFFFFFF
            state ^= state >> 7
            state ^= (state << 17) & 0xFFFFFFFFFFFFFFFF
            values.append(state >> 20)
        squares = [value * value + block for value in values]
        total = (total + sum(squares)) & 0xFFFFFFFFFFFFFFFF
        total ^= sum(value // 3 % 1000003 for value in values)
    return total


def churn(scale):
    """dict/list churn: a table of small lists, tuples and dicts whose rows die in random order."""
    rnd = Random(6).random
    table = {}
    total = 0
    rows = 30000
    for serial in range(int(300000 * scale)):
        key = int(rnd() * rows)
        kind = serial & 3
        if kind == 0:
            table[key] = [serial, serial + 1, str(serial)]
        elif kind == 1:
            table[key] = {"serial": serial, "size": serial * 0.5}
        elif kind == 2:
            table[key] = (serial, [key] * (key & 15))
        else:
            row = table.pop(key, None)
            if row is not None:
                total = (total * 31 + len(row)) & 0xFFFFFFFF
    return (total * 31 + len(table)) & 0xFFFFFFFF


class _Cell:
    __slots__ = ("serial", "value", "name", "peers")

    def __init__(self, serial):
        self.serial = serial
        self.value = serial * 0.5
        self.name = "cell%d" % serial
        self.peers = (serial,)


def build2m(scale):
    """build2m: two million live objects (400 000 rows of five), then all of them dropped."""
    rows = [_Cell(serial) for serial in range(1000, 1000 + int(400000 * scale))]
    total = sum(row.serial for row in rows) + len(rows[-1].name)
    rows.clear()
    return total


class _Node:
    __slots__ = ("key", "value", "left", "right")

    def __init__(self, key, value):
        self.key = key
        self.value = value
        self.left = None
        self.right = None


def _tree_insert(root, key, value):
    node = root
    while True:
        if key < node.key:
            if node.left is None:
                node.left = _Node(key, value)
                return
            node = node.left
        elif key > node.key:
            if node.right is None:
                node.right = _Node(key, value)
                return
            node = node.right
        else:
            node.value = value
            return


def _tree_delete(root, key):
    """Removes `key` from the tree (never the root's node itself); True if it was there."""
    parent, node = None, root
    while node is not None and node.key != key:
        parent, node = node, node.left if key < node.key else node.right
    if node is None:
        return False
    if node.left is not None and node.right is not None:
        parent, heir = node, node.right
        while heir.left is not None:
            parent, heir = heir, heir.left
        node.key, node.value = heir.key, heir.value
        node = heir
    child = node.left if node.left is not None else node.right
    if parent is None:
        return False
    if parent.left is node:
        parent.left = child
    else:
        parent.right = child
    return True


def trees(scale):
    """trees: a binary search tree of some 60 000 nodes; insert, delete, walk in order."""
    rnd = Random(7).random
    span = 1 << 24
    root = _Node(span >> 1, ("root", 0))
    count = int(60000 * scale)
    keys = [int(rnd() * span) for _ in range(count)]
    for serial, key in enumerate(keys):
        _tree_insert(root, key, (serial, key))
    total = 0
    for key in keys[::3]:
        total += _tree_delete(root, key)
    for serial, key in enumerate(keys[::4]):
        _tree_insert(root, key ^ 1, [serial])
    stack, node = [], root
    while stack or node is not None:
        while node is not None:
            stack.append(node)
            node = node.left
        node = stack.pop()
        total = (total * 31 + node.key) & 0xFFFFFFFF
        node = node.right
    return total


# ------------------------------------------------------------------------ object-oriented programs


class _Packet:
    def __init__(self, link, task, kind):
        self.link = link
        self.task = task
        self.kind = kind
        self.datum = 0
        self.data = [0, 0, 0, 0]


class _Task:
    """A task of the little kernel below: a mailbox, a priority, and a `step` that a packet drives."""

    def __init__(self, kernel, priority):
        self.kernel = kernel
        self.priority = priority
        self.mailbox = []
        self.held = False
        kernel.tasks.append(self)

    def ready(self):
        return not self.held and bool(self.mailbox)

    def step(self):
        raise NotImplementedError


class _Worker(_Task):
    def __init__(self, kernel, priority, handlers):
        super().__init__(kernel, priority)
        self.handlers = handlers
        self.turn = 0
        self.letter = 0

    def step(self):
        packet = self.mailbox.pop(0)
        self.turn ^= 1
        target = self.handlers[self.turn]
        fresh = _Packet(packet.link, target, packet.kind)
        for index in range(4):
            self.letter = self.letter + 1 if self.letter < 26 else 1
            fresh.data[index] = 64 + self.letter
        target.mailbox.append(fresh)
        self.kernel.hops += 1


class _Handler(_Task):
    def __init__(self, kernel, priority, device):
        super().__init__(kernel, priority)
        self.device = device
        self.source = None

    def step(self):
        packet = self.mailbox.pop(0)
        if packet.datum < 4:
            self.kernel.seen += packet.data[packet.datum]
            packet.datum += 1
            self.device.mailbox.append((self, packet))
        else:
            packet.datum = 0
            self.source.mailbox.append(_Packet(packet, self, "work"))
            packet.link = None
        self.kernel.hops += 1


class _Device(_Task):
    def step(self):
        handler, packet = self.mailbox.pop(0)
        handler.mailbox.insert(0, packet)
        self.kernel.hops += 1


class _Kernel:
    def __init__(self):
        self.tasks = []
        self.hops = 0
        self.seen = 0

    def run(self, steps):
        tasks = sorted(self.tasks, key=lambda task: -task.priority)
        while steps:
            for task in tasks:
                if task.ready():
                    task.step()
                    break
            else:
                return
            steps -= 1


def richards(scale):
    """richards-like: a message-passing kernel; attribute access, calls and small lists."""
    total = 0
    for round_ in range(4):
        kernel = _Kernel()
        devices = [_Device(kernel, 40), _Device(kernel, 50)]
        handlers = [_Handler(kernel, 20, devices[0]), _Handler(kernel, 30, devices[1])]
        worker = _Worker(kernel, 10, handlers)
        for handler in handlers:
            handler.source = worker
        for _ in range(4 + round_):
            worker.mailbox.append(_Packet(None, worker, "work"))
        kernel.run(int(60000 * scale))
        total = (total * 31 + kernel.hops * 3 + kernel.seen) & 0xFFFFFFFF
    return total


class _Variable:
    def __init__(self, name, value):
        self.name = name
        self.value = value
        self.strength = 0
        self.readers = []
        self.writer = None
        self.mark = 0


class _Constraint:
    """output = input * factor + offset, kept if its strength beats the output's present writer."""

    def __init__(self, source, target, factor, offset, strength):
        self.source = source
        self.target = target
        self.factor = factor
        self.offset = offset
        self.strength = strength

    def execute(self):
        self.target.value = (self.source.value * self.factor + self.offset) % 1000003


class _Plan(list):
    def execute(self):
        for constraint in self:
            constraint.execute()


class _Planner:
    def __init__(self):
        self.mark = 0

    def add(self, constraint):
        target = constraint.target
        if target.writer is not None and target.writer.strength >= constraint.strength:
            return False
        if target.writer is not None:
            self.remove(target.writer)
        target.writer = constraint
        target.strength = constraint.strength
        constraint.source.readers.append(constraint)
        return True

    def remove(self, constraint):
        constraint.source.readers.remove(constraint)
        constraint.target.writer = None
        constraint.target.strength = 0

    def plan(self, variable):
        self.mark += 1
        plan = _Plan()
        agenda = [variable]
        while agenda:
            current = agenda.pop()
            if current.mark == self.mark:
                continue
            current.mark = self.mark
            for constraint in current.readers:
                plan.append(constraint)
                agenda.append(constraint.target)
        return plan


def deltablue(scale):
    """deltablue-like: chains and fans of one-way constraints, planned, executed, replaced."""
    total = 0
    length = int(2500 * scale)
    for round_ in range(8):
        planner = _Planner()
        chain = [_Variable("v%d" % index, index) for index in range(length)]
        for left, right in zip(chain, chain[1:]):
            planner.add(_Constraint(left, right, 1, 1, 2))
        for value in range(14):
            chain[0].value = value * 17
            planner.plan(chain[0]).execute()
            total = (total * 31 + chain[-1].value) & 0xFFFFFFFF
        hub = _Variable("hub", round_)
        fan = [_Variable("f%d" % index, 0) for index in range(length)]
        for index, leaf in enumerate(fan):
            planner.add(_Constraint(hub, leaf, index + 1, round_, 1))
            planner.add(_Constraint(chain[index], leaf, 3, 1, 3 if index & 1 else 0))
        hub.value = 11
        planner.plan(hub).execute()
        planner.plan(chain[0]).execute()
        total = (total * 31 + sum(leaf.value for leaf in fan)) & 0xFFFFFFFF
    return total


def nbody(scale):
    """nbody-like: five bodies under gravity in plain floats; a control with little to allocate."""
    from math import sqrt

    rnd = Random(8).random
    bodies = [
        ([rnd() * 10 - 5 for _ in range(3)], [rnd() - 0.5 for _ in range(3)], 0.01 + rnd())
        for _ in range(5)
    ]
    pairs = [(one, two) for index, one in enumerate(bodies) for two in bodies[index + 1:]]
    step = 0.001
    for _ in range(int(30000 * scale)):
        for (place1, speed1, mass1), (place2, speed2, mass2) in pairs:
            dx = place1[0] - place2[0]
            dy = place1[1] - place2[1]
            dz = place1[2] - place2[2]
            square = dx * dx + dy * dy + dz * dz + 0.01
            pull = step / (square * sqrt(square))
            speed1[0] -= dx * mass2 * pull
            speed1[1] -= dy * mass2 * pull
            speed1[2] -= dz * mass2 * pull
            speed2[0] += dx * mass1 * pull
            speed2[1] += dy * mass1 * pull
            speed2[2] += dz * mass1 * pull
        for place, speed, _ in bodies:
            place[0] += step * speed[0]
            place[1] += step * speed[1]
            place[2] += step * speed[2]
    total = 0.0
    for place, speed, _ in bodies:
        for value in place + speed:
            total += abs(value)
    return int(total * 1e6)


def growth(scale):
    """growth: lists, dicts, sets and byte strings that grow one item at a time past 512 bytes."""
    total = 0
    for turn in range(int(400 * scale)):
        many = [[] for _ in range(60)]
        for item in range(40 + turn % 7 * 40):
            for row in many:
                row.append(item)
        total += sum(len(row) for row in many)
        index = {}
        for item in range(1200):
            index[item * 7] = item
        total += len(index)
        members = set()
        for item in range(900):
            members.add(item * 3)
        total += len(members)
        raw = bytearray()
        for item in range(1500):
            raw += b"chunk"
        total += len(raw)
    return total


WORKLOADS = {
    "json": json_roundtrip,
    "pickle": pickle_roundtrip,
    "ast": ast_parse,
    "regex": regex,
    "str": strings,
    "int": ints,
    "churn": churn,
    "build2m": build2m,
    "trees": trees,
    "richards": richards,
    "deltablue": deltablue,
    "nbody": nbody,
    "growth": growth,
}

# What each returns at scale 1.0.
CHECKSUMS = {
    "json": 859252923,
    "pickle": 2629957736,
    "ast": 3407173120,
    "regex": 959106016,
    "str": 1301673494,
    "int": 3995152255433428069,
    "churn": 3059215248,
    "build2m": 80399800010,
    "trees": 744808409,
    "richards": 2669079040,
    "deltablue": 1591177992,
    "nbody": 74852926,
    "growth": 7672800,
}


def _proc(name):
    try:
        with open("/proc/self/" + name) as file:
            return file.read()
    except OSError:
        return ""


def _peak_kib():
    """VmHWM, in KiB; 0 where /proc is not mounted (ru_maxrss would count the parent's pages too)."""
    for line in _proc("status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def _preloads():
    """The allocators' libraries mapped into this process, by short name."""
    maps = _proc("maps")
    return [name for name in ("heapkeeper", "mimalloc", "jemalloc", "tcmalloc") if "lib" + name in maps]


def main(argv):
    import argparse

    parser = argparse.ArgumentParser(description="Run one benchmark workload; print one JSON line.")
    parser.add_argument("name", choices=sorted(WORKLOADS))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args(argv)

    work = WORKLOADS[options.name]
    calls, result = [], None
    for _ in range(options.repeat):
        before = resource.getrusage(resource.RUSAGE_SELF)
        value = work(options.scale)
        after = resource.getrusage(resource.RUSAGE_SELF)
        calls.append(
            (after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime,
             after.ru_minflt - before.ru_minflt)
        )
        if result is not None and value != result:
            sys.exit("%s: checksum %d, then %d" % (options.name, result, value))
        result = value
    peak = _peak_kib()
    expected = CHECKSUMS.get(options.name, result) if options.scale == 1.0 else result
    if result != expected:
        sys.exit("%s: checksum %d, expected %d" % (options.name, result, expected))
    print(
        '{"name": "%s", "user": [%s], "system": [%s], "faults": [%s], "peak_kib": %d, "checksum": %d, '
        '"pymalloc_blocks": %d, "preloads": [%s]}'
        % (
            options.name,
            ", ".join("%.6f" % call[0] for call in calls),
            ", ".join("%.6f" % call[1] for call in calls),
            ", ".join("%d" % call[2] for call in calls),
            peak,
            result,
            sys.getallocatedblocks(),
            ", ".join('"%s"' % name for name in _preloads()),
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
