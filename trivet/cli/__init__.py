"""The command line."""

import gc

GC_THRESHOLD = 50_000
"""Objects after which the collector looks for cycles: Python's 700 have it go over all modules and vocabularies again
and again while they load.
"""
gc.set_threshold(GC_THRESHOLD)
