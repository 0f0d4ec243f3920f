"""PtReCl over whole runs: its seven stages as commands, their files, and going on after a stop."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.contract import TINY_ENCODER
from helpers.training import LABELLED, class_shares
from lightning.pytorch import Callback, Trainer, seed_everything
from PIL import Image

from scribbleseg import (
    CAMModule,
    ConfigError,
    InferenceConfig,
    IRNModule,
    LabelFormatError,
    PtReClModule,
    RegularizedModule,
    ScribbleNotFoundError,
    main,
)
from scribbleseg.callbacks import (
    AffinityLabelWriter,
    CollectionOptions,
    ExactResume,
    FeatureCollector,
    RandomWalkWriter,
    ReclassificationWriter,
    SeedWriter,
    TrainingImage,
)
from scribbleseg.data import ScribbleDataModule, read_label
from scribbleseg.data.sources import SyntheticSource
from scribbleseg.functional import (
    FeatureFile,
    read_manifest,
    write_arrays,
    write_label,
    write_manifest,
)

IMAGES = 6
RECIPES = Path(__file__).parents[2] / "examples" / "ptrecl_tiny"
SMALL = [
    *(f"--data.init_args.source.init_args.num_train={IMAGES}", "--data.init_args.num_workers=0"),
    *("--data.init_args.source.init_args.num_val=2", "--data.init_args.check=false"),
    *("--data.init_args.source.init_args.size=64", "--trainer.accelerator=cpu"),
    *("--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1"),
    *("--data.init_args.batch_size=3", "--trainer.enable_model_summary=false"),
]


def source() -> SyntheticSource:
    return SyntheticSource(num_train=IMAGES, num_val=2, size=64)


def data_of(**options) -> ScribbleDataModule:
    return ScribbleDataModule(
        source(), **{"batch_size": 3, "num_workers": 0, "check": False, "seed": 0, **options}
    )


def trainer_of(folder: Path, *callbacks: Callback, epochs: int = 1) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        limit_val_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[ExactResume(), *callbacks],
    )


def boundaries(**options) -> IRNModule:
    seed_everything(0, verbose=False)
    settings = {"encoder": TINY_ENCODER, "encoder_weights": None, "radius": 3, "lr": 1e-2}
    return IRNModule(source().num_classes, **{**settings, **options})


def recovery(**options) -> PtReClModule:
    seed_everything(0, verbose=False)
    settings = {"encoder": TINY_ENCODER, "encoder_weights": None, "num_prototypes": 3, "top_m": 2}
    settings |= {"arch": "unet", "feature_level": "decoder"}
    return PtReClModule(source().num_classes, **{**settings, **options})


def seeds_in(folder: Path, *, manifest: bool = False) -> Path:
    """Seeds that somebody else made: the masks, blurred."""
    own = source()
    for record in own.records("train"):
        mask = own.read_mask(record)
        drawn = np.unique(own.read_scribble(record))
        classes = np.array([c for c in drawn if c not in (0, 255)], np.int64)
        truth = torch.from_numpy((mask == classes[:, None, None]).astype(np.float32))
        size = [-(-n // 4) for n in mask.shape]
        maps = torch.nn.functional.adaptive_avg_pool2d(truth, size) if len(classes) else truth
        if not len(classes):
            maps = torch.zeros(0, *size)
        write_arrays(
            folder / f"{record.image_id}.npz",
            classes=classes,
            maps=maps.numpy().astype(np.float16),
        )
    if manifest:
        write_manifest(folder, class_names=own.class_names, files=IMAGES, made_by={"by": "hand"})
    return folder


def masks_in(folder: Path, noise: int = 12) -> Path:
    """True masks of which the first rows are all of the class with the most pixels."""
    own = source()
    for record in own.records("train"):
        mask = own.read_mask(record).copy()
        counts = np.bincount(mask.ravel(), minlength=own.num_classes)
        mask[:noise] = counts[1:].argmax() + 1
        write_label(folder / f"{record.image_id}.png", mask, own.palette)
    return folder


def labels_of(folder: Path) -> dict[str, np.ndarray]:
    return {p.stem: read_label(p, source().num_classes) for p in sorted(folder.glob("*.png"))}


def scribbles() -> dict[str, np.ndarray]:
    own = source()
    return {record.image_id: own.read_scribble(record) for record in own.records("train")}


# ----------------------------------------------------------- the commands of the card


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """All stages by the commands of the card, in a folder of their own."""
    folder = tmp_path_factory.mktemp("ptrecl")

    def command(stage: str, verb: str, *words: str) -> None:
        text = (RECIPES / f"{stage}.yaml").read_text().replace("runs/ptrecl_tiny", str(folder))
        config = folder / f"{stage}.yaml"
        config.write_text(text)
        main([verb, f"--config={config}", *SMALL, *words])

    command("1_cam", "fit")
    command("2_irn", "fit")
    command("3_recover", "fit")
    last = folder / "3_recover" / "checkpoints" / "last.ckpt"
    command("4_reclassify", "predict", "--ckpt_path", str(last))
    command("5_refine", "fit")
    command("6_segment", "fit")
    return folder


class TestCommands:
    def test_every_stage_leaves_what_the_next_one_reads(self, runs) -> None:
        folders = [
            *("1_cam/seeds", "1_cam/affinity_labels", "2_irn/pseudo_labels"),
            *("3_recover/pseudo_labels", "4_reclassify/seeds", "4_reclassify/pseudo_labels"),
            *("4_reclassify/affinity_labels", "5_refine/pseudo_labels"),
        ]
        for name in folders:
            manifest = read_manifest(runs / name)
            assert manifest["complete"], name
            assert manifest["files"] == IMAGES
            assert manifest["class_names"] == list(source().class_names)
        parents = read_manifest(runs / "5_refine" / "pseudo_labels")["parents"]
        assert parents["seeds"]["folder"].endswith("4_reclassify/seeds")
        assert (runs / "6_segment" / "checkpoints" / "last.ckpt").is_file()

    def test_scribbles_are_in_every_label(self, runs) -> None:
        drawn = scribbles()
        names = ["1_cam/affinity_labels", "2_irn/pseudo_labels", "3_recover/pseudo_labels"]
        names += ["4_reclassify/pseudo_labels", "4_reclassify/affinity_labels"]
        for name in [*names, "5_refine/pseudo_labels"]:
            for image_id, label in labels_of(runs / name).items():
                shown = drawn[image_id] != 255
                assert np.array_equal(label[shown], drawn[image_id][shown]), name
                allowed = {0, 255, *np.unique(drawn[image_id]).tolist()}
                assert set(np.unique(label).tolist()) <= allowed, "classes of the image only"

    def test_quality_of_every_stage_is_reported(self, runs) -> None:
        for stage in ("1_cam", "2_irn", "3_recover", "4_reclassify", "5_refine"):
            report = json.loads((runs / stage / "pseudo_label_quality.json").read_text())
            assert report["images"] == IMAGES

    def test_prototypes_say_how_they_are(self, runs) -> None:
        report = json.loads((runs / "4_reclassify" / "prototypes.json").read_text())["classes"]
        assert set(report) == set(source().class_names)
        used = [facts for facts in report.values() if facts["foreground_cells"]]
        assert used
        assert all(facts["overlap"] <= 1.0001 for facts in used)
        assert not (runs / "4_reclassify" / "features").exists(), "only while it lasts"

    def test_stale_artefacts_are_refused_with_what_differs(self, runs, tmp_path) -> None:
        copied = tmp_path / "all"
        shutil.copytree(runs / "1_cam", copied / "1_cam")
        manifest = copied / "1_cam" / "affinity_labels" / "manifest.json"
        facts = json.loads(manifest.read_text().replace(str(runs), str(copied)))
        manifest.write_text(json.dumps(facts))
        labels = str(copied / "1_cam" / "affinity_labels")
        trainer_of(tmp_path).fit(boundaries(), data_of(pseudo_label_dir=labels))
        seeds = copied / "1_cam" / "seeds" / "manifest.json"
        changed = json.loads(seeds.read_text())
        changed["made_by"]["threshold"] = 0.4
        seeds.write_text(json.dumps(changed))
        with pytest.raises(LabelFormatError, match=r"D403.*threshold was 0.25, is 0.4"):
            trainer_of(tmp_path).fit(boundaries(), data_of(pseudo_label_dir=labels))


# ------------------------------------------------------------------ stages one by one


class TestAffinityLabels:
    def write(self, folder: Path, **options) -> dict[str, np.ndarray]:
        callback = AffinityLabelWriter(str(folder / "labels"), **options)
        trainer = trainer_of(folder)
        trainer.fit(recovery(), data_of(pseudo_label_dir=str(masks_in(folder / "masks"))))
        callback.write(trainer, trainer.lightning_module)
        return labels_of(folder / "labels")

    def test_foreign_seeds_become_sparse_labels(self, tmp_path) -> None:
        seeds = str(seeds_in(tmp_path / "seeds"))
        found = self.write(tmp_path, seed_dir=seeds, refine="none", foreground=0.6)
        own = source()
        for record in own.records("train"):
            label, mask = found[record.image_id], own.read_mask(record)
            sure = label != 255
            assert 0.5 < sure.mean() < 1
            assert (label[sure] == mask[sure]).mean() > 0.95

    def test_scribbles_alone_are_spread_by_colour(self, tmp_path) -> None:
        found = self.write(tmp_path, seed_source="scribble")
        for image_id, drawn in scribbles().items():
            assert (found[image_id] != 255).sum() >= (drawn != 255).sum()
            assert np.array_equal(found[image_id][drawn != 255], drawn[drawn != 255])

    def test_folders_that_do_not_fit_are_refused(self, tmp_path) -> None:
        with pytest.raises(ScribbleNotFoundError, match="D301"):
            self.write(tmp_path, seed_dir=str(tmp_path / "nowhere"))
        folder = seeds_in(tmp_path / "seeds")
        next(folder.glob("*.npz")).unlink()
        with pytest.raises(ScribbleNotFoundError, match=r"train_0000\d"):
            self.write(tmp_path, seed_dir=str(folder))
        seeds_in(folder)
        write_manifest(folder, class_names=["a", "b"], files=1)
        with pytest.raises(LabelFormatError, match="D401"):
            self.write(tmp_path, seed_dir=str(folder))
        write_manifest(folder, class_names=source().class_names, files=1, complete=False)
        with pytest.raises(LabelFormatError, match="not complete"):
            self.write(tmp_path, seed_dir=str(folder))
        (folder / "manifest.json").unlink()
        next(folder.glob("*.npz")).write_bytes(b"no archive")
        with pytest.raises(LabelFormatError, match="D202"):
            self.write(tmp_path, seed_dir=str(folder))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"foreground": 0.1, "background": 0.2}, "the first one larger"),
            ({"seed_source": "box"}, "seed_source='box'"),
            ({"refine": "walk"}, "refine='walk'"),
            ({"crf": "best"}, "crf='best'"),
        ],
    )
    def test_options_are_checked(self, options, message) -> None:
        with pytest.raises(ConfigError, match=message):
            AffinityLabelWriter(**options)


class TestRandomWalk:
    def run(self, folder: Path, **options) -> RandomWalkWriter:
        labels = masks_in(folder / "masks", noise=0)
        writer = RandomWalkWriter(str(folder / "walked"), num_steps=32, **options)
        trainer = trainer_of(folder, writer)
        trainer.fit(boundaries(), data_of(pseudo_label_dir=str(labels)))
        return writer

    def test_drawn_cells_are_held_and_drawn_pixels_stay(self, tmp_path) -> None:
        self.run(tmp_path, seed_source="scribble")
        for image_id, label in labels_of(tmp_path / "walked").items():
            drawn = scribbles()[image_id]
            assert np.array_equal(label[drawn != 255], drawn[drawn != 255])

    def test_seeds_alone_know_no_scribbles(self, tmp_path) -> None:
        seeds = str(seeds_in(tmp_path / "seeds"))
        writer = self.run(tmp_path, seed_source="cam", seed_dir=seeds)
        record = source().records("train")[0]
        wall, tags = torch.zeros(16, 16), torch.zeros(source().num_classes)
        tags[np.load(Path(seeds) / f"{record.image_id}.npz")["classes"]] = 1

        def walk(scribble: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
            known = {"record": record, "scribble": scribble, "tags": tags}
            sample = SimpleNamespace(**known, input_size=(64, 64))
            return writer.walk(sample, wall)

        own = [walk(torch.full((64, 64), value), tags) for value in (255, 1)]
        assert torch.equal(*own)
        writer.seed_source = "cam+scribble"
        drawn = torch.full((64, 64), 255).index_fill(0, torch.tensor([0, 1, 2, 3]), 1)
        held = walk(drawn, tags.index_fill(0, torch.tensor(1), 1))
        assert (held[1, 0] == 1).all(), "exactly"
        assert (held[2:, 0] == 0).all()

    def test_objects_are_numbered_where_displacements_are_learned(self, tmp_path, digest) -> None:
        with pytest.raises(ConfigError, match="displacement: true"):
            self.run(tmp_path, seed_source="scribble", instances=True)
        labels = masks_in(tmp_path / "masks", noise=0)
        writer = RandomWalkWriter(
            str(tmp_path / "walked"), seed_source="scribble", instances=True, num_steps=4
        )
        module = boundaries(displacement=True, encoder="resnet18")
        data = data_of(pseudo_label_dir=str(labels))
        trainer_of(tmp_path, writer).fit(module, data)
        shift = module.displacement.mean_shift.running_mean.tolist()
        digest.check("IRN/mean displacement", shift, rtol=0.02, atol=1e-3)
        paths = sorted((tmp_path / "instances").glob("*.png"))
        assert len(paths) == IMAGES
        for path in paths:
            numbers = np.unique(np.asarray(Image.open(path))).tolist()
            assert numbers == [*range(len(numbers))], "without gaps, 0 = no object"
            assert len(numbers) > 1

    def test_options_and_methods_are_checked(self, tmp_path) -> None:
        for options, message in (
            ({"seed_source": "cam"}, "seed_dir=None"),
            ({"seed_source": "scribble", "seed_dir": "x"}, "seed_dir='x'"),
            ({"seed_source": "scribble", "beta": 0.0}, "beta=0.0"),
            ({"seed_source": "scribble", "threshold": 1.0}, "threshold=1.0"),
        ):
            with pytest.raises(ConfigError, match=message):
                RandomWalkWriter(**options)
        module = RegularizedModule(5, encoder=TINY_ENCODER, encoder_weights=None)
        with pytest.raises(ConfigError, match="RegularizedModule is none"):
            trainer_of(tmp_path, RandomWalkWriter(seed_source="scribble")).fit(module, data_of())


class TestReclassification:
    def trained(self, folder: Path, **options) -> tuple[PtReClModule, ScribbleDataModule, Trainer]:
        data = data_of(pseudo_label_dir=str(masks_in(folder / "masks")))
        module, trainer = recovery(**options), trainer_of(folder)
        trainer.fit(module, data)
        return module, data, trainer

    def writer(self, folder: Path, **options) -> ReclassificationWriter:
        return ReclassificationWriter(str(folder / "masks"), str(folder / "out"), **options)

    def test_masks_of_any_method_are_written_anew(self, tmp_path, digest) -> None:
        module, _, trainer = self.trained(tmp_path)
        fallback = str(seeds_in(tmp_path / "fallback"))
        self.writer(tmp_path, fallback_dir=fallback).write(trainer, module)
        assert not module.prototypes.is_empty
        for record in source().records("train"):
            seeds = np.load(tmp_path / "out" / "seeds" / f"{record.image_id}.npz")
            drawn = set(np.unique(source().read_scribble(record)).tolist())
            assert seeds["classes"].tolist() == sorted(drawn - {0, 255})
            assert seeds["maps"].shape[0] == len(seeds["classes"])
            assert (seeds["maps"].max(axis=(1, 2)) > 0).all(), "no map is empty, by the fallback"
        found = labels_of(tmp_path / "out" / "pseudo_labels")
        assert len(found) == IMAGES
        digest.check("PtReCl/reclassified labels", class_shares(found.values()), **LABELLED)

    def test_the_order_of_images_does_not_matter(self, tmp_path) -> None:
        module, data, trainer = self.trained(tmp_path)
        self.writer(tmp_path).write(trainer, module)
        first = {k: v.clone() for k, v in module.prototypes.state_dict().items()}
        shutil.rmtree(tmp_path / "out")
        # no permutation that undoes itself: numbers and positions must not be confused
        records = data.records("train")
        data._records["train"] = [records[index] for index in (1, 2, 0, 4, 5, 3)]
        self.writer(tmp_path).write(trainer, module)
        for name, value in module.prototypes.state_dict().items():
            torch.testing.assert_close(value, first[name], msg=name)

    def test_killed_collection_goes_on_at_its_image(self, tmp_path, monkeypatch) -> None:
        module, _, trainer = self.trained(tmp_path)
        self.writer(tmp_path).write(trainer, module)
        whole = {k: v.clone() for k, v in module.prototypes.state_dict().items()}
        shutil.rmtree(tmp_path / "out")
        written, write = [], FeatureFile.write

        def interrupted(self, uid, features) -> None:
            if len(written) == 3:
                raise KeyboardInterrupt
            write(self, uid, features)
            written.append(uid)

        monkeypatch.setattr(FeatureFile, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            self.writer(tmp_path).write(trainer, module)

        def counted(self, uid, features) -> None:
            assert uid not in written[:3], "not a second time"
            write(self, uid, features)
            written.append(uid)

        monkeypatch.setattr(FeatureFile, "write", counted)
        self.writer(tmp_path).write(trainer, module)
        assert len(written) == IMAGES
        for name, value in module.prototypes.state_dict().items():
            assert torch.equal(value, whole[name]), name

    def test_a_terminal_shows_how_far_it_is_and_a_log_one_line(
        self, tmp_path, capsys, caplog, monkeypatch
    ) -> None:
        module, _, trainer = self.trained(tmp_path)
        capsys.readouterr()
        for terminal in (False, True):
            monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
            with caplog.at_level(logging.INFO, logger="scribbleseg"):
                caplog.clear()
                folder = self.writer(tmp_path).write(trainer, module)
            shown = capsys.readouterr().err
            for title in ("cells", "features", "pseudo-labels"):
                assert bool(re.search(rf"\r{title}: +0%", shown)) == terminal, title
            lines = [record.message for record in caplog.records]
            assert lines[-1] == f"pseudo-labels of {IMAGES} training images: {folder}"
            shutil.rmtree(tmp_path / "out")

    def test_other_masks_or_weights_begin_anew(self, tmp_path) -> None:
        module, _, trainer = self.trained(tmp_path)
        keep = CollectionOptions(keep_features=True)
        self.writer(tmp_path, collection=keep).write(trainer, module)
        stamp = (tmp_path / "out" / "prototypes.npz").stat().st_mtime_ns
        self.writer(tmp_path, collection=keep).write(trainer, module)
        assert (tmp_path / "out" / "prototypes.npz").stat().st_mtime_ns == stamp
        with torch.no_grad():
            module.network.classifier.bias.add_(1)
        self.writer(tmp_path, collection=keep).write(trainer, module)
        assert (tmp_path / "out" / "prototypes.npz").stat().st_mtime_ns != stamp

    def test_other_votes_take_the_same_features(self, tmp_path, monkeypatch) -> None:
        module, _, trainer = self.trained(tmp_path)
        keep = CollectionOptions(keep_features=True)
        self.writer(tmp_path, collection=keep).write(trainer, module)
        limits = module.prototypes.threshold.clone()
        monkeypatch.setattr(FeatureFile, "write", None)  # would fail
        module.hparams["top_m"] = (1, 2)
        self.writer(tmp_path, collection=keep).write(trainer, module)
        assert not torch.equal(module.prototypes.threshold, limits)

    def test_features_of_a_run_that_was_stopped_at_its_end_are_removed(
        self, tmp_path, monkeypatch
    ) -> None:
        module, _, trainer = self.trained(tmp_path)
        with monkeypatch.context() as stopped:
            stopped.setattr(FeatureCollector, "finish", None)
            with pytest.raises(TypeError):
                self.writer(tmp_path).write(trainer, module)
        assert (tmp_path / "out" / "prototypes.npz").is_file()
        assert (tmp_path / "out" / "features").is_dir()
        self.writer(tmp_path).write(trainer, module)
        assert not (tmp_path / "out" / "features").exists()

    def test_a_background_that_is_not_there_cannot_be_modelled(self, tmp_path) -> None:
        module, _, trainer = self.trained(tmp_path, model_background=True)
        trainer.datamodule.source.background = None
        with pytest.raises(ConfigError, match="model_background: true"):
            self.writer(tmp_path).setup(trainer, module, "fit")

    def test_foreign_masks_that_change_begin_anew(self, tmp_path) -> None:
        module, _, trainer = self.trained(tmp_path)
        (tmp_path / "masks" / "manifest.json").unlink(missing_ok=True)
        self.writer(tmp_path).write(trainer, module)
        stamp = (tmp_path / "out" / "prototypes.npz").stat().st_mtime_ns
        path = next((tmp_path / "masks").glob("*.png"))
        write_label(path, np.zeros_like(labels_of(path.parent)[path.stem]), source().palette)
        self.writer(tmp_path).write(trainer, module)
        assert (tmp_path / "out" / "prototypes.npz").stat().st_mtime_ns != stamp

    def test_prototypes_of_another_number_are_made_anew(self, tmp_path) -> None:
        module, _, trainer = self.trained(tmp_path)
        self.writer(tmp_path).write(trainer, module)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        other = PtReClModule.load_from_checkpoint(tmp_path / "last.ckpt", num_prototypes=5)
        assert other.prototypes.is_empty
        again = PtReClModule.load_from_checkpoint(tmp_path / "last.ckpt")
        assert torch.equal(again.prototypes.foreground, module.prototypes.foreground)

    @pytest.mark.parametrize("clustering", ["sharded", "streaming"])
    def test_variants_of_the_clustering_agree(self, tmp_path, clustering: str) -> None:
        module, _, trainer = self.trained(tmp_path, num_prototypes=2)
        small = {"iters": 10, "redo": 1}
        self.writer(tmp_path, collection=CollectionOptions(**small)).write(trainer, module)
        first = module.prototypes.foreground.clone()
        shutil.rmtree(tmp_path / "out")
        options = CollectionOptions(clustering=clustering, shards=2, passes=2, **small)
        self.writer(tmp_path, collection=options).write(trainer, module)
        used = module.prototypes.num_foreground > 0
        nearest = (module.prototypes.foreground @ first.mT)[used].amax(dim=2)
        assert (nearest > 0.8).all(), nearest

    def test_sampling_options(self, tmp_path) -> None:
        module, _, trainer = self.trained(tmp_path)
        options = {"purity": 0.9, "capacity": 50, "per_image": 9, "background_scope": "all"}
        collection = CollectionOptions(**options, keep_features=True)
        masks = tmp_path / "masks"
        writer = self.writer(tmp_path, collection=collection, agree_dir=str(masks))
        writer.write(trainer, module)
        with np.load(tmp_path / "out" / "features" / "plan.npz") as plan:
            assert np.diff(plan["bounds"]).max() <= 50
            assert (plan["weights"] == 5).any(), "drawn cells weigh more"
        for options, message in (
            ({"capacity": 0}, "capacity=0"),
            ({"purity": 2.0}, "purity=2.0"),
            ({"clustering": "slow"}, "clustering='slow'"),
        ):
            with pytest.raises(ConfigError, match=message):
                CollectionOptions(**options)

    def test_methods_without_prototypes_are_refused(self, tmp_path) -> None:
        masks_in(tmp_path / "masks")
        module = RegularizedModule(5, encoder=TINY_ENCODER, encoder_weights=None)
        with pytest.raises(ConfigError, match="RegularizedModule is none"):
            trainer_of(tmp_path, self.writer(tmp_path)).fit(module, data_of())


# -------------------------------------------------------------------------- resuming


class TestNothingIsKnown:
    """Without a stroke and without tags an image is undecided: it is no image of the background."""

    @pytest.fixture
    def forget(self, monkeypatch):
        drawn = TrainingImage.scribble.func

        def nothing(sample: TrainingImage) -> torch.Tensor:
            return torch.full_like(drawn(sample), 255)

        return lambda: monkeypatch.setattr(TrainingImage, "scribble", property(nothing))

    def check(self, folder: Path) -> None:
        found = labels_of(folder)
        assert len(found) == IMAGES
        for image_id, label in found.items():
            assert (label == 255).all(), image_id

    def test_certain_labels(self, tmp_path, forget) -> None:
        forget()
        seeds = str(seeds_in(tmp_path / "seeds"))
        TestAffinityLabels().write(tmp_path, seed_dir=seeds, refine="none")
        self.check(tmp_path / "labels")

    def test_walk(self, tmp_path, forget) -> None:
        forget()
        seeds = str(seeds_in(tmp_path / "seeds"))
        TestRandomWalk().run(tmp_path, seed_source="cam", seed_dir=seeds)
        self.check(tmp_path / "walked")

    def test_seeds(self, tmp_path, forget) -> None:
        forget()
        module = CAMModule(source().num_classes, encoder=TINY_ENCODER, encoder_weights=None)
        trainer_of(tmp_path, SeedWriter()).fit(module, data_of())
        self.check(tmp_path / "pseudo_labels")

    def test_reclassified_labels(self, tmp_path, forget) -> None:
        stage = TestReclassification()
        module, _, trainer = stage.trained(tmp_path)
        stage.writer(tmp_path).write(trainer, module)
        shutil.rmtree(tmp_path / "out" / "pseudo_labels")
        forget()
        stage.writer(tmp_path).write(trainer, module)
        self.check(tmp_path / "out" / "pseudo_labels")


class _Save(Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("build", [boundaries, recovery])
def test_resuming_is_bitwise(build, tmp_path) -> None:
    labels = str(masks_in(tmp_path / "masks"))

    def run(*callbacks: Callback, **resume):
        module = build(arch="deeplab_v2", feature_level="encoder") if build is recovery else build()
        trainer = trainer_of(tmp_path, *callbacks, epochs=2)
        trainer.fit(module, data_of(pseudo_label_dir=labels), **resume)
        return module.state_dict()

    whole = run(_Save(3, tmp_path / "3.ckpt"))
    resumed = run(ckpt_path=tmp_path / "3.ckpt")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_recovery_predicts_without_tags(digest) -> None:
    module = recovery(inference=InferenceConfig(flip=True)).eval()
    with torch.no_grad():
        rows, columns = torch.arange(64)[:, None], torch.arange(64)
        image = ((rows // 8 + columns // 16) % 2).float().expand(1, 3, 64, 64)
        logits = module.predict_logits(image)
    assert logits.shape == (1, 5, 64, 64)
    digest.check("PtReCl/logits", logits[0, :, ::24, ::24].tolist(), rtol=1e-4, atol=1e-5)


def test_pseudo_labels_train_the_last_stage_alone(tmp_path) -> None:
    labels = str(masks_in(tmp_path / "masks", noise=0))
    module = RegularizedModule(5, encoder=TINY_ENCODER, encoder_weights=None, pseudo_labels=True)
    seen = []
    module.log_labelled_fraction = lambda batch: seen.append(batch["scribble"])
    trainer_of(tmp_path).fit(module, data_of(pseudo_label_dir=labels))
    assert all((labels != 255).float().mean() > 0.8 for labels in seen), "masks, not strokes"
