"""PFA's global phase against a partial cross-entropy step of the same network, and against loops.

Variants: ``plain`` is partial cross-entropy alone, ``pfa`` the global phase, ``loops`` the same
losses with prototypes, bank and attention computed image by image and class by class as in the
literature. Each is a process of its own (peak memory is a process's); they take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings

import torch
import torch.nn.functional as F
from lightning.pytorch import seed_everything
from rounds import alternate, judge, median, parse, ratio, save
from train_step import peak_memory

from scribbleseg import PFAModule

VARIANTS = ("plain", "pfa", "loops")


def batches(options: argparse.Namespace) -> list[dict]:
    """Images with three or four of the classes each; 3 % of the pixels are drawn."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(2):
        shape = (options.batch_size, options.size, options.size)
        tags = torch.zeros(options.batch_size, options.classes)
        tags[:, 0] = 1
        for row in tags:
            row[torch.randint(1, options.classes, (3,), generator=generator)] = 1
        own = torch.multinomial(tags, shape[1] * shape[2], replacement=True, generator=generator)
        scribble = own.view(shape)
        scribble[torch.rand(shape, generator=generator) > 0.03] = 255
        image = torch.randn(options.batch_size, 3, options.size, options.size, generator=generator)
        valid = torch.ones(shape, dtype=torch.bool)
        made.append({"image": image, "scribble": scribble, "valid": valid, "class_labels": tags})
    return made


def build(options: argparse.Namespace) -> PFAModule:
    seed_everything(0, verbose=False)
    module = PFAModule(
        options.classes, encoder=options.encoder, encoder_weights=None, warmup=0.0, lr=1e-4
    )
    module.bank.prototypes.normal_()
    module.bank.filled.fill_(True)
    module.log = module.log_dict = lambda *_, **__: None
    return module.train()


def loop_bank(module: PFAModule, features: torch.Tensor, logits: torch.Tensor, tags) -> list[dict]:
    """Local prototypes of every image by class, and the bank moved one prototype at a time."""
    found = []
    for f, scores, own in zip(features.detach(), logits.detach(), tags, strict=True):
        pixels, prototypes = f.flatten(1).T, {}
        for c in own.nonzero().flatten().tolist():
            a = scores[c].flatten().relu()
            low, high = a.min(), a.max()
            s = (torch.where(a < low + 1e-5, 0, a) - low - 1e-5) / (high - low + 1e-5)
            value, index = s.topk(max(1, len(s) // 12))
            p = F.normalize((value[:, None] * pixels[index]).sum(0) / value.sum(), dim=0)
            prototypes[c] = p
            slots = module.bank.prototypes[c]
            nearest = max(range(len(slots)), key=lambda k: F.cosine_similarity(slots[k], p, dim=0))
            slots[nearest] = 0.99 * slots[nearest] + 0.01 * p
        found.append(prototypes)
    return found


def loop_augment(module: PFAModule, features: torch.Tensor, own: list[torch.Tensor]):
    """Attention of each image over its own prototypes, with the whole matrix stored."""
    net, made = module.augmenter, []
    for f, prototypes in zip(features, own, strict=True):
        pixels = f.flatten(1).T
        keys, queries = net.prototype_fc(prototypes), net.feature_fc(pixels)
        read = (queries @ keys.T).softmax(1) @ keys
        hidden = net.fc3(torch.cat([read, queries], 1)).relu()
        made.append((pixels + net.fc4(hidden)).relu().T.view_as(f))
    return module.network.classifier(torch.stack(made))


def loop_loss(module: PFAModule, batch: dict) -> torch.Tensor:
    found, scribble, tags = (
        module.plain_prediction(batch["image"]),
        batch["scribble"],
        batch["class_labels"],
    )
    local = loop_bank(module, found.features, found.logits, tags)
    own = [torch.stack(list(p.values())) for p in local]
    bank = module.bank.prototypes.clone()
    shared = [bank[row > 0].flatten(0, 1) for row in tags]
    heads = [
        found.logits,
        loop_augment(module, found.features, own),
        loop_augment(module, found.features, shared),
    ]

    def consistency(logits: torch.Tensor) -> torch.Tensor:
        agreement = logits.softmax(1) * found.logits.softmax(1).log_softmax(1)
        return -agreement.sum(1).mean()

    pce = module.partial_cross_entropy_at
    terms = pce(heads[0], scribble) + pce(heads[2], scribble)
    return terms + 0.01 * consistency(heads[1]) + 0.01 * consistency(heads[2])


def measure(options: argparse.Namespace) -> dict[str, float]:
    warnings.simplefilter("ignore")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = build(options).to(device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5)
    data = [{k: v.to(device) for k, v in batch.items()} for batch in batches(options)]
    times = []
    for step in range(options.warmup + options.steps):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start, batch = time.perf_counter(), data[step % len(data)]
        if options.variant == "plain":
            output = module.forward_features(batch["image"])
            loss = module.partial_cross_entropy_at(output.logits, batch["scribble"])
        elif options.variant == "pfa":
            loss = module.training_step(batch, step)
        else:
            loss = loop_loss(module, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times[options.warmup :]), "peak_mib": peak_memory()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="mit_b1")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    options = parse(parser, VARIANTS, measure)
    rounds = alternate(VARIANTS, options.rounds)
    results = {
        variant: {key: median(rounds, variant, key) for key in ("seconds", "peak_mib")}
        for variant in VARIANTS
    }
    for variant in VARIANTS[1:]:
        results[variant]["time_ratio"] = ratio(rounds, variant, "plain", "seconds")
        results[variant]["memory_ratio"] = ratio(rounds, variant, "plain", "peak_mib")
    print(json.dumps(results, indent=1))
    judge(results["pfa"], {"time_ratio": 1.25, "memory_ratio": 1.3})
    save("pfa_step", options, {**results, "rounds": rounds})


if __name__ == "__main__":
    main()
