"""Layers of other libraries, recorded once by peers/make*.py, give the same values here."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from genkern import ops
from genkern.nn import Flow
from genkern.nn.flows import importers

RECORDED = load_file(str(Path(__file__).parent / "peers" / "layers.safetensors"))
GLOW = importers.normflows_glow_block
SPLINE, OPTIONS = importers.nflows_spline_coupling, {"bins": 5, "tails": "linear", "bound": 2.0}
IMPORTS = {
    "normflows glow block sigmoid": GLOW,
    "normflows glow block exp free": lambda state: GLOW(state, scale_map="exp"),
    "normflows glow block sigmoid_inv odd": lambda state: GLOW(
        state, scale_map="sigmoid_inv", split_mode="channel_inv", leaky=0.1
    ),
    "normflows glow block additive": lambda state: GLOW(state, scale=False),
    "nflows affine vector": lambda state: importers.nflows_affine_coupling(state, nn.Sequential(nn.Linear(2, 6))),
    "nflows affine picture": lambda state: importers.nflows_affine_coupling(state, nn.Sequential(nn.Conv2d(2, 6, 1))),
    "nflows additive": lambda state: importers.nflows_affine_coupling(
        state, nn.Sequential(nn.Linear(2, 3)), additive=True
    ),
    "nflows spline vector": lambda state: SPLINE(state, nn.Sequential(nn.Linear(2, 3 * 14)), **OPTIONS),
    "nflows spline vector with own splines": lambda state: SPLINE(
        state, nn.Sequential(nn.Linear(2, 3 * 14)), **OPTIONS
    ),
    "nflows spline picture": lambda state: SPLINE(state, nn.Sequential(nn.Conv2d(2, 3 * 14, 1)), **OPTIONS),
    "normflows spline": importers.normflows_spline_coupling,
    "nflows actnorm": importers.nflows_actnorm,
    "nflows conv1x1": importers.nflows_conv1x1,
}


def recorded(name: str) -> tuple[Flow, dict[str, Tensor]]:
    entries = importers.part(RECORDED, f"{name}/")
    return IMPORTS[name](importers.part(entries, "state/")), entries


@pytest.mark.parametrize("name", IMPORTS)
def test_an_imported_layer_gives_the_peers_values(name: str) -> None:
    layer, peer = recorded(name)
    z, log_det = layer.train()(peer["x"])
    assert_close(z, peer["z"], rtol=1e-5, atol=1e-5)
    assert_close(log_det, peer["log_det"], rtol=1e-5, atol=1e-5)
    assert_close(layer.inverse(z)[0], peer["x"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", IMPORTS)
def test_an_imported_layer_trains_and_saves(name: str) -> None:
    layer, peer = recorded(name)
    z, log_det = layer(peer["x"])
    (z.square().sum() - log_det.sum()).backward()
    assert all(p.grad is not None for p in layer.parameters())
    again, _ = recorded(name)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(peer["x"])[0], z)


def test_every_recorded_layer_is_imported() -> None:
    assert {key.split("/")[0] for key in RECORDED} == set(IMPORTS)


ROSINALITY = load_file(str(Path(__file__).parent / "peers" / "rosinality.safetensors"))


@pytest.mark.parametrize("name", ["affine", "additive", "free"])
def test_a_whole_glow_of_rosinality_has_the_same_density_and_inverts(name: str) -> None:
    peer = importers.part(ROSINALITY, f"{name}/")
    flow = importers.rosinality_glow({f"module.{k}": v for k, v in importers.part(peer, "state/").items()})
    z, log_det = flow(peer["x"])
    assert_close(ops.gaussian_log_prob(z) + log_det, peer["log_prob"], rtol=1e-5, atol=1e-5)
    assert_close(flow.inverse(z)[0], peer["x"], rtol=1e-5, atol=1e-5)
    (z.square().sum() - log_det.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())


def test_a_state_without_blocks_is_no_glow() -> None:
    with pytest.raises(ValueError, match="state must hold blocks.0"):
        importers.rosinality_glow({"conv.weight": torch.zeros(1)})


def test_what_has_no_counterpart_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="split_mode must be 'channel' or 'channel_inv'; got 'checkerboard'"):
        importers.normflows_affine_coupling(nn.Identity(), 4, split_mode="checkerboard")
    with pytest.raises(ValueError, match="scale_map must be"):
        importers.normflows_affine_coupling(nn.Identity(), 4, scale_map="softplus")
    with pytest.raises(ValueError, match="nflows_spline_coupling: tails must be 'linear'; got None"):
        importers.nflows_spline_coupling({}, nn.Identity())
    with pytest.raises(ValueError, match="without context"):
        importers.normflows_residual_net({"blocks.0.context_layer.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="net_actnorm"):
        importers.normflows_conv_net({"net.1.actNorm.s": torch.zeros(1)})
