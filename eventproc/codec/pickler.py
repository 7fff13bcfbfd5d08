"""
A dill pickler that carries the user's own code by value.

dill alone pickles functions of an importable module as a reference to it, gives each function its own copy of the
globals, and overwrites the receiver's modules with the sender's state. Here instead each module of the user's own
becomes a twin in the blob: a fresh module object that holds what is used of it, and that is the globals of all its
functions, so that `global` statements and `mymod.f` work as they did at home. What is installed stays a reference.
Only pickle's public parts and dill's table of types are used; nothing of dill is changed, so threads do not meet.
"""

from __future__ import annotations

import abc
import builtins
import contextlib
import dataclasses
import enum
import functools
import importlib
import importlib.util
import inspect
import io
import itertools
import operator
import pickle
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import dill

from eventproc.codec.origin import find, is_own_module, is_own_name, is_own_namespace
from eventproc.codec.scan import Chain, Import, Needs, scan
from eventproc.model.marks import HANDLER_MARK

PROTOCOL = 4  # every Python since 3.8 reads it
AMBIENT_NAMES = frozenset({"ep"})  # there in the handler's process without being defined

# A module makes these itself, or they mean something else elsewhere.
_UNTOLD = frozenset({"__name__", "__builtins__", "__spec__", "__loader__", "__cached__", "__package__", "__path__"})
_SENTINELS = {
    id(getattr(dataclasses, name)): ("dataclasses", name)
    for name in ("MISSING", "KW_ONLY", "_FIELD", "_FIELD_CLASSVAR", "_FIELD_INITVAR", "_HAS_DEFAULT_FACTORY")
    if hasattr(dataclasses, name)
}
_HEAP_TYPE = 1 << 9  # of a class's flags: made by a class statement
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
_CLASS_LEFT_OUT = frozenset(
    {
        *("__dict__", "__weakref__", "_abc_impl", "__slotnames__"),
        *("__annotate__", "__annotate_func__", "__annotations_cache__"),
    }
)
_stock: Any = pickle._Pickler  # noqa: SLF001 - the pickler in Python, which dill extends too


class OverLimit(Exception):
    """The pickle has grown over the limit."""


@dataclasses.dataclass(slots=True)
class _Twin:
    """The stand-in for one of the user's modules inside the blob."""

    namespace: dict[str, Any]
    stand_in: types.ModuleType
    told: set[str] = dataclasses.field(default_factory=set)
    whole: bool = False


class _Types(dict[type, Callable[[Any, Any], None]]):
    """dill's table of types, with a default for metaclasses as dill has it."""

    def get(self, key: type, default: Any = None) -> Any:
        found = super().get(key)
        if found is None and issubclass(key, type):
            return HandlerPickler.save_class
        return default if found is None else found


