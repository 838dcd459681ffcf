"""Bins of pixels on GPUs: log-probabilities and their derivatives, element by element, as in discretized_gaussian.h."""

from __future__ import annotations

import triton
import triton.language as tl

from .. import _triton


@triton.jit
def one_minus_exp(t):
    """1 - e^-t for t >= 0, exact in relative terms also for tiny t."""
    small = tl.minimum(t, 0.35)
    terms: tl.constexpr = 14 if t.dtype == tl.float64 else 8
    series = tl.zeros_like(t) + 1.0
    for i in tl.static_range(terms):
        series = 1.0 - small * series / (terms + 1 - i)
    return tl.where(t < 0.35, t * series, 1.0 - _triton.exp(-t))


@triton.jit
def exp_minus_1_minus(d, power):
    """e^d - 1 - d, given e^d, exact in relative terms also for tiny d."""
    small = tl.minimum(tl.maximum(d, -0.35), 0.35)
    terms: tl.constexpr = 14 if d.dtype == tl.float64 else 7
    series = tl.zeros_like(d) + 1.0
    for i in tl.static_range(terms):
        series = 1.0 + small * series / (terms + 2 - i)
    return tl.where(tl.abs(d) < 0.35, 0.5 * small * small * series, power - 1.0 - d)


@triton.jit
def erfcx(x):
    """e^(x^2) erfc(x) for x >= 0."""
    s = (x - 2.0) / (x + 2.0)
    if x.dtype == tl.float64:
        p = -1.39055243279165784e-09 * s + 1.38748177042801952e-09
        p = p * s + -4.12590894723961718e-09
        p = p * s + -3.35571379898562692e-08
        p = p * s + 5.82772234877181577e-08
        p = p * s + 2.57414576279699494e-07
        p = p * s + -6.67791460925194688e-08
        p = p * s + -9.84370046047621914e-07
        p = p * s + -9.22262821921803156e-07
        p = p * s + 1.63120570451019302e-06
        p = p * s + 5.39653608820196777e-06
        p = p * s + 3.63553969953623441e-06
        p = p * s + -1.35815470116528175e-05
        p = p * s + -3.63926621643083159e-05
        p = p * s + -1.47919229852969711e-06
        p = p * s + 1.51030753682638647e-04
        p = p * s + 2.06360241764650667e-04
        p = p * s + -4.54339345920257934e-04
        p = p * s + -1.45681294951161390e-03
        p = p * s + 1.27133880657628808e-03
        p = p * s + 8.72265379051439214e-03
        p = p * s + -8.03401507192650494e-03
        p = p * s + -5.42200009876635663e-02
        p = p * s + 1.64051280032971342e-01
        p = p * s + -1.66030397615450936e-01
        p = p * s + -9.27638265857418653e-02
        p = p * s + 1.27697838155253085e00
    else:
        p = 6.3192669336e-05 * s + 1.6042070568e-04
        p = p * s + -3.5735661529e-04
        p = p * s + -1.3947535081e-03
        p = p * s + 1.2167486670e-03
        p = p * s + 8.6883298172e-03
        p = p * s + -8.0186175575e-03
        p = p * s + -5.4211664358e-02
        p = p * s + 1.6404937888e-01
        p = p * s + -1.6603113199e-01
        p = p * s + -9.2763758037e-02
        p = p * s + 1.2769783920e00
    return p / (1.0 + 2.0 * x)


@triton.jit
def tanh_bin(centred, log_std, h, low, high):
    """The log-probability, and its derivatives by the mean and by log_std."""
    inverse_std = _triton.exp(-tl.minimum(tl.maximum(log_std, -20.0), 30.0))
    raw_plus = (centred + h) * inverse_std
    raw_minus = (centred - h) * inverse_std
    plus = tl.minimum(tl.maximum(raw_plus, -20.0), 20.0)
    minus = tl.minimum(tl.maximum(raw_minus, -20.0), 20.0)
    width = tl.where((plus < 20.0) & (minus > -20.0), 2.0 * h * inverse_std, plus - minus)
    scale: tl.constexpr = 1.5957691216057308
    cubic: tl.constexpr = 0.044715
    upper = scale * (plus + cubic * plus * plus * plus)
    lower = scale * (minus + cubic * minus * minus * minus)
    squares = plus * plus + plus * minus + minus * minus
    t = tl.maximum(scale * width * (1.0 + cubic * squares), 1e-30)
    eu = _triton.exp(-tl.abs(upper))
    el = _triton.exp(-tl.abs(lower))
    et = _triton.exp(-t)
    middle = (low == 0) & (high == 0)
    linear = tl.where(high | (upper > 0), 0.0, upper) - tl.where(low | (lower < 0), 0.0, lower)
    numerator = tl.where(middle, one_minus_exp(t), 1.0)
    log_prob = linear + tl.log(numerator / (tl.where(high, 1.0, 1.0 + eu) * tl.where(low, 1.0, 1.0 + el)))

    floor = tl.zeros_like(log_prob) - 27.631021115928547
    live = log_prob >= floor
    plus_in = (raw_plus >= -20.0) & (raw_plus <= 20.0) & (high == 0)
    minus_in = (raw_minus >= -20.0) & (raw_minus <= 20.0) & (low == 0)
    by_plus = tl.where(plus_in, tl.where(upper > 0, eu, 1.0) / (1.0 + eu), 0.0)
    by_plus = by_plus * scale * (1.0 + 3.0 * cubic * plus * plus)
    by_minus = tl.where(minus_in, -tl.where(lower > 0, 1.0, el) / (1.0 + el), 0.0)
    by_minus = by_minus * scale * (1.0 + 3.0 * cubic * minus * minus)
    dt = tl.where(middle, et / numerator, 0.0) * scale * width
    by_mean = -inverse_std * (by_plus + by_minus + dt * 3.0 * cubic * (plus + minus))
    by_log_std = -(plus * by_plus + minus * by_minus + dt * (1.0 + 3.0 * cubic * squares))
    free = live & (log_std >= -20.0) & (log_std <= 30.0)
    return tl.maximum(log_prob, floor), tl.where(live, by_mean, 0.0), tl.where(free, by_log_std, 0.0)


