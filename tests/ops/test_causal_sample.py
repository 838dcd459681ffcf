"""Cached sampling: the pixels of the definition, whatever the batch, the threads and the layout of the inputs."""

import pytest
import torch
from torch import Tensor, nn

from genkern import random
from genkern.nn import GatedMaskedConv2d, MaskedConv2d, ShiftedConv2d
from genkern.nn.autoregressive import stack_of, with_ones
from genkern.ops import causal_sample, concat_elu, sample_discretized_mixture_logistics
from genkern.ops.causal_sample import decode, encode, reference
from genkern.testing.op_suite import layouts

LEVELS = 6


class Network(nn.Module):
    """Every kind of instruction: both stacks, a condition, masks between sub-pixels, products and all maps."""

    def __init__(self, sub_pixels: int):
        super().__init__()
        masks = {"mask": "B", "sub_pixels": sub_pixels}
        self.first = GatedMaskedConv2d(sub_pixels, 6, 3, first=True, condition=3, sub_pixels=sub_pixels)
        self.second = GatedMaskedConv2d(6, 6, 5, last=True, condition=3, sub_pixels=sub_pixels)
        self.middle = MaskedConv2d(6, 6, 3, **masks)
        self.last = MaskedConv2d(6, sub_pixels * LEVELS, 1, **masks)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        v, h, skip = self.first(x, x, condition)
        skip = skip + self.second(v, h, condition)[2]
        middle = self.middle(nn.functional.elu(skip).tanh())
        return self.last(middle.sigmoid() * skip.relu() + middle)


def problem(sub_pixels: int, dtype: torch.dtype, batch: int = 5, size: tuple[int, int] = (5, 4)) -> dict:
    torch.manual_seed(0)
    network = Network(sub_pixels)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 3
    network.to(dtype)
    stack = stack_of(network, sub_pixels, conditional=True)
    shape = (batch, sub_pixels, *size)
    conditions = stack.condition_vectors(network, torch.randn(batch, 3).to(dtype)).detach()
    return {
        "x": torch.randint(LEVELS, shape, dtype=torch.int32),
        "weights": stack.weights(network),
        "noise": random.uniform(random.key(1), shape, dtype=dtype),
        "program": stack.code,
        "levels": LEVELS,
        "conditions": conditions,
        "free": torch.rand(size) < 0.9,
    }


class Streams(nn.Module):
    """Two resolutions, a plane of ones, a map that is given, a condition that is added, values side by side."""

    def __init__(self, sub_pixels: int, outputs: int):
        super().__init__()
        self.above = ShiftedConv2d(sub_pixels + 1, 4, (2, 3), down=1)
        self.left = ShiftedConv2d(sub_pixels + 1, 4, (2, 1), right=1)
        self.of_features = nn.Conv2d(2, 4, 1)
        self.halve_above, self.halve_left = (
            ShiftedConv2d(8, 6, (2, 3), stride=2),
            ShiftedConv2d(16, 6, (2, 2), stride=2),
        )
        self.double_above = ShiftedConv2d(6, 4, (2, 3), stride=2, transposed=True)
        self.double_left = ShiftedConv2d(6, 4, (2, 2), stride=2, transposed=True)
        self.mix, self.by_class = ShiftedConv2d(4, 10, (2, 2)), nn.Linear(3, 10)
        self.last = nn.Conv2d(5, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor, features: Tensor) -> Tensor:
        x = with_ones(x)
        u, ul = self.above(x), self.left(x) + self.of_features(features)
        low_u, low = self.halve_above(concat_elu(u)), self.halve_left(concat_elu(torch.cat([ul, u], dim=1)))
        h = self.mix(self.double_left(low) + self.double_above(low_u) + ul) + self.by_class(condition)[:, :, None, None]
        return self.last(nn.functional.silu(nn.functional.glu(h, dim=1)))


OUTPUTS = {("mixture", 1): 6, ("mixture", 3): 20, ("quantile", 1): 1, ("categorical", 1): LEVELS}


def streams(head: str, sub_pixels: int, dtype: torch.dtype, batch: int = 3, size: tuple[int, int] = (4, 6)) -> dict:
    torch.manual_seed(0)
    network = Streams(sub_pixels, OUTPUTS[head, sub_pixels])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 3
    network.to(dtype)
    stack = stack_of(network, sub_pixels, head=head, conditional=True, features=2)
    noise = random.uniform(random.key(1), (batch, sub_pixels + (head == "mixture"), *size), dtype=dtype)
    return {
        "x": torch.randint(LEVELS, (batch, sub_pixels, *size), dtype=torch.int32),
        "weights": stack.weights(network),
        "noise": noise,
        "program": stack.code,
        "levels": LEVELS,
        "conditions": stack.condition_vectors(network, torch.randn(batch, 3).to(dtype)).detach(),
        "features": torch.randn(batch, *size, 2).to(dtype),
        "free": torch.rand(size) < 0.9,
    }


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.0])
@pytest.mark.parametrize(("head", "sub_pixels"), OUTPUTS)
def test_the_kernel_draws_the_pixels_of_the_definition_from_every_head(
    head: str, sub_pixels: int, temperature: float
) -> None:
    given = streams(head, sub_pixels, torch.float64) | {"temperature": temperature}
    x = causal_sample(**given)
    assert torch.equal(x, causal_sample(**given, impl="torch"))
    assert torch.equal(x[:, :, ~given["free"]], given["x"][:, :, ~given["free"]]) and len(x.unique()) > 2
    for part in (slice(0, 1), slice(2, 2)):
        of_samples = ("x", "noise", "conditions", "features")
        some = {k: v[part] if k in of_samples else v for k, v in given.items()}
        assert torch.equal(causal_sample(**some), x[part])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sub_pixels", [1, 3])
