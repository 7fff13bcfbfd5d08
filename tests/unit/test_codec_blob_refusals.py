"""What can not travel is refused when it is packed, and named."""

from __future__ import annotations

import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator

import pytest
from clean_python import made

from eventproc.codec import blob as codec
from eventproc.codec.blob import pack, verify
from eventproc.errors import HandlerTooLarge, InvalidHandler
from eventproc.model import HandlerBundle


def refusal(handler, **kwargs) -> str:
    with pytest.raises(InvalidHandler) as caught:
        pack(handler, **kwargs)
    return str(caught.value)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    yield connection
    connection.close()


def test_a_global_is_named_with_its_type(connection):
    text = refusal(made("def handler(db): return CONNECTION.total_changes", CONNECTION=connection))
    assert text.startswith("handler → global CONNECTION (sqlite3.Connection) can not be pickled: ")
    assert "Make it inside the handler" in text


def test_the_path_leads_through_helpers_and_containers(connection):
    handler = made(
        """
        def helper(): return CONFIG["db"]
        def handler(db): return helper()
        """,
        CONFIG={"db": {"main": connection}},
    )
    text = refusal(handler)
    assert text.startswith(
        "handler → global helper (function) → global CONFIG (dict) → ['db']['main'] (sqlite3.Connection)"
    )


def test_a_variable_of_the_enclosing_function_is_named(connection):
    def handler(db):
        return connection.total_changes

    assert "handler → variable connection (sqlite3.Connection)" in refusal(handler)


def test_a_default_is_named(connection):
    def handler(db, conn=connection, *, other=1):
        return 1

    assert "handler → default of conn (sqlite3.Connection)" in refusal(handler)


def test_a_member_of_a_class_is_named(connection):
    class Helper:
        conn = connection

    def handler(db):
        return Helper.conn

    assert "Helper.conn (sqlite3.Connection)" in refusal(handler)


def test_an_attribute_of_an_instance_is_described(connection):
    class Store:
        pass

    store = Store()
    store.connection = connection

    def handler(db):
        return store

    assert "handler → variable store" in refusal(handler)
    assert "→ .connection (sqlite3.Connection) can not be pickled" in refusal(handler)


def test_open_files_do_not_travel(tmp_path):
    """dill would reopen them by their path at the worker: another file, or none."""
    with (tmp_path / "x").open("w") as file:
        text = refusal(made("def handler(db): OUT.write('x')", OUT=file))
    assert "handler → global OUT (_io.TextIOWrapper)" in text
    assert "open file" in text


def test_standard_streams_are_the_workers_own():
    handler = made("def handler(db): print('x', file=ERR)", ERR=sys.stderr)
    pack(handler, check=True)


def test_threads_sockets_and_generators_do_not_travel():
    with socket.socket() as open_socket:
        for value in (threading.Thread(), open_socket, (x for x in range(3)), threading.local()):
            assert "global VALUE" in refusal(made("def handler(db): return VALUE", VALUE=value))


def test_a_connection_does_not_travel_and_its_key_is_not_told():
    from eventproc import Connection

    with Connection("localhost:1", "very-secret-key") as conn:
        text = refusal(made("def handler(db): return conn.hooks()", conn=conn))
    assert "global conn" in text
    assert "use `db`" in text
    assert "very-secret-key" not in text


def test_a_raising_reduce_is_named():
    class Sly:
        def __reduce__(self):
            raise ZeroDivisionError("sly")

    sly = Sly()

    def handler(db):
        return sly

    assert "variable sly" in refusal(handler)
    assert "sly. Make it" in refusal(handler)


def test_what_is_pickled_as_a_reference_into_the_users_module_is_refused():
    class Singleton:
        def __reduce__(self):
            return "THE_ONE"

    one = Singleton()

    def handler(db):
        return one

    assert "variable one" in refusal(handler)


# ------------------------------------------------------------------------------------------- names


def test_a_name_that_nothing_defines_is_refused():
    handler = made("def handler(db): return hlper(1)")
    assert "handler uses 'hlper', which nothing defines" in refusal(handler)


def test_a_helper_defined_below_the_handler_is_refused_at_registration():
    """The decorator runs before the helper's definition; the handler would fail at each run."""
    namespace = {"__name__": "__main__"}
    exec("def handler(db): return helper()", namespace)
    text = refusal(namespace["handler"])
    exec("def helper(): return 1", namespace)
    pack(namespace["handler"])
    assert "Define it above the handler" in text


def test_an_undefined_name_in_a_helper_is_found_too():
    handler = made(
        """
        def helper(): return [missing_thing for _ in range(3)]
        def handler(db): return helper()
        """
    )
    assert "handler → global helper (function) uses 'missing_thing'" in refusal(handler)


