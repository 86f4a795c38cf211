"""The host program: a sensor and its gateway, with and without a network between them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import series_bundle

PROGRAM = Path(__file__).parent.parent / "export" / "hosts" / "gateway.py"


@pytest.fixture(scope="module")
def gateway():
    spec = importlib.util.spec_from_file_location("gateway", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return series_bundle(tmp_path_factory.mktemp("host") / "b")


@pytest.fixture(scope="module")
def signal():
    rng = np.random.default_rng(0)
    return np.rint(np.cumsum(rng.logistic(0, 3, 12_000))).astype(np.int16)


def packets_of(gateway, bundle, signal, **promise):
    packets: list[bytes] = []
    sensor = gateway.Sensor(bundle, packets.append, **promise)
    for begin in range(0, len(signal), 100):
        sensor.feed(signal[begin : begin + 100])
    sensor.close()
    return packets


def test_packets_are_small_and_give_the_signal_back(gateway, bundle, signal):
    packets = packets_of(gateway, bundle, signal, max_error=3)
    assert max(map(len, packets)) <= gateway.PACKET_BYTES
    parts = []
    receiver = gateway.Gateway(bundle, lambda _, samples: parts.append(samples))
    for packet in packets:
        receiver.receive("a", packet)
    received = np.concatenate(parts)
    assert received.shape == signal.shape
    assert np.abs(received.astype(int) - signal).max() <= 3
    assert receiver.lost_items("a") == []


def test_lost_packets_cost_their_own_samples_only(gateway, bundle, signal):
    packets = packets_of(gateway, bundle, signal, lossless=True)
    rng = np.random.default_rng(1)
    received = {"late": [], "lossy": []}
    receiver = gateway.Gateway(bundle, lambda name, samples: received[name].append(samples))
    for number, packet in enumerate(packets):
        if number >= 10:  # started late: it waits for the next header
            receiver.receive("late", packet)
        if number == 0 or rng.random() > 0.05:
            receiver.receive("lossy", packet)
    lossy = np.concatenate(received["lossy"])
    lost = receiver.lost_items("lossy")
    assert lost
    kept = np.ones(len(lossy), bool)
    for first, count in lost:
        kept[first : first + count] = False
    assert np.array_equal(lossy[kept], signal[: len(lossy)][kept])
    late = np.concatenate(received["late"])
    assert np.array_equal(late[-1000:], signal[-1000:])


def test_garbage_does_not_stop_the_gateway(gateway, bundle, signal):
    packets = packets_of(gateway, bundle, signal[:4000], lossless=True)
    parts = []
    receiver = gateway.Gateway(bundle, lambda _, samples: parts.append(samples))
    for packet in [
        b"",
        b"hello",
        b"\x89EAE\x01nonsense",
        *packets[:3],
        b"\xff" * 300,
        *packets[3:],
    ]:
        receiver.receive("a", packet)
    assert np.array_equal(np.concatenate(parts), signal[:4000])


def test_over_udp(bundle, signal, tmp_path):
    program = [sys.executable, str(PROGRAM)]
    model, n = str(bundle.path), 6000
    listening = subprocess.Popen(
        [*program, "receive", model, "--port", "0", "--out", str(tmp_path), "--idle", "5"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        port = listening.stderr.readline().split()[-1]
        subprocess.run(
            [*program, "send", model, "--to", f"127.0.0.1:{port}", "--max-error", "2"],
            input=signal[:n].tobytes(),
            check=True,
        )
        assert listening.wait(60) == 0
    finally:
        listening.kill()
        listening.stderr.close()
        listening.wait()
    (found,) = tmp_path.glob("*.raw")
    received = np.fromfile(found, "<i2").astype(int)
    assert len(received) == n
    assert np.abs(received - signal[:n]).max() <= 2