def test_of_the_same_parameters_a_mixture_draws_the_same_bits_as_the_op_that_draws_alone(
    sub_pixels: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    components, shape = 4, (6, sub_pixels, 5, 7)
    network = nn.Sequential(
        MaskedConv2d(sub_pixels, 4, 3, mask="A"),
        nn.ReLU(),
        nn.Conv2d(4, (3 if sub_pixels == 1 else 10) * components, 1),
    )
    with torch.no_grad():
        network[2].weight.zero_()
        network[2].bias.copy_(2 * torch.randn_like(network[2].bias))
    stack = stack_of(network.to(dtype), sub_pixels, head="mixture")
    params = network[2].bias.detach().view(1, -1, 1, 1).expand(6, -1, 5, 7)
    noise = random.uniform(random.key(5), (6, sub_pixels + 1, 5, 7), sample_offset=2)
    for temperature in (1.0, 0.5, 0.0):
        x = causal_sample(
            torch.zeros(shape, dtype=torch.int32), stack.weights(network), noise, stack.code, levels=200,
            temperature=temperature,
        )  # fmt: skip
        alone = sample_discretized_mixture_logistics(
            params, channels=sub_pixels, key=random.key(5), sample_offset=2, levels=200, temperature=temperature
        )
        assert torch.equal(x, alone.int()), temperature
        if temperature == 0.5:
            defined = reference.draw_mixture(params[..., 0, 0].double(), noise[..., 0, 0].double(), 200, temperature)
            other = sample_discretized_mixture_logistics(
                params[..., 0, 0].double(), channels=sub_pixels, noise=noise[..., 0, 0].double(), levels=200,
                temperature=temperature, impl="torch",
            )  # fmt: skip
            assert torch.equal(defined, other.double())


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("sub_pixels", [1, 3])
def test_the_kernel_draws_the_pixels_of_the_definition(sub_pixels: int, temperature: float) -> None:
    given = problem(sub_pixels, torch.float64) | {"temperature": temperature}
    x = causal_sample(**given)
    assert torch.equal(x, causal_sample(**given, impl="torch"))
    assert torch.equal(x[:, :, ~given["free"]], given["x"][:, :, ~given["free"]])
    assert temperature == 0 or len(x.unique()) == LEVELS


@pytest.mark.parametrize("sub_pixels", [1, 3])
def test_in_float32_a_pixel_is_another_only_at_the_border_of_two_levels(sub_pixels: int) -> None:
    given = problem(sub_pixels, torch.float32, batch=16)
    x = causal_sample(**given)
    network = Network(sub_pixels)  # the same weights again
    torch.manual_seed(0)
    network = Network(sub_pixels)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 3
    condition = torch.randn(16, 3)
    scaled = x.double() * (2 / (LEVELS - 1)) - 1
    logits = network.double()(scaled, condition.double()).unflatten(1, (sub_pixels, LEVELS))  # of the pixels drawn
    cumulative = logits.softmax(2).cumsum(2)  # [B, C, levels, H, W]
    level = x.long().unsqueeze(2)
    above = cumulative.gather(2, level)
    below = torch.where(level > 0, cumulative.gather(2, (level - 1).clamp(min=0)), 0)
    u = given["noise"].double().unsqueeze(2)
    right = (below - 1e-4 < u) & ((u < above + 1e-4) | (level == LEVELS - 1))
    assert bool(right.squeeze(2)[:, :, given["free"]].all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_does_not_depend_on_the_batch_nor_on_threads(dtype: torch.dtype) -> None:
    given = problem(1, dtype, batch=21)
    whole = causal_sample(**given)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(causal_sample(**given), whole)
    finally:
        torch.set_num_threads(threads)
    for part in (slice(0, 1), slice(3, 8), slice(20, 21), slice(4, 4)):
        some = {k: v[part] if k in ("x", "noise", "conditions") else v for k, v in given.items()}
        assert torch.equal(causal_sample(**some), whole[part])


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 9)])
def test_pictures_of_any_size_are_drawn(size: tuple[int, int]) -> None:
    given = problem(3, torch.float64, batch=2, size=size)
    assert torch.equal(causal_sample(**given), causal_sample(**given, impl="torch"))