def test_names_that_are_fine():
    handler = made(
        """
        def handler(db):
            global STATE
            STATE = 1
            class Inner:
                member = 2
                other = member
            try:
                unicode
            except NameError:
                pass
            return ep.event, STATE, __name__, len, exit, Inner.other
        """
    )
    pack(handler, check=True)


def test_names_that_a_notebook_puts_into_builtins_do_not_count(monkeypatch):
    import builtins

    monkeypatch.setattr(builtins, "display", lambda *args: None, raising=False)
    assert "'display'" in refusal(made("def handler(db): display(db)"))


# ------------------------------------------------------------------------------------------- kinds


def test_a_generator_is_refused():
    def handler(db):
        yield 1

    async def numbers(db):
        yield 1

    assert "handler is a generator" in refusal(handler)
    assert "numbers is a generator" in refusal(numbers)


def test_a_class_needs_handle_events():
    class Nothing:
        pass

    class Yields:
        def handle_events(self, events, env):
            yield 1

    assert "Nothing needs a method handle_events(self, events, env)" in refusal(Nothing)
    assert "Yields.handle_events is a generator" in refusal(Yields)


def test_something_that_can_not_be_called_is_refused():
    assert "not str 'report'" in refusal("report")


# ------------------------------------------------------------------------------------------- size


def test_over_the_limit_says_what_is_big():
    with pytest.raises(HandlerTooLarge) as caught:
        pack(
            made("def handler(db): return SMALL, len(DATA)", SMALL=b"x" * 5000, DATA=b"x" * 200_000), max_bytes=100_000
        )
    assert "over the limit of 97.7 KiB while pickling handler → global DATA (bytes)" in str(caught.value)
    assert "SMALL 4.9 KiB" in str(caught.value)
    assert caught.value.details["limit"] == 100_000


def test_a_captured_array_over_the_limit():
    import numpy as np

    handler = made("def handler(db): return ARRAY.sum()", ARRAY=np.zeros(2_000_000))
    with pytest.raises(HandlerTooLarge, match="global ARRAY"):
        pack(handler)


def test_nesting_that_pickle_can_not_follow():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    text = refusal(made("def handler(db): return DEEP", DEEP=deep))
    assert "nested too deeply" in text
    while deep:  # let go step by step
        deep = deep[0]


# ------------------------------------------------------------------------------------------- verify


def bundle_of(blob: bytes) -> HandlerBundle:
    return HandlerBundle(
        blob=blob, digest="", python="3.11", dill="0.4.1", source=None, filename=None, qualname="handler"
    )


def test_a_blob_that_needs_the_users_files_is_refused(tmp_path, monkeypatch):
    import pickle

    (tmp_path / "only_here_under_test.py").write_text("def f(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here_under_test

    monkeypatch.setitem(sys.modules, "only_here_under_test", only_here_under_test)
    with pytest.raises(
        InvalidHandler, match=r"not loaded where your own files are not: ModuleNotFoundError: .*only_here"
    ):
        verify(bundle_of(pickle.dumps(only_here_under_test.f)))


@pytest.mark.parametrize("blob", [b"", b"garbage", b"\x80\x04K\x01."])
def test_garbage_is_refused_by_verify(blob):
    with pytest.raises(InvalidHandler, match="not loaded"):
        verify(bundle_of(blob))


def test_a_load_that_kills_the_interpreter_is_refused():
    import os

    class Kill:
        def __reduce__(self):
            return os.kill, (os.getpid, 9)

    # getpid() must be the child's: built by hand, since pickling would call nothing there.
    blob = b"\x80\x04cos\nkill\n(cos\ngetpid\n)RK\x09tR."
    with pytest.raises(InvalidHandler, match="died of signal 9"):
        verify(bundle_of(blob))


def test_a_load_that_hangs_is_refused():
    blob = b"\x80\x04ctime\nsleep\n(K\x3ctR."
    with pytest.raises(InvalidHandler, match="took over"):
        verify(bundle_of(blob), timeout_s=2)


def test_without_an_interpreter_nothing_is_checked(monkeypatch):
    monkeypatch.setattr(codec.sys, "executable", "")
    verify(bundle_of(b"garbage"))


@pytest.mark.parametrize(
    "source",
    [
        "def handler(): return 1",
        "def handler(**payload): return 1",
        "def handler(*, db, **payload): return 1",
        "class Handler:\n    def __call__(self): return 1\nhandler = Handler()",
    ],
)
def test_a_handler_that_has_no_place_for_db_is_refused(source):
    assert "is called as handler(db, **payload)" in refusal(made(source))


@pytest.mark.parametrize(
    "source",
    [
        "def handler(*args, **payload): return 1",
        "def handler(x, /, **payload): return 1",
        "class Handler:\n    def __call__(self, db, **payload): return 1\nhandler = Handler()",
        "import functools\ndef f(a, db, **p): return 1\nhandler = functools.partial(f, 1)",
    ],
)
def test_any_way_to_take_db_will_do(source):
    pack(made(source))
