import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.testing import assert_close

from genkern.nn import FSQ, LFQ, ResidualVQ, VectorQuantize, VectorQuantizer, rotate_to, straight_through
from genkern.nn.quantize.lfq import code_distribution, code_entropies


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantizer(dim: int, codes: int, seed: int = 0, **options) -> VectorQuantizer:
    torch.manual_seed(seed)
    return VectorQuantizer(dim, codes, **options)


# -- the codebook --------------------------------------------------------------------------------------------------


def test_moving_averages_are_those_of_the_definition_and_the_codes_used_are_the_old_ones():
    layer, x = quantizer(5, 7, decay=0.9), drawn(4, 5, 3, 2)
    before = {name: value.clone() for name, value in layer.codebook.state_dict().items()}
    out = layer(x)
    rows = x.permute(0, 2, 3, 1).reshape(-1, 5)
    index = torch.cdist(rows, before["embed"][0]).argmin(1)
    assert torch.equal(out.indices.flatten(), index) and torch.equal(
        out.quantized, layer_layout(before["embed"][0][index])
    )
    one_hot = torch.nn.functional.one_hot(index, 7).double()
    n = 0.9 * before["cluster_size"][0].double() + 0.1 * one_hot.sum(0)
    m = 0.9 * before["embed_avg"][0].double() + 0.1 * one_hot.T @ rows.double()
    smoothed = (n + 1e-5) / (n.sum() + 7e-5) * n.sum()
    assert_close(layer.codebook.cluster_size[0].double(), n, rtol=1e-6, atol=1e-6)
    assert_close(layer.codebook.embed[0].double(), m / smoothed[:, None], rtol=1e-6, atol=1e-6)


def layer_layout(rows: Tensor) -> Tensor:
    return rows.view(4, 3, 2, 5).permute(0, 3, 1, 2)


def test_perplexity_and_usage_are_those_of_the_batch():
    layer, x = quantizer(5, 7), drawn(40, 5)
    out = layer(x)
    frequency = torch.bincount(out.indices, minlength=7) / 40
    assert_close(out.perplexity, torch.exp(-torch.xlogy(frequency, frequency).sum()))
    assert out.usage == (frequency > 0).float().mean()
    assert layer.eval()(x).perplexity is None


def test_evaluation_and_freezing_change_nothing():
    torch.manual_seed(0)
    layer = VectorQuantize(5, 7, threshold_ema_dead_code=2, freeze_codebook=True)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(drawn(3, 8, 5)), layer.eval()(drawn(3, 8, 5))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("rows", [64, 5])
def test_a_dead_code_becomes_a_vector_of_the_batch_with_count_and_sum(rows):
    layer, x = quantizer(3, 16, threshold=1.5), drawn(rows, 3, seed=1) + 5
    layer(x)
    book = layer.codebook
    n, codes = book.cluster_size[0], book.embed[0]
    from_batch = (codes[:, None] == x).all(-1)
    revived = from_batch.any(1)
    assert (n[~revived] >= 1.5).all() if rows >= 16 else revived.any()
    assert (n[revived] == 1.5).all()
    assert_close(book.embed_avg[0][revived], codes[revived] * 1.5)
    assert from_batch.sum(0).max() == 1, "no vector revives two codes"


def test_revival_brings_every_code_of_a_bad_start_into_use():
    layers = {threshold: quantizer(2, 32, threshold=threshold, decay=0.8) for threshold in (0.0, 1.0)}
    perplexity = {}
    for threshold, layer in layers.items():
        for step in range(40):
            perplexity[threshold] = layer(3 + drawn(512, 2, seed=step)).perplexity
    assert perplexity[1.0] > 0.8 * 32 and perplexity[0.0] < 0.5 * 32


