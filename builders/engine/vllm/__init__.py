"""vLLM's lane: the checkpoint as it is, and vLLM's arguments for one version of it.

Everything here is pure or writes files, and imports no vLLM: that lives in an environment of its
own and is driven as a program.

    arguments   what vLLM is told, held against the keys of its version
    builder     the directory that `vllm serve` loads
    program     where a vLLM is, which version, and how it is started
"""
