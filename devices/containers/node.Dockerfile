# A node without torch: docker build -f devices/containers/node.Dockerfile -t edgekit-node .
# Not run by edgekit's own tests (they have no Docker engine); linted there by hadolint.
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
RUN python -m pip install --no-cache-dir -c /wheels/constraints.txt "edgekit[node] @ file://$(echo /wheels/edgekit-*.whl)" \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 edgekit \
    && mkdir /data \
    && chown edgekit /data
USER 1000
WORKDIR /data
ENV EDGEKIT_HOME=/data PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
VOLUME /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["edgekit"]
CMD ["join"]