def test_k_means_lowers_the_distortion_to_that_of_lloyds_algorithm():
    centres = drawn(8, 4) * 10
    x = centres.repeat(30, 1) + 0.1 * drawn(240, 4, seed=1)
    layer = quantizer(4, 8, kmeans_init=True)
    first = layer(x)
    assert not layer.codebook.pending and bool(layer.codebook.initted)
    means = torch.stack([x[first.indices == k].mean(0) for k in first.indices.unique()])
    start = quantizer(4, 8, kmeans_init=True)
    start.eval()(x)
    assert_close(start.codebook.embed[0][first.indices.unique()], means, rtol=1e-4, atol=1e-4)
    assert float((first.quantized - x).square().mean()) < 0.3 * float(x.var())
    loaded = quantizer(4, 8, kmeans_init=True)
    loaded.load_state_dict(layer.state_dict())
    assert not loaded.codebook.pending


def test_a_run_goes_on_from_its_state_bit_for_bit():
    options = {"threshold": 1.0, "kmeans_init": True}
    whole, part = (quantizer(3, 9, **options) for _ in range(2))
    for step in range(3):
        whole(drawn(20, 3, seed=step)), part(drawn(20, 3, seed=step))
    resumed = quantizer(3, 9, seed=5, **options)
    resumed.load_state_dict(part.state_dict())
    for step in range(3, 6):
        whole(drawn(20, 3, seed=step)), resumed(drawn(20, 3, seed=step))
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


# -- gradients and losses --------------------------------------------------------------------------------------------


def test_the_commitment_weight_is_on_the_commitment_term_unless_legacy():
    for legacy, weights in ((False, (1.0, 0.25)), (True, (0.25, 1.0))):
        layer, x = quantizer(5, 7, codebook="gradient", legacy=legacy), drawn(30, 5).requires_grad_()
        out = layer(x)
        codes = layer.codebook.embed[0][out.indices]
        grads = torch.autograd.grad(out.loss, [x, layer.codebook.embed])
        assert_close(grads[0], weights[1] * 2 * (x - codes).detach() / x.numel())
        wanted = torch.zeros(7, 5).index_add_(0, out.indices, weights[0] * 2 * (codes - x).detach() / x.numel())
        assert_close(grads[1][0], wanted)


def test_gradients_pass_straight_or_turn_with_the_vector():
    x, q, g = drawn(6, 5).double().requires_grad_(), drawn(6, 5, seed=1).double(), drawn(6, 5, seed=2).double()
    assert torch.equal(straight_through(x, q), q) and torch.equal(rotate_to(x, q), q)
    assert torch.equal(torch.autograd.grad(straight_through(x, q), x, g)[0], g)
    turned = torch.autograd.grad(rotate_to(x, q), x, g)[0]
    for row in range(6):  # of the definition: constants around the last x
        u, v = x[row].detach() / x[row].detach().norm(), q[row] / q[row].norm()
        w = (u + v) / (u + v).norm()
        rotation = torch.eye(5).double() - 2 * torch.outer(w, w) + 2 * torch.outer(v, u)
        matrix = q[row].norm() / x[row].detach().norm() * rotation
        assert_close(matrix @ x[row].detach(), q[row])
        assert_close(turned[row], matrix.T @ g[row])
    zero = torch.zeros(1, 5, requires_grad=True)
    assert torch.equal(rotate_to(zero, q[:1].float()), q[:1].float())
    assert torch.autograd.grad(rotate_to(zero, q[:1].float()).sum(), zero)[0].isfinite().all()


def test_masked_vectors_are_seen_by_nothing():
    mask = torch.arange(24).view(2, 12) % 4 != 0
    layers = [quantizer(5, 7, threshold=1.0, kmeans_init=True, dim_of_features=-1) for _ in range(2)]
    x = drawn(2, 12, 5)
    with_mask = layers[0](x.masked_fill(~mask.unsqueeze(-1), math.nan), mask)
    alone = layers[1](x[mask])
    assert torch.equal(with_mask.indices[mask], alone.indices) and (with_mask.indices[~mask] == -1).all()
    assert_close(with_mask.loss, alone.loss) and assert_close(with_mask.perplexity, alone.perplexity)
    state = layers[1].state_dict()
    assert all(torch.equal(value, state[name]) for name, value in layers[0].state_dict().items())


