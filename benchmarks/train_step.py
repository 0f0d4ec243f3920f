"""Step time and peak memory of a Lightning fit against a plain PyTorch loop over the same network.

Each measurement is a process of its own (peak memory is a process's); the two kinds alternate. Both
train the same network on the same batches, kept in memory, with the same optimiser, clipping and
schedule; the fit has all callbacks and the CSV log of the command line.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from rounds import alternate, median, parse, ratio, save
from torch.utils.data import DataLoader, Dataset

from scribbleseg import RegularizedModule, run_callbacks, run_loggers
from scribbleseg.functional import partial_cross_entropy, schedule_factor


class Batches(Dataset):
    """Prepared batches, handed out as they are."""

    def __init__(self, count: int, batch_size: int, size: int, classes: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batches = []
        for index in range(count):
            shape = (batch_size, size, size)
            scribble = torch.randint(0, classes, shape, generator=generator)
            scribble[torch.rand(shape, generator=generator) > 0.03] = 255
            image = torch.randn(batch_size, 3, size, size, generator=generator)
            ids = [f"{index}_{n}" for n in range(batch_size)]
            valid = torch.ones(shape, dtype=torch.bool)
            self.batches.append(
                {"image": image, "scribble": scribble, "valid": valid, "image_id": ids}
            )

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict:
        return self.batches[index]


class Data(LightningDataModule):
    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        return DataLoader(dataset=self.batches, batch_size=None)


class Clock(Callback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def peak_memory() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds per step (after a warm-up) and peak memory of one variant."""
    warnings.simplefilter("ignore")
    seed_everything(0, verbose=False)
    model = RegularizedModule(
        5, encoder=options.encoder, encoder_weights=None, lr=1e-3, schedule="onecycle"
    )
    total = options.warmup + options.steps
    batches = Batches(min(total + 1, 4), options.batch_size, options.size, 5)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = Clock()
    if options.variant == "trainer":
        repeated = Batches(0, 1, 8, 5)
        repeated.batches = [batches[i % len(batches)] for i in range(total + 1)]
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                max_steps=total + 1,
                logger=run_loggers(Path(folder), wandb=False, tensorboard=False, project=""),
                callbacks=[
                    *run_callbacks(Path(folder), save_every_n_steps=10**6, monitor="val/miou"),
                    clock,
                ],
                gradient_clip_val=1.0,
                log_every_n_steps=10,
                limit_val_batches=0,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=folder,
            )
            trainer.fit(model, Data(repeated))
    else:
        network = model.network.to(device).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda t: schedule_factor(t, total + 1, schedule="onecycle")
        )
        for step in range(total + 1):
            clock.on_train_batch_start()
            batch = batches[step % len(batches)]
            image, scribble = batch["image"].to(device), batch["scribble"].to(device)
            loss = partial_cross_entropy(network(image), scribble)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    gaps = [b - a for a, b in zip(clock.times[:-1], clock.times[1:], strict=True)]
    return {"seconds": statistics.median(gaps[options.warmup :]), "peak_mib": peak_memory()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="timm-tf_efficientnet_lite0")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25)
    options = parse(parser, ("trainer", "plain"), measure, rounds=5)
    rounds = alternate(("trainer", "plain"), options.rounds)
    results = {
        "seconds_per_step": median(rounds, "trainer", "seconds"),
        "plain_seconds_per_step": median(rounds, "plain", "seconds"),
        "time_ratio": ratio(rounds, "trainer", "plain", "seconds"),
        "peak_mib": median(rounds, "trainer", "peak_mib"),
        "plain_peak_mib": median(rounds, "plain", "peak_mib"),
        "memory_ratio": ratio(rounds, "trainer", "plain", "peak_mib"),
    }
    print(results)
    save("train_step", options, {**results, "rounds": rounds})


if __name__ == "__main__":
    main()
