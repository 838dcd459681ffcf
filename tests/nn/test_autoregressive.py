"""Masked convolutions see what comes before and nothing else, and what is made of them samples as one program."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, pad
from torch.testing import assert_close

from genkern import autoregressive, models, random
from genkern.nn import (
    CausalConv1d,
    GatedMaskedConv2d,
    MaskedConv2d,
    RowLSTM,
    ShiftedConv2d,
    VerticalConv2d,
    check_causality,
)
from genkern.nn.autoregressive import stack_of, sub_pixel_of
from genkern.nn.autoregressive.wavefront import slant, steps
from genkern.ops import gated_activation

KEY = random.key(11)


def usual_mask(kind: str, sub_pixels_in: Tensor, sub_pixels_out: Tensor, size: int) -> Tensor:
    """The mask of the paper, tap by tap, ``[out, in, size, size]``."""
    mask = torch.zeros(len(sub_pixels_out), len(sub_pixels_in), size, size)
    for o, target in enumerate(sub_pixels_out):
        for i, source in enumerate(sub_pixels_in):
            for row in range(size):
                for column in range(size):
                    before = (row, column) < (size // 2, size // 2)
                    centre = (row, column) == (size // 2, size // 2)
                    mask[o, i, row, column] = before or (
                        centre and (source < target or (kind == "B" and source == target))
                    )
    return mask


@pytest.mark.parametrize("layout", ["contiguous", "interleaved"])
@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("mask", ["A", "B"])
def test_a_masked_convolution_is_that_of_the_masked_kernel(mask: str, size: int, layout: str) -> None:
    torch.manual_seed(0)
    layer = MaskedConv2d(6, 12, size, mask=mask, sub_pixels=3, layout=layout, in_parts=2, out_parts=2).double()
    groups = sub_pixel_of(6, 3, layout, parts=2), sub_pixel_of(12, 3, layout, parts=2)
    live = usual_mask(mask, *groups, size)
    assert sum(p.numel() for p in layer.parameters()) == int(live.sum()) + 12  # no dead weights
    whole = torch.randn(12, 6, size, size, dtype=torch.float64)
    missing = layer.load_state_dict({"weight": whole, "mask": live, "bias": layer.bias})
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    assert_close(layer(x), conv2d(x, whole * live, layer.bias, padding=size // 2))
    assert not missing.missing_keys and not missing.unexpected_keys


def test_a_convolution_of_one_channel_has_the_taps_of_the_paper() -> None:
    live = {(m, k): MaskedConv2d(1, 1, k, mask=m, bias=False) for m, k in (("A", 7), ("B", 7), ("B", 3))}
    counts = {name: sum(p.numel() for p in layer.parameters()) for name, layer in live.items()}
    assert counts == {("A", 7): 24, ("B", 7): 25, ("B", 3): 5}


@pytest.mark.parametrize("strict", [False, True])
def test_a_vertical_convolution_sees_rows_above_alone(strict: bool) -> None:
    layer = VerticalConv2d(1, 3, 3, strict=strict)
    seen = {k - i for (_, i, _), (_, k, _) in _dependencies(layer, (1, 5, 5))}
    assert seen == ({-1} if strict else {-1, 0})


def _dependencies(layer: nn.Module, shape: tuple[int, int, int]) -> list:
    report = check_causality(layer, shape, sub_pixels=False)
    size = [(0, i, j) for i in range(shape[1]) for j in range(shape[2])]
    unseen = set(report.unseen)
    return [(o, i) for o in size for i in size if ((i < o) and (o, i) not in unseen) or (o, i) in set(report.leaks)]


@pytest.mark.parametrize("mask", ["A", "B"])
def test_a_causal_convolution_sees_the_past_at_its_dilation(mask: str) -> None:
    layer = CausalConv1d(2, 3, 3, dilation=4, mask=mask).double()
    x = torch.randn(2, 2, 20, dtype=torch.float64)
    shift = mask == "A"
    expected = conv1d(pad(x, (8 + shift, 0))[..., : 28 if shift else None], layer.weight, layer.bias, dilation=4)
    assert_close(layer(x), expected[..., :20])
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x)[0, :, 12], x)[:, 0].abs().sum((0, 1))
    assert jacobian.nonzero().flatten().tolist() == [4 - shift, 8 - shift, 12 - shift]


class Gated(nn.Module):
    def __init__(self, channels: int, layers: int, sub_pixels: int = 1, layout: str = "contiguous"):
        super().__init__()
        options = {"sub_pixels": sub_pixels, "layout": layout}
        self.layers = nn.ModuleList(
            GatedMaskedConv2d(channels if k else sub_pixels, channels, 3, first=not k, last=k == layers - 1, **options)
            for k in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        v, h, total = x, x, None
        for layer in self.layers:
            v, h, skip = layer(v, h)
            total = skip if total is None else total + skip
        return total


@pytest.mark.parametrize("layout", ["contiguous", "interleaved"])
def test_gated_layers_see_every_sub_pixel_before_and_no_other(layout: str) -> None:
    report = check_causality(Gated(6, 5, 3, layout), (3, 5, 5), layout=layout)
    assert report and not report.unseen and report.pairs == 75 * 74 // 2


def test_stacked_masked_convolutions_have_a_blind_spot_to_the_upper_right() -> None:
    stack = nn.Sequential(MaskedConv2d(1, 4, 3, mask="A"), *(MaskedConv2d(4, 4, 3, mask="B") for _ in range(6)))
    report = check_causality(stack, (1, 7, 7))
    assert report and report.unseen
    assert all(column > -row for row, column in report.blind_offsets())  # beyond the diagonal
    assert str(report).startswith("0 leaks; sees ")


# -- planted leaks -----------------------------------------------------------------------------------------------------


class InterleavedGroups(nn.Module):
    """Two layers of weight * mask whose channel c belongs to sub-pixel c % 3, whatever the width."""

    def __init__(self, width: int):
        super().__init__()
        self.kernels = nn.ParameterList(
            [nn.Parameter(torch.randn(2 * width, 3, 3, 3)), nn.Parameter(torch.randn(12, width, 3, 3))]
        )
        for k, (out, into) in enumerate(((2 * width, 3), (12, width))):
            mask = usual_mask("AB"[k], torch.arange(into) % 3, torch.arange(out) % 3, 3)
            self.register_buffer(f"mask{k}", mask)

    def forward(self, x: Tensor) -> Tensor:
        a, b = conv2d(x, self.kernels[0] * self.mask0, padding=1).chunk(2, 1)
        return conv2d(a.tanh() * b.sigmoid(), self.kernels[1] * self.mask1, padding=1)


def test_interleaved_groups_leak_at_width_32_and_not_at_30() -> None:
    torch.manual_seed(0)
    assert check_causality(InterleavedGroups(30), (3, 3, 3), layout="interleaved")
    report = check_causality(InterleavedGroups(32), (3, 3, 3), layout="interleaved")
    assert not report
    assert all(o[1:] == i[1:] and i[0] >= o[0] for o, i in report.leaks)  # within the pixel
    with pytest.raises(ValueError, match="channels must be a multiple of sub_pixels = 3, or sub-pixels leak"):
        MaskedConv2d(3, 32, 3, mask="A", sub_pixels=3)
    with pytest.raises(ValueError, match="in each of 2 parts"):
        MaskedConv2d(3, 66 + 3, 3, mask="A", sub_pixels=3, out_parts=2)


def skewed_recurrence(x: Tensor, padding: tuple[int, int]) -> Tensor:
    """A diagonal recurrence, with the padding of its two-row convolution before (causal) or after ("same")."""
    batch, _, height, width = x.shape
    shifted = pad(x, (1, 0))[..., :-1]  # mask A: the pixel to the left
    skewed = torch.stack([pad(shifted[..., i, :], (i, height - 1 - i)) for i in range(height)], 2)
    state, columns = torch.zeros(batch, 1, height, dtype=x.dtype), []
    for column in skewed.unbind(3):
        above = pad(state, padding)
        state = (column + above[..., :-1] + 0.5 * above[..., 1:]).tanh()
        columns.append(state)
    out = torch.stack(columns, 3)
    return torch.stack([out[:, :, i, i : i + width] for i in range(height)], 2)


def test_a_skewed_recurrence_with_same_padding_leaks() -> None:
    assert check_causality(lambda x: skewed_recurrence(x, (1, 0)), (1, 4, 4))
    report = check_causality(lambda x: skewed_recurrence(x, (0, 1)), (1, 4, 4))
    assert ((0, 0, 3), (0, 1, 0)) in report.leaks  # pixel (i + 1, j - 2), through the pixel to the left of it


def test_a_map_that_is_not_shifted_down_leaks() -> None:
    def mirrored(x: Tensor) -> Tensor:
        return x.flip(3).cumsum(3).flip(3)

    report = check_causality(mirrored, (1, 3, 3))
    assert {(k - i, l - j) for (_, i, j), (_, k, l) in report.leaks} == {(0, 0), (0, 1), (0, 2)}  # noqa: E741
    assert check_causality(lambda x: pad(mirrored(x), (0, 0, 1, 0))[:, :, :-1], (1, 3, 3))


def test_a_report_names_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="shape must be given"):
        check_causality(lambda x: x)
    with pytest.raises(ValueError, match=r"function must give \[B, P, C, 3, 3\]"):
        check_causality(lambda x: x[..., :2], (1, 3, 3))


SMALL = {name: (1, 8, 8) for name in ("pixelcnn-small", "gated-pixelcnn-small", "gated-pixelcnn-small-by-class")}
LARGE = {
    "pixelcnn": (3, 5, 5),
    "gated-pixelcnn": (3, 5, 5),
    "pixelcnn-mnist": (1, 9, 9),
    "gated-pixelcnn-mnist": (1, 9, 9),
}


@pytest.mark.parametrize(("name", "shape"), [*SMALL.items(), *LARGE.items()])
def test_every_preset_is_causal(name: str, shape: tuple[int, int, int]) -> None:
    report = check_causality(models.build(name, shape=shape), inputs=12, probes=1)
    assert report, report
    blind = "gated" not in name
    assert blind or not report.unseen


# -- sampling any network ----------------------------------------------------------------------------------------------


def stacks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(0)
    grey = nn.Sequential(
        MaskedConv2d(1, 5, 5, mask="A"), nn.ELU(), nn.Dropout(0.5), MaskedConv2d(5, 20, (3, 5), mask="B"), nn.Tanh(),
        nn.Conv2d(20, 3, 1), nn.Sigmoid(), MaskedConv2d(3, 4, 1, mask="B"),
    )  # fmt: skip
    joint = nn.Sequential(MaskedConv2d(2, 6, 3, mask="A"), nn.ReLU(), MaskedConv2d(6, 8, 3, mask="B"))
    colour = nn.Sequential(
        MaskedConv2d(3, 9, 3, mask="A", sub_pixels=3), nn.ReLU(), MaskedConv2d(9, 12, 3, mask="B", sub_pixels=3)
    )
    return {
        "grey": (grey, (1, 6, 5)),
        "channels drawn together": (joint, (2, 4, 5)),
        "colour": (colour, (3, 4, 3)),
        "gated": (nn.Sequential(Gated(4, 3), MaskedConv2d(4, 4, 1, mask="B")), (1, 5, 6)),
        "sequence": (Dilated(1, 4), (1, 17)),
        "sequence of two channels": (Dilated(2, 4), (2, 9)),
    }


class Dilated(nn.Module):
    """A WaveNet of three dilations, with residual connections."""

    def __init__(self, channels: int, levels: int):
        super().__init__()
        self.first = CausalConv1d(channels, 6, 2, mask="A")
        self.layers = nn.ModuleList(CausalConv1d(6, 12, 3, dilation=2**k, mask="B") for k in range(3))
        self.mix = nn.ModuleList(nn.Conv1d(6, 6, 1) for _ in range(3))
        self.last = CausalConv1d(6, channels * levels, 1, mask="B")

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for layer, mix in zip(self.layers, self.mix, strict=True):
            a, b = layer(h).chunk(2, dim=1)
            h = h + mix(torch.tanh(a) * torch.sigmoid(b))
        return self.last(torch.relu(h))


def pixels(network: nn.Module, shape: tuple[int, ...], method: str, temperature: float = 1.0) -> Tensor:
    options = {"levels": 4, "key": KEY, "temperature": temperature}
    return autoregressive.sample(network, (3, *shape), method=method, **options)


def sharpened(network: nn.Module) -> nn.Module:
    """In float64, where rounding decides nothing, and with probabilities that are not all alike."""
    with torch.no_grad():
        for name, parameter in network.double().named_parameters():
            parameter *= 0.3 if name.endswith("bias") else 4
    return network


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("name", stacks())
def test_every_method_gives_the_same_pixels(name: str, temperature: float) -> None:
    network, shape = stacks()[name]
    naive = pixels(sharpened(network), shape, "naive", temperature)
    assert temperature == 0 or len(naive.unique()) > 1
    for method in ("jacobi", "cached", "wavefront"):
        assert torch.equal(pixels(network, shape, method, temperature), naive), method


class Mapped(nn.Module):
    """A map enters beside the picture, and a vector into every gate."""

    def __init__(self, channels: int, outputs: int, sub_pixels: int = 1):
        super().__init__()
        masks = {"sub_pixels": sub_pixels}
        self.first = MaskedConv2d(channels, 12, 3, mask="A", out_parts=2, **masks)
        self.of_features, self.of_condition = nn.Conv2d(3, 12, 1), nn.Linear(2, 12)
        self.middle, self.act = MaskedConv2d(6, 6, 3, mask="B", **masks), nn.SiLU()
        self.last = MaskedConv2d(6, outputs, 1, mask="B", **masks)

    def forward(self, x: Tensor, condition: Tensor, features: Tensor) -> Tensor:
        h = gated_activation(self.first(x) + self.of_features(features), condition=self.of_condition(condition))
        return self.last(self.act(self.middle(h)))


HEADS = {
    "mixture": (1, 9, 1),
    "mixture rgb": (3, 20, 1),
    "quantile": (1, 1, 1),
    "quantile rgb": (3, 3, 3),
    "categorical": (1, 4, 1),
}


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("name", HEADS)
def test_every_head_gives_the_same_pixels_by_every_method(name: str, temperature: float) -> None:
    torch.manual_seed(0)
    channels, outputs, sub_pixels = HEADS[name]
    network, size = sharpened(Mapped(channels, outputs, sub_pixels)), (3, channels, 4, 5)
    condition, features = torch.randn(3, 2).double(), torch.randn(3, 3, 4, 5).double()
    given = torch.randint(4, size)
    options = {"levels": 4, "key": KEY, "head": name.split()[0], "condition": condition, "features": features}
    options |= {"temperature": temperature, "given": given, "first_row": 1}
    x = autoregressive.sample(network, size, method="naive", **options)
    assert torch.equal(x[:, :, :1], given[:, :, :1].to(x)) and len(x.unique()) > 2
    for method in ("jacobi", "cached", "wavefront"):
        assert torch.equal(autoregressive.sample(network, size, method=method, **options), x), method


def test_a_sequence_of_mixtures_gives_the_same_values_by_every_method() -> None:
    torch.manual_seed(0)
    network = Dilated(1, 4)
    network.last = CausalConv1d(6, 6, 1, mask="B")
    options = {"levels": 50, "key": KEY, "head": "mixture"}
    naive = autoregressive.sample(sharpened(network), (2, 1, 13), method="naive", **options)
    for method in ("jacobi", "cached", "wavefront"):
        assert torch.equal(autoregressive.sample(network, (2, 1, 13), method=method, **options), naive), method


class LevelsInnermost(nn.Module):
    """[levels, C] to [C, levels]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2)