def test_bfloat16_maps_are_quantised_in_float32():
    layer, x = quantizer(6, 40), (drawn(2, 6, 5, 4) + 10).bfloat16().requires_grad_()
    layer.codebook.embed += 10
    codes = layer.codebook.embed[0].clone()
    out = layer(x)
    rows = x.detach().permute(0, 2, 3, 1).reshape(-1, 6).double()
    assert torch.equal(out.indices.flatten(), torch.cdist(rows, codes.double()).argmin(1))
    assert out.quantized.dtype == torch.bfloat16 and out.loss.dtype == torch.float32
    (out.quantized.float().sum() + out.loss).backward()
    assert x.grad.isfinite().all()


def test_a_training_step_compiles_whole():
    torch._dynamo.reset()
    eager, compiled = (quantizer(5, 7, threshold=1.0, rotation_trick=True) for _ in range(2))
    step = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        x = drawn(3, 5, 4, seed=seed).requires_grad_()
        wanted, found = eager(x), step(x)
        assert torch.equal(found.indices, wanted.indices) and torch.equal(found.quantized, wanted.quantized)
        grads = [torch.autograd.grad(out.quantized.square().sum() + out.loss, x)[0] for out in (wanted, found)]
        assert_close(*grads)
    assert all(torch.equal(value, compiled.state_dict()[name]) for name, value in eager.state_dict().items())


# -- residual, finite scalar and lookup-free ---------------------------------------------------------------------------


def test_a_residual_quantiser_gives_the_same_bits_without_gradients_and_leaves_its_input_alone():
    torch.manual_seed(0)
    layer = ResidualVQ(dim=4, codebook_size=16, num_quantizers=3).eval()
    x = torch.randn(2, 30, 4)
    given = x.clone()
    kept = layer(x.clone().requires_grad_())
    with torch.no_grad():
        found = layer(x)
    assert torch.equal(x, given) and all(torch.equal(a, b) for a, b in zip(found, kept, strict=True))


def test_every_level_of_a_residual_quantiser_quantises_what_is_left():
    torch.manual_seed(0)
    layer = ResidualVQ(dim=4, codebook_size=16, num_quantizers=3, accept_image_fmap=True, kmeans_init=True)
    x = drawn(2, 4, 6, 5)
    layer(x)
    quantized, index, losses, codes = layer.eval()(x, return_all_codes=True)
    assert index.shape == (2, 6, 5, 3) and losses.shape == (3,) and codes.shape == (3, 2, 6, 5, 4)
    residual = x.permute(0, 2, 3, 1)
    errors = []
    for level in range(3):
        nearest = torch.cdist(residual.reshape(-1, 4), layer.codebooks[level]).argmin(1).view(2, 6, 5)
        assert torch.equal(index[..., level], nearest)
        residual = residual - codes[level]
        errors.append(float(residual.square().mean()))
    assert errors[0] > errors[1] > errors[2]
    assert_close(quantized.permute(0, 2, 3, 1), codes.sum(0)) and assert_close(
        layer.get_output_from_indices(index), codes.sum(0)
    )


def test_levels_left_out_are_the_same_in_every_process_and_in_any_run():
    kept = []
    for _ in range(2):
        torch.manual_seed(0)
        layer = ResidualVQ(dim=4, codebook_size=8, num_quantizers=4, quantize_dropout=True)
        kept.append([int((layer(drawn(2, 6, 4, seed=i))[1][0, 0] >= 0).sum()) for i in range(8)])
    assert kept[0] == kept[1] and len(set(kept[0])) > 1


