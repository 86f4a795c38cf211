"""``edgeae denoise``: a noisy signal or images to clean ones, from files or through a live pipe."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from edgeae.cli.base import command, fail, note, print_json
from edgeae.cli.output import Progress, refuse_same_file
from edgeae.errors import ConfigError, SignalError

__all__: list[str] = []

_PIPE_S = 0.016
_CHUNK_ITEMS = 1 << 16


@command("denoise")
def denoise(
    bundle: str = typer.Argument(..., help="A denoiser's bundle (folder or zip)."),
    source: str = typer.Argument(
        ...,
        metavar="IN",
        help="The signal: .npy .npz .csv .wav .raw, a PNG or a folder of them, - for raw samples "
        "on stdin.",
    ),
    target: str = typer.Argument(
        ..., metavar="OUT", help="Where to write it, - for raw samples on stdout."
    ),
    sigma: float | None = typer.Option(
        None,
        "--sigma",
        help="Of images: the noise's standard deviation in grey levels; else it is estimated.",
    ),
    views: int = typer.Option(
        1,
        "--views",
        help="Of images: 1, 2 or 4 turned copies to average; better, and as much slower.",
    ),
    engine: str = typer.Option("auto", help="auto, native or onnxruntime."),
    block: int | None = typer.Option(
        None, "--block", help="Of a pipe: time steps per block; else about 16 ms."
    ),
    each_channel: bool = typer.Option(
        False, "--each-channel", help="Denoise each channel by itself, with a model for one."
    ),
    resample: bool = typer.Option(
        False, "--resample", help="Bring the signal to the bundle's rate; OUT then has that rate."
    ),
    dtype: str | None = typer.Option(None, help="Type of raw samples, such as int16 or >i2."),
    channels: int | None = typer.Option(None, help="Channels of raw samples, interleaved."),
    rate: float | None = typer.Option(None, help="Samples per second."),
    columns: str | None = typer.Option(None, help="Columns of a CSV, separated by commas."),
    key: str | None = typer.Option(None, help="Array of a .npz."),
    gain: str = typer.Option(
        "1",
        help="Of series: what samples are multiplied by before the net, to be as strong as those "
        "that it knows (0.2 for 1000 counts/mV where it knows 200), or auto: a power of two, "
        "measured with the zero on the first seconds.",
    ),
    zero: float | None = typer.Option(
        None, help="Of series: the sample that stands for nothing; else the bundle's center."
    ),
    threads: int = typer.Option(1, help="Threads inside one operator of the net."),
    report: Path | None = typer.Option(
        None, "--report", help="Write a page with pictures of before and after, and figures."
    ),
    reference: str | None = typer.Option(
        None, "--reference", help="For the report: the truth, in a file like IN."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print what was done as JSON."),
) -> None:
    """Denoise IN to OUT. What comes out is not delayed: sample t belongs to sample t of IN."""
    from edgeae.runtime.bundle import load

    refuse_same_file(source, target)
    if target == "-" and as_json:
        raise ConfigError("OUT is stdout, so --json has nowhere to go")
    model = load(bundle, engine=engine, threads=threads)
    form: dict[str, Any] = {
        "dtype": dtype,
        "channels": channels,
        "rate_hz": rate,
        "columns": None if columns is None else columns.split(","),
        "key": key,
    }
    level: dict[str, Any] = {"gain": _gain(gain), "zero": zero}
    page = _Page(report, source, reference, form)
    began = time.perf_counter()
    if model.denoise.family == "image":
        if resample or block is not None:
            raise ConfigError("--resample and --block are for streams; this bundle takes images")
        if level != {"gain": 1.0, "zero": None}:
            raise ConfigError("--gain and --zero are for series; this bundle takes images")
        told = _denoise_images(model, source, target, sigma, views, each_channel, form, page)
    elif sigma is not None or views != 1:
        raise ConfigError("--sigma and --views are for images; this bundle takes streams")
    elif source == "-":
        if resample:
            raise ConfigError("--resample needs the whole signal: it works on files, not on a pipe")
        told = _denoise_pipe(model, target, block, each_channel, form, level)
    else:
        if block is not None:
            raise ConfigError("--block is for a pipe: IN is a file")
        told = _denoise_file(model, source, target, each_channel, resample, form, page, level)
    told["seconds"] = round(time.perf_counter() - began, 3)
    page.write(model, told)
    if told.get("held_samples"):
        note(f"{source}: {told['held_samples']} samples were no number; each was taken as the last")
    if as_json:
        print_json(told)
    elif target != "-":
        what = "images" if "images" in told else "samples"
        note(
            f"{source} -> {target}: {told[what]:,} {what}, {told['seconds']:.1f} s "
            f"on {told['engine']}"
        )


def _gain(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--gain is {text!r}: expected a positive number, or auto") from None


# -- the report ----------------------------------------------------------------------------


class _Page:
    """The report, if one is asked for: keeps what it shows until everything is done."""

    def __init__(
        self, path: Path | None, source: str, reference: str | None, form: dict[str, Any]
    ) -> None:
        if path is not None and source == "-":
            raise ConfigError("--report shows a whole signal: it works on files, not on a pipe")
        if reference is not None and path is None:
            raise ConfigError("--reference is for a report: give --report PAGE.html")
        self._path, self._source, self._reference, self._form = path, source, reference, form
        self._kept: list[tuple[Any, Any]] = []
        self._rate_hz: float | None = None

    def keep(self, before: Any, after: Any, rate_hz: float | None = None) -> None:
        """Show this signal, or these images."""
        if self._path is not None:
            self._kept.append((before, after))
            self._rate_hz = rate_hz

    def write(self, model: Any, told: dict[str, Any]) -> None:
        """Write the page."""
        if self._path is None:
            return
        import numpy as np

        from edgeae.profiling.denoise_page import Denoised, write_denoised_page
        from edgeae.signal import read_signal

        is_image = model.denoise.family == "image"
        before, after = self._kept[0]
        alike = all(b.shape[1:] == before.shape[1:] for b, _ in self._kept)
        if len(self._kept) > 1 and alike:
            before, after = (np.concatenate(x) for x in zip(*self._kept, strict=True))
        truth = None
        if self._reference is not None:
            form = {} if is_image else self._form | {"rate_hz": None}
            truth = read_signal(self._reference, **form).data
            truth = truth[None] if is_image and truth.ndim == 2 else truth
        notes = [f"bundle {model.name}, on {told['engine']}"]
        if told.get("delay_samples"):
            late = told["delay_samples"]
            where = f" ({1000 * late / self._rate_hz:.3g} ms)" if self._rate_hz else ""
            notes.append(f"live, the output is {late} samples{where} late; here it is aligned")
        if told.get("held_samples"):
            notes.append(f"{told['held_samples']} samples were no number")
        if not alike:
            notes.append(f"the first of {len(self._kept)} files")
        shown = Denoised(
            title=f"edgeae denoise: {Path(self._source).name}",
            before=before,
            after=after,
            is_image=is_image,
            reference=truth,
            rate_hz=self._rate_hz,
            unit="" if model.signal.unit in (None, "") else str(model.signal.unit),
            notes=tuple(notes),
        )
        write_denoised_page(self._path, shown)


# -- streams -------------------------------------------------------------------------------


class _Channels:
    """A denoiser that takes [T, C], each channel being a stream of its own where that is asked."""

    def __init__(self, model: Any, first: Any, each_channel: bool, level: dict[str, Any]) -> None:
        from edgeae.tasks.denoise import Denoiser

        self._apart = each_channel and model.signal.channels == 1 and first.data.ndim == 2
        self._left = 8 if first.meta.get("bits") == 24 else 0  # of a 24-bit WAV's int32
        self._left = self._left if model.denoise.front_end is not None else 0
        streams = first.channels if self._apart else 1
        self.denoiser = Denoiser(model, streams=streams, rate_hz=first.rate_hz, **level)
        self._skip = self.denoiser.delay_samples

    def indices(self, block: Any) -> Any:
        """Samples as grid indices [N, C, T]."""
        return self.denoiser.indices(block.T if self._apart else block)

    def process(self, block: Any) -> Any:
        """The next samples that belong to one of the input; fewer at first."""
        block = block << self._left if self._left else block
        return self._aligned(self.denoiser.process(block.T if self._apart else block))

    def flush(self) -> Any:
        """The rest."""
        return self._aligned(self.denoiser.flush())

    def _aligned(self, out: Any) -> Any:
        out = out.T if self._apart else out
        skipped = min(self._skip, len(out))
        self._skip -= skipped
        out = out[skipped:]
        if self._left:
            top = (1 << 23) - 1
            return ((out.astype("i8") + 128) >> 8).clip(-top - 1, top).astype(out.dtype)
        return out


def _denoise_file(
    model: Any,
    source: str,
    target: str,
    each_channel: bool,
    resample: bool,
    form: dict[str, Any],
    page: _Page,
    level: dict[str, Any],
) -> dict[str, Any]:
    import numpy as np

    from edgeae.signal import read_signal, write_signal

    signal = read_signal(source, **form)
    for text in signal.notes:
        note(text)
    if signal.is_image:
        raise SignalError(f"{source} holds images, bundle {model.name!r} is made for streams")
    if resample:
        signal = _resampled(model, source, signal)
    channels = _Channels(model, signal, each_channel, level)
    progress = Progress(signal.n_items, "samples")
    parts = []
    for begin in range(0, signal.n_items, _CHUNK_ITEMS):
        parts.append(channels.process(signal.data[begin : begin + _CHUNK_ITEMS]))
        progress.show(begin)
    told = _told(channels)
    parts.append(channels.flush())
    progress.clear()
    out = np.concatenate(parts)
    rate_hz = signal.rate_hz or model.signal.rate_hz
    write_signal(target, out, signal.meta, rate_hz=rate_hz)
    page.keep(signal.data, out, rate_hz)
    if level["gain"] == 1:
        _hint(model, signal, channels)
    return told | {"samples": len(out)}


def _hint(model: Any, signal: Any, channels: _Channels) -> None:
    """Say so where a signal is far stronger or weaker than what the net was trained on."""
    from edgeae.tasks.denoise_level import LevelMeter

    if model.denoise.level is None or not model.signal.rate_hz:
        return
    meter = LevelMeter(model, channels.denoiser.streams)
    meter.add(channels.indices(signal.data[: meter.length]))
    if meter.missing:
        return
    gain = float(meter.measured(meter.seen[:, :, 0])[0].mean())
    if gain != 1:
        note(
            f"this signal is about {max(gain, 1 / gain):g} times as "
            f"{'strong' if gain < 1 else 'weak'} as what {model.name!r} was trained on: "
            f"try --gain {gain:g}, or --gain auto"
        )


def _resampled(model: Any, source: str, signal: Any) -> Any:
    from edgeae.signal import SignalFile
    from edgeae.signal.resample import resample

    wanted = model.signal.rate_hz
    if not wanted:
        raise ConfigError(f"bundle {model.name!r} has no rate to resample to")
    if not signal.rate_hz:
        raise ConfigError(f"the rate of {source} is not known: give --rate")
    if signal.rate_hz != wanted:
        note(f"resampled from {signal.rate_hz:g} Hz to {wanted:g} Hz")
    data = resample(signal.data, signal.rate_hz, wanted)
    return SignalFile(data=data, rate_hz=wanted, meta=signal.meta)


def _denoise_pipe(
    model: Any,
    target: str,
    block: int | None,
    each_channel: bool,
    form: dict[str, Any],
    level: dict[str, Any],
) -> dict[str, Any]:
    from edgeae.signal import iter_signal
    from edgeae.signal.sink import SignalSink

    if form["dtype"] is None:
        raise ConfigError("stdin is raw samples: say what they are, as in --dtype int16")
    if not SignalSink.can_stream(target):
        raise ConfigError(f"{target} cannot be written as it comes: give .raw, .wav, .npy or -")
    if block is not None and block < 1:
        raise ConfigError(f"--block is {block}: give at least 1")
    rate = form["rate_hz"] or model.signal.rate_hz
    length = block or max(1, round(_PIPE_S * rate) if rate else 64)
    pieces = iter_signal("-", length, **form)
    first = next(pieces, None)
    if first is None:
        fail("stdin is empty")
    channels = _Channels(model, first, each_channel, level)
    count = 0
    with SignalSink(
        target,
        dtype=first.data.dtype,
        item_shape=first.data.shape[1:],
        meta=first.meta,
        rate_hz=rate,
    ) as sink:
        for piece in _with(first, pieces):
            out = channels.process(piece.data)
            count += len(out)
            sink.write(out)
            sink.flush()
        told = _told(channels)
        out = channels.flush()
        sink.write(out)
    return told | {"samples": count + len(out)}


def _with(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _told(channels: _Channels) -> dict[str, Any]:
    """What there is to tell before the end, which begins anew."""
    denoiser = channels.denoiser
    return {
        "delay_samples": denoiser.delay_samples,
        "held_samples": denoiser.held_samples,
        "engine": denoiser.engine,
        "gain": denoiser.gain.tolist(),
    }


# -- images --------------------------------------------------------------------------------


def _denoise_images(
    model: Any,
    source: str,
    target: str,
    sigma: float | None,
    views: int,
    each_channel: bool,
    form: dict[str, Any],
    page: _Page,
) -> dict[str, Any]:
    from edgeae.signal import read_signal, write_signal
    from edgeae.signal.container import container_of
    from edgeae.tasks.denoise_images import ImageDenoiser

    if "-" in (source, target):
        raise ConfigError("images come in files: name a PNG, a folder of them, or .npy")
    denoiser = ImageDenoiser(model)
    count = 0

    def clean(images: Any) -> Any:
        nonlocal count
        count += len(images)
        apart = each_channel and model.signal.channels == 1 and images.ndim == 4
        if not apart:
            return denoiser.process(images, sigma=sigma, views=views)
        out = images.copy()
        for c in range(images.shape[3]):
            out[..., c] = denoiser.process(images[..., c], sigma=sigma, views=views)
        return out

    if container_of(source) != "png":
        signal = read_signal(source, **form)
        images = signal.data if signal.data.ndim > 2 else signal.data[None]
        done = clean(images)
        write_signal(target, done if signal.data.ndim > 2 else done[0], signal.meta)
        page.keep(images, done)
        return {"images": count, "engine": denoiser.engine}
    files = sorted(Path(source).glob("*.png")) if Path(source).is_dir() else [Path(source)]
    if not files:
        raise SignalError(f"{source} has no .png files")
    if len(files) > 1 and Path(target).suffix:
        raise ConfigError(f"{source} holds {len(files)} images: name a folder instead of {target}")
    progress = Progress(len(files), "images")
    for file in files:
        signal = read_signal(file)
        where = Path(target)
        if not where.suffix:
            where.mkdir(parents=True, exist_ok=True)
            where = where / file.name
        done = clean(signal.data)
        write_signal(where, done, signal.meta)
        page.keep(signal.data, done)
        progress.show(count)
    progress.clear()
    return {"images": count, "engine": denoiser.engine}
