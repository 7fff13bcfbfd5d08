"""Bytecode of unknown origin: what this interpreter's compiler made passes, what another's made does not."""

from __future__ import annotations

import argparse
import asyncio.tasks
import contextlib
import dataclasses
import dis
import inspect
import json
import subprocess
import sys
import types
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path

import dill
import pytest
from btrdbextras_client import find_python
from hypothesis import given
from hypothesis import strategies as st

from eventproc.child import codecheck
from eventproc.child.codecheck import Parts, WrongCode, check, guard, mend, verify
from eventproc.child.failures import LoadError

MODULES = (argparse, asyncio.tasks, contextlib, dataclasses, dis, inspect, json.decoder, typing, codecheck)
OTHERS = tuple(version for version in ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13") if version != codecheck.RUNNING)
RETURN_CONST = bytes(dis.opmap[name] for name in ("RETURN_CONST",) if name in dis.opmap)
RETURNED_CONST = bytes(dis.opmap[name] for name in ("LOAD_CONST", "RETURN_VALUE"))
DUMP = """
import json, sys, types
def walk(code):
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from walk(const)
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        source = file.read()
    try:
        module = compile(source, path, "exec")
    except SyntaxError:
        continue
    for code in walk(module):
        table = getattr(code, "co_exceptiontable", b"").hex()
        counts = [len(code.co_consts), len(code.co_names)]
        names = [code.co_varnames, code.co_cellvars, code.co_freevars]
        print(json.dumps([code.co_flags, code.co_stacksize, code.co_code.hex(), counts, names, table]))
"""


def walk(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from walk(const)


def codes() -> list[types.CodeType]:
    """Return all code of some modules of the standard library."""
    sources = [Path(inspect.getsourcefile(module)) for module in MODULES]
    return [code for path in sources for code in walk(compile(path.read_bytes(), str(path), "exec"))]


def modern(code: types.CodeType) -> tuple:
    """Return a code object as dill pickles it now."""
    front = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_nlocals, code.co_stacksize)
    middle = (code.co_flags, code.co_code, code.co_consts, code.co_names, code.co_varnames, code.co_filename)
    tables = (code.co_linetable, code.co_exceptiontable, code.co_freevars, code.co_cellvars)
    return (b"", *front, *middle, code.co_name, code.co_qualname, code.co_firstlineno, *tables)


def old(code: types.CodeType) -> tuple:
    """Return a code object as dill before 0.3.6 pickles it: no exception table, lines in the old form."""
    values = list(modern(code))[1:]
    del values[15], values[12]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on
        values[13] = code.co_lnotab
    return tuple(values)


def lines(code: types.CodeType) -> list[int | None]:
    """Return the line of each instruction."""
    return [line for start, end, line in code.co_lines() for _ in range(start, end, 2)]


def test_what_this_compiler_made_passes():
    found = codes()
    assert len(found) > 500
    for code in found:
        check(modern(code))


@pytest.mark.parametrize("version", OTHERS)
def test_what_another_version_made_is_refused_or_the_same(version, tmp_path):
    """What passes of another version's code is what this one would have made: the very same instructions."""
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} is installed")
    paths = [inspect.getsourcefile(module) for module in MODULES]
    done = subprocess.run([python, "-c", DUMP, *paths], capture_output=True, text=True, check=True)
    dumped = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(dumped) > 300
    ours = {instructions(code.co_code) for code in codes()}
    passed = [code for row in dumped if passes(row, code := bytes.fromhex(row[2]))]
    alike = (version, codecheck.RUNNING) == ("3.11", "3.12")  # 3.12 takes more of what 3.11 makes: it is its own
    assert len(passed) < len(dumped) / (5 if alike else 10)
    assert {instructions(code) for code in passed} <= ours


def passes(row: list, code: bytes) -> bool:
    flags, stack, _, (consts, names), (varnames, cellvars, freevars), table = row
    parts = Parts(
        flags,
        stack,
        code,
        (None,) * consts,
        ("",) * names,
        tuple(varnames),
        tuple(cellvars),
        tuple(freevars),
        bytes.fromhex(table),
    )
    try:
        verify(parts)
    except WrongCode:
        return False
    return True


def instructions(code: bytes) -> bytes:
    """
    Return the opcodes alone: how constants are numbered differs.

    Returning a constant takes two instructions or one; 3.12 and 3.13 make now these, now that.
    """
    return code[::2].replace(RETURN_CONST, RETURNED_CONST) if RETURN_CONST else code[::2]


@pytest.mark.parametrize("version", ["3.8", "3.10", "3.12", "3.13"])
def test_a_refusal_names_both_versions(version):
    python = find_python(version)
    if python is None or version == codecheck.RUNNING:
        pytest.skip(f"no other Python {version} is installed")
    program = (
        "import json\n"
        "def handler(db, **kwargs):\n    return [each for each in kwargs if each != db.name]\n"
        "c = handler.__code__\n"
        "print(json.dumps([hasattr(c, 'co_qualname'), c.co_code.hex(), c.co_stacksize, c.co_flags]))\n"
    )
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    is_modern, code, stack, flags = json.loads(done.stdout)
    front = (1, 0, 0, 3, stack, flags, bytes.fromhex(code), (None,) * 4, ("name",), ("db", "kwargs", "each"), "f.py")
    args = (*front, "handler", "handler", 1, b"", b"", (), ()) if is_modern else (*front, "handler", 1, b"", (), ())
    with pytest.raises(LoadError) as error:
        check(args)
    assert f"not that of Python {codecheck.RUNNING}" in str(error.value)
    assert version in str(error.value)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.11 itself makes such coroutines")