def test_any_memory_layout_gives_the_same_pixels() -> None:
    given = problem(3, torch.float64)
    x = causal_sample(**given)
    for name in ("noise", "conditions"):
        for layout, tensor in layouts(given[name]).items():
            assert torch.equal(causal_sample(**{**given, name: tensor}), x), (name, layout)
    transposed = given["x"].transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(causal_sample(**{**given, "x": transposed}), x)


def test_the_op_is_a_dispatcher_op_and_compiles() -> None:
    given = problem(1, torch.float32, batch=2, size=(3, 2))
    conditions, noise, free = given["conditions"], given["noise"], given["free"]
    features = noise.new_zeros(2, 3, 2, 0)
    arguments = (given["x"], given["weights"], conditions, features, noise, free, list(given["program"]), LEVELS, 1.0)
    torch.library.opcheck(torch.ops.genkern.causal_sample.default, arguments)
    compiled = torch.compile(lambda x, noise: causal_sample(**{**given, "x": x, "noise": noise}), fullgraph=True)
    assert torch.equal(compiled(given["x"], noise), causal_sample(**given))


def test_the_draw_has_the_frequencies_of_the_softmax() -> None:
    logits = torch.randn(1, LEVELS, dtype=torch.float64)
    uniform = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    drawn = reference.draw(logits.expand(20000, -1), uniform, 0.7)
    expected = (logits[0] / 0.7).softmax(0)
    torch.testing.assert_close(
        torch.bincount(drawn, minlength=LEVELS) / 20000, expected, atol=1e-4, rtol=0, check_dtype=False
    )


def test_a_program_is_its_list_of_numbers() -> None:
    code = problem(3, torch.float64)["program"]
    assert encode(decode(code)) == list(code)


@pytest.mark.parametrize("make", [lambda: problem(1, torch.float64), lambda: streams("mixture", 1, torch.float64)])
def test_a_list_that_is_no_program_is_refused_or_stays_within_its_buffers(make) -> None:
    given, refused = make(), 0
    for place in range(len(given["program"])):
        code = list(given["program"])
        code[place] = 1000
        try:
            x = causal_sample(**{**given, "program": code})
            assert int(x.min()) >= 0 and int(x.max()) < LEVELS
        except (RuntimeError, ValueError) as error:
            assert "program cannot be run: " in str(error) or "causal_sample: " in str(error)
            refused += 1
    assert refused > len(given["program"]) // 2


def test_what_does_not_fit_is_named() -> None:
    given = problem(3, torch.float64)
    wrong = {
        r"x must be int32; got torch.int64": {"x": given["x"].long()},
        r"x must be \[B, 3, H, W\]; got \[5, 2, 5, 4\]": {"x": given["x"][:, :2]},
        r"weights must be float32 or float64; got torch.float16": {"weights": given["weights"].half()},
        r"noise must be \[5, 3, 5, 4\]; got \[4, 3, 5, 4\]": {"noise": given["noise"][:4]},
        r"conditions must be \[5, M\]; got \[4, \d+\]": {"conditions": given["conditions"][:4]},
        r"free must be bool \[5, 4\]; got \[4, 5\]": {"free": given["free"].T},
        r"levels must be 2 or more; got 1": {"levels": 1},
        r"temperature must be 0 or more; got -1": {"temperature": -1},
    }
    for text, change in wrong.items():
        with pytest.raises((ValueError, TypeError), match=f"causal_sample: {text}"):
            causal_sample(**{**given, **change})
    mixture = streams("mixture", 1, torch.float64)
    with pytest.raises(ValueError, match=r"causal_sample: noise must be \[3, 2, 4, 6\]; got \[3, 1, 4, 6\]"):
        causal_sample(**{**mixture, "noise": mixture["noise"][:, :1]})
    with pytest.raises(ValueError, match=r"causal_sample: features must be \[3, 4, 6, F\]; got \[3, 4, 2, 6\]"):
        causal_sample(**{**mixture, "features": mixture["features"].transpose(2, 3)})
    with pytest.raises(RuntimeError, match="causal_sample: features must have 2 channels; got 0"):
        causal_sample(**{**mixture, "features": None})
    with pytest.raises(RuntimeError, match="a height and a width that are multiples of 2; got 4 and 5"):
        cut = {name: mixture[name][..., :5] for name in ("x", "noise", "free")}
        causal_sample(**{**mixture, **cut, "features": mixture["features"][:, :, :5]})
    with pytest.raises(RuntimeError, match="program cannot be run: a condition does not fit"):
        causal_sample(**{**given, "conditions": given["conditions"][:, :2]})
    with pytest.raises(RuntimeError, match="program cannot be run: a run of taps does not fit"):
        causal_sample(**{**given, "weights": given["weights"][:100]})
