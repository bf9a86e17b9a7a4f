"""heapkeeper.profile and heapkeeper.LineProfile: figures by line, in a program that runs."""

import json
import textwrap

import pytest
from conftest import ENVIRONMENT, execute


@pytest.fixture
def run(heapkeeper, tmp_path):
    """Runs a program from a file; returns what it printed, as JSON if it can be."""

    def go(code, python=None, options=("--exact",), prelude=True):
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(PRELUDE if prelude else "") + textwrap.dedent(code))
        done = heapkeeper.run([str(program)], python=python, options=options, env=ENVIRONMENT)
        assert done.status == 0, done.err.decode(errors="replace")[-3000:]
        assert prelude is False or done.err == b"", done.err.decode()
        return json.loads(done.out) if prelude else done

    return go


PRELUDE = """\
    import gc, json, sys, threading, heapkeeper
    gc.disable()
    def figures(lines, function=0, first=0):
        f = lines.functions()[function]
        return {str(l.line - f.first_line): [l.hits, l.net, l.allocated, l.freed, l.blocks, l.peak] for l in f.lines if l.hits}
    def show(**what):
        print(json.dumps(what))
"""

SIMPLE = """
    def simple():
        a = bytes(100000)
        b = bytes(50000)
        del a
        for i in (1, 2, 3):
            c = bytes(1000)
        return b
"""


def test_each_line_has_what_it_allocated_freed_and_needed(run, every_python):
    found = run(SIMPLE + """
    simple()
    with heapkeeper.LineProfile(simple) as lines:
        kept = simple()
    f = lines.functions()[0]
    show(lines=figures(lines), sums=[f.calls, f.net, f.allocated, f.peak], live=f.lines[2].live - f.start_live)
    """, every_python)
    lines, (calls, net, allocated, peak) = found["lines"], found["sums"]
    head = lines["1"][2] - 100000  # of a bytes object
    assert 32 <= head <= 33
    a, b, c = 100000 + head, 50000 + head, 1000 + head
    assert lines["1"] == [1, a, a, 0, 1, a]
    assert lines["2"] == [1, b, b, 0, 1, b]
    assert lines["3"] == [1, -a, 0, a, 0, 0]
    assert lines["5"] == [3, c, 3 * c, 2 * c, 3, c]
    assert (calls, net, peak) == (1, b + c, a + b)
    assert found["live"] == a + b


def test_lines_add_up_to_the_function_in_recursion_and_comprehensions(run, every_python):
    found = run("""
    def inner(n):
        x = bytes(1000)
        y = [bytes(100) for i in (1, 2, 3)]
        return inner(n - 1) if n else None
    def outer():
        z = bytes(2000)
        inner(5)
        return z
    def totals():
        return [[f.calls, f.allocated, f.blocks, f.net, sum(l.allocated for l in f.lines)] for f in lines.functions()]
    with heapkeeper.LineProfile(inner, outer) as lines:
        outer()
        lines.reset()
        outer()
    show(totals=totals(), inner=figures(lines), outer=figures(lines, 1))
    """, every_python)
    (calls, allocated, blocks, net, sum_), outer = found["totals"]
    assert calls == 6 and allocated == sum_ and outer[0] == 1
    assert found["inner"]["1"][2] == 6 * (1000 + 33) and found["inner"]["1"][4] == 6
    assert found["inner"]["2"][2] >= 6 * 3 * (100 + 33) and found["inner"]["2"][4] >= 18
    called = found["outer"]["2"]
    assert called[2] == allocated and called[5] >= 6 * (1000 + 33 + 3 * 133)
    assert called[1] == 0 or every_python.version < (3, 11)  # whose frames are objects, and stay in a free list


def test_a_deep_recursion_that_keeps_nothing_has_no_net(run, every_python):
    """Deeper than there are frames of one kind in any list that is there at the start."""
    found = run("""
    def deep(n):
        return n if n == 0 else deep(n - 1)
    def call():
        deep(200), deep(6000)
        lines.reset()
        deep(6000), deep(20)
    sys.setrecursionlimit(10000)
    threading.stack_size(256 << 20)
    with heapkeeper.LineProfile(deep) as lines:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    f = lines.functions()[0]
    show(calls=f.calls, net=f.net, allocated=f.allocated, freed=f.freed)
    """, every_python)
    assert found["calls"] == 6001 + 21
    if every_python.version >= (3, 11):  # before that frames are objects, and stay in a free list
        assert found["net"] == 0 and found["allocated"] == found["freed"], found


