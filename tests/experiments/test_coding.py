"""Bits per dimension are bits: a coder that the model drives needs that many, and gives the same pixels back."""

import math

import pytest
import torch

from genkern import models
from genkern.experiments import coding, data
from genkern.models.autoregressive import gated_pixelcnn


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 5)])
@pytest.mark.parametrize("classes", [None, 3])
def test_pictures_come_back_in_as_many_bits_as_the_model_says(shape: tuple[int, ...], classes: int | None) -> None:
    torch.manual_seed(0)
    model = gated_pixelcnn.GatedPixelCNN(gated_pixelcnn.Config(shape, 17, classes, 3, 6, head=6))
    y = None if classes is None else torch.arange(12) % classes
    x = torch.randint(17, (12, *shape), dtype=torch.uint8)
    code = coding.compress(model, x, y)
    assert torch.equal(coding.decompress(model, code, 12, y), x)
    promised = -model.log_prob(x, y=y).sum().item() / math.log(2)
    assert promised - 1 < 8 * len(code) < 1.002 * promised + 64


def test_a_few_steps_of_training_compress_digits_to_the_bits_of_the_test() -> None:
    torch.manual_seed(0)
    digits = data.load("digits")
    model = models.build("gated-pixelcnn-small", layers=3, channels=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(40):
        optimizer.zero_grad()
        model.loss(digits.train[32 * step : 32 * step + 32]).total.backward()
        optimizer.step()
    x = digits.test[:100]
    code = coding.compress(model, x)
    assert torch.equal(coding.decompress(model, code, len(x)), x)
    reported = model.loss(x).total.item()
    assert reported < 2.7 and abs(coding.bits(model, code, len(x)) / reported - 1) < 0.01