def test_fsq_reaches_all_codes_in_bfloat16_and_counts_beyond_31_bits():
    layer = FSQ([8, 6, 5])
    codes = layer.implicit_codebook
    assert torch.equal(layer.codes_to_indices(codes), torch.arange(240, dtype=torch.int32))
    z = (drawn(1, 20000, 3) * 1.5).bfloat16()
    assert len(layer(z)[1].unique()) == 240 and torch.equal(layer(z)[1], layer(z.float())[1])
    large = FSQ([16] * 9)
    index = large(torch.full((1, 1, 9), 10.0))[1]
    assert index.dtype == torch.int64 and int(index) == 16**9 - 1
    assert torch.equal(large.indices_to_codes(index), large(torch.full((1, 1, 9), 10.0))[0])


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_entropies_of_factorised_codes_are_those_of_all_codes(bits):
    logits = (3 * drawn(50, bits)).double().requires_grad_()
    table = torch.tensor([[(k >> (bits - 1 - i)) & 1 for i in range(bits)] for k in range(2**bits)]).double()
    every = (logits @ table.T).softmax(1)  # [N, 2^d]
    per_sample, mean = code_entropies(logits)
    assert_close(mean, every.mean(0))
    assert_close(per_sample, -torch.xlogy(every, every).sum(1).mean())
    for found, wanted in ((per_sample, -torch.xlogy(every, every).sum(1).mean()), (mean[0], every.mean(0)[0])):
        assert_close(*(torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, wanted)))


def test_entropies_stay_finite_for_extreme_logits_and_many_bits():
    logits = torch.tensor([[1e4, -1e4, 0.0, 100.0, -100.0, 1e-30]], requires_grad=True)
    per_sample, mean = code_entropies(logits)
    (grad,) = torch.autograd.grad(per_sample + mean.square().sum(), logits)
    assert_close(per_sample, torch.tensor(2 * math.log(2))) and assert_close(mean.sum(), torch.tensor(1.0))
    assert grad.isfinite().all()
    assert code_distribution(torch.full((3, 18), 0.5)).shape == (2**18,)
    layer = LFQ(codebook_size=2**18, dim=18)
    x = drawn(2, 8, 18).requires_grad_()
    layer(x).entropy_aux_loss.backward()
    assert x.grad.isfinite().all() and x.grad.any()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: VectorQuantize(4, 8, affine_param=True), "VectorQuantize: affine_param must be False, the only value"),
        (lambda: VectorQuantize(4, 8, learnable_codebook=True, ema_update=True), "VectorQuantize: ema_update must be"),
        (lambda: VectorQuantize(4, 8, accept_image_fmap=True)(drawn(1, 4, 2, 2), mask=drawn(1, 4) > 0), "mask must be"),
        (lambda: VectorQuantizer(4, 8, codebook="magic"), "VectorQuantizer: codebook must be one of"),
        (lambda: FSQ([2, 3]), "FSQ: levels must be 3 or more"),
        (lambda: FSQ([4, 3])(torch.zeros(1, 2, 3)), "FSQ: z must have 2 features"),
        (lambda: LFQ(codebook_size=12), "LFQ: codebook_size must be a power of two; got 12"),
        (lambda: ResidualVQ(dim=4, codebook_size=8), "ResidualVQ: num_quantizers must be given"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(build, text):
    with pytest.raises(ValueError, match=text):
        build()


# -- several processes -------------------------------------------------------------------------------------------------

UNEVEN = {1: [48], 2: [20, 28], 4: [7, 0, 30, 11]}


def trained(x: Tensor, first: int, count: int) -> dict[str, Tensor]:
    """The states of quantisers after three steps on this process's share of each batch."""
    options = [{"threshold": 3.0, "kmeans_init": True}, {"threshold": 2.0, "cosine": True}, {"codebook": "gradient"}]
    found = {}
    for i, option in enumerate(options):
        layer = quantizer(6, 16, decay=0.8, dim_of_features=-1, **option)
        for step in range(3):
            mask = torch.arange(48) % 5 != step
            out = layer(x[step, first : first + count], mask[first : first + count])
            found[f"{i} perplexity {step}"] = out.perplexity
        found |= {f"{i} {name}": value.detach().clone() for name, value in layer.state_dict().items()}
    return found


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    shares = UNEVEN[world]
    torch.save(trained(batches(), sum(shares[:rank]), shares[rank]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def batches() -> Tensor:
    return drawn(3, 48, 6) * torch.logspace(-2, 2, 6)


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file store is for POSIX")
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_keep_the_codebook_of_one_bit_for_bit(world: int, tmp_path: Path) -> None:
    mp.spawn(work, args=(world, str(tmp_path)), nprocs=world)
    alone = trained(batches(), 0, 48)
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            assert torch.equal(found[name], value), (rank, name)
