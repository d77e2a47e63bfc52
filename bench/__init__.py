"""`make bench`: what Yizhan costs beside Synapse, in one run. See docs/performance.md."""
