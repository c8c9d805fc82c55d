"""Measuring servers from outside, over their documented HTTP interfaces (`trivet bench-serve`)."""
