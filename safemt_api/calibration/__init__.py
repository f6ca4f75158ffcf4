"""How far a judge can be trusted: a sheet for people to label, how well the judge agrees with them, and scores corrected by that."""
