from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import dense_bundle, image_bundle, prior_only_bundle, series_bundle, wide_bundle

import edgeae
from edgeae.errors import ConfigError, ModelError, VersionError
from edgeae.runtime import golden
from edgeae.runtime.bundle import Bundle, seal, write_bundle
from edgeae.runtime.bundle_files import pack_arrays, read_arrays
from edgeae.runtime.session import open_session
from edgeae.runtime.transform import analyse, dequantize, symbolize, synthesise

CONTEXTS = [("whole", None), ("cut", [16, 4])]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return series_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def reseal(bundle: Bundle, path: Path, **changes: bytes) -> Bundle:
    """The bundle with other files, all hashes made to fit."""
    files = {name: content for name, content in bundle.files.items() if name != "manifest.json"}
    files |= {name.replace("__", "."): content for name, content in changes.items()}
    return write_bundle(path, json.loads(bundle.files["manifest.json"]), files)


@pytest.mark.parametrize("make", [series_bundle, image_bundle, dense_bundle, prior_only_bundle])
def test_every_kind_of_bundle_loads_and_passes_its_self_test(make, tmp_path):
    made = make(tmp_path / "b")
    again = edgeae.load(tmp_path / "b")
    assert again.fingerprint == made.fingerprint
    assert again.self_test(force=True) == ()
    assert again.exact


def test_a_zip_is_the_same_bundle_as_its_folder(bundle, tmp_path):
    zipped = series_bundle(tmp_path / "tiny.zip")
    assert zipped.fingerprint == bundle.fingerprint
    assert zipped.files == bundle.files


def test_a_zip_may_hold_the_folder_itself(bundle, tmp_path):
    shutil.make_archive(str(tmp_path / "nested"), "zip", bundle.path.parent, bundle.path.name)
    assert edgeae.load(tmp_path / "nested.zip").fingerprint == bundle.fingerprint


def test_writing_twice_gives_equal_bytes(bundle, tmp_path):
    assert series_bundle(tmp_path / "again").files == bundle.files


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "coder.npz", "golden.npz"])
def test_a_changed_byte_is_refused_by_name(bundle, tmp_path, name):
    copy = Path(shutil.copytree(bundle.path, tmp_path / "b"))
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name} was changed"):
        edgeae.load(copy)


def test_the_model_card_may_be_edited(bundle, tmp_path):
    copy = Path(shutil.copytree(bundle.path, tmp_path / "b"))
    (copy / "README.md").write_text("My own words.")
    assert edgeae.load(copy).fingerprint == bundle.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(exact=False), "sha256 does not fit"),
        (lambda m: m["codec"]["net"].update(max_rmse=[99.0]), "sha256 does not fit"),
        (lambda m: m.pop("codec"), "sha256 does not fit"),
        (lambda m: m.update(format="zip"), "expected"),
        (lambda m: m.update(version="1"), "version"),
        (lambda m: m.update(task="detect"), "task"),
    ],
)
def test_a_changed_manifest_is_refused(bundle, tmp_path, change, message):
    copy = Path(shutil.copytree(bundle.path, tmp_path / "b"))
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=message):
        edgeae.load(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stride", 0),
        ("stride", "4"),
        ("latent_channels", 1 << 20),
        ("latent_max", -1),
        ("steps", {"min": 4, "max": 2, "default": 3}),
        ("max_rmse", "big"),
        ("max_rmse", ["big"]),
        ("max_rmse", [1.0] * 3),
        ("max_rmse", []),
        ("fixed_window", 3),
        ("latent_shape", [1]),
    ],
)
def test_fields_out_of_range_are_named(bundle, field, value):
    manifest = json.loads(bundle.files["manifest.json"])
    manifest["codec"]["net"][field] = value
    files = {name: content for name, content in bundle.files.items() if name != "manifest.json"}
    with pytest.raises(ModelError, match=field if field != "steps" else "steps.max"):
        Bundle.from_files(seal(manifest, files))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"format": 1}', b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_none(text):
    with pytest.raises(ModelError, match=r"manifest\.json"):
        Bundle.from_files({"manifest.json": text})


def test_a_newer_version_is_named(bundle, tmp_path):
    copy = Path(shutil.copytree(bundle.path, tmp_path / "b"))
    manifest = json.loads((copy / "manifest.json").read_text()) | {"version": 2}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(VersionError, match="upgrade edgeae"):
        edgeae.load(copy)


def test_a_missing_file_is_named(bundle, tmp_path):
    copy = Path(shutil.copytree(bundle.path, tmp_path / "b"))
    (copy / "decoder.onnx").unlink()
    with pytest.raises(ModelError, match=r"decoder\.onnx is missing"):
        edgeae.load(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(ModelError, match=r"manifest\.json is missing"):
        edgeae.load(copy)


def test_what_is_no_bundle(tmp_path):
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "text", tmp_path / "nowhere", tmp_path):
        with pytest.raises(ModelError):
            edgeae.load(path)


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", "{}")
        with archive.open("coder.npz", "w") as member:
            for _ in range(257):
                member.write(bytes(1 << 20))
    with pytest.raises(ModelError, match="too large"):
        edgeae.load(tmp_path / "b.zip")


