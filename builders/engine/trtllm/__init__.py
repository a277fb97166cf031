"""TensorRT-LLM's two lanes: compiled engines (up to 1.2.1 and 1.3.0rc20) and the LLM API.

Everything that decides is pure and runs on a laptop; `compiled` and `llmapi` are the thin edges
that start programs and write directories. Imports no TensorRT-LLM.

    contract, validate   what each version's tools and YAML take; flags and keys held against it
    settings             what both lanes are told: formats, limits, parallelism, architecture
    convert              ModelOpt's export of a TensorRT-LLM checkpoint, as settings
    flags, rewrites      trtllm-build's command line, and what it will silently change
    launch, log          one process per rank, and what its log says
    effective, compiled  the engine that came out against the one asked for; the build
    llm_args             the LLM API's YAML, for one version
    commands, llmapi     trtllm-serve, -bench and -eval; the deployable directory
    machine, sidecar     where we are, where an engine was made, and whether both fit
    keys, adopt          what an engine depends on; engines that others built
"""
