"""A bundle: a trained model as a folder or a zip, checked byte by byte when it is loaded.

=====================  ==========================================================================
manifest.json          what the model is for, its limits, and the SHA-256 of each file below
encoder.onnx           analysis net: samples (grid indices) to latents; absent without a net
decoder.onnx           synthesis net: latents to samples
*.int8.onnx            the same nets in the spelling that onnxruntime runs faster, if tuned
*.ort                  the same nets for minimal builds of onnxruntime, if asked for
prior.onnx             the latent prior as a graph, for study and other runtimes; not read here
sample_prior_<i>.onnx  likewise for each sample prior, and <i>_mixture for its mixture's net
denoiser.onnx          a denoiser's net; its bundle has none of the nets and priors above
coder.npz              the integer priors and their tables: what entropy coding reads
golden.npz             golden vectors: what this model gives for one signal, to the bit
README.md              the model card, free text
=====================  ==========================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ModelError
from edgeae.runtime.any_prior import AnyPrior, unpack_prior
from edgeae.runtime.bundle_files import MANIFEST, pack_arrays, read_arrays, read_files, write_files
from edgeae.runtime.denoise_spec import DenoiseSpec
from edgeae.runtime.engines import Net, check_engine, open_net
from edgeae.runtime.latent_prior import AnyLatentPrior, unpack_latent_prior
from edgeae.runtime.manifest import (
    BUNDLE_FORMAT,
    BUNDLE_VERSION,
    TASKS,
    CodecSpec,
    Manifest,
    NetSpec,
    PriorRange,
    SignalSpec,
    canonical_json,
    fingerprint_of,
    manifest_digest,
)

__all__ = ["Bundle", "load", "pack_coder", "read_arrays", "seal", "write_bundle"]

MODEL_CARD = "README.md"


class Bundle:
    """A loaded model.

    Nets open on first use, so a bundle that is only looked at never imports onnxruntime.

    Attributes:
        manifest: the checked manifest.
        files: the bundle's files, by name.
        path: where it was loaded from, or None.
        engine: which engine its nets are to run on, see :mod:`edgeae.runtime.engines`.
        threads: threads inside one operator of a net.

    Example:
        >>> import edgeae
        >>> edgeae.load("nowhere")
        Traceback (most recent call last):
            ...
        edgeae.errors.ModelError: nowhere: there is no bundle (a folder or a zip with manifest.json)
    """

    def __init__(
        self,
        manifest: Manifest,
        files: Mapping[str, bytes],
        path: Path | None = None,
        *,
        engine: str = "auto",
        threads: int = 1,
    ) -> None:
        self.manifest = manifest
        self.files = dict(files)
        self.path = path
        self.engine = check_engine(engine)
        self.threads = threads
        self._nets: dict[str, Net] = {}
        self._priors: tuple[AnyLatentPrior | None, tuple[AnyPrior, ...]] | None = None
        self._differences: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        where = "" if self.path is None else f" from {str(self.path)!r}"
        return f"<Bundle {self.name!r} {self.fingerprint.hex()}{where}>"

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, engine: str = "auto", threads: int = 1
    ) -> Bundle:
        """Load a bundle and check each of its bytes against the manifest.

        Args:
            path: a folder, or the same folder zipped.
            engine: which engine its nets are to run on: ``auto``, ``native`` or ``onnxruntime``.
            threads: threads inside one operator of a net.

        Raises:
            ConfigError: there is no such engine.
            ModelError: there is none, a file is missing or was changed, or the manifest is bad.
            VersionError: it was written by a newer version of edgeae.
        """
        where = Path(path)
        return cls.from_files(read_files(where), path=where, engine=engine, threads=threads)

    @classmethod
    def from_files(
        cls,
        files: Mapping[str, bytes],
        *,
        path: Path | None = None,
        engine: str = "auto",
        threads: int = 1,
    ) -> Bundle:
        """Make a bundle of files already in memory, manifest.json among them.

        Raises:
            ConfigError: there is no such engine.
            ModelError: a file is missing or was changed, or the manifest is bad.
            VersionError: it was written by a newer version of edgeae.
        """
        if MANIFEST not in files:
            raise ModelError(f"{path or 'bundle'}: {MANIFEST} is missing")
        manifest = Manifest.parse(files[MANIFEST])
        needed = {"denoiser.onnx"}
        if manifest.codec is not None:
            needed = {"coder.npz"}
            if manifest.codec.net is not None:
                needed |= {"encoder.onnx", "decoder.onnx"}
        if not needed <= set(manifest.files):
            missing = ", ".join(sorted(needed - set(manifest.files)))
            raise ModelError(f"{MANIFEST}: files does not list {missing}")
        for name, digest in sorted(manifest.files.items()):
            if name not in files:
                raise ModelError(f"{path or 'bundle'}: {name} is missing")
            if hashlib.sha256(files[name]).hexdigest() != digest:
                raise ModelError(
                    f"{path or 'bundle'}: {name} was changed since the bundle was exported (its "
                    "SHA-256 differs from the manifest's): export it again or fetch a fresh copy"
                )
        kept = {name: files[name] for name in files if name in manifest.files or name == MODEL_CARD}
        whole = kept | {MANIFEST: files[MANIFEST]}
        return cls(manifest, whole, path, engine=engine, threads=threads)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that name this very model; streams carry them."""
        return self.manifest.fingerprint

    @property
    def signal(self) -> SignalSpec:
        """The signal it is made for."""
        return self.manifest.signal

    @property
    def task(self) -> str:
        """What it is for: ``codec`` or ``denoise``."""
        return self.manifest.task

    @property
    def codec(self) -> CodecSpec:
        """What a codec has.

        Raises:
            ModelError: the bundle is for another task.
        """
        if self.manifest.codec is None:
            raise ModelError(
                f"bundle {self.name!r} is a denoiser, not a codec, and this takes a codec; "
                "use it with edgeae denoise or edgeae.Denoiser"
            )
        return self.manifest.codec

    @property
    def denoise(self) -> DenoiseSpec:
        """What a denoiser is.

        Raises:
            ModelError: the bundle is for another task.
        """
        if self.manifest.denoise is None:
            raise ModelError(
                f"bundle {self.name!r} is a codec, not a denoiser, and this takes a denoiser; "
                "use it with edgeae compress or edgeae.encode"
            )
        return self.manifest.denoise

    @property
    def net(self) -> NetSpec | None:
        """The window code, or None when the model is sample priors alone."""
        return self.codec.net

    @property
    def latent_prior(self) -> AnyLatentPrior | None:
        """The prior of the window code's symbols."""
        return self._load_priors()[0]

    @property
    def sample_priors(self) -> tuple[AnyPrior, ...]:
        """The sample priors, in the manifest's order."""
        return self._load_priors()[1]

    @property
    def sample_prior_ranges(self) -> tuple[PriorRange, ...]:
        """Which quantizer steps each sample prior serves."""
        return self.codec.sample_priors

    def encoder(self) -> Net:
        """The analysis net, open on the bundle's engine.

        Raises:
            ModelError: the bundle has no net, or the graph does not open.
        """
        return self._net("encoder.onnx", "signal", "latent")

    def decoder(self) -> Net:
        """The synthesis net, open on the bundle's engine.

        Raises:
            ModelError: the bundle has no net, or the graph does not open.
        """
        return self._net("decoder.onnx", "latent", "signal")

    def self_test(self, *, force: bool = False) -> tuple[str, ...]:
        """Run the golden vectors on this machine and name what differs; empty when all is well.

        The answer "all is well" is kept in the user's cache folder (``EDGEAE_CACHE``), per model,
        machine and version of the packages below.

        Args:
            force: run them whatever the cache says.
        """
        if self._differences is None or force:
            from edgeae.runtime.golden import cached_self_test

            self._differences = cached_self_test(self, force=force)
        return self._differences

    @property
    def exact(self) -> bool:
        """Whether the exact promises may be made: the manifest says so and the self-test passed."""
        return self.manifest.exact and not self.self_test()

    def _net(self, name: str, input_name: str, output_name: str) -> Net:
        if name not in self._nets:
            if self.net is None:
                raise ModelError(f"bundle {self.name!r} has no net, so no {name}")
            self._nets[name] = open_net(
                self.files[name],
                name=name,
                engine=self.engine,
                threads=self.threads,
                input_name=input_name,
                output_name=output_name,
                tuned=self.files[self.manifest.run.get(name, name)],
            )
        return self._nets[name]

    def _load_priors(self) -> tuple[AnyLatentPrior | None, tuple[AnyPrior, ...]]:
        if self._priors is None:
            codec = self.codec
            arrays = read_arrays(self.files["coder.npz"], "coder.npz")
            self._priors = _unpack_coder(arrays, codec, self.signal)
        return self._priors


