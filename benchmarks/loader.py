"""Images per second of the training loader against a bare torch Dataset with the same work.

Both decode the same JPEG and PNG files and do the same scaling, flip, crop and normalisation.
Rounds alternate, so that the ratio holds when the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image
from report import default_path, environment, write
from torch.utils.data import DataLoader, Dataset

from scribbleseg.data import Augmentation, ScribbleDataModule
from scribbleseg.data.sources import FolderSource, SyntheticSource
from scribbleseg.functional import write_image, write_label

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Bare(Dataset):
    """What one would write by hand."""

    def __init__(self, root: Path, crop: int) -> None:
        self.images = sorted((root / "images").iterdir())
        self.root = root
        self.transform = A.Compose(
            [
                A.RandomScale((-0.5, 1.0), p=1.0),
                A.HorizontalFlip(p=0.5),
                A.PadIfNeeded(crop, crop, border_mode=cv2.BORDER_CONSTANT, fill_mask=255),
                A.RandomCrop(crop, crop),
                A.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        path = self.images[index]
        image = np.array(Image.open(path).convert("RGB"))
        label = np.array(Image.open(self.root / "scribbles" / f"{path.stem}.png"))
        out = self.transform(image=image, mask=label)
        chw = np.ascontiguousarray(out["image"].transpose(2, 0, 1))
        return torch.from_numpy(chw), torch.from_numpy(out["mask"].astype(np.int64))


def make_folder(root: Path, count: int, size: int) -> None:
    source = SyntheticSource(num_train=count, num_val=2, size=size)
    for split in ("train", "val"):
        records = source.records(split)
        for record in records:
            write_image(root / "images" / f"{record.image_id}.jpg", source.read_image(record))
            write_label(root / "scribbles" / f"{record.image_id}.png", source.read_scribble(record))
        (root / f"{split}.txt").write_text("\n".join(r.image_id for r in records) + "\n")
    (root / "classes.txt").write_text("\n".join(source.class_names) + "\n")


def images_per_second(loader: DataLoader, epochs: int) -> float:
    next(iter(loader))  # start workers, fill caches
    start, images = time.perf_counter(), 0
    for _ in range(epochs):
        for batch in loader:
            images += len(batch["image"] if isinstance(batch, dict) else batch[0])
    return images / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--crop", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_folder(root, options.images, options.size)
        for workers in options.workers:
            data = ScribbleDataModule(
                FolderSource(str(root)),
                batch_size=options.batch_size,
                num_workers=workers,
                crop_size=options.crop,
                augmentation=Augmentation(scale=(0.5, 2.0)),
                check=False,
            )
            ours = data.train_dataloader()
            bare = DataLoader(
                Bare(root, options.crop),
                batch_size=options.batch_size,
                num_workers=workers,
                shuffle=True,
                drop_last=True,
                persistent_workers=workers > 0,
            )
            pairs = [
                (images_per_second(ours, options.epochs), images_per_second(bare, options.epochs))
                for _ in range(options.rounds)
            ]
            results.append(
                {
                    "workers": workers,
                    "images_per_second": statistics.median(a for a, _ in pairs),
                    "bare_images_per_second": statistics.median(b for _, b in pairs),
                    "ratio": statistics.median(a / b for a, b in pairs),
                    "ratios": [round(a / b, 4) for a, b in pairs],
                }
            )
            print(results[-1])
    settings = {k: v for k, v in vars(options).items() if k != "output"}
    header = environment("loader", seed=0, settings=settings)
    write(options.output or default_path("loader"), header, results)


if __name__ == "__main__":
    main()
