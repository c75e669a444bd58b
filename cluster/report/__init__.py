"""What a failed test on a cluster has to tell: evidence from the nodes (:mod:`cluster.report.evidence`), the timeline as bars
(:mod:`cluster.report.bars`), and all of a session on one page (:mod:`cluster.report.page`).

A *story* (:mod:`cluster.report.story`) is what one test tells.
"""
