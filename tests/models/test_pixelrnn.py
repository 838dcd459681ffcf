"""PixelRNN: causal in both forms, and it learns digits."""

import pytest
import torch

from genkern import models, random
from genkern.experiments.data import digits
from genkern.models.autoregressive import pixelrnn
from genkern.nn import check_causality

KEY = random.key(3)
TINY = {
    "diagonal": pixelrnn.Config((1, 4, 5), 17, layers=2, h=4, head=6),
    "row": pixelrnn.Config((1, 4, 5), 17, lstm="row", layers=2, h=4, head=6),
    "diagonal rgb": pixelrnn.Config((3, 3, 4), 5, layers=1, h=12, head=24),
    "row rgb": pixelrnn.Config((3, 3, 4), 5, lstm="row", layers=1, h=12, head=24),
}


@pytest.mark.parametrize("name", TINY)
def test_nothing_leaks_and_the_diagonal_form_is_blind_to_one_pixel_at_most(name):
    torch.manual_seed(0)
    report = check_causality(pixelrnn.PixelRNN(TINY[name]))
    assert report.leaks == []
    if name.startswith("diagonal"):  # the last pixel of the row above, beyond the reach of the first convolution
        width = TINY[name].shape[2]
        assert {(i - k, m) for (_, i, _), (_, k, m) in report.unseen} <= {(1, width - 1)}
        assert all(j + 3 < width - 1 for (_, _, j), _ in report.unseen)


@pytest.mark.parametrize("name", pixelrnn.PRESETS)
def test_no_preset_leaks(name):
    torch.manual_seed(0)
    large = pixelrnn.PRESETS[name].shape[0] == 3
    model = models.build(name, **({"layers": 2} if large else {}))
    assert check_causality(model, probes=1, inputs=4 if large else 40).leaks == []


@pytest.mark.parametrize("name", TINY)
def test_every_method_draws_the_same_pixels(name):
    torch.manual_seed(0)
    model = pixelrnn.PixelRNN(TINY[name]).double()
    x = model.sample(3, key=KEY, method="naive")
    for method in ("cached", "auto", "jacobi"):
        assert torch.equal(model.sample(3, key=KEY, method=method), x), method
    mask = torch.zeros(x.shape[2:], dtype=torch.bool)
    mask[1, 1:3] = True
    given = [model.sample(3, key=KEY, given=x.flip(0), mask=mask, method=m) for m in ("naive", "cached")]
    assert torch.equal(*given) and torch.equal(given[0][:, :, mask], x.flip(0)[:, :, mask])


@pytest.mark.parametrize("lstm", pixelrnn.LSTMS)
def test_a_minute_of_digits_beats_the_histogram_of_every_pixel(lstm):
    torch.manual_seed(0)
    data = digits()
    model = pixelrnn.PixelRNN(pixelrnn.Config((1, 8, 8), 17, lstm=lstm, layers=2, h=16, head=32))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(90):
        rows = torch.randint(len(data.train), (64,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model.loss(data.train[rows]).total.backward()
        optimizer.step()
    with torch.no_grad():
        assert model.eval().loss(data.test).total < 2.437


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"PixelRNN: lstm must be one of .* got 'spiral'"):
        pixelrnn.Config(lstm="spiral")
    with pytest.raises(ValueError, match="multiple of sub_pixels = 3"):
        pixelrnn.PixelRNN(pixelrnn.Config((3, 4, 4), 5, layers=1, h=8, head=6))