def test_writing_never_replaces_something_else(bundle, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(ModelError, match="not a bundle"):
        reseal(bundle, tmp_path / "home")
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_writing_replaces_an_older_bundle_whole(bundle, tmp_path):
    dense_bundle(tmp_path / "b")
    reseal(bundle, tmp_path / "b")
    assert edgeae.load(tmp_path / "b").fingerprint == bundle.fingerprint
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_a_bad_bundle_is_never_written(bundle, tmp_path):
    reseal(bundle, tmp_path / "b")
    with pytest.raises(ModelError, match="files does not list"):
        write_bundle(tmp_path / "b", json.loads(bundle.files["manifest.json"]), {})
    assert edgeae.load(tmp_path / "b").fingerprint == bundle.fingerprint
    with pytest.raises(ModelError, match="codec"):
        write_bundle(tmp_path / "c", {"name": "x"}, {})
    assert not (tmp_path / "c").exists()


def test_wrong_golden_vectors_withdraw_the_exact_promises(bundle, tmp_path):
    arrays = read_arrays(bundle.files["golden.npz"], "golden.npz")
    arrays["decoded"] = arrays["decoded"] + 1
    broken = reseal(bundle, tmp_path / "b", golden__npz=pack_arrays(arrays))
    assert broken.fingerprint == bundle.fingerprint
    assert broken.self_test() == ("decoded differs from the golden vector",)
    assert not broken.exact
    x = np.arange(100, dtype=np.int16)
    with pytest.raises(ModelError, match=r"self-test.*without a bundle"):
        edgeae.encode(broken, x, lossless=True)
    assert edgeae.decode(broken, edgeae.encode(broken, x)).shape == x.shape


def test_a_bundle_without_golden_vectors_is_not_exact(bundle, tmp_path):
    files = {k: v for k, v in bundle.files.items() if k not in ("golden.npz", "manifest.json")}
    bare = write_bundle(tmp_path / "b", json.loads(bundle.files["manifest.json"]), files)
    assert bare.self_test() == ("golden.npz is missing",)


def test_an_inexact_bundle_is_lossy_only(tmp_path):
    bundle = series_bundle(tmp_path / "b", exact=False)
    assert bundle.self_test() == ()
    assert not bundle.exact
    x = np.arange(1000, dtype=np.int16)
    for promise in ({"lossless": True}, {"max_error": 5}):
        with pytest.raises(ModelError, match=r"not exact.*classical mode keeps this promise"):
            edgeae.encode(bundle, x, **promise)
    y = edgeae.decode(bundle, edgeae.encode(bundle, x))
    assert np.abs(y.astype(int) - x).max() <= 3


def test_a_passed_self_test_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEAE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "b"
    assert series_bundle(path).exact
    monkeypatch.setattr(golden, "self_test", lambda bundle: ("ran again",))
    assert edgeae.load(path).exact
    assert edgeae.load(path).self_test(force=True) == ("ran again",)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir(mode=0o500)
    monkeypatch.setenv("EDGEAE_CACHE", str(tmp_path / "cache"))
    assert series_bundle(tmp_path / "b").exact


def test_a_graph_that_is_none_or_another(bundle):
    with pytest.raises(ModelError, match="cannot open"):
        open_session(b"not a graph", name="x.onnx", input_name="a", output_name="b")
    with pytest.raises(ModelError, match="maps"):
        open_session(
            bundle.files["encoder.onnx"], name="x.onnx", input_name="a", output_name="latent"
        )
    with pytest.raises(ModelError, match=r"shape \[1, 2, 8\]"):
        bundle.encoder().run(np.zeros((1, 2, 8), np.float32))


def test_sessions_give_the_same_bound_and_unbound(bundle):
    x = np.arange(32, dtype=np.float32).reshape(1, 1, 32)
    first, second, third = (bundle.encoder().run(x + k) for k in (0, 1, 0))
    assert np.array_equal(first, third)
    assert not np.array_equal(first, second)


def test_batched_nets_equal_single_ones(bundle):
    rng = np.random.default_rng(1)
    frames = [rng.integers(-500, 500, (1, n, 1)).astype(np.int32) for n in (64, 64, 30, 64, 7)]
    together = analyse(bundle, frames)
    for frame, latents in zip(frames, together, strict=True):
        assert np.array_equal(latents, analyse(bundle, [frame])[0])
    symbols = [symbolize(latents, 16) for latents in together]
    recons = synthesise(bundle, symbols, 16, [64, 64, 30, 64, 7])
    for y, frame, recon in zip(symbols, frames, recons, strict=True):
        alone = synthesise(bundle, [y], 16, [frame.shape[1]])[0]
        assert recon.shape == frame.shape
        assert np.array_equal(recon, alone)


def test_long_series_in_pieces_equal_one_run(tmp_path):
    """Nets with wide kernels, so that every cut has to be right."""
    whole, cut = (wide_bundle(tmp_path / name, context) for name, context in CONTEXTS)
    rng = np.random.default_rng(1)
    for n in (40_000, 8192, 8193, 16_384, 24_580, 100):
        x = rng.integers(-100, 100, (1, n, 1)).astype(np.int32)
        (latents,), (pieces,) = analyse(whole, [x]), analyse(cut, [x])
        assert np.array_equal(latents, pieces)
        y = symbolize(latents, 16)
        (recon,), (recon_pieces,) = (synthesise(b, [y], 16, [n]) for b in (whole, cut))
        assert np.array_equal(recon, recon_pieces)


def test_symbols_round_half_away_from_zero():
    latents = np.array([-24, -23, -8, -7, 0, 7, 8, 23, 24], np.int32)
    assert symbolize(latents, 16).tolist() == [-2, -1, -1, 0, 0, 0, 1, 1, 2]
    assert dequantize(np.array([-3, 2], np.int32), 16, 40).tolist() == [-40, 32]


def test_options_are_checked_before_samples_are_taken(bundle):
    x = np.zeros((10, 2), np.int16)
    with pytest.raises(ModelError, match="made for 1 channel, the stream has 2 channels"):
        edgeae.StreamEncoder(bundle).write(x)
    with pytest.raises(ConfigError, match=r"takes 1\.\.256"):
        edgeae.StreamEncoder(bundle, step=1000).write(x[:, 0])