class HandlerPickler(dill.Pickler):  # type: ignore[misc]  # dill has no types
    """Pickles one callable; afterwards its attributes say what went in."""

    def __init__(self, file: io.BytesIO, *, max_bytes: int, home: str = "__main__") -> None:
        super().__init__(file, PROTOCOL, recurse=True)
        self.path: list[str] = []  # where the pickling is: labels such as "global CONNECTION (sqlite3.Connection)"
        self.culprit: tuple[str, ...] | None = None  # labels that lead to what could not be pickled
        self.carried: dict[str, int] = {}  # global → bytes, itself and what only it brought
        self.undefined: dict[str, tuple[str, ...]] = {}  # name → path of the code that uses it
        self.imported: list[str] = []  # modules of the user's own that were loaded to look into them
        self.size = 0
        self._stored: set[str] = set()
        self._stack: list[Any] = []  # objects being saved, one inside the other
        self._labelled: tuple[int, Any] = (0, None)  # depth of the stack at the last label, and what it names
        self._max_bytes = max_bytes
        self._home = home  # its globals are named without their module
        self._twins: dict[int, _Twin] = {}
        self._cells: set[int] = set()
        self._count(self.framer)

    def _count(self, framer: Any) -> None:
        """Count what is written; the framer's own position jumps."""

        def write(data: bytes) -> Any:
            self._grow(len(data))
            return framer.write(data)

        def write_large(header: bytes, payload: bytes) -> Any:
            self._grow(len(header) + len(payload))
            return framer.write_large_bytes(header, payload)

        self.write = write
        self._write_large_bytes = write_large

    def _grow(self, count: int) -> None:
        self.size += count
        if self.size > self._max_bytes:
            raise OverLimit

    # ------------------------------------------------------------------------------------------- every object

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:  # noqa: FBT001, FBT002 - pickle's signature
        self._stack.append(obj)
        try:
            if id(obj) in _SENTINELS:
                self._write_global(*_SENTINELS[id(obj)])
            elif isinstance(obj, type) and "__eventproc_ambient__" in vars(obj):
                self._write_global("builtins", "object")  # a type of `db` or `ep`, which is of use to readers only
            elif isinstance(obj, io.IOBase):
                self._save_stream(obj, save_persistent_id)
            elif isinstance(obj, types.ModuleType):
                self.save_module(obj)  # not by the memo: a twin may have to be completed
            elif isinstance(obj, threading.Thread):
                raise pickle.PicklingError("a thread can not travel")  # noqa: TRY301 - caught below like pickle's own
            else:
                # Not dill's own save(): that one changes its global table when it meets numpy's types.
                _stock.save(self, obj, save_persistent_id)
        except Exception:
            if self.culprit is None:
                depth, labelled = self._labelled
                self.culprit = (*self.path, *(_way(self._stack[depth:]) if obj is not labelled else ()))
            raise
        self._stack.pop()

    def _save_stream(self, obj: io.IOBase, save_persistent_id: bool) -> None:  # noqa: FBT001 - as above
        for name in ("stdin", "stdout", "stderr"):
            if obj is getattr(sys, name):
                self._write_global("sys", name)
                return
        if not isinstance(obj, (io.BytesIO, io.StringIO)):
            raise pickle.PicklingError(f"an open file ({getattr(obj, 'name', '?')}) can not travel")
        _stock.save(self, obj, save_persistent_id)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        qualname = name or getattr(obj, "__qualname__", None) or getattr(obj, "__name__", "?")
        module_name = pickle.whichmodule(obj, qualname)  # type: ignore[attr-defined]  # the stubs lack it
        if is_own_name(module_name):
            if isinstance(obj, TypeVar):
                self.save_reduce(TypeVar, (obj.__name__,), obj=obj)
                return
            raise pickle.PicklingError(f"it is pickled as a reference to {module_name}.{qualname}, which stays here")
        _stock.save_global(self, obj, name)

    @contextlib.contextmanager
    def _at(self, label: str, value: object) -> Iterator[None]:
        self.path.append(f"{label} ({type_name(value)})")
        before, self._labelled = self._labelled, (len(self._stack), value)
        yield
        # Not on an exception: the path is part of the message.
        self._labelled = before
        self.path.pop()

    def _write_global(self, module: str, name: str) -> None:
        self.save(module)
        self.save(name)
        self.write(pickle.STACK_GLOBAL)

    def _write_get(self, obj: object) -> None:
        self.write(self.get(self.memo[id(obj)][0]))

    def _call(self, func: Callable[..., Any], *args: Any) -> None:
        """Call something while loading, for its effect."""
        self.save_reduce(func, args)
        self.write(pickle.POP)

    # ------------------------------------------------------------------------------------------- modules

    def save_module(self, obj: types.ModuleType) -> None:
        if is_own_module(obj):
            self._tell_all(self._twin(vars(obj), obj))
            self._write_get(obj)
        elif id(obj) in self.memo:
            self._write_get(obj)
        else:
            self.save_reduce(importlib.import_module, (obj.__name__,), obj=obj)

    def _twin(self, namespace: dict[str, Any], module: types.ModuleType | None = None) -> _Twin:
        """Return the twin of a namespace; write it when it is new. It is filled as its names are needed."""
        twin = self._twins.get(id(namespace))
        if twin is not None:
            return twin
        name = str(namespace.get("__name__") or "__main__")
        found = module or sys.modules.get(name)
        if found is None or vars(found) is not namespace:
            found = types.ModuleType(name)
        twin = _Twin(namespace, found)
        self._twins[id(namespace)] = twin
        if getattr(found, "__file__", None) and str(namespace.get("__file__", "")).endswith((".so", ".pyd")):
            raise pickle.PicklingError("a compiled extension that is not installed can not travel")
        self.save_reduce(types.ModuleType, (name,), obj=found)
        self.write(pickle.POP)
        # Functions find their builtins without this, but C code that imports something for them does not.
        self._call(setattr, _Memoized(found), "__builtins__", builtins)
        package = namespace.get("__package__")
        if isinstance(package, str) and package:
            self._call(setattr, _Memoized(found), "__package__", package)
        self.save_reduce(getattr, (_Memoized(found), "__dict__"), obj=namespace)
        self.write(pickle.POP)
        if name != "__main__" and ("__file__" in namespace or "__spec__" in namespace):
            self._offer(name, found)
        return twin

    def _offer(self, name: str, module: types.ModuleType) -> None:
        """Let `import mymod` find the twin on the far side, unless a module of that name is there already."""
        self.save(operator.methodcaller("setdefault", name, _Memoized(module)))
        self._write_global("sys", "modules")
        self.write(pickle.TUPLE1 + pickle.REDUCE + pickle.POP)

    def _tell(self, twin: _Twin, name: str, value: Any) -> None:
        """Put one name into a twin, once."""
        if name in twin.told or name in _UNTOLD:
            return
        twin.told.add(name)
        if getattr(type(value), "__eventproc_ambient__", False):
            return  # `from eventproc import ep`: the handler's process has the real one
        own = not (isinstance(value, types.ModuleType) and not is_own_module(value))
        before = self.size
        with self._at(f"global {name}", value):
            self._write_get(twin.stand_in)
            self.write(pickle.EMPTY_DICT)
            self.save(name)
            self.save(value)
            self.write(pickle.SETITEM + pickle.BUILD + pickle.POP)
        if own and not _is_reference(value):
            self.carried[self._public_name(twin, name)] = self.size - before

    def _public_name(self, twin: _Twin, name: str) -> str:
        module = twin.stand_in.__name__
        return name if module in ("__main__", self._home) else f"{module}.{name}"

    def _tell_all(self, twin: _Twin) -> None:
        if twin.whole:
            return
        twin.whole = True
        for name, value in list(twin.namespace.items()):
            if not (name.startswith("__") and name.endswith("__")):
                self._tell(twin, name, value)

    def _tell_chain(self, module: types.ModuleType, chain: Chain) -> None:
        """Put what `chain` leads to into a module's twin: mypkg.sub.f needs sub of mypkg and f of sub."""
        twin = self._twin(vars(module), module)
        if not chain:
            self._tell_all(twin)
            return
        value = twin.namespace.get(chain[0])
        if isinstance(value, types.ModuleType) and is_own_module(value):
            if chain[0] not in twin.told:
                twin.told.add(chain[0])
                self._twin(vars(value), value)
                self._call(setattr, _Memoized(module), chain[0], _Memoized(value))
            self._tell_chain(value, chain[1:])
        elif chain[0] in twin.namespace:
            self._tell(twin, chain[0], value)

    # ------------------------------------------------------------------------------------------- functions

    def save_function(self, obj: types.FunctionType) -> None:
        namespace = obj.__globals__
        own = is_own_namespace(namespace)
        if not own and find(obj.__module__, obj.__qualname__) is obj and not is_own_name(obj.__module__):
            self._write_global(obj.__module__, obj.__qualname__)
            self.memoize(obj)
            return
        twin = self._twin(namespace) if own else None
        if (
            twin is None and id(namespace) not in self.memo
        ):  # a closure made by an installed module: it shares its globals
            self.save_reduce(vars, (importlib.import_module(namespace["__name__"]),), obj=namespace)
            self.write(pickle.POP)
        cells = obj.__closure__ or ()
        for cell in cells:
            if id(cell) not in self.memo:
                self.save_reduce(types.CellType, (), obj=cell)
                self.write(pickle.POP)
        self._build_function(obj, cells)
        self._fill_cells(obj, cells, own=own)
        if twin is not None:
            self._meet_needs(twin, obj)

    def _build_function(self, obj: types.FunctionType, cells: tuple[types.CellType, ...]) -> None:
        self._check_defaults(obj)
        args = (obj.__code__, obj.__globals__, obj.__name__, None, cells or None)
        self.save_reduce(types.FunctionType, args, obj=obj)
        state = {
            "__qualname__": obj.__qualname__,
            "__module__": obj.__module__,
            "__doc__": obj.__doc__,
            "__kwdefaults__": obj.__kwdefaults__,
            "__defaults__": obj.__defaults__,
            "__annotations__": _light_annotations(obj),
        }
        slots = {name: value for name, value in state.items() if value}
        attributes = {name: value for name, value in vars(obj).items() if name != HANDLER_MARK}
        self.save((attributes or None, slots))
        self.write(pickle.BUILD)

    def _check_defaults(self, obj: types.FunctionType) -> None:
        """Pickle defaults one by one first, so that a bad one is named by its parameter."""
        names = obj.__code__.co_varnames[: obj.__code__.co_argcount]
        defaults = dict(zip(reversed(names), reversed(obj.__defaults__ or ()), strict=False))
        for name, value in {**defaults, **(obj.__kwdefaults__ or {})}.items():
            if isinstance(value, _PLAIN) or id(value) in self.memo:
                continue
            with self._at(f"default of {name}", value):
                self.save(value)
                self.write(pickle.POP)

    def _fill_cells(self, obj: types.FunctionType, cells: tuple[types.CellType, ...], *, own: bool) -> None:
        frees = scan(obj.__code__).frees if cells else {}
        for name, cell in zip(obj.__code__.co_freevars, cells, strict=True):
            try:
                value = cell.cell_contents
            except ValueError:
                continue  # never assigned: stays empty
            chains = frees.get(name, set())
            in_part = isinstance(value, types.ModuleType) and is_own_module(value) and () not in chains
            if id(cell) not in self._cells:
                self._cells.add(id(cell))
                self._fill_cell(name, cell, value, in_part=in_part, listed=own and not _is_generated(obj))
            if in_part:
                with self._at(f"variable {name}", value):
                    for chain in sorted(chains):
                        self._tell_chain(value, chain)

    def _fill_cell(self, name: str, cell: types.CellType, value: Any, *, in_part: bool, listed: bool) -> None:
        if getattr(type(value), "__eventproc_ambient__", False):
            raise pickle.PicklingError(f"{name} is eventproc.ep in a local variable; use it as a global name")
        before = self.size
        with self._at(f"variable {name}", value):
            if in_part:
                self._twin(vars(value), value)
            self._call(setattr, cell, "cell_contents", _Memoized(value) if in_part else value)
        if listed and not in_part and name != "__class__" and not _is_reference(value):
            self.carried[name] = self.size - before

    def _meet_needs(self, twin: _Twin, obj: types.FunctionType) -> None:
        """Put the globals that a function's code uses into its module's twin."""
        needs = scan(obj.__code__)
        self._stored |= needs.stores
        for name, chains in needs.loads.items():
            if name not in twin.namespace:
                self._note_undefined(name, needs)
                continue
            value = twin.namespace[name]
            if isinstance(value, types.ModuleType) and is_own_module(value) and () not in chains:
                for chain in sorted(chains):
                    self._bind_module(twin, name, value, chain)
            else:
                self._tell(twin, name, value)
        for wanted in needs.imports:
            self._import(twin, wanted)

    def _bind_module(self, twin: _Twin, name: str, value: types.ModuleType, chain: Chain) -> None:
        with self._at(f"global {name}", value):
            if name not in twin.told:
                twin.told.add(name)
                self._twin(vars(value), value)
                self._call(setattr, _Memoized(twin.stand_in), name, _Memoized(value))
            self._tell_chain(value, chain)

    def _note_undefined(self, name: str, needs: Needs) -> None:
        known = name in AMBIENT_NAMES or name in _UNTOLD or name in needs.class_scope or name in builtin_names()
        if not known and not needs.catches_name_error:
            self.undefined.setdefault(name, tuple(self.path))

    def _import(self, twin: _Twin, wanted: Import) -> None:
        """Follow an import statement in a function's body into the user's own modules."""
        name = _absolute(wanted, twin.namespace)
        parts = name.split(".") if name else []
        for end in range(1, len(parts) + 1):
            module = self._own_module(".".join(parts[:end]))
            if module is None:
                return
            with self._at(f"import {module.__name__}", module):
                self._tell_chain(module, (parts[end],) if end < len(parts) else wanted.chain)
                if end == len(parts) and wanted.chain and wanted.chain[0] not in vars(module):
                    self._own_module(f"{name}.{wanted.chain[0]}")
                    self._tell_chain(module, wanted.chain)

    def _own_module(self, name: str) -> types.ModuleType | None:
        module = sys.modules.get(name)
        if module is None:
            try:
                spec = importlib.util.find_spec(name)
            except (ImportError, ValueError, AttributeError):
                return None  # not here: the worker may have it
            where = {"__name__": name, "__file__": spec.origin} if spec else {}
            if spec is None or not spec.has_location or not is_own_namespace(where):
                return None
            self.imported.append(name)
            module = importlib.import_module(name)
        return module if is_own_module(module) else None

    @property
    def missing(self) -> dict[str, tuple[str, ...]]:
        """Names that the code uses but nothing defines."""
        return {name: path for name, path in self.undefined.items() if name not in self._stored}

    # ------------------------------------------------------------------------------------------- classes

    def save_class(self, obj: type[Any]) -> None:
        if not is_own_name(obj.__module__) and find(obj.__module__, obj.__qualname__) is obj:
            self._write_global(obj.__module__, obj.__qualname__)
            self.memoize(obj)
        elif not obj.__flags__ & _HEAP_TYPE:
            dill.Pickler.dispatch[type](self, obj)  # a type made in C: dill knows those that no module names
        elif issubclass(obj, enum.Enum):
            self._save_enum(obj)
        else:
            self._save_own_class(obj)

    def _save_own_class(self, obj: type[Any]) -> None:
        """Make the class without what may lead back to it, then set its members one by one."""
        members = {name: value for name, value in vars(obj).items() if not _made_by_class(obj, name, value)}
        fields = obj.__bases__ == (tuple,) and hasattr(obj, "_fields")
        early = {name: value for name, value in members.items() if name == "__slots__" or _is_plain(value)}
        early.pop("__abstractmethods__", None)  # the metaclass computes its own, of a class without methods
        bases = obj.__bases__ if fields else vars(obj).get("__orig_bases__", obj.__bases__)
        self._new_class(obj, bases, {**early, "__qualname__": obj.__qualname__})
        # What watches classes being made may have set members of its own: what they were at home is set again.
        done = {"__slots__", "__module__", "__doc__"} if _is_watched(obj) else set(early)
        slots = vars(obj).get("__slots__", ())
        done |= {slots} if isinstance(slots, str) else set(slots)
        for name, value in members.items():
            if name not in done:
                self._set_member(obj, name, value)
        if isinstance(obj, abc.ABCMeta):
            self._register_again(obj)
        self._write_get(obj)

    def _register_again(self, obj: type[Any]) -> None:
        """Make the classes virtual subclasses again that were at home."""
        registry = abc._get_dump(obj)[0]  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way
        known = [known for reference in registry if (known := reference()) is not None]
        for subclass in sorted(known, key=lambda cls: (cls.__module__, cls.__qualname__)):
            self._call(operator.methodcaller("register", subclass), obj)

    def _new_class(self, obj: type[Any], bases: tuple[Any, ...], early: Mapping[str, Any]) -> None:
        keywords = {} if type(obj) is type else {"metaclass": type(obj)}
        args = (obj.__name__, bases, keywords, operator.methodcaller("update", dict(early)))
        with self._at("bases of", obj):
            self.save_reduce(types.new_class, args, obj=obj)
        self.write(pickle.POP)

    def _set_member(self, obj: type[Any], name: str, value: Any) -> None:
        with self._at(f"{obj.__qualname__}.{name}", value):
            self.save(setattr)
            self.write(pickle.MARK)
            self._write_get(obj)
            self.save(name)
            self.save(value)
            self.write(pickle.TUPLE + pickle.REDUCE + pickle.POP)

    def _save_enum(self, obj: type[enum.Enum]) -> None:
        early: dict[str, Any] = {name: member.value for name, member in obj.__members__.items()}
        early.update({name: vars(obj)[name] for name in ("__module__", "__qualname__", "__doc__") if name in vars(obj)})
        self._new_class(obj, obj.__bases__, early)
        for name, value in vars(obj).items():
            sunder = name.startswith("_") and not name.startswith("__")
            made = name in early or sunder or name in ("__new__", "__reduce_ex__") or _made_by_class(obj, name, value)
            if not made:
                self._set_member(obj, name, value)
        for member in obj:
            extra = {
                name: value
                for name, value in vars(member).items()
                if name not in ("_value_", "_name_", "__objclass__", "_sort_order_")
            }
            if extra:
                self.save_reduce(getattr, (obj, member.name), obj=member)
                self.save(extra)
                self.write(pickle.BUILD + pickle.POP)
        self._write_get(obj)

    # ------------------------------------------------------------------------------------------- the rest

    def save_code(self, obj: types.CodeType) -> None:
        # The constructor's own arguments: they fit only the Python that made them, which is checked before loading.
        args = (
            *(obj.co_argcount, obj.co_posonlyargcount, obj.co_kwonlyargcount, obj.co_nlocals, obj.co_stacksize),
            *(obj.co_flags, obj.co_code, obj.co_consts, obj.co_names, obj.co_varnames, obj.co_filename, obj.co_name),
            *(obj.co_qualname, obj.co_firstlineno, obj.co_linetable, obj.co_exceptiontable),
            *(obj.co_freevars, obj.co_cellvars),
        )
        self.save_reduce(types.CodeType, args, obj=obj)

    def save_dict(self, obj: dict[Any, Any]) -> None:
        # Not dill's: that one compares with __main__'s dictionary by value, which numpy arrays refuse.
        _stock.save_dict(self, obj)

    def save_some_set(self, obj: Any) -> None:
        """Write sets of plain values in a fixed order: the same code makes the same blob in any process."""
        if type(obj) in (set, frozenset) and all(isinstance(item, _PLAIN) for item in obj):
            ordered = sorted(obj, key=lambda item: (type(item).__name__, repr(item)))
            self.save_reduce(type(obj), (ordered,), obj=obj)
        elif isinstance(obj, frozenset):
            _stock.save_frozenset(self, obj)
        else:
            _stock.save_set(self, obj)

    def save_lock(self, obj: Any) -> None:
        """A lock arrives open: whoever holds it here is not there."""
        self.save_reduce(threading.Lock if isinstance(obj, type(threading.Lock())) else threading.RLock, (), obj=obj)

    def save_memoized(self, obj: _Memoized) -> None:
        self._write_get(obj.target)

    def save_cell(self, obj: types.CellType) -> None:
        self.save_reduce(types.CellType, (), obj=obj)