def test_interleaved_sub_pixels_give_the_same_pixels() -> None:
    torch.manual_seed(0)
    network, shape = sharpened(Gated(12, 3, 3, "interleaved")), (3, 4, 4)
    naive = pixels(nn.Sequential(network, LevelsInnermost()), shape, "naive")
    for method in ("cached", "wavefront"):
        assert torch.equal(pixels(network, shape, method), naive), method


def test_pixels_that_are_given_are_kept_and_known_to_those_after() -> None:
    network, shape = stacks()["gated"]
    given = torch.randint(4, (2, *shape), generator=torch.Generator().manual_seed(0))
    free = torch.rand(shape[1:], generator=torch.Generator().manual_seed(1)) < 0.5
    options = {"levels": 4, "key": KEY, "given": given, "free": free, "first_row": 2}
    x = autoregressive.sample(network.double(), (2, *shape), **options)
    assert torch.equal(x[:, :, ~free], given[:, :, ~free].to(x)) and torch.equal(x[:, :, :2], given[:, :, :2].to(x))
    assert torch.equal(x, autoregressive.sample(network, (2, *shape), method="naive", **options))
    other = autoregressive.sample(network, (2, *shape), **{**options, "given": 3 - given})
    assert not torch.equal(x[:, :, 2:][:, :, free[2:]], other[:, :, 2:][:, :, free[2:]])


