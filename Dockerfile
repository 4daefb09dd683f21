# syntax=docker/dockerfile:1
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS builder

# Where torch comes from. For NVIDIA cards name the index of a CUDA version that the driver
# supports, such as https://download.pytorch.org/whl/cu130
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/holdout
WORKDIR /build
COPY constraints.txt .
# A layer of its own: torch is most of the image and changes least. Its version is pinned, and pip
# prefers the index's build of it (2.13.0+cpu) to the plain one of PyPI.
RUN /opt/holdout/bin/pip install -c constraints.txt --extra-index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md ./
COPY models models
COPY checkpoints checkpoints
COPY service service
RUN /opt/holdout/bin/pip install -c constraints.txt --extra-index-url "$TORCH_INDEX" '.[postgres,onnx]'

FROM python:${PYTHON}-slim

RUN useradd --uid 10001 --user-group --home-dir /data --no-create-home holdout \
    && install -d -o holdout -g holdout -m 0700 /data
COPY --from=builder /opt/holdout /opt/holdout
# The address is open to the network, so the service starts only once a token exists:
# HOLDOUT_ADMIN_TOKEN_FILE brings the first.
ENV PATH=/opt/holdout/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOLDOUT_HOST=0.0.0.0 \
    HOLDOUT_PORT=8000 \
    HOLDOUT_DATA_DIR=/data
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['HOLDOUT_PORT']), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
CMD ["holdout", "serve"]