@dataclasses.dataclass(frozen=True, slots=True)
class _Memoized:
    """Stands in an argument list for an object that was written already."""

    target: object


HandlerPickler.dispatch = _Types(dill.Pickler.dispatch)
HandlerPickler.dispatch.update(
    {
        types.ModuleType: HandlerPickler.save_module,
        types.FunctionType: HandlerPickler.save_function,
        types.CodeType: HandlerPickler.save_code,
        types.CellType: HandlerPickler.save_cell,
        type: HandlerPickler.save_class,
        dict: HandlerPickler.save_dict,
        set: HandlerPickler.save_some_set,
        frozenset: HandlerPickler.save_some_set,
        type(threading.Lock()): HandlerPickler.save_lock,
        type(threading.RLock()): HandlerPickler.save_lock,
        _Memoized: HandlerPickler.save_memoized,
    }
)


def type_name(value: object) -> str:
    """Name a value's type for people: `sqlite3.Connection`, `dict`, `module mymod`."""
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    kind = type(value)
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def _is_reference(value: object) -> bool:
    """Say whether a value is something installed, which does not travel itself."""
    if isinstance(value, types.ModuleType):
        return not is_own_module(value)
    if isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, (type, types.ModuleType)):
        return True
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type)):
        return not is_own_name(value.__module__)
    return id(value) in _SENTINELS


