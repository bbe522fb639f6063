"""What ``ustack lab`` runs: the claims of a survey of zero-copy techniques as experiments E1 … E25.

``form`` has claims, rules, verdicts and statistics, and measures nothing; ``bench`` (``Lab``) what experiments measure
with; ``registry`` the table of experiments, each of which is in the module of its family; ``run`` runs them and makes
the document; ``report`` prints it; ``pictures`` draws it. docs/lab.md is a whole run.
"""
