# The edge sub-model: images to feature bitstreams, in files or sent to a cloud. In the repository's root:
#     docker build -f docker/edge.Dockerfile -t featcomp-edge .
#     docker run --rm --user "$(id -u)" -v "$PWD/deployed:/deployed:ro" -v "$PWD/photos:/photos:ro" \
#         -v "$PWD/spool:/spool" featcomp-edge --weights /deployed/edge.pth --input /photos \
#         --connect cloud.example:8000 --spool /spool
# With a GPU: docker run --gpus all ... Its PyTorch is the one of the package index, which has CUDA and
# runs on CPUs, too.
FROM python:3.11-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY tools/requirements.txt tools/requirements.lock /tmp/
# What the network needs; of the extras only what sends. Detectron2's Python code comes as a wheel that is
# tagged for one Python version, but runs on all of them, as in tools/install.sh.
RUN sed '/^# Extras/,$d' /tmp/requirements.txt > /tmp/runtime.txt \
    && sed -n 's/^\([^ #].*\) \\$/\1/p' /tmp/requirements.lock > /tmp/versions.txt \
    && grep '^httpx==' /tmp/requirements.txt >> /tmp/runtime.txt \
    && pip install --no-cache-dir --constraint /tmp/versions.txt --requirement /tmp/runtime.txt \
    && sed -n 's/^# \(sal-detectron2==.*\)$/\1/p' /tmp/requirements.txt > /tmp/detectron2.txt \
    && pip install --no-cache-dir --no-deps --only-binary=:all: --python-version 3.10 \
        --target "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
        --requirement /tmp/detectron2.txt
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-deps /wheels/*.whl && featcomp info
RUN useradd --create-home featcomp
USER featcomp
WORKDIR /tmp
ENTRYPOINT ["featcomp", "edge"]
CMD ["--help"]
