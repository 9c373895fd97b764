# perstack-runner, the protocol's generated code, and process 1.
ARG ORIGIN
FROM ${ORIGIN}
COPY lib/ /opt/perstack/lib/
COPY launch /opt/perstack/launch
RUN python3 -m compileall -q --invalidation-mode unchecked-hash \
    /opt/perstack/lib/__main__.py /opt/perstack/lib/perstack /opt/perstack/lib/perstack_runner
ENV PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 HOME=/home/perstack
WORKDIR /
ENTRYPOINT ["/opt/perstack/launch"]
