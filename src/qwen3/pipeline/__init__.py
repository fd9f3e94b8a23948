"""Pretraining data on Apache Beam: files and PDFs become cleaned, deduplicated shards of text.

A recipe (JSON) names inputs and steps; `qwen3 data run` executes it in this process or on Dataflow,
Flink or Spark with the same bytes as the result. Beam is imported by `beam_graph` and
`beam_runners` alone; every step is a pure function that can be used without it.
"""
