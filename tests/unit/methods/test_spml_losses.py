from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.internals import internal

from scribbleseg.methods import (
    affinity_label_sets,
    annotation_sets,
    class_votes,
    image_similarity_loss,
    image_spans,
    nearest_segments,
    overlap_sets,
    region_sets,
    retrieval_accuracy,
    segment_index,
    segment_prototypes,
    segsort_loss,
    weak_labels_on_grid,
)


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=1)


def problem(n: int = 17, m: int = 9, d: int = 6, dtype: torch.dtype = torch.float32):
    """Pixels, prototypes, own segments and sets in which every case occurs."""
    generator = torch.Generator().manual_seed(1)
    own = torch.randint(0, m, (n,), generator=generator)
    labels = torch.randint(0, 3, (m,), generator=generator)
    labels[0], labels[1] = 3, 255  # alone in its class; without label
    return unit(n, d, dtype=dtype), unit(m, d, seed=2, dtype=dtype), own, labels


def naive(z, mu, own, positive, negative, kappa):
    """The equation as it is written."""
    e = (kappa * z @ mu.T).exp()
    others = positive.clone().scatter_(1, own[:, None], False)
    above = (e * others).sum(1)
    alone = ~others.any(1)
    above = torch.where(alone, e.gather(1, own[:, None])[:, 0], above)
    return -(above / (above + (e * negative).sum(1))).log()


