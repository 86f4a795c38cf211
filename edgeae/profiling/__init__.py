"""Measure a bundle or a model where it runs: latency, throughput, cold start, memory; and compare runs."""
