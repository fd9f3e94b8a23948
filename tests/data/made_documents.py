"""Documents of a given text, for tests of the data pipeline."""

import numpy as np


class Made:
    """A source of documents given as a list."""

    def __init__(self, documents):
        self.documents, self.skipped = documents, []

    def __iter__(self):
        return iter(self.documents)

    def describe(self):
        return {"made": [[np.asarray(d.content).tolist(), dict(d.labels)] for d in self.documents]}
