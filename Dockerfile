# qdiff in an image, with the LibTorch that it needs.
#
#   docker build -t qdiff .                                           the CPU engine
#   docker build -t qdiff --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 .     the CUDA engine too
#   docker run --rm -v "$PWD:/data" qdiff diagnose --model model --trace trace
ARG BASE=ubuntu:24.04
FROM ${BASE} AS build
ENV DEBIAN_FRONTEND=noninteractive QDIFF_CACHE=/usr/local/share/qdiff
COPY . /source
WORKDIR /source
RUN scripts/setup.sh && scripts/run.sh --version && cmake --install build/default --prefix /usr/local --component program

FROM ${BASE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 libstdc++6 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/share/qdiff /usr/local/share/qdiff
COPY --from=build /usr/local/bin/qdiff /usr/local/bin/qdiff
COPY --from=build /usr/local/share/man/man1/qdiff.1 /usr/local/share/man/man1/qdiff.1
COPY --from=build /usr/local/share/bash-completion/completions/qdiff /usr/local/share/bash-completion/completions/qdiff
WORKDIR /data
ENTRYPOINT ["qdiff"]
CMD ["--help"]
