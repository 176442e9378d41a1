# An image with the static `cairn` program and nothing else. See docs/containers.md.
#
#   docker build -t cairn .                                            builds the program, needs the `rust` image
#   scripts/build-static && docker build -t cairn --target prebuilt .  takes the program that is there, needs no image

FROM scratch AS prebuilt
ARG BINARY=target/static/cairn
COPY ${BINARY} /bin/cairn
ENV PATH=/bin HOME=/root
ENTRYPOINT ["/bin/cairn"]

FROM rust:1-bookworm AS build
WORKDIR /source
COPY . .
RUN scripts/build-static

FROM scratch
COPY --from=build /source/target/static/cairn /bin/cairn
ENV PATH=/bin HOME=/root
ENTRYPOINT ["/bin/cairn"]
