from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scribbleseg.functional import (
    FeatureFile,
    FeaturePlan,
    FeaturePlanner,
    priority_keys,
    sample_keys,
)


def offer(planner: FeaturePlanner, uid: int, *, drawn: bool = False) -> None:
    generator = torch.Generator().manual_seed(uid)
    sets = torch.rand(2, 2, 6, 7, generator=generator) < 0.5
    strokes = torch.zeros(6, 7, dtype=torch.bool)
    strokes[2, :3] = drawn
    planner.add(sets, uid=uid, drawn=strokes, drawn_weight=5.0)


def plan_of(order, **options) -> FeaturePlan:
    planner = FeaturePlanner(4, **{"capacity": 30, "per_image": 8, **options})
    for uid in order:
        offer(planner, uid, drawn=uid == 3)
    return planner.plan()


class TestPlan:
    def test_neither_order_nor_repetition_matters(self, tmp_path) -> None:
        first, other = plan_of(range(9)), plan_of([*reversed(range(9))])
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
        first.save(tmp_path / "plan.npz")
        loaded = FeaturePlan.load(tmp_path / "plan.npz")
        assert all(torch.equal(a, b) for a, b in zip(first, loaded, strict=True))

    def test_every_row_is_kept_once_and_sets_are_bounded(self) -> None:
        plan = plan_of(range(9))
        ids = (plan.uid << 32) | plan.cell
        assert torch.equal(ids, ids.unique())
        sizes = plan.bounds.diff()
        assert (sizes <= 30).all()
        assert (plan.offered > sizes).all()
        for uid in range(9):
            rows = plan.rows_of(uid)
            assert (plan.uid[rows] == uid).all()
            assert rows.stop - rows.start == (plan.uid == uid).sum()
        # at most 8 rows of an image in a set
        for start, stop in zip(plan.bounds[:-1], plan.bounds[1:], strict=True):
            assert plan.uid[plan.rows[start:stop]].bincount().max() <= 8

    def test_drawn_cells_come_first_and_weigh_more(self) -> None:
        plan = plan_of(range(9), capacity=4)
        drawn = (plan.uid == 3) & (plan.cell >= 14) & (plan.cell < 17)
        assert drawn.any()
        assert torch.equal(plan.weights == 5, drawn[plan.rows])

    @pytest.mark.parametrize("per_image", [None, 3])
    @pytest.mark.parametrize("drawn", [0.0, 0.1, 1.0])
    def test_each_set_keeps_its_smallest_keys(self, drawn, per_image) -> None:
        generator = torch.Generator().manual_seed(1)
        images = []
        for _ in range(30):
            sets = (
                torch.rand(4, 3, 4, generator=generator)
                < torch.tensor([0.9, 0.4, 0.1, 0.0])[:, None, None]
            )
            strokes = torch.rand(3, 4, generator=generator) < drawn
            images.append((sets, strokes, torch.randn(5, 3, 4, generator=generator)))
        planner = FeaturePlanner(4, capacity=10, per_image=per_image, seed=5)
        for uid in torch.randperm(30, generator=generator).tolist():
            sets, strokes, features = images[uid]
            planner.add(sets, uid=uid, drawn=strokes, drawn_weight=2.0, features=features)
        cells = torch.arange(12)
        for index in range(4):
            rows = []
            for uid, (sets, strokes, features) in enumerate(images):
                keys = sample_keys(torch.full_like(cells, uid), cells, seed=5)
                keys = priority_keys(keys, strokes.flatten())
                own = [c for c in cells.tolist() if sets[index].flatten()[c]]
                own.sort(key=lambda c, keys=keys: int(keys[c]))
                for c in own[:per_image]:
                    weight = 2.0 if strokes.flatten()[c] else 1.0
                    rows.append((int(keys[c]), weight, features.flatten(1)[:, c]))
            rows = sorted(rows, key=lambda row: row[0])[:10]
            features, weights = planner.get(index)
            assert weights.tolist() == [row[1] for row in rows]
            assert len(features) == len(rows)
            for found, (_, _, expected) in zip(features, rows, strict=True):
                torch.testing.assert_close(found, expected.half().float())
        assert planner.offered.tolist() == sum(s.flatten(1).sum(1) for s, _, _ in images).tolist()

    def test_drawn_cells_are_not_those_of_the_lowest_numbers(self) -> None:
        planner = FeaturePlanner(1, capacity=400, per_image=2)
        everywhere = torch.ones(1, 5, 10, dtype=torch.bool)
        for uid in range(200):
            planner.add(everywhere, uid=uid, drawn=everywhere[0])
        plan = planner.plan()
        assert abs(plan.cell.float().mean() - 24.5) < 3  # four standard errors of 400 cells
        assert plan.uid.bincount().eq(2).all()

    def test_errors_name_the_cure(self) -> None:
        with pytest.raises(ValueError, match="capacity=0"):
            FeaturePlanner(2, capacity=0)
        sets = torch.ones(1, 2, 2, dtype=torch.bool)
        with pytest.raises(ValueError, match="image 7 are not finite in 16 bits"):
            FeaturePlanner(1, capacity=3).add(sets, uid=7, features=torch.full((2, 2, 2), 1e6))


class TestFile:
    def features(self, uid: int) -> torch.Tensor:
        return torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(100 + uid))

    def test_rows_are_unit_features_of_their_cells(self, tmp_path) -> None:
        plan = plan_of(range(9))
        file = FeatureFile(tmp_path, plan, dim=5, images=9)
        for uid in range(9):
            assert not file.is_done(uid)
            file.write(uid, self.features(uid))
            assert file.is_done(uid)
        every = torch.stack([self.features(uid).flatten(1).T for uid in range(9)])
        for index in range(4):
            start, stop = plan.bounds[index : index + 2].tolist()
            rows = plan.rows[start:stop]
            expected = F.normalize(every[plan.uid[rows], plan.cell[rows]], dim=1)
            found, weights = file.get(index)
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
            assert torch.equal(weights, plan.weights[start:stop])

    def test_what_is_done_is_known_to_the_next_process(self, tmp_path) -> None:
        plan = plan_of(range(9))
        FeatureFile(tmp_path, plan, dim=5, images=9).write(2, self.features(2))
        again = FeatureFile(tmp_path, plan, dim=5, images=9)
        assert [uid for uid in range(9) if again.is_done(uid)] == [2]
        rows = plan.rows_of(2)
        assert again._features.reshape(-1, 5)[rows].any()
        other = FeatureFile(tmp_path, plan, dim=6, images=9)  # other sizes: nothing is kept
        assert not other._features.any()

    def test_a_plan_without_rows_is_done_at_once(self, tmp_path) -> None:
        plan = FeaturePlanner(4, capacity=30).plan()
        file = FeatureFile(tmp_path, plan, dim=2, images=3)
        assert [file.is_done(uid) for uid in range(3)] == [True, True, True]
        features, weights = file.get(0)[:2]
        assert (features.shape, weights.numel()) == ((0, 2), 0)

    def test_features_that_do_not_fit_are_refused(self, tmp_path) -> None:
        file = FeatureFile(tmp_path, plan_of(range(3)), dim=5, images=3)
        with pytest.raises(ValueError, match="do not fit"):
            file.write(0, torch.zeros(4, 6, 7))
        with pytest.raises(ValueError, match="do not fit"):
            file.write(0, torch.zeros(5, 1, 1))
        with pytest.raises(ValueError, match="not finite"):
            file.write(0, torch.full((5, 6, 7), torch.nan))
        assert not file.is_done(0)
