# The image of Tollgate: the proxy and its command, without a compiler, pip or a root user.
#
#   docker build -t tollgate .
#   docker run -p 8080:8080 -p 9090:9090 -v tollgate-state:/var/lib/tollgate \
#       -e TOLLGATE_UPSTREAM=http://vllm:8000 -e TOLLGATE_REDIS_URL=redis://redis:6379/0 \
#       -e TOLLGATE_DATABASE_URL=postgresql://tollgate@db/tollgate tollgate
#
# The other commands run in the same image: docker exec CONTAINER tollgate accounts create NAME --tier tier1

FROM python:3.11-slim-bookworm AS build
WORKDIR /build
# An environment without pip of its own: the image's pip fills it from outside, and stays behind in this stage.
RUN python -m venv --without-pip /opt/tollgate
COPY requirements.lock requirements-dev.lock ./
# Everything is pinned by hash, the build backend too; wheels only, so nothing is compiled or run while installing.
RUN pip --python /opt/tollgate/bin/python install --no-cache-dir --no-compile --only-binary :all: \
        --require-hashes -r requirements.lock \
    && awk '/^[a-z]/ { wanted = /^setuptools==/ } wanted' requirements-dev.lock > backend.lock \
    && pip install --no-cache-dir --only-binary :all: --require-hashes -r backend.lock
COPY pyproject.toml README.md ./
COPY proxy proxy
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheel . \
    && pip --python /opt/tollgate/bin/python install --no-cache-dir --no-compile --no-deps wheel/*.whl \
    && python -m compileall -q /opt/tollgate/lib

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tollgate \
    && install -d -o tollgate -g tollgate -m 0750 /var/lib/tollgate
COPY --from=build /opt/tollgate /opt/tollgate
COPY config /etc/tollgate/config
ENV PATH=/opt/tollgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TOLLGATE_LISTEN=0.0.0.0:8080 \
    TOLLGATE_ADMIN_LISTEN=0.0.0.0:9090 \
    TOLLGATE_STATE_DIR=/var/lib/tollgate
# The configuration is looked for in ./config: mount another one over /etc/tollgate/config.
WORKDIR /etc/tollgate
USER 10001:10001
# The outbox lies here: a call that was answered is in it until the ledger has it. Never run without a volume.
VOLUME /var/lib/tollgate
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9090/healthz', timeout=2)"]
ENTRYPOINT ["tollgate", "serve"]
