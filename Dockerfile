# The image of Keyhall: one process, not root, on a read-only file system; DATA_DIR is the only directory that it writes.
#
#   docker build --tag keyhall:1 .
#
# Pin the base image by its digest for an image that can be built again, byte for byte of the base. The digest of a tag:
#   docker buildx imagetools inspect python:3.11-slim-bookworm
#   docker build --tag keyhall:1 --build-arg PYTHON_DIGEST=sha256:... .

ARG PYTHON_TAG=3.11-slim-bookworm
ARG PYTHON_DIGEST=

FROM python:${PYTHON_TAG}${PYTHON_DIGEST:+@}${PYTHON_DIGEST} AS build
# otel adds the libraries that send traces (docs/operations.md).
ARG REQUIREMENTS=run
WORKDIR /opt/keyhall
RUN python -m venv .venv
# The dependencies alone first: a change of the code leaves their layer as it is.
COPY requirements/${REQUIREMENTS}.txt requirements/
RUN .venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps --requirement requirements/${REQUIREMENTS}.txt
COPY . .
RUN .venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --editable . \
    && .venv/bin/python -m pip check \
    && .venv/bin/python -m compileall -q app entrypoints alembic

FROM python:${PYTHON_TAG}${PYTHON_DIGEST:+@}${PYTHON_DIGEST}
LABEL org.opencontainers.image.title="Keyhall" \
      org.opencontainers.image.description="Your community's API keys, usable by everyone, visible to no one." \
      org.opencontainers.image.licenses="MIT"
# A new volume takes the owner and the mode of the directory that it is mounted on.
RUN groupadd --gid 10001 keyhall \
    && useradd --uid 10001 --gid keyhall --no-create-home --home-dir /var/lib/keyhall --shell /usr/sbin/nologin keyhall \
    && install --directory --owner=keyhall --group=keyhall --mode=0700 /var/lib/keyhall
COPY --from=build /opt/keyhall /opt/keyhall
ENV PATH=/opt/keyhall/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    DATA_DIR=/var/lib/keyhall \
    WEB_HOST=0.0.0.0 \
    LOG_FORMAT=json
WORKDIR /opt/keyhall
USER 10001:10001
VOLUME /var/lib/keyhall
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as web; web.urlopen('http://127.0.0.1:' + os.environ.get('WEB_PORT', '8080') + '/healthz', timeout=4)"]
ENTRYPOINT ["keyhall"]
CMD ["run"]
