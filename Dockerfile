# The signer's image, for those who have a container engine; scripts/image makes one without.
FROM rust:1.95-bookworm AS build
WORKDIR /touchstone
COPY . .
RUN cargo build --locked --release --package touchstone-signer

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /touchstone/target/release/touchstone-signer /usr/bin/touchstone-signer
USER 65532:65532
ENTRYPOINT ["/usr/bin/touchstone-signer"]
