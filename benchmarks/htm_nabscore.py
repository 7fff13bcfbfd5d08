"""NAB's published scoring: windows, sigmoid rewards, three profiles, the sweep of the threshold, normalisation."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PROFILES = {  # weights of a true positive, a false positive, a false negative
    "standard": (1.0, 0.11, 1.0),
    "reward_low_FP_rate": (1.0, 0.22, 1.0),
    "reward_low_FN_rate": (1.0, 0.11, 2.0),
}
PROBATION_SHARE, PROBATION_MOST = 0.15, 750  # rows of a file that are not scored, and at most


@dataclass(frozen=True, kw_only=True)
class Series:
    """One file of the corpus."""

    name: str  # category/file.csv
    stamps: list[str]
    seconds: NDArray[np.float64]
    values: NDArray[np.float64]
    windows: list[tuple[int, int]]  # first and last row

    @property
    def probation(self) -> int:
        return min(math.floor(PROBATION_SHARE * len(self.values)), PROBATION_MOST)

    @property
    def labels(self) -> NDArray[np.int64]:
        found = np.zeros(len(self.values), np.int64)
        for first, last in self.windows:
            found[first : last + 1] = 1
        return found


@dataclass(frozen=True, kw_only=True)
class Steps:
    """A file's raw score as a function of the threshold: at each threshold (descending) it changes by so much."""

    thresholds: NDArray[np.float64]
    rewards: NDArray[np.float64]  # of true positives, weight 1
    found: NDArray[np.float64]  # windows found
    penalties: NDArray[np.float64]  # of false positives, weight 1 (negative)
    false: NDArray[np.float64]  # false positives
    windows: int


def load(root: Path) -> list[Series]:
    """Read a corpus: DIR/data/CATEGORY/FILE.csv and DIR/windows.json (or NAB's labels/combined_windows.json)."""
    labels = next(
        (path for path in (root / "windows.json", root / "labels/combined_windows.json") if path.exists()), None
    )
    if labels is None:
        raise SystemExit(f"{root}: neither windows.json nor labels/combined_windows.json is there")
    corpus = []
    for name, windows in sorted(json.loads(labels.read_text()).items()):
        path = root / "data" / name
        if not path.exists():
            continue
        with path.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        stamps = [row["timestamp"] for row in rows]
        times = [datetime.fromisoformat(stamp) for stamp in stamps]
        inside = []
        for start, end in windows:
            first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
            held = [i for i, time in enumerate(times) if first <= time <= last]
            if held:
                inside.append((held[0], held[-1]))
        corpus.append(
            Series(
                name=name,
                stamps=stamps,
                seconds=np.array(times, "datetime64[us]").astype(np.int64) / 1e6,
                values=np.array([float(row["value"]) for row in rows]),
                windows=inside,
            )
        )
    return corpus


def half(name: str) -> str:
    """Tell which half of the corpus a file belongs to, by a fixed hash of its name: 'choose' or 'report'."""
    return "choose" if hashlib.sha256(Path(name).name.encode()).digest()[0] % 2 == 0 else "report"


def splits(names: Sequence[str], count: int = 200) -> list[NDArray[np.bool_]]:
    """Split a corpus into halves in many ways, each group of files (directory) evenly; the same ones every time."""
    rng = np.random.default_rng(1)
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name.split("/")[0], []).append(i)
    found = []
    for _ in range(count):
        first = np.zeros(len(names), bool)
        for members in groups.values():
            size = (len(members) + int(rng.integers(0, 2))) // 2  # the odd one goes either way
            first[rng.permutation(members)[:size]] = True
        found.append(first)
    return found


def crossed(corpus: Sequence[Steps], first: NDArray[np.bool_], profile: str) -> float:
    """Score each half with the threshold chosen on the other; together, by number of windows."""
    parts = [[one for one, mine in zip(corpus, first, strict=True) if mine == which] for which in (True, False)]
    thresholds = [sweep(part, profile)[1] for part in parts]
    windows = [sum(one.windows for one in part) for part in parts]
    scores = [at(part, profile, threshold) for part, threshold in zip(parts, reversed(thresholds), strict=True)]
    return sum(score * count for score, count in zip(scores, windows, strict=True)) / max(1, sum(windows))


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x > 3.0, -1.0, 2.0 / (1.0 + np.exp(5.0 * np.minimum(x, 3.0))) - 1.0)