def _way(stack: list[Any]) -> list[str]:
    """Describe how a value leads to a part of it: `["db"].connection (sqlite3.Connection)`."""
    while stack and not hasattr(stack[0], "__dict__") and not isinstance(stack[0], (dict, list, tuple)):
        stack = stack[1:]  # what pickle writes before the value itself, such as `setattr`
    steps = []
    for parent, part in itertools.pairwise(stack):
        if isinstance(parent, dict):
            key = next((key for key, value in parent.items() if value is part), None)
            attribute = any(getattr(other, "__dict__", None) is parent for other in stack)
            steps += [] if key is None else [f".{key}" if attribute else f"[{key!r:.40}]"]
        elif type(parent) is list:
            steps += [f"[{index}]" for index, value in enumerate(parent) if value is part][:1]
    return [f"{''.join(steps) or 'a part of it'} ({type_name(stack[-1])})"] if len(stack) > 1 else []


def _is_generated(obj: types.FunctionType) -> bool:
    """Say whether a function was made of text, as dataclasses do: its variables are nobody's."""
    return obj.__code__.co_filename == "<string>"


def _is_watched(cls: type[Any]) -> bool:
    """Say whether somebody's code runs when a class is made: a metaclass, or `__init_subclass__` of a base."""
    return type(cls) not in (type, abc.ABCMeta) or hasattr(super(cls, cls).__init_subclass__, "__func__")


