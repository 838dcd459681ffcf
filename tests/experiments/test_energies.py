import pytest
import torch

from genkern.experiments import energies


def test_auroc_is_the_share_of_pairs_in_order():
    generator = torch.Generator().manual_seed(0)
    inside, outside = (torch.randint(0, 9, (n,), generator=generator).double() for n in (37, 23))
    pairs = outside[:, None] - inside
    assert energies.auroc(inside, outside) == pytest.approx(float(((pairs > 0) + 0.5 * (pairs == 0)).double().mean()))
    assert energies.auroc(inside, inside + 100) == 1.0 and energies.auroc(inside, inside) == pytest.approx(0.5)


def test_overlap_is_that_of_histograms():
    a = torch.linspace(0, 1, 1000)
    assert energies.overlap(a, a) == pytest.approx(1.0) and energies.overlap(a, a + 5) == 0.0
    assert energies.overlap(a, a + 0.5, bins=3) == pytest.approx(0.5, abs=0.01)
    assert energies.overlap(torch.ones(3), torch.ones(2)) == 1.0
