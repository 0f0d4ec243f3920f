"""The commands of ``python -m scribbleseg.data``: one file each, with ``add`` and what it runs."""