@triton.jit
def erf_bin(centred, log_std, h, log_width, low, high):
    """The log-probability, and its derivatives by the mean and by log_std."""
    free = log_std >= -20.0
    std_log = tl.maximum(log_std, -20.0)
    inverse_std = _triton.exp(-std_log)
    edge = low | high
    distance = tl.abs(centred)
    width = 2.0 * h * inverse_std
    c = distance * inverse_std
    narrow = (edge == 0) & (width * (c + 1.0) < 0.5)

    # the series of narrow bins: the sum of K_2n / ((2 n + 1)! 4^n), and its derivatives by z and by q
    z = tl.where(narrow, c * width, 0.0)
    q = tl.where(narrow, width * width, 0.0)
    last = tl.zeros_like(z) + 1.0
    now = z
    series = tl.zeros_like(z)
    by_z = tl.zeros_like(z)
    by_q = tl.zeros_like(z)
    factor = tl.zeros_like(z) + 1.0
    for n in tl.static_range(1, 6):
        even = z * now - (2 * n - 1) * q * last
        factor = factor / (8 * n * (2 * n + 1))
        series += factor * even
        by_z += factor * (2 * n) * now
        by_q -= factor * (n * (2 * n - 1)) * last
        now = z * even - (2 * n) * q * now
        last = even

    a = tl.where(low, -(centred + h), tl.where(high, centred - h, distance - h)) * inverse_std
    a = tl.maximum(a, -12.0)
    b = (distance + h) * inverse_std
    ea = _triton.exp(-0.5 * a * a)
    ratio = tl.where(edge, 0.0, _triton.exp(-c * width))
    xa = erfcx(tl.abs(a) * 0.7071067811865476)
    xb = erfcx(b * 0.7071067811865476) * ratio
    inside = a < 0
    offset = tl.where(narrow, series, -0.5 * ea * (xa + xb))
    one_more = 1.0 + offset
    direct = (narrow == 0) & (inside == 0)
    argument = tl.where(direct, 0.5 * (xa - xb), one_more)
    rounding = tl.where(direct, 0.0, (offset - (one_more - 1.0)) / one_more)
    centre = -0.5 * c * c - 0.9189385332046728 + log_width - std_log
    rest = tl.where(narrow, centre, tl.where(inside, 0.0, -0.5 * a * a))
    log_prob = tl.log(tl.where(argument > 0, argument, 1.0)) + rounding + rest

    over = 0.3989422804014327 * tl.where(inside, ea, 1.0) / argument
    by_distance = tl.where(narrow, width * by_z / one_more - c, over * (ratio - 1.0))
    sign = tl.where(low, -1.0, tl.where(high, 1.0, tl.where(centred < 0, -1.0, 1.0)))
    of_narrow = c * c - 1.0 - 2.0 * (z * by_z + q * by_q) / one_more
    of_wide = over * tl.where(edge, a, a - b * ratio)
    by_log_std = tl.where(free, tl.where(narrow, of_narrow, of_wide), 0.0)
    return log_prob, -sign * inverse_std * by_distance, by_log_std


@triton.jit
def log_bin(x, mean, log_std, levels, ERF: tl.constexpr):
    """Of pixels on [-1, 1]; see above for what it returns."""
    h = 1.0 / (tl.zeros_like(x) + (levels - 1))
    end = 1.0 - 0.255 * h
    low = x < -end
    high = x > end
    if ERF:
        return erf_bin(x - mean, log_std, h, tl.log(2.0 * h), low, high)
    else:
        return tanh_bin(x - mean, log_std, h, low, high)