def test_a_class_is_profiled_with_the_classes_that_are_written_in_it(run):
    found = run("""
    class Other:
        def elsewhere(self): pass
    class Outer:
        other = Other
        def a(self): pass
        class Inner:
            def b(self): pass
            class Innermost:
                def c(self): pass
    show(names=[f.qualname for f in heapkeeper.LineProfile(Outer).functions()])
    """)
    assert found["names"] == ["Outer.a", "Outer.Inner.b", "Outer.Inner.Innermost.c"]


def test_of_an_enum_only_what_its_own_text_has_is_profiled(run, every_python):
    found = run("""
    import enum
    class Colour(enum.Enum):
        RED = 1
        def shout(self): return self.name
    show(names=[f.qualname for f in heapkeeper.LineProfile(Colour).functions()])
    """, every_python)
    assert found["names"] == ["Colour.shout"]


def test_generators_coroutines_and_exceptions_are_followed(run, every_python):
    found = run("""
    import asyncio
    def numbers():
        for i in (1, 2, 3):
            x = bytes(10000)
            yield x
            x = None
    async def work(n):
        x = bytes(n)
        await asyncio.sleep(0)
        del x
    async def all():
        await asyncio.gather(work(20000), work(30000))
    def fails():
        x = bytes(7000)
        raise ValueError
    def use():
        for x in numbers():
            other = bytes(500000)
        try:
            fails()
        except ValueError:
            pass
        return bytes(9000)
    asyncio.run(all()), use()
    with heapkeeper.LineProfile(numbers, work, fails, use) as lines:
        asyncio.run(all())
        use()
    show(numbers=figures(lines), work=figures(lines, 1), fails=figures(lines, 2), use=figures(lines, 3))
    """, every_python)
    head = 33
    assert found["numbers"]["2"][:5] == [3, 3 * (10000 + head), 3 * (10000 + head), 0, 3]
    assert found["numbers"]["4"] == [3, 0, 0, 0, 0, 0]  # the caller has it still
    assert found["work"]["1"][:5] == [2, 50000 + 2 * head, 50000 + 2 * head, 0, 2]
    assert found["work"]["3"][1] == -(50000 + 2 * head)
    assert found["fails"]["1"][2] == 7000 + head
    assert found["use"]["2"][2] == 3 * (500000 + head)
    assert found["use"]["7"][1:5] == [9000 + head, 9000 + head, 0, 1]


def test_what_is_thrown_into_a_generator_is_no_call_of_it(run, every_python):
    found = run("""
    def gen(n):
        for i in range(n):
            try:
                yield i
            except ValueError:
                x = bytes(1000)
    with heapkeeper.LineProfile(gen) as lines:
        g = gen(3)
        next(g), g.throw(ValueError), g.close()
        for _ in range(2):
            g = gen(3)
            next(g)
            del g
        g = gen(3)
        g.close()
    show(calls=lines.functions()[0].calls, lines=figures(lines))
    """, every_python)
    assert found["calls"] == 3 and found["lines"]["5"][0] == 1, found


