import pytest
import torch

from genkern import random
from genkern.ops import simplex_noise
from genkern.ops._native import native_library
from genkern.testing import assert_same_bits

# opensimplex 0.4.5: OpenSimplex(seed).noise2array(x / 1.7, y / 1.7) of x = 0 ... 4, y = 0 ... 2
TWO = {
    0: [
        [0.0, -0.759243356564, -0.519155005461, 0.430797302647, 0.282669741275],
        [-0.494918165254, -0.737034864884, -0.162193022516, 0.377892668376, -0.415509479702],
        [-0.495266186391, -0.161185726306, -0.218772096725, -0.367252405824, -0.249568201814],
    ],
    1234: [
        [0.0, -0.113620244707, 0.426401418128, 0.683941841241, 0.208293810064],
        [0.411280004958, 0.109888008751, -0.388296707202, -0.173231911538, -0.368344575899],
        [-0.42848360241, 0.394341508506, 0.302419722538, -0.040333101057, -0.557755022999],
    ],
    -7: [
        [0.0, 0.278595227337, -0.295962700017, 0.026779292946, 0.157399206049],
        [0.161021535936, -0.169952291485, -0.175447833539, 0.628771323883, 0.458290518542],
        [0.332583212876, -0.437532985751, 0.068904264143, 0.618882392379, -0.143214332452],
    ],
}

# OpenSimplex(seed).noise3array(x / 1.7, y / 1.7, [11 / 1.7])[0]
THREE = {
    0: [
        [0.039640838047, -0.62284903255, -0.470120975498, 0.408066431016, 0.414471925734],
        [0.009953152767, -0.229370376932, -0.137431139081, 0.416218330812, 0.101909952726],
        [-0.395783105631, 0.328468892542, -0.085159202071, 0.034720025185, -0.149997369283],
    ],
    1234: [
        [0.306939284175, 0.055811786478, -0.555423295746, -0.095761956169, 0.670044341554],
        [-0.12427540494, -0.23462346837, 0.17057976542, 0.392264936437, 0.187060905278],
        [0.433232745299, -0.342921151977, 0.075381433751, 0.110143203922, -0.295566648415],
    ],
    -7: [
        [0.047256405378, -0.485867451049, -0.419410820983, 0.367822372125, 0.461144655253],
        [0.226586725997, -0.407102767682, -0.184675410007, 0.374869702591, -0.069850562955],
        [0.242026710055, -0.049744034936, -0.425101477033, -0.098088761759, -0.380569582146],
    ],
}
T = torch.tensor([0.0, 3.5, 100.0])


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_fields_are_those_of_the_opensimplex_package(impl):
    call = {"octaves": 1, "frequency": 1.7, "dtype": torch.float64, "impl": impl}
    two = simplex_noise(list(TWO), (3, 5), **call)
    torch.testing.assert_close(two, torch.tensor(list(TWO.values()), dtype=torch.float64), rtol=0, atol=2e-12)
    three = simplex_noise(list(THREE), (3, 5), t=torch.full((3,), 11), **call)
    torch.testing.assert_close(three, torch.tensor(list(THREE.values()), dtype=torch.float64), rtol=0, atol=2e-12)


