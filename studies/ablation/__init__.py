"""The ablation table: rows that differ in one thing, trained alike, measured on the same photos.

``python -m studies.ablation train``, ``measure``, ``power`` and ``table`` write what
``docs/ablation`` holds and lesson 12 reads.
"""
