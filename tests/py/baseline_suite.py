"""Fifty tests as people write them, with much in them that differs from run to run: sets of strings under another hash seed, caches
that the first run fills, imports, cycles, threads, temporary files, time stamps. tools/pytest_baseline.py runs them many times,
and changes lines of them so that they take more memory."""

import ast
import asyncio
import base64
import collections
import contextlib
import copy
import csv
import dataclasses
import datetime
import decimal
import difflib
import functools
import gc
import hashlib
import heapq
import inspect
import io
import itertools
import json
import linecache
import logging
import os
import pickle
import random
import re
import statistics
import string
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
import uuid
import weakref
import zlib

import pytest

pytestmark = pytest.mark.limit_leaks("10 KB")

WORDS = ["".join(letters) for letters in itertools.product("abcdefgh", repeat=4)]


@pytest.fixture
def table():
    return {word: len(word) * number for number, word in enumerate(WORDS)}


def test_json_there_and_back(table):
    assert json.loads(json.dumps(table)) == table


def test_json_of_rows():
    rows = [{"id": i, "name": "row %d" % i, "tags": ["a", "b", str(i)]} for i in range(500)]
    assert len(json.dumps(rows)) > 10000


def test_set_of_words():
    assert len(set(WORDS) & {word[::-1] for word in WORDS}) == 4096


def test_words_by_first_letter():
    groups = collections.defaultdict(list)
    for word in set(WORDS):
        groups[word[0]].append(word)
    assert len(groups) == 8


def test_count_of_letters():
    assert collections.Counter("".join(WORDS))["a"] == 2048


def test_pattern_that_is_compiled_here():
    pattern = re.compile(r"(?P<first>[a-d]+)(?P<rest>[e-h]*)$")
    assert sum(bool(pattern.match(word)) for word in WORDS) > 0


@pytest.mark.parametrize("letter", "ab")
def test_pattern_by_parameter(letter):
    assert len(re.findall(letter + "+[b-h]", " ".join(WORDS))) > 100


def test_substitution():
    assert re.sub("[aeiou]", lambda match: match.group().upper(), " ".join(WORDS)).count("A") == 2048


def test_module_that_nobody_has_imported_yet():
    import fractions
    import quopri
    assert fractions.Fraction(1, 3) * 3 == 1 and quopri.encodestring(b"=") == b"=3D"


def test_decimal_sum():
    assert sum(decimal.Decimal(i) / 7 for i in range(700)) > 0


def test_dates():
    start = datetime.datetime(2020, 1, 1)
    days = [start + datetime.timedelta(days=i) for i in range(1000)]
    assert len({day.strftime("%Y-%m") for day in days}) == 33


def test_time_stamps():
    assert len(["%r %s" % (time.time(), time.strftime("%H:%M:%S")) for _ in range(200)]) == 200


def test_uuids():
    assert len({str(uuid.uuid4()) for _ in range(500)}) == 500


@dataclasses.dataclass
class Point:
    x: int
    y: int
    name: str = "here"


def test_data_classes():
    points = [Point(i, i * 1000) for i in range(1000)]
    assert dataclasses.asdict(points[-1])["y"] == 999000


def test_class_that_is_made_here():
    Record = collections.namedtuple("Record", "a b c d")
    assert sum(Record(i, i, i, i).a for i in range(100)) == 4950


def test_class_with_slots():
    class Slotted:
        __slots__ = "a", "b"

    kept = []
    for i in range(2000):
        one = Slotted()
        one.a, one.b = i, str(i)
        kept.append(one)
    assert kept[-1].b == "1999"


def test_copy_of_a_nest():
    nest = [[{"k": [i, j]} for j in range(10)] for i in range(50)]
    assert copy.deepcopy(nest) == nest


def test_pickle(table):
    assert pickle.loads(pickle.dumps(table)) == table


def test_cycles_that_a_collection_takes():
    class Node:
        def __init__(self, number):
            self.number, self.other = number, None

    for i in range(3000):
        a, b = Node(i), Node(-i)
        a.other, b.other = b, a
    assert a.other is b


def test_weak_references():
    class Thing:
        pass

    things = [Thing() for _ in range(500)]
    known = weakref.WeakValueDictionary(enumerate(things))
    del things[::2]
    gc.collect()
    assert len(known) <= 251


def test_exceptions_with_tracebacks():
    def fail(depth):
        return fail(depth - 1) if depth else 1 // 0

    caught = []
    for _ in range(30):
        try:
            fail(20)
        except ZeroDivisionError as error:
            caught.append(error)
    assert len(caught) == 30


def test_generators_in_a_row():
    numbers = (n * n for n in range(100000))
    assert sum(n for n in numbers if n % 3 == 0) > 0


