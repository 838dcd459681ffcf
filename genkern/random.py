"""Counter-based random numbers.

A *key* is a 64-bit seed in an int64 tensor on the device. Noise is a function of the key, the index of the sample
and the index of the element within the sample (Philox4x32-10, no state), so a run sharded over processes draws what
one process draws, CPU and GPU draw the same bits, and one sample can be drawn again alone:

>>> from genkern import random
>>> key = random.key(0)
>>> for step in range(3):
...     noise = random.normal(random.fold_in(key, step), (16, 3, 8, 8))
"""

from .ops.random import fold_in, key, key_from, normal, split, uniform

__all__ = ["fold_in", "key", "key_from", "normal", "split", "uniform"]