def load(path: str | os.PathLike[str], *, engine: str = "auto", threads: int = 1) -> Bundle:
    """Load a bundle: a folder, or the same folder zipped.

    Args:
        path: where it lies.
        engine: which engine its nets are to run on: ``auto``, ``native`` or ``onnxruntime``.
        threads: threads inside one operator of a net.

    Raises:
        ConfigError: there is no such engine.
        ModelError: there is none, a file is missing or was changed, or the manifest is bad.
        VersionError: it was written by a newer version of edgeae.
    """
    return Bundle.load(path, engine=engine, threads=threads)


def seal(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Complete a manifest with format, version, hashes and fingerprint; return all the files.

    Args:
        manifest: name, task, exact, the task's part and whatever else is to be told.
        files: the other files by name; README.md is carried but not hashed.

    Raises:
        ModelError: the manifest has no part for its task or holds something JSON cannot.
    """
    task = manifest.get("task", "codec")
    if task not in TASKS or not isinstance(manifest.get(task), Mapping):
        raise ModelError(f"manifest: the part {task!r} is missing")
    hashes = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in sorted(files.items())
        if name not in (MANIFEST, MODEL_CARD)
    }
    try:
        spec = _plain_json(manifest[task])
        head = {
            "format": BUNDLE_FORMAT,
            "version": BUNDLE_VERSION,
            "fingerprint": fingerprint_of(hashes, spec).hex(),
        }
        full = _plain_json({"name": "unnamed", "task": "codec"} | dict(manifest) | head)
    except (TypeError, ValueError) as error:
        raise ModelError(f"manifest: {error}") from error
    full["files"] = hashes
    full["sha256"] = manifest_digest(full)
    return dict(files) | {MANIFEST: _pretty_json(full)}


def write_bundle(
    path: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    files: Mapping[str, bytes],
    *,
    golden_signal: NDArray[np.int32] | None = None,
) -> Bundle:
    """Write a bundle whole or not at all, and load it back.

    Args:
        path: the folder to make, or a file ending in ``.zip``. An older bundle there is replaced;
            anything else there is an error.
        manifest: name, task, exact, the task's part and whatever else is to be told; format,
            version, hashes and fingerprint are filled in.
        files: the other files by name.
        golden_signal: grid indices, int32 [T, C] or [N, H, W, C], to make golden.npz of.

    Raises:
        ModelError: the manifest is bad or the path cannot be written.
    """
    where = Path(path)
    sealed = seal(manifest, files)
    if golden_signal is not None:
        from edgeae.runtime.golden import make_golden

        golden = make_golden(Bundle.from_files(sealed), golden_signal)
        sealed = seal(manifest, dict(files) | {"golden.npz": golden})
    Bundle.from_files(sealed)
    write_files(where, sealed)
    return Bundle.load(where)


def pack_coder(
    latent_prior: AnyLatentPrior | None, sample_priors: list[AnyPrior] | tuple[AnyPrior, ...]
) -> bytes:
    """The bytes of coder.npz."""
    arrays: dict[str, NDArray[Any]] = {}
    if latent_prior is not None:
        arrays |= {f"latent.{key}": value for key, value in latent_prior.to_arrays().items()}
    for number, prior in enumerate(sample_priors):
        arrays |= {f"sample{number}.{key}": value for key, value in prior.to_arrays().items()}
    return pack_arrays(arrays)


def _unpack_coder(
    arrays: Mapping[str, NDArray[Any]], codec: CodecSpec, signal: SignalSpec
) -> tuple[AnyLatentPrior | None, tuple[AnyPrior, ...]]:
    """The priors of coder.npz, checked against the manifest."""
    parts: dict[str, dict[str, NDArray[Any]]] = {}
    for key, value in arrays.items():
        part, _, rest = key.partition(".")
        parts.setdefault(part, {})[rest] = value
    wanted = {f"sample{number}" for number in range(len(codec.sample_priors))}
    if codec.net is not None:
        wanted.add("latent")
    if set(parts) != wanted:
        raise ModelError(
            f"coder.npz: holds {sorted(parts)}, the manifest asks for {sorted(wanted)}"
        )
    latent = None
    if codec.net is not None:
        latent = unpack_latent_prior(parts["latent"])
        if latent.n_channels != codec.net.latent_channels:
            raise ModelError(
                f"coder.npz: the latent prior has {latent.n_channels} channels, "
                f"the net {codec.net.latent_channels}"
            )
    priors = []
    for number, spec in enumerate(codec.sample_priors):
        prior = unpack_prior(parts[f"sample{number}"])
        if prior.n_channels != signal.channels or prior.has_code != spec.has_code:
            raise ModelError(f"coder.npz: sample prior {number} does not fit the manifest")
        priors.append(prior)
    return latent, tuple(priors)


def _plain_json(value: Any) -> Any:
    """The value as it comes back from JSON, so that hashes of both agree."""
    return json.loads(canonical_json(value))


def _pretty_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=False) + "\n").encode()
