# The coordinator: docker build -f devices/containers/coordinator.Dockerfile -t edgekit-coordinator .
# Not run by edgekit's own tests (they have no Docker engine); linted there by hadolint.
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
# torch first, by its version alone: a range would take a build with several GB of CUDA.
RUN python -m pip install --no-cache-dir -c /wheels/constraints.txt torch==2.13.0 \
    && python -m pip install --no-cache-dir -c /wheels/constraints.txt "edgekit[serve,spiking] @ file://$(echo /wheels/edgekit-*.whl)" \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 edgekit \
    && mkdir /data \
    && chown edgekit /data
USER 1000
WORKDIR /data
ENV EDGEKIT_HOME=/data PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
VOLUME /data
EXPOSE 8443 8445
STOPSIGNAL SIGTERM
ENTRYPOINT ["edgekit"]
CMD ["serve", "--out", "/data/run"]
