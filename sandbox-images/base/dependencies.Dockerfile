# The runner's Python packages, installed on the building machine from the lock file: this stage has no network.
# The root of a sandbox is read-only, so the byte code is made here, and never compared with its source again.
ARG ORIGIN
FROM ${ORIGIN}
COPY lib/ /opt/perstack/lib/
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/perstack/lib
