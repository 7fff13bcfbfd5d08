"""
Finding out whether bytecode is for the interpreter that runs here.

That is asked for blobs whose Python nobody stated. Bytecode of another version loads without complaint, and then
gives wrong results or ends the process. Each code object is looked at before it is made: its shape, its opcodes, their
inline caches, their arguments, where jumps and exceptions lead, and how high the stack is everywhere. It is no defence
against malice (the sandbox is), but a mistake does not get through.
"""

from __future__ import annotations

import contextlib
import dis
import inspect
import opcode
import sys
from typing import Any, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .failures import WrongCodeError

MODERN = sys.version_info >= (3, 11)
RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
UNIT = 2  # bytes of an instruction, and of each of its inline caches
GENERATORS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
BEFORE_RESUME = frozenset({"COPY_FREE_VARS", "MAKE_CELL", "RETURN_GENERATOR", "POP_TOP"})
ENDS = frozenset({"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"})
JUMPS = frozenset({"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "JUMP_ABSOLUTE"})
OF_BLOCKS = frozenset({"CALL_FINALLY", "POP_FINALLY", "END_FINALLY", "WITH_CLEANUP_START", "WITH_CLEANUP_FINISH"})
# What the compilers of 3.8 and 3.9 leave where nobody comes: behind a return or an endless loop.
USELESS = frozenset({"NOP"} | ({"LOAD_CONST", "RETURN_VALUE"} | JUMPS if sys.version_info < (3, 10) else set()))
OLD_SCALE = UNIT if sys.version_info >= (3, 10) else 1  # bytes in the unit of a jump, before 3.11
INTERNAL = ("INSTRUMENTED_", "CACHE", "RESERVED", "INTERPRETER_EXIT", "ENTER_EXECUTOR", "DO_TRACING")
# A generator is started by a value that is sent to it; newer versions count it as the instruction's own.
START_OF_GENERATOR = int(MODERN and dis.stack_effect(opcode.opmap["RETURN_GENERATOR"]) == 0)
# From 3.12 on it is code of theirs, no longer the interpreter, that makes a RuntimeError of a StopIteration.
WRAPPED = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR if sys.version_info >= (3, 12) else 0
# By the number of RESUME, with argument 0 among a function's first instructions.
RESUMES = {151: ("3.11", "3.12"), 149: ("3.13",), 128: ("3.14",)}
FIRST = 8  # instructions
OLD_PARTS = 16  # of a code object, as dill before 0.3.6 pickles it
NO_COLUMNS = 13  # kind of an entry in the table of lines

_NAMES = {number: name for name, number in opcode.opmap.items() if number < 256 and not name.startswith(INTERNAL)}
_HAS_ARGUMENT = frozenset(getattr(dis, "hasarg", range(dis.HAVE_ARGUMENT, 256)))


class WrongCode(Exception):
    """Why a code object is not for this interpreter."""


class Parts(NamedTuple):
    """A code object, before it is made."""

    flags: int
    stacksize: int
    code: bytes
    consts: Sequence[Any]
    names: Sequence[str]
    varnames: Sequence[str]
    cellvars: Sequence[str]
    freevars: Sequence[str]
    exceptions: Optional[bytes]  # None: whoever wrote the blob does not know of such tables


class Instruction(NamedTuple):
    """One instruction, its extended arguments taken in."""

    offset: int
    name: str
    opcode: int
    argument: int
    end: int  # behind its inline caches


@contextlib.contextmanager
def guard(dill_module: Any, *, look: bool) -> Iterator[None]:
    """
    Mend what old releases of dill did to code objects that are loaded inside the block.

    With `look`, each is looked at first; WrongCodeError when one is not for this interpreter.
    """
    inner = dill_module._dill  # noqa: SLF001  dill has no public place for it
    made, types = inner._create_code, inner._reverse_typemap  # noqa: SLF001
    plain = types.get("CodeType")

    def create(*args: Any) -> Any:
        if look:
            check(args)
        return made(*(mend(args) if MODERN and len(args) == OLD_PARTS else args))

    inner._create_code = types["CodeType"] = create  # noqa: SLF001
    try:
        yield
    finally:
        inner._create_code, types["CodeType"] = made, plain  # noqa: SLF001


def mend(args: Sequence[Any]) -> List[Any]:
    """Write the table of lines anew where dill before 0.3.6 left it in the form that ended with Python 3.9."""
    values = list(args)
    code, first, old = _bytes(values[6]), values[12], _bytes(values[13])
    lines = [0] * (len(code) // UNIT + 1)  # by instruction, relative to the first
    offset = line = 0
    for width, delta in zip(old[::2], old[1::2]):
        for index in range(offset // UNIT, min((offset + width) // UNIT, len(lines))):
            lines[index] = line
        offset += width
        line += delta - 256 if delta > 127 else delta
    for index in range(min(offset // UNIT, len(lines)), len(lines)):
        lines[index] = line
    empty: Sequence[Any] = ()
    name, freevars, cellvars = values[11], values[14], values[15]
    table = _line_table(lines[:-1])
    return [b"", *values[:6], code, *values[7:12], name, first, table, b"", freevars or empty, cellvars or empty]


def _line_table(lines: List[int]) -> bytes:
    """Write the table of Python 3.11 and newer, without columns."""
    table = bytearray()
    at = last = 0
    while at < len(lines):
        count = 1
        while count < 8 and at + count < len(lines) and lines[at + count] == lines[at]:
            count += 1
        delta = lines[at] - last
        value = delta << 1 if delta >= 0 else (-delta << 1) | 1
        table.append(0x80 | NO_COLUMNS << 3 | count - 1)
        while value > 63:
            table.append(value & 63 | 64)
            value >>= 6
        table.append(value)
        last = lines[at]
        at += count
    return bytes(table)


def check(args: Sequence[Any]) -> None:
    """Raise WrongCodeError unless these arguments, as dill pickles them, make a code object for this interpreter."""
    name = "?"
    try:
        parts, name = read(args)
        verify(parts)
    except WrongCode as reason:
        raise WrongCodeError(
            f"its bytecode is not that of Python {RUNNING}, which runs handlers here: it seems to be made by "
            f"{guess(args)} ({reason}, in {name!r}); register it from Python {RUNNING} with dill 0.3.6 or newer"
        ) from None


def guess(args: Sequence[Any]) -> str:
    """Say who may have made the code."""
    values = list(args[1:]) if args and not isinstance(args[0], int) else list(args)
    if len(values) <= 15:
        return "Python 3.7 or older"
    code = next((value for value in values if isinstance(value, bytes)), b"")
    head = set(zip(code[: FIRST * UNIT : UNIT], code[1 : FIRST * UNIT : UNIT]))
    versions = next((versions for number, versions in RESUMES.items() if (number, 0) in head), ())
    if len(values) == 16 and versions:
        return f"Python {' or '.join(versions)} with a dill that is too old for it"
    if len(values) == 16:  # from dill 0.3.6 on, the table of lines comes first on 3.10
        old = "Python 3.8 or 3.9 (or 3.10 with a dill that is too old for it)"
        return old if isinstance(args[0], int) else "Python 3.10"
    return " or ".join(f"Python {each}" for each in versions if each != RUNNING) or "another version of Python"


def read(args: Sequence[Any]) -> Tuple[Parts, str]:
    """Tell the arguments apart, in every order that a release of dill has put them."""
    values = list(args[1:]) if args and not isinstance(args[0], int) else list(args)
    if len(values) == 18:
        front, (names, varnames, _, name), (exceptions, freevars, cellvars) = values[:8], values[8:12], values[15:]
    elif len(values) == 16:
        front, (names, varnames, _, name), (freevars, cellvars) = values[:8], values[8:12], values[14:]
        exceptions = None
    else:
        raise WrongCode(f"a code object has {len(values)} parts")
    if not MODERN and len(values) == OLD_PARTS:
        both = len(args) > len(values)  # dill from 0.3.6 on writes both tables of lines on 3.10
        if both != (sys.version_info >= (3, 10)):
            raise WrongCode("its table of lines is that of another Python" if both else "it lacks a table of lines")
    if not MODERN and exceptions is not None:
        raise WrongCode("it has an exception table")
    (*_, stacksize, flags, code, consts) = front
    parts = Parts(
        flags, stacksize, _bytes(code), consts, names, varnames, cellvars, freevars, exceptions and _bytes(exceptions)
    )
    sequences = (consts, names, varnames, cellvars, freevars)
    if not all(isinstance(part, tuple) for part in sequences) or not isinstance(stacksize, int):
        raise WrongCode("its parts are of the wrong types")
    return parts, str(name)


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):  # as dill does with what Python 2 wrote
        return value.encode()
    if not isinstance(value, bytes):
        raise WrongCode("its bytecode is no bytes")
    return value


def verify(parts: Parts) -> None:
    """Raise WrongCode with the first thing that this interpreter's compiler would not have made."""
    instructions = list(_instructions(parts.code))
    at = {each.offset: index for index, each in enumerate(instructions)}
    for each in instructions:
        _argument(each, parts)
    if MODERN:
        _entry(instructions, parts)
        handlers = list(_handlers(parts, at))
        _walk(parts, instructions, at, handlers)
    else:
        _reach(instructions, at, OLD_SCALE)
        if OLD_SCALE == 1 and any(map(_jumps, instructions)) and _fits(instructions, at, UNIT):
            raise WrongCode("by its jumps it may as well be that of Python 3.10")


# ---------------------------------------------------------------------------------------------- instructions


def _instructions(code: bytes) -> Iterator[Instruction]:
    if not code or len(code) % UNIT:
        raise WrongCode("its length is odd")
    offset = start = extended = 0
    while offset < len(code):
        number, argument = code[offset], code[offset + 1]
        name = _NAMES.get(number)
        if name is None:
            raise WrongCode(f"opcode {number} at {offset} does not exist")
        end = offset + UNIT * (1 + _caches(name, number))
        if any(code[offset + UNIT : end]) or end > len(code):
            raise WrongCode(f"{name} at {offset} has no room for its caches")
        argument |= extended
        if name == "EXTENDED_ARG":
            extended = argument << 8
        else:
            yield Instruction(start, name, number, argument, end)
            extended, start = 0, end
        offset = end
    if extended:
        raise WrongCode("it ends inside an instruction")


def _caches(name: str, number: int) -> int:
    entries = getattr(opcode, "_inline_cache_entries", None)
    if entries is None:
        return 0
    found = entries.get(name, 0) if isinstance(entries, dict) else entries[number]
    return int(found)


def _argument(each: Instruction, parts: Parts) -> None:
    number, argument = each.opcode, each.argument
    if number in dis.hasconst and argument >= len(parts.consts):
        raise WrongCode(f"{each.name} at {each.offset} asks for constant {argument} of {len(parts.consts)}")
    if number in dis.hasname and argument >> _name_shift(each.name) >= len(parts.names):
        raise WrongCode(f"{each.name} at {each.offset} asks for name {argument} of {len(parts.names)}")
    if number in dis.haslocal or number in dis.hasfree:
        for slot in _slots(each):
            if slot >= _room(each, parts):
                raise WrongCode(f"{each.name} at {each.offset} asks for variable {slot} of {_room(each, parts)}")


def _name_shift(name: str) -> int:
    """Return how many bits of the argument are flags."""
    if name == "LOAD_SUPER_ATTR":
        return 2
    if name == "LOAD_GLOBAL":
        return 1 if MODERN else 0
    return 1 if name == "LOAD_ATTR" and sys.version_info >= (3, 12) else 0


def _slots(each: Instruction) -> List[int]:
    pair = each.name.count("_FAST") > 1 or each.name.endswith("FAST_STORE_FAST")
    return [each.argument >> 4, each.argument & 15] if pair else [each.argument]


def _room(each: Instruction, parts: Parts) -> int:
    if MODERN:
        return len(parts.varnames) + len(set(parts.cellvars) - set(parts.varnames)) + len(parts.freevars)
    return len(parts.varnames if each.opcode in dis.haslocal else [*parts.cellvars, *parts.freevars])


# ---------------------------------------------------------------------------------------------- flow, 3.8 to 3.10


def _jumps(each: Instruction) -> bool:
    return each.opcode in dis.hasjrel or each.opcode in dis.hasjabs


def _fits(instructions: List[Instruction], at: Dict[int, int], scale: int) -> bool:
    """Say whether the code makes sense with jumps in that unit, down to the last instruction."""
    try:
        _reach(instructions, at, scale, useless=frozenset({"NOP"}))
    except WrongCode:
        return False
    return True


def _reach(
    instructions: List[Instruction], at: Dict[int, int], scale: int, useless: Optional[FrozenSet[str]] = None
) -> None:
    """Follow every way through the code: jumps lead to instructions, and all is reached that is of any use."""
    reached = _follow(instructions, at, scale)
    blocks = any(each.name.startswith("SETUP_") for each in instructions)
    if useless is not None or not blocks:  # with blocks, compilers leave more useless code behind
        for each, found in zip(instructions, reached):
            if not found and each.name not in (useless or USELESS):
                raise WrongCode(f"no way leads to {each.name} at {each.offset}")
    for each in instructions:
        if each.name in OF_BLOCKS and not blocks:
            raise WrongCode(f"{each.name} at {each.offset} ends a block that nothing began")
        if each.name == "COMPARE_OP" and each.argument >= len(dis.cmp_op):
            raise WrongCode(f"COMPARE_OP at {each.offset} asks for comparison {each.argument}")


def _follow(instructions: List[Instruction], at: Dict[int, int], scale: int) -> List[bool]:
    reached = [False] * len(instructions)
    todo = [0]
    while todo:
        index = todo.pop()
        if index >= len(instructions):
            raise WrongCode("it runs off its end")
        if reached[index]:
            continue
        reached[index] = True
        each = instructions[index]
        if _jumps(each):
            todo.append(_old_target(each, at, scale))
        if each.name not in ENDS and each.name not in JUMPS:
            todo.append(index + 1)
    return reached


def _old_target(each: Instruction, at: Dict[int, int], scale: int) -> int:
    distance = each.argument * scale
    target = distance if each.opcode in dis.hasjabs else each.end + distance
    if target not in at:
        raise WrongCode(f"{each.name} at {each.offset} jumps into the middle of something")
    return at[target]


# ---------------------------------------------------------------------------------------------- flow, 3.11 and newer


def _entry(instructions: List[Instruction], parts: Parts) -> None:
    names = []
    for each in instructions:
        if each.name == "RESUME":
            break
        names.append(each.name)
    else:
        raise WrongCode("it has no RESUME")
    if not BEFORE_RESUME.issuperset(names):
        raise WrongCode(f"it begins with {names[0]}")
    if ("RETURN_GENERATOR" in names) != bool(parts.flags & GENERATORS):
        raise WrongCode("it does not begin as its kind of function does")
    if parts.flags & WRAPPED and parts.exceptions == b"":
        raise WrongCode("it is a coroutine that lets StopIteration out")
    if names.count("COPY_FREE_VARS") != bool(parts.freevars):
        raise WrongCode("it does not take in its free variables")


def _handlers(parts: Parts, at: Dict[int, int]) -> Iterator[Tuple[int, int, int, int]]:
    """Read the exception table: start, end, target, and the height of the stack at the target."""
    data = iter(parts.exceptions or b"")
    for first in data:
        start = _varint(first, data) * UNIT
        end = start + _varint(None, data) * UNIT
        target = _varint(None, data) * UNIT
        depth = _varint(None, data)
        if start not in at or target not in at or (end not in at and end != len(parts.code)):
            raise WrongCode("its exception table leads nowhere")
        yield start, end, target, (depth >> 1) + (depth & 1) + 1


def _varint(first: Optional[int], data: Iterator[int]) -> int:
    byte = next(data, -1) if first is None else first
    value = byte & 63
    while byte & 64:
        byte = next(data, -1)
        if byte < 0:
            break
        value = value << 6 | byte & 63
    if byte < 0:
        raise WrongCode("its exception table ends too early")
    return value


def _walk(
    parts: Parts, instructions: List[Instruction], at: Dict[int, int], handlers: List[Tuple[int, int, int, int]]
) -> None:
    """Follow every way through the code: at each place the stack has one height, and no handler was lost."""
    heights: List[Optional[int]] = [None] * len(instructions)
    todo = [(0, START_OF_GENERATOR if parts.flags & GENERATORS else 0)]
    targets = [(start, end, at[target], depth) for start, end, target, depth in handlers]
    while todo:
        index, height = todo.pop()
        if index >= len(instructions):
            raise WrongCode("it runs off its end")
        known = heights[index]
        each = instructions[index]
        if known is not None:
            if known != height:
                raise WrongCode(f"the stack at {each.offset} has two heights")
            continue
        heights[index] = height
        if not 0 <= height <= parts.stacksize:
            raise WrongCode(f"the stack at {each.offset} holds {height} of {parts.stacksize}")
        todo += _next(each, index, height, at)
        todo += [(target, depth) for start, end, target, depth in targets if start <= each.offset < end]
    if not handlers:  # with one, compilers leave some useless code behind
        for each, found in zip(instructions, heights):
            if found is None and each.name != "NOP":
                raise WrongCode("its try and with blocks got lost, as they do with dill before 0.3.6")


def _next(each: Instruction, index: int, height: int, at: Dict[int, int]) -> Iterator[Tuple[int, int]]:
    argument = each.argument if each.opcode in _HAS_ARGUMENT else None
    if each.opcode in dis.hasjrel or each.opcode in dis.hasjabs:
        distance = each.argument * UNIT
        target = each.end + (-distance if "BACKWARD" in each.name else distance)
        if target not in at:
            raise WrongCode(f"{each.name} at {each.offset} jumps into the middle of something")
        yield at[target], height + dis.stack_effect(each.opcode, argument, jump=True)
    if each.name in ENDS:
        if height + dis.stack_effect(each.opcode, argument) < 0:
            raise WrongCode(f"{each.name} at {each.offset} finds too little on the stack")
    elif each.name not in JUMPS:
        yield index + 1, height + dis.stack_effect(each.opcode, argument, jump=False)
