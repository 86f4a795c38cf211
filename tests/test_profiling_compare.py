"""Honesty of the comparison: what was planted is found, what was not is not. On a clock of our own:
it moves by what the work costs, times a speed that drifts, with disturbances thrown in."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from edgeae.errors import ConfigError
from edgeae.profiling.blocks import measure
from edgeae.profiling.compare import (
    compare,
    notes,
    parse_percent,
    require_comparable,
)
from edgeae.profiling.options import BenchOptions
from edgeae.profiling.profile import BENCH_FORMAT, BENCH_VERSION, Profile

LIMIT = 0.15


class NoisyMachine:
    """A clock for work that is only pretended.

    ``speed`` stretches all work; in bursts other programs make it up to three times slower; single
    calls are interrupted for milliseconds; and each call varies by a few percent.
    """

    def __init__(self, seed, speed=1.0):
        self.now = 0
        self._rng = np.random.default_rng(seed)
        self._speed = speed
        self._burst = 1.0
        self._calls_left = 0

    def __call__(self):
        return self.now

    def work(self, nanoseconds):
        if self._calls_left == 0:
            busy = self._rng.random() < 0.4
            self._burst = 1 + 2 * self._rng.random() if busy else 1.0
            self._calls_left = int(self._rng.integers(5, 200))
        self._calls_left -= 1
        took = nanoseconds * self._speed * self._burst * (1 + 0.05 * self._rng.random())
        if self._rng.random() < 0.01:
            took += 4e6
        self.now += round(took)


class Codec:
    """Frames of different costs, both ways."""

    name = "lossy"

    def __init__(self, machine, factor=1.0):
        self._machine = machine
        self._costs = {
            "encode": [factor * 1e6 * (1 + 0.1 * k) for k in range(12)],
            "decode": [4e5 * (1 + 0.05 * k) for k in range(12)],
        }

    def run(self, recorder):
        for direction, costs in self._costs.items():
            for cost in costs:
                recorder.time(direction, self._machine.work, cost)


def pretend(seed, *, factor=1.0, speed=1.0, budget_s=3.0):
    machine = NoisyMachine(seed, speed)

    def reference():
        times = []
        for _ in range(5):
            began = machine()
            machine.work(1e5)
            times.append(machine() - began)
        return min(times)

    found = measure(
        [Codec(machine, factor)], {}, budget_s=budget_s, reference=reference, clock=machine
    )
    return Profile(
        data={
            "format": BENCH_FORMAT,
            "version": BENCH_VERSION,
            "machine": {"cpu": "pretended"},
            "subject": {
                "kind": "bundle",
                "name": "ecg",
                "fingerprint": "00" * 8,
                "engine": "native",
            },
            "options": BenchOptions().to_json() | {"frame_items": 1024},
            "input": {"source": "golden vector"},
            "latency": [m.to_json() for m in found],
            "start": {"cold": [{"role": "encode", "min_ms": 200.0 * speed}]},
            "memory": {"encode_peak_kib": 60_000},
            "artefacts": {"device_bytes": 100_000},
        }
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_slowdown_is_flagged(seed):
    found = compare(pretend(seed), pretend(seed + 100, factor=1.3), LIMIT)
    assert [regression.figure for regression in found] == ["lossy, encode"]
    assert 0.15 < found[0].change < 0.45
    assert "lossy, encode" in str(found[0])


@pytest.mark.parametrize("seed", range(20))
def test_five_repeats_without_a_change_are_not(seed):
    base = pretend(seed)
    for repeat in range(5):
        assert compare(base, pretend(1000 + 5 * seed + repeat), LIMIT) == []


@pytest.mark.parametrize("speed", [0.6, 0.8, 1.5, 2.0])
def test_a_machine_at_another_speed_changes_nothing(speed):
    base = pretend(1)
    assert compare(base, pretend(2, speed=speed), LIMIT) == []
    slower = compare(base, pretend(3, speed=speed, factor=1.3), LIMIT)
    assert [regression.figure for regression in slower] == ["lossy, encode"]
    assert any("the machine itself" in note for note in notes(base, pretend(2, speed=speed)))


def test_an_improvement_is_not_a_regression():
    assert compare(pretend(1, factor=1.3), pretend(2), LIMIT) == []


@pytest.mark.parametrize(
    ("part", "name", "value", "unit"),
    [
        ("memory", "encode_peak_kib", 80_000, "KiB"),
        ("artefacts", "device_bytes", 120_000, "bytes"),
    ],
)
def test_memory_and_bytes_count(part, name, value, unit):
    base = pretend(1)
    data = copy.deepcopy(dict(base.data))
    data[part][name] = value
    (found,) = compare(base, Profile(data=data), LIMIT)
    assert (found.new, found.unit) == (value, unit)
    assert found.part == part


def test_a_cold_start_counts():
    base = pretend(1)
    data = copy.deepcopy(dict(base.data))
    data["start"]["cold"][0]["min_ms"] = 260.0
    (found,) = compare(base, Profile(data=data), LIMIT)
    assert (found.part, found.figure, found.unit) == ("start", "cold start encode", "ms")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("subject", "name", "imu"),
        ("subject", "engine", "onnxruntime"),
        ("subject", "kind", "onnx"),
        ("options", "threads", 2),
        ("options", "frame_items", 512),
        ("input", "source", "my.csv"),
    ],
)
def test_other_things_are_not_compared(part, name, value):
    base = pretend(1, budget_s=0.1)
    data = copy.deepcopy(dict(base.data))
    data[part][name] = value
    with pytest.raises(ConfigError, match=f"differ in .*: .*{value}"):
        compare(base, Profile(data=data), LIMIT)


def test_other_promises_are_not_compared():
    base = pretend(1, budget_s=0.1)
    data = copy.deepcopy(dict(base.data))
    del data["latency"][0]
    with pytest.raises(ConfigError, match="what is measured"):
        compare(base, Profile(data=data), LIMIT)


def test_another_model_is_compared_with_a_note():
    base = pretend(1, budget_s=0.1)
    data = copy.deepcopy(dict(base.data))
    data["subject"]["fingerprint"] = "11" * 8
    data["machine"]["cpu"] = "another"
    assert compare(base, Profile(data=data), LIMIT) == []
    assert notes(base, Profile(data=data))[:2] == [
        "another model: fingerprint 0000000000000000 -> 1111111111111111",
        "another cpu: pretended -> another",
    ]


def test_options_are_compared_before_anything_is_measured():
    base = pretend(1, budget_s=0.1)
    require_comparable(base, BenchOptions())
    require_comparable(base, BenchOptions(frame_items=1024))
    with pytest.raises(ConfigError, match="threads: 1 and 2"):
        require_comparable(base, BenchOptions(threads=2))
    with pytest.raises(ConfigError, match="frame_items: 1024 and 64"):
        require_comparable(base, BenchOptions(frame_items=64))


def test_a_file_comes_back(tmp_path):
    base = pretend(1, budget_s=0.1)
    path = tmp_path / "base.json"
    base.write(path)
    assert Profile.read(path).data == json.loads(base.to_text())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "not JSON"),
        ("[]", "not a result"),
        ('{"format": "other"}', "not a result"),
        ('{"format": "edgeae-bench", "version": 99}', "version 99"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    path = tmp_path / "base.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        Profile.read(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        Profile.read(tmp_path / "none.json")


@pytest.mark.parametrize("text", ["", "x%", "-5%", "0", "nan", "15%%", "1e3", "99999999"])
def test_bad_percentages(text):
    with pytest.raises(ConfigError, match="no percentage"):
        parse_percent(text)
