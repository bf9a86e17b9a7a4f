"""heapkeeper.install() in a Python that runs already, and the functions that count truly where sys's do not."""

import os

import pytest
from conftest import ENVIRONMENT, TREE, build_is_usable, execute


# What interpreters with their own GIL are made with: create(), run(id, code), destroy(id).
INTERPRETERS = """
import sys
if sys.version_info >= (3, 13):
    import _interpreters as raw
    create, destroy = (lambda: raw.create("isolated")), raw.destroy
    def run(interpreter, code):
        problem = raw.exec(interpreter, code)
        assert problem is None, problem
else:
    import _xxsubinterpreters as raw
    create, run, destroy = (lambda: raw.create(isolated=True)), raw.run_string, raw.destroy
"""


@pytest.fixture(autouse=True)
def usable():
    reason = build_is_usable()
    if reason:
        pytest.skip(reason)


def late(python, code, *flags, status=0, **extra):
    done = execute([python.path, *flags, "-c", code], env={**ENVIRONMENT, **extra})
    assert done.status == status, done.err.decode(errors="replace")[-3000:]
    return done.out.decode()


def refusal(python, code, *flags, **extra):
    """What install() says when it refuses after `code`, and that Python goes on as before."""
    return late(python, code + """
import heapkeeper
try:
    heapkeeper.install()
except RuntimeError as error:
    print(error)
assert not heapkeeper.active()
keep = [str(i) for i in range(100000)]
assert heapkeeper.stats()["allocated_blocks"] == 0
""", *flags, **extra)


A_MILLION_OBJECTS = """
import gc, sys, threading, heapkeeper
before = [(i, str(i), [i]) for i in range(300000)]
old_blocks = sys.getallocatedblocks()
stop, wrong = threading.Event(), []

def churn(seed):
    while not stop.is_set():
        mine = [{"key %d" % i: [seed, i, float(i)]} for i in range(1000)]
        if any(thing["key %d" % i] != [seed, i, float(i)] for i, thing in enumerate(mine)):
            wrong.append(seed)

threads = [threading.Thread(target=churn, args=(i,)) for i in range(4)]
for thread in threads:
    thread.start()
heapkeeper.install()
after = [(i, str(i), [i]) for i in range(300000)]
for i in range(0, 300000, 2):
    before[i] = None                            # their owner's
    after[i] = None                             # ours
    before[i + 1][2].extend(range(200))         # grow beyond what is ours
    after[i + 1][2].extend(range(200))
    del before[i + 1][2][1:], after[i + 1][2][1:]
stop.set()
for thread in threads:
    thread.join()
assert not wrong
for things in before, after:
    assert all(thing == (i, str(i), [i]) for i, thing in enumerate(things) if i % 2)
assert heapkeeper.stats()["live_blocks"] > 450000
left = sys.getallocatedblocks()
del before, after, things
gc.collect()
assert sys.getallocatedblocks() < left - 300000         # foreign blocks went back to their owner,
assert heapkeeper.stats()["live_blocks"] < 5000         # ours to us
now = heapkeeper.stats()
assert sum(now[c + "_bytes"] for c in "live free untouched tail empty metadata".split()) == now["mapped_bytes"]
print("well")
"""


def test_nothing_is_lost_when_a_million_objects_and_threads_are_there_already(every_python):
    assert late(every_python, A_MILLION_OBJECTS) == "well\n"


def test_a_second_install_does_nothing(every_python):
    code = "import heapkeeper as h; h.install(); n = h.stats()['allocated_blocks']; h.install(); print(n > 0, h.active())"
    assert late(every_python, code) == "True True\n"


def test_install_does_nothing_where_the_heap_was_there_from_the_start(heapkeeper):
    done = heapkeeper.run("import heapkeeper as h; h.install(); print(h.active(), h.library_path)", env=ENVIRONMENT)
    assert (done.status, done.out) == (0, b"True None\n"), done.err


def test_install_says_so_where_python_was_told_to_use_another_allocator_than_run_gives_it(heapkeeper):
    code = """
import heapkeeper
print(heapkeeper.active())
try: heapkeeper.install()
except RuntimeError as error: print(error)
"""
    done = heapkeeper.run(code, env={**ENVIRONMENT, "PYTHONMALLOC": "malloc"})
    said = b"False\nheapkeeper.install(): heapkeeper is loaded, but Python's objects are not in its heap; `heapkeeper report` says why\n"
    assert (done.status, done.out) == (0, said), done.err


def test_tracemalloc_refuses_it(every_python):
    said = refusal(every_python, "import tracemalloc; tracemalloc.start()\n")
    assert said == "heapkeeper.install(): tracemalloc is tracing: call tracemalloc.stop() first\n"
    assert "tracemalloc is tracing" in refusal(every_python, "", "-X", "tracemalloc")


def test_the_debug_hooks_refuse_it(every_python):
    for flags, extra in ((["-X", "dev"], {}), ([], {"PYTHONMALLOC": "debug"}), ([], {"PYTHONMALLOC": "malloc_debug"})):
        assert "the debug hooks are installed" in refusal(every_python, "", *flags, **extra)


def test_another_allocator_refuses_it(every_python, compile_c):
    with open(os.path.join(TREE, "bench", "hook.c")) as file:
        library = compile_c(file.read(), "-ldl", shared=True, name="hook.so")
    assert "another allocator or hook is installed" in refusal(every_python, "", LD_PRELOAD=library)


