"""What a failed test on a cluster has to tell: evidence from the nodes (:mod:`cluster.report.evidence`), the timeline as bars
(:mod:`cluster.report.bars`), and all of a session on one page (:mod:`cluster.report.page`).

A *story* is what one test tells, as data of JSON's kinds: it travels in pytest's reports, also between the processes of pytest-xdist.
"""
