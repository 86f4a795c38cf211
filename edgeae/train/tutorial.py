"""The classic tutorial: a dense autoencoder of MNIST, and an honest look at what it learns.

::

    row [784], unit length ─ dense 64, ReLU ─ dense 784, sigmoid ─► row        MSE, Adam

It is here because everybody has met it, and because it is a good first lesson: beside the net stand
the mean image and PCA with as many numbers, and the same net on pixels scaled to 0..1.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgeae.errors import ConfigError, SignalError
from edgeae.train.datasets import Dataset, load_dataset
from edgeae.train.recipe import Recipe
from edgeae.train.run import Progress, RunFolder

__all__ = ["PICTURE", "WHY", "TutorialNet", "load_rows", "load_tutorial", "train_tutorial"]

PHASE = "tutorial"
PICTURE = "digits.png"
REPORT = "tutorial.json"
SHOWN = 10

WHY = (
    "Rows of unit length hold pixels of about 0.03 on average and rarely above 0.2. A sigmoid "
    "gives such numbers only in its flat left tail, where its slope, y (1 - y), is a few "
    "hundredths: little of the error reaches the weights, and after ten epochs the net is not far "
    "from the mean image, while PCA, which is linear, does not care about the scale. The same net "
    "on pixels in 0..1, where the sigmoid's whole range is in use, beats PCA."
)

Rows = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class _Errors:
    """Test MSE of the net and of what a user could do without one."""

    net: float
    mean_image: float
    pca: float

    def to_json(self) -> dict[str, float]:
        return {k: float(f"{v:.4g}") for k, v in dataclasses.asdict(self).items()}


class TutorialNet(nn.Module):
    """Dense: inputs to ``latent`` units, ReLU, and back through a sigmoid."""

    def __init__(self, inputs: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(nn.Linear(inputs, latent), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(latent, inputs), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, inputs]; returns the same shape."""
        y: Tensor = self.decoder(self.encoder(x))
        return y


def load_rows(recipe: Recipe, split: str, *, normalize: str = "l2") -> Rows:
    """One split's items as rows float32 [N, pixels]; without ``l2`` they are scaled to 0..1.

    Raises:
        SignalError: the data are not images.
    """
    data: Dataset = load_dataset(recipe.data.source, split, normalize=normalize)
    if not data.is_image:
        raise SignalError(f"{recipe.data.source} holds no images, and the tutorial is about images")
    images = np.concatenate(data.segments)
    rows = images.reshape(len(images), -1).astype(np.float32)
    return rows if normalize else rows / max(float(rows.max()), 1.0)


def train_tutorial(run: RunFolder, *, progress: Progress) -> None:
    """Train the tutorial's net; writes its weights, ``tutorial.json`` and the picture of digits.

    Raises:
        ConfigError: the recipe is not about rows of unit length.
        SignalError: the data are not images.
    """
    recipe = run.recipe()
    if recipe.data.normalize != "l2":
        raise ConfigError('the tutorial is about rows of unit length: set data.normalize = "l2"')
    if run.done(PHASE):
        return
    started = time.monotonic()
    train, test = load_rows(recipe, "train"), load_rows(recipe, "test")
    net = _trained(recipe, train, "tutorial", run, progress)
    scaled_train = load_rows(recipe, "train", normalize="")
    scaled_test = load_rows(recipe, "test", normalize="")
    scaled = _trained(recipe, scaled_train, "tutorial-0..1", run, progress)
    report: dict[str, Any] = {
        "test_mse": _errors(net, train, test).to_json(),
        "test_mse_on_0..1": _errors(scaled, scaled_train, scaled_test).to_json(),
        "why": WHY,
    }
    run.write_json(REPORT, report)
    rows = (
        ("test digits", None, test),
        ("reconstructions", net, test),
        ("the same net on pixels in 0..1", scaled, scaled_test),
    )
    (run.path / PICTURE).write_bytes(_picture(rows))
    run.log(PHASE, recipe.train.steps, report["test_mse"])
    run.log(PHASE, recipe.train.steps, {"seconds": time.monotonic() - started})
    torch.save({"module": net.state_dict()}, run.phases / f"{PHASE}.pt")


def load_tutorial(run: RunFolder) -> tuple[TutorialNet, dict[str, Any]]:
    """The trained net and its report.

    Raises:
        ModelError: the run is not finished.
    """
    report = run.read_json(REPORT)
    recipe = run.recipe()
    net = TutorialNet(load_rows(recipe, "val").shape[1], recipe.model.latent)
    run.load_phase(PHASE, net)
    return net.eval(), report


def _trained(
    recipe: Recipe, rows: Rows, name: str, run: RunFolder, progress: Progress
) -> TutorialNet:
    """Plain epochs: shuffled batches, MSE, Adam."""
    r = recipe.train
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    data = torch.from_numpy(rows)
    net = TutorialNet(rows.shape[1], recipe.model.latent)
    optimizer = torch.optim.Adam(net.parameters(), lr=r.learning_rate)
    step, total = 0, 0.0
    while step < r.steps:
        for picks in torch.randperm(len(data), generator=generator).split(r.batch):  # type: ignore[no-untyped-call]  # torch
            x = data[picks]
            loss = nn.functional.mse_loss(net(x), x)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            step, total = step + 1, total + loss.item()
            if step % r.validate_every == 0 or step == r.steps:
                run.log(name, step, {"train_mse": total / r.validate_every})
                total = 0.0
            if step % 20 == 0 or step == r.steps:
                progress(name, step / r.steps, {"mse": loss.item()})
            if step == r.steps:
                break
    return net.eval()


def _errors(net: TutorialNet, train: Rows, test: Rows) -> _Errors:
    mean = train.mean(axis=0, dtype=np.float64)
    centered = test - mean
    spread = train - mean
    _, vectors = np.linalg.eigh(spread.T @ spread)
    basis = vectors[:, -net.latent :]
    kept = centered @ basis @ basis.T
    with torch.no_grad():
        back = net(torch.from_numpy(test)).numpy()
    return _Errors(
        net=float(np.mean((back - test) ** 2)),
        mean_image=float(np.mean(centered**2)),
        pca=float(np.mean((centered - kept) ** 2)),
    )


def _picture(rows: Sequence[tuple[str, TutorialNet | None, Rows]]) -> bytes:
    """PNG: ten digits per row, as they are or, with a net, as it gives them back."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SHOWN, 1.2 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), SHOWN)
    for row, (title, net, data) in zip(axes, rows, strict=True):
        images = data[:SHOWN]
        peak = float(images.max())
        if net is not None:
            with torch.no_grad():
                images = net(torch.from_numpy(images)).numpy()
        _draw(row, images, round(images.shape[1] ** 0.5), peak)
        row[0].set_title(title, loc="left", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, metadata={"Software": None})
    return buffer.getvalue()


def _draw(row: Sequence[Any], images: Rows, side: int, peak: float) -> None:
    for axis, image in zip(row, images, strict=True):
        axis.imshow(image.reshape(-1, side), cmap="gray", vmin=0, vmax=peak)
        axis.set_axis_off()
