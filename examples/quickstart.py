"""Train on scribbles, validate, predict and draw: the main job on built-in data, on two CPU cores.

Run ``python examples/quickstart.py [--output FOLDER] [--epochs N]``; pictures are in FOLDER
afterwards.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from lightning.pytorch import Trainer, seed_everything

from scribbleseg import Predictor, RegularizedModule, ScribbleDataModule, load
from scribbleseg.callbacks import ExactResume, NonFiniteGuard, PredictionPanel, RunSummary
from scribbleseg.data.sources import SyntheticSource
from scribbleseg.functional import write_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("quickstart"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=192)
    options = parser.parse_args()
    output: Path = options.output
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    seed_everything(0)

    # 1. data: an image and a few strokes per object; dense masks exist for validation only
    source = SyntheticSource(num_train=options.images)
    data = ScribbleDataModule(source, batch_size=16, val_batch_size=8, num_workers=0)

    # 2. train on the scribbles, validate after every epoch
    model = RegularizedModule(
        data.num_classes,
        encoder="tu-test_resnet.r160_in1k",  # 0.8 M parameters, no download
        encoder_weights=None,
        lr=4e-3,
        schedule="onecycle",
    )
    trainer = Trainer(
        max_epochs=options.epochs,
        accelerator="auto",
        default_root_dir=output,
        logger=False,
        callbacks=[
            ExactResume(),
            NonFiniteGuard(),
            RunSummary(str(output)),
            PredictionPanel(str(output / "panels"), every_n_epochs=max(options.epochs - 1, 1)),
        ],
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        log_every_n_steps=1,
    )
    trainer.fit(model, data)
    trainer.save_checkpoint(output / "model.ckpt", weights_only=False)

    # 3. predict images as anybody would: from the checkpoint, on a folder of files
    for record in source.records("test")[:8]:
        write_image(output / "photos" / f"{record.image_id}.png", source.read_image(record))
    report = Predictor(load(output / "model.ckpt")).predict_folder(
        output / "photos", output / "predictions", overwrite=True
    )
    scores = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    print(f"validation mIoU {scores['val/miou']:.3f}, pixel accuracy {scores['val/acc']:.3f}")
    print(f"{len(report.failed)} of 8 predictions failed; look at")
    panels = sorted((output / "panels").glob("*.png"))
    print(f"  {panels[-1]}   (image | scribble | prediction | truth)")
    print(f"  {output / 'predictions'}   (palette PNGs, overlays, overview)")


if __name__ == "__main__":
    main()
