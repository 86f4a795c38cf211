"""``edgeae decompress``: a stream back to a signal file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import typer

from edgeae.cli.base import command, fail, note, print_json
from edgeae.cli.compress import BUNDLE_HELP, load_bundle_argument
from edgeae.cli.output import Progress, refuse_same_file
from edgeae.errors import ConfigError, EdgeAEError, StreamError

__all__: list[str] = []

_CHUNK_BYTES = 1 << 16


@command("decompress")
def decompress(
    bundle: str = typer.Argument(..., help=BUNDLE_HELP),
    source: str = typer.Argument(..., metavar="IN", help="The stream, or - for stdin."),
    target: str = typer.Argument(
        ..., metavar="OUT", help="The signal to write: .npy .csv .wav .raw, a folder, or -."
    ),
    start: int | None = typer.Option(None, help="First item to decode, counted from 0."),
    stop: int | None = typer.Option(None, help="The item after the last one to decode."),
    lost: str = typer.Option(
        "hold", help="Lost radio items: hold repeats the last sample, skip leaves them out."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Decompress IN to OUT. Of a damaged stream, what comes before the damage is written."""
    refuse_same_file(source, target)
    if lost not in ("hold", "skip"):
        raise ConfigError(f"--lost is {lost!r}: choose hold or skip")
    if target == "-" and as_json:
        raise ConfigError("OUT is stdout, so --json has nowhere to go")
    if (start or 0) < 0 or (stop or 0) < 0:
        raise ConfigError("--start and --stop count items from 0: they cannot be negative")
    model = load_bundle_argument(bundle)
    reader = _Pieces(model, source, start, stop, lost)
    progress = Progress(None, "items")
    n_items = _write(reader, target, progress)
    progress.clear()
    for first, count in reader.lost_items:
        what = "left out" if lost == "skip" else "filled with the sample before"
        note(f"{source}: items {first} to {first + count - 1} were lost, {what}")
    if as_json:
        print_json(
            {
                "items": n_items,
                "dtype": reader.header.dtype,
                "complete": reader.error is None,
                "lost": reader.lost_items,
            }
        )
    if reader.error is not None:
        fail(
            f"{source}: {reader.error}; "
            + (f"{target} holds the {n_items} items before" if n_items else "nothing was decoded")
        )


class _Pieces:
    """Samples of a stream, piece by piece; the error that ended it, if one did."""

    def __init__(
        self, model: Any, source: str, start: int | None, stop: int | None, lost: str
    ) -> None:
        from edgeae.signal.files import open_input
        from edgeae.tasks.stream import StreamDecoder

        self.error: StreamError | None = None
        self._stack = ExitStack()
        self._file = self._stack.enter_context(open_input(source))
        self._model, self._start, self._stop = model, start, stop
        self._decoder = StreamDecoder(model, lost="hold" if lost == "hold" else "skip")
        self._pieces = self._read()
        self.first = next(self._pieces)
        header = self._decoder.header
        if header is None:
            raise AssertionError("samples without a header")
        self.header = header

    @property
    def lost_items(self) -> list[tuple[int, int]]:
        """Gaps of a radio stream."""
        return self._decoder.lost_items

    def __iter__(self) -> Iterator[Any]:
        yield self.first
        yield from self._pieces

    def _read(self) -> Iterator[Any]:
        """At least one piece, empty if need be: its dtype and shape are the stream's."""
        from edgeae.bitstream.header import Profile
        from edgeae.tasks.stream import read_items

        with self._stack:
            while self._decoder.header is None:
                data = self._file.read(_CHUNK_BYTES)
                samples = self._decoder.write(data) if data else self._decoder.close()
            begin, position = self._start or 0, 0
            searchable = self._file.seekable() and self._decoder.header.profile is Profile.FILE
            if begin and searchable:
                self._file.seek(0)
                pieces = read_items(self._model, self._file, start=begin, stop=self._stop)
                position = begin
            else:
                pieces = self._rest(samples)
            try:
                for piece in pieces:
                    low = max(begin - position, 0)
                    high = len(piece)
                    if self._stop is not None:
                        high = min(high, max(self._stop - position, 0))
                    position += len(piece)
                    yield piece[low:high]
                    if self._stop is not None and position >= self._stop:
                        return
            except StreamError as error:
                self.error = error

    def _rest(self, samples: Any) -> Iterator[Any]:
        yield samples
        while data := self._file.read(_CHUNK_BYTES):
            yield self._decoder.write(data)
        yield self._decoder.close()


def _write(reader: _Pieces, target: str, progress: Progress) -> int:
    """Write every piece; return the number of items."""
    import numpy as np

    from edgeae.signal import SignalSink, write_signal

    header = reader.header
    source = header.metadata.get("source")
    meta = source if isinstance(source, dict) else {}
    n_items = 0
    if SignalSink.can_stream(target):
        with SignalSink(
            target,
            dtype=header.dtype,
            item_shape=reader.first.shape[1:],
            meta=meta,
            rate_hz=header.rate_hz,
        ) as sink:
            for piece in reader:
                if len(piece):
                    sink.write(piece)
                    if target == "-":
                        sink.flush()
                n_items += len(piece)
                progress.show(n_items)
        return n_items
    pieces = [piece for piece in reader if len(piece)]
    if not pieces:
        if reader.error is None:
            raise EdgeAEError(f"there are no items to write to {target}")
        return 0
    samples = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    write_signal(target, samples, meta, rate_hz=header.rate_hz)
    return len(samples)
