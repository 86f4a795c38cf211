"""The torch twin of the sample prior sees and says what the integer one does."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeae.models.dyadic import calibrating, set_quantized  # noqa: E402
from edgeae.models.integer import runtime_sample_prior  # noqa: E402
from edgeae.models.sample_prior import SamplePriorNet, SamplePriorSpec  # noqa: E402


@pytest.mark.parametrize("kind", ["delta", "level"])
@pytest.mark.parametrize("has_code", [False, True])
@pytest.mark.parametrize("step", [(1.0,), (9.0, 2001.0), (1.0, 31.0)])
def test_torch_equals_the_integers(kind: str, has_code: bool, step: tuple[float, ...]) -> None:
    torch.manual_seed(4)
    spec = SamplePriorSpec(
        channels=2,
        kind=kind,
        feature_shift=(0, 3),
        center=(100, -4000),
        width=6,
        offsets=((1, 2, 3), (0, 2)),
        taps=(1, 2, 3),
        has_code=has_code,
        lookahead=2,
    )
    net = SamplePriorNet(spec).eval()
    rng = np.random.default_rng(8)
    walk = np.cumsum(rng.integers(-20, 21, (2, 200)), axis=1)
    x = walk * [[1], [40]] + np.array([[100], [-4000]])
    u = x + rng.integers(-9, 10, x.shape)
    r, code = (torch.from_numpy(v.astype(np.float32))[None] for v in (x, u))
    steps = torch.tensor(step) if len(step) == 1 else torch.tensor([step])
    with torch.no_grad(), calibrating(net):
        net(r, steps, code if has_code else None)
    net.net.connect()
    set_quantized(net, True)
    prior = runtime_sample_prior(net)
    assert prior.shift == (0, 3)
    with torch.no_grad():
        seen = net.features(r, steps, code if has_code else None)[0].numpy()
        mean, scale = net(r, steps, code if has_code else None)
    rules, past = prior.rules, prior.net.past
    delta = [int(s) for s in step] if len(step) > 1 else int(step[0])
    side = rules.side_features(u.T if has_code else None, prior.cond(delta), x.shape[1])
    before = np.concatenate([x.T[:1], x.T[:-1]])
    features = np.empty((prior.net.n_inputs, x.shape[1]), np.int64)
    features[~past] = side.T
    features[past] = rules.past_features(x.T, before, u.T if has_code else None).T
    assert np.array_equal(features, seen * 2.0**spec.feature_exponent)
    out = prior.net.run(features[None])[0].T.astype(np.int64)
    means, ls = rules.means(out)
    centre, frac16 = rules.place(means, before)
    assert np.abs((centre + frac16 / 16).T - mean[0].numpy()).max() == 0
    found = 2.0 ** ((ls - 18) / 6 + np.array(prior.shift))
    assert np.allclose(found.T, scale[0].numpy(), rtol=1e-5)