def test_a_profile_that_is_enabled_in_the_function_itself_has_it_from_the_next_line_on(run, every_python):
    found = run("""
    def toggles():
        a = bytes(1000)
        lines.enable()
        b = bytes(2000)
        c = helper(3000)
        lines.disable()
        d = bytes(4000)
    def helper(n):
        return bytes(n)
    def enters():
        a = bytes(1000)
        with lines:
            b = bytes(2000)
            c = None  # on 3.9 the end of `with` is here
        d = bytes(4000)
    def by_another(n):
        a = bytes(1000)
        begin()
        b = bytes(2000)
        if n:
            by_another(n - 1)
        lines.disable()
    def begin():
        lines.enable()
    def yields():
        lines.enable()
        yield bytes(2000)
        a = bytes(3000)
        lines.disable()
    def raises():
        lines.enable()
        try:
            b = bytes(2000) + None
        except TypeError:
            c = bytes(3000)
        raise KeyError
    def outer():
        inner()
        b = bytes(2000)
        lines.disable()
    def inner():
        lines.enable()
        b = bytes(3000)
    def off():
        while lines.enabled:
            lines.disable()
    helper(100)  # before 3.11 frames are objects, which are kept
    shown = {}
    for function, also in (toggles, ()), (enters, ()), (yields, ()), (raises, ()), (outer, (inner,)):
        lines = heapkeeper.LineProfile(function, *also)
        for turn in range(3):
            try:
                for _ in function() or (): pass
            except KeyError:
                pass
            off()
            helper(100)
        shown[function.__name__] = figures(lines)
        if also:
            shown["inner"] = figures(lines, 1)
    lines = heapkeeper.LineProfile(by_another)
    by_another(1)
    off()
    shown["by_another"] = figures(lines)
    show(trace=sys.gettrace() is None, **{name: {line: [row[0], row[2], row[4]] for line, row in lines.items()} for name, lines in shown.items()})
    """, every_python)
    assert found.pop("trace") is True
    size = [n * 1000 + 33 for n in range(5)]
    for name, lines in {"toggles": {"3": 2, "4": 3}, "enters": {"3": 2}, "yields": {"2": 2, "3": 3}, "raises": {"5": 3}, "outer": {"2": 2},
                        "inner": {"2": 3}}.items():
        for line, k in lines.items():
            hits, allocated, blocks = found[name][line]
            if every_python.version >= (3, 15) and (name, line) == ("toggles", "4"):  # the interpreter makes something for the helper, once
                assert 0 <= allocated - 3 * size[k] < 300 and blocks <= 4, found[name]
                allocated, blocks = 3 * size[k], 3
            assert (hits, allocated, blocks) == (3, 3 * size[k], 3), (name, line, found[name])
        assert not {"1", "6"} & set(found[name]) or name in ("raises",), (name, found[name])
    assert found["raises"]["2"][0] == found["raises"]["3"][0] == found["raises"]["6"][0] == 3
    assert found["by_another"]["3"] == [2, 2 * size[2], 2] and found["by_another"]["4"][0] == 2


def test_another_thread_that_allocates_meanwhile_changes_nothing(run, every_python):
    found = run(SIMPLE + """
    def noise():
        while not stop:
            x = [bytes(3000) for i in range(100)]
            rounds.append(None)
    sys.setswitchinterval(1e-5)
    simple()
    lines = heapkeeper.LineProfile(simple)
    with lines:
        simple()
    quiet = figures(lines)
    stop, rounds = False, []
    thread = threading.Thread(target=noise)
    thread.start()
    lines.reset()
    with lines:
        while lines.functions()[0].calls < 200 or len(rounds) < 2:
            simple()
    stop = True
    thread.join()
    show(quiet=quiet, loud=figures(lines), calls=lines.functions()[0].calls)
    """, every_python)
    calls = found["calls"]
    for line, (hits, net, allocated, freed, blocks, peak) in found["quiet"].items():
        assert found["loud"][line] == [calls * hits, calls * net, calls * allocated, calls * freed, calls * blocks, peak], line


def test_what_threads_do_in_a_profiled_function_is_counted_for_each(run, every_python):
    found = run(SIMPLE + """
    simple()
    lines = heapkeeper.LineProfile(simple)
    with lines:
        threads = [threading.Thread(target=lambda: [simple() for i in (1, 2, 3)]) for k in range(5)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    show(lines=figures(lines), calls=lines.functions()[0].calls)
    """, every_python)
    assert found["calls"] == 15
    assert found["lines"]["1"] == [15, 15 * 100033, 15 * 100033, 0, 15, 100033]