class TestSegSort:
    def test_it_is_the_written_equation(self) -> None:
        z, mu, own, labels = problem(dtype=torch.float64)
        sets = annotation_sets(labels, 4)
        rows = labels[own].clamp_max(3)
        each = segsort_loss(z, mu, own, *sets, group=rows, concentration=6.0, reduction="none")
        expected = naive(z, mu, own, sets.positive[rows], sets.negative[rows], 6.0)
        torch.testing.assert_close(each, expected)

    @pytest.mark.parametrize("mode", ["segsort+", "segsort"])
    @pytest.mark.parametrize("chunk", [None, 1, 4, 1000])
    def test_gradients_in_chunks(self, mode: str, chunk: int | None) -> None:
        z, mu, own, labels = problem(7, 5, 3, dtype=torch.float64)
        sets = annotation_sets(labels, 4)
        rows = labels[own].clamp_max(3)

        def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return segsort_loss(
                a, b, own, *sets, group=rows, concentration=5.0, mode=mode, chunk_size=chunk
            )

        inputs = (z.requires_grad_(), mu.requires_grad_())
        assert torch.autograd.gradcheck(loss, inputs)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_hard_positives_keep_value_and_gradient_where_the_naive_form_fails(self, dtype) -> None:
        # one positive opposite of the pixel, at κ = 16 as published
        z = torch.tensor([[1.0, 0.0]], dtype=dtype)
        mu = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=dtype)
        like, unlike = torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]])
        own = torch.tensor([0])
        z.requires_grad_()
        loss = segsort_loss(z, mu, own, like, unlike, concentration=16.0)
        assert loss.item() == pytest.approx(16.0, abs=1e-3)
        loss.backward()
        assert z.grad.abs().sum() > 10
        released = (16 * z.detach().float() @ mu.float().T).exp()  # exp, then sum minus own
        rest = (released * like).sum(1) - released[:, 0]
        assert rest == 0, "lost beside e^16"

    def test_a_large_concentration_is_finite_also_under_autocast(self) -> None:
        z, mu, own, labels = problem()
        sets, rows = annotation_sets(labels, 4), labels[own].clamp_max(3)
        z.requires_grad_()
        plain = segsort_loss(z, mu, own, *sets, group=rows, concentration=100.0)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = segsort_loss(z, mu, own, *sets, group=rows, concentration=100.0)
            mixed.backward()
        assert torch.equal(plain, mixed)
        assert torch.isfinite(z.grad).all()
        assert (100 * z.detach() @ mu.T).exp().isinf().any()

    def test_order_of_pixels_and_segments_does_not_matter(self) -> None:
        z, mu, own, labels = problem()
        sets, rows = annotation_sets(labels, 4), labels[own].clamp_max(3)
        expected = segsort_loss(z, mu, own, *sets, group=rows, concentration=6.0)
        pixels, segments = torch.randperm(len(z)), torch.randperm(len(mu))
        place = torch.argsort(segments)
        shuffled = segsort_loss(
            z[pixels],
            mu[segments],
            place[own][pixels],
            *annotation_sets(labels[segments], 4),
            group=rows[pixels],
            concentration=6.0,
        )
        torch.testing.assert_close(shuffled, expected)

    def test_segments_in_neither_set_do_not_matter(self) -> None:
        z, mu, own, labels = problem()
        rows = labels[own].clamp_max(3)
        before = segsort_loss(
            z, mu, own, *annotation_sets(labels, 4), group=rows, concentration=6.0
        )
        more = torch.cat([labels, torch.tensor([255, -1])])
        after = segsort_loss(
            z,
            torch.cat([mu, unit(2, 6, seed=5)]),
            own,
            *annotation_sets(more, 4),
            group=rows,
            concentration=6.0,
        )
        torch.testing.assert_close(after, before)

    def test_only_the_own_positive_and_no_negative(self) -> None:
        z, mu = unit(2, 3), unit(2, 3, seed=3)
        own = torch.tensor([0, 1])
        each = segsort_loss(
            z,
            mu,
            own,
            *annotation_sets(torch.tensor([0, 0]), 1),
            group=own * 0,
            concentration=6.0,
            reduction="none",
        )
        assert torch.equal(each, torch.zeros(2))
        alone = segsort_loss(
            z,
            mu,
            own,
            *region_sets(torch.tensor([1, 2])),
            group=own,
            concentration=6.0,
            mode="segsort+",
        )
        same = segsort_loss(
            z,
            mu,
            own,
            *region_sets(torch.tensor([1, 2])),
            group=own,
            concentration=6.0,
            mode="segsort",
        )
        assert torch.equal(alone, same), "the own segment stands in"

    def test_nothing_counts_and_nothing_is_there(self) -> None:
        z, mu, own, labels = problem()
        z.requires_grad_()
        sets, rows = annotation_sets(labels, 4), labels[own].clamp_max(3)
        weight = torch.zeros(len(z))
        loss = segsort_loss(z, mu, own, *sets, group=rows, concentration=6.0, weight=weight)
        loss.backward()
        assert loss == 0
        assert (z.grad == 0).all()
        none = torch.empty(0, 6, requires_grad=True)
        empty = torch.empty(0, dtype=torch.int64)
        loss = segsort_loss(none, mu, empty, *sets, group=empty, concentration=6.0)
        assert loss == 0
        loss.backward()

    def test_weights_choose_pixels(self) -> None:
        z, mu, own, labels = problem()
        sets, rows = annotation_sets(labels, 4), labels[own].clamp_max(3)
        kept = torch.arange(len(z)) % 2 == 0
        weighted = segsort_loss(z, mu, own, *sets, group=rows, concentration=6.0, weight=kept)
        chosen = segsort_loss(z[kept], mu, own[kept], *sets, group=rows[kept], concentration=6.0)
        torch.testing.assert_close(weighted, chosen)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pixels": torch.ones(3, 4)}, "expected"),
            ({"own": torch.zeros(2).long()}, "own has shape"),
            ({"positive": torch.ones(2, 3).bool()}, "disagree with 9 prototypes"),
            ({"concentration": 0.0}, "concentration=0.0"),
            ({"chunk_size": 0}, "chunk_size=0"),
            ({"mode": "other"}, "mode='other'"),
            ({"weight": torch.ones(1)}, "weight has shape"),
        ],
    )
    def test_what_does_not_fit_is_named(self, change, message) -> None:
        z, mu, own, labels = problem()
        sets = annotation_sets(labels, 4)
        given = {"pixels": z, "prototypes": mu, "own": own, "concentration": 6.0}
        given |= {"positive": sets.positive, "negative": sets.negative}
        given |= {"group": labels[own].clamp_max(3)}
        with pytest.raises(ValueError, match=message):
            segsort_loss(**{**given, **change})


