"""Losses on unlabelled pixels: they ask what the image suggests, not what was drawn."""
