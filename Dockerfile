# The relay as a container. With a Valkey of its own, and its data in the volume `relay-data`:
#
#     docker build -t pulsar-relay .
#     docker run -p 127.0.0.1:8080:8080 -v relay-data:/data \
#         -e RELAY_SERVER_HOST=0.0.0.0 -e RELAY_SERVER_ALLOW_OPEN=true pulsar-relay
#
# Those two variables are needed because a container's own loopback is reached by nobody. Nobody needs an account
# either, so publish the port no wider than you would leave a door open.

FROM python:3.13-slim AS build
WORKDIR /source
# The libraries change less often than the code: their layer is built first, and kept.
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY pulsar_relay/__init__.py pulsar_relay/
RUN python -m venv /opt/relay && /opt/relay/bin/pip install --no-cache-dir .
COPY actors actors
COPY pulsar_relay pulsar_relay
RUN /opt/relay/bin/pip install --no-cache-dir --no-deps --force-reinstall .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin relay \
    && mkdir /data && chown relay /data
COPY --from=build /opt/relay /opt/relay
# A worker for each core that the container may use: `docker run --cpus 2` makes two.
ENV PATH=/opt/relay/bin:$PATH PYTHONUNBUFFERED=1 RELAY_SERVER_WORKERS=auto
USER relay
# With no Valkey configured the relay runs its own, and this is where its data is: data/valkey below it.
WORKDIR /data
VOLUME /data
EXPOSE 8080 9090
# Alive, not ready: a container must not be restarted because its Valkey is away. In here the port stays 8080.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health', timeout=2)"]
ENTRYPOINT ["pulsar-relay"]
CMD ["serve"]