def row_scores(series: Series) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Weigh each row, were it a detection, and name its window (-1: none)."""
    count = len(series.values)
    weights, window = np.full(count, -1.0), np.full(count, -1)
    best = sigmoid(np.array([-1.0]))[0]
    for number, (first, last) in enumerate(series.windows):
        width = last - first + 1
        rows = np.arange(first, last + 1)
        weights[rows] = sigmoid(-(last - rows + 1) / width) / best
        window[rows] = number
        following = np.arange(last + 1, count)
        weights[following] = sigmoid((following - last) / max(width - 1, 1))
    return weights, window


def steps(series: Series, scores: NDArray[np.float64]) -> Steps:
    """Turn a file's scores into its score as a function of the threshold."""
    weights, window = row_scores(series)
    scored = np.arange(len(scores)) >= series.probation
    outside = np.nonzero(scored & (window < 0))[0]
    parts = [
        np.stack(
            [scores[outside], np.zeros(outside.size), np.zeros(outside.size), weights[outside], np.ones(outside.size)]
        )
    ]
    for number in range(len(series.windows)):
        rows = np.nonzero(scored & (window == number))[0]
        if not rows.size:
            continue
        height = np.maximum.accumulate(scores[rows])
        records = rows[np.concatenate([[True], height[1:] > height[:-1]])][::-1]  # highest threshold first
        gains = np.diff(weights[records], prepend=0.0)
        zeros = np.zeros(records.size)
        parts.append(np.stack([scores[records], gains, np.eye(1, records.size)[0], zeros, zeros]))
    table = np.concatenate(parts, axis=1)
    table = table[:, np.argsort(-table[0], kind="stable")]
    return Steps(
        thresholds=table[0],
        rewards=table[1],
        found=table[2],
        penalties=table[3],
        false=table[4],
        windows=len(series.windows),
    )


def merged(each: Iterable[Steps]) -> Steps:
    all_steps = list(each)
    order = np.argsort(-np.concatenate([one.thresholds for one in all_steps]), kind="stable")
    columns = {
        name: np.concatenate([getattr(one, name) for one in all_steps])[order]
        for name in ("thresholds", "rewards", "found", "penalties", "false")
    }
    return Steps(**columns, windows=sum(one.windows for one in all_steps))


def sweep(corpus: Sequence[Steps], profile: str) -> tuple[float, float]:
    """Find the best normalised score of a corpus, and its threshold."""
    whole = merged(corpus)
    curve = _curve(whole, profile)
    last = np.concatenate([whole.thresholds[1:] < whole.thresholds[:-1], [True]])  # equal thresholds act together
    best = int(np.argmax(np.where(last, curve, -np.inf)))
    if curve[best] <= 0:
        return 0.0, 1.1  # silence is better
    return normalised(curve[best], whole.windows, profile), float(whole.thresholds[best])


def at(corpus: Sequence[Steps], profile: str, threshold: float) -> float:
    """Give the normalised score of a corpus at a threshold chosen elsewhere."""
    whole = merged(corpus)
    taken = int((whole.thresholds >= threshold).sum())
    return normalised(_curve(whole, profile)[taken - 1] if taken else 0.0, whole.windows, profile)


def counts(one: Steps, threshold: float) -> tuple[int, int]:
    """Count windows found and false positives."""
    taken = one.thresholds >= threshold
    return int(one.found[taken].sum()), int(one.false[taken].sum())


def raw_score(one: Steps, profile: str, threshold: float) -> float:
    """Give a file's score as NAB writes it: weighted, not normalised."""
    taken = int((one.thresholds >= threshold).sum())
    gained = float(_curve(one, profile)[taken - 1]) if taken else 0.0
    return gained - PROFILES[profile][2] * one.windows


def normalised(gain: float, windows: int, profile: str) -> float:
    tp, _, fn = PROFILES[profile]
    return 100.0 * gain / (windows * (tp + fn)) if windows else 0.0


def _curve(one: Steps, profile: str) -> NDArray[np.float64]:
    """Gain over the null detector when the threshold is at each step."""
    tp, fp, fn = PROFILES[profile]
    return np.cumsum(tp * one.rewards + fn * one.found + fp * one.penalties)
