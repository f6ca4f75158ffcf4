"""Studies: several evaluations over the same dialogues, at the same time, under one ceiling, in one report."""
