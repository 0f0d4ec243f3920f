"""The data check: ``check.py`` runs it, ``findings.py`` holds what it found."""