def test_sorted_by_key():
    assert sorted(WORDS, key=lambda word: (word[-1], word))[0] == "aaaa"


def test_heap():
    queue = []
    for i in range(3000):
        heapq.heappush(queue, (i * 7919 % 3001, str(i)))
    assert heapq.heappop(queue)[0] == 0


def test_cache_of_results():
    @functools.lru_cache(maxsize=None)
    def ways(n):
        return 1 if n < 2 else ways(n - 1) + ways(n - 2)

    assert ways(150) > 10**30


MEMO = {}


def test_cache_of_the_module():
    for i in range(1000):
        if i not in MEMO:
            MEMO[i] = str(i) * 10
    assert len(MEMO) == 1000


def test_thread():
    results = []
    threads = [threading.Thread(target=lambda: results.append(sum(range(1000)))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 5


def test_coroutines():
    async def one(i):
        await asyncio.sleep(0)
        return i

    async def all_of_them():
        return await asyncio.gather(*(one(i) for i in range(100)))

    assert len(asyncio.run(all_of_them())) == 100


def test_file_in_a_temporary_directory(tmp_path):
    path = tmp_path / ("name-%d.txt" % os.getpid())
    path.write_text("\n".join(WORDS))
    assert len(path.read_text().split()) == 4096


def test_file_with_a_random_name():
    with tempfile.NamedTemporaryFile("w+") as file:
        file.write("x" * 50000)
        file.seek(0)
        assert len(file.read()) == 50000


def test_csv():
    file = io.StringIO()
    csv.writer(file).writerows([i, "name %d" % i, i * 1.5] for i in range(800))
    assert len(list(csv.DictReader(io.StringIO(file.getvalue()), ["a", "b", "c"]))) == 800


def test_log(caplog):
    with caplog.at_level(logging.INFO):
        for i in range(50):
            logging.getLogger("suite").info("message %d at %s", i, time.time())
    assert len(caplog.records) == 50


def test_output(capsys):
    for word in WORDS[:500]:
        print(word, id(word))
    assert len(capsys.readouterr().out.splitlines()) == 500


def test_environment(monkeypatch):
    monkeypatch.setenv("SUITE", "x" * 1000)
    assert [os.environ["SUITE"] + str(i) for i in range(100)][99].endswith("x99")


def test_child_process():
    assert subprocess.run([sys.executable, "-I", "-S", "-c", "print(6 * 7)"], stdout=subprocess.PIPE).stdout == b"42\n"


def test_source_of_a_function():
    linecache.clearcache()
    assert "linecache" in inspect.getsource(test_source_of_a_function)


def test_syntax_tree():
    tree = ast.parse("\n".join("x%d = [i * %d for i in range(10)]" % (i, i) for i in range(100)))
    assert len(list(ast.walk(tree))) > 1000


def test_code_that_is_made_here():
    names = {}
    exec(compile("\n".join("def f%d(a, b=2): return a * b + %d" % (i, i) for i in range(80)), "made", "exec"), names)
    assert names["f7"](2) == 11


def test_text_that_is_wrapped():
    assert len(textwrap.wrap(" ".join(WORDS), 70)) > 200


def test_difference_of_texts():
    assert any(line.startswith("+") for line in difflib.unified_diff(WORDS[:300], WORDS[5:305]))


def test_template():
    template = string.Template("$name has $count")
    assert len("".join(template.substitute(name=word, count=i) for i, word in enumerate(WORDS[:300]))) > 1000


def test_compressed():
    text = " ".join(WORDS).encode()
    assert zlib.decompress(zlib.compress(text)) == text


def test_digest_and_base64():
    assert len(base64.b64encode(hashlib.sha256(b"x" * 30000).digest() * 1000)) == 42668


def test_random_numbers_with_a_seed():
    chance = random.Random(5)
    assert 0.4 < statistics.mean(chance.random() for _ in range(1000)) < 0.6


def test_matrix():
    rows = [[float(i * j) for j in range(100)] for i in range(100)]
    assert sum(map(sum, zip(*rows))) > 0


def test_buffer_that_grows():
    buffer = bytearray()
    for i in range(20000):
        buffer += b"0123456789"
    assert len(buffer) == 200000


def test_text_in_pieces():
    assert len("".join("%05d " % i for i in range(20000))) == 120000


def test_stack_of_contexts():
    with contextlib.ExitStack() as stack:
        for i in range(300):
            stack.enter_context(contextlib.suppress(ValueError))


class TestGroup(unittest.TestCase):
    def setUp(self):
        self.numbers = list(range(5000))

    def test_numbers_of_a_case(self):
        self.assertEqual(len([str(n) for n in self.numbers]), 5000)
