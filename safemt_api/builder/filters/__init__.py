"""What a draft must pass to be kept, each filter in a file of its own; the order is that of ``builder.build.FILTERS``.

A filter says why it drops a draft, or nothing. One whose question gets no answer drops it too: what was not checked is not kept.
"""
