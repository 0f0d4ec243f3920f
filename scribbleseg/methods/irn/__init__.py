"""IRN: class boundaries from pairs of pixels, and a walk that does not cross them."""
