"""Answers that keep to their sources: citations, abstention, conflicts, altered facts."""