class TestRelations:
    def test_similarity_is_the_mean_of_the_images_means(self) -> None:
        clusters = torch.tensor([[[0, 0, 1, 1]], [[0, 1, 1, -1]], [[-1, -1, -1, -1]]])
        regions = torch.tensor([[[0, 1, 1, 0]], [[2, 2, 3, 0]], [[0, 0, 0, 0]]])
        segments = segment_index(clusters, torch.zeros_like(clusters), regions)
        z = unit(len(segments.pixel_index), 4)
        mu = segment_prototypes(z, segments.pixel_segment, len(segments.label))
        spans = image_spans(segments, 3)
        assert [(p.stop - p.start, s.stop - s.start) for p, s in spans] == [(4, 4), (3, 3), (0, 0)]
        both = image_similarity_loss(z, mu, segments, spans)
        each = [image_similarity_loss(z, mu, segments, [span]) for span in spans]
        torch.testing.assert_close(both, (each[0] + each[1]) / 2)
        assert each[2] == 0

    def test_images_do_not_see_each_other_in_similarity(self) -> None:
        segments = segment_index(
            torch.tensor([[[0, 1]], [[0, 1]]]),
            torch.zeros(2, 1, 2).long(),
            torch.tensor([[[0, 1]], [[0, 1]]]),
        )
        z = unit(4, 4)
        spans = image_spans(segments, 2)
        first = image_similarity_loss(z, z, segments, spans[:1])
        other = z.clone()
        other[2:] = unit(2, 4, seed=9)
        assert torch.equal(first, image_similarity_loss(other, other, segments, spans[:1]))

    def test_affinity_looks_in_the_own_image_only(self) -> None:
        mu = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.0]]))
        labels, image = torch.tensor([255, 1, 0]), torch.tensor([0, 0, 1])
        found = affinity_label_sets(mu, labels, image, 2)
        assert found.tolist() == [[False, True], [False, True], [True, False]]
        far = affinity_label_sets(mu, labels, torch.tensor([2, 0, 1]), 2)
        assert not far[0].any()

    def test_affinity_takes_the_labels_of_several(self) -> None:
        mu = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.2], [0.0, 1.0]]))
        labels, image = torch.tensor([255, 1, 0, 2]), torch.zeros(4)
        one, three = (affinity_label_sets(mu, labels, image, 3, k=k)[0] for k in (1, 3))
        assert one.tolist() == [False, True, False]
        assert three.tolist() == [True, True, False]
        nothing = affinity_label_sets(mu, torch.full((4,), 9), image, 3)
        assert not nothing.any()

    def test_empty_sets(self) -> None:
        some, none = torch.tensor([[1, 0]]), torch.tensor([[0, 0]])
        skipped = overlap_sets(some, none)
        assert not skipped.positive.any()
        assert not skipped.negative.any()
        assert overlap_sets(some, none, empty="negative").negative.all()
        assert overlap_sets(none, none, empty="negative").negative.all()

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: overlap_sets(torch.ones(1, 2), torch.ones(1, 3)), "disagree"),
            (lambda: overlap_sets(torch.ones(1, 2), torch.ones(1, 2), empty="x"), "empty='x'"),
            (lambda: weak_labels_on_grid(torch.zeros(1, 2, 2), (1, 1), 2, mode="x"), "mode='x'"),
            (
                lambda: affinity_label_sets(torch.ones(2, 2), torch.ones(1), torch.ones(2), 2),
                "expected",
            ),
            (lambda: nearest_segments(torch.ones(2, 3), torch.ones(2, 2)), "expected"),
        ],
    )
    def test_what_does_not_fit_is_named(self, call, message) -> None:
        with pytest.raises(ValueError, match=message):
            call()


class TestRetrieval:
    def test_blocks_do_not_change_what_is_found(self, monkeypatch) -> None:
        x, memory = unit(20, 5), unit(11, 5, seed=4)
        whole = nearest_segments(x, memory, top_k=3)
        monkeypatch.setattr(internal("SPML retrieval"), "_SIMILARITIES", 33)
        parts = nearest_segments(x, memory, top_k=3)
        assert torch.equal(whole.row, parts.row)
        ranked = (x @ memory.T).argsort(dim=1, descending=True)[:, :3]
        assert torch.equal(whole.row, ranked)
        assert nearest_segments(x, memory[:2], top_k=20).row.shape == (20, 2)

    def test_ties_go_to_the_smallest_class(self) -> None:
        votes = class_votes(torch.tensor([[2, 2, 1, 1], [3, 255, 255, 255]]), 4)
        assert votes.argmax(1).tolist() == [1, 3]
        assert votes[1].tolist() == [0, 0, 0, 1]
        assert class_votes(torch.tensor([[255]]), 2).sum() == 0

    def test_accuracy_does_not_count_the_asker_or_unlabelled(self) -> None:
        x, labels = unit(4, 5), torch.tensor([0, 1, 2, 9])
        flattering = retrieval_accuracy(x, labels, x, labels, top_k=1, exclude_self=False)
        assert flattering == 1
        assert retrieval_accuracy(x, labels, x, labels, num_classes=3, top_k=1) == 0
        twins, same = torch.cat([x, x]), torch.cat([labels, labels])
        found = retrieval_accuracy(x, labels, twins, same, num_classes=3, top_k=1)
        assert found == 1
        nothing = torch.full((4,), 9)
        assert retrieval_accuracy(x, nothing, x, nothing, num_classes=3) == 0
