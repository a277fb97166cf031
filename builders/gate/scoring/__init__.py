"""Gates that ask a scorer: perplexity over a corpus, accuracy over the items of a task."""
