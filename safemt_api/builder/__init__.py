"""Test dialogues made from the user's own queries, by method, and filtered: what ``data build`` and ``data review`` do.

What is made measures whether an assistant keeps its refusal over several turns. It is no help to anyone: the assistant's scripted lines
hold nothing usable, which is judged, and a dialogue that fails is dropped.
"""