def _is_plain(value: object) -> bool:
    if type(value) in (tuple, frozenset):
        return all(isinstance(item, _PLAIN) for item in value)  # type: ignore[attr-defined]  # of those two types
    return type(value) in _PLAIN


def _made_by_class(cls: type[Any], name: str, value: object) -> bool:
    """Say whether Python puts that member into every class by itself."""
    if name in _CLASS_LEFT_OUT or name == HANDLER_MARK:
        return True
    return isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)) and value.__objclass__ is cls


def _light_annotations(obj: types.FunctionType) -> dict[str, Any]:
    """Keep annotations that drag nothing along: they would make the handler need what it only mentions."""
    annotations = inspect.get_annotations(obj)
    return {
        name: value
        for name, value in annotations.items()
        if isinstance(value, _PLAIN) or (isinstance(value, type) and value.__module__ == "builtins")
    }


def _absolute(wanted: Import, namespace: Mapping[str, Any]) -> str | None:
    if not wanted.level:
        return wanted.module
    package = namespace.get("__package__") or str(namespace.get("__name__", "")).rpartition(".")[0]
    try:
        return importlib.util.resolve_name("." * wanted.level + wanted.module, package)
    except ImportError:
        return None


@functools.cache
def builtin_names() -> frozenset[str]:
    """Names that every Python has; what a notebook or a test runner added to builtins is not among them."""

    def standard(value: object) -> bool:
        if isinstance(value, (types.BuiltinFunctionType, type)) or value is NotImplemented or _is_plain(value):
            return True
        return type(value).__module__ in ("_sitebuiltins", "importlib._bootstrap")

    return frozenset(name for name, value in vars(builtins).items() if standard(value))
