from __future__ import annotations

import pytest
import torch

from scribbleseg import ConfigError
from scribbleseg.methods import ProbabilityBank


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


FACTS = {"classes": 2, "images": 1}


def opened(folder, state=None, facts=FACTS) -> ProbabilityBank:
    bank = ProbabilityBank(folder)
    bank.open(facts, state)
    return bank


def generations(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("generation_*"))


def test_a_checkpoint_keeps_its_generation(tmp_path) -> None:
    bank = opened(tmp_path)
    refresh(bank, torch.full((2, 2, 2), 0.5))
    state = bank.state()
    for _ in range(3):
        refresh(bank, torch.rand(2, 2, 2))
    assert generations(tmp_path) == ["generation_000001", "generation_000004"]
    resumed = opened(tmp_path, state)
    assert resumed.labels([0], places(2, 2))[1].max().item() == pytest.approx(0.1, abs=1e-3)


def test_the_last_three_checkpoints_keep_theirs(tmp_path) -> None:
    bank = opened(tmp_path)
    for _ in range(5):
        refresh(bank, torch.rand(2, 2, 2))
        bank.state()
    refresh(bank, torch.rand(2, 2, 2))
    assert generations(tmp_path) == [f"generation_00000{n}" for n in (3, 4, 5, 6)]


def test_a_missing_generation_is_replaced_by_an_older_one(tmp_path, caplog) -> None:
    bank = opened(tmp_path)
    refresh(bank, torch.rand(2, 2, 2))
    resumed = opened(tmp_path, {"generation": 7, "run": bank.run})
    assert resumed.generation == 1
    assert "generation_000007" in caplog.text
    moved = opened(tmp_path / "moved", {"generation": 7, "run": bank.run})
    assert moved.generation == 0


def test_the_bank_of_another_run_is_refused(tmp_path) -> None:
    bank = opened(tmp_path)
    refresh(bank, torch.rand(2, 2, 2))
    with pytest.raises(ConfigError, match="another run"):
        opened(tmp_path)
    with pytest.raises(ConfigError, match="another run"):
        opened(tmp_path, {"generation": 1, "run": "someone"})
    with pytest.raises(ConfigError, match="other data"):
        opened(tmp_path, bank.state(), {"classes": 3, "images": 1})


def test_a_folder_that_cannot_be_written_is_named_at_once(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="bank_dir"):
        opened(tmp_path / "file")
    bank = opened(tmp_path / "bank")
    (tmp_path / "bank" / "generation_000001").write_text("in the way")
    with pytest.raises(ConfigError, match="bank_stride"):
        bank.write(0, torch.rand(2, 2, 2))
