"""What a function's bytecode asks of its module: global names, members of modules, imports inside its body."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType

Chain = tuple[str, ...]  # attribute names behind a name: () where the object itself is used

_CHAINING = ("LOAD_ATTR", "LOAD_METHOD")
_GLOBAL_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_FREE_LOADS = ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")


@dataclass(frozen=True, slots=True)
class Import:
    """An import statement inside a function: `chain` is what is used of the module, () for all of it."""

    level: int
    module: str
    chain: Chain


@dataclass(slots=True)
class Needs:
    """What a code object and those nested in it use."""

    loads: dict[str, set[Chain]] = field(default_factory=dict)  # in the order of first use
    class_scope: set[str] = field(default_factory=set)  # perhaps only names of a nested class's own body
    stores: set[str] = field(default_factory=set)  # `global x; x = ...`
    imports: dict[Import, None] = field(default_factory=dict)  # an ordered set
    frees: dict[str, set[Chain]] = field(default_factory=dict)  # variables of enclosing functions
    catches_name_error: bool = False


def scan(code: CodeType) -> Needs:
    """Read a code object and all that are nested in it."""
    needs = Needs()
    for part in _nested(code):
        _scan_one(part, needs)
    return needs


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _nested(const)


def _scan_one(code: CodeType, needs: Needs) -> None:
    instructions = [i for i in dis.get_instructions(code) if i.opname not in ("EXTENDED_ARG", "CACHE")]
    local_names = {i.argval for i in instructions if i.opname == "STORE_NAME"}
    aliases = _imports(instructions, needs)
    for index, instruction in enumerate(instructions):
        name = instruction.argval
        if instruction.opname in _GLOBAL_LOADS:
            needs.loads.setdefault(name, set()).add(_chain(instructions, index + 1))
            if name in local_names:
                needs.class_scope.add(name)
            if name == "NameError":
                needs.catches_name_error = True
        elif instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            needs.stores.add(name)
        elif instruction.opname in _FREE_LOADS and name in code.co_freevars:
            needs.frees.setdefault(name, set()).add(_chain(instructions, index + 1))
        elif instruction.opname.startswith(("LOAD_FAST", "STORE_FAST_LOAD_FAST")):
            _use_alias(instructions, index, aliases, needs)


def _chain(instructions: list[dis.Instruction], index: int) -> Chain:
    chain = []
    while index < len(instructions) and instructions[index].opname in _CHAINING:
        chain.append(str(instructions[index].argval))
        index += 1
    return tuple(chain)


def _imports(instructions: list[dis.Instruction], needs: Needs) -> dict[str, tuple[int, str, Chain]]:
    """Note the import statements; return the local names that they bind: (level, module, chain)."""
    aliases: dict[str, tuple[int, str, Chain]] = {}
    for index, instruction in enumerate(instructions):
        if instruction.opname != "IMPORT_NAME":
            continue
        module = str(instruction.argval)
        level_at, names_at = instructions[index - 2].argval, instructions[index - 1].argval
        level = level_at if isinstance(level_at, int) else 0
        after = instructions[index + 1]
        if isinstance(names_at, tuple):
            for position in range(index + 1, len(instructions) - 1, 2):
                if instructions[position].opname != "IMPORT_FROM":
                    break
                name, target = str(instructions[position].argval), instructions[position + 1]
                needs.imports[Import(level, module, (name,))] = None
                _bind(aliases, target, (level, module, (name,)), needs)
        elif after.opname == "IMPORT_FROM":  # import a.b as c
            end = index + 1
            while instructions[end].opname in ("IMPORT_FROM", "SWAP", "POP_TOP", "ROT_TWO"):
                end += 1
            _bind(aliases, instructions[end], (level, module, ()), needs)
        else:  # import a.b binds a
            needs.imports[Import(level, module, ("__name__",))] = None
            _bind(aliases, after, (level, module.partition(".")[0], ()), needs)
    return aliases


def _bind(
    aliases: dict[str, tuple[int, str, Chain]],
    target: dis.Instruction,
    bound: tuple[int, str, Chain],
    needs: Needs,
) -> None:
    level, module, chain = bound
    if target.opname.startswith("STORE_FAST"):  # also together with the next instruction, as Python 3.13 has it
        aliases[target.argval[0] if isinstance(target.argval, tuple) else str(target.argval)] = bound
        needs.imports[Import(level, module, chain or ("__name__",))] = None
    else:  # a cell, a global, a class's name: its uses are not followed, so all of it is needed
        needs.imports[Import(level, module, chain)] = None


def _use_alias(
    instructions: list[dis.Instruction],
    index: int,
    aliases: dict[str, tuple[int, str, Chain]],
    needs: Needs,
) -> None:
    instruction = instructions[index]
    names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
    if instruction.opname.startswith("STORE"):
        names = names[1:]
    for position, name in enumerate(names, 1):
        if name in aliases:
            level, module, chain = aliases[name]
            # Of two that are loaded at once only the last stands before the attribute.
            behind = _chain(instructions, index + 1) if position == len(names) else ()
            needs.imports[Import(level, module, chain + behind)] = None