@pytest.mark.parametrize("t", [None, T], ids=["two", "three"])
@pytest.mark.parametrize("size", [(3, 5), (40, 65), (7, 128), (1, 1), (0, 4), (4, 0)])
def test_kernels_are_the_definition(size, t):
    seeds = torch.tensor([5, -(2**62), 2**62])
    for frequency in (64.0, 3.3):
        truth = simplex_noise(seeds, size, t=t, frequency=frequency, dtype=torch.float64, impl="torch")
        wide = simplex_noise(seeds, size, t=t, frequency=frequency, dtype=torch.float64)
        torch.testing.assert_close(wide, truth, rtol=0, atol=1e-13)
        found = simplex_noise(seeds, size, t=t, frequency=frequency)
        torch.testing.assert_close(found, truth.float(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("t", [None, 7.5])
def test_every_instruction_set_gives_the_same_bits(t):
    if native_library().why_not:
        pytest.skip("the native library is not built")
    from genkern import _C

    seeds, given = torch.tensor([9]), None if t is None else torch.tensor([t])
    wanted = simplex_noise(seeds, (20, 150), t=given)[0]
    for level in (level for level in (1, 3, 5) if level <= _C.lookup_level()):
        assert_same_bits(torch.from_numpy(_C.simplex_noise_fill(9, t, 20, 150, 6, 0.8, 64.0, level)), wanted)


def test_a_field_depends_on_its_own_seed_and_t_alone():
    seeds = random.split(random.key(0), 3)
    for t in (None, T):
        whole = simplex_noise(seeds, (33, 70), t=t)
        for i in range(3):
            alone = simplex_noise(seeds[i : i + 1], (33, 70), t=None if t is None else t[i : i + 1])
            assert_same_bits(alone[0], whole[i])
        assert not torch.equal(whole[0], whole[1])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert_same_bits(simplex_noise(seeds, (33, 70), t=T), simplex_noise(seeds, (33, 70), t=T))
        assert_same_bits(simplex_noise(seeds, (33, 70), t=T), whole)
    finally:
        torch.set_num_threads(threads)


def test_octaves_add_up():
    seeds = torch.tensor([1, 2])
    whole = simplex_noise(seeds, (20, 20), octaves=3, persistence=0.5, frequency=32.0, dtype=torch.float64)
    parts = [0.5**k * simplex_noise(seeds, (20, 20), octaves=1, frequency=32 / 2**k, dtype=torch.float64)
             for k in range(3)]  # fmt: skip
    torch.testing.assert_close(whole, sum(parts))


def test_raw_fields_have_half_the_scale_of_normal_noise_and_normalized_ones_all_of_it():
    """Six octaves have a standard deviation of 0.506: posterior variances would be wrong by that."""
    seeds = torch.arange(64)
    assert abs(simplex_noise(seeds, (64, 64), t=seeds).std() - 0.506) < 0.03
    field = simplex_noise(seeds, (64, 64), normalize=True)
    assert field.mean((1, 2)).abs().max() < 1e-6
    torch.testing.assert_close(field.var((1, 2), unbiased=False), torch.ones(64))


def test_noise_is_smooth_in_t():
    seeds = torch.tensor([3, 3, 3])
    a, b, c = simplex_noise(seeds, (32, 32), t=torch.tensor([10.0, 10.1, 60.0]))
    assert (a - b).abs().max() < 0.1 < (a - c).abs().max()


def test_compiled_and_exported_equal_eager():
    class Module(torch.nn.Module):
        def forward(self, seeds, t):
            return simplex_noise(seeds, (9, 11)), simplex_noise(seeds, (9, 11), t=t)

    seeds = torch.tensor([1, 2, 3])
    torch._dynamo.reset()
    assert_same_bits(torch.compile(Module(), fullgraph=True)(seeds, T), Module()(seeds, T))
    assert_same_bits(torch.export.export(Module(), (seeds, T)).module()(seeds, T), Module()(seeds, T))
    torch.library.opcheck(torch.ops.genkern.simplex_noise.default,
                          (seeds, T.double(), 9, 11, 6, 0.8, 64.0, torch.float32))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    wanted = simplex_noise([4], (8, 8)).to(dtype)
    assert_same_bits(simplex_noise([4], (8, 8), dtype=dtype), wanted)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: simplex_noise(torch.zeros(2), (3, 4)), TypeError, "seeds must be int64; got torch.float32"),
        (lambda: simplex_noise(torch.tensor(3), (3, 4)), ValueError, r"seeds must be \[B\]; got \[\]"),
        (lambda: simplex_noise([1], (3, -4)), ValueError, r"size must be a height and a width; got \(3, -4\)"),
        (lambda: simplex_noise([1], (3, 4), octaves=0), ValueError, "octaves must be an int, at least 1; got 0"),
        (lambda: simplex_noise([1], (3, 4), frequency=0.0), ValueError, "frequency must be positive; got 0.0"),
        (lambda: simplex_noise([1], (3, 4), dtype=torch.int32), TypeError, "dtype must be floating; got torch.int32"),
        (lambda: simplex_noise([1], (3, 4), t=1.0), TypeError, "t must be a tensor; got float"),
        (lambda: simplex_noise([1], (3, 4), t=torch.zeros(2)), ValueError, r"t must be \[B\] = \[1\]; got \[2\]"),
    ],
)
def test_errors_name_the_argument(call, error, text):
    with pytest.raises(error, match=f"simplex_noise: {text}"):
        call()
