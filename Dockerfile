# One image for Alice, Bob, the wire and the demo; the command says which.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim
FROM ${PYTHON_IMAGE}
# Where PyPI has CUDA builds of torch, give the index of the CPU builds: --build-arg TORCH_INDEX=URL
ARG TORCH_INDEX=
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 codelength \
 && mkdir -p /var/lib/codelength /var/cache/codelength /opt/codelength \
 && chown codelength: /var/lib/codelength /var/cache/codelength
WORKDIR /opt/codelength
COPY pyproject.toml README.md LICENSE ./
COPY shared shared
COPY alice alice
COPY bob bob
COPY harness harness
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} .
ENV PATH=/opt/venv/bin:$PATH \
    CODELENGTH_STATE_DIRECTORY=/var/lib/codelength \
    CODELENGTH_CACHE_DIRECTORY=/var/cache/codelength
USER codelength
WORKDIR /home/codelength
ENTRYPOINT ["codelength"]
CMD ["--help"]
