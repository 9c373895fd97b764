# Node with npm and npx, uv with uvx: from wheels that were installed on the building machine. This stage has no network.
# Settings stand in files, not in the environment: a skill gets few variables, and nobody inside can write these.
ARG ORIGIN
FROM ${ORIGIN}
COPY local/ /usr/local/
COPY uv.toml /etc/uv/uv.toml
RUN set -eu; \
    ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm; \
    ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx; \
    node --version; npm --version; npx --version; uv --version; uvx --version; git --version; gh --version; \
    rm -rf /root/.npm /root/.cache /tmp/*
