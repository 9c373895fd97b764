# A minimal Debian, pulled or imported, becomes the system of every sandbox: what is missing is installed, and nothing
# that is setuid, cached or tells of the building machine stays.
ARG ORIGIN
FROM ${ORIGIN}
ARG PACKAGES
RUN set -eu; \
    missing=""; \
    for package in ${PACKAGES}; do \
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"; \
    done; \
    if [ -n "$missing" ]; then \
        apt-get update -q; \
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing; \
    fi; \
    rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /etc/apt/sources.list /etc/apt/sources.list.d/* \
        /usr/share/doc/* /usr/share/man/* /usr/share/info/* /tmp/* /var/tmp/*; \
    find / -xdev -perm /6000 -exec chmod a-s {} +; \
    mkdir -p /gw /home/perstack /run/log /opt/perstack/lib; \
    ln -s /mnt/workspace /workspace
