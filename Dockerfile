# The version of the toolchain is the one in rust-toolchain.toml. That file stays outside (see .dockerignore): with it, rustup
# would download the toolchain that the image already has.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /build
# The dependencies, with empty sources: this layer is built again only when one of these files changes.
COPY Cargo.toml Cargo.lock ./
COPY scripts/static scripts/
RUN mkdir src \
 && touch src/lib.rs \
 && echo 'fn main() {}' > src/main.rs \
 && scripts/static

COPY src src
# Docker keeps the files' times, and cargo would take sources older than the layer above for the empty ones it has already built.
RUN touch src/lib.rs src/main.rs \
 && scripts/static \
 && cp target/*/release/redis-ambassador .

FROM scratch
LABEL org.opencontainers.image.title="redis-ambassador" \
      org.opencontainers.image.description="A Redis-aware, credentials-injecting ambassador for containers" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.source="https://github.com/redis-ambassador/redis-ambassador"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/redis-ambassador /redis-ambassador
# In numbers, because there is no /etc/passwd, and so that Kubernetes' runAsNonRoot can tell.
USER 65532:65532
# Docker tells whoever links the container of what is exposed. That is the link alone that nearly everybody has: other links' ports
# are known only to those who set them (--expose), and the admin endpoint does not listen for other containers.
EXPOSE 6379
# For Compose, which starts the application when this is healthy, and for Swarm, which then lets the old one go. Docker waits for an interval
# before it asks for the first time. The command itself waits for five seconds, and says what it has waited for.
HEALTHCHECK --interval=5s --timeout=6s --retries=3 CMD ["/redis-ambassador", "health"]
ENTRYPOINT ["/redis-ambassador"]
