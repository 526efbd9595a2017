# syntax=docker/dockerfile:1
# The project as an image: `docker compose up` (compose.yaml) runs page, daemon and database; docs/how-to/production.md.
#   docker build -t drirl .                                                       for CPUs
#   docker build -t drirl --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .   for NVIDIA GPUs
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
# torch's builds are on an index of their own; everything else comes from PyPI, in the versions of constraints.txt.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=postgres,s3,kubernetes
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
WORKDIR /opt/drirl
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY drirl_core drirl_core
COPY pipeline pipeline
# Editable: relative places such as .drirl are found beside the code.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --constraint constraints.txt --extra-index-url "$TORCH_INDEX" --editable ".[$EXTRAS]"
COPY dagster.yaml workspace.yaml ./
COPY configs configs
# The user cannot write beside the code, and every process of a run would compile it again.
RUN /opt/venv/bin/python -m compileall -q drirl_core pipeline

FROM python:${PYTHON}-slim-bookworm AS runtime
# A number, so that Kubernetes can check that it is not root.
RUN useradd --uid 10001 --user-group --create-home drirl
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/drirl /opt/drirl
# Everything that is written lies here: artifacts, models, the Dagster home.
RUN mkdir /opt/drirl/.drirl && chown drirl:drirl /opt/drirl/.drirl
VOLUME /opt/drirl/.drirl
WORKDIR /opt/drirl
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DAGSTER_HOME=/opt/drirl/.drirl/dagster_home \
    DAGSTER_DISABLE_TELEMETRY=yes \
    DRIRL_CONFIG=/opt/drirl/configs/demo.yaml \
    HF_HOME=/opt/drirl/.drirl/hub
USER 10001:10001

# The page. It has no password: it listens on all addresses of its container, and compose.yaml publishes the port on the
# host's 127.0.0.1 alone.
FROM runtime AS page
EXPOSE 3000
HEALTHCHECK --interval=30s --timeout=10s --start-period=90s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:3000/server_info', timeout=8)"]
CMD ["dagster-webserver", "-w", "workspace.yaml", "-h", "0.0.0.0", "-p", "3000"]

# The daemon, which launches runs and executes them.
FROM runtime AS daemon
HEALTHCHECK --interval=60s --timeout=30s --start-period=90s CMD ["dagster-daemon", "liveness-check"]
CMD ["dagster-daemon", "run", "-w", "workspace.yaml"]

# Without a target: commands, such as `docker run drirl drirl plan`.
FROM runtime AS command
CMD ["drirl", "doctor"]
