"""CDSP over whole runs: activation maps, their files, the second stage, and resuming it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.contract import TINY_ENCODER
from helpers.tiny_folders import plain_folder
from helpers.training import LABELLED, quiet_trainer
from lightning.pytorch import Callback, Trainer, seed_everything

from scribbleseg import (
    CAMModule,
    CDSPModule,
    ConfigError,
    InferenceConfig,
    LabelFormatError,
    RegularizedModule,
    ScribbleNotFoundError,
    ScribbleSegError,
    main,
)
from scribbleseg.callbacks import ExactResume, PseudoLabelQuality, SeedWriter, score_pseudo_labels
from scribbleseg.data import Box, ScribbleDataModule, ScribbleSource, read_label
from scribbleseg.data.sources import FolderSource, SyntheticSource
from scribbleseg.functional import read_manifest, write_label, write_manifest

IMAGES = 8


def source() -> SyntheticSource:
    return SyntheticSource(num_train=IMAGES, num_val=2, size=40)


def data_of(**options) -> ScribbleDataModule:
    settings = {"batch_size": 2, "num_workers": 0, "check": False, **options}
    return ScribbleDataModule(source(), **settings)


def fit(module, data, folder: Path, *callbacks: Callback, epochs: int = 1, **resume) -> Trainer:
    trainer = quiet_trainer(
        max_epochs=epochs,
        limit_val_batches=1,
        default_root_dir=folder,
        callbacks=[ExactResume(), *callbacks],
    )
    trainer.fit(module, data, **resume)
    return trainer


def classifier(**options) -> CAMModule:
    seed_everything(0, verbose=False)
    return CAMModule(
        source().num_classes, encoder=TINY_ENCODER, encoder_weights=None, lr=1e-3, **options
    )


def segmenter(**options) -> CDSPModule:
    seed_everything(0, verbose=False)
    settings = {"arch": "unet", "encoder": TINY_ENCODER, "encoder_weights": None, "lorm_chunk": 2}
    return CDSPModule(source().num_classes, **{**settings, **options})


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cam")
    data = data_of(scribble_drop=0.3, batch_size=3)
    module = classifier(inference=InferenceConfig(scales=(1.0, 1.5), flip=True))
    fit(module, data, folder, SeedWriter(), PseudoLabelQuality())
    assert module.training
    return folder


class TestSeedWriter:
    def test_every_training_image_has_a_seed_and_a_label(self, first_stage) -> None:
        data, sizes = data_of(scribble_drop=0.3), source()
        for record in sizes.records("train"):
            label = read_label(
                first_stage / "pseudo_labels" / f"{record.image_id}.png", sizes.num_classes
            )
            assert label.shape == sizes.read_mask(record).shape
            seed = np.load(first_stage / "seeds" / f"{record.image_id}.npz")
            # the classes of the scribble that trains, of which a part was dropped
            scribble = data_of_sample(data, record.image_id)
            drawn = set(np.unique(scribble).tolist()) - {0, 255}
            assert set(seed["classes"].tolist()) == drawn
            height, width = label.shape
            assert seed["maps"].shape == (len(drawn), -(-height // 4), -(-width // 4))
            assert seed["maps"].dtype == np.float16
            assert (seed["maps"] >= 0).all()
            assert (seed["maps"] <= 1).all()
            assert set(np.unique(label).tolist()) <= drawn | {0}
            shown = scribble != 255
            assert np.array_equal(label[shown], scribble[shown]), "drawn pixels keep their class"
        for name in ("pseudo_labels", "seeds"):
            manifest = read_manifest(first_stage / name)
            assert manifest["files"] == IMAGES
            assert manifest["complete"]
            assert manifest["class_names"] == list(sizes.class_names)
            assert manifest["module"].endswith("CAMModule")

    def test_finished_files_are_kept_unless_other_options_made_them(
        self, first_stage, tmp_path
    ) -> None:
        run = shutil.copytree(first_stage, tmp_path / "run")  # other tests read the files too
        paths = sorted(run.rglob("*.p*ng")) + sorted(run.rglob("*.npz"))

        def stamps() -> list[int]:
            return [path.stat().st_mtime_ns for path in paths]

        def write(**options) -> None:
            module = classifier(inference=InferenceConfig(scales=(1.0, 1.5), flip=True))
            data = data_of(scribble_drop=0.3, batch_size=3)
            trainer = fit(module, data, run)
            SeedWriter(**options).write(trainer, module)

        before = stamps()
        paths[2].unlink()
        write()
        after = stamps()
        again = [path.stem for path, a, b in zip(paths, before, after, strict=True) if a != b]
        assert again == [paths[2].stem] * 2, "label and seed of that image alone"
        write(threshold=0.3)
        assert all(a != b for a, b in zip(after, stamps(), strict=True))

    def test_quality_is_a_report_only(self, first_stage, digest) -> None:
        report = json.loads((first_stage / "pseudo_label_quality.json").read_text())
        assert report["images"] == IMAGES
        assert report["decided"] == 1
        labels = [
            read_label(first_stage / "pseudo_labels" / f"{r.image_id}.png", 5).ravel()
            for r in source().records("train")
        ]
        masks = [source().read_mask(r).ravel() for r in source().records("train")]
        found, truth = np.concatenate(labels), np.concatenate(masks)
        ious = [
            ((found == c) & (truth == c)).sum() / ((found == c) | (truth == c)).sum()
            for c in range(5)
        ]
        names = source().class_names
        assert report["iou"] == pytest.approx(dict(zip(names, ious, strict=True)), abs=1e-6)
        assert report["miou"] == pytest.approx(np.mean(ious), abs=1e-6)
        assert report["acc"] == pytest.approx((found == truth).mean(), abs=1e-6)
        digest.check("CDSP/quality of the seeds' labels", report["iou"], **LABELLED)

    def test_maps_are_stretched_in_boxes_if_asked_for(self, tmp_path, monkeypatch) -> None:
        box = Box(1, 10, 10, 20, 30)
        monkeypatch.setattr(SyntheticSource, "boxes", lambda self, record: [box])
        options = {"paste_scribbles": False, "threshold": 0.5}
        trainer = fit(classifier(), data_of(), tmp_path / "run")
        labels = []
        for name, per_box in (("whole", False), ("boxes", True)):
            writer = SeedWriter(str(tmp_path / name), per_box=per_box, **options)
            folder = writer.write(trainer, trainer.lightning_module)
            paths = sorted(folder.glob("*.png"))
            labels.append([read_label(path, source().num_classes) for path in paths])
        inside = [label[10:30, 10:20].copy() for label in labels[1]]
        assert any((part == 1).any() for part in inside)
        for label in labels[1]:
            label[10:30, 10:20] = 0
        assert not any(label.any() for label in labels[1]), "nothing outside of the box"
        assert any(label[:10].any() for label in labels[0])
        monkeypatch.setattr(SyntheticSource, "boxes", ScribbleSource.boxes)
        with pytest.raises(ScribbleNotFoundError, match="SyntheticSource has no boxes"):
            fit(classifier(), data_of(), tmp_path / "none", SeedWriter(per_box=True))

    def test_methods_without_maps_are_refused(self, tmp_path) -> None:
        module = RegularizedModule(5, encoder=TINY_ENCODER, encoder_weights=None)
        with pytest.raises(ConfigError, match="RegularizedModule is none"):
            fit(module, data_of(), tmp_path, SeedWriter())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"threshold": 1.0}, "threshold=1.0"),
            ({"refine": "magic"}, "refine='magic'"),
            ({"crf": "best"}, "crf='best'"),
            ({"confident": (0.1, 0.6)}, "larger one first"),
            ({"seeds": "no"}, "without quotes"),
        ],
    )
    def test_options_are_checked(self, options, message) -> None:
        with pytest.raises(ConfigError, match=message):
            SeedWriter(**options)


def data_of_sample(data: ScribbleDataModule, image_id: str) -> np.ndarray:
    from scribbleseg.data import read_degraded

    record = next(r for r in data.records("train") if r.image_id == image_id)
    return read_degraded(data.source, record, data.degradation)


class TestQuality:
    def labels(self, folder: Path, change) -> Path:
        own = source()
        for record in own.records("train"):
            write_label(folder / f"{record.image_id}.png", change(own.read_mask(record).copy()))
        return folder

    def test_perfect_labels_and_undecided_pixels(self, tmp_path) -> None:
        def half(mask: np.ndarray) -> np.ndarray:
            mask[::2] = 255
            return mask

        scores = score_pseudo_labels(source(), self.labels(tmp_path, half))
        assert scores["miou"] == 1
        assert scores["decided"] == pytest.approx(0.5, abs=0.03)

    def test_wrong_labels_are_counted(self, tmp_path) -> None:
        nothing = score_pseudo_labels(source(), self.labels(tmp_path, np.zeros_like))
        masks = [source().read_mask(r).ravel() for r in source().records("train")]
        share = (np.concatenate(masks) == 0).mean()
        assert nothing["acc"] == pytest.approx(share)
        assert nothing["iou"][source().class_names[0]] == pytest.approx(share)

    def test_files_of_training_masks_are_found(self, tmp_path) -> None:
        folder = FolderSource(plain_folder(tmp_path / "data"))
        for record in folder.records("train"):
            assert record.mask is None, "training reads no mask"
            mask = folder.read_mask(folder.with_mask(record))
            write_label(tmp_path / "labels" / f"{record.image_id}.png", mask)
        scores = score_pseudo_labels(folder, tmp_path / "labels")
        assert scores["miou"] == 1
        assert scores["images"] == len(folder.records("train"))

    def test_nothing_to_score(self, tmp_path) -> None:
        with pytest.raises(ScribbleSegError, match="nothing to score"):
            score_pseudo_labels(source(), tmp_path)


class TestSecondStage:
    def test_it_trains_on_the_files_of_the_first(self, first_stage, tmp_path, digest) -> None:
        data = data_of(pseudo_label_dir=str(first_stage / "pseudo_labels"), paste_scribbles=True)
        module = segmenter()
        fit(module, data, tmp_path)
        terms = {name: float(value) for name, value in module.loss_terms.items()}
        assert set(terms) == {*("pce", "pseudo", "lorm", "entropy_scribble", "entropy_pseudo")}
        digest.check("CDSP/second stage", terms, rtol=0.03, atol=1e-3)

    def test_any_folder_of_labels_will_do_and_a_wrong_one_is_named(self, tmp_path) -> None:
        folder = tmp_path / "elsewhere"
        TestQuality().labels(folder, lambda mask: mask)
        fit(segmenter(), data_of(pseudo_label_dir=str(folder)), tmp_path)
        write_manifest(folder, class_names=["a", "b"], files=IMAGES)
        with pytest.raises(LabelFormatError, match="D401"):
            fit(segmenter(), data_of(pseudo_label_dir=str(folder)), tmp_path)
        (folder / "manifest.json").unlink()
        missing = next(folder.glob("*.png"))
        missing.unlink()
        with pytest.raises(ScribbleNotFoundError, match=missing.stem):
            fit(segmenter(), data_of(pseudo_label_dir=str(folder)), tmp_path)

    def test_without_a_folder_only_the_partial_cross_entropy_runs(self, tmp_path) -> None:
        with pytest.raises(ConfigError, match="`pseudo_label_dir` of the data is not set"):
            fit(segmenter(), data_of(), tmp_path)
        names = ("pseudo", "lorm", "scribble_distance", "pseudo_distance")
        module = segmenter(**{f"{name}_weight": 0.0 for name in names})
        fit(module, data_of(), tmp_path)
        assert set(module.loss_terms) == {"pce"}


def test_recipes_hand_over_by_files_on_the_command_line(tmp_path) -> None:
    recipes = Path(__file__).parents[2] / "examples" / "cdsp_tiny"
    small = [
        *("--data.init_args.source.init_args.num_train=6", "--data.init_args.num_workers=0"),
        *("--data.init_args.source.init_args.num_val=2", "--data.init_args.check=false"),
        *("--data.init_args.source.init_args.size=48", "--trainer.accelerator=cpu"),
        *("--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1"),
    ]
    first, second = tmp_path / "cam", tmp_path / "cdsp"
    main(["fit", f"--config={recipes / '1_cam.yaml'}", "--run_dir", str(first), *small])
    labels = sorted((first / "pseudo_labels").glob("*.png"))
    assert len(labels) == 6
    assert json.loads((first / "pseudo_label_quality.json").read_text())["images"] == 6
    labels[0].unlink()
    main(["predict", "--ckpt_path", str(first / "checkpoints" / "last.ckpt"), *small[:-2]])
    assert labels[0].is_file(), "made again from the checkpoint"
    folder = f"--data.init_args.pseudo_label_dir={first / 'pseudo_labels'}"
    config = f"--config={recipes / '2_segment.yaml'}"
    main(["fit", config, folder, "--run_dir", str(second), *small])
    assert (second / "checkpoints" / "last.ckpt").is_file()


class _Save(Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("arch", ["unet", "aspp_v3plus"])
def test_resuming_is_bitwise(arch: str, tmp_path) -> None:
    # dropout and the recomputed attention draw from the same generators as before
    folder = tmp_path / "labels"
    TestQuality().labels(folder, lambda mask: mask)

    def run(*callbacks: Callback, **resume) -> CDSPModule:
        module = segmenter(arch=arch, warmup_steps=2)
        data = data_of(pseudo_label_dir=str(folder), seed=0)
        fit(module, data, tmp_path, *callbacks, epochs=2, **resume)
        return module

    whole = run(_Save(5, tmp_path / "5.ckpt")).state_dict()
    resumed = run(ckpt_path=tmp_path / "5.ckpt").state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
