"""Records what vector-quantize-pytorch 1.32 computes; with it installed: python tests/nn/peers/make_vector_quantize.py

For every case: the state before, three training steps on given batches, and an evaluation step.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

STEPS = 3
# name: (class, arguments, shape of x, arguments of forward)
CASES: dict[str, tuple] = {
    "plain": ("VectorQuantize", {"dim": 6, "codebook_size": 9}, (2, 11, 6), {}),
    "straight": (
        "VectorQuantize",
        {"dim": 6, "codebook_size": 9, "rotation_trick": False, "decay": 0.5, "commitment_weight": 0.3},
        (2, 11, 6),
        {},
    ),
    "one": ("VectorQuantize", {"dim": 6, "codebook_size": 5}, (7, 6), {}),
    "channels": ("VectorQuantize", {"dim": 6, "codebook_size": 5, "channel_last": False}, (2, 6, 7), {}),
    "map": ("VectorQuantize", {"dim": 4, "codebook_size": 9, "accept_image_fmap": True}, (2, 4, 3, 5), {}),
    "volume": ("VectorQuantize", {"dim": 4, "codebook_size": 9, "accept_3d_fmap": True}, (2, 4, 2, 3, 2), {}),
    "projected": ("VectorQuantize", {"dim": 6, "codebook_size": 9, "codebook_dim": 3}, (2, 11, 6), {}),
    "cosine": ("VectorQuantize", {"dim": 6, "codebook_size": 9, "use_cosine_sim": True}, (2, 11, 6), {}),
    "heads": ("VectorQuantize", {"dim": 6, "codebook_size": 5, "heads": 2, "codebook_dim": 3}, (2, 11, 6), {}),
    "head-codebooks": (
        "VectorQuantize",
        {"dim": 6, "codebook_size": 5, "heads": 2, "codebook_dim": 3, "separate_codebook_per_head": True},
        (2, 11, 6),
        {},
    ),
    "learnable": (
        "VectorQuantize",
        {"dim": 6, "codebook_size": 9, "learnable_codebook": True, "ema_update": False},
        (2, 11, 6),
        {},
    ),
    "orthogonal": ("VectorQuantize", {"dim": 6, "codebook_size": 9, "orthogonal_reg_weight": 2.0}, (2, 11, 6), {}),
    "masked": ("VectorQuantize", {"dim": 6, "codebook_size": 9}, (2, 11, 6), {"mask": "mask"}),
    "lengths": (
        "VectorQuantize",
        {"dim": 6, "codebook_size": 9, "return_zeros_for_masked_padding": False},
        (2, 11, 6),
        {"lens": "lens"},
    ),
    "residual": ("ResidualVQ", {"dim": 6, "codebook_size": 9, "num_quantizers": 3}, (2, 11, 6), {}),
    "residual-shared": (
        "ResidualVQ",
        {"dim": 6, "codebook_size": 9, "num_quantizers": 3, "shared_codebook": True, "codebook_dim": 4},
        (2, 11, 6),
        {},
    ),
    "residual-dropout": (
        "ResidualVQ",
        {"dim": 6, "codebook_size": 9, "num_quantizers": 4, "quantize_dropout": True},
        (2, 11, 6),
        {"rand_quantize_dropout_fixed_seed": 3},
    ),
    "fsq": ("FSQ", {"levels": [8, 5, 5, 3]}, (2, 11, 4), {}),
    "fsq-map": ("FSQ", {"levels": [4, 3], "dim": 5, "num_codebooks": 2}, (2, 5, 3, 4), {}),
    "fsq-symmetric": ("FSQ", {"levels": [2, 4, 5], "preserve_symmetry": True}, (2, 11, 3), {}),
    "lfq": ("LFQ", {"codebook_size": 64, "commitment_loss_weight": 0.2}, (2, 11, 6), {"inv_temperature": 0.2}),
    "lfq-map": ("LFQ", {"codebook_size": 16, "dim": 5, "num_codebooks": 2}, (2, 5, 3, 4), {"inv_temperature": 0.1}),
    "lfq-spherical": ("LFQ", {"codebook_size": 16, "spherical": True}, (2, 11, 4), {"inv_temperature": 0.7}),
}


def batch(shape: tuple[int, ...], step: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


def options(given: dict) -> dict:
    known = {"mask": torch.arange(22).reshape(2, 11) % 3 != 0, "lens": torch.tensor([4, 9])}
    return {name: known.get(value, value) if isinstance(value, str) else value for name, value in given.items()}


def record(library: object) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, (kind, arguments, shape, forward) in CASES.items():
        torch.manual_seed(0)
        layer = getattr(library, kind)(**arguments)
        found |= {f"{name}/before/{key}": value.clone() for key, value in layer.state_dict().items()}
        for step in range(STEPS + 1):
            layer.train(step < STEPS)
            x = batch(shape, step).requires_grad_()
            outputs = [value for value in layer(x, **options(forward)) if value is not None]
            found |= {f"{name}/{step}/{i}": value.detach().clone() for i, value in enumerate(outputs)}
            if step < STEPS:
                (outputs[0].square().sum() + sum(loss.sum() for loss in outputs[2:])).backward()
                found[f"{name}/{step}/gradient"] = x.grad.clone()
                layer.zero_grad()
        found |= {f"{name}/after/{key}": value.clone() for key, value in layer.state_dict().items()}
        index = outputs[1].clamp(min=0)
        decode = "get_output_from_indices" if hasattr(layer, "get_output_from_indices") else "indices_to_codes"
        found[f"{name}/decoded"] = getattr(layer, decode)(index).detach().clone()
    return found


if __name__ == "__main__":
    import vector_quantize_pytorch

    path = Path(__file__).with_name("vector_quantize.safetensors")
    save_file({key: value.contiguous() for key, value in record(vector_quantize_pytorch).items()}, path)
