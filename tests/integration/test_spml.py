"""SPML over whole runs: embedding, propagated labels, classifier, retrieval, and resuming it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.contract import TINY_ENCODER
from helpers.tiny_folders import plain_folder
from helpers.training import LABELLED, TRAINED, class_shares
from lightning.pytorch import Callback, Trainer, seed_everything

from scribbleseg import (
    CAMModule,
    CheckpointError,
    ConfigError,
    LabelFormatError,
    RegularizedModule,
    ScribbleNotFoundError,
    SPMLModule,
    main,
)
from scribbleseg.callbacks import (
    ConfidentLabelWriter,
    ExactResume,
    PropagatedLabelWriter,
    PrototypeWriter,
    SeedWriter,
)
from scribbleseg.data import ScribbleDataModule, read_label
from scribbleseg.data.sources import FolderSource, SyntheticSource
from scribbleseg.functional import read_manifest

IMAGES = 6


def source(**options) -> SyntheticSource:
    return SyntheticSource(num_train=IMAGES, num_val=2, size=40, **options)


def data_of(**options) -> ScribbleDataModule:
    settings = {"batch_size": 2, "num_workers": 0, "check": False, "superpixels": "grid"}
    return ScribbleDataModule(source(), **{**settings, **options})


def trainer_of(folder: Path, *callbacks: Callback, epochs: int = 1) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        limit_val_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[ExactResume(), *callbacks],
    )


def fit(module, data, folder: Path, *callbacks: Callback, epochs: int = 1, **resume) -> Trainer:
    trainer = trainer_of(folder, *callbacks, epochs=epochs)
    trainer.fit(module, data, **resume)
    return trainer


def module_of(**options) -> SPMLModule:
    seed_everything(0, verbose=False)
    settings = {"arch": "unet", "encoder": TINY_ENCODER, "encoder_weights": None, "lr": 0.01}
    settings |= {"embedding_dim": 8, "memory_capacity": 300, "head_lr_mult": 1.0}
    return SPMLModule(source().num_classes, **{**settings, **options})


class Keep(Callback):
    """Saves a checkpoint, at a step or at the end."""

    def __init__(self, path: Path, step: int | None = None) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)

    def on_fit_end(self, trainer, module) -> None:
        if self.step is None:
            trainer.save_checkpoint(self.path)


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("embedding")
    writers = (
        PropagatedLabelWriter(stride=4),
        PrototypeWriter(labels="pseudo_labels"),
        Keep(folder / "last.ckpt"),
    )
    module = module_of()
    fit(module, data_of(), folder, *writers)
    assert module.training
    assert module.retriever is None
    return folder


def shares_in(folder: Path) -> dict[str, float]:
    """Shares of the classes in the labels of all training images."""
    paths = sorted(folder.glob("*.png"))
    assert len(paths) == IMAGES
    return class_shares([read_label(path, source().num_classes) for path in paths])


class TestFiles:
    def test_every_training_image_has_a_label_of_its_classes(self, first_stage) -> None:
        own = source()
        for record in own.records("train"):
            label = read_label(
                first_stage / "pseudo_labels" / f"{record.image_id}.png", own.num_classes
            )
            scribble = own.read_scribble(record)
            assert label.shape == scribble.shape
            drawn = set(np.unique(scribble).tolist()) - {255}
            assert set(np.unique(label).tolist()) <= drawn
            assert np.array_equal(label[scribble != 255], scribble[scribble != 255])
        manifest = read_manifest(first_stage / "pseudo_labels")
        assert manifest["files"] == IMAGES
        assert manifest["made_by"]["scores"] == "classifier"

    def test_the_prototype_file_names_its_images(self, first_stage, digest) -> None:
        with np.load(first_stage / "prototypes" / "prototypes.npz", allow_pickle=False) as stored:
            arrays = dict(stored)
        assert sorted(arrays["image_ids"]) == [r.image_id for r in source().records("train")]
        count = len(arrays["labels"])
        shares = class_shares([arrays["labels"]])
        digest.check("SPML/labels of the prototypes", shares, atol=0.05)
        digest.check("SPML/number of prototypes", float(count), rtol=0.05)
        assert arrays["prototypes"].shape == (count, 8)
        np.testing.assert_allclose(np.linalg.norm(arrays["prototypes"], axis=1), 1, rtol=1e-5)
        assert arrays["labels"].max() < source().num_classes
        assert set(arrays["image"].tolist()) == set(range(IMAGES))
        assert not arrays["oracle"]
        assert not list((first_stage / "prototypes").glob("part_*"))

    def test_from_scribbles_only_drawn_segments_are_kept(self, first_stage, tmp_path) -> None:
        data = data_of()
        writer = PrototypeWriter(scales=(1.0, 0.5))
        fit(module_of(), data, tmp_path, writer)
        with np.load(tmp_path / "prototypes" / "prototypes.npz") as stored:
            drawn = dict(stored)
        assert set(np.unique(drawn["scale"]).tolist()) == {0.5, 1.0}
        whole = np.load(first_stage / "prototypes" / "prototypes.npz")["labels"]
        assert (drawn["scale"] == 1).sum() < len(whole)

    def test_images_that_even_out_the_ranks_count_once(self, tmp_path) -> None:
        module, data, trainer = module_of(), data_of(val_batch_size=1), trainer_of(tmp_path)
        fit(module, data_of(), tmp_path, epochs=0)
        trainer.datamodule = data
        data.setup("fit")
        data._records["train"] = data.records("train")[:5]
        images = list(data.unaugmented_dataloader())
        again = [{**batch, "duplicate": torch.ones_like(batch["duplicate"])} for batch in images]
        module.data_info = data.data_info

        class Rank:
            """The trainer as one of several processes sees it; the first one is the last to run."""

            def __init__(self, rank: int, ranks: int) -> None:
                self.global_rank, self.world_size, self.is_global_zero = rank, ranks, rank == 0

            def __getattr__(self, name: str):
                return getattr(trainer, name)

        def written(name: str, *shares: list) -> dict[str, dict]:
            writer = PrototypeWriter(str(tmp_path / name))
            for rank, share in reversed([*enumerate(shares)]):
                data.unaugmented_dataloader = lambda share=share: share
                folder = writer.write(Rank(rank, len(shares)), module)
            assert read_manifest(folder)["class_names"] == list(source().class_names)
            with np.load(folder / "prototypes.npz") as arrays:
                ids = arrays["image_ids"].tolist()
                columns = ("prototypes", "labels", "segment", "scale")
                assert sorted(set(ids)) == sorted(ids)
                rows = {column: arrays[column] for column in columns}
                of = arrays["image"]
                assert set(of.tolist()) == set(range(5))
            return {
                image: {column: values[of == number] for column, values in rows.items()}
                for number, image in enumerate(ids)
            }

        alone = written("alone", images)
        assert sorted(alone) == [record.image_id for record in data.records("train")]
        for name, shares in {
            "two ranks": (images[::2], [*images[1::2], again[0]]),
            "one rank twice": ([*images, *again[:3]],),
        }.items():
            found = written(name, *shares)
            assert found.keys() == alone.keys()
            for image, rows in alone.items():
                for column, values in rows.items():
                    np.testing.assert_array_equal(found[image][column], values, err_msg=name)

    def test_scaled_images_are_averages_of_their_pixels(self, tmp_path) -> None:
        # half the size without aligned corners: every pixel is the mean of four
        writer, seen = PrototypeWriter(scales=(1.0, 0.5)), []
        module = module_of()
        segments = module.segments_of

        def kept(image):
            seen.append(image)
            return segments(image)

        module.segments_of = kept
        fit(module, data_of(), tmp_path, writer, epochs=0)
        assert len(seen) == 2 * IMAGES
        even = [n for n in range(0, len(seen), 2) if not any(s % 2 for s in seen[n].shape[2:])]
        assert even
        for number in even:
            halved = torch.nn.functional.avg_pool2d(seen[number], 2)
            torch.testing.assert_close(seen[number + 1], halved)

    def test_masks_label_it_as_an_oracle_only(self, tmp_path) -> None:
        fit(module_of(), data_of(), tmp_path, PrototypeWriter(oracle=True))
        path = tmp_path / "oracle_prototypes" / "prototypes.npz"
        module, trainer = module_of(retrieval=str(path)), trainer_of(tmp_path)
        (scores,) = trainer.validate(module, data_of(), verbose=False)
        assert "oracle/val/miou" in scores
        assert not any(name.startswith("val/") for name in scores)

    def test_masks_of_files_label_it_too(self, tmp_path) -> None:
        folder = FolderSource(plain_folder(tmp_path / "data", classes=source().class_names))
        module = module_of()
        options = {"batch_size": 2, "num_workers": 0, "check": False, "superpixels": "grid"}
        data = ScribbleDataModule(folder, crop_size=32, **options)
        fit(module, data, tmp_path / "run", PrototypeWriter(oracle=True))
        path = tmp_path / "run" / "oracle_prototypes" / "prototypes.npz"
        with np.load(path) as arrays:
            assert len(set(arrays["labels"].tolist())) > 1
            assert arrays["oracle"]

    @pytest.mark.parametrize("scores", ["nearest", "retrieval"])
    def test_other_scores(self, scores: str, first_stage, tmp_path, digest) -> None:
        prototypes = str(first_stage / "prototypes" / "prototypes.npz")
        given = {"prototypes": prototypes} if scores == "retrieval" else {}
        writer = PropagatedLabelWriter(scores=scores, crf=None, **given)
        fit(module_of(lr=1e-9), data_of(), tmp_path, writer)
        digest.check(f"SPML/labels by {scores}", shares_in(tmp_path / "pseudo_labels"), **LABELLED)

    def test_activation_maps_spread(self, tmp_path, digest) -> None:
        seed_everything(0, verbose=False)
        cam = CAMModule(source().num_classes, encoder=TINY_ENCODER, encoder_weights=None, lr=1e-3)
        fit(cam, data_of(superpixels=None), tmp_path / "cam", SeedWriter())
        folder = str(tmp_path / "cam" / "pseudo_labels")
        data = data_of(pseudo_label_dir=folder)
        writer = PropagatedLabelWriter(scores="seeds", seeds=str(tmp_path / "cam" / "seeds"))
        fit(module_of(weak_labels="pseudo_label", lr=1e-9), data, tmp_path, writer)
        digest.check("SPML/labels by seeds", shares_in(tmp_path / "pseudo_labels"), **LABELLED)
        next((tmp_path / "cam" / "seeds").glob("*.npz")).unlink()
        writer = PropagatedLabelWriter(scores="seeds", seeds=str(tmp_path / "cam" / "seeds"))
        with pytest.raises(ScribbleNotFoundError, match="no activation maps"):
            fit(module_of(weak_labels="pseudo_label"), data, tmp_path / "again", writer)

    def test_nothing_is_known_of_an_image_without_a_scribble(self, first_stage, tmp_path) -> None:
        root = plain_folder(tmp_path / "data", classes=source().class_names)
        folder = FolderSource(root, on_missing="unlabelled")
        name = folder.records("train")[0].image_id
        next((root / "scribbles").glob(f"{name}.*")).unlink()
        data = ScribbleDataModule(
            FolderSource(root, on_missing="unlabelled"),
            **{"batch_size": 2, "num_workers": 0, "check": False, "crop_size": 32},
            superpixels="grid",
        )
        confident = {"threshold": 0.0, "present_only": True}
        writers = (
            PropagatedLabelWriter(crf=None),
            ConfidentLabelWriter(str(tmp_path / "run" / "confident"), **confident),
        )
        fit(module_of(), data, tmp_path / "run", *writers)
        other = data.records("train")[1].image_id
        for folder in ("pseudo_labels", "confident"):
            written = tmp_path / "run" / folder
            assert (read_label(written / f"{name}.png", source().num_classes) == 255).all()
            assert (read_label(written / f"{other}.png", source().num_classes) != 255).all()

    def test_other_inputs_make_other_labels(self, first_stage, tmp_path) -> None:
        """And prototypes that masks labelled make none."""
        trained = PrototypeWriter(oracle=True)
        module, trainer = module_of(), trainer_of(tmp_path)
        fit(module, data_of(), tmp_path, PrototypeWriter(), trained)
        trainer.datamodule = data_of()
        trainer.datamodule.setup("fit")
        stamps = []
        for folder in (first_stage / "prototypes", tmp_path / "prototypes"):
            writer = PropagatedLabelWriter(
                scores="retrieval", prototypes=str(folder / "prototypes.npz"), crf=None
            )
            stamps.append(read_manifest(writer.write(trainer, module))["made_by"])
        assert stamps[0]["prototypes"] != stamps[1]["prototypes"]
        oracle = str(tmp_path / "oracle_prototypes" / "prototypes.npz")
        writer = PropagatedLabelWriter(scores="retrieval", prototypes=oracle)
        with pytest.raises(ConfigError, match="full supervision"):
            writer.write(trainer, module)

    def test_a_second_run_that_is_stopped_keeps_nothing_of_the_first(
        self, tmp_path, monkeypatch
    ) -> None:
        module, trainer = module_of(), trainer_of(tmp_path)
        fit(module, data_of(), tmp_path, PropagatedLabelWriter(crf=None))
        trainer.datamodule = data_of()
        trainer.datamodule.setup("fit")
        written, write = [], PropagatedLabelWriter.write_image

        def interrupted(self, sample, *rest) -> None:
            if len(written) == 2:
                raise KeyboardInterrupt
            write(self, sample, *rest)
            written.append(sample.name)

        monkeypatch.setattr(PropagatedLabelWriter, "write_image", interrupted)
        other = PropagatedLabelWriter(crf=None, walk_steps=1)
        with pytest.raises(KeyboardInterrupt):
            other.write(trainer, module)
        folder = tmp_path / "pseudo_labels"
        assert {path.stem for path in folder.glob("*.png")} == set(written)
        with pytest.raises(LabelFormatError, match=r"D403 .*not complete"):
            data_of(pseudo_label_dir=str(folder)).setup("fit")
        first = list(written)
        written.clear()
        monkeypatch.setattr(
            PropagatedLabelWriter,
            "write_image",
            lambda self, sample, *rest: (written.append(sample.name), write(self, sample, *rest)),
        )
        other.write(trainer, module)
        assert not set(first) & set(written)
        assert len(first) + len(written) == IMAGES
        data_of(pseudo_label_dir=str(folder)).setup("fit")

    def test_other_methods_and_wrong_options_are_refused(self, tmp_path) -> None:
        other = RegularizedModule(source().num_classes, encoder=TINY_ENCODER, encoder_weights=None)
        for writer in (PropagatedLabelWriter(), PrototypeWriter()):
            with pytest.raises(ConfigError, match="such as SPMLModule; RegularizedModule"):
                fit(other, data_of(), tmp_path, writer)
        with pytest.raises(ConfigError, match="seeds need the folder"):
            PropagatedLabelWriter(scores="seeds")
        with pytest.raises(ConfigError, match="masks replace all other labels"):
            PrototypeWriter(oracle=True, labels="pseudo_labels")
        with pytest.raises(ConfigError, match="scales"):
            PrototypeWriter(scales=())
        with pytest.raises(ScribbleNotFoundError, match=r"pseudo-label of every training image"):
            fit(module_of(), data_of(), tmp_path / "none", PrototypeWriter(labels="nowhere"))


class TestStages:
    def test_the_classifier_trains_on_the_files_of_the_embedding(
        self, first_stage, tmp_path
    ) -> None:
        start = str(first_stage / "last.ckpt")
        data = data_of(pseudo_label_dir=str(first_stage / "pseudo_labels"), superpixels=None)
        module = module_of(stage="classifier", init_from=start, head_dropout=0.65)
        drawn = module.network.classifier.last.weight.clone()
        fit(module, data, tmp_path)
        assert set(module.loss_terms) == {"head"}
        stored = torch.load(start, weights_only=True)["state_dict"]
        for name, value in module.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue  # both trained for as many
            same = torch.equal(value, stored[name])
            assert same == (not name.startswith("network.classifier.")), name
        kept = module_of(stage="classifier", init_from=start, reset_classifier=False, lr=1e-12)
        fit(kept, data, tmp_path)
        torch.testing.assert_close(
            kept.network.classifier.last.weight, stored["network.classifier.last.weight"]
        )
        assert not torch.equal(drawn, kept.network.classifier.last.weight)

    def test_validation_by_retrieval(self, first_stage, tmp_path) -> None:
        path = str(first_stage / "prototypes" / "prototypes.npz")
        trainer = trainer_of(tmp_path)
        module = SPMLModule.load_from_checkpoint(first_stage / "last.ckpt", retrieval=path)
        (votes,) = trainer.validate(module, data_of(), verbose=False)
        module.use_retrieval(None)
        (classified,) = trainer.validate(module, data_of(), verbose=False)
        assert set(votes) == set(classified)
        assert votes["val/miou"] != classified["val/miou"]
        other = module_of(embedding_dim=16)
        with pytest.raises(CheckpointError, match=r"expected \(M, 16\)"):
            other.use_retrieval(path)

    def test_without_superpixels_it_says_what_to_set(self, tmp_path) -> None:
        with pytest.raises(ConfigError, match="SPMLModule trains with superpixels"):
            fit(module_of(), data_of(superpixels=None), tmp_path)


def test_recipes_hand_over_by_files_on_the_command_line(tmp_path) -> None:
    recipes = Path(__file__).parents[2] / "examples" / "spml_tiny"
    small = [
        *("--data.init_args.source.init_args.num_train=4", "--data.init_args.num_workers=0"),
        *("--data.init_args.source.init_args.num_val=2", "--data.init_args.check=false"),
        *("--data.init_args.source.init_args.size=48", "--trainer.accelerator=cpu"),
        *("--data.init_args.batch_size=2", "--trainer.max_epochs=1"),
        "--trainer.check_val_every_n_epoch=1",
    ]
    first, second = tmp_path / "embedding", tmp_path / "classifier"
    main(["fit", f"--config={recipes / '1_embedding.yaml'}", "--run_dir", str(first), *small])
    assert len(list((first / "pseudo_labels").glob("*.png"))) == 4
    start = first / "checkpoints" / "last.ckpt"
    main(
        [
            *("fit", f"--config={recipes / '2_classifier.yaml'}", "--run_dir", str(second)),
            f"--model.init_args.init_from={start}",
            f"--data.init_args.pseudo_label_dir={first / 'pseudo_labels'}",
            *small,
        ]
    )
    assert (second / "checkpoints" / "last.ckpt").is_file()
    # the prototype file is an option of the test, not of the model
    main(["validate", "--ckpt_path", str(start)])
    classified = json.loads((first / "scores_validate.json").read_text())
    prototypes = first / "prototypes" / "prototypes.npz"
    main(["validate", "--ckpt_path", str(start), f"--model.init_args.retrieval={prototypes}"])
    retrieved = json.loads((first / "scores_validate.json").read_text())
    assert classified["val/miou"] != retrieved["val/miou"]


@pytest.mark.parametrize("options", [{}, {"affinity_weight": 0.5, "embedding_stride": 2}])
def test_resuming_is_bitwise(options, tmp_path) -> None:
    # the queue continues with the segments of the steps before
    def run(*callbacks: Callback, **resume) -> SPMLModule:
        module = module_of(warmup_steps=2, **options)
        fit(module, data_of(seed=0), tmp_path, *callbacks, epochs=2, **resume)
        return module

    whole = run(Keep(tmp_path / "4.ckpt", 4)).state_dict()
    resumed = run(ckpt_path=tmp_path / "4.ckpt").state_dict()
    assert int(whole["queue.counts"].min()) > 0
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_superpixels_from_a_folder(tmp_path, digest) -> None:
    own = source()
    for record in own.records("train"):
        height, width = own.read_mask(record).shape
        rows, columns = np.arange(height) // 5, np.arange(width) // 5
        regions = (rows[:, None] * 10 + columns).astype(np.uint16)
        from PIL import Image

        path = tmp_path / "regions" / f"{record.image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(regions).save(path)
    module = module_of(lr=1e-9)  # trained weights would differ with the order of sums
    fit(module, data_of(superpixels=str(tmp_path / "regions")), tmp_path)
    terms = {name: float(value) for name, value in module.loss_terms.items()}
    digest.check("SPML/superpixels from a folder", terms, **TRAINED)
