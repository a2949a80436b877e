"""The release's corpus: which sessions there are, and fetching them."""

from omnimouse.corpus.manifest import (
    CorpusSession,
    choose_sessions,
    collection,
    collection_names,
    corpus_sessions,
    filter_sessions,
)

__all__ = [
    "CorpusSession",
    "choose_sessions",
    "collection",
    "collection_names",
    "corpus_sessions",
    "filter_sessions",
]
