"""How cells are sampled from masks and clustered to prototypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from scribbleseg.errors import ConfigError
from scribbleseg.functional.geometry import BackgroundScope
from scribbleseg.options import check_choice, check_flag, check_number, check_whole

__all__ = ["CollectionOptions"]


@dataclass(frozen=True)
class CollectionOptions:
    """How features are sampled and clustered.

    Attributes:
        capacity: Cells per class and side, N.
        per_image: Cells that one image may add to a set, so that neighbours do not crowd it;
            ``null`` = any number.
        purity: Least share of its pixels that a cell's label must have; ``null`` = any.
        background_scope: ``present`` = cells of images that show the class, ``all`` = of all.
        scribbles: Drawn cells keep their class, are always in the sets, and weigh more.
        drawn_weight: Their weight.
        clustering: ``sample`` = k-means of the chosen cells, ``sharded`` = in parts, ``streaming``
            = further passes over all cells of all images behind that, which store nothing.
        shards: Parts of ``sharded``.
        passes: Passes of ``streaming``.
        iters: Steps of k-means.
        redo: Runs of k-means, of which the best stays.
        seed: Of the sample and of k-means.
        keep_features: Leave the file of the features when all is done.
    """

    capacity: int = 20_000
    per_image: int | None = 128
    purity: float | None = None
    background_scope: BackgroundScope = "present"
    scribbles: bool = True
    drawn_weight: float = 5.0
    clustering: Literal["sample", "sharded", "streaming"] = "sample"
    shards: int = 4
    passes: int = 5
    iters: int = 25
    redo: int = 3
    seed: int = 0
    keep_features: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: Naming the option that is out of range.
        """
        counts = {n: getattr(self, n) for n in ("capacity", "shards", "passes", "iters", "redo")}
        check_whole(1, **counts)
        check_whole(0, seed=self.seed)
        check_flag(scribbles=self.scribbles, keep_features=self.keep_features)
        check_number(drawn_weight=self.drawn_weight)
        check_choice("background_scope", self.background_scope, get_args(BackgroundScope))
        check_choice("clustering", self.clustering, ("sample", "sharded", "streaming"))
        if self.per_image is not None:
            check_whole(1, per_image=self.per_image)
        if self.purity is not None:
            check_number(purity=self.purity)
        if self.drawn_weight <= 0 or not 0 <= (self.purity or 0) <= 1:
            raise ConfigError(
                f"drawn_weight={self.drawn_weight}, purity={self.purity}: expected a number above "
                "0, and a share in [0, 1]"
            )
