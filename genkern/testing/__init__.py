"""Test helpers, for genkern's own ops and layers and for yours: they raise `AssertionError` with a sentence."""

from ..nn.memory import bytes_saved
from .flows import check_flow, jacobian_log_det, settle
from .op_suite import Case, OpSuite, cotangents, layouts, recorded_calls
from .tolerance import assert_same_bits, assert_within_rule

__all__ = [
    "Case",
    "OpSuite",
    "assert_same_bits",
    "assert_within_rule",
    "bytes_saved",
    "check_flow",
    "cotangents",
    "jacobian_log_det",
    "layouts",
    "recorded_calls",
    "settle",
]
