"""Counter-based random numbers in plain PyTorch: the definition, bit for bit, of what every kernel draws.

Words are held in int64 tensors and masked to 32 bits. Floating-point steps are single IEEE 754 operations in
float32, each rounded once, in the order written; so eager PyTorch, C++, CUDA and Triton agree in every bit.
"""

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
NOISE, FOLD_IN, SPLIT = 0, 1, 2  # the second word of a counter: what is drawn with it


def product(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * b for 32-bit a and b, without overflow of int64 (compilers take it as undefined)."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(key: Tensor, x: Tensor, y: Tensor, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 of a counter (x, y, z, w) under a 64-bit key (Salmon et al. 2011); all int64, broadcast."""
    k0, k1 = key & MASK, (key >> 32) & MASK
    for _ in range(10):
        (high_x, low_x), (high_z, low_z) = product(0xD2511F53, x), product(0xCD9E8D57, z)
        x, y, z, w = high_z ^ y ^ k0, low_z, high_x ^ w ^ k1, low_x
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return x, y, z, w


def noise_words(key: Tensor, samples: int, elements: int, sample_offset: int) -> tuple[Tensor, ...]:
    """Four words [samples, ceil(elements / 4)]: word j of quad q belongs to element 4 q + j."""
    sample = sample_offset + torch.arange(samples, device=key.device).unsqueeze(1)
    quad = torch.arange((elements + 3) // 4, device=key.device).unsqueeze(0)
    zero = torch.zeros_like(sample + quad)
    return philox(key, zero + quad, zero + NOISE, zero + (sample & MASK), zero + ((sample >> 32) & MASK))


def to_uniform(word: Tensor) -> Tensor:
    """Odd multiples of 2^-24: 32 bits to float32 in (0, 1), exactly."""
    return ((word >> 9).to(torch.float32) + 0.5) * 2.0**-23


def log(u: Tensor) -> Tensor:
    """ln u for u in (0, 1], to about one ulp: u = 2^k (1 + f), with 1 + f in [sqrt(1/2), sqrt(2))."""
    shifted = u.view(torch.int32) - 0x3F3504F3
    k = (shifted >> 23).to(torch.float32)
    f = ((shifted & 0x007FFFFF) + 0x3F3504F3).view(torch.float32) - 1.0
    p = torch.full_like(f, 7.0376836292e-2)
    for coefficient in (-1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
                        2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1):  # fmt: skip
        p = p * f + coefficient
    return (f + (p * f - 0.5) * (f * f)) + k * 0.69314718056


def sqrt(x: Tensor) -> Tensor:
    """The float32 square root as IEEE 754 rounds it; `torch.sqrt` in float32 may be a vector library's, an ulp off."""
    return x.sqrt() if x.device.type == "mps" else x.to(torch.float64).sqrt().to(torch.float32)


def box_muller(radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normal numbers from two words (Box & Muller 1958); none is beyond 6.66."""
    u = ((radius >> 1).to(torch.float32) + 0.5) * 2.0**-31  # in [2^-32, 1]
    r = sqrt(log(u) * -2.0)
    signed = (((angle << 2) + 2**31) & MASK) - 2**31  # the low 30 bits, as a multiple of 4
    t = signed.to(torch.float32) * 3.6572951981e-10  # pi/2 2^-32: t in [-pi/4, pi/4]
    z = t * t
    sine = ((z * -1.9515295891e-4 + 8.3321608736e-3) * z - 1.6666654611e-1) * z * t + t
    cosine = (z * 2.443315711809948e-5 - 1.388731625493765e-3) * z + 4.166664568298827e-2
    cosine = cosine * (z * z) - z * 0.5 + 1.0
    cosine = torch.where(angle >> 31 != 0, -cosine, cosine)
    swap = (angle >> 30) & 1 != 0
    return r * torch.where(swap, sine, cosine), r * torch.where(swap, cosine, sine)


def rows(columns: tuple[Tensor, ...], elements: int) -> Tensor:
    """Four columns [samples, quads] to [samples, elements]."""
    quads = torch.stack(columns, dim=-1)  # [samples, quads, 4]
    return quads.reshape(quads.shape[0], 4 * quads.shape[1])[:, :elements].contiguous()


def random_normal(key: Tensor, samples: int, elements: int, dtype: torch.dtype, sample_offset: int) -> Tensor:
    x, y, z, w = noise_words(key, samples, elements, sample_offset)
    return rows((*box_muller(x, y), *box_muller(z, w)), elements).to(dtype)


def random_uniform(key: Tensor, samples: int, elements: int, dtype: torch.dtype, sample_offset: int) -> Tensor:
    words = noise_words(key, samples, elements, sample_offset)
    uniform = rows(tuple(to_uniform(word) for word in words), elements)
    return uniform.clamp(max=1.0 - torch.finfo(dtype).eps / 2).to(dtype)  # does not round to 1


def random_fold_in(key: Tensor, number: Tensor, domain: int) -> Tensor:
    zero = torch.zeros_like(key)
    x, y, _, _ = philox(key, zero, zero + domain, number & MASK, (number >> 32) & MASK)
    return x | (y << 32)
