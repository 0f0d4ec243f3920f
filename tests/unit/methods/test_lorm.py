from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scribbleseg.methods import LocalizationRectification, foreground_cells


def dense_rectification(module, x, mask, valid=None):
    """The equations with the whole matrix, one image after the other."""
    total, count = 0, 0
    for i in range(len(x)):
        cells, m = x[i].flatten(1).T, mask[i].flatten()
        inside = torch.ones_like(m) if valid is None else valid[i].flatten()
        q, k = module.query(cells), module.key(cells)
        cosine = F.cosine_similarity(q[:, None], k[None], dim=2) / module.temperature
        attention = cosine.masked_fill(~inside, -torch.inf).softmax(1)
        own = cells * m[:, None] if module.variant == "foreground_only" else cells
        rebuilt = module.gamma * m[:, None] * (attention @ own)
        error = ((own - rebuilt) ** 2)[inside]
        total, count = total + error.sum(), count + (error != 0).sum()
    return total / count


class TestRectification:
    def inputs(self, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(2)
        features = torch.randn(3, dim, 4, 6, generator=generator, dtype=torch.float64).relu()
        mask = torch.rand(3, 4, 6, generator=generator) < 0.4
        mask[1] = False  # an image without any query
        return features, mask

    @pytest.mark.parametrize("variant", ["released", "foreground_only"])
    @pytest.mark.parametrize("chunk", [None, 1, 7])
    @pytest.mark.parametrize("padded", [False, True])
    def test_chunks_are_the_dense_equations(self, variant, chunk, padded) -> None:
        features, mask = self.inputs()
        valid = None
        if padded:
            valid = torch.ones_like(mask)
            valid[:, 3:] = False
            valid[2, :, 5:] = False
            mask = mask & valid
        module = LocalizationRectification(
            5, variant=variant, chunk=chunk, temperature=0.3
        ).double()
        module.gamma.data.fill_(0.8)
        module.key.bias.data.fill_(
            0.3
        )  # no cell without length, for which the equation has no value
        module.query.bias.data.fill_(-0.2)
        results = []
        for compute in (module, lambda *a, valid: dense_rectification(module, *a, valid)):
            x = features.clone().requires_grad_()
            module.zero_grad()
            loss = compute(x, mask, valid=valid)
            loss.backward()
            results.append([loss.detach(), x.grad, *[p.grad for p in module.parameters()]])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected)

    def test_rectified_features_are_means_of_the_image(self) -> None:
        features, mask = self.inputs()
        module = LocalizationRectification(5, chunk=3).double()
        rectified = module.rectify(features, mask)
        assert (rectified.permute(0, 2, 3, 1)[~mask] == 0).all()
        assert rectified.amax() <= features.amax()
        shares = module.attention(features[:1], (2, 3))
        torch.testing.assert_close(shares.sum(), torch.tensor(1.0, dtype=torch.float64))
        cells = mask[0].clone()
        cells[2, 3] = True
        own = module.rectify(features[:1], cells[None])[0, :, 2, 3]
        torch.testing.assert_close(own, (features[0] * shares).sum((1, 2)))

    def test_background_shrinks_only_as_released(self) -> None:
        features, mask = self.inputs()
        for variant, shrinks in (("released", True), ("foreground_only", False)):
            module = LocalizationRectification(5, variant=variant).double()
            x = features.clone().requires_grad_()
            module(x, mask).backward()
            assert bool((x.grad[1] != 0).any()) is shrinks

    def test_zero_features_are_no_nan(self) -> None:
        module = LocalizationRectification(4)
        x = torch.zeros(1, 4, 2, 2)
        x[..., 1] = 1.0
        x.requires_grad_()
        module(x, torch.ones(1, 2, 2, dtype=torch.bool)).backward()
        gradients = [x.grad, *[p.grad for p in module.parameters()]]
        assert all(gradient.abs().max() < 10 for gradient in gradients)
        assert module(x.detach() * 0, torch.ones(1, 2, 2, dtype=torch.bool)) == 0

    def test_float32_under_autocast(self) -> None:
        features, mask = self.inputs()
        module, x = LocalizationRectification(5), features.float()
        expected = module(x, mask)
        with torch.autocast("cpu", torch.bfloat16):
            found = module(x, mask)
            found.backward()
        assert torch.equal(found, expected)
        assert found.dtype == torch.float32

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(ValueError, match="disagree"):
            LocalizationRectification(5)(*self.inputs()[:1], torch.ones(3, 2, 2) > 0)


def test_cells_at_8m_plus_1_are_every_8th_pixel() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (2, 33, 49), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = 255
    expected = (labels[:, ::8, ::8] > 0) & (labels[:, ::8, ::8] < 255)
    assert torch.equal(foreground_cells(labels, (5, 7)), expected)
    everything = foreground_cells(labels, (5, 7), background=None)
    assert torch.equal(everything, labels[:, ::8, ::8] != 255)