def test_threads_may_enable_profiles_of_their_own_of_one_function(run, every_python):
    found = run(SIMPLE + """
    errors, counted = [], []
    def work():
        try:
            for i in range(100):
                with heapkeeper.LineProfile(simple) as mine:
                    simple()
                counted.append(mine.functions()[0].calls)
        except Exception as error:
            errors.append(repr(error))
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work) for k in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    with heapkeeper.LineProfile(simple) as last:
        simple()
    show(errors=errors, counted=len(counted), least=min(counted), lines=figures(last), calls=last.functions()[0].calls)
    """, every_python)
    assert found["errors"] == [] and found["counted"] == 400 and found["least"] >= 1
    assert found["calls"] == 1 and found["lines"]["1"] == [1, 100033, 100033, 0, 1, 100033]


def test_lines_beyond_the_small_integers_have_the_same_figures(run, every_python):
    """From 3.12 on the number of a line is given to us as an int, which beyond 256 is allocated for it."""
    code = SIMPLE + """
    simple()
    with heapkeeper.LineProfile(simple) as lines:
        simple()
    show(lines=figures(lines), first=lines.functions()[0].first_line)
    """
    near, far = run(code, every_python), run("\n" * 3000 + textwrap.dedent(code), every_python)
    assert near["first"] < 256 and far["first"] > 2000
    assert near["lines"] == far["lines"]


def test_a_function_that_runs_first_while_lines_are_profiled_costs_its_caller_nothing(run, every_python):
    """sys.monitoring.set_events would have the interpreter allocate something for each code object."""
    found = run("""
    def helper(a): return a
    def fails(a): raise a
    def watched(error):
        helper(1)
        try:
            fails(error)
        except ValueError:
            return bytes(1000)
    with heapkeeper.LineProfile(watched) as lines:
        watched(ValueError())
        if sys.version_info >= (3, 12):
            tool = heapkeeper.lines._tool
            there = sys.monitoring.get_events(tool)
            wanted = sys.monitoring.events.PY_UNWIND | sys.monitoring.events.PY_THROW
    gone = sys.version_info < (3, 12) or sys.monitoring.get_events(tool) == 0 and there == wanted
    show(lines=figures(lines), gone=gone)
    """, every_python)
    if (3, 11) <= every_python.version < (3, 15):  # before, frames are objects; 3.15 cannot do without
        assert found["lines"]["1"] == [1, 0, 0, 0, 0, 0]
    assert 1033 <= found["lines"]["5"][2] < 1200 and found["gone"]


def test_trace_functions_of_other_tools_go_on(run, every_python):
    found = run("""
    seen = []
    def called():
        return 1
    def watched():
        a = bytes(1000)
        called()
        return a
    def trace(frame, event, argument):
        if frame.f_code.co_name in ("watched", "called"):
            seen.append([frame.f_code.co_name, event, frame.f_lineno - frame.f_code.co_firstlineno])
        return trace
    def go():
        del seen[:]
        sys.settrace(trace)
        watched()
        same = sys.gettrace() is trace
        sys.settrace(None)
        return [list(seen), same]
    bare = go()
    with heapkeeper.LineProfile(watched) as lines:
        profiled = go()
        after = sys.gettrace()
    show(bare=bare, profiled=profiled, after=after, lines=figures(lines))
    """, every_python)
    assert found["bare"] == found["profiled"] and found["bare"][1] is True and found["after"] is None
    assert len(found["bare"][0]) == 8
    assert found["lines"]["1"][0] == 1 and found["lines"]["3"][0] == 1


@pytest.mark.parametrize("left", ["None", "trace"])
def test_a_profiled_function_that_sets_a_trace_function_takes_no_lines_from_the_next(run, every_python, left):
    found = run("""
    counted = []
    def trace(frame, event, argument):
        counted.append(event)
        return trace
    def sets():
        sys.settrace(trace)
        sys.settrace(None)
        sys.settrace(%s)
    def simple():
        a = bytes(1000)
        return a
    def called():
        return 1
    with heapkeeper.LineProfile(sets, simple) as lines:
        sets()
        sets()
        simple()
        del counted[:]
        called()
        seen = len(counted)
        sys.settrace(None)
        sets()
        simple()
        sys.settrace(None)
    def other():
        sys.settrace(trace)
        del counted[:]
        called()
        sys.settrace(None)
    other()
    show(lines=figures(lines, 1), seen=seen, after=len(counted))
    """ % left, every_python)
    assert [found["lines"][at][0] for at in "12"] == [2, 2] and 2066 <= found["lines"]["1"][2] < 3000, found
    assert (found["seen"], found["after"]) == (3 if left == "trace" else 0, 3), found


