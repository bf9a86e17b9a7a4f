"""What one malloc and one free cost, in instructions: the fast paths of what `heapkeeper run` preloads, frozen
in tests/golden/fast_path.COMPILER.ARCHITECTURE.txt by kind of instruction. Another compiler makes other code of the
same source, so where there is no file for it nothing is compared.

The path is read off the disassembly: from the function on, no conditional branch taken (they lead to the slow
paths), to the first return. After a change that is meant to change it, write the file anew and commit it:

    make && HEAPKEEPER_GOLDEN=write python3 -m pytest tests/py/test_fast_path.py
"""

import collections
import json
import os
import re
import shutil
import struct
import subprocess

import pytest

from conftest import BUILD, PRELOAD, TREE, build_is_usable

FUNCTIONS = ("locked_malloc", "locked_free")
MACHINES = {62: "x86_64", 183: "aarch64"}
GOLDEN = os.path.join(TREE, "tests", "golden")
MARKERS = ("endbr64", "bti", "nop", "cs nop", "xchg   %ax,%ax")  # cost nothing, depend on the distribution

X86_RETURNS, X86_JUMPS = ("ret", "retq"), ("jmp", "jmpq")
X86_ONLY_READ = ("cmp", "test", "bt", "ucomi")
ARM_BRANCHES = ("cbz", "cbnz", "tbz", "tbnz")


def kind_x86_64(mnemonic, operands):
    if mnemonic in X86_RETURNS:
        return "return"
    if mnemonic in X86_JUMPS:
        return "jump"
    if mnemonic.startswith("call"):
        return "call"
    if mnemonic.startswith("j"):
        return "branch"
    if "(" not in operands or mnemonic.startswith("lea"):
        return {"push": "store", "pop": "load"}.get(mnemonic, "other")
    if not operands.endswith(")") or mnemonic.startswith(X86_ONLY_READ):
        return "load"
    return "store" if mnemonic.startswith("mov") else "load and store"


def kind_aarch64(mnemonic, operands):
    if mnemonic == "ret":
        return "return"
    if mnemonic in ("b", "br"):
        return "jump"
    if mnemonic in ("bl", "blr"):
        return "call"
    if mnemonic.startswith("b.") or mnemonic in ARM_BRANCHES:
        return "branch"
    if mnemonic.startswith(("ldr", "ldp", "ldur", "ldar")):
        return "load"
    if mnemonic.startswith(("str", "stp", "stur", "stlr")):
        return "store"
    return "other"


KINDS = {"x86_64": kind_x86_64, "aarch64": kind_aarch64}


def straight_path(listing, function, machine):
    """[(kind, text), ...] of the instructions from the function's start to its first return."""
    body = re.search(r"^[0-9a-f]+ <%s>:\n((?:.+\n)*)" % re.escape(function), listing, re.MULTILINE)
    assert body, "%s is not in the disassembly" % function
    code = [(int(address, 16), text.split("#")[0].split("//")[0].strip()) for address, text in
            re.findall(r"^\s*([0-9a-f]+):\s+(\S.*)$", body.group(1), re.MULTILINE)]
    places = {address: i for i, (address, _) in enumerate(code)}
    path, at = [], 0
    while at < len(code) and len(path) < 200:
        text = code[at][1]
        mnemonic, operands = (re.sub(r"^(bnd|repz?|notrack)\s+(?=ret|jmp|call)", "", text).split(None, 1) + [""])[:2]
        operands = operands.split("<")[0].strip()
        kind = KINDS[machine](mnemonic, operands)
        at += 1
        if text.startswith(MARKERS):
            continue
        path.append((kind, text))
        if kind == "return":
            return path
        if kind == "jump":
            at = places.get(int(operands, 16) if re.fullmatch(r"(0x)?[0-9a-f]+", operands) else None, len(code))
    pytest.fail("%s: the straight path does not return:\n%s" % (function, "\n".join(text for _, text in path)))


def counted(path):
    counts = collections.Counter(kind for kind, _ in path)
    return "".join("  %-14s %3d\n" % item for item in sorted(counts.items()) + [("in all", len(path))])


def tool(*words):
    if shutil.which(words[0]) is None:
        pytest.skip("not compared: no %s (apt-get install binutils)" % words[0])
    return subprocess.run(words, stdout=subprocess.PIPE, universal_newlines=True, errors="replace", check=True).stdout


