"""The release room: what is sealed, by whom it is signed, where a channel points.

`manifest` says what a release holds, `signing` who vouches for it, `seal` turns trees into a sealed
bundle and proves one whole, `channel` is an append-only log, `promotion` moves it. Knows nothing of
how a bundle was made; the caller brings the gates that a channel's policy requires.
"""
