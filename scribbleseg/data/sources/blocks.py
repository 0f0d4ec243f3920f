"""Cityscapes and ADE20K with block labels, as used for tree energy losses."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from scribbleseg.data import io
from scribbleseg.data.label_types import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.data.readers.s4 import read_grey_label
from scribbleseg.data.sources.base import FileSource
from scribbleseg.data.sources.file_index import FileIndex, OnMissing
from scribbleseg.data.sources.scene_classes import (
    LabelIds,
    ade20k_classes,
    ade20k_table,
    cityscapes_classes,
    cityscapes_table,
    clean_stem,
    detect_label_ids,
    find_labels,
)
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.options import check_choice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.source import LabelRole
    from scribbleseg.types import Record, Split

__all__ = ["BlockSource"]

_BLOCKS = (10, 20, 50)
_DATASETS = ("cityscapes", "ade20k")


class BlockSource(FileSource):
    """Block-wise sparse labels of Cityscapes (19 classes) or ADE20K (150), no background class.

    ::

        root/train/image/STEM.*  train/label/STEM.png  train/sparse_label/block10/STEM.png
             val/image/STEM.*    val/label/STEM.png

    ``block`` is the labelled share in percent. Cityscapes files may hold ``labelIds`` or
    ``trainIds``; in ADE20K files 0 is void and 1..150 are the classes.

    Args:
        root: Folder with ``train/`` and ``val/``, or the folder that holds it as ``cityscapes`` or
            ``ade20k``.
        dataset: ``"cityscapes"`` or ``"ade20k"``; ``"auto"`` goes by the name of the folder.
        block: Labelled share of the training images in percent: 10, 20 or 50.
        label_ids: Coding of Cityscapes files; ``"auto"``: names that end in ``labelIds`` or
            ``labelTrainIds``, else values beyond 18 mean ``labelIds``.
        train_list: Split file of training images, relative to ``root`` or absolute; by default all
            images of ``train/image``.
        val_list: Split file of validation images.
        on_missing: What to do with training images without block label.
        label_type: What trains, see :class:`~scribbleseg.data.sources.folder.FolderSource`;
            ``"box"`` is not possible, because there is no background class.
        pseudo_label_dir: Folder of pseudo-label PNGs, see
            :class:`~scribbleseg.data.sources.folder.FolderSource`.
        weak_labels: Where clicks and tags are.

    Raises:
        ScribbleNotFoundError: If there is no ``train/image`` at ``root``.
        ConfigError: If an option is out of range, or the data set cannot be told.
        LabelFormatError: If a class file for ADE20K does not list 150 classes.
    """

    layout = "train/sparse_label/"

    def __init__(
        self,
        root: str | Path,
        *,
        dataset: Literal["auto", "cityscapes", "ade20k"] = "auto",
        block: int = 10,
        label_ids: LabelIds = "auto",
        train_list: str | None = None,
        val_list: str | None = None,
        on_missing: OnMissing = "error",
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
        weak_labels: WeakLabels | None = None,
    ) -> None:
        check_choice("dataset", dataset, ("auto", *_DATASETS))
        check_choice("block", block, _BLOCKS)
        check_choice("label_ids", label_ids, get_args(LabelIds))
        self.root, self.dataset = _locate(Path(root), dataset)
        self.block, self.label_ids = block, label_ids
        self.lists = {"train": train_list, "val": val_list}
        cityscapes = self.dataset == "cityscapes"
        super().__init__(
            cityscapes_classes() if cityscapes else ade20k_classes(self.root),
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
            weak_labels=weak_labels,
            on_missing=on_missing,
            # half of the image may be labelled
            allow_dense_scribbles=True,
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        return (root / "train" / "sparse_label").is_dir()

    def _list_files(self) -> FileIndex:
        images = {split: _find_images(self.root / split / "image") for split in ("train", "val")}
        both = sorted(images["train"].keys() & images["val"].keys())
        if both:
            raise LabelFormatError(
                f"D303 {self.root}: {len(both)} images are in train/image and in val/image (e.g. "
                f"{', '.join(both[:5])}), expected each once; remove one of each"
            )
        sparse = self.root / "train" / "sparse_label" / f"block{self.block}"
        masks: dict[str, Path] = {}
        for split in ("train", "val"):
            masks.update(find_labels(self.root / split / "label"))
        return FileIndex(
            images={**images["train"], **images["val"]},
            scribbles=find_labels(sparse),
            masks=masks,
            places={
                "image": f"{self.root}/train/image and val/image",
                "scribble": str(sparse),
                "mask": f"{self.root}/train/label and val/label",
            },
        )

    def _list_stems(self, split: Split) -> list[str]:
        wanted = self.lists.get(split)
        if wanted is not None:
            return [clean_stem(stem) for stem in io.read_split(self.root / wanted)]
        if split == "test":
            raise ScribbleNotFoundError(
                f"D301 {self.root}: there is no split 'test', its labels are not public; use val"
            )
        return list(_find_images(self.root / split / "image"))

    @cached_property
    def _tables(self) -> dict[LabelRole, NDArray[np.int32] | None]:
        """Value tables of block labels and dense labels."""
        if self.dataset == "ade20k":
            return {"scribble": ade20k_table(), "mask": ade20k_table()}
        files = self.files
        drawn, masks = detect_label_ids(files.scribbles, files.masks, self.label_ids)
        return {"scribble": cityscapes_table(drawn), "mask": cityscapes_table(masks)}

    def _decode(self, path: Path, role: LabelRole, record: Record) -> NDArray[np.uint8]:
        return io.encode_label(
            read_grey_label(path), self.num_classes, path=path, remap=self._tables[role]
        )


def _locate(root: Path, dataset: str) -> tuple[Path, str]:
    names = _DATASETS if dataset == "auto" else (dataset,)
    inside = [name for name in names if (root / name / "train" / "image").is_dir()]
    if not (root / "train" / "image").is_dir():
        if not inside:
            raise ScribbleNotFoundError(
                f"D301 {root}: no train/image here or in {' or '.join(names)}; set `root` to the "
                "folder that holds train/ and val/"
            )
        if len(inside) > 1:
            raise ConfigError(f"{root}: holds {' and '.join(inside)}; choose one with `dataset`")
        return root / inside[0], inside[0]
    if dataset == "auto":
        known = [name for name in _DATASETS if name in root.resolve().name.casefold()]
        if len(known) != 1:
            raise ConfigError(
                f"{root}: the name of the folder tells no data set; set `dataset: cityscapes` or "
                "`dataset: ade20k`"
            )
        dataset = known[0]
    return root, dataset


def _find_images(folder: Path) -> dict[str, Path]:
    """Images by stem without the role in their names."""
    return {clean_stem(stem): path for stem, path in io.find_images(folder).items()}