def machine_of(path):
    with open(path, "rb") as file:
        header = file.read(20)
    return MACHINES.get(struct.unpack_from("<H", header, 18)[0], "other")


def compiler_of(path):
    """"gcc-12", from what compilers leave in what they make; start-up files may be by another than the rest."""
    comment = tool("readelf", "-p", ".comment", path)
    for name, pattern in (("clang", r"clang version (\d+)"), ("gcc", r"GCC: .*\) (\d+)\.")):
        found = re.search(pattern, comment)
        if found:
            return "%s-%s" % (name, found.group(1))
    return "unknown-0"


def unusual_build():
    """Why this build's code is not the usual one's."""
    try:
        with open(os.path.join(BUILD, "meson-info", "intro-buildoptions.json")) as file:
            options = {option["name"]: option["value"] for option in json.load(file)}
    except OSError:
        return "no Meson build directory"
    usual = {"buildtype": "debugoptimized", "optimization": "2", "b_lto": False, "b_pgo": "off", "c_args": []}
    return ", ".join("%s is %s" % (name, options.get(name)) for name, value in usual.items()
                     if options.get(name, value) != value)


@pytest.fixture(scope="module")
def library():
    reason = build_is_usable() or unusual_build()
    if reason:
        pytest.skip("not compared: " + reason)
    return PRELOAD


def test_fast_paths_take_the_instructions_that_they_took(library):
    machine, compiler = machine_of(library), compiler_of(library)
    if machine not in KINDS:
        pytest.skip("not compared: %s" % machine)
    listing = tool("objdump", "-d", "--no-show-raw-insn", library)
    paths = {function: straight_path(listing, function, machine) for function in FUNCTIONS}
    now = "".join("%s\n%s" % (function, counted(path)) for function, path in paths.items())
    golden = os.path.join(GOLDEN, "fast_path.%s.%s.txt" % (compiler, machine))
    if os.environ.get("HEAPKEEPER_GOLDEN") == "write":
        os.makedirs(GOLDEN, exist_ok=True)
        with open(golden, "w") as file:
            file.write(now)
        pytest.skip("written: %s" % os.path.relpath(golden, TREE))
    if not os.path.exists(golden):
        pytest.skip("not compared: no tests/golden/%s" % os.path.basename(golden))
    with open(golden) as file:
        was = file.read()
    assert now == was, "the fast paths have changed; they are now\n" + "\n".join(
        "%s\n%s" % (function, "\n".join("  %-14s %s" % step for step in path)) for function, path in paths.items())


# --- the reader of listings, so that it does not count nothing and agree ---

LISTING_X86_64 = """
0000000000001000 <locked_free>:
    1000:	endbr64
    1004:	mov    %rsi,%rax
    1008:	sub    (%rdx),%rax
    100b:	cmp    0x8(%rdx),%rax
    100f:	jae    1040 <locked_free+0x40>
    1011:	lea    0x8559(%rip),%rdx        # 184a0 <hk_region>
    1018:	jmp    1030 <locked_free+0x30>
    101a:	call   3a40 <hk_free_slow>
    101f:	ret
    1030:	mov    %rsi,(%rax)
    1033:	subl   $0x1,0x8(%rax)
    1037:	ret

"""

LISTING_AARCH64 = """
0000000000001000 <locked_malloc>:
    1000:	bti	c
    1004:	cmp	x1, #0x200
    1008:	b.hi	1030 <locked_malloc+0x30>  // b.pmore
    100c:	ldr	x2, [x0, x3]
    1010:	cbz	x2, 1030 <locked_malloc+0x30>
    1014:	str	x1, [x2]
    1018:	ret

"""


def test_kinds_of_x86_instructions_are_told_apart():
    path = straight_path(LISTING_X86_64, "locked_free", "x86_64")
    assert [kind for kind, _ in path] == [
        "other", "load", "load", "branch", "other", "jump", "store", "load and store", "return"]


def test_kinds_of_arm_instructions_are_told_apart():
    path = straight_path(LISTING_AARCH64, "locked_malloc", "aarch64")
    assert [kind for kind, _ in path] == ["other", "branch", "load", "branch", "store", "return"]