def test_a_function_that_still_runs_has_a_peak(run, every_python):
    found = run("""
    def called():
        a = bytes(9000)
        del a
        return lines.functions()[0].peak
    with heapkeeper.LineProfile(called) as lines:
        called()  # 3.15 makes, and may free, something for a function that is called first while it is profiled
        show(peak=called())
    """, every_python)
    assert 9033 <= found["peak"] < 10000, found


def test_a_debugger_that_begins_in_a_profiled_function_works(run, every_python):
    done = run("""
    import pdb
    from heapkeeper import profile
    @profile
    def watched():
        a = bytes(1000)
        debugger.set_trace()
        b = a
        return b
    class Commands:
        def __init__(self): self.left = ["n", "p len(a)", "c"]
        def readline(self): return (self.left.pop(0) if self.left else "c") + "\\n"
    import sys
    debugger = pdb.Pdb(stdin=Commands(), stdout=sys.stdout, nosigint=True, readrc=False)
    debugger.use_rawinput = False
    watched()
    """, every_python, prelude=False)
    assert b"1000" in done.out
    assert b"bytes(1000)" in done.err


def test_two_profiles_of_one_function_have_figures_of_their_own(run, every_python):
    found = run(SIMPLE + """
    simple()
    first, second = heapkeeper.LineProfile(simple), heapkeeper.LineProfile(simple)
    with first:
        simple()
        with second:
            simple()
        simple()
    simple()
    show(first=figures(first), second=figures(second))
    """, every_python)
    for line, (hits, net, allocated, freed, blocks, peak) in found["second"].items():
        assert found["first"][line] == [3 * hits, 3 * net, 3 * allocated, 3 * freed, 3 * blocks, peak]


def test_methods_properties_partials_and_classes_can_be_profiled(run, every_python):
    found = run("""
    import functools
    class Shop:
        def put(self): return bytes(1000)
        @staticmethod
        def still(): return bytes(1000)
        @classmethod
        def of(cls): return bytes(1000)
        @property
        def size(self): return bytes(1000)
    def wrapping(f):
        @functools.wraps(f)
        def wrapper(*arguments):
            return f(*arguments)
        return wrapper
    @wrapping
    def wrapped(): return bytes(1000)
    def base(n): return bytes(n)
    lines = heapkeeper.LineProfile(Shop, wrapped, functools.partial(base, 5))
    with lines:
        Shop().put(), Shop.still(), Shop.of(), Shop().size, wrapped(), base(3)
    bad = []
    for thing in (len, 5, "text"):
        try:
            lines.add_function(thing)
        except TypeError as error:
            bad.append(str(error))
    show(calls={f.qualname: f.calls for f in lines.functions()}, bad=bad)
    """, every_python)
    assert found["calls"] == {"Shop.put": 1, "Shop.still": 1, "Shop.of": 1, "Shop.size": 1, "wrapped": 1, "base": 1}
    assert len(found["bad"]) == 3 and all("no Python code" in text for text in found["bad"])


DECORATED = """
    import sys
    from heapkeeper import profile
    @profile
    def load(n):
        # a comment
        table = [0] * n
        if not table:
            return None
        return table
    load(10000), load(10000)
    print(load.__name__)
"""


def test_decorated_functions_are_shown_beside_their_source_at_the_end(run, every_python):
    done = run(DECORATED, every_python, prelude=False)
    text = done.err.decode()
    lines = text.splitlines()
    assert done.out == b"load\n"
    assert "program.py: load  2 calls, net +" in lines[0] and "allocated 156." in lines[0]
    assert lines[1].split() == ["Line", "Hits", "Net", "Allocated", "Freed", "Peak", "Blocks", "Source"]
    assert [line for line in lines if line.endswith("table = [0] * n")][0].split()[:2] == ["7", "2"]
    assert [line for line in lines if line.endswith("return None")][0].split() == ["9", "return", "None"]
    assert [line for line in lines if line.endswith("# a comment")][0].split() == ["6", "#", "a", "comment"]
    assert "\x1b" not in text


