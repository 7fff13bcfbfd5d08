"""The parameter finder on generated series whose periods are known."""

from __future__ import annotations

import numpy as np
import pytest

from eventproc.scoring import find_parameters

RNG = np.random.default_rng(4)
DAY = 86_400.0


def readings(rows, step, make):
    seconds = 1.4e9 + np.arange(rows) * step
    return seconds, make(seconds)


def test_a_daily_series_uses_the_time_of_day():
    seconds, values = readings(
        288 * 21, 300.0, lambda t: 50 + 20 * np.sin(2 * np.pi * t / DAY) + RNG.normal(0, 2, t.size)
    )
    found = find_parameters(seconds, values)
    assert found.time_of_day
    assert found.periods_s[0] == pytest.approx(DAY, rel=0.15)
    assert found.function == "mean"
    assert found.parameters("htm") == {"time_on": 21}
    assert found.parameters("default") == {}


def test_a_series_of_another_period_does_not():
    seconds, values = readings(288 * 21, 300.0, lambda t: 50 + 20 * np.sin(2 * np.pi * t / (5 * 3600)))
    found = find_parameters(seconds, values)
    assert not found.time_of_day
    assert found.periods_s[0] == pytest.approx(5 * 3600, rel=0.15)


def test_slow_readings_taken_often_are_gathered_and_a_thousand_windows_are_left():
    seconds, values = readings(
        20_000, 60.0, lambda t: 10 * np.sin(2 * np.pi * t / (2 * DAY)) + RNG.normal(0, 0.1, t.size)
    )
    found = find_parameters(seconds, values)
    assert found.window_s is not None
    assert found.window_s % 60 == 0
    assert 60 < found.window_s <= (seconds[-1] - seconds[0]) / 1000


def test_fast_changes_are_not_averaged_away():
    seconds, values = readings(5000, 300.0, lambda t: np.sin(2 * np.pi * t / 1800.0))
    assert find_parameters(seconds, values).window_s is None


def test_events_at_uneven_times_are_summed():
    seconds = 1.4e9 + np.cumsum(RNG.exponential(300.0, 5000))
    assert find_parameters(seconds, np.ones(5000) + RNG.random(5000)).function == "sum"


@pytest.mark.parametrize("rows", [0, 1, 2, 99])
def test_few_rows_give_the_defaults_and_say_so(rows):
    found = find_parameters(np.arange(rows) * 60.0, np.arange(rows, dtype=float))
    assert (found.window_s, found.time_of_day) == (None, False)
    assert "too few" in " ".join(found.reasons)


def test_the_range_is_widened_by_a_fifth_and_gaps_in_the_data_do_no_harm():
    seconds, values = readings(1000, 60.0, lambda t: np.linspace(0, 100, t.size))
    values[10:20] = np.nan
    found = find_parameters(seconds, values)
    assert found.model_params() == {"min": -20.0, "max": 120.0, "minResolution": 0.001}
    assert find_parameters(seconds, np.full(1000, 7.0)).model_params() == {
        "min": 6.0,
        "max": 8.0,
        "minResolution": 0.001,
    }
