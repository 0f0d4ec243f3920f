from __future__ import annotations

import pytest
import torch

from scribbleseg.errors import CheckpointError
from scribbleseg.methods.regularized.bank import ProbabilityBank


def places(height: int, width: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns])[None]


def refresh(bank: ProbabilityBank, probs: torch.Tensor, *, tidy: bool = True) -> None:
    bank.write(0, probs)
    bank.advance(tidy=tidy)


def test_average_of_refreshes(tmp_path) -> None:
    bank = ProbabilityBank(tmp_path, alpha=0.2)
    sequence = torch.rand(3, 4, 5, 6).softmax(1)
    expected = torch.zeros(4, 5, 6)
    for probs in sequence:
        refresh(bank, probs)
        expected = 0.2 * probs + 0.8 * expected
    classes, confidence = bank.labels([0], places(5, 6))
    torch.testing.assert_close(confidence[0], expected.max(0).values, rtol=0, atol=1e-3)
    assert (classes[0] == expected.argmax(0)).float().mean() > 0.95  # half precision may tie


def test_bias_correction_makes_probabilities(tmp_path) -> None:
    probs = torch.tensor([0.9, 0.1]).view(2, 1, 1).expand(2, 3, 3).contiguous()
    bank = ProbabilityBank(tmp_path, bias_correction=True)
    for _ in range(3):
        refresh(bank, probs)
        assert bank.labels([0], places(3, 3))[1].max().item() == pytest.approx(0.9, abs=1e-3)


def test_pixels_find_their_cell(tmp_path) -> None:
    probs = torch.zeros(2, 4, 6)
    probs[1, 2:, 4:], probs[0] = 1.0, 1 - probs[1]
    probs[0] = 1 - probs[1]
    bank = ProbabilityBank(tmp_path, alpha=1.0, stride=2)
    refresh(bank, probs)
    assert bank.path(0).stat().st_size < 2 * 2 * 2 * 3 + 200
    shown = torch.tensor([[[[3, -1, 0]], [[5, -1, 0]]]])  # last pixel, padding, first pixel
    classes, confidence = bank.labels([0], shown)
    assert classes[0, 0].tolist()[0] == 1
    assert confidence[0, 0].tolist() == [1.0, 0.0, 1.0]


def test_images_without_entry_have_no_confidence(tmp_path) -> None:
    bank = ProbabilityBank(tmp_path)
    assert bank.labels([3], places(2, 2))[1].sum() == 0
    refresh(bank, torch.rand(2, 2, 2))
    assert bank.labels([3], places(2, 2))[1].sum() == 0


def test_a_checkpoint_keeps_its_generation(tmp_path) -> None:
    bank = ProbabilityBank(tmp_path)
    refresh(bank, torch.full((2, 2, 2), 0.5))
    state = bank.state()
    for _ in range(3):
        refresh(bank, torch.rand(2, 2, 2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["generation_000001", "generation_000004"]
    resumed = ProbabilityBank(tmp_path)
    resumed.restore(state)
    assert resumed.labels([0], places(2, 2))[1].max().item() == pytest.approx(0.1, abs=1e-3)


def test_a_missing_generation_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"generation_000007.*nothing"):
        ProbabilityBank(tmp_path).restore({"generation": 7})