def test_a_sequence_is_completed_from_its_beginning() -> None:
    network, shape = stacks()["sequence"]
    given = torch.randint(4, (2, *shape), generator=torch.Generator().manual_seed(0))
    options = {"levels": 4, "key": KEY, "given": given, "first_row": 5}
    x = autoregressive.sample(sharpened(network), (2, *shape), **options)
    assert torch.equal(x[..., :5], given[..., :5].to(x)) and not torch.equal(x, given.to(x))
    for method in ("naive", "jacobi", "wavefront"):
        assert torch.equal(autoregressive.sample(network, (2, *shape), method=method, **options), x), method


@pytest.mark.parametrize("method", autoregressive.METHODS)
def test_progress_grows_to_the_end_and_changes_nothing(method: str) -> None:
    network, shape = stacks()["gated"]
    told: list[tuple[int, int]] = []
    options = {"levels": 4, "key": KEY, "method": method}
    x = autoregressive.sample(network.double(), (3, *shape), progress=lambda *a: told.append(a), **options)
    assert torch.equal(x, autoregressive.sample(network, (3, *shape), **options))
    assert told == sorted(told) and told[-1][0] == told[-1][1] and len({total for _, total in told}) == 1


def test_new_weights_are_sampled_from_without_tracing_again() -> None:
    network, shape = stacks()["colour"]
    network.double()
    before = autoregressive.sample(network, (2, *shape), levels=4, key=KEY)
    with torch.no_grad():
        network[2].bias.data[:4] = torch.tensor([50.0, 0, 0, 0], dtype=torch.float64)
    after = autoregressive.sample(network, (2, *shape), levels=4, key=KEY)
    assert not torch.equal(before, after) and bool((after[:, 0] == 0).all())


