"""Generators of forks: different in each, and as good as what numpy seeds itself."""

import json
import os
import random

import numpy as np
import pytest

from eventproc.child.randomness import Reseeding


def drawn_in_a_fork(reseeding):
    """Return what a fork of this process draws, after it has seeded its generators."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        reseeding.in_fork()
        state = np.random.get_state(legacy=False)  # noqa: NPY002  what handlers use
        drawn = [random.random(), np.random.random(), np.random.normal(), state["has_gauss"]]  # noqa: NPY002
        os.write(writing, json.dumps(drawn).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text)


@pytest.fixture(autouse=True)
def generators():
    """Leave the generators of this process as they were."""
    python, twister, state = random.getstate(), np.random.get_bit_generator(), np.random.get_state()  # noqa: NPY002
    yield
    random.setstate(python)
    np.random.set_bit_generator(twister)
    np.random.set_state(state)  # noqa: NPY002


def test_each_fork_draws_numbers_of_its_own():
    np.random.seed(1)  # noqa: NPY002
    np.random.normal()  # noqa: NPY002  the second of a pair is kept for the next who asks
    reseeding = Reseeding()
    first, second, third = (drawn_in_a_fork(reseeding) for _ in range(3))
    for drawn in zip(first[:3], second[:3], third[:3], strict=True):
        assert len(set(drawn)) == 3
    assert [first[3], second[3], third[3]] == [0, 0, 0]


def test_what_a_fork_seeds_is_the_state_that_numpy_draws_from():
    reseeding = Reseeding()
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    reseeding.in_fork()
    _, key, position, has_gauss, _ = np.random.get_state()  # noqa: NPY002
    assert position == 624
    assert sum(old != new for old, new in zip(before, key.tolist(), strict=True)) > 600
    assert not has_gauss


def test_a_generator_of_another_kind_is_seeded_by_numpy():
    np.random.set_bit_generator(np.random.PCG64(5))
    reseeding = Reseeding()
    assert drawn_in_a_fork(reseeding)[:3] != drawn_in_a_fork(reseeding)[:3]


def test_without_numpys_way_to_its_generator_it_is_seeded_as_numpy_does(monkeypatch):
    monkeypatch.delattr(np.random, "get_bit_generator")
    reseeding = Reseeding()
    assert drawn_in_a_fork(reseeding)[:3] != drawn_in_a_fork(reseeding)[:3]
