"""Reports of failed tests on clusters.

They have evidence from the nodes (:mod:`cluster.report.evidence`), the timeline as bars (:mod:`cluster.report.bars`),
and all of a session on one page (:mod:`cluster.report.page`).

A *story* (:mod:`cluster.report.story`) is the report of one test.
"""