def test_the_front_takes_fewer_steps_than_there_are_pixels() -> None:
    network = nn.Sequential(MaskedConv2d(1, 8, 7, mask="A"), *(MaskedConv2d(8, 8, 3, mask="B") for _ in range(4)))
    program = stack_of(network, 1).program
    assert slant(program) == 4  # the picture is seen 3 columns to the right; the other layers see it a row later
    assert steps(program, 28, 28) == 28 + 4 * 27


class Branching(nn.Module):
    """What it computes depends on the picture, so that no program says it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = MaskedConv2d(1, 4, 3, mask="A")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x if x.sum() > 0 else -x)


def test_what_cannot_be_sampled_with_a_cache_is_named() -> None:
    shape = (2, 1, 4, 4)
    leaky = nn.Sequential(MaskedConv2d(1, 4, 3, mask="A"), nn.Conv2d(4, 4, 3, padding=1))
    with pytest.raises(autoregressive.Untraceable, match=r"Conv2d\(4, 4, .* cannot be part of a cached sampler"):
        autoregressive.sample(leaky, shape, levels=4, key=KEY)
    late = nn.Sequential(MaskedConv2d(1, 4, 3, mask="A"), VerticalConv2d(4, 4, 3, strict=False))
    with pytest.raises(autoregressive.Untraceable, match="sees pixels of its own row to the right"):
        autoregressive.sample(late, shape, levels=4, key=KEY)
    recurrent = nn.Sequential(MaskedConv2d(1, 4, 3, mask="A"), RowLSTM(4, 4))
    with pytest.raises(autoregressive.Untraceable, match="RowLSTM cannot be part of a cached sampler"):
        autoregressive.sample(recurrent, shape, levels=4, key=KEY)
    with pytest.raises(autoregressive.Untraceable, match="of a mixture the network must give 3K numbers"):
        autoregressive.sample(nn.Sequential(leaky[0]), shape, levels=4, key=KEY, head="mixture")
    with pytest.raises(autoregressive.Untraceable, match="the network must give 1 quantiles"):
        autoregressive.sample(nn.Sequential(leaky[0]), shape, levels=4, key=KEY, head="quantile")
    halved = nn.Sequential(MaskedConv2d(1, 4, 3, mask="A"), ShiftedConv2d(4, 4, (2, 2), stride=2))
    with pytest.raises(autoregressive.Untraceable, match="the network must give logits for every pixel"):
        autoregressive.sample(halved, shape, levels=4, key=KEY)
    with pytest.raises(ValueError, match="sample: head must be one of"):
        autoregressive.sample(leaky, shape, levels=4, key=KEY, head="gaussian")
    with pytest.raises(autoregressive.Untraceable, match="cannot be traced for a cached sampler"):
        autoregressive.sample(Branching(), shape, levels=4, key=KEY)
    with pytest.raises(ValueError, match="given must be pixels, where some are not free"):
        autoregressive.sample(stacks()["grey"][0], (2, 1, 6, 5), levels=4, key=KEY, first_row=2)
