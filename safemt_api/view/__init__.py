"""The viewer: a page on loopback over everything in a results folder, finished, under way or killed.

``index`` follows what a run's rows hold without keeping their words, ``library`` knows what stands in the folder, ``shelf`` answers what
the page asks about one run or study, ``server`` guards the door. Nothing here writes, and nothing leaves the machine.
"""
