"""The official layout and the demonstration set become dialogues; pictures are read late and once.

Kept empty so that importing one module does not import the others: ``entries`` and all that use it need Pillow;
``elements``, ``hub`` and ``layouts`` do not load it.
"""
