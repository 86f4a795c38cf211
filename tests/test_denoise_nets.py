"""Denoising nets: a stream cut anywhere equals the whole, and dyadic forwards are exact."""

import pytest

torch = pytest.importorskip("torch")

from edgeae.models.denoise import ImageNet, ImageSpec, StreamNet, StreamSpec  # noqa: E402
from edgeae.models.dyadic import calibrating, set_quantized  # noqa: E402


def stream_net(seed, **fields):
    torch.manual_seed(seed)
    spec = StreamSpec(width=12, dilations=(1, 2, 4), **fields)
    net = StreamNet(spec)
    x = torch.randint(-900, 900, (3, spec.n_in, 64 * spec.hop)).float()
    with torch.no_grad(), calibrating(net):
        net(x, net.initial_state(3))
    net.connect()
    set_quantized(net, True)
    return net, x


@pytest.mark.parametrize("hop", [1, 4])
@pytest.mark.parametrize("mask", [False, True])
def test_a_stream_cut_anywhere_equals_the_whole(hop, mask):
    fields = {"out_relu": True, "out_exponent": 8, "out_bits": 8} if mask else {}
    net, x = stream_net(hop, hop=hop, n_in=2, n_out=2, center=(3, -5), shift=(0, 1), **fields)
    with torch.no_grad():
        whole, last = net(x, net.initial_state(3))
        for cuts in ([1] * 64, [5, 1, 30, 28], [63, 1]):
            state, parts = net.initial_state(3), []
            for piece in torch.split(x, [n * hop for n in cuts], 2):
                out, state = net(piece, state)
                parts.append(out)
            assert torch.equal(torch.cat(parts, 2), whole)
            assert all(torch.equal(a, b) for a, b in zip(state, last, strict=True))


def test_the_dyadic_forward_is_the_same_in_float64():
    net, x = stream_net(5)
    with torch.no_grad():
        single, _ = net(x, net.initial_state(3))
        net.double()
        double, _ = net(x.double(), [s.double() for s in net.initial_state(3)])
    assert torch.equal(single.double(), double)
    assert torch.equal(single, torch.round(single))


@pytest.mark.parametrize("weights", [0, 1, 2])
def test_an_image_keeps_its_shape_and_grey_levels(weights):
    torch.manual_seed(1)
    net = ImageNet(ImageSpec(width=8, depth=3, weights=weights))
    x = torch.randint(0, 256, (2, 1, 24, 16)).float()
    sigma = torch.tensor([15.0, 50.0])
    with torch.no_grad(), calibrating(net):
        net(x, sigma)
    net.connect()
    set_quantized(net, True)
    with torch.no_grad():
        single = net(x, sigma)
        double = net.double()(x.double(), sigma.double())
    assert single.shape == x.shape
    assert torch.equal(single, single.round().clamp(0, 255))
    assert torch.equal(single.double(), double)


def test_shared_weights_are_the_same_integers_in_every_pass():
    torch.manual_seed(2)
    net = ImageNet(ImageSpec(width=8, depth=5, weights=2))
    for place, layer in enumerate(net.trunk.layers):
        torch.nn.init.normal_(layer.bias, std=0.5 + 10 * place)  # one of them needs coarse weights
    assert sum(p.numel() for p in net.parameters()) == 5 * 8 * 9 + 8 + 2 * 8**2 * 9 + 5 * 8 + 292
    x = torch.randint(0, 256, (2, 1, 24, 16)).float()
    with torch.no_grad(), calibrating(net):
        net(x, torch.tensor([15.0, 50.0]))
    net.connect()
    set_quantized(net, True)
    first, second, *others = [layer.integers() for layer in net.trunk.layers]
    for place, other in enumerate(others):
        same = second if place % 2 else first
        assert (other.weight == same.weight).all()
        assert (other.exponent == same.exponent).all()
        assert (other.bias != same.bias).any()
