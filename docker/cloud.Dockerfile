# The cloud sub-model as a server on port 8000. In the repository's root:
#     docker build -f docker/cloud.Dockerfile -t featcomp-cloud .
#     docker run --rm --user "$(id -u)" -p 127.0.0.1:8000:8000 -v "$PWD/deployed:/deployed:ro" \
#         -v "$PWD/results:/results" -v "$PWD/tokens:/run/secrets/tokens:ro" featcomp-cloud
# The file `tokens` says who may use it, and --tls-cert, --tls-key encrypt: docs/server.md. With a GPU:
# docker run --gpus all ... `docker stop` lets it answer what it has accepted; give it a minute (--time
# 60).
FROM python:3.11-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY tools/requirements.txt tools/requirements.lock /tmp/
# What the network needs; of the extras only what serves. Python 3.11, so the versions for it. Detectron2's
# Python code comes as a wheel that is tagged for one Python version, but runs on all of them, as in
# tools/install.sh.
RUN sed '/^# Extras/,$d' /tmp/requirements.txt > /tmp/runtime.txt \
    && sed -n 's/^\([^ #].*\) \\$/\1/p' /tmp/requirements.lock > /tmp/versions.txt \
    && grep -E '^(fastapi|fastapi-offline|uvicorn|prometheus_client|httpx)==' /tmp/requirements.txt >> /tmp/runtime.txt \
    && pip install --no-cache-dir --constraint /tmp/versions.txt --requirement /tmp/runtime.txt \
    && sed -n 's/^# \(sal-detectron2==.*\)$/\1/p' /tmp/requirements.txt > /tmp/detectron2.txt \
    && pip install --no-cache-dir --no-deps --only-binary=:all: --python-version 3.10 \
        --target "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
        --requirement /tmp/detectron2.txt
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-deps /wheels/*.whl && featcomp info
RUN useradd --create-home featcomp && mkdir /results && chown featcomp /results
USER featcomp
WORKDIR /tmp
EXPOSE 8000
# The server may use TLS, by --tls-cert; with --tls-client-ca, too, nothing can ask it here: --no-healthcheck.
HEALTHCHECK --start-period=60s \
    CMD ["python", "-c", "import httpx\nfor scheme in ('http', 'https'):\n    try: httpx.get(f'{scheme}://127.0.0.1:8000/healthz', verify=False).raise_for_status(); break\n    except httpx.RemoteProtocolError: pass\nelse: raise SystemExit(1)"]
ENTRYPOINT ["featcomp", "serve"]
CMD ["--weights", "/deployed/cloud.pth", "--output", "/results", "--address", "0.0.0.0:8000", \
     "--token-file", "/run/secrets/tokens"]
