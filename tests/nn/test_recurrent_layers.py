"""The LSTM layers of PixelRNN see what they should, and the known wrong ways of writing them are found out."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from genkern import ops
from genkern.nn import DiagonalBiLSTM, MaskedConv2d, RowLSTM, check_causality
from genkern.ops.diagonal_lstm.reference import skew, unskew

SHAPE = (1, 6, 5)


class Net(nn.Module):
    """A type A convolution of the pixel to the left and the three above, then a layer."""

    def __init__(self, layer: nn.Module, channels: int = 1, hidden: int = 6):
        super().__init__()
        self.first = MaskedConv2d(channels, hidden, 3, mask="A", sub_pixels=channels)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.first(x))


@pytest.mark.parametrize("layer", [DiagonalBiLSTM(6, 3), RowLSTM(6, 3), RowLSTM(6, 3, 5)])
def test_no_pixel_sees_itself_or_a_later_one(layer):
    assert not check_causality(Net(layer), SHAPE, sub_pixels=False).leaks


@pytest.mark.parametrize("layer", [DiagonalBiLSTM(6, 3, sub_pixels=3), RowLSTM(6, 3, sub_pixels=3)])
def test_no_sub_pixel_sees_itself_or_a_later_one(layer):
    report = check_causality(Net(layer, channels=3), (3, 4, 4))
    assert not report.leaks


def test_the_diagonal_bilstm_sees_every_pixel_before_but_one_and_the_row_lstm_a_triangle():
    unseen = check_causality(Net(DiagonalBiLSTM(6, 3)), SHAPE).unseen
    last = SHAPE[2] - 1  # the one of the row above is held by no feature of that row
    assert unseen == [((0, i, j), (0, i - 1, last)) for i in range(1, SHAPE[1]) for j in range(last - 1)]
    blind = check_causality(Net(RowLSTM(6, 3)), SHAPE).blind_offsets()
    assert blind and all(abs(column) > -row for row, column in blind)


class SamePadding(DiagonalBiLSTM):
    """State-to-state with kernel 2 and "same" padding after the column: reads the state below, not the one above."""

    def forward(self, x: Tensor) -> Tensor:
        sums, weight = skew(self.input_from_left(x).permute(0, 2, 3, 1)), self.state_from_left
        h = c = sums.new_zeros(len(x), x.shape[2], weight.shape[1])
        states = []
        for column in sums.unbind(2):
            o, f, i, g = (column + nn.functional.conv1d(pad(h.mT, (0, 1)), weight).mT).chunk(4, dim=2)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return unskew(torch.stack(states, dim=2)).permute(0, 3, 1, 2)


class ZeroedLastRow(DiagonalBiLSTM):
    """The mirrored stream with its last row set to zero, where it should have moved down by a row."""

    def forward(self, x: Tensor) -> Tensor:
        left = ops.diagonal_lstm(self.input_from_left(x), self.state_from_left)
        right = ops.diagonal_lstm(self.input_from_right(x.flip(3)), self.state_from_right).flip(3)
        return left + pad(right[:, :, :-1], (0, 0, 0, 1))


@pytest.mark.parametrize("wrong", [SamePadding, ZeroedLastRow])
def test_a_known_wrong_layer_is_found_out(wrong):
    report = check_causality(Net(wrong(6, 3)), SHAPE, sub_pixels=False)
    assert report.leaks
    later = [(a, b) for (_, *a), (_, *b) in report.leaks if b > a]
    assert later, "not only the pixel itself, but later ones"


def test_the_layer_equals_two_recurrences_of_which_the_mirrored_one_moves_down():
    torch.manual_seed(0)
    layer = DiagonalBiLSTM(2, 3).double()
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    left = ops.diagonal_lstm(layer.input_from_left(x), layer.state_from_left, impl="torch")
    right = ops.diagonal_lstm(layer.input_from_right(x.flip(3)), layer.state_from_right, impl="torch").flip(3)
    left[:, :, 1:] += right[:, :, :-1]
    torch.testing.assert_close(layer(x), left)


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_pictures_of_one_row_or_column_pass(size):
    for layer in (DiagonalBiLSTM(2, 3), RowLSTM(2, 3)):
        assert layer(torch.randn(2, 2, *size)).shape == (2, 3, *size)