def test_an_interpreter_with_its_own_gil_refuses_it(every_python):
    if every_python.version < (3, 12):
        pytest.skip("interpreters share one GIL before 3.12")
    said = refusal(every_python, INTERPRETERS + "interpreter = create()\n")
    assert "an interpreter with its own GIL exists" in said


@pytest.mark.parametrize("error, event", [("RuntimeError", "sys.addaudithook"), ("ValueError", "sys.addaudithook"),
                                          ("ValueError", "heapkeeper.install")])
def test_an_audit_hook_that_keeps_ours_out_refuses_it(every_python, error, event):
    """By such a hook interpreters are noticed on 3.12. CPython itself says nothing of a RuntimeError."""
    if every_python.version != (3, 12):
        pytest.skip("only 3.12 needs one")
    said = refusal(every_python, """
import sys
def hook(event, arguments):
    if event == %r:
        raise %s("not here")
sys.addaudithook(hook)
""" % (event, error))
    assert "an audit hook of the program's keeps ours out" in said


def test_python_that_was_told_to_use_malloc_takes_it(every_python):
    code = "import heapkeeper as h; h.install(); keep = [str(i) for i in range(9999)]; print(h.stats()['live_blocks'] > 9000)"
    assert late(every_python, code, PYTHONMALLOC="malloc") == "True\n"


def test_interpreters_with_their_own_gil_that_come_later_keep_their_allocator(every_python):
    if every_python.version < (3, 12):
        pytest.skip("interpreters share one GIL before 3.12")
    code = INTERPRETERS + """
import threading, heapkeeper
heapkeeper.install()
work = '''
for turn in range(20):
    keep = [{str(i): [i, float(i)]} for i in range(2000)]
    assert all(thing[str(i)] == [i, float(i)] for i, thing in enumerate(keep))
'''
def cycle():
    for _ in range(5):
        interpreter = create()
        run(interpreter, work)
        destroy(interpreter)
threads = [threading.Thread(target=cycle) for _ in range(4)]
for thread in threads:
    thread.start()
keep = [(i, str(i)) for i in range(200000)]
for _ in range(5):
    exec(work, {})
for thread in threads:
    thread.join()
assert all(thing == (i, str(i)) for i, thing in enumerate(keep))
print("well")
"""
    assert late(every_python, code) == "well\n"


def test_tracemalloc_may_come_and_go_later(every_python):
    code = """
import tracemalloc, heapkeeper
heapkeeper.install()
first = [str(i) for i in range(10000)]
tracemalloc.start()
second = [str(i) for i in range(10000)]
first.clear()
tracemalloc.stop()
third = [str(i) for i in range(10000)]
second.clear()
print(all(thing == str(i) for i, thing in enumerate(third)))
"""
    assert late(every_python, code) == "True\n"


def test_children_of_a_process_with_threads_go_on(every_python):
    code = """
import os, threading, heapkeeper
heapkeeper.install()
stop = threading.Event()
def churn():
    while not stop.is_set():
        [bytearray(64) for _ in range(100)]
threads = [threading.Thread(target=churn) for _ in range(3)]
for thread in threads: thread.start()
for turn in range(20):
    child = os.fork()
    if child == 0:
        keep = [str(i) for i in range(20000)]
        os._exit(0 if keep[-1] == "19999" else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads: thread.join()
print("well")
"""
    assert late(every_python, code, "-W", "ignore") == "well\n"


@pytest.mark.parametrize("how", ["run", "install", "neither"])
def test_counted_blocks_rise_and_fall_with_what_is_made(heapkeeper, python, how):
    code = """
import heapkeeper
if %r == "install": heapkeeper.install()
start = heapkeeper.getallocatedblocks()
keep = [str(i) for i in range(50000)]
middle = heapkeeper.getallocatedblocks()
del keep
print(45000 < middle - start < 60000, abs(heapkeeper.getallocatedblocks() - start) < 1000)
""" % how
    out = heapkeeper.good(code, env=ENVIRONMENT).out.decode() if how == "run" else late(python, code)
    assert out == "True True\n"


def test_debugmallocstats_prints_every_heap(heapkeeper):
    done = heapkeeper.good("import sys, heapkeeper; heapkeeper.debugmallocstats(sys.stdout)", env=ENVIRONMENT)
    lines = done.out.decode().splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "][:4] == ["all", "raw", "mem", "object"]


def test_a_line_profile_afterwards_says_what_to_do(every_python):
    code = """
import heapkeeper
heapkeeper.install()
@heapkeeper.profile
def f():
    return 1
print(f())
try:
    heapkeeper.LineProfile(f)
except RuntimeError as error:
    print(error)
"""
    done = execute([every_python.path, "-c", code], env=ENVIRONMENT)
    assert done.status == 0, done.err.decode(errors="replace")[-3000:]
    why = done.out.decode().splitlines()[1]
    assert why.startswith("heapkeeper: install() came after the program began") and why.endswith("with `heapkeeper run`")
    assert done.out.startswith(b"1\n") and done.err.decode() == "heapkeeper: @profile measures nothing: %s\n" % why.replace("heapkeeper: ", "", 1)
