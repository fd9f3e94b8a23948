"""`qwen3 research`: a question and a folder of documents -> a report with a source for every claim.

`source_files` reads the folder, `passages` splits and searches it (BM25), `model_calls` asks the
model, `journal` keeps every question and call so that a killed run goes on, `plan_steps` and
`findings` are the steps, `research_run` their order, `report_page` and `report_pdf` what is
written, `research_score` how a report is measured.
"""
