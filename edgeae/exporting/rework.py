"""Write a bundle again with what suits a machine or a build: a faster spelling, .ort files."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import onnx

from edgeae.errors import ModelError
from edgeae.exporting.card import card_with_files
from edgeae.exporting.certificate import certify
from edgeae.exporting.ort_format import CONFIG, ort_files
from edgeae.exporting.tune import Tuning, nets_of, tune_nets
from edgeae.runtime.bundle import Bundle, write_bundle
from edgeae.runtime.processor import processor_name

__all__ = ["rework_bundle"]

CARD = "README.md"
MANIFEST = "manifest.json"


def rework_bundle(
    bundle: Bundle, out: str | os.PathLike[str], *, tune: bool = False, ort: bool = False
) -> tuple[Bundle, list[Tuning]]:
    """Write a bundle again; its fingerprint, and so its streams, stay the same.

    Args:
        bundle: the bundle.
        out: the new one's folder, or a file ending in ``.zip``; may be the old one's.
        tune: measure the spellings of its nets here, and let onnxruntime run the faster.
        ort: add its nets as .ort files, with the operators that a minimal build needs.

    Returns:
        The new bundle, and what was measured.

    Raises:
        ModelError: the bundle has no net, or is not exact and to be tuned, or does not pass its
            golden vectors afterwards.
    """
    manifest: dict[str, Any] = dict(bundle.manifest.raw)
    files = {name: data for name, data in bundle.files.items() if name != MANIFEST}
    tunings: list[Tuning] = []
    if tune:
        added, tunings = tune_nets(bundle)
        files = {name: data for name, data in files.items() if not name.endswith(".int8.onnx")}
        files |= added
        manifest["run"] = {name.replace(".int8.onnx", ".onnx"): name for name in added}
        manifest["tuning"] = {
            "machine": platform.machine(),
            "processor": processor_name(),
            "onnxruntime": metadata.version("onnxruntime"),
            "graphs": [found.to_json() for found in tunings],
        }
        manifest["certificate"] = [
            {"graph": name, **layer.to_json()}
            for name in sorted(files)
            if name.endswith(".onnx")
            for layer in certify(onnx.load_model_from_string(files[name]))
        ]
    if ort:
        names = nets_of(bundle)
        if not names:
            raise ModelError(f"bundle {bundle.name!r} has no net to write as .ort")
        files = {n: d for n, d in files.items() if not n.endswith(".ort") and n != CONFIG}
        run = manifest.get("run", {})
        files |= ort_files({name: files[run.get(name, name)] for name in names})
    if CARD in files:
        files[CARD] = card_with_files(files[CARD].decode("utf-8", "replace"), files).encode()
    made = write_bundle(out, manifest, files)
    differing = Bundle.load(out, engine="onnxruntime").self_test(force=True)
    if manifest["exact"] and differing:
        raise ModelError(f"{out}: does not pass its self-test here: {'; '.join(differing)}")
    return made, tunings
