"""A sensor and its gateway: edgeae's streams over UDP, where packets get lost.

    # at the gateway: one raw file per sensor, little-endian samples of the bundle's type
    python gateway.py receive export/models/ecg-own --port 5005 --out samples/

    # at the sensor: raw samples from stdin, as they come
    cat /dev/ecg | python gateway.py send export/models/ecg-own --to 192.0.2.7:5005 --max-error 5

Both need numpy and onnxruntime only; the classes below are what one embeds in a program of one's
own. A packet is one radio frame of at most 222 bytes, which decodes without the packets before it.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import edgeae

PACKET_BYTES = 222
"""The payload of LoRaWAN's larger packets; any limit down to some 20 bytes works."""
FRAME_ITEMS = 512
HEADER_EVERY = 32
"""Packets between repeats of the header, so that a gateway may start at any time."""


class Sensor:
    """Codes samples as they come, and hands over one packet after the other.

    Args:
        bundle: the model.
        send: called with every packet.
        promise: ``max_error=5`` or ``lossless=True``; lossy without.
    """

    def __init__(
        self, bundle: edgeae.Bundle, send: Callable[[bytes], object], **promise: Any
    ) -> None:
        self._send = send
        self._n_packets = 0
        self._encoder = edgeae.StreamEncoder(
            bundle,
            profile="radio",
            frame_length=FRAME_ITEMS,
            max_packet=PACKET_BYTES,
            file=self,  # type: ignore[arg-type]
            **promise,
        )

    def feed(self, samples: np.ndarray) -> None:
        """Take the samples that have come since the last call."""
        self._encoder.write(samples)

    def close(self) -> None:
        """Send what is left."""
        self._encoder.close()

    def write(self, packet: bytes) -> int:
        """Called by the encoder: the header first, then frame by frame."""
        header = self._encoder.header
        if header is not None and self._n_packets and self._n_packets % HEADER_EVERY == 0:
            self._send(header.pack())
        self._send(packet)
        self._n_packets += 1
        return len(packet)


class Gateway:
    """Decodes the packets of many sensors, each known by its address.

    Args:
        bundle: the model.
        deliver: called with the address and the samples that a packet gave. Samples of lost
            packets are held at the last value, so that time goes on.
    """

    def __init__(
        self, bundle: edgeae.Bundle, deliver: Callable[[object, np.ndarray], object]
    ) -> None:
        self._bundle = bundle
        self._deliver = deliver
        self._decoders: dict[object, edgeae.StreamDecoder] = {}

    def receive(self, address: object, packet: bytes) -> None:
        """Take a packet, whatever is in it."""
        decoder = self._decoders.get(address) or edgeae.StreamDecoder(self._bundle)
        try:
            for samples in (decoder.write(packet), decoder.end_packet()):
                if len(samples):
                    self._deliver(address, samples)
        except edgeae.StreamError as error:
            print(f"{address}: {error}; waiting for a header", file=sys.stderr)
            self._decoders.pop(address, None)
            return
        if decoder.header is not None:  # before it, each packet stands for itself
            self._decoders[address] = decoder

    def lost_items(self, address: object) -> list[tuple[int, int]]:
        """(first, count) of every gap in a sensor's samples."""
        return list(self._decoders[address].lost_items)


def send(
    bundle: edgeae.Bundle, source: BinaryIO, host: str, port: int, promise: dict[str, Any]
) -> None:
    """The sensor's loop: a short read, the encoder, the network."""
    spec = bundle.signal
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    item_bytes = spec.channels * dtype.itemsize
    held = b""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as radio:
        sensor = Sensor(bundle, lambda packet: radio.sendto(packet, (host, port)), **promise)
        while chunk := source.read(64 * item_bytes):
            held += chunk
            whole = len(held) - len(held) % item_bytes
            samples = np.frombuffer(held[:whole], dtype)
            held = held[whole:]
            sensor.feed(samples.reshape(-1, spec.channels) if spec.channels > 1 else samples)
        sensor.close()


def receive(bundle: edgeae.Bundle, port: int, out: Path, idle_s: float | None = None) -> None:
    """The gateway's loop, until nothing has come for ``idle_s`` seconds."""
    out.mkdir(parents=True, exist_ok=True)

    def deliver(address: object, samples: np.ndarray) -> None:
        name = "-".join(map(str, address)) if isinstance(address, tuple) else str(address)
        with (out / f"{name}.raw").open("ab") as file:
            file.write(samples.astype(samples.dtype.newbyteorder("<")).tobytes())

    gateway = Gateway(bundle, deliver)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as radio:
        radio.bind(("", port))
        radio.settimeout(idle_s)
        print(f"listening on port {radio.getsockname()[1]}", file=sys.stderr, flush=True)
        while True:
            try:
                packet, address = radio.recvfrom(65536)
            except TimeoutError:
                return
            gateway.receive(address, packet)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    sender = commands.add_parser("send", help="code stdin and send it")
    sender.add_argument("bundle")
    sender.add_argument("--to", required=True, metavar="HOST:PORT")
    sender.add_argument("--max-error", type=float)
    sender.add_argument("--lossless", action="store_true")
    receiver = commands.add_parser("receive", help="decode what sensors send")
    receiver.add_argument("bundle")
    receiver.add_argument("--port", type=int, default=5005)
    receiver.add_argument("--out", type=Path, default=Path("samples"))
    receiver.add_argument("--idle", type=float, help="end after so many silent seconds")
    arguments = parser.parse_args()
    try:
        bundle = edgeae.load(arguments.bundle)
        if arguments.command == "receive":
            receive(bundle, arguments.port, arguments.out, arguments.idle)
        else:
            host, _, port = arguments.to.rpartition(":")
            promise = {"max_error": arguments.max_error, "lossless": arguments.lossless}
            send(bundle, sys.stdin.buffer, host, int(port), promise)
    except edgeae.EdgeAEError as error:
        sys.exit(f"gateway.py: {error}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
