"""PtReCl: pixels reclassified by prototypes."""
