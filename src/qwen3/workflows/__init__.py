"""Ten lines for a researcher: train a model on own files, from a name to an exported folder."""