def test_a_function_that_is_defined_again_takes_the_place_of_the_one_before(run, every_python):
    found = run("""
    from heapkeeper import profile
    source = "@profile\\ndef f(n):\\n    return bytes(n)\\n"
    for file in "/tmp/ipykernel_1/1.py", "/tmp/ipykernel_1/1.py", "/tmp/ipykernel_1/2.py", "module.py", "module.py", "other.py":
        exec(compile(source, file, "exec"))
        f(1000)
    @profile
    class Two:
        @property
        def size(self): return bytes(2000)
        @size.setter
        def size(self, n): pass
    Two().size
    results = profile.results()
    profile.reset()
    f(1000)
    show(names=[[f.filename.rpartition("/")[2], f.qualname, f.calls] for f in results], last=[f.calls for f in profile.results()])
    profile._profiles.clear()
    """, every_python)
    assert found["names"] == [["2.py", "f", 1], ["module.py", "f", 1], ["other.py", "f", 1], ["program.py", "Two.size", 1], ["program.py", "Two.size", 0]]
    assert found["last"] == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("allocator", ["debug", "pymalloc", "malloc"])
def test_with_another_allocator_of_pythons_one_line_says_so_and_the_program_runs(heapkeeper, tmp_path, every_python, allocator):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(DECORATED) + "profile(len)\n")
    done = heapkeeper.run([str(program)], every_python, env=dict(ENVIRONMENT, PYTHONMALLOC=allocator))
    assert (done.status, done.out) == (0, b"load\n"), done.err
    assert done.err.decode().count("\n") == 1 and "measures nothing: another allocator" in done.err.decode()


def test_beneath_tracemallocs_hooks_lines_are_profiled(heapkeeper, tmp_path, every_python):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(DECORATED))
    done = heapkeeper.run([str(program)], every_python, env=dict(ENVIRONMENT, PYTHONTRACEMALLOC="1"))
    assert done.status == 0 and "calls, net" in done.err.decode(), done.err


def test_without_heapkeeper_one_line_says_so_and_the_program_runs(heapkeeper, tmp_path, every_python):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(DECORATED) + "profile(len)\n")
    done = heapkeeper.stock([str(program)], every_python, env=ENVIRONMENT)
    assert (done.status, done.out) == (0, b"load\n")
    assert done.err.decode().count("\n") == 1 and "heapkeeper run" in done.err.decode() and "measures nothing" in done.err.decode()
    code = "import heapkeeper; print(heapkeeper.lines.why_not()); heapkeeper.LineProfile().enable()"
    done = execute([every_python.path, "-c", code], env=ENVIRONMENT)
    assert done.status == 1 and b"heapkeeper run" in done.out and b"RuntimeError: heapkeeper: this process" in done.err


def test_a_stream_that_is_none_is_refused_and_one_that_is_closed_takes_no_other_table(run, tmp_path):
    done = run("""
    from heapkeeper import profile
    closed, good = open("closed.txt", "w"), open("good.txt", "w")
    @profile(stream=closed)
    def f(): return bytes(1000)
    @profile(stream=good)
    def g(): return bytes(2000)
    f(); g()
    closed.close()
    try:
        profile(stream="file.txt")
    except TypeError as error:
        print(error)
    """.replace("closed.txt", str(tmp_path / "closed.txt")).replace("good.txt", str(tmp_path / "good.txt")), prelude=False)
    assert done.out.startswith(b"heapkeeper: @profile(stream='file.txt'): a stream is an open file")
    assert done.err == b"heapkeeper: @profile: its table cannot be written: I/O operation on closed file\n"
    assert "return bytes(2000)" in (tmp_path / "good.txt").read_text()


def test_figures_are_there_whatever_is_recorded(run, python):
    for options in (), ("--sample=64K",), ("--no-record",), ("--debug",):
        found = run(SIMPLE + """
        simple()
        with heapkeeper.LineProfile(simple) as lines:
            simple()
        show(lines=figures(lines))
        """.replace("\n        ", "\n    "), python, options)
        line = found["lines"]["1"]
        assert line[0] == 1 and 100033 <= line[1] <= 101000 and line[4] == 1, options
        assert found["lines"]["3"][1] == -line[1]