def test_a_coroutine_of_3_11_is_noticed():
    """It leaves a StopIteration inside it to the interpreter; that of 3.12 lets it out, and asyncio waits for ever."""

    async def asks(db):
        return db

    check(modern(asks.__code__))
    handler = 4  # bytes: CALL_INTRINSIC_1, RERAISE
    without = asks.__code__.replace(co_code=asks.__code__.co_code[:-handler], co_exceptiontable=b"")
    with pytest.raises(LoadError, match="lets StopIteration out"):
        check(modern(without))


def test_a_lost_exception_table_is_noticed():
    def tries(path):
        try:
            return Path(path).read_text()
        except OSError:
            return None

    check(modern(tries.__code__))
    with pytest.raises(LoadError, match="try and with blocks got lost"):
        check(old(tries.__code__))


def test_code_without_try_blocks_passes_in_the_old_form_and_keeps_its_lines():
    found = [code for code in codes() if not code.co_exceptiontable]
    for code in found:
        check(old(code))
        again = dill._dill._create_code(*mend(old(code)))
        wanted = lines(code)
        assert [line if wanted[index] is not None else None for index, line in enumerate(lines(again))] == wanted


def test_the_guard_mends_always_and_looks_when_asked():
    args = old(works.__code__)
    with guard(dill, look=False):
        code = dill._dill._create_code(*args)
    assert lines(code) == lines(works.__code__)
    broken = (*args[:6], b"\xff\x00" * 4, *args[7:])
    with guard(dill, look=True), pytest.raises(LoadError):
        dill._dill._create_code(*broken)
    assert dill._dill._create_code.__module__ == "dill._dill"


def works(db, **kwargs):
    total = 0
    for each in kwargs:
        total += len(each)
    return total


@given(st.data())
def test_damaged_code_gives_a_verdict_and_never_anything_else(data):
    """One byte changed anywhere, or the end cut off: refused or not, but looked at to the end."""
    code = bytearray(works.__code__.co_code)
    code[data.draw(st.integers(0, len(code) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(code)))
    args = list(modern(works.__code__))
    args[7] = bytes(code[:cut] if data.draw(st.booleans()) else code)
    with contextlib.suppress(LoadError):
        check(args)


@pytest.mark.parametrize("args", [(), (1, 2, 3), (b"",), (None,) * 18, (0,) * 16, ("",) * 20])
def test_what_is_no_code_object_at_all_is_refused(args):
    with pytest.raises(LoadError):
        check(args)


def test_it_needs_the_interpreter_only():
    """The module runs in the child of any interpreter: no third-party import."""
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            "import sys; sys.path.insert(0, sys.argv[1]); import child.codecheck",
            str(Path(codecheck.__file__).parents[1]),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


OLD = """
import importlib, json, sys, types
package = types.ModuleType("_checked"); package.__path__ = [sys.argv[1]]; sys.modules["_checked"] = package
codecheck = importlib.import_module("_checked.codecheck")
told = []
for line in sys.stdin:
    flags, stacksize, code, (consts, names), (varnames, cellvars, freevars), table = json.loads(line)
    parts = codecheck.Parts(flags, stacksize, bytes.fromhex(code), (None,) * consts, ("",) * names, tuple(varnames),
                            tuple(cellvars), tuple(freevars), None)
    try:
        codecheck.verify(parts)
        told.append(None)
    except codecheck.WrongCode as reason:
        told.append(str(reason))
json.dump(told, sys.stdout)
"""


def told_by(version: str, dumped: str) -> list[str | None]:
    """What the check says on another interpreter; None for what it takes."""
    package = Path(codecheck.__file__).parent
    done = subprocess.run(
        [find_python(version), "-I", "-c", OLD, package], input=dumped, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10"])
def test_older_interpreters_know_their_own_code_and_that_of_others(version):
    if any(find_python(each) is None for each in ("3.9", "3.10", version)):
        pytest.skip("Pythons 3.8, 3.9 and 3.10 are not all installed")
    paths = [str(Path(module.__file__)) for module in MODULES]
    dumps = {
        each: subprocess.run([find_python(each), "-c", DUMP, *paths], capture_output=True, text=True, check=True).stdout
        for each in {"3.9", "3.10", version}
    }
    own = told_by(version, dumps[version])
    assert len(own) > 100
    taken = [text for text in own if text is None]
    assert len(taken) > 0.95 * len(own)
    assert all("Python 3.10" in text for text in own if text is not None)
    other = "3.9" if version == "3.10" else "3.10"
    foreign = told_by(version, dumps[other])
    assert sum(text is not None for text in foreign) > 0.4 * len(foreign)
