# One file, four images. Everything is pinned by argument; nothing is fetched when a release runs.
#
#   docker build --target check .            every check and quick test, on a CPU
#   docker build --target engine -t enginesmith-engine .   quantize and compile, on the GPU of a tier
#   docker build --target serve -t enginesmith-serve .     gates, promotion and Triton, on that GPU
#
# Say the image's digest when you run one, so that engines remember where they were made:
#   docker run --gpus all --shm-size=1g -e ENGINESMITH_CONTAINER=enginesmith-engine@sha256:… …
ARG PYTHON_VERSION=3.12.11
ARG TRTLLM_VERSION=1.2.1
ARG TRITON_TAG=26.07

# Wheels of enginesmith and of the few light libraries that NVIDIA's images may lack.
FROM python:${PYTHON_VERSION}-slim-bookworm AS wheels
WORKDIR /src
COPY pyproject.toml README.md constraints.txt ./
COPY builders builders
COPY templates templates
RUN python -m pip wheel --no-cache-dir --wheel-dir /wheels -c constraints.txt \
        . "tritonclient[grpc]" nvidia-ml-py pyyaml \
    && rm -f /wheels/numpy-*.whl

FROM python:${PYTHON_VERSION}-slim-bookworm AS check
# PyTorch's CPU wheels are a tenth of the size: --build-arg PIP_EXTRA_INDEX_URL=…
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL} PIP_NO_CACHE_DIR=1
RUN useradd --uid 10001 --create-home enginesmith
WORKDIR /home/enginesmith/src
COPY --chown=10001:10001 . .
USER 10001:10001
RUN scripts/setup dev && .venv/bin/python demo/make_data.py && scripts/check -m "not slow"

# TensorRT-LLM's own image: trtllm-build, trtllm-serve, ModelOpt.
FROM nvcr.io/nvidia/tensorrt-llm/release:${TRTLLM_VERSION} AS engine
COPY --from=wheels /wheels /wheels
COPY scripts/install-beside /usr/local/bin/install-beside
RUN install-beside /wheels && useradd --uid 10001 --create-home enginesmith
ENV HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TRTLLM_NO_USAGE_STATS=1
USER 10001:10001
WORKDIR /home/enginesmith
ENTRYPOINT ["enginesmith"]
CMD ["doctor"]

# Triton with the backends for both lanes.
FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}-trtllm-python-py3 AS serve
COPY --from=wheels /wheels /wheels
COPY scripts/install-beside /usr/local/bin/install-beside
RUN install-beside /wheels && useradd --uid 10001 --create-home enginesmith
ENV HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TRTLLM_NO_USAGE_STATS=1
USER 10001:10001
WORKDIR /home/enginesmith
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
ENTRYPOINT ["enginesmith"]
CMD ["doctor"]
