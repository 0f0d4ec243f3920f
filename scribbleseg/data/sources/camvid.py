"""CamVid street scenes in the layout of the SegNet tutorial."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from scribbleseg.data import io
from scribbleseg.data.label_types import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.data.sources.base import FileSource
from scribbleseg.data.sources.file_index import FileIndex, OnMissing
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from scribbleseg.types import Split

__all__ = ["CAMVID_CLASSES", "CamVidSource"]

CAMVID_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)

_COLOURS = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
_VOID = 11
_SPLITS = ("train", "val", "test")


class CamVidSource(FileSource):
    """CamVid; 11 classes, no background class; value 11 of the files is unlabelled.

    ::

        root/train/STEM.png  trainannot/STEM.png  (the same for val and test)
             train.txt val.txt test.txt  scribbles/STEM.png

    The lists hold pairs of paths below ``/SegNet/CamVid/``; without a list, a split is what its
    folder holds: 367, 101 and 233 images. The release has no scribbles: draw them, or make
    synthetic ones with ``python -m scribbleseg.data synthesize``.

    Args:
        root: Folder with ``train/`` and ``trainannot/``, or the folder that holds it as ``CamVid``.
        train_list: Split file of training images, relative to ``root`` or absolute.
        val_list: Split file of validation images.
        test_list: Split file of test images.
        scribbles: Folder of scribbles, relative to ``root`` or absolute; sub-folders are allowed.
        unlabelled_value: Value of scribbles that means "not drawn", besides 11 and 255.
        group_regex: Pattern searched in the stem that gives its video: the first group, or the
            whole match. Videos are shared by the official splits.
        on_missing: What to do with training images without scribble.
        label_type: What trains, see :class:`~scribbleseg.data.sources.folder.FolderSource`;
            ``"box"`` is not possible, because there is no background class.
        pseudo_label_dir: Folder of pseudo-label PNGs, see
            :class:`~scribbleseg.data.sources.folder.FolderSource`.
        weak_labels: Where clicks and tags are.

    Raises:
        ScribbleNotFoundError: If there is no ``trainannot`` at ``root``.
        ConfigError: If an option is out of range.
    """

    layout = "trainannot/"

    def __init__(
        self,
        root: str | Path,
        *,
        train_list: str = "train.txt",
        val_list: str = "val.txt",
        test_list: str = "test.txt",
        scribbles: str = "scribbles",
        unlabelled_value: int | None = None,
        group_regex: str | None = None,
        on_missing: OnMissing = "error",
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
        weak_labels: WeakLabels | None = None,
    ) -> None:
        self.root = _locate(Path(root))
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        self.scribble_dir = self.root / scribbles
        colours = {colour: label for label, colour in enumerate(_COLOURS)}
        super().__init__(
            io.ClassTable(CAMVID_CLASSES, background=None, colours=colours, ignore=(_VOID,)),
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
            weak_labels=weak_labels,
            on_missing=on_missing,
            unlabelled_value=unlabelled_value,
            group_regex=group_regex,
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        return any((root / name / "trainannot").is_dir() for name in ("", "CamVid"))

    def _list_files(self) -> FileIndex:
        images: dict[str, Path] = {}
        masks: dict[str, Path] = {}
        for split in _SPLITS:
            if split != "train" and not (self.root / split).is_dir():
                continue
            found = io.find_images(self.root / split)
            both = sorted(found.keys() & images.keys())
            if both:
                raise LabelFormatError(
                    f"D303 {self.root / split}: {len(both)} images are also in another split (e.g. "
                    f"{', '.join(both[:5])}), expected each once; remove one of each"
                )
            images.update(found)
            if (self.root / f"{split}annot").is_dir():
                masks.update(
                    io.find_images(self.root / f"{split}annot", suffixes=io.LABEL_SUFFIXES)
                )
        scribbles: dict[str, Path] = {}
        if self.scribble_dir.is_dir():
            drawn = io.find_images(self.scribble_dir, suffixes=(*io.LABEL_SUFFIXES, ".xml"))
            for stem, path in drawn.items():
                name = PurePosixPath(stem).name
                if name in scribbles:
                    raise LabelFormatError(
                        f"D303 {path}: {scribbles[name]} has the same name, expected one scribble "
                        "an image; remove or move one of them"
                    )
                scribbles[name] = path
        return FileIndex(
            images=images,
            scribbles=scribbles,
            masks=masks,
            places={
                "image": f"{self.root}/train, val and test",
                "scribble": str(self.scribble_dir),
                "mask": f"{self.root}/trainannot, valannot and testannot",
            },
        )

    def _list_stems(self, split: Split) -> list[str]:
        path = self.root / self.lists[split]
        if path.is_file() or self.lists[split] != f"{split}.txt":
            return [PurePosixPath(stem).name for stem in io.read_split(path)]
        return list(io.find_images(self.root / split))


def _locate(root: Path) -> Path:
    for name in ("", "CamVid"):
        if (root / name / "trainannot").is_dir():
            return root / name
    raise ScribbleNotFoundError(
        f"D301 {root}: no trainannot/ here or in CamVid/; set `root` to the folder CamVid of the "
        "SegNet tutorial"
    )
