"""Counter-based random numbers: keys, and the noise of every sample as a function of its key and indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import KERNEL_DTYPES, check
from .._library import LIBRARY, Op, define_op
from . import reference

_DRAW = "(Tensor key, SymInt samples, SymInt elements, ScalarType dtype, SymInt sample_offset) -> Tensor"
_normal = define_op("random_normal", reference.random_normal, schema=_DRAW)
_uniform = define_op("random_uniform", reference.random_uniform, schema=_DRAW)
_fold_in = define_op(
    "random_fold_in", reference.random_fold_in, schema="(Tensor key, Tensor number, int domain) -> Tensor"
)

# Compiled code calls the definition, too, as one opaque op: Inductor would inline it for hours.
for _op in (_normal, _uniform, _fold_in):
    LIBRARY.impl(_op.name, _op.definition, "CompositeExplicitAutograd")

# Opaque to compilers: the same key eager and compiled, two draws are never merged, checkpointing replays it.
LIBRARY.define("random_draw_key(Device device) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))


def _draw_key(device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    return torch.randint(-(2**63), 2**63 - 1, (), generator=generator, device=device)


LIBRARY.impl("random_draw_key", _draw_key, "BackendSelect")


@torch.library.register_fake("genkern::random_draw_key", lib=LIBRARY)
def _fake_key(device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=device)


def key(seed: int, *, device: torch.device | str | None = None) -> Tensor:
    """A key: a 64-bit seed as an int64 tensor of shape [], on the device where its noise will be drawn.

    Args:
        seed: any integer in [-2^63, 2^64); equal modulo 2^64 is equal.
        device: None: the default device.

    Returns:
        The key, int64, [].

    Raises:
        ValueError, TypeError: if `seed` is not such an integer.

    >>> key(42)
    tensor(42)
    """
    return torch.full((), _int64("key", "seed", seed), dtype=torch.int64, device=device)


def key_from(generator: torch.Generator | None = None, *, device: torch.device | str | None = None) -> Tensor:
    """Draws a key on the device from a generator, or from the device's default one; no host synchronisation.

    Under `torch.compile` only the default generator can be used (a generator is not an input of a graph).

    Args:
        generator: None: the default generator of the device.
        device: of the key; None: that of the generator, or the default device.

    Returns:
        A key, int64, [].

    Raises:
        ValueError, TypeError: if `generator` is none, or of another kind of device.

    >>> a = key_from(torch.Generator().manual_seed(0))
    >>> b = key_from(torch.Generator().manual_seed(0))
    >>> bool(a == b)
    True
    """
    if generator is None:
        place = torch.empty(()).device if device is None else torch.device(device)  # the default, also compiled
        return torch.ops.genkern.random_draw_key(place)
    check(
        isinstance(generator, torch.Generator),
        "key_from",
        "generator",
        "a torch.Generator",
        type(generator).__name__,
        TypeError,
    )
    place = generator.device if device is None else torch.device(device)
    check(place.type == generator.device.type, "key_from", "device", f"that of generator ({generator.device})", place)
    return _draw_key(place, generator)


def fold_in(key: Tensor, data: int | Tensor) -> Tensor:
    """Derives the key of a number (a step, a layer, a class) from a key: a hash of both.

    Args:
        key: int64 keys of any shape.
        data: an int in [-2^63, 2^64), or int64 numbers of a shape that broadcasts with that of `key`.

    Returns:
        Keys of the broadcast shape, on the device of `key`; computed there, without synchronisation.

    Raises:
        ValueError, TypeError: if `key` or `data` cannot be used.

    >>> fold_in(key(0), 1) == fold_in(key(0), torch.tensor([1, 2]))
    tensor([ True, False])
    """
    _check_int64("fold_in", "key", key)
    if isinstance(data, Tensor):
        _check_int64("fold_in", "data", data)
        check(data.device == key.device, "fold_in", "data", f"on the device of key ({key.device})", data.device)
    else:
        data = torch.full((), _int64("fold_in", "data", data), dtype=torch.int64, device=key.device)
    return _derive("fold_in", key, data, reference.FOLD_IN)


def split(key: Tensor, num: int = 2) -> Tensor:
    """Derives independent keys from one; none of them equals any that `fold_in` gives.

    Args:
        key: one key, [].
        num: how many.

    Returns:
        Keys, int64, ``[num]``.

    Raises:
        ValueError, TypeError: if `key` is not one key, or `num` less than 1.

    >>> first, second = split(key(0))
    """
    _check_key("split", key)
    check(num >= 1, "split", "num", "at least 1", num)
    numbers = torch.arange(num, device=key.device)
    return _derive("split", key, numbers, reference.SPLIT)


def normal(
    key: Tensor,
    shape: int | Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    sample_offset: int = 0,
    impl: str = "auto",
) -> Tensor:
    r"""Standard normal numbers that depend on the key, the sample and the element within it, and on nothing else.

    .. math:: x_{s,e} = \sqrt{-2 \ln u}\, (\cos \theta, \sin \theta)_{e \bmod 2}, \qquad
              (u, \theta) = \mathrm{Philox}_{key}(\lfloor e / 4 \rfloor, 0, s)_{e \bmod 4}

    So a batch drawn in parts, by several processes, or on another device has the same bits, and one sample can be
    drawn again alone. A key is for one draw: `normal` and `uniform` of the same key are functions of the same words.

    Args:
        key: from `key`, `fold_in`, `split` or `key_from`; int64, [].
        shape: ``shape[0]`` counts samples; all other dimensions together index the element.
        dtype: of the result: the float32 number, rounded (float64: widened, with 24 significant bits).
        sample_offset: index of the first sample, where this is a part of a larger batch.
        impl: ``"auto"``, or ``"torch"`` for the definition.

    Returns:
        A contiguous tensor on the device of `key`, within ±6.66.

    Raises:
        ValueError, TypeError: if `key`, `shape`, `dtype` or `sample_offset` cannot be used.

    No derivative. Under `torch.vmap` over keys, every lane draws its own noise (not inside `torch.compile`).
    Salmon et al. 2011 (Philox4x32-10); Box & Muller 1958.

    >>> x = normal(key(0), (8, 3, 4, 4))
    >>> torch.equal(x[6:], normal(key(0), (2, 3, 4, 4), sample_offset=6))
    True
    """
    return _draw(_normal, "normal", key, shape, dtype, sample_offset, impl)


def uniform(
    key: Tensor,
    shape: int | Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    sample_offset: int = 0,
    impl: str = "auto",
) -> Tensor:
    r"""Uniform numbers in the open interval (0, 1), which depend on the same as those of `normal`.

    .. math:: x_{s,e} = (\lfloor w / 2^9 \rfloor + 1/2)\, 2^{-23}, \qquad
              w = \mathrm{Philox}_{key}(\lfloor e / 4 \rfloor, 0, s)_{e \bmod 4}

    Args:
        key, shape, dtype, sample_offset, impl: as for `normal`.

    Returns:
        A contiguous tensor on the device of `key`. In bfloat16 and float16 a number that would round to 1 is the
        largest one below.

    Raises:
        ValueError, TypeError: as `normal`.

    >>> x = uniform(key(0), (8, 3))
    >>> bool((x > 0).all() and (x < 1).all())
    True
    """
    return _draw(_uniform, "uniform", key, shape, dtype, sample_offset, impl)


def _draw(
    op: Op,
    function: str,
    key: Tensor,
    shape: int | Sequence[int],
    dtype: torch.dtype,
    sample_offset: int,
    impl: str,
) -> Tensor:
    _check_key(function, key)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    check(all(size >= 0 for size in shape), function, "shape", "without negative sizes", list(shape))
    check(dtype in KERNEL_DTYPES, function, "dtype", "float32, float64, bfloat16 or float16", dtype, TypeError)
    samples, elements = shape[0] if shape else 1, math.prod(shape[1:])
    check(elements <= 2**34, function, "shape", "of at most 2^34 elements a sample", list(shape))
    check(0 <= sample_offset < 2**63 - samples, function, "sample_offset", "in [0, 2^63 - samples)", sample_offset)
    return _call(function, op, (key,), (samples, elements, dtype, sample_offset), impl).reshape(shape)


def _derive(function: str, key: Tensor, number: Tensor, domain: int) -> Tensor:
    return _call(function, _fold_in, tuple(torch.broadcast_tensors(key, number)), (domain,), "auto")


def _call(function: str, op: Op, tensors: tuple[Tensor, ...], rest: tuple[Any, ...], impl: str) -> Tensor:
    """Runs the op; under `torch.vmap` the definition, which draws lane by lane; compiled always the opaque op."""
    check(impl in ("auto", "torch"), function, "impl", "'auto' or 'torch'", repr(impl))
    batched = any(torch._C._functorch.is_batchedtensor(tensor) for tensor in tensors)
    if not torch.compiler.is_compiling():
        return op(*tensors, *rest, impl="torch" if batched else impl)
    if batched:
        raise RuntimeError(f"{function}: torch.vmap over keys inside torch.compile is not implemented; map outside.")
    return op.overload(*tensors, *rest)


def _check_key(function: str, key: Tensor) -> None:
    _check_int64(function, "key", key)
    check(key.dim() == 0, function, "key", "one key, of shape []", key.shape)


def _check_int64(function: str, argument: str, value: Tensor) -> None:
    check(isinstance(value, Tensor), function, argument, "an int64 tensor", type(value).__name__, TypeError)
    check(value.dtype == torch.int64, function, argument, "an int64 tensor", value.dtype, TypeError)


def _int64(function: str, argument: str, value: int) -> int:
    check(isinstance(value, int | torch.SymInt), function, argument, "an int", type(value).__name__, TypeError)
    check(-(2**63) <= value < 2**64, function, argument, "in [-2^63, 2^64)", value)
    return value - 2**64 if value >= 2**63 else value


__all__ = ["fold_in", "key", "key_from", "normal", "split", "uniform"]
