"""The official layout and the demonstration set become dialogues; pictures are read late and once.

Kept empty so that importing one module does not import the others: ``official`` and all that use it need Pillow;
``parsing``, ``fetching`` and ``shipped`` do not load it.
"""
